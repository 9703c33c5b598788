"""Websocket views of Django, seen by a client on a real socket. In every group what is refused or fails comes first."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from asking import answer, answer_to_plain, closed_by_server, first_text
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished, request_started
from django.db import connections
from django.test import AsyncRequestFactory, Client, RequestFactory, override_settings
from django.views import View
from gevent.pywsgi import WSGIServer
from rawclient import CLOSE, TEXT, RawClient, frame
from rawclient import request as opening_request
from sample import views
from sample.models import Saying
from waiting import wait_until

from geventws.django import accept_websocket, websocket_view
from geventws.scope import patched_by_gevent


@pytest.fixture
def served(serve: Any) -> Any:
    """The sample project on a server."""
    return serve(WSGIHandler())


@pytest.fixture
def serve_with(serve: Any) -> Iterator[Any]:
    """The sample project on a server, with other settings: `serve_with(GEVENTWS={...})`."""
    changed = []

    def start(**settings: Any) -> Any:
        changes = override_settings(**settings)
        changes.enable()
        changed.append(changes)
        return serve(WSGIHandler())

    yield start
    for changes in reversed(changed):
        changes.disable()


def say(client: RawClient, text: str) -> str:
    """Send a text, and give the answer."""
    client.send(frame(TEXT, text))
    return client.read_text()


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info and record.exc_info[0]]


def only_traceback(caplog: pytest.LogCaptureFixture) -> BaseException:
    """The exception of the one traceback in the log."""
    (record,) = tracebacks(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    return record.exc_info[1]


def logged_in() -> str:
    """The Cookie field of a user's browser."""
    client = Client()
    client.force_login(get_user_model().objects.create_user("ada"))
    return f"sessionid={client.cookies['sessionid'].value}"


def open_databases() -> int:
    """How many connections of this process have the database's file open."""
    connections.close_all()
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").endswith("test.sqlite3")
        except OSError:
            continue  # That of the listing itself.
    return found


# Decorators.


def test_an_option_that_does_not_exist_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match="max_mesage_size is not an option of WebSockets"):
        websocket_view(max_mesage_size=5)


def test_an_option_out_of_its_range_is_an_error_at_the_view() -> None:
    with pytest.raises(ValueError, match="max_message_size must be a whole number"):
        accept_websocket(max_message_size=0)


def test_an_option_of_the_server_is_an_error_that_says_where_it_belongs() -> None:
    with pytest.raises(
        ValueError, match=r"max_connections is obeyed before .* WebSocketServer\(\.\.\., max_connections"
    ):
        websocket_view(max_connections=5)


def test_an_async_view_is_an_error() -> None:
    async def view(request: Any) -> None: ...

    with pytest.raises(TypeError, match="view is async: websocket views are plain functions"):
        websocket_view(view)


def test_what_is_no_view_is_an_error() -> None:
    with pytest.raises(TypeError, match="what is decorated is a view; got 5"):
        websocket_view(5)


def test_under_asgi_a_websocket_view_says_so() -> None:
    with pytest.raises(ImproperlyConfigured, match="Django runs under ASGI here"):
        views.echo(AsyncRequestFactory().get("/ws/echo/"))


def test_under_asgi_a_view_of_both_kinds_answers_plain_requests() -> None:
    assert views.clock(with_websocket(AsyncRequestFactory().get("/clock/"))).content == b"The page with the clock."


def test_a_view_of_both_kinds_can_be_called_with_a_request_of_the_request_factory() -> None:
    assert views.clock(with_websocket(RequestFactory().get("/clock/"))).content == b"The page with the clock."


def with_websocket(request: Any) -> Any:
    request.websocket = None  # As the middleware does.
    return request


def test_a_decorated_view_keeps_its_name_and_its_documentation() -> None:
    assert views.transactions.__name__ == "transactions"
    assert "rolled back" in views.transactions.__doc__


# What is refused before the 101.


def test_a_server_that_carries_no_websockets_is_told_which_do(caplog: pytest.LogCaptureFixture) -> None:
    server = WSGIServer(("127.0.0.1", 0), WSGIHandler(), log=None)
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)) as client:
            client.send(opening_request("/ws/echo/"))
            assert client.read_response().status == 500
    finally:
        server.stop()
    error = only_traceback(caplog)
    assert isinstance(error, ImproperlyConfigured)
    assert "This server does not carry WebSockets" in str(error)
    assert "manage.py runwebsocket" in str(error)


def test_without_the_middleware_the_error_says_what_to_do(serve_with: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert answer(serve_with(MIDDLEWARE=[]), "/ws/echo/").status == 500
    assert "geventws.django.WebSocketMiddleware" in str(only_traceback(caplog))


def test_a_path_without_a_view_is_answered_404(served: Any) -> None:
    assert answer(served, "/nothing/").status == 404


def test_a_host_that_is_not_allowed_is_answered_400(served: Any) -> None:
    assert answer(served, "/ws/echo/", Host="example.com").status == 400


def test_a_host_that_is_not_allowed_is_answered_400_without_any_other_middleware(serve_with: Any) -> None:
    served = serve_with(MIDDLEWARE=["geventws.django.WebSocketMiddleware"])
    assert answer(served, "/ws/echo/", Host="example.com").status == 400


def test_a_page_of_another_host_is_answered_403_and_told_the_settings(served: Any) -> None:
    response = answer(served, "/ws/echo/", Origin="https://example.com")
    assert response.status == 403
    assert b"CSRF_TRUSTED_ORIGINS or GEVENTWS['ORIGINS']" in response.body


@pytest.mark.parametrize(
    "origin", ["http://example.com", "https://example.com.evil", "https://notexample.org", "null", "https://[x"]
)
def test_a_page_that_is_not_quite_a_trusted_origin_is_answered_403(serve_with: Any, origin: str) -> None:
    served = serve_with(CSRF_TRUSTED_ORIGINS=["https://example.com", "https://*.example.org"])
    assert answer(served, "/ws/echo/", Origin=origin).status == 403


@pytest.mark.parametrize("origin", ["http://localhost", "https://example.com", "https://a.example.org"])
def test_pages_of_the_host_itself_and_of_trusted_origins_connect(serve_with: Any, origin: str) -> None:
    served = serve_with(CSRF_TRUSTED_ORIGINS=["https://example.com", "https://*.example.org"])
    assert answer(served, "/ws/echo/", Origin=origin).status == 101


def test_behind_a_proxy_the_host_is_the_one_that_django_takes_from_it(serve_with: Any) -> None:
    served = serve_with(USE_X_FORWARDED_HOST=True, ALLOWED_HOSTS=["public.example"])
    forwarded = {"X-Forwarded-Host": "public.example"}
    assert answer(served, "/ws/echo/", Origin="https://public.example", **forwarded).status == 101
    assert answer(served, "/ws/echo/", Origin="http://localhost", **forwarded).status == 403


def test_origins_of_the_setting_are_let_in_and_no_others(serve_with: Any) -> None:
    served = serve_with(GEVENTWS={"ORIGINS": ["example.com"]})
    assert answer(served, "/ws/echo/", Origin="https://example.com").status == 101
    assert answer(served, "/ws/echo/", Origin="http://localhost").status == 403


@pytest.mark.parametrize("path", ["/ws/members/", "/ws/members/below/", "/ws/members/class/"])
def test_a_stranger_is_redirected_to_the_login(served: Any, path: str) -> None:
    response = answer(served, path)
    assert response.status == 302
    assert response.headers["location"] == f"/login/?next={path}"


@pytest.mark.parametrize("path", ["/ws/members/", "/ws/members/below/", "/ws/members/class/"])
def test_a_user_is_let_in(served: Any, path: str) -> None:
    assert first_text(served, path, Cookie=logged_in()) == "Hello ada."


def test_a_user_without_the_permission_is_answered_403(served: Any) -> None:
    assert answer(served, "/ws/writers/", Cookie=logged_in()).status == 403


def test_a_user_with_the_permission_is_let_in(served: Any) -> None:
    cookie = logged_in()
    get_user_model().objects.update(is_superuser=True)
    assert first_text(served, "/ws/writers/", Cookie=cookie) == "You may write."


def test_a_view_that_is_left_the_handshake_may_refuse_it(served: Any) -> None:
    assert answer(served, "/ws/choosy/").status == 403


def test_a_view_that_is_left_the_handshake_may_accept_it_with_a_subprotocol(served: Any) -> None:
    with served.client() as client:
        response = client.open("/ws/choosy/?password", **{"Sec-WebSocket-Protocol": "other, graphql-ws"})
        assert response.headers["sec-websocket-protocol"] == "graphql-ws"
        assert client.read_text() == "Welcome."


def test_an_exception_before_the_accept_is_answered_500_and_logged_once(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(served, "/ws/fails/first/").status == 500
    assert str(only_traceback(caplog)) == "on purpose"


# The two kinds of requests.


def test_a_plain_request_to_a_websocket_view_is_answered_426(served: Any) -> None:
    response = answer_to_plain(served, "/ws/echo/")
    assert response.status == 426
    assert response.headers["upgrade"] == "websocket"
    assert b"connect with ws:// or wss://" in response.body


def test_the_426_has_no_hop_by_hop_field_on_servers_that_take_it_for_a_mistake() -> None:
    response = views.echo(RequestFactory().get("/ws/echo/", SERVER_SOFTWARE="WSGIServer/0.2 CPython/3.11"))
    assert response.status_code == 426
    assert "Upgrade" not in response


def test_a_websocket_request_to_an_ordinary_view_gets_its_response(served: Any) -> None:
    response = answer(served, "/")
    assert response.status == 200
    assert response.headers["connection"] == "close"


def test_a_view_of_both_kinds_answers_either(served: Any) -> None:
    assert answer_to_plain(served, "/clock/").status == 200
    with served.client("/clock/") as client:
        assert client.read_text().count(":") == 2


def test_values_of_the_path_reach_the_view(served: Any) -> None:
    assert first_text(served, "/ws/5/") == "This is room 5."


def test_messages_are_echoed(served: Any) -> None:
    with served.client("/ws/echo/") as client:
        assert say(client, "one") == "one"
        assert say(client, "two") == "two"
        assert client.close_handshake() == 1000


# Options.


def test_a_message_longer_than_the_view_allows_closes_with_1009(served: Any) -> None:
    with served.client("/ws/short/") as client:
        assert say(client, "short") == "short"
        client.send(frame(TEXT, "longer"))
        assert closed_by_server(client) == 1009


def test_a_message_longer_than_the_setting_allows_closes_with_1009(serve_with: Any) -> None:
    with serve_with(GEVENTWS={"MAX_MESSAGE_SIZE": 5}).client("/ws/echo/") as client:
        client.send(frame(TEXT, "longer"))
        assert closed_by_server(client) == 1009


# The session.


def test_a_changed_session_travels_in_the_101(served: Any) -> None:
    with served.client() as client:
        response = client.open("/ws/visits/")
        (cookie,) = response.set_cookies
        assert client.read_text() == "1"
        assert "HttpOnly" in cookie
        # While it is open: it has been saved before the 101.
        with served.client() as second:
            assert second.open("/ws/visits/", Cookie=cookie.partition(";")[0]).status == 101
            assert second.read_text() == "2"


def test_the_token_for_forms_travels_in_the_101_too(served: Any) -> None:
    with served.client() as client:
        response = client.open("/ws/token/")
        assert response.headers["x-token"] == "is in the cookie"
        (cookie,) = response.set_cookies
        assert cookie.startswith("csrftoken=")


def test_a_session_that_is_not_changed_sends_no_cookie(served: Any) -> None:
    with served.client() as client:
        assert client.open("/ws/members/", Cookie=logged_in()).set_cookies == []


def test_what_is_changed_in_the_session_later_is_saved_at_the_end(served: Any) -> None:
    cookie = logged_in()
    with served.client("/ws/later/", Cookie=cookie) as client:
        assert say(client, "hello") == "hello"
        client.close_handshake()
    wait_until(lambda: SessionStore(cookie.partition("=")[2]).get("said") == "hello")


def test_a_session_that_the_view_does_not_change_is_not_saved_over_what_others_have_made_of_it(serve_with: Any) -> None:
    served = serve_with(SESSION_SAVE_EVERY_REQUEST=True)
    cookie = logged_in()
    finished = counted(request_finished)
    with served.client("/ws/echo/", Cookie=cookie) as client:
        assert say(client, "hello") == "hello"
        session = SessionStore(cookie.partition("=")[2])
        session["changed"] = "meanwhile"
        session.save()
        client.close_handshake()
    wait_until(lambda: finished)
    assert SessionStore(cookie.partition("=")[2])["changed"] == "meanwhile"


def test_a_session_that_is_ended_meanwhile_is_not_made_anew(serve_with: Any) -> None:
    served = serve_with(SESSION_SAVE_EVERY_REQUEST=True)
    cookie = logged_in()
    finished = counted(request_finished)
    with served.client("/ws/echo/", Cookie=cookie) as client:
        assert say(client, "hello") == "hello"
        SessionStore(cookie.partition("=")[2]).delete()
        client.close_handshake()
    wait_until(lambda: finished)
    assert not SessionStore().exists(cookie.partition("=")[2])


_receivers: list[Any] = []


def counted(signal: Any) -> list[Any]:
    """A list of what `signal` has been sent with since."""
    seen: list[Any] = []

    def receive(sender: Any, **arguments: Any) -> None:
        seen.append(sender)

    _receivers.append(receive)  # Signals keep weak references.
    signal.connect(receive)
    return seen


# The end.


@pytest.mark.parametrize("how", ["value", "404", "403"])
def test_an_exception_after_the_accept_is_logged_once_and_closes_with_1011(
    served: Any, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    told = counted(got_request_exception)
    with served.client(f"/ws/fails/{how}/") as client:
        client.send(frame(TEXT, "go on"))
        assert closed_by_server(client) == 1011
    wait_until(lambda: tracebacks(caplog))
    assert only_traceback(caplog)
    assert len(told) == 1


def test_a_refusal_that_comes_too_late_is_an_error_that_says_how_to_mend_it(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with served.client("/ws/late/") as client:
        assert closed_by_server(client) == 1011
    wait_until(lambda: tracebacks(caplog))
    assert "the view answered 302 Found, but its WebSocket had been accepted already" in str(only_traceback(caplog))


def test_what_a_view_returns_after_a_conversation_is_ignored(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    with served.client("/ws/returns/") as client:
        client.send(frame(TEXT, "go on"))
        assert closed_by_server(client) == 1000
    assert not tracebacks(caplog)


def test_a_peer_that_leaves_ends_the_view_and_nothing_is_logged(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    finished = counted(request_finished)
    with served.client("/clock/") as client:
        client.read_text()
        client.reset()
    wait_until(lambda: finished)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_request_s_signals_are_sent_at_the_beginning_and_at_the_end(served: Any) -> None:
    started, finished = counted(request_started), counted(request_finished)
    with served.client("/ws/echo/") as client:
        assert say(client, "hello") == "hello"
        assert (len(started), len(finished)) == (1, 0)
        client.close_handshake()
    wait_until(lambda: finished)
    assert (len(started), len(finished)) == (1, 1)


def test_the_access_log_has_one_line_for_a_websocket(served: Any) -> None:
    with served.client("/ws/echo/") as client:
        client.close_handshake()
    (line,) = served.access_log()
    assert '"GET /ws/echo/ HTTP/1.1" 101' in line


# Views as classes.


def test_a_class_without_a_get_is_answered_405(served: Any) -> None:
    class Nothing(View):
        pass

    request = with_websocket(RequestFactory().get("/"))
    assert accept_websocket(Nothing.as_view())(request).status_code == 405


# The database.


@pytest.mark.parametrize("alone", [pytest.param(True, id="asked"), pytest.param(False, id="not asked")])
def test_with_atomic_requests_only_plain_requests_are_in_a_transaction(
    served: Any, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", alone)
    assert answer_to_plain(served, "/atomic/").body.decode() == str(alone)
    assert first_text(served, "/atomic/") == "False"


def test_waiting_for_a_message_in_a_transaction_is_an_error_that_says_how_to_mend_it(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with served.client("/ws/transactions/waits/") as client:
        assert closed_by_server(client) == 1011
    wait_until(lambda: tracebacks(caplog))
    assert "put the atomic block into the loop" in str(only_traceback(caplog))


def test_a_view_that_uses_no_database_holds_no_connection(served: Any) -> None:
    cookie = logged_in()
    with served.client("/ws/members/", Cookie=cookie) as client:
        client.read_text()
    with served.client("/ws/visits/", Cookie=cookie) as client:
        client.read_text()
        assert say(client, "still there") == "still there"
        assert open_databases() == 0


def test_between_messages_no_connection_is_held(served: Any) -> None:
    with served.client("/ws/sayings/1/") as client:
        assert say(client, "one") == "1"
        wait_until(lambda: open_databases() == 0)
        assert say(client, "two") == "2"


def test_what_a_view_keeps_is_closed_at_its_end(served: Any) -> None:
    with served.client("/ws/keeps/") as client:
        assert say(client, "one") == "0"
        assert open_databases() == 1
        client.close_handshake()
    wait_until(lambda: open_databases() == 0)


def test_connections_are_closed_at_the_end_though_they_may_be_kept_for_longer(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 600)
    cookie = logged_in()
    with served.client("/ws/later/", Cookie=cookie) as client:
        # It is saved at the end, by the middleware.
        assert say(client, "hello") == "hello"
        client.close_handshake()
    wait_until(lambda: SessionStore(cookie.partition("=")[2]).get("said") == "hello")
    wait_until(lambda: open_databases() == 0)


def test_plain_requests_in_a_scope_keep_no_connection_for_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if patched_by_gevent():
        pytest.skip("in a patched process there is no scope, and CONN_MAX_AGE is the project's affair")
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 600)
    served = serve(WSGIHandler(), cooperative="requests")
    assert answer_to_plain(served, "/slow/").body == b"0"
    wait_until(lambda: open_databases() == 0)


def test_connections_are_closed_when_the_view_is_killed(served: Any) -> None:
    with served.client("/ws/keeps/") as client:
        assert say(client, "one") == "0"
        assert open_databases() == 1
        ((_, greenlet),) = served.server.websockets._handlers.values()
        gevent.kill(greenlet)
        assert client.read_frame().opcode == CLOSE
    wait_until(lambda: open_databases() == 0)


def test_two_websockets_share_neither_a_connection_nor_a_transaction(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with served.client("/ws/transactions/1/") as one, served.client("/ws/transactions/1/") as other:
        assert say(one, "count") == "0"
        assert say(other, "count") == "0"
        assert open_databases() == 2
        assert say(one, "never committed") == "written"
        assert say(other, "count") == "0"
        one.send(frame(TEXT, "roll back"))
        assert closed_by_server(one) == 1011
        assert say(other, "committed") == "written"
        assert Saying.objects.count() == 0
        assert say(other, "commit") == "committed"
        assert say(other, "count") == "1"
    assert Saying.objects.get().text == "committed"
    wait_until(lambda: open_databases() == 0)


def test_a_plain_request_does_not_see_the_transaction_of_a_websocket(served: Any) -> None:
    with served.client("/ws/transactions/1/") as client:
        assert say(client, "never committed") == "written"
        # The test is in the server's thread, as a plain request's view is.
        assert Saying.objects.count() == 0
        assert say(client, "commit") == "committed"
        assert Saying.objects.count() == 1


def test_many_websockets_write_at_once(served: Any) -> None:
    def write(number: int) -> None:
        with served.client("/ws/sayings/7/") as client:
            for _ in range(5):
                say(client, str(number))
            client.close_handshake()

    writers = [gevent.spawn(write, number) for number in range(10)]
    gevent.joinall(writers, timeout=30, raise_error=True)
    assert Saying.objects.filter(room=7).count() == 50
    wait_until(lambda: open_databases() == 0)


def test_messages_outside_of_a_server_s_scope_leave_a_transaction_of_others_alone(serve_with: Any) -> None:
    if patched_by_gevent():
        pytest.skip("in a patched process each greenlet has connections of its own")
    served = serve_with(GEVENTWS={"COOPERATIVE": False})
    with served.client("/ws/sayings/1/") as client:
        assert say(client, "one") == "1"
