"""The operations of `ssl.SSLSocket` that can block. Encryption itself stays OpenSSL's."""

from __future__ import annotations

import _thread
import functools
import ssl
import sys
from collections.abc import Callable, Iterator
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from types import FrameType
from typing import Any

import gevent

from .dispatch import Replacement, dispatched_keywords
from .sockets import native_fileno, native_settimeout, native_timeout
from .waiting import READ, WRITE, Deadline, wait_descriptor

__all__ = ["replacements"]

_Operation = Callable[..., Any]

_native_handshake = SSLSocket.do_handshake


class _Users:
    """Who is in an operation on a socket: threads, one mark for each, or the attempt of a greenlet.

    Never both: an attempt changes the socket's timeout, and with it what OpenSSL does in other operations.
    """

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.threads: set[object] = set()
        # Whether there may be one that came before the scope was installed, and has left no mark.
        self._unmarked = True

    @classmethod
    def of(cls, sock: Any) -> _Users:
        users: _Users = vars(sock).setdefault("_geventws_users", cls())
        return users

    def has_threads(self, sock: Any) -> bool:
        if self._unmarked:
            self._unmarked = _is_in_use(sock)
        return bool(self.threads) or self._unmarked


def _is_in_use(sock: Any) -> bool:
    """Whether a thread is in a method of `sock`, by its stack."""
    here = _thread.get_ident()
    for thread, frame in sys._current_frames().items():
        inner: FrameType | None = frame if thread != here else None
        while inner is not None:
            if inner.f_code.co_filename == ssl.__file__ and inner.f_locals.get("self") is sock:
                return True
            inner = inner.f_back
    return False


def _until_done(sock: Any, timed_out: str, timeout: float | None, native: _Operation, *args: Any, **kwargs: Any) -> Any:
    """Try, and wait for what OpenSSL wants, as long as it wants something.

    Whether OpenSSL may wait is a matter of the socket's timeout alone, so that is 0 for the moment of each attempt. Where
    a thread is in an operation on the same socket, this one is done in a thread as well.
    """
    deadline = Deadline(timeout)
    users = _Users.of(sock)
    while True:
        with users.lock:
            if not users.has_threads(sock):
                try:
                    return _attempt(sock, native, *args, **kwargs)
                except SSLWantReadError:
                    events = READ
                except SSLWantWriteError:
                    events = WRITE
            else:
                events = 0
        if not events:
            return gevent.get_hub().threadpool.apply(_in_thread, (sock, native, *args), kwargs)
        if deadline.over:
            raise TimeoutError(timed_out)
        wait_descriptor(native_fileno(sock), events, deadline.left)


def _attempt(sock: Any, native: _Operation, *args: Any, **kwargs: Any) -> Any:
    before = native_timeout(sock)
    native_settimeout(sock, 0)
    try:
        return native(sock, *args, **kwargs)
    finally:
        if native_fileno(sock) != -1:
            native_settimeout(sock, before)


def _in_thread(sock: Any, native: _Operation, *args: Any, **kwargs: Any) -> Any:
    users = _Users.of(sock)
    mark = object()
    with users.lock:
        users.threads.add(mark)
    try:
        return native(sock, *args, **kwargs)
    finally:
        users.threads.discard(mark)


def _operation(name: str, timed_out: str) -> Replacement:
    native = getattr(SSLSocket, name)

    @functools.wraps(native)
    def outside(sock: Any, *args: Any, **kwargs: Any) -> Any:
        return _in_thread(sock, native, *args, **kwargs)

    def inside(sock: Any, *args: Any, **kwargs: Any) -> Any:
        timeout = native_timeout(sock)
        if timeout == 0 or sock._sslobj is None or native_fileno(sock) == -1:
            return native(sock, *args, **kwargs)
        return _until_done(sock, timed_out, timeout, native, *args, **kwargs)

    return Replacement(SSLSocket, name, dispatched_keywords(outside, inside))


def _handshake(sock: Any, block: bool = False) -> None:
    timeout = native_timeout(sock)
    if (timeout == 0 and not block) or sock._sslobj is None or native_fileno(sock) == -1:
        _native_handshake(sock, block)
    else:
        _until_done(sock, "The handshake operation timed out", timeout or None, _native_handshake)


def replacements() -> Iterator[Replacement]:
    yield Replacement(SSLSocket, "do_handshake", dispatched_keywords(_native_handshake, _handshake))
    yield _operation("read", "The read operation timed out")
    yield _operation("write", "The write operation timed out")
    yield _operation("send", "The write operation timed out")
    yield _operation("unwrap", "The shutdown operation timed out")
