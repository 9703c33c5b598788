"""permessage-deflate, RFC 7692: what is negotiated, and the codec that follows from it. Bounded on the way in.

Frames and fragments are not known here: payloads are compressed whole, and inflated whole or piece by piece. Which library
does it, `zlibs` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import Z_SYNC_FLUSH

from ..exceptions import HandshakeRefused, InvalidPayload, ProtocolError
from .messages import Assembly, too_big
from .zlibs import Compressor, Inflater, Zlib, chosen

__all__ = ["Agreement", "Deflate", "DeflateOptions", "agree", "confirm", "offer"]

EXTENSION = "permessage-deflate"
_TAIL = b"\x00\x00\xff\xff"
# zlib cannot write a raw stream for a window of 256 bytes (8 bits); it reads one well.
_SMALLEST_WINDOW = 9
_LARGEST_WINDOW = 15
_AFTER_FINAL = 256
# Each costs a new zlib object. Senders that use them at all use one a message.
_MOST_FINAL_BLOCKS = 1000

Parameters = list[tuple[str, "str | None"]]


@dataclass(frozen=True)
class DeflateOptions:
    """How messages are compressed when the peer agrees to permessage-deflate.

    The defaults are for little CPU and memory. A connection that sends and receives compressed messages keeps, with them, up
    to 55 KiB with Python's zlib: for what is sent 8 KiB, four times the window and the memory of `memory_level`, for what is
    received 8 KiB and the window. Where the faster libraries of geventws[speed] are installed it keeps up to 230 KiB, most of
    it in tables whose size no option changes. Without context takeover nothing is kept between messages.
    """

    server_max_window_bits: int = 12
    """Window of what the server sends, 9 to 15: 2 to that power bytes. 15 makes JSON messages of 1 KiB a sixth shorter than 12
    does, and keeps 112 KiB more with Python's zlib."""
    client_max_window_bits: int = 12
    """Window asked of clients that let themselves be asked, 9 to 15."""
    server_no_context_takeover: bool = False
    """True: every message the server sends starts afresh. Less memory between messages, larger messages."""
    client_no_context_takeover: bool = False
    """True: the same asked of the client."""
    memory_level: int = 5
    """zlib's memory for compressing, 1 to 9: 512 bytes times 2 to that power. 5 is the fastest for a window of 12; with more,
    zlib spends its time on a table that the window cannot fill."""
    level: int = 1
    """zlib's effort, 0 (none) to 9 (most); -1 is zlib's own default, 6. As in nginx and aiohttp it is 1: of JSON messages of 1
    KiB, 6 makes 8 % less than 1 does and takes a third more CPU; of 64 KiB of JSON 13 % less, for half as much again. 1 to 3
    are isal's, if it is installed: they compress as much, in two fifths of the time or less; zlib-ng has the others."""
    threshold: int = 128
    """Messages shorter than this many bytes are sent as they are: deflate would make most of them longer."""

    def __post_init__(self) -> None:
        _check_range("server_max_window_bits", self.server_max_window_bits, _SMALLEST_WINDOW, _LARGEST_WINDOW)
        _check_range("client_max_window_bits", self.client_max_window_bits, _SMALLEST_WINDOW, _LARGEST_WINDOW)
        _check_range("memory_level", self.memory_level, 1, 9)
        _check_range("level", self.level, -1, 9)
        _check_range("threshold", self.threshold, 0, None)


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name} must be a whole number, {allowed}; got {value!r}")


@dataclass(frozen=True)
class Agreement:
    """What both endpoints agreed on, RFC 7692 section 7.1."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = _LARGEST_WINDOW
    client_max_window_bits: int = _LARGEST_WINDOW


def agree(parameters: Parameters, options: DeflateOptions) -> tuple[Agreement, str] | None:
    """A server's answer to one offer: the agreement and the extension's text for the response; None declines the offer."""
    read = _read(parameters, value_optional="client_max_window_bits")
    if read is None:
        return None
    server_bits = min(read.get("server_max_window_bits") or _LARGEST_WINDOW, options.server_max_window_bits)
    if server_bits < _SMALLEST_WINDOW:
        return None
    # 7.1.2.2: a server must not ask for client_max_window_bits unless the client said that it knows the parameter.
    client_bits = _LARGEST_WINDOW
    if "client_max_window_bits" in read:
        client_bits = min(read["client_max_window_bits"] or _LARGEST_WINDOW, options.client_max_window_bits)
    agreement = Agreement(
        "server_no_context_takeover" in read or options.server_no_context_takeover,
        "client_no_context_takeover" in read or options.client_no_context_takeover,
        server_bits,
        client_bits,
    )
    return agreement, _text(agreement, server_bits_named="server_max_window_bits" in read)


def offer(options: DeflateOptions) -> str:
    """What a client offers."""
    wanted = Agreement(
        options.server_no_context_takeover,
        options.client_no_context_takeover,
        options.server_max_window_bits,
        _LARGEST_WINDOW,
    )
    bits = options.client_max_window_bits
    # Without a value it only says that the server may choose; 7.1.2.2.
    limit = "client_max_window_bits" + (f"={bits}" if bits < _LARGEST_WINDOW else "")
    return f"{_text(wanted)}; {limit}"


def confirm(parameters: Parameters, options: DeflateOptions) -> Agreement:
    """A client's reading of the server's answer to `offer(options)`.

    Raises:
        HandshakeRefused: the answer is not one that the offer allows, so the connection has to be given up.
    """
    read = _read(parameters, value_optional=None)
    if read is None:
        raise HandshakeRefused("502 Bad Gateway", f"the server's {EXTENSION} parameters are not valid: {parameters}")
    agreement = Agreement(
        "server_no_context_takeover" in read,
        "client_no_context_takeover" in read or options.client_no_context_takeover,
        read.get("server_max_window_bits") or _LARGEST_WINDOW,
        min(read.get("client_max_window_bits") or _LARGEST_WINDOW, options.client_max_window_bits),
    )
    if agreement.server_max_window_bits > options.server_max_window_bits:
        raise HandshakeRefused("502 Bad Gateway", "the server insists on a larger window than was offered")
    if options.server_no_context_takeover and not agreement.server_no_context_takeover:
        raise HandshakeRefused("502 Bad Gateway", "the server ignores server_no_context_takeover")
    if agreement.client_max_window_bits < _SMALLEST_WINDOW:
        raise HandshakeRefused("502 Bad Gateway", "the server asks for a window of 8 bits, which zlib cannot write")
    return agreement


def _read(parameters: Parameters, value_optional: str | None) -> dict[str, int | None] | None:
    """The parameters with their values as numbers; None if one is unknown, repeated, or has a value it must not have."""
    read: dict[str, int | None] = {}
    for name, value in parameters:
        if name in read:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            read[name] = None
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is None and name != value_optional:
                return None
            # 7.1.2.1: "a decimal integer without leading zeros between 8 to 15 inclusive"
            if value is not None and value not in _WINDOW_VALUES:
                return None
            read[name] = None if value is None else int(value)
        else:
            return None
    return read


_WINDOW_VALUES = frozenset(str(bits) for bits in range(8, 16))


def _text(agreement: Agreement, server_bits_named: bool = False) -> str:
    parts = [EXTENSION]
    if agreement.server_no_context_takeover:
        parts.append("server_no_context_takeover")
    if agreement.client_no_context_takeover:
        parts.append("client_no_context_takeover")
    if server_bits_named or agreement.server_max_window_bits < _LARGEST_WINDOW:
        parts.append(f"server_max_window_bits={agreement.server_max_window_bits}")
    if agreement.client_max_window_bits < _LARGEST_WINDOW:
        parts.append(f"client_max_window_bits={agreement.client_max_window_bits}")
    return "; ".join(parts)


class Deflate:
    """The codec of one connection. Its zlib objects come into being, and take memory, with the first message for them.

    A message that came in one frame is inflated by `inflate_whole`, any other piece by piece by `inflate` and, after its last
    piece, `finish`. After one of them has raised, the codec is of no more use.
    """

    __slots__ = (
        "_compressor",
        "_final_blocks",
        "_inflater",
        "_options",
        "_receive_bits",
        "_receive_fresh",
        "_send_bits",
        "_send_fresh",
        "_zlib",
        "threshold",
    )

    def __init__(self, agreement: Agreement, options: DeflateOptions, server: bool, using: Zlib = chosen) -> None:
        self._options = options
        self._zlib = using
        self.threshold = max(options.threshold, 1)
        ours = (agreement.server_max_window_bits, agreement.server_no_context_takeover)
        theirs = (agreement.client_max_window_bits, agreement.client_no_context_takeover)
        self._send_bits, self._send_fresh = ours if server else theirs
        self._receive_bits, self._receive_fresh = theirs if server else ours
        self._compressor: Compressor | None = None
        self._inflater: Inflater | None = None
        self._final_blocks = 0

    def compress(self, payload: bytes) -> bytes:
        """The payload of a message, not empty, as RFC 7692 section 7.2.1 has it sent."""
        compressor = self._compressor
        if compressor is None:
            options = self._options
            compressor = self._zlib.compressor(options.level, self._send_bits, options.memory_level)
            if not self._send_fresh:
                self._compressor = compressor
        return (compressor.compress(payload) + compressor.flush(Z_SYNC_FLUSH))[:-4]

    @property
    def sending(self) -> tuple[int, int, int]:
        """What decides how a message is compressed: codecs that have it in common do it alike when they start afresh."""
        return self._options.level, self._send_bits, self._options.memory_level

    def start_afresh(self) -> None:
        """The next message is compressed without reference to earlier ones, which the peer can always read.

        Needed as well after a message that another codec has compressed: this one does not know it, and the peer does.
        """
        self._compressor = None

    def inflate_whole(self, payload: bytes, limit: int) -> bytes:
        """What the whole payload of a message inflates to; never more than a byte over `limit` is made of it.

        Raises:
            MessageTooBig: it inflates to more than `limit` bytes.
            InvalidPayload: it is not deflate's.
        """
        message = self._inflate(payload + _TAIL, limit)
        if len(message) > limit:
            raise too_big(limit)
        self._end_message()
        return message

    def inflate(self, piece: bytes, message: Assembly) -> None:
        """Add to `message` what the next piece of its payload inflates to, never more than a byte over its limit.

        Raises:
            MessageTooBig, InvalidPayload: as `Assembly.add` does, and InvalidPayload where `piece` is not deflate's.
        """
        if piece:
            message.add(self._inflate(piece, message.room))

    def finish(self, message: Assembly) -> None:
        """The message's last piece has been inflated. Raises as `inflate` does."""
        self.inflate(_TAIL, message)
        self._end_message()

    def _end_message(self) -> None:
        self._final_blocks = 0
        if self._receive_fresh:
            self._inflater = None

    def _inflate(self, data: bytes, room: int) -> bytes:
        """What `data` inflates to, or the first `room + 1` bytes of that."""
        inflated, rest = self._inflate_stream(data, room)
        if not rest:
            return inflated
        # There may be many streams, and zlib copies what is left after each: so it is left less.
        parts = [inflated]
        room -= len(inflated)
        at = 0
        while at < len(rest) and room >= 0:
            piece = rest[at : at + _AFTER_FINAL]
            inflated, left = self._inflate_stream(piece, room)
            parts.append(inflated)
            room -= len(inflated)
            at += len(piece) - len(left)
        return b"".join(parts)

    def _inflate_stream(self, data: bytes, room: int) -> tuple[bytes, bytes]:
        """The same up to where zlib's stream ends, and what of `data` comes after that."""
        inflater = self._inflater
        if inflater is None:
            # zlib reads a window of 8 bits only as one of 9.
            inflater = self._inflater = self._zlib.inflater(max(self._receive_bits, _SMALLEST_WINDOW))
        try:
            inflated = inflater.decompress(data, room + 1)
        except self._zlib.error as error:
            raise InvalidPayload(f"a compressed message does not inflate: {error}") from error
        if not inflater.eof:
            return inflated, b""
        # 7.2.3.4: a block with BFINAL set ends zlib's stream, not the message.
        self._inflater = None
        self._final_blocks += 1
        if self._final_blocks > _MOST_FINAL_BLOCKS:
            raise InvalidPayload(f"a compressed message has more than {_MOST_FINAL_BLOCKS} final blocks")
        return inflated, inflater.unused_data


def refuse_compressed(opcode: int) -> ProtocolError:
    """The error for RSV1 where RFC 7692 section 6 does not allow it."""
    if opcode:
        return ProtocolError("a message is compressed (RSV1 is set), but compression was not negotiated")
    return ProtocolError("a continuation frame has RSV1 set")
