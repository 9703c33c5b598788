"""`threading.local` for threads and greenlets: the thread's values outside a scope, each greenlet's own inside."""

from __future__ import annotations

import _thread
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from greenlet import getcurrent

from .dispatch import Adoption, Installation, Replacement, is_untouched
from .membership import MARK, inside

__all__ = ["NativeLocal", "adopt_subclasses", "adoptions", "local", "replacements"]

NativeLocal = _thread._local

_native_get = NativeLocal.__getattribute__
_native_set = NativeLocal.__setattr__
_native_delete = NativeLocal.__delattr__

_MISSING: Any = object()

# Where a greenlet keeps its values, in its `__dict__`: by the local's `id`, for as long as both live.
_VALUES: Final = "_geventws_locals"


class _Making(NamedTuple):
    """How an instance of a subclass with an `__init__` was made: that runs anew for each greenlet."""

    made: weakref.ref[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_makings: dict[int, _Making] = {}
# Those that were made inside: for the native part `__init__` has been run in this thread, but it has not.
_made_inside: dict[int, int] = {}


class local(NativeLocal):  # noqa: N801 (the name it replaces)
    """`threading.local`."""

    __slots__ = ()

    __module__ = "threading"

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls, *args, **kwargs)
        if cls.__init__ is not object.__init__:
            _remember(self, args, kwargs)
        return self

    def __getattribute__(self, name: str) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            try:
                return _native_get(self, name)
            except AttributeError:
                if not _made_inside or not _init_outside(self):
                    raise
                return _native_get(self, name)
        return _get(self, _values(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            _native_set(self, name, value)
        else:
            _set(self, _values(self), name, value)

    def __delattr__(self, name: str) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            _native_delete(self, name)
        else:
            _delete(self, _values(self), name)


class _Adopted(local):
    """Stands in for one that was made earlier, which keeps the threads' values."""

    __slots__ = ("__native",)

    def __new__(cls, native: Any) -> Any:
        self = NativeLocal.__new__(cls)
        _native.__set__(self, native)
        return self

    def __getattribute__(self, name: str) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            return getattr(_native.__get__(self), name)
        return _get(self, _values(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            setattr(_native.__get__(self), name, value)
        else:
            _set(self, _values(self), name, value)

    def __delattr__(self, name: str) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            delattr(_native.__get__(self), name)
        else:
            _delete(self, _values(self), name)


# The slot itself: attributes of a local are the thread's, or the greenlet's.
_native: Final[Any] = _Adopted.__dict__["_Adopted__native"]


def _remember(self: local, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    key = id(self)

    def forget(_: object) -> None:
        del _makings[key]
        _made_inside.pop(key, None)

    _makings[key] = _Making(weakref.ref(self, forget), args, kwargs)
    if inside():
        _made_inside[key] = _thread.get_ident()
        _new_values(self)  # Who makes it runs `__init__` next.


def _init_outside(self: local) -> bool:
    """Run `__init__` for the thread, if that is still due."""
    if _made_inside.get(id(self)) != _thread.get_ident():
        return False
    del _made_inside[id(self)]
    _init(self)
    return True


def _init(self: Any) -> None:
    making = _makings.get(id(self))
    args, kwargs = ((), {}) if making is None else (making.args, making.kwargs)
    type(self).__init__(self, *args, **kwargs)


def _values(self: local) -> dict[str, Any]:
    """What the running greenlet has put there. At its first access `__init__` runs once more, as in a new thread."""
    entry = getcurrent().__dict__.get(_VALUES, {}).get(id(self))
    if entry is not None:
        found: dict[str, Any] = entry[1]
        return found
    values = _new_values(self)
    if type(self).__init__ is not object.__init__:
        try:
            _init(self)
        except BaseException:
            getcurrent().__dict__[_VALUES].pop(id(self), None)
            raise
    return values


def _new_values(self: local) -> dict[str, Any]:
    table = getcurrent().__dict__.setdefault(_VALUES, _Table())
    values: dict[str, Any] = {}
    table[id(self)] = weakref.ref(self, table.forgetter(id(self))), values
    return values


class _Table(dict[int, Any]):
    """A greenlet's values, by the `id` of the local."""

    __slots__ = ("__weakref__",)

    def forgetter(self, key: int) -> Callable[[object], None]:
        """What a local calls at its end. Does not keep the table: that ends with the greenlet, at once."""
        reference = weakref.ref(self)

        def forget(_: object) -> None:
            table = reference()
            if table is not None:
                table.pop(key, None)

        return forget


# The data model's rules for instance attributes, over the greenlet's values in the place of the instance's dict.


def _get(self: local, values: dict[str, Any], name: str) -> Any:
    if name == "__dict__":
        return values
    cls = type(self)
    found = _in_class(cls, name)
    kind = type(found)
    if found is not _MISSING and hasattr(kind, "__get__") and (hasattr(kind, "__set__") or hasattr(kind, "__delete__")):
        return kind.__get__(found, self, cls)
    if name in values:
        return values[name]
    if found is _MISSING:
        raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}", name=name, obj=self)
    return kind.__get__(found, self, cls) if hasattr(kind, "__get__") else found


def _set(self: local, values: dict[str, Any], name: str, value: Any) -> None:
    _refuse_dict(self, name)
    found = _in_class(type(self), name)
    if found is not _MISSING and hasattr(type(found), "__set__"):
        type(found).__set__(found, self, value)
    else:
        values[name] = value


def _delete(self: local, values: dict[str, Any], name: str) -> None:
    _refuse_dict(self, name)
    found = _in_class(type(self), name)
    if found is not _MISSING and hasattr(type(found), "__delete__"):
        type(found).__delete__(found, self)
    elif name in values:
        del values[name]
    else:
        raise AttributeError(name, name=name, obj=self)


def _in_class(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return _MISSING


def _refuse_dict(self: local, name: str) -> None:
    if name == "__dict__":
        raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")


def adopt_subclasses(installation: Installation) -> None:
    """Classes that were derived from the native one earlier are derived from this one."""
    for cls in NativeLocal.__subclasses__():
        if cls is local or is_untouched(cls.__module__):
            continue
        before = cls.__bases__
        with suppress(TypeError):  # Where another base does not go with it.
            cls.__bases__ = tuple(local if base is NativeLocal else base for base in before)
            installation.on_give_back(_rebase(cls, before))


def _rebase(cls: type, bases: tuple[type, ...]) -> Callable[[], None]:
    def rebase() -> None:
        cls.__bases__ = bases

    return rebase


def replacements() -> Iterator[Replacement]:
    yield Replacement(threading, "local", local)


def adoptions() -> Iterator[Adoption]:
    yield Adoption(NativeLocal, lambda native, _: _Adopted(native))
