"""The deadlock hunt: random schedules of threads and greenlets that share locks, and the hard cases by name.

What hangs is stopped and its stacks are shown (`watched`). GEVENTWS_HUNT_SECONDS makes the hunt longer;
GEVENTWS_HUNT_SCHEDULE, the number that a failure names, repeats that schedule for all of the time.
"""

from __future__ import annotations

import _queue
import _thread
import logging
import os
import queue
import random
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import gevent
from greenlet import getcurrent
from scope.greenlets import inside, spawn
from scope.watched import in_child, watch

from geventws.scope import cooperative, install

HUNT_SECONDS = float(os.environ.get("GEVENTWS_HUNT_SECONDS", "6"))

# One schedule takes some hundredths of a second.
HANGS = 15.0


class Interrupt(BaseException):
    """Thrown into a greenlet in the middle of whatever it waits for."""


class Guard:
    """A lock, and what it has to keep apart."""

    def __init__(self, lock: Any, world: World, name: str, by_thread: bool, old_name: Any = None) -> None:
        self.lock = lock
        self.old_name = old_name
        self.by_thread = by_thread
        self._world = world
        self._name = name
        self._inside: object = None
        self._depth = 0

    def take(self, actor: Actor, style: str) -> Any:
        """Returns the lock that it has taken, under the name by which it has to be released; None when it has not."""
        # Only threads without a hub may use the name that an adopted lock had before.
        lock = self.old_name if self.old_name is not None and actor.kind == "native" else self.lock
        if style == "block":
            return lock if lock.acquire() else None
        if style == "try":
            return lock if lock.acquire(blocking=False) else None
        return lock if lock.acquire(timeout=float(style)) else None

    @contextmanager
    def alone(self, actor: Actor) -> Iterator[None]:
        """What is done with the lock."""
        me = self._who(actor)
        if self._inside not in (None, me):
            self._world.wrong(f"{me} is let into {self._name}, where {self._inside} is")
        self._inside = me
        self._depth += 1
        try:
            yield
        finally:
            if self._inside != me:
                self._world.wrong(f"{me} was alone in {self._name}, and meets {self._inside} there")
            self._depth -= 1
            if self._depth == 0:
                self._inside = None

    def _who(self, actor: Actor) -> object:
        # Plain greenlets of one thread share an RLock, which is the thread's.
        return ("a greenlet of", actor.thread) if self.by_thread and actor.kind == "unscoped" else actor

    def check(self) -> None:
        if not self.lock.acquire(timeout=1):
            self._world.wrong(f"{self._name} is still locked: {self.lock!r}")
        else:
            self.lock.release()


class Channel:
    """Something that is handed over one by one: all that is given must be taken, by whoever waits for it."""

    bounded = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.given: list[int] = []
        self.taken: list[int] = []
        # How many have to be given, and how many takers have given up.
        self.wanted = 0
        self.resigned: list[Actor] = []

    def give(self, item: int, actor: Actor, hold: Callable[[], None]) -> None:
        """Notes it in `given` at once. hold: what to do before the lock is released that the taker needs."""
        raise NotImplementedError

    def take(self, timeout: float | None, actor: Actor) -> bool:
        """Returns whether it got something; after that nothing can be thrown any more either."""
        raise NotImplementedError


class Tokens(Channel):
    """A condition and a list."""

    def __init__(self, name: str, guard: Guard) -> None:
        super().__init__(name)
        self._condition = threading.Condition(guard.lock)
        self._guard = guard
        self._tokens: list[int] = []

    def give(self, item: int, actor: Actor, hold: Callable[[], None]) -> None:
        with self._condition, self._guard.alone(actor):
            self._tokens.append(item)
            self.given.append(item)
            self._condition.notify()
            hold()

    def take(self, timeout: float | None, actor: Actor) -> bool:
        with self._condition:
            with self._guard.alone(actor):
                pass
            if self._condition.wait_for(lambda: self._tokens, timeout):
                with self._guard.alone(actor):
                    self.taken.append(self._tokens.pop(0))
                return True
        return False


class Queued(Channel):
    def __init__(self, name: str, queue: Any, bounded: bool = False) -> None:
        super().__init__(name)
        self._queue = queue
        self.bounded = bounded

    def give(self, item: int, actor: Actor, hold: Callable[[], None]) -> None:
        while self.bounded and actor.kind == "unscoped":
            # Who takes may be in the same thread: it cannot be waited for in the plain way.
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                gevent.sleep(0.0005)
            else:
                self.given.append(item)
                return
        self._queue.put(item)
        self.given.append(item)

    def take(self, timeout: float | None, actor: Actor) -> bool:
        try:
            self.taken.append(self._queue.get(timeout=timeout))
        except queue.Empty:
            return False
        return True


class Signals(Channel):
    """A semaphore that counts what was given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._semaphore = threading.Semaphore(0)

    def give(self, item: int, actor: Actor, hold: Callable[[], None]) -> None:
        self._semaphore.release()
        self.given.append(item)

    def take(self, timeout: float | None, actor: Actor) -> bool:
        if not self._semaphore.acquire(timeout=timeout):
            return False
        self.taken.append(len(self.taken))
        return True


class Actor:
    """A thread or a greenlet, with what it is going to do."""

    def __init__(self, world: World, kind: str, number: int) -> None:
        self.world = world
        self.kind = kind
        self.steps: list[Callable[[Actor], None]] = []
        self.thread = 0
        self._greenlet: Any = None
        self._name = f"{kind} {number}"

    def __repr__(self) -> str:
        return self._name

    def pause(self, seconds: float) -> None:
        """Greenlets outside a scope stop their thread for it, as everything does that they call."""
        time.sleep(seconds)

    def interrupt(self, by: Actor) -> None:
        if self._greenlet is not None and by.thread == self.thread:
            self._greenlet.kill(Interrupt, block=False)

    def run(self) -> None:
        self.thread = _thread.get_ident()
        if self.kind != "native":
            self._greenlet = getcurrent()
        try:
            for step in self.steps:
                try:
                    step(self)
                    if self.kind == "unscoped":
                        gevent.sleep(0)
                except Interrupt:
                    pass
        except BaseException:
            self.world.wrong(f"{self}: {traceback.format_exc()}")
        finally:
            self._greenlet = None


class World:
    """One schedule: who does what to which locks, drawn from a seed."""

    def __init__(self, seed: object, adopted: types.ModuleType) -> None:
        self._random = random.Random(str(seed))
        self._adopted = adopted
        self._problems: list[str] = []
        draw = self._random
        self.guards = [self._guard(number) for number in range(draw.randint(1, 4))]
        self.channels = [self._channel(number) for number in range(draw.randint(0, 3))]
        self.gate = threading.Event()
        self.pool = threading.BoundedSemaphore(2)
        kinds = [("native", draw.randint(0, 3)), ("scoped", draw.randint(1, 5)), ("unscoped", draw.randint(0, 2))]
        self.hubs: list[list[Actor]] = []
        self.threads: list[Actor] = []
        for hub in range(draw.choice((1, 1, 2))):
            self.hubs.append([])
            for kind, count in kinds:
                for number in range(count):
                    if kind != "native":
                        self.hubs[-1].append(self._actor(kind, number + 10 * hub))
                    elif hub == 0:
                        self.threads.append(self._actor(kind, number))
        self._deal_out()
        self.kills = [[draw.uniform(0, 0.02) for _ in range(draw.choice((0, 0, 3, 10)))] for _ in self.hubs]

    def wrong(self, problem: str) -> None:
        self._problems.append(problem)

    def _guard(self, number: int) -> Guard:
        kind = self._random.choice(("Lock", "RLock", "Lock", "RLock", "adopted_lock", "adopted_rlock"))
        name = f"{kind} {number}"
        if kind in ("Lock", "RLock"):
            return Guard(getattr(threading, kind)(), self, name, kind == "RLock")
        name = f"{kind}_{number}"
        return Guard(getattr(self._adopted, name), self, name, kind == "adopted_rlock", self._adopted.old_names[name])

    def _channel(self, number: int) -> Channel:
        kind = self._random.randrange(9)
        name = f"channel {number}"
        if kind == 0:
            return Tokens(name, Guard(threading.RLock(), self, f"the RLock of {name}", True))
        if kind == 1:
            return Tokens(name, Guard(threading.Lock(), self, f"the Lock of {name}", False))
        if kind == 2:
            lock = f"adopted_{self._random.choice(('lock', 'rlock'))}_{4 + number}"
            return Tokens(name, Guard(getattr(self._adopted, lock), self, f"{lock} of {name}", "rlock" in lock))
        if kind == 3:
            return Queued(f"{name} (Queue(1))", queue.Queue(1), True)
        if kind == 4:
            return Queued(f"{name} (LifoQueue(2))", queue.LifoQueue(2), True)
        if kind == 5:
            return Queued(f"{name} (Queue)", queue.Queue())
        if kind == 6:
            adopted = getattr(self._adopted, f"adopted_queue_{number}")
            while not adopted.empty():
                adopted.get()  # Of an earlier schedule, for somebody who gave up.
            return Queued(f"{name} (adopted SimpleQueue)", adopted)
        if kind == 7:
            return Signals(f"{name} (Semaphore)")
        return Queued(f"{name} (SimpleQueue)", queue.SimpleQueue())

    def _actor(self, kind: str, number: int) -> Actor:
        actor = Actor(self, kind, number)
        for _ in range(self._random.randint(1, 6)):
            actor.steps.append(self._step(kind))
        return actor

    def _pause(self) -> float | None:
        return self._random.choice((None, None, 0, 0, self._random.uniform(0, 0.002)))

    def _step(self, kind: str) -> Callable[[Actor], None]:
        draw = self._random
        what = draw.random()
        if what < 0.75 or kind == "unscoped":
            step = self._nested()
        elif what < 0.85:
            step = self._pooled()
        else:
            step = self._timed_gate()
        if kind != "native" and draw.random() < 0.3:
            return self._timed_out(step, draw.uniform(0, 0.004))
        return step

    def _nested(self) -> Callable[[Actor], None]:
        """Take some of the locks, always in the same order."""
        draw = self._random
        chosen = [guard for guard in self.guards if draw.random() < 0.6] or [draw.choice(self.guards)]
        takes = []
        for guard in chosen:
            for _ in range(draw.choice((1, 1, 2)) if guard.by_thread else 1):
                style = draw.choice(("block", "block", "block", "try", str(draw.uniform(0, 0.004))))
                takes.append((guard, style, self._pause()))

        def descend(actor: Actor, takes: list[tuple[Guard, str, float | None]]) -> None:
            if not takes:
                return
            (guard, style, pause), *rest = takes
            lock = guard.take(actor, style)
            if lock is None:
                return
            try:
                with guard.alone(actor):
                    if pause is not None:
                        actor.pause(pause)
                    descend(actor, rest)
            finally:
                lock.release()

        return lambda actor: descend(actor, takes)

    def _pooled(self) -> Callable[[Actor], None]:
        pause = self._pause()

        def pooled(actor: Actor) -> None:
            with self.pool:
                if pause is not None:
                    actor.pause(pause)

        return pooled

    def _timed_gate(self) -> Callable[[Actor], None]:
        timeout = self._random.uniform(0, 0.003)
        return lambda actor: self.wrong("nobody opens the gate") if self.gate.wait(timeout) else None

    @staticmethod
    def _timed_out(step: Callable[[Actor], None], seconds: float) -> Callable[[Actor], None]:
        def timed_out(actor: Actor) -> None:
            with gevent.Timeout(seconds, False):
                step(actor)

        return timed_out

    def _deal_out(self) -> None:
        """For each channel: who gives, and who takes as much. A taker does nothing else for others that wait for it."""
        draw = self._random
        everybody = [*self.threads, *(actor for hub in self.hubs for actor in hub)]
        takers = [actor for actor in everybody if actor.kind != "unscoped" and draw.random() < 0.6]
        givers = [actor for actor in everybody if actor not in takers]
        for channel in self.channels:
            # Each is at one channel only: who waits at one could be awaited at the other.
            here = [giver for giver in givers if draw.random() < 0.6]
            there = [taker for taker in takers if draw.random() < 0.8]
            givers = [giver for giver in givers if giver not in here]
            takers = [taker for taker in takers if taker not in there]
            if not here or not there:
                continue
            items = list(range(draw.randint(1, 8)))
            channel.wanted = len(items)
            for _ in items:
                taker = draw.choice(there)
                timeout = draw.choice((None, None, None, draw.uniform(0, 0.003)))
                interrupt = None if taker.kind == "native" else draw.choice((None, None, None, draw.uniform(0, 0.003)))
                # Who gives to a full queue relies on its takers.
                resigning = not channel.bounded and draw.random() < 0.6
                step = self._take(channel, timeout, interrupt, resigning)
                taker.steps.insert(draw.randint(0, min(2, len(taker.steps))), step)
            while items:
                giver = draw.choice(here)
                burst = [items.pop() for _ in range(min(len(items), draw.choice((1, 1, 2, 4))))]
                rude = draw.choice((None, *(taker for taker in there if taker.kind != "native")))
                step = self._give(channel, burst, draw.choice((None, None, draw.uniform(0, 0.002))), rude)
                giver.steps.insert(draw.randint(len(giver.steps) // 2, len(giver.steps)), step)

    @staticmethod
    def _give(channel: Channel, items: list[int], pause: float | None, rude: Actor | None) -> Callable[[Actor], None]:
        """rude: who is interrupted at the very moment."""

        def give(actor: Actor) -> None:
            def hold() -> None:
                if pause is not None:
                    actor.pause(pause)
                    if rude is not None:
                        rude.interrupt(actor)
                        actor.pause(pause)

            for item in items:
                # No more than needed, so that each wake-up counts.
                while item not in channel.given and len(channel.given) + len(channel.resigned) < channel.wanted:
                    with suppress(Interrupt):
                        channel.give(item, actor, hold)
            if rude is not None:
                rude.interrupt(actor)

        return give

    @staticmethod
    def _take(
        channel: Channel, timeout: float | None, interrupt: float | None, resigning: bool
    ) -> Callable[[Actor], None]:
        """resigning: gives up when it is interrupted, and what it would have got is another's."""

        def take(actor: Actor) -> None:
            taken: bool | None = False
            while not taken:
                taken = None
                with suppress(Interrupt), nullcontext() if interrupt is None else gevent.Timeout(interrupt, False):
                    taken = channel.take(timeout, actor)
                if taken is None and resigning:
                    channel.resigned.append(actor)
                    return

        return take

    def play(self) -> list[str]:
        """Run it; returns what was wrong."""
        started = [threading.Thread(target=actor.run, daemon=True) for actor in self.threads]
        further = [
            threading.Thread(target=self._play_hub, args=(n, True), daemon=True) for n in range(1, len(self.hubs))
        ]
        for thread in started + further:
            thread.start()
        self._play_hub(0, False)
        for thread in started + further:
            thread.join()
        for guard in self.guards:
            guard.check()
        for channel in self.channels:
            if len(channel.taken) + len(channel.resigned) != channel.wanted or len(channel.taken) > len(channel.given):
                self.wrong(f"{channel.name}: {channel.given} was given, {channel.taken} was taken")
            if len(set(channel.taken)) != len(channel.taken):
                self.wrong(f"{channel.name}: given once, taken twice: {channel.taken}")
        return self._problems

    def _play_hub(self, number: int, destroy: bool) -> None:
        actors = self.hubs[number]
        greenlets = [gevent.spawn(scoped if actor.kind == "scoped" else plain, actor) for actor in actors]
        killer = gevent.spawn(self._kill, self.kills[number], actors)
        gevent.joinall(greenlets)
        killer.kill()
        for greenlet in greenlets:
            if greenlet.exception is not None:
                self.wrong(f"{greenlet}: {greenlet.exception!r}")
        if destroy:
            gevent.get_hub().destroy(destroy_loop=True)

    @staticmethod
    def _kill(delays: list[float], targets: list[Actor]) -> None:
        for number, delay in enumerate(delays):
            gevent.sleep(delay)
            target = targets[number % len(targets)]
            target.interrupt(target)


def scoped(actor: Actor) -> None:
    with cooperative():
        actor.run()


def plain(actor: Actor) -> None:
    actor.run()


def module_of_earlier_locks() -> types.ModuleType:
    """Imported before the scope is installed, so that its locks are adopted."""
    module = types.ModuleType("earlier_locks")
    for number in range(8):
        setattr(module, f"adopted_lock_{number}", _thread.allocate_lock())
        setattr(module, f"adopted_rlock_{number}", _thread.RLock())
        setattr(module, f"adopted_queue_{number}", _queue.SimpleQueue())
    module.old_names = dict(vars(module))  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return module


@in_child(HUNT_SECONDS + 30)
def test_no_schedule_hangs_or_lets_two_in_or_loses_a_wake_up() -> None:
    adopted = module_of_earlier_locks()
    assert install()
    schedule = os.environ.get("GEVENTWS_HUNT_SCHEDULE")
    first = int.from_bytes(os.urandom(4), "big") if schedule is None else int(schedule)
    until = time.monotonic() + HUNT_SECONDS
    played = 0
    while time.monotonic() < until:
        number = first if schedule is not None else first + played
        watch.allow(HANGS, f"in GEVENTWS_HUNT_SCHEDULE={number}, after {played} others")
        problems = World(number, adopted).play()
        assert not problems, f"GEVENTWS_HUNT_SCHEDULE={number}, after {played} others:\n" + "\n".join(problems)
        played += 1
    print(f"{played} schedules")


# Hard cases by name.


def in_threads(function: Callable[..., Any], *arguments: Any) -> list[threading.Thread]:
    """Start a native thread for each of the arguments."""
    threads = [threading.Thread(target=function, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    return threads


def try_within(lock: Any, seconds: float) -> bool:
    if not lock.acquire(timeout=seconds):
        return False
    lock.release()
    return True


@in_child()
def test_three_threads_and_four_greenlets_take_a_lock_exactly_1400_times() -> None:
    """Where `gevent.thread.LockType` loses wake-ups."""
    install()
    for lock in (threading.Lock(), threading.RLock()):
        count = 0
        wrong: list[int] = []

        def take(number: int, lock: Any = lock, wrong: list[int] = wrong) -> None:
            nonlocal count
            for turn in range(200):
                with lock:
                    before = count
                    if turn % 20 == 0:
                        time.sleep(0.001)
                    if count != before:
                        wrong.append(number)
                    count = before + 1

        threads = in_threads(take, 1, 2, 3)
        gevent.joinall([spawn(take, number) for number in (4, 5, 6, 7)], raise_error=True)
        for thread in threads:
            thread.join()
        assert (count, wrong) == (1400, [])


@in_child()
def test_a_greenlet_that_takes_a_lock_again_at_once_does_not_starve_its_sibling() -> None:
    install()
    for lock in (threading.Lock(), threading.RLock()):

        def keep(lock: Any = lock) -> None:
            while True:
                with lock:
                    time.sleep(0.01)

        greedy = spawn(keep)
        gevent.sleep(0.001)
        began = time.monotonic()
        for _ in range(5):
            assert inside(try_within, lock, 1)
        took = time.monotonic() - began
        greedy.kill()
        assert took < 1


@in_child()
def test_a_lock_held_across_a_wait_gets_through_to_everybody_in_any_order() -> None:
    """To siblings, a greenlet outside, threads, and the greenlets of another hub."""
    install()

    for make in (threading.Lock, threading.RLock):
        for order in range(20):
            lock = make()
            draw = random.Random(order)
            seen: list[str] = []

            def take(who: str, lock: Any = lock, seen: list[str] = seen) -> None:
                for _ in range(3):
                    with lock:
                        seen.append(who)
                        time.sleep(0.001)

            def hub(_: object, take: Callable[[str], None] = take) -> None:
                gevent.joinall([spawn(take, "there"), gevent.spawn(take, "outside there")], raise_error=True)
                gevent.get_hub().destroy(destroy_loop=True)

            starts: list[Callable[[], Any]] = [
                lambda: spawn(take, "inside"),
                lambda: spawn(take, "sibling"),
                lambda: gevent.spawn(take, "outside"),
                lambda: in_threads(take, "thread")[0],
                lambda: in_threads(hub, None)[0],
            ]
            draw.shuffle(starts)
            started = [start() for start in starts]
            gevent.joinall([one for one in started if isinstance(one, gevent.Greenlet)], raise_error=True)
            for one in started:
                one.join()
            assert len(seen) == 18


@in_child()
def test_who_waits_outside_with_a_lock_in_its_hand_stops_nobody_who_wants_that() -> None:
    """It waits on the hub, because a greenlet in a scope has the second lock. Then that has been released already when
    a third greenlet comes, but the second has not run yet."""
    install()
    first, second = threading.Lock(), threading.Lock()
    seen: list[str] = []

    def hold() -> None:
        with second:
            time.sleep(0.02)

    def both() -> None:
        with first, second:
            seen.append("both")

    def one() -> None:
        with first:
            seen.append("one")

    holder = spawn(hold)
    gevent.sleep(0)
    waiting = gevent.spawn(both)
    gevent.sleep(0)
    late: list[Any] = []
    holder.rawlink(lambda _: late.append(gevent.spawn(one)))
    gevent.joinall([holder, waiting])
    gevent.joinall(late)
    assert sorted(seen) == ["both", "one"]


@in_child()
def test_a_lock_taken_before_the_scope_and_held_in_it_stops_nobody() -> None:
    install()
    for lock in (threading.Lock(), threading.RLock()):
        entered = gevent.event.Event()

        def hold(lock: Any = lock, entered: Any = entered) -> None:
            with lock, cooperative():
                entered.set()
                time.sleep(0.02)

        holder = gevent.spawn(hold)
        entered.wait()
        with lock:
            pass
        holder.join()


@in_child()
def test_a_greenlet_outside_may_wait_for_a_thread_that_wants_a_lock_held_in_a_scope() -> None:
    """As when it waits for the result of a thread that logs."""
    install()
    lock = threading.Lock()

    def hold() -> None:
        with lock:
            time.sleep(0.02)

    def work() -> str:
        with lock:
            return "done"

    with ThreadPoolExecutor(1) as executor:
        holder = spawn(hold)
        gevent.sleep(0)
        assert executor.submit(work).result() == "done"
        holder.join()


@in_child()
def test_greenlets_that_start_threads_and_executors_at_once_do_not_stop_each_other() -> None:
    """`submit` starts a thread with a lock of the whole process in its hand."""
    install()

    def use(number: int) -> int:
        with ThreadPoolExecutor(2) as executor:
            futures = [executor.submit(time.sleep, 0.001) for _ in range(4)]
            [future.result() for future in futures]
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        return number

    shared = ThreadPoolExecutor(3)
    greenlets = [spawn(use, number) for number in range(10)]
    greenlets += [spawn(lambda number: shared.submit(use, number).result(), number) for number in range(10, 20)]
    threads = in_threads(use, 1, 2)
    assert [greenlet.get(timeout=15) for greenlet in greenlets] == list(range(20))
    for thread in threads:
        thread.join()
    shared.shutdown()


@in_child()
def test_logging_by_everybody_at_once_to_a_handler_that_waits() -> None:
    """The handlers' locks and that of the module were made before the scope was installed, or not."""

    class Slow(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.together = 0
            self.lines: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.together += 1
            assert self.together == 1
            time.sleep(0.001)
            self.together -= 1
            self.lines.append(record.getMessage())

    install()
    logger = logging.getLogger("slow")
    logger.propagate = False
    handler = Slow()
    logger.addHandler(handler)

    def talk(who: object) -> None:
        for turn in range(5):
            logger.error("%s says %s", who, turn)
            logging.getLogger(f"{who}.{turn}")

    threads = in_threads(talk, "thread", "another")
    greenlets = [spawn(talk, number) for number in range(4)]
    greenlets += [gevent.spawn(talk, "outside"), gevent.spawn(talk, "outside too")]
    gevent.joinall(greenlets, raise_error=True)
    for thread in threads:
        thread.join()
    assert len(handler.lines) == 8 * 5


@in_child()
def test_a_hub_that_is_destroyed_while_its_greenlets_wait_leaves_the_lock_to_others() -> None:
    install()
    for lock in (threading.Lock(), threading.RLock()):

        def abandon(lock: Any) -> None:
            abandoned = [spawn(lock.acquire) for _ in range(3)]
            gevent.sleep(0.005)
            assert not any(greenlet.ready() for greenlet in abandoned)
            gevent.get_hub().destroy(destroy_loop=True)

        with lock:
            in_threads(abandon, lock)[0].join()
            waiter = spawn(try_within, lock, 5)
            gevent.sleep(0.001)
        assert waiter.get(timeout=5)


@in_child()
def test_many_kills_in_the_middle_of_many_waits_lose_nothing() -> None:
    install()
    lock, gone = threading.Lock(), 0
    draw = random.Random(7)

    def take() -> None:
        with lock:
            time.sleep(0)

    for _ in range(100):
        greenlets = [spawn(take) for _ in range(5)]
        gevent.sleep(0)
        while greenlets:
            victim = greenlets.pop(draw.randrange(len(greenlets)))
            if draw.random() < 0.5:
                victim.kill(block=False)
                gone += 1
            gevent.sleep(0) if draw.random() < 0.5 else None
        assert inside(try_within, lock, 5)
    assert gone
