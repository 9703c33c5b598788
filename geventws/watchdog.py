"""Tells who holds the event loop: gevent's monitor thread measures, the log names the connection and the line.

Only what `WebSocketOptions.warn_blocked` asks for. What keeps a handler from holding it belongs to `scope`.
"""

from __future__ import annotations

import linecache
import logging
import sys
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Any, ClassVar

import gevent
import gevent.events
from gevent import getcurrent
from gevent._monitor import PeriodicMonitoringThread
from gevent.hub import Hub, get_hub

from .scope import calling, functions

__all__ = ["Watchdog", "watched"]

# Where calls go through that may block outside a scope.
_DISPATCHERS = (calling.__file__, functions.__file__)

logger = logging.getLogger("geventws.watchdog")

_LABEL = "geventws.watched"


@contextmanager
def watched(subject: object, seconds: float) -> Iterator[None]:
    """Log a warning that names `subject` when what runs here, or in greenlets spawned here, holds the loop for `seconds`."""
    Watchdog.of(get_hub()).start(seconds)
    greenlet: Any = getcurrent()
    before = getattr(greenlet, "spawn_tree_locals", None)
    greenlet.spawn_tree_locals = {**(before or {}), _LABEL: (subject, seconds)}
    try:
        yield
    finally:
        greenlet.spawn_tree_locals = before


class _Monitor(PeriodicMonitoringThread):
    """gevent's monitor thread, which here tells the Watchdog. By itself it describes all greenlets of the process first: with
    thousands of them that takes longer than what it tells of."""

    _greenlet_tracer: Any

    def monitor_blocking(self, hub: Any) -> Any:
        held = self._greenlet_tracer.did_block_hub(hub)
        if held:
            Watchdog.of(hub).blocked(hub, held[1], gevent.config.max_blocking_time)
        return held


class Watchdog:
    """Watches one hub. Its methods run in the hub's thread, but for what the monitor calls in its own."""

    _of_hub: ClassVar[weakref.WeakKeyDictionary[Hub, Watchdog]] = weakref.WeakKeyDictionary()

    def __init__(self, hub: Hub) -> None:
        self._hub = weakref.ref(hub)
        self._thread = hub.thread_ident
        self._period: float | None = None
        # Somebody else may have started the monitor, and want to read its own reports.
        self._monitor_is_ours = False
        # While the loop is held: since when, and whether that has been told.
        self._since: float | None = None
        self._told = False

    @classmethod
    def of(cls, hub: Hub) -> Watchdog:
        """The one of `hub`."""
        watchdog = cls._of_hub.get(hub)
        if watchdog is None:
            watchdog = cls._of_hub[hub] = cls(hub)
        return watchdog

    def start(self, seconds: float) -> None:
        """Look at least as often as it takes to notice `seconds`. Does nothing when that is so already."""
        if self._period is not None and self._period <= seconds:
            return
        hub: Any = self._hub()
        if self._period is None:
            self._monitor_is_ours = hub.periodic_monitoring_thread is None
            if not self._monitor_is_ours:
                gevent.events.subscribers.append(self._hear)
        config: Any = gevent.config
        # The monitor notices at the end of a period in which nothing was switched to.
        period = max(seconds / 4, 0.01)
        if self._monitor_is_ours or config.max_blocking_time > period:
            config.max_blocking_time = period
        self._period = seconds
        if self._monitor_is_ours and hub.periodic_monitoring_thread is None:
            # What `start_periodic_monitoring_thread` does, without watching memory too and wanting psutil for it.
            hub.periodic_monitoring_thread = _Monitor(hub)
            # It notices switches, and there has been none since this greenlet began to run.
            hub.periodic_monitoring_thread.monitor_current_greenlet_blocking()

    def _hear(self, event: Any) -> None:
        """From a monitor that somebody else has started, and from those of other hubs."""
        hub = self._hub()
        if hub is None:
            gevent.events.subscribers.remove(self._hear)
        elif isinstance(event, gevent.events.EventLoopBlocked) and getattr(event, "hub", None) in (None, hub):
            self.blocked(hub, event.greenlet, event.blocking_time)

    def blocked(self, hub: Any, greenlet: Any, seconds_held: float) -> None:
        """From a monitor's thread: a greenlet has held the loop for so long, or longer."""
        label = (getattr(greenlet, "spawn_tree_locals", None) or {}).get(_LABEL)
        if label is None:
            return
        now = perf_counter()
        if self._since is None:
            self._since = now - seconds_held
            # Runs when the loop does again.
            hub.loop.run_callback_threadsafe(self._released)
        subject, seconds = label
        if not self._told and now - self._since >= seconds:
            self._told = True
            self._tell(subject, now - self._since)

    def _released(self) -> None:
        self._since = None
        self._told = False

    def _tell(self, subject: object, seconds: float) -> None:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return
        where = _innermost(frame)
        line = linecache.getline(where.f_code.co_filename, where.f_lineno).strip()
        logger.warning(
            "%r has held the event loop for %.2f s, at %s:%d in %s: %s\n%s",
            subject,
            seconds,
            where.f_code.co_filename,
            where.f_lineno,
            where.f_code.co_name,
            line,
            "".join(traceback.format_stack(frame)).rstrip(),
        )


def _innermost(frame: FrameType) -> FrameType:
    """The frame that blocks, and not the dispatcher that it called."""
    while frame.f_back is not None and frame.f_code.co_filename in _DISPATCHERS:
        frame = frame.f_back
    return frame
