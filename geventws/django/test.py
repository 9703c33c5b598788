"""Django's test client for WebSockets, and the test cases that have it. What is not Django's is in `geventws.testing`.

::

    class ChatTests(WebSocketTestCase):
        def test_echo(self):
            self.client.force_login(self.user)
            with self.client.websocket("/ws/5/") as ws:
                ws.send("Hello")
                self.assertEqual(ws.receive(), "Hello")
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import gevent
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.db import connections
from django.test import Client, LiveServerTestCase, TestCase, TransactionTestCase
from django.test.testcases import LiveServerThread
from django.utils.functional import classproperty
from gevent.event import Event

from ..options import DeflateOptions
from ..server import WebSocketServer
from ..testing import Application, Refused, WebSocketUnderTest
from .database import lend

__all__ = [
    "Refused",
    "WebSocketClient",
    "WebSocketLiveServerTestCase",
    "WebSocketStaticLiveServerTestCase",
    "WebSocketTestCase",
    "WebSocketTestMixin",
    "WebSocketTransactionTestCase",
    "WebSocketUnderTest",
]


class WebSocketClient(Client):
    """Django's test client, with `websocket`. Its cookies go with the request; `login` and `force_login` work."""

    timeout: float = 5.0
    """Seconds for which a view is waited for."""

    _application: Any = None

    def websocket(
        self,
        path: str,
        data: Mapping[str, Any] | None = None,
        *,
        subprotocols: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        secure: bool = False,
        compression: bool | DeflateOptions = False,
        timeout: float | None = None,
        **extra: Any,
    ) -> WebSocketUnderTest:
        """Open a WebSocket to the view at `path`.

        The view runs whenever the test waits for it. In a `TestCase` it uses the test's database connections, inside the
        test's transaction; in a `TransactionTestCase` it has its own, as in production.

        Args:
            path: of the URL; `reverse("chat", args=[5])` gives one.
            data: the query, as for `get`.
            subprotocols: those that are offered, the preferred one first.
            headers: more header fields: `{"accept-language": "de"}`.
            origin: as of a page in a browser, "https://testserver". Without one the request comes from no page.
            secure: as if it came over TLS.
            timeout: seconds for which the view is waited for; `self.timeout` by default.
            extra: entries of the environ, as for `get`: `REMOTE_ADDR="192.0.2.1"`.

        Raises:
            Refused: the view, a middleware or the server has answered with something else; its `response` is Django's.
            TimeoutError: the view has not answered; the text says at which line it is.
            Exception: whatever the view raised, unless `raise_request_exception` is off.
        """
        environ = {**self.defaults, **extra}
        host = environ.pop("HTTP_HOST", None) or environ.get("SERVER_NAME", "testserver")
        fields = _take_header_fields(environ)
        fields.update({name.lower(): value for name, value in (headers or {}).items()})
        if self.cookies:
            fields["cookie"] = "; ".join(f"{morsel.key}={morsel.coded_value}" for morsel in self.cookies.values())
        environ["wsgi.url_scheme"] = "https" if secure else "http"
        if data:
            path += ("&" if "?" in path else "?") + urlencode(data, doseq=True)
        application = _Application(self._wsgi_application(), environ, self.raise_request_exception)
        patience = self.timeout if timeout is None else timeout
        try:
            ws = application.connect(path, subprotocols, fields, None, origin, host, compression, None, patience)
        except Refused as refusal:
            self._keep_cookies(value for name, value in refusal.headers if name.lower() == "set-cookie")
            raise
        self._keep_cookies(ws.headers.get_all("Set-Cookie", ()))
        return ws

    def _wsgi_application(self) -> Any:
        if self._application is None:
            self._application = WSGIHandler()
        return self._application

    def _keep_cookies(self, cookies: Iterable[str]) -> None:
        for cookie in cookies:
            self.cookies.update(SimpleCookie(cookie))


def _take_header_fields(environ: dict[str, Any]) -> dict[str, str]:
    """What of an environ is header fields: they are sent as such."""
    keys = [key for key in environ if key.startswith("HTTP_")]
    return {key[5:].replace("_", "-").lower(): environ.pop(key) for key in keys}


class _Application(Application):
    """Django on one connection, with the test's database connections."""

    def __init__(self, app: Any, environ: dict[str, Any], raise_exceptions: bool) -> None:
        super().__init__(app, {**environ, _MARK: self})
        self._raise_exceptions = raise_exceptions
        self._lent = [connection for connection in connections.all() if _belongs_to_test(connection)]

    def call(self, environ: dict[str, Any], start_response: Any) -> Any:
        lend(self._lent)
        got_request_exception.connect(self._store_exception, dispatch_uid=id(self))
        try:
            return super().call(environ, start_response)
        finally:
            got_request_exception.disconnect(dispatch_uid=id(self))

    def _store_exception(self, request: Any = None, **_: Any) -> None:
        if self._raise_exceptions and request is not None and request.META.get(_MARK) is self:
            self.error = sys.exc_info()[1]


_MARK = "geventws.django.test"


def _belongs_to_test(connection: Any) -> bool:
    """Whether the view is to use the very connection of the test: what that has in it is to be seen nowhere else."""
    if connection.in_atomic_block:
        return True  # A TestCase's, whose transaction is never committed.
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        return True
    # One that the test may not use. Nor may the view, and the test's is the one that says so.
    return type(connection.connect).__name__ == "_DatabaseFailure"


class WebSocketTestMixin:
    """For test cases of your own: `self.client` is a `WebSocketClient`."""

    client_class = WebSocketClient
    client: WebSocketClient


class WebSocketTestCase(WebSocketTestMixin, TestCase):
    """`django.test.TestCase` with `self.client.websocket(...)`. Views work inside the test's transaction."""


class WebSocketTransactionTestCase(WebSocketTestMixin, TransactionTestCase):
    """`django.test.TransactionTestCase` with `self.client.websocket(...)`. Views have connections and commits of their own."""


class _WebSocketServerThread(LiveServerThread):
    """A server with WebSockets in the place of Django's."""

    port: int
    _ending: Event
    _hub: Any = None

    def run(self) -> None:
        try:
            server = WebSocketServer((self.host, self.port), self._application(), log=None, cooperative="requests")
            server.start()
            self.port = server.server_port or 0
            self._ending, self._hub = Event(), gevent.get_hub()
            self.is_ready.set()
            self._ending.wait()
            server.stop(2)
        except Exception as error:
            self.error = error
            self.is_ready.set()
        finally:
            connections.close_all()

    def _application(self) -> Any:
        # Static files and media as in Django's own: its handlers are found where it keeps them.
        media: Any = sys.modules[LiveServerThread.__module__]._MediaFilesHandler
        handler = self.static_handler(media(WSGIHandler()))
        lent = list((self.connections_override or {}).values())

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            lend(lent)
            return handler(environ, start_response)

        return application

    def terminate(self) -> None:
        if self._hub is not None:
            self._hub.loop.run_callback_threadsafe(self._ending.set)
        self.join()


class WebSocketLiveServerTestCase(WebSocketTestMixin, LiveServerTestCase):
    """`django.test.LiveServerTestCase` whose server carries WebSockets: for tests with a browser.

    `live_websocket_url` is its address with ws://. Views have connections and commits of their own, as in any
    LiveServerTestCase.
    """

    server_thread_class = _WebSocketServerThread

    @classproperty
    def live_websocket_url(cls) -> str:  # noqa: N805 (of the class, as Django's live_server_url)
        """Where the server is: "ws://localhost:51234"."""
        return f"ws://{cls.host}:{cls.server_thread.port}"


class WebSocketStaticLiveServerTestCase(WebSocketLiveServerTestCase):
    """The same, serving the static files of all apps without `collectstatic`, as StaticLiveServerTestCase does."""

    static_handler = StaticFilesHandler
