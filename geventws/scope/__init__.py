"""A standard library that is cooperative inside a scope, and untouched everywhere else in the process.

::

    from geventws.scope import cooperative

    with cooperative():
        requests.get(url)      # other greenlets run

Here is who enters and leaves, and what is installed when. What the operations do is written in the parts: `membership`
(who is in a scope), `dispatch` (one name, two operations), `waiting` (on gevent's hub), `locks`, `local`, `threads`,
`queues`, `sockets`, `tls`, `names`, `polling`, `processes`, `drivers`. Nothing here knows of WebSockets.
"""

from __future__ import annotations

import _thread
import logging
import sys
from contextlib import ContextDecorator
from types import ModuleType
from typing import Any, Final

import gevent.events
from gevent.monkey import is_module_patched

from . import drivers, local, locks, names, polling, processes, queues, sockets, threads, tls, waiting
from .dispatch import Installation
from .membership import enter, inside, leave

__all__ = ["cooperative", "in_scope", "install", "installed", "uninstall"]

logger = logging.getLogger("geventws.scope")

_PARTS: Final = (locks, local, threads, queues, waiting, sockets, tls, names, polling, processes)
_ADOPTING: Final = (locks, local, queues)
_PATCHED_BY_GEVENT: Final = ("socket", "ssl", "time", "select", "threading", "thread", "subprocess", "os", "queue")

_lock: Final = _thread.allocate_lock()
_installation: Installation | None = None


class cooperative(ContextDecorator):  # noqa: N801 (used like a function)
    """Let blocking calls of the standard library, in this greenlet and those it spawns, let other greenlets run.

    A context manager and a decorator; may be nested. Installs the scope if that has not been done (see `install`).
    Greenlets and threads that are started inside stay in the scope until they end, also when this one has left it.
    In a process that gevent has patched it does nothing, and says so in the log (`geventws.scope`, debug).

    Any greenlet of any thread may use it; it must be left by the greenlet that entered it.
    """

    def __init__(self) -> None:
        # What `leave` needs, and the same of the time before where it is nested.
        self._entered: tuple[Any, Any] | None = None

    def __enter__(self) -> cooperative:
        entered = None
        if _installation is not None or install():
            entered = enter()
            drivers.entered()
        self._entered = entered, self._entered
        return self

    def __exit__(self, *_: object) -> None:
        entered, self._entered = self._entered or (None, None)
        if entered is not None:
            leave(entered)
            drivers.left()

    def _recreate_cm(self) -> cooperative:
        # A decorated function may run in several greenlets at once.
        return type(self)()


def in_scope() -> bool:
    """Whether the running greenlet is in a scope. Costs about as much as a function call."""
    return inside()


def install() -> bool:
    """Put the dispatching operations in the place of the standard library's. Happens by itself at the first scope.

    Outside a scope they do what the plain ones do. Locks, queues and thread-locals that are made afterwards work on both
    sides of a scope's border. So do earlier ones that are found: in the variables of modules and classes, and in the
    attributes of objects that modules hold, some steps deep. Where a program keeps them elsewhere (a list, a closure;
    `python -m geventws doctor module:app` names them) it calls this before it imports the rest.

    Returns False, and does nothing, in a process that gevent has patched. Any greenlet or thread may call this, any
    number of times.
    """
    global _installation
    if _installation is not None:
        return True
    patched = patched_by_gevent()
    if patched:
        logger.debug("gevent has patched %s in this process: there is nothing left to do", ", ".join(patched))
        return False
    with _lock:
        if _installation is None:
            _installation = _taken_over()
    return True


def patched_by_gevent() -> list[str]:
    """What gevent has patched in this process of what a scope makes cooperative. If anything, a scope does nothing."""
    return [name for name in _PATCHED_BY_GEVENT if is_module_patched(name)]


def native_names() -> dict[int, str]:
    """The names of the functions that `install` replaces, or has replaced, by the `id` of the native one."""
    if _installation is not None:
        found = list(_installation.originals())
    else:
        replaced = (replacement for part in _PARTS for replacement in part.replacements())
        found = [(owner, name, vars(owner).get(name)) for owner, name, _, everywhere in replaced if everywhere]
    return {
        id(native): f"{owner.__name__}.{name}"
        for owner, name, native in found
        if isinstance(owner, ModuleType) and owner.__name__ in sys.stdlib_module_names and callable(native)
    }


def _taken_over() -> Installation:
    installation = Installation()
    try:
        installation.take_over(
            [replacement for part in _PARTS for replacement in part.replacements()],
            [adoption for part in _ADOPTING for adoption in part.adoptions()],
        )
        local.adopt_subclasses(installation)
        drivers.install(installation)
        gevent.events.subscribers.append(_make_way)
        installation.on_give_back(_stop_listening)
    except BaseException:
        installation.give_back()
        raise
    return installation


def _stop_listening() -> None:
    if _make_way in gevent.events.subscribers:
        gevent.events.subscribers.remove(_make_way)


def _make_way(event: object) -> None:
    """From gevent, which is about to patch the process after all: it is to find what it expects."""
    if isinstance(event, gevent.events.GeventWillPatchAllEvent | gevent.events.GeventWillPatchModuleEvent):
        logger.debug("gevent patches this process: giving back what has been replaced")
        uninstall()


def installed() -> bool:
    """Whether `install` has been done, and not undone."""
    return _installation is not None


def uninstall() -> None:
    """Give the standard library its own objects back, the very same ones.

    Locks and queues that were made meanwhile go on working, on both sides. Greenlets that are in a scope block from
    now on. Does nothing when nothing is installed. Any greenlet or thread may call this.
    """
    global _installation
    with _lock:
        if _installation is not None:
            _installation.give_back()
            _installation = None
