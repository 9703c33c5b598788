"""werkzeug's development server: its reloader, its debugger, and how it ends. The rest is in test_every_server.py."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from rawclient import TEXT, close_frame, frame
from servers.page import program
from servers.started import PROGRAM, Client, Started
from waiting import wait_until

# The program of docs/deployment.md, and an error for the debugger.
RUN = program("werkzeug", "run.py")["run.py"].replace(
    "from app import app\n",
    """
from app import app

@app.get("/broken")
def broken():
    raise ValueError("on purpose")
""",
)

UNTHREADED = """
import sys
from app import app

app.run(host="127.0.0.1", port=int(sys.argv[1]), threaded=False)
"""

WITHOUT_SOCKETS = """
import sys
from flask import Flask, request
from geventws.middleware import WebSocketMiddleware

app = Flask(__name__)
app.wsgi_app = WebSocketMiddleware(app.wsgi_app, max_message_size=100)

@app.get("/")
def page():
    return "page"

@app.route("/", websocket=True)
def echo():
    ws = request.environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return ""

app.run(host="127.0.0.1", port=int(sys.argv[1]), threaded=True)
"""

TLS = """
import sys
from app import app

app.run(host="127.0.0.1", port=int(sys.argv[1]), threaded=True, ssl_context=("server.pem", "server.pem"))
"""


def echoes(server: Started, path: str = "/echo") -> None:
    with server.client(path) as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_text() == "hi"
        assert client.close_handshake() == 1000


def read_on(client: Client) -> None:
    while True:
        client.read_frame()


def test_the_debugger_is_there_beside_websockets(start: Any) -> None:
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": RUN})
    with server.client("/echo") as client:
        response = server.get("/broken")
        assert response.status == 500
        assert b"Werkzeug Debugger" in response.body
        client.send(frame(TEXT, "still here"))
        assert client.read_text() == "still here"


def test_the_reloader_closes_open_websockets_and_serves_what_was_changed(start: Any) -> None:
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": RUN})
    with server.client("/echo") as client:
        # Written beside, then put in its place: what is half written would end the program.
        changed = server.directory / "changed"
        changed.write_text(PROGRAM.read_text().replace('return "page"', 'return "another page"'))
        os.utime(changed, (2_000_000_000, 2_000_000_000))
        changed.replace(server.directory / "app.py")
        assert client.read_close() == 1001
        client.send(close_frame(1001))
        assert client.at_end()

    def page() -> bytes:
        try:
            return server.get("/").body
        except (OSError, EOFError):
            return b""

    wait_until(lambda: page() == b"another page", 30)
    echoes(server)


@pytest.mark.parametrize("threaded", [True, False], ids=["threads", "no threads"])
def test_ctrl_c_ends_it_and_closes_open_websockets(start: Any, threaded: bool) -> None:
    program = UNTHREADED if not threaded else UNTHREADED.replace("threaded=False", "threaded=True")
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": program})
    with server.client("/echo") as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_text() == "hi"
        server.send_signal(signal.SIGINT)
        assert client.read_close() == 1001
        client.send(close_frame(1001))
        assert client.at_end()
        server.wait()


def test_ctrl_c_ends_both_of_the_reloader_s_processes(start: Any) -> None:
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": RUN})
    with server.client("/echo") as client:
        os.killpg(server.pid, signal.SIGINT)  # As the terminal does it, to all processes.
        server.wait()
        # The second process has a quarter of a second to take its leave before the first one kills it.
        with pytest.raises((EOFError, OSError)):
            read_on(client)


def test_without_threads_a_websocket_works_and_the_log_says_what_it_keeps_waiting(start: Any) -> None:
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": UNTHREADED})
    echoes(server)
    echoes(server)
    assert server.wrote("threaded=False").count("nothing else is served") == 1


def test_the_middleware_is_enough_for_a_program_without_sockets(start: Any) -> None:
    server: Started = start("{python}", "run.py", "{port}", files={"run.py": WITHOUT_SOCKETS})
    echoes(server, "/")
    with server.client("/") as client:
        client.send(frame(TEXT, "x" * 101))
        assert client.read_close() == 1009
    assert server.get("/").body == b"page"


def test_it_carries_websockets_over_tls(start: Any, tls: Any) -> None:
    command = ("{python}", "run.py", "{port}")
    tls.carries_websockets(tls.start(start, *command, listening="Running on", files={"run.py": TLS}))
