"""`threading.local` for threads and greenlets: the thread's values outside a scope, each greenlet's own inside."""

from __future__ import annotations

import _thread
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Final

from greenlet import getcurrent

from .dispatch import Adoption, Replacement, StandsIn
from .membership import MARK

__all__ = ["NativeLocal", "adoptions", "local", "replacements"]

NativeLocal = _thread._local

_native_get = NativeLocal.__getattribute__
_native_set = NativeLocal.__setattr__
_native_delete = NativeLocal.__delattr__

_MISSING: Any = object()


class local(NativeLocal, metaclass=StandsIn, native=NativeLocal):  # noqa: N801 (the name it replaces)
    """`threading.local`."""

    # By `id` of the greenlet: a weak reference that ends the entry with it, and its values.
    __slots__ = ("__arguments", "__values")

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls, *args, **kwargs)
        _arguments.__set__(self, (args, kwargs))
        _entries.__set__(self, {})
        return self

    def __getattribute__(self, name: str) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            return _native_get(self, name)
        return _get(self, _values(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            _native_set(self, name, value)
        else:
            _set(self, _values(self), name, value)

    def __delattr__(self, name: str) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            _native_delete(self, name)
        else:
            _delete(self, _values(self), name)


# The slots themselves: attributes of a local are the thread's, or the greenlet's.
_arguments: Final[Any] = local.__dict__["_local__arguments"]
_entries: Final[Any] = local.__dict__["_local__values"]


class _Adopted(local):
    """Stands in for one that was made earlier, which keeps the threads' values."""

    __slots__ = ("__native",)

    def __new__(cls, native: Any) -> Any:
        self = super().__new__(cls)
        _native.__set__(self, native)
        return self

    def __init__(self, native: Any) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            return getattr(_native.__get__(self), name)
        return _get(self, _values(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            setattr(_native.__get__(self), name, value)
        else:
            _set(self, _values(self), name, value)

    def __delattr__(self, name: str) -> None:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        if shared is None or MARK not in shared:
            delattr(_native.__get__(self), name)
        else:
            _delete(self, _values(self), name)


_native: Final[Any] = _Adopted.__dict__["_Adopted__native"]


def _values(self: local) -> dict[str, Any]:
    """What the running greenlet has put there. At its first access `__init__` runs once more, as in a new thread."""
    greenlet = getcurrent()
    entries: dict[int, tuple[Any, dict[str, Any]]] = _entries.__get__(self)
    key = id(greenlet)
    entry = entries.get(key)
    if entry is not None:
        return entry[1]
    values: dict[str, Any] = {}

    entries[key] = (weakref.ref(greenlet, lambda _: entries.pop(key, None)), values)
    if type(self).__init__ is not object.__init__ and not isinstance(self, _Adopted):
        args, kwargs = _arguments.__get__(self)
        try:
            type(self).__init__(self, *args, **kwargs)
        except BaseException:
            entries.pop(key, None)
            raise
    return values


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


def replacements() -> Iterator[Replacement]:
    yield Replacement(threading, "local", local)
    if hasattr(threading, "_thread_local_info"):
        # Where CPython 3.13 keeps what ends a dummy thread's registration: with the greenlet, then.
        yield Replacement(threading, "_thread_local_info", _Adopted(threading._thread_local_info))


def adoptions() -> Iterator[Adoption]:
    yield Adoption(NativeLocal, _Adopted)
