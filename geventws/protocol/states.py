"""The states of a connection and what leads from one to the next, RFC 6455 sections 4 and 7. A table, and its reader."""

from __future__ import annotations

from enum import Enum, IntEnum

from ..exceptions import InvalidState

__all__ = ["TRANSITIONS", "Event", "State", "next_state"]


class State(IntEnum):
    """Where a connection stands. The numbers are those of `readyState` in browsers."""

    CONNECTING = 0
    """The opening handshake has not been answered yet."""
    OPEN = 1
    CLOSING = 2
    """A Close frame went one way or the other, or the connection failed. TCP is still there."""
    CLOSED = 3
    """TCP is gone, or the opening handshake was refused."""


class Event(Enum):
    """What moves a connection from state to state."""

    ACCEPTED = "the opening handshake succeeded"
    REFUSED = "the opening handshake was refused"
    CLOSE_SENT = "this endpoint sent a Close frame"
    CLOSE_RECEIVED = "the peer sent a Close frame"
    FAILED = "the peer broke the protocol"
    EOF = "the TCP connection ended"

    # Enum's own is written in Python, and a handshake and a close look in the table several times.
    __hash__ = object.__hash__


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CONNECTING, Event.ACCEPTED): State.OPEN,
    (State.CONNECTING, Event.REFUSED): State.CLOSED,
    (State.CONNECTING, Event.EOF): State.CLOSED,
    (State.OPEN, Event.CLOSE_SENT): State.CLOSING,
    (State.OPEN, Event.CLOSE_RECEIVED): State.CLOSING,
    (State.OPEN, Event.FAILED): State.CLOSING,
    (State.OPEN, Event.EOF): State.CLOSED,
    (State.CLOSING, Event.CLOSE_RECEIVED): State.CLOSING,
    (State.CLOSING, Event.FAILED): State.CLOSING,
    (State.CLOSING, Event.EOF): State.CLOSED,
    (State.CLOSED, Event.EOF): State.CLOSED,
}


def next_state(state: State, event: Event) -> State:
    """The state that `event` leads to from `state`. What is not in the table raises `InvalidState`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidState(f"{event.value}, but the connection is {state.name}") from None
