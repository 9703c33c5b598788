"""What the cooperative scope costs: nanoseconds for each call outside a scope, beside the native objects, and inside,
beside gevent's patched ones. Prints Markdown. `python benchmarks/scope_cost.py --help`
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Calls = dict[str, Callable[[], object]]
"""By name: something that does one operation, or the two that belong together, once."""

BOUND = 150
"""How many nanoseconds the dispatch may add to a call."""

BOUNDED = {
    "the dispatch of sleep": 1,
    "socket.send + recv": 2,
    "Lock.acquire + release": 2,
    "with Lock": 2,
    "local, get": 1,
    "local, set": 1,
}
"""How many dispatched calls are in each of the operations for which that is promised."""


class Library:
    """The objects of the library at this moment: its own, or those that have taken their place."""

    def __init__(self) -> None:
        self.sleep = time.sleep
        self.nothing: Callable[[object], object] = bool
        self.lock = threading.Lock
        self.rlock = threading.RLock
        self.local = threading.local
        self.get_ident = threading.get_ident
        self.read, self.write = os.read, os.write
        self.select = select.select
        self.simple_queue = queue.SimpleQueue
        self.queue = queue.Queue

    def calls(self) -> Calls:
        sleep, get_ident, read, write, look = self.sleep, self.get_ident, self.read, self.write, self.select
        lock, rlock, values, simple, jobs = self.lock(), self.rlock(), self.local(), self.simple_queue(), self.queue()
        nothing = self.nothing
        values.number = 1
        left, right = socket.socketpair()
        reading, writing = os.pipe()
        send, recv = left.send, right.recv

        def take_lock() -> None:
            lock.acquire()
            lock.release()

        def with_lock() -> None:
            with lock:
                pass

        def with_rlock() -> None:
            with rlock:
                pass

        def get_value() -> object:
            return values.number

        def set_value() -> None:
            values.number = 1

        def send_and_receive() -> None:
            send(b"x")
            recv(1)

        def write_and_read() -> None:
            write(writing, b"x")
            read(reading, 1)

        def put_and_get() -> None:
            jobs.put(1)
            jobs.get()

        def put_and_get_simple() -> None:
            simple.put(1)
            simple.get()

        return {
            "time.sleep(0)": lambda: sleep(0),
            # Of something that takes no time: beside the microseconds of a system call it cannot be measured.
            "the dispatch of sleep": lambda: nothing(0),
            "socket.send + recv": send_and_receive,
            "Lock.acquire + release": take_lock,
            "with Lock": with_lock,
            "with RLock": with_rlock,
            "local, get": get_value,
            "local, set": set_value,
            "get_ident": lambda: get_ident(),
            "os.write + read": write_and_read,
            "select.select": lambda: look([left], [left], [], 0),
            "Queue.put + get": put_and_get,
            "SimpleQueue.put + get": put_and_get_simple,
        }


def nanoseconds(call: Callable[[], object], seconds: float) -> float:
    """One call, on the average of so many as fit into the time: this thread's, as other programs may be busy, too."""
    times, clock = 20, time.thread_time_ns
    while True:
        begin = clock()
        for _ in range(times):
            call()
        took = clock() - begin
        if took >= seconds * 1e9 / 2:
            return took / times
        times = max(times * 2, int(times * seconds * 1e9 / max(took, 1)))


def side_by_side(first: Calls, second: Calls, rounds: int, seconds: float) -> dict[str, list[float]]:
    """For each call the nanoseconds of both, in turns so that both see the same machine. The fastest counts."""
    measured: dict[str, list[float]] = {}
    for name in first:
        columns: list[list[float]] = [[], []]
        for _ in range(rounds):
            for column, calls in zip(columns, (first, second), strict=True):
                column.append(nanoseconds(calls[name], seconds))
        measured[name] = [min(column) for column in columns]
    return measured


def sleep_shortly() -> None:
    """Have Linux wake this thread, and those that it starts, as soon as it can: 50 µs later would hide what is measured."""
    if sys.platform == "linux":
        set_timer_slack = 29
        ctypes.CDLL(None).prctl(set_timer_slack, 1)


def outside(rounds: int, seconds: float) -> dict[str, Any]:
    """The native objects and what takes their place, in each place where one may be outside a scope."""
    import gevent

    from geventws.scope import install, uninstall
    from geventws.scope.dispatch import dispatched

    def measure() -> dict[str, list[float]]:
        uninstall()
        native = Library().calls()
        install()
        replaced = Library()
        replaced.nothing = dispatched(bool, bool)
        return side_by_side(native, replaced.calls(), rounds, seconds)

    found = {"main thread": measure(), "greenlet": gevent.spawn(measure).get()}
    found["native thread"] = gevent.get_hub().threadpool.apply(measure)
    uninstall()
    return found


def inside(rounds: int, seconds: float, patched: bool) -> dict[str, float]:
    """In a greenlet in a scope, or in a process that gevent has patched."""
    if patched:
        from gevent import monkey

        monkey.patch_all()
        scope: Any = nullcontext
    else:
        from geventws.scope import cooperative as scope
    import gevent

    def measure() -> dict[str, float]:
        with scope():
            calls = Library().calls()
            return {name: min(nanoseconds(call, seconds) for _ in range(rounds)) for name, call in calls.items()}

    found: dict[str, float] = gevent.spawn(measure).get()
    return found


def in_child(*arguments: str) -> Any:
    line = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True).stdout)


def print_outside(found: dict[str, Any]) -> None:
    print("Outside a scope, nanoseconds: the native object, and what the dispatch adds to it\n")
    print(f"| |{'|'.join(f' {place} | added ' for place in found)}|")
    print(f"|---|{'---:|---:|' * len(found)}")
    for name in next(iter(found.values())):
        cells = [f" {found[place][name][0]:.0f} | {added(found[place][name]):+.0f} " for place in found]
        print(f"| {name} |{'|'.join(cells)}|")


def print_inside(scope: dict[str, float], patched: dict[str, float]) -> None:
    print("\nInside a scope, nanoseconds, beside a process that is patched by gevent\n")
    print("| | scope | patched | ratio |\n|---|---:|---:|---:|")
    for name, took in scope.items():
        print(f"| {name} | {took:.0f} | {patched[name]:.0f} | {took / patched[name]:.1f} |")


def added(both: list[float]) -> float:
    return both[1] - both[0]


def beyond(found: dict[str, Any], tolerance: float) -> list[str]:
    """What costs more than it may."""
    return [
        f"{name} in the {place}: {added(found[place][name]) / calls:.0f} ns a call"
        for place in found
        for name, calls in BOUNDED.items()
        if added(found[place][name]) / calls > BOUND * tolerance
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured; the fastest counts")
    parser.add_argument("--seconds", type=float, default=0.015, help="for each measurement")
    parser.add_argument("--tolerance", type=float, default=1.0, help=f"fail beyond so many times {BOUND} ns a call")
    parser.add_argument("--only", choices=("scope", "patched"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(inside(options.rounds, options.seconds, options.only == "patched")))
        return 0
    sleep_shortly()
    print(f"CPython {sys.version.split()[0]}\n", flush=True)
    found = outside(options.rounds, options.seconds)
    print_outside(found)
    same = ("--rounds", str(options.rounds), "--seconds", str(options.seconds))
    print_inside(in_child("--only", "scope", *same), in_child("--only", "patched", *same))
    failed = beyond(found, options.tolerance)
    if failed:
        print(f"\nMore than {BOUND * options.tolerance:.0f} ns a call:\n- " + "\n- ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
