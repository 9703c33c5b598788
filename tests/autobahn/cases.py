"""The 517 cases of the Autobahn testsuite: their names, what a pattern means, what each is run against."""

import fnmatch
from collections.abc import Iterable

# How many cases each group has, or each group within a group: the last of the three of 6.1 is the case 6.1.3.
COUNTS = """
    1.1:8 1.2:8   2:11   3:7   4.1:5 4.2:5   5:20
    6.1:3 6.2:4 6.3:2 6.4:4 6.5:5 6.6:11 6.7:4 6.8:2 6.9:4 6.10:3 6.11:5 6.12:8
    6.13:5 6.14:10 6.15:1 6.16:3 6.17:5 6.18:5 6.19:5 6.20:7 6.21:8 6.22:34 6.23:7
    7.1:6 7.3:6 7.5:1 7.7:13 7.9:9 7.13:2
    9.1:6 9.2:6 9.3:9 9.4:9 9.5:6 9.6:6 9.7:6 9.8:6   10.1:1
    12.1:18 12.2:18 12.3:18 12.4:18 12.5:18
    13.1:18 13.2:18 13.3:18 13.4:18 13.5:18 13.6:18 13.7:18
"""
ALL_CASES = tuple(
    f"{group}.{number}"
    for group, count in (item.split(":") for item in COUNTS.split())
    for number in range(1, int(count) + 1)
)

# The options of each kind of echo server that cases are run against.
SERVERS: dict[str, dict[str, object]] = {
    "plain": {},
    "deflate": {"compression": True},
    # The biggest message of group 9 has 16 MiB.
    "large": {"max_message_size": 16 * 2**20},
}
# The options of `connect` in each kind of client that cases are run against: the same, as the messages are.
CLIENTS = {f"client-{name}": options for name, options in SERVERS.items()}


def select(patterns: Iterable[str]) -> list[str]:
    """The cases that `patterns` mean, in the suite's order: "7.1.5", "6.4.*", and "12" for all of group 12.

    Raises:
        ValueError: a pattern means no case.
    """
    selected: set[str] = set()
    for pattern in patterns:
        found = {case for case in ALL_CASES if fnmatch.fnmatchcase(case, pattern) or case.startswith(f"{pattern}.")}
        if not found:
            raise ValueError(f"no case is called {pattern!r}")
        selected |= found
    return [case for case in ALL_CASES if case in selected]


def servers_for(case: str) -> tuple[str, ...]:
    """The kinds of server that `case` is run against."""
    group = case.split(".")[0]
    if group in ("12", "13"):
        return ("deflate",)
    if group == "9":
        return ("large",)
    # The fuzzer offers no extension here: what a server that could compress answers must be the same.
    return ("plain", "deflate")


def clients_for(case: str) -> tuple[str, ...]:
    """The kinds of client that `case` is run against."""
    return tuple(f"client-{name}" for name in servers_for(case))


def share_of(case: str) -> str:
    """The part of the suite that one fuzzer process runs on end: a group; of the slow 12 and 13, "12.1" and so on."""
    group, minor = case.split(".")[:2]
    return f"{group}.{minor}" if group in ("12", "13") else group
