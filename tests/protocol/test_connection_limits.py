"""What a peer can make an endpoint hold: sizes to the octet, and memory that is not spent on what will be refused."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from protocol.endpoints import RSV1, Compressor, close_codes, cut, deflated, deflating, events_of, octets, server
from rawclient import BINARY, PING, PONG, TEXT, frame

from geventws.exceptions import MessageTooBig
from geventws.protocol import Connection, PingReceived, PongReceived

CONTINUATION = 0
MIB = 1 << 20


def header(opcode: int, size: int, *, fin: bool = True, rsv: int = 0) -> bytes:
    """The header of a frame whose payload of `size` octets never comes."""
    begin = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    if size < 126:
        return begin + bytes((0x80 | size,)) + bytes(4)
    if size < 65536:
        return begin + b"\xfe" + size.to_bytes(2, "big") + bytes(4)
    return begin + b"\xff" + size.to_bytes(8, "big") + bytes(4)


def assert_too_big(connection: Connection) -> None:
    assert isinstance(connection.failure, MessageTooBig)
    assert close_codes(connection) == [1009]
    assert connection.close_code == 1009
    assert connection.over


def peak_while(act: Callable[[], object]) -> int:
    """The most memory that Python holds, beyond what it held before, while `act` runs."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Sizes.

LIMITS = [1, 125, 126, 1000, 65535, 65536]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_message_one_octet_over_the_limit_fails_with_1009(opcode: int, limit: int) -> None:
    connection = server(max_message_size=limit)
    assert events_of(connection, frame(opcode, b"x" * (limit + 1))) == []
    assert_too_big(connection)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_message_of_exactly_the_limit_is_received(opcode: int, limit: int) -> None:
    connection = server(max_message_size=limit)
    (message,) = events_of(connection, frame(opcode, b"x" * limit))
    assert len(message) == limit


def test_the_limit_is_a_mebibyte_unless_told() -> None:
    (message,) = events_of(server(), frame(BINARY, bytes(MIB)))
    assert len(message) == MIB
    connection = server()
    assert events_of(connection, header(BINARY, MIB + 1)) == []
    assert_too_big(connection)


@pytest.mark.parametrize("sizes", [[10, 1], [0, 11], [1] * 11, [5, 0, 5, 1], [9, 100]])
def test_fragments_over_the_limit_fail_with_1009(sizes: list[int]) -> None:
    connection = server(max_message_size=10)
    data = frame(TEXT, "", fin=False) + b"".join(frame(CONTINUATION, "x" * size, fin=False) for size in sizes)
    assert events_of(connection, data) == []
    assert_too_big(connection)


@pytest.mark.parametrize("sizes", [[10, 0], [0, 10], [1] * 10, [5, 0, 5]])
def test_fragments_of_exactly_the_limit_are_received(sizes: list[int]) -> None:
    connection = server(max_message_size=10)
    data = frame(TEXT, "", fin=False) + b"".join(frame(CONTINUATION, "x" * size, fin=False) for size in sizes)
    assert events_of(connection, data + frame(CONTINUATION)) == ["x" * 10]


@pytest.mark.parametrize("size", [1001, 65535, 65536, 2**32, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_header_of_a_message_that_is_too_big_is_enough(opcode: int, size: int) -> None:
    connection = server(max_message_size=1000)
    data = header(opcode, size)
    assert events_of(connection, *octets(data[:-1])) == []
    assert connection.failure is None
    assert events_of(connection, data[-1:]) == []
    assert_too_big(connection)


@pytest.mark.parametrize("size", [1, 126, 65536, 2**63 - 1])
@pytest.mark.parametrize("fin", [True, False])
def test_the_header_of_a_fragment_that_is_too_big_is_enough(size: int, fin: bool) -> None:
    connection = server(max_message_size=1000)
    assert events_of(connection, frame(TEXT, "x" * 1000, fin=False)) == []
    assert events_of(connection, header(CONTINUATION, size, fin=fin)) == []
    assert_too_big(connection)


def test_the_header_of_a_message_within_the_limit_is_waited_behind() -> None:
    connection = server(max_message_size=1000)
    assert events_of(connection, header(BINARY, 1000)) == []
    assert connection.failure is None
    assert events_of(connection, bytes(1000)) == [bytes(1000)]


def test_control_frames_have_their_own_limit() -> None:
    connection = server(max_message_size=1)
    data = frame(TEXT, "", fin=False) + frame(PING, bytes(125)) + frame(PONG, bytes(125)) + frame(CONTINUATION, "x")
    assert events_of(connection, data) == [PingReceived(bytes(125)), PongReceived(bytes(125)), "x"]


def test_every_message_has_the_limit_for_itself() -> None:
    connection = server(max_message_size=10)
    assert events_of(connection, frame(TEXT, "x" * 10) * 5) == ["x" * 10] * 5


# Sizes after inflation.


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_that_inflates_to_one_octet_over_the_limit_fails_with_1009(opcode: int, limit: int) -> None:
    connection = deflating(max_message_size=limit)
    assert events_of(connection, frame(opcode, deflated(b"x" * (limit + 1)), rsv=RSV1)) == []
    assert_too_big(connection)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_that_inflates_to_exactly_the_limit_is_received(opcode: int, limit: int) -> None:
    connection = deflating(max_message_size=limit)
    (message,) = events_of(connection, frame(opcode, deflated(b"x" * limit), rsv=RSV1))
    assert len(message) == limit


@pytest.mark.parametrize("limit", LIMITS)
def test_a_message_of_exactly_the_limit_that_compression_makes_longer_is_received(limit: int) -> None:
    data = random.Random(limit).randbytes(limit)
    assert len(deflated(data)) > limit
    assert events_of(deflating(max_message_size=limit), frame(BINARY, deflated(data), rsv=RSV1)) == [data]


def test_fragments_that_inflate_to_too_much_fail_in_the_one_that_does() -> None:
    compressor, connection = Compressor(), deflating(max_message_size=1000)
    first, second = compressor.flushed(b"x" * 1000), compressor.flushed(b"x")
    assert events_of(connection, frame(TEXT, first, rsv=RSV1, fin=False)) == []
    assert connection.failure is None
    assert events_of(connection, frame(CONTINUATION, second, fin=False)) == []
    assert_too_big(connection)


@pytest.mark.parametrize("size", [65536, 2**32, 2**63 - 1])
def test_the_header_of_a_compressed_message_that_cannot_be_within_the_limit_is_enough(size: int) -> None:
    connection = deflating(max_message_size=1000)
    assert events_of(connection, header(TEXT, size, rsv=RSV1)) == []
    assert_too_big(connection)


def test_compressed_octets_that_inflate_to_nothing_are_not_taken_without_end() -> None:
    connection = deflating(max_message_size=1000)
    nothing = b"\x00\x00\x00\xff\xff" * 20  # empty blocks
    assert events_of(connection, frame(TEXT, nothing, rsv=RSV1, fin=False)) == []
    for _ in range(100):
        events_of(connection, frame(CONTINUATION, nothing, fin=False))
        if connection.over:
            break
    assert_too_big(connection)


# Memory.


def bomb(mebibytes: int) -> bytes:
    """Zeros, compressed; each mebibyte after the first is the same octets again."""
    compressor = Compressor()
    first, again = compressor.flushed(bytes(MIB)), compressor.flushed(bytes(MIB))
    return first + again * (mebibytes - 1)


def bombs() -> dict[str, list[bytes]]:
    """200 KB that inflate to 200 MB, as they may come in."""
    payload = bomb(200)
    whole = frame(BINARY, payload, rsv=RSV1)
    fragments = [frame(BINARY, rsv=RSV1, fin=False)]
    fragments += [frame(CONTINUATION, piece, fin=False) for piece in cut(payload, range(1000, len(payload), 1000))]
    return {
        "whole": [whole],
        "as text": [frame(TEXT, payload, rsv=RSV1)],
        "in small reads": list(cut(whole, range(100, len(whole), 100))),
        "in fragments": fragments,
    }


@pytest.mark.parametrize("way", ["whole", "as text", "in small reads", "in fragments"])
@pytest.mark.parametrize("limit", [1000, MIB])
def test_a_bomb_fails_with_1009_before_memory_is_spent_on_it(way: str, limit: int) -> None:
    chunks = bombs()[way]
    connection = deflating(max_message_size=limit)
    peak = peak_while(lambda: until_over(connection, chunks))
    assert_too_big(connection)
    # The payload without its mask and what zlib has left of it, the message twice where it is put together, zlib itself.
    assert peak < 3 * limit + 4 * len(chunks[0]) + 100_000


def until_over(connection: Connection, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        if connection.over:
            return
        assert events_of(connection, chunk) == []


def test_a_header_that_promises_much_takes_nothing() -> None:
    connection = server(max_message_size=2**62)
    assert peak_while(lambda: events_of(connection, header(BINARY, 2**62))) < 10_000
    assert connection.failure is None


def test_a_piece_over_the_limit_of_a_message_that_is_refused_is_not_copied() -> None:
    connection = server(max_message_size=1000)
    data = frame(BINARY, bytes(MIB))
    assert peak_while(lambda: events_of(connection, data)) < 10_000
    assert_too_big(connection)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("rsv", [0, RSV1], ids=["plain", "compressed"])
def test_fragments_without_payload_may_come_without_end_and_take_nothing(opcode: int, rsv: int) -> None:
    connection = deflating()
    chunk = frame(CONTINUATION, fin=False) * 500
    assert events_of(connection, frame(opcode, rsv=rsv, fin=False), chunk) == []
    assert peak_while(lambda: events_of(connection, *[chunk] * 60)) < 20_000
    assert connection.failure is None
    assert events_of(connection, frame(CONTINUATION, b"\x00" if rsv else b"")) == ["" if opcode == TEXT else b""]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fragmented", [True, False], ids=["in fragments", "in one frame"])
@pytest.mark.parametrize("piece", [1, 2, 3])
def test_a_message_in_the_smallest_pieces_takes_no_more_than_some_times_its_size(
    opcode: int, fragmented: bool, piece: int
) -> None:
    """A limit in octets is one for memory only if the pieces that wait for the rest have no price of their own."""
    size = 24_000
    connection = server(max_message_size=size)
    if fragmented:
        begin, chunks = frame(opcode, fin=False), [frame(CONTINUATION, b"x" * piece, fin=False)] * (size // piece)
    else:
        begin, chunks = header(opcode, size), [b"x" * piece] * (size // piece - 1)
    assert events_of(connection, begin) == []
    assert peak_while(lambda: until_over(connection, chunks)) < 8 * size
    assert connection.failure is None


def test_pongs_and_messages_leave_nothing_behind() -> None:
    connection = deflating()
    chunk = (
        frame(PING, bytes(125)) + frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b") + frame(BINARY, bytes(1000))
    )

    def act() -> None:
        for _ in range(200):
            assert len(events_of(connection, chunk)) == 3
            assert len(connection.data_to_send()) == 127

    act()
    assert peak_while(act) < 20_000
