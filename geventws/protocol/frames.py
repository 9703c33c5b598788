"""The layout of a frame, RFC 6455 section 5.2. A header is read from (buffer, offset), a frame is built from its payload.

What a frame means in its place (fragmentation, closing, compression) is not decided here.
"""

from __future__ import annotations

from struct import Struct

from ..exceptions import ProtocolError
from .masking import apply_mask

__all__ = [
    "FIN",
    "MASKED",
    "MAX_CONTROL_PAYLOAD",
    "MAX_HEADER",
    "RSV1",
    "RSV2_RSV3",
    "build_frame",
    "build_header",
    "parse_header",
]

# Under private names they are C's numbers where this is compiled.
FIN = _FIN = 0x80
RSV1 = _RSV1 = 0x40
RSV2_RSV3 = _RSV2_RSV3 = 0x30
MASKED = _MASKED = 0x80

MAX_HEADER = 14
# 5.5: "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
MAX_CONTROL_PAYLOAD = _MAX_CONTROL_PAYLOAD = 125

_uint16 = Struct("!H")
_uint64 = Struct("!Q")
_head16 = Struct("!BBH").pack
_head64 = Struct("!BBQ").pack


def parse_header(data: bytes, offset: int, masked: bool) -> tuple[int, int, int, bytes | None] | None:
    """Read the header that starts at `offset`.

    Returns (first octet, payload length, offset of the payload, masking key), or None when more bytes are needed. As much
    as is there is checked, so that a wrong frame is refused as early as can be.

    Raises:
        ProtocolError: a reserved bit or opcode, a control frame that is too long or fragmented, a length that is not
            in its shortest form, a frame that is masked and must not be, or the other way round.
    """
    available = len(data) - offset
    if available < 1:
        return None
    first = data[offset]
    if first & _RSV2_RSV3:
        raise ProtocolError("a reserved bit (RSV2 or RSV3) is set and no extension defines it")
    opcode = first & 0x0F
    if opcode & 0x07 > 2:  # 3 to 7 and 11 to 15
        raise ProtocolError(f"opcode {opcode:#x} is reserved")
    if opcode >= 8 and not first & _FIN:
        raise ProtocolError("a control frame is fragmented")
    if opcode >= 8 and first & _RSV1:
        raise ProtocolError("a control frame is compressed (RSV1 is set)")
    if available < 2:
        return None
    second = data[offset + 1]
    # 5.1: a server MUST close the connection upon receiving a frame that is not masked; a client, one that is.
    if bool(second & _MASKED) != masked:
        raise ProtocolError("a frame from a client is not masked" if masked else "a frame from a server is masked")
    size = second & 0x7F
    start = offset + 2
    if size > _MAX_CONTROL_PAYLOAD:
        if opcode >= 8:
            raise ProtocolError("the payload of a control frame is longer than 125 bytes")
        width = 2 if size == 126 else 8
        if available < 2 + width:
            _check_length_so_far(data[start : start + width], width)
            return None
        # 5.2: "the minimal number of bytes MUST be used to encode the length"
        if width == 2:
            size = _uint16.unpack_from(data, start)[0]
            if size < 126:
                raise ProtocolError("a payload length is not in its shortest form")
        else:
            size = _uint64.unpack_from(data, start)[0]
            if size < 65536:
                raise ProtocolError("a payload length is not in its shortest form")
            if size >> 63:
                raise ProtocolError("the most significant bit of a 64-bit payload length is set")
        start += width
    if not masked:
        return first, size, start, None
    if available < start - offset + 4:
        return None
    return first, size, start + 4, data[start : start + 4]


def _check_length_so_far(octets: bytes, width: int) -> None:
    """What is already wrong about the first octets of a 64-bit length is said without waiting for the rest."""
    if width == 8 and octets and octets[0] & 0x80:
        raise ProtocolError("the most significant bit of a 64-bit payload length is set")
    if width == 8 and len(octets) >= 6 and not any(octets[:6]):
        raise ProtocolError("a payload length is not in its shortest form")


def build_frame(first: int, payload: bytes, key: bytes | None = None) -> bytes:
    """The frame of `payload`, `first` being its first octet (FIN, reserved bits, opcode); masked if `key` is given."""
    if key is None:
        return build_header(first, len(payload)) + payload
    return build_header(first, len(payload), MASKED) + key + apply_mask(payload, key)


def build_header(first: int, size: int, masked: int = 0) -> bytes:
    """The header of a frame with a payload of `size`, up to the masking key that follows if `masked` is MASKED."""
    if size < 126:
        return bytes((first, masked | size))
    if size < 65536:
        return _head16(first, masked | 126, size)
    return _head64(first, masked | 127, size)
