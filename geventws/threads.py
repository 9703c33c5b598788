"""Native threads in the place of greenlets: how they take turns at a connection, how they wait for its socket, and the one
thread of the process that does for all connections what none of theirs is there to do.

No hub of gevent is made or needed, and nothing of WebSockets is known here.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import socket as _socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import TIMEOUT_MAX
from time import monotonic
from typing import Any, ClassVar

import gevent
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Hub, Waiter
from gevent.monkey import get_original
from gevent.socket import wait_read

from .exceptions import InvalidState
from .keepalive import Schedule, Ticking
from .native import Readiness, getcurrent, thread_ident
from .runtime import Runtime, Signal
from .transport import Listener, SocketTransport

__all__ = ["Service", "ThreadRuntime", "ThreadTransport"]

logger = logging.getLogger("geventws.threads")

# The real ones, also in a process that is patched, and for who comes from a cooperative scope.
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_start_new_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_select: Callable[..., Any] = get_original("select", "select")
_sleep: Callable[[float], None] = get_original("time", "sleep")

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# Seconds until `soon`: long enough for a handler to come back by itself and do what is due. Also until the service comes
# back to a connection that somebody else held.
_TURN = 0.001
# Seconds between two looks at who waits for his socket himself. Who has not done so in between is busy with something else.
_LOOK = 0.1
# The operating system takes no longer times than some weeks: whoever waits for more than this looks at the clock in between.
_LONGEST = 24 * 3600.0
_NEVER = float("inf")

# Which connection a thread holds, by its number. It is never more than one, see `ThreadRuntime.call`.
_held: dict[int, ThreadRuntime] = {}


class ThreadRuntime(Runtime):
    """The native threads that use one connection. Whoever holds it may touch it, and lets go of it while he waits."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self.thread = 0
        self._lock = _allocate_lock()

    def hold(self) -> None:
        """Wait until nobody else holds it."""
        if not self._lock.acquire(False):
            self._wait_for_lock()
        self._is_held()

    def try_hold(self) -> bool:
        """Hold it, unless somebody else does. Returns whether it is held now."""
        if not self._lock.acquire(False):
            return False
        self._is_held()
        return True

    def hold_again(self) -> None:
        """After waiting. It is held afterwards also if this is interrupted, which is raised then."""
        interrupt: BaseException | None = None
        while not self._lock.acquire(False):
            try:
                self._wait_for_lock()
            except BaseException as error:
                interrupt = error
            else:
                break
        self._is_held()
        if interrupt is not None:
            raise interrupt

    def _is_held(self) -> None:
        here = self.thread = thread_ident()
        _held[here] = self

    def _wait_for_lock(self) -> None:
        if _hub_to_wait_in() is None:
            self._lock.acquire()
            return
        while not self._lock.acquire(False):
            gevent.sleep(_TURN)

    def let_go(self) -> None:
        """Others may hold it."""
        _held.pop(self.thread, None)
        self.thread = 0
        self._lock.release()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        here = thread_ident()
        if self.thread == here:
            return function(*args)
        # From a hook of another connection, such as `handle_close`. Held meanwhile, two that tell each other would wait for
        # each other for ever.
        other = _held.get(here)
        if other is not None:
            other.let_go()
        try:
            self.hold()
            try:
                return function(*args)
            finally:
                self.let_go()
        finally:
            if other is not None:
                other.hold_again()

    def soon(self, function: Callable[[], object]) -> None:
        Service.current().soon(self, function)

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        try:
            _start_new_thread(_run_beside, (function, *args))
        except RuntimeError:
            # There are too many already, or the process is about to end. What is asked for here seldom takes long.
            Service.current().do(partial(function, *args))

    def at(self, due: float, target: Ticking) -> None:
        Service.current().at(due, target, self)

    def signal(self) -> Signal:
        return _Signal(self)


def _run_beside(function: Callable[..., object], *args: Any) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("What was to be done for a connection failed")


def _hub_to_wait_in() -> Hub | None:
    """The hub of the current thread, if there is one: while it is waited, its other greenlets shall run."""
    hub = get_hub_if_exists()
    return None if hub is None or getcurrent() is hub else hub


class _Waiting:
    """One thread that waits, and lets go of the connection meanwhile. Told once, by who holds the connection."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self._runtime = runtime
        self._told = _allocate_lock()
        self._told.acquire()
        self._is_told = False
        self._error: BaseException | None = None
        # In a thread with a hub: what wakes it from other threads.
        self._notice: Any = None

    def switch(self, value: Any = None) -> None:
        if not self._is_told:
            self._is_told = True
            self._told.release()
            if self._notice is not None:
                self._notice.send()

    def throw(self, error: BaseException) -> None:
        self._error = error
        self.switch()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was told within `timeout` seconds. Raises what it was told to."""
        hub = _hub_to_wait_in()
        if hub is None:
            self._wait_natively(timeout)
        else:
            self._wait_in_hub(hub, timeout)
        if self._error is not None:
            raise self._error
        return self._is_told

    def _wait_natively(self, timeout: float | None) -> None:
        self._runtime.let_go()
        try:
            if timeout is None:
                self._told.acquire()
            else:
                self._told.acquire(timeout=min(timeout, TIMEOUT_MAX))
        finally:
            self._runtime.hold_again()

    def _wait_in_hub(self, hub: Hub, timeout: float | None) -> None:
        # Made and closed while the connection is held, so that nobody uses it before or after.
        self._notice = hub.loop.async_()
        timer = None if timeout is None else hub.loop.timer(timeout)
        waiter: Waiter[None] = Waiter()
        self._notice.start(waiter.switch, None)
        if timer is not None:
            timer.start(waiter.switch, None, update=True)
        self._runtime.let_go()
        try:
            waiter.get()
        finally:
            try:
                self._runtime.hold_again()
            finally:
                for watcher in (self._notice, timer):
                    if watcher is not None:
                        watcher.stop()
                        watcher.close()
                self._notice = None


class _Signal:
    """As `gevent.event.Event`, for who holds the connection."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self._runtime = runtime
        self._waiting: list[_Waiting] = []
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        for waiting in self._waiting:
            waiting.switch()

    def wait(self) -> None:
        if not self._is_set:
            waiting = _Waiting(self._runtime)
            self._waiting.append(waiting)
            waiting.wait()


class _Timetable(Schedule):
    """A Schedule whose targets belong to connections."""

    def _call(self, target: Ticking, now: float, place: Any) -> None:
        if place.try_hold():
            try:
                super()._call(target, now, place)
            finally:
                place.let_go()
        else:
            self.add(now + _TURN, target, place)


class Service:
    """The one thread of the process that waits for those sockets that no thread waits for itself, and for what is due.

    Its methods may be called from any thread; what they do is done soon, and none of them waits. Nor does its thread wait for
    a connection that somebody else holds, as he may do so for long: it comes back to it.
    """

    _current: ClassVar[Service | None] = None
    _starting: ClassVar[Any] = _allocate_lock()

    @classmethod
    def current(cls) -> Service:
        """That of this process, started when it is first asked for. Raises RuntimeError if no thread can be started."""
        service = cls._current
        if service is None:
            with cls._starting:
                service = cls._current
                if service is None:
                    service = cls()
                    _start_new_thread(service._run, ())
                    cls._current = service
        return service

    @classmethod
    def _forget(cls) -> None:
        """In a forked child, which has neither the parent's thread nor its connections."""
        cls._current = None
        cls._starting = _allocate_lock()
        _held.clear()

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # Whoever has something to be done writes a byte.
        self._waker, self._woken = _socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, _READ)
        # What is to be done, and whose connection has to be held for it.
        self._commands: deque[tuple[ThreadRuntime | None, Callable[[], object]]] = deque()
        self._turns: deque[tuple[float, ThreadRuntime | None, Callable[[], object]]] = deque()
        self._timetable = _Timetable()
        # Those who are left to their own threads, and how often these had waited for them at the last look.
        self._attended: dict[ThreadTransport, int] = {}
        self._next_look = 0.0
        self._wake_sent = False
        self._sleeps_until = _NEVER

    def at(self, due: float, target: Ticking, runtime: ThreadRuntime) -> None:
        """Call `target.tick` at `due`, holding the connection."""
        self.do(partial(self._timetable.add, due, target, runtime))

    def soon(self, runtime: ThreadRuntime, function: Callable[[], object]) -> None:
        """Call `function`, holding the connection, in a moment, when whoever asks for it may have done it himself."""
        due = monotonic() + _TURN
        self._turns.append((due, runtime, function))
        self._wake_by(due)

    def attend(self, transport: ThreadTransport) -> None:
        """A thread of its own waits for what comes in on `transport`, from now on. Should it stay away, do so for it."""
        self._attended[transport] = transport.waits
        self._wake_by(monotonic() + _LOOK)

    def arrange(self, transport: ThreadTransport) -> None:
        """What is wanted of `transport`'s socket has changed."""
        self.call(transport.runtime, partial(self._arrange, transport))

    def call(self, runtime: ThreadRuntime, function: Callable[[], object]) -> None:
        """Call `function`, holding the connection."""
        self._commands.append((runtime, function))
        self._wake()

    def do(self, function: Callable[[], object]) -> None:
        """Call `function`, which holds what it needs itself."""
        self._commands.append((None, function))
        self._wake()

    def _wake_by(self, due: float) -> None:
        if due < self._sleeps_until:
            self._wake()

    def _wake(self) -> None:
        if not self._wake_sent:
            self._wake_sent = True
            with suppress(BlockingIOError):  # There are more than enough already.
                self._waker.send(b"\0")

    # In its own thread.

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:
                # One connection's mistake must not end the care for all others, nor be told of without end.
                logger.exception("The care for connections failed")
                _sleep(_LOOK)

    def _turn(self) -> None:
        # First of all: who adds to what has been looked at, while it is looked at, sends a byte.
        self._sleeps_until = _NEVER
        self._sleeps_until = due = self._next_due()
        seconds = 0.0 if self._commands else min(max(due - monotonic(), 0.0), _LONGEST)
        held_by_others = False
        for key, events in self._selector.select(seconds):
            if key.data is None:
                self._take_wake()
            elif not self._visit(key.data.runtime, partial(self._on_ready, key.data, events)):
                held_by_others = True
        for _ in range(len(self._commands)):
            self._visit_or_come_back(*self._commands.popleft())
        now = monotonic()
        while self._turns and self._turns[0][0] <= now:
            self._visit_or_come_back(*self._turns.popleft()[1:])
        self._timetable.call_due(now)
        if self._attended and self._next_look <= now:
            self._next_look = now + _LOOK
            self._look_after()
        if held_by_others:
            _sleep(_TURN)  # The operating system would tell of the same at once.

    def _next_due(self) -> float:
        due = self._timetable.next_due
        return min(
            _NEVER if due is None else due,
            self._turns[0][0] if self._turns else _NEVER,
            self._next_look if self._attended else _NEVER,
        )

    def _take_wake(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        # Before the commands are looked at, so that none is overlooked.
        self._wake_sent = False

    def _visit(self, runtime: ThreadRuntime | None, function: Callable[[], object]) -> bool:
        """Call `function`, holding the connection. False if somebody else holds it."""
        if runtime is not None and not runtime.try_hold():
            return False
        try:
            _run_beside(function)
        finally:
            if runtime is not None:
                runtime.let_go()
        return True

    def _visit_or_come_back(self, runtime: ThreadRuntime | None, function: Callable[[], object]) -> None:
        if not self._visit(runtime, function):
            self._turns.append((monotonic() + _TURN, runtime, function))

    def _look_after(self) -> None:
        # A copy is made at once, while iterating others could add to it.
        for transport, waits in self._attended.copy().items():
            if transport.receiving or transport.waits != waits:
                self._attended[transport] = transport.waits
            else:
                self._visit(transport.runtime, partial(self._take_over, transport, waits))

    def _take_over(self, transport: ThreadTransport, waits: int) -> None:
        """Its thread has not come back."""
        if transport.receiving or transport.waits != waits:
            return  # It just has.
        del self._attended[transport]
        if transport.wanted:
            transport.left_alone = True
            self._arrange(transport)

    def _on_ready(self, transport: ThreadTransport, events: int) -> None:
        try:
            if events & _WRITE and transport.writing:
                transport._on_writable()
            if events & _READ and transport.wanted:
                self._on_readable(transport)
        except Exception:
            logger.exception("What came in on a connection could not be taken")
            transport.close(abort=True)
        finally:
            self._arrange(transport)

    def _on_readable(self, transport: ThreadTransport) -> None:
        if not transport.receiving:
            transport._on_readable()
            return
        # Its own thread has come back, and is told by the operating system itself.
        transport.left_alone = False
        self._attended[transport] = transport.waits

    def _arrange(self, transport: ThreadTransport) -> None:
        """Have the socket watched for what is wanted of it."""
        armed, wanted = transport.armed, transport.interest()
        if wanted == armed:
            return
        transport.armed = wanted
        if armed == 0:
            try:
                self._selector.register(transport.descriptor, wanted, transport)
            except (OSError, ValueError, KeyError):
                transport.armed = 0
                transport.close()  # Somebody has closed the socket behind our back.
                return
            transport.use()
        elif wanted:
            self._selector.modify(transport.descriptor, wanted, transport)
        else:
            self._selector.unregister(transport.descriptor)
            transport.unuse()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Service._forget)


class ThreadTransport(SocketTransport):
    """A plain socket, or an `ssl.SSLSocket`, that the native threads of a ThreadRuntime use.

    Whoever receives waits for the socket itself. For what comes in while nobody receives, and for what the socket does not
    take at once, the `Service` waits.

    Args:
        socket: connected. It is the transport's from now on.
        listener: called by who holds the connection.
        runtime: of this connection.
        lent: the socket is somebody else's, who closes it himself; here only the stream is ended.
    """

    def __init__(self, socket: Any, listener: Listener, runtime: ThreadRuntime, lent: bool = False) -> None:
        socket.settimeout(0.0)
        self.runtime = runtime
        # The number of what is lent may become another one's while it is still waited for here.
        self.descriptor: int = os.dup(socket.fileno()) if lent else socket.fileno()
        self.waits = 0
        """How often a thread has waited to receive."""
        self.wanted = False
        """Whether somebody is to be told of what comes in."""
        self.left_alone = False
        """Whether it is the service that waits for it."""
        self.writing = False
        """Whether more is to be written once the socket takes it."""
        self.armed = 0
        """What the service has the socket watched for now."""
        # The socket is closed by the last who waits for it: until then its number must not become another one's.
        self._users = 0
        self._lent = lent
        self._poll: Any = None
        super().__init__(socket, socket, Readiness(), listener)

    def _raw(self) -> Any:
        return self._socket

    # Reading.

    def wait(self, timeout: float | None) -> None:
        readiness = self._readiness
        if readiness.readable:
            return
        if readiness.receiver is not None:
            raise InvalidState("another thread is already waiting in receive() on this connection")
        self.waits += 1
        if not self.wanted:
            self.wanted = True
            Service.current().attend(self)
        readiness.receiver = self
        self.use()
        self.runtime.let_go()
        try:
            ready = self._poll_socket(timeout)
        finally:
            try:
                self.runtime.hold_again()
            finally:
                readiness.receiver = None
                self.unuse()
        if not ready:
            raise TimeoutError("nothing came in time")

    def _poll_socket(self, timeout: float | None) -> bool:
        if timeout is not None:
            # Who waits for longer than that may as well look in between: there may be something.
            if timeout > _LONGEST:
                return self._poll_socket(_LONGEST) or True
            timeout = max(timeout, 0)
        if _hub_to_wait_in() is not None:
            return self._poll_in_hub(timeout)
        if _new_poll is None:
            return bool(_select([self.descriptor], [], [], timeout)[0])
        if self._poll is None:
            self._poll = _new_poll()
            self._poll.register(self.descriptor, select.POLLIN)
        # Rounded up, or the last fraction of a millisecond would be spent in a loop.
        return bool(self._poll.poll(None if timeout is None else int(timeout * 1000) + 1))

    def _poll_in_hub(self, timeout: float | None) -> bool:
        try:
            wait_read(self.descriptor, timeout, TimeoutError("nothing came in time"))
        except TimeoutError:
            return False
        return True

    def watch(self) -> None:
        if self._closed:
            return
        self.wanted = self.left_alone = True
        service = Service.current()
        service.arrange(self)
        if self._readiness.readable:
            # The socket will not tell: what there is lies in TLS, or it is the end.
            service.call(self.runtime, self._tell_ready)

    def _tell_ready(self) -> None:
        if self.wanted and not self.receiving:
            self._on_readable()

    def _wake_receiver(self) -> None:
        # He finds the end of the stream. (An SSLSocket's own method would go on in clear with what is still to be sent.)
        with suppress(OSError):
            _socket.socket.shutdown(self._socket, _socket.SHUT_RD)

    def _tell_no_more(self) -> None:
        self.wanted = False
        self._rearrange()

    def _stop_watching(self) -> None:
        self.wanted = False
        self._rearrange()

    # Writing.

    def _start_writing(self) -> None:
        self.writing = True
        self._rearrange()

    def _stop_writing(self) -> None:
        self.writing = False
        self._rearrange()

    def _new_waiting(self) -> _Waiting:
        return _Waiting(self.runtime)

    def _wait_for_progress(self, waiting: Any, timeout: float | None) -> bool:
        while True:
            before = self.bytes_sent
            if waiting.wait(timeout):
                return True
            if self.bytes_sent == before and not self._takes_more():
                return False

    # The service.

    def interest(self) -> int:
        """What the service shall watch the socket for."""
        if self._closed:
            return 0
        return (_READ if self.wanted and self.left_alone else 0) | (_WRITE if self.writing else 0)

    def _rearrange(self) -> None:
        if self.interest() != self.armed:
            Service.current().arrange(self)

    def use(self) -> None:
        """Somebody waits for the socket, which must stay open."""
        self._users += 1

    def unuse(self) -> None:
        """Not any more."""
        self._users -= 1
        if self._closed and not self._users:
            self._give_up_socket()

    # Ending.

    def _close_socket(self, woken: bool) -> None:
        if self._users:
            self._wake_receiver()
            self._rearrange()
        else:
            self._give_up_socket()
        self._tell_closed()

    def _give_up_socket(self) -> None:
        if not self._lent:
            self._socket.close()
            return
        with suppress(OSError):
            self._socket.shutdown(_socket.SHUT_RDWR)
        os.close(self.descriptor)


_new_poll: Callable[[], Any] | None = get_original("select", "poll") if hasattr(select, "poll") else None
