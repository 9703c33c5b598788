"""The judge of UTF-8: RFC 3629 section 4, written down octet by octet and slow. It never asks Python's own decoder."""

from __future__ import annotations

import random

# What may follow a first octet: (first octets, the range of the second octet, how many of 80-BF come after it).
SEQUENCES = [
    (range(0xC2, 0xE0), (0x80, 0xBF), 0),
    (range(0xE0, 0xE1), (0xA0, 0xBF), 1),
    (range(0xE1, 0xED), (0x80, 0xBF), 1),
    (range(0xED, 0xEE), (0x80, 0x9F), 1),
    (range(0xEE, 0xF0), (0x80, 0xBF), 1),
    (range(0xF0, 0xF1), (0x90, 0xBF), 2),
    (range(0xF1, 0xF4), (0x80, 0xBF), 2),
    (range(0xF4, 0xF5), (0x80, 0x8F), 2),
]
FOLLOWERS = {first: [second] + [(0x80, 0xBF)] * more for firsts, second, more in SEQUENCES for first in firsts} | {
    first: [] for first in range(0x80)
}


def judge(data: bytes) -> tuple[int | None, bool]:
    """Where `data` stops being the beginning of any UTF-8 text (None: nowhere), and whether it may end where it ends."""
    expected: list[tuple[int, int]] = []
    for at, octet in enumerate(data):
        if expected:
            low, high = expected.pop(0)
            if not low <= octet <= high:
                return at, False
        elif octet in FOLLOWERS:
            expected = list(FOLLOWERS[octet])
        else:
            return at, False
    return None, not expected


# Octets at which something changes, and enough plain ones that a text lives for a while.
EDGES = bytes.fromhex("00417f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5f7f8fbfdfeff")
CHARACTERS = [
    chr(code).encode() for code in (0x24, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)
]


def random_texts(count: int, seed: int) -> list[bytes]:
    """Octets that are nearly UTF-8: characters, and now and then one octet of those that matter, or one cut off."""
    choose = random.Random(seed)
    return [_random_text(choose) for _ in range(count)]


def _random_text(choose: random.Random) -> bytes:
    text = b""
    for _ in range(choose.randrange(8)):
        kind = choose.random()
        character = choose.choice(CHARACTERS)
        if kind < 0.7:
            text += character
        elif kind < 0.85:
            text += bytes((choose.choice(EDGES),))
        else:
            text += character[: choose.randrange(len(character))] if choose.random() < 0.5 else character[1:]
    return text
