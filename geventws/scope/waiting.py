"""Waiting on gevent's hub, for a descriptor or to be woken by any thread, and `time.sleep`. Nothing here knows what for."""

from __future__ import annotations

import errno
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar

import gevent
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Hub, Waiter, get_hub

from .dispatch import Replacement, dispatched

__all__ = [
    "READ",
    "WRITE",
    "Deadline",
    "Lines",
    "Sleeper",
    "forget_descriptor",
    "native_sleep",
    "pauses",
    "replacements",
    "set_aside",
    "wait_descriptor",
]

T = TypeVar("T")

READ: Final = 1
WRITE: Final = 2

# The longest that a wait may be which the standard library accepts, in seconds.
_LONGEST = 4_294_967.0


class Deadline:
    """How long something may still take."""

    __slots__ = ("_at", "_begun")

    # Here, where tools that put another clock into all modules do not find it: a clock that stands still ends no wait.
    _now = staticmethod(time.monotonic)

    def __init__(self, timeout: float | None) -> None:
        """timeout: seconds; None for ever."""
        self._at = None if timeout is None else self._now() + timeout
        self._begun = timeout is not None and timeout <= 0

    @property
    def left(self) -> float | None:
        """Seconds, not below 0; None when there is no end."""
        return None if self._at is None else max(self._at - self._now(), 0.0)

    @property
    def over(self) -> bool:
        """Whether to give up; to be asked before each wait. Never at first, unless there was no time at all.

        Who waits again and again for less than it takes to look at the clock would never let anybody else run.
        """
        if not self._begun:
            self._begun = True
            return False
        return self._at is not None and self._now() >= self._at


def pauses(deadline: Deadline, longest: float = 0.01) -> Iterator[None]:
    """Sleep a little between two looks at something that nobody tells of. Ends at the deadline."""
    pause = 0.0002
    while not deadline.over:
        left = deadline.left
        set_aside(gevent.sleep, pause if left is None else min(pause, left))
        yield
        pause = min(2 * pause, longest)


def set_aside(wait: Callable[..., T], *args: Any) -> T:
    """Wait, and let other greenlets run event loops of asyncio meanwhile, of which it allows a thread one."""
    events: Any = sys.modules.get("asyncio.events")
    running = None if events is None else events._get_running_loop()
    if running is None:
        return wait(*args)
    events._set_running_loop(None)
    try:
        return wait(*args)
    finally:
        events._set_running_loop(running)


class Sleeper:
    """A greenlet that waits, on its own hub, until any greenlet or thread wakes it. Waking before the sleep counts."""

    __slots__ = ("__weakref__", "_async", "_waiter", "_woken", "hub")

    def __init__(self) -> None:
        self.hub: Hub = get_hub()
        self._waiter: Waiter[bool] | None = None
        self._woken = False
        # An async watcher may be rung by any thread, and an active one keeps the loop from ending for want of others.
        self._async = self.hub.loop.async_()
        self._async.start(self._ring)

    def wake(self) -> None:
        """Any greenlet and any thread may call this."""
        self._woken = True
        # Where the hub has been destroyed there is nobody to wake any more; what this raises then depends on the loop.
        with suppress(Exception):
            self._async.send()

    def sleep(self, timeout: float | None) -> None:
        """Wait until woken, at most `timeout` seconds."""
        if not self._woken:
            self._waiter = Waiter(self.hub)
            try:
                _wait(self._waiter, self.hub, timeout)
            finally:
                self._waiter = None
        self._woken = False

    def close(self) -> None:
        self._async.stop()
        self._async.close()

    def _ring(self) -> None:
        if self._waiter is not None:
            self._waiter.switch(True)


def _wait(waiter: Waiter[bool], hub: Hub, timeout: float | None) -> bool:
    """What the waiter is switched to with; False when `timeout` seconds have passed first."""
    timer = None
    if timeout is not None:
        timer = hub.loop.timer(min(timeout, _LONGEST))
        timer.start(waiter.switch, False)
    try:
        return set_aside(waiter.get)
    finally:
        if timer is not None:
            timer.close()


class Lines(dict[Hub, "deque[Sleeper]"]):
    """Who waits on a hub for something that one at a time can take: a line for each hub.

    Who waits queues first and tries once more then; who brings something, brings it first and calls then. So nobody is
    missed. The first of each line is called; it stays the first until it has what it wants, or gives up and calls the
    next. A hub that is busy thus holds up its own line only, and greenlets of one hub come in turn.
    """

    __slots__ = ()

    def wait(self, attempt: Callable[[], bool], deadline: Deadline, patience: float | None = None) -> bool:
        """Until `attempt`, which must not wait, has succeeded. Returns False when the deadline came first.

        patience: after how many seconds to try without having been called.
        """
        sleeper = Sleeper()
        line = self.setdefault(sleeper.hub, deque())
        line.append(sleeper)
        succeeded = False
        try:
            while True:
                if line[0] is sleeper and attempt():
                    succeeded = True
                    return True
                if deadline.over:
                    return False
                left = deadline.left
                sleeper.sleep(left if patience is None else patience if left is None else min(left, patience))
        finally:
            line.remove(sleeper)
            sleeper.close()
            if not line:
                # Only this thread adds to this line, so nobody has joined it just now.
                del self[sleeper.hub]
            elif not succeeded:
                line[0].wake()

    def call(self) -> None:
        """Any greenlet and any thread may call this."""
        for line in list(self.values()):
            with suppress(IndexError):  # It has just left.
                line[0].wake()


class _DescriptorWait:
    """One greenlet's wait for one descriptor."""

    __slots__ = ("hub", "waiter", "watcher")

    def __init__(self, fd: int, events: int) -> None:
        self.hub: Hub = get_hub()
        self.waiter: Waiter[bool] = Waiter(self.hub)
        self.watcher = self.hub.loop.io(fd, events)

    def run(self, timeout: float | None) -> bool:
        self.watcher.start(self.waiter.switch, True)
        try:
            return _wait(self.waiter, self.hub, timeout)
        finally:
            self.watcher.close()

    def cancel(self) -> None:
        """The descriptor is about to be closed. Its number may be somebody else's the next moment."""
        error = OSError(errno.EBADF, "The descriptor was closed while this greenlet waited for it")
        if get_hub_if_exists() is self.hub:
            self.watcher.stop()
            self.hub.loop.run_callback(self._throw, error)
        else:
            self.hub.loop.run_callback_threadsafe(self._throw, error)

    def _throw(self, error: OSError) -> None:
        self.watcher.stop()
        self.waiter.throw(error)


# Who waits for which descriptor: touched by several threads, one atomic step of a dict or list at a time.
_waits: dict[int, list[_DescriptorWait]] = {}


def wait_descriptor(fd: int, events: int, timeout: float | None) -> bool:
    """Wait until `fd` is ready for `events`. Returns False when `timeout` seconds have passed first.

    Raises OSError (EBADF) when another greenlet or thread closes it meanwhile.
    """
    wait = _DescriptorWait(fd, events)
    waits = _waits.setdefault(fd, [])
    waits.append(wait)
    try:
        return wait.run(timeout)
    finally:
        waits.remove(wait)
        if not waits and _waits.get(fd) is waits:
            del _waits[fd]


def forget_descriptor(fd: int) -> None:
    """`fd` is about to be closed: wake who waits for it. Any thread may call this."""
    for wait in list(_waits.pop(fd, ())):
        wait.cancel()


native_sleep: Final = time.sleep


def _sleep(seconds: Any, /) -> None:
    if hasattr(seconds, "__index__"):
        seconds = seconds.__index__()
    if isinstance(seconds, int | float) and 0 <= seconds < _LONGEST:
        set_aside(gevent.sleep, seconds)
    else:
        native_sleep(seconds)  # Raises, or is meant to last for months.


def replacements() -> Iterator[Replacement]:
    yield Replacement(time, "sleep", dispatched(native_sleep, _sleep))
