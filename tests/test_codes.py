"""Opcodes and close codes: the numbers, against RFC 6455 and the IANA registry."""

from __future__ import annotations

import pytest

from geventws.codes import CloseCode, Opcode, is_sendable_close_code

OPCODES = {"CONTINUATION": 0x0, "TEXT": 0x1, "BINARY": 0x2, "CLOSE": 0x8, "PING": 0x9, "PONG": 0xA}

# Section 7.4.1, and what the registry has added to it since.
CLOSE_CODES = {
    "NORMAL_CLOSURE": 1000,
    "GOING_AWAY": 1001,
    "PROTOCOL_ERROR": 1002,
    "UNSUPPORTED_DATA": 1003,
    "NO_STATUS_RECEIVED": 1005,
    "ABNORMAL_CLOSURE": 1006,
    "INVALID_PAYLOAD": 1007,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "MANDATORY_EXTENSION": 1010,
    "INTERNAL_ERROR": 1011,
    "SERVICE_RESTART": 1012,
    "TRY_AGAIN_LATER": 1013,
    "BAD_GATEWAY": 1014,
    "TLS_HANDSHAKE": 1015,
}


def may_be_sent(code: int) -> bool:
    """The rule in one line: 1004 is reserved, 1005, 1006 and 1015 are never sent, 3000-4999 are everybody's."""
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


def test_the_opcodes_are_those_of_section_5_2() -> None:
    assert {opcode.name: opcode.value for opcode in Opcode} == OPCODES


def test_the_close_codes_are_the_registered_ones() -> None:
    assert {code.name: code.value for code in CloseCode} == CLOSE_CODES


def test_every_code_up_to_5000_may_be_sent_or_not_as_the_rule_says() -> None:
    assert [code for code in range(5001) if is_sendable_close_code(code) != may_be_sent(code)] == []


@pytest.mark.parametrize("code", [-1, 5000, 9999, 65535, 65536 + 1000])
def test_what_lies_outside_of_every_range_may_not_be_sent(code: int) -> None:
    assert not is_sendable_close_code(code)


@pytest.mark.parametrize("code", [CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE])
def test_codes_that_only_stand_for_something_may_not_be_sent(code: CloseCode) -> None:
    assert not is_sendable_close_code(code)
