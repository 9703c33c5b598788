"""Bottle, Falcon and Pyramid programs with WebSockets, each in its framework's natural way, on gevent's WSGI server.

And what programs are put behind: werkzeug's DispatcherMiddleware and ProxyFix. The examples are run beside the examples.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask, Response, url_for
from rawclient import BINARY, TEXT, Frame, close_frame, frame, request
from waiting import missing
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from geventws.exceptions import WebSocketError
from geventws.flask import Sockets
from geventws.protocol import State

ROOT = Path(__file__).parents[2]
App = Callable[..., Iterable[bytes]]


def drive(environ: dict[str, Any]) -> str:
    """What every program does with its WebSocket. What it returns is the body of a response to an ordinary request."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        return "page"
    if ws.path == "/early":
        raise ValueError("before the accept")
    if ws.path == "/late":
        ws.accept()
        raise ValueError("after the accept")
    if ws.path == "/gone":
        ws.send("leave, please")
        while ws.state is State.OPEN:
            gevent.sleep(0.001)
        ws.send("too late")
    for message in ws:
        ws.send(message)
    return "a response that nobody waits for"


def bottle_app() -> App:
    try:
        import bottle
    except ImportError:
        missing("bottle")
    app = bottle.Bottle()
    # Else Bottle logs every exception that there is, that a peer has left included.
    app.catchall = False

    @app.route("/refused")
    def refused() -> None:
        bottle.abort(401, "Not without a ticket.")

    @app.route("/<name>")
    def view(name: str) -> str:
        return drive(bottle.request.environ)

    return app


def falcon_app() -> App:
    try:
        import falcon
    except ImportError:
        missing("falcon")

    class Refused:
        def on_get(self, req: Any, resp: Any) -> None:
            raise falcon.HTTPUnauthorized(title="Not without a ticket.")

    class View:
        def on_get(self, req: Any, resp: Any, name: str) -> None:
            resp.text = drive(req.env)

    def leave_it_to_the_server(req: Any, resp: Any, error: Exception, params: Any) -> None:
        raise error

    app = falcon.App()
    # Else Falcon logs that a peer has left, and answers a refused handshake with 500.
    app.add_error_handler(WebSocketError, leave_it_to_the_server)
    app.add_route("/refused", Refused())
    app.add_route("/{name}", View())
    return app


def pyramid_app() -> App:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It uses pkg_resources, which setuptools is about to drop.
            from pyramid.config import Configurator
            from pyramid.httpexceptions import HTTPUnauthorized
            from pyramid.response import Response
    except ImportError:
        missing("pyramid")

    def refused(request: Any) -> Any:
        raise HTTPUnauthorized("Not without a ticket.")

    def view(request: Any) -> Any:
        return Response(drive(request.environ))  # It insists on a response.

    with Configurator() as config:
        for pattern, called in (("/refused", refused), ("/{name}", view)):
            config.add_route(pattern, pattern)
            config.add_view(called, route_name=pattern)
        app: App = config.make_wsgi_app()
    return app


class Program:
    """A framework's program, served; with what was written to its error log."""

    def __init__(self, serve: Any, app: App) -> None:
        self.errors = io.StringIO()
        self.served = serve(app, server_arguments={"error_log": self.errors})
        self.client = self.served.client
        self.access_log = self.served.access_log

    def refusal(self, path: str, **fields: str) -> Any:
        """The response to an opening handshake that is refused."""
        with self.client() as client:
            client.send(request(path, **fields))
            response = client.read_response()
            assert client.at_end()
        return response


@pytest.fixture(params=[bottle_app, falcon_app, pyramid_app], ids=["bottle", "falcon", "pyramid"])
def program(request: pytest.FixtureRequest, serve: Any) -> Program:
    return Program(serve, request.param())


@pytest.fixture
def logged(
    program: Program, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Callable[[], list[str]]:
    """The exceptions that were logged until now: by geventws, by the framework, by pywsgi."""

    def last_lines() -> list[str]:
        records = [record for record in caplog.records if record.levelno >= logging.ERROR]
        lines = [f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}" for record in records]
        written = [program.errors.getvalue(), capfd.readouterr().err, *program.served.errors]
        program.served.errors.clear()  # The fixture would fail the test for them.
        return lines + re.findall(r"^[\w.]*(?:Error|Closed): .*$", "\n".join(written), re.MULTILINE)

    return last_lines


def test_what_the_framework_raises_is_the_answer_to_the_handshake(program: Program) -> None:
    response = program.refusal("/refused")
    assert response.status == 401
    assert b"Not without a ticket." in response.body
    assert " 401 " in program.access_log()[0]
    assert program.errors.getvalue() == ""


def test_where_no_route_leads_the_handshake_is_answered_404(program: Program) -> None:
    assert program.refusal("/no/where").status == 404


def test_a_page_of_another_site_is_answered_403(program: Program, logged: Callable[[], list[str]]) -> None:
    response = program.refusal("/echo", Origin="http://evil.example")
    assert response.status == 403
    assert b"http://evil.example may not" in response.body
    assert logged() == []


def test_an_exception_before_the_accept_is_answered_500_and_logged_once(
    program: Program, logged: Callable[[], list[str]]
) -> None:
    assert program.refusal("/early").status == 500
    assert logged() == ["ValueError: before the accept"]


def test_an_exception_after_the_accept_closes_with_1011_and_is_logged_once(
    program: Program, logged: Callable[[], list[str]]
) -> None:
    with program.client("/late") as client:
        assert client.read_close() == 1011
        client.send(close_frame(1011))
        assert client.at_end()
    (line,) = program.access_log()
    assert re.search(r'"GET /late HTTP/1\.1" 101 .* close=1011 ', line)
    assert logged() == ["ValueError: after the accept"]


def test_that_a_peer_leaves_while_it_is_sent_to_is_no_error(program: Program, logged: Callable[[], list[str]]) -> None:
    with program.client("/gone") as client:
        assert client.read_text() == "leave, please"
        assert client.close_handshake(1001) == 1001
    (line,) = program.access_log()
    assert " close=1001 " in line
    assert logged() == []


def test_messages_are_echoed_and_nothing_of_the_framework_s_response_is_sent(
    program: Program, logged: Callable[[], list[str]]
) -> None:
    with program.client("/echo") as client:
        client.send(frame(TEXT, "Grüße"))
        assert client.read_text() == "Grüße"
        client.send(frame(BINARY, b"\x00\xff"))
        assert client.read_frame() == Frame(0x80 | BINARY, b"\x00\xff")
        assert client.close_handshake(4000) == 4000  # which looks that nothing comes behind the Close frame
    (line,) = program.access_log()
    assert re.search(r'"GET /echo HTTP/1\.1" 101 .* close=4000 in=2/\d+B out=2/\d+B$', line)
    assert logged() == []


def test_ordinary_http_goes_on_beside_it(program: Program) -> None:
    with program.client("/echo") as client, program.client() as ordinary:
        for _ in range(2):
            ordinary.send(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = ordinary.read_response()
            assert (response.status, response.body) == (200, b"page")
        client.send(frame(TEXT, "still here"))
        assert client.read_text() == "still here"
        client.close_handshake()


# Mounted under a prefix.


def where(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.send(f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']} {ws.path}")
    return []


def flask_app() -> Flask:
    app = Flask(__name__)
    app.config["TESTING"] = True
    sockets = Sockets(app)

    @sockets.route("/rooms/<int:number>")
    def room(ws: Any, number: int) -> None:
        from flask import request

        said = [request.script_root, request.path, ws.path, url_for("room", number=7), url_for("page", _external=True)]
        ws.send(" ".join([*said, str(ws.remote_address[0])]))

    @app.route("/page")
    def page() -> Response:
        return Response(url_for("room", number=8), mimetype="text/plain")

    return app


def test_a_mounted_application_sees_its_own_paths(serve: Any) -> None:
    served = serve(DispatcherMiddleware(where, {"/sub": where}))
    for path, said in {
        "/sub/x/y": "/sub /x/y /x/y",
        "/sub/": "/sub / /",
        "/sub": "/sub  ",
        "/subway": " /subway /subway",
        "/": " / /",
    }.items():
        with served.client(path) as client:
            assert client.read_text() == said
    # The access log has the path that was asked for.
    assert '"GET /sub/x/y HTTP/1.1" 101' in served.access_log(5)[0]


def test_mounted_applications_refuse_by_themselves(serve: Any) -> None:
    def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", [("Content-Length", "5")])
        return [b"never"]

    served = serve(DispatcherMiddleware(refuse, {"/sub": flask_app()}))
    for path, status in {"/rooms/1": 403, "/sub/rooms/one": 404, "/sub/page": 400, "/sub/rooms/1": 101}.items():
        with served.client() as client:
            client.send(request(path))
            assert client.read_response().status == status, path


def test_flask_mounted_under_a_prefix_makes_urls_with_it(serve: Any) -> None:
    served = serve(DispatcherMiddleware(where, {"/sub": flask_app()}))
    with served.client("/sub/rooms/5") as client:
        assert (
            client.read_text()
            == "/sub /rooms/5 /rooms/5 ws://localhost/sub/rooms/7 http://localhost/sub/page 127.0.0.1"
        )
        assert client.read_close() == 1000
    with served.client() as client:
        client.send(request("/sub/page", drop=("Upgrade", "Connection")))
        assert client.read_response().body == b"ws://localhost/sub/rooms/8"


@pytest.mark.parametrize("make", [bottle_app, falcon_app, pyramid_app], ids=["bottle", "falcon", "pyramid"])
def test_frameworks_mounted_under_a_prefix_route_below_it(serve: Any, make: Callable[[], App]) -> None:
    served = serve(DispatcherMiddleware(where, {"/sub": make()}))
    with served.client("/sub/echo") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000


# Behind a proxy that rewrites the host, as seen with werkzeug's ProxyFix.

FORWARDED = {
    "Host": "127.0.0.1:8000",
    "X_Forwarded_For": "203.0.113.5",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "chat.example",
    "X_Forwarded_Prefix": "/api",
    "Origin": "https://chat.example",
}


def proxied(app: Any, **trusted: int) -> Any:
    app.wsgi_app = ProxyFix(app.wsgi_app, **trusted)
    return app


ALL = {"x_for": 1, "x_proto": 1, "x_host": 1, "x_prefix": 1}


def status_behind_proxy(served: Any, **changes: str) -> int:
    with served.client() as client:
        client.send(request("/rooms/5", **{**FORWARDED, **changes}))
        status: int = client.read_response().status
        return status


def test_without_a_trusted_proxy_the_forwarded_host_does_not_count(serve: Any) -> None:
    assert status_behind_proxy(serve(flask_app())) == 403
    assert status_behind_proxy(serve(proxied(flask_app(), x_for=1))) == 403


def test_behind_a_trusted_proxy_pages_of_other_hosts_are_refused_still(serve: Any) -> None:
    served = serve(proxied(flask_app(), **ALL))
    assert status_behind_proxy(served, Origin="https://evil.example") == 403
    assert status_behind_proxy(served, Origin="https://chat.example:8443") == 403
    # Nor is the inner host one that pages may come from.
    assert status_behind_proxy(served, Origin="http://127.0.0.1:8000") == 403


@pytest.mark.parametrize("changes", [{}, {"X_Forwarded_Port": "443"}], ids=["host", "host and port"])
def test_behind_a_trusted_proxy_a_page_of_the_public_host_is_let_in(serve: Any, changes: dict[str, str]) -> None:
    served = serve(proxied(flask_app(), **ALL, x_port=1))
    with served.client("/rooms/5", **FORWARDED, **changes) as client:
        root, path, ws_path, room, page, address = client.read_text().split(" ")
        assert (root, path, ws_path, address) == ("/api", "/rooms/5", "/rooms/5", "203.0.113.5")
        assert room == "wss://chat.example/api/rooms/7"
        assert page == "https://chat.example/api/page"
        assert client.read_close() == 1000


def test_the_wsgi_application_itself_may_stand_behind_the_proxy(serve: Any) -> None:
    served = serve(ProxyFix(where, **ALL))
    with served.client("/x", **FORWARDED) as client:
        assert client.read_text() == "/api /x /x"


# The documentation shows the programs that are run.

DOCUMENT = ROOT / "docs" / "frameworks.md"


def test_the_documentation_shows_the_examples_as_they_are() -> None:
    shown = re.findall(
        r"\((?:\.\./)(examples/\w+\.py)\)[^`]*```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    assert {path for path, _ in shown} == {
        f"examples/{name}.py" for name in ("bottle_app", "falcon_app", "pyramid_app", "stream")
    }
    for path, text in shown:
        program = (ROOT / path).read_text(encoding="utf-8")
        for part in text.strip().split("\n\n\n"):
            assert part in program, f"{path} has no\n\n{part}"
