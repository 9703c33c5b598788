"""Processes that run the tests of a module in a mode: started, ended in time, and started again after a test that hung.

What came of each test is returned; what to think of it is for verdicts.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
# Where geventws is: the one that this process would import, or else the one beside the tests.
_geventws = importlib.util.find_spec("geventws")
ROOT = Path(_geventws.origin).parents[1] if _geventws and _geventws.origin else Path(__file__).parents[3]
# How long a test may take, and how long at most if it took so many seconds in plain CPython.
LIMIT = 60.0
# What waits for its time limit on most machines: for the host of a virtual machine, which would have to answer.
LEFT_OUT = ("test.test_socket.ThreadedVSOCKSocketStreamTest.testStream",)
# A module in which more tests than these hang or crash is not gone on with.
MAX_RESTARTS = 30
# As CPython's own runner names what a test may use. All that test_socketserver does with the network is on loopback.
RESOURCES = {"test.test_socketserver": ["subprocess", "network"]}


@dataclass(frozen=True)
class Outcome:
    """What came of one test: passed, skipped, failed, error, unhandled, blocked, hung, crashed, or missing."""

    outcome: str
    reason: str = ""
    detail: str = field(default="", repr=False)
    seconds: float = 0.0
    still: float = 0.0


Outcomes = dict[str, Outcome]
MISSING = Outcome("missing", "the test was not run")


@dataclass(frozen=True)
class Job:
    module: str
    mode: str
    tests: Collection[str] | None = None
    plain: Mapping[str, Outcome] = field(default_factory=dict)

    def limits(self) -> dict[str, float]:
        return {test: 15 + 4 * outcome.seconds for test, outcome in self.plain.items()}


def run_job(job: Job, deadline: float) -> tuple[Outcomes, str]:
    """Run the tests, in as many processes as it takes; what came of them, and why there are not all if so."""
    outcomes: Outcomes = {}
    for _ in range(MAX_RESTARTS):
        if time.monotonic() > deadline:
            return outcomes, "no time was left"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            complete, died = run_child(job, outcomes, Path(folder), deadline)
        if complete:
            return outcomes, ""
        if died:
            return outcomes, died
    return outcomes, f"more than {MAX_RESTARTS} tests hung or crashed"


def run_child(job: Job, outcomes: Outcomes, folder: Path, deadline: float) -> tuple[bool, str]:
    """Run the tests that have no outcome yet. Returns whether that were all, and what ended the process before any."""
    spec, results, output, cwd = (folder / name for name in ("job.json", "results", "output", "cwd"))
    cwd.mkdir()
    spec.write_text(
        json.dumps(
            {
                "module": job.module,
                "mode": job.mode,
                "tests": None if job.tests is None else list(job.tests),
                "done": [*outcomes, *LEFT_OUT],
                "limit": LIMIT,
                "limits": job.limits(),
                "resources": RESOURCES.get(job.module, ["subprocess"]),
                "results": str(results),
                "path": str(ROOT),
            }
        )
    )
    results.touch()
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (
        output.open("wb") as out,
        subprocess.Popen(
            [sys.executable, CHILD, spec],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            pass
        finally:
            # With what its tests may have left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    running, complete, ran = None, False, False
    for line in results.read_text().splitlines():
        fields = json.loads(line)
        test = fields.pop("test")
        if fields["outcome"] == "started":
            running, ran = test, True
        elif test is None:
            complete = True
        else:
            outcomes[test] = Outcome(**fields)
            running = None
    tail = output.read_text(errors="replace")[-6000:]
    ended = f"the process ended with {process.returncode}: {(tail.splitlines() or [''])[-1]}"
    if time.monotonic() > deadline and not complete:
        return False, f"no time was left at {running or 'its beginning or end'}"
    if running is not None:
        outcomes[running] = Outcome("crashed", ended, tail)
    return complete, "" if complete or ran else f"{ended}, before any test"
