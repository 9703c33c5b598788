"""What the runner makes of the suite's answers, and of a suite that does not answer. No case is run here."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autobahn.cases import ALL_CASES, clients_for, select, servers_for
from autobahn.jobs import Job, Verdict, run_jobs, split
from autobahn.suite import SuiteUnavailable, find_suite

PLAYED_FUZZER = """
import json, pathlib, sys
spec = json.load(open(sys.argv[1]))
verdicts = json.loads(sys.argv[2])
folder = pathlib.Path(spec["outdir"])
report = {
    case: {"behavior": behaviour, "behaviorClose": close, "duration": 1, "reportfile": "none.json"}
    for case, (behaviour, close) in zip(spec["cases"], verdicts)
}
(folder / "index.json").write_text(json.dumps({"geventws": report}))
"""


@dataclass
class PlayedSuite:
    """A fuzzer that gives these verdicts to the cases it is asked for, in their order."""

    verdicts: str

    def command(self, mode: str, spec: Path, name: str) -> list[str]:
        return [sys.executable, "-c", PLAYED_FUZZER, str(spec), self.verdicts]

    def stop(self, name: str) -> None:
        pass


class StalledSuite:
    """A fuzzer that waits for ever, and says by which process."""

    def command(self, mode: str, spec: Path, name: str) -> list[str]:
        return [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]

    def stop(self, name: str) -> None:
        pass


def test_the_suite_has_517_cases() -> None:
    assert len(ALL_CASES) == len(set(ALL_CASES)) == 517


@pytest.mark.parametrize(
    ("pattern", "first", "last", "count"),
    [
        ("*", "1.1.1", "13.7.18", 517),
        ("1", "1.1.1", "1.2.8", 16),
        ("6.4.*", "6.4.1", "6.4.4", 4),
        ("7.1", "7.1.1", "7.1.6", 6),
        ("12.*.18", "12.1.18", "12.5.18", 5),
        ("2.10", "2.10", "2.10", 1),
    ],
)
def test_a_pattern_selects_cases(pattern: str, first: str, last: str, count: int) -> None:
    cases = select([pattern])
    assert (cases[0], cases[-1], len(cases)) == (first, last, count)


@pytest.mark.parametrize("pattern", ["8", "7.1.7", "nonsense", ""])
def test_a_pattern_that_selects_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="no case is called"):
        select(["1.1.1", pattern])


@pytest.mark.parametrize("testees_for", [servers_for, clients_for])
def test_every_case_is_in_a_job_of_each_of_its_testees(testees_for: Callable[[str], Iterable[str]]) -> None:
    planned = {(case, job.testee) for job in split(ALL_CASES, testees_for) for case in job.cases}
    assert planned == {(case, testee) for case in ALL_CASES for testee in testees_for(case)}


@pytest.mark.parametrize(
    ("behaviour", "close", "good"),
    [
        ("OK", "OK", True),
        ("NON-STRICT", "OK", True),
        ("INFORMATIONAL", "INFORMATIONAL", True),
        ("FAILED", "OK", False),
        ("UNIMPLEMENTED", "OK", False),
        # A case that expects to receive nothing behaves well where the server swallowed the error.
        ("OK", "FAILED", False),
        ("OK", "WRONG CODE", False),
        ("OK", "UNCLEAN", False),
        ("OK", "FAILED BY CLIENT", False),
    ],
)
def test_both_verdicts_must_be_good(behaviour: str, close: str, good: bool) -> None:
    assert Verdict("1.1.1", "plain", behaviour, close).good is good


def test_good_verdicts_are_no_failure(tmp_path: Path) -> None:
    [outcome] = run_jobs([Job("2", "plain", ("2.1",))], PlayedSuite('[["OK", "OK"]]'), tmp_path, timeout=30)
    assert [str(verdict) for verdict in outcome.verdicts] == ["2.1 [plain] OK / OK"]
    assert outcome.failures == []


def test_a_bad_verdict_is_a_failure(tmp_path: Path) -> None:
    [outcome] = run_jobs([Job("2", "plain", ("2.1",))], PlayedSuite('[["OK", "FAILED"]]'), tmp_path, timeout=30)
    assert outcome.failures == ["2.1 [plain] OK / FAILED"]


def test_a_case_that_did_not_run_is_a_failure(tmp_path: Path) -> None:
    job = Job("2", "plain", ("2.1", "2.2", "2.3"))
    [outcome] = run_jobs([job], PlayedSuite('[["OK", "OK"]]'), tmp_path, timeout=30)
    assert outcome.failures == ["2-plain: the fuzzer failed:", "2-plain: 2 cases did not run: 2.2 2.3"]


def test_a_stalled_suite_is_ended_in_time_and_is_a_failure(tmp_path: Path) -> None:
    jobs = [Job("1", "plain", ("1.1.1",)), Job("2", "plain", ("2.1",))]
    outcomes = {outcome.job: outcome for outcome in run_jobs(jobs, StalledSuite(), tmp_path, timeout=1, at_once=1)}
    assert outcomes[jobs[1]].failures[-1] == "2-plain: 1 cases did not run: 2.1"
    assert "not ended in time" in outcomes[jobs[1]].failures[0]
    assert outcomes[jobs[0]].failures == ["1-plain: 1 cases did not run: 1.1.1"]
    process = int((tmp_path / "2-plain" / "fuzzer.log").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_named_python_that_is_not_python27_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteUnavailable, match=r"is not a CPython 2\.7"):
        find_suite(sys.executable, tmp_path)


def test_without_python27_and_docker_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PATH", "PYENV_ROOT", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("PYTHON27", raising=False)
    with pytest.raises(SuiteUnavailable, match=r"pyenv install 2\.7\.18.*start Docker"):
        find_suite(directory=tmp_path)
