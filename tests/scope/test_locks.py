"""`geventws.scope.locks` and `queues`: each lock and queue by itself, in a scope, outside, and across the border.

What only shows when many use them at once is in test_deadlocks.py.
"""

from __future__ import annotations

import _queue
import _thread
import copy
import os
import pickle
import queue
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from scope.greenlets import inside, result, spawn
from scope.watched import in_child
from waiting import wait_until

from geventws.scope import cooperative, install, uninstall

pytestmark = pytest.mark.skipif(os.environ.get("GEVENTWS_PATCHED") == "1", reason="gevent has patched this process")

NativeRLock = _thread.RLock
NativeSimpleQueue = _queue.SimpleQueue
NativeLock = type(_thread.allocate_lock())

KINDS = ["Lock", "RLock"]
# In a dict, where the installation does not find them.
NATIVE = {"Lock": _thread.allocate_lock, "RLock": NativeRLock}


@pytest.fixture(autouse=True, scope="module")
def uninstalled_before_and_after() -> Iterator[None]:
    uninstall()
    yield
    uninstall()


@pytest.fixture(autouse=True)
def installed(uninstalled_before_and_after: None) -> None:
    assert install()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lock(kind: str) -> Any:
    return getattr(threading, kind)()


class Holder:
    """A native thread that holds a lock until it is told to release it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._taken = NATIVE["Lock"]()
        self._taken.acquire()
        self._free = NATIVE["Lock"]()
        self._free.acquire()
        _thread.start_new_thread(self._run, ())
        assert self._taken.acquire(timeout=5)

    def _run(self) -> None:
        self._lock.acquire()
        self._taken.release()
        self._free.acquire()
        self._lock.release()
        self._taken.release()

    def release(self) -> None:
        self._free.release()
        assert self._taken.acquire(timeout=5)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns, or raises, in a native thread."""
    return gevent.get_hub().threadpool.apply(function, args)


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What it returns, or the class of what it raises: the words differ between the versions of Python."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error)


@pytest.fixture
def earlier() -> Iterator[Callable[..., types.ModuleType]]:
    """Make a module with these variables, as if it had been imported before the scope was installed."""
    names = []

    def imported(**variables: Any) -> types.ModuleType:
        uninstall()
        module = types.ModuleType(f"imported_earlier_{len(names)}")
        vars(module).update(variables)
        sys.modules[module.__name__] = module
        names.append(module.__name__)
        assert install()
        return module

    yield imported
    for name in names:
        del sys.modules[name]


# Taking and releasing.


def test_a_lock_is_taken_once(lock: Any) -> None:
    assert lock.acquire()
    assert not inside(lock.acquire, False)
    lock.release()
    assert inside(lock.acquire, False)


def test_a_lock_taken_in_a_scope_is_taken_for_those_outside(lock: Any) -> None:
    def hold() -> None:
        with lock:
            taken.set()
            release.wait()

    taken, release = gevent.event.Event(), gevent.event.Event()
    holder = spawn(hold)
    assert taken.wait(5)
    assert not lock.acquire(False)
    assert not in_thread(lock.acquire, False)
    release.set()
    result(holder)
    assert lock.acquire(False)
    lock.release()


def test_a_lock_held_by_a_thread_is_waited_for_in_a_scope_while_others_run(lock: Any) -> None:
    def want() -> str:
        with lock:
            return "has it"

    with Holder(lock):
        waiter = spawn(want)
        ticks = gevent.spawn(gevent.sleep, 0.02)
        ticks.join(5)
        assert ticks.ready()
        assert not waiter.ready()
    assert result(waiter) == "has it"


def test_a_lock_taken_in_a_scope_can_be_released_outside() -> None:
    lock = threading.Lock()
    inside(lock.acquire)
    lock.release()
    assert lock.acquire(False)


def test_a_lock_taken_outside_can_be_released_in_a_scope_and_by_a_thread() -> None:
    lock = threading.Lock()
    lock.acquire()
    inside(lock.release)
    lock.acquire()
    in_thread(lock.release)
    assert not lock.locked()


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_timeout_passes(lock: Any, place: str) -> None:
    def want() -> tuple[bool, float]:
        begin = time.monotonic()
        return lock.acquire(timeout=0.05), time.monotonic() - begin

    with Holder(lock):
        acquired, took = inside(want) if place == "inside" else want()
    assert acquired is False
    assert 0.04 < took < 2


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_lock_that_becomes_free_in_time_is_taken(lock: Any, place: str) -> None:
    holder = Holder(lock)
    gevent.get_hub().threadpool.spawn(lambda: (_native_sleep(0.02), holder.release()))
    begin = time.monotonic()
    assert inside(lock.acquire, True, 30) if place == "inside" else lock.acquire(True, 30)
    assert time.monotonic() - begin < 10


_native_sleep = time.sleep

ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((True,), {}),
    ((1,), {}),
    ((False,), {}),
    ((0,), {}),
    ((True, -1), {}),
    ((True, 0), {}),
    ((True, 0.0), {}),
    ((True, 0.001), {}),
    ((False, -1), {}),
    ((), {"blocking": False}),
    ((), {"timeout": 0}),
    ((), {"timeout": -1}),
    ((False, 0), {}),
    ((False, 1), {}),
    ((True, -2), {}),
    ((True, -0.5), {}),
    ((True, 1e100), {}),
    ((True, float("nan")), {}),
    ((True, float("inf")), {}),
    ((True, "1"), {}),
    ((True, None), {}),
    (("yes",), {}),
    (([],), {}),
    ((None,), {}),
    ((1.5,), {}),
    ((True, 1, 1), {}),
    ((), {"waiting": True}),
]


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_acquire_does_with_its_arguments_what_the_native_one_does(kind: str, arguments: Any, place: str) -> None:
    args, kwargs = arguments
    expected = outcome(NATIVE[kind]().acquire, *args, **kwargs)
    lock = getattr(threading, kind)()
    call = inside if place == "inside" else outcome
    assert call(lambda: outcome(lock.acquire, *args, **kwargs)) == expected


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize(
    "arguments", [arguments for arguments in ARGUMENTS[1:] if arguments[0] not in ((True,), (1,), (True, -1))], ids=str
)
def test_acquire_does_the_same_when_somebody_else_has_it(kind: str, arguments: Any, place: str) -> None:
    args, kwargs = arguments
    blocking = args[0] if args else kwargs.get("blocking", True)
    timeout = args[1] if len(args) > 1 else kwargs.get("timeout", -1)
    if blocking and timeout == -1 and outcome(NATIVE[kind]().acquire, *args, **kwargs) is True:
        pytest.skip("would wait for ever")
    native, lock = NATIVE[kind](), getattr(threading, kind)()
    with Holder(native), Holder(lock):
        expected = outcome(lambda: native.acquire(*args, **kwargs))
        wanted = lambda: outcome(lambda: lock.acquire(*args, **kwargs))  # noqa: E731 (two words for one thing)
        assert (inside(wanted) if place == "inside" else wanted()) == expected


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("method", ["release", "__exit__", "locked", "acquire", "__enter__"])
@pytest.mark.parametrize("args", [(), (1,), (None, None, None)], ids=str)
def test_methods_of_a_free_lock_do_what_the_native_ones_do(
    kind: str, method: str, args: tuple[Any, ...], place: str
) -> None:
    def call(lock: Any) -> Any:
        return outcome(lambda: getattr(lock, method)(*args))

    native, lock = NATIVE[kind](), getattr(threading, kind)()
    assert (inside(call, lock) if place == "inside" else call(lock)) == call(native)


@pytest.mark.parametrize("args", [(1,), (None,), ("a", "b")], ids=str)
def test_making_a_lock_does_with_arguments_what_the_native_ones_do(kind: str, args: tuple[Any, ...]) -> None:
    """Most take none; the native RLock ignores them in some versions."""

    def make() -> bool:
        return bool(getattr(threading, kind)(*args).acquire(False))

    found = outcome(make)
    uninstall()
    assert found == outcome(make)


def test_a_lock_cannot_be_copied_or_pickled(lock: Any) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle"):
            attempt(lock)


def test_a_simple_queue_cannot_be_copied_or_pickled() -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle"):
            attempt(queue.SimpleQueue())


def test_a_lock_can_be_referred_to_weakly_and_hashed(lock: Any) -> None:
    assert weakref.ref(lock)() is lock
    assert {lock: 1}[lock] == 1


def test_a_lock_has_no_room_for_further_attributes(lock: Any) -> None:
    with pytest.raises(AttributeError):
        lock.name = "mine"


def test_a_lock_says_whether_it_is_locked(kind: str, lock: Any) -> None:
    native = NATIVE[kind]()
    assert repr(lock).startswith("<unlocked ")
    with lock, native:
        assert repr(lock).startswith("<locked ")
        assert repr(native).startswith("<locked ")
        if kind == "RLock":
            assert "count=1" in repr(lock)


def test_with_gives_what_the_native_one_gives(kind: str, lock: Any) -> None:
    with NATIVE[kind]() as expected:
        pass
    with lock as found:
        assert found == expected
    assert inside(lock.__enter__) == expected


def test_an_exception_in_a_with_releases_the_lock(lock: Any) -> None:
    def fail() -> None:
        with lock:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        inside(fail)
    assert lock.acquire(False)
    lock.release()


def test_old_names_of_the_methods_remain() -> None:
    lock = threading.Lock()
    assert lock.acquire_lock(False)
    assert lock.locked_lock()
    lock.release_lock()
    assert not lock.locked()


# Types.


def test_locks_made_before_and_after_are_instances_of_each_others_types(kind: str, lock: Any) -> None:
    assert isinstance(lock, type(lock))
    assert isinstance(NATIVE[kind](), type(lock))


def test_a_lock_is_an_instance_of_the_type_that_a_module_has_noted_before(kind: str, lock: Any) -> None:
    noted = type(NATIVE[kind]())
    assert isinstance(lock, noted)


def test_simple_queues_made_before_and_after_are_instances_of_each_others_types() -> None:
    class Earlier(NativeSimpleQueue):  # type: ignore[misc, valid-type]
        pass

    assert isinstance(NativeSimpleQueue(), queue.SimpleQueue)
    assert isinstance(Earlier(), queue.SimpleQueue)
    assert issubclass(Earlier, queue.SimpleQueue)
    assert isinstance(queue.SimpleQueue(), NativeSimpleQueue)


def test_a_simple_queue_can_be_subclassed_and_named_in_types() -> None:
    class Mine(queue.SimpleQueue[int]):
        pass

    mine = Mine()
    mine.put(1)
    mine.name = "with a dict"  # type: ignore[attr-defined]
    assert mine.get() == 1
    assert repr(queue.SimpleQueue[int]).endswith("SimpleQueue[int]")


# RLocks.


def test_an_rlock_is_taken_again_by_its_greenlet() -> None:
    rlock = threading.RLock()

    def again() -> list[bool]:
        with rlock, rlock:
            return [rlock.acquire(), rlock.acquire(False), rlock.acquire(timeout=1)]

    assert inside(again) == [True, True, True]


def test_an_rlock_keeps_sibling_greenlets_out() -> None:
    rlock = threading.RLock()

    def hold() -> None:
        with rlock:
            wait_until(lambda: tried)

    tried: list[bool] = []
    holder = spawn(hold)
    gevent.sleep(0)
    tried.append(inside(rlock.acquire, False))
    result(holder)
    assert tried == [False]


def test_an_rlock_held_in_a_scope_keeps_greenlets_outside_out() -> None:
    rlock = threading.RLock()
    holder, release = held_in_scope(rlock)
    assert not rlock.acquire(False)
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        rlock.release()
    release.set()
    result(holder)


def test_an_rlock_held_outside_keeps_greenlets_in_a_scope_out() -> None:
    rlock = threading.RLock()
    with rlock:
        assert not inside(rlock.acquire, False)
        assert inside(outcome, rlock.release) is RuntimeError
    assert inside(rlock.acquire, False)


def test_outside_an_rlock_is_shared_by_the_greenlets_of_a_thread() -> None:
    rlock = threading.RLock()
    with rlock:
        taker = gevent.spawn(rlock.acquire, False)
        assert result(taker)
        gevent.spawn(rlock.release).join()
        assert not in_thread(rlock.acquire, False)
    assert in_thread(rlock.acquire, False)


def test_an_rlock_taken_outside_is_its_greenlets_also_in_a_scope() -> None:
    rlock = threading.RLock()

    def enter() -> list[Any]:
        with rlock:
            with cooperative():
                found = [rlock.acquire(False), rlock._is_owned(), spawn(rlock.acquire, False).get()]  # type: ignore
                rlock.release()
                time.sleep(0.001)
            return [*found, rlock._is_owned()]  # type: ignore[attr-defined]

    assert result(gevent.spawn(enter)) == [True, True, False, True]
    assert rlock.acquire(False)
    rlock.release()


def test_an_rlock_taken_in_a_scope_stays_its_greenlets_when_it_leaves() -> None:
    rlock = threading.RLock()

    def leave() -> list[Any]:
        with cooperative():
            rlock.acquire()
        found = [rlock.acquire(False), gevent.spawn(rlock.acquire, False).get()]
        rlock.release()
        rlock.release()
        return found

    assert result(gevent.spawn(leave)) == [True, False]
    assert inside(rlock.acquire, False)


def test_a_thread_that_does_not_have_an_rlock_cannot_release_it() -> None:
    rlock = threading.RLock()
    with rlock, pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        in_thread(rlock.release)


def held_in_scope(lock: Any) -> tuple[Any, Any]:
    """A greenlet in a scope that holds the lock, and the event for which it does."""
    release = gevent.event.Event()

    def hold() -> None:
        with lock:
            release.wait()

    holder = spawn(hold)
    wait_until(lambda: not in_thread(try_once, lock))
    return holder, release


def try_once(lock: Any) -> bool:
    if lock.acquire(False):
        lock.release()
        return True
    return False


# Waiting in line.


def test_greenlets_of_one_hub_come_in_turn(lock: Any) -> None:
    order: list[int] = []

    def want(number: int) -> None:
        with lock:
            order.append(number)
            time.sleep(0)

    with Holder(lock):
        wanting = [spawn(want, number) for number in range(10)]
        gevent.sleep(0.01)
    gevent.joinall(wanting, timeout=5, raise_error=True)
    assert order == list(range(10))


@pytest.mark.parametrize("end", ["killed", "timed out"])
def test_who_gives_up_calls_the_next(lock: Any, end: str) -> None:
    holder = Holder(lock)
    first = spawn(lock.acquire, True, 0.05 if end == "timed out" else 30)
    second = spawn(lock.acquire, True, 30)
    gevent.sleep(0.01)
    # The first is told of the release, and ends before it has run.
    holder.release() if end == "killed" else None
    if end == "killed":
        first.kill()
    else:
        assert result(first) is False
        holder.release()
    assert result(second) is True


def test_a_greenlet_killed_while_it_holds_a_lock_releases_it(lock: Any) -> None:
    holder, _release = held_in_scope(lock)
    holder.kill()
    assert inside(lock.acquire, True, 5)


def test_a_lock_that_a_killed_greenlet_wanted_is_free_for_others(lock: Any) -> None:
    with Holder(lock):
        wanting = spawn(lock.acquire)
        gevent.sleep(0.01)
        wanting.kill()
    assert try_once(lock)
    assert inside(try_once, lock)


@in_child()
def test_a_lock_that_is_forgotten_while_it_is_held_stops_nobody() -> None:
    """As long as it is there, a greenlet outside that waits for any lock waits on the hub."""
    install()

    def take_and_forget() -> None:
        threading.Lock().acquire()

    inside(take_and_forget)
    with Holder(other := threading.Lock()):
        runs: list[int] = []
        ticker = gevent.spawn(lambda: [runs.append(1), gevent.sleep(0.001), runs.append(2)])
        gevent.sleep(0)
        assert not other.acquire(timeout=0.05)
        assert runs == [1]
        ticker.join()


@pytest.mark.parametrize("timeout", [1e100, float("nan"), -2], ids=str)
def test_a_wrong_timeout_is_refused_while_the_thread_has_locks_in_a_scope(lock: Any, timeout: float) -> None:
    holder, release = held_in_scope(threading.Lock())
    with Holder(lock):
        assert outcome(lambda: lock.acquire(True, timeout)) in (ValueError, OverflowError)
    release.set()
    result(holder)


# Conditions, and what is made of them.


def native_condition() -> threading.Condition:
    return threading.Condition(NativeRLock())


CONDITIONS = {
    "Condition()": lambda: threading.Condition(),
    "Condition(Lock())": lambda: threading.Condition(threading.Lock()),
    "Condition(RLock())": lambda: threading.Condition(threading.RLock()),
    "with a native lock": lambda: threading.Condition(NATIVE["Lock"]()),  # type: ignore[arg-type]
    "with a native RLock": native_condition,
}


@pytest.fixture(params=list(CONDITIONS))
def condition(request: pytest.FixtureRequest) -> threading.Condition:
    return CONDITIONS[request.param]()


def test_a_condition_is_waited_for_in_a_scope_until_a_thread_notifies(condition: threading.Condition) -> None:
    def wait() -> bool:
        with condition:
            waiting.append(1)
            return condition.wait(5)

    waiting: list[int] = []
    waiter = spawn(wait)
    wait_until(lambda: waiting)
    in_thread(notify, condition)
    assert result(waiter) is True


def test_a_condition_is_waited_for_by_a_thread_until_a_greenlet_in_a_scope_notifies(
    condition: threading.Condition,
) -> None:
    def wait() -> bool:
        with condition:
            waiting.append(1)
            return condition.wait(5)

    waiting: list[int] = []
    waiter = gevent.get_hub().threadpool.spawn(wait)
    wait_until(lambda: waiting)
    inside(notify, condition)
    assert waiter.get(timeout=5) is True


def notify(condition: threading.Condition, count: int = 1) -> None:
    with condition:
        condition.notify(count)


def test_a_condition_that_is_not_notified_times_out(condition: threading.Condition) -> None:
    def wait() -> tuple[bool, float]:
        with condition:
            begin = time.monotonic()
            return condition.wait(0.05), time.monotonic() - begin

    notified, took = inside(wait)
    assert notified is False
    assert 0.04 < took < 2
    assert not condition._waiters  # type: ignore[attr-defined]


def test_waiting_without_the_lock_is_refused(condition: threading.Condition) -> None:
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        inside(condition.wait)
    with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
        inside(condition.notify)


@pytest.mark.parametrize("timeout", ["1", [], object()], ids=str)
def test_a_wrong_timeout_is_refused_and_leaves_nothing_behind(timeout: Any) -> None:
    def wait() -> Any:
        with condition:
            return outcome(condition.wait, timeout)

    condition = threading.Condition()
    expected = wait()
    assert inside(wait) is expected is TypeError
    inside(notify, condition)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, True], ids=str)
def test_a_timeout_that_is_over_gives_back_what_the_native_one_gives(timeout: Any) -> None:
    def wait() -> Any:
        with condition:
            return condition.wait(timeout)

    condition = threading.Condition()
    expected = wait()
    assert inside(wait) is expected is False


WAITS: dict[str, Callable[[float], Any]] = {
    "Lock": lambda timeout: held(threading.Lock()).acquire(timeout=timeout),
    "Condition": lambda timeout: held(threading.Condition()).wait(timeout),
    "Event": lambda timeout: threading.Event().wait(timeout),
    "Semaphore": lambda timeout: threading.Semaphore(0).acquire(timeout=timeout),
    "SimpleQueue": lambda timeout: outcome(lambda: queue.SimpleQueue().get(timeout=timeout)),
    "sleep": lambda timeout: time.sleep(timeout),
}


def held(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize("timeout", [1e-9, 1e-5], ids=str)
@pytest.mark.parametrize("name", list(WAITS))
def test_even_the_shortest_wait_lets_others_run(name: str, timeout: float) -> None:
    """Who waits again and again for a moment would stop the hub for ever, and with it what it waits for."""

    def wait_often() -> None:
        for _ in range(50):
            WAITS[name](timeout)
            seen.append(turns)

    turns, seen = 0, [0]

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    counter = gevent.spawn(count)
    inside(wait_often)
    counter.kill()
    assert seen[1:] == sorted(set(seen[1:]))


def test_a_notified_waiter_that_is_killed_hands_the_notice_on(condition: threading.Condition) -> None:
    got: list[str] = []

    def wait(name: str) -> None:
        with condition:
            condition.wait()
            got.append(name)

    first, second = spawn(wait, "first"), spawn(wait, "second")
    gevent.sleep(0.01)
    notify(condition)
    first.kill(block=False)
    gevent.joinall([first, second], timeout=5)
    second.kill()
    assert got == ["second"]


def test_a_waiter_killed_while_it_takes_the_lock_again_comes_back_with_it(lock: Any) -> None:
    """As `with condition` releases the lock, it would otherwise be somebody else's."""
    condition = threading.Condition(lock)
    seen: list[str] = []

    def wait() -> None:
        with condition:
            try:
                condition.wait()
            finally:
                seen.append("in" if holding == [] else "in together with another")

    holding: list[int] = []

    def hold() -> None:
        with condition:
            condition.notify()
            holding.append(1)
            time.sleep(0.05)
            holding.clear()

    waiter = spawn(wait)
    gevent.sleep(0.01)
    holder = spawn(hold)
    gevent.sleep(0.01)
    waiter.kill(ZeroDivisionError, block=False)
    assert outcome(result, holder) is None
    assert outcome(result, waiter) is ZeroDivisionError
    assert seen == ["in"]
    assert inside(try_once, condition)


def test_a_notice_is_not_lost_with_the_waiter_killed_while_it_takes_the_lock_again() -> None:
    condition = threading.Condition()
    got: list[str] = []

    def wait(name: str) -> None:
        with condition:
            condition.wait()
            got.append(name)

    def hold() -> None:
        with condition:
            condition.notify()
            time.sleep(0.05)

    first, second = spawn(wait, "first"), spawn(wait, "second")
    gevent.sleep(0.01)
    holder = spawn(hold)
    gevent.sleep(0.01)
    first.kill(block=False)
    gevent.joinall([first, second, holder], timeout=5)
    second.kill()
    assert got == ["second"]


def test_an_event_made_earlier_is_waited_for_in_a_scope() -> None:
    uninstall()
    event, free = threading.Event(), queue.Queue[int]()
    install()
    waiter, getter = spawn(event.wait, 5), spawn(free.get, True, 5)
    gevent.sleep(0.01)
    assert not waiter.ready()
    event.set()
    free.put(3)
    assert result(waiter) is True
    assert result(getter) == 3


def test_a_semaphore_lets_as_many_in_as_it_says() -> None:
    semaphore = threading.BoundedSemaphore(2)
    inside_now: list[int] = []
    most: list[int] = []

    def enter() -> None:
        with semaphore:
            inside_now.append(1)
            most.append(len(inside_now))
            time.sleep(0.002)
            inside_now.pop()

    gevent.joinall([spawn(enter) for _ in range(8)], timeout=5, raise_error=True)
    assert max(most) == 2
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()


def test_a_barrier_waits_for_greenlets_and_threads() -> None:
    barrier = threading.Barrier(3, timeout=5)
    first, second = spawn(barrier.wait), spawn(barrier.wait)
    gevent.sleep(0.01)
    third = in_thread(barrier.wait)
    assert sorted([result(first), result(second), third]) == [0, 1, 2]


# Queues.


def test_a_simple_queue_is_waited_for_in_a_scope_until_a_thread_puts() -> None:
    simple: queue.SimpleQueue[str] = queue.SimpleQueue()
    getter = spawn(simple.get)
    gevent.sleep(0.01)
    assert not getter.ready()
    in_thread(simple.put, "there")
    assert result(getter) == "there"


def test_a_simple_queue_is_waited_for_by_a_thread_until_a_greenlet_in_a_scope_puts() -> None:
    simple: queue.SimpleQueue[str] = queue.SimpleQueue()
    getter = gevent.get_hub().threadpool.spawn(simple.get, True, 5)
    inside(simple.put, "there")
    assert getter.get(timeout=5) == "there"


QUEUE_CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("get", (False,), {}),
    ("get", (True, 0), {}),
    ("get", (True, 0.01), {}),
    ("get", (), {"timeout": 0.01}),
    ("get", (), {"block": False}),
    ("get", (False, -1), {}),
    ("get", (True, -1), {}),
    ("get", (True, "1"), {}),
    ("get", (True, 1e100), {}),
    ("get", (True, 1, 1), {}),
    ("get", (), {"wait": 1}),
    ("get_nowait", (), {}),
    ("get_nowait", (1,), {}),
    ("put", (), {}),
    ("put", (1, True, 1), {}),
    ("put", (1, False), {}),
    ("put", (1, True, -1), {}),
    ("put", (1, True, "1"), {}),
    ("put", (), {"item": 1}),
    ("put_nowait", (1,), {}),
    ("put_nowait", (), {}),
    ("qsize", (), {}),
    ("empty", (), {}),
    ("qsize", (1,), {}),
]


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("call", QUEUE_CALLS, ids=str)
def test_methods_of_a_simple_queue_do_what_the_native_ones_do(call: Any, place: str) -> None:
    method, args, kwargs = call

    def run(simple: Any) -> Any:
        return outcome(lambda: getattr(simple, method)(*args, **kwargs))

    expected = run(NativeSimpleQueue())
    found = inside(run, queue.SimpleQueue()) if place == "inside" else run(queue.SimpleQueue())
    assert found == expected


@pytest.mark.parametrize("args", [(1,), (None,)], ids=str)
def test_making_a_simple_queue_takes_no_arguments(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        queue.SimpleQueue(*args)


def test_what_a_killed_getter_would_have_got_is_the_next_ones() -> None:
    simple: queue.SimpleQueue[str] = queue.SimpleQueue()
    first, second = spawn(simple.get), spawn(simple.get)
    gevent.sleep(0.01)
    simple.put("there")
    first.kill(block=False)
    assert result(second) == "there"


def test_getters_come_in_turn() -> None:
    simple: queue.SimpleQueue[int] = queue.SimpleQueue()
    got: list[tuple[int, int]] = []
    getters = [spawn(lambda number: got.append((number, simple.get())), number) for number in range(5)]
    gevent.sleep(0.01)
    for item in range(5):
        simple.put(item)
    gevent.joinall(getters, timeout=5, raise_error=True)
    assert got == [(number, number) for number in range(5)]


# What a module had before.


def test_locks_of_modules_that_were_there_before_are_adopted(kind: str, earlier: Any) -> None:
    native = NATIVE[kind]()
    module = earlier(lock=native, the_same=native)
    assert module.lock is module.the_same
    assert module.lock is not native
    with Holder(native):
        assert not inside(module.lock.acquire, False)
    inside(module.lock.acquire)
    assert not in_thread(native.acquire, False)
    uninstall()
    assert module.lock is module.the_same is native


def test_an_adopted_lock_released_by_its_old_name_is_noticed(kind: str, earlier: Any) -> None:
    native = NATIVE[kind]()
    module = earlier(lock=native)
    with Holder(native):
        waiter = spawn(module.lock.acquire, True, 5)
        gevent.sleep(0.01)
        assert not waiter.ready()
    assert result(waiter) is True


def test_a_lock_that_was_held_when_it_was_adopted_can_be_released(kind: str, earlier: Any) -> None:
    native = NATIVE[kind]()
    native.acquire()
    module = earlier(lock=native)
    assert not in_thread(module.lock.acquire, False)
    module.lock.release()
    assert in_thread(try_once, module.lock)
    assert inside(try_once, module.lock)


def test_an_rlock_that_was_held_when_it_was_adopted_can_be_taken_again(earlier: Any) -> None:
    native = NativeRLock()
    native.acquire()
    module = earlier(lock=native)
    assert module.lock.acquire(False)
    module.lock.release()
    assert not in_thread(try_once, module.lock)
    module.lock.release()
    assert in_thread(try_once, native)


def test_a_lock_that_is_held_by_its_new_name_when_it_is_given_back_can_be_released(kind: str, earlier: Any) -> None:
    native = NATIVE[kind]()
    module = earlier(lock=native)
    module.lock.acquire()
    uninstall()
    assert module.lock is native
    module.lock.release()
    assert in_thread(try_once, native)


def test_an_adopted_simple_queue_is_the_same_queue_by_both_names(earlier: Any) -> None:
    native = NativeSimpleQueue()
    module = earlier(queue=native)
    getter = spawn(module.queue.get, True, 5)
    gevent.sleep(0.01)
    in_thread(native.put, 1)
    assert result(getter) == 1
    inside(module.queue.put, 2)
    assert native.get() == 2


def test_a_condition_over_an_adopted_lock_is_one_for_both_sides(kind: str, earlier: Any) -> None:
    module = earlier(lock=NATIVE[kind]())
    condition = threading.Condition(module.lock)
    waiter = spawn(lambda: condition.__enter__() and condition.wait(5))
    gevent.sleep(0.01)
    in_thread(notify, condition)
    assert result(waiter) is True


def test_a_modules_condition_that_was_there_before_keeps_siblings_apart(earlier: Any) -> None:
    """Its lock is not a variable of the module, but the condition is."""
    uninstall()
    module = earlier(condition=threading.Condition())
    together: list[int] = []
    most: list[int] = []

    def enter() -> None:
        with module.condition:
            together.append(1)
            most.append(len(together))
            time.sleep(0.001)
            together.pop()

    gevent.joinall([spawn(enter) for _ in range(3)], timeout=5, raise_error=True)
    assert max(most) == 1


def test_names_that_a_module_has_imported_are_exchanged_and_given_back(earlier: Any) -> None:
    uninstall()
    natives = {"Lock": threading.Lock, "RLock": threading.RLock, "SimpleQueue": queue.SimpleQueue, "sleep": time.sleep}
    module = earlier(**natives)
    assert module.Lock is threading.Lock is not natives["Lock"]
    assert module.sleep is time.sleep is not natives["sleep"]
    uninstall()
    assert {name: getattr(module, name) for name in natives} == natives


def test_locks_made_meanwhile_go_on_working_after_uninstall(lock: Any) -> None:
    uninstall()
    with lock:
        assert not in_thread(lock.acquire, False)
    simple = queue.SimpleQueue[int]()
    simple.put(1)
    assert simple.get() == 1
