"""Calls that go to the native operation outside a scope, and to the cooperative one inside, for what is native in C.

Outside a scope every call of the process to these names comes through here, so there is a compiled twin, `calling.c`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Any

from greenlet import getcurrent

from .functions import method
from .membership import MARK, give_shared

__all__ = ["function", "method", "named"]


def function(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    """What is `native` outside a scope and `cooperative` inside, for positional arguments; no method in a class's body."""

    @functools.wraps(native)
    def operation(_: _Module, *args: Any) -> Any:
        try:
            shared = getcurrent().spawn_tree_locals  # type: ignore[attr-defined]
        except AttributeError:
            shared = give_shared()
        if not shared or MARK not in shared:
            return native(*args)
        return cooperative(*args)

    with suppress(ValueError):  # Not all tell.
        told = inspect.signature(native)
        module = inspect.Parameter("module", inspect.Parameter.POSITIONAL_ONLY)
        described: Any = operation
        described.__signature__ = told.replace(parameters=[module, *told.parameters.values()])
    # Bound already, so that it is no method of a class that has `sleep = time.sleep` in its body. Costs nothing.
    return MethodType(operation, _Module(str(native.__module__)))


def named(value: object, module: str, qualname: str) -> None:
    """Say where a function or method of here is found, so that it can be pickled. Nothing for others."""
    if isinstance(value, MethodType) and isinstance(value.__self__, _Module):
        value.__self__.name = module


class _Module:
    """What a dispatched builtin is bound to, as native ones are to their module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self.name], name)

    def __deepcopy__(self, memo: object) -> _Module:
        return self

    def __reduce__(self) -> Any:
        return importlib.import_module, (self.name,)
