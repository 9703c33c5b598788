"""`WebSocket`: what user code holds, in both worlds. Receiving, sending, closing, time, and peers that do not behave."""

from __future__ import annotations

import gc
import logging
import random
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from rawclient import BINARY, CLOSE, PING, PONG, TEXT, RawClient, close_frame, frame, request
from waiting import Event, Result, pause, together, wait_until
from worlds import BOTH, World, natively

from geventws import ConnectionClosed, InvalidState, State, WebSocket, WebSocketError
from geventws.keepalive import Keepalive

WORLDS = BOTH

Handler = Callable[[WebSocket], Any]


def app_of(handler: Handler) -> Callable[..., Any]:
    """A WSGI application that hands its WebSocket to `handler`."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        handler(environ["wsgi.websocket"])
        return []

    return app


class Held:
    """Serves one connection whose handler gives the WebSocket to the test and waits until the test has done with it."""

    def __init__(self, serve: Any, world: World, **options: Any) -> None:
        self._here = Result()
        self.done = Event()
        self.served = serve(app_of(self._handle), **options)
        self.client: RawClient = self.served.client("/")
        self.ws: WebSocket = world.reach(self._here.get(timeout=5))

    def _handle(self, ws: WebSocket) -> None:
        ws.accept()
        self._here.set(ws)
        self.done.wait()

    def receiving(self) -> gevent.Greenlet[..., Any]:
        """Somebody who is in `receive`."""
        receiver = gevent.spawn(self.ws.receive)
        wait_until(lambda: self.ws._transport.receiving)  # type: ignore[union-attr]
        return receiver


@pytest.fixture
def hold(serve: Any, world: World) -> Any:
    """`hold(**options)`: an open connection, held by the test from both ends."""
    held: list[Held] = []

    def start(**options: Any) -> Held:
        held.append(Held(serve, world, **options))
        return held[-1]

    yield start
    for one in held:
        one.client.socket.close()
        one.done.set()


# Receiving.


def test_receive_gives_none_once_and_then_raises(hold: Any) -> None:
    held = hold()
    held.client.send(close_frame(4001, "enough"))
    assert held.ws.receive() is None
    assert held.ws.closed
    assert (held.ws.close_code, held.ws.close_reason) == (4001, "enough")
    with pytest.raises(ConnectionClosed) as error:
        held.ws.receive()
    assert (error.value.code, error.value.reason) == (4001, "enough")
    assert isinstance(error.value, WebSocketError)


def test_receive_gives_text_as_str_and_binary_as_bytes(hold: Any) -> None:
    held = hold()
    held.client.send(frame(TEXT, "grüß") + frame(BINARY, b"\x00\xff") + frame(TEXT, "") + frame(BINARY, b""))
    assert [held.ws.receive() for _ in range(4)] == ["grüß", b"\x00\xff", "", b""]


def test_receive_times_out_and_the_connection_goes_on(hold: Any) -> None:
    held = hold()
    for seconds in (0, 0.01):
        with pytest.raises(TimeoutError):
            held.ws.receive(timeout=seconds)
    held.client.send(frame(TEXT, "later"))
    assert held.ws.receive(timeout=5) == "later"


def test_receive_with_no_time_takes_what_nobody_has_looked_at_yet(hold: Any) -> None:
    held = hold()
    gevent.sleep(0.01)
    held.client.send(frame(TEXT, "one") + frame(TEXT, "two"))
    assert held.ws.receive(timeout=0) == "one"
    assert held.ws.receive(timeout=0) == "two"
    with pytest.raises(TimeoutError):
        held.ws.receive(timeout=0)


@pytest.mark.parametrize("timeout", ["5", float("nan"), True])
def test_a_timeout_that_is_no_number_is_a_type_error(hold: Any, timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout"):
        hold().ws.receive(timeout=timeout)


def test_the_time_to_wait_begins_with_the_call_however_long_the_thread_was_busy_before(hold: Any) -> None:
    held = hold()
    with pytest.raises(TimeoutError):
        held.ws.receive(timeout=0.01)
    time.sleep(0.4)  # The hub does not turn meanwhile.
    gevent.spawn_later(0.05, held.client.send, frame(TEXT, "in time"))
    assert held.ws.receive(timeout=0.3) == "in time"


def flood(client: RawClient, data: bytes) -> None:
    """Send without end, until the connection is gone."""
    try:
        while True:
            client.send(data)
    except OSError:
        pass


@pytest.mark.parametrize("what", [frame(PONG), frame(PING), frame(TEXT)], ids=["pongs", "pings", "empty messages"])
@pytest.mark.parametrize("reading", [True, False], ids=["receiving", "sleeping"])
def test_a_peer_that_floods_does_not_keep_others_from_being_served(serve: Any, what: bytes, reading: bool) -> None:
    def handler(ws: WebSocket) -> None:
        if ws.path == "/flood":
            while not ws.closed:
                if reading:
                    ws.receive()
                else:
                    pause(0.01)
        else:
            for message in ws:
                ws.send(message)

    served = serve(app_of(handler))
    with served.client("/flood") as flooding, served.client("/") as other:
        flooder = gevent.spawn(natively, flood_natively, served.address, what * 5000)
        slowest = 0.0
        for _ in range(20):
            started = time.monotonic()
            other.send(frame(TEXT, "hello"))
            assert other.read_text() == "hello"
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 0.5
        flooding.close_handshake()
        flooder.get(timeout=10)


def flood_natively(address: tuple[str, int], data: bytes) -> None:
    """In a thread, so that it takes no turns from the hub: flood a connection of its own for a second."""
    until = time.monotonic() + 1
    with socket.create_connection(address, timeout=1) as flooding:
        flooding.sendall(request("/flood"))
        flooding.recv(1000)
        try:
            while time.monotonic() < until:
                flooding.sendall(data)
        except OSError:
            pass


def test_receive_times_out_though_the_peer_floods_with_pongs(hold: Any) -> None:
    held = hold()
    flooder = gevent.spawn(flood, held.client, frame(PONG) * 1000)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        held.ws.receive(timeout=0.2)
    assert time.monotonic() - started < 1
    flooder.kill()


def test_receive_with_no_time_takes_what_is_there(hold: Any) -> None:
    held = hold()
    held.client.send(frame(TEXT, "one") + frame(TEXT, "two"))
    wait_until(lambda: held.ws._messages)
    assert held.ws.receive(timeout=0) == "one"
    assert held.ws.receive(timeout=0) == "two"


def test_a_message_that_trickles_in_octet_by_octet_is_received(hold: Any) -> None:
    held = hold()

    def trickle() -> None:
        for octet in frame(TEXT, "slow"):
            held.client.send(bytes([octet]))
            gevent.sleep(0)

    gevent.spawn(trickle)
    assert held.ws.receive(timeout=5) == "slow"


def test_a_second_receiver_is_told_so_and_the_first_goes_on(hold: Any) -> None:
    held = hold()
    first = held.receiving()
    with pytest.raises(InvalidState, match="already waiting"):
        held.ws.receive()
    held.client.send(frame(TEXT, "for the first"))
    assert first.get(timeout=5) == "for the first"


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_no_message_is_lost_when_receivers_are_killed(hold: Any) -> None:
    held = hold()
    received: list[Any] = []

    def receive_one() -> None:
        received.append(held.ws.receive())

    for number in range(50):
        receiver = gevent.spawn(receive_one)
        gevent.sleep(0)
        held.client.send(frame(TEXT, str(number)))
        receiver.kill()
    with gevent.Timeout(5):
        while len(received) < 50:
            received.append(held.ws.receive())
    assert received == [str(number) for number in range(50)]


@pytest.mark.world("gevent", "its timer ends greenlets")
def test_a_gevent_timeout_around_receive_is_the_caller_s_own(hold: Any) -> None:
    held = hold()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        held.ws.receive()
    held.client.send(frame(TEXT, "alive"))
    assert held.ws.receive(timeout=5) == "alive"


@pytest.mark.world("gevent", "native threads are not switched to")
def test_a_switch_that_nobody_asked_for_does_not_end_receive(hold: Any) -> None:
    held = hold()
    receiver = held.receiving()
    gevent.get_hub().loop.run_callback(receiver.switch, "spurious")
    gevent.sleep(0.01)
    assert not receiver.dead
    held.client.send(frame(TEXT, "real"))
    assert receiver.get(timeout=5) == "real"


def test_iteration_ends_with_the_connection(hold: Any) -> None:
    held = hold()
    held.client.send(frame(TEXT, "a") + frame(TEXT, "b") + close_frame(1000))
    assert list(held.ws) == ["a", "b"]
    assert list(held.ws) == []


def test_a_native_thread_may_receive_send_and_close(hold: Any, in_thread: Any) -> None:
    held = hold()
    held.client.send(frame(TEXT, "for a thread"))
    assert in_thread(held.ws.receive) == "for a thread"
    in_thread(held.ws.send, ("from a thread",))
    assert held.client.read_text() == "from a thread"
    closing = gevent.spawn(natively, held.ws.close, 4000)
    assert held.client.close_handshake(4000) == 4000
    held.client.socket.close()
    closing.get()

    def send_too_late() -> bool:
        try:
            held.ws.send("too late")
        except ConnectionClosed:
            return True
        return False

    assert in_thread(send_too_late)


# Nobody reads.


def test_a_ping_is_answered_while_the_handler_only_waits(hold: Any) -> None:
    held = hold()
    held.client.send(frame(PING, b"are you there"))
    assert held.client.read_frame() == (0x80 | PONG, b"are you there")


def test_a_close_is_answered_and_seen_while_the_handler_only_waits(serve: Any) -> None:
    saw: list[float] = []

    def handler(ws: WebSocket) -> None:
        while not ws.closed:
            pause(0.01)
        saw.append(time.monotonic())

    with serve(app_of(handler)).client("/") as client:
        gevent.sleep(0.05)
        started = time.monotonic()
        assert client.close_handshake(4000) == 4000
        wait_until(lambda: saw)
        assert saw[0] - started < 1


@pytest.mark.parametrize("leave", [RawClient.reset, lambda client: client.socket.close()], ids=["reset", "fin"])
def test_a_handler_that_only_sleeps_sees_the_peer_go(serve: Any, leave: Callable[[RawClient], None]) -> None:
    codes: list[Any] = []

    def handler(ws: WebSocket) -> None:
        while not ws.closed:
            pause(0.01)
        codes.append(ws.close_code)

    client = serve(app_of(handler)).client("/")
    leave(client)
    wait_until(lambda: codes, seconds=1)
    assert codes == [1006]


def test_a_handler_that_only_sends_sees_the_peer_go(serve: Any) -> None:
    ended = Result()

    def handler(ws: WebSocket) -> None:
        try:
            while True:
                ws.send("tick")
                pause(0.005)
        except ConnectionClosed as error:
            ended.set(error)

    with serve(app_of(handler)).client("/") as client:
        client.read_text()
        client.send(close_frame(4002, "seen enough"))
        error = ended.get(timeout=1)
    assert (error.code, error.reason) == (4002, "seen enough")


def test_a_close_code_is_not_lost_to_a_peer_that_closes_and_goes(serve: Any) -> None:
    """Its Close frame lies unread when the next send fails with a reset."""
    told: list[Any] = []
    go = Event()

    def handler(ws: WebSocket) -> None:
        ws.accept()
        go.wait()
        send_until_it_fails(ws)
        told.append((ws.close_code, ws.close_reason, ws.receive()))

    def send_until_it_fails(ws: WebSocket) -> None:
        try:
            while True:
                ws.send(b"x")  # Without a pause: the hub does not get a chance to read.
        except ConnectionClosed:
            pass

    client = serve(app_of(handler)).client("/")
    gevent.sleep(0.01)
    go.set()
    client.send(frame(TEXT, "last words") + close_frame(4003, "done"))
    client.socket.close()
    wait_until(lambda: told)
    assert told == [(4003, "done", "last words")]


def test_no_message_is_lost_to_a_send_that_finds_the_peer_gone(serve: Any) -> None:
    """Nor the close code behind them, though they are more than are read ahead otherwise."""
    told: list[Any] = []
    go = Event()

    def handler(ws: WebSocket) -> None:
        ws.accept()
        go.wait()
        try:
            while True:
                ws.send(b"x")  # Without a pause: the hub does not get a chance to read.
        except ConnectionClosed:
            told.append((ws.close_code, list(ws)))

    client = serve(app_of(handler), max_queue=8).client("/")
    gevent.sleep(0.01)
    go.set()
    client.send(b"".join(frame(TEXT, str(number)) for number in range(100)) + close_frame(4005))
    client.socket.close()
    wait_until(lambda: told)
    assert told == [(4005, [str(number) for number in range(100)])]


def test_messages_that_came_before_the_close_are_received_after_it(serve: Any) -> None:
    received: list[Any] = []
    ended = Event()

    def handler(ws: WebSocket) -> None:
        while not ws.closed:
            message = ws.receive()
            pause(0.02)  # Work, during which the rest comes in and the close is answered.
            if message is not None:
                received.append(message)
        ended.set()

    with serve(app_of(handler)).client("/") as client:
        for text in ("a", "b", "c"):
            client.send(frame(TEXT, text))
        assert client.close_handshake() == 1000
        ended.wait(5)
    assert received == ["a", "b", "c"]


def test_unread_messages_do_not_keep_a_handler_that_never_reads_from_seeing_the_close(serve: Any) -> None:
    seen = Event()

    def handler(ws: WebSocket) -> None:
        while not ws.closed:
            pause(0.005)
        seen.set()

    with serve(app_of(handler)).client("/") as client:
        client.send(frame(TEXT, "unread") + close_frame(1000))
        assert seen.wait(1)


def test_unread_messages_count_as_given_up_after_close_timeout(hold: Any) -> None:
    held = hold(close_timeout=0.05)
    held.client.send(frame(TEXT, "read") + frame(TEXT, "unread") + close_frame(1000))
    assert held.ws.receive() == "read"
    wait_until(lambda: held.ws.state is State.CLOSED)
    wait_until(lambda: held.ws.closed, seconds=1)
    assert held.ws.receive() == "unread"


def test_reading_ahead_stops_at_max_queue_and_goes_on_when_there_is_room(hold: Any) -> None:
    held = hold(max_queue=3)
    count = 2000
    payload = "x" * 4096
    sender = gevent.spawn(lambda: [held.client.send(frame(TEXT, payload, mask=bytes(4))) for _ in range(count)])
    wait_until(lambda: held.ws._paused)
    assert not sender.dead, "TCP has to make the peer wait"
    assert len(held.ws._messages) == 3
    assert [held.ws.receive(timeout=5) for _ in range(count)] == [payload] * count


@pytest.mark.parametrize("leave", [RawClient.reset, lambda client: client.socket.close()], ids=["reset", "fin"])
def test_a_peer_that_leaves_behind_a_full_queue_is_seen_to_leave(hold: Any, leave: Callable[[RawClient], None]) -> None:
    held = hold(max_queue=2, ping_interval=None)
    held.client.send(b"".join(frame(TEXT, str(number)) for number in range(100)) + close_frame(4006))
    wait_until(lambda: held.ws._paused)
    leave(held.client)
    wait_until(lambda: held.ws.closed, seconds=1.5)
    if held.ws.close_code == 4006:
        assert list(held.ws) == [str(number) for number in range(100)]
    else:
        assert leave is RawClient.reset  # It may have taken along what had not been read.


def test_a_peer_that_leaves_more_behind_than_can_be_kept_costs_no_more_than_that(hold: Any) -> None:
    held = hold(max_queue=2, ping_interval=None)
    held.client.send(frame(TEXT) * 20_000)
    wait_until(lambda: held.ws._paused)
    held.client.socket.close()
    wait_until(lambda: held.ws.closed, seconds=1.5)
    assert held.ws.close_code == 1006
    assert len(list(held.ws)) <= 1024


@pytest.mark.world("gevent", "it looks into the hub's timetable")
def test_a_connection_that_rests_is_looked_after_once(hold: Any) -> None:
    held = hold(max_queue=1)
    for _ in range(5):
        held.client.send(frame(TEXT, "a") + frame(TEXT, "b"))
        wait_until(lambda: held.ws._paused)
        assert [held.ws.receive(), held.ws.receive()] == ["a", "b"]
    heap = Keepalive.of(gevent.get_hub())._schedule._heap
    assert sum(type(entry[2]()).__name__ == "_Lookout" and entry[2]()._websocket is held.ws for entry in heap) <= 1


def test_a_ping_behind_a_full_queue_is_answered_once_there_is_room(hold: Any) -> None:
    held = hold(max_queue=1)
    held.client.send(frame(TEXT, "a") + frame(TEXT, "b") + frame(PING, b"behind"))
    wait_until(lambda: held.ws._paused)
    assert held.ws.receive() == "a"
    assert held.ws.receive() == "b"
    assert held.client.read_frame() == (0x80 | PONG, b"behind")


def test_what_lies_behind_a_message_is_looked_at_while_the_handler_works_on_it(serve: Any) -> None:
    """The close came in with the same packet: nothing more will wake the connection up."""
    seen = Event()

    def handler(ws: WebSocket) -> None:
        assert ws.receive() == "work"
        while not ws.closed:
            pause(0.005)
        seen.set()

    with serve(app_of(handler)).client("/") as client:
        client.send(frame(TEXT, "work") + frame(PING, b"p") + close_frame(1000))
        assert client.read_frame() == (0x80 | PONG, b"p")
        assert client.read_close() == 1000
        assert seen.wait(1)


# Sending.


@pytest.mark.parametrize(
    ("message", "binary", "sent"),
    [
        ("text", None, (0x81, b"text")),
        (b"bytes", None, (0x82, b"bytes")),
        (bytearray(b"array"), None, (0x82, b"array")),
        (memoryview(b"view"), None, (0x82, b"view")),
        ("grün", True, (0x82, "grün".encode())),
        ("grün".encode(), False, (0x81, "grün".encode())),
        ("text", False, (0x81, b"text")),
        ("", None, (0x81, b"")),
    ],
)
def test_send_chooses_text_or_binary(hold: Any, message: Any, binary: bool | None, sent: tuple[int, bytes]) -> None:
    held = hold()
    held.ws.send(message, binary=binary)
    assert held.client.read_frame() == sent


@pytest.mark.parametrize("message", [None, 5, 1.5, object(), ["x"]])
def test_what_is_no_message_is_a_type_error_and_nothing_is_sent(hold: Any, message: Any) -> None:
    held = hold()
    with pytest.raises(TypeError, match="str"):
        held.ws.send(message)
    held.ws.send("fine")
    assert held.client.read_text() == "fine"


@pytest.mark.parametrize(("message", "binary"), [("\ud800", None), (b"\xff", False)])
def test_text_that_is_not_unicode_is_a_value_error(hold: Any, message: Any, binary: bool | None) -> None:
    held = hold()
    with pytest.raises(ValueError, match="codec"):
        held.ws.send(message, binary=binary)


@pytest.mark.parametrize("message", ["text", None, 5])
def test_on_a_closed_connection_send_says_so_whatever_the_argument(hold: Any, message: Any) -> None:
    held = hold()
    held.client.close_handshake()
    with pytest.raises(ConnectionClosed):
        held.ws.send(message)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3_000_000])
def test_every_length_encoding_is_sent(hold: Any, size: int) -> None:
    held = hold()
    sender = gevent.spawn(held.ws.send, b"x" * size)
    assert held.client.read_frame() == (0x82, b"x" * size)
    sender.get(timeout=5)


def test_frames_of_many_senders_never_interleave(hold: Any) -> None:
    held = hold()
    messages = [bytes([65 + sender]) * 300_000 for sender in range(8)]
    senders = [gevent.spawn(held.ws.send, message) for message in messages[:4]]
    threads = [threading.Thread(target=held.ws.send, args=(message,)) for message in messages[4:]]
    for thread in threads:
        thread.start()
    received = [held.client.read_frame().payload for _ in messages]
    gevent.joinall(senders, raise_error=True)
    for thread in threads:
        while thread.is_alive():
            gevent.sleep(0.001)
    assert sorted(received) == messages


def test_compressed_messages_of_many_senders_are_sent_in_the_order_they_were_compressed(serve: Any) -> None:
    chance = random.Random(1)

    def digits(count: int) -> str:
        return f"{chance.getrandbits(4 * count):0{count}x}"

    # Large enough to make the senders wait. Each begins with what the one before it ends with, and refers to it by distance.
    common = digits(8_000)
    texts = [common + digits(150_000) + common + digits(100 * sender + 1) for sender in range(6)]
    done = Event()

    def handler(ws: WebSocket) -> None:
        together(*(partial(ws.send, text) for text in texts))
        done.set()

    with serve(app_of(handler), compression=True).client("/", Sec_WebSocket_Extensions="permessage-deflate") as client:
        inflater = zlib.decompressobj(-15)
        received = []
        for _ in texts:
            compressed = client.read_frame()
            assert compressed.first == 0xC1
            received.append(inflater.decompress(compressed.payload + b"\0\0\xff\xff").decode())
        assert done.wait(5)
    assert sorted(received) == sorted(texts)


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_a_killed_sender_leaves_no_torn_frame(hold: Any) -> None:
    held = hold()
    big = b"x" * 8_000_000
    sender = gevent.spawn(held.ws.send, big)
    gevent.sleep(0.01)
    assert not sender.dead, "it has to wait for the peer"
    assert held.ws.buffered_amount > 0
    sender.kill()
    follower = gevent.spawn(held.ws.send, "whole")
    assert held.client.read_frame().payload == big
    assert held.client.read_text() == "whole"
    follower.get(timeout=5)
    assert held.ws.buffered_amount == 0


@pytest.mark.world("gevent", "a native thread cannot be made to give up")
def test_senders_that_give_up_early_do_not_pile_up_what_the_peer_does_not_read(hold: Any) -> None:
    held = hold(send_timeout=5)
    for _ in range(20):
        with gevent.Timeout(0.005, False):
            held.ws.send(b"x" * 5_000_000)
    assert held.ws.buffered_amount < 5_100_000


def test_a_peer_that_reads_slowly_is_not_given_up(hold: Any) -> None:
    held = hold(send_timeout=0.2)
    sender = gevent.spawn(held.ws.send, b"x" * 5_000_000)
    received = 0
    while received < 5_000_010:
        received += len(held.client.socket.recv(200_000))
        gevent.sleep(0.02)
    sender.get(timeout=5)


def test_a_peer_that_stops_reading_is_given_up_after_send_timeout(hold: Any) -> None:
    held = hold(send_timeout=0.1)
    with pytest.raises(ConnectionClosed, match="has not read"):
        held.ws.send(b"x" * 20_000_000)
    assert held.ws.closed
    assert held.ws.close_code == 1006
    with pytest.raises(ConnectionClosed):
        held.ws.send("more")


def test_other_connections_are_served_while_a_sender_waits(serve: Any) -> None:
    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(b"x" * 20_000_000 if message == "much" else message)

    served = serve(app_of(handler), send_timeout=0.5)
    with served.client("/") as slow, served.client("/") as quick:
        slow.send(frame(TEXT, "much"))
        for _ in range(10):
            quick.send(frame(TEXT, "hello"))
            assert quick.read_text() == "hello"


def test_receiving_goes_on_while_another_greenlet_waits_to_send(hold: Any) -> None:
    held = hold()
    sender = gevent.spawn(held.ws.send, b"x" * 8_000_000)
    gevent.sleep(0.01)
    held.client.send(frame(PING, b"still here?") + frame(TEXT, "incoming"))
    assert held.ws.receive(timeout=5) == "incoming"
    assert not sender.dead
    assert len(held.client.read_frame().payload) == 8_000_000
    assert held.client.read_frame() == (0x80 | PONG, b"still here?")
    sender.get(timeout=5)


def test_a_peer_that_pings_without_reading_pongs_does_not_grow_our_memory(hold: Any) -> None:
    held = hold(send_timeout=0.5)
    blocked = gevent.spawn(held.ws.send, b"x" * 8_000_000)
    gevent.sleep(0.01)
    before = held.ws.buffered_amount

    def flood() -> None:
        ping = frame(PING, b"p" * 125) * 100
        while True:
            held.client.send(ping)

    flooder = gevent.spawn(flood)
    gevent.sleep(0.2)
    assert held.ws.buffered_amount - before < 200_000
    flooder.kill()
    blocked.kill()


def test_ping_sends_a_ping_and_too_long_a_payload_is_a_value_error(hold: Any) -> None:
    held = hold()
    held.ws.ping(b"hi")
    assert held.client.read_frame() == (0x80 | PING, b"hi")
    with pytest.raises(ValueError, match="125"):
        held.ws.ping(b"x" * 126)


def test_send_frame_sends_by_opcode(hold: Any) -> None:
    held = hold()
    held.ws.send_frame("", held.ws.OPCODE_PING)
    held.ws.send_frame(b"p", held.ws.OPCODE_PONG)
    held.ws.send_frame("t", held.ws.OPCODE_TEXT)
    held.ws.send_frame("b", held.ws.OPCODE_BINARY)
    assert [held.client.read_frame() for _ in range(4)] == [(0x89, b""), (0x8A, b"p"), (0x81, b"t"), (0x82, b"b")]
    with pytest.raises(ValueError, match="opcode"):
        held.ws.send_frame("x", 5)
    closing = gevent.spawn(held.ws.send_frame, b"\x0f\xa0bye", held.ws.OPCODE_CLOSE)
    assert held.client.close_handshake(4000) == 4000
    held.client.socket.close()
    closing.get(timeout=5)


def test_a_send_that_finds_the_peer_gone_says_so_at_once(serve: Any) -> None:
    """Not only the one after it: the message of this one is lost."""
    outcomes: list[Any] = []
    go = Event()

    def handler(ws: WebSocket) -> None:
        ws.accept()
        go.wait()
        for _ in range(2):
            try:
                ws.send("x")
            except ConnectionClosed as error:
                outcomes.append(error.code)
            else:
                outcomes.append("sent")

    client = serve(app_of(handler)).client("/")
    gevent.sleep(0.01)
    client.reset()
    go.set()
    wait_until(lambda: len(outcomes) == 2)
    assert outcomes == [1006, 1006]


# Closing.


def test_close_waits_for_the_peer_s_answer_and_for_the_end_of_tcp(hold: Any) -> None:
    held = hold()
    closing = gevent.spawn(held.ws.close, 4000, "bye")
    assert held.client.read_frame() == (0x80 | CLOSE, b"\x0f\xa0bye")
    gevent.sleep(0.01)
    assert held.ws.state is State.CLOSING
    assert not closing.dead
    held.client.send(close_frame(4000, "bye too"))
    assert held.client.at_end()
    held.client.socket.close()
    closing.get(timeout=5)
    assert (held.ws.close_code, held.ws.close_reason) == (4000, "bye too")


def test_close_is_idempotent(hold: Any) -> None:
    held = hold()
    closings = [gevent.spawn(held.ws.close, code) for code in (4000, 4001)]
    assert held.client.read_close() == 4000
    held.client.send(close_frame(4000))
    assert held.client.at_end()
    held.client.socket.close()
    gevent.joinall(closings, raise_error=True, timeout=5)
    held.ws.close()


def test_a_peer_that_never_answers_the_close_is_closed_on_after_close_timeout(hold: Any) -> None:
    held = hold(close_timeout=0.1)
    started = time.monotonic()
    held.ws.close(1000)
    assert 0.05 < time.monotonic() - started < 2
    assert held.ws.close_code == 1006
    assert held.client.read_close() == 1000
    assert held.client.at_end()


def test_a_peer_that_answers_but_keeps_tcp_open_is_closed_on(hold: Any) -> None:
    held = hold(close_timeout=0.1)
    held.client.send(close_frame(1000))
    assert held.client.read_close() == 1000
    wait_until(lambda: held.ws._ended, seconds=1)


def test_what_the_peer_sends_before_it_answers_the_close_is_dropped(hold: Any) -> None:
    held = hold()
    closing = gevent.spawn(held.ws.close)
    held.client.read_close()
    held.client.send(frame(TEXT, "late") * 100 + frame(PING, b"late") + close_frame(1000))
    assert held.client.at_end()
    held.client.socket.close()
    closing.get(timeout=5)
    assert held.ws.receive() is None


def test_close_reads_the_answer_behind_messages_that_nobody_took(hold: Any) -> None:
    held = hold(max_queue=1)
    held.client.send(frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, "c"))
    wait_until(lambda: held.ws._paused)
    closing = gevent.spawn(held.ws.close)
    assert held.client.close_handshake() == 1000
    held.client.socket.close()
    closing.get(timeout=1)
    assert held.ws.close_code == 1000


def test_close_ends_a_receive_in_another_greenlet(hold: Any) -> None:
    held = hold()
    receiver = held.receiving()
    closing = gevent.spawn(held.ws.close)
    held.client.read_close()
    held.client.send(close_frame(1000))
    assert receiver.get(timeout=5) is None
    held.client.socket.close()
    closing.get(timeout=5)


def test_close_ends_a_receive_even_if_the_peer_never_answers(hold: Any) -> None:
    held = hold(close_timeout=0.05)
    receiver = held.receiving()
    held.ws.close()
    assert receiver.get(timeout=1) is None


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)])
def test_a_code_or_reason_that_cannot_be_sent_is_a_value_error_and_the_connection_goes_on(
    hold: Any, code: int, reason: str
) -> None:
    held = hold()
    with pytest.raises(ValueError, match="clos"):
        held.ws.close(code, reason)
    held.ws.send("still open")
    assert held.client.read_text() == "still open"


def test_a_reason_may_be_bytes_or_none_as_old_programs_have_it(hold: Any) -> None:
    held = hold()
    closing = gevent.spawn(held.ws.close, 1000, b"bytes")
    assert held.client.read_frame().payload == b"\x03\xe8bytes"
    held.client.socket.close()
    closing.get(timeout=5)
    held.ws.close(1000, None)


def test_a_close_frame_without_a_code_is_1005(hold: Any) -> None:
    held = hold()
    held.client.send(close_frame())
    assert held.ws.receive() is None
    assert held.ws.close_code == 1005
    assert held.client.read_close() is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("1000",), "close code"), ((1000.5,), "close code"), (([1000],), "close code"), ((1000, 5), "reason")],
)
def test_what_cannot_be_a_code_or_a_reason_is_a_type_error_and_the_connection_goes_on(
    hold: Any, arguments: Any, said: str
) -> None:
    held = hold()
    with pytest.raises(TypeError, match=said):
        held.ws.close(*arguments)
    assert not held.ws.closed


def test_a_with_block_left_by_an_exception_before_the_accept_answers_nothing(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            with environ["wsgi.websocket"]:
                raise PermissionError
        except PermissionError:
            start_response("403 Forbidden", [("Content-Length", "0")])
        return []

    with serve(app).client() as client:
        client.send(request())
        assert client.read_response().status == 403


def test_leaving_a_with_block_closes(hold: Any) -> None:
    held = hold()

    def use() -> None:
        with held.ws:
            pass

    closing = gevent.spawn(use)
    assert held.client.read_close() == 1000
    held.client.send(close_frame(1000))
    held.client.socket.close()
    closing.get(timeout=5)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_with_block_closes_with_1001(hold: Any, interrupt: Any) -> None:
    held = hold()

    def leave() -> None:
        with held.ws:
            raise interrupt

    def answer() -> None:
        assert held.client.read_close() == 1001
        held.client.send(close_frame(1001))
        held.client.socket.close()

    answering = gevent.spawn(answer)
    with pytest.raises(interrupt):
        leave()
    answering.get(timeout=5)


def test_an_exception_in_a_with_block_closes_with_1011(hold: Any) -> None:
    held = hold()

    def use() -> None:
        with pytest.raises(LookupError), held.ws:
            raise LookupError

    closing = gevent.spawn(use)
    assert held.client.read_close() == 1011
    held.client.socket.close()
    closing.get(timeout=5)


# Time.


def test_a_silent_peer_is_pinged_and_its_answer_measured(hold: Any) -> None:
    held = hold(ping_interval=0.02)
    ping = held.client.read_frame()
    assert ping.opcode == PING
    held.client.send(frame(PONG, ping.payload))
    wait_until(lambda: held.ws.latency is not None)
    assert 0 <= held.ws.latency < 1
    assert held.client.read_frame().opcode == PING


def test_a_peer_that_does_not_answer_pings_is_given_up(hold: Any) -> None:
    """As one that vanished without a word does: a pulled plug, a dead router."""
    held = hold(ping_interval=0.05, ping_timeout=0.05)
    assert held.ws.receive() is None
    assert held.ws.close_code == 1006
    assert "ping" in held.ws.close_reason


def test_a_peer_that_sends_instead_of_answering_pings_is_alive(hold: Any) -> None:
    held = hold(ping_interval=0.03, ping_timeout=0.06)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        held.client.send(frame(TEXT, "busy"))
        assert held.ws.receive() == "busy"
        gevent.sleep(0.01)
    assert not held.ws.closed


def test_a_peer_that_we_do_not_read_from_is_not_given_up(hold: Any) -> None:
    """Its pongs lie behind messages that the handler does not take."""
    held = hold(ping_interval=0.03, ping_timeout=0.03, max_queue=1)
    held.client.send(frame(TEXT, "a") + frame(TEXT, "b"))
    gevent.sleep(0.3)
    assert not held.ws.closed
    assert held.ws.receive() == "a"


def test_a_slow_reader_of_a_long_message_is_not_given_up(hold: Any) -> None:
    held = hold(ping_interval=0.05, ping_timeout=0.2)
    sender = gevent.spawn(held.ws.send, b"x" * 30_000_000)
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        held.client.buffer = b""
        held.client.socket.recv(100_000)
        gevent.sleep(0.005)
    assert not held.ws.closed
    sender.kill()


def test_without_a_ping_interval_nothing_is_sent(hold: Any) -> None:
    held = hold(ping_interval=None)
    with pytest.raises(TimeoutError):
        held.ws.receive(timeout=0.05)
    held.ws.send("first")
    assert held.client.read_text() == "first"


# Peers that break the protocol.


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, "unmasked", mask=None), 1002),
        (frame(TEXT, "rsv", rsv=1), 1002),
        (frame(TEXT, "rsv", rsv=4), 1002),
        (frame(0x3, "reserved"), 1002),
        (frame(0xB, "reserved"), 1002),
        (frame(PING, "x" * 126), 1002),
        (frame(PING, "fragmented", fin=False), 1002),
        (frame(0, "nothing to continue"), 1002),
        (frame(TEXT, "one", fin=False) + frame(TEXT, "another"), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (close_frame(1005), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), 1007),
        (frame(TEXT, b"\xff", fin=False), 1007),
        (frame(BINARY, b"x" * 101), 1009),
        (frame(BINARY, b"x" * 60, fin=False) + frame(0, b"x" * 60), 1009),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_and_the_handler_sees_the_end(
    serve: Any, caplog: Any, sent: bytes, code: int
) -> None:
    codes: list[Any] = []

    def handler(ws: WebSocket) -> None:
        assert ws.receive() is None
        codes.append(ws.close_code)

    served = serve(app_of(handler), max_message_size=100)
    with served.client("/") as client:
        client.send(sent + frame(TEXT, "never seen"))
        assert client.read_close() == code
        assert client.at_end()
    served.access_log()
    assert codes == [code]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_message_over_the_limit_is_refused_before_its_memory_is_spent(hold: Any) -> None:
    held = hold(max_message_size=1000)
    header = b"\x82\xff" + (2**40).to_bytes(8, "big") + b"mask"
    gc.collect()
    tracemalloc.start()
    try:
        held.client.send(header)
        assert held.ws.receive() is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held.client.read_close() == 1009
    assert peak < 2**20


def test_a_short_message_that_inflates_to_a_long_one_is_refused_before_its_memory_is_spent(serve: Any) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(bytes(200_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 204_000
    codes: list[Any] = []

    def handler(ws: WebSocket) -> None:
        assert ws.receive() is None
        codes.append(ws.close_code)

    served = serve(app_of(handler), compression=True)
    with served.client("/", Sec_WebSocket_Extensions="permessage-deflate") as client:
        gc.collect()
        tracemalloc.start()
        try:
            client.send(frame(BINARY, bomb[:-4], rsv=4))
            assert client.read_close() == 1009
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    served.access_log()
    assert codes == [1009]
    assert peak < 8 * 2**20


def test_a_reset_in_the_middle_of_a_frame_ends_the_connection_quietly(serve: Any, caplog: Any) -> None:
    codes: list[Any] = []

    def handler(ws: WebSocket) -> None:
        assert ws.receive() is None
        codes.append(ws.close_code)

    served = serve(app_of(handler))
    client = served.client("/")
    client.send(frame(BINARY, b"x" * 1000)[:500])
    client.reset()
    served.access_log()
    assert codes == [1006]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_peer_that_goes_on_sending_after_its_failure_still_gets_the_close_frame(serve: Any) -> None:
    """A server that just closed would reset the connection, and the reset could overtake its Close frame."""
    served = serve(app_of(lambda ws: ws.receive()), max_message_size=1000)
    with served.client("/") as client:
        more = frame(BINARY, b"x" * 5000, mask=bytes(4))
        for _ in range(20):
            client.send(more)
            gevent.sleep(0.001)
        assert client.read_close() == 1009


# What it looks like.


def test_repr_tells_state_path_and_peer(hold: Any) -> None:
    held = hold()
    assert repr(held.ws) == f"<WebSocket {held.ws.id[:4]} OPEN / 127.0.0.1>"


def test_ids_are_different(hold: Any) -> None:
    assert hold().ws.id != hold().ws.id


def test_counts_count_messages_and_bytes_both_ways(hold: Any) -> None:
    held = hold()
    held.client.send(frame(TEXT, "four"))
    held.ws.receive()
    held.ws.send("sixsix")
    assert held.ws.counts == (1, 10, 1, 8)


@pytest.mark.parametrize("fails", [True, False], ids=["raises", "waits"])
def test_a_log_handler_that_waits_or_raises_does_not_hold_up_the_end_of_a_connection(hold: Any, fails: bool) -> None:
    class Awkward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pause(0.01)
            if fails and mine and "is closed" in record.msg and record.args[0] == mine[0]:  # type: ignore[index]
                raise LookupError("from the log handler")

    mine: list[WebSocket] = []
    log = logging.getLogger("geventws.connection")
    awkward, level = Awkward(), log.level
    log.addHandler(awkward)
    log.setLevel(logging.INFO)
    try:
        held = hold(close_timeout=0.05)
        mine.append(held.ws)
        receiver = held.receiving()
        held.ws.close()
        assert receiver.get(timeout=2) is None
        wait_until(lambda: not held.served.server.websockets)
        held.done.set()
        held.served.access_log()
        if fails:
            wait_until(lambda: held.served.errors)
            held.served.errors.clear()
    finally:
        log.removeHandler(awkward)
        log.setLevel(level)


def test_the_life_of_a_connection_is_logged_in_two_lines_and_its_messages_for_debugging(
    serve: Any, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG, "geventws.connection")
    served = serve(app_of(lambda ws: [ws.send(message) for message in ws]))
    with served.client("/life") as client:
        client.send(frame(TEXT, "hi"))
        client.read_text()
        client.close_handshake()
    served.access_log()
    wait_until(lambda: "is closed: 1000" in caplog.text)
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    infos = [message for level, message in messages if level == logging.INFO and "/life" in message]
    assert len(infos) == 2
    assert infos[0].endswith("is open")
    assert infos[1].endswith("is closed: 1000 ")
    debugs = [message for level, message in messages if level == logging.DEBUG]
    assert debugs[0].startswith("< TEXT 'hi' [2]")
    assert debugs[1].startswith("> TEXT 'hi' [2]")


def test_a_sender_that_is_ended_while_it_is_logged_has_not_sent(serve: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="geventws.connection")

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "stuck" in record.getMessage():
                gevent.sleep(30)

    counts = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        with gevent.Timeout(0.05, False):
            ws.send("stuck")
        counts.append((ws.counts[2], ws.buffered_amount))
        ws.send("next")
        return []

    logger, slow = logging.getLogger("geventws.connection"), Slow()
    logger.addHandler(slow)
    try:
        with serve(app).client("/") as client:
            assert client.read_text() == "next"
    finally:
        logger.removeHandler(slow)
    assert counts == [(0, 0)]
