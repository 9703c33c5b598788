"""Watching sockets: who is told, in which order, and what must not happen when sockets go, hubs go, or the process forks."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import greenlet
import pytest
from gevent.exceptions import BlockingSwitchOutError
from gevent.monkey import get_original
from pairs import KINDS, Pair, tcp
from rawclient import TEXT, frame
from waiting import wait_until

from geventws import InvalidState, compiled
from geventws.transport import GeventTransport

BATCH = 128  # native.pxd


class Ear:
    def __init__(self) -> None:
        self.readable = 0
        self.closed = 0

    def on_readable(self) -> None:
        self.readable += 1

    def on_closed(self) -> None:
        self.closed += 1


class End:
    """A transport, and the socket at its other end."""

    def __init__(self, connect: Callable[[], Pair] = tcp) -> None:
        self.ours, self.theirs = connect()
        self.ear = Ear()
        self.transport = GeventTransport(self.ours, self.ear)
        self.theirs.settimeout(5)

    def receive(self) -> bytes:
        while True:
            self.transport.wait(None)
            data = self.transport.read()
            if data is not None:
                return data

    def close(self) -> None:
        self.transport.close()
        self.theirs.close()


Make = Callable[[], End]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[End] = []

    def one() -> End:
        made.append(End(KINDS[request.param]))
        return made[-1]

    yield one
    for end in made:
        end.close()
    gevent.sleep(0)


def resting(*greenlets: Any) -> None:
    """Let them run until they wait for their sockets."""
    gevent.sleep(0)
    gevent.sleep(0)
    assert not any(one.dead for one in greenlets)


def outside(program: str, *arguments: str, **environment: str) -> str:
    """What a program prints that may crash."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, *arguments],
        env={**os.environ, "PYTHONMALLOC": "debug", "PYTHONPATH": f"{here.parent}:{here}", **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Sockets that are closed by somebody else.


@pytest.mark.parametrize("how", ["a duplicate", "a forked child", "detached"])
def test_a_socket_closed_behind_our_back_is_forgotten_though_somebody_still_holds_it_open(how: str) -> None:
    program = """
import gc, os, sys, time
import gevent, gevent.socket
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

how = sys.argv[1]
ours, theirs = gevent.socket.socketpair()
transport = GeventTransport(ours, Ear())
transport.watch()
gevent.sleep(0)
if how == "a duplicate":
    held = ours.dup()
    ours.close()
elif how == "detached":
    ours._sock.detach()
else:
    until, parent = os.pipe()
    if not os.fork():
        os.close(parent)
        os.read(until, 1)
        os._exit(0)
    ours.close()
transport.close()
gevent.sleep(0)
del transport, ours
gc.collect()
others, peer = gevent.socket.socketpair()
another = GeventTransport(others, Ear())
another.watch()
junk = [bytearray(b"A" * size) for size in range(40, 400, 8) for _ in range(200)]
theirs.sendall(b"hello")
gevent.sleep(0.05)
before = time.process_time()
gevent.sleep(0.5)
print(time.process_time() - before < 0.3, end=" ")  # Not told of it for ever.
waiting = gevent.spawn(another.wait, None)
gevent.sleep(0)
peer.sendall(b"x")
waiting.get(timeout=5)
print(another.read())
"""
    assert outside(program, how) == "True b'x'"


@pytest.mark.parametrize("first", ["the closed one", "the other one"])
def test_a_socket_closed_behind_our_back_does_not_take_the_notices_of_the_next_one_with_its_number(
    make: Make, first: str
) -> None:
    gone = make()
    number = gone.ours.fileno()
    gone.ours.close()
    other = make()
    if other.ours.fileno() != number:
        pytest.skip("the number was not given again")
    ends = [gone, other] if first == "the closed one" else [other, gone]
    receivers = {}
    for end in ends:
        receivers[end] = gevent.spawn(end.receive)
        gevent.sleep(0)
    assert receivers[gone].get(timeout=5) == b""
    other.theirs.sendall(b"x")
    assert receivers[other].get(timeout=5) == b"x"
    gone.transport.close()
    again = gevent.spawn(other.receive)
    resting(again)
    other.theirs.sendall(b"y")
    assert again.get(timeout=5) == b"y"


def test_a_second_transport_on_the_same_socket_does_not_keep_the_first_one_from_being_told(make: Make) -> None:
    end = make()
    first = gevent.spawn(end.receive)
    resting(first)
    second = GeventTransport(end.ours, Ear())
    # epoll has one place for a socket. Where there are more, both are told, and one finds nothing to read.
    with contextlib.suppress(OSError):
        second.watch()
    end.theirs.send(b"x")
    assert first.get(timeout=5) == b"x"


@pytest.mark.skipif(not compiled, reason="libev itself ends a process that closes the number of a socket it watches")
def test_a_number_that_is_no_socket_any_more_does_not_keep_others_from_being_told() -> None:
    program = """
import os
import gevent, gevent.socket
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

pairs = [gevent.socket.socketpair() for _ in range(3)]
transports = [GeventTransport(ours, Ear()) for ours, theirs in pairs]
for transport in transports:
    transport.watch()
gevent.sleep(0)
# One of which the kernel goes on telling, so that all are to be registered anew; and one that cannot be.
held = pairs[0][0].dup()
pairs[0][0].close()
transports[0].close()
os.close(pairs[1][0].fileno())
waiting = gevent.spawn(transports[2].wait, None)
gevent.sleep(0)
pairs[0][1].sendall(b"x")
gevent.sleep(0.05)
pairs[2][1].sendall(b"y")
waiting.get(timeout=5)
print(transports[2].read(), flush=True)
os._exit(0)
"""
    assert outside(program) == "b'y'"


def test_a_watch_of_which_the_socket_went_in_order_does_not_hear_of_the_next_one_with_its_number(make: Make) -> None:
    for _ in range(50):
        one = make()
        one.transport.watch()
        one.theirs.sendall(b"old")
        one.transport.close()
        one.theirs.close()
        two = make()
        receiver = gevent.spawn(two.receive)
        resting(receiver)
        assert one.ear.readable == 0
        two.theirs.sendall(b"new")
        assert receiver.get(timeout=5) == b"new"


@pytest.mark.parametrize("replace", [False, True])
def test_connections_closed_by_a_handler_in_the_same_batch_are_not_told_of_any_more(make: Make, replace: bool) -> None:
    ends = [make() for _ in range(40)]
    replaced: list[End] = []
    order: list[int] = []

    def handle(index: int) -> None:
        assert ends[index].receive() == b"x"
        order.append(index)
        if len(order) == 1:
            for other in ends:
                if other is not ends[index]:
                    other.transport.close()
                    if replace:
                        replaced.append(make())
                        replaced[-1].transport.watch()
            gc.collect()

    handlers = [gevent.spawn(handle, index) for index in range(40)]
    resting(*handlers)
    for end in ends:
        end.theirs.send(b"x")
    gevent.joinall(handlers, timeout=5)
    assert len(order) == 1
    assert sum(isinstance(handler.exception, AssertionError) for handler in handlers) == 39  # They got b"".
    gevent.sleep(0.01)
    assert not any(end.ear.readable for end in replaced)


def test_a_transport_that_is_dropped_without_close_is_freed_once_its_peer_has_gone(make: Make) -> None:
    told = []

    class Closing(Ear):
        def on_readable(self) -> None:
            one = transports.pop()
            told.append(one.read())
            one.close()

    transports = []
    ours, theirs = gevent.socket.socketpair()
    transports.append(GeventTransport(ours, Closing()))
    transports[0].watch()
    del ours
    gc.collect()
    theirs.close()
    wait_until(lambda: told)
    assert told == [b""]


# Greenlets.


def test_a_gevent_timeout_ends_a_rest_and_the_next_one_is_told_again(make: Make) -> None:
    end = make()
    for _ in range(100):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.0001):
            end.receive()
        assert not end.transport.receiving
    end.theirs.send(b"x")
    assert end.receive() == b"x"


def test_no_byte_is_lost_to_kills_while_sockets_are_ready(make: Make) -> None:
    ends = [make() for _ in range(40)]
    got: list[int] = []

    def handle(index: int) -> None:
        assert ends[index].receive() == b"x"
        got.append(index)
        for other in handlers:
            if other is not gevent.getcurrent():
                other.kill(block=False)
        ends[index].receive()

    handlers = [gevent.spawn(handle, index) for index in range(40)]
    resting(*handlers)
    for index in (3, 31, 17, *range(0, 40, 2)):
        ends[index].theirs.send(b"x")
    handlers[5].kill(block=False)
    handlers[17].kill(block=False)  # Its socket is ready, and it has not been told.
    gevent.joinall(handlers, timeout=5)
    assert 17 not in got
    assert not any(end.transport.receiving for end in ends)
    for index in {3, 31, 17, *range(0, 40, 2)} - set(got):
        assert ends[index].transport.read()
    for index in got:
        assert ends[index].transport.read() in (None, b"x")


def test_a_second_receiver_is_refused_and_the_first_is_told(make: Make) -> None:
    end = make()
    first = gevent.spawn(end.receive)
    resting(first)
    with pytest.raises(InvalidState):
        end.transport.wait(None)
    end.theirs.send(b"x")
    assert first.get(timeout=5) == b"x"


def test_waiting_in_the_hub_is_gevent_s_own_error(make: Make) -> None:
    end = make()
    raised: list[BaseException] = []

    def in_hub() -> None:
        try:
            end.transport.wait(None)
        except BaseException as error:
            raised.append(error)

    gevent.get_hub().loop.run_callback(in_hub)
    wait_until(lambda: raised)
    assert isinstance(raised[0], BlockingSwitchOutError)
    receiver = gevent.spawn(end.receive)
    resting(receiver)
    end.theirs.send(b"x")
    assert receiver.get(timeout=5) == b"x"


def test_a_greenlet_that_wants_to_be_told_that_it_switches_out_is_told(make: Make) -> None:
    class Told(gevent.Greenlet):  # type: ignore[type-arg]
        switches = 0

        def switch_out(self) -> None:
            self.switches += 1

    ends = [make() for _ in range(10)]
    ours = [Told.spawn(end.receive) for end in ends]
    resting(*ours)
    for end in ends:
        end.theirs.send(b"x")
    gevent.joinall(ours, timeout=5, raise_error=True)
    assert [one.switches for one in ours] == [1] * 10


def test_handlers_that_end_when_others_have_handed_over_to_them_leave_the_rest_running(make: Make) -> None:
    ends = [make() for _ in range(2 * BATCH + 3)]
    rounds = [0] * len(ends)

    def handle(index: int) -> None:
        for _ in range(1 + index % 3):
            assert ends[index].receive() == b"x"
            rounds[index] += 1
            if index % 7 == 6:
                raise gevent.GreenletExit

    handlers = [gevent.spawn(handle, index) for index in range(len(ends))]
    resting(*handlers)
    for number in range(3):
        for end in ends:
            end.theirs.send(b"x")
        wait_until(
            lambda number=number: all(
                count >= min(number + 1, 1 if index % 7 == 6 else 1 + index % 3) for index, count in enumerate(rounds)
            )
        )
    gevent.joinall(handlers, timeout=5, raise_error=True)


def test_a_raw_greenlet_whose_parent_is_not_the_hub_returns_to_its_parent(make: Make) -> None:
    ends = [make() for _ in range(5)]
    got: list[tuple[int, bytes]] = []
    ended = gevent.event.Event()

    def parent() -> None:
        child = greenlet.greenlet(lambda: got.append((2, ends[2].receive())))
        child.switch()  # It waits in the hub from here on; when it has ended, we go on.
        ended.set()

    others = [gevent.spawn(lambda end=end: got.append((9, end.receive()))) for end in (*ends[:2], *ends[3:])]
    mine = gevent.spawn(parent)
    resting(mine, *others)
    for end in ends:
        end.theirs.send(b"x")
    assert ended.wait(5)
    gevent.joinall([mine, *others], timeout=5, raise_error=True)
    assert sorted(got) == [(2, b"x")] + [(9, b"x")] * 4


def test_a_greenlet_that_was_handed_over_to_may_wait_for_the_next_ready_socket_itself(make: Make) -> None:
    ends = [make() for _ in range(6)]
    order: list[int] = []

    def handle(indices: tuple[int, ...]) -> None:
        for index in indices:
            assert ends[index].receive() == b"x"
            order.append(index)

    handlers = [gevent.spawn(handle, indices) for indices in ((0, 1, 2), (3, 4, 5), (1,))[:2]]
    resting(*handlers)
    for end in ends:
        end.theirs.send(b"x")
    gevent.joinall(handlers, timeout=5, raise_error=True)
    assert sorted(order) == list(range(6))


def test_an_exception_in_a_listener_is_reported_and_the_others_of_the_batch_are_told(make: Make) -> None:
    reported: list[type[BaseException]] = []
    hub = gevent.get_hub()
    original, hub.print_exception = hub.print_exception, lambda context, kind, value, tb: reported.append(kind)
    try:
        ends = [make() for _ in range(9)]

        def fail() -> None:
            raise RuntimeError("planned")

        for end in ends[::2]:
            end.ear.on_readable = fail  # type: ignore[method-assign]
        for end in ends:
            end.transport.watch()
            end.theirs.send(b"x")
        wait_until(lambda: len(reported) == 5 and all(end.ear.readable for end in ends[1::2]))
    finally:
        hub.print_exception = original
    assert reported == [RuntimeError] * 5


def test_a_greenlet_trace_sees_the_switches(make: Make) -> None:
    ends = [make() for _ in range(4)]
    handlers = [gevent.spawn(end.receive) for end in ends]
    resting(*handlers)
    seen: list[Any] = []
    earlier = greenlet.settrace(lambda event, pair: seen.append(pair[1]))
    try:
        for end in ends:
            end.theirs.send(b"x")
        gevent.joinall(handlers, timeout=5)
    finally:
        greenlet.settrace(earlier)
    assert all(handler in seen for handler in handlers)


def work(seconds: float) -> None:
    """What a handler does without letting anybody else run."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


in_turns = pytest.mark.skipif(
    not compiled or not sys.platform.startswith("linux"),
    reason="without epoll of our own the hub is the loop's business",
)


@in_turns
def test_a_timer_does_not_wait_for_all_handlers_that_have_something_to_do(make: Make) -> None:
    ends = [make() for _ in range(60)]
    served: list[int] = []
    served_before_the_timer: list[int] = []

    def handle(number: int) -> None:
        ends[number].receive()
        work(0.004)
        served.append(number)

    handlers = [gevent.spawn(handle, number) for number in range(60)]
    resting(*handlers)
    timer = gevent.get_hub().loop.timer(0.001)
    timer.start(lambda: served_before_the_timer.append(len(served)), update=True)
    for end in ends:
        end.theirs.send(b"x")
    gevent.joinall(handlers, timeout=10, raise_error=True)
    timer.close()
    # Turns of 5 ms, by a clock that is up to 10 ms behind. It is the handlers' 240 ms that nobody shall wait for.
    assert served_before_the_timer
    assert served_before_the_timer[0] < 20
    assert sorted(served) == list(range(60))


@in_turns
def test_who_is_left_at_the_end_of_a_turn_is_told_before_those_who_had_theirs(make: Make) -> None:
    ends = [make() for _ in range(20)]
    told = [0] * 20

    def never_read(number: int) -> None:
        while True:
            ends[number].transport.wait(None)
            ends[number].transport._readiness.readable = False  # As if it had been read, and more had come in.
            work(0.002)
            told[number] += 1

    handlers = [gevent.spawn(never_read, number) for number in range(20)]
    resting(*handlers)
    for end in ends:
        end.theirs.send(b"x")
    wait_until(lambda: min(told) >= 3)
    gevent.killall(handlers)
    assert max(told) - min(told) <= 2


@in_turns
def test_who_has_gone_when_his_turn_comes_is_passed_over(make: Make) -> None:
    ends = [make() for _ in range(30)]
    received: list[int] = []
    newcomers: list[End] = []

    def handle(number: int) -> None:
        ends[number].receive()
        received.append(number)
        work(0.006)

    handlers = [gevent.spawn(handle, number) for number in range(30)]
    resting(*handlers)
    for end in ends:
        end.theirs.send(b"x")
    wait_until(lambda: received)
    for number in range(30):
        if number not in received and number % 2:
            handlers[number].kill()
            ends[number].close()
            ends[number] = make()  # In his place, most likely with the same number: there is nothing to read.
            ends[number].transport.watch()
            newcomers.append(ends[number])
    left = [number for number in range(30) if not handlers[number].dead]
    gevent.joinall(handlers, timeout=10)
    assert set(left) <= set(received)
    assert len(set(received)) == len(received)
    assert newcomers
    assert [newcomer.ear.readable for newcomer in newcomers] == [0] * len(newcomers)


def test_a_flood_on_a_hundred_connections_does_not_starve_a_timer_or_another_greenlet(serve: Any) -> None:
    def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []

    served = serve(echo)
    clients = [served.client("/") for _ in range(100)]
    burst = frame(TEXT, "flood") * 20
    over = False

    def flood(client: Any) -> None:
        while not over:
            client.send(burst)
            client.read(len(burst) - 20 * 4)  # What is echoed is not masked.

    flooders = [gevent.spawn(flood, client) for client in clients]
    gaps, last = [], time.perf_counter()
    until = last + 1
    while time.perf_counter() < until:
        gevent.sleep(0.001)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    over = True
    gevent.joinall(flooders, timeout=10, raise_error=True)
    for client in clients:
        client.socket.close()
    assert len(gaps) > 5
    # The median: this machine may be busy with something else now and then.
    assert sorted(gaps)[len(gaps) // 2] < 0.2


# Hubs and threads.


def serve_in_several_threads() -> None:
    results: list[int] = []

    def run() -> None:
        ends = [End() for _ in range(30)]
        count = 0

        def handle(end: End) -> None:
            nonlocal count
            for _ in range(20):
                assert end.receive() == b"x"
                count += 1
                end.theirs.send(b"x")

        handlers = [gevent.spawn(handle, end) for end in ends]
        for end in ends:
            end.theirs.send(b"x")
        gevent.joinall(handlers, timeout=20, raise_error=True)
        for end in ends:
            end.close()
        gevent.sleep(0)
        gevent.get_hub().destroy(destroy_loop=True)
        results.append(count)

    for _ in range(4):
        get_original("_thread", "start_new_thread")(run, ())
    wait_until(lambda: len(results) == 4, 30)
    print(results, flush=True)
    # A thread that is about to end must not meet the end of the interpreter: greenlet aborts the process then.
    os._exit(0)


def test_several_threads_with_hubs_of_their_own_watch_their_own_sockets() -> None:
    # In a child: what ended threads leave of their greenlets would be in the way of later tests.
    assert outside("import test_poller; test_poller.serve_in_several_threads()") == str([600] * 4)


def test_threads_that_come_and_go_with_their_hubs_leave_no_descriptors_behind() -> None:
    program = """
import gc, os, threading
import gevent, gevent.socket
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

def run():
    ours, theirs = gevent.socket.socketpair()
    transport = GeventTransport(ours, Ear())
    waiting = gevent.spawn(transport.wait, None)
    gevent.sleep(0)
    theirs.sendall(b"x")
    waiting.join()
    transport.close()
    theirs.close()
    gevent.sleep(0)
    gevent.get_hub().destroy(destroy_loop=True)

def descriptors(rounds):
    for _ in range(rounds):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

before = descriptors(3)
print(descriptors(20) - before)
"""
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not say which descriptors are open")
    assert outside(program) == "0"


def test_a_new_hub_in_the_same_thread_watches_anew() -> None:
    program = """
import gevent, gevent.socket
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

for round in range(5):
    ours, theirs = gevent.socket.socketpair()
    transport = GeventTransport(ours, Ear())
    waiting = gevent.spawn(transport.wait, None)
    gevent.sleep(0)
    theirs.sendall(b"x")
    waiting.get(timeout=5)
    print(transport.read(), end="")
    if round % 2:
        transport.close()
    gevent.get_hub().destroy(destroy_loop=bool(round % 3))
"""
    assert outside(program) == "b'x'" * 5


def test_a_program_with_nothing_to_wait_for_ends() -> None:
    program = """
import gevent, gevent.socket
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

ours, theirs = gevent.socket.socketpair()
transport = GeventTransport(ours, Ear())
transport.watch()
theirs.sendall(b"x")
gevent.sleep(0.01)  # Told, and no longer watched.
print(gevent.wait(timeout=5))
"""
    assert outside(program) == "True"


@pytest.mark.parametrize("loop", ["libuv", "libev-cffi"])
def test_other_event_loops_do_as_well(loop: str) -> None:
    program = """
import gevent, gevent.socket
try:
    gevent.get_hub()
except ImportError:
    print("missing")
    raise SystemExit
from geventws.transport import GeventTransport

class Ear:
    def on_readable(self): pass
    def on_closed(self): pass

def handle(transport, rounds):
    while rounds:
        transport.wait(None)
        rounds -= len(transport.read() or b"")

pairs = [gevent.socket.socketpair() for _ in range(300)]
transports = [GeventTransport(ours, Ear()) for ours, theirs in pairs]
handlers = [gevent.spawn(handle, transport, 5) for transport in transports]
for _ in range(5):
    for ours, theirs in pairs:
        theirs.sendall(b"x")
    gevent.sleep(0.01)
gevent.joinall(handlers, timeout=20, raise_error=True)
print(sum(handler.successful() for handler in handlers))
"""
    printed = outside(program, GEVENT_LOOP=loop)
    if printed == "missing":
        pytest.skip(f"gevent has no {loop} here")
    assert printed == "300"


# Forks.

FORKING = """
import os, sys
import gevent
from gevent.pywsgi import WSGIServer
from geventws import WebSocketHandler
from rawclient import TEXT, RawClient, frame

how, where = sys.argv[1:]
pids = []

def child():
    if how == "ends":
        os._exit(0)
    if how == "closes everything, and forks":
        os.closerange(3, 1000)
        files = [os.open(os.devnull, os.O_WRONLY) for _ in range(100)]
        if not os.fork():
            for file in files:
                try:
                    os.write(file, b"x")
                except OSError:
                    os._exit(3)
            os._exit(0)
        os._exit(os.wait()[1] >> 8)
    gevent.reinit()
    served = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
    served.start()
    client = RawClient(("127.0.0.1", served.server_port))
    client.open("/")
    client.send(frame(TEXT, "child"))
    os._exit(0 if client.read_text() == "child" else 4)

def fork():
    pid = os.fork()
    if not pid:
        try:
            child()
        finally:
            os._exit(5)
    pids.append(pid)

def app(environ, start_response):
    for message in environ["wsgi.websocket"]:
        if message == "fork":
            fork()
        environ["wsgi.websocket"].send(message)
    return []

served = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
served.start()
clients = [RawClient(("127.0.0.1", served.server_port)) for _ in range(20)]
for client in clients:
    client.open("/")
for _ in range(3):
    for at, client in enumerate(clients):
        client.send(frame(TEXT, "fork" if at == 7 and where == "handler" else "go on"))
    if where == "main":
        fork()
    for client in clients:
        client.read_text()
print({os.waitpid(pid, 0)[1] >> 8 for pid in pids}, end=" ")
for client in clients:
    client.send(frame(TEXT, "after"))
print({client.read_text() for client in clients})
os._exit(0 if not sys.stdout.flush() else 1)
"""


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("ends", "handler"),
        ("ends", "main"),
        ("closes everything, and forks", "handler"),
        ("closes everything, and forks", "main"),
        # Not in a handler: the main greenlet, which is the clients, would go on in the child, too.
        ("serves itself", "main"),
    ],
)
def test_a_parent_goes_on_being_told_whatever_its_forked_child_does(how: str, where: str) -> None:
    assert outside(FORKING, how, where) == "{0} {'after'}"


def test_prefork_then_serve_in_each_child() -> None:
    program = """
import os
import gevent
from gevent.pywsgi import WSGIServer
from geventws import WebSocketHandler
from rawclient import TEXT, RawClient, frame

def app(environ, start_response):
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(str(os.getpid()))
    return []

served = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
served.init_socket()
pids = []
for _ in range(3):
    pid = gevent.os.fork() if hasattr(gevent, "os") else os.fork()
    if not pid:
        gevent.reinit()
        served.start()
        gevent.sleep(30)
        os._exit(0)
    pids.append(pid)
told = set()
for _ in range(30):
    client = RawClient(served.socket.getsockname())
    client.open("/")
    client.send(frame(TEXT, "who"))
    told.add(int(client.read_text()))
for pid in pids:
    os.kill(pid, 9)
print(bool(told) and told <= set(pids), flush=True)
os._exit(0)
"""
    assert outside(program) == "True"


# What it costs to keep going.


@pytest.mark.skipif(not compiled, reason="it is about memory that Python does not manage")
def test_opening_and_dropping_many_connections_leaks_neither_objects_nor_descriptors(serve: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []

    # Without pings: those due are forgotten some time after the connection, many at once.
    served = serve(app, ping_interval=None)

    def many(count: int) -> None:
        for number in range(count):
            client = served.client("/")
            client.send(frame(TEXT, "x" * number))
            if number % 3 == 0:
                client.read_text()
            client.reset() if number % 2 else client.socket.close()
        wait_until(lambda: len(served.server.websockets) == 0)
        gevent.sleep(0.01)
        gc.collect()

    many(100)
    objects, descriptors = len(gc.get_objects()), os.dup(0)
    os.close(descriptors)
    many(500)
    now = os.dup(0)
    os.close(now)
    assert len(gc.get_objects()) - objects < 500
    assert now <= descriptors + 1


def test_signals_at_a_high_rate_are_neither_errors_nor_lost_bytes(make: Make) -> None:
    end = make()
    size = 20_000_000
    got = bytearray()
    caught = 0

    def count(*_: object) -> None:
        nonlocal caught
        caught += 1

    def receive() -> None:
        while len(got) < size:
            got.extend(end.receive())

    payload = bytes(range(256)) * (size // 256 + 1)
    earlier = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        receiver = gevent.spawn(receive)
        end.theirs.settimeout(30)
        end.theirs.sendall(payload[:size])
        receiver.get(timeout=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert bytes(got) == payload[:size]
    assert caught
