"""Plain messages, as nearly all are: whole in one frame, not compressed, masked only by clients. RFC 6455 section 5.2.

From a client's frame to text, and from a message to a server's frame: the way of nearly all that a server gets and sends, so
there is a compiled twin, `plain.pyx`. Whether a message is plain is decided elsewhere.
"""

from __future__ import annotations

from .frames import build_header
from .masking import unmask

__all__ = ["read_text", "server_frame", "text_frame"]

_FINAL_TEXT = 0x81
# The two-octet header of every frame with a short payload, by (first octet, length): built once.
_SHORT = {first: [bytes((first, size)) for size in range(126)] for first in (0x81, 0x82, 0x88, 0x89, 0x8A)}
_SHORT_TEXT = _SHORT[_FINAL_TEXT]

_from_bytes = int.from_bytes


def read_text(data: bytes, start: int, size: int, key_at: int) -> str:
    """The text in `size` octets of `data` from `start` on, masked with the four from `key_at` on.

    Raises UnicodeDecodeError if they are not UTF-8.
    """
    if size > 128:
        return unmask(data, start, size, key_at).decode()
    # As there, without a call for each message.
    repeated = (data[key_at : key_at + 4] * 32)[:size]
    octets = _from_bytes(data[start : start + size], "little") ^ _from_bytes(repeated, "little")
    return octets.to_bytes(size, "little").decode()


def server_frame(first: int, payload: bytes) -> bytes:
    """The frame of `payload`, `first` being its first octet (FIN, reserved bits, opcode)."""
    size = len(payload)
    if size < 126:
        return (_SHORT[first][size] if first in _SHORT else bytes((first, size))) + payload
    return build_header(first, size) + payload


def text_frame(text: str) -> bytes:
    """The frame of a text message. Raises UnicodeEncodeError for a lone surrogate, which UTF-8 does not have."""
    payload = text.encode()
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else server_frame(_FINAL_TEXT, payload)
