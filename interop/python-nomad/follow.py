"""Follow an event stream with PyPI's python-nomad, as a program written for Nomad does.

Every frame that the library hands over is printed as one JSON line. The program
ends with status 0 after --count events, with status 1 and one JSON line
{"error": class, "status": HTTP status, "body": text} when the library's thread
dies, and with status 3 when --timeout seconds pass first.
"""

import argparse
import json
import os
import queue
import sys
import threading

import nomad


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="http://host:port")
    parser.add_argument("--token")
    parser.add_argument("--namespace", help="handed to get_stream")
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument(
        "--topics",
        default="null",
        help='JSON for get_stream\'s topic argument: null, ["Job:web"] or {"Node": "*"}',
    )
    parser.add_argument("--count", type=int, required=True, help="events to wait for")
    parser.add_argument("--timeout", type=float, default=60.0)
    return parser.parse_args()


def finish(status):
    """Leave at once: the library's thread blocks in a read and cannot be stopped otherwise."""
    sys.stdout.flush()
    os._exit(status)


def report_death(args):
    """Turn the exception that ended the library's thread into one JSON line."""
    response = getattr(args.exc_value, "nomad_resp", None)
    print(
        json.dumps(
            {
                "error": args.exc_type.__name__,
                "status": getattr(response, "status_code", None),
                "body": getattr(response, "text", str(args.exc_value)),
            }
        )
    )
    finish(1)


def main():
    args = arguments()
    threading.excepthook = report_death
    client = nomad.Nomad(address=args.address, token=args.token)
    follower, _stop, frames = client.event.stream.get_stream(
        index=args.index, topic=json.loads(args.topics), namespace=args.namespace
    )
    follower.daemon = True
    follower.start()

    seen = 0
    while seen < args.count:
        try:
            frame = frames.get(timeout=args.timeout)
        except queue.Empty:
            print(f"{seen} of {args.count} events came", file=sys.stderr)
            finish(3)
        print(json.dumps(frame), flush=True)
        seen += len(frame["Events"])
    finish(0)


if __name__ == "__main__":
    main()
