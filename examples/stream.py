"""A script with nothing but WebSockets, no WSGI: whoever connects is asked for numbers and told what they add up to.

python examples/stream.py
"""

import argparse
import signal

import gevent

from geventws.server import StreamServer


def handle(ws):
    """Called for each connection, in a greenlet of its own. When it returns, the connection is closed."""
    total = 0
    for message in ws:
        try:
            total += int(message)
        except ValueError:
            ws.send("That is no number. Good bye.")
            return
        ws.send(f"That makes {total}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = StreamServer((options.host, options.port), handle, max_message_size=100, origins="*")
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # says goodbye (1001) to every client and ends serve_forever()
    print(f"Sums on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
