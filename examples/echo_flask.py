"""Echo with Flask: one blueprint for pages, one for WebSockets, side by side under the same prefix.

python examples/echo_flask.py
"""

import argparse
import signal

import gevent
from flask import Blueprint, Flask
from gevent.pywsgi import WSGIServer

from geventws.flask import Sockets
from geventws.handler import WebSocketHandler

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Echo</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
  form { display: flex; gap: .5rem }
  input { flex: 1; min-width: 0 }
  input, button { font: inherit; padding: .5rem .75rem }
</style>
<h1>Echo</h1>
<form>
  <input aria-label="Message" placeholder="Say something" autofocus>
  <button disabled>Send</button>
</form>
<ul aria-live="polite"></ul>
<script>
  const [form, input, button, list] = ["form", "input", "button", "ul"].map((name) => document.querySelector(name));
  const ws = new WebSocket(location.href.replace(/^http/, "ws") + "echo");
  ws.onopen = () => { button.disabled = false; };
  ws.onclose = () => { button.disabled = true; button.textContent = "Closed"; };
  ws.onmessage = (event) => {
    const item = document.createElement("li");
    item.textContent = event.data;   // textContent, never innerHTML: what comes in is text and stays text
    list.prepend(item);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    ws.send(input.value);
    input.value = "";
  };
</script>
"""

html = Blueprint("html", __name__)
ws = Blueprint("ws", __name__)


@html.route("/")
def index():
    return PAGE


@ws.route("/echo")
def echo(ws):
    while not ws.closed:
        message = ws.receive()
        if message is not None:  # None: the peer has closed
            ws.send(message)


app = Flask(__name__)
sockets = Sockets(app)
app.register_blueprint(html, url_prefix="/")
sockets.register_blueprint(ws, url_prefix="/")  # every rule of this blueprint is a WebSocket rule


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WSGIServer((options.host, options.port), app, handler_class=WebSocketHandler)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Echo on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
