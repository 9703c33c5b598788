"""How a Flask program uses `Sockets`, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

from flask import Blueprint, Flask, abort, session
from typing_extensions import assert_type

from geventws import WebSocket
from geventws.flask import Sockets

app = Flask(__name__)
sockets = Sockets(app)
later = Sockets()
later.init_app(app)
chat = Blueprint("chat", __name__)


@sockets.route("/echo")
def echo(ws: WebSocket) -> None:
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message)


@sockets.route("/rooms/<int:room>", defaults={"tone": "low"}, max_message_size=2**24, origins=["example.com"])
@sockets.route("/rooms", endpoint="rooms", blueprint=chat)
def room(ws: WebSocket, room: int, tone: str = "high") -> str:
    return f"{room} {tone}"


@sockets.route("/private", accept=False)
def private(ws: WebSocket) -> None:
    if "user" not in session:
        abort(401)
    ws.accept(subprotocol="chat.v1")
    for message in sockets.messages(ws):
        assert_type(message, str | bytes)
        ws.send(message)


@sockets.route("/later")
async def asynchronous(ws: WebSocket) -> None:
    ws.send("hello")


def main(ws: WebSocket) -> None:
    # A decorated view is what it was.
    assert_type(room(ws, 5), str)
    room(ws, "5")  # type: ignore[arg-type]
    room(5)  # type: ignore[call-arg, arg-type]

    sockets.add_url_rule("/echo", "again", echo, accept=False)
    sockets.add_url_rule("/echo", view=echo)
    sockets.register_blueprint(chat, url_prefix="/chat", name="second")
    sockets.url_map.converters.clear()

    Sockets(5)  # type: ignore[arg-type]
    Sockets("app")  # type: ignore[arg-type]
    sockets.init_app(None)  # type: ignore[arg-type]
    sockets.route(5)  # type: ignore[arg-type]
    sockets.route("/echo", blueprint="chat")  # type: ignore[arg-type]
    sockets.route("/echo")("not a view")  # type: ignore[type-var]
    sockets.add_url_rule("/echo", echo)  # type: ignore[arg-type]
    sockets.register_blueprint(app)  # type: ignore[arg-type]
    sockets.messages("ws")  # type: ignore[arg-type]
