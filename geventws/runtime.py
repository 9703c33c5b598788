"""What a connection runs in: who may touch it at a time, and how something is done there later, or beside it.

Here is what is asked for, and gevent's answer; that of native threads is in `threads`. No sockets, nothing of WebSockets.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from gevent import kill, spawn_raw
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event
from gevent.hub import Hub, Waiter, get_hub
from gevent.monkey import get_original

from .exceptions import InvalidState
from .keepalive import Keepalive, Ticking

__all__ = ["HubRuntime", "Runtime", "Signal", "call_in_hub", "hub_beside"]

# The real one, also where the process is patched: it is waited for by threads that have no hub.
_allocate_lock = get_original("_thread", "allocate_lock")
_start_new_thread = get_original("_thread", "start_new_thread")
# How often a thread looks whether the thread it waits for is still there.
_PATIENCE = 1.0


# Really the thread's, also where the process is patched.
_local: Any = get_original("_thread", "_local")()


class _Presence:
    """Goes when its thread does, which drops what is local to it."""


_present: weakref.WeakKeyDictionary[Hub, weakref.ref[_Presence]] = weakref.WeakKeyDictionary()


def _be_present(hub: Hub) -> None:
    """Called in `hub`'s own thread: from now on it can be seen whether that is still there."""
    if hub not in _present:
        _local.presence = presence = _Presence()
        _present[hub] = weakref.ref(presence)


class Signal(Protocol):
    """Something that is waited for, and happens once."""

    def set(self) -> None:
        """It has happened. Whoever waits goes on."""

    def wait(self) -> object:
        """Wait until it has happened."""


class Runtime:
    """Where a connection's methods run. What touches the connection runs in `thread`; everybody else uses `call`."""

    thread: int
    """The number of the thread that may touch the connection now; 0 if none may, before it has asked."""

    __slots__ = ("thread",)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(*args)` where it may touch the connection, and wait for what it returns or raises.

        Raises:
            InvalidState: there is nothing left that could run it.
        """
        raise NotImplementedError

    def soon(self, function: Callable[[], object]) -> None:
        """Run `function` where it may touch the connection, once others had their turn. It must not block."""
        raise NotImplementedError

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function(*args)` beside everything else. It may block."""
        raise NotImplementedError

    def at(self, due: float, target: Ticking) -> None:
        """Call `target.tick` at `due` (`time.monotonic`), unless it has been forgotten by then: it is not kept alive."""
        raise NotImplementedError

    def signal(self) -> Signal:
        """A new one, for those who touch the connection: others may do so while it is waited for."""
        raise NotImplementedError


class HubRuntime(Runtime):
    """The greenlets of one hub: all of its thread's may touch a connection, and nobody disturbs them until they wait."""

    __slots__ = ("__weakref__", "_hub", "_keepalive")

    def __init__(self, hub: Hub) -> None:
        self.thread = hub.thread_ident
        # It must not keep the hub, which goes with its thread though a connection of it may be held on to.
        self._hub = weakref.ref(hub)
        # Nor must this, whose greenlet is the hub's.
        self._keepalive: weakref.ref[Keepalive] | None = None

    @classmethod
    def current(cls) -> HubRuntime:
        """That of the current thread, which gets a hub if it has none."""
        hub = get_hub()
        runtime: HubRuntime | None = getattr(_local, "runtime", None)
        if runtime is None or runtime._hub() is not hub:
            _be_present(hub)
            runtime = _local.runtime = cls(hub)
        return runtime

    def _living_hub(self) -> Hub:
        hub = self._hub()
        if hub is None:
            raise _ended()
        return hub

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return call_in_hub(self._living_hub(), function, *args)

    def soon(self, function: Callable[[], object]) -> None:
        self._living_hub().loop.run_callback(function)

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        spawn_raw(function, *args)

    def at(self, due: float, target: Ticking) -> None:
        keepalive = self._keepalive() if self._keepalive is not None else None
        if keepalive is None:
            keepalive = Keepalive.of(self._living_hub())
            self._keepalive = weakref.ref(keepalive)
        keepalive.at(due, target)

    def signal(self) -> Signal:
        return Event()


def call_in_hub(hub: Hub, function: Callable[..., Any], *args: Any) -> Any:
    """Run `function(*args)` in a greenlet of `hub`'s thread, from another thread, and wait for what it returns or raises.

    Raises:
        InvalidState: that thread has ended.
    """
    outcome: list[Any] = [None, None]
    wake, wait = _waiter_for_another_thread(hub)

    def run() -> None:
        try:
            outcome[0] = function(*args)
        except BaseException as error:
            outcome[1] = error
        finally:
            wake()

    started: list[Any] = []
    _check_alive(hub)
    hub.loop.run_callback_threadsafe(lambda: started.append(spawn_raw(run)))
    try:
        wait()
    except BaseException:
        # Whoever was to get what it brings is gone: a message that it takes would be lost.
        loop = hub.loop
        if loop is not None:
            loop.run_callback_threadsafe(_give_up, started)
        raise
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _give_up(started: list[Any]) -> None:
    for greenlet in started:
        kill(greenlet)


def hub_beside() -> Hub:
    """The hub of a thread that does nothing else, one for the process, for `call_in_hub` from threads that run no greenlets."""
    with _beside.lock:
        if _beside.hub is None:
            ready = _allocate_lock()
            ready.acquire()
            _start_new_thread(_beside.run, (ready,))
            ready.acquire()
        assert _beside.hub is not None
        return _beside.hub


class _Beside:
    """The thread of `hub_beside`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Also in a forked child, which has not this thread."""
        self.lock = _allocate_lock()
        self.hub: Hub | None = None

    def run(self, ready: Any) -> None:
        self.hub = hub = get_hub()
        _be_present(hub)
        # As long as there is this, the loop has something to wait for.
        stays = hub.loop.async_()
        stays.start(lambda: None)
        hub.loop.run_callback(ready.release)
        Waiter().get()


_beside = _Beside()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_beside.forget)


def _check_alive(hub: Hub) -> None:
    if hub.dead or hub.loop is None or not _is_there(hub):
        raise _ended()


def _ended() -> InvalidState:
    return InvalidState("the thread that the connection belongs to has ended")


def _is_there(hub: Hub) -> bool:
    """Whether `hub`'s thread is."""
    presence = _present.get(hub)
    if presence is not None:
        return presence() is not None
    # A guess: a thread that runs nothing but compiled code just now has no frame either.
    return hub.thread_ident in sys._current_frames()


def _waiter_for_another_thread(other: Hub) -> tuple[Callable[[], object], Callable[[], object]]:
    """A pair of calls: the first, made in `other`'s thread, ends the second one's waiting in this thread."""
    hub = get_hub_if_exists()
    if hub is None:
        lock = _allocate_lock()
        lock.acquire()

        def wait_natively() -> None:
            while not lock.acquire(timeout=_PATIENCE):
                _check_alive(other)

        return lock.release, wait_natively
    # This thread runs greenlets of its own: they go on meanwhile.
    done: list[bool] = []
    notice: Any = hub.loop.async_()
    # A notice must not be closed while another thread sends it, nor be sent afterwards, to whoever has given up waiting.
    sending = _allocate_lock()

    def wake() -> None:
        done.append(True)
        with sending:
            if notice is not None:
                notice.send()

    def wait() -> None:
        nonlocal notice
        try:
            while not done:
                waiter: Waiter[None] = Waiter()
                notice.start(waiter.switch, None)
                timer = hub.loop.timer(_PATIENCE)
                timer.start(waiter.switch, None, update=True)
                if not done:
                    waiter.get()
                notice.stop()
                timer.stop()
                timer.close()
                if not done:
                    _check_alive(other)
        finally:
            with sending:
                notice.close()
                notice = None

    return wake, wait
