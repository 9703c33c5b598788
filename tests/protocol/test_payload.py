"""`Payload`: the octets of a message in one run. Both twins keep to it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from geventws.protocol.masking import apply_mask
from geventws.protocol.payload import Payload, let_go

LARGE = 256 * 1024
KEY = b"\x37\xfa\x21\x3d"


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    while let_go():
        pass


def write(payload: Payload, octets: bytes, key: bytes | None = None, room: int = 0) -> bytes:
    """Write `octets` where the payload says, as a socket would; returns what it gives back of them."""
    target = payload.room(room or len(octets))
    target[: len(octets)] = octets
    target.release()
    return bytes(payload.added(len(octets), key))


def test_what_was_not_written_cannot_be_added() -> None:
    payload = Payload()
    payload.add(b"abc")
    with pytest.raises(ValueError, match="room"):
        payload.added(1_000_000, None)
    assert len(payload) == 3
    assert payload.whole() == b"abc"


def test_nothing_added_is_nothing() -> None:
    assert Payload().whole() == b""
    payload = Payload()
    payload.expect(1000)
    payload.add(b"")
    assert len(payload) == 0
    assert payload.whole() == b""


def test_pieces_stand_in_their_order_however_they_came_in() -> None:
    dice = random.Random(1)
    for _ in range(200):
        payload, expected = Payload(), b""
        if dice.random() < 0.5:
            payload.expect(dice.choice([1, 100, 5000]))
        for _ in range(dice.randrange(8)):
            piece = dice.randbytes(dice.choice([0, 1, 7, 8, 9, 1000]))
            expected += piece
            if dice.random() < 0.5:
                payload.add(piece)
            else:
                assert write(payload, apply_mask(piece, KEY), KEY, len(piece) + dice.randrange(50)) == piece
        assert len(payload) == len(expected)
        assert payload.whole() == expected


def test_what_was_written_is_unmasked_in_its_place() -> None:
    for start in range(9):
        for size in range(40):
            payload, octets = Payload(), bytes(range(size))
            payload.add(b"x" * start)
            assert write(payload, apply_mask(octets, KEY), KEY) == octets
            assert payload.whole() == b"x" * start + octets


def received(octets: bytes) -> bytes:
    payload = Payload()
    payload.expect(len(octets))
    payload.add(octets[:1000])
    write(payload, octets[1000:])
    return payload.whole()


def test_a_message_that_somebody_holds_is_never_written_over() -> None:
    dice = random.Random(2)
    sent = [dice.randbytes(LARGE + dice.choice([0, 0, 1])) for _ in range(30)]
    held: list[bytes] = []
    for octets in sent:
        message = received(octets)
        if dice.random() < 0.5:
            held.append(message)
        assert message == octets
    kept = [octets for octets in sent if octets in held]
    assert kept == held


def test_a_message_hashes_to_what_it_is_also_in_memory_that_was_hashed_before() -> None:
    for fill in b"abcdefghijklmnop":
        octets = bytes([fill]) * LARGE
        message = received(octets)
        assert hash(message) == hash(octets)
        assert {message: 1}[octets] == 1


def test_memory_that_was_of_no_use_is_given_back() -> None:
    received(b"x" * LARGE)
    let_go()
    assert not let_go()
    assert received(b"y" * LARGE) == b"y" * LARGE
