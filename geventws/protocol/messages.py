"""A message from its fragments, RFC 6455 section 5.4: size bounded, text checked as UTF-8 as early as the bytes allow."""

from __future__ import annotations

import codecs

from ..codes import Opcode
from ..exceptions import InvalidPayload, MessageTooBig
from .payload import Payload

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

    __slots__ = ("_decoder", "_limit", "_payload")

    def __init__(self, opcode: int, limit: int) -> None:
        self._limit = limit
        self._payload = Payload()
        self._decoder = _Utf8Decoder() if opcode == Opcode.TEXT else None

    @property
    def room(self) -> int:
        """How many bytes may still be added."""
        return self._limit - len(self._payload)

    def expect(self, size: int) -> None:
        """So many bytes more are announced, and are all."""
        self._payload.expect(len(self._payload) + size)

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            MessageTooBig: the message is over its limit.
            InvalidPayload: the text so far cannot be the beginning of any UTF-8 text.
        """
        if len(self._payload) + len(piece) > self._limit:
            raise too_big(self._limit)
        self._payload.add(piece)
        if self._decoder is not None:
            self._check_text(piece)

    def target(self, size: int) -> memoryview:
        """Where the next `size` bytes may be written directly, instead of `add`. It is to be let go of before `written`.

        Raises `MessageTooBig` if that is over the limit.
        """
        if len(self._payload) + size > self._limit:
            raise too_big(self._limit)
        return self._payload.room(size)

    def written(self, size: int, key: bytes | None) -> None:
        """So many bytes are in `target` now, masked with `key`. Raises `InvalidPayload` as `add` does."""
        piece = self._payload.added(size, key)
        if self._decoder is not None:
            self._check_text(piece)

    def _check_text(self, piece: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
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
        whole = self._payload.whole()
        return whole if self._decoder is None else decode_text(whole)
