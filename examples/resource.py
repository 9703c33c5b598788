"""Resource and WebSocketApplication, as programs written for gevent-websocket have them: a page, an echo and a chat.

Replace ``geventws`` by ``geventwebsocket`` in this file and it runs there: that is the whole migration, the other way.

python examples/resource.py
"""

import argparse
import json
import signal
from contextlib import suppress

import gevent

from geventws.exceptions import WebSocketError
from geventws.resource import Resource, WebSocketApplication
from geventws.server import WebSocketServer

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Resource</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem }
  form { display: flex; gap: .5rem }
  input { min-width: 0 }
  input[name=text] { flex: 1 }
  input, button { font: inherit; padding: .5rem .75rem }
</style>
<h1>A chat</h1>
<form>
  <input name="nickname" aria-label="Your name" placeholder="Your name" size="8" maxlength="24">
  <input name="text" aria-label="Message" placeholder="Say something" maxlength="1000" required>
  <button>Send</button>
</form>
<ul aria-live="polite"></ul>
<script>
  const form = document.querySelector("form");
  const ws = new WebSocket(location.href.replace(/^http/, "ws") + "chat");
  ws.onmessage = (event) => {
    const item = document.createElement("li");
    const {from, text} = JSON.parse(event.data);
    item.textContent = `${from}: ${text}`;
    document.querySelector("ul").prepend(item);
  };
  form.nickname.onchange = () => ws.send(JSON.stringify({nickname: form.nickname.value}));
  form.onsubmit = (event) => {
    event.preventDefault();
    ws.send(JSON.stringify({text: form.text.value}));
    form.text.value = "";
  };
</script>
"""


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [PAGE]


class EchoApplication(WebSocketApplication):
    def on_message(self, message):
        if message is not None:  # gevent-websocket says None here when the peer has gone; geventws does not
            self.ws.send(message)


class ChatApplication(WebSocketApplication):
    def on_open(self):
        # There is one Client for each connection, and a program may hang on it what it wants to remember.
        self.ws.handler.active_client.nickname = "Anonymous"

    def on_message(self, message):
        if message is None:
            return
        client = self.ws.handler.active_client
        try:
            said = json.loads(message)
            client.nickname = str(said.get("nickname", client.nickname))[:24]
        except (ValueError, AttributeError):
            self.tell_all("Server", f"{client.nickname} speaks in riddles: a JSON object was expected.")
            return
        if "nickname" in said:
            self.tell_all("Server", f"{client.nickname} is here.")
        if "text" in said:
            self.tell_all(client.nickname, str(said["text"])[:1000])

    def on_close(self, reason):
        self.tell_all("Server", f"{self.ws.handler.active_client.nickname} has left.")

    def tell_all(self, name, text):
        # send() waits for a peer that does not read: see examples/chat for a chat in which nobody waits for anybody.
        for client in list(self.ws.handler.server.clients.values()):
            with suppress(WebSocketError):  # it has just left
                client.ws.send(json.dumps({"from": name, "text": text}))


# The first pattern that matches and whose kind fits wins: a WebSocket gets an application, anything else the page.
resource = Resource([("^/echo", EchoApplication), ("^/chat", ChatApplication), ("^/$", page)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), resource)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # ends serve_forever() below, and so the program
    print(f"Resource on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
