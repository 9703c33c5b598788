"""One endpoint of an open connection: bytes in, messages and control frames out, and the other way round. RFC 6455 5 to 8.

What has to be sent collects inside, in order, until `data_to_send` hands it over: there is no other way out, so that no
pong and no Close frame can be forgotten. Who reads, writes and waits is somebody else.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from struct import Struct
from typing import NamedTuple

from ..codes import CloseCode, Opcode, is_sendable_close_code
from ..exceptions import ConnectionClosed, InvalidPayload, ProtocolError
from .deflate import Deflate, refuse_compressed
from .frames import FIN, MASKED, MAX_CONTROL_PAYLOAD, RSV1, build_frame, build_header, parse_header
from .masking import apply_mask, unmask
from .messages import Assembly, decode_text, not_utf8, too_big
from .plain import read_text, server_frame, text_frame
from .states import Event, State, next_state

__all__ = ["CloseReceived", "Connection", "Message", "PingReceived", "PongReceived", "Role"]

Message = str | bytes
"""What is received: text or binary."""

# Plain integers and local names: what every message passes is worth the two lines.
_TEXT, _BINARY, _CLOSE, _PING, _PONG = (
    int(code) for code in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG)
)
_FIN, _MASKED, _RSV1 = FIN, MASKED, RSV1
_FINAL_TEXT = FIN | _TEXT
_FINAL_BINARY = FIN | _BINARY
_OPEN = State.OPEN
_uint16 = Struct("!H")

# Payloads of which so much is still to come are read straight into the message.
_LARGE = 16 * 1024
# Payloads from this size on are sent without being copied behind their header: then that costs more than a write.
_UNCOPIED = 32 * 1024
# How much room is offered at once: what is read shall still be in the processor's cache when it is unmasked.
_ROOM = 256 * 1024


class Role(Enum):
    """Which endpoint this is. Clients mask what they send, servers do not (section 5.1)."""

    SERVER = "server"
    CLIENT = "client"


class PingReceived(NamedTuple):
    """The peer sent a ping. The pong is already waiting to be sent."""

    payload: bytes


class PongReceived(NamedTuple):
    """The peer sent a pong, asked for or not."""

    payload: bytes


class CloseReceived(NamedTuple):
    """The peer sent a Close frame. The answer, if it was due, is already waiting to be sent."""

    code: int
    reason: str


class Connection:
    """The protocol of one connection, from the handshake's end on.

    `receive_data` takes what was read; `next_event` gives what is in it, one by one, until it gives None. The sending
    methods and `close` change the state and queue bytes; `data_to_send` hands them over. Not safe for threads by itself.

    Args:
        role: which endpoint this is.
        max_message_size: bytes that a message may have, after inflation.
        deflate: the codec agreed on, or None.
    """

    __slots__ = (
        "_assembly",
        "_compressed_left",
        "_deflate",
        "_final",
        "_inflating",
        "_key",
        "_mask_in",
        "_mask_out",
        "_max_message_size",
        "_most_compressed",
        "_next_out",
        "_offset",
        "_out",
        "_sent_close",
        "_usual",
        "close_code",
        "close_reason",
        "close_received",
        "close_sent",
        "expected",
        "failure",
        "messages_received",
        "messages_sent",
        "queued",
        "state",
        "unparsed",
    )

    def __init__(self, role: Role, *, max_message_size: int = 1 << 20, deflate: Deflate | None = None) -> None:
        self.state = _OPEN
        self.close_code: int | None = None
        """Why the connection is closed: what the peer said; else the code of `failure`; else 1006. None while it is open."""
        self.close_reason = ""
        self.close_sent = False
        self.close_received = False
        self._sent_close: tuple[int, str] | None = None
        self.failure: ProtocolError | None = None
        """What the peer did wrong, if the connection failed."""
        self.messages_received = 0
        self.messages_sent = 0
        self._mask_in = role is Role.SERVER
        self._mask_out = role is Role.CLIENT
        self._usual = self._mask_in and max_message_size >= MAX_CONTROL_PAYLOAD
        self._max_message_size = min(max_message_size, sys.maxsize)
        # More than deflate makes of a message that is just within the limit, even if it is flushed again and again.
        self._most_compressed = min(2 * max_message_size + 1024, sys.maxsize)
        self._deflate = deflate
        self.unparsed = b""
        """Bytes received that no event has come of yet, from `_offset` on."""
        self._offset = 0
        self.queued = 0
        """How many bytes are due."""
        # The first piece of them, which mostly is the only one, and those that follow.
        self._next_out = b""
        self._out: list[bytes] | None = None
        # The message under way, if it did not come in one piece.
        self._assembly: Assembly | None = None
        self._inflating = False
        self._compressed_left = 0
        self.expected = -1
        """How many bytes of the payload under way are still to come; -1 between two frames."""
        # Of the frame under way: the masking key, turned to the next octet, and whether it is the message's last.
        self._key: bytes | None = None
        self._final = False

    # What comes in.

    def receive_data(self, data: bytes) -> None:
        """Take bytes that came from the peer. `next_event` then gives what they hold. Nothing once the connection is `over`."""
        if self.state is not _OPEN and self.over:
            return
        if self.unparsed:
            self.unparsed = self.unparsed[self._offset :] + data
        else:
            self.unparsed = data
        self._offset = 0

    def receive_eof(self) -> None:
        """The TCP connection has ended."""
        self.state = next_state(self.state, Event.EOF)
        self._drop_input()
        if self.close_code is None:
            self.close_code = CloseCode.ABNORMAL_CLOSURE

    @property
    def compressed(self) -> bool:
        """Whether permessage-deflate was agreed on."""
        return self._deflate is not None

    @property
    def over(self) -> bool:
        """Whether nothing more is to be read: both Close frames went through, the connection failed, or TCP ended."""
        return self.close_received or self.failure is not None or self.state is State.CLOSED

    def next_event(self) -> str | bytes | PingReceived | PongReceived | CloseReceived | None:
        """The next message, or control frame, of what was received; None when more bytes are needed, or nothing can come.

        A peer that breaks the protocol makes the connection fail: the Close frame is queued, `failure` says what it was.
        """
        # The usual case, without a call or an object on the way: a message that is whole and plain, from a client.
        data = self.unparsed
        at = self._offset
        there = len(data) - at
        if not there and self.expected < 0:
            return None
        if self._usual and there > 6 and self._assembly is None and self.state is _OPEN:
            first = data[at]
            size = data[at + 1] - _MASKED
            start = at + 6
            if size == 126 and there > 8:
                size = data[at + 2] << 8 | data[at + 3]
                start = at + 8
                if size < 126 or size > self._max_message_size:
                    return self._next_event()
            elif size > 125:
                return self._next_event()
            end = start + size
            if first in (_FINAL_TEXT, _FINAL_BINARY) and size >= 0 and end <= len(data):
                if end == len(data):
                    self.unparsed = b""
                else:
                    self._offset = end
                if first == _FINAL_TEXT:
                    return self._read_text(data, start, size)
                self.messages_received += 1
                return unmask(data, start, size, start - 4)
        return self._next_event()

    def _read_text(self, data: bytes, start: int, size: int) -> str | None:
        try:
            text = read_text(data, start, size, start - 4)
        except UnicodeDecodeError as error:
            self._fail(not_utf8(error))
            return None
        self.messages_received += 1
        return text

    def _next_event(self) -> str | bytes | PingReceived | PongReceived | CloseReceived | None:
        try:
            while True:
                if self.expected >= 0:
                    message = self._take_payload()
                    if message is None and self.expected >= 0:
                        return None
                    if message is None:
                        continue
                    self.messages_received += 1
                    return message
                data = self.unparsed
                if not data:
                    return None
                header = parse_header(data, self._offset, self._mask_in)
                if header is None:
                    return None
                first, size, start, key = header
                opcode = first & 0x0F
                end = start + size
                # 0xB0 leaves RSV1 out: a whole compressed message is inflated at once.
                if opcode < 8 and (
                    opcode == 0 or first & 0xB0 != _FIN or self._assembly is not None or end > len(data)
                ):
                    self._begin_payload(first, size, start, key)
                    continue
                deflate = self._deflate if first & _RSV1 else None
                if deflate is None and first & _RSV1:
                    raise refuse_compressed(opcode)
                if opcode < 8 and size > (self._max_message_size if deflate is None else self._most_compressed):
                    raise too_big(self._max_message_size)
                if end > len(data):
                    return None
                payload = data[start:end] if key is None else unmask(data, start, size, start - 4)
                if end == len(data):
                    self.unparsed = b""
                else:
                    self._offset = end
                if opcode >= 8:
                    event = self._control_event(opcode, payload)
                    if event is None:
                        continue
                    return event
                if self.state is not _OPEN:
                    continue  # We sent a Close frame: what the peer still sends before it answers is dropped unseen.
                if deflate is not None:
                    payload = deflate.inflate_whole(payload, self._max_message_size)
                whole = decode_text(payload) if opcode == _TEXT else payload
                self.messages_received += 1
                return whole
        except ProtocolError as error:
            self._fail(error)
        return None

    def _begin_payload(self, first: int, size: int, start: int, key: bytes | None) -> None:
        """A data frame begins that is not a whole plain message that lies in the buffer."""
        opcode = first & 0x0F
        message = self._assembly
        if opcode == 0:
            # 5.4: fragments of one message follow each other.
            if message is None:
                raise ProtocolError("a continuation frame has nothing to continue")
            if first & RSV1:
                raise refuse_compressed(opcode)
        else:
            if message is not None:
                raise ProtocolError("a new message begins before the one under way has ended")
            if first & RSV1 and self._deflate is None:
                raise refuse_compressed(opcode)
            self._inflating = bool(first & RSV1)
            self._compressed_left = self._most_compressed
            message = self._assembly = Assembly(opcode, self._max_message_size)
        if size > (self._compressed_left if self._inflating else message.room):
            raise too_big(self._max_message_size)
        self._compressed_left -= size
        if first & _FIN and size >= _LARGE and not self._inflating:
            message.expect(size)
        self.expected = size
        self._key = key
        self._final = bool(first & FIN)
        self._offset = start

    def _take_payload(self) -> str | bytes | None:
        """Take what there is of the frame under way. The message, if that completes it; `expected` < 0 once it is over."""
        message = self._assembly
        assert message is not None
        available = len(self.unparsed) - self._offset
        size = min(self.expected, available)
        piece = self.unparsed[self._offset : self._offset + size] if size < available or self._offset else self.unparsed
        if self._key is not None:
            piece = apply_mask(piece, self._key)
            turn = size & 3
            self._key = self._key[turn:] + self._key[:turn]
        if size == available:
            self.unparsed = b""
            self._offset = 0
        else:
            self._offset += size
        self.expected -= size
        dropped = self.state is not _OPEN
        deflate = self._deflate if self._inflating else None
        if dropped:
            pass
        elif deflate is not None:
            deflate.inflate(piece, message)
        else:
            message.add(piece)
        if self.expected:
            return None
        self.expected = -1
        if not self._final:
            return None
        self._assembly = None
        if dropped:
            return None
        if deflate is not None:
            deflate.finish(message)
        return message.finish()

    def target(self) -> memoryview | None:
        """Where the rest of a large payload may be written directly, in the place of `receive_data`; `written` says how much.

        None if what is to come is not large, or has to be inflated or dropped. It is to be let go of before `written`.
        """
        message = self._assembly
        if self.expected < _LARGE or message is None or self._inflating or self.unparsed or self.state is not _OPEN:
            return None
        return message.target(min(self.expected, _ROOM))

    def written(self, size: int) -> None:
        """So many bytes that came from the peer are in `target` now. `next_event` gives the message once it is whole."""
        message = self._assembly
        assert message is not None
        key = self._key
        self.expected -= size
        try:
            message.written(size, key)
        except ProtocolError as error:
            self._fail(error)
            return
        if key is not None:
            turn = size & 3
            self._key = key[turn:] + key[:turn]

    def _control_event(self, opcode: int, payload: bytes) -> PingReceived | PongReceived | CloseReceived | None:
        if opcode == _PONG:
            return PongReceived(payload)
        if opcode == _PING:
            # 5.5.2: a pong is due "unless it already received a Close frame"; after our own Close we send nothing more.
            if self.state is not _OPEN:
                return None
            self._queue(FIN | _PONG, payload)
            return PingReceived(payload)
        code, reason = _read_close(payload)
        self.close_received = True
        self.close_code = code
        self.close_reason = reason
        self.state = next_state(self.state, Event.CLOSE_RECEIVED)
        self._drop_input()
        # 5.5.1: an endpoint that receives a Close frame and has not sent one MUST answer with one, typically with its code.
        if not self.close_sent:
            self.close_sent = True
            self._queue(FIN | _CLOSE, payload[:2])
        return CloseReceived(code, reason)

    def _fail(self, error: ProtocolError) -> None:
        """Section 7.1.7: say why with a Close frame, if none was sent, and read no further."""
        self.failure = error
        self.state = next_state(self.state, Event.FAILED)
        self._drop_input()
        if not self.close_received:
            self.close_code = error.close_code
            self.close_reason = str(error)
        if not self.close_sent:
            self.close_sent = True
            self._queue(FIN | _CLOSE, _close_payload(error.close_code, str(error)[:123]))

    def _drop_input(self) -> None:
        self.unparsed = b""
        self._offset = 0
        self.expected = -1
        self._assembly = None

    # What goes out.

    def send_message(self, payload: bytes, opcode: int) -> None:
        """Queue a message, in one frame. Text has to be UTF-8 already. Raises ConnectionClosed unless the state is OPEN."""
        if self.state is not _OPEN:
            raise self.closed_error()
        self.messages_sent += 1
        deflate = self._deflate
        if deflate is not None and len(payload) >= deflate.threshold:
            self._queue(FIN | RSV1 | opcode, deflate.compress(payload))
        elif self._mask_out:
            self._queue(FIN | opcode, payload)
        elif len(payload) < _UNCOPIED:
            self._append(server_frame(_FIN | opcode, payload))
        else:
            self._append(build_header(_FIN | opcode, len(payload)))
            self._append(payload)

    def send_text(self, text: str) -> None:
        """As `send_message`, for text that is yet to be encoded. Raises UnicodeEncodeError for a lone surrogate, too."""
        if self._deflate is not None or self._mask_out or len(text) >= _UNCOPIED:
            self.send_message(text.encode(), _TEXT)
            return
        if self.state is not _OPEN:
            raise self.closed_error()
        frame = text_frame(text)
        self.messages_sent += 1
        # As `_append`, mostly without a call for each message.
        if self.queued:
            self._append(frame)
        else:
            self._next_out = frame
            self.queued = len(frame)

    def send_shared(self, payload: bytes, opcode: int, frames: dict[object, bytes]) -> None:
        """As `send_message`, for a message that goes to many: the first endpoint of a kind leaves its frame in `frames`."""
        if self._mask_out:
            self.send_message(payload, opcode)  # 5.3: each frame has a masking key of its own.
            return
        if self.state is not _OPEN:
            raise self.closed_error()
        deflate = self._deflate
        if deflate is None or len(payload) < deflate.threshold:
            kind = None
        else:
            kind = deflate.sending
            deflate.start_afresh()
        frame = frames.get(kind)
        if frame is None:
            if deflate is None or kind is None:
                frame = server_frame(_FIN | opcode, payload)
            else:
                frame = server_frame(_FIN | _RSV1 | opcode, deflate.compress(payload))
            frames[kind] = frame
        self.messages_sent += 1
        self._append(frame)

    def send_ping(self, payload: bytes = b"") -> None:
        """Queue a ping. Raises ConnectionClosed unless the state is OPEN, ValueError for more than 125 bytes."""
        self._send_control(_PING, payload)

    def send_pong(self, payload: bytes = b"") -> None:
        """Queue a pong that nobody asked for; those that answer a ping go by themselves. Raises as `send_ping` does."""
        self._send_control(_PONG, payload)

    def _send_control(self, opcode: int, payload: bytes) -> None:
        if self.state is not _OPEN:
            raise self.closed_error()
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a ping or pong carries at most {MAX_CONTROL_PAYLOAD} bytes; got {len(payload)}")
        self._queue(FIN | opcode, payload)

    def close(self, code: int | None = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Queue the Close frame that starts the closing handshake; without a payload if `code` is None.

        Raises:
            ConnectionClosed: the state is not OPEN.
            ValueError: `code` is one that must not be sent, or `reason` is longer than 123 bytes of UTF-8.
        """
        payload = _close_payload(code, reason)
        if self.state is not _OPEN:
            raise self.closed_error()
        self.state = next_state(self.state, Event.CLOSE_SENT)
        self.close_sent = True
        self._sent_close = (CloseCode.NO_STATUS_RECEIVED if code is None else code, reason)
        self._queue(FIN | _CLOSE, payload)

    def _queue(self, first: int, payload: bytes) -> None:
        # 5.3: the masking key of each frame is new and cannot be predicted.
        self._append(build_frame(first, payload, os.urandom(4) if self._mask_out else None))

    def _append(self, data: bytes) -> None:
        if not self.queued:
            self._next_out = data
        elif self._out is None:
            self._out = [data]
        else:
            self._out.append(data)
        self.queued += len(data)

    def data_to_send(self) -> bytes:
        """The bytes that are due, in order, for the caller to write. Empty if there are none."""
        data = self._next_out
        if self._out is not None:
            data = b"".join([data, *self._out])
        self._next_out, self._out, self.queued = b"", None, 0
        return data

    def next_to_send(self) -> bytes:
        """The same, bit by bit: a large payload comes by itself, uncopied. To be called until nothing is `queued`."""
        if self._out is None:
            data, self._next_out, self.queued = self._next_out, b"", 0
            return data
        out = [self._next_out, *self._out]
        count = 0
        while count < len(out) and len(out[count]) < _UNCOPIED:
            count += 1
        count = count or 1
        data = out[0] if count == 1 else b"".join(out[:count])
        self._next_out = out[count] if count < len(out) else b""
        self._out = out[count + 1 :] or None
        self.queued -= len(data)
        return data

    def closed_error(self) -> ConnectionClosed:
        """The ConnectionClosed that says how the connection ended, or is ending."""
        if self.close_code is not None:
            return ConnectionClosed(self.close_code, self.close_reason)
        return ConnectionClosed(*(self._sent_close or (CloseCode.ABNORMAL_CLOSURE, "")))


def _read_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame, section 5.5.1."""
    if not payload:
        return CloseCode.NO_STATUS_RECEIVED, ""
    if len(payload) < 2:
        raise ProtocolError("the payload of a Close frame is a single byte")
    code: int = _uint16.unpack_from(payload)[0]
    if not is_sendable_close_code(code):
        raise ProtocolError(f"{code} is not a close code that may be sent")
    try:
        return code, str(payload[2:], "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidPayload("the reason in a Close frame is not UTF-8") from error


def _close_payload(code: int | None, reason: str) -> bytes:
    if code is None:
        if reason:
            raise ValueError("a reason for closing needs a code")
        return b""
    if not is_sendable_close_code(code):
        raise ValueError(f"{code} is not a close code that may be sent: use 1000-1003, 1007-1014 or 3000-4999")
    payload = _uint16.pack(code) + reason.encode("utf-8")
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a reason for closing has at most 123 bytes in UTF-8; got {len(payload) - 2}")
    return payload
