"""What a message, a handshake, an idle connection and a broadcast cost, beside other servers and beside no WebSocket at all.

`python benchmarks/run.py --help`. Writes `results.json`, `results.md` and the charts. What is measured is listed in `rows`, the
servers in `peers`; here is only the order of things.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import machine
import tables
from charts import render
from measuring import Bench, Cores, MeasurementFailed, Pace
from peers import SERVERS, Server
from results import Results
from rows import ROWS, Row
from tools import Tools, ToolsMissing, prepare

FULL, QUICK = Pace(seconds=1.5, warmup=0.4), Pace(seconds=0.5, warmup=0.2)
ROOT = Path(__file__).resolve().parents[1]
QUICK_LIMIT = 100.0
"""Seconds after which a quick run begins no further measurement."""

Plan = list[tuple[Row, list[Server]]]


def main() -> int:
    options = read_options()
    if options.list:
        print_list()
        return 0
    if options.redraw:
        write(Results.from_json(json.loads((options.output / "results.json").read_text())), options.output)
        return 0
    if sys.platform != "linux":
        print(f"Not on {sys.platform}: the load generator needs Linux, for epoll and /proc.")
        return 0
    names = options.servers or tuple(SERVERS)
    try:
        tools = prepare(node="ws" in names)
    except ToolsMissing as error:
        print(error)
        return 1
    geventws = options.geventws
    if geventws is None and find_spec("geventws") is None:
        geventws = ROOT
    cores = Cores.choose()
    pace = QUICK if options.quick else FULL
    if options.seconds:
        pace = Pace(options.seconds, pace.warmup)
    settings = {
        "rounds": options.rounds,
        "quick": options.quick,
        "seconds": pace.seconds,
        "warmup": pace.warmup,
        "pinning": cores.note or "server and load pinned to a core each",
    }
    results = Results(machine.describe(tools, geventws), settings)
    if cores.note:
        print(f"Note: {cores.note}")
    plan = make_plan(options, results, tools)
    try:
        run(plan, Bench(tools, cores, pace, geventws), results, options.rounds, time.monotonic() + options.limit)
    except KeyboardInterrupt:
        print("\nInterrupted: the results are of what has been measured.")
        results.skipped.append({"what": "the rest", "why": "interrupted"})
    write(results, options.output)
    return 1 if results.failed else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one short round of what the goals need: below two minutes"
    )
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="this row; may be given several times, or with commas"
    )
    parser.add_argument("--servers", type=known_servers, metavar="A,B", help="these servers")
    parser.add_argument("--rounds", type=int, help="how often each is measured, in turn; default 3")
    parser.add_argument(
        "--seconds", type=float, help=f"measured each time; default {FULL.seconds}, quick {QUICK.seconds}"
    )
    parser.add_argument("--limit", type=float, help="seconds after which nothing further is begun; default 3600")
    parser.add_argument(
        "--geventws",
        type=Path,
        metavar="DIR",
        help="a source tree to import geventws from; default: as it is installed, or else this tree",
    )
    parser.add_argument("--list", action="store_true", help="what may be given for ROW, A and B")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: tables and charts anew from DIR/results.json"
    )
    default = ROOT / "reports" / "benchmarks"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR", help="default: reports/benchmarks")
    options = parser.parse_args()
    options.only = [name for given in options.only or () for name in given.split(",")]
    for name in options.only:
        if name not in ROWS:
            parser.error(f"no row {name}; there are {', '.join(ROWS)}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.limit = options.limit or (QUICK_LIMIT if options.quick else 3600.0)
    return options


def known_servers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SERVERS:
            raise argparse.ArgumentTypeError(f"no server {name}; there are {', '.join(SERVERS)}")
    return names


def print_list() -> None:
    for row in ROWS.values():
        print(f"{row.name:20}{row.title}: {row.detail}\n{'':20}{', '.join(row.servers)}")
    print()
    for server in SERVERS.values():
        print(f"{server.name:20}{server.title}")


def make_plan(options: argparse.Namespace, results: Results, tools: Tools) -> Plan:
    """What is to be measured; what cannot be is named in the results, and on the screen."""

    def skip(what: str, why: str) -> None:
        results.skipped.append({"what": what, "why": why})
        print(f"Skipped {what}: {why}")

    asked = [name for name in SERVERS if options.servers is None or name in options.servers]
    absent = {name: why for name in asked if (why := SERVERS[name].missing(tools))}
    for name, why in absent.items():
        skip(name, why)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    plan: Plan = []
    for row in ROWS.values():
        if options.only and row.name not in options.only:
            continue
        if files != resource.RLIM_INFINITY and files < row.needs_files:
            skip(row.name, f"the system allows {files} open files (ulimit -Hn), {row.needs_files} are needed")
            continue
        servers = chosen(row, asked, options)
        plan.append((row, [SERVERS[name] for name in servers if name not in absent]))
    for (name, why), rows in reasons([row for row, _ in plan], asked).items():
        skip(f"{name} in {', '.join(rows)}", why)
    return plan


def reasons(rows: list[Row], asked: list[str]) -> dict[tuple[str, str], list[str]]:
    """By server and reason: the rows that a server which was asked for is not in."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in asked:
        cannot = SERVERS[name].cannot
        for row in rows:
            if name not in row.servers:
                kind = row.server_mode if row.server_mode in cannot else "websocket"
                found.setdefault((name, cannot.get(kind, "not compared in it")), []).append(row.name)
    return found


def chosen(row: Row, asked: list[str], options: argparse.Namespace) -> list[str]:
    if options.quick and options.servers is None:
        if not row.goals:
            return []
        return list(row.wanted_for_goals)
    return [name for name in asked if name in row.servers]


def run(plan: Plan, bench: Bench, results: Results, rounds: int, deadline: float) -> None:
    """Round by round, row by row, server by server, so that what is compared was measured close together."""
    for number in range(1, rounds + 1):
        for row, servers in plan:
            for server in servers:
                what = f"{server.name} in {row.name}, round {number}"
                if time.monotonic() > deadline:
                    results.skipped.append({"what": what, "why": "the time was up"})
                    print(f"Skipped {what}: the time was up")
                    continue
                try:
                    found = bench.measure(server, row)
                except MeasurementFailed as error:
                    results.failed.append({"what": what, "why": str(error)})
                    print(f"FAILED {what}: {error}", flush=True)
                    continue
                results.add(row, server.name, found)
                print_measured(number, row, server, found)


def print_measured(number: int, row: Row, server: Server, found: dict[str, float]) -> None:
    rest = "  ".join(f"{name} {found[name]:,.2f}" for name in (*row.shown, "others_busy") if name in found)
    print(f"{number}  {row.name:18} {server.name:19} {found[row.figure]:10.2f} {row.unit:4} {rest}", flush=True)


def write(results: Results, output: Path) -> None:
    if not results.rounds:
        print("Nothing was measured.")
        return
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results.as_json(), indent=1, ensure_ascii=False) + "\n")
    text = tables.render(results)
    (output / "results.md").write_text(text)
    charts = output / "charts"
    charts.mkdir(exist_ok=True)
    for row in (*ROWS, "overview"):
        for old in charts.glob(f"{row}-*.svg"):
            old.unlink()  # Of an earlier run that had more rows: it would not go with these results.
    for name, picture in render(results).items():
        (charts / name).write_text(picture)
    print(f"\n{text}\nWritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
