"""What is asked of the operating system, the thread and greenlet directly: a socket's bytes, its readiness, and switching.

Nothing is decided here. Every message comes through here, so there is a compiled twin, `native.pyx`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from gevent.hub import Hub
from gevent.monkey import get_original
from greenlet import getcurrent, greenlet

__all__ = ["USUAL_READ", "Readiness", "Stream", "Watch", "getcurrent", "switch_to", "thread_ident"]

# The thread's, also where the process is patched, and `threading.get_ident` is the greenlet's.
thread_ident: Callable[[], int] = get_original("_thread", "get_ident")
"""The number of the running thread."""

switch_to: Callable[[greenlet, Any], Any] = greenlet.switch
"""Let this greenlet run, and have its own waiting return the value given."""

USUAL_READ = 16 * 1024
"""How many bytes to ask for where it is not known how many come: enough for most messages. Asking for more costs memory."""

_MSG_MORE = getattr(socket, "MSG_MORE", 0)


class Stream:
    """The bytes of a connected, non-blocking socket.

    Args:
        socket: the standard library's own, `_sock` of gevent's.
    """

    __slots__ = ("_recv", "_recv_into", "_send")

    def __init__(self, socket: Any) -> None:
        self._recv: Callable[[int], bytes] = socket.recv
        self._recv_into: Callable[[memoryview], int] = socket.recv_into
        self._send: Callable[..., int] = socket.send

    def receive(self, size: int) -> bytes | None:
        """At most `size` bytes; b"" at the end of the stream, None if there are none yet. Raises OSError."""
        try:
            return self._recv(size)
        except BlockingIOError:
            return None

    def receive_into(self, target: memoryview) -> int:
        """The same, into `target`. Returns how many: 0 at the end of the stream, -1 if there are none yet."""
        try:
            return self._recv_into(target)
        except BlockingIOError:
            return -1

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        """Send as much of `data` as can be. Returns how many bytes. Raises OSError.

        more: the rest follows at once, and shall leave together with it where that can be.
        """
        try:
            return self._send(data, _MSG_MORE) if more else self._send(data)
        except BlockingIOError:
            return 0

    def pending(self) -> bool:
        """Whether there may be bytes that the operating system does not tell of, as it has handed them over already."""
        return False


class Readiness:
    """What is known of a socket that is read from."""

    __slots__ = ("readable", "receiver")

    def __init__(self) -> None:
        self.readable = False
        """Whether there may be something to read; for the caller to take back once there is not."""
        self.receiver: Any = None
        """Who waits for it, or is about to; None if nobody does."""


class Watch(Readiness):
    """Tells when a socket can be read: the greenlet that rests for it, or else `callback`, in the hub.

    It goes on telling until it is stopped, so a connection that receives one message after the other has it running
    all the time.

    Args:
        hub: of the thread that the socket is used in.
        socket: the standard library's own, `_sock` of gevent's.
        callback: called with nothing. It must not block.
    """

    __slots__ = ("_callback", "_descriptor", "_hub", "_socket", "_watcher", "watching")

    def __init__(self, hub: Hub, socket: Any, callback: Callable[[], object]) -> None:
        super().__init__()
        self._hub = hub
        self._socket = socket
        self._descriptor = socket.fileno()
        self._callback: Callable[[], object] | None = callback
        self._watcher: Any = hub.loop.io(self._descriptor, 1)
        self.watching = False
        """Whether it is running."""

    def start(self) -> None:
        """Begin to tell."""
        if not self.watching and self._callback is not None:
            self.watching = True
            if self._socket.fileno() == self._descriptor:
                self._watcher.start(self.ready)
            else:
                # Somebody has closed it, and its number may be another one's by now. Whoever reads is told.
                self.readable = True

    def stop(self) -> None:
        """Tell no more."""
        if self.watching:
            self.watching = False
            self._watcher.stop()

    def close(self) -> None:
        """It is not needed any more. To be called before the socket is closed."""
        self.stop()
        self._callback = None
        self._watcher.close()

    def rest(self) -> Any:
        """Let others run; for the `receiver`. Returns what it is switched to with: the Watch if there is something to read.

        Raises gevent's BlockingSwitchOutError in the hub.
        """
        return self._hub.switch()

    def ready(self) -> None:
        """In the hub: there is something to read. From the loop, and from whoever knows it by other ways."""
        if not self.watching:
            return
        self.readable = True
        receiver = self.receiver
        if receiver is not None:
            self.receiver = None
            switch_to(receiver, self)
        elif self._callback is not None:
            self._callback()
