"""`connect`: a WebSocket to a server elsewhere, with the same `WebSocket` as on a server's side.

Here is what comes before the first frame: the URL, the proxy, TCP, TLS, and the opening handshake read from the wire. What a
valid answer is says `protocol.handshake`, and what happens on the open connection `websocket`.
"""

from __future__ import annotations

import io
import re
import secrets
import socket as _socket
import ssl
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from http.client import HTTPException, HTTPMessage, HTTPResponse, parse_headers
from ipaddress import IPv6Address
from time import monotonic
from typing import Any, NamedTuple, NoReturn
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

import gevent.socket
import gevent.ssl
from gevent import Timeout
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original, is_module_patched

from .exceptions import HandshakeRefused
from .options import WebSocketOptions, choose_options
from .protocol import Role
from .protocol.connection import Connection
from .protocol.deflate import Deflate
from .protocol.handshake import ClientHandshake, OpeningRequest
from .runtime import call_in_hub, hub_beside
from .transport import GeventTransport, Listener, Transport
from .websocket import WebSocket

__all__ = ["connect"]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

# The head of an answer: servers and browsers allow 8 to 80 KiB.
_LARGEST_HEAD = 64 * 1024
# Of the body of a refusal: how much of it is taken, how long it is waited for, and how much stands in the error's text.
_BODY_TAKEN = 4096
_BODY_PATIENCE = 1.0
_BODY_SHOWN = 200

# All of ASCII that is visible stays as it is, "%" above all: what is encoded already is not encoded again.
_KEPT_IN_URLS = "".join(map(chr, range(0x21, 0x7F)))
_NOT_IN_URLS = re.compile(r"[\x00-\x1f\x7f]|^ | $")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([^\r\n]*))?\r\n")

# RFC 9110 sections 7.6.1 and 8.6.
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade"}
)

# Of which gevent's is a subclass, and which `ssl.SSLContext` is not where the process is patched.
_AnySSLContext: type = get_original("ssl", "SSLContext")
_NativeSSLSocket: type = get_original("ssl", "SSLSocket")


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    origin: str | None = None,
    options: WebSocketOptions | None = None,
    timeout: float | None = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | bool | None = True,
    sock: Any = None,
    **changes: Any,
) -> WebSocket:
    """Open a WebSocket to the server at `url`, RFC 6455 section 4.1. Gives the same `WebSocket` that servers have.

    ::

        with connect("wss://example.com/chat", subprotocols=["chat.v1"]) as ws:
            ws.send("hello")
            for message in ws:
                print(message)

    May be called in any greenlet and any native thread; others go on meanwhile. In a thread that runs greenlets the connection
    is one of theirs; opened in any other thread it is looked after by a thread of its own kind, which all such connections
    share, so that pings are answered whatever the program does. It stays open until one side closes it: use `with`, or call
    `close`.

    `ws.environ` has what a request's environ has (`PATH_INFO`, `QUERY_STRING`, `HTTP_HOST` ...), with the other end's address
    as `REMOTE_ADDR` (the proxy's, if there is one), and the header fields of the server's answer, a list of pairs, as
    `geventws.response_headers`.

    Args:
        url: `ws://` or `wss://`. A name and password in it are sent as Basic authorization, unless `headers` have one.
        subprotocols: those that the application speaks, the preferred one first. Which one the server has chosen says
            `ws.subprotocol`; None is possible.
        headers: more header fields for the request, such as `{"Cookie": "..."}`; pairs where a name comes twice.
        origin: the Origin that the request carries; without one it comes from no page, as other programs' requests do.
        options: of the connection; any field of `WebSocketOptions` may be given by its name as well. With `compression`
            it is offered. What is about servers, such as `origins`, means nothing here.
        timeout: seconds for everything until the WebSocket is open, from looking up the host on; None for no limit.
        ssl_context: for `wss://`, gevent's or the standard library's. By default the server's certificate must be valid for
            the host and signed by an authority that the operating system trusts.
        proxy: True takes what the environment names (`https_proxy` for wss, `http_proxy` for ws, else `all_proxy`; not for
            hosts in `no_proxy`), as `urllib.request` reads it. A URL names one: "http://name:password@host:port". None, none.
        sock: a connected socket to be used, gevent's or the standard library's, a Unix or a tunnel's one perhaps; nothing is
            looked up, and no proxy asked. With `wss://` TLS is done on it, unless it is a `gevent.ssl.SSLSocket`. It is the
            connection's own from then on, and is closed if that cannot be opened.

    Raises:
        HandshakeRefused: the server, or the proxy, has refused, or its answer is none to a WebSocket. `status`, `headers` and
            the beginning of the `body` are the answer's; redirects are not followed. Where there was no HTTP answer, or a
            wrong one, `status` is "502 Bad Gateway".
        TimeoutError: it is not open within `timeout` seconds.
        ssl.SSLCertVerificationError: the server's certificate is not to be trusted.
        OSError: there is no such host, it does not answer, or the connection broke.
        ValueError, TypeError: an argument is not what it has to be. Nothing has been sent.
    """
    try:
        options = choose_options(options, changes)
        if subprotocols:
            options = options.replace(subprotocols=subprotocols)
        _check_timeout(timeout)
        target = _read_url(url)
        _check_ssl_context(ssl_context, target)
        way = None if sock is not None else _choose_proxy(proxy, target)
        fields = _fields(headers, origin, target)
        key = b64encode(secrets.token_bytes(16)).decode("ascii")
        handshake = ClientHandshake(
            key, target.authority, target.resource, options.subprotocols, options.deflate, fields
        )
        opening = _Opening(target, way, ssl_context, handshake, handshake.request())
    except BaseException:
        if hasattr(sock, "close"):
            sock.close()
        raise
    if get_hub_if_exists() is None and not is_module_patched("threading"):
        # No greenlets run here, and nobody would look after the connection while this thread does something else.
        opened: WebSocket = call_in_hub(hub_beside(), opening.run, sock, timeout, options, origin)
        return opened
    return opening.run(sock, timeout, options, origin)


class _Target(NamedTuple):
    """What a URL says."""

    secure: bool
    host: str
    """For looking it up and for TLS: ASCII, an IPv6 address without its brackets."""
    port: int
    authority: str
    """For the Host field: without a port that goes without saying."""
    resource: str
    authorization: str | None
    """Basic credentials."""

    @property
    def shown(self) -> str:
        """For errors: no credentials are in it, nor a query, where tokens are found."""
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.resource.partition('?')[0]}"

    @property
    def address(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def _read_url(url: str) -> _Target:
    """Section 3."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str such as 'wss://example.com/chat'; got {url!r}")
    if _NOT_IN_URLS.search(url):
        raise ValueError(f"the URL has a control character in it, or a blank at an end: {url!r}")
    parts = _split(url, "the URL")
    if parts.scheme in ("http", "https"):
        better = {"http": "ws", "https": "wss"}[parts.scheme]
        raise ValueError(f"the URL of a WebSocket begins with {better}://, where that of a page has {parts.scheme}://")
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"the URL of a WebSocket begins with ws:// or wss://; got {_without_userinfo(url)!r}")
    if "#" in url:
        # 3: "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used on these URIs."
        raise ValueError("the URL of a WebSocket has no fragment: leave out what begins with #, or write it as %23")
    secure = parts.scheme == "wss"
    host = _host(parts, "the URL")
    default = 443 if secure else 80
    port = _port(parts, default, "the URL")
    shown = _bracketed(host.partition("%")[0])
    authority = shown if port == default else f"{shown}:{port}"
    resource = quote(parts.path or "/", safe=_KEPT_IN_URLS)
    if parts.query:
        resource += "?" + quote(parts.query, safe=_KEPT_IN_URLS)
    return _Target(secure, host, port, authority, resource, _basic(parts))


def _split(url: str, what: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{what} cannot be read: {error}") from None


def _without_userinfo(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//", url)


def _host(parts: SplitResult, what: str) -> str:
    host = parts.hostname
    if not host:
        raise ValueError(f"{what} names no host")
    if "[" in parts.netloc:
        address, _, zone = host.partition("%")
        try:
            IPv6Address(address)
        except ValueError:
            raise ValueError(f"{what} has no IPv6 address between its brackets: {host!r}") from None
        # RFC 6874: in a URL the "%" before a zone is written as %25.
        zone = unquote(zone.removeprefix("25"))
        return f"{address}%{zone}" if zone else address
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{what} has an impossible host {host!r}: {error}") from None
    if not re.fullmatch(r"[A-Za-z0-9._~!$&'()*+,;=-]+", host):
        raise ValueError(f"{what} has an impossible host {host!r}")
    return host


def _port(parts: SplitResult, default: int, what: str) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port in {what} is a number from 1 to 65535")
    return port or default


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _basic(parts: SplitResult) -> str | None:
    """RFC 7617; in UTF-8, as browsers do it."""
    if parts.username is None and parts.password is None:
        return None
    name = unquote_to_bytes(parts.username or "")
    if b":" in name:
        raise ValueError("a name for Basic authorization has no colon in it")
    return "Basic " + b64encode(name + b":" + unquote_to_bytes(parts.password or "")).decode("ascii")


def _fields(headers: Headers, origin: str | None, target: _Target) -> list[tuple[str, str]]:
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in fields if isinstance(name, str)}
    if origin is not None:
        if "origin" in names:
            raise ValueError("the Origin is given twice: as `origin`, and in `headers`")
        fields.insert(0, ("Origin", origin))
    if target.authorization is not None and "authorization" not in names:
        fields.append(("Authorization", target.authorization))
    return fields


def _check_timeout(timeout: object) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds, or None; got {timeout!r}")
    if not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, or None for no limit; got {timeout!r}")


def _check_ssl_context(context: object, target: _Target) -> None:
    if context is None:
        return
    if not isinstance(context, _AnySSLContext):
        raise TypeError(f"ssl_context is an ssl.SSLContext; got {context!r}")
    if not target.secure:
        raise ValueError("ssl_context is for wss://, and a ws:// URL was given: such a connection is not encrypted")


class _Proxy(NamedTuple):
    """A proxy that makes tunnels when asked with CONNECT."""

    host: str
    port: int
    authorization: str | None

    @property
    def shown(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.port}"


def _choose_proxy(proxy: object, target: _Target) -> _Proxy | None:
    if isinstance(proxy, str):
        return _read_proxy(proxy, "the proxy's URL")
    if proxy is not True:
        if proxy is None or proxy is False:
            return None
        raise TypeError(f"proxy is a URL, True for that of the environment, or None for none; got {proxy!r}")
    proxies = getproxies()
    for name in ("wss", "https", "all") if target.secure else ("ws", "http", "all"):
        if proxies.get(name):
            # urllib takes the port away from what it compares, as it is written in `no_proxy` now and then.
            if any(map(proxy_bypass, {target.address, f"{target.host}:{target.port}"})):
                return None
            return _read_proxy(proxies[name], f"the environment's {name}_proxy")
    return None


def _read_proxy(url: str, what: str) -> _Proxy:
    parts = _split(url if "://" in url else f"http://{url}", what)
    if parts.scheme.startswith("socks"):
        raise ValueError(
            f"{what} is a SOCKS proxy's, which is not spoken here: open the connection with PySocks "
            "(socks.create_connection) and pass it as `sock`; or give proxy=None to go without"
        )
    if parts.scheme != "http":
        raise ValueError(
            f"{what} begins with {parts.scheme}://, and only http:// proxies are spoken to: open the tunnel yourself and "
            "pass it as `sock`; or give proxy=None to go without"
        )
    return _Proxy(_host(parts, what), _port(parts, 80, what), _basic(parts))


class _Opening:
    """One attempt to open a WebSocket: it holds the socket until a `WebSocket` has it, and closes it if that fails."""

    def __init__(
        self,
        target: _Target,
        proxy: _Proxy | None,
        ssl_context: ssl.SSLContext | None,
        handshake: ClientHandshake,
        request: bytes,
    ) -> None:
        self._target = target
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._handshake = handshake
        self._request = request
        self._socket: Any = None
        self._doing = ""

    def run(self, sock: Any, timeout: float | None, options: WebSocketOptions, origin: str | None) -> WebSocket:
        self._socket = sock
        limit = Timeout.start_new(timeout)
        try:
            due = None if timeout is None else monotonic() + timeout
            if sock is None:
                self._connect(due)
            else:
                self._socket = _adopt(sock)
            if self._target.secure and not isinstance(self._socket, gevent.ssl.SSLSocket):
                self._start_tls()
            return self._shake_hands(limit, options, origin)
        except BaseException as error:
            if hasattr(self._socket, "close"):
                self._socket.close()
            if error is limit:
                shown = self._target.shown
                raise TimeoutError(f"{shown} was not open within {timeout} seconds, {self._doing}") from None
            raise
        finally:
            limit.close()

    def _connect(self, due: float | None) -> None:
        end = self._proxy or self._target
        where = f"{_bracketed(end.host)}:{end.port}"
        if self._proxy is not None:
            where = f"the proxy {where}"
        self._doing = f"while {end.host} was looked up"
        try:
            addresses = gevent.socket.getaddrinfo(end.host, end.port, type=_socket.SOCK_STREAM)
        except _socket.gaierror as error:
            raise _socket.gaierror(error.errno, f"cannot look up {where}: {error.strerror}") from None
        self._doing = f"while {where} was connected to"
        self._connect_to_one_of(addresses, where, due)
        if self._proxy is not None:
            self._ask_for_tunnel(self._proxy)

    def _connect_to_one_of(self, addresses: Sequence[Any], where: str, due: float | None) -> None:
        """One after the other, each with its share of the time: one that does not answer must not take it all."""
        failure = OSError("it has no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                # It may be that this machine has no IPv6.
                self._socket = gevent.socket.socket(family, kind, protocol)
                if due is not None and number < len(addresses) - 1:
                    self._socket.settimeout(max((due - monotonic()) / (len(addresses) - number), 0.001))
                self._socket.connect(address)
            except OSError as error:
                failure = error
                if self._socket is not None:
                    self._socket.close()
                continue
            self._socket.settimeout(None)
            return
        # OSError gives the subclass that belongs to the number.
        text = f"cannot connect to {where}: {failure.strerror or failure}"
        raise OSError(failure.errno, text) if failure.errno else OSError(text)

    def _ask_for_tunnel(self, proxy: _Proxy) -> None:
        """RFC 9110 section 9.3.6, as RFC 6455 section 4.1 has it done for ws as well as wss."""
        address = self._target.address
        self._doing = f"while the proxy {proxy.shown} made a tunnel"
        lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        answer, rest = _read_answer(self._socket, f"the proxy {proxy.shown}")
        if not 200 <= answer.status < 300:
            raise HandshakeRefused(
                answer.line, f"the proxy {proxy.shown} did not connect to {address}: {answer.line}", answer.pairs
            )
        if rest:
            # Only the server can be meant by it, which has not been asked anything yet.
            _fail(f"the proxy {proxy.shown} sends more than its answer to CONNECT: {rest[:40]!r}")

    def _start_tls(self) -> None:
        target = self._target
        self._doing = "in the TLS handshake"
        # Not by the context's own `wrap_socket`: that of the standard library's contexts makes sockets that block all others.
        self._socket = gevent.ssl.SSLSocket(
            self._socket,
            server_hostname=target.host.partition("%")[0].rstrip("."),
            do_handshake_on_connect=False,
            _context=self._ssl_context or _default_ssl_context(),
        )
        try:
            self._socket.do_handshake()
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
                raise ssl.SSLError(
                    error.errno,
                    f"{target.address} does not speak TLS ({error.reason}): should the URL begin with ws://?",
                ) from error
            raise

    def _shake_hands(self, limit: Timeout, options: WebSocketOptions, origin: str | None) -> WebSocket:
        self._doing = "while the server's answer was waited for"
        self._socket.sendall(self._request)
        answer, rest = _read_answer(self._socket, "the server")
        if answer.status != 101:
            raise _refusal(self._target, answer, _read_body(answer, rest, self._socket, limit))
        subprotocol, agreement = self._handshake.check_response(answer.status, answer.field)
        # From here on nothing is waited for, and the socket is the WebSocket's.
        limit.close()
        handshake = self._handshake
        request = OpeningRequest(handshake.key, handshake.host, origin, handshake.subprotocols)
        websocket = WebSocket(self._environ(answer, origin), request, _answered_already, options)
        deflate = options.deflate
        codec = Deflate(agreement, deflate, server=False) if agreement is not None and deflate is not None else None
        connection = Connection(Role.CLIENT, max_message_size=options.max_message_size, deflate=codec)
        # 0: the transport has nothing to do with the handshake, and does not count it.
        websocket.opened(_ClientTransport(self._socket, websocket), connection, subprotocol, rest, 0)
        return websocket

    def _environ(self, answer: _Answer, origin: str | None) -> dict[str, Any]:
        target = self._target
        path, _, query = target.resource.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            # PEP 3333: bytes as characters.
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": target.host,
            "SERVER_PORT": str(target.port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "wss" if target.secure else "ws",
            "HTTP_HOST": target.authority,
            "geventws.response_headers": answer.pairs,
        }
        if origin is not None:
            environ["HTTP_ORIGIN"] = origin
        if self._handshake.subprotocols:
            environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = ", ".join(self._handshake.subprotocols)
        peer = self._socket.getpeername()
        if isinstance(peer, tuple):
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = peer[0], str(peer[1])
        else:
            environ["REMOTE_ADDR"] = peer if isinstance(peer, str) else ""
        return environ


def _answered_already(listener: Listener) -> tuple[Transport, bytes]:
    raise AssertionError("a client accepts nothing")


def _adopt(sock: Any) -> Any:
    """A gevent socket of this thread that waits without a limit of its own."""
    if isinstance(sock, _NativeSSLSocket) and not isinstance(sock, gevent.ssl.SSLSocket):
        raise TypeError(
            "sock is a TLS socket of the standard library, which would block all others: pass the plain socket and a "
            "wss:// URL, or a gevent.ssl.SSLSocket"
        )
    if not callable(getattr(sock, "detach", None)):
        raise TypeError(f"sock is a connected socket, gevent's or the standard library's; got {sock!r}")
    if not isinstance(sock, gevent.socket.socket):
        sock = gevent.socket.socket(sock.family, sock.type, sock.proto, sock.detach())
    elif sock.hub is not gevent.get_hub():  # type: ignore[attr-defined]  # which the stubs leave out
        if isinstance(sock, gevent.ssl.SSLSocket):
            raise TypeError("sock is a gevent.ssl.SSLSocket of another thread: open it in the thread that uses it")
        sock = gevent.socket.socket(sock.family, sock.type, sock.proto, sock.detach())
    sock.settimeout(None)
    return sock


@lru_cache(1)
def _default_ssl_context() -> ssl.SSLContext:
    # Made once: reading the authorities' certificates takes tens of milliseconds in which nothing else runs.
    return ssl.create_default_context()


class _Answer(NamedTuple):
    """The head of an HTTP response."""

    status: int
    line: str
    """As "403 Forbidden"."""
    fields: HTTPMessage
    head: bytes

    def field(self, name: str) -> str | None:
        values = self.fields.get_all(name)
        return None if values is None else ", ".join(values)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Without the fields that are about this connection alone: who passes the others on must not have them."""
        return [(name, value) for name, value in self.fields.items() if name.lower() not in _OF_THE_CONNECTION]


def _read_answer(socket: Any, who: str) -> tuple[_Answer, bytes]:
    """The head of the final response, and the bytes that came in behind it."""
    data = b""
    left = _LARGEST_HEAD
    while True:
        if not b"HTTP/1.".startswith(data[:7]):
            hint = " Does it speak TLS? Then the URL begins with wss://." if data[:1] in (b"\x15", b"\x16") else ""
            _fail(f"what {who} answers is not HTTP/1: {data[:40]!r}{hint}")
        end = data.find(b"\r\n\r\n") + 4
        if end > 3:
            answer = _parse_head(data[:end], who)
            data = data[end:]
            left -= end
            # RFC 9110 section 15.2: others of the kind, such as 103 Early Hints, come before the one that counts.
            if not 100 <= answer.status < 200 or answer.status == 101:
                return answer, data
            continue
        if len(data) > left:
            _fail(f"the head of {who}'s answer is longer than {_LARGEST_HEAD} bytes")
        received = socket.recv(16 * 1024)
        if not received:
            _fail(f"{who} broke off its answer" if data else f"{who} ended the connection without an answer")
        data += received


def _parse_head(head: bytes, who: str) -> _Answer:
    match = _STATUS_LINE.match(head)
    if match is None:
        _fail(f"the status line of {who}'s answer cannot be read: {head[:80]!r}")
    status = int(match[2])
    if status == 101 and match[1] == b"0":
        _fail(f"{who} answers 101 in HTTP/1.0, which knows no upgrade")
    reason = (match[3] or b"").decode("latin-1").strip()
    try:
        fields = parse_headers(io.BytesIO(head[match.end() :]))
    except HTTPException as error:
        _fail(f"the header fields of {who}'s answer cannot be read: {error}")
    return _Answer(status, f"{status} {reason}".rstrip(), fields, head)


def _fail(message: str) -> NoReturn:
    raise HandshakeRefused("502 Bad Gateway", message)


def _refusal(target: _Target, answer: _Answer, body: bytes) -> HandshakeRefused:
    text = f"the server refused the WebSocket {target.shown}: {answer.line}"
    location = answer.fields.get("location")
    if location is not None and 300 <= answer.status < 400:
        text += f", to be found at {location} (redirects are not followed: connect there, if it is to be trusted)"
    if answer.fields.get_content_type() in ("text/plain", "application/json", "application/problem+json"):
        said = " ".join(body.decode("utf-8", "replace").split())
        if said:
            text += f": {said[:_BODY_SHOWN]}{'...' if len(said) > _BODY_SHOWN else ''}"
    return HandshakeRefused(answer.line, text, answer.pairs, body)


def _read_body(answer: _Answer, rest: bytes, socket: Any, limit: Timeout) -> bytes:
    """The beginning of a refusal's body: as much of it as comes soon."""
    body = b""
    response = HTTPResponse(_Replayed(answer.head + rest, socket), method="GET")  # type: ignore[arg-type]  # all it needs
    try:
        with response, Timeout(_BODY_PATIENCE, False):  # type: ignore[arg-type]  # False is gevent's word for silence
            response.begin()
            while len(body) < _BODY_TAKEN:
                piece = response.read1(_BODY_TAKEN - len(body))
                if not piece:
                    break
                body += piece
    except (OSError, HTTPException, ValueError):
        pass  # What the server says is worth less than that it has refused.
    except Timeout as error:
        if error is not limit:
            raise
    return body


class _Replayed(io.RawIOBase):
    """What `http.client` reads a response from of which the beginning has been read already."""

    def __init__(self, data: bytes, socket: Any) -> None:
        self._data = memoryview(data)
        self._socket = socket

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(self._data), len(buffer))
        if not size:
            read: int = self._socket.recv_into(buffer)
            return read
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


class _ClientTransport(GeventTransport):
    """A transport whose peer ends TCP first.

    RFC 6455 section 7.1.1: "the client SHOULD wait for the server to close the connection". So it is the server that keeps the
    port for a while, as it does for HTTP, and the client's ports do not run out.
    """

    __slots__ = ("_over", "_websocket")

    def __init__(self, socket: Any, websocket: Listener) -> None:
        self._over = False
        self._websocket: Listener | None = websocket
        super().__init__(socket, self)

    def on_readable(self) -> None:
        """In the hub, as a Listener of itself."""
        if self._over:
            self._await_end()
        elif self._websocket is not None:
            self._websocket.on_readable()

    def on_closed(self) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            websocket.on_closed()

    def finish(self) -> None:
        if not self._over:
            self._over = True
            self._await_end()

    def _await_end(self) -> None:
        """Drop what still comes, until the server has ended the stream. The WebSocket sees to it that this ends in time."""
        if self.read() == b"":
            super().finish()
        else:
            self.watch()
