"""The state table: every state with every event, against RFC 6455 sections 4 and 7."""

from __future__ import annotations

import pytest

from geventws.exceptions import InvalidState
from geventws.protocol.states import TRANSITIONS, Event, State, next_state

# Columns: where the connection stands. "-": this cannot happen there.
TABLE = """
                CONNECTING  OPEN     CLOSING  CLOSED
ACCEPTED        OPEN        -        -        -
REFUSED         CLOSED      -        -        -
CLOSE_SENT      -           CLOSING  -        -
CLOSE_RECEIVED  -           CLOSING  CLOSING  -
FAILED          -           CLOSING  CLOSING  -
EOF             CLOSED      CLOSED   CLOSED   CLOSED
"""
COLUMNS, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [(state, row[0], cell) for row in ROWS for state, cell in zip(COLUMNS, row[1:], strict=True)]


@pytest.mark.parametrize(("state", "event"), [(state, event) for state, event, cell in CELLS if cell == "-"])
def test_an_event_that_cannot_happen_in_a_state_is_the_callers_mistake(state: str, event: str) -> None:
    with pytest.raises(InvalidState) as caught:
        next_state(State[state], Event[event])
    assert str(caught.value) == f"{Event[event].value}, but the connection is {state}"


@pytest.mark.parametrize(("state", "event", "then"), [cell for cell in CELLS if cell[2] != "-"])
def test_an_event_leads_to_the_state_that_the_rfc_says(state: str, event: str, then: str) -> None:
    assert next_state(State[state], Event[event]) is State[then]


def test_the_table_here_has_every_state_and_every_event() -> None:
    assert [state.name for state in State] == COLUMNS
    assert [row[0] for row in ROWS] == [event.name for event in Event]


def test_nothing_leads_back() -> None:
    assert [(state, event) for (state, event), then in TRANSITIONS.items() if then < state] == []


def test_the_end_of_tcp_is_possible_always_and_ends_everything() -> None:
    assert {next_state(state, Event.EOF) for state in State} == {State.CLOSED}


def test_the_states_have_the_numbers_of_ready_state_in_browsers() -> None:
    assert [(state.name, state.value) for state in State] == [
        ("CONNECTING", 0),
        ("OPEN", 1),
        ("CLOSING", 2),
        ("CLOSED", 3),
    ]
