"""One name, two operations: plain outside a scope, cooperative inside. How names are taken over, and given back.

What the cooperative operations do never belongs here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from types import GetSetDescriptorType, ModuleType
from typing import Any, ClassVar, NamedTuple

from greenlet import getcurrent

from .membership import MARK

__all__ = [
    "Adoption",
    "Installation",
    "Replacement",
    "StandsIn",
    "dispatched",
    "dispatched_keywords",
    "keeps_attributes",
]

_MISSING: Any = object()

# Whose names stay as they are: what the scope itself stands on, and the import system, which must not wait for a hub.
_UNTOUCHED = ("gevent", "geventws", "greenlet", "importlib", "_frozen_importlib", "_thread", "threading", "zope")

# How many steps from a module's variable an object may be, to be seen at the installation.
_STEPS = 3


def dispatched(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `native` outside a scope and `cooperative` inside; for positional arguments only.

    The arguments go through untouched, so that wrong ones fail as they always did.
    """

    @functools.wraps(native)
    def operation(*args: Any) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            return native(*args)
        return cooperative(*args)

    return operation


def dispatched_keywords(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    """The same for what may be called with keywords."""

    @functools.wraps(native)
    def operation(*args: Any, **kwargs: Any) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            return native(*args, **kwargs)
        return cooperative(*args, **kwargs)

    return operation


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
    stand_in: Callable[[Any], Any]


class StandsIn(type):
    """The type of a class that takes the place of a native one, whose instances count as its own as well."""

    _natives: ClassVar[dict[type, type]] = {}

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], native: type | None = None) -> Any:
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

    def take_over(self, replacements: Iterable[Replacement], adoptions: Iterable[Adoption]) -> None:
        exchanged: dict[int, tuple[Any, Any]] = {}
        for owner, name, value, everywhere in replacements:
            previous = vars(owner).get(name, _MISSING)
            self.set(owner, name, value)
            if everywhere and isinstance(owner, ModuleType) and previous is not _MISSING:
                exchanged[id(previous)] = (previous, value)
        self._exchange(exchanged, {adoption.type: adoption.stand_in for adoption in adoptions})

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
            if previous is _MISSING:
                delattr(owner, name)
            else:
                _set(owner, name, previous)
        while self._afterwards:
            self._afterwards.pop()()

    def _exchange(self, exchanged: dict[int, tuple[Any, Any]], stand_ins: dict[type, Callable[[Any], Any]]) -> None:
        """Do for names of other modules, `from time import sleep`, what was done in the owner; and adopt what they hold."""
        for owner in _Owners():
            for name, value in list(vars(owner).items()):
                known = exchanged.get(id(value))
                if known is None and type(value) in stand_ins:
                    # Remembered: several modules may have imported the same object.
                    known = exchanged[id(value)] = (value, stand_ins[type(value)](value))
                if known is not None and known[1] is not value:
                    self.set(owner, name, known[1])


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, ModuleType | type):
        setattr(owner, name, value)
    else:
        vars(owner)[name] = value  # Whatever the object does about attributes that are set, this is none of it.


class _Owners:
    """Modules, their classes, and the objects of these that they hold, some steps deep: a cache, a database's pool."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        # By `id`: not every class can be hashed.
        self._kinds: dict[int, bool] = {}

    def __iter__(self) -> Iterator[Any]:
        for name, module in list(sys.modules.items()):
            if type(module) is ModuleType and name.partition(".")[0] not in _UNTOUCHED:
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


def _is_of_its_own(cls: type) -> bool:
    module = str(cls.__module__).partition(".")[0]
    return module not in sys.stdlib_module_names and module not in _UNTOUCHED


def keeps_attributes(cls: type) -> bool:
    """Whether instances have a `__dict__` of the plain kind, and are not of the standard library, whose objects work anyhow."""
    if not _is_of_its_own(cls) or issubclass(cls, type | ModuleType):
        return False
    # Not by asking an instance: it may be a proxy, for something that is not there yet.
    found = next((base.__dict__["__dict__"] for base in cls.__mro__ if "__dict__" in base.__dict__), None)
    return type(found) is GetSetDescriptorType
