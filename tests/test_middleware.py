"""`WebSocketMiddleware` on servers other than pywsgi: what is HTTP about it. The rest is the same as in test_handler."""

from __future__ import annotations

import io
import logging
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import gevent
import pytest
from gevent import pywsgi
from rawclient import PING, PONG, TEXT, RawClient, close_frame, frame, request
from waiting import Event, missing, wait_until
from worlds import natively

from geventws import HandshakeError, InvalidState, WebSocket, WebSocketHandler, WebSocketOptions, middleware
from geventws.middleware import WebSocketMiddleware

WORLDS = ["threads"]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"plain"]
    for message in ws:
        ws.send(message)
    return []


def never_called(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError("the application must not see this request")


@pytest.fixture
def said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been said in this process before."""
    monkeypatch.setattr(middleware, "_warned", set())


class Bare:
    """A server of the standard library in a native thread, with nothing of its own but what is given."""

    def __init__(self, stack: ExitStack, app: Any, *mixins: type) -> None:
        self.log = log = io.StringIO()
        self.errors = errors = io.StringIO()

        class Handler(WSGIRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                log.write(f"{format % args}\n")

            def get_stderr(self) -> Any:
                return errors

        kind: Any = type("Server", (*mixins, WSGIServer), {"daemon_threads": True, "request_queue_size": 50})
        server = kind(("127.0.0.1", 0), Handler)
        server.set_app(app)
        self.address = server.server_address
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        stack.callback(server.server_close)
        stack.callback(natively, server.shutdown)

    def client(self, path: str | None = None) -> RawClient:
        client = RawClient(self.address)
        if path is not None:
            client.open(path)
        return client


@pytest.fixture
def bare() -> Iterator[Callable[..., Bare]]:
    with ExitStack() as stack:
        yield lambda app, *mixins: Bare(stack, app, *mixins)


# What it is made of.


@pytest.mark.parametrize("app", [None, "app", 5])
def test_what_is_no_application_is_a_type_error(app: Any) -> None:
    with pytest.raises(TypeError, match="WSGI application"):
        WebSocketMiddleware(app)


@pytest.mark.parametrize("wrong", [5, dict, "WebSocket"])
def test_a_class_that_is_no_websocket_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"websocket_class is a subclass of geventws.WebSocket; got {wrong!r}"):
        WebSocketMiddleware(print, websocket_class=wrong)


def test_a_subclass_is_one_also_where_an_old_program_has_replaced_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(WebSocket):
        pass

    monkeypatch.setattr("geventws.middleware.WebSocket", lambda *arguments: None)
    assert WebSocketMiddleware(print, websocket_class=Mine).websocket_class is Mine


def test_options_are_checked_and_may_be_given_together_or_by_name() -> None:
    with pytest.raises(ValueError, match="max_queue"):
        WebSocketMiddleware(echo, max_queue=0)
    with pytest.raises(TypeError, match="max_qeue"):
        WebSocketMiddleware(echo, max_qeue=3)
    made = WebSocketMiddleware(echo, WebSocketOptions(max_queue=3), ping_interval=5)
    assert made.options == WebSocketOptions(max_queue=3, ping_interval=5)


# Refusing.


def test_a_second_start_response_without_an_error_is_the_application_s_mistake(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", [])
        start_response("404 Not Found", [])
        return []

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().status == 500
    wait_until(lambda: served.errors)
    assert "start_response was called before" in served.errors.pop()


def test_start_response_with_an_error_replaces_what_has_not_been_sent(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        try:
            raise LookupError
        except LookupError:
            start_response("503 Service Unavailable", [("Content-Length", "4")], sys.exc_info())
        return [b"busy"]

    with serve(app).client() as client:
        client.send(request())
        response = client.read_response()
        assert (response.status, response.body) == (503, b"busy")


def test_start_response_with_an_error_raises_it_once_the_answer_has_begun(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])(b"begun, ")
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"never sent"]

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().body == b"begun, "
    wait_until(lambda: served.errors)
    assert "LookupError: too late" in served.errors.pop()


def test_after_the_accept_start_response_with_an_error_raises_it(serve: Any, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        try:
            raise LookupError("after the accept")
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        return []

    served = serve(app)
    with served.client("/") as client:
        assert client.read_close() == 1011
        client.send(close_frame(1011))
        assert client.at_end()
    assert "LookupError: after the accept" in caplog.text
    assert served.access_log()[0].endswith(" 101 4")


def test_a_refusal_is_sent_piece_by_piece_as_it_is_made_and_its_iterable_closed_once(serve: Any) -> None:
    go, events = threading.Event(), []

    class Body:
        def __init__(self) -> None:
            self._pieces = iter((b"", b"first, ", b"second"))

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            piece = next(self._pieces)
            if piece == b"second":
                assert go.wait(10)
            return piece

        def close(self) -> None:
            events.append("closed")

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("403 Forbidden", [("Content-Length", "13")])
        return Body()

    served = serve(app)
    with served.client() as client:
        client.send(request())
        while b"first, " not in client.buffer:
            client._fill()
        assert events == []
        go.set()
        assert client.read_response().body == b"first, second"
    served.access_log()
    assert events == ["closed"]


def test_a_generator_that_has_begun_to_answer_and_fails_is_the_server_s_to_report(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("403 Forbidden", [])
        yield b"begun"
        raise LookupError("in the middle")

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().body == b"begun"
    wait_until(lambda: served.errors)
    assert "LookupError: in the middle" in served.errors.pop()


def test_an_application_that_wrote_and_fails_is_the_server_s_to_report(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("403 Forbidden", [])(b"begun")
        raise LookupError("in the middle")

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().body == b"begun"
    wait_until(lambda: served.errors)
    assert "LookupError: in the middle" in served.errors.pop()


def test_a_generator_may_use_the_websocket_between_its_pieces(serve: Any) -> None:
    closed: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            yield b""
            ws = environ["wsgi.websocket"]
            for message in ws:
                ws.send(message)
                yield b"nobody gets this"
        finally:
            closed.append(True)

    served = serve(app)
    with served.client("/") as client:
        client.send(frame(TEXT, "one") + frame(TEXT, "two"))
        assert [client.read_text(), client.read_text()] == ["one", "two"]
        client.close_handshake()
    served.access_log()
    assert closed == [True]


@pytest.mark.parametrize("way", ["returned", "written"])
def test_the_websocket_cannot_be_used_any_more_once_the_answer_has_begun(serve: Any, way: str) -> None:
    errors: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "4")])
        if way == "written":
            write(b"no")
        else:
            yield b"no"
        try:
            environ["wsgi.websocket"].receive()
        except Exception as error:
            errors.append(type(error))
        yield b"pe"

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().body == b"nope"
    wait_until(lambda: errors)
    assert errors == [AttributeError if way == "returned" else InvalidState] or errors[0].__name__ == "ConnectionClosed"


# Limits.


def test_no_more_connections_than_allowed_get_in_though_they_come_at_once(serve: Any) -> None:
    over = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        over.wait()
        return []

    served = serve(app, max_connections=5)
    clients = [served.client() for _ in range(20)]
    for client in clients:
        client.send(request())
    statuses = [client.read_response().status for client in clients]
    over.set()
    for client in clients:
        client.socket.close()
    assert sorted(statuses) == [101] * 5 + [503] * 15
    wait_until(lambda: not served.server.websockets)
    with served.client("/") as client:
        assert client.read_close() == 1000


# Between other middlewares.


def test_the_inner_one_of_two_leaves_it_to_the_outer_one(serve: Any) -> None:
    with serve(WebSocketMiddleware(echo, max_message_size=1), max_message_size=100).client("/") as client:
        client.send(frame(TEXT, "longer than one"))
        assert client.read_text() == "longer than one"
        client.close_handshake()


def wrapped(app: Any) -> Any:
    """A middleware as there are many: it looks at, and adds to, every response."""

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        def own_start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            write = start_response(status, [*headers, ("X-Wrapped", "yes")], *([exc_info] if exc_info else []))
            return lambda data: write(data)

        return app(environ, own_start_response)

    return middleware


def test_a_middleware_around_it_does_no_harm(bare: Any) -> None:
    inner = WebSocketMiddleware(echo)
    server = bare(wrapped(inner), socketserver.ThreadingMixIn)
    with server.client("/") as client:
        client.send(frame(TEXT, "through two"))
        assert client.read_text() == "through two"
        assert client.close_handshake() == 1000
    wait_until(lambda: server.log.getvalue())
    assert server.log.getvalue() == '"GET / HTTP/1.1" 101 17\n'
    assert server.errors.getvalue() == ""
    assert not inner.websockets
    with server.client() as client:
        client.send(request(Sec_WebSocket_Version="8"))
        response = client.read_response()
        assert (response.status, response.headers["x-wrapped"]) == (426, "yes")


# Servers.


def test_bytes_that_come_before_the_accept_are_not_lost(serve: Any) -> None:
    go = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert go.wait(10)
        return echo(environ, start_response)

    with serve(app).client() as client:
        client.send(request() + frame(TEXT, "in the server's buffer"))
        gevent.sleep(0.05)
        client.send(frame(TEXT, "in the socket") + frame(PING, "p"))
        go.set()
        assert client.read_response().status == 101
        assert [client.read_text(), client.read_text()] == ["in the server's buffer", "in the socket"]
        assert client.read_frame() == (0x80 | PONG, b"p")


def test_nothing_of_the_server_comes_after_the_websocket(serve: Any, capfd: Any) -> None:
    """Neither to the peer nor into a log, whatever the application returns or raises."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        ws = environ["wsgi.websocket"]
        ws.accept()
        if ws.path == "/raises":
            raise LookupError("planned")
        if ws.path == "/exits":
            raise KeyboardInterrupt
        if ws.path == "/answers":
            start_response("200 OK", [("Content-Length", "5")])(b"hello")
            return [b"hello"]
        return 5 if ws.path == "/returns" else None

    served = serve(app)
    for path, code in (("/raises", 1011), ("/answers", 1000), ("/nothing", 1000), ("/returns", 1011)):
        with served.client(path) as client:
            assert client.read_close() == code
            client.send(close_frame(code))
            assert client.at_end()
    assert [line.split('"')[2] for line in served.access_log(4)] == [" 101 4"] * 4
    with served.client("/exits") as client:
        assert client.read_close() == 1001
        assert client.at_end()
    wait_until(lambda: served.errors)
    assert "KeyboardInterrupt" in served.errors.pop(0)
    served.errors.clear()
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("said_once")
def test_without_threads_it_works_for_one_at_a_time_and_a_warning_says_so_once(bare: Any, caplog: Any) -> None:
    server = bare(WebSocketMiddleware(echo))
    for _ in range(2):
        with server.client("/") as client:
            client.send(frame(TEXT, "alone"))
            assert client.read_text() == "alone"
            client.close_handshake()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "one request after the other" in warnings[0]
    assert "ThreadingMixIn" in warnings[0]


@pytest.mark.usefixtures("said_once")
def test_with_threads_nothing_is_warned_of(bare: Any, caplog: Any) -> None:
    with bare(wrapped(WebSocketMiddleware(echo)), socketserver.ThreadingMixIn).client("/") as client:
        client.close_handshake()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class OnPywsgi:
    def __init__(self, app: Any, **arguments: Any) -> None:
        self.server = pywsgi.WSGIServer(("127.0.0.1", 0), app, log=None, **arguments)

    def __enter__(self) -> RawClient:
        self.server.start()
        self.client = RawClient(("127.0.0.1", self.server.server_port))
        return self.client

    def __exit__(self, *exc_info: object) -> None:
        self.client.socket.close()
        self.server.stop()


@pytest.mark.usefixtures("said_once")
def test_on_plain_pywsgi_an_error_names_servers_that_can_and_is_logged_once(caplog: Any) -> None:
    for _ in range(2):
        with OnPywsgi(WebSocketMiddleware(never_called)) as client:
            client.send(request())
            response = client.read_response()
            assert response.status == 501
            assert b"does not carry WebSockets" in response.body
    (error,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert error.levelname == "ERROR"
    assert "handler_class=geventws.WebSocketHandler" in error.getMessage()


def test_behind_a_websocket_handler_it_passes_everything_through() -> None:
    with OnPywsgi(WebSocketMiddleware(echo, max_message_size=1), handler_class=WebSocketHandler) as client:
        client.open()
        client.send(frame(TEXT, "longer than one"))
        assert client.read_text() == "longer than one"
        client.close_handshake()


def test_what_a_pre_start_hook_has_taken_for_ordinary_http_stays_so() -> None:
    here = OnPywsgi(WebSocketMiddleware(echo), handler_class=WebSocketHandler)
    here.server.pre_start_hook = lambda handler: True
    with here as client:
        client.send(request())
        assert client.read_response().body == b"plain"


PYTHONPATH = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])

ON_WAITRESS = """
from waitress.server import create_server
from geventws.middleware import WebSocketMiddleware
server = create_server(WebSocketMiddleware(print), host="127.0.0.1", port=0, threads=2)
print(server.effective_port, flush=True)
server.run()
"""


def test_on_waitress_an_error_names_servers_that_can_and_is_logged_once() -> None:
    if find_spec("waitress") is None:
        missing("waitress")
    command = [sys.executable, "-c", ON_WAITRESS]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": PYTHONPATH}}
    with subprocess.Popen(command, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            port = int(natively(server.stdout.readline))
            for _ in range(2):
                with RawClient(("127.0.0.1", port)) as client:
                    client.send(request())
                    response = client.read_response()
                    assert response.status == 501
                    assert b"--threads" not in response.body
        finally:
            server.kill()
        assert natively(server.stderr.read).count(b"with `--threads`") == 1


def test_as_a_cgi_program_an_error_names_servers_that_can() -> None:
    program = "\n".join(
        [
            "from wsgiref.handlers import CGIHandler",
            "from geventws.middleware import WebSocketMiddleware",
            "CGIHandler().run(WebSocketMiddleware(print))",
        ]
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HTTP_")},
        "PYTHONPATH": PYTHONPATH,
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SCRIPT_NAME": "/cgi",
        "PATH_INFO": "/",
        "HTTP_HOST": "localhost",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    # A web server may give the program a socket for its input.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = natively(
            subprocess.run,
            [sys.executable, "-c", program],
            stdin=theirs,
            capture_output=True,
            timeout=50,
            env=environment,
        )
    head, _, body = ended.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"Status: 501 Not Implemented\r\n")
    assert b"does not carry WebSockets" in body
    assert ended.stderr.count(b"Servers that do: ") == 1
    assert b"Traceback" not in ended.stderr


def test_an_error_of_the_handshake_has_its_status_and_header_fields_but_those_that_wsgi_forbids(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise HandshakeError("402 Payment Required", "Buy.", [("X-Shop", "/tickets"), ("Connection", "close")])

    with serve(app).client() as client:
        client.send(request())
        response = client.read_response()
        assert (response.status, response.body, response.headers["x-shop"]) == (402, b"Buy.\n", "/tickets")


def test_a_websocket_that_was_kept_beyond_its_request_is_closed(serve: Any) -> None:
    kept: list[Any] = []
    done = Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        kept.append(ws)
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().status == 403
    served.access_log()
    started = time.monotonic()
    natively(kept[0].close)
    assert kept[0].closed
    assert time.monotonic() - started < 5
    done.set()
