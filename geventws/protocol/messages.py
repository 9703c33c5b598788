"""A message from its fragments, RFC 6455 section 5.4: size bounded, text checked as UTF-8 as early as the bytes allow."""

from __future__ import annotations

import codecs

from ..codes import Opcode
from ..exceptions import InvalidPayload, MessageTooBig

__all__ = ["Assembly", "decode_text", "too_big"]

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


def too_big(limit: int) -> MessageTooBig:
    """The error for a message over `limit` bytes."""
    return MessageTooBig(f"the message is longer than {limit} bytes")


def decode_text(payload: bytes) -> str:
    """The text of a whole message. Raises `InvalidPayload` where it is not UTF-8."""
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error


def _not_utf8(error: UnicodeDecodeError) -> InvalidPayload:
    return InvalidPayload(f"text is not UTF-8: {error.reason}")


class Assembly:
    """One message on its way in. Its pieces, of any size, are added in order; `finish` gives the whole."""

    __slots__ = ("_binary", "_decoder", "_limit", "_text", "size")

    def __init__(self, opcode: int, limit: int) -> None:
        self._limit = limit
        self.size = 0
        self._binary: list[bytes] = []
        self._text: list[str] = []
        self._decoder = _Utf8Decoder() if opcode == Opcode.TEXT else None

    @property
    def room(self) -> int:
        """How many bytes may still be added."""
        return self._limit - self.size

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            MessageTooBig: the message is over its limit.
            InvalidPayload: the text so far cannot be the beginning of any UTF-8 text.
        """
        if not piece:
            return
        self.size += len(piece)
        if self.size > self._limit:
            raise too_big(self._limit)
        if self._decoder is None:
            self._binary.append(piece)
            return
        try:
            self._text.append(self._decoder.decode(piece))
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error

    def finish(self) -> str | bytes:
        """The whole message. Raises `InvalidPayload` if text ends inside a character."""
        if self._decoder is None:
            return self._binary[0] if len(self._binary) == 1 else b"".join(self._binary)
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error
        return "".join(self._text)
