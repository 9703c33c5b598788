"""Plain messages: text out of a frame's payload, and a server's frame, at every length where something changes."""

from __future__ import annotations

import random
import struct

import pytest
from rawclient import masked

from geventws.protocol.plain import read_text, server_frame, text_frame

KEY = b"\x37\xfa\x21\x3d"
# Where the header grows, where memory of another kind is used, and around what is read and unmasked at once.
EDGES = [0, 1, 7, 8, 9, 125, 126, 127, 128, 129, 512, 8191, 8192, 65535, 65536, 65537, 100_000]
TEXTS = ["", "x", "Hello", "é", "€" * 41 + "12", "€" * 42, "𝄞" * 31 + "1", "𝄞" * 32, "\x00", "\x7f\x80"]

random_octets = random.Random(6455).randbytes


def header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    return struct.pack("!BBH", first, 126, size) if size < 65536 else struct.pack("!BBQ", first, 127, size)


@pytest.mark.parametrize("size", EDGES)
def test_text_of_every_length_is_read_from_wherever_it_lies(size: int) -> None:
    text = "".join(random.Random(size).choices("abc é€𝄞", k=size))
    octets = text.encode()
    for before in (6, 8, 14):
        data = random_octets(before - 4) + KEY + masked(octets, KEY) + b"\x81\x80behind"
        assert read_text(data, before, len(octets), before - 4) == text


@pytest.mark.parametrize("size", EDGES)
def test_ascii_of_every_length_is_text_like_any_other(size: int) -> None:
    text = "".join(random.Random(size).choices("".join(map(chr, range(128))), k=size))
    read = read_text(KEY + masked(text.encode(), KEY), 4, size, 0)
    assert (read, hash(read), read.isascii(), len(read)) == (text, hash(text), True, size)
    assert {text: "found"}[read] == "found"
    assert read + "é" == text + "é"


@pytest.mark.parametrize("size", range(2, 28))
def test_a_single_character_beyond_ascii_is_seen_wherever_it_is(size: int) -> None:
    for at in range(size - 1):
        octets = b"x" * at + "é".encode() + b"x" * (size - 2 - at)
        assert read_text(KEY + masked(octets, KEY), 4, size, 0) == octets.decode()


NOT_UTF_8 = [b"\x80", b"ab\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"x" * 70_000 + b"\xc3"]


@pytest.mark.parametrize("octets", NOT_UTF_8)
def test_what_is_not_utf_8_is_told_with_its_reason(octets: bytes) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        read_text(KEY + masked(octets, KEY), 4, len(octets), 0)
    with pytest.raises(UnicodeDecodeError) as expected:
        octets.decode()
    assert str(caught.value) == str(expected.value)


def test_text_that_was_read_is_not_changed_by_the_next_one() -> None:
    texts = [read_text(KEY + masked(bytes([octet]) * 300, KEY), 4, 300, 0) for octet in range(97, 123)]
    assert texts == [chr(octet) * 300 for octet in range(97, 123)]


@pytest.mark.parametrize("size", EDGES)
def test_a_frame_is_its_header_and_its_payload(size: int) -> None:
    payload = random_octets(size)
    for first in (0x81, 0x82, 0x01, 0x00, 0xC1, 0xFF):
        assert server_frame(first, payload) == header(first, size) + payload


@pytest.mark.parametrize("first", [-1, 256])
def test_a_first_octet_that_is_none_is_an_error(first: int) -> None:
    for size in EDGES:
        with pytest.raises((ValueError, struct.error)):
            server_frame(first, bytes(size))


@pytest.mark.parametrize("text", [*TEXTS, *("x" * size for size in EDGES), *("é" * size for size in EDGES)], ids=len)
def test_a_text_s_frame_carries_its_utf_8(text: str) -> None:
    assert text_frame(text) == header(0x81, len(text.encode())) + text.encode()


def test_a_lone_surrogate_has_no_frame() -> None:
    with pytest.raises(UnicodeEncodeError):
        text_frame("a\ud800")


def test_a_frame_is_bytes_of_its_own_though_the_same_was_built_before() -> None:
    once, again = text_frame("Hello"), text_frame("Hello")
    assert once == again
    assert once is not again
