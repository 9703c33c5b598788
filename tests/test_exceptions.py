"""The exceptions: whose fault is in the type, and what follows from it on the object."""

from __future__ import annotations

import pytest

from geventws import exceptions
from geventws.exceptions import (
    ConnectionClosed,
    FrameTooLargeException,
    HandshakeError,
    HandshakeRefused,
    InvalidPayload,
    InvalidState,
    MessageTooBig,
    ProtocolError,
    WebSocketError,
)

PARENTS = [
    (WebSocketError, OSError),
    (HandshakeError, WebSocketError),
    (HandshakeRefused, HandshakeError),
    (ConnectionClosed, WebSocketError),
    (ProtocolError, WebSocketError),
    (InvalidState, WebSocketError),
    (InvalidPayload, ProtocolError),
    (MessageTooBig, ProtocolError),
]


@pytest.mark.parametrize(("error", "parent"), PARENTS)
def test_an_exception_stands_where_the_tree_shows_it(error: type[Exception], parent: type[Exception]) -> None:
    assert error.__bases__ == (parent,)


def test_the_tree_names_every_public_exception() -> None:
    assert {error.__name__ for error, _ in PARENTS} | {"FrameTooLargeException"} == set(exceptions.__all__)


@pytest.mark.parametrize("error", [HandshakeError, ConnectionClosed, InvalidState])
def test_what_is_not_the_peers_fault_is_no_protocol_error(error: type[Exception]) -> None:
    assert not issubclass(error, ProtocolError)


@pytest.mark.parametrize(("error", "code"), [(ProtocolError, 1002), (InvalidPayload, 1007), (MessageTooBig, 1009)])
def test_a_protocol_error_carries_the_code_that_the_connection_fails_with(
    error: type[ProtocolError], code: int
) -> None:
    assert error("why").close_code == code


def test_old_programs_find_the_message_that_is_too_big_by_its_old_name() -> None:
    assert FrameTooLargeException is MessageTooBig


@pytest.mark.parametrize("error", [WebSocketError, ProtocolError, InvalidPayload, MessageTooBig, InvalidState])
def test_an_exception_says_why(error: type[Exception]) -> None:
    assert str(error("why")) == "why"


def test_a_connection_that_just_ended_is_closed_with_1006() -> None:
    error = ConnectionClosed()
    assert (error.code, error.reason) == (1006, "")
    assert str(error) == "the connection is closed: 1006"


def test_a_closed_connection_carries_the_code_and_the_reason() -> None:
    error = ConnectionClosed(4001, "gone home")
    assert (error.code, error.reason) == (4001, "gone home")
    assert str(error) == "the connection is closed: 4001 gone home"


def test_the_code_of_a_closed_connection_is_a_plain_number() -> None:
    assert type(ConnectionClosed(exceptions.CloseCode.GOING_AWAY).code) is int


def test_a_refused_handshake_carries_its_response() -> None:
    error = HandshakeError("426 Upgrade Required", "Version 13 it is.", [("Sec-WebSocket-Version", "13")])
    assert (error.status, str(error)) == ("426 Upgrade Required", "Version 13 it is.")
    assert error.headers == [("Sec-WebSocket-Version", "13")]


def test_a_refused_handshake_has_no_header_fields_of_its_own_unless_told() -> None:
    assert HandshakeError("403 Forbidden", "no").headers == []
