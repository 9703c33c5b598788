"""The operations of `socket.socket` that can block: inside a scope the same object, tried at once and waited for on the hub.

Only plain sockets belong here; what encrypts is in `tls`, what looks names up in `names`.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import gevent.socket

from .dispatch import Replacement, dispatched, dispatched_keywords
from .waiting import READ, WRITE, Deadline, forget_descriptor, pauses, wait_descriptor

__all__ = ["native_fileno", "native_settimeout", "native_timeout", "replacements"]

_Native: Final = _socket.socket

native_fileno: Final = _Native.fileno
native_settimeout: Final = _Native.settimeout
native_timeout: Final = _Native.gettimeout
_family: Final = _Native.family.__get__
_type: Final = _Native.type.__get__
_proto: Final = _Native.proto.__get__
_native_real_close: Final = socket.socket._real_close  # type: ignore[attr-defined]

_NONBLOCK: Final = getattr(socket, "SOCK_NONBLOCK", 0)
_DONTWAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)

# Who calls it gives the arguments, of whatever kind: wrong ones must fail the way they always did.
_Operation = Callable[..., Any]


def _try(sock: Any, native: _Operation, *args: Any, **kwargs: Any) -> Any:
    """Do `native` without waiting, though `sock` has a timeout. Raises BlockingIOError where it would have to wait.

    Other threads may be using the socket at this very moment, so its timeout stays as it is. That has already made the
    descriptor non-blocking; it is the object that waits. So another object for the same descriptor does it.
    """
    fd = native_fileno(sock)
    if fd == -1:
        return native(sock, *args, **kwargs)  # Raises what a closed socket raises.
    shadow = _Native(_family(sock), _type(sock) | _NONBLOCK, _proto(sock), fd)
    try:
        if not _NONBLOCK:
            native_settimeout(shadow, 0)
        return native(shadow, *args, **kwargs)
    finally:
        shadow.detach()


def _try_blocking(sock: Any, native: _Operation, *args: Any) -> Any:
    """The same for a socket without a timeout: makes its descriptor non-blocking for this moment."""
    fd = native_fileno(sock)
    if fd == -1:
        return native(sock, *args)
    os.set_blocking(fd, False)
    try:
        return native(sock, *args)
    finally:
        with suppress(OSError):  # It may have been closed.
            os.set_blocking(fd, True)


def _attempt(sock: Any, native: _Operation, *args: Any) -> Any:
    return (_try_blocking if native_timeout(sock) is None else _try)(sock, native, *args)


def _until_done(sock: Any, events: int, deadline: Deadline, attempt: Callable[[], Any]) -> Any:
    """Try, and wait for the descriptor as long as that would block."""
    while True:
        try:
            return attempt()
        except BlockingIOError:
            if deadline.over:
                raise TimeoutError("timed out") from None
        wait_descriptor(native_fileno(sock), events, deadline.left)


class _Flagged:
    """How to say "don't wait" in the arguments of one operation: its `flags`, by position or by name."""

    def __init__(self, at: int, *between: Any, keywords: bool = False) -> None:
        """at: the position of `flags`; between: defaults of what lies between the first argument and it."""
        self._at = at
        self._between = between
        self._keywords = keywords

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        at = self._at
        if len(args) > at:
            return (*args[:at], args[at] | _DONTWAIT, *args[at + 1 :]), kwargs
        if self._keywords:
            return args, {**kwargs, "flags": kwargs.get("flags", 0) | _DONTWAIT}
        return (*args, *self._between[len(args) - 1 :], _DONTWAIT), kwargs


def _sendto_flagged(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) == 2:
        return (args[0], _DONTWAIT, args[1]), kwargs
    return (args[0], args[1] | _DONTWAIT, *args[2:]), kwargs


def _transfer(name: str, events: int, required: int, flagged: _Operation) -> _Operation:
    """The cooperative twin of an operation that receives or sends once."""
    native = getattr(_Native, name)
    several = name in ("recvmsg_into", "sendmsg")

    def operation(sock: Any, *args: Any, **kwargs: Any) -> Any:
        timeout = native_timeout(sock)
        if timeout == 0 or len(args) < required:
            return native(sock, *args, **kwargs)
        if several:
            # An iterator of buffers would be empty at the second attempt.
            args = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
        if timeout is not None:
            return _until_done(sock, events, Deadline(timeout), lambda: _try(sock, native, *args, **kwargs))
        if not _DONTWAIT:
            return _until_done(sock, events, Deadline(None), lambda: _try_blocking(sock, native, *args))
        args, kwargs = flagged(args, kwargs)
        return _until_done(sock, events, Deadline(None), lambda: native(sock, *args, **kwargs))

    return operation


_TRANSFERS: Final = (
    ("recv", READ, 1, _Flagged(1)),
    ("recv_into", READ, 1, _Flagged(2, keywords=True)),
    ("recvfrom", READ, 1, _Flagged(1)),
    ("recvfrom_into", READ, 1, _Flagged(2, keywords=True)),
    ("recvmsg", READ, 1, _Flagged(2, 0)),
    ("recvmsg_into", READ, 1, _Flagged(2, 0)),
    ("send", WRITE, 1, _Flagged(1)),
    ("sendmsg", WRITE, 1, _Flagged(2, ())),
    ("sendto", WRITE, 2, _sendto_flagged),
)


def _sendall(sock: Any, data: Any, flags: int = 0, /) -> None:
    """Like the native one it counts the timeout over the whole, and does not tell how much went out."""
    timeout = native_timeout(sock)
    if timeout == 0:
        return _Native.sendall(sock, data, flags)
    deadline = Deadline(timeout)
    with memoryview(data) as view, view.cast("B") as octets:
        sent = 0
        while sent < len(octets):
            sent += _send_before(sock, octets[sent:], flags, deadline)
    return None


def _send_before(sock: Any, octets: memoryview, flags: int, deadline: Deadline) -> int:
    if native_timeout(sock) is None and _DONTWAIT:
        count: int = _until_done(sock, WRITE, deadline, lambda: _Native.send(sock, octets, flags | _DONTWAIT))
    else:
        count = _until_done(sock, WRITE, deadline, lambda: _attempt(sock, _Native.send, octets, flags))
    return count


def _accept(sock: Any) -> Any:
    timeout = native_timeout(sock)
    if timeout == 0:
        return _Native._accept(sock)  # type: ignore[attr-defined]
    return _until_done(sock, READ, Deadline(timeout), lambda: _attempt(sock, _Native._accept))  # type: ignore[attr-defined]


def _connect(sock: Any, address: Any) -> None:
    if native_timeout(sock) == 0:
        return _Native.connect(sock, address)
    code = _connect_ex(sock, address)
    if code == errno.EWOULDBLOCK:
        raise TimeoutError("timed out")
    if code:
        raise OSError(code, os.strerror(code))
    return None


def _connect_ex(sock: Any, address: Any) -> int:
    """Returns EWOULDBLOCK when it has timed out, as the native one does."""
    timeout = native_timeout(sock)
    if timeout == 0:
        return int(_Native.connect_ex(sock, address))
    deadline = Deadline(timeout)
    address = _resolved(sock, address)
    code: int = _attempt(sock, _Native.connect_ex, address)
    looks = pauses(deadline)
    while code == errno.EWOULDBLOCK and _family(sock) != socket.AF_INET:
        # The listener of a Unix socket has no room, and tells nobody when it has.
        if next(looks, deadline) is deadline:
            return code
        code = _attempt(sock, _Native.connect_ex, address)
    if code == errno.EINPROGRESS:
        if not wait_descriptor(native_fileno(sock), WRITE, deadline.left):
            return errno.EWOULDBLOCK
        code = _Native.getsockopt(sock, socket.SOL_SOCKET, socket.SO_ERROR)
    return code


def _resolved(sock: Any, address: Any) -> Any:
    """The address with a number for the host's name: the native operation would look it up, and block."""
    family = _family(sock)
    if family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple) or len(address) < 2:
        return address
    host, port, *rest = address
    if not isinstance(host, str) or not isinstance(port, int) or _is_numeric(host, family):
        return address
    found = gevent.socket.getaddrinfo(host, port, family, _type(sock), _proto(sock))
    return (*found[0][4][:2], *rest) if rest else found[0][4]


def _is_numeric(host: str, family: int) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return host in ("", "<broadcast>")
    return True


def _sendfile(sock: Any, file: Any, offset: int = 0, count: int | None = None) -> int:
    # The system call has no way to say "don't wait".
    return int(sock._sendfile_use_send(file, offset, count))


def _real_close(sock: Any, *args: Any) -> None:
    forget_descriptor(native_fileno(sock))
    _native_real_close(sock, *args)


def replacements() -> Iterator[Replacement]:
    owner = socket.socket
    for name, events, required, flagged in _TRANSFERS:
        yield Replacement(
            owner,
            name,
            dispatched_keywords(getattr(_Native, name), _transfer(name, events, required, flagged))
            if name.endswith("_into")
            else dispatched(getattr(_Native, name), _transfer(name, events, required, flagged)),
        )
    yield Replacement(owner, "sendall", dispatched(_Native.sendall, _sendall))
    yield Replacement(owner, "_accept", dispatched(_Native._accept, _accept))  # type: ignore[attr-defined]
    yield Replacement(owner, "connect", dispatched(_Native.connect, _connect))
    yield Replacement(owner, "connect_ex", dispatched(_Native.connect_ex, _connect_ex))
    yield Replacement(owner, "sendfile", dispatched_keywords(socket.socket.sendfile, _sendfile))
    # Not a matter of inside and outside: whoever closes it, somebody inside may be waiting for it.
    yield Replacement(owner, "_real_close", _real_close)
