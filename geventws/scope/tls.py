"""The operations of `ssl.SSLSocket` that can block. Encryption itself stays OpenSSL's."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from typing import Any

from .dispatch import Replacement, dispatched_keywords
from .sockets import native_fileno, native_settimeout, native_timeout
from .waiting import READ, WRITE, Deadline, wait_descriptor

__all__ = ["replacements"]

_native_handshake = SSLSocket.do_handshake


def _until_done(sock: Any, timed_out: str, timeout: float | None, attempt: Callable[[], Any]) -> Any:
    """Try, and wait for what OpenSSL wants, as long as it wants something.

    Whether OpenSSL may wait is a matter of the socket's timeout alone, so that is 0 for the moment of each attempt.
    """
    deadline = Deadline(timeout)
    before = native_timeout(sock)
    while True:
        native_settimeout(sock, 0)
        try:
            return attempt()
        except SSLWantReadError:
            events = READ
        except SSLWantWriteError:
            events = WRITE
        finally:
            if native_fileno(sock) != -1:
                native_settimeout(sock, before)
        if deadline.over:
            raise TimeoutError(timed_out)
        wait_descriptor(native_fileno(sock), events, deadline.left)


def _operation(name: str, timed_out: str) -> Callable[..., Any]:
    native = getattr(SSLSocket, name)

    def operation(sock: Any, *args: Any, **kwargs: Any) -> Any:
        timeout = native_timeout(sock)
        if timeout == 0 or sock._sslobj is None or native_fileno(sock) == -1:
            return native(sock, *args, **kwargs)
        return _until_done(sock, timed_out, timeout, lambda: native(sock, *args, **kwargs))

    return dispatched_keywords(native, operation)


def _handshake(sock: Any, block: bool = False) -> None:
    timeout = native_timeout(sock)
    if (timeout == 0 and not block) or sock._sslobj is None or native_fileno(sock) == -1:
        _native_handshake(sock, block)
    else:
        _until_done(sock, "The handshake operation timed out", timeout or None, lambda: _native_handshake(sock))


def replacements() -> Iterator[Replacement]:
    yield Replacement(ssl.SSLSocket, "do_handshake", dispatched_keywords(_native_handshake, _handshake))
    for name, timed_out in (
        ("read", "The read operation timed out"),
        ("write", "The write operation timed out"),
        ("send", "The write operation timed out"),
        ("unwrap", "The shutdown operation timed out"),
    ):
        yield Replacement(ssl.SSLSocket, name, _operation(name, timed_out))
