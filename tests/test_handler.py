"""`WebSocketHandler`: what is HTTP about a WebSocket. Requests refused and accepted, limits, the application, the log."""

from __future__ import annotations

import gc
import io
import logging
import re
import socket
import sys
import tracemalloc
import weakref
from contextlib import ExitStack
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.pywsgi import WSGIHandler, WSGIServer
from rawclient import BINARY, KEY, PING, PONG, TEXT, RawClient, close_frame, frame, request
from waiting import Event, pause, wait_until
from worlds import BOTH, PYWSGI, World

from geventws import (
    ConnectionClosed,
    HandshakeError,
    HandshakeRefused,
    InvalidState,
    WebSocket,
    WebSocketHandler,
    WebSocketOptions,
)
from geventws.connections import OpenConnections
from geventws.handler import Client
from geventws.head import Head

WORLDS = [*BOTH, PYWSGI]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"plain"]
    for message in ws:
        ws.send(message)
    return []


def never_called(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError("the application must not see this request")


# Requests that are refused.


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400, "16 bytes"),
        ({"Sec_WebSocket_Key": "*" * 24}, 400, "16 bytes"),
        ({"Connection": "keep-alive"}, 400, "Connection"),
        ({"Sec_WebSocket_Protocol": "a, b b"}, 400, "Sec-WebSocket-Protocol"),
        ({"Sec_WebSocket_Extensions": "permessage-deflate; ="}, 400, "Sec-WebSocket-Extensions"),
        ({"Sec_WebSocket_Version": "8"}, 426, "version 13"),
        ({"Content_Length": "5"}, 400, "no body"),
        ({"Transfer_Encoding": "chunked"}, 400, "no body"),
        ({"Origin": "http://evil.example"}, 403, "evil.example"),
        ({"Origin": "null"}, 403, "null"),
    ],
)
def test_a_wrong_opening_handshake_is_refused_with_the_reason(
    serve: Any, world: World, change: dict[str, str], status: int, said: str
) -> None:
    served = serve(echo)
    with served.client() as client:
        client.send(request("/chat", **change))
        response = client.read_response()
        assert response.status == status
        assert said in response.body.decode()
        assert world.threads or response.headers["connection"] == "close"
        assert client.at_end()
    assert f'"GET /chat HTTP/1.1" {status} ' in served.access_log()[0]


@pytest.mark.parametrize(
    ("header", "status"),
    [("Sec-WebSocket-Key", 400), ("Sec-WebSocket-Version", 426), ("Connection", 400), ("Host", 400)],
)
def test_a_missing_header_field_is_refused(serve: Any, header: str, status: int) -> None:
    with serve(never_called).client() as client:
        client.send(request("/", drop=(header,)))
        response = client.read_response()
        assert response.status == status
        if status == 426:
            assert response.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize("method", ["POST", "PUT", "get"])
def test_a_method_other_than_get_is_refused(serve: Any, method: str) -> None:
    with serve(never_called).client() as client:
        client.send(request().replace(b"GET", method.encode(), 1))
        assert client.read_response().status == 405


def test_http_1_0_is_refused(serve: Any) -> None:
    with serve(never_called).client() as client:
        client.send(request().replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        response = client.read_response()
        assert response.status == 400
        assert b"HTTP/1.0" in response.body


def test_a_flood_of_header_fields_is_refused_without_a_traceback(serve: Any, capfd: Any) -> None:
    with serve(never_called).client() as client:
        client.send(request(**{f"X_{number}": "y" for number in range(200)}))
        assert client.read_response().status == 431
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_an_endless_header_field_is_refused(serve: Any) -> None:
    with serve(never_called).client() as client:
        client.send(request(X="y" * 70_000))
        assert client.read_response().status == 400


def test_a_body_behind_an_upgrade_is_not_taken_for_a_request(serve: Any) -> None:
    """Otherwise what a proxy takes for a body would be a smuggled request."""
    smuggled = b"GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n"
    served = serve(never_called)
    with served.client() as client:
        client.send(request(Content_Length=str(len(smuggled))) + smuggled)
        assert client.read_response().status == 400
        assert client.at_end()
    assert len(served.log.getvalue().splitlines()) == 1


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_client_that_trickles_its_request_is_answered_408(serve: Any) -> None:
    with serve(never_called, handshake_timeout=0.05).client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: local")
        assert client.read_response().status == 408
        assert client.at_end()


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_client_that_says_nothing_is_dropped_without_a_word(serve: Any) -> None:
    with serve(never_called, handshake_timeout=0.05).client() as client:
        assert client.at_end()


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_client_may_wait_between_two_requests_longer_than_for_the_head_of_one(serve: Any) -> None:
    with serve(echo, handshake_timeout=0.05).client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.read_response().body == b"plain"
            gevent.sleep(0.1)


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_client_that_trickles_its_second_request_is_answered_408_too(serve: Any) -> None:
    with serve(echo, handshake_timeout=0.1).client() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\n")
            gevent.sleep(0.01)
            client.send(b"Host: localhost\r\n\r\n")
            assert client.read_response().status == 200
        client.send(b"GET / HTTP/1.1\r\n")
        assert client.read_response().status == 408
        assert client.at_end()


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_the_time_for_the_head_does_not_count_for_the_application(serve: Any) -> None:
    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gevent.sleep(0.1)
        return echo(environ, start_response)

    with serve(slow, handshake_timeout=0.05).client("/") as client:
        client.send(frame(TEXT, "still here"))
        assert client.read_text() == "still here"


def test_one_connection_too_many_is_answered_503_until_another_ends(serve: Any) -> None:
    served = serve(echo, max_connections=1)
    with served.client("/") as first:
        with served.client() as second:
            second.send(request())
            response = second.read_response()
            assert response.status == 503
            assert response.headers["retry-after"] == "5"
        first.close_handshake()
    served.access_log(2)
    with served.client("/") as third:
        third.close_handshake()


def test_one_connection_too_many_from_an_address_is_answered_429(serve: Any) -> None:
    served = serve(echo, max_connections_per_ip=1)
    with served.client("/"), served.client() as second:
        second.send(request())
        assert second.read_response().status == 429


# Requests that are not for a WebSocket.


def test_an_ordinary_request_is_ordinary_http_and_logged_as_such(serve: Any) -> None:
    served = serve(echo)
    with served.client() as client:
        client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"plain")
        assert "connection" not in response.headers
    assert '"GET /page HTTP/1.1" 200' in served.access_log()[0]


def test_an_upgrade_to_something_else_is_ordinary_http(serve: Any) -> None:
    with serve(echo).client() as client:
        client.send(request(Upgrade="h2c"))
        assert client.read_response().body == b"plain"


# Requests that are accepted.


def test_the_101_has_what_rfc_6455_asks_for_and_no_content_length(serve: Any) -> None:
    with serve(echo).client() as client:
        response = client.open("/")
        assert response.reason == "Switching Protocols"
        assert response.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        }


def test_tokens_are_read_as_lists_and_in_any_case(serve: Any) -> None:
    with serve(echo).client("/", Connection="keep-alive, uPGRADE", Upgrade="foo, WebSocket") as client:
        client.close_handshake()


def test_bytes_sent_behind_the_request_are_not_lost(serve: Any) -> None:
    with serve(echo).client() as client:
        client.send(request() + frame(TEXT, "at once") + frame(BINARY, b"x" * 20_000) + close_frame(1000))
        assert client.read_response().status == 101
        assert client.read_text() == "at once"
        assert client.read_frame().payload == b"x" * 20_000
        assert client.read_close() == 1000


@pytest.mark.parametrize("origin", ["http://localhost", "http://LOCALHOST:80"])
def test_a_page_of_the_same_origin_is_let_in(serve: Any, origin: str) -> None:
    with serve(echo).client("/", Origin=origin) as client:
        client.close_handshake()


def test_a_page_of_an_origin_that_is_named_is_let_in(serve: Any) -> None:
    with serve(echo, origins=["pages.example"]).client("/", Origin="https://pages.example") as client:
        client.close_handshake()


def test_the_environ_tells_of_the_websocket(serve: Any) -> None:
    seen: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        seen.extend(
            [ws, environ["wsgi.websocket_version"], ws.path, ws.version, ws.origin, ws.remote_address, ws.environ]
        )
        seen.append(environ)
        return []

    with serve(app).client("/room?x=1", Origin="http://localhost") as client:
        assert client.read_close() == 1000
    ws, version, path, ws_version, origin, (host, port), ws_environ, environ = seen
    assert isinstance(ws, WebSocket)
    assert (version, path, ws_version, origin) == ("13", "/room", "13", "http://localhost")
    assert host == "127.0.0.1"
    assert port > 0
    assert ws_environ is environ


def test_the_server_s_own_subprotocols_are_chosen_by_its_preference(serve: Any) -> None:
    with serve(echo, subprotocols=["v2", "v1"]).client() as client:
        response = client.open("/", Sec_WebSocket_Protocol="v1, v2")
        assert response.headers["sec-websocket-protocol"] == "v2"


def test_without_a_common_subprotocol_none_is_chosen(serve: Any) -> None:
    with serve(echo, subprotocols=["v3"]).client() as client:
        assert "sec-websocket-protocol" not in client.open("/", Sec_WebSocket_Protocol="v1, v2").headers


def test_the_application_s_app_protocol_chooses_a_subprotocol_by_its_whole_name(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return echo(environ, start_response)

    app.app_protocol = lambda path: {"/a": "graph", "/b": "graphql-ws"}[path]  # type: ignore[attr-defined]
    served = serve(app)
    with served.client() as client:
        assert "sec-websocket-protocol" not in client.open("/a", Sec_WebSocket_Protocol="graphql-ws").headers
    with served.client() as client:
        response = client.open("/b", Sec_WebSocket_Protocol="graphql-ws")
        assert response.headers["sec-websocket-protocol"] == "graphql-ws"


@pytest.mark.world("gevent", "what a server listens on is its business")
def test_a_unix_socket_serves_as_well(serve: Any, tmp_path: Any) -> None:
    listener = gevent.socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    served = serve(echo, listener=listener)
    clients = []
    for _ in range(2):
        connected = gevent.socket.socket(socket.AF_UNIX)
        connected.connect(str(tmp_path / "socket"))
        clients.append(RawClient(None, socket=connected))
        clients[-1].open("/")
    assert len(served.server.clients) == 2
    for client in clients:
        with client:
            client.send(frame(TEXT, "over unix"))
            assert client.read_text() == "over unix"
            client.close_handshake()
    wait_until(lambda: not served.server.clients)


# The late accept.


@pytest.mark.parametrize("status", ["401 Unauthorized", "404 Not Found", "302 Found", "200 OK"])
def test_an_application_that_calls_start_response_refuses_the_handshake_with_it(
    serve: Any, world: World, status: str
) -> None:
    # Which applications must not send by WSGI, and wsgiref does not let them.
    forbidden = [] if world.threads else [("Connection", "keep-alive")]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, [("Content-Type", "text/plain"), ("X-Why", "because"), *forbidden])
        return [b"no ", b"entry"]

    served = serve(app)
    with served.client() as client:
        client.send(request())
        response = client.read_response()
        assert f"{response.status} {response.reason}" == status
        assert response.headers["x-why"] == "because"
        assert world.threads or response.headers["connection"] == "close"
        assert response.body == b"no entry"
        assert client.at_end()
    assert status[:3] in served.access_log()[0]


def test_a_refusal_by_a_generator_is_sent_too(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("403 Forbidden", [("Content-Length", "5")])
        write(b"no")
        yield b"pe!"

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().body == b"nope!"


def test_after_a_refusal_the_websocket_is_closed_to_its_holders(serve: Any) -> None:
    held: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        held.append(environ["wsgi.websocket"])
        start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().status == 403
    ws = held[0]
    wait_until(lambda: ws.state.name == "CLOSED")
    assert ws.closed
    with pytest.raises(ConnectionClosed, match="403 Forbidden"):
        ws.send("too late")
    ws.close()


def test_using_the_websocket_after_a_refusal_was_begun_is_an_error(serve: Any) -> None:
    errors: list[Exception] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", [("Content-Length", "0")])
        try:
            environ["wsgi.websocket"].receive()
        except InvalidState as error:
            errors.append(error)
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().status == 403
    assert "403 Forbidden" in str(errors[0])


def test_an_old_program_that_calls_start_response_with_200_first_is_served(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return echo(environ, start_response)

    with serve(app).client("/") as client:
        client.send(frame(TEXT, "as ever"))
        assert client.read_text() == "as ever"


def test_what_the_application_responds_after_the_accept_goes_nowhere(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        write = start_response("200 OK", [("Content-Type", "text/html")])
        write(b"<p>")
        return [b"<html>"]

    with serve(app).client("/") as client:
        assert client.read_close() == 1000


def test_accept_sends_header_fields_and_a_subprotocol_of_the_application_s_choice(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept(subprotocol="v1", headers=[("Set-Cookie", "a=b"), ("X-Room", "7")])
        assert ws.subprotocol == "v1"
        return []

    with serve(app).client() as client:
        response = client.open("/", Sec_WebSocket_Protocol="v2, v1")
        assert response.headers["sec-websocket-protocol"] == "v1"
        assert response.headers["x-room"] == "7"
        assert response.set_cookies == ["a=b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"subprotocol": "v9"}, "did not offer"),
        ({"headers": [("X", "a\r\nSet-Cookie: stolen=1")]}, "line break"),
        ({"headers": [("Connection", "close")]}, "Connection"),
    ],
)
def test_an_accept_that_cannot_be_sent_is_a_value_error_and_the_handshake_stays_open(
    serve: Any, arguments: dict[str, Any], said: str
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        with pytest.raises(ValueError, match=said):
            ws.accept(**arguments)
        ws.accept()
        return []

    with serve(app).client("/") as client:
        assert client.read_close() == 1000


def test_a_second_accept_is_an_error_that_says_so(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept()
        with pytest.raises(InvalidState, match="answered already"):
            ws.accept()
        with pytest.raises(InvalidState, match="cannot be changed"):
            ws.options = WebSocketOptions()
        return []

    with serve(app).client("/") as client:
        assert client.read_close() == 1000


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.receive(timeout=5),
        lambda ws: ws.send("x"),
        lambda ws: ws.ping(),
        lambda ws: ws.closed,
        lambda ws: ws.close(),
        lambda ws: next(iter(ws)),
    ],
    ids=["receive", "send", "ping", "closed", "close", "iteration"],
)
def test_the_first_use_accepts(serve: Any, use: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert ws.state.name == "CONNECTING"
        use(ws)
        assert ws.state.name != "CONNECTING"
        return []

    with serve(app).client("/") as client:
        client.send(frame(TEXT, "for those that receive") + close_frame(1000))
        assert client.read_frame().opcode != 0


def test_looking_at_state_and_the_like_accepts_nothing(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert (ws.close_code, ws.close_reason, ws.buffered_amount, ws.latency) == (None, "", 0, None)
        assert ws.counts == (0, 0, 0, 0)
        assert "CONNECTING" in repr(ws)
        start_response("404 Not Found", [("Content-Length", "0")])
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().status == 404


def test_an_exception_before_the_accept_is_an_ordinary_500(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise LookupError("before")

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().status == 500
    assert "LookupError: before" in served.errors.pop()


# The application.


def test_a_handler_that_returns_at_once_closes_with_1000(serve: Any) -> None:
    with serve(lambda environ, start_response: []).client("/") as client:
        assert client.read_close() == 1000
        client.send(close_frame(1000))
        assert client.at_end()


def test_a_handler_that_returns_none_after_the_accept_is_as_good(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> None:
        environ["wsgi.websocket"].send("bye")

    with serve(app).client("/") as client:
        assert client.read_text() == "bye"
        assert client.read_close() == 1000


def test_a_handler_that_raises_is_logged_once_and_closes_with_1011(serve: Any, world: World, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].receive()
        raise LookupError("in the middle")

    served = serve(app)
    with served.client("/") as client:
        client.send(frame(TEXT, "go"))
        assert client.read_close() == 1011
        client.send(close_frame(1011))
        assert client.at_end()
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 1
    assert "in the middle" in str(logged[0].exc_info[1])  # type: ignore[index]
    assert ("" if world.threads else "close=1011") in served.access_log()[0]


def test_an_application_that_answers_500_after_the_accept_closes_with_1011(serve: Any, caplog: Any) -> None:
    """A framework that has caught, and logged, what its view raised."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        start_response("500 Internal Server Error", [])
        return [b"oops"]

    with serve(app).client("/") as client:
        assert client.read_close() == 1011


@pytest.mark.world("gevent", "its timer ends greenlets")
def test_a_gevent_timeout_that_ends_the_handler_is_logged_and_closes_with_1011(serve: Any, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with gevent.Timeout(0.01):
            environ["wsgi.websocket"].receive()
        return []

    with serve(app).client("/") as client:
        assert client.read_close() == 1011
    assert "0.01" in caplog.text


def test_a_handler_that_fails_to_send_to_a_peer_that_left_logs_nothing(serve: Any, world: World, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        while True:
            ws.send("tick")
            pause(0.001)

    served = serve(app)
    with served.client("/") as client:
        client.read_text()
        client.send(close_frame(1001))
    assert ("" if world.threads else "close=1001") in served.access_log()[0]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_end_of_another_connection_that_ends_a_handler_is_a_failure(serve: Any, caplog: Any) -> None:
    """A broadcast that does not reckon with those who have left."""
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        kept.append(ws)
        for message in ws:
            for other in kept:
                other.send(message)
        return []

    served = serve(app)
    with served.client("/") as gone:
        gone.close_handshake(4000)
    served.access_log()
    with served.client("/") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_close() == 1011
    assert "ConnectionClosed: the connection is closed: 4000" in caplog.text


def test_the_end_of_another_connection_before_the_accept_is_an_ordinary_500(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ConnectionClosed(4000, "another one")

    served = serve(app)
    with served.client() as client:
        client.send(request())
        assert client.read_response().status == 500
    assert "4000 another one" in served.errors.pop()


def test_the_application_s_iterable_is_iterated_and_closed(serve: Any) -> None:
    events: list[str] = []

    class Body:
        def __init__(self, ws: Any) -> None:
            self.ws = ws

        def __iter__(self) -> Any:
            for message in self.ws:
                events.append(message)
                yield b""

        def close(self) -> None:
            events.append("closed")

    served = serve(lambda environ, start_response: Body(environ["wsgi.websocket"]))
    with served.client("/") as client:
        client.send(frame(TEXT, "in the iteration"))
        client.close_handshake()
    served.access_log()
    assert events == ["in the iteration", "closed"]


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_a_killed_handler_closes_with_1001_and_leaves_nothing_open(serve: Any) -> None:
    running: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        running.append(gevent.getcurrent())
        environ["wsgi.websocket"].receive()
        return []

    served = serve(app)
    with served.client("/") as client:
        wait_until(lambda: running)
        running[0].kill()
        assert client.read_close() == 1001
        assert client.at_end()
    assert not served.server.clients


def test_a_client_that_goes_before_the_accept_ends_the_handler_quietly(serve: Any, caplog: Any) -> None:
    gone = Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gone.wait()
        return echo(environ, start_response)

    served = serve(app)
    with served.client() as client:
        client.send(request())
        wait_until(lambda: getattr(served.server, "websockets", None))
        client.reset()
    gone.set()
    served.access_log()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("refuse", [True, False])
def test_a_handler_is_freed_without_the_collector_of_cycles(serve: Any, world: World, refuse: bool) -> None:
    handlers: list[weakref.ref[Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        handlers.append(weakref.ref(ws if world.threads else ws.handler))
        del ws
        if refuse:
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        return echo(environ, start_response)

    served = serve(app)
    gc.collect()
    gc.disable()
    try:
        with served.client() as client:
            client.send(request() + close_frame(1000))
            client.read_response()
        served.access_log()
        wait_until(lambda: handlers[0]() is None)
    finally:
        gc.enable()


def test_nothing_of_a_connection_is_kept_once_it_is_closed(serve: Any) -> None:
    kept: list[weakref.ref[Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append(weakref.ref(environ["wsgi.websocket"]))
        return echo(environ, start_response)

    served = serve(app)
    with served.client("/") as client:
        client.close_handshake()
    served.access_log()
    gevent.sleep(0)
    gc.collect()
    assert kept[0]() is None


@pytest.mark.world("gevent", "what pywsgi's handler keeps")
def test_handlers_share_the_keys_of_their_attributes_though_many_clients_connect_before_one_asks(
    serve: Any, world: World
) -> None:
    if world.name == PYWSGI and sys.version_info < (3, 11):
        pytest.skip("Python 3.10 shares keys while all objects get them in one order, which is pywsgi's here")
    sizes: list[tuple[int, int]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        attributes = vars(environ["wsgi.websocket"].handler)
        sizes.append((sys.getsizeof(attributes), sys.getsizeof(dict(attributes))))
        return []

    served = serve(app, WebSocketHandler.configured())
    handlers = OpenConnections.of(served.server).idle
    with ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(60)]
        wait_until(lambda: len(handlers) == 60)
        for client in clients:
            client.open("/")
            client.read_close()
    assert all(shared < alone for shared, alone in sizes)


@pytest.mark.world("gevent", "what gevent's server keeps for who has not asked yet")
def test_a_client_that_has_not_asked_yet_costs_no_buffer(serve: Any, world: World) -> None:
    served = serve(echo)
    idle = OpenConnections.of(served.server).idle
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            stack.enter_context(served.client())
        wait_until(lambda: len(idle) == 50)
        gc.collect()
        taken = (tracemalloc.get_traced_memory()[0] - before) / 50
    # With what the client takes here, and the greenlet's stack. pywsgi's own way to read has a buffer from the start, and
    # more frames, of which Python 3.10 makes objects.
    assert taken < (12_000 if world.name != PYWSGI else 15_000 + io.DEFAULT_BUFFER_SIZE)


@pytest.mark.world("gevent", "what gevent's server keeps between two requests")
def test_the_head_of_a_request_is_not_kept_until_the_next_one(serve: Any) -> None:
    served = serve(echo)
    idle = OpenConnections.of(served.server).idle
    with served.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_response()
        wait_until(lambda: idle)
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Head)]


@pytest.mark.world("gevent", "what is above an application in gevent's server")
def test_an_application_is_called_above_few_frames_as_all_are_kept_while_the_websocket_is_open(
    serve: Any, world: World
) -> None:
    above: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        frame = sys._getframe(1)
        while frame is not None:
            above.append(frame.f_code.co_name)
            frame = frame.f_back
        return []

    with serve(app).client("/") as client:
        client.read_close()
    assert ("handle_one_response" in above) == (world.name == PYWSGI)
    assert len(above) <= (12 if world.name == PYWSGI else 6), above


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_handler_that_is_killed_while_it_waits_for_a_request_closes_the_socket(serve: Any) -> None:
    server = serve(never_called).server
    ours, theirs = gevent.socket.socketpair()
    with ours:
        handling = gevent.spawn(server.handle, theirs, ("127.0.0.1", 1))
        wait_until(lambda: OpenConnections.of(server).idle)
        handling.kill()
        assert ours.recv(1) == b""


@pytest.mark.world("gevent", "the head of a request is the server's business")
def test_a_client_that_is_not_heard_of_any_more_before_it_asks_leaves_nothing_behind(serve: Any) -> None:
    served = serve(never_called)
    client = served.client()
    idle = OpenConnections.of(served.server).idle
    wait_until(lambda: idle)
    client.reset()
    wait_until(lambda: not idle)


# What programs written for gevent-websocket look at.


@pytest.mark.world("gevent", "programs for gevent-websocket know pywsgi only")
def test_clients_are_kept_on_a_plain_server_with_attributes_of_the_program_s_own(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        handler = ws.handler
        handler.active_client.nickname = ws.receive()
        ws.send(",".join(client.nickname for client in handler.server.clients.values()))
        assert handler.websocket is ws
        assert handler.active_client.ws is ws
        assert handler.active_client.address == handler.client_address
        return []

    served = serve(app)
    with served.client("/") as client:
        client.send(frame(TEXT, "ann"))
        assert client.read_text() == "ann"
        client.read_close()
        client.send(close_frame(1000))
    wait_until(lambda: not served.server.clients)


@pytest.mark.world("gevent", "programs for gevent-websocket know pywsgi only")
def test_a_program_may_exchange_the_entries_of_clients_and_the_clients(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        handler = ws.handler
        handler.server.clients = dict(handler.server.clients)
        handler.server.clients[handler.client_address] = Client(handler.client_address, ws)
        ws.receive()
        return []

    served = serve(app)
    with served.client("/") as client:
        wait_until(lambda: len(served.server.clients) == 1)
        client.send(close_frame(1000))
        client.read_close()
    wait_until(lambda: not served.server.clients)


@pytest.mark.world("gevent", "gevent's own server")
@pytest.mark.parametrize("fields", [{}, {"Content_Length": "0"}, {"Connection": "keep-alive, Upgrade"}])
@pytest.mark.parametrize("hooked", [False, True])
def test_a_frame_that_comes_with_the_request_is_not_lost(serve: Any, fields: dict[str, str], hooked: bool) -> None:
    served = serve(echo)
    if hooked:
        served.server.pre_start_hook = lambda handler: False
    with served.client() as client:
        client.send(request(**fields) + frame(TEXT, "early"))
        assert client.read_response().status == 101
        assert client.read_text() == "early"


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
def test_a_request_that_a_subclass_reads_is_not_timed_any_more_once_it_is_read(serve: Any) -> None:
    class OwnRequest(WebSocketHandler):
        def read_request(self, raw_requestline: str) -> bool:
            self.requestline = raw_requestline.rstrip()
            self.command, self.path, self.request_version = self.requestline.split()
            self.headers = self.MessageClass(self.rfile, 0)
            self.content_length = None
            self.close_connection = True
            return True

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        pause(0.2)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]

    served = serve(app, handler_class=OwnRequest.configured(handshake_timeout=0.1))
    with served.client() as client:
        # From now on it is timed.
        wait_until(lambda: len(OpenConnections.of(served.server).idle) == 1)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body == b"done"


@pytest.mark.world("gevent", "programs for gevent-websocket know pywsgi only")
def test_a_pre_start_hook_that_is_true_makes_it_ordinary_http(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert "wsgi.websocket" not in environ
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    served = serve(app)
    served.server.pre_start_hook = lambda handler: handler.path == "/plain"
    with served.client() as client:
        client.send(request("/plain"))
        assert client.read_response().body == b"ok"


@pytest.mark.world("gevent", "other servers have nothing of the kind")
@pytest.mark.parametrize("protocol", ["echo", "websocket"])
def test_who_changes_to_a_protocol_of_his_own_reads_what_comes_behind_the_request(serve: Any, protocol: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("101 Switching Protocols", [("Upgrade", protocol), ("Connection", "Upgrade")])
        write(b"")
        reader = environ["wsgi.input"]
        write(reader.read(5).upper() + reader.readline().upper())
        return []

    seen = []

    def hook(handler: Any) -> bool:
        seen.append(handler.rfile.peek(1)[:5])
        return True

    served = serve(app)
    served.server.pre_start_hook = hook
    with served.client() as client:
        client.send(request(Upgrade=protocol) + b"hello")
        assert client.read_response().status == 101
        client.send(b", world\n")
        assert client.read(13) == b"HELLO, WORLD\n"
    assert seen == [b"hello"]


class Prefixed:
    def read_request(self, raw_requestline: str) -> Any:
        read = super().read_request(raw_requestline)
        self.command, self.path = "PUT", f"/prefix{self.path}"
        return read


class Proxied:
    def handle(self) -> None:
        words = self.rfile.readline(107).split()
        self.client_address = (words[2].decode(), int(words[4]))
        super().handle()


class OwnLine:
    def read_requestline(self) -> str:
        return self.rfile.readline(8192).decode("latin-1").replace("/page", "/other")


class OwnFields:
    def MessageClass(self, *arguments: Any) -> Any:  # noqa: N802 (pywsgi's name)
        message = super().MessageClass(*arguments)
        message["X-Added"] = "by MessageClass"
        return message


class OwnKeys:
    def _headers(self) -> Any:
        yield from super()._headers()
        yield "HTTP_X_ADDED", "by _headers"


class OwnInput:
    def get_environ(self) -> Any:
        environ = super().get_environ()
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(5).upper())
        return environ


class OwnReading:
    def run_application(self) -> None:
        self.environ["HTTP_X_ADDED"] = repr(self.rfile.peek(1)[:5])
        super().run_application()


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
@pytest.mark.parametrize("own", [Prefixed, Proxied, OwnLine, OwnFields, OwnKeys, OwnInput, OwnReading])
def test_a_subclass_finds_all_that_pywsgi_does_for_a_request(own: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        keys = ("REQUEST_METHOD", "PATH_INFO", "REMOTE_ADDR", "HTTP_X_ADDED")
        said = " ".join(str(environ.get(key)) for key in keys).encode() + environ["wsgi.input"].read(5)
        start_response("200 OK", [("Content-Length", str(len(said)))])
        return [said]

    judge: Any = type("Judge", (own, WSGIHandler), {})
    direct: Any = type("Direct", (own, WebSocketHandler), {})
    further: Any = type("Further", (direct,), {})
    answers = []
    for handler_class in (judge, direct, further, direct.configured(max_message_size=5)):
        server = WSGIServer(("127.0.0.1", 0), app, handler_class=handler_class, log=None)
        server.start()
        try:
            with RawClient(server.address) as client:
                first = b"PROXY TCP4 10.9.9.9 10.0.0.1 4000 80\r\n" if own is Proxied else b""
                client.send(
                    first + b"GET /page HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
                )
                answers.append(client.read_response().body)
        finally:
            server.stop()
    assert answers == [answers[0]] * 4


def guard(handler: Any) -> None:
    if "HTTP_AUTHORIZATION" in handler.environ:
        WebSocketHandler.run_application(handler)
    else:
        handler.start_response("401 Unauthorized", [("Content-Length", "0")])
        handler.write(b"")


class Guarded(WebSocketHandler):
    run_application = guard


class InASecondBranch(WebSocketHandler.configured(), Guarded):  # type: ignore[misc]
    pass


class GuardedLater(WebSocketHandler):
    pass


class Further(GuardedLater):
    pass


GuardedLater.run_application = guard  # type: ignore[method-assign]


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
@pytest.mark.parametrize("guarded", [Guarded, InASecondBranch, GuardedLater, Further])
def test_what_a_class_overrides_is_called_for_a_websocket_wherever_it_stands(serve: Any, guarded: Any) -> None:
    served = serve(echo, handler_class=guarded)
    with served.client() as client:
        client.send(request())
        assert client.read_response().status == 401
    with served.client("/", Authorization="yes") as client:
        client.close_handshake()


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
@pytest.mark.parametrize("name", ["handle", "handle_one_request", "handle_one_response"])
def test_a_class_of_pywsgi_s_own_kind_behind_ours_is_called_for_a_websocket(serve: Any, name: str) -> None:
    calls: list[str] = []

    def counted(self: Any) -> Any:
        calls.append(name)
        return getattr(WSGIHandler, name)(self)

    counting = type("Counting", (WSGIHandler,), {name: counted})
    with serve(echo, handler_class=type("Ours", (WebSocketHandler, counting), {})).client("/") as client:
        client.close_handshake()
    assert calls == [name]


@pytest.mark.world("gevent", "programs for gevent-websocket know pywsgi only")
def test_what_is_put_in_the_place_of_pywsgi_s_methods_is_called_for_a_websocket(serve: Any, monkeypatch: Any) -> None:
    calls: list[str] = []
    original = WSGIHandler.handle_one_response

    def traced(self: Any) -> None:
        calls.append(self.path)
        original(self)

    monkeypatch.setattr(WSGIHandler, "handle_one_response", traced)
    with serve(echo).client("/traced") as client:
        client.close_handshake()
    assert calls == ["/traced"]


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
def test_a_subclass_may_have_properties_that_take_no_none(serve: Any) -> None:
    class Shortened(WebSocketHandler):
        @property
        def path(self) -> str:
            return self._path

        @path.setter
        def path(self, path: str) -> None:
            self._path = path[:3]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(environ["wsgi.websocket"].handler.path)
        return []

    with serve(app, handler_class=Shortened).client("/long") as client:
        assert client.read_text() == "/lo"


@pytest.mark.world("gevent", "a subclass of pywsgi's handler")
def test_a_subclass_may_be_something_built_in_as_well(serve: Any) -> None:
    both: Any = type(
        "Both", (WebSocketHandler, dict), {"__hash__": object.__hash__, "__init__": WebSocketHandler.__init__}
    )
    with serve(echo, handler_class=both).client("/") as client:
        client.close_handshake()


@pytest.mark.world("gevent", "programs for gevent-websocket know pywsgi only")
def test_prevent_wsgi_call_does_the_handshake_and_leaves_the_websocket_to_the_caller(serve: Any) -> None:
    class Driving(WebSocketHandler):
        prevent_wsgi_call = True

        def handle_one_response(self) -> None:
            super().handle_one_response()
            assert self.websocket is not None
            self.websocket.send(f"driven {self.websocket.receive()}")
            self.websocket.close(4000)

    served = serve(never_called, handler_class=Driving)
    with served.client("/") as client:
        client.send(frame(TEXT, "by hand"))
        assert client.read_text() == "driven by hand"
        assert client.read_close() == 4000
        client.send(close_frame(4000))
        assert client.at_end()
    wait_until(lambda: not served.server.websockets)


def test_a_subclass_of_websocket_sees_pings_and_pongs(serve: Any) -> None:
    heard: list[Any] = []

    class Listening(WebSocket):
        __slots__ = ()

        def handle_ping(self, header: Any, payload: bytes) -> None:
            heard.append(("ping", header.opcode, header.length, payload))

        def handle_pong(self, header: Any, payload: bytes) -> None:
            heard.append(("pong", payload))

        def handle_close(self, header: Any, payload: bytes) -> None:
            heard.append(("close", payload))

    with serve(echo, websocket_class=Listening).client("/") as client:
        client.send(frame(PING, b"one") + frame(PONG, b"two") + close_frame(4001, "bye"))
        assert client.read_frame() == (0x8A, b"one")
        client.read_close()
        wait_until(lambda: len(heard) == 3)
        assert heard == [("ping", PING, 3, b"one"), ("pong", b"two"), ("close", b"\x0f\xa1bye")]


# The access log.


@pytest.mark.world("gevent", "other servers write their logs themselves")
def test_a_websocket_is_logged_when_it_ends_with_its_close_code_and_what_went_through_it(serve: Any) -> None:
    served = serve(echo)
    with served.client("/chat?room=1") as client:
        for text in ("one", "two"):
            client.send(frame(TEXT, text))
            client.read_text()
        assert served.log.getvalue() == ""
        client.close_handshake(1001)
    line = served.access_log()[0]
    # Frames of 9 bytes each and a Close frame of 8 came in; two of 5 bytes and one of 4 went out.
    expected = (
        r'127\.0\.0\.1 - - \[[\d: -]+\] "GET /chat\?room=1 HTTP/1\.1" 101 14 \d\.\d+ '
        r"close=1001 in=2/26B out=2/14B"
    )
    assert re.fullmatch(expected, line)


# Options.


def told(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Tell the client what the application knows of it, over a WebSocket or not."""
    ws = environ.get("wsgi.websocket")
    facts = f"{environ.get('REMOTE_ADDR')} {environ['wsgi.url_scheme']} {environ.get('HTTP_X_FORWARDED_FOR')}"
    if ws is None:
        start_response("200 OK", [("Content-Length", str(len(facts)))])
        return [facts.encode()]
    ws.send(f"{facts} {ws.remote_address}")
    return []


FORWARDED = {"X_Forwarded_For": "127.0.0.1, 203.0.113.9", "X_Forwarded_Proto": "https"}


def test_nobody_who_forwards_is_believed_by_default_and_the_fields_are_left_alone(serve: Any) -> None:
    server = serve(told)
    with server.client("/", **FORWARDED) as client:
        host, port = client.socket.getsockname()
        assert client.read_text() == f"127.0.0.1 http 127.0.0.1, 203.0.113.9 {(host, port)}"
    assert server.access_log()[0].startswith("127.0.0.1 - - [")


def test_a_client_that_is_no_proxy_is_not_believed_and_its_fields_are_removed(serve: Any) -> None:
    server = serve(told, trusted_proxies=["10.0.0.0/8"])
    with server.client("/", **FORWARDED) as client:
        assert client.read_text() == f"127.0.0.1 http None {client.socket.getsockname()}"
    assert server.access_log()[0].startswith("127.0.0.1 - - [")


def test_behind_a_trusted_proxy_the_application_and_the_log_know_the_client(serve: Any, world: Any) -> None:
    server = serve(told, trusted_proxies=["127.0.0.1"])
    with server.client("/", **FORWARDED) as client:
        assert client.read_text() == "203.0.113.9 https 203.0.113.9 203.0.113.9"
    if world.threads:
        return  # The log is that of a server which knows of no proxies.
    assert server.access_log()[0].startswith("203.0.113.9 - - [")
    assert '"GET / HTTP/1.1" 101' in server.access_log()[0]


@pytest.mark.world("gevent", "only there one connection has several requests")
def test_two_clients_behind_one_connection_of_a_proxy_are_told_apart(serve: Any) -> None:
    server = serve(told, trusted_proxies=["127.0.0.1"])
    with server.client() as client:
        for address in ("203.0.113.9", "203.0.113.10"):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\n\r\n" % address.encode())
            assert client.read_response().body.decode() == f"{address} http {address}"
        client.send(b"nonsense\r\n\r\n")
        assert client.read_response().status == 400
    first, second, nobody = server.access_log(3)
    assert first.startswith("203.0.113.9 - - [")
    assert second.startswith("203.0.113.10 - - [")
    assert nobody.startswith("127.0.0.1 - - ["), "the proxy may have sent it for anybody"


def test_behind_a_trusted_proxy_connections_are_counted_by_client(serve: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    server = serve(echo, trusted_proxies=["127.0.0.1"], max_connections_per_ip=1)
    with (
        server.client("/", X_Forwarded_For="203.0.113.9"),
        server.client("/", X_Forwarded_For="203.0.113.10"),
        server.client() as third,
    ):
        third.send(request(X_Forwarded_For="203.0.113.9, 203.0.113.10"))
        response = third.read_response()
        assert (response.status, response.body[:12]) == (429, b"203.0.113.10")
        assert "Refused a WebSocket for 203.0.113.10 on /" in caplog.text


def test_behind_a_trusted_proxy_the_public_host_is_the_origin_that_is_let_in(serve: Any) -> None:
    forwarded: dict[str, Any] = {"X_Forwarded_Host": "public.example", "Origin": "https://public.example"}
    server = serve(told, trusted_proxies=["127.0.0.1"], trusted_proxy_headers=["x-forwarded-host"])
    with server.client("/", **forwarded) as client:
        assert client.read_text().startswith("127.0.0.1 http")
    with serve(echo, trusted_proxies=["127.0.0.1"]).client() as client:
        client.send(request(**forwarded))
        assert client.read_response().status == 403


@pytest.mark.world("gevent", "the other world's server listens on TCP")
def test_behind_a_trusted_proxy_on_a_unix_socket_the_client_has_an_address(serve: Any, tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    listener = gevent.socket.socket(gevent.socket.AF_UNIX)
    listener.bind(path)
    listener.listen(5)
    server = serve(told, listener=listener, trusted_proxies=["unix"])
    unix = gevent.socket.socket(gevent.socket.AF_UNIX)
    unix.connect(path)
    with RawClient(None, socket=unix) as client:
        client.open("/", **FORWARDED)
        assert client.read_text() == "203.0.113.9 https 203.0.113.9 203.0.113.9"
    assert server.access_log()[0].startswith("203.0.113.9 - - [")


def test_configured_gives_a_class_of_its_own_and_checks_the_options() -> None:
    small = WebSocketHandler.configured(max_message_size=10)
    assert small.options.max_message_size == 10
    assert issubclass(small, WebSocketHandler)
    assert WebSocketHandler.options.max_message_size == 2**20
    assert small.configured(WebSocketOptions(max_queue=3)).options == WebSocketOptions(max_queue=3)
    with pytest.raises(ValueError, match="max_message_size"):
        WebSocketHandler.configured(max_message_size=-1)
    with pytest.raises(TypeError, match="max_mesage_size"):
        WebSocketHandler.configured(max_mesage_size=5)


def test_handler_class_is_enough_on_a_plain_server() -> None:
    server = WSGIServer(("127.0.0.1", 0), echo, handler_class=WebSocketHandler, log=io.StringIO())
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)) as client:
            client.open("/", Sec_WebSocket_Key=KEY)
            client.send(frame(TEXT, "plain server"))
            assert client.read_text() == "plain server"
            client.close_handshake()
    finally:
        server.stop()


def test_a_client_entry_knows_its_address_and_websocket() -> None:
    client = Client(("10.0.0.1", 5), None)  # type: ignore[arg-type]
    assert (client.address, client.ws) == (("10.0.0.1", 5), None)


def test_a_handshake_error_is_answered_with_its_status_and_headers(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise HandshakeError("402 Payment Required", "Buy a ticket.", [("X-Shop", "/tickets")])

    with serve(app).client() as client:
        client.send(request())
        response = client.read_response()
        assert (response.status, response.body, response.headers["x-shop"]) == (402, b"Buy a ticket.\n", "/tickets")


def test_what_another_server_answers_to_the_application_is_not_for_the_client(serve: Any) -> None:
    """The application connects somewhere else before it has answered its own client, and is refused there."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise HandshakeRefused("403 Forbidden", "refused by ws://internal", [("X-Internal", "1")], b"secret")

    served = serve(app)
    with served.client() as client:
        client.send(request("/"))
        response = client.read_response()
    assert response.status == 500
    assert "x-internal" not in response.headers
    assert b"ws://internal" not in response.body
    assert "refused by ws://internal" in served.errors.pop()


def test_an_application_that_reads_the_body_before_it_accepts_finds_none(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        ws = environ["wsgi.websocket"]
        ws.send(environ["wsgi.input"].read())
        ws.send(ws.receive())
        return []

    with serve(app).client("/") as client:
        assert client.read_frame().payload == b""
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"


def test_an_application_that_exits_ends_its_own_connection_and_no_other(serve: Any, caplog: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        ws = environ["wsgi.websocket"]
        for message in ws:
            if message == "exit":
                sys.exit(3)
            ws.send(message)
        return []

    served = serve(app)
    with served.client("/") as bystander:
        with served.client("/") as client:
            client.send(frame(TEXT, "exit"))
            assert client.read_close() == 1011
            client.send(close_frame(1011))
            assert client.at_end()
        bystander.send(frame(TEXT, "still here"))
        assert bystander.read_text() == "still here"
    assert "SystemExit: 3" in caplog.text


def test_a_refusal_of_a_head_request_has_no_body(serve: Any) -> None:
    with serve(echo).client() as client:
        client.send(request("/").replace(b"GET", b"HEAD", 1))
        while True:
            try:
                client.buffer += client.socket.recv(65536) or b"<end>"
            except ConnectionError:
                break
            if client.buffer.endswith(b"<end>"):
                break
        head, _, body = client.buffer.partition(b"\r\n\r\n")
        assert b" 405 " in head.partition(b"\r\n")[0]
        assert body.removesuffix(b"<end>") == b""
