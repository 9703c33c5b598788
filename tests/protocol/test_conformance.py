"""The cases of Autobahn|Testsuite's groups 1 to 7 and 10, without the suite: the same octets, on the protocol alone.

A server's endpoint that echoes every message plays the tested side. Group 9 is about speed, 12 and 13 are about negotiated
compression: those are the suite's own business, and `test_connection`'s.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from protocol.endpoints import cut, octets, sent_by, server
from protocol.utf8 import judge, random_texts
from rawclient import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame

from geventws.protocol import Connection

CONTINUATION = 0

Said = list[tuple[int, bytes]]
"""Frames as (opcode, payload)."""


class Echo:
    """An endpoint that returns every message, with its type, as soon as it is complete."""

    def __init__(self) -> None:
        self.connection: Connection = server(max_message_size=1 << 24)
        self.said: Said = []

    def hear(self, *chunks: bytes) -> Echo:
        """Give it `chunks`, all of them, and keep what it says."""
        connection = self.connection
        for chunk in chunks:
            connection.receive_data(chunk)
            for event in iter(connection.next_event, None):
                if isinstance(event, str):
                    connection.send_message(event.encode(), TEXT)
                elif isinstance(event, bytes):
                    connection.send_message(event, BINARY)
            self.said += sent_by(connection)
        return self


def closing(code: int | None) -> tuple[int, bytes]:
    """A Close frame as it is said."""
    return CLOSE, b"" if code is None else struct.pack("!H", code)


# The endings.


@dataclass(frozen=True)
class Clean:
    """The fuzzer closes with 1000 when it has what it expects."""

    def judge(self, echo: Echo, expected: Said) -> None:
        assert echo.said == expected
        assert not echo.connection.over
        echo.hear(close_frame(1000))
        assert echo.said == [*expected, closing(1000)]
        assert echo.connection.over
        assert echo.connection.failure is None


@dataclass(frozen=True)
class Fail:
    """The tested side ends the connection, with this code, and says nothing more."""

    code: int

    def judge(self, echo: Echo, expected: Said) -> None:
        assert [(opcode, payload[:2] if opcode == CLOSE else payload) for opcode, payload in echo.said] == [
            *expected,
            closing(self.code),
        ]
        assert echo.connection.over
        assert echo.connection.failure is not None


@dataclass(frozen=True)
class Reply:
    """The fuzzer has closed; the tested side answers with one of these codes, and says nothing more."""

    codes: tuple[int | None, ...]

    def judge(self, echo: Echo, expected: Said) -> None:
        *before, (opcode, payload) = echo.said
        assert before == expected
        assert opcode == CLOSE
        assert (struct.unpack("!H", payload[:2])[0] if payload else None) in self.codes
        assert echo.connection.over


@dataclass(frozen=True)
class Whatever:
    """The suite takes anything. Here it has to end, with one Close frame and nothing behind it."""

    def judge(self, echo: Echo, expected: Said) -> None:
        assert [opcode for opcode, _ in echo.said].index(CLOSE) == len(echo.said) - 1
        assert echo.connection.over


CLEAN, WHATEVER = Clean(), Whatever()
PROTOCOL_ERROR, INVALID_PAYLOAD = Fail(1002), Fail(1007)
NORMAL = Reply((1000,))
Ending = Clean | Fail | Reply | Whatever


@dataclass(frozen=True)
class Case:
    """The frames that the fuzzer sends, what it expects to hear, and how that ends."""

    sent: list[bytes]
    expected: Said
    ending: Ending


def text(payload: str | bytes, fin: bool = True, rsv: int = 0) -> bytes:
    return frame(TEXT, payload, fin=fin, rsv=rsv)


def more(payload: str | bytes, fin: bool = True) -> bytes:
    return frame(CONTINUATION, payload, fin=fin)


def fragments(opcode: int, payload: bytes, size: int) -> list[bytes]:
    """A message in fragments of `size` octets."""
    pieces = list(cut(payload, range(size, len(payload), size)))
    last = len(pieces) - 1
    return [frame(CONTINUATION if at else opcode, piece, fin=at == last) for at, piece in enumerate(pieces)]


# 1 Framing, 2 pings and pongs, 3 reserved bits, 4 reserved opcodes, 5 fragmentation.

LENGTHS = (0, 125, 126, 127, 128, 65535, 65536, 65536)
NO_UTF_8 = bytes.fromhex("00fffefdfcfb00ff")
PINGS = [b"payload-%d" % number for number in range(10)]
HELLO = (TEXT, b"Hello, world!")

FRAMING = {
    f"1.{kind}.{number}": Case([frame(opcode, octet * size)], [(opcode, octet * size)], CLEAN)
    for kind, opcode, octet in ((1, TEXT, b"*"), (2, BINARY, b"\xfe"))
    for number, size in enumerate(LENGTHS, 1)
}

PING_PONG = {
    "2.1": Case([frame(PING)], [(PONG, b"")], CLEAN),
    "2.2": Case([frame(PING, "Hello, world!")], [(PONG, b"Hello, world!")], CLEAN),
    "2.3": Case([frame(PING, NO_UTF_8)], [(PONG, NO_UTF_8)], CLEAN),
    "2.4": Case([frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)], CLEAN),
    "2.5": Case([frame(PING, b"\xfe" * 126)], [], PROTOCOL_ERROR),
    "2.6": Case([frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)], CLEAN),
    "2.7": Case([frame(PONG)], [], CLEAN),
    "2.8": Case([frame(PONG, "unsolicited")], [], CLEAN),
    "2.9": Case([frame(PONG, "unsolicited"), frame(PING, "ping")], [(PONG, b"ping")], CLEAN),
    "2.10": Case([frame(PING, payload) for payload in PINGS], [(PONG, payload) for payload in PINGS], CLEAN),
    "2.11": Case([frame(PING, payload) for payload in PINGS], [(PONG, payload) for payload in PINGS], CLEAN),
}


def after_a_text(wrong: bytes) -> Case:
    """A text that is echoed, a frame that fails the connection, a ping that is not answered."""
    return Case([text("Hello, world!"), wrong, frame(PING)], [HELLO], PROTOCOL_ERROR)


RESERVED_BITS = {
    "3.1": Case([text("Hello, world!", rsv=1)], [], PROTOCOL_ERROR),
    "3.2": after_a_text(text("Hello, world!", rsv=2)),
    "3.3": after_a_text(text("Hello, world!", rsv=3)),
    "3.4": after_a_text(text("Hello, world!", rsv=4)),
    "3.5": Case([frame(BINARY, NO_UTF_8, rsv=5)], [], PROTOCOL_ERROR),
    "3.6": Case([frame(BINARY, "Hello, world!", rsv=6)], [], PROTOCOL_ERROR),
    "3.7": Case([frame(CLOSE, rsv=7)], [], PROTOCOL_ERROR),
}

RESERVED_OPCODES = {
    "4.1.1": Case([frame(3)], [], PROTOCOL_ERROR),
    "4.1.2": Case([frame(4, "payload")], [], PROTOCOL_ERROR),
    "4.1.3": after_a_text(frame(5)),
    "4.1.4": after_a_text(frame(6, "payload")),
    "4.1.5": after_a_text(frame(7, "payload")),
    "4.2.1": Case([frame(11)], [], PROTOCOL_ERROR),
    "4.2.2": Case([frame(12, "payload")], [], PROTOCOL_ERROR),
    "4.2.3": after_a_text(frame(13)),
    "4.2.4": after_a_text(frame(14, "payload")),
    "4.2.5": after_a_text(frame(15, "payload")),
}

IN_TWO = Case([text("one ", fin=False), more("two")], [(TEXT, b"one two")], CLEAN)
IN_TWO_WITH_PING = Case(
    [text("one ", fin=False), frame(PING, "ping"), more("two")], [(PONG, b"ping"), (TEXT, b"one two")], CLEAN
)
NOTHING_TO_END = Case([more("nothing"), text("Hello, world!")], [], PROTOCOL_ERROR)
NOTHING_TO_CONTINUE = Case([more("nothing", fin=False), text("Hello, world!")], [], PROTOCOL_ERROR)
IN_FIVE = Case(
    [
        text("1", fin=False),
        more("2", fin=False),
        frame(PING, "ping 1"),
        more("3", fin=False),
        more("4", fin=False),
        frame(PING, "ping 2"),
        more("5"),
    ],
    [(PONG, b"ping 1"), (PONG, b"ping 2"), (TEXT, b"12345")],
    CLEAN,
)

FRAGMENTATION = {
    "5.1": Case([frame(PING, "one ", fin=False), more("two")], [], PROTOCOL_ERROR),
    "5.2": Case([frame(PONG, "one ", fin=False), more("two")], [], PROTOCOL_ERROR),
    **dict.fromkeys(("5.3", "5.4", "5.5"), IN_TWO),
    **dict.fromkeys(("5.6", "5.7", "5.8"), IN_TWO_WITH_PING),
    **dict.fromkeys(("5.9", "5.10", "5.11"), NOTHING_TO_END),
    **dict.fromkeys(("5.12", "5.13", "5.14"), NOTHING_TO_CONTINUE),
    "5.15": Case([*IN_TWO.sent, more("nothing", fin=False), text("never")], IN_TWO.expected, PROTOCOL_ERROR),
    "5.16": Case([more("nothing", fin=False), *IN_TWO.sent] * 2, [], PROTOCOL_ERROR),
    "5.17": Case([more("nothing"), *IN_TWO.sent] * 2, [], PROTOCOL_ERROR),
    "5.18": Case([text("one ", fin=False), text("two")], [], PROTOCOL_ERROR),
    "5.19": IN_FIVE,
    "5.20": IN_FIVE,
}

# 6 UTF-8. First how it may be cut, then one frame each.

TWO_OCTETS = "Hällö, wörld! ÄÖÜß".encode()
GREEK = bytes.fromhex("cebae1bdb9cf83cebcceb5")
SURROGATE = GREEK + bytes.fromhex("eda080") + bytes.fromhex("656469746564")
# Above U+10FFFF. The octet 90 behind f4 is the first that no text has there.
TOO_HIGH = GREEK + bytes.fromhex("f4908080") + bytes.fromhex("656469746564")
PARTS_OF_6_4_1 = list(cut(TOO_HIGH, [11, 15]))
PARTS_OF_6_4_2 = list(cut(TOO_HIGH, [12, 13]))

UTF_8_FRAGMENTS = {
    "6.1.1": Case([text("")], [(TEXT, b"")], CLEAN),
    "6.1.2": Case([text("", fin=False), more("", fin=False), more("")], [(TEXT, b"")], CLEAN),
    "6.1.3": Case([text("", fin=False), more("middle", fin=False), more("")], [(TEXT, b"middle")], CLEAN),
    "6.2.1": Case([text(TWO_OCTETS)], [(TEXT, TWO_OCTETS)], CLEAN),
    "6.2.2": Case([text(TWO_OCTETS[:9], fin=False), more(TWO_OCTETS[9:])], [(TEXT, TWO_OCTETS)], CLEAN),
    "6.2.3": Case(fragments(TEXT, TWO_OCTETS, 1), [(TEXT, TWO_OCTETS)], CLEAN),
    "6.2.4": Case(fragments(TEXT, GREEK, 1), [(TEXT, GREEK)], CLEAN),
    "6.3.1": Case([text(SURROGATE)], [], INVALID_PAYLOAD),
    "6.3.2": Case(fragments(TEXT, SURROGATE, 1), [], INVALID_PAYLOAD),
    "6.4.1": Case(
        [text(PARTS_OF_6_4_1[0], fin=False), more(PARTS_OF_6_4_1[1], fin=False), more(PARTS_OF_6_4_1[2])],
        [],
        INVALID_PAYLOAD,
    ),
    "6.4.2": Case(
        [text(PARTS_OF_6_4_2[0], fin=False), more(PARTS_OF_6_4_2[1], fin=False), more(PARTS_OF_6_4_2[2])],
        [],
        INVALID_PAYLOAD,
    ),
    "6.4.3": Case([text(TOO_HIGH)], [], INVALID_PAYLOAD),
    "6.4.4": Case([text(TOO_HIGH)], [], INVALID_PAYLOAD),
}

UTF_8_PAYLOADS = """
# 6.5: well-formed text of 1- to 4-octet characters
6.5.1 valid 68656c6c6f24776f726c64
6.5.2 valid 68656c6c6fc2a2776f726c64
6.5.3 valid 68656c6c6fe282ac776f726c64
6.5.4 valid 68656c6c6ff0a4ada2776f726c64
6.5.5 valid cebae1bdb9cf83cebcceb5
# 6.6: every prefix of the 11-octet Greek text: valid only where it ends between characters
6.6.1 INVALID ce
6.6.2 valid ceba
6.6.3 INVALID cebae1
6.6.4 INVALID cebae1bd
6.6.5 valid cebae1bdb9
6.6.6 INVALID cebae1bdb9cf
6.6.7 valid cebae1bdb9cf83
6.6.8 INVALID cebae1bdb9cf83ce
6.6.9 valid cebae1bdb9cf83cebc
6.6.10 INVALID cebae1bdb9cf83cebcce
6.6.11 valid cebae1bdb9cf83cebcceb5
# 6.7: the smallest code point of each encoded length 1-4
6.7.1 valid 00
6.7.2 valid c280
6.7.3 valid e0a080
6.7.4 valid f0908080
# 6.8: 5- and 6-octet forms are not UTF-8
6.8.1 INVALID f888808080
6.8.2 INVALID fc8480808080
# 6.9: the largest code point of each encoded length 1-4 (4: U+10FFFF)
6.9.1 valid 7f
6.9.2 valid dfbf
6.9.3 valid efbfbf
6.9.4 valid f48fbfbf
# 6.10: 4-octet form above U+10FFFF, 5- and 6-octet forms
6.10.1 INVALID f7bfbfbf
6.10.2 INVALID fbbfbfbfbf
6.10.3 INVALID fdbfbfbfbfbf
# 6.11: borders: last before and first after the surrogates, U+FFFD, U+10FFFF, and U+110000 (invalid)
6.11.1 valid ed9fbf
6.11.2 valid ee8080
6.11.3 valid efbfbd
6.11.4 valid f48fbfbf
6.11.5 INVALID f4908080
# 6.12: continuation octets with no start octet
6.12.1 INVALID 80
6.12.2 INVALID bf
6.12.3 INVALID 80bf
6.12.4 INVALID 80bf80
6.12.5 INVALID 80bf80bf
6.12.6 INVALID 80bf80bf80
6.12.7 INVALID 80bf80bf80bf
6.12.8 INVALID 808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaea\
fb0b1b2b3b4b5b6b7b8b9babbbcbdbe
# 6.13: start octets each followed by a space
6.13.1 INVALID c020c120c220c320c420c520c620c720c820c920ca20cb20cc20cd20ce20cf20d020d120d220d320d420d520d620d72\
0d820d920da20db20dc20dd20de20
6.13.2 INVALID e020e120e220e320e420e520e620e720e820e920ea20eb20ec20ed20ee20
6.13.3 INVALID f020f120f220f320f420f520f620
6.13.4 INVALID f820f920fa20
6.13.5 INVALID fc20
# 6.14: last continuation octet missing
6.14.1 INVALID c0
6.14.2 INVALID e080
6.14.3 INVALID f08080
6.14.4 INVALID f8808080
6.14.5 INVALID fc80808080
6.14.6 INVALID df
6.14.7 INVALID efbf
6.14.8 INVALID f7bfbf
6.14.9 INVALID fbbfbfbf
6.14.10 INVALID fdbfbfbfbf
# 6.15: the ten truncated sequences of 6.14 joined
6.15.1 INVALID c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf
# 6.16: octets fe and ff never occur
6.16.1 INVALID fe
6.16.2 INVALID ff
6.16.3 INVALID fefeffff
# 6.17: overlong forms of '/'
6.17.1 INVALID c0af
6.17.2 INVALID e080af
6.17.3 INVALID f08080af
6.17.4 INVALID f8808080af
6.17.5 INVALID fc80808080af
# 6.18: the largest overlong forms
6.18.1 INVALID c1bf
6.18.2 INVALID e09fbf
6.18.3 INVALID f08fbfbf
6.18.4 INVALID f887bfbfbf
6.18.5 INVALID fc83bfbfbfbf
# 6.19: overlong forms of NUL
6.19.1 INVALID c080
6.19.2 INVALID e08080
6.19.3 INVALID f0808080
6.19.4 INVALID f880808080
6.19.5 INVALID fc8080808080
# 6.20: single surrogates
6.20.1 INVALID eda080
6.20.2 INVALID edadbf
6.20.3 INVALID edae80
6.20.4 INVALID edafbf
6.20.5 INVALID edb080
6.20.6 INVALID edbe80
6.20.7 INVALID edbfbf
# 6.21: surrogate pairs encoded as two 3-octet characters (CESU-8)
6.21.1 INVALID eda080edb080
6.21.2 INVALID eda080edbfbf
6.21.3 INVALID edadbfedb080
6.21.4 INVALID edadbfedbfbf
6.21.5 INVALID edae80edb080
6.21.6 INVALID edae80edbfbf
6.21.7 INVALID edafbfedb080
6.21.8 INVALID edafbfedbfbf
# 6.22: non-characters (U+nFFFE, U+nFFFF): valid in UTF-8
6.22.1 valid efbfbe
6.22.2 valid efbfbf
6.22.3 valid f09fbfbe
6.22.4 valid f09fbfbf
6.22.5 valid f0afbfbe
6.22.6 valid f0afbfbf
6.22.7 valid f0bfbfbe
6.22.8 valid f0bfbfbf
6.22.9 valid f18fbfbe
6.22.10 valid f18fbfbf
6.22.11 valid f19fbfbe
6.22.12 valid f19fbfbf
6.22.13 valid f1afbfbe
6.22.14 valid f1afbfbf
6.22.15 valid f1bfbfbe
6.22.16 valid f1bfbfbf
6.22.17 valid f28fbfbe
6.22.18 valid f28fbfbf
6.22.19 valid f29fbfbe
6.22.20 valid f29fbfbf
6.22.21 valid f2afbfbe
6.22.22 valid f2afbfbf
6.22.23 valid f2bfbfbe
6.22.24 valid f2bfbfbf
6.22.25 valid f38fbfbe
6.22.26 valid f38fbfbf
6.22.27 valid f39fbfbe
6.22.28 valid f39fbfbf
6.22.29 valid f3afbfbe
6.22.30 valid f3afbfbf
6.22.31 valid f3bfbfbe
6.22.32 valid f3bfbfbf
6.22.33 valid f48fbfbe
6.22.34 valid f48fbfbf
# 6.23: U+FFF9-U+FFFF, among them the replacement character: valid
6.23.1 valid efbfb9
6.23.2 valid efbfba
6.23.3 valid efbfbb
6.23.4 valid efbfbc
6.23.5 valid efbfbd
6.23.6 valid efbfbe
6.23.7 valid efbfbf
"""
PAYLOADS = [tuple(line.split()) for line in UTF_8_PAYLOADS.splitlines() if line and not line.startswith("#")]


def utf_8_case(payload: bytes, valid: bool) -> Case:
    return Case([text(payload)], [(TEXT, payload)], CLEAN) if valid else Case([text(payload)], [], INVALID_PAYLOAD)


UTF_8 = {number: utf_8_case(bytes.fromhex(payload), verdict == "valid") for number, verdict, payload in PAYLOADS}

# 7 Closing, 10 the rest.

LONG_TEXT = b"*" * (256 << 10)
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)

CLOSING = {
    "7.1.1": Case([text("Hello, world!")], [HELLO], CLEAN),
    "7.1.2": Case([close_frame(1000), close_frame()], [], NORMAL),
    "7.1.3": Case([close_frame(1000), frame(PING)], [], NORMAL),
    "7.1.4": Case([close_frame(1000), text("Hello, world!")], [], NORMAL),
    "7.1.5": Case([text("one ", fin=False), close_frame(1000), more("two")], [], NORMAL),
    "7.1.6": Case([text(LONG_TEXT), text("Hello, world!"), close_frame(1000), frame(PING)], [], WHATEVER),
    # An endpoint that got no code has none to repeat: an empty Close is always accepted.
    "7.3.1": Case([close_frame()], [], Reply((1000, None))),
    "7.3.2": Case([frame(CLOSE, "a")], [], Reply((1002,))),
    "7.3.3": Case([close_frame(1000)], [], NORMAL),
    "7.3.4": Case([close_frame(1000, "Hello World!")], [], NORMAL),
    "7.3.5": Case([close_frame(1000, "*" * 123)], [], NORMAL),
    "7.3.6": Case([close_frame(1000, "*" * 124)], [], Reply((1002,))),
    "7.5.1": Case([frame(CLOSE, struct.pack("!H", 1000) + SURROGATE)], [], Reply((1002, 1007))),
    **{
        f"7.7.{number}": Case([close_frame(code)], [], Reply((1000, code))) for number, code in enumerate(GOOD_CODES, 1)
    },
    **{f"7.9.{number}": Case([close_frame(code)], [], Reply((1002,))) for number, code in enumerate(BAD_CODES, 1)},
    "7.13.1": Case([close_frame(5000)], [], WHATEVER),
    "7.13.2": Case([close_frame(65535)], [], WHATEVER),
}

MISCELLANEOUS = {"10.1.1": Case(fragments(TEXT, b"*" * 65536, 1300), [(TEXT, b"*" * 65536)], CLEAN)}

CASES: dict[str, Case] = {
    **FRAMING,
    **PING_PONG,
    **RESERVED_BITS,
    **RESERVED_OPCODES,
    **FRAGMENTATION,
    **UTF_8_FRAGMENTS,
    **UTF_8,
    **CLOSING,
    **MISCELLANEOUS,
}


# How the octets come. The outcome must not depend on it.


def whole(frames: list[bytes]) -> Iterable[bytes]:
    return [b"".join(frames)]


def per_frame(frames: list[bytes]) -> Iterable[bytes]:
    return frames


def per_octet(frames: list[bytes]) -> Iterable[bytes]:
    return octets(b"".join(frames))


def per_997_octets(frames: list[bytes]) -> Iterable[bytes]:
    data = b"".join(frames)
    return cut(data, range(997, len(data), 997))


SHORT = [name for name, case in CASES.items() if sum(map(len, case.sent)) < 1000]
DELIVERIES = [
    (name, delivery)
    for name in CASES
    for delivery in (whole, per_frame, per_octet if name in SHORT else per_997_octets)
]


@pytest.mark.parametrize(("name", "delivery"), DELIVERIES, ids=lambda value: getattr(value, "__name__", value))
def test_a_case_ends_as_the_suite_wants(name: str, delivery: Callable[[list[bytes]], Iterable[bytes]]) -> None:
    case = CASES[name]
    case.ending.judge(Echo().hear(*delivery(case.sent)), case.expected)


def test_all_cases_of_these_groups_are_here() -> None:
    groups = Counter(name.partition(".")[0] for name in CASES)
    assert groups == {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "10": 1}


def test_the_payloads_are_what_the_judge_of_utf_8_says_they_are() -> None:
    assert [
        number for number, verdict, payload in PAYLOADS if judge(bytes.fromhex(payload))[1] != (verdict == "valid")
    ] == []


# What takes time in the suite, and none here: what has been said when, between one part and the next.


@pytest.mark.parametrize("name", ["5.6", "5.7", "5.8", "5.19", "5.20"])
def test_a_ping_between_fragments_is_answered_before_the_rest_comes(name: str) -> None:
    echo, expected = Echo(), iter(CASES[name].expected)
    for sent in CASES[name].sent:
        echo.hear(sent)
        if sent[0] & 0x0F == PING:
            assert echo.said[-1] == next(expected)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("6.4.1", CASES["6.4.1"].sent),
        ("6.4.2", CASES["6.4.2"].sent),
        ("6.4.3", list(cut(CASES["6.4.3"].sent[0], [6 + 11, 6 + 15]))),
        ("6.4.4", list(cut(CASES["6.4.4"].sent[0], [6 + 12, 6 + 13]))),
    ],
)
def test_text_is_refused_as_soon_as_it_cannot_be_one(name: str, parts: list[bytes]) -> None:
    echo = Echo().hear(parts[0])
    assert echo.said == []
    assert not echo.connection.over
    echo.hear(parts[1])
    INVALID_PAYLOAD.judge(echo, [])


def endless_text(payload: bytes) -> list[bytes]:
    """The header of a text of which more is to come than `payload`, and that, octet by octet."""
    data = text(payload + bytes(200))
    start = len(data) - len(payload) - 200
    return [data[:start], *octets(data[start : start + len(payload)])]


def refused_at(payload: bytes) -> int | None:
    """The octet of a text's payload at which the text is refused; None if it is not, as long as it may go on."""
    header, *rest = endless_text(payload)
    echo = Echo().hear(header)
    return next((at for at, octet in enumerate(rest) if echo.hear(octet).connection.over), None)


@pytest.mark.parametrize(("name", "payload"), [(name, payload) for name, _, payload in PAYLOADS])
def test_a_text_is_refused_at_the_octet_that_makes_it_invalid(name: str, payload: str) -> None:
    """In a frame that is never complete, so that nothing but its octets can be the reason."""
    wrong_at, _ = judge(bytes.fromhex(payload))
    assert refused_at(bytes.fromhex(payload)) == wrong_at


def test_random_octets_are_refused_as_text_at_the_octet_that_makes_them_invalid() -> None:
    for payload in random_texts(3000, seed=6455):
        assert refused_at(payload) == judge(payload)[0], payload.hex()
