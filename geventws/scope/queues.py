"""`queue.SimpleQueue`, the one queue of the standard library that is not made of conditions."""

from __future__ import annotations

import _queue
import queue
from collections.abc import Iterator
from threading import TIMEOUT_MAX
from types import GenericAlias
from typing import Any, Final

from greenlet import getcurrent

from .dispatch import Adoption, Replacement, StandsIn
from .locks import must_not_stop
from .membership import MARK
from .waiting import Deadline, Lines

__all__ = ["NativeSimpleQueue", "SimpleQueue", "adoptions", "replacements"]

NativeSimpleQueue: Final = _queue.SimpleQueue

# How often who waits for an adopted queue looks by himself: who puts into it by its old name wakes nobody.
_ADOPTED_PATIENCE = 0.02


class SimpleQueue(metaclass=StandsIn, native=NativeSimpleQueue):
    """`queue.SimpleQueue`: a native one, and those who wait for it on a hub."""

    __slots__ = ("__weakref__", "_native", "_patience", "_waiting")

    def __init__(self) -> None:
        self._native: Any = NativeSimpleQueue()
        self._patience: float | None = None
        self._waiting = Lines()

    @classmethod
    def adopting(cls, native: Any) -> Any:
        """One that stands in for a native queue, and shares its items."""
        self = cls()
        self._native = native
        self._patience = _ADOPTED_PATIENCE
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("cannot pickle 'SimpleQueue' object")

    __class_getitem__: Any = classmethod(GenericAlias)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Like the native one it may be called by a finalizer, in the middle of another `put`."""
        self._native.put(item)
        if self._waiting:
            self._waiting.call()

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        shared = getattr(getcurrent(), "spawn_tree_locals", None)
        plain = (not shared or MARK not in shared) and not must_not_stop()
        if plain or not block or not (timeout is None or 0 <= timeout <= TIMEOUT_MAX):
            return self._native.get(block, timeout)
        return self._get_on_hub(Deadline(timeout))

    def get_nowait(self) -> Any:
        return self._native.get_nowait()

    def qsize(self) -> int:
        return int(self._native.qsize())

    def empty(self) -> bool:
        return bool(self._native.empty())

    def _get_on_hub(self, deadline: Deadline) -> Any:
        taken: list[Any] = []

        def take() -> bool:
            try:
                taken.append(self._native.get_nowait())
            except queue.Empty:
                return False
            return True

        if (self._waiting or not take()) and not self._waiting.wait(take, deadline, self._patience):
            raise queue.Empty
        if self._waiting and not self.empty():
            self._waiting.call()  # There is more than one item, and only the first in line was told.
        return taken[0]


def replacements() -> Iterator[Replacement]:
    yield Replacement(queue, "SimpleQueue", SimpleQueue)


def adoptions() -> Iterator[Adoption]:
    yield Adoption(NativeSimpleQueue, lambda native, _: SimpleQueue.adopting(native))
