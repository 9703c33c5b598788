"""Django's test client with WebSockets: what it gives a test, above all when something is wrong."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from sample.models import Saying

from geventws import ConnectionClosed, HandshakeError
from geventws.django.test import Refused, WebSocketClient


@pytest.fixture
def client() -> WebSocketClient:
    return WebSocketClient()


def test_a_refusal_has_the_response(client: WebSocketClient) -> None:
    with pytest.raises(
        Refused, match="refused the WebSocket /ws/members/: 302 Found, to be found at /login/"
    ) as caught:
        client.websocket("/ws/members/")
    assert isinstance(caught.value, HandshakeError)
    assert caught.value.status_code == 302
    assert caught.value.response.status_code == 302
    assert caught.value.response.url == "/login/?next=/ws/members/"


def test_a_response_of_an_ordinary_view_is_a_refusal_too(client: WebSocketClient) -> None:
    with pytest.raises(Refused) as caught:
        client.websocket("/")
    assert caught.value.status_code == 200
    assert caught.value.response.content == caught.value.body == b"The page."


def test_a_foreign_page_is_refused(client: WebSocketClient) -> None:
    with pytest.raises(Refused, match=r"403 Forbidden: A page of https://example\.com may not open"):
        client.websocket("/ws/echo/", origin="https://example.com")
    with client.websocket("/ws/echo/", origin="http://testserver") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"


def test_an_exception_before_the_accept_is_the_test_s(client: WebSocketClient) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        client.websocket("/ws/fails/first/")


def test_an_exception_before_the_accept_may_be_seen_as_its_response(client: WebSocketClient) -> None:
    client.raise_request_exception = False
    with pytest.raises(Refused) as caught:
        client.websocket("/ws/fails/first/")
    assert caught.value.status_code == 500


def test_an_exception_after_the_accept_is_the_test_s(client: WebSocketClient) -> None:
    ws = client.websocket("/ws/fails/404/")
    ws.send("go on")
    with pytest.raises(Exception, match="no such thing"):
        ws.receive()


def test_an_exception_after_the_accept_may_be_seen_as_its_close_code(client: WebSocketClient) -> None:
    client.raise_request_exception = False
    with client.websocket("/ws/fails/value/") as ws:
        ws.send("go on")
        assert ws.receive() is None
        assert ws.close_code == 1011
        with pytest.raises(ConnectionClosed):
            ws.receive()


def test_a_message_that_does_not_come_says_where_the_view_is(client: WebSocketClient) -> None:
    with (
        client.websocket("/ws/echo/") as ws,
        pytest.raises(TimeoutError, match=r"(?s)within 0.05 s.*views\.py.*in echo"),
    ):
        ws.receive(timeout=0.05)


def test_a_view_that_does_not_end_is_an_error_that_says_where_it_is(client: WebSocketClient) -> None:
    ws = client.websocket("/ws/stuck/", timeout=2)
    assert ws.receive() == "stuck"
    ws.timeout = 0.1
    with pytest.raises(TimeoutError, match=r"(?s)has not ended within 0.1 s.*views\.py.*in stuck"):
        ws.close()


def test_a_test_s_own_failure_is_not_hidden_by_the_view_s(client: WebSocketClient) -> None:
    def of_the_test() -> None:
        with client.websocket("/ws/fails/value/") as ws:
            ws.send("go on")
            raise AssertionError("of the test")

    with pytest.raises(AssertionError, match="of the test"):
        of_the_test()


def test_users_log_in(client: WebSocketClient) -> None:
    client.force_login(get_user_model().objects.create_user("ada"))
    with client.websocket("/ws/members/") as ws:
        assert ws.receive() == "Hello ada."


def test_cookies_of_the_101_are_kept(client: WebSocketClient) -> None:
    for visit in ("1", "2", "3"):
        with client.websocket("/ws/visits/") as ws:
            assert ws.receive() == visit
    assert client.session["visits"] == 3


def test_subprotocols_and_a_query_are_sent(client: WebSocketClient) -> None:
    with client.websocket("/ws/choosy/", {"password": "a b"}, subprotocols=["graphql-ws"]) as ws:
        assert ws.subprotocol == "graphql-ws"
        assert ws.receive() == "Welcome."


def test_messages_are_iterated_over_until_the_view_ends(client: WebSocketClient) -> None:
    with client.websocket("/ws/5/") as ws:
        assert list(ws) == ["This is room 5."]
        assert (ws.closed, ws.close_code) == (True, 1000)


def test_bytes_come_as_bytes(client: WebSocketClient) -> None:
    with client.websocket("/ws/echo/") as ws:
        ws.send(b"\0\xff")
        assert ws.receive() == b"\0\xff"


def test_in_a_transaction_of_the_test_the_view_is_in_it_too(client: WebSocketClient) -> None:
    with transaction.atomic():
        Saying.objects.create(room=1, text="of the test")
        with client.websocket("/ws/sayings/1/") as ws:
            ws.send("of the view")
            assert ws.receive() == "2"
        transaction.set_rollback(True)
    assert Saying.objects.count() == 0


def test_outside_of_one_the_view_commits_its_own(client: WebSocketClient) -> None:
    with client.websocket("/ws/sayings/1/") as ws:
        ws.send("of the view")
        assert ws.receive() == "1"
    assert Saying.objects.count() == 1
