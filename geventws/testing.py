"""`connect`: a WebSocket to an application in the same process, for its tests. No port is opened, and no server started.

What the application sees is real: the bytes of a handshake and of frames on a socket pair, and `WebSocketHandler` on the
other end. What is one framework's about a test is in its own adapter (`geventws.django.test`).
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http.client import HTTPMessage
from types import TracebackType
from typing import Any
from urllib.parse import quote

import gevent
import gevent.socket

from . import client
from .codes import CloseCode
from .exceptions import ConnectionClosed, HandshakeError, HandshakeRefused
from .options import DeflateOptions, WebSocketOptions
from .server import WebSocketServer
from .websocket import WebSocket

__all__ = ["Application", "Refused", "WebSocketUnderTest", "connect"]

WSGIApplication = Callable[..., Any]

# What a URL's path and query may hold as they are; "%" above all, since what is encoded stays so.
_KEPT_IN_PATHS = "/?&=%:@!$'()*+,;~[]"
_ADDRESS = ("127.0.0.1", 50000)
_NOT_THE_APPLICATION = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (client, gevent))


def connect(
    app: WSGIApplication,
    path: str = "/",
    *,
    subprotocols: Iterable[str] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    host: str = "localhost",
    environ: Mapping[str, Any] | None = None,
    compression: bool | DeflateOptions = False,
    options: WebSocketOptions | None = None,
    timeout: float = 5.0,
) -> WebSocketUnderTest:
    """Open a WebSocket to the WSGI application `app`, as a client of its server would.

    ::

        with connect(app, "/echo") as ws:
            ws.send("Hello")
            assert ws.receive() == "Hello"

    The application runs in a greenlet of this thread: whenever the test waits for it, in a method of what is returned.

    Args:
        path: of the URL, with its query if there is one.
        subprotocols: those that are offered, the preferred one first.
        headers: more header fields of the request.
        cookies: values by their names.
        origin: as of a page in a browser. Without one the request comes from no page.
        host: as the request's `Host`, with a port if need be.
        environ: entries that are added to the application's environ, such as `{"REMOTE_ADDR": "192.0.2.1"}`.
        compression: as the client offers it.
        options: the server's, by default those that servers have by default.
        timeout: seconds for which the application is waited for, here and, if nothing else is said, in every method.

    Raises:
        Refused: the application, or the server for it, has answered with something else than a WebSocket.
        TimeoutError: it has not answered; the text says at which line it is.
        Exception: whatever the application raised before it answered.
        ValueError, TypeError: an argument is not what it has to be.
    """
    application = Application(app, environ)
    return application.connect(path, subprotocols, headers, cookies, origin, host, compression, options, timeout)


class Refused(HandshakeRefused):
    """The opening handshake was answered with an ordinary HTTP response.

    `status` is "403 Forbidden", `status_code` 403, `headers` a list of pairs, `body` all of the body. `response` is what the
    application returned to the server: for frameworks whose responses are WSGI iterables, such as Django, the response.
    """

    def __init__(self, status: str, message: str, headers: list[tuple[str, str]], body: bytes, response: Any) -> None:
        super().__init__(status, message, headers, body)
        self.response = response

    @property
    def status_code(self) -> int:
        """The number in `status`."""
        return int(self.status.split()[0])


class Application:
    """An application on one connection, and what it did: its answer, its end, its exception. Frameworks derive from it."""

    def __init__(self, app: WSGIApplication, environ: Mapping[str, Any] | None = None) -> None:
        if not callable(app):
            raise TypeError(f"what is tested is a WSGI application; got {app!r}")
        self._app = app
        self._environ = dict(environ or {})
        self._greenlet: Any = None
        self._status: str | None = None
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._response: Any = None
        self.error: BaseException | None = None
        """What the application raised. The test gets it once, where it next waits for the application."""

    def connect(
        self,
        path: str,
        subprotocols: Iterable[str],
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
        cookies: Mapping[str, str] | None,
        origin: str | None,
        host: str,
        compression: bool | DeflateOptions,
        options: WebSocketOptions | None,
        timeout: float,
    ) -> WebSocketUnderTest:
        """As `geventws.testing.connect`."""
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        if cookies:
            fields.append(("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
        if not path.startswith("/"):
            raise ValueError(f"a path begins with a slash, as in '/echo'; got {path!r}")
        url = f"ws://{host}{quote(path, safe=_KEPT_IN_PATHS)}"
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "80")
        environ = {"SERVER_NAME": name, "SERVER_PORT": port}
        server = WebSocketServer(_ADDRESS, self, options=options, log=None, environ=environ)
        ours, theirs = gevent.socket.socketpair()
        self._greenlet = gevent.spawn(self._serve, server, theirs)
        try:
            websocket = client.connect(
                url,
                sock=ours,
                headers=fields,
                subprotocols=tuple(subprotocols),
                origin=origin,
                timeout=timeout,
                compression=compression,
                max_message_size=2**31,
                ping_interval=None,
            )
        except HandshakeRefused as error:
            raise self._refusal(error, path, timeout) from None
        except TimeoutError:
            self._raise_error()
            where = self.whereabouts()
            self._greenlet.kill(block=False)
            raise TimeoutError(f"the application has not answered the handshake within {timeout} s; {where}") from None
        except BaseException:
            self._greenlet.kill(block=False)
            raise
        return WebSocketUnderTest(websocket, self, timeout)

    def _serve(self, server: Any, sock: socket.socket) -> None:
        try:
            server.handle(sock, _ADDRESS)
        finally:
            sock.close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """The application, as the server calls it."""
        environ.update(self._environ)

        def answer(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self._status, self._headers = status, list(headers)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            self._response = result = self.call(environ, answer)
        except BaseException as error:
            self._raised(error)
            raise
        return None if result is None else _Watched(result, self._body, self._raised)

    def call(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """To override: around the call of the application, in its greenlet."""
        return self._app(environ, start_response)

    def _raised(self, error: BaseException) -> None:
        # How connections end, or are refused, is no failure of the application. That another server refused it may be one.
        ours = isinstance(error, HandshakeError) and not isinstance(error, HandshakeRefused)
        if not ours and not isinstance(error, ConnectionClosed | gevent.GreenletExit):
            self.error = error

    def _raise_error(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def check(self) -> None:
        """Raise what the application raised, once."""
        self._raise_error()

    def _refusal(self, error: HandshakeRefused, path: str, timeout: float) -> Refused:
        self._greenlet.join(timeout)
        self._raise_error()
        if self._status is None:
            # The server refused it.
            return Refused(error.status, str(error), list(error.headers), error.body, None)
        said = _shown(self._headers, b"".join(self._body))
        text = f"the application refused the WebSocket {path}: {self._status}{said}"
        return Refused(self._status, text, self._headers, b"".join(self._body), self._response)

    def wait(self, timeout: float) -> bool:
        """Wait for the application to end. Whether it has within `timeout` seconds."""
        self._greenlet.join(timeout)
        return bool(self._greenlet.dead)

    def kill(self) -> None:
        """End the application where it is."""
        self._greenlet.kill(timeout=1)

    def whereabouts(self) -> str:
        """Where the application is, as a line for an error."""
        frame = None if self._greenlet.dead else self._greenlet.gr_frame
        if frame is None:
            return "it has ended" if self._greenlet.dead else "it has not begun"
        stack = _in_the_application(traceback.extract_stack(frame))
        return "it is here (most recent call last):\n" + "".join(traceback.format_list(stack))


def _in_the_application(stack: Sequence[traceback.FrameSummary]) -> Sequence[traceback.FrameSummary]:
    """The part of `stack` between the server, which called the application, and what of ours or gevent's it waits in."""
    theirs = [number for number, entry in enumerate(stack) if not entry.filename.startswith(_NOT_THE_APPLICATION)]
    return stack[theirs[0] : theirs[-1] + 1] if theirs else stack


class _Watched:
    """A WSGI iterable whose body, and what it raises, are taken down."""

    def __init__(self, result: Any, body: list[bytes], raised: Callable[[BaseException], None]) -> None:
        self._result = result
        self._body = body
        self._raised = raised

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._result:
                self._body.append(piece)
                yield piece
        except BaseException as error:
            self._raised(error)
            raise

    def close(self) -> None:
        close = getattr(self._result, "close", None)
        if close is not None:
            close()


def _shown(headers: Iterable[tuple[str, str]], body: bytes) -> str:
    """What of an answer helps in the text of an error."""
    fields = {name.lower(): value for name, value in headers}
    if "location" in fields:
        return f", to be found at {fields['location']}"
    if fields.get("content-type", "").startswith("text/plain"):
        return f": {' '.join(body.decode('utf-8', 'replace').split())[:200]}"
    return ""


class WebSocketUnderTest:
    """The client's end of a WebSocket to an application under test. As a `WebSocket`, with a limit to every wait.

    Where the application has raised an exception, that is raised here by what next waits for it. On leaving a `with` block the
    connection is closed and the application's end waited for. For the greenlets of the thread that made it.
    """

    def __init__(self, websocket: WebSocket, application: Application, timeout: float) -> None:
        self.websocket = websocket
        """The WebSocket itself, with all that one has."""
        self.application = application
        self.timeout = timeout
        """Seconds for which the application is waited for."""

    @property
    def headers(self) -> HTTPMessage:
        """The header fields of the 101: `headers["Set-Cookie"]`, `headers.get_all("Set-Cookie")`."""
        message = HTTPMessage()
        for name, value in self.websocket.environ["geventws.response_headers"]:
            message[name] = value
        return message

    @property
    def subprotocol(self) -> str | None:
        """The one that the application has chosen."""
        return self.websocket.subprotocol

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or closing."""
        return self.websocket.closed

    @property
    def close_code(self) -> int | None:
        """The code with which the application, or its server, has closed the connection; None while it is open."""
        return self.websocket.close_code

    @property
    def close_reason(self) -> str:
        """The text that goes with `close_code`."""
        return self.websocket.close_reason

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """As `WebSocket.send`."""
        self.application.check()
        try:
            self.websocket.send(message, binary)
        except ConnectionClosed:
            self._ended()
            raise

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message; None, once, when the connection has closed, as `WebSocket.receive`.

        Args:
            timeout: seconds to wait for it; None for `self.timeout`.

        Raises:
            TimeoutError: none came; the text says at which line the application is.
            ConnectionClosed: None has been returned already.
            Exception: whatever the application raised, if that ended the connection.
        """
        patience = self.timeout if timeout is None else timeout
        try:
            message = self.websocket.receive(patience)
        except TimeoutError:
            self.application.check()
            where = self.application.whereabouts()
            raise TimeoutError(f"no message came from the application within {patience} s; {where}") from None
        except ConnectionClosed:
            self._ended()
            raise
        if message is None:
            self._ended()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages until the connection is closed; each is waited for `self.timeout` seconds."""
        while not self.websocket.closed:
            message = self.receive()
            if message is None:
                return
            yield message

    def ping(self, payload: bytes = b"") -> None:
        """As `WebSocket.ping`."""
        self.websocket.ping(payload)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection, and wait for the application to end.

        Raises:
            TimeoutError: it has not ended within `self.timeout` seconds; the text says at which line it is. It is killed.
            Exception: whatever the application raised.
        """
        self.websocket.start_closing(code, reason)
        if not self.application.wait(self.timeout):
            where = self.application.whereabouts()
            self.application.kill()
            raise TimeoutError(
                f"the application has not ended within {self.timeout} s after the connection was closed; {where}"
            )
        self.websocket.close()
        self.application.check()

    def _ended(self) -> None:
        """The connection is closed: is it because the application failed?"""
        self.application.wait(self.timeout)
        self.application.check()

    def __enter__(self) -> WebSocketUnderTest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:
                raise
            # The test has failed already, by what is to be seen first.

    def __repr__(self) -> str:
        state, code = self.websocket.state.name, self.websocket.close_code
        return f"<WebSocketUnderTest {state}{'' if code is None else f' {code}'} {self.websocket.path}>"
