"""`websockets`, the library, as the client: its blocking interface, with permessage-deflate unless a test says otherwise."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
from waiting import wait_until
from websockets import ClientConnection, ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.asyncio.client import connect as async_connect
from websockets.sync.client import connect, unix_connect

from geventws import WebSocketServer

DEFLATE = {"deflate": True, "plain": False}
compression = pytest.mark.parametrize("compression", DEFLATE.values(), ids=DEFLATE.keys())

Serve = Callable[..., Any]


@pytest.fixture
def open_client() -> Iterator[Callable[..., Any]]:
    """`websockets` connections that are closed after the test."""
    with ExitStack() as stack:

        def start(url: str, **options: Any) -> ClientConnection:
            return stack.enter_context(connect(url, open_timeout=10, close_timeout=10, max_size=None, **options))

        yield start


@compression
def test_text_of_every_size_is_echoed(
    serve_apart: Serve, open_client: Any, sizes: list[int], compression: bool
) -> None:
    client = open_client(serve_apart(compression=compression).ws("/echo"))
    assert bool(client.protocol.extensions) == compression
    text = "0123456789abcdef" * 2**16
    for size in sizes:
        client.send(text[:size])
        assert client.recv(timeout=10) == text[:size]


@compression
def test_binary_of_every_size_is_echoed(
    serve_apart: Serve, open_client: Any, sizes: list[int], compression: bool
) -> None:
    client = open_client(serve_apart(compression=compression).ws("/echo"))
    data = random.Random(6455).randbytes(2**20)
    for size in sizes:
        client.send(data[:size])
        assert client.recv(timeout=10) == data[:size]


def test_text_keeps_its_characters(serve_apart: Serve, open_client: Any) -> None:
    client = open_client(serve_apart(compression=True).ws("/echo"))
    for text in ("Grüße", "世界", "🦆" * 10_000, "\x00\x7f", "e\u0301"):
        client.send(text)
        assert client.recv(timeout=10) == text


@compression
def test_a_megabyte_comes_back_from_many_small_fragments(
    serve_apart: Serve, open_client: Any, compression: bool
) -> None:
    client = open_client(serve_apart(compression=compression).ws("/echo"))
    pieces = [bytes([number % 251]) * number for number in range(1, 1400)]
    client.send(pieces)
    assert client.recv(timeout=10) == b"".join(pieces)


@compression
def test_text_is_cut_into_fragments_anywhere(serve_apart: Serve, open_client: Any, compression: bool) -> None:
    client = open_client(serve_apart(compression=compression).ws("/echo"))
    client.send(["", "Gr", "üß", "e ", "", "世界" * 40_000, ""])
    assert client.recv(timeout=10) == "Grüße " + "世界" * 40_000


@compression
def test_many_messages_are_answered_in_order(serve_apart: Serve, open_client: Any, compression: bool) -> None:
    client = open_client(serve_apart(compression=compression).ws("/echo"), max_queue=None)
    for number in range(2_000):
        client.send(f"message {number}")
    assert [client.recv(timeout=10) for _ in range(2_000)] == [f"message {number}" for number in range(2_000)]


def test_a_message_beyond_the_limit_is_refused_with_1009(serve_apart: Serve, open_client: Any) -> None:
    server = serve_apart(compression=True)
    client = open_client(server.ws("/echo"))
    # Only a kilobyte on the wire.
    client.send("x" * (2**20 + 1))
    with pytest.raises(ConnectionClosedError) as caught:
        client.recv(timeout=10)
    assert caught.value.rcvd.code == 1009
    assert server.ended()[:2] == ("/echo", 1009)


def test_pings_of_the_client_are_answered(serve_apart: Serve, open_client: Any) -> None:
    client = open_client(serve_apart().ws("/echo"), ping_interval=None)
    assert client.ping().wait(10)
    assert client.ping(b"x" * 125).wait(10)
    assert client.latency > 0


def test_pings_of_the_client_are_answered_while_nobody_receives(serve_apart: Serve, open_client: Any) -> None:
    client = open_client(serve_apart().ws("/wait"), ping_interval=None)
    assert client.ping(b"anybody?").wait(10)


def test_the_server_measures_its_latency(serve_apart: Serve, open_client: Any) -> None:
    server = serve_apart(ping_interval=0.05, ping_timeout=5.0)
    open_client(server.ws("/echo"))
    wait_until(lambda: server.websocket("/echo").latency is not None)
    assert 0 < server.websocket("/echo").latency < 5


def test_a_connection_lives_on_its_pings(serve_apart: Serve, open_client: Any) -> None:
    server = serve_apart(ping_interval=0.02, ping_timeout=5.0)
    client = open_client(server.ws("/echo"), ping_interval=0.02, ping_timeout=5)
    sent = server.websocket("/echo")
    # Ten or so pings each way: Close frames and messages still go between them.
    wait_until(lambda: sent.counts[1] > 100)
    client.send("still there")
    assert client.recv(timeout=10) == "still there"


CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("code", CODES)
def test_the_server_closes_with_a_code_and_a_reason(serve_apart: Serve, open_client: Any, code: int) -> None:
    server = serve_apart()
    client = open_client(server.ws("/close", code=code, reason="enough, für heute"))
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=10)
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "enough, für heute")
    assert caught.value.rcvd_then_sent
    # The client answers with the same code.
    assert server.ended()[:2] == ("/close", code)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("path", ["/echo", "/wait"])
def test_the_client_closes_with_a_code_and_a_reason(serve_apart: Serve, open_client: Any, path: str, code: int) -> None:
    server = serve_apart()
    client = open_client(server.ws(path))
    client.close(code, "genug für heute")
    assert server.ended() == (path, code, "genug für heute")
    assert (client.close_code, client.protocol.close_rcvd_then_sent) == (code, False)


def test_a_handler_that_returns_closes_with_1000(serve_apart: Serve, open_client: Any) -> None:
    client = open_client(serve_apart().ws("/facts"))
    client.recv(timeout=10)
    with pytest.raises(ConnectionClosedOK):
        client.recv(timeout=10)
    assert client.close_code == 1000


def test_a_server_that_stops_says_1001(serve_apart: Serve, open_client: Any) -> None:
    server = serve_apart(WebSocketServer)
    clients = [open_client(server.ws(path)) for path in ("/echo", "/wait", "/echo")]
    server.stop()
    for client in clients:
        with pytest.raises(ConnectionClosedOK):
            client.recv(timeout=10)
        assert client.close_code == 1001


def test_a_refusal_is_seen_with_its_status_and_body(serve_apart: Serve) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(serve_apart().ws("/secret"))
    assert (caught.value.response.status_code, caught.value.response.body) == (401, b"who are you?")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("{origin}", 101), ("http://127.0.0.1", 403), ("https://elsewhere.example", 403), ("null", 403)],
)
def test_a_page_of_elsewhere_is_refused(serve_apart: Serve, open_client: Any, origin: str, status: int) -> None:
    server = serve_apart()
    try:
        response = open_client(server.ws("/echo"), origin=origin.format(origin=server.origin)).response
    except InvalidStatus as error:
        response = error.response
    assert response.status_code == status


def test_the_subprotocol_that_the_server_prefers_is_chosen(serve_apart: Serve, open_client: Any) -> None:
    client = open_client(
        serve_apart(subprotocols=["v2.chat", "v1.chat"]).ws("/facts"), subprotocols=["v1.chat", "v2.chat"]
    )
    assert client.subprotocol == "v2.chat"
    assert client.recv(timeout=10).split()[0] == "v2.chat"


def test_a_slow_reader_gets_everything(serve_apart: Serve, open_client: Any) -> None:
    server = serve_apart()
    client = open_client(server.ws("/push", count=40, size=1_000_003), max_queue=2)
    # Until the server can send no more.
    wait_until(lambda: server.websocket("/push").buffered_amount > 0)
    for number in range(40):
        data = client.recv(timeout=10)
        assert len(data) == 1_000_003
        assert data.count(number) == len(data)
    client.close()
    assert server.ended()[1] == 1000


# TLS. The blocking interface reads and writes in two threads, and OpenSSL, before Python puts a lock around it, does not bear
# that: now and then a request never leaves. So it is the interface of asyncio that is used here.

# What gevent makes of `keyfile` and `certfile`.
over_tls = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")


def converse(url: str, certificates: Any, conversation: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    """Connect to `url`, do what `conversation` does with the connection, and close it."""

    async def run() -> None:
        async with async_connect(url, ssl=certificates.client_context, max_size=None, **options) as client:
            await conversation(client)
        client.transport.close()  # Before Python 3.11 asyncio does not count the server's end of TLS as its own.

    asyncio.run(asyncio.wait_for(run(), timeout=30))


@over_tls
@compression
def test_a_megabyte_is_echoed_over_tls(serve_apart: Serve, certificates: Any, compression: bool) -> None:
    server = serve_apart(arguments=certificates.server_arguments, compression=compression)
    data = random.Random(7692).randbytes(2**20)

    async def echo(client: Any) -> None:
        assert bool(client.protocol.extensions) == compression
        for size in (0, 1, 125, 126, 16_383, 16_384, 16_385, 65_535, 65_536, 2**20):
            await client.send(data[:size])
            assert await client.recv() == data[:size]
        await client.send("x" * 2**20)
        assert await client.recv() == "x" * 2**20
        await client.close(4321, "done")

    converse(server.ws("/echo"), certificates, echo)
    assert server.ended() == ("/echo", 4321, "done")


@over_tls
def test_many_messages_are_answered_in_order_over_tls(serve_apart: Serve, certificates: Any) -> None:
    server = serve_apart(arguments=certificates.server_arguments)

    async def send_all_then_receive(client: Any) -> None:
        for number in range(2_000):
            await client.send(f"message {number}")
        assert [await client.recv() for _ in range(2_000)] == [f"message {number}" for number in range(2_000)]

    converse(server.ws("/echo"), certificates, send_all_then_receive, max_queue=None)


@over_tls
def test_a_slow_reader_gets_everything_over_tls(serve_apart: Serve, certificates: Any) -> None:
    server = serve_apart(arguments=certificates.server_arguments)

    async def read_late(client: Any) -> None:
        while not server.websocket("/push").buffered_amount:
            await asyncio.sleep(0.001)
        for number in range(40):
            data = await client.recv()
            assert len(data) == 1_000_003
            assert data.count(number) == len(data)

    converse(server.ws("/push", count=40, size=1_000_003), certificates, read_late, max_queue=2)
    assert server.ended()[1] == 1000


@over_tls
def test_a_page_and_pings_go_over_tls(serve_apart: Serve, certificates: Any) -> None:
    server = serve_apart(arguments=certificates.server_arguments)

    async def ping(client: Any) -> None:
        await (await client.ping(b"anybody?"))

    converse(server.ws("/wait"), certificates, ping, origin=server.origin)


@over_tls
def test_a_server_with_tls_that_stops_says_1001(serve_apart: Serve, certificates: Any) -> None:
    server = serve_apart(WebSocketServer, arguments=certificates.server_arguments)

    async def be_told(client: Any) -> None:
        stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        assert client.close_code == 1001
        await stopping

    converse(server.ws("/echo"), certificates, be_told)


# Unix sockets.


def test_messages_go_over_a_unix_socket(serve_apart: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def listener() -> gevent.socket.socket:
        listening = gevent.socket.socket(gevent.socket.AF_UNIX)
        listening.bind(path)
        listening.listen(16)
        return listening

    server = serve_apart(listener=listener)
    with unix_connect(path, "ws://localhost/echo") as one, unix_connect(path, "ws://localhost/echo") as other:
        one.send("x" * 2**20)
        other.send(b"y" * 2**20)
        assert one.recv(timeout=10) == "x" * 2**20
        assert other.recv(timeout=10) == b"y" * 2**20
        one.close(4001, "first")
        assert server.ended() == ("/echo", 4001, "first")
        other.close(4002, "second")
        assert server.ended() == ("/echo", 4002, "second")
