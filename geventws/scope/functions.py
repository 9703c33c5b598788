"""Functions that call the native operation outside a scope, and the cooperative one inside.

What has no compiled twin: functions of Python's own look like what they stand for, and show it to whoever inspects them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from .membership import MARK, give_shared

__all__ = ["method"]


def method(native: Callable[..., Any], cooperative: Callable[..., Any], keywords: bool = False) -> Callable[..., Any]:
    """A function that is `native` outside a scope and `cooperative` inside; a method where it is found in a class.

    keywords: whether it takes them, which costs a little.
    """
    return _with_keywords(native, cooperative) if keywords else _positional(native, cooperative)


def _positional(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(native)
    def operation(*args: Any) -> Any:
        try:
            shared = getcurrent().spawn_tree_locals  # type: ignore[attr-defined]
        except AttributeError:
            shared = give_shared()
        if not shared or MARK not in shared:
            return native(*args)
        return cooperative(*args)

    return operation


def _with_keywords(native: Callable[..., Any], cooperative: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(native)
    def operation(*args: Any, **kwargs: Any) -> Any:
        try:
            shared = getcurrent().spawn_tree_locals  # type: ignore[attr-defined]
        except AttributeError:
            shared = give_shared()
        if not shared or MARK not in shared:
            return native(*args, **kwargs)
        return cooperative(*args, **kwargs)

    return operation
