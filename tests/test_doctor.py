"""What the doctor finds in a program, as somebody who runs `python -m geventws doctor` reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import geventws

NOTHING = "Nothing was found that would block inside a connection's scope.\n"


def doctor(directory: Path, program: str, **environment: str) -> tuple[int, str]:
    """The exit status and what was said about a program that has an `app`."""
    (directory / "program.py").write_text(textwrap.dedent(program) + "\ndef app(environ, start_response): ...\n")
    done = subprocess.run(
        [sys.executable, "-m", "geventws", "doctor", "program:app"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(geventws.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_an_application_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "geventws", "doctor", "nowhere:app"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(geventws.__file__).parents[1])}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no module 'nowhere'" in done.stderr


def test_a_program_in_which_nothing_blocks_is_told_so(tmp_path: Path) -> None:
    assert doctor(tmp_path, "import socket, threading, time") == (0, NOTHING)


@pytest.mark.parametrize(
    "program",
    [
        "import threading; lock = threading.Lock()",
        "import threading; local = threading.local()",
        "from time import sleep; from threading import Lock",
        "import queue; items = queue.SimpleQueue(); others = queue.Queue()",
        "import threading\nclass Cache:\n    lock = threading.RLock()",
        "import threading\nclass Cache:\n    def __init__(self): self.lock = threading.Lock()\ncache = Cache()",
        "import ssl; context = ssl.create_default_context()",
        "import concurrent.futures; executor = concurrent.futures.ThreadPoolExecutor()",
    ],
)
def test_what_the_installation_reaches_is_no_finding(tmp_path: Path, program: str) -> None:
    assert doctor(tmp_path, program) == (0, NOTHING)


@pytest.mark.parametrize(
    ("program", "subject", "why"),
    [
        ("import threading; locks = [threading.Lock()]", "program.locks[0]", "a threading.Lock, made before"),
        ("import threading; locks = {'a': threading.RLock()}", "program.locks['a']", "a threading.RLock, made before"),
        ("import threading; both = (threading.local(),)", "program.both[0]", "a threading.local, made before"),
        ("import queue; all = {1: queue.SimpleQueue()}", "program.all[1]", "a queue.SimpleQueue, made before"),
        ("import time\ndef nap(sleep=time.sleep): ...", "program.nap()", "keeps the blocking time.sleep"),
        (
            "import time\nclass Clock:\n    sleep = [time.sleep]",
            "program.Clock.sleep[0]",
            "keeps the blocking time.sleep",
        ),
    ],
)
def test_what_is_out_of_its_reach_is_named_with_the_remedy(
    tmp_path: Path, program: str, subject: str, why: str
) -> None:
    status, said = doctor(tmp_path, program)
    assert status == 1
    assert said.startswith(f"{subject}: {why}")
    assert "Remedy: call geventws.scope.install() at the top of the program" in said


def test_the_remedy_helps(tmp_path: Path) -> None:
    program = (
        "from geventws import scope; scope.install()\nimport threading, time; locks = [threading.Lock(), time.sleep]"
    )
    assert doctor(tmp_path, program) == (0, NOTHING)


@pytest.mark.parametrize("driver", ["MySQLdb", "grpc", "zmq", "pyodbc"])
def test_a_driver_that_waits_in_c_is_named(tmp_path: Path, driver: str) -> None:
    (tmp_path / f"{driver}.py").write_text("")
    status, said = doctor(tmp_path, f"import {driver}")
    assert status == 1
    assert said.startswith(f"{driver}: ")
    assert "Remedy: " in said


def test_sqlite_is_named_for_its_locks(tmp_path: Path) -> None:
    status, said = doctor(tmp_path, "import sqlite3")
    assert status == 1
    assert "sqlite3: SQLite waits in C while another connection holds its lock" in said


def test_a_context_that_wraps_sockets_its_own_way_is_named(tmp_path: Path) -> None:
    program = """
    import ssl
    class Other: ...
    context = ssl.create_default_context()
    context.sslsocket_class = Other
    """
    status, said = doctor(tmp_path, program)
    assert status == 1
    assert "program.context: its sslsocket_class, Other, is none of the standard library's" in said


def test_a_patched_process_is_told_so_and_nothing_else(tmp_path: Path) -> None:
    program = "import gevent.monkey; gevent.monkey.patch_all()\nimport sqlite3, threading; locks = [threading.Lock()]"
    status, said = doctor(tmp_path, program)
    assert status == 1
    assert said.startswith("this process: gevent.monkey has patched socket")
    assert len(said.splitlines()) == 2


def test_a_process_of_which_gevent_has_patched_only_a_part_is_told_so_too(tmp_path: Path) -> None:
    status, said = doctor(tmp_path, "import gevent.monkey; gevent.monkey.patch_subprocess()")
    assert status == 1
    assert said.startswith("this process: gevent.monkey has patched subprocess: the scope does nothing")


def test_greenlets_that_do_not_know_their_parents_are_told(tmp_path: Path) -> None:
    status, said = doctor(tmp_path, "", GEVENT_TRACK_GREENLET_TREE="0")
    assert status == 1
    assert said.startswith("GEVENT_TRACK_GREENLET_TREE: ")
