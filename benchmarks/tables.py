"""The results as tables for people: `results.md`. Only text is made here."""

from __future__ import annotations

from peers import SERVERS
from results import Judgement, Results
from rows import ROWS, Row

__all__ = ["render"]

HEADINGS = {
    "cpu_us": "CPU µs",
    "kib": "KiB",
    "kib_after_a_message": "KiB after a message",
    "per_second": "a second",
    "wire_bytes": "bytes on the wire",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "p999_us": "p99.9 µs",
}


def render(results: Results) -> str:
    parts = [introduction(results), *(table(results, row) for row in ROWS.values() if row.name in results.rounds)]
    goals = judgements(results)
    if any(judged.met is not None for _, judged in goals):
        parts.insert(1, goals_table(goals))
    parts += [f"## {heading}\n\n{listed(entries)}" for heading, entries in not_measured(results) if entries]
    return "\n\n".join(parts) + "\n"


def introduction(results: Results) -> str:
    machine, settings = results.machine, results.settings
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rounds = "One round" if settings["rounds"] == 1 else f"Medians of {settings['rounds']} rounds in turn"
    compiled = {True: "compiled", False: "plain Python", None: "which does not import"}[machine["geventws_compiled"]]
    at = f"; the tree is at {machine['geventws_revision']}" if machine["geventws_revision"] else ""
    lines = [
        "# How fast it is",
        "",
        "CPU time is the server's, user and system, for each message, handshake or broadcast; less is better. One process",
        f"each, fresh for each figure; {settings['pinning']}. {rounds}, ratios from figures of the same round.",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, {machine['python']}; {machine['date']}.",
        f"geventws is {compiled}, from {machine['geventws_from']}{at}.",
        f"{versions}.",
        f"In the median {results.others_busy:.1f} of the cores were busy with other programs meanwhile. Messages on their way",
        "while one of them had the core of the server or of the load have no part in the latencies.",
    ]
    if settings["quick"]:
        lines += [
            "",
            "**A quick run**: one short round and only some of the servers. Good for a look, not for quoting.",
        ]
    return "\n".join(lines)


def judgements(results: Results) -> list[tuple[Row, Judgement]]:
    measured = (row for row in ROWS.values() if row.name in results.rounds)
    return [(row, results.judge(row, goal)) for row in measured for goal in row.goals]


def goals_table(goals: list[tuple[Row, Judgement]]) -> str:
    met = sum(judged.met is True for _, judged in goals)
    measured = sum(judged.met is not None for _, judged in goals)
    lines = [f"## Goals: {met} of {measured} met", "", "| row | goal | found | |", "|---|---|---:|---|"]
    for row, judged in goals:
        lines.append(f"| {row.name} | {judged.text} | {found(row, judged)} | {verdict(judged)} |")
    return "\n".join(lines)


def found(row: Row, judged: Judgement) -> str:
    if judged.value is None:
        return "not measured"
    if not judged.goal.against:
        return f"{number(judged.value)} {row.unit}"
    beside = f" beside {judged.best}" if len(judged.goal.against) > 1 else ""
    return f"{judged.value:.2f} times{beside}"


def verdict(judged: Judgement) -> str:
    return {True: "met", False: "**missed**", None: ""}[judged.met]


def table(results: Results, row: Row) -> str:
    servers = [name for name in SERVERS if name in results.rounds[row.name]]
    figures = (row.figure, *row.shown)
    others = [name for name in ("floor", "picows") if name in servers]
    before = row.grows_from if row.grows_from in results.rounds else None
    heads = [HEADINGS[figure] for figure in figures] + [f"/ {name}" for name in others]
    heads += [f"/ {before}"] if before else []
    lines = [f"## {row.title}", "", f"`{row.name}`: {row.detail}. {row.note}".strip(), ""]
    lines += [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name in servers:
        cells = [number(results.median(row.name, name, figure)) for figure in figures]
        cells += [times(results.ratio(row.name, name, row.name, other, row.figure)) for other in others]
        cells += [times(results.ratio(row.name, name, before, name, row.figure))] if before else []
        title = f"**{SERVERS[name].title}**" if SERVERS[name].ours else SERVERS[name].title
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def not_measured(results: Results) -> list[tuple[str, list[dict[str, str]]]]:
    held_up = [
        {"what": what, "why": "its rate and latency are not the server's"} for what in results.held_up_by_the_load()
    ]
    return [("Not measured", results.skipped), ("Failed", results.failed), ("The load was the bottleneck", held_up)]


def listed(entries: list[dict[str, str]]) -> str:
    return "\n".join(f"- {entry['what']}: {entry['why']}" for entry in entries)
