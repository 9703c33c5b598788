"""`WebSocketMiddleware`: `environ["wsgi.websocket"]` on WSGI servers other than `gevent.pywsgi`.

Where each server has the connection is in `servers`; what an application may do with it is the same as under
`WebSocketHandler`.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from time import monotonic
from typing import Any
from wsgiref.util import is_hop_by_hop

from gevent.monkey import get_original

from . import forwarded
from .application import Call, ExcInfo, Headers, answered_too_late, options_for, surroundings
from .codes import CloseCode
from .connections import OpenConnections
from .exceptions import HandshakeError, InvalidState
from .handler import WebSocketHandler
from .head import header_of
from .native import thread_ident
from .options import WebSocketOptions, choose_options
from .protocol import State
from .protocol.handshake import read_request, wants_websocket
from .runtime import HubRuntime, Runtime
from .servers import gthread, uwsgi, werkzeug, wsgiref
from .servers.connection import NotCarried, ServerConnection, StartResponse
from .threads import Service, ThreadRuntime
from .transport import Listener, Transport
from .websocket import WebSocket, WebSocketBase

__all__ = ["WebSocketMiddleware", "close_all_in_threads"]

logger = logging.getLogger("geventws.handler")

Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

# The real one: what is waited for happens in another thread.
_sleep: Callable[[float], None] = get_original("time", "sleep")
# Seconds that the end of the process may wait for peers to be told of it.
_GOODBYE = 1.0

_SERVERS = (gthread.find, werkzeug.find, uwsgi.find, wsgiref.find)

_NOT_CARRIED = (
    "This server does not carry WebSockets: it keeps its connections from applications. Servers that do: "
    "`python -m geventws serve module:app`; gevent.pywsgi.WSGIServer(..., handler_class=geventws.WebSocketHandler); gunicorn "
    "with `-k geventws.servers.gunicorn.GeventWebSocketWorker` or with `--threads`; uWSGI with `--gevent` or `--threads`; "
    "werkzeug (`flask run`); wsgiref with ThreadingMixIn."
)


class WebSocketMiddleware:
    """Gives every valid upgrade request a `WebSocket` in `environ["wsgi.websocket"]`; the rest passes unchanged.

    ::

        app.wsgi_app = WebSocketMiddleware(app.wsgi_app)        # Flask; `geventws.flask.Sockets` does it by itself
        application = WebSocketMiddleware(get_wsgi_application())   # Django, in wsgi.py

    Where the server puts a WebSocket there itself (`WebSocketHandler`, `WebSocketServer`) it does nothing, so it may stay in a
    program that runs on several servers. On gunicorn with threads, werkzeug, wsgiref and uWSGI it takes the connection over
    from the server until the application returns. In gevent's servers the application runs in a greenlet, with the
    cooperative scope; in the others in its native thread, where nothing of the standard library is changed.

    A request that is no valid opening handshake, or comes to a server that cannot carry WebSockets, is answered with the
    reason, and the application is not called.

    Args:
        app: the WSGI application.
        options: the options of the connections; any field of `WebSocketOptions` may be given by its name as well.
            `handshake_timeout` is the server's business here.
        websocket_class: what is put into the environ, a subclass of `WebSocket`.

    Raises:
        TypeError, ValueError: as `WebSocketOptions` does; or `app` cannot be called, or `websocket_class` is none.
    """

    def __init__(
        self,
        app: Application,
        options: WebSocketOptions | None = None,
        *,
        websocket_class: type[WebSocket] | None = None,
        **changes: Any,
    ) -> None:
        if not callable(app):
            raise TypeError(f"WebSocketMiddleware is put around a WSGI application; got {app!r}")
        if websocket_class is not None and not (
            isinstance(websocket_class, type) and issubclass(websocket_class, WebSocketBase)
        ):
            raise TypeError(f"websocket_class is a subclass of geventws.WebSocket; got {websocket_class!r}")
        self.app = app
        self.options = choose_options(options, changes)
        self.websocket_class = websocket_class
        self.websockets = OpenConnections()
        """The open connections."""
        _middlewares.add(self)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        proxies = self.options.proxies
        if proxies is not None:
            forwarded.apply(environ, proxies)
        if "wsgi.websocket" in environ or not wants_websocket(environ.get("HTTP_UPGRADE")):
            return self.app(environ, start_response)
        if isinstance(getattr(start_response, "__self__", None), WebSocketHandler):
            return self.app(environ, start_response)  # It has decided that this is ordinary HTTP.
        return _Exchange(self, environ, start_response).run()


class _Exchange:
    """One upgrade request, and what becomes of it."""

    def __init__(self, middleware: WebSocketMiddleware, environ: dict[str, Any], start_response: StartResponse) -> None:
        self._middleware = middleware
        self._environ = environ
        self._server_start_response = start_response
        self._connection: ServerConnection | None = None
        self._websocket: WebSocket | None = None
        # What the application would answer with, before it is known whether it does.
        self._pending: tuple[Any, ...] | None = None
        self._answered = False
        self._upgraded = False
        self._response: Iterable[bytes] = ()

    def run(self) -> Iterable[bytes]:
        """What the middleware returns to the server."""
        try:
            connection = _find(self._environ, self._server_start_response)
        except NotCarried as error:
            # What helps is not for the client to know.
            _tell_once(logging.ERROR, str(error))
            self._refuse(
                HandshakeError("501 Not Implemented", "This server does not carry WebSockets. Its log says more.")
            )
            return self._response
        try:
            return self._run(connection)
        finally:
            connection.let_go()

    def _run(self, connection: ServerConnection) -> Iterable[bytes]:
        options, connections = self._middleware.options, self._middleware.websockets
        environ, self._connection = self._environ, connection
        connection.tell_port(environ)
        address = environ.get("REMOTE_ADDR", "")
        kind = self._middleware.websocket_class or WebSocket
        own_options = options_for(self._middleware.app, environ.get("PATH_INFO", ""), options)
        try:
            request = read_request(environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"], header_of(environ))
            websocket = kind(environ, request, self._switch_protocols, own_options, None, connection.runtime)
            connections.add(websocket, address, options)
        except HandshakeError as error:
            self._refuse(error)
            return self._response
        self._websocket = websocket
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = request.version
        # The request has no body: who looks for one shall not wait for it, nor take what comes behind the request for it.
        environ["wsgi.input"], environ["wsgi.input_terminated"] = io.BytesIO(), True
        websocket.after_close = self._closed
        _served[websocket] = connection.runtime
        try:
            with self._surroundings(websocket), Call(websocket, self._refuse):
                self._call()
            if self._upgraded:
                websocket.close()
        finally:
            websocket.hang_up()
            _served.pop(websocket, None)
            connections.remove(websocket)
            # So that nothing stays behind until the collector of cycles finds it.
            environ["wsgi.websocket"] = self._websocket = websocket.after_close = None
            # Some servers use theirs again for another request.
            websocket.environ = dict(environ)
            if self._upgraded:
                # Also where it is ended from outside, and the server would answer with an error.
                connection.hush(self._server_start_response, websocket.counts[3])
        if not self._upgraded:
            return self._response
        return connection.leave(self._server_start_response, websocket.counts[3])

    def _closed(self, websocket: WebSocket) -> None:
        """TCP is closed."""
        self._middleware.websockets.remove(websocket)
        assert self._connection is not None
        self._connection.end()

    def _surroundings(self, websocket: WebSocket) -> AbstractContextManager[object]:
        assert self._connection is not None
        if not isinstance(self._connection.runtime, HubRuntime):
            return nullcontext()  # There are no others that have to wait for this thread.
        return surroundings(websocket, self._middleware.options, websocket.cooperative)

    def _switch_protocols(self, listener: Listener) -> tuple[Transport, bytes]:
        """The application takes the connection: hand it over."""
        if self._pending is not None and (self._answered or not str(self._pending[0]).startswith("2")):
            raise InvalidState(f"start_response has refused the opening handshake already, with {self._pending[0]}")
        assert self._connection is not None
        taken = self._connection.take(listener)
        self._upgraded = True
        return taken

    # The application.

    def _call(self) -> None:
        result: Any = self._middleware.app(self._environ, self._start_response)
        handed_over = False
        try:
            # Old programs return nothing once they have had their WebSocket.
            chunks = iter(() if result is None and self._upgraded else result)
            for chunk in chunks:
                # With the first piece that is not empty an application has made up its mind: WSGI says so.
                if chunk and not self._upgraded and self._pending is not None:
                    self._answer()
                    self._response = _Rest(chunk, chunks, result)
                    handed_over = True
                    return
        finally:
            if not handed_over and hasattr(result, "close"):
                result.close()
        websocket = self._websocket
        assert websocket is not None
        if self._pending is not None and not self._upgraded:
            self._answer()
        elif websocket.state is State.CONNECTING:
            websocket.accept()

    def _start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """WSGI's: before the handshake is accepted it refuses it; afterwards there is nobody to respond to."""
        if self._upgraded:
            answered_too_late(self._websocket, status, exc_info)
        elif self._answered:
            # It is the server's to say that this is too late.
            self._server_start_response(status, headers, *([exc_info] if exc_info else []))
        elif self._pending is not None and not exc_info:
            raise AssertionError("start_response was called before: a second time is for errors, and with exc_info")
        else:
            self._pending = (status, headers, exc_info) if exc_info else (status, headers)
        return self._write

    def _write(self, data: bytes) -> None:
        if not self._upgraded:
            self._answer()(data)

    def _answer(self) -> Callable[[bytes], object]:
        """Refuse the handshake with the application's response, of which the rest follows."""
        assert self._pending is not None
        if not self._answered:
            self._answered = True
            if self._websocket is not None:
                self._websocket.refused(str(self._pending[0]))
            self._server_write = self._server_start_response(*self._pending)
        return self._server_write

    def _refuse(self, error: HandshakeError) -> None:
        """Answer with the HTTP response that `error` stands for."""
        client, path = self._environ.get("REMOTE_ADDR"), self._environ.get("PATH_INFO")
        logger.info("Refused a WebSocket for %s on %s: %s", client, path, error)
        body = f"{error}\n".encode()
        # WSGI keeps the fields that concern the connection for the server.
        fields = [field for field in error.headers if not is_hop_by_hop(field[0])]
        fields += [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        self._pending = (error.status, fields)
        self._answer()
        self._response = [] if self._environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Rest:
    """An application's response, of which the first piece has been asked for already."""

    def __init__(self, first: bytes, rest: Iterator[bytes], whole: Iterable[bytes]) -> None:
        self._first: bytes | None = first
        self._rest = rest
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        return next(self._rest) if first is None else first

    def close(self) -> None:
        if hasattr(self._whole, "close"):
            self._whole.close()


_warned: set[str] = set()


def _find(environ: dict[str, Any], start_response: StartResponse) -> ServerConnection:
    """The server's connection. Raises NotCarried if it keeps it to itself."""
    for find in _SERVERS:
        connection = find(environ, start_response)
        if connection is not None:
            if connection.blocked is not None:
                _tell_once(logging.WARNING, f"A WebSocket is open, and nothing else is served: {connection.blocked}.")
            return connection
    raise NotCarried(_NOT_CARRIED)


def _tell_once(level: int, text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        logger.log(level, "%s", text)


# Who is being served, for the end of the process.
_middlewares: weakref.WeakSet[WebSocketMiddleware] = weakref.WeakSet()
_served: dict[WebSocket, Runtime] = {}


def close_all_in_threads(code: int = CloseCode.GOING_AWAY, reason: str = "server stops") -> list[WebSocket]:
    """Begin to close the WebSockets of this process that native threads serve. Never waits; from any thread.

    Returns:
        Those that are told, each as soon as nobody else holds it.
    """
    told = []
    for websocket, runtime in list(_served.items()):
        if isinstance(runtime, ThreadRuntime):
            Service.current().call(runtime, partial(websocket.start_closing, code, reason))
            told.append(websocket)
    return told


def _say_goodbye() -> None:
    """The process ends, and with it threads that are still in a handler: their peers are told."""
    told = close_all_in_threads()
    for websocket, runtime in list(_served.items()):
        if isinstance(runtime, HubRuntime) and runtime.thread == thread_ident():
            with suppress(Exception):
                websocket.start_closing(CloseCode.GOING_AWAY, "server stops")
    # Not for ever: one of them may be held by somebody who does not let go.
    until = monotonic() + _GOODBYE
    while monotonic() < until and any(websocket.state is State.OPEN for websocket in told):
        _sleep(0.001)


def _forget() -> None:
    """In a forked child: the connections are its parent's."""
    _served.clear()
    for middleware in list(_middlewares):
        middleware.websockets = OpenConnections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
# Before threads are waited for, if it can be: they may be in `receive`.
getattr(threading, "_register_atexit", atexit.register)(_say_goodbye)
