"""The opening handshake, RFC 6455 section 4, for either role. Header fields in, bytes out; nothing is read or written here.

The server's side is `read_request` (is this a valid opening handshake?) and `accept_response`; the client's is
`ClientHandshake`. Which requests an application lets in is not decided here.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import urlsplit

from ..exceptions import HandshakeError, HandshakeRefused
from . import deflate
from .deflate import Agreement, DeflateOptions, Parameters

__all__ = [
    "ClientHandshake",
    "OpeningRequest",
    "accept_response",
    "accept_value",
    "choose_subprotocol",
    "negotiate",
    "origin_allowed",
    "read_request",
    "wants_websocket",
]

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# 16 bytes in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*)"')
# Fields that the handshake itself writes, or that RFC 9110 forbids on a 101.
_RESERVED_FIELDS = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})

_SWITCHING = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "

Header = Callable[[str], "str | None"]
"""Gives the value of a request's header field by its name in lower case; repeated fields joined by commas."""


class OpeningRequest(NamedTuple):
    """A valid opening handshake of a client."""

    key: str
    host: str
    origin: str | None = None
    subprotocols: Sequence[str] = ()
    """In the client's order of preference."""
    extensions: Sequence[tuple[str, Parameters]] = ()
    version: str = VERSION


def wants_websocket(upgrade: str | None) -> bool:
    """Whether a request with this `Upgrade` field asks for a WebSocket: a list of tokens, in any case (section 4.2.1)."""
    return _names("websocket", upgrade)


def _names(token: str, value: str | None) -> bool:
    """Whether a field that is a list of tokens, in any case, has this one."""
    if value is None:
        return False
    value = value.lower()
    return value == token or token in [name.strip() for name in value.split(",")]


def read_request(method: str, http_version: str, header: Header) -> OpeningRequest:
    """Check a client's opening handshake, section 4.2.1.

    Args:
        method: the request's method.
        http_version: as in the request line, "HTTP/1.1".
        header: gives a field's value by its lower-case name.

    Raises:
        HandshakeError: what the request lacks, with the HTTP status to answer: 405 for a method other than GET, 426 for
            another version of the protocol, else 400.
    """
    if method != "GET":
        raise HandshakeError(
            "405 Method Not Allowed", f"A WebSocket is opened with GET, not with {method}.", [("Allow", "GET")]
        )
    if http_version != "HTTP/1.1":
        raise _bad_request(f"A WebSocket is opened over HTTP/1.1 or later, not over {http_version}.")
    if (header("content-length") or "0") != "0" or header("transfer-encoding"):
        raise _bad_request("The request that opens a WebSocket has no body.")
    host = header("host")
    if not host:
        raise _bad_request("The Host header field is missing.")
    if "," in host:
        # RFC 9112 section 3.2: "... MUST respond with a 400 to any request message that contains more than one Host".
        raise _bad_request("There is more than one Host header field.")
    if not wants_websocket(header("upgrade")):
        raise _bad_request("The Upgrade header field does not name websocket.")
    if not _names("upgrade", header("connection")):
        raise _bad_request(
            "The Connection header field does not name Upgrade. If there is a proxy in between, it has to pass it on."
        )
    version = (header("sec-websocket-version") or "").strip()
    if version != VERSION:
        # 4.4: the answer names the versions that the server understands.
        said = f"is {version}" if version else "is missing"
        raise HandshakeError(
            "426 Upgrade Required",
            f"Sec-WebSocket-Version {said}; this server speaks version {VERSION}.",
            [("Sec-WebSocket-Version", VERSION), ("Upgrade", "websocket")],
        )
    key = (header("sec-websocket-key") or "").strip()
    if not _KEY.fullmatch(key):
        raise _bad_request("Sec-WebSocket-Key is not 16 bytes in base64.")
    return OpeningRequest(
        key,
        host,
        header("origin"),
        _read_subprotocols(header("sec-websocket-protocol")),
        _read_extensions(header("sec-websocket-extensions")),
    )


def _bad_request(message: str) -> HandshakeError:
    return HandshakeError("400 Bad Request", message)


def _read_subprotocols(value: str | None) -> Sequence[str]:
    if value is None:
        return ()
    # RFC 9110 section 5.6.1.2: empty elements of a list do not count.
    names = [name.strip() for name in value.split(",") if name.strip(" \t")]
    if not names or not all(_TOKEN.fullmatch(name) for name in names):
        raise _bad_request("Sec-WebSocket-Protocol is not a list of tokens.")
    # 4.1: "the elements that comprise this value MUST ... all be unique strings"
    if len(set(names)) != len(names):
        raise _bad_request("Sec-WebSocket-Protocol names a subprotocol twice.")
    return names


def _read_extensions(value: str | None) -> Sequence[tuple[str, Parameters]]:
    """Section 9.1: `name; parameter; parameter=value, name ...`, where a value may be quoted."""
    if value is None:
        return ()
    extensions: list[tuple[str, Parameters]] = []
    scan = _Scanner(value)
    while True:
        while scan.take(","):
            pass  # RFC 9110 section 5.6.1.2: empty elements of a list do not count.
        if extensions and scan.at_end():
            break
        name = scan.token()
        parameters: Parameters = []
        while scan.take(";"):
            parameter = scan.token()
            parameters.append((parameter, scan.value() if scan.take("=") else None))
        extensions.append((name, parameters))
        if not scan.take(","):
            break
    if not scan.at_end():
        raise _bad_request("Sec-WebSocket-Extensions cannot be read.")
    return extensions


class _Scanner:
    """Reads tokens and separators of one header field from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._skip()

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def take(self, separator: str) -> bool:
        if not self._text.startswith(separator, self._at):
            return False
        self._at += 1
        self._skip()
        return True

    def token(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise _bad_request("Sec-WebSocket-Extensions cannot be read.")
        self._at = match.end()
        self._skip()
        return match.group()

    def value(self) -> str:
        match = _QUOTED.match(self._text, self._at)
        if match is None:
            return self.token()
        self._at = match.end()
        self._skip()
        # 9.1: "the value after quoted-string unescaping MUST conform to the 'token' ABNF"
        value = re.sub(r"\\(.)", r"\1", match.group(1))
        if not _TOKEN.fullmatch(value):
            raise _bad_request("Sec-WebSocket-Extensions has a quoted value that is not a token.")
        return value

    def at_end(self) -> bool:
        return self._at == len(self._text)


def origin_allowed(origin: str | None, host: str, allowed: str | Iterable[str] | None) -> bool:
    """Whether a page of `origin` may open a WebSocket here (section 10.2, against cross-site WebSocket hijacking).

    Args:
        origin: the request's Origin; None where there is none, as outside of browsers, and then all is well.
        host: the request's Host.
        allowed: None, the same host and port only; "*", any; or hosts ("example.com", "example.com:8443",
            "*.example.com") and whole origins ("https://example.com").
    """
    if origin is None or allowed == "*":
        return True
    theirs = _origin_host(origin)
    scheme = origin.partition("://")[0].lower()
    if allowed is None:
        return theirs is not None and theirs == _without_default_port(host.strip().lower(), scheme)
    entries = [allowed] if isinstance(allowed, str) else allowed
    return any(_matches(origin.lower(), theirs, _without_default_port(entry.lower(), scheme)) for entry in entries)


def _origin_host(origin: str) -> str | None:
    """The host, and the port unless it is the scheme's own; None for an opaque origin ("null") or what cannot be read."""
    try:
        parts = urlsplit(origin)
        _ = parts.port
        if "[" in parts.netloc:
            IPv6Address((parts.hostname or "").partition("%")[0])
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return _without_default_port(parts.netloc.lower(), parts.scheme.lower())


def _without_default_port(host: str, scheme: str) -> str:
    default = {"http": ":80", "ws": ":80", "https": ":443", "wss": ":443"}.get(scheme)
    return host[: -len(default)] if default and host.endswith(default) else host


def _matches(origin: str, host: str | None, entry: str) -> bool:
    if entry == "*" or "://" in entry or entry == "null":
        return entry in ("*", origin)
    if host is None:
        return False
    if entry.startswith("*."):
        return host.endswith(entry[1:])
    return host == entry


def choose_subprotocol(offered: Sequence[str], supported: Sequence[str]) -> str | None:
    """The first of the server's `supported` subprotocols that the client offered; None if there is none in common."""
    if offered:
        for name in supported:
            if name in offered:
                return name
    return None


def negotiate(request: OpeningRequest, options: DeflateOptions | None) -> tuple[Agreement, str] | None:
    """The first offer of permessage-deflate that can be honoured, and the text that says so; None for no compression."""
    if options is None:
        return None
    for name, parameters in request.extensions:
        if name == deflate.EXTENSION:
            agreed = deflate.agree(parameters, options)
            if agreed is not None:
                return agreed
    return None


def accept_value(key: str) -> str:
    """What proves to the client that its handshake was understood (section 4.2.2, step 5.4)."""
    return b2a_base64(sha1(key.encode("ascii") + _GUID).digest(), newline=False).decode("ascii")


def accept_response(
    request: OpeningRequest,
    subprotocol: str | None = None,
    extensions: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """The 101 that opens the connection (section 4.2.2, step 5).

    Raises:
        ValueError: `subprotocol` is none that the client offered (the client would have to fail the connection), or a
            header field is one of the handshake's own, or holds what a header field cannot.
    """
    lines = []
    if subprotocol is not None:
        if subprotocol not in request.subprotocols:
            offered = ", ".join(request.subprotocols) or "none"
            raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}; it offered {offered}")
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions is not None:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    lines.extend(_header_lines(headers))
    more = "".join([f"{line}\r\n" for line in lines])
    return f"{_SWITCHING}{accept_value(request.key)}\r\n{more}\r\n".encode("latin-1")


def _header_lines(headers: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(f"a header field is a pair of str; got {name!r}: {value!r}")
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a name for a header field")
        if name.lower() in _RESERVED_FIELDS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{name} is written by the handshake itself")
        if any(character in value for character in "\r\n\0"):
            raise ValueError(f"the value of {name} has a line break or a NUL in it")
        lines.append(f"{name}: {value}")
    return lines


@dataclass
class ClientHandshake:
    """The client's side of the opening handshake (section 4.1).

    `key` is the base64 of 16 random bytes, new for each connection.
    """

    key: str
    host: str
    resource: str = "/"
    subprotocols: Sequence[str] = ()
    compression: DeflateOptions | None = None
    headers: Sequence[tuple[str, str]] = field(default_factory=list)

    def request(self) -> bytes:
        """The request that asks the server for a WebSocket. Raises ValueError for what a request cannot hold."""
        for what, value in (("host", self.host), ("resource", self.resource)):
            if not _VISIBLE.fullmatch(value):
                raise ValueError(
                    f"the {what} has a blank, a line break or another character that does not belong: {value!r}"
                )
        for name in self.subprotocols:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not a name for a subprotocol")
        if any(name.lower() == "host" for name, _ in self.headers):
            raise ValueError("Host is written by the handshake itself")
        lines = [
            f"GET {self.resource} HTTP/1.1",
            f"Host: {self.host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self.key}",
            f"Sec-WebSocket-Version: {VERSION}",
        ]
        if self.subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(self.subprotocols)}")
        if self.compression is not None:
            lines.append(f"Sec-WebSocket-Extensions: {deflate.offer(self.compression)}")
        lines.extend(_header_lines(self.headers))
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def check_response(self, status: int, header: Header) -> tuple[str | None, Agreement | None]:
        """Read the server's answer: the subprotocol it chose and the compression it agreed to.

        Raises:
            HandshakeRefused: the server refused (with its status), or its answer is not one that section 4.1 allows.
        """
        if status != 101:
            raise HandshakeRefused(str(status), f"the server refused the opening handshake with status {status}")
        upgrade = (header("upgrade") or "").strip().lower()
        if upgrade != "websocket" or not _names("upgrade", header("connection")):
            raise _bad_response("the server's answer does not upgrade the connection to websocket")
        if (header("sec-websocket-accept") or "").strip() != accept_value(self.key):
            raise _bad_response("the server's Sec-WebSocket-Accept does not answer our key")
        subprotocol = header("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise _bad_response(f"the server chose the subprotocol {subprotocol!r}, which was not offered")
        return subprotocol, self._read_agreement(header("sec-websocket-extensions"))

    def _read_agreement(self, value: str | None) -> Agreement | None:
        try:
            extensions = _read_extensions(value)
        except HandshakeError as error:
            raise _bad_response(str(error)) from None
        if not extensions:
            return None
        # 4.1: an extension that was not asked for fails the connection; so does the same one twice.
        if self.compression is None or len(extensions) > 1 or extensions[0][0] != deflate.EXTENSION:
            raise _bad_response(f"the server uses extensions that were not offered: {value}")
        return deflate.confirm(extensions[0][1], self.compression)


def _bad_response(message: str) -> HandshakeRefused:
    return HandshakeRefused("502 Bad Gateway", message)
