"""One Flask program, unchanged, on every server, started as its users start it. A row of the table is a server.

What is special to a server is tested in a module of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import websocket
from rawclient import BINARY, TEXT, close_frame, frame
from rawclient import request as opening_request
from servers.page import command, program
from servers.started import Client, Started, require, unexpected_tracebacks
from waiting import wait_until


class Server(NamedTuple):
    """A row: how a server is started, and what has to be there for it."""

    id: str
    command: tuple[str, ...]
    requires: tuple[str, ...] = ()
    files: Mapping[str, str] = {}
    loses_early_messages: bool = False
    """Whether what a client sends before it has the 101, which RFC 6455 section 4.1 forbids, stays in the server's hands."""


CONTINUATION = 0x0

LOG = ("--access-logfile", "-")
PATCHED = "geventws.servers.gunicorn.PatchedGeventWebSocketWorker"

# As users start them: the commands and the programs are those of docs/deployment.md.
SERVERS = (
    Server("geventws", command("geventws")),
    Server("gunicorn-gevent", (*command("gunicorn"), *LOG), requires=("gunicorn",)),
    Server("gunicorn-gevent-patched", (*command("gunicorn"), *LOG, "-k", PATCHED), requires=("gunicorn",)),
    Server("gunicorn-its-gevent", (*command("gunicorn", 1), *LOG), requires=("gunicorn",)),
    Server("gunicorn-threads", (*command("gunicorn with threads"), *LOG), requires=("gunicorn",)),
    Server("gunicorn-polite-threads", (*command("gunicorn with threads", 1), *LOG), requires=("gunicorn",)),
    Server("flask-run", command("werkzeug")),
    Server("werkzeug-reloader-debugger", ("{python}", "run.py", "{port}"), files=program("werkzeug", "run.py")),
    Server("wsgiref", ("{python}", "serve.py", "{port}"), files=program("wsgiref", "serve.py")),
    Server("uwsgi-gevent", command("uWSGI"), requires=("uwsgi",), loses_early_messages=True),
    Server("uwsgi-router", command("uWSGI", 1), requires=("uwsgi",), loses_early_messages=True),
    Server("uwsgi-threads", command("uWSGI", 2), requires=("uwsgi",), loses_early_messages=True),
)


@pytest.fixture(scope="module", params=SERVERS, ids=lambda row: row.id)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One process for all tests of a row. It may log no traceback but for the errors that the program makes on purpose."""
    row: Server = request.param
    require(*row.requires)
    started = Started(row.command, tmp_path_factory.mktemp(row.id), files=row.files)
    started.row = row  # type: ignore[attr-defined]
    try:
        yield started
    finally:
        started.kill()
    assert not unexpected_tracebacks(started.output), started.output


def how_it_ended(server: Started, name: str) -> dict[str, Any]:
    """What the program saw of the end of a connection, waited for."""
    wait_until(lambda: server.get(f"/ended/{name}").status == 200, 20)
    ended: dict[str, Any] = json.loads(server.get(f"/ended/{name}").body)
    return ended


def echoed(client: Client, opcode: int, payload: bytes) -> None:
    client.send(frame(opcode, payload))
    assert client.read_kind() == (opcode, payload)


# What is refused, and what fails.


def test_a_view_refuses_the_handshake_with_an_http_response(server: Started) -> None:
    response = server.answer("/members")
    assert response.status == 401
    assert b"Unauthorized" in response.body


def test_a_path_that_is_no_websocket_s_is_not_found(server: Started) -> None:
    assert server.answer("/nowhere").status == 404


def test_a_broken_handshake_is_answered_400(server: Started) -> None:
    assert server.answer("/echo", Sec_WebSocket_Key="short").status == 400


def test_a_page_of_another_site_is_refused(server: Started) -> None:
    assert server.answer("/echo", Origin="https://evil.example").status == 403


def test_an_exception_closes_with_1011(server: Started) -> None:
    with server.client("/fails") as client:
        assert client.read_text() == "about to fail"
        assert client.read_close() == 1011
    server.wrote("on purpose")


def test_a_frame_against_the_protocol_closes_with_1002(server: Started) -> None:
    with server.client("/echo") as client:
        client.send(frame(TEXT, "unmasked", mask=None))
        assert client.read_close() == 1002
        assert client.at_end()


def test_a_message_over_the_limit_closes_with_1009(server: Started) -> None:
    with server.client("/echo") as client:
        client.send(frame(BINARY, bytes(2**20 + 1))[:64])
        assert client.read_close() == 1009


def test_a_peer_that_vanishes_is_found(server: Started) -> None:
    with server.client("/silent/vanished"):
        # It is still connected, reads nothing and says nothing.
        assert how_it_ended(server, "vanished")["code"] == 1006


def test_a_peer_that_resets_the_connection_is_noticed(server: Started) -> None:
    client = server.client("/listens/reset")
    client.reset()
    assert how_it_ended(server, "reset")["code"] == 1006


# Messages.


def test_text_and_binary_come_back_as_what_they_are(server: Started) -> None:
    with server.client("/echo") as client:
        echoed(client, TEXT, "häi".encode())
        echoed(client, BINARY, b"\x00\xff")
        echoed(client, TEXT, b"")
        echoed(client, BINARY, b"")
        assert client.close_handshake() == 1000


def test_the_view_tells_text_from_binary(server: Started) -> None:
    with server.client("/kind") as client:
        client.send(frame(TEXT, "text") + frame(BINARY, "binary"))
        assert [client.read_text(), client.read_text()] == ["str", "bytes"]


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_a_mebibyte_comes_back_whole(server: Started, opcode: int) -> None:
    with server.client("/echo") as client:
        echoed(client, opcode, b"0123456789abcdef" * 2**16)


def test_fragments_of_concurrent_connections_do_not_mix(server: Started) -> None:
    with server.client("/echo") as one, server.client("/echo") as other:
        one.send(frame(TEXT, "one ", fin=False))
        other.send(frame(BINARY, "other ", fin=False))
        one.send(frame(CONTINUATION, "after "))
        other.send(frame(CONTINUATION, "another"))
        assert one.read_kind() == (TEXT, b"one after ")
        assert other.read_kind() == (BINARY, b"other another")


def test_what_is_sent_right_behind_the_handshake_is_not_lost(server: Started) -> None:
    with server.client() as client:
        client.send(opening_request("/echo") + frame(TEXT, "early"))
        assert client.read_response().status == 101
        if server.row.loses_early_messages:  # type: ignore[attr-defined]
            client.send(frame(TEXT, "in time"))
            assert client.read_text() == "in time"
        else:
            assert client.read_text() == "early"


def test_many_messages_in_flight_come_back_in_order(server: Started) -> None:
    with server.client("/echo") as client:
        client.send(b"".join(frame(TEXT, str(number)) for number in range(300)))
        assert [client.read_text() for _ in range(300)] == [str(number) for number in range(300)]


def test_a_second_thread_may_send(server: Started) -> None:
    with server.client("/thread") as client:
        assert [client.read_text(), client.read_text()] == ["from a thread", "from the handler"]
        assert client.read_close() == 1000


def test_the_server_pings_as_often_as_the_configuration_says(server: Started) -> None:
    with server.client("/echo") as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_text() == "hi"
        while not client.pings:
            # A message is read behind the pings that came before it.
            client.send(frame(TEXT, "and"))
            client.read_text()


# The end.


def test_the_client_s_close_code_and_reason_reach_the_view(server: Started) -> None:
    with server.client("/listens/coded") as client:
        client.send(close_frame(4001, "bye"))
        assert client.read_close() == 4001
        assert client.at_end()
    assert how_it_ended(server, "coded") == {"code": 4001, "reason": "bye"}


def test_the_view_s_close_code_reaches_the_client(server: Started) -> None:
    with server.client("/closes/4002") as client:
        assert client.read_close() == 4002
        client.send(close_frame(4002))
        assert client.at_end()


@pytest.mark.parametrize("path", ["ticks", "waits"])
def test_a_view_that_never_receives_notices_the_close(server: Started, path: str) -> None:
    with server.client(f"/{path}/noticed-{path}") as client:
        client.send(close_frame(4003))
        received = client.read_frame()
        while received.opcode == TEXT:
            received = client.read_frame()
        assert client.at_end()
    assert how_it_ended(server, f"noticed-{path}")["code"] == 4003


def test_a_view_that_returns_closes_with_1000_and_tcp_ends(server: Started) -> None:
    with server.client("/speaks") as client:
        assert client.read_text() == "nothing"
        assert client.read_close() == 1000
        client.send(close_frame(1000))
        assert client.at_end()


# What Flask gives.


def test_the_session_is_saved_in_the_101_and_read_by_the_next_handshake(server: Started) -> None:
    with server.client() as client:
        response = client.open("/login?user=ada")
        assert client.read_text() == "welcome"
    (cookie,) = response.set_cookies
    with server.client("/members", Cookie=cookie.partition(";")[0]) as client:
        assert client.read_text() == "ada"


def test_a_subprotocol_is_agreed_on(server: Started) -> None:
    with server.client() as client:
        response = client.open("/speaks", Sec_WebSocket_Protocol="v1.chat, v0.chat")
        assert response.headers["sec-websocket-protocol"] == "v1.chat"
        assert client.read_text() == "v1.chat"


def test_a_blueprint_s_rule_with_a_converter_is_served(server: Started) -> None:
    with server.client("/chat/rooms/41") as client:
        assert client.read_text() == "room 42"
    assert server.answer("/chat/rooms/none").status == 404


def test_the_view_sees_the_request_as_it_was(server: Started) -> None:
    with server.client("/facts?a=b%20c", Host="localhost:1234") as client:
        assert client.read_text() == "127.0.0.1 http localhost:1234 b c /facts"


def test_plain_requests_are_answered_beside_an_open_websocket(server: Started) -> None:
    with server.client("/echo") as client:
        assert server.get("/").body == b"page"
        assert server.get("/length", "POST", b"x" * 100_000).body == b"100000"
        assert server.get("/nowhere").status == 404
        echoed(client, TEXT, b"still here")


def test_a_client_nobody_here_wrote_is_served(server: Started, in_thread: Any) -> None:
    def talk() -> list[Any]:
        client = websocket.create_connection(f"ws://127.0.0.1:{server.port}/echo", timeout=20)
        client.send("text")
        client.send_binary(b"binary" * 10_000)
        received = [client.recv(), client.recv()]
        client.close()
        return received

    assert in_thread(talk) == ["text", b"binary" * 10_000]
