"""One measurement: a fresh server on one core, the load on another, and the line that the load prints.

What is measured is decided in `rows`, what becomes of it in `results`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peers import Server, environment
from rows import Row
from tools import Tools

__all__ = ["Bench", "Cores", "MeasurementFailed", "Pace"]

START_LIMIT = 20.0
"""Seconds that a server may take until it listens."""

OPENING_LIMIT = 60.0
"""Seconds that the load may take to open its connections, or to exchange a message on each."""


class MeasurementFailed(Exception):
    """The server did not start or did not do what it was to do; the text says what."""


@dataclass(frozen=True)
class Cores:
    """Where the server and the load run. None: wherever the system likes."""

    server: int | None
    load: int | None
    note: str | None = None

    @classmethod
    def choose(cls) -> Cores:
        available = sorted(os.sched_getaffinity(0))
        if len(available) < 2:
            return cls(None, None, "one core only: server and load share it, so rates and latencies are not comparable")
        # The first core has the machine's interrupts: it is left to the load.
        return cls(available[-1], available[0])


@dataclass(frozen=True)
class Pace:
    """How long is measured."""

    seconds: float
    warmup: float


class Bench:
    """Runs measurements one after the other."""

    def __init__(self, tools: Tools, cores: Cores, pace: Pace, geventws: Path | None) -> None:
        self._tools, self._cores, self._pace, self._geventws = tools, cores, pace, geventws

    def measure(self, server: Server, row: Row) -> dict[str, Any]:
        """What the load says of this server in this row.

        Raises:
            MeasurementFailed: it says that something went wrong, or nothing.
        """
        with tempfile.TemporaryFile("w+") as log, self._served(server, row.server_mode, log) as (process, port):
            try:
                return self._load(server, row, process.pid, port)
            except MeasurementFailed as error:
                raise MeasurementFailed(f"{error}{last_line(log)}") from error

    @contextmanager
    def _served(self, server: Server, mode: str, log: IO[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
        port = free_port()
        line = server.command(self._tools, port, mode)
        with pinned(self._cores.server):
            process = subprocess.Popen(
                line, env=environment(server, self._tools, self._geventws), stdout=log, stderr=log, text=True
            )
        try:
            wait_until_listening(process, port, log)
            yield process, port
        finally:
            process.kill()
            process.wait()

    def _load(self, server: Server, row: Row, pid: int, port: int) -> dict[str, Any]:
        mode, *arguments = row.load
        line = [str(self._tools.load), mode, str(port), *arguments, "--pid", str(pid)]
        line += ["--seconds", str(self._pace.seconds), "--warmup", str(self._pace.warmup)]
        line += ["--timeout", str(OPENING_LIMIT), *(["--raw"] if server.raw else [])]
        limit = self._pace.seconds + self._pace.warmup + 4 * OPENING_LIMIT + 10
        with pinned(self._cores.load):
            process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed(f"the load did not end within {limit:.0f} s") from error
        finally:
            process.kill()
            process.wait()
        if not output:
            raise MeasurementFailed(f"the load ended with {process.returncode}: {errors.strip()}")
        found: dict[str, Any] = json.loads(output)
        if "error" in found:
            raise MeasurementFailed(found["error"])
        return found


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """What is started meanwhile runs on this core, with all the threads that it will ever have."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(process: subprocess.Popen[str], port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MeasurementFailed(f"the server ended with {process.returncode}{last_line(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise MeasurementFailed(f"the server did not listen within {START_LIMIT:.0f} s{last_line(log)}")


def last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return f" (the server's last words: {lines[-1]})" if lines else ""
