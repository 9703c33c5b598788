"""The command that runs CPython's own regression tests beside the scope and in it. What it does is in suite.py.

    python tests/scope/cpython/run.py                            all modules, both modes
    python tests/scope/cpython/run.py --quick                    the part that takes seconds
    python tests/scope/cpython/run.py --mode inside test_ssl     one module in one mode
    python tests/scope/cpython/run.py -v test_ssl.ThreadedTests.test_echo

It exits with 0 when each test does what it does in plain CPython, and what exceptions.txt lists does not; else with 1, or
with 2 when this Python has no tests.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# As the tests have it: this folder is a package in `tests/scope`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scope.cpython.suite import MODULES, QUICK, Report, available, run
from scope.cpython.verdicts import EXCEPTIONS, JUDGED, THIS_VERSION, read_exceptions, to_run

COLUMNS = "{:<48}{:<9}{:>6}{:>6}{:>8}{:>7}{:>9}{:>9}"
HEADINGS = ("module", "mode", "tests", "same", "listed", "wrong", "unsteady", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    modules = available()
    if not modules:
        print(f"Python {THIS_VERSION} at {sys.executable} has no `test` package", file=sys.stderr)
        return 2
    started = time.monotonic()
    modes = list(JUDGED) if options.mode == "both" else [options.mode]
    print(f"Not in this Python: {' '.join(module for module in MODULES if module not in modules)}")
    chosen = choose(options.tests, modules, options.quick)
    exemptions = read_exceptions(EXCEPTIONS.read_text())
    print(COLUMNS.format(*HEADINGS), flush=True)
    reports = []
    for of_module in run(chosen, modes, exemptions, started + options.timeout, not options.quick, options.jobs):
        for report in of_module:
            reports.append(report)
            print(row(report), *findings(report, options.verbose), sep="\n", flush=True)
    if options.results:
        write(reports, options.results)
    tests = sum(len(to_run(report.mode, report.plain)) for report in reports)
    good = all(report.good for report in reports)
    verdict = "as in plain CPython" if good else "WRONG"
    print(f"Python {THIS_VERSION}: {tests} tests in {time.monotonic() - started:.0f} s: {verdict}")
    return 0 if good else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tests", nargs="*", metavar="TESTS", help="modules, classes or tests, such as test_ssl (default: all modules)")
    add("--mode", choices=[*JUDGED, "both"], default="both", help="beside the scope or in it (default: %(default)s)")
    add("--quick", action="store_true", help="only a part, without what is listed in exceptions.txt")
    add("--timeout", type=float, default=1500, metavar="SECONDS", help="for everything (default: %(default)s)")
    add("--jobs", type=int, default=2, metavar="NUMBER", help="modules at once (default: %(default)s)")
    add("--results", type=Path, metavar="FILE", help="write all outcomes as JSON lines")
    add("--verbose", "-v", action="store_true", help="show stacks and tracebacks")
    return parser.parse_args(arguments)


def choose(tests: Sequence[str], modules: Sequence[str], quick: bool) -> dict[str, Sequence[str] | None]:
    """The modules to run, and for each its parts if not all."""
    if quick:
        return {module: parts for module, parts in QUICK.items() if module in modules}
    if not tests:
        return dict.fromkeys(modules)
    chosen: dict[str, Sequence[str] | None] = {}
    for name in tests:
        test = name if name.startswith("test.") else f"test.{name}"
        inside = [module for module in modules if module == test or module.startswith(f"{test}.")]
        around = [module for module in modules if test.startswith(f"{module}.")]
        if not inside and not around:
            raise SystemExit(f"{name} is in none of the modules: {' '.join(modules)}")
        chosen.update(dict.fromkeys(inside))
        for module in around:
            chosen[module] = [*(chosen.get(module) or ()), test]
    return chosen


def row(report: Report) -> str:
    judged = to_run(report.mode, report.plain)
    listed = [test for test in judged if test in report.listed]
    same = [test for test in judged if test not in report.wrong and test not in report.listed]
    seconds = sum(outcome.seconds for outcome in report.outcomes.values())
    counts = (len(judged), len(same), len(listed), len(report.wrong), len(report.unsteady))
    return COLUMNS.format(report.module, report.mode, *counts, f"{seconds:.1f}")


def findings(report: Report, verbose: bool) -> Iterator[str]:
    """What there is to say about single tests, each in a line; with tracebacks below if `verbose`."""
    for test, outcome in report.plain.items():
        if outcome.outcome not in JUDGED["outside"]:
            yield f"NOT JUDGED {test}: {outcome.outcome} in plain CPython: {outcome.reason}"
    for test, outcome in report.unsteady.items():
        yield f"UNSTEADY {report.mode} {test}: {outcome.outcome} once: {outcome.reason}"
    for test, outcome in report.wrong.items():
        if test in report.listed:
            yield f"STALE {report.mode} {test}: is listed in exceptions.txt, and {outcome.outcome}"
            continue
        yield f"WRONG {report.mode} {test}: {outcome.outcome}: {outcome.reason}"
        if verbose:
            yield textwrap.indent(outcome.detail, "    ")
    for problem in report.problems:
        yield f"WRONG {report.mode} {report.module}: {problem}"


def write(reports: Sequence[Report], path: Path) -> None:
    with path.open("w") as file:
        for report in reports:
            for test, outcome in {**report.outcomes, **report.wrong}.items():
                plain = report.plain[test].outcome if test in report.plain else None
                fields = {"python": THIS_VERSION, "mode": report.mode, "test": test, "plain": plain, **vars(outcome)}
                print(json.dumps({**fields, "wrong": test in report.wrong}), file=file)


if __name__ == "__main__":
    sys.exit(main())
