"""`@websocket_view` and `@accept_websocket`: from Django's view to a conversation, and back to a response.

Which request has a WebSocket is the middleware's to know; what is Django's about accepting and failing is here.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast, overload
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction
from django.conf import settings as django_settings
from django.core.exceptions import BadRequest, ImproperlyConfigured, PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase

from ..application import view_surroundings
from ..codes import CloseCode
from ..exceptions import ConnectionClosed, HandshakeError, HandshakeRefused
from ..options import WebSocketOptions, refuse_server_options
from ..protocol import State
from ..protocol.handshake import wants_websocket
from ..websocket import WebSocket
from .database import close_connections
from .middleware import websocket_of

__all__ = ["accept_websocket", "websocket_view"]

View = Callable[..., Any]
logger = logging.getLogger("django.request")

# What Django takes for an answer and not for a failure. Once a WebSocket is open there is nobody to answer.
_ANSWERS = (Http404, PermissionDenied, SuspiciousOperation, BadRequest, MultiPartParserError)
# Servers that pass on what a 426 has to say. To others (wsgiref, waitress) a hop-by-hop field is a mistake of the program.
_LET_UPGRADE_PASS = ("gevent", "gunicorn")


@overload
def websocket_view(view: View) -> View: ...
@overload
def websocket_view(*, accept: bool | None = None, **options: Any) -> Callable[[View], View]: ...
def websocket_view(view: View | None = None, *, accept: bool | None = None, **options: Any) -> Any:
    """Decorate a view for WebSockets: `@websocket_view`, or `@websocket_view(max_message_size=2**24)`.

    ::

        @websocket_view
        def chat(request, room):
            for message in request.websocket:
                request.websocket.send(message)

    The connection is accepted, and the view called. What it returns is ignored; if it raises, the exception is logged once
    and the connection closed with 1011. A plain HTTP request is answered 426. Pages of other hosts are answered 403, unless
    they are in `CSRF_TRUSTED_ORIGINS` or the option `origins` lets them in; hosts not in `ALLOWED_HOSTS` 400.

    Decorators that refuse requests (`login_required`) may stand above or below. `ATOMIC_REQUESTS` does not hold for it.

    Args:
        accept: True accepts before the view is called. False leaves the handshake to the view: it calls
            `request.websocket.accept(...)` or uses it, or else returns a response. By default it is True for a plain function;
            what is decorated itself, or a class's `as_view()`, is accepted at the first use, as its decorators may refuse it.
        options: any field of `WebSocketOptions` that is not about the server as a whole. Those not given are the setting
            GEVENTWS's, or the server's.

    Raises:
        TypeError: an option that does not exist, or an async view.
        ValueError: an option out of its range.
    """
    return _decorator(view, _upgrade_required, accept, options)


@overload
def accept_websocket(view: View) -> View: ...
@overload
def accept_websocket(*, accept: bool | None = None, **options: Any) -> Callable[[View], View]: ...
def accept_websocket(view: View | None = None, *, accept: bool | None = None, **options: Any) -> Any:
    """Decorate a view for both kinds of requests: as `websocket_view`, and plain HTTP requests reach the view, too.

    ::

        @accept_websocket
        def clock(request):
            if request.websocket is None:
                return render(request, "clock.html")
            while not request.websocket.closed:
                request.websocket.send(str(now()))
                time.sleep(1)
    """
    return _decorator(view, _call_for_http, accept, options)


@dataclass(frozen=True)
class _Settings:
    """What a decorator says about a view's connections."""

    accept: bool | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def accept_first(self, view: View) -> bool:
        return not _may_refuse(view) if self.accept is None else self.accept


def _decorator(
    view: View | None, for_http: Callable[..., Any], accept: bool | None, changes: dict[str, Any]
) -> View | Callable[[View], View]:
    refuse_server_options("The option of the view", changes.keys())
    WebSocketOptions().replace(**changes)
    settings = _Settings(accept, changes)

    def decorate(view: View) -> View:
        if not callable(view):
            raise TypeError(f"what is decorated is a view; got {view!r}. Options are given by their names.")
        if iscoroutinefunction(view):
            raise TypeError(
                f"{getattr(view, '__name__', view)} is async: websocket views are plain functions that block, under WSGI"
            )

        @functools.wraps(view)
        def decorated(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            ws = websocket_of(request)
            if ws is None:
                _check_server(request, for_http)
                return for_http(view, not_atomic, request, *args, **kwargs)
            if not hasattr(request, "websocket"):
                raise ImproperlyConfigured('Put "geventws.django.WebSocketMiddleware" first into MIDDLEWARE.')
            return _converse(ws, settings, view, request, *args, **kwargs)

        # A transaction for as long as a WebSocket lives would lock whatever it has touched.
        not_atomic = vars(decorated)["_non_atomic_requests"] = _AllDatabases(getattr(view, "_non_atomic_requests", ()))
        return decorated

    return decorate if view is None else decorate(view)


def _may_refuse(view: View) -> bool:
    """Whether something stands before the view itself that may answer in its place."""
    if isinstance(view, functools.partial):  # By `method_decorator`, around the method.
        view = view.func
    return hasattr(view, "__wrapped__") or hasattr(view, "view_class") or getattr(view, "__name__", "") == "dispatch"


class _AllDatabases(set[str]):
    """The databases for which a view is not atomic, as Django sees them: all. `named` are those that the view names itself."""

    def __contains__(self, alias: object) -> bool:
        return True

    @property
    def named(self) -> frozenset[str]:
        return frozenset(self)


# Plain HTTP.


def _check_server(request: Any, for_http: Callable[..., Any]) -> None:
    """Raises ImproperlyConfigured where WebSockets cannot come."""
    if not hasattr(request, "environ"):
        if for_http is _upgrade_required:
            raise ImproperlyConfigured(
                "Django runs under ASGI here, where geventws.django has no WebSockets. Serve its WSGI application "
                "(get_wsgi_application), with `python -m geventws serve project.wsgi:application` or another server."
            )
    elif wants_websocket(request.META.get("HTTP_UPGRADE")):
        raise ImproperlyConfigured(
            "This server does not carry WebSockets: environ has no 'wsgi.websocket'. Serve the project with "
            "`manage.py runwebsocket` or `python -m geventws serve project.wsgi:application`; on other servers wrap the "
            "application in geventws.middleware.WebSocketMiddleware."
        )


def _upgrade_required(view: View, not_atomic: _AllDatabases, request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
    text = "This address is for WebSockets: connect with ws:// or wss://.\n"
    response = HttpResponse(text, status=426, content_type="text/plain; charset=utf-8")
    if request.META.get("SERVER_SOFTWARE", "").startswith(_LET_UPGRADE_PASS):
        # RFC 9110 15.5.22: "The server MUST send an Upgrade header field in a 426 response".
        response["Upgrade"] = "websocket"
    return response


def _call_for_http(view: View, not_atomic: _AllDatabases, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    """The view, in the transactions that `ATOMIC_REQUESTS` asks for."""
    with ExitStack() as transactions:
        for alias, database in connections.settings.items():
            if database["ATOMIC_REQUESTS"] and alias not in not_atomic.named:
                transactions.enter_context(transaction.atomic(using=alias))
        return view(request, *args, **kwargs)


# The conversation.


def _converse(ws: WebSocket, settings: _Settings, view: View, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
    response = None
    try:
        _prepare(ws, settings, request)
        if ws.state is State.CONNECTING and settings.accept_first(view):
            ws.accept()
        with view_surroundings(ws.cooperative):
            try:
                response = view(request, *args, **kwargs)
            finally:
                if ws.state is not State.CONNECTING:
                    close_connections()
        if ws.state is State.CONNECTING and response is None:
            ws.accept()  # It returned without a word: that is no refusal.
        _check_response(ws, response)
    except ConnectionClosed:
        # The peer left while the view was busy with it: that is how connections end. While ours is open, or not yet
        # there, it is another one's end that the view has not reckoned with.
        if ws.state is State.CONNECTING:
            raise
        if ws.state is State.OPEN:
            ws.start_closing(CloseCode.INTERNAL_ERROR)
            raise
    except HandshakeError as error:
        if ws.state is not State.CONNECTING:
            ws.start_closing(CloseCode.INTERNAL_ERROR)
        elif not isinstance(error, HandshakeRefused):
            return _refusal(error)
        raise
    except Exception as error:
        if ws.state is State.CONNECTING:
            raise
        ws.start_closing(CloseCode.INTERNAL_ERROR)
        if not isinstance(error, _ANSWERS):
            raise
        _tell(request)
    if ws.state is State.CONNECTING:
        return response  # The view, or what it is decorated with, answers with HTTP: a redirect to the login, say.
    _leave_session(request)
    return _AcceptedResponse()


def _prepare(ws: WebSocket, settings: _Settings, request: HttpRequest) -> None:
    """Check where the request comes from, and where it goes, and set the view's options."""
    if ws.state is not State.CONNECTING:
        return  # A middleware has been there.
    host = request.get_host()
    options = ws.options.replace(**settings.changes)
    if options.origins is None:
        # The host as Django knows it, which may be that of a proxy's X-Forwarded-Host.
        options = options.replace(origins="*" if _is_trusted(ws.origin) else [host])
    ws.options = options


def _is_trusted(origin: str | None) -> bool:
    """Whether `CSRF_TRUSTED_ORIGINS` lets pages of `origin` in, as it does for forms."""
    if origin is None or origin in django_settings.CSRF_TRUSTED_ORIGINS:
        return True
    try:
        theirs = urlsplit(origin)
    except ValueError:
        return False
    for trusted in django_settings.CSRF_TRUSTED_ORIGINS:
        scheme, _, host = trusted.partition("://")
        if host.startswith("*") and theirs.scheme == scheme and ("." + theirs.netloc).endswith(host.lstrip("*")):
            return True
    return False


def _check_response(ws: WebSocket, response: object) -> None:
    """Raises RuntimeError for a refusal that came too late."""
    if not isinstance(response, HttpResponseBase) or response.status_code < 300 or ws.state is not State.OPEN:
        return
    received, _, sent, _ = ws.counts
    if not received and not sent:
        raise RuntimeError(
            f"the view answered {response.status_code} {response.reason_phrase}, but its WebSocket had been accepted "
            "already: what may refuse it goes above @websocket_view, or @websocket_view(accept=False) leaves it to the view"
        )


def _tell(request: HttpRequest) -> None:
    """Log what ended the view and is no failure to Django, which would answer it, and nobody would see why it ended."""
    got_request_exception.send(sender=None, request=request)
    logger.error(
        "The websocket view failed: %s",
        request.path,
        exc_info=sys.exc_info(),
        extra={"status_code": 500, "request": request},
    )


def _leave_session(request: Any) -> None:
    """A session that the view has not changed is not saved over what others have made of it meanwhile."""
    session = getattr(request, "session", None)
    if session is not None and not session.modified:
        session.save = _not_again


def _not_again(must_create: bool = False) -> None:
    """In the place of a session's `save`, which `SESSION_SAVE_EVERY_REQUEST` calls."""


def _refusal(error: HandshakeError) -> HttpResponse:
    status, _, reason = error.status.partition(" ")
    text = str(error).replace("in the server's option `origins`", "in CSRF_TRUSTED_ORIGINS or GEVENTWS['ORIGINS']")
    response = HttpResponse(f"{text}\n", status=int(status), reason=reason, content_type="text/plain; charset=utf-8")
    for name, value in error.headers:
        if name.lower() != "upgrade":
            response[name] = value
    return response


class _AcceptedResponse(HttpResponse):
    """What Django wants of a view. The connection is accepted, so it goes nowhere: only its end is of interest."""

    status_code = 101

    def close(self) -> None:
        cast(Any, super()).close()
        close_connections()
