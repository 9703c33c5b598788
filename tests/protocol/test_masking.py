"""Masking, with the loop of RFC 6455 section 5.3, octet by octet, as the judge."""

from __future__ import annotations

import random

import pytest
from rawclient import masked

from geventws.protocol.masking import apply_mask

KEYS = [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04", b"\x80\x00\x7f\xfe", b"\x37\xfa\x21\x3d"]
# Where lengths change their form, and where another way of masking may become the faster one.
THRESHOLDS = [126, *(1 << power for power in range(7, 17))]
SIZES = [*range(71), *sorted({limit + step for limit in THRESHOLDS for step in range(-5, 6)})]

random_octets = random.Random(6455).randbytes


def turned(key: bytes, by: int) -> bytes:
    return key[by % 4 :] + key[: by % 4]


def test_the_example_of_section_5_7_is_masked_as_shown_there() -> None:
    assert apply_mask(b"Hello", b"\x37\xfa\x21\x3d") == b"\x7f\x9f\x4d\x51\x58"


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_masked_as_the_plain_loop_does(size: int) -> None:
    data = random_octets(size)
    for key in [*KEYS, random_octets(4)]:
        assert apply_mask(data, key) == masked(data, key)


@pytest.mark.parametrize("size", SIZES)
def test_masking_twice_gives_the_data_back(size: int) -> None:
    data, key = random_octets(size), random_octets(4)
    assert apply_mask(apply_mask(data, key), key) == data


@pytest.mark.parametrize("edge", [b"\x00", b"\xff"])
def test_octets_at_both_ends_that_mask_to_zero_are_kept(edge: bytes) -> None:
    for size in SIZES:
        assert apply_mask(edge * size, edge * 4) == bytes(size)


@pytest.mark.parametrize("alignment", range(4))
@pytest.mark.parametrize("size", [*range(20), *range(8189, 8196), 65536])
def test_what_begins_anywhere_in_a_payload_is_masked_with_the_key_turned_there(alignment: int, size: int) -> None:
    data, key = random_octets(alignment + size), random_octets(4)
    assert apply_mask(data[alignment:], turned(key, alignment)) == masked(data, key)[alignment:]


def test_the_result_is_bytes_of_its_own() -> None:
    for size in SIZES:
        data = random_octets(size)
        assert type(apply_mask(data, b"\x00\x00\x00\x00")) is bytes
