"""`GeventTransport` and `ThreadTransport`: the seam to the socket, over real socket pairs."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.monkey import get_original
from pairs import KINDS
from waiting import wait_until
from worlds import BOTH, Elsewhere, World, natively

from geventws import InvalidState
from geventws.native import USUAL_READ
from geventws.runtime import HubRuntime, call_in_hub
from geventws.threads import ThreadRuntime, ThreadTransport
from geventws.transport import GeventTransport, SocketTransport

WORLDS = BOTH


class Ear:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.readable = 0
        self.closed = 0

    def on_readable(self) -> None:
        self.readable += 1

    def on_closed(self) -> None:
        self.closed += 1


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, ear: Ear, world: World) -> Iterator[tuple[Any, gevent.socket.socket]]:
    ours, theirs = KINDS[request.param]()
    transport = threaded(ours, ear) if world.threads else GeventTransport(ours, ear)
    theirs.settimeout(5)
    yield transport, theirs
    transport.close()
    theirs.close()


def threaded(ours: gevent.socket.socket, ear: Ear) -> Any:
    """A ThreadTransport whose methods are called in native threads, by who holds the connection."""
    runtime = ThreadRuntime()
    plain = socket.socket(fileno=ours.detach())

    def call(method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return natively(runtime.call, partial(method, *args, **named))

    return Elsewhere(ThreadTransport(plain, ear, runtime), call)


Pair = tuple[SocketTransport, Any]


def recv(transport: SocketTransport, timeout: float | None, expected: int = 0) -> bytes:
    """Wait for bytes; b"" at the end of the stream."""
    while True:
        transport.wait(timeout)
        data = transport.read(expected)
        if data is not None:
            return data


def receiving(transport: SocketTransport) -> gevent.Greenlet[..., bytes]:
    """Somebody who waits in `recv`."""
    receiver = gevent.spawn(recv, transport, None)
    wait_until(lambda: transport.receiving)
    return receiver


def draining(transport: SocketTransport) -> gevent.Greenlet[..., None]:
    """Somebody who waits in `drain`."""
    drainer = gevent.spawn(transport.drain, None)
    wait_until(lambda: transport._drainers)
    return drainer


def test_recv_waits_for_bytes(pair: Pair) -> None:
    transport, theirs = pair
    receiver = receiving(transport)
    theirs.sendall(b"hello")
    assert receiver.get(timeout=5) == b"hello"
    assert not transport.receiving
    assert transport.bytes_received == 5


def test_recv_times_out(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        recv(pair[0], 0.01)


def test_recv_gives_an_empty_string_at_the_end_again_and_again(pair: Pair) -> None:
    transport, theirs = pair
    theirs.close()
    assert recv(transport, None) == b""
    assert recv(transport, None) == b""


def test_a_second_receiver_is_refused(pair: Pair) -> None:
    transport, _ = pair
    first = receiving(transport)
    with pytest.raises(InvalidState):
        recv(transport, None)
    transport.close()
    assert first.get(timeout=5) == b""


def test_recv_ready_does_not_wait(pair: Pair) -> None:
    transport, theirs = pair
    assert transport.read() is None
    theirs.sendall(b"x")
    assert transport.read() == b"x"


def test_large_input_comes_in_larger_pieces(pair: Pair) -> None:
    transport, theirs = pair
    sender = gevent.spawn(theirs.sendall, bytes(2_000_000))
    sizes = []
    while sum(sizes) < 2_000_000:
        sizes.append(len(recv(transport, 5, expected=2_000_000 - sum(sizes) if sizes else 0)))
    sender.get()
    assert sizes[0] <= USUAL_READ
    assert max(sizes) > 16 * 1024


@pytest.mark.world("gevent", "native threads need not be let run")
def test_others_run_between_two_reads_of_a_peer_that_sends_without_end(pair: Pair) -> None:
    transport, theirs = pair
    sender = gevent.spawn(theirs.sendall, bytes(2_000_000))
    turns = []

    def take_turns() -> None:
        while True:
            turns.append(transport.bytes_received)
            gevent.sleep(0)

    other = gevent.spawn(take_turns)
    while transport.bytes_received < 2_000_000:
        recv(transport, 5)
    sender.get()
    other.kill()
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) <= 64 * 1024


def test_the_listener_is_told_once_that_there_is_something_to_read(pair: Pair, ear: Ear) -> None:
    transport, theirs = pair
    transport.watch()
    theirs.sendall(b"x")
    wait_until(lambda: ear.readable)
    gevent.sleep(0.01)
    assert ear.readable == 1
    transport.watch()
    wait_until(lambda: ear.readable == 2)


@pytest.mark.world("threads", "of greenlets the hub knows when they leave")
def test_the_listener_is_told_when_a_receiver_stays_away(pair: Pair, ear: Ear) -> None:
    transport, theirs = pair
    theirs.sendall(b"x")
    assert recv(transport, None) == b"x"
    theirs.sendall(b"y")
    wait_until(lambda: ear.readable, seconds=1)
    assert recv(transport, None) == b"y"


@pytest.mark.world("gevent", "a native thread cannot be killed")
def test_the_listener_is_told_when_a_receiver_has_left(pair: Pair, ear: Ear) -> None:
    transport, theirs = pair
    receiver = receiving(transport)
    receiver.kill()
    theirs.sendall(b"x")
    wait_until(lambda: ear.readable)
    assert recv(transport, None) == b"x"


def test_a_peer_that_has_left_is_seen_to_have_left_though_there_is_more_to_read(pair: Pair) -> None:
    transport, theirs = pair
    assert not transport.peer_left()
    theirs.sendall(b"unread")
    assert not transport.peer_left()
    theirs.close()
    assert transport.peer_left()
    assert recv(transport, None) == b"unread"


def test_write_sends_at_once_what_the_socket_takes(pair: Pair) -> None:
    transport, theirs = pair
    assert transport.write(b"now") is True
    assert theirs.recv(10) == b"now"
    assert transport.bytes_sent == 3


def test_what_the_socket_does_not_take_follows_in_order(pair: Pair) -> None:
    transport, theirs = pair
    sent = [bytes([number]) * 500_000 for number in range(5)]
    assert [transport.write(data) for data in sent][-1] is False
    assert transport.backlog > 0
    drainer = gevent.spawn(transport.drain, None)
    received = b""
    while len(received) < 2_500_000:
        received += theirs.recv(100_000)
    drainer.get(timeout=5)
    assert received == b"".join(sent)
    assert transport.backlog == 0


def test_drain_times_out_and_what_was_written_still_leaves(pair: Pair) -> None:
    transport, theirs = pair
    transport.write(bytes(2_000_000))
    with pytest.raises(TimeoutError):
        transport.drain(0.01)
    received = 0
    while received < 2_000_000:
        received += len(theirs.recv(100_000))


def test_drain_is_patient_with_a_peer_that_reads_slowly(pair: Pair) -> None:
    transport, theirs = pair
    transport.write(bytes(3_000_000))
    drainer = gevent.spawn(transport.drain, 0.2)
    received = 0
    while received < 3_000_000:
        received += len(theirs.recv(200_000))
        gevent.sleep(0.03)
    drainer.get(timeout=5)


@pytest.mark.world("gevent", "there one thread does all, and may be kept from it")
def test_drain_does_not_blame_a_peer_that_reads_for_what_keeps_the_hub_from_sending(pair: Pair) -> None:
    transport, theirs = pair
    transport.write(bytes(3_000_000))
    drainer = gevent.spawn(transport.drain, 0.1)
    gevent.sleep(0)
    begun = time.monotonic()
    received = 0
    while time.monotonic() - begun < 0.3:
        # The peer reads all that there is, and nobody else gets a turn, until the time is long over.
        with contextlib.suppress(BlockingIOError):
            received += len(theirs._sock.recv(1_000_000))
    while received < 3_000_000:
        received += len(theirs.recv(1_000_000))
    drainer.get(timeout=5)


def test_drain_waits_only_for_what_was_written_before(pair: Pair) -> None:
    transport, theirs = pair
    transport.write(bytes(1_000_000))
    drainer = draining(transport)
    transport.write(bytes(5_000_000))
    received = 0
    while received < 2_000_000:
        received += len(theirs.recv(100_000))
        gevent.sleep(0)
    drainer.get(timeout=5)
    assert transport.backlog > 0


def test_drain_fails_when_the_peer_goes(pair: Pair) -> None:
    transport, theirs = pair
    transport.write(bytes(2_000_000))
    drainer = draining(transport)
    theirs.close()
    with pytest.raises(OSError, match="closed"):
        drainer.get(timeout=5)


def test_write_fails_when_the_peer_is_gone(pair: Pair) -> None:
    transport, theirs = pair
    over_tcp = theirs.family == socket.AF_INET
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        # TCP takes something, and is told afterwards that nobody is there.
        wait_until(lambda: not (transport.write(b"x") and over_tcp))


def test_finish_lets_what_was_written_leave_and_then_ends_the_stream(pair: Pair, ear: Ear) -> None:
    transport, theirs = pair
    transport.write(bytes(2_000_000))
    transport.finish()
    received = 0
    while data := theirs.recv(100_000):
        received += len(data)
    assert received == 2_000_000
    assert ear.closed == 0
    theirs.sendall(b"dropped")
    theirs.close()
    wait_until(lambda: ear.closed)
    assert recv(transport, None) == b""


def test_finish_wakes_a_receiver(pair: Pair) -> None:
    transport, _ = pair
    receiver = receiving(transport)
    transport.finish()
    assert receiver.get(timeout=5) == b""


@pytest.mark.parametrize("abort", [False, True])
def test_close_wakes_whoever_waits_and_tells_the_listener_once(pair: Pair, ear: Ear, abort: bool) -> None:
    transport, _ = pair
    transport.write(bytes(2_000_000))
    receiver, drainer = receiving(transport), draining(transport)
    transport.close(abort=abort)
    transport.close()
    assert receiver.get(timeout=5) == b""
    with pytest.raises(OSError, match="closed"):
        drainer.get(timeout=5)
    with pytest.raises(OSError, match="closed"):
        transport.write(b"x")
    wait_until(lambda: ear.closed)
    gevent.sleep(0.01)
    assert ear.closed == 1
    assert recv(transport, None) == b""


def run_natively(function: Callable[[], None]) -> None:
    """Run `function` in a native thread, also where the process is patched, and wait for it cooperatively."""
    ended: list[bool] = []

    def run() -> None:
        try:
            function()
        finally:
            ended.append(True)

    get_original("_thread", "start_new_thread")(run, ())
    wait_until(lambda: ended)


@pytest.mark.parametrize("with_hub", [False, True], ids=["plain thread", "thread with a hub of its own"])
def test_a_call_from_another_thread_runs_in_the_hub_s_thread(with_hub: bool) -> None:
    hub = gevent.get_hub()
    outcome: list[Any] = []

    def ask() -> None:
        if with_hub:
            gevent.get_hub()
        outcome.append(call_in_hub(hub, gevent.get_hub))
        try:
            call_in_hub(hub, lambda: 1 // 0)
        except ZeroDivisionError as error:
            outcome.append(error)
        if with_hub:
            gevent.get_hub().destroy(destroy_loop=True)

    run_natively(ask)
    assert outcome[0] is hub
    assert isinstance(outcome[1], ZeroDivisionError)


def test_a_call_to_a_thread_that_has_ended_is_an_error() -> None:
    hubs: list[Any] = []
    run_natively(lambda: hubs.append(gevent.get_hub()))
    wait_until(lambda: hubs[0].thread_ident not in sys._current_frames())
    with pytest.raises(InvalidState, match="has ended"):
        call_in_hub(hubs[0], print)


@pytest.mark.parametrize("with_hub", [False, True], ids=["plain thread", "thread with a hub of its own"])
def test_a_call_whose_thread_ends_meanwhile_is_an_error(with_hub: bool) -> None:
    hubs: list[Any] = []
    asked = get_original("_thread", "allocate_lock")()
    asked.acquire()

    def end_while_asked() -> None:
        HubRuntime.current()
        hubs.append(gevent.get_hub())
        asked.acquire()  # Its loop does not run, and what it was asked to do is never done.
        gevent.get_hub().destroy(destroy_loop=True)

    outcome: list[str] = []

    def ask() -> None:
        if with_hub:
            gevent.get_hub()
        try:
            call_in_hub(hubs[0], print)
        except InvalidState as error:
            outcome.append(str(error))
        if with_hub:
            gevent.get_hub().destroy(destroy_loop=True)

    get_original("_thread", "start_new_thread")(end_while_asked, ())
    wait_until(lambda: hubs)
    gevent.spawn_later(0.05, asked.release)
    run_natively(ask)
    assert outcome == ["the thread that the connection belongs to has ended"]


def test_a_call_is_ended_whose_caller_has_given_up() -> None:
    hub = gevent.get_hub()
    ended: list[BaseException] = []
    outcome: list[Any] = []

    def wait_for_nobody() -> None:
        try:
            gevent.sleep(30)
        except gevent.GreenletExit as error:
            ended.append(error)

    def ask() -> None:
        try:
            with gevent.Timeout(0.05):
                call_in_hub(hub, wait_for_nobody)
        except gevent.Timeout as error:
            outcome.append(error)
        gevent.get_hub().destroy(destroy_loop=True)

    run_natively(ask)
    wait_until(lambda: ended)
    assert len(outcome) == 1
