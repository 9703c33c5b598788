"""The numbers that RFC 6455 assigns: opcodes and close codes. Nothing else, and no behaviour."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "Opcode", "is_sendable_close_code"]


class Opcode(IntEnum):
    """What a frame is, RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection was closed, RFC 6455 section 7.4.1 and the IANA registry it set up."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    """The peer's Close frame carried no code. Never sent."""
    ABNORMAL_CLOSURE = 1006
    """The TCP connection ended without a Close frame. Never sent."""
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """The TLS handshake failed. Never sent."""


# 7.4.1: 1005, 1006 and 1015 "MUST NOT be set as a status code in a Close control frame"; 1004 is reserved.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def is_sendable_close_code(code: int) -> bool:
    """Whether `code` may stand in a Close frame: a registered one, or one of 3000-4999 (section 7.4.2)."""
    return code in _SENDABLE or 3000 <= code <= 4999
