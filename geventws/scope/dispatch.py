"""One name, two operations: plain outside a scope, cooperative inside. How names are taken over, and given back.

What the cooperative operations do never belongs here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from greenlet import getcurrent

from .membership import MARK

__all__ = ["Adoption", "Installation", "Replacement", "StandsIn", "dispatched", "dispatched_keywords"]

_MISSING: Any = object()

# Whose names stay as they are: what the scope itself stands on, and the import system, which must not wait for a hub.
_UNTOUCHED = ("gevent", "geventws", "greenlet", "importlib", "_frozen_importlib", "_thread", "threading", "zope")


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
        setattr(owner, name, value)
        self._undo.append((owner, name, previous, value))

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
                setattr(owner, name, previous)
        while self._afterwards:
            self._afterwards.pop()()

    def _exchange(self, exchanged: dict[int, tuple[Any, Any]], stand_ins: dict[type, Callable[[Any], Any]]) -> None:
        """Do for names of other modules, `from time import sleep` or a lock, what was done in the owner."""
        for module in _modules():
            for name, value in list(vars(module).items()):
                known = exchanged.get(id(value))
                if known is None and type(value) in stand_ins:
                    # Remembered: several modules may have imported the same object.
                    known = exchanged[id(value)] = (value, stand_ins[type(value)](value))
                if known is not None and known[1] is not value:
                    self.set(module, name, known[1])


def _modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if type(module) is ModuleType and name.partition(".")[0] not in _UNTOUCHED:
            yield module
