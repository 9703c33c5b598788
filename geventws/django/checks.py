"""What `manage.py check` finds about WebSockets. Nothing is repaired here."""

from __future__ import annotations

from typing import Any

import asgiref
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..scope import patched_by_gevent
from .conf import configured
from .middleware import WebSocketMiddleware

__all__ = ["check_websockets"]


def check_websockets(**_: Any) -> list[CheckMessage]:
    """The setting GEVENTWS, the middleware, and whether each connection can have database connections of its own."""
    return [*_check_setting(), *_check_middleware(), *_check_isolation()]


def _check_setting() -> list[CheckMessage]:
    try:
        configured()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="geventws.E001")]
    return []


def _check_middleware() -> list[CheckMessage]:
    for name in settings.MIDDLEWARE:
        found = import_string(name)
        if isinstance(found, type) and issubclass(found, WebSocketMiddleware):
            return []
    return [
        Error(
            "geventws.django is installed, and its middleware is not: websocket views will fail.",
            hint='Put "geventws.django.WebSocketMiddleware" first into MIDDLEWARE.',
            id="geventws.E002",
        )
    ]


def _check_isolation() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if tuple(int(part) for part in asgiref.__version__.split(".")[:2]) < (3, 7):
        found.append(
            Error(
                f"With asgiref {asgiref.__version__} all WebSockets of a thread share its database connections and "
                "transactions.",
                hint="Install asgiref 3.7 or later.",
                id="geventws.E003",
            )
        )
    if _not_cooperative() and not patched_by_gevent():
        found.append(
            Warning(
                "With GEVENTWS['COOPERATIVE'] = False all WebSockets of a thread share its database connections and "
                "transactions, and each query keeps all others waiting.",
                hint="Leave the option out, or have gevent patch the process first of all.",
                id="geventws.W001",
            )
        )
    return found


def _not_cooperative() -> bool:
    try:
        return configured().get("cooperative", True) is False
    except ImproperlyConfigured:
        return False
