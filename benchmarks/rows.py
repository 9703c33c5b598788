"""What is measured, of which servers, and what geventws is to reach. How it is measured is in `measuring` and `load.c`."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["ROWS", "Goal", "Row"]

GEVENTWS = ("geventws", "geventws-flask", "geventws-pure")
BLOCKING = ("gevent-websocket", "flask-sock", "websockets-threads")
ASYNC = ("websockets", "aiohttp", "picows", "ws")
EVERYONE = ("floor", *GEVENTWS, *BLOCKING, *ASYNC, "uvicorn")
# What a connection costs, beside what gevent's part of it does.
CONNECTING = ("gevent", *EVERYONE[1:])


@dataclass(frozen=True)
class Goal:
    """`server` is to be at most `bound`: in the row's unit, or, with `against`, times the best of those servers."""

    server: str
    bound: float
    against: tuple[str, ...] = ()
    figure: str | None = None
    """If it is not the row's."""

    at_least: bool = False
    """The other way round."""

    row: str | None = None
    """Where those of `against` are looked up, if it is not the same row."""


@dataclass(frozen=True)
class Row:
    """A load, and the servers that get it."""

    name: str
    title: str
    detail: str
    """What it is in numbers."""

    load: tuple[str, ...]
    """The mode of `load` and its options."""

    servers: tuple[str, ...] = EVERYONE
    figure: str = "cpu_us"
    """What of the load's line is compared; less is better."""

    unit: str = "µs"
    shown: tuple[str, ...] = ()
    """Further figures for the table."""

    goals: tuple[Goal, ...] = ()
    server_mode: str = "echo"
    needs_files: int = 1000
    """Open files that the system must allow."""

    note: str = ""
    grows_from: str | None = None
    """A row with fewer connections: how much more it costs here is told."""

    @property
    def wanted_for_goals(self) -> tuple[str, ...]:
        """The servers without which the goals cannot be judged."""
        wanted = {server for goal in self.goals for server in (goal.server, *goal.against)}
        return tuple(server for server in self.servers if server in wanted)

    def heavy(self) -> Row:
        """With 10,000 connections, beside the row with 50."""
        return replace(self, needs_files=10100, grows_from="echo-64")


def options(**given: object) -> tuple[str, ...]:
    found: list[str] = []
    for name, value in given.items():
        found += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    return tuple(found)


def echo(name: str, title: str, detail: str, *goals: Goal, servers: tuple[str, ...] = EVERYONE, **given: object) -> Row:
    load = ("echo", *options(**given))
    return Row(name, title, detail, load, servers, shown=("per_second", "p50_us", "p99_us"), goals=goals)


def deflate(name: str, title: str, detail: str, *goals: Goal, **given: object) -> Row:
    servers = (
        "geventws",
        "geventws-pure",
        "flask-sock",
        "websockets-threads",
        "websockets",
        "aiohttp",
        "ws",
        "uvicorn",
    )
    load = ("echo", *options(**given), "--deflate")
    return Row(
        name, title, detail, load, servers, shown=("per_second", "wire_bytes"), goals=goals, server_mode="deflate"
    )


def broadcast(connections: int, *goals: Goal) -> Row:
    servers = ("floor", "geventws", "geventws-pure", "gevent-websocket", "websockets", "aiohttp", "picows", "ws")
    return Row(
        f"broadcast-{connections}",
        f"One message to {connections:,} connections",
        "broadcast of 64 bytes",
        ("broadcast", *options(connections=connections)),
        servers,
        shown=("per_second", "p50_us", "p99_us"),
        goals=goals,
        server_mode="broadcast",
        needs_files=connections + 100,
        note="For each message to all. The floor is a loop in C that calls `send` for each connection.",
    )


BEST_COMPRESSING = ("websockets", "aiohttp", "ws")

ROWS = {
    row.name: row
    for row in (
        echo(
            "echo-64",
            "Small messages",
            "echo of 64 bytes, 50 connections, 1 in flight",
            Goal("geventws", 1.0, ("picows",)),
            Goal("geventws", 1.25, ("floor",)),
            Goal("geventws-flask", 1.1, ("geventws",)),
            Goal("geventws-pure", 10),
            connections=50,
        ),
        # Beside the row that it is compared with, so that both see the same machine.
        echo(
            "echo-10000",
            "Small messages, 10,000 connections",
            "echo of 64 bytes, 1 in flight on each",
            Goal("geventws", 1.3, ("geventws",), row="echo-64"),
            servers=("floor", "geventws", "geventws-flask", "gevent-websocket", *ASYNC),
            connections=10000,
        ).heavy(),
        echo(
            "echo-50-of-10000",
            "Small messages among 10,000 connections",
            "echo of 64 bytes, 1 in flight on 50, 9,950 idle",
            Goal("geventws", 1.3, ("geventws",), row="echo-64"),
            servers=("floor", "geventws", "geventws-flask", "gevent-websocket", *ASYNC),
            connections=50,
            idle=9950,
        ).heavy(),
        echo(
            "echo-64-in-flight",
            "Small messages in a stream",
            "echo of 64 bytes, 10 connections, 64 in flight",
            Goal("geventws", 0.8),
            Goal("geventws", 4, ("picows",), figure="per_second", at_least=True),
            connections=10,
            in_flight=64,
        ),
        echo(
            "echo-1k",
            "Messages of 1 KiB",
            "echo, 50 connections, 1 in flight",
            Goal("geventws", 1.0, ("picows",)),
            connections=50,
            size=1024,
        ),
        echo(
            "echo-16k",
            "Messages of 16 KiB",
            "echo, 50 connections, 1 in flight",
            Goal("geventws", 1.0, ("picows",)),
            connections=50,
            size=16 * 1024,
        ),
        echo(
            "echo-1m",
            "Messages of 1 MiB",
            "echo of binary messages, 4 connections, 1 in flight",
            Goal("geventws", 1.0, ("picows",)),
            Goal("geventws", 1.5, ("floor",)),
            Goal("geventws-pure", 2500),
            connections=4,
            size=2**20,
            binary=True,
        ),
        deflate(
            "deflate-1k",
            "Compressed messages of 1 KiB",
            "echo of JSON with permessage-deflate, 50 connections",
            Goal("geventws", 0.8, BEST_COMPRESSING),
            connections=50,
            size=1024,
        ),
        deflate(
            "deflate-64k",
            "Compressed messages of 64 KiB",
            "echo of JSON with permessage-deflate, 20 connections",
            Goal("geventws", 0.8, BEST_COMPRESSING),
            connections=20,
            size=64 * 1024,
        ),
        Row(
            "handshake",
            "Opening a connection",
            "opening handshakes, 8 under way",
            ("handshake", *options(connections=8)),
            CONNECTING,
            shown=("per_second",),
            goals=(Goal("geventws", 90), Goal("geventws-flask", 200)),
        ),
        Row(
            "idle",
            "An idle connection",
            "resident memory, 2,000 connections",
            ("idle", *options(connections=2000)),
            CONNECTING,
            figure="kib",
            unit="KiB",
            shown=("kib_after_a_message",),
            goals=(Goal("geventws", 9), Goal("geventws-flask", 13)),
            needs_files=2100,
            note="(RSS with 2,000 connections - RSS before) / 2,000: just opened, and after a message on each.",
        ),
        broadcast(1000, Goal("geventws", 1.5, ("floor",))),
        broadcast(5000, Goal("geventws", 1.5, ("floor",))),
        Row(
            "latency",
            "The slowest in 1,000, under full load",
            "1,000 connections with 1 in flight, 9,000 idle",
            ("echo", *options(connections=1000, idle=9000)),
            ("floor", "geventws", "geventws-flask", "gevent-websocket", *ASYNC),
            figure="p999_us",
            shown=("p50_us", "p99_us", "per_second"),
            goals=(Goal("geventws", 1.0, ("picows",)),),
            needs_files=10100,
            note="p99.9. All 1,000 always have a message on its way, so this is what a saturated server makes them wait.",
        ),
        Row(
            "latency-paced",
            "The slowest in 1,000, with time to spare",
            "10,000 messages a second on 1,000 connections, 9,000 idle",
            ("echo", *options(connections=1000, idle=9000, rate=10000)),
            ("floor", "geventws", "geventws-flask", "gevent-websocket", *ASYNC),
            figure="p999_us",
            shown=("p50_us", "p99_us", "cpu_us"),
            needs_files=10100,
            note="p99.9, from when each message was due. The server has time to spare: this is how promptly it answers.",
        ),
        echo(
            "echo-threads",
            "Small messages on native threads",
            "echo of 64 bytes, 50 connections, 1 in flight",
            Goal("geventws-werkzeug", 1.0, ("websockets-threads",)),
            Goal("geventws-gthread", 1.0, ("websockets-threads",)),
            servers=("websockets-threads", "geventws-werkzeug", "geventws-gthread"),
            connections=50,
        ),
    )
}
