"""Messages sent while more input is at hand leave together: when, in which order, and what becomes of them at the end."""

from __future__ import annotations

import signal
import socket
import ssl
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from rawclient import BINARY, CLOSE, PING, PONG, TEXT, RawClient, close_frame, frame
from waiting import Event, Result, pause, together
from worlds import BOTH, World, natively

from geventws import ConnectionClosed, DeflateOptions, State, WebSocket

WORLDS = BOTH

GO = frame(TEXT, "go")


def app_of(handler: Callable[[WebSocket], Any]) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        handler(environ["wsgi.websocket"])
        return []

    return app


@pytest.fixture
def run(serve: Any) -> Any:
    """`run(handler)`: a client whose first message has been received, with two more that lie in the buffer."""
    clients = []

    def start(handler: Callable[[WebSocket], Any], **options: Any) -> RawClient:
        def first(ws: WebSocket) -> None:
            assert ws.receive() == "go"
            handler(ws)

        client = serve(app_of(first), **options).client("/")
        clients.append(client)
        client.send(GO * 3)
        return client

    yield start
    for client in clients:
        client.socket.close()


def test_they_leave_while_the_handler_sleeps(run: Any) -> None:
    over = Event()

    def handler(ws: WebSocket) -> None:
        ws.send("a")
        ws.send("b")
        over.wait()
        assert ws.buffered_amount == 0

    client = run(handler)
    assert [client.read_text(), client.read_text()] == ["a", "b"]
    over.set()


@pytest.mark.world("gevent", "native threads have no turns")
def test_they_leave_in_the_hub_s_next_turn(run: Any) -> None:
    over = Event()

    def handler(ws: WebSocket) -> None:
        ws.send("a")
        ws.send("b")
        assert ws.buffered_amount > 0
        gevent.sleep(0)
        gevent.sleep(0)
        assert ws.buffered_amount == 0
        over.wait()

    client = run(handler)
    assert [client.read_text(), client.read_text()] == ["a", "b"]
    over.set()


def test_they_leave_when_the_handler_waits_for_the_next_message(run: Any) -> None:
    def handler(ws: WebSocket) -> None:
        for _ in range(3):
            ws.send("answer")
            if ws.receive() is None:
                return

    client = run(handler)
    assert [client.read_text() for _ in range(3)] == ["answer"] * 3


@pytest.mark.parametrize("how", ["returns", "closes", "raises", "leaves its with block"])
def test_they_leave_before_the_close_frame_when_the_handler(run: Any, how: str, caplog: Any) -> None:
    code = 1011 if how == "raises" else 1000

    def handler(ws: WebSocket) -> None:
        ws.send("a")
        ws.send("b")
        if how == "closes":
            ws.close()
        elif how == "raises":
            raise RuntimeError("planned")
        elif how == "leaves its with block":
            with ws:
                ws.send("c")

    client = run(handler)
    assert [client.read_text(), client.read_text()] == ["a", "b"]
    if how == "leaves its with block":
        assert client.read_text() == "c"
    assert client.read_close() == code


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_they_leave_before_the_close_frame_when_the_handler_is_killed(run: Any) -> None:
    def handler(ws: WebSocket) -> None:
        ws.send("a")
        ws.send("b")
        raise gevent.GreenletExit

    client = run(handler)
    assert [client.read_text(), client.read_text()] == ["a", "b"]
    assert client.read_close() == 1001


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_a_handler_that_is_killed_from_outside_right_after_it_sent_has_sent(run: Any) -> None:
    def handler(ws: WebSocket) -> None:
        me = gevent.getcurrent()
        gevent.spawn(me.kill, block=False)
        ws.send("a")
        gevent.sleep(10)

    assert run(handler).read_text() == "a"


def test_a_hang_up_right_after_a_send_sends_it(run: Any) -> None:
    def handler(ws: WebSocket) -> None:
        ws.send("a")
        ws.hang_up()

    assert run(handler).read_text() == "a"


def test_no_more_than_64_kib_is_kept_back(run: Any) -> None:
    amounts = []
    over = Event()

    def handler(ws: WebSocket) -> None:
        for _ in range(300):
            ws.send("x" * 1000)
            amounts.append(ws.buffered_amount)
        over.wait()

    client = run(handler)
    for _ in range(300):
        assert client.read_text() == "x" * 1000
    over.set()
    assert 1000 < max(amounts) < 66 * 1024


def test_small_and_large_messages_and_control_frames_arrive_in_the_order_in_which_they_were_sent(run: Any) -> None:
    sizes = [1, 200, 16 * 1024 - 1, 5, 16 * 1024, 40_000, 2, 32 * 1024, 3, 70_000, 4, 300_000, 1]
    over = Event()

    def handler(ws: WebSocket) -> None:
        for index, size in enumerate(sizes):
            ws.send(bytes([index]) * size)
            if index % 4 == 3:
                ws.ping(bytes([index]))
        over.wait()

    client = run(handler)
    for index, size in enumerate(sizes):
        received = client.read_frame()
        assert (received.opcode, received.payload) == (BINARY, bytes([index]) * size)
        if index % 4 == 3:
            received = client.read_frame()
            assert (received.opcode, received.payload) == (PING, bytes([index]))
    over.set()


def test_a_pong_comes_after_what_was_sent_before_its_ping_was_read(serve: Any) -> None:
    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)

    client = serve(app_of(handler)).client("/")
    client.send(frame(TEXT, "1") + frame(TEXT, "2") + frame(PING, b"p") + frame(TEXT, "3") + close_frame(1000))
    frames = [client.read_frame() for _ in range(5)]
    client.socket.close()
    assert [(one.opcode, one.payload[:1]) for one in frames[:4]] == [
        (TEXT, b"1"),
        (TEXT, b"2"),
        (PONG, b"p"),
        (TEXT, b"3"),
    ]
    assert frames[4].opcode == CLOSE


def test_messages_of_several_greenlets_and_threads_keep_each_one_s_order(run: Any) -> None:
    over = Event()

    def handler(ws: WebSocket) -> None:
        def send(name: str) -> None:
            for number in range(50):
                ws.send(f"{name}{number}")
                if number % 7 == 0:
                    pause(0)

        def send_natively(name: str) -> None:
            for number in range(50):
                ws.send(f"{name}{number}")

        here = [partial(send, name) for name in "abc"]
        there = [partial(natively, send_natively, name) for name in "xy"]
        together(*here, *there)
        over.wait()

    client = run(handler)
    got: dict[str, list[int]] = {}
    for _ in range(250):
        text = client.read_text()
        got.setdefault(text[0], []).append(int(text[1:]))
    over.set()
    assert got == {name: list(range(50)) for name in "abcxy"}


def test_what_cannot_leave_any_more_is_told_by_the_next_call(run: Any, world: World) -> None:
    told = Result()

    def handler(ws: WebSocket) -> None:
        ws._transport._socket.shutdown(2)
        sent = []
        try:
            ws.send("a")
            sent.append("a")
            while ws.buffered_amount:
                pause(0)
            ws.send("b")
        except ConnectionClosed:
            # In a native thread the end may be noticed before anything is sent.
            told.set(sent == ["a"] or world.threads)
        else:
            told.set(False)

    run(handler)
    assert told.get(timeout=5)


def test_a_peer_that_never_reads_is_given_up_after_send_timeout_and_memory_is_bounded(run: Any) -> None:
    amounts: list[int] = []
    ended = Event()

    def handler(ws: WebSocket) -> None:
        try:
            while True:
                ws.send("x" * 10_000)
                amounts.append(ws.buffered_amount)
        except ConnectionClosed:
            ended.set()

    run(handler, send_timeout=0.2)
    assert ended.wait(10)
    assert max(amounts) < 200_000


def test_a_peer_that_never_reads_is_given_up_though_the_handler_only_sleeps(run: Any) -> None:
    gone = Event()

    def handler(ws: WebSocket) -> None:
        ws._transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        # Beside a native thread it may be given up just before something is sent.
        with suppress(ConnectionClosed):
            while ws.state is State.OPEN:
                # Taken at once, as more lies in the buffer: it is the hub that finds that the kernel is full.
                if not ws.buffered_amount:
                    ws.send("x" * 60_000)
                gevent.sleep(0.001)
        gone.set()

    run(handler, send_timeout=0.2)
    assert gone.wait(10)


def test_compressed_messages_leave_together_and_inflate_in_their_order(serve: Any) -> None:
    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message * 500)

    client = serve(app_of(handler), compression=DeflateOptions(threshold=1)).client(
        "/", Sec_WebSocket_Extensions="permessage-deflate"
    )
    client.send(b"".join(frame(TEXT, str(number)) for number in range(10)))
    inflater = zlib.decompressobj(-15)
    texts = []
    for _ in range(10):
        received = client.read_frame()
        assert received.first & 0x40
        texts.append(inflater.decompress(received.payload + b"\0\0\xff\xff").decode())
    client.socket.close()
    assert texts == [str(number) * 500 for number in range(10)]


def test_over_tls_they_leave_as_well(serve: Any, world: World) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ours = world.tls_context(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)

    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)
            ws.send(b"y" * 50_000)

    served = serve(app_of(handler), server_arguments={"ssl_context": ours})
    plain = gevent.socket.create_connection(served.address, timeout=10)
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    client = RawClient(served.address, socket=context.wrap_socket(plain, server_hostname="localhost"))
    client.open("/")
    client.send(b"".join(frame(TEXT, str(number)) for number in range(20)))
    for number in range(20):
        assert client.read_text() == str(number)
        assert client.read_frame().payload == b"y" * 50_000
    client.socket.close()


def test_signals_at_a_high_rate_tear_no_frame(run: Any) -> None:
    over = Event()

    def handler(ws: WebSocket) -> None:
        for number in range(300):
            ws.send(bytes([number % 256]) * (number * 100))
        over.wait()

    earlier = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        client = run(handler)
        for number in range(300):
            assert client.read_frame().payload == bytes([number % 256]) * (number * 100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    over.set()
