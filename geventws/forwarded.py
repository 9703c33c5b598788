"""What proxies tell of the client they forward a request for, and which proxies are believed.

X-Forwarded-* as most proxies write them, and RFC 7239. Environs go in and come out changed: no sockets and no log here, and
nothing of WebSockets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

__all__ = ["HEADERS", "ORIGINAL", "TrustedProxies", "apply"]

ORIGINAL = "geventws.proxy"
"""The key in the environ under which is kept what was changed: a dict of the values before, None for what was not there."""

HEADERS = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded")
"""The header fields that can be believed, by the names that `WebSocketOptions.trusted_proxy_headers` has for them."""

_NAMES = {f"HTTP_{name.upper().replace('-', '_')}": name for name in HEADERS}
_FOR, _PROTO, _HOST, _PORT, _FORWARDED = _NAMES

# A proxy may name the scheme that the client asked for as browsers write it (Traefik does); in a WSGI environ it is HTTP's.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# RFC 7239 section 6: a port may be obfuscated as well.
_PORT_OF_NODE = re.compile(r"(:([0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_PORT_NUMBER = re.compile(r"[0-9]{1,5}")
_HOST_AND_PORT = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
# RFC 7239 section 4: token=value, where the value is a token or a quoted string.
_PAIR = re.compile(
    r"[\t ]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*)\")[\t ]*(?:;|\Z)"
)
_BLANK_PAIR = re.compile(r"[\t ]*(?:;|\Z)")
_COMMA_OR_QUOTE = re.compile(r',|(?<!\\)\\*"')
# An address with brackets, a zone and a port is shorter by far.
_LONGEST_NODE = 128

_Address = IPv4Address | IPv6Address


class TrustedProxies:
    """Which peers are believed when they speak of the client, and which of their header fields.

    Args:
        proxies: addresses ("10.0.0.7"), networks ("10.0.0.0/8", "fd00::/8"), "unix" for whoever connects over a Unix
            socket, or "*" for whoever connects at all.
        headers: of `HEADERS` those that the proxies set themselves on every request, "forwarded" alone or some of the others.

    Raises:
        ValueError: what is neither; the text says what to write instead.
    """

    def __init__(self, proxies: Iterable[str], headers: Iterable[str] = HEADERS[:2]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._any = self._unix = False
        for proxy in proxies:
            if proxy == "*":
                self._any = True
            elif proxy == "unix":
                self._unix = True
            else:
                self._networks.append(_network(proxy))
        self.headers = frozenset(headers)
        _check_headers(self.headers)

    def connects(self, peer: str | None) -> bool:
        """Whether the peer of a TCP or Unix socket is trusted, by its REMOTE_ADDR."""
        if self._any:
            return True
        address = _read_address(peer or "")
        # What a server has for a peer without an IP address, nothing or a name of its own, no client has written.
        return self._unix if address is None else self.knows(address)

    def knows(self, address: _Address) -> bool:
        """Whether this is the address of a proxy that is listed. With "*" alone there is none."""
        return any(address in network for network in self._networks)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(
            f'{error}. Write an address, a network ("172.16.0.0/12"), "unix" or "*"; names of hosts are not looked up.'
        ) from None
    if network.prefixlen == 0:
        raise ValueError(f'{text!r} would believe what clients write themselves. "*" trusts any proxy that connects.')
    if isinstance(network, IPv6Network) and (network.network_address.ipv4_mapped or "%" in text):
        raise ValueError(f"{text!r} would never be met: write IPv4 as IPv4, and no zone.")
    return network


def _check_headers(headers: frozenset[str]) -> None:
    for name in headers.difference(HEADERS):
        raise ValueError(f"{name!r} is not a header field that can be believed; there are: {', '.join(HEADERS)}")
    if "forwarded" in headers and len(headers) > 1:
        # A proxy that sets the one passes the other on as the client has written it.
        raise ValueError('"forwarded" stands alone: of two accounts of the client one would be its own.')


def apply(environ: dict[str, Any], trusted: TrustedProxies) -> None:
    """Have the environ of a request tell of the client and not of the proxy, if the proxy is trusted.

    From a trusted peer REMOTE_ADDR, `wsgi.url_scheme`, HTTP_HOST, SERVER_NAME and SERVER_PORT are set as far as the header
    fields that are believed tell them; REMOTE_PORT goes with the proxy's address. Of these header fields each is left with
    the one value that was believed. Those not believed are removed, and so are those that make no sense: what they would
    have told stays as the server has it.

    From any other peer all fields X-Forwarded-*, Forwarded and X-Real-IP are removed, so that nobody behind believes them.

    What was changed is kept in `environ["geventws.proxy"]`. A second call does nothing.
    """
    if ORIGINAL in environ:
        return
    if trusted.connects(environ.get("REMOTE_ADDR")):
        changes = _as_told(environ, trusted)
    else:
        changes = dict.fromkeys(filter(_is_of_a_proxy, environ))
    before = environ[ORIGINAL] = {}
    for key, value in changes.items():
        if environ.get(key) != value:
            before[key] = environ.pop(key, None)
            if value is not None:
                environ[key] = value


def _is_of_a_proxy(key: str) -> bool:
    return key.startswith("HTTP_X_FORWARDED_") or key in (_FORWARDED, "HTTP_X_REAL_IP")


class _Told(NamedTuple):
    """What the believed header fields tell, each None where they do not."""

    address: str | None
    scheme: str | None
    host: re.Match[str] | None
    port: str | None
    fields: dict[str, str | None]
    """The header fields of which this was taken, with no more than this left in them."""


def _as_told(environ: dict[str, Any], trusted: TrustedProxies) -> dict[str, str | None]:
    """What becomes of the environ by a trusted proxy's word; None for what goes."""
    believed = {key: str(environ.get(key, "")) for key, name in _NAMES.items() if name in trusted.headers}
    read = _read_forwarded if _FORWARDED in believed else _read_x_forwarded
    told = read(believed, trusted)
    changes: dict[str, str | None] = {**dict.fromkeys(_NAMES), **told.fields}
    if told.address is not None:
        changes["REMOTE_ADDR"] = told.address
        changes["REMOTE_PORT"] = None
    if told.scheme is not None:
        changes["wsgi.url_scheme"] = told.scheme
    if told.host is not None:
        changes["HTTP_HOST"] = told.host.group()
        changes["SERVER_NAME"], port = told.host.groups()
        default = "443" if (told.scheme or environ.get("wsgi.url_scheme")) == "https" else "80"
        changes["SERVER_PORT"] = port or told.port or default
    elif told.port is not None:
        changes["SERVER_PORT"] = told.port
    return changes


# X-Forwarded-For, -Proto, -Host, -Port.


def _read_x_forwarded(fields: dict[str, str], trusted: TrustedProxies) -> _Told:
    def last(key: str) -> str:
        # Where proxies add to what they find, this is what the one wrote that is connected to us.
        return _unquoted(fields.get(key, "").rpartition(",")[2])

    client: str | None = None
    for node in reversed(fields.get(_FOR, "").split(",")):
        address = _read_address(_unquoted(node))
        if address is None:
            break  # Nobody known speaks for what stands further left.
        client = str(address)
        if not trusted.knows(address):
            break
    scheme = _SCHEMES.get(last(_PROTO).lower())
    host = _read_host(last(_HOST))
    port = _read_port(last(_PORT))
    return _Told(client, scheme, host, port, {_FOR: client, _PROTO: scheme, _HOST: host and host.group(), _PORT: port})


def _unquoted(text: str) -> str:
    text = text.strip(" \t")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


# Forwarded.


def _read_forwarded(fields: dict[str, str], trusted: TrustedProxies) -> _Told:
    told = _Told(None, None, None, None, {})
    for element in _elements_from_the_last(fields[_FORWARDED]):
        pairs = _read_pairs(element)
        address = _read_address(pairs.get("for", ""))
        if pairs and (address is not None or not told.fields):
            # Each proxy adds an element: the one that names the client tells what the client asked that proxy for.
            told = _Told(
                None if address is None else str(address),
                _SCHEMES.get(pairs.get("proto", "").lower()),
                _read_host(pairs.get("host", "")),
                None,
                {_FORWARDED: element.strip(" \t")},
            )
        if address is None or not trusted.knows(address):
            break
    return told


def _elements_from_the_last(value: str) -> Iterator[str]:
    """The elements of a list, from right to left: what a client has left open further left confuses nobody here."""
    end, quoted = len(value), False
    for match in reversed(list(_COMMA_OR_QUOTE.finditer(value))):
        if match.group() != ",":
            # An odd number of backslashes before it makes it an ordinary character.
            quoted ^= len(match.group()) % 2 == 1
        elif not quoted:
            yield value[match.end() : end]
            end = match.start()
    yield value[:end]


def _read_pairs(element: str) -> dict[str, str]:
    """The parameters of an element of `Forwarded`, by their names in lower case; none if it is not a valid one."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(element):
        blank = _BLANK_PAIR.match(element, at)
        match = blank or _PAIR.match(element, at)
        if match is None:
            return {}
        at = match.end()
        if blank:
            continue
        name, token, quoted = match.groups()
        # Section 4: "Each parameter MUST NOT occur more than once per field-value."
        if name.lower() in pairs:
            return {}
        pairs[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if token is None else token
    return pairs


# Single values.


def _read_address(text: str) -> _Address | None:
    """An IP address as proxies write it: perhaps in brackets, with a zone, or with a port. None if it is none."""
    if len(text) > _LONGEST_NODE:
        return None
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text or not _PORT_OF_NODE.fullmatch(port):
            return None
    elif text.count(":") == 1:
        text, colon, port = text.partition(":")
        if not _PORT_OF_NODE.fullmatch(colon + port):
            return None
    if ":" in text:
        text = text.partition("%")[0]  # A zone means something on the proxy's own machine only.
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # So a socket for both kinds has an IPv4 peer.
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _read_host(text: str) -> re.Match[str] | None:
    """A host, and perhaps its port, that may stand in a URL."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or (match[2] and _read_port(match[2]) is None):
        return None
    if text.startswith("[") and _read_address(match[1]) is None:
        return None
    return match


def _read_port(text: str) -> str | None:
    if not _PORT_NUMBER.fullmatch(text) or not 0 < int(text) < 65536:
        return None
    return str(int(text))
