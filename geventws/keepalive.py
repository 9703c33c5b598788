"""Things that connections have to do at a time: a heap of due times, and the greenlet that goes through it in each hub.

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

__all__ = ["Keepalive", "Schedule", "Ticking"]

_SHORTEST = 0.001
# From so many entries on it is looked for those whose target has gone.
_FEW = 1000

logger = logging.getLogger("geventws.keepalive")


class Ticking(Protocol):
    """Something that wants to be called at a time."""

    def tick(self, now: float) -> float | None:
        """Do what is due at `now` (`time.monotonic`) without blocking. Returns when to be called next; None for never."""


class Schedule:
    """Who is to be called when. Not for several threads at once."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[Ticking], object]] = []
        self._most = _FEW
        self._order = itertools.count()

    @property
    def next_due(self) -> float | None:
        """When the first is to be called; None if nobody is."""
        return self._heap[0][0] if self._heap else None

    def add(self, due: float, target: Ticking, place: object = None) -> bool:
        """Call `target.tick` at `due`, unless it has been forgotten by then: it is not kept alive. `place`: for subclasses.

        Whether it is the first to be called now.
        """
        if len(self._heap) >= self._most:
            self._sweep()
        entry = (due, next(self._order), weakref.ref(target), place)
        heapq.heappush(self._heap, entry)
        return self._heap[0] is entry

    def _sweep(self) -> None:
        """Drop the entries whose target has been forgotten: they would only wait for their time."""
        self._heap = [entry for entry in self._heap if entry[2]() is not None]
        heapq.heapify(self._heap)
        self._most = max(_FEW, 2 * len(self._heap))

    def call_due(self, now: float) -> None:
        """Call those whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            _, _, reference, place = heapq.heappop(self._heap)
            target = reference()
            if target is not None:
                self._call(target, now, place)

    def _call(self, target: Ticking, now: float, place: object) -> None:
        try:
            due = target.tick(now)
        except Exception:
            # One connection's mistake must not end the care for all others.
            logger.exception("The timer of %r failed", target)
            return
        if due is not None:
            # Never for this same moment again: it could be due for ever.
            self.add(max(due, now + _SHORTEST), target, place)


class Keepalive:
    """The clock of one hub. Only for greenlets of that hub's thread."""

    _of_hub: ClassVar[weakref.WeakKeyDictionary[Hub, Keepalive]] = weakref.WeakKeyDictionary()

    def __init__(self, hub: Hub) -> None:
        self._loop = hub.loop
        self._schedule = Schedule()
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
        first = self._schedule.add(due, target)
        if self._greenlet is None:
            self._greenlet = gevent.Greenlet(self._run)
            # It works for all connections, not only for the first one, from whose greenlet it is spawned.
            self._greenlet.spawn_tree_locals = {}
            self._greenlet.start()
        elif first:
            self._wake()

    def _wake(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            self._loop.run_callback(sleeper.switch, None)

    def _run(self) -> None:
        try:
            while (due := self._schedule.next_due) is not None:
                now = monotonic()
                if due > now:
                    self._sleep(due - now)
                    continue
                self._schedule.call_due(now)
                # Whatever else is due by now: others come first.
                gevent.sleep(0)
        finally:
            self._greenlet = None

    def _sleep(self, seconds: float) -> None:
        sleeper: Waiter[None] = Waiter()
        self._sleeper = sleeper
        # ref=False: a program that has nothing else to wait for may end.
        timer = self._loop.timer(seconds, ref=False)
        timer.start(self._wake_by_timer, sleeper, update=True)
        try:
            sleeper.get()
        finally:
            timer.stop()
            timer.close()

    def _wake_by_timer(self, sleeper: Waiter[None]) -> None:
        if self._sleeper is sleeper:
            self._sleeper = None
            sleeper.switch(None)
