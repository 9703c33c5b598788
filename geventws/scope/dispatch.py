"""One name, two operations: plain outside a scope, cooperative inside. How names are taken over, and given back.

What the cooperative operations do never belongs here.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any, ClassVar, NamedTuple

from . import calling, functions

__all__ = [
    "Adoption",
    "Installation",
    "Replacement",
    "StandsIn",
    "dispatched",
    "dispatched_keywords",
    "keeps_attributes",
]

logger = logging.getLogger("geventws.scope")

_MISSING: Any = object()

# Whose names stay as they are: what the scope itself stands on, and the import system, which must not wait for a hub.
_UNTOUCHED = ("gevent", "geventws", "greenlet", "importlib", "_frozen_importlib", "_thread", "threading", "zope")

# How many steps from a module's variable an object may be, to be seen at the installation.
_STEPS = 3


def dispatched(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    """What is `native` outside a scope and `cooperative` inside; for positional arguments only.

    The arguments go through untouched, so that wrong ones fail as they always did.
    """
    if isinstance(native, BuiltinFunctionType):
        return calling.function(native, cooperative)
    return _dispatched_method(native, cooperative, False)


def dispatched_keywords(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what may be called with keywords."""
    return _dispatched_method(native, cooperative, True)


def _dispatched_method(native: Any, cooperative: Callable[..., Any], keywords: bool) -> Callable[..., Any]:
    # What was a function of Python's stays one, for those who look at it; it costs a little more to call.
    if isinstance(native, FunctionType):
        return functions.method(native, cooperative, keywords)
    return calling.method(native, cooperative, keywords)


class Replacement(NamedTuple):
    """`owner.name` becomes `value`."""

    owner: Any
    name: str
    value: Any
    # Also where another module has imported the old value by name.
    everywhere: bool = True


class Adoption(NamedTuple):
    """Module-level objects of exactly this type, made before the installation, get a stand-in that shares their state."""

    type: type
    # Given the object and the installation; returns the stand-in, or the same object if it has changed that.
    stand_in: Callable[[Any, Installation], Any]


class StandsIn(type):
    """The type of a class that takes the place of a native one, whose instances count as its own as well."""

    _natives: ClassVar[dict[type, type]] = {}

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], native: type | None = None) -> Any:
        if native is not None and not any(issubclass(base, native) for base in bases):
            # Programs that have noted the native type, `type(threading.Lock())`, ask whether this is of it.
            body.setdefault("__class__", property(lambda self: native))
        made = super().__new__(cls, name, bases, body)
        if native is not None:
            cls._natives[made] = native
        return made

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)

    def __instancecheck__(cls, instance: object) -> bool:
        return type.__instancecheck__(cls, instance) or isinstance(instance, cls._natives.get(cls, ()))


class Installation:
    """What has been taken over, so that it can be given back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any]] = []
        self._afterwards: list[Callable[[], object]] = []
        # By `id` of what was there: that, and what is there now. Several owners may have the same object.
        self._exchanged: dict[int, tuple[Any, Any]] = {}
        self._stand_ins: dict[type, Callable[[Any, Installation], Any]] = {}

    def take_over(self, replacements: Iterable[Replacement], adoptions: Iterable[Adoption]) -> None:
        self._stand_ins = {adoption.type: adoption.stand_in for adoption in adoptions}
        for owner, name, value, everywhere in replacements:
            previous = vars(owner).get(name, _MISSING)
            if previous is not _MISSING and callable(value) and inspect.unwrap(value) not in (previous, value):
                # Somebody else's, a test's mock perhaps, who will want to take it away again.
                logger.warning("%s.%s has been replaced by somebody else: it stays as it is", owner.__name__, name)
                continue
            _say_where(value, owner, name)
            self.set(owner, name, value)
            if everywhere and isinstance(owner, ModuleType) and previous is not _MISSING:
                self._exchanged[id(previous)] = (previous, value)
        self._exchange()

    def adopt(self, value: Any) -> Any:
        """What is to be used in the place of `value`; that itself, if nothing is."""
        known = self._exchanged.get(id(value))
        if known is None:
            stand_in = self._stand_ins.get(type(value))
            if stand_in is None:
                return value
            known = self._exchanged[id(value)] = (value, stand_in(value, self))
        return known[1]

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Like `setattr`, until `give_back`."""
        previous = vars(owner).get(name, _MISSING)
        _set(owner, name, value)
        self._undo.append((owner, name, previous, value))

    def originals(self) -> Iterator[tuple[Any, str, Any]]:
        """What has been replaced: the owner, the name and the object that was there."""
        return ((owner, name, previous) for owner, name, previous, _ in self._undo if previous is not _MISSING)

    def on_give_back(self, call: Callable[[], object]) -> None:
        """Call this at the end of `give_back`."""
        self._afterwards.append(call)

    def give_back(self) -> None:
        """Put the very objects back, but for names that somebody else has changed since."""
        while self._undo:
            owner, name, previous, value = self._undo.pop()
            if vars(owner).get(name) is not value:
                continue
            if previous is not _MISSING:
                _set(owner, name, previous)
            elif isinstance(owner, type):
                type.__delattr__(owner, name)
            else:
                del vars(owner)[name]
        while self._afterwards:
            self._afterwards.pop()()

    def _exchange(self) -> None:
        """Do for names of other modules, `from time import sleep`, what was done in the owner; and adopt what they hold."""
        known, adoptable = self._exchanged, self._stand_ins
        for owner in _Owners():
            for name, value in list(vars(owner).items()):
                # A program has a hundred thousand of these, and the first connection waits meanwhile.
                if id(value) in known or type(value) in adoptable:
                    adopted = self.adopt(value)
                    if adopted is not value:
                        self.set(owner, name, adopted)


def _say_where(value: Any, owner: Any, name: str) -> None:
    """Call what dispatches by where it is found, so that it can be pickled."""
    if isinstance(owner, ModuleType):
        module, qualname = owner.__name__, name
    elif isinstance(owner, type):
        module, qualname = owner.__module__, f"{owner.__qualname__}.{name}"
    else:
        return
    if isinstance(value, FunctionType):
        value.__module__, value.__qualname__ = module, qualname
    else:
        calling.named(value, module, qualname)


def _set(owner: Any, name: str, value: Any) -> None:
    # Whatever owners do about attributes that are set, this is none of it.
    if isinstance(owner, type):
        type.__setattr__(owner, name, value)
    else:
        vars(owner)[name] = value


class _Owners:
    """Modules, their classes, and the objects of these that they hold, some steps deep: a cache, a database's pool."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        # By `id`: not every class can be hashed.
        self._kinds: dict[int, bool] = {}

    def __iter__(self) -> Iterator[Any]:
        for name, module in list(sys.modules.items()):
            if type(module) is ModuleType and not is_untouched(name):
                yield module
                yield from self._held(module, _STEPS)

    def _held(self, owner: Any, steps: int) -> Iterator[Any]:
        for value in list(vars(owner).values()):
            if id(value) in self._seen:
                continue
            if self._keeps_attributes(type(value)):
                self._seen.add(id(value))
                yield value
                if steps > 1:
                    yield from self._held(value, steps - 1)
            elif isinstance(value, type) and _is_of_its_own(value):
                self._seen.add(id(value))
                yield value

    def _keeps_attributes(self, cls: type) -> bool:
        known = self._kinds.get(id(cls))
        if known is None:
            known = self._kinds[id(cls)] = keeps_attributes(cls)
        return known


def is_untouched(module: str) -> bool:
    """Whether the module of this name keeps what it has."""
    return module.partition(".")[0] in _UNTOUCHED


def _is_of_its_own(cls: type) -> bool:
    top = str(cls.__module__).partition(".")[0]
    # Of the standard library's objects only executors hold a lock while they wait; the others work anyhow.
    return top == "concurrent" or (top not in sys.stdlib_module_names and not is_untouched(top))


def keeps_attributes(cls: type) -> bool:
    """Whether instances have a `__dict__` of the plain kind, and are not of the standard library, whose objects work anyhow."""
    if not _is_of_its_own(cls) or issubclass(cls, type | ModuleType):
        return False
    # Not by asking an instance: it may be a proxy, for something that is not there yet.
    found = next((base.__dict__["__dict__"] for base in cls.__mro__ if "__dict__" in base.__dict__), None)
    return type(found) is GetSetDescriptorType
