"""The entry of INSTALLED_APPS: it brings the command `runwebsocket` and the system checks. No models belong here."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .checks import check_websockets

__all__ = ["WebSocketsConfig"]


class WebSocketsConfig(AppConfig):
    """`"geventws.django"` in INSTALLED_APPS."""

    name = "geventws.django"
    # By default it would be "django", which reads as if it were Django's own.
    label = "geventws"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """From Django, at start."""
        checks.register(check_websockets, "geventws")
