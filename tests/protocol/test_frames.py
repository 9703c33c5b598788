"""The layout of a frame, RFC 6455 section 5.2: headers octet by octet, and frames that are built."""

from __future__ import annotations

import struct

import pytest
from protocol.endpoints import seen
from rawclient import MASK, frame

from geventws.exceptions import ProtocolError
from geventws.protocol.frames import build_frame, parse_header

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 100_000]

# Section 5.7. The first octet, the payload, the masking key, the whole frame as it is printed there.
EXAMPLES = [
    ("a text", 0x81, b"Hello", None, "81 05 48 65 6c 6c 6f"),
    ("a masked text", 0x81, b"Hello", "37 fa 21 3d", "81 85 37 fa 21 3d 7f 9f 4d 51 58"),
    ("the first fragment of a text", 0x01, b"Hel", None, "01 03 48 65 6c"),
    ("the last fragment of a text", 0x80, b"lo", None, "80 02 6c 6f"),
    ("a ping", 0x89, b"Hello", None, "89 05 48 65 6c 6c 6f"),
    ("a masked pong", 0x8A, b"Hello", "37 fa 21 3d", "8a 85 37 fa 21 3d 7f 9f 4d 51 58"),
    ("256 octets", 0x82, bytes(256), None, "82 7e 01 00" + " 00" * 256),
    ("64 KiB", 0x82, bytes(65536), None, "82 7f 00 00 00 00 00 01 00 00" + " 00" * 65536),
]
EXAMPLE_NAMES = [example[0] for example in EXAMPLES]


def header_allowed(first: int) -> bool:
    """Section 5.2 and 5.5 for the first octet, as long as nobody knows what was negotiated."""
    opcode = first & 0x0F
    if opcode not in OPCODES or first & 0x30:
        return False
    return opcode < 8 or first & 0xF0 == 0x80


def head(first: int, length: int, width: int, *, masked: bool = True) -> bytes:
    """A header with the length in the form of `width` octets, whether that is right or not; and a key, all zero."""
    bit = 0x80 if masked else 0
    code = {1: length, 2: 126, 8: 127}[width]
    extended = b"" if width == 1 else length.to_bytes(width, "big")
    return bytes((first, bit | code)) + extended + (bytes(4) if masked else b"")


# Reading.


def test_of_all_first_octets_only_the_allowed_ones_are_read() -> None:
    for first in range(256):
        if header_allowed(first):
            assert parse_header(bytes((first, 0)), 0, masked=False) == (first, 0, 2, None)
        else:
            with pytest.raises(ProtocolError):
                parse_header(bytes((first, 0)), 0, masked=False)


def test_a_wrong_first_octet_is_refused_before_anything_follows_it() -> None:
    for first in range(256):
        if not header_allowed(first):
            with pytest.raises(ProtocolError):
                parse_header(bytes((first,)), 0, masked=True)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (0xA1, "reserved bit"),
        (0x91, "reserved bit"),
        (0x83, "opcode 0x3 is reserved"),
        (0x8F, "opcode 0xf is reserved"),
        (0x09, "fragmented"),
        (0xC8, "RSV1"),
    ],
)
def test_the_error_says_what_is_wrong_with_the_first_octet(first: int, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        parse_header(bytes((first,)), 0, masked=True)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127])
def test_a_frame_that_is_masked_or_not_and_must_be_otherwise_is_refused_at_its_second_octet(length: int) -> None:
    with pytest.raises(ProtocolError, match="a frame from a client is not masked"):
        parse_header(bytes((0x81, length)), 0, masked=True)
    with pytest.raises(ProtocolError, match="a frame from a server is masked"):
        parse_header(bytes((0x81, 0x80 | length)), 0, masked=False)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [126, 127])
def test_a_control_frame_over_125_octets_is_refused_at_its_second_octet(opcode: int, length: int) -> None:
    with pytest.raises(ProtocolError, match="longer than 125"):
        parse_header(bytes((0x80 | opcode, 0x80 | length)), 0, masked=True)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_of_125_octets_is_read(opcode: int) -> None:
    assert parse_header(bytes((0x80 | opcode, 125)), 0, masked=False) == (0x80 | opcode, 125, 2, None)


@pytest.mark.parametrize(
    ("length", "width"),
    [(0, 2), (1, 2), (124, 2), (125, 2), (0, 8), (125, 8), (126, 8), (256, 8), (65534, 8), (65535, 8)],
)
@pytest.mark.parametrize("masked", [True, False])
def test_a_length_that_is_not_in_its_shortest_form_is_refused(length: int, width: int, masked: bool) -> None:
    with pytest.raises(ProtocolError, match="shortest form"):
        parse_header(head(0x82, length, width, masked=masked), 0, masked)


@pytest.mark.parametrize("length", [2**63, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("masked", [True, False])
def test_a_64_bit_length_with_its_top_bit_set_is_refused(length: int, masked: bool) -> None:
    with pytest.raises(ProtocolError, match="most significant bit"):
        parse_header(head(0x82, length, 8, masked=masked), 0, masked)


@pytest.mark.parametrize("length", [65536, 2**32 - 1, 2**32, 2**63 - 1])
def test_every_other_64_bit_length_is_read(length: int) -> None:
    assert parse_header(head(0x82, length, 8), 0, masked=True) == (0x82, length, 14, bytes(4))


@pytest.mark.parametrize(
    ("what", "so_far"),
    [
        ("the top bit", b"\x82\xff\x80"),
        ("zeros that leave no more than 16 bits", b"\x82\xff\x00\x00\x00\x00\x00\x00"),
        ("everything but the key", b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff"),
        ("a 16-bit length but no key", b"\x82\xfe\x00\x7d"),
    ],
)
def test_a_wrong_length_is_refused_as_soon_as_its_octets_show_it(what: str, so_far: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_header(so_far, 0, masked=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [True, False])
def test_a_header_is_read_as_soon_as_it_is_whole_and_not_before(size: int, masked: bool) -> None:
    data = frame(BINARY, bytes(size), mask=MASK if masked else None)
    start = len(data) - size
    for available in range(start):
        assert parse_header(data[:available], 0, masked) is None
    assert parse_header(data[:start], 0, masked) == (0x82, size, start, MASK if masked else None)


@pytest.mark.parametrize("offset", [0, 1, 7, 200])
@pytest.mark.parametrize("size", [0, 125, 126, 65536])
def test_a_header_is_read_where_it_begins(offset: int, size: int) -> None:
    data = b"\xff" * offset + frame(BINARY, bytes(size)) + b"\xff" * 9
    assert parse_header(data, offset, masked=True) == (0x82, size, len(data) - 9 - size, MASK)
    assert parse_header(data, len(data), masked=True) is None


@pytest.mark.parametrize(("name", "first", "payload", "key", "printed"), EXAMPLES, ids=EXAMPLE_NAMES)
def test_the_examples_of_section_5_7_are_read(
    name: str, first: int, payload: bytes, key: str | None, printed: str
) -> None:
    data = bytes.fromhex(printed)
    expected = None if key is None else bytes.fromhex(key)
    assert parse_header(data, 0, key is not None) == (first, len(payload), len(data) - len(payload), expected)


# Building.


@pytest.mark.parametrize(("name", "first", "payload", "key", "printed"), EXAMPLES, ids=EXAMPLE_NAMES)
def test_the_examples_of_section_5_7_are_built(
    name: str, first: int, payload: bytes, key: str | None, printed: str
) -> None:
    assert build_frame(first, payload, None if key is None else bytes.fromhex(key)) == bytes.fromhex(printed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [None, MASK], ids=["plain", "masked"])
def test_a_length_is_built_in_its_shortest_form(size: int, key: bytes | None) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    (built,) = seen(build_frame(0x82, payload[:size], key))
    assert built == (0x82, payload[:size], key)


@pytest.mark.parametrize("key", [None, MASK], ids=["plain", "masked"])
def test_every_first_octet_is_built_as_it_is_given(key: bytes | None) -> None:
    for first in range(256):
        for size in (0, 3, 125, 126, 65536):
            assert build_frame(first, bytes(size), key)[:1] == bytes((first,))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [None, MASK], ids=["plain", "masked"])
def test_what_is_built_is_read_again(size: int, key: bytes | None) -> None:
    built = build_frame(0x81, b"x" * size, key)
    assert parse_header(built, 0, key is not None) == (0x81, size, len(built) - size, key)


def test_lengths_are_written_with_the_most_significant_octet_first() -> None:
    assert build_frame(0x82, bytes(0x0102))[:4] == struct.pack("!BBH", 0x82, 126, 0x0102)
    assert build_frame(0x82, bytes(0x010203))[:10] == struct.pack("!BBQ", 0x82, 127, 0x010203)
