// Command go-nomad-client follows an event stream with the official Nomad Go
// client, exactly as a program written for Nomad does: nothing in it knows of
// tidings. NOMAD_ADDR, NOMAD_TOKEN and NOMAD_NAMESPACE are read by the client
// library itself.
//
// Modes:
//
//	deployments   one line "<deployment id> <status>" for each deployment event
//	dump          one JSON object for each event, as the library decoded it
//
// It ends with status 0 after -count events, and with status 1 and the
// library's own error on stderr when the stream fails.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// topicFlags collects repeated -topic Topic[:key] flags.
type topicFlags map[api.Topic][]string

func (t topicFlags) String() string { return fmt.Sprint(map[api.Topic][]string(t)) }

func (t topicFlags) Set(value string) error {
	topic, key, found := strings.Cut(value, ":")
	if !found {
		key = "*"
	}
	t[api.Topic(topic)] = append(t[api.Topic(topic)], key)
	return nil
}

func main() {
	topics := topicFlags{}
	index := flag.Uint64("index", 0, "first index asked for")
	count := flag.Int("count", 0, "end after this many events; 0 means never")
	timeout := flag.Duration("timeout", time.Minute, "give up after this long")
	flag.Var(topics, "topic", "Topic or Topic:key; may be repeated; none means all")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go-nomad-client [flags] deployments|dump")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), topics, *index, *count, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(mode string, topics topicFlags, index uint64, count int, timeout time.Duration) error {
	var show func(*bufio.Writer, api.Event) error
	switch mode {
	case "deployments":
		topics = topicFlags{api.TopicDeployment: {"*"}}
		show = showDeployment
	case "dump":
		show = showJSON
	default:
		return fmt.Errorf("unknown mode %q: use deployments or dump", mode)
	}

	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	frames, err := client.EventStream().Stream(ctx, topics, index, &api.QueryOptions{})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "subscribed")

	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	seen := 0
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d events came within %s", seen, timeout)
		case frame, open := <-frames:
			if !open {
				return errors.New("the stream was closed")
			}
			if frame.Err != nil {
				return frame.Err
			}
			if frame.IsHeartbeat() {
				continue
			}
			for _, event := range frame.Events {
				if err := show(out, event); err != nil {
					return err
				}
				seen++
			}
			if err := out.Flush(); err != nil {
				return err
			}
			if count > 0 && seen >= count {
				return nil
			}
		}
	}
}

// showDeployment prints what an operator waits for: which deployment is in which state.
func showDeployment(out *bufio.Writer, event api.Event) error {
	deployment, err := event.Deployment()
	if err != nil {
		return err
	}
	if deployment == nil {
		return fmt.Errorf("event %d of topic Deployment bears no deployment", event.Index)
	}
	_, err = fmt.Fprintf(out, "%s %s\n", deployment.ID, deployment.Status)
	return err
}

func showJSON(out *bufio.Writer, event api.Event) error {
	return json.NewEncoder(out).Encode(event)
}
