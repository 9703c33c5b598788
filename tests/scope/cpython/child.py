"""The process that runs tests of one module in one mode: `python child.py job.json`. Nothing of the other files is imported.

It appends a JSON line to the results when a test starts and when it has ended. A test that hangs ends the process, with
the stacks in its line; jobs.py then starts another process for the tests that are left.

Modes: `plain` knows nothing of geventws; in `outside` the scope is installed and nothing is in it; in `inside` each test
runs with its `setUp` and `tearDown` in a greenlet in the scope, and a ticker in the hub measures how long it is held up.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import threading
import traceback
import unittest
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable, Iterator
from time import clock_gettime, monotonic, pthread_getcpuclockid, sleep
from types import FrameType, TracebackType
from typing import Any

TICK = 0.01
# How long the hub may stand still. A slow machine explains some tens of milliseconds; a call that blocks has no limit.
MAX_STILL = 0.25
# After this time it is not waited for any longer: the test blocks the hub, perhaps for ever.
TOO_STILL = 1.0
# What jobs.py knows from it: the process ended itself, and the line of the last test is complete.
HUNG = 3


Stack = list[traceback.FrameSummary]


def where(stack: Stack) -> str:
    """The innermost calls, such as `in acquire (queue.py:20) < get (queue.py:71)`."""
    names = (f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in stack[:-4:-1])
    return f"in {' < '.join(names)}"


def text(stack: Stack) -> str:
    return "".join(traceback.format_list(stack[-25:]))


class Lines:
    """The results. A process that a test forked writes nothing."""

    def __init__(self, path: str) -> None:
        self._pid = os.getpid()
        self._write, self._getpid = os.write, os.getpid
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def add(self, **fields: Any) -> None:
        if self._getpid() == self._pid:
            self._write(self._file, json.dumps(fields).encode() + b"\n")


class Clock:
    """The time in which this thread stood still: neither worked nor was ready to, and waited only for a processor."""

    def __init__(self) -> None:
        self._cpu = pthread_getcpuclockid(get_ident())
        self._pread = os.pread
        try:
            self._delays: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._delays = None

    def __call__(self) -> float:
        delay = int(self._pread(self._delays, 100, 0).split()[1]) / 1e9 if self._delays is not None else 0.0
        return monotonic() - clock_gettime(self._cpu) - delay


class Ticker:
    """A greenlet in the hub, and the longest time that it was kept from running."""

    def __init__(self) -> None:
        import gevent

        self._clock = Clock()
        self._sleep = gevent.sleep
        self._hub = gevent.get_hub()
        self._ident = get_ident()
        self.restart()
        gevent.spawn(self._run)

    def restart(self) -> None:
        self.still = 0.0
        self.stack: Stack = []
        self._seen: Stack = []
        self._ticked, self._ticked_at = self._clock(), monotonic()

    def starved(self) -> float:
        """For how many seconds the hub has not run, be it for want of a processor or because a greenlet works on."""
        return monotonic() - self._ticked_at

    def _run(self) -> None:
        while True:
            try:
                self._sleep(TICK)
                self.tick()
            except BaseException as error:
                # A signal's handler raised it, which ran here by chance: it goes where it would have gone from the hub.
                self._hub.handle_system_error(type(error), error)

    def tick(self) -> None:
        now = self._clock()
        if now - self._ticked > self.still:
            self.still, self.stack = now - self._ticked, self._seen
        self._ticked, self._ticked_at, self._seen = now, monotonic(), []

    def look(self) -> Stack:
        """From the watching thread: remember the stack of a hub that stands still. Returns it if that is for too long."""
        still = self._clock() - self._ticked
        if not self._seen and still > MAX_STILL / 2:
            self._seen = traceback.extract_stack(sys._current_frames()[self._ident])
        return self._seen if still > TOO_STILL else []


class Watch:
    """A native thread that nobody sees. It ends the process when a test hangs, and lets the ticker look."""

    def __init__(self, lines: Lines, ticker: Ticker | None) -> None:
        self._lines = lines
        self._ticker = ticker
        # The test, when it must have ended, and for how long it may keep the hub from running.
        self._running: tuple[str, float, float] | None = None
        self._exit = os._exit
        self._main = get_ident()
        self.greenlet: object = None
        # Tests count threads: this one is there before the first of them.
        there = allocate_lock()
        there.acquire()
        start_new_thread(self._run, (there.release,))
        there.acquire()

    def started(self, test: str, limit: float) -> None:
        faulthandler.dump_traceback_later(limit + 10, exit=True)
        self._running = test, monotonic() + limit, 1.5 + limit / 3

    def stopped(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._running = None

    def _run(self, is_there: Callable[[], object]) -> None:
        is_there()
        parent = os.getppid()
        while True:
            sleep(0.02)
            if os.getppid() != parent:  # Who would read the results has ended.
                self._exit(HUNG)
            running = self._running
            if running is None:
                continue
            test, end, patience = running
            blocking = self._ticker.look() if self._ticker is not None else []
            if blocking:
                still = f"the hub stood still for {TOO_STILL} s and more {where(blocking)}"
                self._end(test, "blocked", {"reason": still, "detail": text(blocking)})
            elif self._ticker is not None and self._ticker.starved() > patience:
                self._end(test, "hung", self._stacks("works without end", None))
            elif monotonic() > end:
                # Inside, where the test is in its own greenlet, if that is waiting.
                self._end(test, "hung", self._stacks("waits", getattr(self.greenlet, "gr_frame", None)))

    def _end(self, test: str, outcome: str, fields: dict[str, str]) -> None:
        try:
            self._lines.add(test=test, outcome=outcome, **fields)
        finally:
            self._exit(HUNG)

    def _stacks(self, how: str, frame: FrameType | None) -> dict[str, str]:
        """Where the test is, and then all the others."""
        frames = sys._current_frames()
        stack = traceback.extract_stack(frame or frames[self._main])
        stacks = [text(stack)] + [
            f"Thread {ident}:\n{text(traceback.extract_stack(frames[ident]))}" for ident in frames
        ]
        if "gevent" in sys.modules:
            from gevent.util import format_run_info

            stacks += format_run_info()
        return {"reason": f"{how} {where(stack)}", "detail": "\n".join(stacks)[:30000]}


class Result(unittest.TestResult):
    """Writes what comes of each test."""

    def __init__(self, lines: Lines, watch: Watch, ticker: Ticker | None, job: dict[str, Any]) -> None:
        super().__init__()
        self._lines, self._watch, self._ticker, self._job = lines, watch, ticker, job
        self._test: str | None = None

    def unhandled(self, args: Any) -> None:
        """An exception that left a thread, or that nobody could be told of: type, value and traceback."""
        if self._test is not None and args[0] not in (None, SystemExit):
            self._note("unhandled", *describe(tuple(args[:3])))

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._test = test.id()
        self._outcome, self._reason, self._detail = "passed", "", ""
        self._started = monotonic()
        self._lines.add(test=self._test, outcome="started")
        if self._ticker is not None:
            self._ticker.restart()
        self._watch.started(self._test, self._job["limits"].get(self._test, self._job["limit"]))

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        self._watch.stopped()
        if self._test is None:  # CPython 3.12.1 starts no test that it skips.
            return
        self.unhandled(sys.exc_info())  # a KeyboardInterrupt on its way through unittest
        still = 0.0
        if self._ticker is not None:
            self._ticker.tick()
            still = self._ticker.still
            if still > MAX_STILL:
                stack = self._ticker.stack
                self._note("blocked", f"the hub stood still for {still:.2f} s {where(stack)}", text(stack))
        self._lines.add(
            test=self._test,
            outcome=self._outcome,
            reason=self._reason,
            detail=self._detail,
            seconds=round(monotonic() - self._started, 3),
            still=round(still, 3),
        )
        self._test = None

    def _note(self, outcome: str, reason: str, detail: str) -> None:
        if self._outcome == "passed":
            self._outcome, self._reason, self._detail = outcome, reason[:400], detail[-6000:]
        else:
            self._detail += f"\n{outcome}: {reason}\n{detail}"[:6000]

    def _add(self, test: Any, outcome: str, error: Any) -> None:
        reason, detail = error if isinstance(error[0], str) else describe(error)
        if self._test is not None:
            self._note(outcome, reason, detail)
        else:  # setUpClass and the like
            self._lines.add(test=test.id(), outcome=outcome, reason=reason, detail=detail)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._add(test, "error", err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._add(test, "failed", err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        self._add(test, "skipped", (reason, ""))

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._add(test, "failed", ("unexpected success", ""))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            outcome = "failed" if issubclass(err[0], test.failureException) else "error"
            reason, detail = describe(err)
            self._add(test, outcome, (f"{subtest._subDescription()} {reason}", detail))


def describe(error: tuple[type[BaseException], BaseException, TracebackType | None]) -> tuple[str, str]:
    kind, value, _ = error
    lines = "".join(traceback.format_exception(*error))
    return f"{kind.__name__}: {' '.join(str(value).split())}"[:400], lines[-6000:]


def flat(suite: Any) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
    else:
        for part in suite:
            yield from flat(part)


def load(job: dict[str, Any], lines: Lines) -> unittest.TestSuite:
    """The tests of the module that are asked for and not done, in their order, each once."""
    suite = unittest.TestSuite()
    try:
        module = importlib.import_module(job["module"])
    except unittest.SkipTest as skip:
        lines.add(test=job["module"], outcome="skipped", reason=str(skip))
        return suite
    left_out = set(job["done"])
    for test in flat(unittest.defaultTestLoader.loadTestsFromModule(module)):
        if test.id() not in left_out and is_asked_for(test.id(), job["tests"]):
            left_out.add(test.id())
            suite.addTest(test)
    return suite


def is_asked_for(test: str, parts: list[str] | None) -> bool:
    return parts is None or any(test == part or test.startswith(f"{part}.") for part in parts)


def run_in_scope(scope: Any, watch: Watch) -> None:
    """Let each test, with its setUp and tearDown, run in a greenlet in the scope."""
    import gevent

    run = unittest.TestCase.run

    def scoped(test: unittest.TestCase, result: Any) -> None:
        with scope.cooperative():
            # Tests compare the threads before and after: this greenlet is one of them already.
            threading.current_thread()
            run(test, result)

    def run_and_wait(test: unittest.TestCase, result: Any = None) -> Any:
        if scope.in_scope():  # a test that runs a test
            return run(test, result)
        watch.greenlet = greenlet = gevent.spawn(scoped, test, result)
        try:
            greenlet.get()
        except BaseException:
            # Not the test's, which keeps its own: a signal's handler raised it in the hub.
            result.unhandled(sys.exc_info())
            greenlet.kill(timeout=5)
        return result

    unittest.TestCase.run = run_and_wait  # type: ignore[method-assign]


def main() -> None:
    del sys.path[0]  # this folder is none of the tests' business
    with open(sys.argv[1]) as file:
        job = json.load(file)
    sys.path.append(job["path"])
    faulthandler.enable()
    lines = Lines(job["results"])
    from test import support

    support.use_resources = job["resources"]
    support.verbose = 0
    if job["mode"] != "plain":
        scope = importlib.import_module("geventws.scope")
        scope.install()
    ticker = Ticker() if job["mode"] == "inside" else None
    watch = Watch(lines, ticker)
    if job["mode"] == "inside":
        run_in_scope(scope, watch)
    result = Result(lines, watch, ticker, job)
    threading.excepthook = sys.unraisablehook = result.unhandled
    load(job, lines).run(result)
    lines.add(test=None, outcome="complete")
    # What the tests left behind, such as daemon threads, is nothing to wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
