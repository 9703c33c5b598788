"""`Resource` and `WebSocketApplication`: the class-based way of gevent-websocket, for programs written for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

from .exceptions import ConnectionClosed
from .protocol import State
from .protocols.base import BaseProtocol
from .websocket import WebSocket

__all__ = ["Resource", "WebSocketApplication"]

App = Callable[..., Any]


class WebSocketApplication:
    """One connection as an object: override `on_open`, `on_message` and `on_close`. Send with `self.ws.send`."""

    protocol_class: type[BaseProtocol] = BaseProtocol

    def __init__(self, ws: WebSocket) -> None:
        self.protocol = self.protocol_class(self)
        self.ws = ws

    def handle(self) -> None:
        """Serve the connection until it is closed. `on_close` is called whatever ends it."""
        try:
            self.protocol.on_open()
            for message in self.ws:
                self.protocol.on_message(message)
        except ConnectionClosed:
            if self.ws.state is State.OPEN:
                raise  # It is another connection's end, which the application has not reckoned with.
        finally:
            self.protocol.on_close(self.ws.close_reason or None)

    def on_open(self, *args: Any, **kwargs: Any) -> None:
        """The connection is there."""

    def on_message(self, message: str | bytes, *args: Any, **kwargs: Any) -> None:
        """A message came in. Sends it back, unless overridden."""
        self.ws.send(message, **kwargs)

    def on_close(self, *args: Any, **kwargs: Any) -> None:
        """The connection is closed; the reason that the peer gave, or None, is the argument."""

    @classmethod
    def protocol_name(cls) -> str:
        """The subprotocol of this application; empty for none."""
        return cls.protocol_class.PROTOCOL_NAME


class Resource:
    """A WSGI application that picks another by path: `Resource([("^/chat", Chat), ("^/", static_app)])`.

    The first regular expression that matches the beginning of the path, with an application of the right kind, wins: an
    upgrade request wants a `WebSocketApplication` (or what `_is_websocket_app` says is one), any other a WSGI application.
    Where nothing matches the answer is 404.

    Args:
        apps: pairs of regular expression and application, in order; or a dict of them.

    Raises:
        TypeError: `apps` is neither.
    """

    @overload
    def __init__(self, apps: Mapping[str, App]) -> None: ...

    @overload
    def __init__(self, apps: Iterable[tuple[str, App]] | None = None) -> None: ...

    def __init__(self, apps: Mapping[str, App] | Iterable[tuple[str, App]] | None = None) -> None:
        pairs = apps.items() if isinstance(apps, Mapping) else apps or ()
        self.apps: Sequence[tuple[str, App]] = [_check_pair(pair) for pair in pairs]

    def _is_websocket_app(self, app: App) -> bool:
        """To override, for applications that handle WebSockets without being a `WebSocketApplication`."""
        return isinstance(app, type) and issubclass(app, WebSocketApplication)

    def _app_by_path(self, path: str, is_websocket_request: bool) -> App | None:
        for pattern, app in self.apps:
            if re.match(pattern, path) and self._is_websocket_app(app) == is_websocket_request:
                return app
        return None

    def app_protocol(self, path: str) -> str:
        """The subprotocol of the application for `path`; empty for none."""
        app = self._app_by_path(path, True)
        protocol_name = getattr(app, "protocol_name", None)
        return protocol_name() if protocol_name is not None else ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ws = environ.get("wsgi.websocket")
        path = environ.get("PATH_INFO", "")
        app = self._app_by_path(path, ws is not None)
        if app is None:
            return _not_found(path, start_response)
        if ws is None:
            response: Iterable[bytes] = app(environ, start_response)
            return response
        current = app(ws)
        current.ws = ws
        environ["geventws.current_app"] = current
        current.handle()
        return []


def _check_pair(pair: tuple[str, App]) -> tuple[str, App]:
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str) and callable(pair[1])):
        raise TypeError(f"an entry of a Resource is a regular expression and an application; got {pair!r}")
    re.compile(pair[0])
    return pair[0], pair[1]


def _not_found(path: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = f"There is nothing at {path}.\n".encode()
    fields = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response("404 Not Found", fields)
    return [body]
