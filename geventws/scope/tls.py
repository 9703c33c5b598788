"""The operations of `ssl.SSLSocket` that can block. Encryption itself stays OpenSSL's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from typing import Any

import gevent

from .dispatch import Replacement, dispatched_keywords
from .sockets import native_fileno, native_settimeout, native_timeout
from .waiting import READ, WRITE, Deadline, native_sleep, wait_descriptor

__all__ = ["replacements"]

_Operation = Callable[..., Any]

_native_handshake = SSLSocket.do_handshake


# In the socket's `__dict__`: a mark for each thread that is in one of its operations, and whether one is being tried.
_THREADS = "_geventws_threads"
_TRYING = "_geventws_trying"


def _until_done(sock: Any, timed_out: str, timeout: float | None, native: _Operation, *args: Any, **kwargs: Any) -> Any:
    """Try, and wait for what OpenSSL wants, as long as it wants something.

    Whether OpenSSL may wait is a matter of the socket's timeout alone, so that is 0 for the moment of each attempt. Where
    a thread is in an operation on the same socket, this one is done in a thread as well.
    """
    deadline = Deadline(timeout)
    before = native_timeout(sock)
    while True:
        if vars(sock).get(_THREADS):
            return gevent.get_hub().threadpool.apply(_in_thread, (sock, native, args, kwargs))
        vars(sock)[_TRYING] = True
        native_settimeout(sock, 0)
        try:
            return native(sock, *args, **kwargs)
        except SSLWantReadError:
            events = READ
        except SSLWantWriteError:
            events = WRITE
        finally:
            if native_fileno(sock) != -1:
                native_settimeout(sock, before)
            vars(sock)[_TRYING] = False
        if deadline.over:
            raise TimeoutError(timed_out)
        wait_descriptor(native_fileno(sock), events, deadline.left)


def _in_thread(sock: Any, native: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The plain operation, by a thread that may meet an attempt of a greenlet's, and the timeout that is set for it."""
    threads = vars(sock).setdefault(_THREADS, set())
    mark = object()
    threads.add(mark)
    try:
        while True:
            tried = vars(sock).get(_TRYING, False)
            try:
                return native(sock, *args, **kwargs)
            except (SSLWantReadError, SSLWantWriteError):
                if not tried and not vars(sock).get(_TRYING, False) and native_timeout(sock) == 0:
                    raise
                native_sleep(0.001)
    finally:
        threads.discard(mark)


def _operation(name: str, timed_out: str) -> Replacement:
    native = getattr(SSLSocket, name)

    @functools.wraps(native)
    def outside(sock: Any, *args: Any, **kwargs: Any) -> Any:
        if native_timeout(sock) == 0 and not vars(sock).get(_TRYING, False):
            return native(sock, *args, **kwargs)
        return _in_thread(sock, native, args, kwargs)

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
