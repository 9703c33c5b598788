"""A client: sends each line that is typed, and prints each message that comes. Ctrl-D says goodbye.

python examples/client.py ws://127.0.0.1:5000/
"""

import argparse
import sys
import threading
import time
from contextlib import suppress

from geventws.client import connect
from geventws.exceptions import ConnectionClosed


def send_lines(ws, patience):
    """Runs in a thread of its own, as reading from a terminal holds up everything else in its thread. send() does not mind."""
    with suppress(ConnectionClosed):
        for line in sys.stdin:
            ws.send(line.rstrip("\n"))
        time.sleep(patience)  # the last answers may still be under way
        ws.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:5000/", help="ws:// or wss:// (default: %(default)s)")
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="to offer; the preferred first"
    )
    parser.add_argument("--patience", type=float, default=1.0, metavar="SECONDS", help="to wait for the last answers")
    options = parser.parse_args()

    try:
        ws = connect(options.url, subprotocols=options.subprotocol, compression=True)
    except (OSError, ValueError) as error:  # refused, not to be reached, not to be trusted, not in time; no such URL
        sys.exit(f"{error}")
    with ws, suppress(KeyboardInterrupt):
        print(f"Connected to {options.url}", flush=True)
        threading.Thread(target=send_lines, args=(ws, options.patience), daemon=True).start()
        for message in ws:
            print(message, flush=True)
    print(f"Closed: {ws.close_code} {ws.close_reason}".rstrip())


if __name__ == "__main__":
    main()
