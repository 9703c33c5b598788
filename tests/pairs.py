"""Two sockets of gevent's that are connected with each other, of the kinds that clients and proxies connect with."""

from __future__ import annotations

import socket
from collections.abc import Callable

import gevent.socket
from gevent.monkey import get_original

Pair = tuple[gevent.socket.socket, gevent.socket.socket]

# So that a write of some hundred kilobytes is not taken at once: the kernel's own choice for TCP grows to megabytes.
_BUFFER = 128 * 1024


def unix() -> Pair:
    return gevent.socket.socketpair()


def tcp() -> Pair:
    # Native ones until they are connected: other greenlets are not let run.
    native = get_original("socket", "socket")
    ours = native()
    with native() as listener:
        for one in (listener, ours):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    return gevent.socket.socket(fileno=ours.detach()), gevent.socket.socket(fileno=theirs.detach())


KINDS: dict[str, Callable[[], Pair]] = {"tcp": tcp, "unix": unix}
