"""The command that runs the Autobahn testsuite against geventws and prints what came of it. What it does is in jobs.py.

    python tests/autobahn/run.py                    everything, against servers and against clients
    python tests/autobahn/run.py 6.4.* 7 12.1.3     some of it
    python tests/autobahn/run.py --client 9         group 9 against clients alone; --server is the other half

It exits with 0 when every selected case ran, behaved and closed as it must; else with 1, or with 2 when the suite
cannot be had on this machine.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

# As the tests have it: this folder is a package in `tests`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autobahn.cases import clients_for, select, servers_for
from autobahn.jobs import Outcome, Verdict, run_jobs, split
from autobahn.suite import DEFAULT_DIRECTORY, SuiteUnavailable, find_suite

COLUMNS = "{:<8}{:<16}{:>6}{:>6}{:>12}{:>15}{:>8}{:>10}"
HEADINGS = ("cases", "testee", "count", "OK", "NON-STRICT", "INFORMATIONAL", "bad", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    started = time.monotonic()
    # So that the processes of the jobs are ended by `with` and `finally` also then.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        suite = find_suite(options.python27, options.suite_dir, options.timeout)
    except SuiteUnavailable as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    with report_folder(options.report_dir) as reports:
        time_left = options.timeout - (time.monotonic() - started)
        jobs = [job for testees_for in options.sides for job in split(options.cases, testees_for)]
        outcomes = run_jobs(jobs, suite, Path(reports), time_left, options.jobs)
    return report(outcomes, time.monotonic() - started, options.verbose)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASES", help='such as 7.1.5, 6.4.*, or 12 for a whole group (default: "*")')
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--server", dest="sides", action="store_const", const=[servers_for], help="against servers alone")
    side.add_argument("--client", dest="sides", action="store_const", const=[clients_for], help="against clients alone")
    parser.set_defaults(sides=[servers_for, clients_for])
    add("--python27", metavar="PATH", help="the CPython 2.7 that runs the suite (default: $PYTHON27, or what is found)")
    add("--timeout", type=float, default=2400, metavar="SECONDS", help="for everything (default: %(default)s)")
    add("--report-dir", type=Path, metavar="DIR", help="keep the suite's reports in a new folder here")
    add("--suite-dir", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="where the suite is, or is installed")
    add("--jobs", type=int, metavar="NUMBER", help="fuzzers at once (default: one for each processor)")
    add("--verbose", "-v", action="store_true", help="list the verdict of every case")
    options = parser.parse_args(arguments)
    try:
        options.cases = select(options.cases or ["*"])
    except ValueError as error:
        parser.error(str(error))
    return options


def report_folder(kept_in: Path | None) -> tempfile.TemporaryDirectory[str] | nullcontext[str]:
    if kept_in is None:
        return tempfile.TemporaryDirectory(prefix="autobahn-")
    kept_in.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=kept_in, prefix=time.strftime("%Y-%m-%d-%H%M%S-"))
    print(f"The reports are in {folder}")
    return nullcontext(folder)


def report(outcomes: Iterable[Outcome], seconds: float, verbose: bool) -> int:
    """Print the outcomes, and return the exit code they deserve."""
    outcomes = list(outcomes)
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    print_table(outcomes)
    if verbose:
        print_list("Every verdict, behaviour / close:", [f"{verdict} {verdict.seconds:.2f} s" for verdict in verdicts])
    print_list("NON-STRICT:", [str(verdict) for verdict in verdicts if verdict.behaviour == "NON-STRICT"])
    print_list("INFORMATIONAL:", [str(verdict) for verdict in verdicts if verdict.behaviour == "INFORMATIONAL"])
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    print_list("FAILURES:", failures)
    good = sum(verdict.good for verdict in verdicts)
    print(f"\n{good} of {len(verdicts)} verdicts are good, {len(failures)} failures, {seconds:.0f} s")
    return 1 if failures else 0


def print_table(outcomes: Iterable[Outcome]) -> None:
    print(COLUMNS.format(*HEADINGS))
    for outcome in outcomes:
        kinds = Counter(map(kind, outcome.verdicts))
        counts = [kinds[heading] for heading in HEADINGS[3:-1]]
        job = outcome.job
        print(COLUMNS.format(job.share, job.testee, len(job.cases), *counts, f"{outcome.seconds:.1f}"))


def kind(verdict: Verdict) -> str:
    return verdict.behaviour if verdict.good else "bad"


def print_list(title: str, items: Sequence[str]) -> None:
    if items:
        print("", title, *items, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
