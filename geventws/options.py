"""What can be set about a connection: one frozen object, safe by default. How it is obeyed is decided elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from dataclasses import replace as _replace
from functools import cached_property
from typing import Any, Literal

from .forwarded import TrustedProxies
from .protocol.deflate import DeflateOptions

__all__ = ["OF_THE_SERVER", "DeflateOptions", "WebSocketOptions", "choose_options", "refuse_server_options"]


@dataclass(frozen=True)
class WebSocketOptions:
    """The settings of a connection. Derive others with `options.replace(max_message_size=64 * 2**20)`.

    A time is in seconds, and None switches it off.

    Raises:
        ValueError: a value is out of its range; the text names the field.
        TypeError: a field that does not exist.
    """

    max_message_size: int = 2**20
    """Bytes that a received message may have, after decompression. A longer one closes the connection with 1009 before the
    memory for it is spent. Raise it for those routes that need it: a connection may make the server hold that much."""

    compression: bool | DeflateOptions = False
    """True compresses messages (permessage-deflate) for peers that offer it; a `DeflateOptions` says how. Off by default:
    it costs CPU and memory (see `DeflateOptions`), and a secret sent beside text of an attacker's choice can leak by its
    size."""

    subprotocols: Sequence[str] = ()
    """Subprotocols that the application speaks, the preferred one first. The first that the client offers too is chosen."""

    origins: str | Iterable[str] | None = None
    """Pages that may connect, by the Origin their browser sends. None: those of this very host and port. A list of hosts
    ("example.com", "*.example.com", "https://example.com"); "*" for any, which exposes users' cookies to any page.
    A request without an Origin does not come from a page and is let in."""

    ping_interval: float | None = 20.0
    """How often the peer is pinged. Below the 60 s after which most proxies take a silent connection for dead."""

    ping_timeout: float | None = 20.0
    """How long a peer may stay silent after a ping before it counts as gone."""

    close_timeout: float = 10.0
    """How long the peer has to answer a Close frame before TCP is closed on it."""

    send_timeout: float | None = 30.0
    """How long a peer may read nothing of what is sent to it, before `send` gives up the connection. One that reads slowly
    is waited for."""

    handshake_timeout: float | None = 10.0
    """How long a client may take to send the head of a request. Without it a client may hold a greenlet for ever."""

    max_connections: int | None = None
    """WebSockets that may be open on the server at once; one more is answered 503."""

    max_connections_per_ip: int | None = None
    """The same for one client address; one more is answered 429. Behind a proxy all clients have the proxy's address,
    unless it is one of `trusted_proxies`."""

    trusted_proxies: Sequence[str] = ()
    """Proxies that are believed when they tell of the client: IP addresses and networks, "unix" for whoever connects over a
    Unix socket, "*" for whoever connects. Then the environ, the access log, `max_connections_per_ip` and `origins` know the
    client. Who is not listed is not believed, and what it forwards is removed from the environ. None are by default, and
    then X-Forwarded-* means nothing here and is left as it is. Whoever can connect from such an address can pretend to be
    any client."""

    trusted_proxy_headers: Sequence[str] = ("x-forwarded-for", "x-forwarded-proto")
    """What they are believed in; the rest of these is removed: "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
    "x-forwarded-port", or "forwarded" alone (RFC 7239). Name only what the proxies set on every request themselves: what
    they pass on as it comes, the client writes."""

    max_queue: int = 32
    """Messages read ahead while nobody is in `receive`. Then reading stops, and TCP makes the peer wait."""

    cooperative: bool | Literal["requests"] = True
    """Whether blocking calls of the standard library let other greenlets run while the application handles a connection
    (`geventws.scope`). "requests" does the same for the server's plain HTTP requests; False leaves everything alone."""

    warn_blocked: float | None = None
    """Log a warning, with the stack, when a handler holds the event loop for longer than this, so that nothing else runs.
    Off by default: gevent's monitor, which measures it, costs a little at every switch of greenlets."""

    def __post_init__(self) -> None:
        for name, low in (("max_message_size", 1), ("max_queue", 1)):
            _check_count(name, getattr(self, name), low)
        for name in ("max_connections", "max_connections_per_ip"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), 0)
        for name in (
            "ping_interval",
            "ping_timeout",
            "close_timeout",
            "send_timeout",
            "handshake_timeout",
            "warn_blocked",
        ):
            _check_seconds(name, getattr(self, name), optional=name != "close_timeout")
        if not isinstance(self.compression, bool | DeflateOptions):
            raise ValueError(f"compression must be True, False or a DeflateOptions; got {self.compression!r}")
        if self.cooperative not in (True, False, "requests"):
            raise ValueError(f'cooperative must be True, False or "requests"; got {self.cooperative!r}')
        object.__setattr__(self, "subprotocols", _texts("subprotocols", self.subprotocols))
        if self.origins is not None and not isinstance(self.origins, str):
            object.__setattr__(self, "origins", _texts("origins", self.origins))
        for name in ("trusted_proxies", "trusted_proxy_headers"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        _ = self.proxies

    @cached_property
    def proxies(self) -> TrustedProxies | None:
        """Whom to believe in what, or None for nobody."""
        try:
            proxies = TrustedProxies(self.trusted_proxies, self.trusted_proxy_headers)
        except ValueError as error:
            raise ValueError(f"trusted_proxies: {error}") from None
        return proxies if self.trusted_proxies else None

    @property
    def deflate(self) -> DeflateOptions | None:
        """How to compress, or None for not at all."""
        if isinstance(self.compression, DeflateOptions):
            return self.compression
        return DeflateOptions() if self.compression else None

    def replace(self, **changes: Any) -> WebSocketOptions:
        """These options with some fields changed. Raises as the constructor does."""
        for name in changes.keys() - _NAMES:
            raise TypeError(f"{name} is not an option of WebSockets; there are: {', '.join(sorted(_NAMES))}")
        return _replace(self, **changes) if changes else self

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names of all fields."""
        return _NAMES


OF_THE_SERVER = frozenset(
    {
        *("handshake_timeout", "max_connections", "max_connections_per_ip"),
        *("trusted_proxies", "trusted_proxy_headers", "warn_blocked"),
    }
)
"""Options that are obeyed before the application is asked, so that no framework's configuration can set them."""


def choose_options(
    options: WebSocketOptions | None, changes: Mapping[str, Any], default: WebSocketOptions | None = None
) -> WebSocketOptions:
    """`options`, or else `default`, with the fields of `changes` changed: what who takes both `options` and `**changes` means.

    Raises:
        TypeError, ValueError: `options` are none, and as `WebSocketOptions` does.
    """
    if options is not None and not isinstance(options, WebSocketOptions):
        raise TypeError(f"options are a WebSocketOptions; got {options!r}. Single ones are given by their names.")
    return (options or default or WebSocketOptions()).replace(**changes)


def refuse_server_options(what: str, names: Collection[str], error: type[Exception] = ValueError) -> None:
    """Raise `error` for those that are obeyed before an application is asked, where `what` sets them."""
    for name in OF_THE_SERVER.intersection(names):
        raise error(
            f"{what} comes too late: {name} is obeyed before the application is asked. Set it on the server, as in "
            f"WebSocketServer(..., {name}=...) or WebSocketHandler.configured({name}=...)."
        )


_NAMES = frozenset(field.name for field in fields(WebSocketOptions))


def _texts(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list of texts; got {values!r}")
    texts = tuple(values)
    for text in texts:
        if not isinstance(text, str) or not text or any(character.isspace() or character == "," for character in text):
            raise ValueError(f"{name} must be a list of texts without blanks and commas; got {text!r}")
    return texts


def _check_count(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number, {low} or more; got {value!r}")


def _check_seconds(name: str, value: object, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        off = ", or None for no limit" if optional else ""
        raise ValueError(f"{name} must be a number of seconds above 0{off}; got {value!r}")
