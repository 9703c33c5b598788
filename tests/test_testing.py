"""`geventws.testing`: an application of any kind, tested without a server. Django's client is tested with Django."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest
from flask import Flask, abort, request, session

from geventws import ConnectionClosed, WebSocketOptions
from geventws.flask import Sockets
from geventws.testing import Refused, connect


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def tells(key: str) -> Any:
    """An application that sends what the environ has under `key`."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(repr(environ.get(key)))
        return []

    return app


def fails(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.websocket"].receive()
    raise ValueError("on purpose")


# What is wrong.


def test_what_is_no_application_is_named() -> None:
    with pytest.raises(TypeError, match="what is tested is a WSGI application; got 5"):
        connect(5)  # type: ignore[arg-type]


def test_a_path_without_its_slash_is_an_error() -> None:
    with pytest.raises(ValueError, match="a path begins with a slash"):
        connect(echo, "echo")


def test_a_refusal_has_status_headers_and_body() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("403 Forbidden", [("Content-Type", "text/plain"), ("X-Why", "because")])
        yield b"not "
        yield b"you" * 5000

    with pytest.raises(Refused, match="the application refused the WebSocket /a: 403 Forbidden: not you") as caught:
        connect(app, "/a")
    assert caught.value.status == "403 Forbidden"
    assert caught.value.status_code == 403
    assert ("X-Why", "because") in caught.value.headers
    assert caught.value.body == b"not " + b"you" * 5000


def test_a_refusal_by_the_server_is_one_too() -> None:
    with pytest.raises(Refused, match="may not open a WebSocket") as caught:
        connect(echo, origin="https://example.com")
    assert caught.value.status_code == 403


def test_an_exception_before_the_accept_is_the_test_s() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        connect(app)


def test_an_exception_ends_the_connection_and_is_the_test_s_once() -> None:
    ws = connect(fails)
    ws.send("go on")
    with pytest.raises(ValueError, match="on purpose"):
        ws.receive()
    assert ws.close_code == 1011
    with pytest.raises(ConnectionClosed):
        ws.receive()
    ws.close()


def test_an_exception_that_nothing_waited_for_is_the_test_s_at_the_end() -> None:
    with pytest.raises(ValueError, match="on purpose"), connect(fails) as ws:
        ws.send("go on")


def test_the_test_s_own_failure_is_not_hidden() -> None:
    def of_the_test() -> None:
        with connect(fails) as ws:
            ws.send("go on")
            raise AssertionError("of the test")

    with pytest.raises(AssertionError, match="of the test"):
        of_the_test()


def test_a_handshake_that_is_not_answered_says_where_the_application_is() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        time.sleep(3600)

    with pytest.raises(TimeoutError, match=r"(?s)not answered the handshake within 0.1 s.*time\.sleep\(3600\)"):
        connect(app, timeout=0.1)


def test_a_message_that_does_not_come_says_where_the_application_is() -> None:
    with connect(echo) as ws:
        with pytest.raises(TimeoutError, match=r"(?s)no message came .* within 0.05 s.*in echo"):
            ws.receive(timeout=0.05)
        ws.send("still there")
        assert ws.receive() == "still there"


def test_where_the_application_is_does_not_begin_with_the_server_that_called_it() -> None:
    with connect(echo) as ws, pytest.raises(TimeoutError) as caught:
        ws.receive(timeout=0.05)
    shown = str(caught.value)
    assert shown.count('  File "') == 1
    assert f'"{__file__}"' in shown


def test_an_application_that_does_not_end_is_an_error_and_is_ended() -> None:
    ended = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.websocket"].send("stuck")
        try:
            gevent.sleep(3600)
        finally:
            ended.append(True)

    ws = connect(app)
    assert ws.receive() == "stuck"
    ws.timeout = 0.1
    with pytest.raises(TimeoutError, match=r"(?s)has not ended within 0.1 s.*gevent\.sleep\(3600\)"):
        ws.close()
    assert ended


# What works.


def test_messages_go_both_ways() -> None:
    with connect(echo) as ws:
        ws.send("text")
        ws.send(b"bytes")
        assert ws.receive() == "text"
        assert ws.receive() == b"bytes"
    assert (ws.closed, ws.close_code) == (True, 1000)


def test_what_the_application_sends_is_iterated_over_until_its_end() -> None:
    with connect(tells("REQUEST_METHOD")) as ws:
        assert list(ws) == ["'GET'"]
        assert ws.close_code == 1000


def test_the_application_is_told_of_the_close() -> None:
    told = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert ws.receive() is None
        told.append((ws.close_code, ws.close_reason))
        return []

    connect(app).close(4000, "enough")
    assert told == [(4000, "enough")]


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ({"headers": {"X-Key": "value"}}, "HTTP_X_KEY", "value"),
        ({"headers": [("X-Key", "a"), ("X-Key", "b")]}, "HTTP_X_KEY", "a,b"),
        ({"cookies": {"a": "1", "b": "2"}}, "HTTP_COOKIE", "a=1; b=2"),
        ({"host": "example.com:8443"}, "HTTP_HOST", "example.com:8443"),
        ({"host": "example.com:8443"}, "SERVER_PORT", "8443"),
        ({"environ": {"REMOTE_ADDR": "192.0.2.1"}}, "REMOTE_ADDR", "192.0.2.1"),
        ({"path": "/a%20b/c d?e=f g"}, "PATH_INFO", "/a b/c d"),
        ({"path": "/?e=f g&h"}, "QUERY_STRING", "e=f%20g&h"),
        ({"subprotocols": ["one", "two"]}, "HTTP_SEC_WEBSOCKET_PROTOCOL", "one, two"),
        ({"origin": "http://localhost"}, "HTTP_ORIGIN", "http://localhost"),
    ],
)
def test_the_request_is_as_the_test_wants_it(arguments: dict[str, Any], key: str, value: str) -> None:
    with connect(tells(key), **arguments) as ws:
        assert ws.receive() == repr(value)


def test_options_of_the_server_hold() -> None:
    with connect(echo, options=WebSocketOptions(max_message_size=5, subprotocols=["two"]), subprotocols=["two"]) as ws:
        assert ws.subprotocol == "two"
        ws.send("longer")
        assert ws.receive() is None
        assert ws.close_code == 1009


def test_several_connections_at_once() -> None:
    with connect(echo) as one, connect(echo) as other:
        one.send("one")
        other.send("other")
        assert other.receive() == "other"
        assert one.receive() == "one"


def test_a_flask_application() -> None:
    app = Flask("program")
    app.secret_key = "not a secret"
    app.testing = True
    sockets = Sockets(app)

    @sockets.route("/visits", accept=False)
    def visits(ws: Any) -> None:
        if request.args.get("user") is None:
            abort(403)
        session["visits"] = session.get("visits", 0) + 1
        ws.send(str(session["visits"]))

    with pytest.raises(Refused, match="403 FORBIDDEN"):
        connect(app, "/visits")
    with connect(app, "/visits?user=ada") as ws:
        assert ws.receive() == "1"
        name, _, value = ws.headers["Set-Cookie"].partition(";")[0].partition("=")
    with connect(app, "/visits?user=ada", cookies={name: value}) as ws:
        assert ws.receive() == "2"
    assert repr(ws) == "<WebSocketUnderTest CLOSED 1000 /visits>"
