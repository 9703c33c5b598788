"""`Keepalive`, one greenlet per hub, and `Service`, one thread per process: call at its time, forget what nobody else keeps."""

from __future__ import annotations

import gc
from time import monotonic
from typing import Any

import gevent
import pytest
from waiting import wait_until
from worlds import BOTH, World

from geventws.keepalive import Keepalive, Schedule, Ticking
from geventws.threads import Service, ThreadRuntime

WORLDS = BOTH


class Target:
    """Notes when it is called; comes again as long as it has delays left."""

    def __init__(self, *delays: float) -> None:
        self.delays = list(delays)
        self.calls: list[float] = []

    def tick(self, now: float) -> float | None:
        self.calls.append(now)
        return now + self.delays.pop(0) if self.delays else None


class Threads:
    """What is a hub's Keepalive in the world of threads."""

    def __init__(self) -> None:
        self._runtime = ThreadRuntime()

    @property
    def _schedule(self) -> Schedule:
        service = Service.current()
        wait_until(lambda: not service._commands)
        return service._timetable

    def at(self, due: float, target: Ticking) -> None:
        self._runtime.at(due, target)


@pytest.fixture
def keepalive(world: World) -> Any:
    return Threads() if world.threads else Keepalive(gevent.get_hub())


@pytest.mark.world("gevent", "it is about hubs")
def test_a_hub_has_one(keepalive: Keepalive) -> None:
    hub = gevent.get_hub()
    assert Keepalive.of(hub) is Keepalive.of(hub)
    assert keepalive is not Keepalive.of(hub)


def test_a_target_is_called_when_it_is_due_and_not_before(keepalive: Keepalive) -> None:
    target = Target()
    due = monotonic() + 0.03
    keepalive.at(due, target)
    wait_until(lambda: target.calls)
    assert due <= target.calls[0] < due + 1


def test_a_target_comes_again_when_it_says_so(keepalive: Keepalive) -> None:
    target = Target(0.01, 0.01)
    keepalive.at(monotonic(), target)
    wait_until(lambda: len(target.calls) == 3)


def test_what_is_due_earlier_is_called_earlier_whatever_the_order_of_asking(keepalive: Keepalive) -> None:
    now = monotonic()
    late, early = Target(), Target()
    keepalive.at(now + 0.2, late)
    gevent.sleep(0)
    keepalive.at(now + 0.01, early)
    wait_until(lambda: early.calls)
    assert not late.calls


@pytest.mark.world("gevent", "it is about greenlets")
def test_many_targets_have_one_greenlet(keepalive: Keepalive) -> None:
    def greenlets() -> list[gevent.Greenlet]:
        return [thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.dead]

    targets = [Target() for _ in range(100)]
    before = greenlets()
    for target in targets:
        keepalive.at(monotonic() + 0.05, target)
    gevent.sleep(0)
    assert len([greenlet for greenlet in greenlets() if greenlet not in before]) == 1
    wait_until(lambda: all(target.calls for target in targets))


def test_a_target_that_nobody_keeps_is_not_called_and_not_kept(keepalive: Keepalive) -> None:
    calls: list[float] = []

    class Loud(Target):
        def tick(self, now: float) -> float | None:
            calls.append(now)
            return None

    later = Target()
    keepalive.at(monotonic() + 0.01, Loud())
    keepalive.at(monotonic() + 0.02, later)
    wait_until(lambda: later.calls)
    assert calls == []


def test_a_target_that_fails_does_not_end_the_care_for_others(keepalive: Keepalive, caplog: Any) -> None:
    class Failing(Target):
        def tick(self, now: float) -> float | None:
            raise LookupError("one connection's mistake")

    failing, fine = Failing(), Target()
    keepalive.at(monotonic(), failing)
    keepalive.at(monotonic() + 0.01, fine)
    wait_until(lambda: fine.calls)
    assert "one connection's mistake" in caplog.text


def test_others_run_though_something_is_always_due(keepalive: Keepalive) -> None:
    class Restless(Target):
        def tick(self, now: float) -> float | None:
            self.calls.append(now)
            return now

    restless = Restless()
    keepalive.at(monotonic(), restless)
    for _ in range(50):
        gevent.sleep(0)
    wait_until(lambda: len(restless.calls) > 5)


def test_what_is_forgotten_does_not_pile_up(keepalive: Keepalive) -> None:
    for _ in range(5000):
        keepalive.at(monotonic() + 3600, Target())
    assert len(keepalive._schedule._heap) < 2100


@pytest.mark.world("gevent", "it is about the hub's loop")
def test_it_does_not_keep_a_program_from_ending(keepalive: Keepalive) -> None:
    target = Target()
    keepalive.at(monotonic() + 3600, target)
    gevent.sleep(0)
    assert gevent.get_hub().loop.timer(0, ref=False).ref is False
    assert gevent.wait(timeout=1) is not None
