"""A message from its pieces, RFC 6455 section 5.4: the size bounded, and text refused as early as its octets allow."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from protocol.endpoints import cut, octets
from protocol.utf8 import EDGES, FOLLOWERS, judge, random_texts

from geventws.exceptions import InvalidPayload, MessageTooBig
from geventws.protocol.messages import Assembly, decode_text, too_big

TEXT, BINARY = 1, 2
MANY = 1 << 20


def assembled(opcode: int, *pieces: bytes, limit: int = MANY) -> str | bytes:
    message = Assembly(opcode, limit)
    for piece in pieces:
        message.add(piece)
    return message.finish()


def refused_at(pieces: list[bytes]) -> int | None:
    """Which of the pieces of a text is refused; None if all are taken."""
    message = Assembly(TEXT, MANY)
    for at, piece in enumerate(pieces):
        try:
            message.add(piece)
        except InvalidPayload:
            return at
    return None


def is_whole_text(*pieces: bytes) -> bool:
    try:
        assembled(TEXT, *pieces)
    except InvalidPayload:
        return False
    return True


# The size.


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("pieces", [[11], [10, 1], [0, 0, 11], [1] * 11, [3, 4, 4, 100]])
def test_a_message_one_octet_over_its_limit_is_too_big(opcode: int, pieces: list[int]) -> None:
    with pytest.raises(MessageTooBig, match="longer than 10 bytes"):
        assembled(opcode, *[b"x" * size for size in pieces], limit=10)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("pieces", [[10], [9, 1], [0, 10, 0], [1] * 10])
def test_a_message_of_exactly_its_limit_is_taken(opcode: int, pieces: list[int]) -> None:
    assert len(assembled(opcode, *[b"x" * size for size in pieces], limit=10)) == 10


def test_the_limit_of_a_text_counts_octets_and_not_characters() -> None:
    assert assembled(TEXT, "€".encode() * 3, limit=9) == "€€€"
    with pytest.raises(MessageTooBig):
        assembled(TEXT, "€".encode() * 3, limit=8)


def test_a_piece_that_is_too_big_is_refused_for_its_size_before_it_is_looked_at() -> None:
    with pytest.raises(MessageTooBig):
        assembled(TEXT, b"\xff" * 11, limit=10)


def test_the_error_for_the_size_names_the_limit() -> None:
    assert str(too_big(1024)) == "the message is longer than 1024 bytes"


def test_the_room_shrinks_by_what_is_added() -> None:
    message = Assembly(BINARY, 10)
    rooms = [message.room]
    for piece in (b"abc", b"", b"defghij"):
        message.add(piece)
        rooms.append(message.room)
    assert rooms == [10, 7, 7, 0]


# The whole.


@pytest.mark.parametrize("pieces", [[b""], [], [b"", b"", b""]])
def test_a_message_without_octets_is_empty(pieces: list[bytes]) -> None:
    assert assembled(TEXT, *pieces) == ""
    assert assembled(BINARY, *pieces) == b""


@pytest.mark.parametrize("pieces", [[b"abc"], [b"a", b"bc"], [b"", b"a", b"", b"b", b"c", b""]])
def test_pieces_are_joined_in_their_order(pieces: list[bytes]) -> None:
    assert assembled(TEXT, *pieces) == "abc"
    assert assembled(BINARY, *pieces) == b"abc"


def test_a_text_is_the_same_however_it_is_cut() -> None:
    text = "Wär's aus mit κόσμε, 日本 und 🂡?"
    data = text.encode()
    for points in itertools.combinations(range(len(data) + 1), 2):
        assert assembled(TEXT, *cut(data, points)) == text
    assert assembled(TEXT, *octets(data)) == text


def test_what_is_binary_need_not_be_utf_8() -> None:
    assert assembled(BINARY, b"\xff\xfe", b"\xc0") == b"\xff\xfe\xc0"


def test_a_byte_order_mark_belongs_to_the_text() -> None:
    assert assembled(TEXT, b"\xef\xbb", b"\xbfx") == decode_text(b"\xef\xbb\xbfx") == "\ufeffx"


def seconds_to_assemble(messages: int, pieces: int, opcode: int) -> float:
    start = time.process_time()
    for _ in range(messages):
        assembled(opcode, *[b"8 octets"] * pieces)
    return time.process_time() - start


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_long_message_takes_no_longer_than_short_ones_with_as_many_pieces(opcode: int) -> None:
    """If each piece copies what came before it, it takes a hundred times as long."""
    short = seconds_to_assemble(128, 1024, opcode)
    assert seconds_to_assemble(1, 128 * 1024, opcode) < 4 * short + 0.2


# UTF-8. The judge stands in `utf8`.


def test_the_judge_knows_every_character() -> None:
    for code in itertools.chain(range(0xD800), range(0xE000, 0x11000), range(0x11000, 0x110000, 97), [0x10FFFF]):
        assert judge(chr(code).encode()) == (None, True)


@pytest.mark.parametrize("first", range(256))
def test_two_octets_are_refused_where_they_cannot_begin_a_text(first: int) -> None:
    for second in range(256):
        data = bytes((first, second))
        wrong_at, ends_well = judge(data)
        assert refused_at(octets(data)) == wrong_at
        assert is_whole_text(data) is ends_well


def test_longer_beginnings_are_refused_where_they_stop_being_one() -> None:
    """All that begins with each octet of a longer character, and goes on with the octets that matter."""
    firsts = [first for first in FOLLOWERS if first >= 0xE0]
    for data in map(bytes, itertools.product(firsts, EDGES, EDGES)):
        assert refused_at(octets(data)) == judge(data)[0], data.hex()


@pytest.mark.parametrize("seed", range(10))
def test_random_octets_are_refused_in_the_piece_that_makes_them_wrong(seed: int) -> None:
    choose = random.Random(seed)
    for data in random_texts(600, seed):
        wrong_at, ends_well = judge(data)
        points = sorted(choose.sample(range(len(data) + 1), min(len(data), choose.randrange(4))))
        in_piece = None if wrong_at is None else sum(point <= wrong_at for point in points)
        assert refused_at(list(cut(data, points))) == in_piece, (data.hex(), points)
        assert is_whole_text(*cut(data, points)) is ends_well, (data.hex(), points)


@pytest.mark.parametrize("seed", range(10))
def test_a_text_that_comes_whole_is_judged_as_one_in_pieces(seed: int) -> None:
    for data in random_texts(600, seed):
        if judge(data)[1]:
            assert decode_text(data).encode() == data
        else:
            with pytest.raises(InvalidPayload, match="text is not UTF-8"):
                decode_text(data)


@pytest.mark.parametrize("cut_off", ["c2", "e282", "f09f82"])
def test_a_text_that_ends_inside_a_character_is_refused_at_its_end_and_no_sooner(cut_off: str) -> None:
    message = Assembly(TEXT, MANY)
    message.add(b"fine " + bytes.fromhex(cut_off))
    with pytest.raises(InvalidPayload):
        message.finish()
