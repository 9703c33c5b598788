"""`WebSocketServer`: gevent's WSGI server with WebSockets, their options, and a polite way to stop.

`StreamServer` is the same for a script that has no WSGI application. What is said on a connection is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import gevent.ssl
from gevent import Timeout
from gevent.pywsgi import WSGIServer

from .codes import CloseCode
from .connections import OpenConnections
from .handler import Client, WebSocketHandler
from .options import WebSocketOptions
from .websocket import WebSocket

__all__ = ["StreamServer", "WebSocketServer"]


class WebSocketServer(WSGIServer):
    """`gevent.pywsgi.WSGIServer` with `WebSocketHandler`, which closes its WebSockets when it is stopped.

    ::

        WebSocketServer(("", 5000), app, max_message_size=2**24).serve_forever()

    Args:
        listener: address to bind, or a listening socket, as for `WSGIServer`.
        application: the WSGI application.
        options: the options of the connections; any field of `WebSocketOptions` may be given by its name as well.
        drain_timeout: seconds that `stop` waits for handlers to end.
        debug: kept for programs written for gevent-websocket; set the level of the logger "geventws" instead.
        pre_start_hook: called with the handler of each request; what it returns, if true, makes it ordinary HTTP.
        arguments: as for `WSGIServer`: `log`, `spawn`, `keyfile`, `certfile`, `ssl_context` ...

    Raises:
        TypeError: an `ssl_context` that is not gevent's: its connections would block all others.
        ValueError: an option out of its range.
        OSError: the certificate or its key cannot be read, or do not fit.
    """

    handler_class = WebSocketHandler

    def __init__(
        self,
        listener: Any,
        application: Any = None,
        *,
        options: WebSocketOptions | None = None,
        drain_timeout: float = 10.0,
        debug: bool = False,
        pre_start_hook: Callable[[WebSocketHandler], object] | None = None,
        **arguments: Any,
    ) -> None:
        changes = {name: arguments.pop(name) for name in WebSocketOptions.names() & arguments.keys()}
        handler_class = arguments.pop("handler_class", None) or self.handler_class
        if options is not None or changes:
            handler_class = handler_class.configured(options, **changes)
        for name in arguments.keys() - _SERVER_ARGUMENTS:
            raise TypeError(f"{name} is neither an argument of WSGIServer nor an option of WebSockets")
        _settle_tls(arguments)
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        self.drain_timeout = drain_timeout
        self.clients: dict[Any, Client] = {}
        self.websockets = OpenConnections()
        super().__init__(listener, application, handler_class=handler_class, **arguments)
        self._wrap: Any = getattr(self, "wrap_socket", None)

    def start(self) -> None:
        """Start accepting connections."""
        self.websockets.draining = False
        super().start()

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close all WebSockets with 1001, and wait for their handlers.

        Upgrade requests on connections that are still there are answered 503. After `timeout` seconds (by default
        `drain_timeout`) what has not ended is cut off. Nothing is open afterwards.
        """
        self.websockets.draining = True
        # The listening socket goes first: who comes now is refused at once, or finds the next server.
        self.close()
        started = monotonic()
        patience = self.drain_timeout if timeout is None else timeout
        self.websockets.drain(patience, CloseCode.GOING_AWAY, "server stops")
        super().stop(max(patience - (monotonic() - started), 0))

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        """TLS: a client that does not get through with its handshake in time is dropped, as one is that trickles headers."""
        socket = self._wrap(client_socket, **{**(self.ssl_args or {}), "do_handshake_on_connect": False})
        try:
            if self._do_tls_handshake(socket):
                return self.handle(socket, address)
        finally:
            socket.close()

    def _do_tls_handshake(self, socket: Any) -> bool:
        timeout = Timeout.start_new(self.handler_class.options.handshake_timeout)
        try:
            socket.do_handshake()
        except Timeout as error:
            if error is not timeout:
                raise
            return False
        except OSError:
            return False  # It speaks no TLS, or none that we do, or does not trust us, or is gone.
        finally:
            timeout.close()
        return True


class StreamServer(WebSocketServer):
    """A server of WebSockets and nothing else, for scripts without WSGI: `handle(ws)` for each connection, in a greenlet.

    ::

        def echo(ws):
            for message in ws:
                ws.send(message)

        StreamServer(("", 5000), echo).serve_forever()

    `handle` answers the handshake by using the WebSocket (`ws.accept(subprotocol=...)` chooses one), or refuses it by raising
    `HandshakeError("403 Forbidden", "why")`. When it returns, the connection is closed with 1000; when it raises, the
    traceback is logged and the connection closed with 1011. A request that asks for no WebSocket is answered 426.

    The `handle` method of this server, or of any `WebSocketServer`, takes sockets from elsewhere, too. Then it need not be
    started, only stopped, which closes its connections. So a `gevent.server.StreamServer`, or a program that tells several
    protocols on one port apart, hands over what speaks HTTP::

        sockets = StreamServer(0, echo)         # 0: never bound
        listening = gevent.server.StreamServer(("", 5000), sockets.handle)
        listening.serve_forever()
        sockets.stop()

    (A WSGI application may want `WebSocketServer(0, app, environ={"SERVER_NAME": "example.com", "SERVER_PORT": "5000"})`: a
    server that is not started does not know its name.)

    Args:
        listener: address to bind, or a listening socket, as for `WebSocketServer`.
        handle: called with the `WebSocket` of each connection. What it returns is ignored.
        arguments: as for `WebSocketServer`: options by their names, `drain_timeout`, `spawn`, `certfile` ...

    Raises:
        TypeError: `handle` cannot be called; and as `WebSocketServer` does, with its ValueError and OSError.
    """

    def __init__(self, listener: Any, handle: Callable[[WebSocket], object], **arguments: Any) -> None:
        if not callable(handle):
            raise TypeError(f"handle is called with the WebSocket of each connection; got {handle!r}")
        super().__init__(listener, _application(handle), **arguments)


_NO_WEBSOCKET = (
    b"There are only WebSockets here: the request has to carry Upgrade: websocket, as ws:// URLs make clients do.\n"
)


def _application(handle: Callable[[WebSocket], object]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application that is nothing but `handle`."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ws = environ.get("wsgi.websocket")
        if ws is not None:
            handle(ws)
            return []
        # RFC 9110 section 15.5.22: the answer MUST say what to upgrade to; section 7.8: and Connection names that field.
        fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Content-Type", "text/plain; charset=utf-8")]
        start_response("426 Upgrade Required", [*fields, ("Content-Length", str(len(_NO_WEBSOCKET)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [_NO_WEBSOCKET]

    return application


def _settle_tls(arguments: dict[str, Any]) -> None:
    """Have one context, of gevent, for all connections.

    With a bare `certfile` gevent would make a new context for each connection, reading the files and allowing protocols
    that have long been given up.
    """
    context = arguments.get("ssl_context")
    if context is not None and not isinstance(context, gevent.ssl.SSLContext):
        raise TypeError(
            f"ssl_context is a {type(context).__module__}.{type(context).__name__}, whose connections would block all "
            "others: make it with gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)"
        )
    if arguments.get("certfile") and not arguments.keys() & _OTHER_TLS_ARGUMENTS:
        context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.pop("certfile"), arguments.pop("keyfile", None))
        arguments["ssl_context"] = context


_SERVER_ARGUMENTS = {
    *("backlog", "spawn", "log", "error_log", "environ"),
    *("ssl_context", "keyfile", "certfile", "cert_reqs", "ssl_version", "ca_certs", "ciphers"),
    *("server_side", "server_hostname", "suppress_ragged_eofs", "do_handshake_on_connect"),
}
_OTHER_TLS_ARGUMENTS = {"ssl_context", "ssl_version", "cert_reqs", "ca_certs", "ciphers"}
