"""Who is in the scope. The mark and its inheritance belong here; what being inside changes never does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import getcurrent

__all__ = ["MARK", "enter", "give_shared", "inside", "leave", "outside"]

# A key of `spawn_tree_locals`, the dict that gevent hands on from each greenlet to those it spawns. Dispatched
# operations look for it themselves, in the same two lines as `inside`: a call more would double what they cost.
MARK = "geventws.scope"


def inside() -> bool:
    """Whether the running greenlet is in a scope."""
    shared = getattr(getcurrent(), "spawn_tree_locals", None)
    return shared is not None and MARK in shared


def give_shared() -> dict[str, Any]:
    """Give the running greenlet the dict that gevent gives it when it spawns its first one: asking for it is faster then."""
    greenlet: Any = getcurrent()
    shared: dict[str, Any] = {}
    greenlet.spawn_tree_locals = shared
    return shared


def enter() -> Any:
    """Put the running greenlet into a scope. Returns what `leave` needs."""
    greenlet: Any = getcurrent()
    before = getattr(greenlet, "spawn_tree_locals", None)
    if not before:
        greenlet.spawn_tree_locals = {MARK: True}
    elif MARK not in before:
        # A copy: the dict is shared with the greenlet that spawned this one and with all its other children.
        greenlet.spawn_tree_locals = {**before, MARK: True}
    return greenlet, before


def leave(entered: Any) -> None:
    """Undo `enter`. Greenlets that were spawned meanwhile stay in: somebody may count on their not blocking."""
    greenlet, before = entered
    greenlet.spawn_tree_locals = before


@contextmanager
def outside() -> Iterator[None]:
    """Leave the scope for a while, for what has to be done the plain way."""
    greenlet: Any = getcurrent()
    before = getattr(greenlet, "spawn_tree_locals", None)
    greenlet.spawn_tree_locals = {key: value for key, value in (before or {}).items() if key != MARK}
    try:
        yield
    finally:
        greenlet.spawn_tree_locals = before


# In a forked child there is nobody to be cooperative with, and its event loop is the parent's. It is forked outside, so
# that nothing that is done first thing in the child is done inside.
_forking: list[tuple[dict[str, Any], Any]] = []


def _before_fork() -> None:
    if inside():
        shared: dict[str, Any] = getattr(getcurrent(), "spawn_tree_locals")  # noqa: B009 (unknown to the type)
        _forking.append((shared, shared.pop(MARK)))


def _after_fork_in_parent() -> None:
    if _forking:
        shared, mark = _forking.pop()
        shared[MARK] = mark


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_forking.clear)
