"""`geventws.scope.local`: whose values `threading.local` shows, and that it obeys the rules of attributes."""

from __future__ import annotations

import _thread
import abc
import copy
import gc
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import gevent
import pytest
from scope.greenlets import inside, result, spawn
from waiting import wait_until

from geventws.scope import cooperative, install, uninstall

pytestmark = pytest.mark.skipif(os.environ.get("GEVENTWS_PATCHED") == "1", reason="gevent has patched this process")

NativeLocal = _thread._local

T = TypeVar("T")


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    uninstall()
    assert install()
    yield
    uninstall()


@pytest.fixture(params=["made after", "adopted"])
def values(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A local of each kind."""
    if request.param == "made after":
        yield threading.local()
        return
    uninstall()
    module = types.ModuleType("local_of_earlier")
    module.values = threading.local()  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    assert install()
    yield module.values  # type: ignore[attr-defined]
    del sys.modules[module.__name__]


class EarlierSubclass(NativeLocal):  # type: ignore[misc, valid-type]
    pass


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return gevent.get_hub().threadpool.apply(function, args)


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What it returns, or the class of what it raises."""
    try:
        return function(*args)
    except Exception as error:
        return type(error)


def test_greenlets_in_a_scope_do_not_see_each_others_values(values: Any) -> None:
    def remember(number: int) -> list[Any]:
        before = getattr(values, "number", None)
        values.number = number
        gevent.sleep(0)
        return [before, values.number]

    greenlets = [spawn(remember, number) for number in range(5)]
    assert [result(greenlet) for greenlet in greenlets] == [[None, number] for number in range(5)]


def test_a_greenlet_does_not_see_the_values_of_the_one_that_spawned_it(values: Any) -> None:
    def spawning() -> Any:
        values.number = 1
        return result(gevent.spawn(getattr, values, "number", None)), values.number

    assert inside(spawning) == (None, 1)


def test_values_of_a_scope_are_not_the_threads_and_the_other_way_round(values: Any) -> None:
    values.number = 0
    assert inside(getattr, values, "number", None) is None
    inside(setattr, values, "number", 1)
    assert values.number == 0
    assert in_thread(getattr, values, "number", None) is None


def test_outside_the_values_are_the_threads(values: Any) -> None:
    values.number = 1
    assert result(gevent.spawn(getattr, values, "number", None)) == 1
    in_thread(setattr, values, "number", 2)
    assert values.number == 1
    del values.number
    assert not hasattr(values, "number")


def test_who_leaves_a_scope_sees_the_threads_values_again_and_its_own_at_the_next() -> None:
    values = threading.local()

    def come_and_go() -> list[str]:
        values.name = "the thread's"
        with cooperative():
            values.name = "the greenlet's"
        seen = [values.name]
        with cooperative():
            seen.append(values.name)
        return seen

    assert result(gevent.spawn(come_and_go)) == ["the thread's", "the greenlet's"]
    assert values.name == "the thread's"


def test_a_thread_started_in_a_scope_has_its_own_values(values: Any) -> None:
    seen: list[Any] = []

    def start() -> None:
        values.number = 1
        thread = threading.Thread(target=lambda: seen.append(getattr(values, "number", None)))
        thread.start()
        thread.join()
        seen.append(values.number)

    inside(start)
    assert seen == [None, 1]


def test_values_end_with_their_greenlet(values: Any) -> None:
    class Value:
        pass

    def remember() -> weakref.ref[Value]:
        values.value = Value()
        return weakref.ref(values.value)

    greenlet = spawn(remember)
    reference = result(greenlet)
    del greenlet
    wait_until(lambda: reference() is None)


def test_values_end_with_their_local() -> None:
    class Value:
        pass

    def forget() -> bool:
        values = threading.local()
        values.value = value = Value()
        reference = weakref.ref(value)
        del value, values
        gc.collect()
        return reference() is None

    assert inside(forget)


def test_a_greenlet_that_comes_after_one_that_has_ended_starts_without_values(values: Any) -> None:
    for _ in range(20):  # Its address in memory is often the same.
        assert inside(getattr, values, "number", None) is None
        inside(setattr, values, "number", 1)


# Subclasses.


def subclass(made: list[Any]) -> Any:
    class Session(threading.local):
        kind = "session"

        def __init__(self, name: str, *, size: int = 0) -> None:
            made.append((name, size))
            self.name = name
            self.size = size

        @property
        def doubled(self) -> int:
            return self.size * 2

        @doubled.setter
        def doubled(self, value: int) -> None:
            self.size = value // 2

        @doubled.deleter
        def doubled(self) -> None:
            del self.size

        def method(self) -> str:
            return self.name

        @classmethod
        def of_class(cls) -> str:
            return cls.kind

        @staticmethod
        def of_nobody() -> int:
            return 1

    return Session


def test_init_runs_for_each_greenlet_and_thread_with_the_same_arguments() -> None:
    made: list[Any] = []
    session = subclass(made)("s", size=2)
    assert made == [("s", 2)]
    assert session.size == 2
    assert inside(lambda: session.size) == 2
    assert in_thread(lambda: session.size) == 2
    assert made == [("s", 2)] * 3
    result(gevent.spawn(lambda: session.size))
    assert made == [("s", 2)] * 3


def test_init_runs_once_for_each_greenlet() -> None:
    made: list[Any] = []
    session = subclass(made)("s")

    def use() -> None:
        session.size += 1
        session.size += 1

    inside(use)
    assert len(made) == 2
    assert session.size == 0


def test_a_local_made_in_a_scope_runs_init_once_there_and_once_outside() -> None:
    made: list[Any] = []
    session = inside(lambda: subclass(made)("s", size=3))
    assert len(made) == 1
    assert session.size == 3
    assert len(made) == 2


def test_making_one_in_a_scope_runs_init_once() -> None:
    made: list[Any] = []

    def make() -> Any:
        session = subclass(made)("s", size=3)
        return session.size, session.name

    assert inside(make) == (3, "s")
    assert made == [("s", 3)]


def test_an_init_that_fails_runs_again_at_the_next_access() -> None:
    attempts: list[int] = []

    class Failing(threading.local):
        def __init__(self) -> None:
            attempts.append(1)
            if len(attempts) == 2:
                raise ZeroDivisionError
            self.value = len(attempts)

    failing = Failing()

    def use() -> list[Any]:
        return [outcome(lambda: failing.value), outcome(lambda: failing.value)]

    assert inside(use) == [ZeroDivisionError, 3]


def test_making_a_plain_one_with_arguments_is_refused() -> None:
    for make in (lambda: threading.local(1), lambda: threading.local(name=1)):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="Initialization arguments are not supported"):
            make()
        with pytest.raises(TypeError, match="Initialization arguments are not supported"):
            inside(make)


def rules(base: type) -> list[Any]:
    """What the rules of attributes give, step by step, for a subclass of `base`."""

    class Slotted(base):  # type: ignore[misc, valid-type]
        __slots__ = ("slot",)
        shared = "class's"

        def __init__(self) -> None:
            self.initial = "initial"

        @property
        def fixed(self) -> str:
            return "fixed"

        @property
        def changing(self) -> Any:
            return self.__dict__.get("changed")

        @changing.setter
        def changing(self, value: Any) -> None:
            self.changed = value

        @changing.deleter
        def changing(self) -> None:
            del self.changed

        def method(self) -> str:
            return self.initial

    one = Slotted()
    steps: list[Callable[[], Any]] = [
        lambda: one.initial,
        lambda: one.shared,
        lambda: setattr(one, "shared", "instance's"),
        lambda: one.shared,
        lambda: Slotted.shared,
        lambda: delattr(one, "shared"),
        lambda: one.shared,
        lambda: delattr(one, "shared"),
        lambda: one.fixed,
        lambda: setattr(one, "fixed", 1),
        lambda: delattr(one, "fixed"),
        lambda: one.changing,
        lambda: setattr(one, "changing", 1),
        lambda: one.changing,
        lambda: one.changed,
        lambda: delattr(one, "changing"),
        lambda: one.changing,
        lambda: delattr(one, "changing"),
        lambda: one.slot,
        lambda: setattr(one, "slot", 2),
        lambda: one.slot,
        lambda: delattr(one, "slot"),
        lambda: one.slot,
        lambda: one.missing,
        lambda: hasattr(one, "missing"),
        lambda: delattr(one, "missing"),
        lambda: one.method(),
        lambda: setattr(one, "method", lambda: "instance's"),
        lambda: one.method(),
        lambda: sorted(one.__dict__),
        lambda: sorted(vars(one)),
        lambda: one.__dict__.update(more=3),
        lambda: one.more,
        lambda: setattr(one, "__dict__", {}),
        lambda: delattr(one, "__dict__"),
        lambda: one.__class__ is Slotted,
        lambda: type(one) is Slotted,
        lambda: one.__doc__,
        lambda: one.__module__,
        lambda: "more" in dir(one),
        lambda: setattr(one, "__class__", int),
        lambda: getattr(one, 3),  # type: ignore[call-overload]
        lambda: setattr(one, 3, 3),  # type: ignore[call-overload]
        lambda: pickle.dumps(one),
        lambda: isinstance(one, base),
        lambda: isinstance(one, threading.local),
        lambda: issubclass(Slotted, threading.local),
        lambda: one == one,
        lambda: {one: 1}[one],
        lambda: weakref.ref(one)() is one,
    ]
    return [outcome(step) for step in steps]


def test_the_rules_of_attributes_are_the_native_ones_in_a_scope() -> None:
    assert inside(rules, threading.local) == rules(NativeLocal)


def test_the_rules_of_attributes_are_the_native_ones_outside() -> None:
    assert rules(threading.local) == rules(NativeLocal)


def test_getattr_and_setattr_hooks_of_a_subclass_are_used() -> None:
    class Hooked(threading.local):
        def __getattr__(self, name: str) -> str:
            return f"no {name}"

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value + 1)

    def use(hooked: Hooked) -> list[Any]:
        hooked.number = 1
        return [hooked.number, hooked.missing]

    for place in (inside, outcome):
        assert place(use, Hooked()) == [2, "no missing"]


def test_an_attribute_error_names_the_object() -> None:
    values = threading.local()

    def name_it() -> tuple[Any, Any]:
        try:
            return values.missing
        except AttributeError as error:
            return error.name, error.obj is values

    assert inside(name_it) == ("missing", True)


def test_a_copy_is_refused_or_made_as_of_the_native_one() -> None:
    values, native = threading.local(), NativeLocal()
    assert outcome(pickle.dumps, values) is outcome(pickle.dumps, native)
    assert outcome(lambda: type(copy.copy(values)) is type(values)) == outcome(
        lambda: type(copy.copy(native)) is type(native)
    )


def test_it_can_be_subclassed_together_with_abstract_and_generic_classes() -> None:
    class Abstract(threading.local, abc.ABC):
        @abc.abstractmethod
        def work(self) -> int: ...

    class Concrete(Abstract):
        def work(self) -> int:
            return 1

    class Of(threading.local, Generic[T]):
        pass

    assert Concrete().work() == inside(Concrete().work) == 1
    assert inside(lambda: Of[int]().__dict__.keys() <= {"__orig_class__"})


def test_types_made_before_and_after_agree() -> None:
    assert isinstance(EarlierSubclass(), threading.local)
    assert issubclass(EarlierSubclass, threading.local)
    assert isinstance(threading.local(), NativeLocal)
    assert issubclass(threading.local, NativeLocal)
    assert not isinstance(object(), threading.local)
    assert not isinstance(EarlierSubclass(), type("Other", (threading.local,), {}))


def test_an_instance_of_an_earlier_subclass_does_not_leak_between_greenlets() -> None:
    values = EarlierSubclass()
    values.number = 0
    inside(setattr, values, "number", 1)
    assert values.number == 0


# What was there before, and what is there after.


def test_an_adopted_local_keeps_the_values_of_the_threads() -> None:
    uninstall()
    module = types.ModuleType("local_of_earlier")
    module.values = native = threading.local()  # type: ignore[attr-defined]
    native.number = 1
    sys.modules[module.__name__] = module
    try:
        install()
        assert module.values is not native
        assert module.values.number == 1
        module.values.number = 2
        assert native.number == 2
        assert inside(getattr, module.values, "number", None) is None
        uninstall()
        assert module.values is native
        assert native.number == 2
    finally:
        del sys.modules[module.__name__]


def test_a_local_made_meanwhile_goes_on_working_after_uninstall() -> None:
    values = threading.local()
    values.number = 1
    uninstall()
    assert threading.local is NativeLocal
    assert values.number == 1
    assert in_thread(getattr, values, "number", None) is None
