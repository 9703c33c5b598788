"""What to think of the outcomes: a test must do in each mode what it does in plain CPython, or be listed in exceptions.txt.

No process is started here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .jobs import MISSING, Outcome, Outcomes

EXCEPTIONS = Path(__file__).with_name("exceptions.txt")
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
THIS_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# Only these are judged, in each mode: what fails in plain CPython on this machine says nothing about the scope.
JUDGED = {"outside": ("passed", "skipped"), "inside": ("passed",)}


@dataclass(frozen=True)
class Exemption:
    """What exceptions.txt says: this test may deviate in this mode in these versions."""

    test: str
    mode: str
    versions: tuple[str, ...]
    reason: str
    # It may also do as in plain CPython: what it does is a matter of moments. To be avoided.
    sometimes: bool = False


def read_exceptions(text: str) -> list[Exemption]:
    """Paragraphs: a line with the mode, or `both`, and the reason; below it, indented, the tests that it is for.

    Behind a test may be the versions, if it is not in all, and `sometimes`.
    """
    found: list[Exemption] = []
    modes: tuple[str, ...] = ()
    reason = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            found += [read_test(line, mode, reason, number) for mode in modes]
        else:
            mode, _, reason = line.partition(" ")
            modes = tuple(JUDGED) if mode == "both" else (mode,)
        if not reason or not JUDGED.keys() >= set(modes):
            raise ValueError(f"line {number}: no mode and reason")
    names = Counter((entry.mode, entry.test, version) for entry in found for version in entry.versions)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise ValueError(f"listed twice: {twice}")
    return found


def read_test(line: str, mode: str, reason: str, number: int) -> Exemption:
    test, *marks = line.split()
    sometimes = "sometimes" in marks
    versions = [mark for mark in marks if mark != "sometimes"] or [f"{VERSIONS[0]}-{VERSIONS[-1]}"]
    first, _, last = versions[0].partition("-")
    if len(versions) > 1 or first not in VERSIONS or (last or first) not in VERSIONS:
        raise ValueError(f"line {number}: expected a test, versions such as 3.11 or 3.10-3.12, and perhaps `sometimes`")
    known = VERSIONS[VERSIONS.index(first) : VERSIONS.index(last or first) + 1]
    return Exemption(test, mode, known, reason, sometimes)


def exempted(mode: str, exemptions: Iterable[Exemption], version: str = THIS_VERSION) -> dict[str, Exemption]:
    """What is listed for this mode in this Python."""
    return {entry.test: entry for entry in exemptions if entry.mode == mode and version in entry.versions}


def to_run(mode: str, plain: Outcomes) -> list[str]:
    """The tests that are judged; `setUpClass (test.test_x.Class)` and the like are no tests."""
    return [test for test, outcome in plain.items() if outcome.outcome in JUDGED[mode] and "(" not in test]


def surprises(mode: str, plain: Outcomes, outcomes: Outcomes, listed: Mapping[str, Exemption]) -> dict[str, Outcome]:
    """The tests that deviate and are not listed, and those that are listed and do not deviate."""
    found = {}
    for test in to_run(mode, plain):
        outcome = outcomes.get(test, MISSING)
        deviates = outcome.outcome != plain[test].outcome
        if deviates != (test in listed) and not (test in listed and listed[test].sometimes):
            found[test] = outcome
    # What is no test: setUpClass and the like, which have an outcome only when they fail or skip.
    for name in outcomes.keys() - plain.keys():
        if name not in listed:
            found[name] = outcomes[name]
    return found


def unknown(module: str, plain: Outcomes, outcomes: Outcomes, listed: Iterable[str]) -> list[str]:
    """What is listed for the module, and is not in it."""
    return [test for test in listed if test.startswith(f"{module}.") and test not in plain and test not in outcomes]
