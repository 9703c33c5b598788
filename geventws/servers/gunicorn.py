"""Workers for gunicorn: `GeventWebSocketWorker` has its processes and settings around gevent's WSGI server, with WebSockets;
`ThreadWebSocketWorker` is its own one with threads, and a polite end.

What gunicorn decides is here: when a worker begins and ends, what is logged, whom it believes. What a WebSocket is, is not.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from ipaddress import ip_address
from time import monotonic
from typing import Any, TypeVar

import gevent
import gevent.socket
import gevent.ssl
from gevent import GreenletExit, Timeout, monkey
from gevent.event import Event
from gevent.pool import Pool
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import VERSION, GeventWorker
from gunicorn.workers.gthread import ThreadWorker

from ..application import ExcInfo, Headers
from ..codes import CloseCode
from ..connections import OpenConnections
from ..handler import WebSocketHandler
from ..middleware import close_all_in_threads
from ..options import WebSocketOptions, choose_options
from ..scope import install
from ..server import WebSocketServer

__all__ = ["GeventWebSocketHandler", "GeventWebSocketWorker", "PatchedGeventWebSocketWorker", "ThreadWebSocketWorker"]

# Seconds that connections have when the worker is to end quickly: long enough for peers to answer a Close frame, and with
# the second for handlers that are killed within the two that gunicorn's master gives.
_QUICK = 0.5

# Of graceful_timeout: when all of it has passed, the master kills the worker, hooks and all.
_GRACE = 0.9

# The status of a request that got no answer.
_NO_STATUS = "-"

Worker = TypeVar("Worker", bound="GeventWebSocketWorker")


class GeventWebSocketWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gunicorn worker that serves WebSockets and plain HTTP from one process, a greenlet for each connection.

    ::

        gunicorn -k geventws.servers.gunicorn.GeventWebSocketWorker app:app

    Options of the WebSockets are set in gunicorn's configuration file::

        from geventws.servers.gunicorn import GeventWebSocketWorker

        worker_class = GeventWebSocketWorker.configured(max_message_size=16 * 2**20, compression=True)

    or as `options` of a subclass in a module of one's own, for `-k module.Class`. Flask's `app.config["GEVENTWS_..."]` and the
    options of single routes hold as everywhere.

    The process is not patched by gevent. What applications wait for is cooperative all the same (`geventws.scope`), in
    plain requests as well, as gunicorn's users are used to: `cooperative` is "requests" here. `PatchedGeventWebSocketWorker`
    patches.

    When a worker is to end (SIGTERM or SIGHUP to the master, `max_requests`, `reload`), it accepts no more, closes its
    WebSockets with 1012 (service restart), lets requests end that are under way, and exits when nothing is left, at the
    latest after `graceful_timeout`. SIGINT and SIGQUIT do the same within a second or two.

    `worker_connections` bounds the open connections of the worker, whatever they carry. A request counts for `max_requests`
    when it has ended, a WebSocket as one. The access log has its line when a WebSocket ends: status 101, its duration, the
    bytes that were sent. In `access_log_format`, `%({geventws.close_code}e)s`, `%({geventws.messages_received}e)s`,
    `%({geventws.bytes_received}e)s` and `%({geventws.messages_sent}e)s` tell more.
    """

    options = WebSocketOptions(cooperative="requests")
    """The options of this worker's WebSockets."""

    server_class: type[WebSocketServer] = WebSocketServer
    """What serves each address that gunicorn is bound to."""

    wsgi_handler: type[GeventWebSocketHandler]
    """What handles each connection: `GeventWebSocketHandler`, or a subclass of it."""

    # gunicorn's own, always there in the worker's process.
    sockets: Any
    alive: bool

    _quick = False

    @classmethod
    def configured(cls: type[Worker], options: WebSocketOptions | None = None, **changes: Any) -> type[Worker]:
        """A worker class with these options: `options`, or this class's own, with the fields of `changes` changed.

        Raises:
            ValueError, TypeError: as `WebSocketOptions` does.
        """
        return type(cls.__name__, (cls,), {"options": choose_options(options, changes, cls.options)})

    @classmethod
    def endswith(cls, suffix: str) -> bool:
        """From gunicorn 22, which takes every `worker_class` for the text that it is on a command line."""
        return cls.__name__.endswith(suffix)

    @classmethod
    def setup(cls) -> None:
        """From gunicorn's master, before it imports anything of the application."""
        if cls.options.cooperative:
            # Locks and thread-locals that the application makes when it is imported shall work in a scope.
            install()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """From gunicorn's master: tell of settings that this worker cannot honour."""
        if cfg.proxy_protocol not in (False, None, "off"):
            raise SystemExit(
                "geventws: the setting proxy_protocol cannot be honoured by GeventWebSocketWorker, and every request would "
                "be refused; have the proxy send X-Forwarded-Proto and -For instead"
            )
        if _wants_http2(cfg):
            log.warning("GeventWebSocketWorker speaks HTTP/1.1 alone: http_protocols and http2_cleartext are ignored.")

    # From gunicorn, in the worker's process.

    def patch(self) -> None:
        """Make the listening sockets gevent's. (gunicorn's own worker patches the process here.)"""
        self.sockets = [
            # Detached: two objects for one descriptor would both close it.
            gevent.socket.socket(listener.FAMILY, gevent.socket.SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]

    def notify(self) -> None:
        """Tell the master that we are well, and see whether it is still there."""
        self.tmp.notify()
        if self.alive and self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self.alive = False
            self._woken.set()

    def run(self) -> None:
        """Serve until the worker is to end, and end politely."""
        self._woken = Event()
        self._pool = Pool(self.worker_connections)
        self._connections = OpenConnections()
        _log_where_gunicorn_does(self.log)
        # Signals wake the interpreter through this pipe; while everything waits in the event loop, nothing else would.
        watcher = gevent.get_hub().loop.io(self.PIPE[0], 1)
        watcher.start(self._wake)
        heart = gevent.spawn(self._beat)
        servers = self._start_servers()
        try:
            while self.alive:
                # Not for ever: hooks and the reloader's thread just set `alive`.
                self._wait(1.0)
            for server in servers:
                server.close()
            self._end()
        finally:
            heart.kill()
            watcher.stop()
            watcher.close()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """From a signal, in the middle of anything: end quickly."""
        self._quick = True
        self.alive = False

    @property
    def goes_on(self) -> bool:
        """Whether this worker is still there after the request that is being answered."""
        return self.alive and self.nr + 1 < int(self.max_requests)

    def request_ended(self) -> None:
        """From the handler: count a request; the last one that this worker may serve restarts it."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._woken.set()

    def _beat(self) -> None:
        # The master kills who is silent for `timeout`, of which `self.timeout` is half.
        pause = min(1.0, self.timeout / 2) if self.timeout else 1.0
        while True:
            self.notify()
            gevent.sleep(pause)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        self._woken.set()

    def _wait(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def _start_servers(self) -> list[WebSocketServer]:
        arguments: dict[str, Any] = {"handler_class": self.wsgi_handler.configured(self.options), "log": None}
        if self.cfg.is_ssl:
            arguments["ssl_context"] = _gevent_context(self.cfg)
            arguments["suppress_ragged_eofs"] = self.cfg.suppress_ragged_eofs
        servers = []
        for listener in self.sockets:
            listener.setblocking(True)
            server = self.server_class(
                # One pool for all: `worker_connections` bounds the worker.
                listener,
                self.wsgi,
                spawn=self._pool,
                environ=self._environ(listener.getsockname()),
                **arguments,
            )
            server.websockets = self._connections
            server.worker = self  # type: ignore[attr-defined]
            server.start()
            servers.append(server)
        return servers

    def _environ(self, address: Any) -> dict[str, Any]:
        environ: dict[str, Any] = base_environ(self.cfg)
        environ.update({"wsgi.multithread": True, "SERVER_SOFTWARE": VERSION})
        if isinstance(address, tuple):
            # As gunicorn has it; pywsgi would ask the network for a name.
            environ["SERVER_NAME"] = str(address[0])
        return environ

    def _end(self) -> None:
        """Close and wait for what is there, until nothing is, or time is up."""
        if not self._quick:
            # A developer who has changed a file does not want to wait for those who look at the old one.
            patience = _QUICK if self.cfg.reload else self.cfg.graceful_timeout * _GRACE
            draining = gevent.spawn(self._drain, patience)
            draining.link(lambda _: self._woken.set())
            while not draining.ready() and not self._quick:
                self._wait(1.0)
            draining.kill()
        if self._quick:
            self.cfg.worker_int(self)
            self._drain(_QUICK)

    def _drain(self, patience: float) -> None:
        until = monotonic() + patience
        self._connections.drain(patience, CloseCode.SERVICE_RESTART, "service restarts")
        self._pool.join(timeout=max(until - monotonic(), 0))
        if len(self._pool):
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
            self._pool.kill(block=True, timeout=1)


class PatchedGeventWebSocketWorker(GeventWebSocketWorker):
    """The same in a process that gevent has patched (`gevent.monkey.patch_all`), for programs that count on that.

    The worker's process is patched before the application is imported, and the master's is not. With `preload_app` the
    master imports it, and patching has to come first: at the top of gunicorn's configuration file.
    """

    @classmethod
    def setup(cls) -> None:
        """Nothing: what is patched needs no scope."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        super().check_config(cfg, log)
        if cfg.preload_app and not monkey.is_module_patched("socket"):
            log.warning(
                "With preload_app the application has been imported before gevent patches the process. Put this at the top "
                "of the configuration file: from gevent import monkey; monkey.patch_all()"
            )

    def patch(self) -> None:
        monkey.patch_all()
        super().patch()


class ThreadWebSocketWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own worker with threads, which closes its WebSockets with 1012 when it is to end.

    ::

        gunicorn -k geventws.servers.gunicorn.ThreadWebSocketWorker --threads 8 app:app

    WebSockets work with gunicorn's worker as well (`gunicorn --threads 8 app:app`); but there they keep it from ending until
    `graceful_timeout` has passed, and are cut off then. The program needs `geventws.middleware.WebSocketMiddleware`, which
    `geventws.flask.Sockets` puts there by itself. Each open WebSocket takes one of the threads.
    """

    alive: bool
    _told = False

    def notify(self) -> None:
        super().notify()
        if not self.alive:
            self._close_websockets()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """From a signal: end politely."""
        super().handle_exit(sig, frame)
        self._close_websockets()

    def _close_websockets(self) -> None:
        if not self._told:
            self._told = True
            close_all_in_threads(CloseCode.SERVICE_RESTART, "service restarts")


class Request:
    """A request as gunicorn's hooks `pre_request` and `post_request`, and its access log, look at it."""

    def __init__(self, handler: GeventWebSocketHandler) -> None:
        self.method = handler.command
        self.uri: str = handler.path or ""
        path, _, query = self.uri.partition("?")
        self.path: str = path
        self.query: str = query
        self.fragment = ""
        self.remote_addr = self.peer_addr = handler.client_address
        self.version = tuple(int(part) for part in (handler.request_version or "HTTP/0.9")[5:].split("."))
        self.scheme = handler.environ["wsgi.url_scheme"] if handler.environ else None
        self.headers = _request_fields(handler)


class Response:
    """The answer to a request, for the same."""

    def __init__(self, handler: GeventWebSocketHandler) -> None:
        self.status = _text(handler.status or _NO_STATUS)
        self.headers = [(_text(name), _text(value)) for name, value in handler.response_headers or ()]
        self.headers_sent = handler.headers_sent
        self.sent = handler.response_length


class GeventWebSocketHandler(WebSocketHandler):
    """`WebSocketHandler` that obeys gunicorn's settings and writes to its logs."""

    # pywsgi's own; its stubs say less.
    client_address: Any
    headers: Any
    path: Any
    requestline: Any
    response_headers: Any
    response_length: Any

    _reads_nothing = True

    _trusted: bool | None = None
    _scheme: str | None = None
    _script_name = ""

    @property
    def _worker(self) -> Any:
        return self.server.worker

    @property
    def _cfg(self) -> Any:
        return self.server.worker.cfg

    # The request.

    def read_requestline(self) -> str:
        self.environ = None  # The one before is of no matter to who asks now, nor to the log.
        return super().read_requestline()

    def _wait_for_head(self) -> bytes:
        if self.requestline is None:
            return super()._wait_for_head()
        if not self._worker.alive:
            return b""
        patience = Timeout.start_new(self._cfg.keepalive)
        try:
            return super()._wait_for_head()
        except Timeout as timeout:
            if timeout is not patience:
                raise
            return b""
        finally:
            patience.close()

    def read_request(self, raw_requestline: str) -> Any:
        """From pywsgi: what is wrong with a request is raised here, and answered 400 or 431."""
        limit = self._cfg.limit_request_line
        if 0 < limit < len(raw_requestline.rstrip("\r\n")):
            raise ValueError(f"the request line is longer than limit_request_line ({limit})")
        read = super().read_request(raw_requestline)
        self._check_fields()
        scheme, script_name = self._forwarded_scheme(), self._forwarded_script_name()
        # Only if they are anything: an attribute more, and its object's dict would not share its keys any more.
        if (scheme, script_name) != (self._scheme, self._script_name):
            self._scheme, self._script_name = scheme, script_name
        if not self.path.startswith(self._script_name):
            raise ValueError(f"the path {self.path!r} does not begin with SCRIPT_NAME, which is {self._script_name!r}")
        return read

    def _check_fields(self) -> None:
        cfg, fields = self._cfg, self.headers.items()
        if 0 < cfg.limit_request_fields < len(fields):
            raise HTTPException(f"more header fields than limit_request_fields ({cfg.limit_request_fields})")
        limit = cfg.limit_request_field_size
        # With the colon, the blank and the end of the line.
        if limit > 0 and any(len(name) + len(value) + 4 > limit for name, value in fields):
            raise HTTPException(f"a header field longer than limit_request_field_size ({limit})")

    def _is_trusted(self) -> bool:
        """Whether the peer is a proxy that may say what the client asked for: the setting `forwarded_allow_ips`."""
        if self._trusted is None:
            self._trusted = _may_forward(self.client_address, self._cfg)
        return self._trusted

    def _forwarded_scheme(self) -> str | None:
        secure = {
            value.strip() == meaning
            for name, meaning in self._cfg.secure_scheme_headers.items()
            for value in self.headers.get_all(name) or ()
        }
        if not secure or not self._is_trusted():
            return None
        if len(secure) > 1:
            raise ValueError("the header fields in secure_scheme_headers contradict each other")
        return "https" if secure.pop() else "http"

    def _forwarded_script_name(self) -> str:
        forwarded: str | None = self.headers.get("SCRIPT_NAME")
        allowed = getattr(self._cfg, "forwarder_headers", ("SCRIPT_NAME",))
        if forwarded is not None and not {"SCRIPT_NAME", "*"}.isdisjoint(allowed) and self._is_trusted():
            return forwarded.strip()
        return os.environ.get("SCRIPT_NAME", "")

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["RAW_URI"] = self.path
        environ["gunicorn.socket"] = self.socket
        if self._scheme is not None:
            environ["wsgi.url_scheme"] = self._scheme
        if self._script_name:
            environ["SCRIPT_NAME"] = self._script_name
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(self._script_name)
        if not isinstance(self.client_address, tuple):
            # A Unix socket has neither address nor port, and WSGI wants both.
            environ.setdefault("REMOTE_ADDR", "")
            environ["SERVER_NAME"], environ["SERVER_PORT"] = _named(
                environ.get("HTTP_HOST", ""), environ["wsgi.url_scheme"]
            )
        return environ

    # The answer.

    def run_application(self) -> None:
        self._cfg.pre_request(self._worker, Request(self))
        super().run_application()

    def handle_one_response(self) -> None:
        try:
            super().handle_one_response()
        finally:
            try:
                self._cfg.post_request(self._worker, Request(self), self.environ, Response(self))
            except Exception:
                self._worker.log.exception("Exception in post_request hook")
            self._worker.request_ended()

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Any:
        if self._cfg.keepalive and self._worker.goes_on:
            return super().start_response(status, headers, exc_info)
        kept = [field for field in headers if field[0].lower() != "connection"]
        return super().start_response(status, [*kept, ("Connection", "close")], exc_info)

    # The logs.

    def log_request(self) -> None:
        """Write the line of gunicorn's access log; of a WebSocket, when it has ended."""
        environ = self.environ or self._unfinished_environ()
        if self.websocket is not None and self._upgraded:
            received, bytes_received, sent, self.response_length = self.websocket.counts
            environ["geventws.close_code"] = self.websocket.close_code
            environ["geventws.messages_received"], environ["geventws.bytes_received"] = received, bytes_received
            environ["geventws.messages_sent"] = sent
        duration = timedelta(seconds=max(self.time_finish - self.time_start, 0))
        self._worker.log.access(Response(self), _request_fields(self), environ, duration)

    def _unfinished_environ(self) -> dict[str, Any]:
        """What the log wants to know of a request that was refused before it had an environ."""
        words = (self.requestline or "").split()
        method, uri, version = (*words, "-", "-", "-")[:3]
        environ = {"REQUEST_METHOD": method, "RAW_URI": uri, "SERVER_PROTOCOL": version, "PATH_INFO": uri}
        if isinstance(self.client_address, tuple):
            environ["REMOTE_ADDR"] = str(self.client_address[0])
        return environ

    def log_error(self, msg: str, *args: Any) -> None:
        self._worker.log.warning(msg, *args)

    def _log_error(self, kind: Any, value: Any, traceback: Any) -> None:
        if not issubclass(kind, GreenletExit):
            self._worker.log.error("Error handling request %s", self.path, exc_info=(kind, value, traceback))


GeventWebSocketWorker.wsgi_handler = GeventWebSocketHandler


def _may_forward(peer: Any, cfg: Any) -> bool:
    if not isinstance(peer, tuple):
        return True  # Who may write to our Unix socket is one of us.
    allowed = cfg.forwarded_allow_ips
    if "*" in allowed or peer[0] in allowed:
        return True
    # Newer gunicorns take networks as well.
    networks: Any = getattr(cfg, "forwarded_allow_networks", tuple)()
    return any(ip_address(peer[0]) in network for network in networks)


def _named(host: str, scheme: str) -> tuple[str, str]:
    """The name and the port in a Host field."""
    name, _, port = host.rpartition(":")
    if name and port.isdigit():
        return name, port
    return host or "localhost", "443" if scheme == "https" else "80"


def _request_fields(handler: WebSocketHandler) -> Iterable[tuple[str, str]]:
    fields = handler.headers.items() if handler.headers is not None else ()
    if fields or not handler.environ:
        return fields
    # While a WebSocket lasts, they are in the environ alone.
    return [
        (name.removeprefix("HTTP_").replace("_", "-").title(), value)
        for name, value in handler.environ.items()
        if name.startswith("HTTP_")
    ]


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _wants_http2(cfg: Any) -> bool:
    return "h2" in getattr(cfg, "http_protocols", ()) or getattr(cfg, "http2_cleartext", "off") not in (False, "off")


def _gevent_context(cfg: Any) -> Any:
    """The TLS context that gunicorn's settings and its hook `ssl_context` make, for sockets that let others run."""
    context = ssl_context(cfg)
    if not isinstance(context, gevent.ssl.SSLContext):
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"the hook ssl_context has to return an ssl.SSLContext; got {context!r}")
        callback = context.sni_callback
        # It is the same object to OpenSSL, with gevent's way to wrap a socket.
        context.__class__ = gevent.ssl.SSLContext
        if callback is not None:
            context.sni_callback = callback
    if _wants_http2(cfg):
        context.set_alpn_protocols(["http/1.1"])
    return context


def _log_where_gunicorn_does(log: Any) -> None:
    """Tracebacks of handlers go to gunicorn's error log, unless the application has said where logs go."""
    ours = logging.getLogger("geventws")
    if not ours.hasHandlers():
        for handler in log.error_log.handlers:
            ours.addHandler(handler)
