"""What in this process would block inside a cooperative scope, and what to do about it: `python -m geventws doctor`.

It looks and says; what is said here it never mends.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import gevent

from . import scope
from .scope.dispatch import is_untouched, keeps_attributes
from .scope.local import NativeLocal
from .scope.locks import NativeLock, NativeRLock
from .scope.queues import NativeSimpleQueue

__all__ = ["Finding", "examine"]


class Finding(NamedTuple):
    """Something that would block."""

    subject: str
    why: str
    remedy: str


_IN_A_THREAD = "call it in a native thread: gevent.get_hub().threadpool.apply(function, args), or a ThreadPoolExecutor"

# What waits inside a C library, where nobody else gets the thread. What is made of Python sockets is not here, nor are
# psycopg and psycopg2, which can be told to wait another way and are.
_WAITING_IN_C = {
    "MySQLdb": ("mysqlclient waits for the server in C", f"use PyMySQL, or {_IN_A_THREAD}"),
    "mariadb": ("MariaDB Connector/C waits for the server in C", f"use PyMySQL, or {_IN_A_THREAD}"),
    "_mysql_connector": ("the C extension of mysql-connector waits in C", "connect with use_pure=True"),
    "sqlite3": (
        "SQLite waits in C while another connection holds its lock (up to `timeout`, 5 s), and for the disk",
        f"keep transactions short and timeout small, or {_IN_A_THREAD}",
    ),
    "grpc": ("gRPC waits in its own C core", "call grpc.experimental.gevent.init_gevent() first"),
    "zmq": ("ZeroMQ waits in C", "import zmq.green in the place of zmq"),
    "pycurl": ("libcurl waits in C", f"use requests or urllib3, or {_IN_A_THREAD}"),
    "pyodbc": ("ODBC drivers wait in C", f"{_IN_A_THREAD}"),
    "pymssql": ("FreeTDS waits in C", f"use python-tds, or {_IN_A_THREAD}"),
    "cx_Oracle": ("Oracle's client waits in C", f"use oracledb in its thin mode, or {_IN_A_THREAD}"),
    "ibm_db": ("Db2's client waits in C", f"{_IN_A_THREAD}"),
    "pylibmc": ("libmemcached waits in C", f"use pymemcache, or {_IN_A_THREAD}"),
    "confluent_kafka": ("librdkafka waits in C", f"use kafka-python, or {_IN_A_THREAD}"),
    "duckdb": ("DuckDB computes and waits in C", f"{_IN_A_THREAD}"),
}

_MADE_TOO_EARLY = (
    "call geventws.scope.install() at the top of the program, before this is made; `python -m geventws serve` does so"
)

_NATIVE_OBJECTS: dict[type, tuple[str, str]] = {
    NativeLock: (
        "threading.Lock",
        "when one handler waits while it holds it, the next one that wants it stops the process",
    ),
    NativeRLock: ("threading.RLock", "all handlers of a thread count as its one owner, so it keeps none of them out"),
    NativeLocal: ("threading.local", "all handlers of a thread see the same values"),
    NativeSimpleQueue: ("queue.SimpleQueue", "a handler that waits for it stops the whole thread"),
}

# How far from a module's variable to look, and at how many objects.
_DEPTH = 4
_MOST = 200_000


def examine() -> list[Finding]:
    """Look at what has been imported into this process, and what it has made: first what is out of `install`'s reach.

    Does `scope.install`, as the first connection would. Any greenlet or thread may call it; it takes a part of a second.
    """
    patched = scope.patched_by_gevent()
    if patched:
        why = f"gevent.monkey has patched {', '.join(patched)}: the scope does nothing, for handlers as for all others"
        return [Finding("this process", why, "leave out monkey.patch_all() to have the scope; it is not needed for it")]
    scope.install()
    return [*_settings(), *_Tour().findings(), *_contexts(), *_drivers()]


def _settings() -> Iterator[Finding]:
    config: Any = gevent.config
    if not config.track_greenlet_tree:
        why = "greenlets do not know who spawned them, so those that a handler spawns are not in its scope"
        yield Finding("GEVENT_TRACK_GREENLET_TREE", why, "leave it on, as it is by default")


def _drivers() -> Iterator[Finding]:
    for name, (why, remedy) in _WAITING_IN_C.items():
        if name in sys.modules:
            yield Finding(name, why, remedy)


def _contexts() -> Iterator[Finding]:
    """Contexts work whenever they were made; but not what wraps sockets in a class of its own."""
    for name, module in _modules():
        for attribute, value in list(vars(module).items()):
            wrapping: Any = getattr(value, "sslsocket_class", None) if isinstance(value, ssl.SSLContext) else None
            if wrapping is not None and not issubclass(wrapping, ssl.SSLSocket):
                why = f"its sslsocket_class, {wrapping.__name__}, is none of the standard library's"
                yield Finding(f"{name}.{attribute}", why, "make the context with ssl.create_default_context()")


def _modules() -> Iterator[tuple[str, ModuleType]]:
    """The program's modules and its libraries'."""
    for name, module in list(sys.modules.items()):
        standard = name.partition(".")[0] in sys.stdlib_module_names
        if isinstance(module, ModuleType) and not standard and not is_untouched(name):
            yield name, module


class _Tour:
    """A walk over what the program's modules hold."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._functions = scope.native_names()

    def findings(self) -> Iterator[Finding]:
        for name, module in _modules():
            for attribute, value in list(vars(module).items()):
                yield from self._look(f"{name}.{attribute}", value, name, _DEPTH)

    def _look(self, path: str, value: object, module: str, depth: int) -> Iterator[Finding]:
        known = _NATIVE_OBJECTS.get(type(value))
        if known is not None:
            yield Finding(
                path, f"a {known[0]}, made before the installation and out of its reach: {known[1]}", _MADE_TOO_EARLY
            )
        elif id(value) in self._functions:
            yield Finding(path, f"keeps the blocking {self._functions[id(value)]}", _MADE_TOO_EARLY)
        elif depth and id(value) not in self._seen and len(self._seen) < _MOST:
            self._seen.add(id(value))
            for suffix, part in _parts(value, module):
                yield from self._look(path + suffix, part, module, depth - 1)


def _parts(value: object, module: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, FunctionType):
        if value.__module__ == module:
            # Not a lock that one function has for itself: that is for a moment.
            for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
                if callable(default):
                    yield "()", default
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(list(value)):
            yield f"[{index}]", item
    elif (isinstance(value, type) and value.__module__ == module) or keeps_attributes(type(value)):
        for name, item in list(vars(value).items()):
            yield f".{name}", item
