"""The Autobahn testsuite against geventws, as part of the tests: all but the slowest of its cases.

`python tests/autobahn/run.py` runs all of them.
"""

import os

import pytest

from autobahn.cases import clients_for, select, servers_for
from autobahn.jobs import Job, Outcome, run_jobs, split
from autobahn.suite import Suite, SuiteUnavailable, find_suite

# What takes no more than a second in groups 12 and 13: messages of 16 octets to 16 KiB, in one frame and in fragments
# of 256 octets. The window is at most 32 KiB and the data have 190 KiB to 1 MiB, so 1000 messages go round it often.
QUICK_SIZES = (1, 2, 3, 4, 5, 6, 7, 11, 12)
QUICK = [f"{group}.{size}" for group in ("12.*", "13.*") for size in QUICK_SIZES]
# And of the slow ones the biggest messages, where the window is the smallest, and where the data hardly shrink.
BIGGEST = ["12.5.10", "13.5.15"]

SERVED = split(select(["1", "2", "3", "4", "5", "6", "7", "10", *QUICK, *BIGGEST]), servers_for)
# What clients do otherwise is masking, the closing of TCP, and how compression comes to be. The rest is the same code.
CONNECTED = split(select(["1", "2", "3", "4", "5", "6.1", "6.4", "7", "10", "12.1.1", "12.2.4", "13.*.4"]), clients_for)
JOBS = [*SERVED, *CONNECTED]


@pytest.fixture(scope="module")
def suite() -> Suite:
    try:
        return find_suite()
    except SuiteUnavailable as error:
        if os.environ.get("GEVENTWS_REQUIRE_ALL") == "1":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def outcomes(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[Job, Outcome]:
    """All jobs run here, several at once; each test looks at the outcome of one."""
    return {outcome.job: outcome for outcome in run_jobs(JOBS, suite, tmp_path_factory.mktemp("autobahn"), timeout=480)}


# The first one waits for all, and for the installation of the suite.
@pytest.mark.timeout(900)
@pytest.mark.endtoend
@pytest.mark.parametrize("job", JOBS, ids=str)
def test_every_case_behaves_and_closes_as_it_must(job: Job, outcomes: dict[Job, Outcome]) -> None:
    failures = outcomes[job].failures
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
