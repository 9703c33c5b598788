"""Jobs: a share of the cases, the testee they are run against (an echo server or client), and the fuzzer that runs them.

Several jobs run at once, each a testee and a fuzzer of its own. Nothing that is started here outlives the call.
"""

import html
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from autobahn.cases import CLIENTS, SERVERS, share_of
from autobahn.suite import Suite, environment_for_python27

AGENT = "geventws"
ECHO_SERVER = Path(__file__).resolve().parent / "echo_server.py"
ECHO_CLIENT = ECHO_SERVER.with_name("echo_client.py")

# See "The two verdicts": everything else fails, UNIMPLEMENTED too, which groups 12 and 13 say of a testee
# that negotiates no compression.
GOOD_BEHAVIOUR = ("OK", "NON-STRICT", "INFORMATIONAL")
GOOD_CLOSE = ("OK", "INFORMATIONAL")
DID_NOT_RUN = "DID NOT RUN"

# Measured with a job for each processor. They only order the jobs: the longest first, lest it be left over. Shares of
# groups 12 and 13 that are not named here take half a minute, groups a second.
EXPECTED_SECONDS = {"12.2": 70, "12.3": 70, "12.5": 60, "9": 20, "6": 10, "5": 3}


@dataclass(frozen=True)
class Verdict:
    """What the suite found in one case. `details` is its full report."""

    case: str
    testee: str
    behaviour: str
    close: str
    seconds: float = 0
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_none(cls, case: str, testee: str) -> "Verdict":
        """What there is to say of a case that did not run, or not to its end."""
        return cls(case, testee, DID_NOT_RUN, DID_NOT_RUN)

    @property
    def missing(self) -> bool:
        return self.behaviour == DID_NOT_RUN

    @property
    def good(self) -> bool:
        return self.behaviour in GOOD_BEHAVIOUR and self.close in GOOD_CLOSE

    def __str__(self) -> str:
        return f"{self.case} [{self.testee}] {self.behaviour} / {self.close}"

    def explain(self) -> str:
        """The verdict with what the case sends, what it expects and what the testee did."""
        if not self.details:
            return str(self)
        close = (self.details.get("remoteCloseCode"), self.details.get("remoteCloseReason"))
        lines = {
            "sends": _plain_text(self.details.get("description")),
            "expects": _plain_text(self.details.get("expectation")),
            "expected": self.details.get("expected"),
            "received": self.details.get("received"),
            "behaviour": self.details.get("result"),
            "close": f"{self.details.get('resultClose')}; the testee's Close was {close}",
            "unclean": self.details.get("wasNotCleanReason"),
        }
        return "\n".join([str(self), *(f"    {name:10}{str(text)[:500]}" for name, text in lines.items() if text)])


@dataclass(frozen=True)
class Job:
    """The cases of one share that are run against one kind of server."""

    share: str
    testee: str
    cases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.share}-{self.testee}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a verdict for each of its cases, and what else went wrong."""

    job: Job
    verdicts: tuple[Verdict, ...]
    seconds: float = 0
    problems: tuple[str, ...] = ()

    @classmethod
    def of_none(cls, job: Job) -> "Outcome":
        """The outcome of a job for which there was no time."""
        return cls(job, tuple(Verdict.of_none(case, job.testee) for case in job.cases))

    @property
    def failures(self) -> list[str]:
        """Everything that is not as it must be, explained; empty when all is well."""
        missing = [verdict.case for verdict in self.verdicts if verdict.missing]
        not_run = [f"{self.job}: {len(missing)} cases did not run: {' '.join(missing)}"] if missing else []
        bad = [verdict for verdict in self.verdicts if not verdict.good and not verdict.missing]
        return [*self.problems, *not_run, *(verdict.explain() for verdict in bad)]


def split(cases: Iterable[str], testees_for: Callable[[str], Iterable[str]]) -> list[Job]:
    """The jobs that run every case against every kind of testee that it is meant for: `servers_for`, or `clients_for`."""
    shares: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case in cases:
        for testee in testees_for(case):
            shares[share_of(case), testee].append(case)
    return [Job(share, testee, tuple(cases)) for (share, testee), cases in shares.items()]


def run_jobs(
    jobs: Iterable[Job], suite: Suite, reports: Path, timeout: float, at_once: int | None = None
) -> list[Outcome]:
    """Run the jobs, as many at once as there are processors; what has not ended after `timeout` seconds is stopped.

    Returns:
        An outcome for every job, in the order given.
    """
    deadline = time.monotonic() + timeout
    jobs = list(jobs)
    waiting = sorted(jobs, key=expected_seconds)
    at_once = at_once or os.cpu_count() or 1
    running: list[RunningJob] = []
    outcomes: dict[Job, Outcome] = {}
    with ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = stack.enter_context(RunningJob(waiting.pop(), suite, reports))
                job.start()
                running.append(job)
            time.sleep(0.02)
            late = time.monotonic() > deadline
            for ended in [job for job in running if late or job.ended]:
                running.remove(ended)
                outcomes[ended.job] = ended.finish()
            if late:
                outcomes |= {job: Outcome.of_none(job) for job in waiting}
                break
    return [outcomes[job] for job in jobs]


def expected_seconds(job: Job) -> float:
    return EXPECTED_SECONDS.get(job.share, 30 if "." in job.share else 1)


class RunningJob:
    """The two processes of a job. Leaving the `with` block ends them; so does the end of this process."""

    _names = (f"autobahn-{os.getpid()}-{number}" for number in itertools.count())

    def __init__(self, job: Job, suite: Suite, reports: Path) -> None:
        self.job = job
        self._suite = suite
        self._name = next(self._names)
        self._folder = reports.resolve() / str(job)
        self._folder.mkdir(parents=True)
        self._reserved = socket.socket()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = time.monotonic()

    def __enter__(self) -> "RunningJob":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def start(self) -> None:
        if self.job.testee in CLIENTS:
            self._start_fuzzing_server()
        else:
            self._start_fuzzing_client()

    @property
    def ended(self) -> bool:
        """Whether the client has ended, whichever of the two it is."""
        return self._processes["testee" if self.job.testee in CLIENTS else "fuzzer"].poll() is not None

    def finish(self) -> Outcome:
        """End what still runs, and read what the fuzzer and the testee left."""
        seconds = time.monotonic() - self._started
        problems = [*self._problem_of_fuzzer(), *self._problem_of_testee()]
        self._stop()
        return Outcome(self.job, tuple(self._verdicts()), seconds, tuple(problems))

    def _start_fuzzing_client(self) -> None:
        # The socket listens before the server runs, so the fuzzer need not wait for it, and the port is surely free.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            options = json.dumps(SERVERS[self.job.testee])
            command = [sys.executable, str(ECHO_SERVER), str(listener.fileno()), options]
            self._start("testee", command, dict(os.environ), pass_fds=[listener.fileno()])
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        self._start_fuzzer("fuzzingclient", {"servers": [{"agent": AGENT, "url": url}]})

    def _start_fuzzing_server(self) -> None:
        # Bound, not listening, until the job has ended: nobody else is given the port, and the fuzzer may listen on it.
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{self._reserved.getsockname()[1]}"
        self._start_fuzzer("fuzzingserver", {"url": url})
        options = json.dumps(CLIENTS[self.job.testee])
        command = [sys.executable, str(ECHO_CLIENT), url, AGENT, str(len(self.job.cases)), options]
        self._start("testee", command, dict(os.environ))

    def _start_fuzzer(self, mode: str, more: dict[str, Any]) -> None:
        spec = self._folder / "spec.json"
        spec.write_text(json.dumps({"outdir": str(self._folder), "cases": self.job.cases, **more}))
        self._start("fuzzer", self._suite.command(mode, spec, self._name), environment_for_python27())

    def _start(self, name: str, command: list[str], environment: dict[str, str], pass_fds: Iterable[int] = ()) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=environment,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )

    def _stop(self) -> None:
        if "fuzzer" in self._processes and self._processes["fuzzer"].poll() is None:
            self._suite.stop(self._name)
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._reserved.close()

    def _problem_of_fuzzer(self) -> Iterable[str]:
        log = self._log_of("fuzzer")
        returncode = self._processes["fuzzer"].poll()
        if not self.ended:
            yield f"{self.job}: not ended in time; the last that the fuzzer said: {''.join(log[-1:])}"
        elif returncode or any(verdict.missing for verdict in self._verdicts()):
            yield "\n".join([f"{self.job}: the fuzzer failed:", *log[-20:]])

    def _problem_of_testee(self) -> Iterable[str]:
        returncode = self._processes["testee"].poll()
        if returncode or (returncode is not None and self.job.testee in SERVERS):
            yield f"{self.job}: the testee ended by itself, with {returncode}"
        # What the fuzzer does to it must not make it print tracebacks, even where the verdicts are good.
        log = self._log_of("testee")
        if log:
            yield "\n".join([f"{self.job}: the testee complained:", *log[-60:]])

    def _log_of(self, name: str) -> list[str]:
        return (self._folder / f"{name}.log").read_text(errors="replace").splitlines()

    def _verdicts(self) -> Iterable[Verdict]:
        found = _read_json(self._folder / "index.json").get(AGENT, {})
        for case in self.job.cases:
            yield self._verdict(case, found[case]) if case in found else Verdict.of_none(case, self.job.testee)

    def _verdict(self, case: str, found: dict[str, Any]) -> Verdict:
        details = _read_json(self._folder / found["reportfile"])
        behaviour, close = found["behavior"], found["behaviorClose"]
        return Verdict(case, self.job.testee, behaviour, close, found["duration"] / 1000, details)


def _read_json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where the fuzzer was ended before it had written it all."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return {}
    return content


def _plain_text(markup: str | None) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup or "")).split())
