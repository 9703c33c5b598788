"""Doing things inside a scope, for tests that are themselves outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import Greenlet

from geventws.scope import cooperative

T = TypeVar("T")


def spawn(function: Callable[..., T], *args: Any) -> Greenlet[..., T]:
    """Start a greenlet that calls `function` in a scope of its own."""
    return gevent.spawn(_in_scope, function, *args)


def inside(function: Callable[..., T], *args: Any) -> T:
    """What `function` returns, or raises, in a greenlet in a scope."""
    return result(spawn(function, *args))


def result(greenlet: Greenlet[..., T]) -> T:
    """What the greenlet returns, or raises, within ten seconds."""
    with gevent.Timeout(10, AssertionError(f"{greenlet} has not ended after 10 s")):
        return greenlet.get()


def _in_scope(function: Callable[..., T], *args: Any) -> T:
    with cooperative():
        return function(*args)
