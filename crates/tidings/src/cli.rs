//! The command line as a whole.

use clap::{Parser, Subcommand};

use crate::agent::AgentArgs;
use crate::completions::CompletionsArgs;
use crate::config_check::ConfigCheckArgs;
use crate::connection::Connection;
use crate::man::ManArgs;
use crate::publish::PublishArgs;
use crate::rebuild::RebuildArgs;
use crate::server::ServerVerb;
use crate::snapshot::SnapshotVerb;
use crate::state::StateVerb;
use crate::status::StatusArgs;
use crate::stream::StreamArgs;
use crate::verify::VerifyArgs;

/// One ordered, durable, replayable timeline of everything that happens in a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "tidings",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Example:\n  tidings agent --dev          start an agent to try things out\n  tidings stream               follow what happens\n  tidings publish Deploy Started --key web --payload '{\"version\":7}'\n\nExit codes: 0 it worked, 1 it failed, 2 the command line is wrong."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent
    #[command(
        after_help = "Example:\n  tidings agent --dev\n  tidings agent --config /etc/tidings --node n1\n  tidings agent --http 127.0.0.1:0 --data-dir ./data"
    )]
    Agent(AgentArgs),
    /// Publish one event, or many from a file
    #[command(
        after_help = "Example:\n  tidings publish Deploy Started --key web --payload '{\"version\":7}'\n  tidings publish Backup Done --payload @report.json\n  journalctl -o json -n1 | tidings publish Log Line --payload -\n  tidings publish --ndjson events.ndjson\n\nEvery event gets an id unless it has one, so that a retry is never a second event."
    )]
    Publish(PublishArgs),
    /// Follow the timeline, for ever
    #[command(
        after_help = "Example:\n  tidings stream\n  tidings stream --topic Job:web --topic Node --from beginning\n  tidings stream --filter 'Payload.version > 6' --output json | jq .\n  tidings stream --from snapshot --count 10\n\nWhen the connection breaks, it is made again, and nothing is lost or repeated."
    )]
    Stream(StreamArgs),
    /// Read and change entries of the state
    #[command(
        subcommand,
        after_help = "Example:\n  tidings state put Config limits '{\"max\":7}'\n  tidings state get Config limits\n  tidings state list Config --prefix li"
    )]
    State(StateVerb),
    /// Show how the agent is
    #[command(after_help = "Example:\n  tidings status\n  tidings status --output json | jq .")]
    Status(StatusArgs),
    /// See and change which servers hold the timeline
    #[command(
        subcommand,
        after_help = "Example:\n  tidings server list\n  tidings server remove s3\n  tidings server transfer-leader --to s2"
    )]
    Server(ServerVerb),
    /// Save a timeline as one file, look at one, or restore from it
    #[command(
        subcommand,
        after_help = "Example:\n  tidings snapshot save tidings.snap\n  tidings snapshot inspect tidings.snap\n  tidings snapshot restore tidings.snap"
    )]
    Snapshot(SnapshotVerb),
    /// Check the files of a data directory, without changing them, or compare all servers
    #[command(
        after_help = "Example:\n  tidings verify --data-dir /var/lib/tidings\n  tidings verify --cluster\n  tidings verify --cluster --quick --addr s1.example:7480"
    )]
    Verify(VerifyArgs),
    /// Set the files of a damaged server aside, for it to get everything from the others
    #[command(
        after_help = "Example:\n  systemctl stop tidings\n  tidings rebuild --data-dir /var/lib/tidings\n  systemctl start tidings\n\nThe old files stay in a folder damaged-… of the data directory. The server comes back under a\nnew number that takes the place of the old one. Only for servers that have others: what is on\none server alone is restored from a backup."
    )]
    Rebuild(RebuildArgs),
    /// Look at the configuration of the agent
    #[command(
        subcommand,
        after_help = "Example:\n  tidings config check --config /etc/tidings"
    )]
    Config(ConfigVerb),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  tidings completions bash > /etc/bash_completion.d/tidings\n  tidings completions zsh > ~/.zfunc/_tidings"
    )]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them
    #[command(
        after_help = "Example:\n  tidings man | man -l -\n  tidings man --out /usr/share/man/man1"
    )]
    Man(ManArgs),
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Check the configuration and print what an agent would run with
    #[command(
        after_help = "Example:\n  tidings config check --config /etc/tidings\n  tidings config check --config tidings.toml --http 127.0.0.1:7480"
    )]
    Check(ConfigCheckArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example:"), "{path} has no example:\n{help}");
            // clap's own verb, which shows the help of ours.
            let ours = |verb: &&mut clap::Command| verb.get_name() != "help";
            for verb in command.get_subcommands_mut().filter(ours) {
                let path = format!("{path} {}", verb.get_name());
                check(verb, &path);
            }
        }
        check(&mut Cli::command(), "tidings");
    }

    #[test]
    fn options_of_the_connection_go_before_and_behind_the_verb() {
        for line in [
            ["tidings", "--addr", "h:1", "status"],
            ["tidings", "status", "--addr", "h:1"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.connection.addr, ["h:1"]);
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for line in [
            vec!["tidings", "publish"],
            vec!["tidings", "publish", "Topic"],
            vec!["tidings", "publish", "Topic", "Type", "--ndjson", "-"],
            vec!["tidings", "publish", "--ndjson", "-", "--key", "k"],
            vec!["tidings", "stream", "--from", "yesterday"],
            vec!["tidings", "stream", "--count", "0"],
            vec!["tidings", "completions", "cmd"],
            vec!["tidings", "verify"],
            vec!["tidings", "verify", "--cluster", "--data-dir", "d"],
            vec!["tidings", "verify", "--quick", "--data-dir", "d"],
            vec!["tidings", "server", "remove"],
            vec!["tidings", "snapshot", "save"],
            vec![
                "tidings",
                "snapshot",
                "save",
                "f",
                "--stale",
                "--consistent",
            ],
            vec!["tidings", "snapshot", "restore", "f", "--node", "n"],
            vec![
                "tidings",
                "snapshot",
                "restore",
                "f",
                "--data-dir",
                "d",
                "--yes",
            ],
            vec!["tidings", "state"],
        ] {
            let error = Cli::try_parse_from(&line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}: {error}");
        }
    }
}
