"""Things that connections have to do at a time: one greenlet per hub does them for all, from a heap of due times.

What is due, and when next, the connection says itself; nothing here knows of WebSockets.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import weakref
from time import monotonic
from typing import ClassVar, Protocol

import gevent
from gevent.hub import Hub, Waiter

__all__ = ["Keepalive", "Ticking"]

logger = logging.getLogger("geventws.keepalive")


class Ticking(Protocol):
    """Something that wants to be called at a time."""

    def tick(self, now: float) -> float | None:
        """Do what is due at `now` (`time.monotonic`) without blocking. Returns when to be called next; None for never."""


class Keepalive:
    """The clock of one hub. Only for greenlets of that hub's thread."""

    _of_hub: ClassVar[weakref.WeakKeyDictionary[Hub, Keepalive]] = weakref.WeakKeyDictionary()

    def __init__(self, hub: Hub) -> None:
        self._loop = hub.loop
        self._heap: list[tuple[float, int, weakref.ref[Ticking]]] = []
        self._order = itertools.count()
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._sleeper: Waiter[None] | None = None

    @classmethod
    def of(cls, hub: Hub) -> Keepalive:
        """The one of `hub`."""
        keepalive = cls._of_hub.get(hub)
        if keepalive is None:
            keepalive = cls._of_hub[hub] = cls(hub)
        return keepalive

    def at(self, due: float, target: Ticking) -> None:
        """Call `target.tick` at `due`, unless it has been forgotten by then: it is not kept alive. Never blocks."""
        first = self._heap[0][0] if self._heap else None
        heapq.heappush(self._heap, (due, next(self._order), weakref.ref(target)))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        elif first is not None and due < first:
            self._wake()

    def _wake(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            self._loop.run_callback(sleeper.switch, None)

    def _run(self) -> None:
        try:
            while self._heap:
                now = monotonic()
                if self._heap[0][0] > now:
                    self._sleep(self._heap[0][0] - now)
                    continue
                target = heapq.heappop(self._heap)[2]()
                if target is not None:
                    self._tick(target, now)
                del target
        finally:
            self._greenlet = None

    def _tick(self, target: Ticking, now: float) -> None:
        try:
            due = target.tick(now)
        except Exception:
            # One connection's mistake must not end the care for all others.
            logger.exception("The timer of %r failed", target)
            return
        if due is not None:
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(target)))

    def _sleep(self, seconds: float) -> None:
        sleeper: Waiter[None] = Waiter()
        self._sleeper = sleeper
        # ref=False: a program that has nothing else to wait for may end.
        timer = self._loop.timer(seconds, ref=False)
        timer.start(self._wake_by_timer, sleeper)
        try:
            sleeper.get()
        finally:
            timer.stop()
            timer.close()

    def _wake_by_timer(self, sleeper: Waiter[None]) -> None:
        if self._sleeper is sleeper:
            self._sleeper = None
            sleeper.switch(None)
