"""A plain gevent script, no web framework: a clock that ticks for everybody who is connected, while they may talk back.

python examples/script.py
"""

import argparse
import signal
import time
from contextlib import suppress

import gevent

from geventws.exceptions import ConnectionClosed
from geventws.server import WebSocketServer

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Ticker</title>
<style>body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }</style>
<h1>Ticker</h1>
<p><output>waiting for the first tick</output></p>
<button>Start again at 0</button>
<script>
  const ws = new WebSocket(location.href.replace(/^http/, "ws"));
  ws.onmessage = (event) => { document.querySelector("output").textContent = event.data; };
  ws.onclose = () => { document.querySelector("output").textContent = "The server has gone."; };
  document.querySelector("button").onclick = () => ws.send("reset");
</script>
"""

counter = 0


def ticker(server, interval):
    """Tell everybody the time, for ever."""
    global counter
    while True:
        gevent.sleep(interval)
        counter += 1
        tick = f"tick {counter} at {time.strftime('%H:%M:%S')}, {len(server.clients)} connected"
        for client in server.clients.values():
            # send() waits while its peer does not read. A greenlet for each keeps one slow reader from holding up the
            # rest, and who is still busy with an earlier tick misses this one, so that greenlets do not pile up.
            sending = getattr(client, "sending", None)
            if sending is None or sending.ready():
                client.sending = gevent.spawn(tell, client.ws, tick)


def tell(ws, text):
    with suppress(ConnectionClosed):  # it left while the tick was under way
        ws.send(text)


def app(environ, start_response):
    global counter
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [PAGE]
    for message in ws:  # this connection's greenlet reads, while the ticker's greenlets write
        if message == "reset":
            counter = 0
        else:
            ws.send(f"Only 'reset' is understood here, not {message!r:.40}")
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two ticks")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), app)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # says goodbye (1001) to every client and ends serve_forever()
    gevent.spawn(ticker, server, options.interval)
    print(f"Ticker on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
