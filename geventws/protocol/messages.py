"""A message from its fragments, RFC 6455 section 5.4: size bounded, text checked as UTF-8 as early as the bytes allow."""

from __future__ import annotations

import codecs

from ..codes import Opcode
from ..exceptions import InvalidPayload, MessageTooBig

__all__ = ["Assembly", "decode_text", "not_utf8", "too_big"]

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


def too_big(limit: int) -> MessageTooBig:
    """The error for a message over `limit` bytes."""
    return MessageTooBig(f"the message is longer than {limit} bytes")


def not_utf8(error: UnicodeDecodeError) -> InvalidPayload:
    """The error for text that is not UTF-8 (section 8.1)."""
    return InvalidPayload(f"text is not UTF-8: {error.reason}")


def decode_text(payload: bytes | bytearray) -> str:
    """The text of a whole message. Raises `InvalidPayload` where it is not UTF-8."""
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error) from error


class Assembly:
    """One message on its way in. Its pieces, of any size, are added in order; `finish` gives the whole."""

    __slots__ = ("_data", "_decoder", "_limit")

    def __init__(self, opcode: int, limit: int) -> None:
        self._limit = limit
        # One run of bytes, as a list of small pieces would take many times what it holds.
        self._data = bytearray()
        self._decoder = _Utf8Decoder() if opcode == Opcode.TEXT else None

    @property
    def room(self) -> int:
        """How many bytes may still be added."""
        return self._limit - len(self._data)

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            MessageTooBig: the message is over its limit.
            InvalidPayload: the text so far cannot be the beginning of any UTF-8 text.
        """
        if len(self._data) + len(piece) > self._limit:
            raise too_big(self._limit)
        self._data += piece
        if self._decoder is not None:
            self._check_text(piece, self._decoder)

    def _check_text(self, piece: bytes, decoder: codecs.IncrementalDecoder) -> None:
        try:
            decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error
        pending = decoder.getstate()[0]
        # Python's decoder waits for the third octet of what would be a surrogate; the second one gives it away.
        if len(pending) == 2 and pending[0] == 0xED and pending[1] >= 0xA0:
            raise InvalidPayload("text is not UTF-8: a surrogate")

    def finish(self) -> str | bytes:
        """The whole message. Raises `InvalidPayload` if text ends inside a character."""
        return bytes(self._data) if self._decoder is None else decode_text(self._data)
