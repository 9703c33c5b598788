"""Reading and writing natively: every split of large messages, memory that is used again, and what the system answers."""

from __future__ import annotations

import errno
import gc
import pickle
import random
import select
import socket
import struct
import threading
from typing import Any

import gevent
import gevent.socket
import pytest
from rawclient import BINARY, PING, PONG, TEXT, close_frame, masked

from geventws.native import Stream
from geventws.protocol import CloseReceived, PingReceived
from geventws.protocol.connection import Connection, Role
from geventws.protocol.masking import apply_mask
from geventws.protocol.payload import Payload, let_go
from geventws.transport import GeventTransport

KIB = 1024
KEY = b"\x12\x34\x56\x78"


def frame(opcode: int, payload: bytes, *, fin: bool = True, key: bytes = KEY) -> bytes:
    """As rawclient's, for payloads that are too large for its octet by octet."""
    size = len(payload)
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + key + apply_mask(payload, key)


def octets(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def feed(connection: Connection, *pieces: bytes) -> list[Any]:
    """What comes of the pieces if each is what one read gives, into the message's memory where that is offered."""
    events = []
    for piece in pieces:
        while piece:
            target = connection.target() if connection.expected > 0 else None
            if target is None:
                connection.receive_data(piece)
                piece = b""
            else:
                size = min(len(target), len(piece))
                target[:size] = piece[:size]
                del target
                connection.written(size)
                piece = piece[size:]
            while (event := connection.next_event()) is not None:
                events.append(event)
    return events


def server(limit: int = 8 * KIB * KIB) -> Connection:
    return Connection(Role.SERVER, max_message_size=limit)


# Every split.


@pytest.mark.parametrize(
    "size", [16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 256 * KIB + 1]
)
@pytest.mark.parametrize("align", [0, 1, 2, 3])
def test_a_large_message_is_the_same_wherever_it_is_cut(size: int, align: int) -> None:
    payload = octets(size)
    data = frame(BINARY, payload) + frame(PING, b"p")
    head = len(frame(BINARY, payload)) - size
    for cut in (
        1,
        2,
        head - 4,
        head - 1,
        head,
        head + align,
        head + 4096 + align,
        head + 16 * KIB + align,
        len(data) - 4,
    ):
        if cut >= len(data):
            continue
        for second in (cut + 1, cut + 16 * KIB + align, cut + 64 * KIB - 1, head + size - 1, head + size):
            pieces = [data[:cut], data[cut:second], data[second:]] if second > cut else [data[:cut], data[cut:]]
            assert feed(server(), *pieces) == [payload, PingReceived(b"p")]


def test_large_messages_in_random_pieces_and_fragments_with_control_frames_between() -> None:
    chance = random.Random(5)
    for number in range(60):
        parts = [octets(chance.choice([0, 1, 130, 16 * KIB, 65536, 131072, 262144, 262145]), number) for _ in range(3)]
        data = b"".join(
            frame(BINARY if index == 0 else 0, part, fin=index == 2, key=chance.randbytes(4))
            + frame(PING, b"%d" % index)
            for index, part in enumerate(parts)
        )
        pieces = []
        while data:
            size = chance.choice([1, 3, 14, 4095, 16 * KIB, 65536, 262144])
            pieces.append(data[:size])
            data = data[size:]
        events = feed(server(), *pieces)
        assert [event for event in events if isinstance(event, bytes)] == [b"".join(parts)]
        assert sum(isinstance(event, PingReceived) for event in events) == 3


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("at", [0, 1, 16 * KIB - 1, 64 * KIB - 2, 256 * KIB - 1, 300_000 - 4])
def test_large_text_that_is_not_utf_8_fails_wherever_that_is(wrong: bytes, at: int) -> None:
    text = b"a" * at + wrong + b"a" * (300_000 - at - len(wrong))
    data = frame(TEXT, text)
    for step in (1000, 16 * KIB, 65536, len(data)):
        connection = server()
        assert feed(connection, *(data[start : start + step] for start in range(0, len(data), step))) == []
        assert connection.close_code == 1007


@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_large_text_is_right_with_characters_across_every_boundary(character: str) -> None:
    for shift in range(4):
        text = "a" * shift + character * 70_000
        data = frame(TEXT, text.encode())
        for step in (997, 16 * KIB, 65536, 262144):
            assert feed(server(), *(data[start : start + step] for start in range(0, len(data), step))) == [text]


def test_a_large_message_over_the_limit_is_refused_at_its_header_also_in_fragments() -> None:
    for start in (b"", frame(BINARY, octets(60_000), fin=False)):
        connection = server(limit=100_000)
        header = frame(0 if start else BINARY, bytes(100_001 - (60_000 if start else 0)))[:14]
        assert feed(connection, start, header) == []
        assert connection.close_code == 1009
        assert connection.target() is None


def test_the_end_in_the_middle_of_a_large_message_is_no_message() -> None:
    connection = server()
    assert feed(connection, frame(BINARY, octets(300_000))[:100_000]) == []
    connection.receive_eof()
    assert connection.target() is None
    assert connection.next_event() is None
    assert connection.close_code == 1006


def test_a_close_between_the_fragments_of_a_large_message_is_seen() -> None:
    events = feed(server(), frame(BINARY, octets(300_000), fin=False), close_frame(1000))
    assert events == [CloseReceived(1000, "")]


# Memory that is used again.


def large(size: int, seed: int) -> bytes:
    """A message that came in pieces, as large ones do."""
    data = frame(BINARY, octets(size, seed))
    (message,) = feed(server(), data[:5000], data[5000:])
    return message


@pytest.mark.parametrize("size", [128 * KIB, 256 * KIB, 2048 * KIB])
def test_a_message_that_outgrows_the_memory_of_an_earlier_one_is_whole(size: int) -> None:
    for _ in range(3):
        assert len(large(size, 1)) == size
        # Fragments of that size, of which nobody knows yet how many there are.
        first, second = frame(BINARY, octets(size, 2), fin=False), frame(0, octets(70_000, 3))
        assert feed(server(), first[:14], first[14:20], first[20:], second) == [octets(size, 2) + octets(70_000, 3)]
        # A whole message that is larger.
        data = frame(BINARY, octets(size + 5_000_000, 4))
        assert feed(server(), data[:16000], data[16000:]) == [octets(size + 5_000_000, 4)]
        payload = Payload()
        for more in (size, 1, size):
            room = payload.room(more)
            room[:] = bytes(more)
            del room
            payload.added(more, None)
        assert payload.whole() == bytes(2 * size + 1)
        payload = Payload()
        payload.room(size)
        payload.added(size - 1, None)
        assert len(payload.whole()) == size - 1


def test_a_large_compressed_message_whose_fragments_inflate_to_the_size_of_an_earlier_one_is_whole() -> None:
    size = 200_000
    for _ in range(3):
        payload = Payload()
        payload.add(octets(size, 1))
        assert payload.whole() == octets(size, 1)
        payload = Payload()
        payload.add(octets(size, 2))
        payload.add(octets(100_000, 3))
        assert payload.whole() == octets(size, 2) + octets(100_000, 3)


def test_messages_that_somebody_keeps_are_never_written_over() -> None:
    chance = random.Random(1)
    kept: dict[bytes, tuple[int, int, int]] = {}
    views: list[tuple[memoryview, int, int]] = []
    for seed in range(300):
        size = chance.choice([128 * KIB, 256 * KIB, 300_000])
        message = large(size, seed)
        what = chance.randrange(4)
        if what == 0:
            kept[message] = (hash(message), size, seed)
        elif what == 1:
            views.append((memoryview(message)[chance.randrange(size) :], size, seed))
        elif what == 2:
            assert pickle.loads(pickle.dumps(message)) == octets(size, seed)
        del message
        if seed % 50 == 49:
            for one, (number, had, origin) in kept.items():
                assert (hash(one), one) == (number, octets(had, origin))
                assert kept[octets(had, origin)] == (number, had, origin)
            for view, had, origin in views:
                assert view == octets(had, origin)[had - len(view) :]
            kept.clear()
            views.clear()
            gc.collect()


def test_a_message_has_its_own_hash_though_its_memory_had_another_one() -> None:
    first = large(128 * KIB, 1)
    assert hash(first) == hash(octets(128 * KIB, 1))
    del first
    again = large(128 * KIB, 2)
    assert hash(again) == hash(octets(128 * KIB, 2))
    assert {octets(128 * KIB, 2): "found"}[again] == "found"


def test_messages_handed_to_another_thread_are_not_written_over_while_it_works_on_them() -> None:
    wrong = []
    size = 128 * KIB

    def look(message: bytes, seed: int, go: threading.Event) -> None:
        go.wait(10)
        if message != octets(size, seed):
            wrong.append(seed)

    for seed in range(30):
        go = threading.Event()
        thread = threading.Thread(target=look, args=(large(size, seed), seed, go))
        thread.start()
        large(size, seed + 1000)
        go.set()
        thread.join()
    assert not wrong


def test_memory_that_is_not_used_is_given_back() -> None:
    large(256 * KIB, 1)
    while let_go():
        pass
    assert not let_go()
    assert large(256 * KIB, 2) == octets(256 * KIB, 2)


# What the system answers.


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_nothing_to_read_is_told_from_the_end(pair: Any) -> None:
    ours, theirs = pair
    stream, room = Stream(ours), bytearray(10)
    assert stream.receive(10) is None
    assert stream.receive_into(memoryview(room)) == -1
    theirs.send(b"abc")
    assert stream.receive(2) == b"ab"
    assert stream.receive_into(memoryview(room)) == 1
    theirs.close()
    assert stream.receive(10) == b""
    assert stream.receive_into(memoryview(room)) == 0


def test_memory_that_must_not_be_written_to_is_refused(pair: Any) -> None:
    pair[1].send(b"abc")
    with pytest.raises((BufferError, TypeError)):
        Stream(pair[0]).receive_into(memoryview(b"constant"))
    assert Stream(pair[0]).receive(3) == b"abc"


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_peer_that_is_gone_is_a_broken_pipe(pair: Any, size: int) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError) as caught:
        Stream(ours).send(bytes(size))
    assert caught.value.errno == errno.EPIPE


def test_a_reset_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with ours:
            select.select([ours], [], [], 5)
            with pytest.raises(ConnectionResetError):
                Stream(ours).receive(10)


def test_a_socket_that_was_closed_is_a_bad_descriptor(pair: Any) -> None:
    ours, _ = pair
    stream = Stream(ours)
    ours.close()
    for call in (
        lambda: stream.receive(1),
        lambda: stream.receive_into(memoryview(bytearray(1))),
        lambda: stream.send(b"x"),
    ):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_what_does_not_fit_is_taken_in_part_and_then_not_at_all(pair: Any) -> None:
    stream = Stream(pair[0])
    sent = stream.send(bytes(10_000_000))
    assert 0 < sent < 10_000_000
    assert stream.send(bytes(10_000_000)) == 0
    assert stream.send(memoryview(bytes(100)), True) == 0


# Partial writes.


class Ear:
    def on_readable(self) -> None:
        pass

    def on_closed(self) -> None:
        pass


def test_messages_of_all_sizes_arrive_whole_through_a_socket_that_takes_little() -> None:
    ours, theirs = gevent.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    theirs.settimeout(10)
    transport = GeventTransport(ours, Ear())
    connection = server()
    expected = bytearray()
    chance = random.Random(3)
    got = bytearray()

    def read() -> None:
        while True:
            data = theirs.recv(chance.choice([1, 100, 5000]))
            if not data:
                return
            got.extend(data)

    reader = gevent.spawn(read)
    for number in range(60):
        size = chance.choice([0, 1, 125, 126, 4000, 16 * KIB - 1, 16 * KIB, 32 * KIB, 65535, 65536, 70_000])
        payload = octets(size, number)
        connection.send_message(payload, BINARY)
        client = Connection(Role.SERVER)
        client.send_message(payload, BINARY)
        expected += client.data_to_send()
        while connection.queued:
            data = connection.next_to_send()
            transport.write(data, connection.queued > 0)
        if chance.random() < 0.7:
            transport.drain(10)
    transport.drain(10)
    assert transport.backlog == 0
    transport.finish()
    reader.get(timeout=10)
    assert got == expected
    theirs.close()
    gevent.sleep(0)
    transport.close()


def test_masking_is_what_the_rfc_says_whatever_the_alignment() -> None:
    for size in (*range(20), 1000, 16 * KIB + 3):
        payload = octets(size)
        assert apply_mask(payload, KEY) == masked(payload, KEY)


def test_the_answer_to_a_ping_within_a_large_message_carries_its_payload() -> None:
    connection = server()
    feed(connection, frame(BINARY, octets(100_000), fin=False), frame(PING, b"within"))
    assert connection.data_to_send() == bytes([0x80 | PONG, 6]) + b"within"
