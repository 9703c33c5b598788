"""One endpoint of an open connection, and two of them as a pair: messages, pings, the closing handshake, failing. Either role.

How input is cut is tested in `test_connection_splits`, sizes and memory in `test_connection_limits`, and the cases of the
conformance suite in `test_conformance`.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any

import pytest
from protocol.endpoints import (
    FIN,
    RSV1,
    Compressor,
    Pair,
    client,
    close_codes,
    deflated,
    deflating,
    drain,
    events_of,
    octets,
    outcome,
    parameters,
    seen,
    sent_by,
    server,
)
from rawclient import BINARY, CLOSE, MASK, PING, PONG, TEXT, close_frame, frame

from geventws.exceptions import ConnectionClosed, InvalidPayload, InvalidState, MessageTooBig, ProtocolError
from geventws.protocol import CloseReceived, Connection, PingReceived, PongReceived, Role, State
from geventws.protocol.deflate import Agreement, Deflate, DeflateOptions, agree, confirm, offer

CONTINUATION = 0
ROLES = [Role.SERVER, Role.CLIENT]

each_role = pytest.mark.parametrize("role", ROLES, ids=["server", "client"])


def peer_frame(role: Role, opcode: int, payload: bytes | str = b"", **options: Any) -> bytes:
    """A frame as the peer of an endpoint with `role` sends it."""
    return frame(opcode, payload, mask=MASK if role is Role.SERVER else None, **options)


def peer_close(role: Role, payload: bytes) -> bytes:
    return peer_frame(role, CLOSE, payload)


def code(number: int, reason: bytes = b"") -> bytes:
    """The payload of a Close frame."""
    return struct.pack("!H", number) + reason


def assert_failed(connection: Connection, close_code: int) -> None:
    """The peer has been told so, once, and nothing more is to be read."""
    assert connection.failure is not None
    assert connection.failure.close_code == close_code
    assert connection.close_code == close_code
    assert connection.close_reason == str(connection.failure)
    assert connection.over
    assert connection.state is State.CLOSING
    ((opcode, payload),) = sent_by(connection)
    assert opcode == CLOSE
    assert payload == code(close_code, str(connection.failure).encode()[:123])


# Messages.


@each_role
def test_an_endpoint_is_open_and_silent_at_first(role: Role) -> None:
    connection = Connection(role)
    assert connection.state is State.OPEN
    assert not connection.over
    assert not connection.unparsed
    assert connection.close_code is None
    assert connection.next_event() is None
    assert connection.data_to_send() == b""


@each_role
@pytest.mark.parametrize(("opcode", "message"), [(TEXT, "Wär's?"), (TEXT, ""), (BINARY, b"\xff\x00"), (BINARY, b"")])
def test_a_message_is_received_with_its_type(role: Role, opcode: int, message: str | bytes) -> None:
    connection = Connection(role)
    (event,) = events_of(connection, peer_frame(role, opcode, message))
    assert event == message
    assert type(event) is type(message)
    assert connection.data_to_send() == b""


@each_role
def test_fragments_are_received_as_one_message(role: Role) -> None:
    fragments = [
        peer_frame(role, TEXT, b"W\xc3", fin=False),
        peer_frame(role, CONTINUATION, b"", fin=False),
        peer_frame(role, CONTINUATION, b"\xa4r", fin=False),
        peer_frame(role, CONTINUATION, b"'s"),
    ]
    assert events_of(Connection(role), *fragments) == ["Wär's"]


def test_messages_are_received_in_their_order_and_counted() -> None:
    connection = server()
    data = (
        frame(TEXT, "1") + frame(BINARY, b"2", fin=False) + frame(CONTINUATION, b"3") + frame(PING) + frame(TEXT, "4")
    )
    assert events_of(connection, data) == ["1", b"23", PingReceived(b""), "4"]
    assert connection.messages_received == 3


def test_messages_wait_until_they_are_asked_for() -> None:
    connection = server()
    connection.receive_data(frame(TEXT, "1") + frame(TEXT, "2"))
    connection.receive_data(frame(TEXT, "3"))
    assert drain(connection) == ["1", "2", "3"]


def test_what_has_not_been_looked_at_is_known() -> None:
    connection = server()
    connection.receive_data(frame(TEXT, "1") + frame(TEXT, "2")[:3])
    assert connection.unparsed
    assert connection.next_event() == "1"
    assert connection.unparsed
    assert connection.next_event() is None
    connection.receive_data(frame(TEXT, "2")[3:])
    assert connection.next_event() == "2"
    assert not connection.unparsed


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_server_sends_a_message_in_one_frame_without_a_mask(opcode: int, size: int) -> None:
    connection = server()
    connection.send_message(b"x" * size, opcode)
    assert seen(connection.data_to_send()) == [(FIN | opcode, b"x" * size, None)]
    assert connection.messages_sent == 1


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_client_sends_a_message_in_one_frame_with_a_mask(opcode: int, size: int) -> None:
    connection = client()
    connection.send_message(b"x" * size, opcode)
    (sent,) = seen(connection.data_to_send())
    assert (sent.first, sent.payload) == (FIN | opcode, b"x" * size)
    assert sent.key is not None


@pytest.mark.parametrize("of", [server, client])
@pytest.mark.parametrize("text", ["", "x", "é" * 62 + "x", "é" * 63, "x" * 32767, "x" * 32768, "€" * 32767])
def test_text_is_sent_as_its_utf_8_would_be(of: Callable[[], Connection], text: str) -> None:
    connection = of()
    connection.send_text(text)
    assert sent_by(connection) == [(TEXT, text.encode())]
    assert connection.messages_sent == 1
    assert connection.queued == 0


@pytest.mark.parametrize("text", ["\ud800", "x" * 40000 + "\ud800"])
def test_text_that_has_no_utf_8_is_not_sent_and_the_connection_lives(text: str) -> None:
    connection = server()
    with pytest.raises(UnicodeEncodeError):
        connection.send_text(text)
    assert connection.messages_sent == 0
    connection.send_text("next")
    assert sent_by(connection) == [(TEXT, b"next")]


def test_a_client_masks_every_frame_with_a_new_key() -> None:
    connection = client()
    for _ in range(20):
        connection.send_message(b"the same", TEXT)
        connection.send_ping(b"again")
    connection.receive_data(frame(PING, b"x", mask=None))
    drain(connection)
    connection.close()
    keys = [sent.key for sent in seen(connection.data_to_send())]
    assert len(keys) == 42
    assert None not in keys
    assert len(set(keys)) == 42


def test_what_is_sent_leaves_once_and_in_order() -> None:
    connection = server()
    connection.send_message(b"1", TEXT)
    connection.receive_data(frame(PING, b"2"))
    drain(connection)
    connection.send_message(b"3", BINARY)
    connection.close(1001, "4")
    assert sent_by(connection) == [(TEXT, b"1"), (PONG, b"2"), (BINARY, b"3"), (CLOSE, code(1001, b"4"))]
    assert connection.data_to_send() == b""


def test_a_pair_understands_each_other() -> None:
    pair = Pair(server(), client())
    for size in (0, 5, 125, 126, 65535, 65536):
        pair.client.send_message(b"c" * size, TEXT)
        pair.server.send_message(b"s" * size, BINARY)
    told_server, told_client = pair.exchange()
    assert [len(message) for message in told_server] == [len(message) for message in told_client]
    assert set("".join(told_server)) == {"c"}
    assert set(b"".join(told_client)) == {ord("s")}


# Masks.


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_server_refuses_a_frame_that_is_not_masked(opcode: int) -> None:
    connection = server()
    assert events_of(connection, frame(opcode, mask=None)) == []
    assert_failed(connection, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_a_client_refuses_a_frame_that_is_masked(opcode: int) -> None:
    connection = client()
    assert events_of(connection, frame(opcode)) == []
    assert_failed_as_client(connection)


def assert_failed_as_client(connection: Connection) -> None:
    assert connection.over
    (sent,) = seen(connection.data_to_send())
    assert sent.opcode == CLOSE
    assert sent.payload[:2] == code(1002)
    assert sent.key is not None


def test_a_server_refuses_a_fragment_that_is_not_masked_after_one_that_is() -> None:
    connection = server()
    assert events_of(connection, frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b", mask=None)) == []
    assert_failed(connection, 1002)


# Pings and pongs.


@each_role
@pytest.mark.parametrize("payload", [b"", b"payload", b"\x00\xff\xfe", bytes(125)])
def test_a_ping_is_answered_with_the_same_payload(role: Role, payload: bytes) -> None:
    connection = Connection(role)
    (event,) = events_of(connection, peer_frame(role, PING, payload))
    assert isinstance(event, PingReceived)
    assert event.payload == payload
    assert sent_by(connection) == [(PONG, payload)]


def test_every_ping_is_answered_in_order() -> None:
    connection = server()
    events_of(connection, b"".join(frame(PING, str(number)) for number in range(50)))
    assert sent_by(connection) == [(PONG, str(number).encode()) for number in range(50)]


@each_role
@pytest.mark.parametrize("payload", [b"", b"payload"])
def test_a_pong_is_told_and_not_answered(role: Role, payload: bytes) -> None:
    connection = Connection(role)
    (event,) = events_of(connection, peer_frame(role, PONG, payload))
    assert isinstance(event, PongReceived)
    assert event.payload == payload
    assert connection.data_to_send() == b""


def test_a_ping_between_fragments_is_answered_before_the_message_is_complete() -> None:
    connection = server()
    assert events_of(connection, frame(TEXT, "a", fin=False), frame(PING, b"x")) == [PingReceived(b"x")]
    assert sent_by(connection) == [(PONG, b"x")]
    assert events_of(connection, frame(CONTINUATION, "b")) == ["ab"]


def test_pings_of_both_sides_are_answered() -> None:
    pair = Pair(server(), client())
    pair.server.send_ping(b"from the server")
    pair.client.send_ping(b"from the client")
    pair.client.send_pong(b"for nothing")
    told_server, told_client = pair.exchange()
    assert [(type(event), event.payload) for event in told_server] == [
        (PingReceived, b"from the client"),
        (PongReceived, b"for nothing"),
        (PongReceived, b"from the server"),
    ]
    assert sorted(type(event).__name__ for event in told_client) == ["PingReceived", "PongReceived"]


@each_role
@pytest.mark.parametrize("name", ["send_ping", "send_pong"])
def test_a_ping_of_more_than_125_octets_is_not_sent_and_the_connection_lives(role: Role, name: str) -> None:
    connection = Connection(role)
    with pytest.raises(ValueError, match="at most 125 bytes; got 126"):
        getattr(connection, name)(bytes(126))
    assert connection.data_to_send() == b""
    getattr(connection, name)(bytes(125))
    assert [len(payload) for _, payload in sent_by(connection)] == [125]


# The closing handshake.


@pytest.mark.parametrize("starter", ROLES, ids=["the server", "the client"])
@pytest.mark.parametrize(
    ("close", "told"), [((), (1000, "")), ((4999, "Ende ¾"), (4999, "Ende ¾")), ((None,), (1005, ""))]
)
def test_either_side_may_start_the_closing_handshake(
    starter: Role, close: tuple[Any, ...], told: tuple[int, str]
) -> None:
    pair = Pair(server(), client())
    first, second = (pair.server, pair.client) if starter is Role.SERVER else (pair.client, pair.server)
    first.close(*close)
    assert (first.state, first.over, first.close_code) == (State.CLOSING, False, None)
    told_server, told_client = pair.exchange()
    told_first, told_second = (told_server, told_client) if first is pair.server else (told_client, told_server)
    assert told_second == [CloseReceived(*told)]
    # The answer repeats the code, and not the reason.
    assert told_first == [CloseReceived(told[0], "")]
    for endpoint in (first, second):
        assert endpoint.state is State.CLOSING
        assert endpoint.over
        assert endpoint.close_sent
        assert endpoint.close_received
        assert endpoint.close_code == told[0]
        assert endpoint.failure is None
    assert (first.close_reason, second.close_reason) == ("", told[1])


def test_both_sides_may_start_the_closing_handshake_at_once() -> None:
    pair = Pair(server(), client())
    pair.server.close(1001, "shutting down")
    pair.client.close(4000, "leaving")
    assert pair.exchange() == ([CloseReceived(4000, "leaving")], [CloseReceived(1001, "shutting down")])
    assert (pair.server.close_code, pair.server.close_reason) == (4000, "leaving")
    assert (pair.client.close_code, pair.client.close_reason) == (1001, "shutting down")
    assert pair.server.over
    assert pair.client.over


@pytest.mark.parametrize("number", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code(number: int) -> None:
    connection = server()
    assert events_of(connection, close_frame(number, "why")) == [CloseReceived(number, "why")]
    assert sent_by(connection) == [(CLOSE, code(number))]
    assert (connection.close_code, connection.close_reason) == (number, "why")


def test_a_close_without_a_code_is_answered_without_one() -> None:
    connection = server()
    assert events_of(connection, close_frame()) == [CloseReceived(1005, "")]
    assert sent_by(connection) == [(CLOSE, b"")]


def test_of_all_codes_those_that_may_not_be_sent_are_refused() -> None:
    for number in [*range(5001), 65535]:
        connection = server()
        events = events_of(connection, close_frame(number))
        good = (1000 <= number <= 1014 and number not in (1004, 1005, 1006)) or 3000 <= number <= 4999
        assert events == ([CloseReceived(number, "")] if good else []), number
        assert close_codes(connection) == [number if good else 1002], number


@each_role
def test_a_close_with_a_payload_of_one_octet_is_refused(role: Role) -> None:
    connection = Connection(role)
    assert events_of(connection, peer_close(role, b"\x03")) == []
    assert_failed(connection, 1002)


@pytest.mark.parametrize(
    "reason",
    [b"\xff", b"fine \xce\xba\xe1\xbd\xb9\xed\xa0\x80", b"cut off \xe2\x82", b"\xc0\xaf"],
    ids=["octet ff", "a surrogate", "inside a character", "overlong"],
)
def test_a_reason_that_is_not_utf_8_is_refused(reason: bytes) -> None:
    connection = server()
    assert events_of(connection, frame(CLOSE, code(1000, reason))) == []
    assert close_codes(connection) in ([1007], [1002])
    assert connection.over


@pytest.mark.parametrize("reason", ["x" * 123, "é" * 61 + "x", "🂡" * 30 + "xyz"])
def test_a_reason_of_123_octets_is_the_longest_that_is_received(reason: str) -> None:
    assert events_of(server(), close_frame(1000, reason)) == [CloseReceived(1000, reason)]
    connection = server()
    assert events_of(connection, close_frame(1000, reason + "x")) == []
    assert_failed(connection, 1002)


def test_a_close_that_is_fragmented_is_refused() -> None:
    connection = server()
    assert events_of(connection, frame(CLOSE, code(1000), fin=False)) == []
    assert_failed(connection, 1002)


def test_a_close_ends_a_message_under_way() -> None:
    connection = server()
    data = frame(TEXT, "a", fin=False) + close_frame(1000) + frame(CONTINUATION, "b")
    assert events_of(connection, data) == [CloseReceived(1000, "")]
    assert close_codes(connection) == [1000]


@pytest.mark.parametrize(
    "behind",
    [
        close_frame(4000, "again"),
        close_frame(),
        frame(PING, b"x"),
        frame(PONG, b"x"),
        frame(TEXT, "x"),
        frame(TEXT, "x", fin=False),
        frame(CONTINUATION, "x"),
        b"\xff\xff\xff",
        frame(TEXT, b"\xff"),
        frame(TEXT, "x", mask=None),
    ],
    ids=[
        "a Close",
        "an empty Close",
        "a ping",
        "a pong",
        "a text",
        "a fragment",
        "its end",
        "nonsense",
        "no UTF-8",
        "no mask",
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one read", "in the next read"])
def test_what_comes_behind_a_close_is_ignored(behind: bytes, together: bool) -> None:
    connection = server()
    chunks = [close_frame(1000, "bye") + behind] if together else [close_frame(1000, "bye"), behind]
    assert events_of(connection, *chunks) == [CloseReceived(1000, "bye")]
    assert sent_by(connection) == [(CLOSE, code(1000))]
    assert (connection.close_code, connection.close_reason) == (1000, "bye")
    assert connection.failure is None


@pytest.mark.parametrize(
    "behind", [close_frame(4000), frame(TEXT, "x"), frame(PING), b"\xff\xff", frame(TEXT, b"\xff")]
)
@pytest.mark.parametrize("together", [True, False], ids=["in one read", "in the next read"])
def test_what_comes_behind_an_error_is_ignored(behind: bytes, together: bool) -> None:
    wrong = frame(3)
    connection = server()
    assert events_of(connection, *([wrong + behind] if together else [wrong, behind])) == []
    assert_failed(connection, 1002)
    assert "opcode 0x3" in connection.close_reason


@pytest.mark.parametrize(
    "behind", [close_frame(4000), frame(TEXT, "x"), frame(PING), b"\xff\xff", frame(TEXT, b"\xff")]
)
def test_what_comes_behind_the_end_of_tcp_is_ignored(behind: bytes) -> None:
    connection = server()
    connection.receive_eof()
    assert events_of(connection, behind) == []
    assert connection.data_to_send() == b""
    assert (connection.state, connection.close_code) == (State.CLOSED, 1006)


def test_messages_that_cross_our_close_are_dropped_until_the_answer() -> None:
    connection = server()
    connection.close(1001)
    assert close_codes(connection) == [1001]
    data = (
        frame(TEXT, "1")
        + frame(BINARY, b"2", fin=False)
        + frame(PING, b"x")
        + frame(CONTINUATION, b"3")
        + frame(PONG, b"y")
        + close_frame(4000, "ok")
    )
    assert [event for event in events_of(connection, data) if not isinstance(event, PongReceived)] == [
        CloseReceived(4000, "ok")
    ]
    assert connection.data_to_send() == b""
    assert connection.over
    assert connection.messages_received == 0


def test_a_message_that_began_before_our_close_is_dropped() -> None:
    connection = server()
    assert events_of(connection, frame(TEXT, "a", fin=False)) == []
    connection.close()
    assert events_of(connection, frame(CONTINUATION, "b") + close_frame(1000)) == [CloseReceived(1000, "")]


def test_compressed_messages_that_cross_our_close_are_dropped() -> None:
    connection = deflating()
    connection.close()
    data = frame(TEXT, deflated("abc"), rsv=RSV1) + close_frame(1000)
    assert events_of(connection, data) == [CloseReceived(1000, "")]


def test_no_pong_is_sent_behind_our_close() -> None:
    connection = server()
    connection.close()
    assert close_codes(connection) == [1000]
    assert events_of(connection, frame(PING, b"x")) == []
    assert connection.data_to_send() == b""


def test_a_peer_that_breaks_the_protocol_behind_our_close_is_not_sent_another() -> None:
    connection = server()
    connection.close()
    assert close_codes(connection) == [1000]
    events_of(connection, frame(3))
    assert connection.data_to_send() == b""
    assert connection.over
    assert connection.close_code == 1002


@pytest.mark.parametrize("make", [server, deflating, lambda: server(max_message_size=3)])
@pytest.mark.parametrize(
    "crossing",
    [
        frame(TEXT, "abc"),
        frame(TEXT, "abcd"),
        frame(TEXT, b"\xff"),
        frame(TEXT, b"a\xe2"),
        frame(TEXT, "a", fin=False) + frame(CONTINUATION, b"\xff"),
        frame(BINARY, deflated("abc"), rsv=RSV1),
        frame(TEXT, deflated(b"\xff"), rsv=RSV1),
        frame(PING, "x") + frame(PONG, "y"),
        frame(3),
    ],
)
def test_what_crosses_our_close_is_judged_alike_however_it_comes(
    make: Callable[[], Connection], crossing: bytes
) -> None:
    data = crossing + close_frame(4000, "bye")
    outcomes = []
    for chunks in ([data], octets(data), [crossing, close_frame(4000, "bye")]):
        connection = make()
        connection.close(1001)
        outcomes.append(outcome(connection, chunks))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0].sent == [(FIN | CLOSE, code(1001))]


# Sending on a connection that is closing.


def closed_in_every_way() -> dict[str, Connection]:
    connections = {name: server() for name in ("we closed", "the peer closed", "it failed", "TCP ended")}
    connections["we closed"].close(4000, "enough")
    events_of(connections["the peer closed"], close_frame(4000, "enough"))
    events_of(connections["it failed"], frame(3))
    connections["TCP ended"].receive_eof()
    return connections


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("we closed", (4000, "enough")),
        ("the peer closed", (4000, "enough")),
        ("it failed", (1002, "opcode 0x3 is reserved")),
        ("TCP ended", (1006, "")),
    ],
)
def test_on_a_connection_that_is_closing_nothing_more_is_sent(way: str, told: tuple[int, str]) -> None:
    connection = closed_in_every_way()[way]
    connection.data_to_send()
    for send in (
        lambda: connection.send_message(b"x", TEXT),
        lambda: connection.send_text("x"),
        lambda: connection.send_text("x" * 40000),
        lambda: connection.send_ping(),
        lambda: connection.send_pong(),
        lambda: connection.send_ping(bytes(126)),
        lambda: connection.close(),
    ):
        with pytest.raises(ConnectionClosed) as caught:
            send()
        assert (caught.value.code, caught.value.reason) == told
    assert connection.data_to_send() == b""
    assert connection.messages_sent == 0


@pytest.mark.parametrize("number", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, 65536])
def test_a_code_that_may_not_be_sent_is_the_callers_mistake_and_the_connection_lives(number: int) -> None:
    connection = server()
    with pytest.raises(ValueError, match=f"^{number} is not a close code that may be sent"):
        connection.close(number)
    assert connection.state is State.OPEN
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62, "🂡" * 31])
def test_a_reason_of_more_than_123_octets_is_the_callers_mistake_and_the_connection_lives(reason: str) -> None:
    connection = server()
    with pytest.raises(ValueError, match="at most 123 bytes"):
        connection.close(1000, reason)
    assert connection.state is State.OPEN
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("reason", ["", "x" * 123, "é" * 61 + "x"])
def test_a_reason_of_123_octets_is_sent(reason: str) -> None:
    connection = server()
    connection.close(3000, reason)
    assert sent_by(connection) == [(CLOSE, code(3000, reason.encode()))]


def test_a_reason_without_a_code_is_the_callers_mistake() -> None:
    connection = server()
    with pytest.raises(ValueError, match="needs a code"):
        connection.close(None, "why")
    assert connection.state is State.OPEN


def test_a_reason_that_is_not_unicode_is_the_callers_mistake_and_the_connection_lives() -> None:
    connection = server()
    with pytest.raises(ValueError, match="surrogates"):
        connection.close(1000, "\ud800")
    assert connection.state is State.OPEN
    assert connection.data_to_send() == b""


# The end of TCP.


def test_tcp_that_just_ends_closes_with_1006() -> None:
    connection = server()
    connection.receive_data(frame(TEXT, "not the whole")[:8])
    drain(connection)
    connection.receive_eof()
    assert (connection.state, connection.close_code, connection.close_reason) == (State.CLOSED, 1006, "")
    assert connection.over
    assert not connection.unparsed


def test_tcp_that_ends_without_an_answer_to_our_close_closes_with_1006() -> None:
    connection = server()
    connection.close(1001)
    connection.receive_eof()
    assert (connection.state, connection.close_code) == (State.CLOSED, 1006)


@pytest.mark.parametrize(("data", "number"), [(close_frame(4000), 4000), (close_frame(), 1005), (frame(3), 1002)])
def test_tcp_that_ends_afterwards_changes_nothing_about_the_reason(data: bytes, number: int) -> None:
    connection = server()
    events_of(connection, data)
    connection.receive_eof()
    assert (connection.state, connection.close_code) == (State.CLOSED, number)


def test_tcp_may_end_again() -> None:
    connection = server()
    connection.receive_eof()
    connection.receive_eof()
    assert connection.state is State.CLOSED


# Failing.

# What is wrong with every endpoint: the frames as (opcode, payload, options), the code.
WRONG: dict[str, tuple[list[tuple[int, bytes, dict[str, Any]]], int]] = {
    **{f"RSV {rsv}": ([(TEXT, b"x", {"rsv": rsv})], 1002) for rsv in range(1, 8)},
    **{f"a binary with RSV {rsv}": ([(BINARY, b"", {"rsv": rsv})], 1002) for rsv in range(1, 8)},
    **{f"a ping with RSV {rsv}": ([(PING, b"", {"rsv": rsv})], 1002) for rsv in range(1, 8)},
    **{f"a Close with RSV {rsv}": ([(CLOSE, b"", {"rsv": rsv})], 1002) for rsv in range(1, 8)},
    **{f"opcode {opcode:#x}": ([(opcode, b"", {})], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping in fragments": ([(PING, b"", {"fin": False})], 1002),
    "a pong in fragments": ([(PONG, b"", {"fin": False})], 1002),
    "a Close in fragments": ([(CLOSE, b"", {"fin": False})], 1002),
    "a ping of 126 octets": ([(PING, bytes(126), {})], 1002),
    "a pong of 126 octets": ([(PONG, bytes(126), {})], 1002),
    "a ping of 64 KiB": ([(PING, bytes(65536), {})], 1002),
    "a continuation of nothing": ([(CONTINUATION, b"x", {})], 1002),
    "a first fragment that continues nothing": ([(CONTINUATION, b"x", {"fin": False})], 1002),
    "a text within a text": ([(TEXT, b"a", {"fin": False}), (TEXT, b"b", {})], 1002),
    "a binary within a text": ([(TEXT, b"a", {"fin": False}), (BINARY, b"b", {"fin": False})], 1002),
    "RSV1 on a continuation": ([(TEXT, b"a", {"fin": False}), (CONTINUATION, b"b", {"rsv": 4})], 1002),
    "text that is not UTF-8": ([(TEXT, b"a\xff", {})], 1007),
    "text that ends inside a character": ([(TEXT, b"a\xe2\x82", {})], 1007),
    "fragments of text that are not UTF-8": ([(TEXT, b"a\xe2", {"fin": False}), (CONTINUATION, b"(", {})], 1007),
    "fragments that end inside a character": ([(TEXT, b"a\xe2", {"fin": False}), (CONTINUATION, b"\x82", {})], 1007),
}


@each_role
@pytest.mark.parametrize(("frames", "number"), WRONG.values(), ids=WRONG)
def test_a_peer_that_breaks_the_protocol_makes_the_connection_fail(
    role: Role, frames: list[tuple[int, bytes, dict[str, Any]]], number: int
) -> None:
    connection = Connection(role)
    data = b"".join(peer_frame(role, opcode, payload, **options) for opcode, payload, options in frames)
    assert events_of(connection, data) == []
    assert_failed(connection, number)


@each_role
def test_what_came_before_the_error_is_told(role: Role) -> None:
    connection = Connection(role)
    data = peer_frame(role, TEXT, "fine") + peer_frame(role, PING, b"x") + peer_frame(role, 3) + peer_frame(role, PING)
    assert events_of(connection, data) == ["fine", PingReceived(b"x")]
    assert [opcode for opcode, _ in sent_by(connection)] == [PONG, CLOSE]


def test_what_was_sent_before_the_error_leaves_before_the_close() -> None:
    connection = server()
    connection.send_message(b"first", TEXT)
    events_of(connection, frame(3))
    assert [opcode for opcode, _ in sent_by(connection)] == [TEXT, CLOSE]


@pytest.mark.parametrize(
    ("data", "error"),
    [(frame(3), ProtocolError), (frame(TEXT, b"\xff"), InvalidPayload), (frame(TEXT, "x" * 11), MessageTooBig)],
)
def test_what_the_peer_did_wrong_is_kept(data: bytes, error: type[ProtocolError]) -> None:
    connection = server(max_message_size=10)
    events_of(connection, data)
    assert type(connection.failure) is error


def test_the_callers_mistakes_are_no_protocol_errors() -> None:
    assert not issubclass(InvalidState, ProtocolError)
    assert not issubclass(ConnectionClosed, ProtocolError)


# Compression.


def test_a_compressed_message_is_received() -> None:
    connection = deflating()
    data = frame(TEXT, deflated("Hello"), rsv=RSV1) + frame(BINARY, Compressor()(b"\xff" * 99), rsv=RSV1)
    assert events_of(connection, data) == ["Hello", b"\xff" * 99]
    assert connection.messages_received == 2


def test_a_compressed_message_may_be_cut_into_fragments_anywhere() -> None:
    payload = deflated("Hello, Hello, Hello!")
    for first, second in itertools.combinations_with_replacement(range(len(payload) + 1), 2):
        data = (
            frame(TEXT, payload[:first], rsv=RSV1, fin=False)
            + frame(CONTINUATION, payload[first:second], fin=False)
            + frame(PING)
            + frame(CONTINUATION, payload[second:])
        )
        assert events_of(deflating(), data) == [PingReceived(b""), "Hello, Hello, Hello!"]


@pytest.mark.parametrize("plain", [[frame(TEXT, "plain")], [frame(TEXT, "pl", fin=False), frame(CONTINUATION, "ain")]])
def test_compressed_and_plain_messages_may_follow_each_other(plain: list[bytes]) -> None:
    compressor, connection = Compressor(), deflating()
    for _ in range(3):
        compressed = frame(TEXT, compressor("compressed"), rsv=RSV1)
        assert events_of(connection, compressed, *plain) == ["compressed", "plain"]


@pytest.mark.parametrize("empty", [frame(TEXT, b"\x00", rsv=RSV1), frame(TEXT)], ids=["compressed", "plain"])
def test_an_empty_message_may_come_between_compressed_ones(empty: bytes) -> None:
    compressor, connection = Compressor(), deflating()
    for _ in range(3):
        assert events_of(connection, frame(TEXT, compressor("Hello"), rsv=RSV1), empty) == ["Hello", ""]


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, rsv=RSV1),
        frame(PONG, rsv=RSV1),
        frame(CLOSE, rsv=RSV1),
        frame(CONTINUATION, rsv=RSV1),
        frame(TEXT, b"\x00", rsv=RSV1, fin=False) + frame(CONTINUATION, rsv=RSV1),
        frame(TEXT, "a", fin=False) + frame(CONTINUATION, deflated("b"), rsv=RSV1),
        frame(TEXT, deflated("x"), rsv=RSV1 | 2),
        frame(TEXT, deflated("x"), rsv=RSV1 | 1),
        frame(TEXT, deflated("x"), rsv=1),
    ],
)
def test_rsv1_means_compression_on_a_messages_first_frame_and_nowhere_else(data: bytes) -> None:
    connection = deflating()
    assert events_of(connection, data) == []
    assert_failed(connection, 1002)


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"\x06", rsv=RSV1),
        frame(BINARY, b"\xff" * 9, rsv=RSV1),
        frame(TEXT, b"\xff", rsv=RSV1, fin=False),
        frame(TEXT, deflated(b"a\xff"), rsv=RSV1),
        frame(TEXT, deflated(b"a\xe2\x82"), rsv=RSV1),
        frame(TEXT, deflated("fine"), rsv=RSV1, fin=False) + frame(CONTINUATION, b"\xff"),
    ],
)
def test_what_does_not_inflate_or_is_not_utf_8_then_fails_with_1007(data: bytes) -> None:
    connection = deflating()
    assert events_of(connection, data) == []
    assert_failed(connection, 1007)


@each_role
@pytest.mark.parametrize(
    ("size", "first"), [(0, FIN | TEXT), (9, FIN | TEXT), (10, FIN | 0x40 | TEXT), (99, FIN | 0x40 | TEXT)]
)
def test_messages_from_the_threshold_on_are_compressed(role: Role, size: int, first: int) -> None:
    connection = deflating(role=role, threshold=10)
    connection.send_message(b"x" * size, TEXT)
    (sent,) = seen(connection.data_to_send())
    assert sent.first == first
    assert (sent.key is None) is (role is Role.SERVER)


def test_control_frames_are_never_compressed() -> None:
    connection = deflating(threshold=0)
    connection.send_ping(b"x" * 100)
    connection.send_pong(b"x" * 100)
    connection.close(1000, "x" * 100)
    assert [sent.first for sent in seen(connection.data_to_send())] == [FIN | PING, FIN | PONG, FIN | CLOSE]


SWITCHES = [False, True]
BITS = [9, 15]
SETTINGS = [
    DeflateOptions(server, client, server_fresh, client_fresh, threshold=0)
    for server, client, server_fresh, client_fresh in itertools.product(BITS, BITS, SWITCHES, SWITCHES)
]


def negotiated(server_options: DeflateOptions, client_options: DeflateOptions) -> tuple[Pair, Agreement]:
    """A pair that has agreed on what their options lead to, and the server's view of it."""
    agreed = agree(parameters(offer(client_options))[1:], server_options)
    assert agreed is not None
    confirmed = confirm(parameters(agreed[1])[1:], client_options)
    ours = Connection(Role.SERVER, deflate=Deflate(agreed[0], server_options, server=True))
    theirs = Connection(Role.CLIENT, deflate=Deflate(confirmed, client_options, server=False))
    return Pair(ours, theirs), agreed[0]


@pytest.mark.parametrize("client_options", SETTINGS)
def test_a_pair_compresses_both_ways_whatever_both_sides_want(client_options: DeflateOptions) -> None:
    messages = ["Hello", "Hello", "", "tick tock " * 300, "Hello", "tick tock " * 300]
    for server_options in SETTINGS:
        pair, _ = negotiated(server_options, client_options)
        for message in messages:
            pair.server.send_message(message.encode(), TEXT)
            pair.client.send_text(message)
        assert pair.exchange() == (messages, messages)
        pair.client.close()
        assert pair.exchange() == ([CloseReceived(1000, "")], [CloseReceived(1000, "")])


@pytest.mark.parametrize("server_fresh", SWITCHES)
@pytest.mark.parametrize("client_fresh", SWITCHES)
def test_the_context_is_taken_over_unless_agreed_otherwise(server_fresh: bool, client_fresh: bool) -> None:
    options = DeflateOptions(15, 15, server_fresh, client_fresh, threshold=0)
    pair, agreement = negotiated(options, DeflateOptions(15, 15, threshold=0))
    assert agreement == Agreement(server_fresh, client_fresh)
    for endpoint, fresh in ((pair.server, server_fresh), (pair.client, client_fresh)):
        sizes = []
        for _ in range(3):
            endpoint.send_message(b"Once upon a time there was a message.", TEXT)
            sizes.append(len(seen(endpoint.data_to_send())[0].payload))
        assert (sizes[1] == sizes[0]) is fresh
        assert (sizes[1] < sizes[0] // 3) is not fresh
