"""`WebSocketMiddleware`: `request.websocket`, the setting's options, and the cookies of the 101. Views are not called here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.module_loading import import_string

from ..protocol import State
from ..websocket import WebSocket
from .conf import configured
from .database import close_connections

__all__ = ["WebSocketMiddleware"]

# Whose cookies may be due when a WebSocket is accepted. Asking them a second time, at the request's end, does no harm.
_SET_COOKIES = (SessionMiddleware, CsrfViewMiddleware)

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class WebSocketMiddleware:
    """Gives requests `request.websocket`: the `WebSocket` of one that asks for it, None for any other.

    It comes first in MIDDLEWARE. All others run as for any request: what they answer (a redirect, a 403) is the answer to the
    opening handshake. When the view has accepted it, its cookies, the session's above all, travel in the 101.

    Raises:
        django.core.exceptions.ImproperlyConfigured: in the setting GEVENTWS a key is no option, or a value out of range.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: GetResponse) -> None:
        configured()
        self._get_response = get_response
        self._set_cookies = [found(get_response) for found in map(import_string, settings.MIDDLEWARE) if _asked(found)]

    def __call__(self, request: Any) -> HttpResponseBase:
        """From Django, for each request."""
        ws = websocket_of(request)
        request.websocket = ws
        if ws is None:
            return self._get_response(request)
        if ws.state is State.CONNECTING:
            ws.options = ws.options.replace(**configured())
            ws.before_accept = functools.partial(self._before_accept, request)
        try:
            return self._get_response(request)
        finally:
            if ws.state is not State.CONNECTING:
                close_connections()

    def _before_accept(self, request: Any) -> list[tuple[str, str]]:
        """Called when the 101 is about to be sent: gives its `Set-Cookie` fields."""
        response = HttpResponse()
        for middleware in reversed(self._set_cookies):
            middleware.process_response(request, response)
        session = getattr(request, "session", None)
        if session is not None:
            session.modified = False  # It is saved. What comes now is saved at the view's end.
        # Those that the session and the user were read with. A view that uses none shall hold none.
        close_connections()
        return [("Set-Cookie", morsel.OutputString()) for morsel in response.cookies.values()]


def _asked(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, _SET_COOKIES)


def websocket_of(request: Any) -> WebSocket | None:
    """The WebSocket of `request`, if its server has put one there."""
    found = getattr(request, "environ", {}).get("wsgi.websocket")
    return found if isinstance(found, WebSocket) else None
