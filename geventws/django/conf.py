"""The setting `GEVENTWS`: options of connections, in Django's way. What the options mean is written where they are defined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..options import OF_THE_SERVER, WebSocketOptions, refuse_server_options

__all__ = ["configured"]


def configured() -> dict[str, Any]:
    """The options in `settings.GEVENTWS`, by their names as fields of `WebSocketOptions`.

    Raises:
        ImproperlyConfigured: a key is no option, or its value is out of range.
    """
    given = getattr(settings, "GEVENTWS", None) or {}
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f'GEVENTWS is a dict such as {{"MAX_MESSAGE_SIZE": 65536}}; got {given!r}')
    if not given:
        return {}
    changes: dict[str, Any] = {}
    for key, value in given.items():
        name = key.lower() if isinstance(key, str) and key.isupper() else None
        if name not in WebSocketOptions.names():
            known = ", ".join(sorted(known.upper() for known in WebSocketOptions.names() - OF_THE_SERVER))
            raise ImproperlyConfigured(f"GEVENTWS[{key!r}] is not an option of WebSockets; there are: {known}")
        refuse_server_options(f"GEVENTWS[{key!r}]", {name}, ImproperlyConfigured)
        changes[name] = value
    try:
        WebSocketOptions(**changes)
    except ValueError as error:
        raise ImproperlyConfigured(f"GEVENTWS: {error}") from None
    return changes
