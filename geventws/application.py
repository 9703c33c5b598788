"""Calls an application for a WebSocket, and decides what the way it ends means: for the peer, for the log, for the server.

How a request came in, and how an HTTP answer goes out, is the server's: `handler`, `middleware`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType

from gevent import GreenletExit, Timeout

from .codes import CloseCode
from .exceptions import ConnectionClosed, HandshakeError, HandshakeRefused
from .options import WebSocketOptions
from .protocol import State
from .scope import cooperative, in_scope
from .scope.membership import outside
from .watchdog import watched
from .websocket import WebSocket

__all__ = [
    "Call",
    "ExcInfo",
    "Headers",
    "answered_too_late",
    "options_for",
    "surroundings",
    "view_surroundings",
]

logger = logging.getLogger("geventws.handler")

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


def surroundings(subject: object, options: WebSocketOptions, scoped: bool) -> AbstractContextManager[object]:
    """What an application is called in: the cooperative scope, and a watch over how long it keeps others waiting."""
    scope = cooperative() if scoped else nullcontext()
    if options.warn_blocked is None:
        return scope
    both = ExitStack()
    both.enter_context(watched(subject, options.warn_blocked))
    both.enter_context(scope)
    return both


def view_surroundings(scoped: bool) -> AbstractContextManager[object]:
    """What a framework's view is called in: the server has called the framework in a scope or not before it knew the view."""
    if in_scope() == scoped:
        return nullcontext()
    return cooperative() if scoped else outside()


def options_for(application: object, path: str, options: WebSocketOptions) -> WebSocketOptions:
    """The options for a request of `path`. As in gevent-websocket, an application's `app_protocol` chooses its subprotocol."""
    app_protocol = getattr(application, "app_protocol", None)
    subprotocol = None if app_protocol is None else app_protocol(path)
    return options.replace(subprotocols=(subprotocol,)) if subprotocol else options


class Call:
    """Put around the call of an application, which uses `websocket` or answers with HTTP: decides what an exception means.

    One after the accept is logged, and the peer told with 1011; that the peer left is none. Afterwards the connection may
    still be open: closing it is the server's. What remains to be raised is

    - what the application raised before the handshake was accepted, or when it had refused it itself: the server deals
      with it as it always does;
    - GreenletExit and KeyboardInterrupt: it was ended from outside. The peer is told;
    - what is no Exception otherwise: it is nobody's business here.

    Args:
        refuse: answers with the HTTP response that an error before the accept stands for.
    """

    # Not a function that calls the application: its frame would be kept for as long as the connection lasts.
    __slots__ = ("_refuse", "_websocket")

    def __init__(self, websocket: WebSocket, refuse: Callable[[HandshakeError], object]) -> None:
        self._websocket = websocket
        self._refuse = refuse

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return error is not None and self._deals_with(error)

    def _deals_with(self, error: BaseException) -> bool:
        websocket = self._websocket
        if isinstance(error, GreenletExit | KeyboardInterrupt):
            websocket.start_closing(CloseCode.GOING_AWAY)
            return False
        if websocket.state is State.CONNECTING:
            # What another server has answered to the application is nothing for our client.
            if not isinstance(error, HandshakeError) or isinstance(error, HandshakeRefused):
                return False
            self._refuse(error)
            return True
        if isinstance(error, ConnectionClosed) and websocket.state is not State.OPEN:
            # The peer left while the application was busy with it: that is how connections end. While ours is open it is
            # another one's end that the application has not reckoned with.
            return True
        # `sys.exit()` in a handler ends the handler: in the server's loop it would end everybody else's as well.
        if not isinstance(error, Exception | Timeout | SystemExit) or _was_refused(websocket):
            return False
        logger.error("The application failed on %r", websocket, exc_info=error)
        websocket.start_closing(CloseCode.INTERNAL_ERROR)
        return True


def answered_too_late(websocket: WebSocket | None, status: str, exc_info: ExcInfo | None) -> None:
    """`start_response(status, ..., exc_info)` was called after the accept, when there is nobody to respond to."""
    if exc_info is not None and exc_info[1] is not None:
        raise exc_info[1].with_traceback(exc_info[2])
    if status.startswith("5") and websocket is not None:
        # So frameworks tell of an exception that they have logged themselves.
        websocket.start_closing(CloseCode.INTERNAL_ERROR)


def _was_refused(websocket: WebSocket) -> bool:
    """Whether it has never been open: then it is closed, and has no code for it."""
    return websocket.state is State.CLOSED and websocket.close_code is None
