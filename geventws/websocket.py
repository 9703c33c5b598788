"""`WebSocket`: what user code holds. It joins the protocol to a transport, and decides who reads, when, and who is told.

The rules are the protocol's, the waiting the transport's; servers and frameworks are not known here.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import gevent

from .codes import CloseCode, Opcode
from .exceptions import ConnectionClosed, HandshakeError, InvalidState, WebSocketError
from .native import thread_ident
from .options import WebSocketOptions
from .protocol import CloseReceived, PingReceived, PongReceived, Role, State
from .protocol.connection import Connection
from .protocol.deflate import Deflate
from .protocol.handshake import OpeningRequest, accept_response, choose_subprotocol, negotiate, origin_allowed
from .protocol.payload import let_go
from .runtime import HubRuntime, Runtime, Signal
from .transport import Listener, Transport

__all__ = [
    "MSG_ALREADY_CLOSED",
    "MSG_CLOSED",
    "MSG_SOCKET_DEAD",
    "Header",
    "Upgrade",
    "WebSocket",
    "WebSocketError",
    "broadcast",
]

logger = logging.getLogger("geventws.connection")

# What gevent-websocket gave as the reason to `on_close`, for programs that compare with it.
MSG_SOCKET_DEAD = "Socket is dead"
MSG_ALREADY_CLOSED = "Connection is already closed"
MSG_CLOSED = "Connection closed"

_TEXT, _BINARY, _PING, _PONG, _CLOSE = (
    int(code) for code in (Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG, Opcode.CLOSE)
)
_OPEN = State.OPEN

# In the place of an empty queue, which would take more than all else that a connection keeps here.
_NONE: tuple[()] = ()
# While reading ahead rests, how often it is looked whether the peer has left; and how many messages are then taken in,
# so that none of them is lost, nor the Close frame behind them.
_LOOK_FOR_LEAVING = 0.5
_MOST_MESSAGES = 1024
# How long a peer has to end TCP after the closing handshake, before it is closed on it.
_LINGER = 2.0
# Messages that are sent while more input is at hand leave together, when so many bytes are due or sooner.
_COALESCED = 64 * 1024
# Seconds for which memory for large messages is kept unused.
_KEPT = 10.0
# So many bytes of pongs may wait for a peer that pings without reading before nothing more is read from it.
_PONG_LIMIT = 64 * 1024

Itself = TypeVar("Itself", bound="WebSocketBase")

Upgrade = Callable[[Listener], "tuple[Transport, bytes]"]
"""Hands over the connection, with the bytes that were already read behind the request. What is sent first is the 101."""


class _NoApp:
    """Stands where there is no application to be told of the close."""

    def on_close(self, *args: Any) -> None:
        """Nobody is there."""


_NO_APP = _NoApp()


class Header(NamedTuple):
    """What `handle_ping`, `handle_pong` and `handle_close` are told of the frame, as in gevent-websocket."""

    opcode: int
    length: int
    fin: int = 0x80
    flags: int = 0


class WebSocketBase:
    """All of a `WebSocket` but what programs override: apart from it, as a class that is compiled cannot be changed."""

    __slots__ = (
        "__weakref__",
        "_awaiting_pong",
        "_bytes_before",
        "_closed_event",
        "_connection",
        "_deadline",
        "_draining",
        "_end_told",
        "_ended",
        "_id",
        "_latency",
        "_logging",
        "_look_ahead_due",
        "_lookout",
        "_messages",
        "_next_ping",
        "_options",
        "_paused",
        "_peer_left",
        "_ping_mark",
        "_ping_payload",
        "_ping_sent",
        "_refusal",
        "_request",
        "_runtime",
        "_touched",
        "_transport",
        "_turn_due",
        "_unsent_pongs",
        "_upgrade",
        "after_close",
        "before_accept",
        "environ",
        "handler",
        "subprotocol",
    )

    def __init__(
        self,
        environ: dict[str, Any],
        request: OpeningRequest,
        upgrade: Upgrade,
        options: WebSocketOptions,
        handler: Any = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.environ = environ
        """The WSGI environ of the request."""
        self.handler = handler
        """The server's handler of this request; `handler.server.clients` as in gevent-websocket. None on other servers."""
        self.subprotocol: str | None = None
        """The subprotocol in use; None before the accept, or if there is none."""
        self._request = request
        self._upgrade: Upgrade | None = upgrade
        self._options = options
        self.before_accept: Callable[[], Iterable[tuple[str, str]]] | None = None
        """For frameworks: called when the handshake is about to be accepted, gives more header fields for the 101."""
        self.after_close: Callable[[Any], None] | None = None
        """For servers: called once, when TCP is closed, in the hub or by who closes it. It must not block."""
        self._runtime: Runtime = HubRuntime.current() if runtime is None else runtime
        self._transport: Transport | None = None
        self._connection: Connection | None = None
        self._refusal: str | None = None
        self._id: str | None = None
        # Messages read ahead while nobody received, and when one last came or went.
        self._messages: deque[str | bytes] | tuple[()] = _NONE
        self._touched = 0.0
        self._paused = False
        self._peer_left = False
        self._lookout: _Lookout | None = None
        # Whether something is to be done in the hub's next turn, and whether that is to read ahead, too.
        self._turn_due = self._look_ahead_due = False
        self._draining = False
        self._end_told = False
        self._ended = False
        self._closed_event: Signal | None = None
        # When TCP is closed on a peer that does not do it: set with our Close frame, and with the closing handshake's end.
        self._deadline: float | None = None
        self._next_ping: float | None = None
        self._bytes_before = 0
        self._ping_sent = 0.0
        self._ping_payload = b""
        self._ping_mark = (0, 0)
        self._awaiting_pong = False
        self._unsent_pongs = 0
        self._latency: float | None = None
        self._logging = logger.isEnabledFor(logging.DEBUG)

    # The opening handshake.

    @property
    def options(self) -> WebSocketOptions:
        """The options of this connection. They may be exchanged until it is accepted (InvalidState afterwards)."""
        return self._options

    @options.setter
    def options(self, options: WebSocketOptions) -> None:
        if self._connection is not None:
            raise InvalidState("the options of a connection cannot be changed once it is accepted")
        self._options = options

    def accept(self, subprotocol: str | None = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Answer the opening handshake: send the 101, RFC 6455 section 4.2.2.

        Args:
            subprotocol: the one to use, among those that the client offered. None takes the first of
                `options.subprotocols` that it offered, if there is one.
            headers: more header fields for the response, such as `("Set-Cookie", "...")`.

        Raises:
            HandshakeError: the request came from a page that `options.origins` does not let in. Let it pass, and the
                server answers 403.
            InvalidState: the handshake has been answered already.
            ValueError: a subprotocol that was not offered, or a header field that cannot be sent.
            ConnectionClosed: the client is gone.
        """
        if self._connection is not None:
            raise InvalidState("the opening handshake has been answered already: accept() is called once, and first")
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self.accept, subprotocol, headers)
            return
        self._check_refusal()
        options, request = self._options, self._request
        # From the environ: a middleware that knows its proxies may have put in the host that the browser asked for.
        host = self.environ.get("HTTP_HOST", request.host)
        if not origin_allowed(request.origin, host, options.origins):
            raise HandshakeError(
                "403 Forbidden",
                f"A page of {request.origin} may not open a WebSocket on {host}. "
                "If it should, name its host in the server's option `origins`.",
            )
        if subprotocol is None:
            subprotocol = choose_subprotocol(request.subprotocols, options.subprotocols)
        agreed = negotiate(request, options.deflate)
        fields = [*headers, *(self.before_accept() if self.before_accept is not None else ())]
        response = accept_response(request, subprotocol, agreed[1] if agreed else None, fields)
        assert self._upgrade is not None
        transport, read_ahead = self._upgrade(self)
        try:
            transport.write(response)
        except OSError as error:
            transport.close()
            self.refused("the client is gone")
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, "the client is gone") from error
        # They have done what they are for, and a connection that rests for days need not keep them.
        self._upgrade = self.before_accept = None
        deflate = Deflate(agreed[0], options.deflate, server=True) if agreed and options.deflate else None
        connection = Connection(Role.SERVER, max_message_size=options.max_message_size, deflate=deflate)
        self.opened(transport, connection, subprotocol, read_ahead, len(response))

    def opened(
        self, transport: Transport, connection: Connection, subprotocol: str | None, read_ahead: bytes, sent: int
    ) -> None:
        """For servers and clients: the opening handshake is done.

        Args:
            transport: whose listener this WebSocket is.
            connection: of this side's role.
            subprotocol: the one in use.
            read_ahead: bytes that came in behind the handshake.
            sent: how many bytes this side's part of the handshake had.
        """
        self._transport = transport
        self._bytes_before = sent
        self.subprotocol = subprotocol
        self._connection = connection
        connection.receive_data(read_ahead)
        self._start()

    def _start(self) -> None:
        transport, connection = self._transport, self._connection
        assert transport is not None
        assert connection is not None
        logger.info("%r is open", self)
        if connection.unparsed:
            self._look_ahead_soon()
        else:
            transport.watch()
        if self._options.ping_interval is not None:
            self._next_ping = monotonic() + self._options.ping_interval
            self._runtime.at(self._next_ping, self)

    def _open(self) -> Connection:
        """The connection, accepted if it is not yet."""
        if self._connection is None:
            try:
                self.accept()
            except InvalidState:
                if self._connection is None:
                    raise
                # Another thread, which also was the first to use it, came first.
        assert self._connection is not None
        return self._connection

    def _check_refusal(self) -> None:
        if self._refusal is not None:
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, f"the opening handshake was refused: {self._refusal}")

    def refused(self, status: str) -> None:
        """For servers: the opening handshake has been answered with the HTTP `status` instead of a 101."""
        self._refusal = status

    # Receiving.

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message: `str` for text, `bytes` for binary.

        None, once, when the connection has closed; `closed`, `close_code` and `close_reason` say it by then.

        Args:
            timeout: seconds to wait for a message; None waits for ever, 0 takes only what is there.

        Raises:
            TimeoutError: no message within `timeout` seconds. The connection goes on.
            ConnectionClosed: None has been returned already, or the handshake was refused.
            InvalidState: another greenlet, or thread, is already waiting here.
            TypeError: `timeout` is no number.
        """
        if timeout is not None:
            _check_number("timeout", timeout)
        return self._next_message(timeout)

    def _next_message(self, timeout: float | None) -> str | bytes | None:
        """What `receive` does."""
        if thread_ident() != self._runtime.thread:
            received: str | bytes | None = self._elsewhere(self.receive, timeout)
            return received
        connection = self._connection or self._open()
        if self._messages or connection.state is not _OPEN:
            return self._take_message_or_end(connection)
        transport = self._transport
        assert transport is not None
        until = None if timeout is None else monotonic() + timeout
        polled = False
        while True:
            # Mostly there is nothing before it has been waited for.
            event = connection.next_event() if connection.unparsed or connection.expected >= 0 else None
            if type(event) is str or type(event) is bytes:
                if connection.unparsed:
                    self._look_ahead_soon()
                if self._logging:
                    self._log_message("<", event)
                return event
            if event is not None:
                self._control(event)
                continue
            if connection.state is not _OPEN:
                self._settle(connection)
                if connection.over:
                    return self._take_message_or_end(connection)
            if connection.queued:
                self._flush_or_drain(connection)
            if until is None:
                transport.wait(None)
            elif (left := until - monotonic()) > 0:
                transport.wait(left)
            elif polled:
                raise TimeoutError("no message came in time")
            else:
                polled = True
            if self._read(connection, transport) == 0:
                self._lost()

    def _read(self, connection: Connection, transport: Transport) -> int:
        """Read once what has come in. Returns how many bytes; 0 at the end of the stream, -1 if there is nothing."""
        if connection.expected > 0:
            target = connection.target()
            if target is not None:
                size = transport.read_into(target)
                if size > 0:
                    connection.written(size)
                    _reserve.used(self._runtime)
                return size
        data = transport.read(connection.expected)
        if data is None:
            return -1
        if data:
            connection.receive_data(data)
        return len(data)

    def _take_message_or_end(self, connection: Connection) -> str | bytes | None:
        if not self._messages:
            if self._end_told:
                raise connection.closed_error()
            self._end_told = True
            return None
        message = self._messages.popleft()
        if not self._messages:
            self._messages = _NONE
        self._touched = monotonic()
        if self._paused:
            self._paused = False
            self._look_ahead_soon()
        if self._logging:
            self._log_message("<", message)
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages, until the connection is closed."""
        return _Messages(self)

    def __enter__(self: Itself) -> Itself:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.state is State.CONNECTING:
            return  # It is the server's or the framework's to say why there is no connection.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.close(CloseCode.GOING_AWAY)
            return
        failed = error is not None and not isinstance(error, ConnectionClosed | gevent.GreenletExit)
        self.close(CloseCode.INTERNAL_ERROR if failed else CloseCode.NORMAL_CLOSURE)

    # Reading while nobody receives.

    def on_readable(self) -> None:
        """From the transport: there is something to read and nobody is in `receive`."""
        if self._full:
            self._pause()
        else:
            self._runtime.spawn(self._look_ahead)

    @property
    def _full(self) -> bool:
        """Whether no more is read ahead. Once closing is under way messages are dropped, and the peer's answer is awaited."""
        connection = self._connection
        assert connection is not None
        limit = self._options.max_queue
        if self._peer_left and not connection.compressed:
            # What the kernel holds is all there is. (Compressed, it could be a thousand times more.)
            limit = max(limit, _MOST_MESSAGES)
        return len(self._messages) >= limit and connection.state is _OPEN

    def _pause(self) -> None:
        """Read no further before something is received: TCP makes the peer wait. Should it leave, we look for that."""
        if self._peer_left:
            self._lost()
            return
        self._paused = True
        if self._lookout is None:
            self._lookout = _Lookout(self)
            self._runtime.at(monotonic() + _LOOK_FOR_LEAVING, self._lookout)

    def look_for_leaving(self, now: float) -> float | None:
        """From time to time, while reading ahead rests."""
        if thread_ident() != self._runtime.thread:
            due: float | None = self._elsewhere(self.look_for_leaving, now)
            return due
        if self._paused and self._transport is not None and not self._transport.peer_left():
            return now + _LOOK_FOR_LEAVING
        self._lookout = None
        if self._paused:
            self._paused = False
            self._peer_left = True
            self._look_ahead_soon()
        return None

    def _look_ahead_soon(self) -> None:
        """Look at what is already here, should the handler do something else than to receive it at once."""
        if not self._look_ahead_due:
            self._look_ahead_due = True
            self._take_turn()

    def _take_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._runtime.soon(self._on_turn)

    def _on_turn(self) -> None:
        """What was to be sent leaves, what came in is looked at."""
        look_ahead, self._turn_due, self._look_ahead_due = self._look_ahead_due, False, False
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return
        if connection.queued:
            self._flush_or_drain(connection)
        if look_ahead and not transport.receiving:
            self.on_readable()

    def _look_ahead(self) -> None:
        """Beside the handler: answer pings, see a close, and keep up to `max_queue` messages for later."""
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self._look_ahead)
            return
        try:
            self._read_ahead()
        except Exception:
            logger.exception("Reading from %r failed", self)
            self._abort("")

    def _read_ahead(self) -> None:
        connection, transport = self._connection, self._transport
        assert connection is not None
        assert transport is not None
        read = False
        while not self._full:
            event = connection.next_event()
            if isinstance(event, str | bytes):
                self._keep(event)
                continue
            if event is not None:
                self._control(event)
                continue
            self._settle(connection)
            if connection.over or transport.receiving:
                return
            if read:
                # One read at a time: a peer that sends without end must not keep others from running.
                transport.watch()
                return
            read = True
            if self._read(connection, transport) == 0:
                self._lost()
        self._pause()

    def _keep(self, message: str | bytes) -> None:
        if not self._messages:
            self._messages = deque()
        self._messages.append(message)
        self._touched = monotonic()

    def _control(self, event: PingReceived | PongReceived | CloseReceived | str | bytes) -> None:
        """A control frame came in. What the protocol has to answer is sent first, then whoever overrides the hooks is told."""
        connection = self._connection
        assert connection is not None
        self._settle(connection)
        if isinstance(event, PingReceived):
            self._bound_pongs(len(event.payload))
            self.handle_ping(Header(_PING, len(event.payload)), event.payload)
        elif isinstance(event, PongReceived):
            self._measure(event.payload)
            self.handle_pong(Header(_PONG, len(event.payload)), event.payload)
        elif isinstance(event, CloseReceived):
            payload = b"" if event.code == CloseCode.NO_STATUS_RECEIVED else event.code.to_bytes(2, "big")
            payload += event.reason.encode()
            self.handle_close(Header(_CLOSE, len(payload)), payload)

    def handle_ping(self, header: Header, payload: bytes) -> None:
        """To override: the peer sent a ping. It has been answered already."""

    def handle_pong(self, header: Header, payload: bytes) -> None:
        """To override: the peer sent a pong."""

    def handle_close(self, header: Header, payload: bytes) -> None:
        """To override: the peer sent a Close frame, `payload` being its code in two octets and its reason. It is answered."""

    def _bound_pongs(self, size: int) -> None:
        """Read on while our pongs cannot leave, as the peer may be busy with a long message, but not without end."""
        transport = self._transport
        assert transport is not None
        self._unsent_pongs = self._unsent_pongs + size + 2 if transport.backlog else 0
        if self._unsent_pongs > _PONG_LIMIT:
            self._drain()
            self._unsent_pongs = 0

    def _measure(self, payload: bytes) -> None:
        if payload and payload == self._ping_payload:
            self._latency = monotonic() - self._ping_sent
            self._ping_payload = b""

    def _settle(self, connection: Connection) -> None:
        """Send what the protocol has due, and end TCP once nothing more is to be said."""
        self._flush(connection)
        if connection.over and not self._ended and self._transport is not None:
            self._transport.finish()
            self._close_by(monotonic() + min(_LINGER, self._options.close_timeout))

    # Sending.

    def send(self, message: str | bytes | bytearray | memoryview, binary: bool | None = None) -> None:
        """Send a message: `str` as text, bytes-like as binary.

        Returns when the operating system has taken it, or, while more input is at hand, at once: such messages leave
        together, when the handler waits or closes, when 64 KiB are due, or in the hub's next turn, whatever is first. If
        that fails, the next call raises. Waits while the peer does not read; one that reads nothing for
        `options.send_timeout` seconds is given up. A sender that is killed while it waits leaves no torn frame: its message
        is sent whole, or, if others were waiting before it, not at all.

        Args:
            binary: True sends a `str` as binary, in UTF-8; False sends bytes-like UTF-8 as text.

        Raises:
            ConnectionClosed: the connection is closed, or was given up because the peer did not read for too long.
            TypeError: `message` is neither `str` nor bytes-like.
            ValueError: text that is not Unicode (a lone surrogate), or with binary=False not UTF-8.
        """
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self.send, message, binary)
            return
        connection = self._connection or self._open()
        if connection.state is not _OPEN:
            raise connection.closed_error()
        transport = self._transport
        assert transport is not None
        if transport.backlog:
            self._wait_for_room(connection)
        text = None
        if binary is None and type(message) is str:
            text, payload, opcode = message, b"", _TEXT
        elif binary is None and type(message) is bytes:
            payload, opcode = message, _BINARY
        else:
            payload, opcode = _encode(message, binary)
        # Before anything is queued: who logs may wait, and the sender be killed meanwhile.
        if self._logging:
            self._log_message(">", message)
        if text is not None:
            connection.send_text(text)
        else:
            connection.send_message(payload, opcode)
        # While there is more input it may leave later. Asked here, too, as there mostly is none.
        if (connection.unparsed or self._messages) and self._leaves_later(connection):
            return
        if not self._flush(connection):
            self._wait_until_sent(connection)

    def _send_shared(self, payload: bytes, opcode: int, frames: dict[object, bytes], max_backlog: int) -> bool:
        """Send what goes to many, without waiting. False if too much waits for this peer already."""
        connection, transport = self._connection, self._transport
        if connection is None or transport is None or connection.state is not _OPEN:
            return True
        if connection.queued + transport.backlog > max_backlog:
            return False
        connection.send_shared(payload, opcode, frames)
        if not self._leaves_later(connection):
            self._flush_or_drain(connection)
        return True

    def _leaves_later(self, connection: Connection) -> bool:
        """Whether what is due may wait a little for more, as there is more input: at most until the hub's next turn."""
        if (connection.unparsed or self._messages) and connection.queued < _COALESCED:
            self._take_turn()
            return True
        return False

    def send_frame(self, message: str | bytes, opcode: int) -> None:
        """Send a frame by its opcode, as in gevent-websocket: a message, a ping, a pong, or a Close frame.

        Raises:
            ValueError: a continuation frame, or an opcode that does not exist.
        """
        if opcode in (_TEXT, _BINARY):
            return self.send(message, binary=opcode == _BINARY)
        payload = _encode(message, None)[0]
        if opcode == _PING:
            return self.ping(payload)
        if opcode == _PONG:
            return self._send_control(Connection.send_pong, payload)
        if opcode == _CLOSE:
            return self.close(int.from_bytes(payload[:2], "big") if payload else None, payload[2:])
        raise ValueError(f"a frame cannot be sent with opcode {opcode!r}")

    def ping(self, payload: str | bytes = b"") -> None:
        """Send a ping with at most 125 bytes. Pings that keep the connection alive go by themselves.

        Raises:
            ConnectionClosed: the connection is closed.
            ValueError: the payload is too long.
        """
        if not isinstance(payload, str | bytes | bytearray | memoryview):
            raise TypeError(f"the payload of a ping is str or bytes-like; got {type(payload).__name__}")
        self._send_control(Connection.send_ping, _encode(payload, None)[0])

    def _send_control(self, send: Callable[[Connection, bytes], None], payload: bytes) -> None:
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self._send_control, send, payload)
            return
        connection = self._connection or self._open()
        send(connection, payload)
        if not self._flush(connection):
            self._wait_until_sent(connection)

    def _wait_for_room(self, connection: Connection) -> None:
        """Wait before a message is queued, too: senders that give up early would pile up what the peer does not read."""
        while self._transport is not None and self._transport.backlog:
            if not self._drain() or connection.state is not _OPEN:
                raise connection.closed_error()

    def _wait_until_sent(self, connection: Connection) -> None:
        if connection.state is State.CLOSED or not self._drain():
            raise connection.closed_error()

    def _flush(self, connection: Connection) -> bool:
        """Write what is due, without waiting. Whether all has left; if the peer is gone, the state says so afterwards."""
        transport = self._transport
        assert transport is not None
        try:
            while connection.queued:
                data = connection.next_to_send()
                transport.write(data, connection.queued > 0)
        except OSError:
            self._lost_while_sending()
            return False
        return not transport.backlog

    def _flush_or_drain(self, connection: Connection) -> None:
        """The same for messages whose `send` has returned: should the peer not read them, it is given up by and by."""
        if not self._flush(connection) and connection.state is _OPEN and not self._draining:
            self._draining = True
            self._runtime.spawn(self._drain_later)

    def _drain_later(self) -> None:
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self._drain_later)
            return
        try:
            self._drain()
        finally:
            self._draining = False

    def _drain(self) -> bool:
        """Wait for the peer to read. Whether all has left; if not, the connection is given up."""
        transport = self._transport
        assert transport is not None
        try:
            transport.drain(self._options.send_timeout)
        except TimeoutError:
            self._abort(f"the peer has not read for {self._options.send_timeout} seconds")
            return False
        except OSError:
            self._lost_while_sending()
            return False
        return True

    def _lost_while_sending(self) -> None:
        """The peer's end is gone. What it had sent before, a Close frame with its code above all, can still be read."""
        connection, transport = self._connection, self._transport
        assert connection is not None
        assert transport is not None
        self._peer_left = True
        while not connection.over and not self._full:
            event = connection.next_event()
            if isinstance(event, str | bytes):
                self._keep(event)
            elif event is None and not connection.over and self._read(connection, transport) <= 0:
                break
        connection.data_to_send()  # Nobody is there to get it.
        self._lost()

    # Closing.

    def close(
        self,
        code: int | None = CloseCode.NORMAL_CLOSURE,
        reason: str | bytes | None = "",
        message: str | bytes | None = None,
    ) -> None:
        """Close the connection with the closing handshake of RFC 6455 section 7, and wait until TCP is closed too.

        Waits at most `options.close_timeout` for a peer that does not answer. Idempotent: on a connection that is closing it
        only waits. Messages that the peer still sends are dropped.

        Args:
            code: why: 1000, or 3000-4999 for reasons of the application's own. None sends none.
            reason: a text for it, at most 123 bytes in UTF-8.
            message: what gevent-websocket calls `reason`.

        Raises:
            ValueError: a code that must not be sent, or a reason that is too long. The connection goes on.
            TypeError: a code that is no whole number, or a reason that is no text.
        """
        _check_close(code, message or reason)
        if thread_ident() != self._runtime.thread:
            try:
                self._elsewhere(self.close, code, reason, message)
            except InvalidState:
                # The thread that it belonged to has ended, and may have done so because this was closed.
                if not self._ended:
                    raise
            return
        if self._refusal is not None or self._ended:
            return
        connection = self._connection or self._open()
        # Before anything is sent: the peer may turn out to be gone already.
        if self._closed_event is None:
            self._closed_event = self._runtime.signal()
        self._start_closing(connection, code, message or reason)
        self._closed_event.wait()

    def start_closing(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        """As `close`, without waiting for the peer: for servers that close many at once. Nothing if it is not accepted yet."""
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self.start_closing, code, reason)
            return
        if self._connection is not None:
            self._start_closing(self._connection, code, reason)

    def _start_closing(self, connection: Connection, code: int | None, reason: str | bytes | None) -> None:
        if connection.state is not _OPEN:
            return
        connection.close(code, reason.decode("utf-8") if isinstance(reason, bytes) else reason or "")
        self._close_by(monotonic() + self._options.close_timeout)
        self._settle(connection)
        # Somebody has to read the answer; what was left unread stands before it.
        self._paused = False
        self._look_ahead_soon()

    def _close_by(self, due: float) -> None:
        if self._deadline is None or due < self._deadline:
            self._deadline = due
            self._runtime.at(due, self)

    def _lost(self) -> None:
        """The stream has ended."""
        if self._connection is not None:
            self._connection.receive_eof()
        if self._transport is not None:
            self._transport.close()

    def hang_up(self) -> None:
        """Close TCP at once, without waiting for the peer: for servers, when its time is up. What was sent still leaves."""
        if thread_ident() != self._runtime.thread:
            self._elsewhere(self.hang_up)
            return
        if self._connection is not None and not self._ended:
            self._flush(self._connection)
            self._lost()

    def _abort(self, reason: str) -> None:
        connection = self._connection
        if connection is not None and connection.close_code is None:
            connection.close_reason = reason
            connection.receive_eof()
        if self._transport is not None:
            self._transport.close(abort=True)

    def on_closed(self) -> None:
        """From the transport: TCP is closed."""
        if self._connection is not None:
            self._connection.receive_eof()
        self._ended = True
        if self._closed_event is not None:
            self._closed_event.set()
        if self.after_close is not None:
            self.after_close(self)
        if logger.isEnabledFor(logging.INFO):
            # In a greenlet: a log handler may have to wait, which the hub cannot.
            self._runtime.spawn(logger.info, "%r is closed: %s %s", self, self.close_code, self.close_reason)

    # Time.

    def tick(self, now: float) -> float | None:
        """When it is time: ping, and close TCP on a peer that is gone or does not finish. Returns when to be called next."""
        if thread_ident() != self._runtime.thread:
            due: float | None = self._elsewhere(self.tick, now)
            return due
        connection, transport = self._connection, self._transport
        if connection is None or transport is None:
            return None
        if self._deadline is not None:
            if now < self._deadline:
                return self._deadline
            # Only a peer that does not even read is reset: what the kernel still holds for another one shall arrive.
            transport.close(abort=transport.backlog > 0)
            return None
        if connection.state is not _OPEN or self._next_ping is None:
            return None
        return self._keep_alive(now, connection, transport)

    def _keep_alive(self, now: float, connection: Connection, transport: Transport) -> float | None:
        interval, patience = self._options.ping_interval, self._options.ping_timeout
        assert interval is not None
        assert self._next_ping is not None
        # Anything that comes in shows that the peer lives; so does progress with what waited to be sent. While we do
        # not read ourselves, nothing can be said about it.
        if self._awaiting_pong and (self._paused or self._mark(transport) != self._ping_mark):
            self._awaiting_pong = False
        if self._awaiting_pong and patience is not None and now >= self._ping_sent + patience:
            self._abort(f"no answer to a ping within {patience} seconds")
            return None
        if now >= self._next_ping:
            self._next_ping = now + interval
            if not self._awaiting_pong:
                self._ping_payload = secrets.token_bytes(4)
                connection.send_ping(self._ping_payload)
                self._flush(connection)
                self._ping_sent = now
                self._ping_mark = self._mark(transport)
                self._awaiting_pong = patience is not None
        if self._awaiting_pong and patience is not None:
            return min(self._next_ping, self._ping_sent + patience)
        return self._next_ping

    def _mark(self, transport: Transport) -> tuple[int, int]:
        return transport.bytes_received, transport.bytes_sent if transport.backlog else 0

    # What it is, and how it stands.

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or closing: nothing more can be sent.

        While messages that came in before the close wait to be received it stays False for a handler that receives, so
        that `while not ws.closed: ws.receive()` gets them all; for one that has not received for `close_timeout` seconds,
        or never, it does not. While `max_queue` messages wait to be received nothing more is read, and a Close frame that
        stands behind them is seen when the peer ends TCP. Looking at it accepts the connection, as receiving does.
        """
        if self._refusal is not None:
            return True
        connection = self._connection or self._open()
        if connection.state is _OPEN:
            return False
        waiting = len(self._messages)
        if not waiting or connection.messages_received == waiting:
            return True
        return monotonic() - self._touched > self._options.close_timeout

    @property
    def state(self) -> State:
        """CONNECTING, OPEN, CLOSING or CLOSED. Looking at it accepts nothing."""
        if self._connection is not None:
            return self._connection.state
        return State.CONNECTING if self._refusal is None else State.CLOSED

    @property
    def close_code(self) -> int | None:
        """Why the connection closed: the peer's code; 1005 if it gave none, 1006 if TCP just ended. If the peer broke the
        protocol, the code it was told so with. None while it is open."""
        return None if self._connection is None else self._connection.close_code

    @property
    def close_reason(self) -> str:
        """The text that goes with `close_code`."""
        return "" if self._connection is None else self._connection.close_reason

    @property
    def cooperative(self) -> bool:
        """Whether blocking calls of the standard library let others run in its handler: `options.cooperative`, on gevent. On
        servers with native threads nothing has to be changed for it, and nothing is."""
        return bool(self._options.cooperative) and isinstance(self._runtime, HubRuntime)

    @property
    def buffered_amount(self) -> int:
        """Bytes sent that the operating system has not taken yet, because the peer does not read."""
        connection, transport = self._connection, self._transport
        return 0 if connection is None or transport is None else connection.queued + transport.backlog

    @property
    def latency(self) -> float | None:
        """Seconds between the latest ping that was answered and its pong; None before the first."""
        return self._latency

    @property
    def id(self) -> str:
        """A random name for this connection, for logs and dictionaries."""
        if self._id is None:
            self._id = secrets.token_hex(8)
        return self._id

    @property
    def path(self) -> str:
        """The request's path, without SCRIPT_NAME and query."""
        path: str = self.environ.get("PATH_INFO", "")
        return path

    @property
    def origin(self) -> str | None:
        """The origin of the page that opened the connection, as its browser says; None outside of browsers."""
        return self._request.origin

    @property
    def version(self) -> str:
        """The version of the protocol: "13"."""
        return self._request.version

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client offered, as it wrote them. The one in use is `subprotocol`."""
        offered: str | None = self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
        return offered

    @property
    def remote_address(self) -> tuple[str, int] | str | None:
        """The client's address and port. The address alone where nobody knows the port, as behind a proxy; on a Unix socket
        what the server knows of it."""
        if "REMOTE_PORT" in self.environ:
            return self.environ.get("REMOTE_ADDR", ""), int(self.environ["REMOTE_PORT"])
        return self.environ.get("REMOTE_ADDR")

    @property
    def logger(self) -> logging.Logger:
        """The logger that connections write to."""
        return logger

    @property
    def current_app(self) -> Any:
        """The application that `Resource` chose for this connection, as in gevent-websocket."""
        return self.environ.get("geventws.current_app", _NO_APP)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Messages received, bytes received, messages sent, bytes sent; bytes of frames, as they were on the wire."""
        if self._connection is None or self._transport is None:
            return 0, 0, 0, 0
        connection, transport = self._connection, self._transport
        return (
            connection.messages_received,
            transport.bytes_received,
            connection.messages_sent,
            transport.bytes_sent - self._bytes_before,
        )

    def __repr__(self) -> str:
        return f"<WebSocket {self.id[:4]} {self.state.name} {self.path} {self.environ.get('REMOTE_ADDR', '')}>"

    def _log_message(self, direction: str, message: object) -> None:
        size = len(message) if isinstance(message, str | bytes | bytearray) else 0
        kind = "TEXT" if isinstance(message, str) else "BINARY"
        logger.debug("%s %s %.80r [%d] %r", direction, kind, message, size, self)

    def _elsewhere(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call `method` where it may touch the connection."""
        return self._runtime.call(method, *args)


class WebSocket(WebSocketBase):
    """One WebSocket connection, from the request on.

    A handler receives in its own greenlet and sends from wherever it likes:

    - Every method may be called from any greenlet and any native thread. Frames never interleave, and what one of them
      sends leaves in its order. Only one greenlet may wait in `receive` at a time (`InvalidState` for a second).
    - Nothing has to be read for pings to be answered and for `closed` to become true when the peer leaves.
    - A handler may be killed, or run into a `gevent.Timeout`, at any point: no message is lost or torn by it.

    The opening handshake is answered as late as possible: by `accept`, or by itself at the first `receive`, `send`, `ping`,
    `close`, iteration, or look at `closed`. Until then the application may refuse it with an ordinary HTTP response.
    """

    __slots__ = ()

    OPCODE_CONTINUATION = int(Opcode.CONTINUATION)
    OPCODE_TEXT = _TEXT
    OPCODE_BINARY = _BINARY
    OPCODE_CLOSE = _CLOSE
    OPCODE_PING = _PING
    OPCODE_PONG = _PONG


def broadcast(
    websockets: Iterable[WebSocketBase],
    message: str | bytes | bytearray | memoryview,
    binary: bool | None = None,
    *,
    max_backlog: int = 1 << 20,
) -> list[WebSocketBase]:
    """Send one message to many. It is encoded, and compressed, once for all whose compression is set up alike.

    Nobody is waited for: a peer that reads slowly gets it later, one that reads nothing for `options.send_timeout` seconds
    is given up, as in `send`. Connections that are closed, or not accepted yet, are passed over. May be called from any
    greenlet and any thread, also for connections of other threads. A `send` that a subclass has of its own is not called.

    Args:
        binary: as in `send`.
        max_backlog: bytes that may wait for a peer. One for which more are waiting does not get the message.

    Returns:
        The connections that did not get it because of `max_backlog`. A message is missing there: close them, or send
        them what they need to catch up.

    Raises:
        TypeError: `message` is neither `str` nor bytes-like, or one of `websockets` is no WebSocket.
        ValueError: text that is not Unicode (a lone surrogate), or with binary=False not UTF-8.
    """
    payload, opcode = _encode(message, binary)
    several = tuple(websockets)
    for websocket in several:
        if not isinstance(websocket, WebSocketBase):
            raise TypeError(f"what is broadcast goes to WebSockets; got {websocket!r}")
    return _broadcast(several, payload, opcode, max_backlog, {})


def _broadcast(
    websockets: tuple[WebSocketBase, ...], payload: bytes, opcode: int, max_backlog: int, frames: dict[object, bytes]
) -> list[WebSocketBase]:
    here = thread_ident()
    behind: list[WebSocketBase] = []
    elsewhere: dict[Runtime, list[WebSocketBase]] = {}
    for websocket in websockets:
        if websocket._runtime.thread != here:
            elsewhere.setdefault(websocket._runtime, []).append(websocket)
        elif not websocket._send_shared(payload, opcode, frames, max_backlog):
            behind.append(websocket)
    for runtime, others in elsewhere.items():
        behind += runtime.call(_broadcast, tuple(others), payload, opcode, max_backlog, frames)
    return behind


class _Messages:
    """Iterates over the messages of a WebSocket."""

    __slots__ = ("_receive", "_websocket")

    def __init__(self, websocket: WebSocketBase) -> None:
        self._websocket = websocket
        # Where a subclass has a `receive` of its own. Else there is nothing to be looked up for each message.
        overridden = type(websocket).receive is not WebSocketBase.receive
        self._receive: Callable[[], str | bytes | None] | None = websocket.receive if overridden else None

    def __iter__(self) -> Iterator[str | bytes]:
        return self

    def __next__(self) -> str | bytes:
        try:
            message = self._websocket._next_message(None) if self._receive is None else self._receive()
        except ConnectionClosed:
            raise StopIteration from None
        if message is None:
            raise StopIteration
        return message


class _Reserve:
    """Has the memory that is kept for large messages given back once none has come for a while."""

    def __init__(self) -> None:
        self._looked_after = 0.0

    def used(self, runtime: Runtime) -> None:
        now = monotonic()
        if now > self._looked_after:
            self._looked_after = now + 2 * _KEPT
            runtime.at(now + _KEPT, self)

    def tick(self, now: float) -> float | None:
        left = let_go()
        self._looked_after = now + 2 * _KEPT if left else 0.0
        return now + _KEPT if left else None


_reserve = _Reserve()


class _Lookout:
    """Has a WebSocket look, now and then, whether its peer has left."""

    __slots__ = ("__weakref__", "_websocket")

    def __init__(self, websocket: WebSocketBase) -> None:
        self._websocket = websocket

    def tick(self, now: float) -> float | None:
        return self._websocket.look_for_leaving(now)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError(f"{name} is a number of seconds, or None; got {value!r}")


def _check_close(code: object, reason: object) -> None:
    if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
        raise TypeError(f"a close code is a whole number such as 1000; got {code!r}")
    if reason is not None and not isinstance(reason, str | bytes):
        raise TypeError(f"a reason for closing is text; got {reason!r}")


def _encode(message: object, binary: bool | None) -> tuple[bytes, int]:
    if isinstance(message, str):
        return message.encode("utf-8"), _BINARY if binary else _TEXT
    if isinstance(message, bytes | bytearray | memoryview):
        payload = bytes(message)
        if binary is False:
            payload.decode("utf-8")  # Text that is not UTF-8 would make the peer give up the connection.
            return payload, _TEXT
        return payload, _BINARY
    raise TypeError(f"a message is str (sent as text) or bytes-like (sent as binary); got {type(message).__name__}")
