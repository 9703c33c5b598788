"""`WebSocketHandler` for `gevent.pywsgi.WSGIServer`: from an upgrade request to `environ["wsgi.websocket"]`.

What is HTTP about a WebSocket is here: the request, the answer, the limits, the access log. Frames are not.
"""

from __future__ import annotations

import inspect
import io
import logging
import sys
from collections.abc import Callable
from http.client import HTTPException
from time import time
from typing import Any, ClassVar, TypeVar

from gevent import Timeout, pywsgi
from gevent.pywsgi import Input, OldMessage, WSGIHandler
from gevent.socket import socket

from . import forwarded
from .application import Call, ExcInfo, Headers, answered_too_late, options_for, surroundings
from .connections import OpenConnections
from .exceptions import HandshakeError, InvalidState
from .head import Head, Incoming, header_of, read_head
from .options import WebSocketOptions, choose_options
from .protocol import State
from .protocol.handshake import OpeningRequest, read_request, wants_websocket
from .transport import GeventTransport, Listener
from .websocket import WebSocket

__all__ = ["Client", "WebSocketHandler"]

logger = logging.getLogger("geventws.handler")

HandlerClass = TypeVar("HandlerClass", bound="WebSocketHandler")

_REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY_HEADERS = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


# What is read from once nothing more is to be read: pywsgi ends a connection whose file is closed.
_CLOSED = io.BytesIO()
_CLOSED.close()
# What pywsgi discards the rest of, where there is none. Applications do not get it.
_NO_BODY: Any = Input(io.BytesIO(), None)  # type: ignore[arg-type]  # anything with `read` and `readline`
# Who has one of these for himself may rely on what pywsgi does in it, and on an rfile to read from.
_PYWSGIS = frozenset(
    [
        "MessageClass",
        "_check_http_version",
        "_connection_upgrade_requested",
        "_headers",
        "handle",
        "handle_one_request",
        "handle_one_response",
        "read_request",
        "read_requestline",
        "run_application",
    ]
)
# What pywsgi has for a log that nobody wants.
_NoLog: Any = getattr(pywsgi, "_NoopLog", ())


def _share_keys(cls: type[WebSocketHandler]) -> None:
    """Have the dicts of this class's objects share their keys, which is a KiB less for each.

    CPython decides on that while the first thirty or so are made: when as many clients connect together, no request has been
    read by then.
    """
    if hasattr(cls, "__del__"):
        return  # It counts on more than is done here.
    try:
        first: object = object.__new__(cls)
    except TypeError:
        return  # It is something built in as well.
    for name in cls._kept:
        # Somebody's own property counts on more, too.
        if not hasattr(inspect.getattr_static(cls, name, None), "__set__"):
            object.__setattr__(first, name, None)


def _message_of(head: Head) -> Any:
    message: Any = OldMessage()
    message._headers = list(head.fields)  # Where the parser would have put them.
    return message


def _nothing(buffer: object) -> None:
    """In the place of `readinto`, where there is nothing more to read."""


class Client:
    """An entry of `server.clients`, as gevent-websocket has them. Programs hang attributes of their own on it."""

    def __init__(self, address: Any, ws: WebSocket) -> None:
        self.address = address
        self.ws = ws


class WebSocketHandler(WSGIHandler):
    """Gives every valid upgrade request a `WebSocket` in `environ["wsgi.websocket"]`; the rest is ordinary HTTP.

    ::

        WSGIServer(("", 5000), app, handler_class=WebSocketHandler).serve_forever()

    With other options: `handler_class=WebSocketHandler.configured(max_message_size=2**24)`.

    The application answers the handshake by using the WebSocket, or refuses it by calling `start_response`. When it returns,
    the connection is closed with 1000; when it raises, the traceback is logged and the connection closed with 1011. That
    it ended because the peer closed (`ConnectionClosed`) is no error.
    """

    options = WebSocketOptions()
    """The options of this class's connections."""

    websocket_class: type[WebSocket] | None = None
    """What is put into the environ: a subclass of `WebSocket` may override `handle_ping` and the like. None: `WebSocket`."""

    prevent_wsgi_call = False
    """True: only the handshake is done, the application is not called, and the caller drives `websocket`."""

    websocket: WebSocket | None = None
    """The WebSocket of this request; None if it is ordinary HTTP."""

    # pywsgi's own, always set while a request is handled; its stubs say less.
    server: Any
    application: Any
    environ: Any
    rfile: Any
    socket: Any
    wsgi_input: Any
    command: Any
    request_version: Any
    content_length: Any
    status: Any
    _orig_status: Any

    _upgraded = False
    # The request's head, if it was read at once, and pywsgi's view of its fields for who asks: until a WebSocket is accepted.
    _head: Head | None = None
    _message: Any = None
    _head_timer: Timeout | None = None
    _head_begun = False
    # The address of the client that a proxy tells of, until its request has been logged.
    _client: str | None = None

    # What an object gets that waits for messages. CPython shares the keys of 29 attributes among the objects of a class,
    # and 3.10 only for as long as they get them in this order.
    _kept: ClassVar[tuple[str, ...]] = (
        "socket",
        "client_address",
        "server",
        "rfile",
        "_head_timer",
        "_head",
        "requestline",
        "command",
        "path",
        "request_version",
        "content_length",
        "close_connection",
        "environ",
        "wsgi_input",
        "application",
        "time_start",
        "status",
        "result",
        "headers_sent",
        "response_use_chunked",
        "connection_upgraded",
        "response_length",
        "websocket",
        "_upgraded",
        "_message",
        "_orig_status",
        "code",
        "time_finish",
        "_client",
    )

    # Whether a class leaves the reading of heads to this one: it is done in one go, without all that pywsgi does bit by bit.
    # And whether it leaves to this one what pywsgi does around an application: a WebSocket is served without that. None is
    # "not looked at yet", for those too that are changed after they are made.
    _at_once: bool | None = None
    _direct: bool | None = None
    # For subclasses of our own: whether what this very class overrides asks for nothing that pywsgi does for the reading.
    _reads_nothing = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._at_once = cls._direct = None
        _share_keys(cls)

    @classmethod
    def _look_at_class(cls) -> None:
        """Find out what there is to be heeded."""
        strangers = [base for base in cls.__mro__ if base not in (WebSocketHandler, WSGIHandler)]
        changed = any(vars(base).get(name) is not found for base, name, found in _ORIGINALS)
        around = {name for base in strangers for name in vars(base)}
        reading = {name for base in strangers if not vars(base).get("_reads_nothing") for name in vars(base)}
        cls._at_once = not changed and _PYWSGIS.isdisjoint(reading)
        cls._direct = not changed and _PYWSGIS.isdisjoint(around) and "get_environ" not in around

    @classmethod
    def configured(
        cls: type[HandlerClass], options: WebSocketOptions | None = None, **changes: Any
    ) -> type[HandlerClass]:
        """A handler class with these options: `options`, or this class's own, with the fields of `changes` changed.

        Raises:
            ValueError, TypeError: as `WebSocketOptions` does.
        """
        return type(cls.__name__, (cls,), {"options": choose_options(options, changes, cls.options)})

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        if self._at_once is None:
            self._look_at_class()
        if rfile is not None:
            self._at_once = False
        else:
            rfile = Incoming(sock)
            if not self._at_once or type(sock) is not socket:
                rfile = rfile.buffered()  # What TLS holds cannot be looked at without taking it.
        super().__init__(sock, address, server, rfile)  # type: ignore[call-arg]  # not in gevent's stubs

    def handle(self) -> None:
        """From the server: handle a TCP connection until its end."""
        try:
            try:
                if self._at_once and self._direct and not self.prevent_wsgi_call and self._begins_with_websocket():
                    # Here: pywsgi's frames would be kept for as long as the WebSocket lasts.
                    self._serve_websocket()
                    self.rfile = _CLOSED
            except BaseException:
                self.rfile = _CLOSED
                raise
            finally:
                if self.socket is not None:
                    super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # The client left before it could be told what was wrong with its request.
        finally:
            if self.prevent_wsgi_call:
                # Nobody else has: whoever calls this has driven it.
                self._leave(OpenConnections.of(self.server))
            self.websocket = None

    def handle_one_request(self) -> Any:
        """One request. A client that does not get its head together within `handshake_timeout` is answered 408."""
        try:
            return super().handle_one_request()
        except Timeout as timeout:
            if timeout is not self._head_timer:
                raise
            self.status = "408"
            # A client that has not even begun to ask is not told: browsers open connections for later.
            return ("408", _REQUEST_TIMEOUT) if self._head_begun else None
        finally:
            self._stop_head_timer()

    # The head of the request.

    def _begins_with_websocket(self) -> bool:
        """Wait for the first request, and read its head if it asks for a WebSocket and for nothing out of the ordinary."""
        try:
            octets = self._peek_now() or self._wait_for_head()
        except Timeout as timeout:
            if timeout is not self._head_timer:
                raise
            octets = b""
        except OSError:
            octets = b""
        if not octets:
            # Nothing has come in time, or nothing will: browsers open connections for later.
            self._stop_head_timer()
            self.rfile = _CLOSED
        head = self._head = read_head(octets)
        if head is None or not self._is_for_websocket(head):
            return False
        self._take_head(head)
        self.read_request(head.line)
        return True

    def read_requestline(self) -> str:
        """From pywsgi: read the request line, and here the rest of the head with it if all is there."""
        if self._message is not None:
            self._message = None
        head, octets = self._head, b""
        if head is None or head.taken:
            self._head = head = None  # It may be long until there is another one.
            octets = self._peek_now() or self._wait_for_head()
            head = self._head = read_head(octets) if self._at_once else None
        if head is not None:
            self._take_head(head)
            return head.line
        if b"\r\n\r\n" not in octets:
            if not octets:
                return ""
            self._head_begun = True
            self._start_head_timer()
        self._buffer()
        line: str = super().read_requestline()
        return line

    def _take_head(self, head: Head) -> None:
        """Go on with this head, and have what comes behind it read next."""
        self._stop_head_timer()
        self.rfile.read1(head.size)
        head.taken = True

    def read_request(self, raw_requestline: str) -> Any:
        """From pywsgi: what the request line says, and the header fields."""
        head = self._head
        if head is None:
            return super().read_request(raw_requestline)
        self.requestline, self.command, self.path = head.line, head.method, head.path
        self.request_version = "HTTP/1.1"
        self.content_length = head.content_length
        self.close_connection = not head.persistent
        return True

    def MessageClass(self, *arguments: Any) -> Any:  # noqa: N802 (pywsgi's name)
        """From pywsgi: read the header fields, which end the head."""
        message = super().MessageClass(*arguments)
        self._stop_head_timer()
        return message

    @property
    def headers(self) -> Any:
        """The header fields as pywsgi has them, until a WebSocket is accepted; then there are none."""
        if self._message is None:
            if self._head is None:
                return WSGIHandler.headers
            self._message = _message_of(self._head)
        return self._message

    @headers.setter
    def headers(self, message: Any) -> None:
        self._message = message

    def get_environ(self) -> dict[str, Any]:
        """From pywsgi: the environ of this request, which tells of the client where a trusted proxy does."""
        head = self._head
        # A subclass may have changed the fields.
        if head is None or (self._message is not None and self._message.items() != head.fields):
            environ: dict[str, Any] = super().get_environ()
        else:
            environ = self._make_environ(head)
            if self._is_for_websocket(head):
                self.wsgi_input = _NO_BODY
            else:
                self._buffer()
                self.wsgi_input = Input(self.rfile, head.content_length)
                # As in pywsgi, who changes to another protocol reads what comes behind the request.
                environ["wsgi.input"] = self.rfile if head.upgrade else self.wsgi_input
        self._tell_of_client(environ)
        return environ

    def _make_environ(self, head: Head) -> dict[str, Any]:
        environ: dict[str, Any] = self.server.get_environ()
        head.fill(environ, self.client_address)
        environ["wsgi.input"] = io.BytesIO()
        environ["wsgi.input_terminated"] = not head.upgrade
        return environ

    def _tell_of_client(self, environ: dict[str, Any]) -> None:
        """Put in what trusted proxies say."""
        proxies = self.options.proxies
        if proxies is not None:
            forwarded.apply(environ, proxies)
            self._client = environ.get("REMOTE_ADDR")

    def _is_for_websocket(self, head: Head) -> bool:
        """Whether it is a WebSocket that is asked for, and nobody may think of something else."""
        return (
            wants_websocket(head.upgrade_field)
            and head.content_length is None
            and getattr(self.server, "pre_start_hook", None) is None
        )

    def _peek_now(self) -> bytes:
        """What is there of the next request already, nearly always all of its head: then nothing has to be timed."""
        reader = self.rfile
        if type(reader) is Incoming:
            return reader.peek_now()
        socket = self.socket
        timeout = socket.gettimeout()
        socket.settimeout(0.0)
        try:
            octets: bytes = reader.peek(1)
        except OSError:
            return b""  # TLS has an error of its own for "nothing yet"; a real one comes again to who waits.
        finally:
            socket.settimeout(timeout)
        return octets

    def _buffer(self) -> None:
        """More is to be read than a head in one piece, by pywsgi or by the application."""
        if type(self.rfile) is Incoming:
            self.rfile = self.rfile.buffered()

    def _wait_for_head(self) -> bytes:
        if self.requestline is None:
            # It is the first. Between two requests a client may keep the connection as long as it likes.
            self._start_head_timer()
        idle = OpenConnections.of(self.server).idle
        idle.add(self)
        try:
            octets: bytes = self.rfile.peek(1)
        finally:
            idle.discard(self)
        return octets

    def _start_head_timer(self) -> None:
        if self._head_timer is None and self.options.handshake_timeout is not None:
            self._head_timer = Timeout.start_new(self.options.handshake_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.close()
            self._head_timer = None

    def _handle_client_error(self, ex: BaseException) -> Any:
        if isinstance(ex, HTTPException):
            self.log_error("(from %s) %s", self.client_address, ex)
            return "431", _TOO_MANY_HEADERS
        return super()._handle_client_error(ex)  # type: ignore[misc]  # documented by gevent, not in its stubs

    # The opening handshake.

    def run_application(self) -> None:
        hook = getattr(self.server, "pre_start_hook", None)
        if not (hook is not None and hook(self)) and wants_websocket(self.environ.get("HTTP_UPGRADE")):
            self._run_websocket()
        else:
            if self.wsgi_input is _NO_BODY:
                # Somebody has changed his mind, and the environ: it is ordinary HTTP after all.
                self._buffer()
                self.wsgi_input = self.environ["wsgi.input"] = Input(self.rfile, None)
            scoped = self.options.cooperative == "requests"
            with surroundings(f"{self.command} {self.path}", self.options, scoped):
                super().run_application()

    def _serve_websocket(self) -> None:
        """A request that has been read: as pywsgi serves it, and without what only ordinary HTTP needs."""
        assert self._head is not None
        self.environ = self._make_environ(self._head)
        self._tell_of_client(self.environ)
        self.wsgi_input = _NO_BODY
        self.application = self.server.application
        self.time_start = time()
        self.status = self.result = None
        self.headers_sent = self.response_use_chunked = self.connection_upgraded = False
        self.response_length = 0
        try:
            self._run_websocket()
        except BaseException as error:
            # As pywsgi has it: that the client has gone is no mistake, and the end of a greenlet not one of this program.
            if not (isinstance(error, OSError) and error.args and error.args[0] in self.ignored_socket_errors):
                self.handle_error(*sys.exc_info())
        finally:
            self.time_finish = time()
            self.log_request()

    def _run_websocket(self) -> None:
        connections, environ = OpenConnections.of(self.server), self.environ
        address = environ.get("REMOTE_ADDR", "")
        try:
            request = read_request(self.command, self.request_version, header_of(environ))
            connections.admit(address, self.options)
        except HandshakeError as error:
            self._refuse(error)
            return
        websocket = self._make_websocket(request)
        connections.add(websocket, address)
        websocket.after_close = connections.remove
        if self.prevent_wsgi_call:
            websocket.accept()
            return
        self._clients[self._client_key] = Client(self.client_address, websocket)
        try:
            try:
                with (
                    surroundings(websocket, self.options, bool(self.options.cooperative)),
                    Call(websocket, self._refuse),
                ):
                    self._call_application(websocket)
            finally:
                self._forget_client(websocket)
            if self._upgraded:
                websocket.close()
        finally:
            self._leave(connections)

    def _make_websocket(self, request: OpeningRequest) -> WebSocket:
        environ = self.environ
        options = options_for(self.application, environ["PATH_INFO"], self.options)
        # Looked up when it is needed: old programs put a class of their own in the place of the module's.
        websocket = (self.websocket_class or WebSocket)(environ, request, self._switch_protocols, options, self)
        self.websocket = websocket
        self._upgraded = False
        # The request has no body, though gevent lets an upgrade's application read what comes behind it, and wait for that.
        environ["wsgi.input"] = io.BytesIO()
        environ["wsgi.input_terminated"] = True
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = request.version
        return websocket

    def _refuse(self, error: HandshakeError) -> None:
        """Answer the handshake with the HTTP response that `error` stands for."""
        logger.info("Refused a WebSocket for %s on %s: %s", self._client or self.client_address, self.path, error)
        body = f"{error}\n".encode()
        fields = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *error.headers]
        self.start_response(error.status, fields)
        self.write(b"" if self.command == "HEAD" else body)
        # What the client may send behind its request, a body above all, is neither waited for nor taken for HTTP.
        self.wsgi_input = _NO_BODY
        self.close_connection = True

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], Any]:
        """WSGI's: before the handshake is accepted it refuses it; afterwards there is nobody to respond to."""
        if self._upgraded:
            answered_too_late(self.websocket, status, exc_info)
            return self.write
        if self.websocket is None and not wants_websocket((self.environ or {}).get("HTTP_UPGRADE")):
            write: Callable[[bytes], Any] = super().start_response(status, headers, exc_info)
            return write
        fields = [field for field in headers if field[0].lower() != "connection"]
        write = super().start_response(status, [*fields, ("Connection", "close")], exc_info)
        self.close_connection = True
        return write

    def write(self, data: bytes) -> None:
        if self._upgraded:
            return
        if self.websocket is not None and not self.headers_sent:
            self.websocket.refused(str(self._orig_status))
        super().write(data)

    def _switch_protocols(self, listener: Listener) -> tuple[GeventTransport, bytes]:
        """The application takes the connection: hand over the socket."""
        if self.status is not None and not str(self._orig_status).startswith("2"):
            raise InvalidState(f"start_response has refused the opening handshake already, with {self._orig_status}")
        OpenConnections.of(self.server).check_draining()
        transport = GeventTransport(self.socket, listener)
        read_ahead = self._take_read_ahead()
        self._upgraded = True
        self.close_connection = True
        self.headers_sent = True
        self.response_use_chunked = False
        self.status = b"101 Switching Protocols"
        self._orig_status = "101 Switching Protocols"
        self.code = 101
        return transport, read_ahead

    def _take_read_ahead(self) -> bytes:
        """The bytes that came in behind the request. The reader goes, with its buffer: the transport reads from now on."""
        reader = self.rfile
        if type(reader) is not Incoming:
            reader.raw.readinto = _nothing  # What is still in the socket is the transport's.
        read_ahead: bytes = reader.read1(io.DEFAULT_BUFFER_SIZE)
        self.rfile = _CLOSED
        self.wsgi_input = _NO_BODY
        self._head = self._message = None  # As long as the connection lasts, they are in the environ.
        return read_ahead

    # The application.

    def _call_application(self, websocket: WebSocket) -> None:
        try:
            self.result = self.application(self.environ, self.start_response)
            if self.result is None and self._upgraded:
                self.result = ()  # Old programs return nothing.
            self.process_result()
            if websocket.state is State.CONNECTING:
                websocket.accept()
        finally:
            close = getattr(self.result, "close", None)
            self.result = None
            if close is not None:
                close()

    def _leave(self, connections: OpenConnections) -> None:
        """The WebSocket has been served: nothing of it stays behind."""
        websocket = self.websocket
        if websocket is None:
            return
        websocket.hang_up()
        connections.remove(websocket)
        if self._upgraded:
            self.socket = None  # It is closed: pywsgi need not try it.
        if self.environ is not None:
            self.environ["wsgi.websocket"] = None

    def _forget_client(self, websocket: WebSocket) -> None:
        # Not those of before: a program may have exchanged them.
        clients, key = self._clients, self._client_key
        client = clients.get(key)
        if client is not None and client.ws is websocket:
            del clients[key]

    # What programs written for gevent-websocket look at.

    @property
    def _clients(self) -> dict[Any, Client]:
        clients: dict[Any, Client] | None = getattr(self.server, "clients", None)
        if clients is None:
            clients = self.server.clients = {}
        return clients

    @property
    def _client_key(self) -> Any:
        # On a Unix socket all clients have the same address.
        return self.client_address or f"client {id(self)}"

    @property
    def active_client(self) -> Client:
        """This connection's entry in `server.clients`."""
        return self._clients[self._client_key]

    @property
    def logger(self) -> logging.Logger:
        """The logger that handlers write to."""
        return logger

    # The access log.

    def log_request(self) -> None:
        # For a log that nobody wants no line is made either.
        if not isinstance(self.server.log, _NoLog):
            super().log_request()

    def format_request(self) -> str:
        """The line for the access log; for a WebSocket, when it has ended, with its close code and what went through it."""
        if not self._upgraded or self.websocket is None:
            return self._format_http_request()
        received, bytes_received, sent, self.response_length = self.websocket.counts
        line = self._format_http_request()
        return f"{line} close={self.websocket.close_code} in={received}/{bytes_received}B out={sent}/{self.response_length}B"

    def _format_http_request(self) -> str:
        """pywsgi's line, with the client in the place of its proxy."""
        peer = self.client_address
        self.client_address, self._client = self._client or peer, None
        try:
            line: str = super().format_request()
        finally:
            self.client_address = peer
        return line


_share_keys(WebSocketHandler)

_ORIGINALS = [
    (base, name, vars(base).get(name))
    for base in (WSGIHandler, WebSocketHandler)
    for name in (*_PYWSGIS, "get_environ")
]
