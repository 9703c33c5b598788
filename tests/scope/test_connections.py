"""That connections are in the cooperative scope, by the options of the server, the application and the route."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import flask
import gevent
import pytest
from conftest import Serve, Served
from rawclient import frame

from geventws import Opcode, scope
from geventws.flask import Sockets
from geventws.keepalive import Keepalive

pytestmark = pytest.mark.skipif(
    os.environ.get("GEVENTWS_PATCHED") == "1", reason="patched by gevent, everything is cooperative"
)


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    scope.uninstall()


def tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application that tells whether it is in the scope."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(scope.in_scope()).encode()]
    ws.send(str(scope.in_scope()))
    return []


def received(served: Served) -> str:
    with served.client("/") as client:
        return client.read_text()


def answer(serve: Serve, **options: Any) -> str:
    return received(serve(tell, **options))


def body(serve: Serve, **options: Any) -> str:
    with serve(tell, **options).client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return client.read_response().body.decode()


def test_a_connection_is_in_the_scope(serve: Serve) -> None:
    assert answer(serve) == "True"


def test_a_connection_is_not_in_the_scope_when_it_is_off(serve: Serve) -> None:
    assert answer(serve, cooperative=False) == "False"
    assert not scope.installed()


def test_a_plain_request_is_not_in_the_scope(serve: Serve) -> None:
    assert body(serve) == "False"
    assert not scope.installed()


def test_a_plain_request_is_in_the_scope_when_requests_are(serve: Serve) -> None:
    assert body(serve, cooperative="requests") == "True"
    assert answer(serve, cooperative="requests") == "True"


def test_a_handler_that_sleeps_keeps_nobody_waiting(serve: Serve) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        time.sleep(float(ws.receive()))
        ws.send("slept")
        return []

    served = serve(app)
    with served.client("/") as sleeping, served.client("/") as awake, gevent.Timeout(5):
        sleeping.send(frame(Opcode.TEXT, "30"))
        awake.send(frame(Opcode.TEXT, "0"))
        assert awake.read_text() == "slept"


def test_nothing_of_the_scope_stays_with_the_connections_greenlet(serve: Serve) -> None:
    seen: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        seen.append(scope.in_scope())
        return []

    with serve(app, cooperative="requests").client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            client.read_response()
    assert seen == [True, True]


def test_the_greenlet_that_pings_for_all_connections_is_in_no_ones_scope(serve: Serve) -> None:
    with serve(tell).client("/") as client:
        assert client.read_text() == "True"
        keepalive: Any = Keepalive.of(gevent.get_hub())._greenlet
        assert keepalive.spawn_tree_locals == {}


class TestFlask:
    """The application's configuration and the route have the last word about the view."""

    def sockets(self, **config: Any) -> tuple[flask.Flask, Sockets]:
        app = flask.Flask(__name__)
        app.config.update(config)
        return app, Sockets(app)

    @pytest.mark.parametrize("configured", [True, False])
    def test_the_applications_configuration_decides(self, serve: Serve, configured: bool) -> None:
        app, sockets = self.sockets(GEVENTWS_COOPERATIVE=configured)
        sockets.route("/")(lambda ws: ws.send(str(scope.in_scope())))
        assert received(serve(app)) == str(configured)
        assert received(serve(app, cooperative=not configured)) == str(configured)

    @pytest.mark.parametrize("configured", [True, False])
    def test_the_route_decides(self, serve: Serve, configured: bool) -> None:
        app, sockets = self.sockets(GEVENTWS_COOPERATIVE=not configured)
        sockets.route("/", cooperative=configured)(lambda ws: ws.send(str(scope.in_scope())))
        assert received(serve(app)) == str(configured)

    def test_a_route_cannot_ask_for_the_watchdog(self) -> None:
        _, sockets = self.sockets()
        with pytest.raises(ValueError, match="warn_blocked is obeyed before the application is asked"):
            sockets.route("/", warn_blocked=1.0)(lambda ws: None)
