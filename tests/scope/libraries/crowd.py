"""Many websocket clients at once of a program in a process of its own: how long it took, and how long its hub stood still."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from rawclient import TEXT, RawClient, frame

import geventws

FOLDER = Path(__file__).resolve().parent
PROGRAMS = (
    "threads",
    "sockets",
    "processes",
    "http_clients",
    "logs_and_mail",
    "redis_clients",
    "mariadb_clients",
    "postgresql_clients",
    "psycopg_clients",
)
"""The modules of `programs` whose public functions are handlers."""

HANGS = 10  # seconds without an answer after which nothing is expected any more


class Seen(NamedTuple):
    """What became of a crowd."""

    answers: list[str]
    seconds: float
    blocked: float
    """The longest time in which the program's hub ran nothing."""


class Program:
    """`server.py`, or another line that serves its application, in a child process."""

    def __init__(self, line: Sequence[str], errors: Path, **environment: str) -> None:
        paths = [str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        # What the machine says of proxies and certificates is not for servers of the loopback.
        environ = {name: value for name, value in os.environ.items() if not re.search("(?i)_proxy$|_BUNDLE$", name)}
        environ |= {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._errors = errors
        self._read = 0
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *line],
                cwd=FOLDER,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.first_line = self.process.stdout.readline()
        if not self.first_line:
            self.end()
            pytest.fail(f"{line} did not start: {errors.read_text()}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def errors(self) -> str:
        """What has come on standard error since the last call."""
        text = self._errors.read_bytes()[self._read :]
        self._read += len(text)
        return text.decode(errors="replace")

    def crowd(self, port: int, kinds: Sequence[str], seconds: float, *, twice: bool = False) -> Seen:
        """Open a connection to each of `kinds`, let all wait for so long at once, and see.

        `twice`: what is seen is the second time. The first was a short one, for pools to be filled and the like.
        """
        try:
            return self._crowd(port, kinds, [0.02, seconds] if twice else [seconds])
        except (OSError, EOFError) as error:
            self.process.send_signal(signal.SIGUSR1)  # It dumps its stacks.
            time.sleep(0.5)
            self.end()
            pytest.fail(f"{error!r} after {seconds} s of {set(kinds)}; the program's threads:\n{self.errors()}")

    def _crowd(self, port: int, kinds: Sequence[str], times: Sequence[float]) -> Seen:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient(("127.0.0.1", port), timeout=HANGS)) for _ in kinds]
            for client, kind in zip(clients, kinds, strict=True):
                client.open(f"/{kind}")
            for seconds in times:
                blocked_since_last_time(port)
                begin = time.perf_counter()
                for word, client in enumerate(clients):
                    client.send(frame(TEXT, f"{seconds} {word}"))
                answers = [client.read_text() for client in clients]
                took = time.perf_counter() - begin
                blocked = blocked_since_last_time(port)
            for client in clients:
                client.close_handshake()
        return Seen(answers, took, blocked)

    def end(self) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


class Script(Program):
    """`server.py`: one server with the default options (`on`) and one with `cooperative=False` (`off`)."""

    def __init__(self, programs: Sequence[str], errors: Path, environment: Mapping[str, str]) -> None:
        super().__init__(["server.py", *programs], errors, **environment)
        found = json.loads(self.first_line)
        self.on: int = found["on"]
        self.off: int = found["off"]
        self.missing: dict[str, str] = found["missing"]


def blocked_since_last_time(port: int) -> float:
    with RawClient(("127.0.0.1", port), timeout=HANGS) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return float(client.read_response().body)
