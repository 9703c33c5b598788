"""Which of CPython's test modules are run, in which parts, and how the run of one goes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from .jobs import MISSING, Job, Outcome, Outcomes, run_job
from .verdicts import Exemption, exempted, surprises, to_run, unknown

# What the scope makes cooperative, and what stands on it. Not all are there in each Python. The long ones come first.
NAMES = """
    concurrent_futures concurrent_futures.test_wait socket ssl logging threading selectors subprocess os
    concurrent_futures.test_shutdown concurrent_futures.test_as_completed concurrent_futures.test_deadlock
    imaplib queue ftplib poplib fork1 wait3 wait4 threadsignals concurrent_futures.test_process_pool docxmlrpc
    concurrent_futures.test_future concurrent_futures.test_init concurrent_futures.test_thread_pool time select
    poll epoll httplib httpservers urllib2 urllib2_localnet smtplib smtpd nntplib telnetlib asyncore asynchat
    socketserver xmlrpc wsgiref sched thread threading_local posix popen pty threadedtempfile contextlib
"""
MODULES = [f"test.test_{name}" for name in NAMES.split()]
# Parts that take seconds, for the tests of every day: whole modules, or classes and tests of one.
QUICK: dict[str, Sequence[str] | None] = {
    f"test.test_{module}": [f"test.test_{module}.{part}" for part in parts.split()] or None
    for module, parts in {
        "socket": "BasicTCPTest BasicTCPTest2 BasicUDPTest BasicSocketPairTest NonBlockingTCPTests BufferIOTest "
        "NetworkConnectionNoServer NetworkConnectionAttributesTest FileObjectClassTestCase SendfileUsingSendfileTest "
        "RecvmsgTCPTest RecvmsgUDPTest RecvmsgIntoTCPTest RecvmsgIntoUnixStreamTest SendmsgTCPTest SendmsgUDPTest "
        "SendmsgUnixStreamTest TestUnixDomain UDPTimeoutTest InheritanceTest CreateServerFunctionalTest",
        "ssl": "BasicSocketTests SimpleBackgroundTests NetworkedTests ThreadedTests.test_echo ThreadedTests.test_starttls "
        "ThreadedTests.test_nonblocking_send ThreadedTests.test_recv_into_buffer_protocol_len",
        "subprocess": "ProcessTestCase.test_communicate ProcessTestCase.test_wait ProcessTestCase.test_poll "
        "ProcessTestCase.test_communicate_timeout RunFuncTestCase",
        "threading": "LockTests CRLockTests EventTests ConditionTests ThreadTests TimerTests",
        "queue": "CQueueTest CSimpleQueueTest",
        "poll": "",
        "epoll": "",
        "thread": "",
        "threading_local": "",
        "httplib": "",
    }.items()
}


@dataclass
class Report:
    """What came of a module in one mode."""

    module: str
    mode: str
    plain: Outcomes
    listed: dict[str, Exemption]
    outcomes: Outcomes = field(default_factory=dict)
    # Deviations and stale exceptions: what made the run fail.
    wrong: dict[str, Outcome] = field(default_factory=dict)
    # Surprises that did not happen again.
    unsteady: dict[str, Outcome] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.wrong and not self.problems


def available() -> list[str]:
    """The modules that this Python has."""
    return [module for module in MODULES if find(module)]


def find(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.submodule_search_locations is None


def run_module(
    module: str,
    parts: Sequence[str] | None,
    modes: Iterable[str],
    exemptions: Sequence[Exemption],
    deadline: float,
    listed_too: bool = True,
) -> list[Report]:
    """Run the module, or parts of it, in plain CPython, and then, for each mode, what can be judged."""
    plain, problem = run_job(Job(module, "plain", parts), deadline)
    reports = [Report(module, mode, plain, exempted(mode, exemptions)) for mode in modes]
    for report in reports:
        if problem:
            report.problems.append(f"plain: {problem}")
        elif to_run(report.mode, plain):
            run_mode(report, deadline, listed_too)
        if parts is None and not report.problems:
            strangers = unknown(module, plain, report.outcomes, report.listed)
            report.problems += [f"listed in exceptions.txt, and no test of this Python: {test}" for test in strangers]
    return reports


def run_mode(report: Report, deadline: float, listed_too: bool) -> None:
    module, mode, plain = report.module, report.mode, report.plain
    tests = [test for test in to_run(mode, plain) if listed_too or test not in report.listed]
    report.outcomes, problem = run_job(Job(module, mode, tests, plain), deadline)
    if problem:
        report.problems.append(problem)
    found = surprises(mode, plain, report.outcomes, report.listed)
    again = to_repeat(found, plain)
    if problem or not again:
        # Of a module that was not run to its end, `problem` says so once for all its tests.
        report.wrong = {test: outcome for test, outcome in found.items() if outcome != MISSING or not problem}
        return
    # A surprise is one only when it happens again, and not in plain CPython.
    plain_again, problem = run_job(Job(module, "plain", again, plain), deadline)
    outcomes_again, other_problem = run_job(Job(module, mode, again, plain), deadline)
    report.problems += [text for text in (problem, other_problem) if text]
    plain_then = {test: plain_again.get(test, MISSING) for test in again}
    found_again = surprises(mode, plain_then, outcomes_again, report.listed)
    for test, outcome in found.items():
        repeats = test in found_again or outcome.outcome in ("hung", "crashed")
        (report.wrong if repeats else report.unsteady)[test] = found_again.get(test, outcome)


def to_repeat(found: dict[str, Outcome], plain: Outcomes) -> list[str]:
    """The tests to run again; for `setUpClass (test.test_x.Class)` all of the class. What hung has said enough."""
    again = []
    for name, outcome in found.items():
        if outcome.outcome in ("hung", "crashed"):
            continue
        owner = name.partition("(")[2].rstrip(")")
        again += [test for test in plain if test.startswith(owner + ".")] if owner else [name]
    return list(dict.fromkeys(again))


def run(
    chosen: dict[str, Sequence[str] | None],
    modes: Sequence[str],
    exemptions: Sequence[Exemption],
    deadline: float,
    listed_too: bool = True,
    jobs: int = 2,
) -> Iterator[list[Report]]:
    """Run modules, so many at once; yields the reports of each when it is done.

    listed_too: also run what exceptions.txt lists, which takes the time of hangs, to see whether it still deviates.
    """
    with ThreadPoolExecutor(jobs) as pool:
        running = [
            pool.submit(run_module, *chosen_one, modes, exemptions, deadline, listed_too)
            for chosen_one in chosen.items()
        ]
        for done in as_completed(running):
            yield done.result()
