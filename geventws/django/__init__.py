"""WebSockets in Django's own views, under WSGI.

::

    INSTALLED_APPS = [..., "geventws.django"]                        # for `manage.py runwebsocket` and the checks
    MIDDLEWARE = ["geventws.django.WebSocketMiddleware", ...]        # first: the others run before the handshake is answered

    @login_required
    @websocket_view
    def chat(request, room):
        for message in request.websocket:
            request.websocket.send(message)

    urlpatterns = [path("ws/<int:room>/", chat)]

Here are only names; where they come from is written in their own modules. Tests: `geventws.django.test`.
"""

from __future__ import annotations

from .database import messages
from .middleware import WebSocketMiddleware
from .views import accept_websocket, websocket_view

__all__ = ["WebSocketMiddleware", "accept_websocket", "messages", "websocket_view"]
