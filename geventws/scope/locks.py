"""Locks that native threads and greenlets share: waited for on the hub in a scope, by the thread outside.

A native lock is the truth about who holds it; what is added is who waits on which hub. Only locks belong here.
"""

from __future__ import annotations

import _thread
import functools
import gc
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent, greenlet

from .dispatch import Adoption, Installation, Replacement, StandsIn, dispatched_keywords
from .membership import MARK, inside
from .waiting import Deadline, Lines, Sleeper

__all__ = ["Ended", "Lock", "NativeLock", "NativeRLock", "RLock", "adoptions", "must_not_stop", "replacements"]

_native_allocate: Final = _thread.allocate_lock
NativeRLock: Final = _thread.RLock
NativeLock: Final = _thread.LockType
_native_new_rlock: Final[Any] = threading.RLock
_native_wait: Final = threading.Condition.wait

# How often who waits for an adopted lock looks by himself: who releases it by its old name wakes nobody.
_ADOPTED_PATIENCE = 0.02


class _Here(_thread._local):
    """What is known about the running thread."""

    def __init__(self) -> None:
        # The locks, by `id`, that its greenlets hold inside a scope. While there are any, a greenlet outside must not
        # stop the thread to wait for a lock: what it waits for may wait for one of them.
        self.held: dict[int, greenlet] = {}
        # How many of its greenlets outside wait on the hub for a lock, and may have others in their hands.
        self.waiting = 0
        # How many of its greenlets do something in which no other may run.
        self.alone = 0


_here = _Here()


def must_not_stop() -> bool:
    """Whether this thread must go on though a greenlet outside a scope waits: for what it waits may need another one."""
    here = _here
    if not (here.held or here.waiting) or here.alone or getcurrent() is get_hub_if_exists():
        return False
    # One that has ended without giving its lock back will not be helped by waiting.
    return bool(here.waiting) or any(not owner.dead for owner in list(here.held.values()))


@contextmanager
def alone() -> Iterator[None]:
    """Stop the thread for what is waited for outside a scope, whatever may need it: it must not be long."""
    _here.alone += 1
    try:
        yield
    finally:
        _here.alone -= 1


def _forget_in_child() -> None:
    """What greenlets hold stays held in a forked child, but they stay with the parent: nobody is to wait for them here."""
    if _here.held:
        for lock in gc.get_objects():
            if type(lock) in (Lock, RLock):
                lock._owner = None
    _here.held.clear()
    _here.waiting = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class _Shared:
    """A native lock, and those who wait for it on a hub."""

    __slots__ = ("__weakref__", "_held", "_lines", "_native", "_owner", "_patience")

    def __init__(self) -> None:
        self._native: Any = _native_allocate()
        self._patience: float | None = None
        self._lines = Lines()
        # The greenlet that has it.
        self._owner: greenlet | None = None
        # What the thread holds whose greenlet holds it inside a scope.
        self._held: dict[int, greenlet] | None = None

    @classmethod
    def adopting(cls, native: Any) -> Any:
        """One that stands in for a native lock, and shares its state."""
        self = cls()
        self._native = native
        self._patience = _ADOPTED_PATIENCE
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(f"cannot pickle {_name(self)!r} object")

    def __del__(self) -> None:
        held = getattr(self, "_held", None)  # Missing where `__init__` has refused its arguments.
        if held is not None:
            held.pop(id(self), None)

    def _note_inside(self) -> None:
        self._owner = owner = getcurrent()
        self._held = held = _here.held
        held[id(self)] = owner

    def _acquire_on_hub(self, timeout: float) -> bool:
        return self._lines.wait(self._try, Deadline(None if timeout == -1 else timeout), self._patience)

    def _try(self) -> bool:
        return bool(self._native.acquire(False))

    def _acquire_contended(self, timeout: float) -> bool:
        """Wait outside a scope: the thread waits, as ever, unless that might be for something only its hub can bring."""
        if must_not_stop() or self._is_held_here():
            return self._acquire_on_hub_outside(timeout)
        return bool(self._native.acquire(True, timeout))

    def _acquire_on_hub_outside(self, timeout: float) -> bool:
        if getcurrent() is get_hub_if_exists():
            raise RuntimeError(f"{self!r} is held by a greenlet of this thread, for which the hub itself cannot wait")
        _here.waiting += 1
        try:
            return self._acquire_on_hub(timeout)
        finally:
            _here.waiting -= 1

    def _is_held_here(self) -> bool:
        """Whether another greenlet of this thread holds it, and may still give it back."""
        owner = self._owner
        me = getcurrent()
        return owner is not None and owner is not me and not owner.dead and _thread_of(owner) is _thread_of(me)

    def _at_fork_reinit(self) -> None:
        self._native._at_fork_reinit()
        self._lines = Lines()
        self._owner = None
        self._forget_inside()

    def _forget_inside(self) -> None:
        held = self._held
        if held is not None:
            self._held = None
            held.pop(id(self), None)


class Lock(_Shared, metaclass=StandsIn, native=NativeLock):
    """`threading.Lock`."""

    __slots__ = ()

    __module__ = "threading"

    def __init_subclass__(cls) -> None:
        raise TypeError("type '_thread.lock' is not an acceptable base type")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = getcurrent()
        shared = getattr(me, "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            if timeout == -1 and (blocking is True or blocking is False):
                if self._native.acquire(False):
                    self._owner = me
                    return True
                if not blocking:
                    return False
            return self._acquire_outside(me, blocking, timeout)
        return self._acquire_inside(blocking, timeout)

    def release(self) -> None:
        held = self._held
        if held is not None:
            self._held = None
            held.pop(id(self), None)
        self._owner = None
        self._native.release()
        if self._lines:
            self._lines.call()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        # `release`, written out once more: calling it would add half to what a `with` costs.
        held = self._held
        if held is not None:
            self._held = None
            held.pop(id(self), None)
        self._owner = None
        self._native.release()
        if self._lines:
            self._lines.call()

    def locked(self) -> bool:
        return bool(self._native.locked())

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def _acquire_outside(self, me: greenlet, blocking: bool, timeout: float) -> bool:
        _check(blocking, timeout)
        acquired = bool(self._native.acquire(False)) or (bool(blocking) and self._acquire_contended(timeout))
        if acquired:
            self._owner = me
        return acquired

    def _acquire_inside(self, blocking: bool, timeout: float) -> bool:
        _check(blocking, timeout)
        if not (self._lines and blocking) and self._native.acquire(False):
            acquired = True
        else:
            acquired = bool(blocking) and self._acquire_on_hub(timeout)
        if acquired:
            self._note_inside()
        return acquired

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} {_name(self)} object at {id(self):#x}>"


class Ended(_Shared):
    """What `Thread.join` waits for: taken by a greenlet that is a thread, given back at its end.

    Unlike a lock it is nobody's to hold up others with, so it does not count among the held ones.
    """

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._native.acquire(False):
            self._owner = getcurrent()
            return True
        if not blocking or timeout == 0:
            return False
        if inside() or must_not_stop() or self._is_held_here():
            return self._acquire_on_hub(timeout)
        return bool(self._native.acquire(True, timeout))

    def release(self) -> None:
        self._owner = None
        self._native.release()
        self._lines.call()

    def locked(self) -> bool:
        return bool(self._native.locked())


class RLock(_Shared, metaclass=StandsIn, native=NativeRLock):
    """`threading.RLock`: inside a scope it belongs to the greenlet that took it, outside to the thread."""

    __slots__ = ("_count", "_guests", "_owner_inside")

    __module__ = "threading"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            _native_new_rlock(*args, **kwargs)  # Which says what is wrong with them; in some versions nothing is.
        super().__init__()
        self._owner_inside = False
        self._count = 0
        self._guests = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        try:
            me = getcurrent()
        except RuntimeError:
            return True  # The interpreter is ending: logging takes its lock once more then, and there is nobody else.
        if self._owner is me and blocking is True and timeout == -1:
            self._count += 1
            return True
        shared = getattr(me, "spawn_tree_locals", None)
        if not shared or MARK not in shared:
            if self._owner is None and blocking is True and timeout == -1 and self._native.acquire(False):
                self._owner = me
                self._count = 1
                return True
            return self._acquire_slowly(me, False, blocking, timeout)
        return self._acquire_slowly(me, True, blocking, timeout)

    def release(self) -> None:
        try:
            me = getcurrent()
        except RuntimeError:
            return
        if self._owner is not me:
            if self._guests and me is get_hub_if_exists():
                self._guests -= 1
                return
            if self._is_held_by_old_name():
                self._native.release()
                self._lines.call()
                return
            if not self._is_owned():
                raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if self._count == 0:
            self._let_go()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _acquire_slowly(self, me: greenlet, inside: bool, blocking: bool, timeout: float) -> bool:
        _check(blocking, timeout)
        if self._is_held_by_old_name():
            return bool(self._native.acquire())
        if self._is_owned():
            self._count += 1
            return True
        if me is get_hub_if_exists() and self._is_held_here():
            # A handler of a signal that logs, say. As of a native one, the thread has it already.
            self._guests += 1
            return True
        if not self._acquire_free(inside, blocking, timeout):
            return False
        if inside:
            self._note_inside()
        self._owner = me
        self._owner_inside = inside
        self._count = 1
        return True

    def _try(self) -> bool:
        # An adopted native lock would let this thread in once more.
        return self._owner is None and bool(self._native.acquire(False))

    def _acquire_free(self, inside: bool, blocking: bool, timeout: float) -> bool:
        if not (inside and blocking and self._lines) and self._try():
            return True
        if not blocking:
            return False
        if inside:
            return self._acquire_on_hub(timeout)
        return self._acquire_contended(timeout)

    def _let_go(self) -> None:
        self._owner = None
        self._owner_inside = False
        self._forget_inside()
        self._native.release()
        if self._lines:
            self._lines.call()

    def _is_held_by_old_name(self) -> bool:
        """Whether this is an adopted lock that was taken before its adoption, by this thread."""
        native = self._native
        return self._owner is None and type(native) is NativeRLock and bool(native._is_owned())  # type: ignore[attr-defined]

    # What `threading.Condition` asks of a lock.

    def _is_owned(self) -> bool:
        owner = self._owner
        me = getcurrent()
        if owner is me:
            return True
        if owner is None:
            return self._is_held_by_old_name()
        # Outside, as ever, all greenlets of the thread that took it.
        return not self._owner_inside and _thread_of(owner) is _thread_of(me) and not inside()

    def _release_save(self) -> Any:
        if self._is_held_by_old_name():
            state = self._native._release_save()
            self._lines.call()
            return state
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        count, self._count = self._count, 0
        self._let_go()
        return (count,)

    def _acquire_restore(self, state: Any) -> None:
        if len(state) > 1:  # The native one's, with the thread's number.
            self._native._acquire_restore(state)
            return
        self.acquire()
        self._count = state[0]

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _at_fork_reinit(self) -> None:
        super()._at_fork_reinit()
        self._owner_inside = False
        self._count = 0
        self._guests = 0

    def __repr__(self) -> str:
        owner = self._owner
        return (
            f"<{'unlocked' if owner is None else 'locked'} {_name(self)} object"
            f" owner={0 if owner is None else id(owner)} count={self._count} at {id(self):#x}>"
        )


def _check(blocking: bool, timeout: float) -> None:
    """Raise what a native lock raises for wrong arguments: one that is free tells."""
    if blocking is not True or timeout != -1:
        _native_allocate().acquire(blocking, timeout)


def _name(lock: object) -> str:
    return f"{type(lock).__module__}.{type(lock).__qualname__}"


def _thread_of(one: greenlet) -> greenlet:
    """The main greenlet of its thread."""
    while one.parent is not None:
        one = one.parent
    return one


def _wait(condition: Any, timeout: float | None = None) -> bool:
    """`Condition.wait`, where a greenlet that is killed hands on the notice it was given."""
    if not condition._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    notice = _Notice()
    condition._waiters.append(notice)
    state = condition._release_save()
    stayed = False
    try:
        try:
            notice.wait(timeout)
        finally:
            _acquire_again(condition, state)
        stayed = True
    finally:
        notified = notice not in condition._waiters
        if not notified:
            condition._waiters.remove(notice)
        elif not stayed:
            condition.notify()
    return notified


@functools.wraps(_native_wait)
def _wait_outside(condition: Any, timeout: float | None = None) -> bool:
    return _wait(condition, timeout) if must_not_stop() else _native_wait(condition, timeout)


def _acquire_again(condition: Any, state: Any) -> None:
    """Whatever is thrown into this greenlet meanwhile comes after: who waits inside `with condition` has to hold it."""
    thrown: BaseException | None = None
    while True:
        try:
            condition._acquire_restore(state)
        except RuntimeError:
            raise  # Not thrown from elsewhere: it cannot be acquired.
        except BaseException as error:
            thrown = error
        else:
            break
    if thrown is not None:
        raise thrown


def _adopt_condition(condition: Any, installation: Installation) -> Any:
    """Give a condition that is there a lock that stands in for its own. It holds that lock's methods as well."""
    lock = installation.adopt(condition._lock)
    if lock is not condition._lock:
        installation.set(condition, "_lock", lock)
        for name in ("acquire", "release", "_release_save", "_acquire_restore", "_is_owned"):
            if name in vars(condition):
                installation.set(condition, name, getattr(lock, name))
    return condition


class _Notice:
    """What `Condition.notify` takes for the lock of one that waits."""

    __slots__ = ("_given", "_sleeper")

    def __init__(self) -> None:
        self._sleeper = Sleeper()
        self._given = False

    def wait(self, timeout: float | None) -> None:
        deadline = Deadline(timeout)
        try:
            while not self._given and not deadline.over:
                self._sleeper.sleep(deadline.left)
        finally:
            self._sleeper.close()

    def release(self) -> None:
        self._given = True
        self._sleeper.wake()


def _log_handlers() -> list[logging.Handler]:
    references: list[Any] = logging._handlerList  # type: ignore[attr-defined]
    return [handler for handler in (reference() for reference in references) if handler is not None]


def replacements() -> Iterator[Replacement]:
    yield Replacement(threading, "Lock", Lock)
    yield Replacement(threading, "RLock", RLock)
    for handler in _log_handlers():
        # Held while it writes, which a handler for a socket or a file on the network does slowly.
        if type(handler.lock) is NativeRLock:
            yield Replacement(handler, "lock", RLock.adopting(handler.lock))
    # Conditions made before are waited for like any other, and so events, queues, semaphores and futures.
    yield Replacement(threading.Condition, "wait", dispatched_keywords(_wait_outside, _wait))


def adoptions() -> Iterator[Adoption]:
    yield Adoption(NativeLock, lambda native, _: Lock.adopting(native))
    yield Adoption(NativeRLock, lambda native, _: RLock.adopting(native))
    yield Adoption(threading.Condition, _adopt_condition)
