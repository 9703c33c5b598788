"""Programs written for gevent-websocket and Flask-Sockets, before and after one search and replace.

Each program is a text that names `geventwebsocket`. It runs over that package itself and, with nothing but the name replaced,
over geventws; both have to do what the test says. Where gevent-websocket does wrong, the test asks geventws for what is
right and shows what the program got before. What geventws does beyond is tested beside its modules.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import logging
import socket
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.pool import Pool
from rawclient import BINARY, CLOSE, PING, PONG, TEXT, Frame, RawClient, close_frame, frame, request
from waiting import wait_until

OLD, NEW = "geventwebsocket", "geventws"

# What most programs end with.
SERVER = """
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

server = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=log)
"""

ECHO = """
def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)
    return []
"""


class Program(ModuleType):
    """A program that runs: its names, its log, and how to reach its server."""

    server: Any

    def __init__(self) -> None:
        super().__init__("program")
        self.log = io.StringIO()
        self.errors: list[str] = []
        """What was printed as the traceback of a greenlet."""
        self._clients = contextlib.ExitStack()

    def client(self, path: str | None = None, **fields: str) -> RawClient:
        """A new client; with a path its opening handshake is done."""
        address = self.server.address
        sock = None
        if isinstance(address, str):
            sock = gevent.socket.socket(socket.AF_UNIX)
            sock.connect(address)
        client = self._clients.enter_context(RawClient(("127.0.0.1", self.server.server_port), socket=sock))
        if path is not None:
            client.open(path, **fields)
        return client

    def get(self, path: str) -> Any:
        """The response to an ordinary request."""
        client = self.client()
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return client.read_response()

    def end(self) -> None:
        self._clients.close()
        if "server" in vars(self):
            # Some handlers of gevent-websocket do not notice that their clients are gone: those are killed.
            self.server.stop(timeout=0.2)


Run = Callable[..., Program]


@pytest.fixture(params=[OLD, NEW])
def package(request: pytest.FixtureRequest) -> str:
    """What `geventwebsocket` is replaced by in the programs."""
    name: str = request.param
    return name


@pytest.fixture
def run(package: str, caplog: pytest.LogCaptureFixture) -> Iterator[Run]:
    """Run a program and start its `server`. Over geventws none of these programs may leave a traceback anywhere."""
    hub = gevent.get_hub()
    programs: list[Program] = []

    def print_exception(context: object, kind: Any, value: Any, tb: Any) -> None:
        programs[-1].errors.append("".join(traceback.format_exception(kind, value, tb)))

    def start(text: str, **given: Any) -> Program:
        program = Program()
        programs.append(program)
        vars(program).update(given)
        text = textwrap.dedent(text)
        if "server =" not in text:
            text += SERVER
        text = text.replace("flask_sockets", "geventws.flask").replace("geventwebsocket", package)
        exec(compile(text, "<program>", "exec"), vars(program))
        # In a pool the handlers of connections can be waited for at the end, and what they leave behind seen.
        program.server.set_spawn(Pool())
        program.server.start()
        return program

    original, hub.print_exception = hub.print_exception, print_exception
    try:
        yield start
        for program in programs:
            program.end()
    finally:
        hub.print_exception = original
    if package == NEW:
        assert [error for program in programs for error in program.errors] == []
        assert [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


only_over_geventws = pytest.mark.parametrize("package", [NEW])


def module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


def receive_echo(client: RawClient, message: str) -> None:
    client.send(frame(TEXT, message))
    assert client.read_text() == message


def leave(client: RawClient) -> None:
    """Close as a browser does: with both Close frames, and then TCP after the server."""
    client.send(close_frame(1000))
    assert client.read_frame().opcode == CLOSE
    assert client.at_end()
    client.socket.close()


# The handler.


@pytest.mark.parametrize("text", ["hello", "", "Grüße, 世界", "x" * 70_000])
def test_text_is_echoed(run: Run, text: str) -> None:
    receive_echo(run(ECHO).client("/"), text)


@pytest.mark.parametrize("data", [b"", b"\x00\xff", bytes(range(256)) * 300])
def test_binary_is_echoed(run: Run, data: bytes) -> None:
    client = run(ECHO).client("/")
    client.send(frame(BINARY, data))
    assert client.read_frame() == Frame(0x80 | BINARY, data)


def test_binary_is_received_as_bytes(run: Run, package: str) -> None:
    program = run("""
        seen = []

        def app(environ, start_response):
            seen.append(environ["wsgi.websocket"].receive())
            return []
    """)
    program.client("/").send(frame(BINARY, b"\x00\xff"))
    wait_until(lambda: program.seen)
    assert program.seen == [b"\x00\xff"]
    assert type(program.seen[0]) is {NEW: bytes, OLD: bytearray}[package]


def test_fragments_are_joined_and_a_ping_between_them_is_answered(run: Run) -> None:
    client = run(ECHO).client("/")
    client.send(frame(TEXT, "one ", fin=False) + frame(PING, "still there?") + frame(0, "message"))
    assert client.read_frame() == Frame(0x80 | PONG, b"still there?")
    assert client.read_text() == "one message"


def test_the_environ_holds_the_websocket_and_its_version(run: Run) -> None:
    program = run("""
        environs = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            environs.append(environ)
            ws.send("%s %s" % (environ["wsgi.websocket_version"], ws.environ is environ))
            ws.receive()
            return []
    """)
    client = program.client("/")
    assert client.read_text() == "13 True"
    environ = program.environs[0]
    assert environ["wsgi.websocket"] is not None
    leave(client)
    wait_until(lambda: environ["wsgi.websocket"] is None)


def test_an_ordinary_request_has_no_websocket_in_its_environ(run: Run) -> None:
    program = run("""
        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
            return [str("wsgi.websocket" in environ).encode()]
    """)
    response = program.get("/")
    assert (response.status, response.body) == (200, b"False")


def test_the_handler_shows_its_connection(run: Run) -> None:
    program = run("""
        handlers = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            handlers.append(ws.handler)
            assert ws.handler.websocket is ws
            ws.send("ready")
            ws.receive()
            return []
    """)
    client = program.client("/")
    assert client.read_text() == "ready"
    handler = program.handlers[0]
    assert handler.client_address == client.socket.getsockname()
    assert handler.socket.getpeername() == client.socket.getsockname()
    assert handler.server is program.server
    assert handler.active_client is program.server.clients[handler.client_address]
    assert handler.active_client.ws is handler.websocket
    assert handler.active_client.address == handler.client_address


def test_clients_of_the_server_are_sent_to_and_carry_what_a_program_hangs_on_them(run: Run) -> None:
    program = run("""
        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            client = ws.handler.active_client
            client.nickname = ws.receive()
            while True:
                message = ws.receive()
                if message is None:
                    break
                for client in list(ws.handler.server.clients.values()):
                    if hasattr(client, "nickname"):
                        client.ws.send("%s: %s" % (client.nickname, message))
            return []
    """)
    ann, bob = program.client("/"), program.client("/")
    ann.send(frame(TEXT, "ann"))
    bob.send(frame(TEXT, "bob"))
    wait_until(
        lambda: sorted(getattr(client, "nickname", "") for client in program.server.clients.values()) == ["ann", "bob"]
    )
    ann.send(frame(TEXT, "hello"))
    assert (ann.read_text(), bob.read_text()) == ("ann: hello", "bob: hello")
    leave(bob)
    wait_until(lambda: len(program.server.clients) == 1)
    assert [client.nickname for client in program.server.clients.values()] == ["ann"]


def test_a_handler_may_be_subclassed(run: Run) -> None:
    program = run("""
        from gevent.pywsgi import WSGIServer
        from geventwebsocket.handler import WebSocketHandler

        class Handler(WebSocketHandler):
            def get_environ(self):
                environ = super(Handler, self).get_environ()
                environ["program.stamp"] = "seen by the handler"
                return environ

        def app(environ, start_response):
            environ["wsgi.websocket"].send(environ["program.stamp"])
            return []

        server = WSGIServer(("127.0.0.1", 0), app, handler_class=Handler, log=log)
    """)
    assert program.client("/").read_text() == "seen by the handler"


PRE_START_HOOK = """
def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"plain"]
    ws.send("websocket")
    return []

def hook(handler):
    return handler.environ["PATH_INFO"] == "/plain"
"""


@pytest.mark.parametrize(
    "server",
    [
        "from geventwebsocket.server import WebSocketServer\n"
        "server = WebSocketServer(('127.0.0.1', 0), app, pre_start_hook=hook, log=log)\n",
        SERVER + "server.pre_start_hook = hook\n",
    ],
    ids=["argument", "attribute of a plain server"],
)
def test_a_pre_start_hook_makes_a_request_ordinary(run: Run, server: str) -> None:
    program = run(PRE_START_HOOK + server)
    client = program.client()
    client.send(request("/plain"))
    response = client.read_response()
    assert (response.status, response.body) == (200, b"plain")
    assert program.client("/other").read_text() == "websocket"


def test_prevent_wsgi_call_leaves_the_websocket_to_the_caller(run: Run) -> None:
    program = run("""
        from gevent.pywsgi import WSGIServer
        from geventwebsocket.handler import WebSocketHandler

        calls = []

        class Handler(WebSocketHandler):
            prevent_wsgi_call = True

            def run_application(self):
                super(Handler, self).run_application()
                while True:
                    message = self.websocket.receive()
                    if message is None:
                        break
                    self.websocket.send("driven: " + message)

        def app(environ, start_response):
            calls.append(environ)
            return []

        server = WSGIServer(("127.0.0.1", 0), app, handler_class=Handler, log=log)
    """)
    client = program.client("/")
    client.send(frame(TEXT, "hello"))
    assert client.read_text() == "driven: hello"
    assert program.calls == []
    leave(client)


def test_a_handler_of_another_class_becomes_a_websocket_handler_for_one_response(run: Run) -> None:
    """As gevent-socketio does it."""
    program = run("""
        from gevent.pywsgi import WSGIHandler, WSGIServer
        from geventwebsocket.handler import WebSocketHandler

        class Handler(WSGIHandler):
            def handle_one_response(self):
                if self.environ["PATH_INFO"] != "/socket.io/1/websocket":
                    return super(Handler, self).handle_one_response()
                old_class = self.__class__
                self.__class__ = self.server.ws_handler_class
                self.prevent_wsgi_call = True
                self.handle_one_response()
                ws = self.websocket
                ws.send("1::")
                while True:
                    message = ws.receive()
                    if message is None:
                        break
                    ws.send(message)
                self.__class__ = old_class

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "5")])
            return [b"plain"]

        server = WSGIServer(("127.0.0.1", 0), app, handler_class=Handler, log=log)
        server.ws_handler_class = WebSocketHandler
    """)
    client = program.client("/socket.io/1/websocket")
    assert client.read_text() == "1::"
    receive_echo(client, "2::")
    leave(client)
    assert program.get("/").body == b"plain"
    # Nothing of the connection stays behind.
    wait_until(lambda: not getattr(program.server, "clients", None))


APP_PROTOCOL = """
def app(environ, start_response):
    environ["wsgi.websocket"].receive()
    return []

app.app_protocol = lambda path: "graphql-ws" if path == "/graphql" else ""
"""


@pytest.mark.parametrize(
    ("path", "offered", "chosen"),
    [
        ("/graphql", "graphql-ws", "graphql-ws"),
        ("/graphql", "chat, graphql-ws", "graphql-ws"),
        ("/graphql", "chat", None),
        ("/other", "graphql-ws", None),
    ],
)
def test_app_protocol_picks_the_subprotocol(run: Run, path: str, offered: str, chosen: str | None) -> None:
    response = run(APP_PROTOCOL).client().open(path, Sec_WebSocket_Protocol=offered)
    assert response.headers.get("sec-websocket-protocol") == chosen


def test_a_subprotocol_is_not_picked_because_another_one_begins_with_its_name(run: Run, package: str) -> None:
    response = run(APP_PROTOCOL).client().open("/graphql", Sec_WebSocket_Protocol="graphql-ws-2")
    assert response.headers.get("sec-websocket-protocol") == {NEW: None, OLD: "graphql-ws"}[package]


def test_the_application_may_refuse_the_handshake(run: Run, package: str) -> None:
    program = run("""
        def app(environ, start_response):
            start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", "2")])
            return [b"no"]
    """)
    client = program.client()
    client.send(request("/"))
    response = client.read_response()
    if package == NEW:
        assert (response.status, response.body) == (403, b"no")
    else:
        assert response.status == 101


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (request("/", Sec_WebSocket_Version="12"), 426),
        (request("/", drop=("Sec-WebSocket-Version",)), 426),
        (request("/", drop=("Sec-WebSocket-Key",)), 400),
        (request("/", Sec_WebSocket_Key="c2hvcnQ="), 400),
        (request("/").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    ],
    ids=["version 12", "no version", "no key", "short key", "HTTP/1.0"],
)
def test_a_wrong_handshake_is_refused_with_a_status_and_a_text(
    run: Run, package: str, wrong: bytes, status: int
) -> None:
    program = run(ECHO)
    client = program.client()
    client.send(wrong)
    if package == OLD:
        # The text of the refusal is a str, which cannot be written.
        with pytest.raises(EOFError):
            client.read_response()
        assert "TypeError" in program.errors[0]
        return
    response = client.read_response()
    assert response.status == status
    assert response.body
    assert ("sec-websocket-version" in response.headers) == (status == 426)


def test_ordinary_requests_stand_in_the_access_log(run: Run, package: str) -> None:
    program = run("""
        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
    """)
    client = program.client()
    client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert client.read_response().status == 200
    assert client.at_end()
    assert ('"GET /page HTTP/1.1" 200' in program.log.getvalue()) == (package == NEW)


def test_what_the_application_returns_is_closed(run: Run, package: str) -> None:
    program = run("""
        closed = []
        ended = []

        class Result(list):
            def close(self):
                closed.append(True)

        def app(environ, start_response):
            environ["wsgi.websocket"].receive()
            environ["program.ended"] = ended
            return Result()
    """)
    client = program.client("/")
    leave(client)
    assert program.closed == {NEW: [True], OLD: []}[package]


def test_clients_on_a_unix_socket_are_told_apart(run: Run, package: str, tmp_path: Path) -> None:
    program = run(
        """
        import gevent.socket
        from gevent.pywsgi import WSGIServer
        from geventwebsocket.handler import WebSocketHandler

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.handler.active_client.name = environ["PATH_INFO"]
            ws.send("ready")
            ws.receive()
            return []

        listener = gevent.socket.socket(gevent.socket.AF_UNIX)
        listener.bind(path)
        listener.listen(5)
        server = WSGIServer(listener, app, handler_class=WebSocketHandler, log=log)
        """,
        path=str(tmp_path / "socket"),
    )
    for path in ("/a", "/b"):
        assert program.client(path).read_text() == "ready"
    names = sorted(client.name for client in program.server.clients.values())
    assert names == {NEW: ["/a", "/b"], OLD: ["/b"]}[package]


# The WebSocket.


def test_names_are_where_they_were(package: str) -> None:
    websocket = module(package, "websocket")
    assert websocket.MSG_SOCKET_DEAD == "Socket is dead"
    assert websocket.MSG_ALREADY_CLOSED == "Connection is already closed"
    assert websocket.MSG_CLOSED == "Connection closed"
    assert websocket.WebSocketError is module(package, "exceptions").WebSocketError
    opcodes = {name: value for name, value in vars(websocket.WebSocket).items() if name.startswith("OPCODE_")}
    assert opcodes == {
        "OPCODE_CONTINUATION": 0,
        "OPCODE_TEXT": 1,
        "OPCODE_BINARY": 2,
        "OPCODE_CLOSE": 8,
        "OPCODE_PING": 9,
        "OPCODE_PONG": 10,
    }
    assert {type(value) for value in opcodes.values()} == {int}


def test_the_package_itself_exports_what_programs_import_from_it(package: str) -> None:
    top = importlib.import_module(package)
    assert top.WebSocketServer is module(package, "server").WebSocketServer
    assert top.Resource is module(package, "resource").Resource
    assert top.WebSocketApplication is module(package, "resource").WebSocketApplication
    assert top.WebSocketError is module(package, "exceptions").WebSocketError


RECEIVE_TO_THE_END = """
from geventwebsocket.websocket import WebSocketError

seen = []

def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    seen.append((ws.receive(), ws.closed))
    seen.append((ws.receive(), ws.closed))
    for attempt in (ws.receive, ws.receive, lambda: ws.send("too late"), lambda: ws.send_frame("", ws.OPCODE_PING)):
        try:
            attempt()
        except WebSocketError:
            seen.append("WebSocketError")
    return []
"""


@pytest.mark.parametrize(
    "go",
    [
        lambda client: client.send(close_frame(1000, "bye")),
        lambda client: client.send(close_frame()),
        lambda client: client.socket.shutdown(socket.SHUT_WR),
        RawClient.reset,
    ],
    ids=["close", "close without a code", "end of the stream", "reset"],
)
def test_receive_gives_none_once_and_then_raises(run: Run, go: Callable[[RawClient], object]) -> None:
    program = run(RECEIVE_TO_THE_END)
    client = program.client("/")
    client.send(frame(TEXT, "hello"))
    wait_until(lambda: program.seen)
    go(client)
    wait_until(lambda: len(program.seen) == 6)
    assert program.seen == [("hello", False), (None, True), *["WebSocketError"] * 4]


def test_a_loop_over_closed_that_passes_over_none_ends(run: Run) -> None:
    """As Twilio's samples of media streams have it."""
    program = run("""
        import json

        ended = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            count = 0
            while not ws.closed:
                message = ws.receive()
                if message is None:
                    continue
                if json.loads(message)["event"] == "media":
                    count += 1
            ended.append(count)
            return []
    """)
    client = program.client("/")
    media = [frame(TEXT, json.dumps({"event": "media", "sequence": number})) for number in range(50)]
    # All at once, with the end behind them: none is lost.
    client.send(b"".join(media) + close_frame(1000))
    wait_until(lambda: program.ended)
    assert program.ended == [50]


def test_a_loop_that_sends_back_whatever_it_received_ends(run: Run, package: str) -> None:
    """As in the README of gevent-websocket: None is sent too, on the closed connection."""
    program = run("""
        ended = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            try:
                while True:
                    ws.send(ws.receive())
            finally:
                ended.append(True)
    """)
    client = program.client("/")
    receive_echo(client, "hello")
    leave(client)
    assert program.ended == [True]
    assert bool(program.errors) == (package == OLD)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("ws.send('text')", Frame(0x80 | TEXT, b"text")),
        ("ws.send('')", Frame(0x80 | TEXT, b"")),
        ("ws.send(b'\\x00\\xff')", Frame(0x80 | BINARY, b"\x00\xff")),
        ("ws.send(bytearray(b'\\x00\\xff'))", Frame(0x80 | BINARY, b"\x00\xff")),
        ("ws.send(memoryview(b'\\x00\\xff'))", Frame(0x80 | BINARY, b"\x00\xff")),
        ("ws.send('text', False)", Frame(0x80 | TEXT, b"text")),
        ("ws.send('text', binary=False)", Frame(0x80 | TEXT, b"text")),
        ("ws.send(b'data', True)", Frame(0x80 | BINARY, b"data")),
        ("ws.send(b'data', binary=True)", Frame(0x80 | BINARY, b"data")),
        ("ws.send_frame('', ws.OPCODE_PING)", Frame(0x80 | PING, b"")),
        ("ws.send_frame(b'', ws.OPCODE_PING)", Frame(0x80 | PING, b"")),
        ("ws.send_frame('are you there?', ws.OPCODE_PING)", Frame(0x80 | PING, b"are you there?")),
        ("ws.send_frame(b'here', ws.OPCODE_PONG)", Frame(0x80 | PONG, b"here")),
        ("ws.send_frame('text', ws.OPCODE_TEXT)", Frame(0x80 | TEXT, b"text")),
        ("ws.send_frame(b'data', ws.OPCODE_BINARY)", Frame(0x80 | BINARY, b"data")),
        ("ws.send_frame(bytearray(b'data'), ws.OPCODE_BINARY)", Frame(0x80 | BINARY, b"data")),
    ],
)
def test_a_frame_is_sent(run: Run, call: str, expected: Frame) -> None:
    program = run(f"""
        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            {call}
            ws.receive()
            return []
    """)
    assert program.client("/").read_frame() == expected


def test_a_number_is_no_message(run: Run, package: str) -> None:
    program = run("""
        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            try:
                ws.send(5)
            except TypeError:
                ws.send("TypeError")
            return []
    """)
    expected = {NEW: Frame(0x80 | TEXT, b"TypeError"), OLD: Frame(0x80 | BINARY, bytes(5))}
    assert program.client("/").read_frame() == expected[package]


@pytest.mark.parametrize(
    ("call", "payload"),
    [
        ("ws.close()", b"\x03\xe8"),
        ("ws.close(1000, '')", b"\x03\xe8"),
        ("ws.close(1000, None)", b"\x03\xe8"),
        ("ws.close(1001)", b"\x03\xe9"),
        ("ws.close(4001, 'bye')", b"\x0f\xa1bye"),
        ("ws.close(4001, b'bye')", b"\x0f\xa1bye"),
        ("ws.close(4001, message='bye')", b"\x0f\xa1bye"),
    ],
)
def test_close_closes_with_its_code_and_reason(run: Run, package: str, call: str, payload: bytes) -> None:
    program = run(f"""
        closed = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            {call}
            closed.append(ws.closed)
            {call}
            closed.append(ws.closed)
            return []
    """)
    client = program.client("/")
    received = client.read_frame()
    assert received.opcode == CLOSE
    # gevent-websocket sends the reason where the code belongs.
    assert (received.payload == payload) == (package == NEW)
    client.send(close_frame(1000))
    assert client.at_end()
    client.socket.close()
    wait_until(lambda: program.closed == [True, True])


@pytest.mark.parametrize(
    ("sent", "answered"),
    [(close_frame(), b""), (close_frame(1000), b"\x03\xe8"), (close_frame(4001, "bye"), b"\x0f\xa1")],
    ids=["no code", "1000", "4001 bye"],
)
def test_a_close_frame_is_answered_with_its_code(run: Run, package: str, sent: bytes, answered: bytes) -> None:
    client = run(ECHO).client("/")
    client.send(sent)
    received = client.read_frame()
    assert received.opcode == CLOSE
    assert (received.payload == answered) == (package == NEW or not answered)
    assert client.at_end()


def test_a_websocket_tells_what_it_is(run: Run) -> None:
    program = run("""
        websockets = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.logger.debug("somebody is here")
            websockets.append(ws)
            ws.send("ready")
            ws.receive()
            return []
    """)
    fields = {"Origin": "http://localhost", "Sec_WebSocket_Protocol": "chat, superchat"}
    client = program.client("/rooms/1?query=2", **fields)
    assert client.read_text() == "ready"
    ws = program.websockets[0]
    assert (ws.path, ws.version) == ("/rooms/1", "13")
    assert (ws.origin, ws.protocol) == ("http://localhost", "chat, superchat")
    assert ws.environ["QUERY_STRING"] == "query=2"
    assert ws.closed is False


def test_what_the_request_does_not_say_is_none(run: Run) -> None:
    program = run("""
        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.send("%s %s" % (ws.origin, ws.protocol))
            return []
    """)
    assert program.client("/").read_text() == "None None"


def test_current_app_can_be_told_that_the_connection_is_closed(run: Run) -> None:
    """Without a `Resource`, too: gevent-websocket has a stand-in there."""
    program = run("""
        from geventwebsocket.websocket import MSG_SOCKET_DEAD

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.current_app.on_close(MSG_SOCKET_DEAD)
            ws.send("told")
            return []
    """)
    assert program.client("/").read_text() == "told"


@pytest.fixture
def patchable(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may patch the class WebSocket and the names of the module: all is put back after the test."""
    handler, websocket = module(package, "handler"), module(package, "websocket")
    monkeypatch.setattr(handler, "WebSocket", websocket.WebSocket)
    for hook in ("handle_ping", "handle_pong", "handle_close"):
        monkeypatch.setattr(websocket.WebSocket, hook, getattr(websocket.WebSocket, hook))


HOOKS = """
import struct

from geventwebsocket.websocket import WebSocket

seen = []

class Hooks:
    def handle_ping(self, header, payload):
        seen.append(("ping", header.opcode, header.length, bytes(payload)))
        original["handle_ping"](self, header, payload)

    def handle_pong(self, header, payload):
        seen.append(("pong", header.opcode, header.length, bytes(payload)))
        original["handle_pong"](self, header, payload)

    def handle_close(self, header, payload):
        code = struct.unpack("!H", bytes(payload[:2]))[0]
        seen.append(("close", header.opcode, header.length, code, bytes(payload[2:])))
        original["handle_close"](self, header, payload)

names = ("handle_ping", "handle_pong", "handle_close")
original = dict((name, getattr(WebSocket, name)) for name in names)
"""

PATCHED_CLASS = """
for name in names:
    setattr(WebSocket, name, getattr(Hooks, name))
"""

EXCHANGED_CLASS = """
import geventwebsocket.handler

class Hooked(Hooks, WebSocket):
    pass

geventwebsocket.handler.WebSocket = Hooked
"""


@pytest.mark.usefixtures("patchable")
@pytest.mark.parametrize("override", [PATCHED_CLASS, EXCHANGED_CLASS], ids=["class patched", "subclass put in place"])
def test_control_frames_are_seen_by_overridden_methods(run: Run, override: str) -> None:
    program = run(HOOKS + override + ECHO)
    client = program.client("/")
    client.send(frame(PING, "a") + frame(PONG, "bc"))
    assert client.read_frame() == Frame(0x80 | PONG, b"a")
    receive_echo(client, "hello")
    client.send(close_frame(4001, "bye"))
    assert client.read_frame().opcode == CLOSE
    assert program.seen == [("ping", 9, 1, b"a"), ("pong", 10, 2, b"bc"), ("close", 8, 5, 4001, b"bye")]


@pytest.mark.usefixtures("patchable")
def test_a_subclass_may_have_a_constructor_of_its_own(run: Run) -> None:
    program = run("""
        from gevent.event import Event
        import geventwebsocket.handler
        from geventwebsocket.websocket import WebSocket as BaseWebSocket

        class WebSocket(BaseWebSocket):
            def __init__(self, *args, **kwargs):
                self.pong_event = Event()
                super(WebSocket, self).__init__(*args, **kwargs)

            def handle_pong(self, header, payload):
                self.pong_event.set()

        geventwebsocket.handler.WebSocket = WebSocket
        heard = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.send_frame("", ws.OPCODE_PING)
            ws.receive()
            heard.append(ws.pong_event.is_set())
            return []
    """)
    client = program.client("/")
    assert client.read_frame() == Frame(0x80 | PING, b"")
    client.send(frame(PONG, "") + frame(TEXT, "done"))
    wait_until(lambda: program.heard)
    assert program.heard == [True]


def test_another_greenlet_sends_while_the_handler_sleeps(run: Run) -> None:
    program = run("""
        import gevent

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]

            def clock():
                for tick in range(3):
                    ws.send("tick %d" % tick)
                    gevent.sleep(0.001)

            gevent.spawn(clock)
            while not ws.closed:
                gevent.sleep(0.01)
            return []
    """)
    client = program.client("/")
    assert [client.read_text() for _ in range(3)] == ["tick 0", "tick 1", "tick 2"]


@pytest.mark.parametrize("go", [lambda client: client.send(close_frame(1000)), RawClient.reset], ids=["close", "reset"])
def test_a_handler_that_only_sleeps_sees_the_peer_go(run: Run, package: str, go: Callable[[RawClient], object]) -> None:
    program = run("""
        import gevent

        ticks = []
        ended = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            while not ws.closed:
                ticks.append(True)
                gevent.sleep(0.001)
            ended.append(True)
            return []
    """)
    client = program.client("/")
    wait_until(lambda: program.ticks)
    go(client)
    if package == NEW:
        wait_until(lambda: program.ended, seconds=1)
    else:
        ticks = len(program.ticks)
        wait_until(lambda: len(program.ticks) > ticks + 100)
        assert not program.ended


def test_registered_websockets_are_sent_to_until_that_fails(run: Run) -> None:
    """A list of websockets and a greenlet that sends to them, as in Heroku's chat for Flask-Sockets."""
    program = run("""
        import gevent
        from gevent.queue import Queue

        class Backend:
            def __init__(self):
                self.clients = []
                self.messages = Queue()

            def send(self, client, data):
                try:
                    client.send(data)
                except Exception:
                    self.clients.remove(client)

            def run(self):
                for data in self.messages:
                    for client in list(self.clients):
                        gevent.spawn(self.send, client, data)

        chats = Backend()
        gevent.spawn(chats.run)

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            if environ["PATH_INFO"] == "/submit":
                while not ws.closed:
                    gevent.sleep(0.001)
                    message = ws.receive()
                    if message:
                        chats.messages.put(message)
            else:
                chats.clients.append(ws)
                while not ws.closed:
                    gevent.sleep(0.001)
            return []
    """)
    readers = [program.client("/receive") for _ in range(2)]
    wait_until(lambda: len(program.chats.clients) == 2)
    writer = program.client("/submit")
    for number in range(3):
        writer.send(frame(TEXT, f"message {number}"))
        assert [reader.read_text() for reader in readers] == [f"message {number}"] * 2
    readers[0].reset()
    for number in itertools.count():
        writer.send(frame(TEXT, f"later {number}"))
        assert readers[1].read_text() == f"later {number}"
        if len(program.chats.clients) == 1:
            break


def test_two_greenlets_send_long_messages_to_a_slow_reader(run: Run, package: str) -> None:
    program = run("""
        import gevent

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.receive()
            senders = [gevent.spawn(ws.send, letter * 4000000) for letter in (b"a", b"b")]
            gevent.joinall(senders)
            ws.receive()
            return []
    """)
    client = program.client("/")
    client.send(frame(TEXT, "begin"))
    if package == OLD:
        wait_until(lambda: program.errors)
        assert "ConcurrentObjectUseError" in program.errors[0]
        return
    received = [client.read_frame().payload for _ in range(2)]
    assert received == [b"a" * 4_000_000, b"b" * 4_000_000]


@pytest.mark.parametrize(
    ("sent", "code"),
    [(frame(TEXT, "hello", mask=None), 1002), (frame(TEXT, "x" * (2**20 + 1)), 1009)],
    ids=["unmasked", "beyond the limit"],
)
def test_what_the_peer_must_not_send_is_refused(run: Run, package: str, sent: bytes, code: int) -> None:
    client = run(ECHO).client("/")
    client.send(sent)
    if package == NEW:
        assert client.read_close() == code
    else:
        assert client.read_frame().opcode == TEXT


def test_the_shape_that_engineio_needs_is_there(run: Run) -> None:
    program = run("""
        class WebSocketWSGI(object):
            def __init__(self, handler):
                self.app = handler

            def __call__(self, environ, start_response):
                if "wsgi.websocket" not in environ:
                    raise RuntimeError("You need to use the gevent-websocket server.")
                self._sock = environ["wsgi.websocket"]
                self.environ = environ
                self.version = self._sock.version
                self.path = self._sock.path
                self.origin = self._sock.origin
                self.protocol = self._sock.protocol
                return self.app(self)

            def close(self):
                return self._sock.close()

            def send(self, message):
                return self._sock.send(message)

            def wait(self):
                return self._sock.receive()

        def handler(ws):
            ws.send("%s %s %s %s" % (ws.version, ws.path, ws.origin, ws.protocol))
            ws.send(ws.wait())
            ws.close()
            return []

        app = WebSocketWSGI(handler)
    """)
    client = program.client("/socket.io/")
    assert client.read_text() == "13 /socket.io/ None None"
    receive_echo(client, "2probe")
    assert client.read_frame().opcode == CLOSE


# The exceptions.


def test_the_exceptions_are_a_tree_below_oserror(package: str) -> None:
    exceptions = module(package, "exceptions")
    assert issubclass(exceptions.WebSocketError, OSError)
    assert issubclass(exceptions.ProtocolError, exceptions.WebSocketError)
    assert issubclass(exceptions.FrameTooLargeException, exceptions.ProtocolError)
    for kind in (exceptions.WebSocketError, exceptions.ProtocolError, exceptions.FrameTooLargeException):
        assert str(kind("what it was")) == "what it was"


def test_a_send_on_a_dead_socket_is_caught_as_a_socket_error(run: Run) -> None:
    program = run("""
        import socket

        caught = []

        def app(environ, start_response):
            ws = environ["wsgi.websocket"]
            ws.receive()
            try:
                ws.send("too late")
            except socket.error:
                caught.append(True)
            return []
    """)
    program.client("/").send(close_frame(1000))
    wait_until(lambda: program.caught)


# The server.


def test_the_server_takes_the_arguments_it_took(run: Run) -> None:
    program = run(
        """
        from geventwebsocket.server import WebSocketServer
        """
        + ECHO.replace("\n", "\n        ")
        + """
        server = WebSocketServer(("127.0.0.1", 0), app, debug=False, pre_start_hook=None, log=log, environ={"x": "y"})
        """
    )
    assert program.server.clients == {}
    assert program.server.debug is False
    assert program.server.pre_start_hook is None
    client = program.client("/")
    receive_echo(client, "hello")
    assert list(program.server.clients) == [client.socket.getsockname()]


def test_a_server_with_debug_on_serves(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    program = run(
        ECHO
        + "from geventwebsocket.server import WebSocketServer\n"
        + "server = WebSocketServer(('127.0.0.1', 0), app, debug=True, log=log)\n"
    )
    assert program.server.debug is True
    receive_echo(program.client("/"), "hello")


# Resource and WebSocketApplication.

CHAT = """
import json
{imports}

class ChatApplication(WebSocketApplication):
    def on_open(self):
        events.append("open")

    def on_message(self, message):
        if message is None:
            return

        message = json.loads(message)

        if message["msg_type"] == "message":
            self.broadcast(message)
        elif message["msg_type"] == "update_clients":
            self.send_client_list(message)

    def send_client_list(self, message):
        current_client = self.ws.handler.active_client
        current_client.nickname = message["nickname"]

        self.ws.send(json.dumps({{
            "msg_type": "update_clients",
            "clients": [
                getattr(client, "nickname", "anonymous")
                for client in self.ws.handler.server.clients.values()
            ]
        }}))

    def broadcast(self, message):
        for client in self.ws.handler.server.clients.values():
            client.ws.send(json.dumps({{
                "msg_type": "message",
                "nickname": message["nickname"],
                "message": message["message"]
            }}))

    def on_close(self, reason):
        events.append("close")

from flask import Flask

flask_app = Flask("chat")
flask_app.debug = True

@flask_app.route("/")
def index():
    return "The page of the chat."

events = []
server = WebSocketServer(
    ("127.0.0.1", 0),
    Resource([
        ("^/chat", ChatApplication),
        ("^/.*", flask_app)
    ]),
    debug=False,
    log=log
)
"""

FROM_THE_PACKAGE = "from geventwebsocket import WebSocketServer, WebSocketApplication, Resource"
FROM_ITS_MODULES = """
from geventwebsocket.resource import WebSocketApplication, Resource
from geventwebsocket.server import WebSocketServer
"""


@pytest.mark.parametrize("imports", [FROM_THE_PACKAGE, FROM_ITS_MODULES], ids=["from the package", "from its modules"])
def test_the_chat_of_the_readme_runs(run: Run, imports: str) -> None:
    program = run(CHAT.format(imports=imports))
    assert program.get("/").body == b"The page of the chat."
    ann, bob = program.client("/chat"), program.client("/chat")
    ann.send(frame(TEXT, json.dumps({"msg_type": "update_clients", "nickname": "ann"})))
    assert sorted(json.loads(ann.read_text())["clients"]) == ["ann", "anonymous"]
    bob.send(frame(TEXT, json.dumps({"msg_type": "message", "nickname": "bob", "message": "hello"})))
    said = {"msg_type": "message", "nickname": "bob", "message": "hello"}
    assert [json.loads(client.read_text()) for client in (ann, bob)] == [said, said]
    for client in (ann, bob):
        leave(client)
    assert program.events == ["open", "open", "close", "close"]


def test_a_message_for_all_is_not_stopped_by_one_that_has_left(run: Run) -> None:
    """Whoever has said goodbye is no client any more, even if its end of TCP still lingers."""
    program = run(CHAT.format(imports=FROM_ITS_MODULES))
    ann, bob = program.client("/chat"), program.client("/chat")
    bob.send(close_frame(1000))
    assert bob.read_frame().opcode == CLOSE
    wait_until(lambda: "close" in program.events)
    for message in ("one", "two"):
        ann.send(frame(TEXT, json.dumps({"msg_type": "message", "nickname": "ann", "message": message})))
        assert json.loads(ann.read_text())["message"] == message


APPLICATIONS = """
from collections import OrderedDict
from geventwebsocket.resource import Resource, WebSocketApplication

class Named(WebSocketApplication):
    name = None

    def on_open(self):
        self.ws.send(self.name)

class First(Named):
    name = "first"

class Second(Named):
    name = "second"

def plain(name):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(name)))])
        return [name.encode()]
    return app

app = Resource({apps})
"""

LIST = """[
    ("^/shared", plain("shared page")), ("^/shared", First),
    ("/only", Second),
    ("^/", plain("any page")), ("^/", Second),
]"""


@pytest.mark.filterwarnings("ignore:Using an unordered dictionary")
@pytest.mark.parametrize("apps", [LIST, f"OrderedDict({LIST})", f"dict({LIST})"], ids=["list", "ordered dict", "dict"])
def test_a_resource_picks_by_path_and_kind_in_order(run: Run, apps: str) -> None:
    if "dict" in apps.lower():
        # A dict has a path once: the expressions are told apart without matching anything else.
        apps = apps.replace('("^/shared", First)', '("^/shared()", First)').replace(
            '("^/", Second)', '("^/()", Second)'
        )
    program = run(APPLICATIONS.format(apps=apps))
    websockets = {"/shared": "first", "/shared/too": "first", "/only": "second", "/elsewhere": "second", "/": "second"}
    for path, name in websockets.items():
        assert program.client(path).read_text() == name
    pages = {"/shared": b"shared page", "/only": b"any page", "/": b"any page"}
    for path, body in pages.items():
        assert program.get(path).body == body


@pytest.mark.parametrize("websocket", [True, False], ids=["websocket", "page"])
def test_where_nothing_matches_the_answer_is_404(run: Run, package: str, websocket: bool) -> None:
    program = run(APPLICATIONS.format(apps='[("^/page$", plain("page")), ("^/socket$", First)]'))
    client = program.client()
    # The path of the other kind.
    client.send(request("/page") if websocket else b"GET /socket HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = client.read_response()
    if package == NEW:
        assert response.status == 404
    else:
        assert response.status in (101, 500)
        wait_until(lambda: program.errors)
        assert "No apps defined" in program.errors[0]


def test_a_resource_may_say_itself_what_handles_websockets(run: Run) -> None:
    program = run("""
        from geventwebsocket.resource import Resource

        class Greeting(object):
            def __init__(self, ws, word):
                self.ws = ws
                self.word = word

            def handle(self):
                self.ws.send(self.word)

        def factory(ws):
            return Greeting(ws, "hello")

        class Factories(Resource):
            def _is_websocket_app(self, app):
                return app is factory

        app = Factories([("^/", factory)])
    """)
    assert program.client("/").read_text() == "hello"


SUBPROTOCOLS = """
from geventwebsocket.resource import Resource, WebSocketApplication
from geventwebsocket.protocols.base import BaseProtocol

class Chat(BaseProtocol):
    PROTOCOL_NAME = "chat"

class ByClass(WebSocketApplication):
    protocol_class = Chat

class ByMethod(WebSocketApplication):
    @classmethod
    def protocol_name(cls):
        return "superchat"

class None_(WebSocketApplication):
    pass

def page(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]

app = Resource([("^/class", ByClass), ("^/method", ByMethod), ("^/page", page), ("^/", None_)])
"""


def test_a_resource_picks_the_subprotocol_of_its_application(run: Run) -> None:
    program = run(SUBPROTOCOLS)
    assert program.app.app_protocol("/class") == "chat"
    assert program.app.app_protocol("/method") == "superchat"
    assert program.app.app_protocol("/none") == ""
    assert program.ByClass.protocol_name() == "chat"
    for path, chosen in {"/class": "chat", "/method": "superchat", "/none": None}.items():
        response = program.client().open(path, Sec_WebSocket_Protocol="superchat, chat")
        assert response.headers.get("sec-websocket-protocol") == chosen
    assert "sec-websocket-protocol" not in program.client().open("/class").headers


def test_a_resource_without_a_match_has_no_subprotocol(run: Run) -> None:
    program = run(SUBPROTOCOLS.replace(', ("^/", None_)', ""))
    assert program.app.app_protocol("/elsewhere") == ""


def test_an_application_is_told_of_open_messages_and_close(run: Run) -> None:
    program = run("""
        from geventwebsocket.resource import Resource, WebSocketApplication

        events = []

        class Application(WebSocketApplication):
            def on_open(self, *args, **kwargs):
                events.append(("open", self.ws.path))

            def on_message(self, message, *args, **kwargs):
                if message is None:
                    return
                events.append(("message", message))
                self.ws.send(message)

            def on_close(self, *args, **kwargs):
                events.append("close")

        app = Resource([("^/", Application)])
    """)
    client = program.client("/room")
    receive_echo(client, "one")
    receive_echo(client, "two")
    leave(client)
    assert program.events == [("open", "/room"), ("message", "one"), ("message", "two"), "close"]


def test_an_application_echoes_unless_it_says_otherwise(run: Run, package: str) -> None:
    program = run("""
        from geventwebsocket.resource import Resource, WebSocketApplication

        class Echo(WebSocketApplication):
            pass

        app = Resource([("^/", Echo)])
    """)
    client = program.client("/")
    receive_echo(client, "hello")
    leave(client)
    # It sent back the None of the end, too.
    assert bool(program.errors) == (package == OLD)


def test_the_end_is_no_message_and_close_gets_the_reason(run: Run, package: str) -> None:
    program = run("""
        from geventwebsocket.resource import Resource, WebSocketApplication

        events = []

        class Application(WebSocketApplication):
            def on_message(self, message):
                events.append(("message", message))

            def on_close(self, reason):
                events.append(("close", reason))

        app = Resource([("^/", Application)])
    """)
    client = program.client("/")
    client.send(close_frame(4001, "lunch"))
    assert client.read_frame().opcode == CLOSE
    assert client.at_end()
    expected = {NEW: [("close", "lunch")], OLD: [("message", None), ("close", None)]}
    assert program.events == expected[package]


def test_a_protocol_stands_between_the_websocket_and_its_application(run: Run) -> None:
    program = run("""
        import json
        from geventwebsocket.protocols.base import BaseProtocol
        from geventwebsocket.resource import Resource, WebSocketApplication

        events = []

        class Json(BaseProtocol):
            PROTOCOL_NAME = "json"

            def on_open(self):
                events.append("protocol open")
                super(Json, self).on_open()

            def on_message(self, message):
                if message is not None:
                    super(Json, self).on_message(json.loads(message))

            def on_close(self, reason=None):
                events.append("protocol close")
                super(Json, self).on_close(reason)

        class Sum(WebSocketApplication):
            protocol_class = Json

            def on_open(self):
                events.append(("open", self.protocol.app is self))
                events.append(self.protocol.handler is self.ws.handler)
                events.append(self.protocol.server is self.ws.handler.server)

            def on_message(self, message):
                self.ws.send(json.dumps(sum(message)))

            def on_close(self, reason):
                events.append("close")

        app = Resource([("^/", Sum)])
    """)
    client = program.client("/", Sec_WebSocket_Protocol="json")
    client.send(frame(TEXT, "[1, 2, 3]"))
    assert client.read_text() == "6"
    leave(client)
    assert program.events == ["protocol open", ("open", True), True, True, "protocol close", "close"]


def test_a_protocol_without_a_connection_has_no_handler(package: str) -> None:
    protocol = module(package, "protocols.base").BaseProtocol(object())
    assert (protocol.handler, protocol.server) == (None, None)
    with pytest.raises(Exception, match="application"):
        _ = module(package, "protocols.base").BaseProtocol(None).app


# Logging.


@pytest.fixture
def fresh_logger() -> Iterator[str]:
    """The name of a logger that is put back to what it was."""
    name = "tests.old_programs"
    logger = logging.getLogger(name)
    before = (logger.level, list(logger.handlers), logger.propagate, logger.__class__)
    yield name
    logger.level, logger.handlers[:], logger.propagate, logger.__class__ = before
    logger.manager._clear_cache()  # type: ignore[attr-defined]


def test_create_logger_writes_to_stderr_if_debug_is_on(
    package: str, fresh_logger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    create_logger = module(package, "logging").create_logger
    create_logger(fresh_logger, True, "first %(message)s")
    logger = create_logger(fresh_logger, debug=True, format="%(levelname)s: %(message)s")
    assert logger is logging.getLogger(fresh_logger)
    logger.debug("seen %d times", 1)
    assert capsys.readouterr().err == "DEBUG: seen 1 times\n"


def test_create_logger_writes_nothing_if_debug_is_off(
    package: str, fresh_logger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = module(package, "logging").create_logger(fresh_logger)
    logger.debug("unseen")
    logger.info("unseen")
    assert capsys.readouterr().err == ""


# Flask-Sockets. It does not work with today's Flask itself, so its programs run over geventws only.

README_PROGRAM = """
from flask import Flask
from flask_sockets import Sockets


app = Flask(__name__)
sockets = Sockets(app)


@sockets.route('/echo')
def echo_socket(ws):
    while not ws.closed:
        message = ws.receive()
        ws.send(message)


@app.route('/')
def hello():
    return 'Hello World!'


from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler
server = pywsgi.WSGIServer(('127.0.0.1', 0), app, handler_class=WebSocketHandler, log=log)
"""

README_PROGRAM_WITH_BLUEPRINTS = """
from flask import Flask, Blueprint
from flask_sockets import Sockets


html = Blueprint(r'html', __name__)
ws = Blueprint(r'ws', __name__)


@html.route('/')
def hello():
    return 'Hello World!'

@ws.route('/echo')
def echo_socket(socket):
    while not socket.closed:
        message = socket.receive()
        socket.send(message)


app = Flask(__name__)
sockets = Sockets(app)

app.register_blueprint(html, url_prefix=r'/')
sockets.register_blueprint(ws, url_prefix=r'/')


from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler
server = pywsgi.WSGIServer(('127.0.0.1', 0), app, handler_class=WebSocketHandler, log=log)
"""


@only_over_geventws
@pytest.mark.parametrize("text", [README_PROGRAM, README_PROGRAM_WITH_BLUEPRINTS], ids=["routes", "blueprints"])
def test_the_programs_of_the_readme_of_flask_sockets_run(run: Run, text: str) -> None:
    program = run(text)
    client = program.client("/echo")
    receive_echo(client, "hello")
    assert client.close_handshake(1000) == 1000
    response = program.get("/")
    assert (response.status, response.body) == (200, b"Hello World!")
    assert program.get("/echo").status in (400, 404, 426)


@only_over_geventws
def test_converters_of_the_url_map_are_used_by_websocket_rules(run: Run) -> None:
    program = run("""
        from flask import Flask
        from flask_sockets import Sockets
        from werkzeug.routing import BaseConverter

        class ListConverter(BaseConverter):
            regex = r"[^/]+"

            def to_python(self, value):
                return value.split("+")

        app = Flask(__name__)
        sockets = Sockets(app)
        sockets.url_map.converters["list"] = ListConverter

        @sockets.route("/rooms/<list:rooms>/<int:seat>")
        def enter(ws, rooms, seat):
            ws.send("%r %r" % (rooms, seat))
    """)
    assert program.client("/rooms/a+b/3").read_text() == "['a', 'b'] 3"
    client = program.client()
    client.send(request("/rooms/a+b/three"))
    assert client.read_response().status == 404


@only_over_geventws
def test_a_rule_may_be_added_to_the_url_map_by_hand(run: Run) -> None:
    """What is widely written around the defects that Flask-Sockets has on today's Werkzeug."""
    program = run("""
        from flask import Flask
        from flask_sockets import Sockets
        from werkzeug.routing import Rule

        app = Flask(__name__)
        sockets = Sockets(app)

        def echo(ws):
            while not ws.closed:
                ws.send(ws.receive())

        sockets.url_map.add(Rule("/echo", endpoint=echo, websocket=True))
    """)
    receive_echo(program.client("/echo"), "hello")


@only_over_geventws
def test_a_page_and_a_websocket_share_a_path(run: Run) -> None:
    program = run("""
        from flask import Flask
        from flask_sockets import Sockets

        app = Flask(__name__)
        sockets = Sockets(app)

        @app.route("/both")
        def page():
            return "page"

        @sockets.route("/both")
        def socket(ws):
            ws.send("websocket")
    """)
    assert program.get("/both").body == b"page"
    assert program.client("/both").read_text() == "websocket"


@only_over_geventws
def test_the_contexts_of_flask_are_there_in_a_websocket_view(run: Run) -> None:
    program = run("""
        from flask import Flask, current_app, g, request, session, url_for
        from flask_sockets import Sockets

        app = Flask(__name__)
        app.secret_key = "for the test"
        sockets = Sockets(app)

        @app.route("/login/<name>")
        def login(name):
            session["name"] = name
            return ""

        @sockets.route("/here/<int:number>")
        def here(ws, number):
            g.number = number
            ws.send(" ".join([
                request.path, request.args["q"], session["name"], str(g.number), str(current_app == app),
                url_for("login", name="bob"),
            ]))
            return "ignored"
    """)
    cookie = program.get("/login/ann").set_cookies[0].split(";")[0]
    client = program.client("/here/3?q=search", Cookie=cookie)
    assert client.read_text() == "/here/3 search ann 3 True /login/bob"
    assert client.read_close() == 1000


@only_over_geventws
def test_rules_are_declared_in_every_way_of_flask_sockets(run: Run) -> None:
    program = run("""
        from flask import Blueprint, Flask
        from flask_sockets import Sockets

        sockets = Sockets()

        @sockets.route("/before")
        def before(ws):
            ws.send("before")

        app = Flask(__name__)
        sockets.init_app(app)

        def after(ws, name):
            ws.send(name)

        route_gives_the_function_back = sockets.route("/after/<name>")(after) is after
        sockets.add_url_rule("/rule/<name>", "rule", after)
        sockets.add_url_rule("/default", "default", after, defaults={"name": "by default"})

        nested = Blueprint("nested", __name__)

        @nested.route("/<name>")
        def inside(ws, name):
            ws.send("inside " + name)

        sockets.register_blueprint(nested, url_prefix="/nested")
    """)
    assert program.route_gives_the_function_back
    paths = {
        "/before": "before",
        "/after/x": "x",
        "/rule/y": "y",
        "/default": "by default",
        "/nested/z": "inside z",
    }
    for path, said in paths.items():
        assert program.client(path).read_text() == said


@only_over_geventws
def test_the_chat_of_heroku_runs(run: Run) -> None:
    program = run("""
        import gevent
        from flask import Flask
        from flask_sockets import Sockets
        from gevent.queue import Queue

        app = Flask(__name__)
        app.debug = True
        sockets = Sockets(app)
        channel = Queue()

        class ChatBackend(object):
            def __init__(self):
                self.clients = list()

            def register(self, client):
                self.clients.append(client)

            def send(self, client, data):
                try:
                    client.send(data)
                except Exception:
                    self.clients.remove(client)

            def run(self):
                for data in channel:
                    for client in self.clients:
                        gevent.spawn(self.send, client, data)

            def start(self):
                gevent.spawn(self.run)

        chats = ChatBackend()
        chats.start()

        @sockets.route("/submit")
        def inbox(ws):
            while not ws.closed:
                gevent.sleep(0.001)
                message = ws.receive()
                if message:
                    channel.put(message)

        @sockets.route("/receive")
        def outbox(ws):
            chats.register(ws)
            while not ws.closed:
                gevent.sleep(0.001)
    """)
    readers = [program.client("/receive") for _ in range(3)]
    wait_until(lambda: len(program.chats.clients) == 3)
    writer = program.client("/submit")
    writer.send(frame(TEXT, "hello"))
    assert [reader.read_text() for reader in readers] == ["hello"] * 3
    assert readers[0].close_handshake(1000) == 1000
    assert writer.close_handshake(1000) == 1000
