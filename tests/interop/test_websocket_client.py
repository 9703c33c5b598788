"""websocket-client as the client: the library that most old Python programs connect with. It knows no compression."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import gevent.socket
import pytest
import websocket
from websocket import ABNF, STATUS_NORMAL, WebSocketBadStatusException

from geventws import WebSocketServer

Serve = Callable[..., Any]
Connect = Callable[..., websocket.WebSocket]


@pytest.fixture
def open_client() -> Iterator[Connect]:
    """Connections of websocket-client, closed after the test."""
    opened: list[websocket.WebSocket] = []

    def start(url: str, **options: Any) -> websocket.WebSocket:
        opened.append(websocket.create_connection(url, timeout=10, **options))
        return opened[-1]

    yield start
    for client in opened:
        client.shutdown()


def read_close(client: websocket.WebSocket) -> tuple[int, str]:
    """Code and reason of the Close frame that comes next."""
    opcode, payload = client.recv_data(control_frame=True)
    assert opcode == ABNF.OPCODE_CLOSE
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


def test_text_of_every_size_is_echoed(serve_apart: Serve, open_client: Connect, sizes: list[int]) -> None:
    client = open_client(serve_apart().ws("/echo"))
    text = "0123456789abcdef" * 2**16
    for size in sizes:
        client.send(text[:size])
        assert client.recv() == text[:size]


def test_binary_of_every_size_is_echoed(serve_apart: Serve, open_client: Connect, sizes: list[int]) -> None:
    client = open_client(serve_apart().ws("/echo"))
    data = random.Random(6455).randbytes(2**20)
    for size in sizes:
        client.send_binary(data[:size])
        assert client.recv_data() == (ABNF.OPCODE_BINARY, data[:size])


def test_text_keeps_its_characters(serve_apart: Serve, open_client: Connect) -> None:
    client = open_client(serve_apart().ws("/echo"))
    for text in ("Grüße", "世界", "🦆" * 10_000, "\x00\x7f", "e\u0301"):
        client.send(text)
        assert client.recv() == text


def test_fragments_with_a_ping_between_them_are_joined(serve_apart: Serve, open_client: Connect) -> None:
    client = open_client(serve_apart().ws("/echo"))
    client.send_frame(ABNF.create_frame("one ", ABNF.OPCODE_TEXT, fin=0))
    client.ping("still there?")
    client.send_frame(ABNF.create_frame("", ABNF.OPCODE_CONT, fin=0))
    client.send_frame(ABNF.create_frame("message", ABNF.OPCODE_CONT, fin=1))
    assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"still there?")
    assert client.recv() == "one message"


def test_pings_are_answered_while_nobody_receives(serve_apart: Serve, open_client: Connect) -> None:
    client = open_client(serve_apart().ws("/wait"))
    for payload in ("", "a", "x" * 125):
        client.ping(payload)
        assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, payload.encode())


def test_pings_of_the_server_are_answered(serve_apart: Serve, open_client: Connect) -> None:
    server = serve_apart(ping_interval=0.02, ping_timeout=5.0)
    client = open_client(server.ws("/echo"))
    for _ in range(3):
        assert client.recv_data(control_frame=True)[0] == ABNF.OPCODE_PING
    client.send("still there")
    assert client.recv() == "still there"
    assert server.websocket("/echo").latency > 0


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
def test_the_server_closes_with_a_code_and_a_reason(serve_apart: Serve, open_client: Connect, code: int) -> None:
    server = serve_apart()
    client = open_client(server.ws("/close", code=code, reason="enough, für heute"))
    assert read_close(client) == (code, "enough, für heute")
    client.shutdown()
    # This client answers with a code of its own.
    assert server.ended()[:2] == ("/close", 1000)


@pytest.mark.parametrize("path", ["/echo", "/wait"])
@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
def test_the_client_closes_with_a_code_and_a_reason(
    serve_apart: Serve, open_client: Connect, path: str, code: int
) -> None:
    server = serve_apart()
    client = open_client(server.ws(path))
    client.send_close(code, "genug für heute".encode())
    assert server.ended() == (path, code, "genug für heute")
    assert read_close(client) == (code, "")


def test_a_close_without_a_code_is_1005(serve_apart: Serve, open_client: Connect) -> None:
    server = serve_apart()
    client = open_client(server.ws("/echo"))
    client.send_frame(ABNF.create_frame(b"", ABNF.OPCODE_CLOSE))
    assert server.ended() == ("/echo", 1005, "")
    assert client.recv_data(control_frame=True) == (ABNF.OPCODE_CLOSE, b"")


@pytest.mark.parametrize("path", ["/echo", "/wait"])
def test_a_client_that_is_just_gone_is_1006(serve_apart: Serve, open_client: Connect, path: str) -> None:
    server = serve_apart()
    open_client(server.ws(path)).shutdown()
    assert server.ended() == (path, 1006, "")


def test_a_handler_that_returns_closes_with_1000(serve_apart: Serve, open_client: Connect) -> None:
    client = open_client(serve_apart().ws("/facts"))
    client.recv()
    assert read_close(client) == (STATUS_NORMAL, "")


def test_a_refusal_is_seen_with_its_status_and_body(serve_apart: Serve) -> None:
    with pytest.raises(WebSocketBadStatusException) as caught:
        websocket.create_connection(serve_apart().ws("/secret"), timeout=10)
    assert caught.value.status_code == 401
    assert caught.value.resp_body == b"who are you?"


def test_a_page_of_elsewhere_is_refused(serve_apart: Serve) -> None:
    with pytest.raises(WebSocketBadStatusException) as caught:
        websocket.create_connection(serve_apart().ws("/echo"), timeout=10, origin="https://elsewhere.example")
    assert caught.value.status_code == 403
    assert b"https://elsewhere.example" in caught.value.resp_body


def test_headers_cookies_and_subprotocols_arrive(serve_apart: Serve, open_client: Connect) -> None:
    server = serve_apart(subprotocols=["chat"])
    client = open_client(
        server.ws("/facts"), subprotocols=["superchat", "chat"], cookie="name=ann", header=["X-Test: yes"]
    )
    assert client.getsubprotocol() == "chat"
    assert client.recv() == f"chat {server.origin} name=ann yes"


def test_a_program_of_callbacks_runs_from_open_to_close(serve_apart: Serve) -> None:
    server = serve_apart()
    events: list[Any] = []

    def on_open(app: websocket.WebSocketApp) -> None:
        events.append("open")
        app.send("hello")
        app.send(b"\x00\xff", ABNF.OPCODE_BINARY)

    def on_message(app: websocket.WebSocketApp, message: str | bytes) -> None:
        events.append(message)
        if isinstance(message, bytes):
            app.close(status=4001, reason=b"done")

    app = websocket.WebSocketApp(
        server.ws("/echo"),
        on_open=on_open,
        on_message=on_message,
        on_error=lambda app, error: events.append(error),
        on_close=lambda app, code, reason: events.append("close"),
    )
    app.run_forever()
    assert events == ["open", "hello", b"\x00\xff", "close"]
    assert server.ended() == ("/echo", 4001, "done")


def test_a_program_of_callbacks_is_told_the_code_that_the_server_closed_with(serve_apart: Serve) -> None:
    server = serve_apart()
    events: list[Any] = []
    sockets: list[socket.socket] = []
    app = websocket.WebSocketApp(
        server.ws("/close", code=4001, reason="enough"),
        on_open=lambda app: sockets.append(app.sock.sock),
        on_close=lambda app, code, reason: events.append((code, reason)),
    )
    app.run_forever()
    assert events == [(4001, "enough")]
    # This client leaves its end of TCP open.
    sockets[0].close()
    assert server.ended()[:2] == ("/close", 1000)


def test_a_program_of_callbacks_pings_by_itself(serve_apart: Serve) -> None:
    events: list[Any] = []

    def on_pong(app: websocket.WebSocketApp, payload: bytes) -> None:
        events.append(payload)
        app.close()

    app = websocket.WebSocketApp(
        serve_apart().ws("/wait"), on_pong=on_pong, on_error=lambda app, error: events.append(error)
    )
    app.run_forever(ping_interval=0.05, ping_payload="are you there?")
    assert events == [b"are you there?"]


def test_a_program_of_callbacks_reconnects_after_a_restart(serve_apart: Serve) -> None:
    server = serve_apart(WebSocketServer)
    events: SimpleQueue[Any] = SimpleQueue()

    def on_message(app: websocket.WebSocketApp, message: str) -> None:
        events.put(message)
        if message == "again":
            app.close()

    app = websocket.WebSocketApp(
        server.ws("/echo"),
        on_open=lambda app: app.send("first"),
        on_reconnect=lambda app: app.send("again"),
        on_message=on_message,
        on_close=lambda app, code, reason: events.put((code, reason)),
    )
    program = threading.Thread(target=app.run_forever, kwargs={"reconnect": 0.05})
    program.start()
    assert events.get(timeout=10) == "first"
    server.stop()
    server.restart()
    assert events.get(timeout=10) == "again"
    program.join(10)
    assert not program.is_alive()


def test_a_hundred_clients_are_served_at_once(serve_apart: Serve, open_client: Connect) -> None:
    server = serve_apart()
    clients = [open_client(server.ws("/echo")) for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(str(number))
    assert [client.recv() for client in reversed(clients)] == [str(number) for number in reversed(range(100))]


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")
def test_a_megabyte_is_echoed_over_tls(serve_apart: Serve, open_client: Connect, certificates: Any) -> None:
    server = serve_apart(arguments=certificates.server_arguments)
    client = open_client(
        server.ws("/echo"), sslopt={"ca_certs": certificates.authority, "cert_reqs": ssl.CERT_REQUIRED}
    )
    data = random.Random(7692).randbytes(2**20)
    client.send_binary(data)
    assert client.recv() == data
    client.send_close(4321, b"done")
    assert server.ended() == ("/echo", 4321, "done")


def test_messages_go_over_a_unix_socket(serve_apart: Serve, open_client: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def listener() -> gevent.socket.socket:
        listening = gevent.socket.socket(gevent.socket.AF_UNIX)
        listening.bind(path)
        listening.listen(16)
        return listening

    serve_apart(listener=listener)
    with closing(socket.socket(socket.AF_UNIX)) as connected:
        connected.connect(path)
        client = open_client("ws://localhost/echo", socket=connected)
        client.send("x" * 2**20)
        assert client.recv() == "x" * 2**20
