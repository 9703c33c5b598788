"""Ten websocket handlers at once, each blocked for 0.3 s in a library: together they take 0.3 s and stop nobody.

Each public function of `programs` is such a handler. The same handlers without the scope show that the test can fail.
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable

import pytest
from scope.libraries.crowd import FOLDER, PROGRAMS, Program, Script, Seen

pytestmark = pytest.mark.endtoend

PATCHED = os.environ.get("GEVENTWS_PATCHED") == "1"
SECONDS = 0.3
MARGIN = 0.3  # what ten handlers may take beside waiting
BLOCKED = float(os.environ.get("GEVENTWS_BLOCKED", "0.05"))
"""Seconds for which a program's hub may stand still; more for machines that are slow."""

AT_ONCE = {
    "http_clients.urllib3_small_pool": 5,
    "http_clients.urllib3_small_pool_secure": 5,
    "redis_clients.blocking_pool": 5,
    "postgresql_clients.sqlalchemy_over_pg8000": 5,
    "postgresql_clients.sqlalchemy_over_psycopg2": 5,
    "psycopg_clients.small_pool": 5,
    "psycopg_clients.sqlalchemy_over_psycopg": 5,
    "threads.semaphore": 5,
}
"""Handlers of which only so many can wait at once, since that many there are of what they share."""

TOGETHER = "threads.queue_to_a_native_thread"
"""Handlers that wait so long only together."""

TEN = [
    "http_clients.requests_shared_session_secure",
    "http_clients.urlopen",
    "redis_clients.blpop",
    "redis_clients.pubsub",
    "mariadb_clients.sqlalchemy_engine",
    "postgresql_clients.pg8000_query",
    "psycopg_clients.small_pool",
    "processes.run",
    "threads.executor_of_the_module",
    "threads.queue_of_a_native_thread",
]
"""Handlers that have little to do with each other."""


def handlers(program: str) -> list[str]:
    """The names of a program's handlers. It is not imported here: its threads and pools belong to another process."""
    tree = ast.parse((FOLDER / "programs" / f"{program}.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [f"{program}.{name}" for name in names if not name.startswith("_")]


KINDS = [kind for program in PROGRAMS for kind in handlers(program)]


def check_answers(seen: Seen, kinds: list[str]) -> None:
    """Each says its own word, or else the traceback of what it met."""
    for number, (kind, answer) in enumerate(zip(kinds, seen.answers, strict=True)):
        if answer != ("any" if kind == "threads.queue_of_the_module" else str(number)):
            pytest.fail(f"{kind} says instead of {number}: {answer}")


def waited_at_once(program: Program, port: int, kinds: list[str]) -> None:
    """Ten handlers, which have been used before, wait at once, and nothing else has to wait for them."""
    waits = max(math.ceil(len(kinds) / AT_ONCE.get(kind, len(kinds))) for kind in kinds)
    for _ in range(3):  # What waits without letting others run does so every time; a machine that is busy does not.
        seen = program.crowd(port, kinds, SECONDS, twice=True)
        check_answers(seen, kinds)
        assert seen.seconds > 0.9 * SECONDS
        print(f"{kinds[0]}: {seen.seconds:.3f} s, the hub stood still for {1000 * seen.blocked:.0f} ms")  # see -rP
        if seen.seconds < waits * SECONDS + MARGIN and seen.blocked < BLOCKED:
            return
    pytest.fail(f"took {seen.seconds:.3f} s, and the hub stood still for {1000 * seen.blocked:.0f} ms")


@pytest.mark.parametrize("kind", KINDS)
def test_ten_handlers_wait_at_once(kind: str, script: Callable[..., Script]) -> None:
    if PATCHED and re.search("psycopg2(?!_listen)|epoll|os_(read|write)", kind):
        pytest.skip("gevent's patches do not reach it")
    program = script(kind.partition(".")[0])
    waited_at_once(program, program.on, [kind] * 10)


@pytest.mark.parametrize("kind", handlers("psycopg_clients"))
def test_ten_handlers_wait_at_once_in_the_psycopg_that_is_python(kind: str, script: Callable[..., Script]) -> None:
    program = script("psycopg_clients", "python")
    waited_at_once(program, program.on, [kind] * 10)


def test_handlers_in_ten_libraries_wait_at_once(script: Callable[..., Script]) -> None:
    programs = [script(kind.partition(".")[0]) for kind in TEN]
    waited_at_once(programs[0], programs[0].on, TEN)


@pytest.mark.skipif(PATCHED, reason="patched by gevent, everything is cooperative")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != TOGETHER])
def test_without_the_scope_each_handler_stops_everything(kind: str, script: Callable[..., Script]) -> None:
    program = script(kind.partition(".")[0])
    seen = program.crowd(program.off, [kind], 0.08)
    check_answers(seen, [kind])
    assert seen.blocked > 0.6 * 0.08


@pytest.mark.skipif(PATCHED, reason="patched by gevent, everything is cooperative")
def test_without_the_scope_handlers_in_ten_libraries_wait_one_after_the_other(script: Callable[..., Script]) -> None:
    programs = [script(kind.partition(".")[0]) for kind in TEN]
    seen = programs[0].crowd(programs[0].off, TEN, 0.1)
    check_answers(seen, TEN)
    assert seen.seconds > 0.9 * len(TEN) * 0.1


@pytest.mark.skipif(PATCHED, reason="the command patches nothing")
@pytest.mark.parametrize("kind", handlers("shared_locks"))
def test_handlers_take_turns_with_a_lock_of_the_application(kind: str, served: Program) -> None:
    port = int(served.first_line.rpartition(":")[2])
    waited_at_once(served, port, [kind] * 10)
    assert "Traceback" not in served.errors()  # It is the access log otherwise.
