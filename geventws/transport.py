"""The seam to the socket: what a WebSocket needs of it, and the way gevent gives it. Bytes only, no frames, no WSGI.

How native threads wait for a socket is in `threads`.
"""

from __future__ import annotations

import select
import socket as _socket
import ssl
import struct
from collections import deque
from contextlib import suppress
from ssl import SSLError, SSLWantReadError, SSLWantWriteError
from typing import Any, Protocol

from gevent.hub import Hub, Waiter
from gevent.monkey import get_original
from gevent.ssl import SSLSocket

from .exceptions import InvalidState
from .native import USUAL_READ, Readiness, Stream, Watch, getcurrent, switch_to

__all__ = ["GeventTransport", "Listener", "SocketTransport", "Transport", "Waiting"]

# The real one, which does not wait here and knows what gevent's does not.
_poll = get_original("select", "poll") if hasattr(select, "poll") else None
_select = get_original("select", "select")

# Elsewhere than on Linux only a broken connection is told of, not an ended stream.
_POLLRDHUP = getattr(select, "POLLRDHUP", 0)

_NO_LINGER = struct.pack("ii", 1, 0)

# What one read asks for inside a large message, so that it takes fewer calls. Not always: 256 KiB of the smallest frames
# are 40,000 events, and others would have to wait for all of them.
_LARGE_READ = 256 * 1024
_USUAL_READ = USUAL_READ
_TLS_SOCKETS = (SSLSocket, ssl.SSLSocket)
# What TLS is given at once: four of its records.
_TLS_WRITE = 64 * 1024


class Listener(Protocol):
    """Who is told what happens on a transport. Neither may block."""

    def on_readable(self) -> None:
        """In the hub: there is something to read and nobody waits for it. Told once; `watch` asks to be told again."""

    def on_closed(self) -> None:
        """In the hub, or in the greenlet that closes: TCP is closed."""


class Transport:
    """A connected byte stream, whose subclasses say how it waits: `wait` and `drain` do, nothing else does."""

    bytes_received: int
    bytes_sent: int
    backlog: int
    """Bytes written that the operating system has not taken yet."""

    __slots__ = ()

    @property
    def receiving(self) -> bool:
        """Whether somebody waits in `wait`."""
        raise NotImplementedError

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something to read, or the end of the stream. It may turn out that there is not.

        Raises TimeoutError, or InvalidState for a second one waiting. Others run between a read and the next one, so that a
        peer that sends without end does not keep them from it.
        """
        raise NotImplementedError

    def read(self, expected: int = 0) -> bytes | None:
        """What has come in by now; None if that is nothing, b"" at the end of the stream. `expected`: what is known to come."""
        raise NotImplementedError

    def read_into(self, target: memoryview) -> int:
        """The same, into `target`. Returns how many bytes; 0 at the end of the stream, -1 if there is nothing."""
        raise NotImplementedError

    def watch(self) -> None:
        """Tell the listener when there is something to read."""
        raise NotImplementedError

    def peer_left(self) -> bool:
        """Whether the peer has ended the stream, or the connection broke, though there may be more to read."""
        raise NotImplementedError

    def write(self, data: bytes, more: bool = False) -> bool:
        """Send `data` after what was written before, now or as soon as can be; True if all has left.

        more: the rest follows at once. Raises OSError if the peer is gone.
        """
        raise NotImplementedError

    def drain(self, timeout: float | None) -> None:
        """Wait until what has been written has left.

        Raises TimeoutError when the peer has read nothing for `timeout` seconds, or OSError if it is gone.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Let what was written leave, then end the stream; drop what comes in until the peer ends it too; then close."""
        raise NotImplementedError

    def close(self, abort: bool = False) -> None:
        """Close at once; `abort` also drops what the operating system still holds. Whoever waits is woken."""
        raise NotImplementedError


class TLSStream(Stream):
    """The bytes of a non-blocking `SSLSocket`, gevent's or the standard library's."""

    __slots__ = ("_tls",)

    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self._tls = socket

    def receive(self, size: int) -> bytes | None:
        try:
            data: bytes = self._tls.recv(size)
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            return None
        return data

    def receive_into(self, target: memoryview) -> int:
        try:
            received: int = self._tls.recv_into(target)
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            return -1
        return received

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        # OpenSSL, as Python sets it up, says nothing of what has left until all has that it was given at once: the peer
        # of a long message would seem to read nothing. What is left is offered again in the same pieces: it insists on that.
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):
                taken = self._tls.send(view[sent : sent + _TLS_WRITE])
                if not taken:
                    break
                sent += taken
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            pass
        return sent

    def pending(self) -> bool:
        return bool(self._tls.pending() > 0)


class Waiting(Protocol):
    """Somebody who waits for something, and how to tell him. gevent's `Waiter` is one."""

    def switch(self, value: Any) -> object:
        """It has happened: his waiting returns `value`."""

    def throw(self, error: Any) -> object:
        """It will not happen: his waiting raises `error`."""


class SocketTransport(Transport):
    """What is the same of a socket whoever waits for it: what is read, written and kept, and how the stream is ended.

    Subclasses say who waits and how: `wait`, `watch`, `drain`, and the methods under "For subclasses". All of it is for one
    at a time: the greenlets of one thread, or whoever holds the connection (`runtime`).

    Args:
        socket: what is closed at the end.
        raw: the standard library's own socket in it, whose methods neither wait nor fail in ways of their own.
    """

    __slots__ = (
        "_closed",
        "_discarding",
        "_drainers",
        "_eof",
        "_finishing",
        "_is_tls",
        "_listener",
        "_readiness",
        "_socket",
        "_stream",
        "_unsent",
        "backlog",
        "bytes_received",
        "bytes_sent",
    )

    def __init__(self, socket: Any, raw: Any, readiness: Readiness, listener: Listener) -> None:
        self._socket = socket
        self._is_tls = isinstance(socket, _TLS_SOCKETS)
        self._stream = TLSStream(socket) if self._is_tls else Stream(raw)
        self._listener: Listener | None = listener
        self._readiness = readiness
        readiness.readable = self._stream.pending()
        # Made when first needed, as most peers read what they are sent.
        self._unsent: deque[memoryview] | None = None
        self.backlog = 0
        self._drainers: deque[tuple[int, Waiting]] | None = None
        self._finishing = self._discarding = self._eof = self._closed = False
        self.bytes_received = 0
        self.bytes_sent = 0
        if raw.family in (_socket.AF_INET, _socket.AF_INET6):
            # Frames are written whole: waiting for more to fill a segment would only delay them.
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    # For subclasses.

    def _raw(self) -> Any:
        """The standard library's own socket."""
        raise NotImplementedError

    def _start_writing(self) -> None:
        """Have `_on_writable` called while the socket takes bytes."""
        raise NotImplementedError

    def _stop_writing(self) -> None:
        """Not any more."""
        raise NotImplementedError

    def _tell_no_more(self) -> None:
        """The listener has been told that there is something to read: not again until `watch`."""
        raise NotImplementedError

    def _stop_watching(self) -> None:
        """Nobody is to be told of anything any more."""
        raise NotImplementedError

    def _wake_receiver(self) -> None:
        """Whoever waits to receive shall look again, soon."""
        raise NotImplementedError

    def _new_waiting(self) -> Waiting:
        """For one who is about to wait."""
        raise NotImplementedError

    def _wait_for_progress(self, waiting: Any, timeout: float | None) -> bool:
        """Wait until `waiting` is told. False if nothing was sent for `timeout` seconds."""
        raise NotImplementedError

    def _close_socket(self, woken: bool) -> None:
        """Close it, and call `_tell_closed`: at once, or if somebody waits (`woken`) where he can be switched to."""
        raise NotImplementedError

    # Reading.

    @property
    def receiving(self) -> bool:
        return self._readiness.receiver is not None

    def read(self, expected: int = 0) -> bytes | None:
        if self._closed or self._eof or self._finishing:
            return b""
        self._readiness.readable = False
        try:
            data = self._stream.receive(_LARGE_READ if expected > _USUAL_READ else _USUAL_READ)
        except OSError:
            data = b""
        if data is None:
            return None
        # A plain socket says itself whether there is more, TLS may hold back what the socket has given it already.
        if self._is_tls or not data:
            self._received(len(data))
        else:
            self.bytes_received += len(data)
        return data

    def read_into(self, target: memoryview) -> int:
        if self._closed or self._eof or self._finishing:
            return 0
        self._readiness.readable = False
        try:
            size = self._stream.receive_into(target)
        except OSError:
            size = 0
        if size >= 0:
            self._received(size)
        return size

    def _received(self, size: int) -> None:
        self.bytes_received += size
        if size:
            self._readiness.readable = self._stream.pending()
        else:
            self._eof = self._readiness.readable = True

    def peer_left(self) -> bool:
        if self._closed:
            return True
        if _poll is None:
            return False  # Windows does not tell.
        poll = _poll()
        poll.register(self._raw().fileno(), _POLLRDHUP)
        return bool(poll.poll(0))

    def _on_readable(self) -> None:
        """There is something to read, and nobody waits for it."""
        if self._discarding:
            self._discard()
            return
        self._tell_no_more()
        if self._listener is not None:
            self._listener.on_readable()

    # Writing.

    def write(self, data: bytes, more: bool = False) -> bool:
        if self._closed or self._finishing:
            raise BrokenPipeError("the connection is closed")
        if self.backlog:
            self._keep(data, 0)
            return False
        sent = self._stream.send(data, more)
        self.bytes_sent += sent
        if sent == len(data):
            return True
        self._keep(data, sent)
        self._start_writing()
        return False

    def _keep(self, data: bytes, sent: int) -> None:
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(memoryview(data)[sent:])
        self.backlog += len(data) - sent

    def _on_writable(self) -> None:
        """The socket takes more."""
        try:
            self._flush()
        except OSError:
            self._drop_backlog()
            return
        if not self.backlog:
            self._stop_writing()
            if self._finishing:
                self._end_stream()
        self._wake_drainers()

    def _flush(self) -> None:
        while self._unsent:
            head = self._unsent[0]
            sent = self._stream.send(head)
            self.bytes_sent += sent
            self.backlog -= sent
            if sent < len(head):
                # What is left is offered again in the same place: TLS insists on that.
                self._unsent[0] = head[sent:]
                return
            self._unsent.popleft()

    def _wake_drainers(self) -> None:
        """Whoever waits for bytes that have left goes on."""
        while self._drainers and self._drainers[0][0] <= self.bytes_sent:
            self._drainers.popleft()[1].switch(True)

    def _takes_more(self) -> bool:
        """Whether the operating system would take more to send, or says why not: it is not the peer who keeps us waiting then,
        but whoever has kept this process from sending."""
        if self._closed:
            return True
        if _poll is None:
            return bool(_select([], [self._raw()], [], 0)[1])
        poll = _poll()
        poll.register(self._raw().fileno(), select.POLLOUT)
        return bool(poll.poll(0))

    def drain(self, timeout: float | None) -> None:
        if not self.backlog:
            return
        waiting = self._new_waiting()
        entry = (self.bytes_sent + self.backlog, waiting)
        if self._drainers is None:
            self._drainers = deque()
        self._drainers.append(entry)
        try:
            if not self._wait_for_progress(waiting, timeout):
                raise TimeoutError(f"the peer has not read for {timeout} seconds")
        finally:
            with suppress(ValueError):  # Whoever has woken it has taken it away.
                self._drainers.remove(entry)

    def _drop_backlog(self) -> None:
        """The peer is gone, or the connection is closed. What was to be sent cannot be."""
        self._stop_writing()
        self._unsent = None
        self.backlog = 0
        while self._drainers:
            self._drainers.popleft()[1].throw(BrokenPipeError("the connection is closed"))
        if self._finishing:
            self.close()

    # Ending.

    def finish(self) -> None:
        if self._closed or self._finishing:
            return
        self._finishing = True
        self._readiness.readable = True  # Whoever comes to recv is told of the end at once.
        if not self._unsent:
            self._end_stream()
        if self._readiness.receiver is not None:
            self._wake_receiver()

    def _end_stream(self) -> None:
        if self._eof:
            self.close()
            return
        try:
            if self._is_tls:
                self._notify_tls_close()
            self._raw().shutdown(_socket.SHUT_WR)
        except OSError:
            self.close()
            return
        # A socket closed with unread input sends a reset, which can overtake our last frames: read it away first.
        self._discarding = True
        self.watch()

    def _notify_tls_close(self) -> None:
        # SSLWantReadError: the notice is out, and what the peer answers is dropped like all else.
        with suppress(SSLError, ValueError):
            self._socket.unwrap()

    def _discard(self) -> None:
        try:
            # The raw socket: after the notice above TLS reads no more.
            while self._raw().recv(_LARGE_READ):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self._eof = True
        self.close()

    def close(self, abort: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_watching()
        self._stop_writing()
        if abort:
            self._abort()
        elif self._eof and not self._finishing and self._is_tls:
            # RFC 8446 section 6.1: each side says that it ends, though the peer may be gone that said so first.
            with suppress(OSError):
                self._notify_tls_close()
        self._readiness.readable = True  # Whoever comes to recv is told of the end at once.
        self._close_socket(self._readiness.receiver is not None or bool(self._drainers))

    def _abort(self) -> None:
        # Linger for no time: what the kernel holds for a peer that does not read is dropped with a reset.
        with suppress(OSError):
            self._raw().setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _NO_LINGER)

    def _tell_closed(self) -> None:
        listener, self._listener = self._listener, None
        self._drop_backlog()
        try:
            if listener is not None:
                listener.on_closed()
        finally:
            if self._readiness.receiver is not None:
                self._wake_receiver()


# What a waiting receiver is switched to with when its time is up.
_TIMED_OUT = object()


class GeventTransport(SocketTransport):
    """A gevent socket (`gevent.socket.socket` or `gevent.ssl.SSLSocket`), whose waiting is done here.

    A watch goes on while there is somebody to tell, and switches straight to the receiver: without a Waiter, and without
    being started and stopped for each message. When nobody receives, the listener is told and the watch stops. Bytes that
    the socket does not take at once are flushed by a write watcher in the hub, so a sender that is killed or runs out of
    patience leaves no half frame behind.
    """

    __slots__ = ("_hub", "_watch", "_write_watcher")

    def __init__(self, socket: Any, listener: Listener) -> None:
        socket.settimeout(0.0)
        # gevent's own methods would first fail, then wait with a new Waiter each time.
        raw = socket._sock
        self._hub: Hub = socket.hub
        self._watch = Watch(self._hub, raw, self._on_readable)
        self._write_watcher: Any = None
        super().__init__(socket, raw, self._watch, listener)

    def _raw(self) -> Any:
        return self._socket._sock

    # Reading.

    def wait(self, timeout: float | None) -> None:
        watch = self._watch
        if watch.readable:
            return
        if timeout is not None or not watch.watching or watch.receiver is not None:
            self._wait_readable(timeout)
            return
        # The usual case of it: no timer, and the watch is running.
        watch.receiver = getcurrent()
        try:
            while watch.rest() is not watch:
                pass
        finally:
            watch.receiver = None

    def _wait_readable(self, timeout: float | None) -> None:
        watch = self._watch
        if watch.receiver is not None:
            raise InvalidState("another greenlet is already waiting in receive() on this connection")
        self.watch()
        timer = None
        if timeout is not None:
            timer = self._hub.loop.timer(max(timeout, 0))
            # update: the loop's own idea of what time it is may be as old as its last turn.
            timer.start(self._wake, _TIMED_OUT, update=True)
        watch.receiver = getcurrent()
        try:
            while True:
                token = watch.rest()
                if token is watch:
                    return
                if token is _TIMED_OUT:
                    raise TimeoutError("nothing came in time")
        finally:
            watch.receiver = None
            if timer is not None:
                timer.stop()
                timer.close()

    def _wake(self, token: object) -> None:
        """In the hub: switch to the receiver, if there is still one."""
        receiver = self._watch.receiver
        if receiver is not None:
            self._watch.receiver = None
            switch_to(receiver, token)

    def _wake_receiver(self) -> None:
        # Only the hub can switch to somebody and come back.
        self._hub.loop.run_callback(self._wake, self._watch)

    def watch(self) -> None:
        if self._closed:
            return
        self._watch.start()
        if self._watch.readable:
            # The socket will not tell: what there is lies in TLS, or it is the end.
            self._hub.loop.run_callback(self._tell_ready)

    def _tell_ready(self) -> None:
        self._watch.ready()

    def _tell_no_more(self) -> None:
        self._watch.stop()

    def _stop_watching(self) -> None:
        self._watch.close()

    # Writing.

    def _start_writing(self) -> None:
        if self._write_watcher is None:
            self._write_watcher = self._hub.loop.io(self._socket.fileno(), 2)
        self._write_watcher.start(self._on_writable)

    def _stop_writing(self) -> None:
        watcher, self._write_watcher = self._write_watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _new_waiting(self) -> Waiting:
        return Waiter()

    def _wait_for_progress(self, waiting: Any, timeout: float | None) -> bool:
        if timeout is None:
            return bool(waiting.get())
        timer = self._hub.loop.timer(timeout, timeout)
        timer.start(self._check_progress, [self.bytes_sent], waiting, update=True)
        try:
            return bool(waiting.get())
        finally:
            timer.stop()
            timer.close()

    def _check_progress(self, sent_before: list[int], waiter: Waiter[bool]) -> None:
        """In the hub, now and then: a peer that reads, however slowly, is waited for further."""
        if sent_before[0] == self.bytes_sent and not self._takes_more():
            waiter.switch(False)
        sent_before[0] = self.bytes_sent

    # Ending.

    def _close_socket(self, woken: bool) -> None:
        self._socket.close()
        if woken:
            self._hub.loop.run_callback(self._tell_closed)
        else:
            self._tell_closed()
