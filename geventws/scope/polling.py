"""`select` and `selectors`: waiting for one of many descriptors."""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import gevent
import gevent.select
from greenlet import getcurrent

from .dispatch import Replacement, dispatched, dispatched_keywords
from .membership import MARK
from .waiting import READ, Deadline, set_aside, wait_descriptor

__all__ = ["replacements"]

_native_poll: Final = select.poll

# Milliseconds: an int of C.
_LONGEST: Final = 2**31 - 1


def _wait_any(events: Iterable[tuple[int, int]], timeout: float | None) -> None:
    """Until something has happened to one of the descriptors, given with what `poll` calls events."""
    poll = gevent.select.poll()
    for fd, mask in events:
        poll.register(fd, mask)
    set_aside(poll.poll, None if timeout is None else timeout * 1000)


def _until_ready(look: Callable[[], Any], wait: Callable[[float | None], object], timeout: float | None) -> Any:
    """Look, and wait as long as there is nothing."""
    deadline = Deadline(timeout)
    while True:
        ready = look()
        if ready or deadline.over:
            return ready
        wait(deadline.left)


class poll:  # noqa: N801 (the name it replaces)
    """What `select.poll()` makes. A native one does not tell what is registered."""

    __module__ = "select"

    def __new__(cls) -> poll:
        raise TypeError("cannot create 'select.poll' instances")

    @classmethod
    def make(cls, *args: Any) -> poll:
        """What `select.poll()` does."""
        self = object.__new__(cls)
        self._prepare(_native_poll(*args))
        return self

    def _prepare(self, native: Any) -> None:
        self._native = native
        self._events: dict[int, int] = {}
        self._busy = False

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
        self._native.register(fd, eventmask)
        self._events[_number(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        self._native.modify(fd, eventmask)
        self._events[_number(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        self._native.unregister(fd)
        self._events.pop(_number(fd), None)

    def poll(self, timeout: float | None = None, /) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if (
            shared is None
            or MARK not in shared
            or not isinstance(timeout, int | float | None)
            or (timeout or 0) > _LONGEST
        ):
            return self._native.poll(timeout)
        if self._busy:
            raise RuntimeError("concurrent poll() invocation")
        self._busy = True
        seconds = None if timeout is None or timeout < 0 else timeout / 1000
        try:
            return _until_ready(
                lambda: self._native.poll(0), lambda left: _wait_any(self._events.items(), left), seconds
            )
        finally:
            self._busy = False


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else fd.fileno()


def _epoll(native: Callable[..., Any]) -> Callable[..., Any]:
    def poll(epoll: Any, timeout: float | None = None, maxevents: int = -1) -> Any:
        if epoll.closed or not isinstance(timeout, int | float | None):
            return native(epoll, timeout, maxevents)  # Raises.
        seconds = None if timeout is None or timeout < 0 else timeout
        return _until_ready(
            lambda: native(epoll, 0, maxevents),
            lambda left: wait_descriptor(epoll.fileno(), READ, left),
            seconds,
        )

    return poll


def _selector(cls: Any, wait: Callable[[Any, float | None], object]) -> Replacement:
    native = cls.select

    def select(selector: Any, timeout: float | None = None) -> Any:
        seconds = None if timeout is None else max(timeout, 0)
        return _until_ready(lambda: native(selector, 0), lambda left: wait(selector, left), seconds)

    return Replacement(cls, "select", dispatched_keywords(native, select))


def _wait_for_queue(selector: Any, timeout: float | None) -> None:
    wait_descriptor(selector.fileno(), READ, timeout)


def _wait_for_each(selector: Any, timeout: float | None) -> None:
    masks = {selectors.EVENT_READ: select.POLLIN, selectors.EVENT_WRITE: select.POLLOUT}
    _wait_any(
        [
            (key.fd, sum(mask for event, mask in masks.items() if key.events & event))
            for key in selector.get_map().values()
        ],
        timeout,
    )


def replacements() -> Iterator[Replacement]:
    yield Replacement(select, "select", dispatched(select.select, gevent.select.select))
    yield _selector(selectors.SelectSelector, _wait_for_each)
    yield Replacement(select, "poll", poll.make)
    yield _selector(selectors._PollLikeSelector, _wait_for_each)
    if hasattr(selectors, "KqueueSelector"):
        yield _selector(selectors.KqueueSelector, _wait_for_queue)
    if hasattr(select, "epoll"):
        native = select.epoll.poll
        yield Replacement(select.epoll, "poll", dispatched_keywords(native, _epoll(native)))
        yield _selector(selectors.EpollSelector, _wait_for_queue)
