"""What has been measured: rounds, medians, ratios, and whether the goals are met. Neither starts nor prints anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from peers import SERVERS
from rows import ROWS, Goal, Row

__all__ = ["Judgement", "Results"]

COMPARED_WITH = ("floor", "picows", "websockets", "aiohttp", "ws", "gevent-websocket", "flask-sock")
"""Whose ratios are told."""


@dataclass(frozen=True)
class Judgement:
    """How a goal stands. `value` is in the same terms as the goal's bound; None: something of it was not measured."""

    goal: Goal
    text: str
    value: float | None
    met: bool | None
    best: str | None = None
    """The one of `against` that it was compared with."""


@dataclass
class Results:
    """By row and server, one entry a round."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def add(self, row: Row, server: str, found: dict[str, Any]) -> None:
        self.rounds.setdefault(row.name, {}).setdefault(server, []).append(found)

    def median(self, row: str, server: str, figure: str) -> float | None:
        values = [found[figure] for found in self.rounds.get(row, {}).get(server, ()) if figure in found]
        return median(values) if values else None

    def ratio(self, row: str, server: str, other_row: str, other: str, figure: str) -> float | None:
        """The median of the rounds' ratios: what was measured in the same round saw the same machine."""
        ours = [found.get(figure) for found in self.rounds.get(row, {}).get(server, ())]
        theirs = [found.get(figure) for found in self.rounds.get(other_row, {}).get(other, ())]
        if len(ours) != len(theirs):
            # A round is missing: then only the medians are comparable.
            mine, yours = self.median(row, server, figure), self.median(other_row, other, figure)
            return mine / yours if mine and yours else None
        ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True) if mine and yours]
        return median(ratios) if ratios else None

    def judge(self, row: Row, goal: Goal) -> Judgement:
        figure = goal.figure or row.figure
        value, best = self._value(row, goal, figure)
        met = None if value is None else value >= goal.bound if goal.at_least else value <= goal.bound
        return Judgement(goal, self._text(row, goal, figure), value, met, best)

    def _value(self, row: Row, goal: Goal, figure: str) -> tuple[float | None, str | None]:
        if not goal.against:
            return self.median(row.name, goal.server, figure), None
        # The best of the others is the one beside which we look worst.
        hardest = min if goal.at_least else max
        ratios = {
            other: self.ratio(row.name, goal.server, goal.row or row.name, other, figure) for other in goal.against
        }
        known = {other: ratio for other, ratio in ratios.items() if ratio is not None}
        if not known:
            return None, None
        best = hardest(known, key=lambda other: known[other])
        return known[best], best

    def _text(self, row: Row, goal: Goal, figure: str) -> str:
        what = {"per_second": "messages a second", "cpu_us": "CPU", "p999_us": "p99.9", "kib": "memory"}[figure]
        sign = "≥" if goal.at_least else "≤"
        if not goal.against:
            return f"{goal.server}: {what} {sign} {goal.bound:g} {row.unit}"
        others = goal.against[0] if len(goal.against) == 1 else f"the best of {', '.join(goal.against)}"
        if goal.row:
            others = f"that of {ROWS[goal.row].name}"
        times = "" if goal.bound == 1 else f"{goal.bound:g} times "
        return f"{goal.server}: {what} {sign} {times}{others}"

    def held_up_by_the_load(self) -> list[str]:
        """Measurements in which the load had no more to give while the server had: rates and latencies are not the server's."""
        return [
            f"{server} in {row}, round {number}"
            for row, servers in self.rounds.items()
            for server, rounds in servers.items()
            for number, found in enumerate(rounds, 1)
            if found.get("load_busy", 0) > 0.95 and found.get("server_busy", 1) < 0.9
        ]

    @property
    def others_busy(self) -> float:
        """How many cores were busy with something else, in the median of the measurements."""
        found = [
            found["others_busy"]
            for row in self.rounds.values()
            for rounds in row.values()
            for found in rounds
            if "others_busy" in found
        ]
        return median(found) if found else 0.0

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Results:
        """What `as_json` gave."""
        rounds = {
            row: {server: entry["rounds"] for server, entry in found["servers"].items()}
            for row, found in kept["rows"].items()
        }
        return cls(kept["machine"], kept["settings"], rounds, kept["skipped"], kept["failed"])

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "settings": self.settings,
            "rows": {name: self._row_as_json(ROWS[name]) for name in ROWS if name in self.rounds},
            "skipped": self.skipped,
            "failed": self.failed,
            "held_up_by_the_load": self.held_up_by_the_load(),
        }

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        servers = self.rounds[row.name]
        return {
            "title": row.title,
            "detail": row.detail,
            "load": list(row.load),
            "figure": row.figure,
            "unit": row.unit,
            "servers": {name: self._server_as_json(row, name) for name in SERVERS if name in servers},
            "goals": [
                {"goal": judged.text, "bound": judged.goal.bound, "value": judged.value, "met": judged.met}
                for judged in (self.judge(row, goal) for goal in row.goals)
            ],
        }

    def _server_as_json(self, row: Row, server: str) -> dict[str, Any]:
        figures = (row.figure, *row.shown)
        ratios = {other: self.ratio(row.name, server, row.name, other, row.figure) for other in COMPARED_WITH}
        return {
            "median": {figure: self.median(row.name, server, figure) for figure in figures},
            "ratio_to": {other: round(ratio, 4) for other, ratio in ratios.items() if ratio is not None},
            "rounds": self.rounds[row.name][server],
        }
