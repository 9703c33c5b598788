"""The quick part of CPython's regression tests, beside the scope and in it. `tox run -e scope` runs all of them."""

import time

import pytest
from scope.cpython.run import choose
from scope.cpython.suite import available, run
from scope.cpython.verdicts import EXCEPTIONS, JUDGED, THIS_VERSION, read_exceptions
from waiting import missing


@pytest.mark.timeout(200)
def test_the_quick_part_of_cpythons_tests_does_what_it_does_in_plain_cpython() -> None:
    modules = available()
    if not modules:
        missing(f"the test package of CPython {THIS_VERSION}")
    exemptions = read_exceptions(EXCEPTIONS.read_text())
    chosen = choose([], modules, quick=True)
    wrong = []
    # More at once than there are cores, as most of them wait for their time to be over.
    for reports in run(chosen, list(JUDGED), exemptions, time.monotonic() + 180, listed_too=False, jobs=4):
        for report in reports:
            wrong += [f"{report.mode} {report.module}: {problem}" for problem in report.problems]
            wrong += [f"{report.mode} {test}: {outcome}" for test, outcome in report.wrong.items()]
    assert not wrong, "\n".join(wrong)
