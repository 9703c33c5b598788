"""Every exception that geventws raises for a reason of its own. The error carries its consequence.

::

    OSError
     └── WebSocketError                  anything that goes wrong with a WebSocket
          ├── HandshakeError             the opening handshake is refused: .status, .headers, the reason as text
          │    └── HandshakeRefused      by the server that we wanted to connect to: .body, too
          ├── ConnectionClosed           there is nothing more to send to or receive from: .code, .reason
          ├── ProtocolError              the peer broke RFC 6455; the connection fails with .close_code
          │    ├── InvalidPayload        text that is not UTF-8, or data that does not inflate (1007)
          │    └── MessageTooBig         a message over the size limit (1009); FrameTooLargeException for old programs
          └── InvalidState               the caller asked for something that cannot be now; the connection lives

`WebSocketError` is an `OSError`, as it was in gevent-websocket, so that `except OSError` of old programs goes on working.
What the caller passes wrongly is a `TypeError` or `ValueError`, and what takes too long a `TimeoutError`, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from .codes import CloseCode

__all__ = [
    "ConnectionClosed",
    "FrameTooLargeException",
    "HandshakeError",
    "HandshakeRefused",
    "InvalidPayload",
    "InvalidState",
    "MessageTooBig",
    "ProtocolError",
    "WebSocketError",
]


class WebSocketError(OSError):
    """Base of all errors that have to do with a WebSocket."""


class HandshakeError(WebSocketError):
    """The opening handshake is refused.

    `status` is the HTTP status line without the version ("403 Forbidden"), `headers` what the answer carries beside the
    usual ones, and the message what its body says: the cause, and what to do about it.
    """

    def __init__(self, status: str, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = list(headers)


class HandshakeRefused(HandshakeError):
    """Another server refused our own opening handshake, or its answer is none to a WebSocket.

    `status`, `headers` and `body`, of which this is the beginning, are those of its answer. In a handler that has not
    answered its own client yet, that client is told nothing of them.
    """

    def __init__(self, status: str, message: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        super().__init__(status, message, headers)
        self.body = body


class ConnectionClosed(WebSocketError):
    """The connection is closed, or closing: nothing more can be sent, or has come in.

    `code` and `reason` are what the peer said when it closed, or what this side said if it closed first; 1006 if the TCP
    connection just ended, 1005 if the Close frame carried no code.
    """

    def __init__(self, code: int = CloseCode.ABNORMAL_CLOSURE, reason: str = "") -> None:
        super().__init__(f"the connection is closed: {code} {reason}".rstrip())
        self.code = int(code)
        self.reason = reason


class ProtocolError(WebSocketError):
    """The peer did what RFC 6455 or RFC 7692 forbids. The connection fails with `close_code`."""

    close_code = CloseCode.PROTOCOL_ERROR


class InvalidPayload(ProtocolError):
    """Text that is not UTF-8 (RFC 6455 section 8.1), or compressed data that does not inflate."""

    close_code = CloseCode.INVALID_PAYLOAD


class MessageTooBig(ProtocolError):
    """A message longer than `max_message_size`, found out before the memory for it is spent."""

    close_code = CloseCode.MESSAGE_TOO_BIG


FrameTooLargeException = MessageTooBig
"""The name that gevent-websocket gave to `MessageTooBig`."""


class InvalidState(WebSocketError):
    """What was asked for is not possible in the state that the connection is in. The connection goes on."""
