"""`python tests/one_echo.py`: geventws, as it is installed, answers one message. Tells which of the twins it was."""

from __future__ import annotations

from gevent.pywsgi import WSGIServer
from rawclient import TEXT, RawClient, frame

import geventws


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


server = WSGIServer(("127.0.0.1", 0), app, log=None, handler_class=geventws.WebSocketHandler)
server.start()
client = RawClient(("127.0.0.1", server.server_port))
client.open("/")
client.send(frame(TEXT, "Hello"))
answer = client.read_text()
assert answer == "Hello", answer
client.socket.close()
server.stop()
print("compiled" if geventws.compiled else "plain Python")
