"""What is made of measurements: medians, ratios, judgements, tables, charts. Nothing is measured here."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import charts
import pytest
import tables
from peers import SERVERS
from results import Results
from rows import ROWS, Goal, Row

SVG = "{http://www.w3.org/2000/svg}"


def make_row(*goals: Goal, figure: str = "cpu_us") -> Row:
    return Row("echo-64", "Small messages", "echo", ("echo",), figure=figure, goals=goals)


def make_results(**rounds: list[dict[str, Any]]) -> Results:
    """Of the row "echo-64": by server (with "_" for "-"), what the load printed in each round."""
    machine = {
        "date": "2030-01-01T00:00:00+00:00",
        "cpu": "a <fast> & quiet one",
        "cores": 2,
        "kernel": "Linux 6",
        "python": "CPython 3.13",
        "versions": {"gevent": "26.9"},
        "geventws_compiled": True,
        "geventws_from": "an installed package",
        "geventws_revision": "abc",
    }
    settings = {"rounds": 1, "quick": False, "pinning": "pinned"}
    by_server = {server.replace("_", "-"): found for server, found in rounds.items()}
    return Results(machine, settings, {"echo-64": by_server})


def cpu(*values: float) -> list[dict[str, Any]]:
    return [{"cpu_us": value, "per_second": 1e6 / value} for value in values]


def test_the_median_of_the_rounds_counts() -> None:
    assert make_results(geventws=cpu(9, 5, 6)).median("echo-64", "geventws", "cpu_us") == 6


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was slow for both: that is no difference between them."""
    results = make_results(geventws=cpu(6, 60, 6), picows=cpu(5, 50, 4))
    assert results.ratio("echo-64", "geventws", "echo-64", "picows", "cpu_us") == pytest.approx(1.2)


def test_medians_are_compared_where_a_round_is_missing() -> None:
    results = make_results(geventws=cpu(6, 8, 6), picows=cpu(5, 50))
    assert results.ratio("echo-64", "geventws", "echo-64", "picows", "cpu_us") == pytest.approx(6 / 27.5)


@pytest.mark.parametrize(("bound", "met"), [(6, True), (5.9, False)])
def test_a_goal_in_the_unit_of_the_row(bound: float, met: bool) -> None:
    goal = Goal("geventws", bound)
    assert make_results(geventws=cpu(6)).judge(make_row(goal), goal).met is met


def test_a_goal_beside_several_is_judged_beside_the_best() -> None:
    goal = Goal("geventws", 0.8, ("aiohttp", "websockets", "ws"))
    judged = make_results(geventws=cpu(9), aiohttp=cpu(10), websockets=cpu(30)).judge(make_row(goal), goal)
    assert (judged.value, judged.best, judged.met) == (pytest.approx(0.9), "aiohttp", False)


@pytest.mark.parametrize(("ours", "met"), [(2.0, True), (3.0, False)])
def test_a_goal_may_be_a_least_rate(ours: float, met: bool) -> None:
    goal = Goal("geventws", 4, ("picows",), figure="per_second", at_least=True)
    assert make_results(geventws=cpu(ours), picows=cpu(8)).judge(make_row(goal), goal).met is met


def test_a_goal_of_which_something_was_not_measured_is_not_judged() -> None:
    goal = Goal("geventws", 1.0, ("picows",))
    judged = make_results(geventws=cpu(6)).judge(make_row(goal), goal)
    assert judged.met is None
    assert judged.value is None


def test_all_rows_name_servers_that_there_are() -> None:
    for row in ROWS.values():
        goals = {server for goal in row.goals for server in (goal.server, *goal.against)}
        assert set(row.servers) <= SERVERS.keys()
        assert goals <= set(row.servers)
        assert {goal.row for goal in row.goals} <= {None, *ROWS}


def test_the_results_can_be_kept_as_json() -> None:
    kept = json.loads(json.dumps(make_results(floor=cpu(5), geventws=cpu(6, 7)).as_json()))
    ours = kept["rows"]["echo-64"]["servers"]["geventws"]
    assert ours["median"]["cpu_us"] == 6.5
    assert [found["cpu_us"] for found in ours["rounds"]] == [6, 7]


def test_tables_and_charts_can_be_made_again_from_what_was_kept() -> None:
    results = make_results(floor=cpu(5), geventws=cpu(6, 7), picows=cpu(8))
    again = Results.from_json(json.loads(json.dumps(results.as_json())))
    assert tables.render(again) == tables.render(results)
    assert charts.render(again) == charts.render(results)


def test_what_the_load_held_up_is_named() -> None:
    slow = {"cpu_us": 1, "load_busy": 1.0, "server_busy": 0.5}
    results = make_results(floor=[slow], geventws=[{**slow, "server_busy": 1.0}])
    assert results.held_up_by_the_load() == ["floor in echo-64, round 1"]
    assert "floor in echo-64, round 1" in tables.render(results)


def test_the_tables_tell_goals_and_what_was_not_measured() -> None:
    results = make_results(floor=cpu(5), geventws=cpu(6), picows=cpu(8))
    results.skipped.append({"what": "ws", "why": "node not installed"})
    text = tables.render(results)
    assert "| echo-64 | geventws: CPU ≤ picows | 0.75 times | met |" in text
    assert "| echo-64 | geventws-pure: CPU ≤ 10 µs | not measured |  |" in text
    assert "| **geventws, WSGI** | 6.00 |" in text
    assert "- ws: node not installed" in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_chart_says_everything_in_text(theme: str) -> None:
    results = make_results(floor=cpu(5), geventws=cpu(6.25), picows=cpu(8))
    picture = ElementTree.fromstring(charts.render(results)[f"echo-64-{theme}.svg"])
    described = picture.find(f"{SVG}desc")
    assert described is not None
    for words in ("geventws, WSGI 6.25 µs", "picows on uvloop 8.00 µs"):
        assert words in (described.text or "")
    texts = {element.text for element in picture.iter(f"{SVG}text")}
    assert {"geventws, WSGI", "6.25", "picows on uvloop", "8.00"} <= texts


def test_bars_are_to_scale_and_those_far_out_are_cut() -> None:
    results = make_results(floor=cpu(5), geventws=cpu(10), picows=cpu(5), gevent_websocket=cpu(5000))
    picture = ElementTree.fromstring(charts.render(results)["echo-64-light.svg"])
    _page, *bars = [float(element.get("width", 0)) for element in picture.iter(f"{SVG}rect")]
    assert bars == [charts.BAR_WIDTH / 2, charts.BAR_WIDTH / 2, charts.BAR_WIDTH, charts.BAR_WIDTH]
    assert len(list(picture.iter(f"{SVG}path"))) == 2


def test_a_bar_of_ours_is_never_cut() -> None:
    results = make_results(floor=cpu(1), geventws=cpu(100), picows=cpu(1), aiohttp=cpu(1))
    assert "<path" not in charts.render(results)["echo-64-light.svg"]
