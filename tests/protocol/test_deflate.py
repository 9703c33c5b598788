"""permessage-deflate, RFC 7692: what is offered, accepted and declined, and the codec that follows from it.

The judge of the codec, whichever libraries it uses, is Python's zlib, used as section 7.2 words it.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from protocol.endpoints import TAIL, Compressor, cut, deflated, octets, parameters
from protocol.libraries import MIXTURES, mixture

from geventws.exceptions import HandshakeError, InvalidPayload, MessageTooBig, ProtocolError
from geventws.protocol.deflate import Agreement, Deflate, DeflateOptions, agree, confirm, offer
from geventws.protocol.messages import Assembly, decode_text

TEXT, BINARY = 1, 2
LARGEST = DeflateOptions(server_max_window_bits=15, client_max_window_bits=15)

Codecs = Callable[..., Deflate]


@pytest.fixture(params=MIXTURES)
def codec(request: pytest.FixtureRequest) -> Codecs:
    """Make codecs, of each mixture of libraries: `codec(agreement, level=9)` is a server's with these options."""
    using = mixture(request.param)

    def make(agreement: Agreement | None = None, *, server: bool = True, **options: Any) -> Deflate:
        return Deflate(agreement or Agreement(), DeflateOptions(**options), server, using)

    return make


# The settings.

WRONG_SETTINGS = [
    ("server_max_window_bits", (8, 16, 0, -9, 12.0, "12", True, None)),
    ("client_max_window_bits", (8, 16, 0, -9, 12.0, "12", True, None)),
    ("memory_level", (0, 10, 5.0, False)),
    ("level", (-2, 10, 6.0, True)),
    ("threshold", (-1, 0.5, None, False)),
]
GOOD_SETTINGS = [
    ("server_max_window_bits", range(9, 16)),
    ("client_max_window_bits", range(9, 16)),
    ("memory_level", range(1, 10)),
    ("level", range(-1, 10)),
    ("threshold", (0, 1, 128, 10**9)),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG_SETTINGS for value in values])
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got {re.escape(repr(value))}$"):
        DeflateOptions(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD_SETTINGS for value in values])
def test_a_setting_within_its_range_is_kept_and_works(codec: Codecs, name: str, value: int) -> None:
    options = DeflateOptions(**{name: value})
    assert getattr(options, name) == value
    deflate = codec(Agreement(server_max_window_bits=options.server_max_window_bits), **{name: value})
    assert zlib.decompress(deflate.compress(b"abc" * 99) + TAIL + b"\x03\x00", -15) == b"abc" * 99


# A server's answer to an offer.

DECLINED = [
    "unknown",
    "unknown=1",
    "server_no_context_takeover; unknown",
    "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; client_no_context_takeover",
    "client_max_window_bits; client_max_window_bits",
    "client_max_window_bits=9; client_max_window_bits=9",
    "server_max_window_bits=12; server_max_window_bits=12",
    "server_no_context_takeover=true",
    "client_no_context_takeover=1",
    "server_max_window_bits",
    *[f"server_max_window_bits={value}" for value in ("7", "16", "08", "09", "010", "+9", "-9", "9.0", "x", "0", "")],
    *[f"client_max_window_bits={value}" for value in ("7", "16", "08", "09", "010", "+9", "-9", "9.0", "x", "0", "")],
    # zlib cannot write for a window of 8 bits, so that this cannot be promised.
    "server_max_window_bits=8",
    "SERVER_NO_CONTEXT_TAKEOVER",
]

# The offer, what the server would have by itself, the agreement, the response.
ACCEPTED: list[tuple[str, DeflateOptions, Agreement, str]] = [
    ("", LARGEST, Agreement(), ""),
    ("", DeflateOptions(), Agreement(server_max_window_bits=12), "server_max_window_bits=12"),
    ("client_max_window_bits", LARGEST, Agreement(), ""),
    (
        "client_max_window_bits",
        DeflateOptions(),
        Agreement(server_max_window_bits=12, client_max_window_bits=12),
        "server_max_window_bits=12; client_max_window_bits=12",
    ),
    ("client_max_window_bits=10", LARGEST, Agreement(client_max_window_bits=10), "client_max_window_bits=10"),
    ("client_max_window_bits=8", LARGEST, Agreement(client_max_window_bits=8), "client_max_window_bits=8"),
    (
        "client_max_window_bits=14",
        DeflateOptions(server_max_window_bits=15),
        Agreement(client_max_window_bits=12),
        "client_max_window_bits=12",
    ),
    ("server_max_window_bits=9", LARGEST, Agreement(server_max_window_bits=9), "server_max_window_bits=9"),
    ("server_max_window_bits=15", LARGEST, Agreement(), "server_max_window_bits=15"),
    (
        "server_max_window_bits=15",
        DeflateOptions(),
        Agreement(server_max_window_bits=12),
        "server_max_window_bits=12",
    ),
    (
        "server_no_context_takeover",
        LARGEST,
        Agreement(server_no_context_takeover=True),
        "server_no_context_takeover",
    ),
    (
        "client_no_context_takeover",
        LARGEST,
        Agreement(client_no_context_takeover=True),
        "client_no_context_takeover",
    ),
    (
        "",
        DeflateOptions(15, 15, server_no_context_takeover=True, client_no_context_takeover=True),
        Agreement(server_no_context_takeover=True, client_no_context_takeover=True),
        "server_no_context_takeover; client_no_context_takeover",
    ),
    (
        "client_max_window_bits=9; server_no_context_takeover; server_max_window_bits=10; client_no_context_takeover",
        LARGEST,
        Agreement(True, True, 10, 9),
        "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=9",
    ),
]


@pytest.mark.parametrize("offered", DECLINED)
def test_an_offer_that_cannot_be_honoured_is_declined(offered: str) -> None:
    assert agree(parameters(offered), LARGEST) is None


@pytest.mark.parametrize(("offered", "options", "agreement", "response"), ACCEPTED)
def test_an_offer_is_accepted_with_what_it_asks_and_what_the_server_wants(
    offered: str, options: DeflateOptions, agreement: Agreement, response: str
) -> None:
    assert agree(parameters(offered), options) == (agreement, "; ".join(filter(None, ["permessage-deflate", response])))


@pytest.mark.parametrize("offered", ["", "server_no_context_takeover", "server_max_window_bits=10"])
def test_a_window_is_not_asked_of_a_client_that_does_not_know_how(offered: str) -> None:
    """Section 7.1.2.2: without the parameter in the offer, it "MUST NOT" be in the response."""
    agreement, response = agree(parameters(offered), DeflateOptions(client_max_window_bits=9)) or (Agreement(), "")
    assert response.startswith("permessage-deflate")
    assert "client_max_window_bits" not in response
    assert agreement.client_max_window_bits == 15


# A client's offer, and its reading of the answer.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LARGEST, "client_max_window_bits"),
        (DeflateOptions(), "server_max_window_bits=12; client_max_window_bits=12"),
        (DeflateOptions(9, 10), "server_max_window_bits=9; client_max_window_bits=10"),
        (
            DeflateOptions(15, 15, True, True),
            "server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
    ],
)
def test_a_client_offers_what_its_options_say(options: DeflateOptions, text: str) -> None:
    assert offer(options) == f"permessage-deflate; {text}"


WRONG_ANSWERS = [
    ("unknown", LARGEST),
    ("server_no_context_takeover; server_no_context_takeover", LARGEST),
    ("server_no_context_takeover=1", LARGEST),
    ("client_no_context_takeover=1", LARGEST),
    ("server_max_window_bits", LARGEST),
    ("client_max_window_bits", LARGEST),  # 7.1.2.2: in a response it has a value
    ("server_max_window_bits=7", LARGEST),
    ("server_max_window_bits=16", LARGEST),
    ("server_max_window_bits=09", LARGEST),
    ("client_max_window_bits=16", LARGEST),
    ("client_max_window_bits=012", LARGEST),
    ("server_max_window_bits=13", DeflateOptions(server_max_window_bits=12)),
    ("", DeflateOptions(server_max_window_bits=12)),
    ("", DeflateOptions(15, 15, server_no_context_takeover=True)),
    # zlib cannot write for a window of 8 bits.
    ("client_max_window_bits=8", LARGEST),
]
GOOD_ANSWERS: list[tuple[str, DeflateOptions, Agreement]] = [
    ("", LARGEST, Agreement()),
    ("server_no_context_takeover", LARGEST, Agreement(server_no_context_takeover=True)),
    ("client_no_context_takeover", LARGEST, Agreement(client_no_context_takeover=True)),
    ("server_max_window_bits=10", LARGEST, Agreement(server_max_window_bits=10)),
    ("server_max_window_bits=8", LARGEST, Agreement(server_max_window_bits=8)),
    ("client_max_window_bits=10", LARGEST, Agreement(client_max_window_bits=10)),
    ("server_max_window_bits=11", DeflateOptions(12, 15), Agreement(server_max_window_bits=11)),
    ("server_max_window_bits=12", DeflateOptions(12, 15), Agreement(server_max_window_bits=12)),
    # What a client offered for itself it may keep to, whatever the server says about it.
    ("", DeflateOptions(15, 10), Agreement(client_max_window_bits=10)),
    ("client_max_window_bits=12", DeflateOptions(15, 10), Agreement(client_max_window_bits=10)),
    ("", DeflateOptions(15, 15, False, True), Agreement(client_no_context_takeover=True)),
    (
        "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9",
        DeflateOptions(12, 12, True, True),
        Agreement(True, True, 9, 9),
    ),
]


@pytest.mark.parametrize(("answer", "options"), WRONG_ANSWERS)
def test_an_answer_that_the_offer_does_not_allow_is_refused(answer: str, options: DeflateOptions) -> None:
    with pytest.raises(HandshakeError):
        confirm(parameters(answer), options)


@pytest.mark.parametrize(("answer", "options", "agreement"), GOOD_ANSWERS)
def test_an_answer_is_agreed_to(answer: str, options: DeflateOptions, agreement: Agreement) -> None:
    assert confirm(parameters(answer), options) == agreement


@pytest.mark.parametrize("ours", [DeflateOptions(), LARGEST, DeflateOptions(9, 9, True, True), DeflateOptions(10, 14)])
@pytest.mark.parametrize(
    "theirs", [DeflateOptions(), LARGEST, DeflateOptions(9, 9, True, True), DeflateOptions(14, 10)]
)
def test_client_and_server_agree_on_the_same(ours: DeflateOptions, theirs: DeflateOptions) -> None:
    offered = parameters(offer(theirs))[1:]
    agreement, response = agree(offered, ours) or (Agreement(), "declined")
    confirmed = confirm(parameters(response)[1:], theirs)
    assert confirmed.server_max_window_bits == agreement.server_max_window_bits
    assert confirmed.server_no_context_takeover is agreement.server_no_context_takeover
    # Of what the client sends it may promise itself more than the server knows, never less.
    assert confirmed.client_max_window_bits <= agreement.client_max_window_bits
    assert confirmed.client_no_context_takeover >= agreement.client_no_context_takeover


# Inflating.


def inflated(deflate: Deflate, *pieces: bytes, opcode: int = TEXT, limit: int = 1 << 20) -> str | bytes:
    """The message that came in `pieces`; if it is one, as a whole."""
    if len(pieces) == 1:
        whole = deflate.inflate_whole(pieces[0], limit)
        return whole if opcode == BINARY else decode_text(whole)
    return inflated_in_pieces(deflate, *pieces, opcode=opcode, limit=limit)


def inflated_in_pieces(deflate: Deflate, *pieces: bytes, opcode: int = TEXT, limit: int = 1 << 20) -> str | bytes:
    message = Assembly(opcode, limit)
    for piece in pieces:
        deflate.inflate(piece, message)
    deflate.finish(message)
    return message.finish()


def inflated_in_halves(deflate: Deflate, payload: bytes, **how: Any) -> str | bytes:
    return inflated(deflate, *cut(payload, [len(payload) // 2]), **how)


# Section 7.2.3: the payload, or the payloads of a connection's messages one after the other, as printed there.
EXAMPLES = {
    "7.2.3.1 one message": (["f2 48 cd c9 c9 07 00"], ["Hello"]),
    "7.2.3.2 sharing the window": (["f2 48 cd c9 c9 07 00", "f2 00 11 00 00"], ["Hello", "Hello"]),
    "7.2.3.3 a block without compression": (["00 05 00 fa ff 48 65 6c 6c 6f 00"], ["Hello"]),
    "7.2.3.4 a block with BFINAL set": (["f3 48 cd c9 c9 07 00 00"], ["Hello"]),
    "7.2.3.5 two blocks": (["f2 48 05 00 00 00 ff ff ca c9 c9 07 00"], ["Hello"]),
    "7.2.3.6 nothing": (["00"], [""]),
}


@pytest.mark.parametrize(("payloads", "texts"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_rfc_7692_are_inflated(codec: Codecs, payloads: list[str], texts: list[str]) -> None:
    deflate = codec()
    assert [inflated(deflate, bytes.fromhex(payload)) for payload in payloads] == texts


@pytest.mark.parametrize(("payloads", "texts"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_rfc_7692_are_inflated_octet_by_octet(
    codec: Codecs, payloads: list[str], texts: list[str]
) -> None:
    deflate = codec()
    assert [inflated(deflate, *octets(bytes.fromhex(payload))) for payload in payloads] == texts


BROKEN = {
    "a block of the type that is reserved": b"\x06",
    "a stored block with a wrong complement": b"\x00\x05\x00\x00\x00Hello",
    "a distance that leads before the beginning": b"\xf2\x00\x11\x00\x00",
    "a window that began after the reference": zlib.compress(b"Hello")[:6],  # zlib's own header is not deflate's
    "octets of all kinds": bytes(range(255, 0, -1)),
}


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN)
def test_what_is_not_deflates_does_not_inflate(codec: Codecs, payload: bytes) -> None:
    with pytest.raises(InvalidPayload, match="does not inflate"):
        inflated(codec(), payload, opcode=BINARY)


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN)
def test_what_is_not_deflates_does_not_inflate_octet_by_octet(codec: Codecs, payload: bytes) -> None:
    with pytest.raises(InvalidPayload, match="does not inflate"):
        inflated(codec(), *octets(payload), opcode=BINARY)


def test_text_that_is_not_utf_8_after_inflation_is_refused(codec: Codecs) -> None:
    with pytest.raises(InvalidPayload, match="not UTF-8"):
        inflated(codec(), deflated(b"fine until \xff here"))


def test_text_that_is_not_utf_8_is_refused_in_the_piece_that_shows_it(codec: Codecs) -> None:
    compressor, deflate, message = Compressor(), codec(), Assembly(TEXT, 1000)
    deflate.inflate(compressor.flushed(b"fine \xf4"), message)
    with pytest.raises(InvalidPayload, match="not UTF-8"):
        deflate.inflate(compressor.flushed(b"\x90"), message)


def test_a_message_after_an_empty_one_still_knows_what_came_before(codec: Codecs) -> None:
    compressor, deflate = Compressor(), codec()
    for text in ("Hello, Hello", "", "Hello, Hello", "", "", "Hello"):
        assert inflated(deflate, compressor(text)) == text


def test_a_message_that_refers_to_the_one_before_needs_the_context(codec: Codecs) -> None:
    first, second = "Once upon a time", "Once upon a time"
    compressor = Compressor()
    payloads = [compressor(first), compressor(second)]
    taken_over, fresh = codec(), codec(Agreement(client_no_context_takeover=True))
    assert [inflated(taken_over, payload) for payload in payloads] == [first, second]
    assert inflated(fresh, payloads[0]) == first
    with pytest.raises(InvalidPayload):
        inflated(fresh, payloads[1])


def final(data: bytes) -> bytes:
    """Deflate blocks of which the last has BFINAL set."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)


def test_a_block_with_bfinal_set_may_stand_anywhere_in_a_message(codec: Codecs) -> None:
    deflate = codec()
    payload = final(b"one ") + final(b"two ") + deflated(b"three")
    for points in ((), range(len(payload))):
        assert inflated(deflate, *cut(payload, points)) == "one two three"
    assert inflated(deflate, deflated("and the next message")) == "and the next message"


def test_a_message_that_ends_with_bfinal_set_leaves_nothing_behind(codec: Codecs) -> None:
    # 7.2.3.4: an octet of zeros has to follow, so that the four that are not sent make a whole block with it.
    payload = final(b"Hello") + b"\x00"
    for points in ((), range(len(payload))):
        deflate = codec()
        for _ in range(3):
            assert inflated(deflate, *cut(payload, points)) == "Hello"
        assert inflated(deflate, deflated("and the next message")) == "and the next message"


@pytest.mark.parametrize("blocks", [1000, 1001, 5000])
def test_there_is_an_end_to_blocks_with_bfinal_set(codec: Codecs, blocks: int) -> None:
    deflate, payload = codec(), final(b"") * blocks + b"\x00"
    for points in ((), (1,)):
        if blocks > 1000:
            with pytest.raises(InvalidPayload, match="more than 1000 final blocks"):
                inflated(codec(), *cut(payload, points))
        else:
            # They are counted in each message by itself.
            assert inflated(deflate, *cut(payload, points)) == ""


@pytest.mark.parametrize("limit", [6, 7, 8, 9])
def test_blocks_with_bfinal_set_count_together(codec: Codecs, limit: int) -> None:
    payload = final(b"one") + final(b"two") + deflated(b"xy")
    for points in ((), (3,), range(len(payload))):
        if limit < 8:
            with pytest.raises(MessageTooBig):
                inflated(codec(), *cut(payload, points), limit=limit)
        else:
            assert inflated(codec(), *cut(payload, points), limit=limit) == "onetwoxy"


def test_much_may_follow_a_block_with_bfinal_set(codec: Codecs) -> None:
    parts = [random.Random(number).randbytes(5000) for number in range(3)]
    payload = final(parts[0]) + final(parts[1]) + deflated(parts[2])
    for points in ((), range(100, len(payload), 100)):
        assert inflated(codec(), *cut(payload, points), opcode=BINARY) == b"".join(parts)


def spoilt(choose: random.Random) -> bytes:
    """A payload as it should be, or with some octets lost, added or changed."""
    data = choose.choice([b"tick tock " * 30, choose.randbytes(300), bytes(choose.choices(range(9), k=2000))])
    compressor = zlib.compressobj(choose.randrange(10), zlib.DEFLATED, -15, 9, choose.randrange(5))
    mode = choose.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH])
    payload = bytearray(compressor.compress(data) + compressor.flush(mode)).removesuffix(TAIL) * choose.choice(
        [1, 1, 2]
    )
    for _ in range(choose.choice([0, 1, 1, 3])):
        at, octets = choose.randrange(len(payload)), choose.randbytes(choose.randrange(3))
        payload[at : at + choose.randrange(3)] = octets
    return bytes(payload)


def outcomes(deflate: Deflate, payloads: list[bytes], limit: int, inflate: Callable[..., str | bytes]) -> list[Any]:
    """What became of messages one after the other, until one ends the connection."""
    ends: list[Any] = []
    try:
        for payload in payloads:
            ends.append(inflate(deflate, payload, opcode=BINARY, limit=limit))
    except ProtocolError as error:
        ends.append(type(error))
    return ends


@pytest.mark.parametrize("limit", [100, 300, 2000, 10_000])
def test_a_message_is_inflated_alike_as_a_whole_and_in_pieces_by_every_library(codec: Codecs, limit: int) -> None:
    choose = random.Random(limit)
    judge = mixture("zlib")
    for _ in range(300):
        payloads = [spoilt(choose) for _ in range(3)]
        whole = outcomes(codec(), payloads, limit, inflated)
        assert whole == outcomes(codec(), payloads, limit, inflated_in_pieces)
        halves = outcomes(codec(), payloads, limit, inflated_in_halves)
        # Of what is both broken and too big, another fault may come first.
        assert halves == whole or (
            halves[:-1] == whole[:-1] and {halves[-1], whole[-1]} == {InvalidPayload, MessageTooBig}
        )
        assert whole == outcomes(Deflate(Agreement(), LARGEST, True, judge), payloads, limit, inflated)


def seconds_to_inflate(deflate: Deflate, pieces: Iterable[bytes]) -> float:
    start = time.process_time()
    # Whether so many of them are taken or refused is left open.
    with contextlib.suppress(ProtocolError):
        inflated(deflate, *pieces)
    return time.process_time() - start


def test_many_blocks_with_bfinal_set_take_no_longer_at_once_than_in_small_pieces(codec: Codecs) -> None:
    """If each of them copies all that is left, a message of a mebibyte takes many seconds."""
    payload = b"\x03\x00" * 400_000
    in_pieces = seconds_to_inflate(codec(), cut(payload, range(2000, len(payload), 2000)))
    assert seconds_to_inflate(codec(), [payload]) < 3 * in_pieces + 0.2


@pytest.mark.parametrize("bits", range(8, 16))
def test_what_was_compressed_for_a_window_is_inflated_with_one_of_that_size(codec: Codecs, bits: int) -> None:
    choose = random.Random(bits)
    data = b"".join(choose.choice([b"tick ", b"tock ", choose.randbytes(7)]) for _ in range(3000))
    for server in (True, False):
        compressor = Compressor(max(bits, 9))
        deflate = codec(Agreement(server_max_window_bits=bits, client_max_window_bits=bits), server=server)
        for _ in range(3):
            assert inflated(deflate, compressor(data), opcode=BINARY) == data


def test_each_side_inflates_with_the_other_sides_window_and_context(codec: Codecs) -> None:
    agreement = Agreement(client_no_context_takeover=True)
    compressor = Compressor()
    payloads = [compressor("Once upon a time"), compressor("Once upon a time")]
    client = codec(agreement, server=False)
    assert [inflated(client, payload) for payload in payloads] == ["Once upon a time"] * 2


# The size.


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_a_message_within_the_limit_is_inflated(codec: Codecs, size: int) -> None:
    assert inflated(codec(), deflated(bytes(size)), opcode=BINARY, limit=1000) == bytes(size)


@pytest.mark.parametrize("size", [1001, 1002, 5000, 10**6])
def test_a_message_over_the_limit_after_inflation_is_too_big(codec: Codecs, size: int) -> None:
    with pytest.raises(MessageTooBig):
        inflated(codec(), deflated(bytes(size)), opcode=BINARY, limit=1000)


def test_a_message_over_the_limit_is_too_big_in_the_piece_that_makes_it_so(codec: Codecs) -> None:
    compressor, deflate, message = Compressor(), codec(), Assembly(BINARY, 1000)
    deflate.inflate(compressor.flushed(bytes(1000)), message)
    with pytest.raises(MessageTooBig):
        deflate.inflate(compressor.flushed(b"x"), message)


def bomb(mebibytes: int) -> bytes:
    """Zeros, compressed; each mebibyte after the first is the same octets again."""
    compressor = Compressor()
    first, again = compressor.flushed(bytes(1 << 20)), compressor.flushed(bytes(1 << 20))
    return first + again * (mebibytes - 1)


def test_the_bomb_is_one() -> None:
    assert zlib.decompressobj(-15).decompress(bomb(3)) == bytes(3 << 20)
    assert len(bomb(200)) - len(bomb(199)) == len(bomb(3)) - len(bomb(2))
    assert len(bomb(200)) < 250_000


@pytest.mark.parametrize("inflate", [inflated, inflated_in_pieces])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1000, 1 << 20])
def test_a_bomb_is_refused_before_memory_is_spent_on_it(
    codec: Codecs, inflate: Callable[..., str | bytes], opcode: int, limit: int
) -> None:
    payload = bomb(200)
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooBig):
            inflate(codec(), payload, opcode=opcode, limit=limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What is inflated, what zlib keeps of the input, and zlib itself.
    assert peak < 3 * limit + 2 * len(payload) + 100_000


# Compressing.


def reference(payloads: list[bytes], bits: int, fresh: bool) -> list[bytes]:
    """What zlib makes of `payloads` with no more than a window of `bits`: 100 octets at a time, as else it has them at hand."""
    inflater, messages = zlib.decompressobj(-bits), []
    for payload in payloads:
        message, rest = b"", payload + TAIL
        while rest:
            message += inflater.decompress(rest, 100)
            rest = inflater.unconsumed_tail
        while more := inflater.decompress(b"", 100):
            message += more
        messages.append(message)
        if fresh:
            inflater = zlib.decompressobj(-bits)
    return messages


def test_the_reference_refuses_what_needs_a_larger_window() -> None:
    block = random.Random(1).randbytes(1000)
    assert reference([deflated(block * 2)], 15, fresh=False) == [block * 2]
    with pytest.raises(zlib.error, match="too far back"):
        reference([deflated(block * 2)], 9, fresh=False)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_what_is_compressed_keeps_to_the_window_and_the_context_agreed_on(
    codec: Codecs, server: bool, bits: int, fresh: bool
) -> None:
    ours = {"server_max_window_bits": bits, "server_no_context_takeover": fresh}
    if not server:
        ours = {name.replace("server", "client"): value for name, value in ours.items()}
    deflate = codec(Agreement(**ours), server=server)
    block = random.Random(bits).randbytes((1 << bits) + 100)
    messages = [b"Hello", b"Hello", block, block + block, b"x", b"Hello"]
    payloads = [deflate.compress(message) for message in messages]
    assert reference(payloads, bits, fresh) == messages


def test_with_context_takeover_a_message_that_repeats_itself_gets_shorter(codec: Codecs) -> None:
    message = random.Random(1).randbytes(200)
    deflate = codec()
    assert len(deflate.compress(message)) > 200
    assert len(deflate.compress(message)) < 20


def test_without_context_takeover_every_message_is_compressed_alike(codec: Codecs) -> None:
    deflate = codec(Agreement(server_no_context_takeover=True))
    assert len({deflate.compress(b"Hello") for _ in range(5)}) == 1


@pytest.mark.parametrize("level", range(-1, 10))
@pytest.mark.parametrize(
    "data", [b"a", b"ab" * 5000, random.Random(1).randbytes(70_000)], ids=["short", "same", "random"]
)
def test_a_compressed_message_is_sent_without_its_last_four_octets(codec: Codecs, level: int, data: bytes) -> None:
    deflate = codec(level=level)
    payloads = [deflate.compress(data), deflate.compress(data)]
    assert reference(payloads, 15, fresh=False) == [data, data]


def test_an_empty_message_is_never_compressed(codec: Codecs) -> None:
    assert codec(threshold=0).threshold == 1
    assert codec(threshold=200).threshold == 200


def test_a_codec_that_is_not_used_takes_next_to_nothing() -> None:
    agreement, options = Agreement(), DeflateOptions(memory_level=9)
    tracemalloc.start()
    try:
        codecs = [Deflate(agreement, options, server=True) for _ in range(100)]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(codecs) == 100
    assert used < 100 * 500


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("name", "kibibytes"), [(name, 55 if name == "zlib" else 230) for name in MIXTURES])
def test_a_codec_in_use_keeps_no_more_memory_than_is_promised(name: str, kibibytes: int, fresh: bool) -> None:
    using, options = mixture(name), DeflateOptions()
    agreement = Agreement(fresh, fresh, server_max_window_bits=12, client_max_window_bits=12)
    message = bytes(random.Random(1).choices(range(40), k=60_000))
    payload = Compressor(12)(message)
    tracemalloc.start()
    try:
        codecs = [Deflate(agreement, options, True, using) for _ in range(20)]
        for deflate in codecs:
            assert inflated(deflate, payload, opcode=BINARY) == message
            assert len(deflate.compress(message)) < 50_000
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < len(codecs) * (500 if fresh else kibibytes * 1024)
