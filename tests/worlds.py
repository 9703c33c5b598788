"""The two worlds that connections live in: greenlets of a hub, and native threads of a server that knows no gevent.

The same tests run in both. Where a module says `WORLDS = BOTH`, each of its tests that use the fixture `world`, most of them by
way of `serve`, is run once in each; `@pytest.mark.world("gevent", "the reason")` leaves one to a single world.

`PYWSGI` is the first of them once more, behind a subclass of `WebSocketHandler` that has a part of pywsgi's work for itself:
then all that pywsgi does for a request is done.

The test itself and its clients are always in greenlets of the test's hub. What it does to a connection of the other world
is done in a native thread, while the hub runs (`natively`, `Elsewhere`).
"""

from __future__ import annotations

import io
import logging
import os
import socketserver
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import gevent
import gevent.ssl
from gevent._hub_local import get_hub_if_exists
from gevent.threadpool import ThreadPool
from waiting import wait_until

from geventws import WebSocketHandler

__all__ = ["BOTH", "PYWSGI", "Elsewhere", "World", "natively"]

# In a patched process there are no native threads.
BOTH = ["gevent"] if os.environ.get("GEVENTWS_PATCHED") == "1" else ["gevent", "threads"]
PYWSGI = "pywsgi"


def natively(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call `function` in a native thread, while this thread's hub runs, if it has one."""
    if get_hub_if_exists() is None:
        return function(*args, **named)

    def call() -> tuple[Any, BaseException | None]:
        # The pool itself would have the hub print what is raised.
        try:
            return function(*args, **named), None
        except BaseException as error:
            return None, error

    outcome, error = _pool().apply(call)
    if error is not None:
        raise error
    return outcome


_pools: list[ThreadPool] = []


def _pool() -> ThreadPool:
    if not _pools:
        _pools.append(ThreadPool(100))
    return _pools[0]


class Elsewhere:
    """An object of the world of threads, for a test in the hub: its methods are called in native threads."""

    def __init__(self, thing: Any, call: Callable[..., Any] = natively) -> None:
        self._thing = thing
        self._call = call

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if not callable(value):
            return value
        return lambda *args, **named: self._call(value, *args, **named)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._call(list, self._thing))

    def __enter__(self) -> Any:
        self._call(self._thing.__enter__)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._call(self._thing.__exit__, *exc_info)

    def __repr__(self) -> str:
        return repr(self._thing)

    def __eq__(self, other: object) -> bool:
        return self._thing is (other._thing if isinstance(other, Elsewhere) else other)

    def __hash__(self) -> int:
        return hash(self._thing)


class _Behind:
    def run_application(self: Any) -> None:
        super().run_application()  # type: ignore[misc]


class World:
    """Where a test's connections live."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threads = name == "threads"
        self.tls_context: type[ssl.SSLContext] = ssl.SSLContext if self.threads else gevent.ssl.SSLContext

    def handler_class(self, handler_class: type[WebSocketHandler]) -> type[WebSocketHandler]:
        """The class that handles requests here."""
        return type("Behind", (_Behind, handler_class), {}) if self.name == PYWSGI else handler_class

    def reach(self, websocket: Any) -> Any:
        """A handler's WebSocket, for the test."""
        return Elsewhere(websocket) if self.threads else websocket


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


def serve_natively(
    stack: ExitStack, middleware: Any, log: io.StringIO, errors: list[str], ssl_context: ssl.SSLContext | None = None
) -> Any:
    """A server of the standard library around a WebSocketMiddleware, in native threads until `stack` is unwound."""

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            log.write(f"{self.client_address[0]} - - [then] {format % args}\n")

        def get_stderr(self) -> Any:
            return _Errors(errors)

    class Server(_Server):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(traceback.format_exc())

    server: Any = Server(("127.0.0.1", 0), Handler)
    server.set_app(middleware)
    server.websockets = middleware.websockets
    if ssl_context is not None:
        server.socket = ssl_context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    told = _Told(errors)
    logging.getLogger("geventws.threads").addHandler(told)

    def stop() -> None:
        natively(server.shutdown)
        server.server_close()
        for websocket in middleware.websockets:
            natively(websocket.hang_up)
        try:
            wait_until(lambda: not middleware.websockets, seconds=10)
        finally:
            logging.getLogger("geventws.threads").removeHandler(told)

    stack.callback(stop)
    return server


class _Errors(io.StringIO):
    """What the server writes for its operator: in one piece for each error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__()
        self._errors = errors

    def flush(self) -> None:
        if self.getvalue():
            self._errors.append(self.getvalue())
            self.seek(0)
            self.truncate()


class _Told(logging.Handler):
    """What went wrong in a thread of our own."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(self._formatter.format(record))
