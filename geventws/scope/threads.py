"""`threading.Thread` inside a scope: a greenlet that is in it too. Starting, joining and telling apart belong here."""

from __future__ import annotations

import concurrent.futures.thread
import functools
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Final

import gevent
from greenlet import getcurrent

from .dispatch import Replacement, dispatched, dispatched_keywords
from .locks import Ended, Lock, alone, must_not_stop
from .membership import inside, outside
from .waiting import Deadline, pauses

__all__ = ["replacements"]

_native_get_ident: Final = threading.get_ident
_native_join: Final = threading.Thread.join
_native_dummy_init: Final = threading._DummyThread.__init__

_started: Final = threading.Event()
_started.set()

# Handles came with CPython 3.13; before, a lock told that a thread has ended.
_HANDLES: Final = sys.version_info >= (3, 13)


def _get_ident() -> int:
    """The greenlet's, so that what is kept by thread is kept by greenlet."""
    return id(getcurrent())


def _start(function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> int:
    """`_thread.start_new_thread`."""
    if not callable(function):
        raise TypeError("first arg must be callable")
    if not isinstance(args, tuple):
        raise TypeError("2nd arg must be a tuple")
    greenlet = gevent.Greenlet(_run, function, args, dict(kwargs or {}))
    _inherit(greenlet)
    greenlet.start()
    return id(greenlet)


def _inherit(greenlet: Any) -> None:
    """A thread's greenlet is in the scope also where greenlets do not know who spawned them (GEVENT_TRACK_GREENLET_TREE)."""
    current: Any = getcurrent()
    greenlet.spawn_tree_locals = current.spawn_tree_locals


def _run(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    greenlet: Any = getcurrent()
    try:
        function(*args, **kwargs)
    except SystemExit:
        pass  # Ends a thread, not the process.
    finally:
        ended = greenlet.__dict__.pop("_geventws_ended", None)
        if ended is not None:
            ended.release()


def _new_ended() -> Ended:
    """`threading._set_sentinel`: a lock that is released when what calls this has ended."""
    greenlet: Any = getcurrent()
    greenlet._geventws_ended = ended = Ended()
    return ended


class _Handle:
    """`_thread._ThreadHandle` of a thread that is a greenlet."""

    def __init__(self) -> None:
        self.ident = 0
        self._ended = Ended()
        self._done = False

    def run(self, function: Callable[[], object]) -> None:
        self._ended.acquire()
        try:
            _run(function, (), {})
        finally:
            self._set_done()
            self._ended.release()

    def join(self, timeout: float | None = None) -> None:
        if self._ended.acquire(timeout=-1 if timeout is None or timeout < 0 else timeout):
            self._ended.release()

    def is_done(self) -> bool:
        return self._done

    def _set_done(self) -> None:
        self._done = True


def _start_joinable(function: Any, handle: Any = None, daemon: bool = True) -> Any:
    """`threading._start_joinable_thread`."""
    handle = _Handle()
    greenlet = gevent.Greenlet(handle.run, function)
    handle.ident = id(greenlet)
    function.__self__._handle = handle
    if not daemon:
        _awaited.add(handle)
    _inherit(greenlet)
    greenlet.start()
    return handle


_awaited: weakref.WeakSet[_Handle] = weakref.WeakSet()


def _join_awaited() -> None:
    for handle in list(_awaited):
        handle.join()


if _HANDLES:
    _register: Any = threading._register_atexit  # type: ignore[attr-defined]
    _register(_join_awaited)


def _join(thread: Any, timeout: float | None = None) -> None:
    """`Thread.join`. The interpreter tells nobody that a native thread has ended, so this has to look."""
    ended = getattr(thread, "_tstate_lock", None)
    if isinstance(ended, Ended):
        # Not in CPython's own method: an exception thrown in there makes it take the thread for ended.
        if ended.acquire(True, -1 if timeout is None else max(timeout, 0)):
            ended.release()
        else:
            timeout = 0
    elif not _has_our_handle(thread) and thread.ident is not None and thread is not threading.current_thread():
        deadline = Deadline(timeout)
        if thread.is_alive():
            for _ in pauses(deadline):
                if not thread.is_alive():
                    break
            else:
                timeout = 0
    _native_join(thread, timeout)


def _has_our_handle(thread: Any) -> bool:
    return isinstance(getattr(thread, "_handle", None), _Handle)


@functools.wraps(_native_join)
def _join_outside(thread: Any, timeout: float | None = None) -> None:
    ours = must_not_stop() or isinstance(getattr(thread, "_tstate_lock", None), Ended)
    (_join if ours else _native_join)(thread, timeout)


def _native_ident(ident: int) -> int:
    """For what the operating system is asked: of a greenlet, the thread's."""
    module: Any = threading
    of_greenlet = ident == id(getcurrent()) or (ident in module._active and ident not in sys._current_frames())
    return _native_get_ident() if of_greenlet else ident


def _of_native_thread(native: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(native)
    def operation(thread_id: int, *args: Any) -> Any:
        return native(_native_ident(thread_id), *args)

    return operation


def _dummy_init(dummy: Any) -> None:
    """A greenlet that was not started as a thread is known as one until it ends."""
    _native_dummy_init(dummy)
    # What threads it starts inherit is what those would that the native thread starts.
    module: Any = threading
    around = module._active.get(_native_get_ident())
    if around is not None:
        dummy._daemonic = around.daemon
    # One for all: it is the larger part of a thread, and has happened to each of these.
    dummy._started = _started
    _forget_at_end(getcurrent())


def _forget_at_end(greenlet: Any) -> None:
    """Forget the thread that `greenlet` was known as."""
    module: Any = threading
    if hasattr(greenlet, "rawlink"):
        greenlet.rawlink(lambda ended: module._active.pop(id(ended), None))
    else:
        weakref.finalize(greenlet, module._active.pop, id(greenlet), None).atexit = False


def _adjust_thread_count(executor: Any) -> None:
    # Workers outlive the connection and work for everybody: they are native threads, and who waits for them natively,
    # in this thread too, does not wait for its own hub.
    with outside(), nullcontext() if type(executor._shutdown_lock) is Lock else alone():
        _native_adjust_thread_count(executor)


_native_adjust_thread_count: Final = concurrent.futures.thread.ThreadPoolExecutor._adjust_thread_count


def replacements() -> Iterator[Replacement]:
    module: Any = threading
    yield Replacement(module, "get_ident", dispatched(_native_get_ident, _get_ident))
    if _HANDLES:
        native_start = module._start_joinable_thread
        yield Replacement(module, "_start_joinable_thread", dispatched_keywords(native_start, _start_joinable), False)
        tracker = module._DeleteDummyThreadOnDel

        def track(dummy: Any) -> None:
            # It forgets a dummy thread with the native thread, as `_dummy_init` does with the greenlet.
            if not inside():
                tracker(dummy)

        yield Replacement(module, "_DeleteDummyThreadOnDel", track, False)
    else:
        yield Replacement(module, "_start_new_thread", dispatched(module._start_new_thread, _start), False)
        yield Replacement(module, "_set_sentinel", dispatched(module._set_sentinel, _new_ended), False)
    yield Replacement(threading.Thread, "join", dispatched_keywords(_join_outside, _join))
    yield Replacement(module._DummyThread, "__init__", dispatched(_native_dummy_init, _dummy_init))
    for owner, name in ((signal, "pthread_kill"), (time, "pthread_getcpuclockid")):
        if hasattr(owner, name):
            yield Replacement(owner, name, _of_native_thread(getattr(owner, name)))
    executor = concurrent.futures.thread.ThreadPoolExecutor
    yield Replacement(executor, "_adjust_thread_count", dispatched(_native_adjust_thread_count, _adjust_thread_count))
