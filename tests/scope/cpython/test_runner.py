"""What the runner makes of tests that pass, fail, block, hang and crash, and of its list of exceptions."""

import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from scope.cpython import jobs, suite
from scope.cpython.jobs import Job, Outcome, run_job
from scope.cpython.suite import run_module
from scope.cpython.verdicts import EXCEPTIONS, THIS_VERSION, Exemption, read_exceptions, surprises

pytest.importorskip("test.support", reason="the test package of CPython is missing")
pytestmark = pytest.mark.endtoend

SAMPLE = """
    import os, signal, threading, unittest

    class Sample(unittest.TestCase):
        def test_passes(self): pass
        def test_is_skipped(self): self.skipTest("for a reason")
        def test_fails(self): self.assertEqual(1, 2)
        def test_fails_in_part(self):
            with self.subTest(part=7): self.fail()
        def test_raises(self): 1 / 0
        def test_raises_in_a_thread(self):
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        # No scope can help with these: the signal's wait is the system's own.
        def test_blocks(self): signal.sigtimedwait([signal.SIGUSR2], 0.5)
        def test_blocks_for_ever(self): signal.sigwait([signal.SIGUSR2])
        def test_waits(self): threading.Event().wait(0.5)
        def test_waits_for_ever(self): threading.Event().wait()
        def test_works_hard(self): sum(range(20_000_000))
        def test_works_for_ever(self):
            while True: pass
        def test_crashes(self): os.kill(os.getpid(), signal.SIGKILL)
        def test_z_comes_after_all_of_these(self): pass

    class NotSetUp(unittest.TestCase):
        @classmethod
        def setUpClass(cls): raise unittest.SkipTest("nothing here")
        def test_is_never_run(self): pass
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sampled.py").write_text(textwrap.dedent(SAMPLE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(jobs, "LIMIT", 2)
    return "sampled"


def outcomes_of(mode: str, module: str, tests: Sequence[str] | None = None) -> dict[str, str]:
    outcomes, problem = run_job(Job(module, mode, tests), time.monotonic() + 50)
    assert not problem
    return {test.removeprefix("sampled.Sample.test_"): outcome.outcome for test, outcome in outcomes.items()}


EVERYWHERE = {
    "passes": "passed",
    "is_skipped": "skipped",
    "fails": "failed",
    "fails_in_part": "failed",
    "raises": "error",
    "raises_in_a_thread": "unhandled",
    "waits": "passed",
    "waits_for_ever": "hung",
    "works_hard": "passed",
    "works_for_ever": "hung",
    "crashes": "crashed",
    "z_comes_after_all_of_these": "passed",
    "setUpClass (sampled.NotSetUp)": "skipped",
}


def test_a_test_that_hangs_or_crashes_does_so_alone(sample: str) -> None:
    assert outcomes_of("plain", sample) == EVERYWHERE | {"blocks": "passed", "blocks_for_ever": "hung"}


def test_inside_a_scope_what_blocks_the_hub_is_seen(sample: str) -> None:
    assert outcomes_of("inside", sample) == EVERYWHERE | {"blocks": "blocked", "blocks_for_ever": "blocked"}


def test_the_line_that_blocks_is_named(sample: str) -> None:
    outcomes, _ = run_job(Job(sample, "inside", ["sampled.Sample.test_blocks"]), time.monotonic() + 50)
    (outcome,) = outcomes.values()
    assert "in test_blocks (sampled.py:" in outcome.reason
    assert "signal.sigtimedwait" in outcome.detail


def test_a_run_ends_in_time(sample: str) -> None:
    outcomes, problem = run_job(Job(sample, "plain", ["sampled.Sample.test_blocks_for_ever"]), time.monotonic() + 0.7)
    assert problem == "no time was left at sampled.Sample.test_blocks_for_ever"
    assert not outcomes


def test_a_module_that_cannot_be_run_is_a_problem() -> None:
    _, problem = run_job(Job("no.such.module", "plain"), time.monotonic() + 50)
    assert "No module named 'no'" in problem


def test_what_deviates_is_wrong_if_it_is_not_listed_and_what_is_listed_if_it_does_not_deviate(sample: str) -> None:
    blocks, waits = (f"sampled.Sample.test_{name}" for name in ("blocks", "waits"))

    def wrong(*listed: str) -> set[str]:
        exemptions = [Exemption(test, "inside", (THIS_VERSION,), "a reason") for test in listed]
        (report,) = run_module(sample, [blocks, waits], ["inside"], exemptions, time.monotonic() + 50)
        assert not report.problems
        return set(report.wrong)

    assert wrong() == {blocks}
    assert wrong(blocks) == set()
    assert wrong(blocks, waits) == {waits}


def test_what_fails_in_plain_cpython_is_not_judged() -> None:
    plain = {"a": Outcome("passed"), "b": Outcome("failed"), "c": Outcome("skipped")}
    outcomes = {"a": Outcome("failed"), "c": Outcome("passed")}
    assert surprises("outside", plain, outcomes, {}).keys() == {"a", "c"}
    assert surprises("inside", plain, outcomes, {}).keys() == {"a", "c"} - {"c"}
    assert surprises("outside", plain, {}, {}).keys() == {"a", "c"}


def test_the_list_of_exceptions_has_a_reason_for_each() -> None:
    text = "# words\n\ninside It is so.\n    test.a 3.11-3.12\n    test.b sometimes\nboth Because.\n    test.c 3.13\n"
    assert read_exceptions(text) == [
        Exemption("test.a", "inside", ("3.11", "3.12"), "It is so."),
        Exemption("test.b", "inside", ("3.10", "3.11", "3.12", "3.13"), "It is so.", sometimes=True),
        Exemption("test.c", "outside", ("3.13",), "Because."),
        Exemption("test.c", "inside", ("3.13",), "Because."),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "    test.a",
        "inside\n    test.a",
        "beside Because.\n    test.a",
        "inside Because.\n    test.a 2.7",
        "inside Because.\n    test.a never",
        "inside Because.\n    test.a\n    test.a",
        "inside Because.\n    test.a\nboth Because.\n    test.a 3.12",
    ],
)
def test_a_list_that_is_not_clear_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line|twice"):
        read_exceptions(text)


def test_the_list_can_be_read() -> None:
    known = tuple(f"{module}." for module in suite.MODULES)
    assert [entry.test for entry in read_exceptions(EXCEPTIONS.read_text()) if not entry.test.startswith(known)] == []
