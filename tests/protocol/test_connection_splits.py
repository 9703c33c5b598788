"""TCP keeps no boundaries: however a stream of bytes is cut, an endpoint tells and sends the same as for the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.endpoints import (
    RSV1,
    Compressor,
    Outcome,
    client,
    cut,
    deflated,
    deflating,
    drain,
    octets,
    outcome,
    sent_by,
    server,
)
from rawclient import BINARY, CLOSE, MASK, PING, PONG, TEXT, close_frame, frame

from geventws.protocol import Connection, PingReceived, PongReceived, Role, State
from geventws.protocol.deflate import Agreement

CONTINUATION = 0


def unmasked(opcode: int, payload: bytes | str = b"", **options: Any) -> bytes:
    """A frame as a server sends it."""
    return frame(opcode, payload, mask=None, **options)


def compressed_stream() -> bytes:
    compressor = Compressor()
    first, second, third = compressor("Hello, Hello"), compressor(b"\x00\xff" * 40), compressor("Hello")
    return (
        frame(TEXT, first, rsv=RSV1)
        + frame(BINARY, second[:3], rsv=RSV1, fin=False)
        + frame(PING, "between")
        + frame(CONTINUATION, b"", fin=False)
        + frame(CONTINUATION, second[3:])
        + frame(TEXT, "plain")
        + frame(TEXT, third, rsv=RSV1)
        + frame(TEXT, compressor(""), rsv=RSV1)
    )


# Streams, each with the endpoint that it is for, how many events it is, and the code that the connection closes with.
Stream = tuple[Callable[[], Connection], bytes, int, "int | None"]

SHORT: dict[str, Stream] = {
    "every opcode": (
        server,
        frame(TEXT, "Wär's?")
        + frame(PING, "ping")
        + frame(BINARY, b"\xff\x00")
        + frame(PONG, "pong")
        + frame(TEXT, "a", fin=False)
        + frame(CONTINUATION, "b")
        + close_frame(4000, "Ende ¾"),
        6,
        4000,
    ),
    "every opcode, for a client": (
        client,
        unmasked(TEXT, "Wär's?")
        + unmasked(PING, "ping")
        + unmasked(BINARY, b"\xff\x00")
        + unmasked(PONG, "pong")
        + unmasked(TEXT, "a", fin=False)
        + unmasked(CONTINUATION, "b")
        + unmasked(CLOSE, b"\x0f\xa0Ende"),
        6,
        4000,
    ),
    "empty payloads": (
        server,
        frame(TEXT)
        + frame(PING)
        + frame(BINARY)
        + frame(PONG)
        + frame(TEXT, fin=False)
        + frame(CONTINUATION)
        + frame(CLOSE),
        6,
        1005,
    ),
    "fragments with control frames between": (
        server,
        frame(TEXT, "κό".encode()[:3], fin=False)
        + frame(PING, "1")
        + frame(CONTINUATION, "κό".encode()[3:], fin=False)
        + frame(PONG, "2")
        + frame(CONTINUATION, "", fin=False)
        + frame(PING, "3")
        + frame(CONTINUATION, "σμε")
        + frame(BINARY, b"\x80", fin=False)
        + frame(PING, "4")
        + frame(CONTINUATION, b"\x81"),
        6,
        None,
    ),
    "a Close between fragments": (
        server,
        frame(TEXT, "a", fin=False) + close_frame(1001) + frame(CONTINUATION, "b"),
        1,
        1001,
    ),
    "a length in two octets": (
        server,
        frame(TEXT, "x" * 126) + frame(PING, bytes(125)) + frame(BINARY, bytes(300)),
        3,
        None,
    ),
    "compressed messages": (deflating, compressed_stream(), 6, None),
    "compressed messages without their context": (
        lambda: deflating(Role.SERVER, Agreement(client_no_context_takeover=True)),
        frame(TEXT, deflated("one"), rsv=RSV1) + frame(TEXT, deflated("two"), rsv=RSV1) + frame(CLOSE),
        3,
        1005,
    ),
    "compressed messages, for a client": (
        lambda: deflating(Role.CLIENT),
        unmasked(TEXT, deflated("Hello"), rsv=RSV1) + unmasked(PING, "x") + unmasked(TEXT, "plain") + unmasked(CLOSE),
        4,
        1005,
    ),
    "text that stops being UTF-8": (server, frame(TEXT, "fine") + frame(TEXT, b"abc\xf4\x90def"), 1, 1007),
    "fragments that stop being UTF-8": (
        server,
        frame(TEXT, b"abc\xe1", fin=False) + frame(PING) + frame(CONTINUATION, b"\x80(") + frame(TEXT, "never"),
        1,
        1007,
    ),
    "a reserved opcode": (server, frame(TEXT, "fine") + frame(3, "x") + frame(PING), 1, 1002),
    "a frame without a mask": (server, frame(TEXT, "fine") + frame(TEXT, "x", mask=None), 1, 1002),
    "a ping that is too long": (
        server,
        frame(TEXT, "fine") + frame(PING, bytes(126)) + frame(TEXT, "never"),
        1,
        1002,
    ),
    "nothing to continue": (server, frame(TEXT, "fine") + frame(CONTINUATION, "x") + frame(TEXT, "never"), 1, 1002),
    "a text within a text": (
        server,
        frame(TEXT, "a", fin=False) + frame(TEXT, "b") + frame(CONTINUATION, "c"),
        0,
        1002,
    ),
    "a message that is too big": (
        lambda: server(max_message_size=5),
        frame(TEXT, "12345") + frame(TEXT, "123456") + frame(PING),
        1,
        1009,
    ),
    "fragments that are too big": (
        lambda: server(max_message_size=5),
        frame(BINARY, "123", fin=False) + frame(PING) + frame(CONTINUATION, "456") + frame(PING),
        1,
        1009,
    ),
    "a message that inflates to too much": (
        lambda: deflating(max_message_size=50),
        frame(TEXT, deflated("x" * 50), rsv=RSV1) + frame(TEXT, deflated("x" * 51), rsv=RSV1) + frame(PING),
        1,
        1009,
    ),
    "what does not inflate": (
        deflating,
        frame(TEXT, deflated("fine"), rsv=RSV1) + frame(TEXT, b"\xff\xff", rsv=RSV1),
        1,
        1007,
    ),
    "a Close that is wrong": (server, frame(TEXT, "fine") + close_frame(1005, "x") + frame(TEXT, "never"), 1, 1002),
    "a Close with half a character": (server, frame(CLOSE, b"\x03\xe8ab\xe2\x82"), 0, 1007),
    "a length that is not in its shortest form": (server, b"\x82\xfe\x00\x05" + MASK + bytes(5), 0, 1002),
    "a length with its top bit set": (server, b"\x82\xff" + b"\xff" * 8 + MASK, 0, 1002),
}

# Longer ones, cut near what matters.
LONG: dict[str, Stream] = {
    "the longest length in two octets": (server, frame(TEXT, "x" * 65535) + frame(PING, "x"), 2, None),
    "the shortest length in eight octets": (server, frame(BINARY, b"\xfe" * 65536) + frame(PING, "x"), 2, None),
    "many characters": (server, frame(TEXT, "κόσμε" * 7000) + close_frame(1000), 2, 1000),
    "a long compressed message": (
        deflating,
        frame(TEXT, deflated("tick tock " * 9000 + "x" * 90_000), rsv=RSV1) + frame(PING),
        2,
        None,
    ),
}
STREAMS = SHORT | LONG


def whole(name: str) -> Outcome:
    make, data, *_ = STREAMS[name]
    return outcome(make(), [data])


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_comes_whole_means_what_it_says(name: str) -> None:
    """If endpoints told nothing at all, how streams are cut would make no difference either."""
    *_, events, close_code = STREAMS[name]
    result = whole(name)
    assert (len(result.events), result.close_code) == (events, close_code)
    assert not result.unparsed


@pytest.mark.parametrize("name", SHORT)
def test_a_stream_cut_in_two_anywhere_means_the_same(name: str) -> None:
    make, data, *_ = SHORT[name]
    expected = whole(name)
    for point in range(len(data) + 1):
        assert outcome(make(), cut(data, [point])) == expected, point


@pytest.mark.parametrize("name", SHORT)
def test_a_stream_that_comes_octet_by_octet_means_the_same(name: str) -> None:
    make, data, *_ = SHORT[name]
    assert outcome(make(), octets(data)) == whole(name)


@pytest.mark.parametrize("name", SHORT)
@given(points=st.lists(st.integers(0, 400), max_size=8))
@settings(max_examples=25, deadline=None, database=None)
def test_a_stream_cut_at_random_means_the_same(name: str, points: list[int]) -> None:
    make, data, *_ = SHORT[name]
    assert outcome(make(), cut(data, points)) == whole(name)


@pytest.mark.parametrize("name", LONG)
def test_a_long_stream_cut_in_two_near_its_ends_means_the_same(name: str) -> None:
    make, data, *_ = LONG[name]
    expected = whole(name)
    for point in [*range(24), len(data) // 2, *range(len(data) - 14, len(data) + 1)]:
        assert outcome(make(), cut(data, [point])) == expected, point


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("size", [1, 2, 3, 997, 4096])
def test_a_long_stream_in_equal_pieces_means_the_same(name: str, size: int) -> None:
    make, data, *_ = LONG[name]
    # One octet at a time only for its first part, the time it takes being what it is.
    points = range(size, min(len(data), 6000 * size), size)
    assert outcome(make(), cut(data, points)) == whole(name)


@pytest.mark.parametrize("name", SHORT)
def test_pieces_that_are_given_before_events_are_asked_for_mean_the_same(name: str) -> None:
    make, data, *_ = SHORT[name]
    connection = make()
    for octet in octets(data):
        connection.receive_data(octet)
    assert outcome(connection, [b""]) == whole(name)


# Whatever can be said, at random: what a peer may send, and what it means.

TEXTS = st.text(max_size=40)
DATA = st.binary(max_size=200)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Any], list[tuple[int, bytes]]]:
    """Bytes from a client, the events that they are, and the pongs that they call for."""
    compressor = Compressor()
    data, events, pongs = b"", [], []
    for _ in range(draw(st.integers(0, 5))):
        message: str | bytes = draw(TEXTS | DATA)
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        compress = draw(st.booleans())
        payload = compressor(payload) if compress else payload
        pieces = list(cut(payload, draw(st.lists(st.integers(0, len(payload)), max_size=3))))
        for number, piece in enumerate(pieces):
            first, last = number == 0, number == len(pieces) - 1
            data += frame(opcode if first else CONTINUATION, piece, fin=last, rsv=RSV1 if first and compress else 0)
            if not last and draw(st.booleans()):
                said = draw(st.binary(max_size=125))
                if draw(st.booleans()):
                    data += frame(PING, said)
                    events.append(PingReceived(said))
                    pongs.append((PONG, said))
                else:
                    data += frame(PONG, said)
                    events.append(PongReceived(said))
        events.append(message)
    return data, events, pongs


@given(conversation=conversations(), points=st.lists(st.integers(0, 1000), max_size=12))
@settings(max_examples=300, deadline=None, database=None)
def test_any_conversation_cut_at_random_is_understood(
    conversation: tuple[bytes, list[Any], list[tuple[int, bytes]]], points: list[int]
) -> None:
    data, events, pongs = conversation
    connection = deflating()
    told = []
    for chunk in cut(data, points):
        connection.receive_data(chunk)
        told += drain(connection)
    assert [(type(event), event) for event in told] == [(type(event), event) for event in events]
    assert sent_by(connection) == pongs
    assert connection.state is State.OPEN
    assert not connection.unparsed


FRAMES = st.builds(
    frame,
    st.integers(0, 15) | st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]),
    st.binary(max_size=140) | TEXTS | TEXTS.map(deflated) | st.just(b"\x03\xe8"),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, RSV1, RSV1, 1]),
    mask=st.sampled_from([MASK, MASK, MASK, None]),
)


def verdict(result: Outcome) -> Outcome:
    """The outcome without the words for it: of two errors with one code in the same frame either may be told."""
    sent = [(first, payload[:2] if first & 0x0F == CLOSE else payload) for first, payload in result.sent]
    return result._replace(
        sent=sent, failure=result.failure and "", close_reason="" if result.failure else result.close_reason
    )


@given(
    make=st.sampled_from([server, client, deflating, lambda: server(max_message_size=20)]),
    frames=st.lists(FRAMES, max_size=4),
    noise=st.binary(max_size=8),
    points=st.lists(st.integers(0, 300), max_size=6),
)
@settings(max_examples=500, deadline=None, database=None)
def test_anything_whatever_means_the_same_however_it_is_cut(
    make: Callable[[], Connection], frames: list[bytes], noise: bytes, points: list[int]
) -> None:
    data = b"".join(frames) + noise
    assert verdict(outcome(make(), cut(data, points))) == verdict(outcome(make(), [data]))
