"""What waits by itself, in C, and can be told to wait another way: psycopg, psycopg2; and what must not run in a scope.

They are adapted when they are imported, which may be long after the installation.
"""

from __future__ import annotations

import _thread
import functools
import select
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from .dispatch import Installation, dispatched_keywords
from .membership import inside, outside
from .waiting import READ, WRITE, wait_descriptor

__all__ = ["entered", "install", "left"]

_native_poll: Final = select.poll


def _adapt_psycopg(installation: Installation, waiting: Any) -> None:
    # The compiled `wait` polls in C; the one for any selector asks `selectors`, which is cooperative.
    installation.set(waiting, "wait", dispatched_keywords(waiting.wait, waiting.wait_selector))


def _do_outside(installation: Installation, owner: Any, name: str) -> None:
    """What serves everybody, and starts threads for it: like those of a ThreadPoolExecutor they are native ones."""
    native = getattr(owner, name)

    @functools.wraps(native)
    def operation(*args: Any, **kwargs: Any) -> Any:
        with outside():
            return native(*args, **kwargs)

    installation.set(owner, name, operation)


def _adapt_process_executor(installation: Installation, process: Any) -> None:
    _do_outside(installation, process.ProcessPoolExecutor, "_start_executor_manager_thread")


def _adapt_pool(installation: Installation, pool: Any) -> None:
    _do_outside(installation, pool.Pool, "__init__")


def _adapt_queue(installation: Installation, queues: Any) -> None:
    _do_outside(installation, queues.Queue, "_start_thread")


class _Psycopg2:
    """psycopg2 has one callback for the whole process: ours, as long as anybody is in a scope."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        # One for each that is inside. A list, as threads may append and pop at the same time without the lock.
        self._inside: list[None] = []
        self._extensions: Any = None
        self._is_set = False
        self._before: Any = None

    def adapt(self, installation: Installation, extensions: Any) -> None:
        self._extensions = extensions
        self._follow()
        installation.on_give_back(self._forget)

    def entered(self) -> None:
        self._inside.append(None)
        if self._extensions is not None:
            self._follow()

    def left(self) -> None:
        self._inside.pop()
        if self._extensions is not None:
            self._follow()

    def _follow(self) -> None:
        """Have psycopg2 do what is right for those that are inside now."""
        with self._lock:
            if self._extensions is None:
                return
            if self._inside and not self._is_set:
                self._before = self._extensions.get_wait_callback()
                self._extensions.set_wait_callback(self.wait)
                self._is_set = True
            if self._is_set and not self._inside:
                self._restore()

    def _restore(self) -> None:
        self._is_set = False
        if self._extensions.get_wait_callback() == self.wait:
            self._extensions.set_wait_callback(self._before)

    def _forget(self) -> None:
        with self._lock:
            if self._is_set:
                self._restore()
            self._extensions = None

    def wait(self, connection: Any) -> None:
        """Until the server has answered; outside a scope without letting others run."""
        extensions = self._extensions
        while (state := connection.poll()) != extensions.POLL_OK:
            if state not in (extensions.POLL_READ, extensions.POLL_WRITE):
                raise extensions.QueryCanceledError(f"unexpected state {state} of the connection")
            reading = state == extensions.POLL_READ
            if inside():
                wait_descriptor(connection.fileno(), READ if reading else WRITE, None)
            else:
                poll = _native_poll()
                poll.register(connection.fileno(), select.POLLIN if reading else select.POLLOUT)
                poll.poll()


_psycopg2: Final = _Psycopg2()
entered = _psycopg2.entered
left = _psycopg2.left

_ADAPTERS: Final[dict[str, Callable[[Installation, Any], None]]] = {
    "concurrent.futures.process": _adapt_process_executor,
    "multiprocessing.pool": _adapt_pool,
    "multiprocessing.queues": _adapt_queue,
    "psycopg.waiting": _adapt_psycopg,
    "psycopg2.extensions": _psycopg2.adapt,
}


class _WhenImported:
    """A finder that finds nothing by itself. It adapts what the others find, and has it executed outside the scope.

    A module that is being imported is half a module to other greenlets of the thread, as the import system knows threads
    only. So none may run meanwhile.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _ADAPTERS and not inside():
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            loader: Any = _Loader(spec.loader, self._installation)
            spec.loader = loader
        return spec


class _Loader:
    """Stands in for a module's own loader until the module is executed."""

    def __init__(self, loader: Any, installation: Installation) -> None:
        self._loader = loader
        self._installation = installation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        with outside():
            self._loader.exec_module(module)
        adapt = _ADAPTERS.get(module.__name__)
        if adapt is not None:
            adapt(self._installation, module)


def install(installation: Installation) -> None:
    """Adapt what has been imported, and whatever will be."""
    for name, adapt in _ADAPTERS.items():
        if name in sys.modules:
            adapt(installation, sys.modules[name])
    finder: Any = _WhenImported(installation)
    sys.meta_path.insert(0, finder)

    def leave() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    installation.on_give_back(leave)
