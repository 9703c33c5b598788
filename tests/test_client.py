"""`connect` over real sockets: what it refuses, what it makes of every kind of answer, and the WebSocket that it gives."""

from __future__ import annotations

import errno
import functools
import gc
import os
import re
import socket as native_socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.queue
import gevent.socket
import gevent.ssl
import pytest
import trustme
from gevent.monkey import get_original, is_module_patched
from gevent.server import StreamServer
from rawclient import CLOSE, PING, PONG, TEXT, frame, masked
from waiting import missing, wait_until

import geventws
from geventws import (
    CloseCode,
    ConnectionClosed,
    HandshakeRefused,
    InvalidState,
    State,
    WebSocket,
    WebSocketOptions,
    WebSocketServer,
)
from geventws.client import connect
from geventws.protocol.handshake import accept_value
from geventws.runtime import hub_beside

Serve = Callable[..., Any]
PATIENCE = 20  # seconds until something has to come
# For a connection that does not come about: long enough for what is before it.
SOON = 0.3

PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no", "ws", "wss")]


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def open_descriptors() -> set[str]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return set(os.listdir(folder))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Every descriptor that was opened in the test is closed, and by whoever opened it: see pytest's ResourceWarning."""
    gevent.get_hub().threadpool.apply(int)  # The pool and the resolver have their own.
    gc.collect()
    before = len(open_descriptors())
    yield
    wait_until(lambda: len(open_descriptors()) <= before, PATIENCE)
    gc.collect()


class Peer:
    """A server that does to each connection what the test says."""

    def __init__(self, behave: Callable[[Raw], object], **tls: Any) -> None:
        self._behave = behave
        self.requests: list[str] = []
        self.done: gevent.queue.Queue[object] = gevent.queue.Queue()
        """What `behave` returned, or raised, for each connection."""
        self._server = StreamServer(("127.0.0.1", 0), self._serve, **tls)
        self._server.start()
        self.port: int = self._server.server_port
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"ws://{self.address}"

    def _serve(self, socket: Any, address: object) -> None:
        raw = Raw(socket, self)
        try:
            self.done.put(self._behave(raw))
        except OSError as error:
            self.done.put(error)

    def stop(self) -> None:
        self._server.stop(0)


class Raw:
    """The server's end of a connection."""

    def __init__(self, socket: Any, peer: Peer) -> None:
        self.socket = socket
        self._peer = peer
        self._data = b""

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))

    def request(self) -> str:
        """The head of the next request."""
        while b"\r\n\r\n" not in self._data:
            self._fill()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        self._peer.requests.append(head.decode("latin-1"))
        return self._peer.requests[-1]

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the client has ended the stream behind {self._data!r}")
        self._data += data

    def accept(self, more: str = "", behind: bytes = b"") -> str:
        request = self.request()
        self.send(valid_answer(request, more).encode("latin-1") + behind)
        return request

    def read(self, size: int) -> bytes:
        while len(self._data) < size:
            self._fill()
        data, self._data = self._data[:size], self._data[size:]
        return data

    def frame(self) -> tuple[int, bytes, bytes]:
        """The opcode, the masking key and the payload of the next frame, which is short."""
        first, second = self.read(2)
        assert second & 0x80, "a client always masks"
        key = self.read(4)
        return first & 0x0F, key, masked(self.read(second & 0x7F), key)

    def until_end(self) -> bytes:
        """All that comes until the client has ended the stream."""
        while data := self.socket.recv(65536):
            self._data += data
        return self._data


def valid_answer(request: str, more: str = "") -> str:
    key = re.search(r"Sec-WebSocket-Key: (\S+)", request)
    assert key is not None
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key[1])}\r\n{more}\r\n"
    )


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(behave: Callable[[Raw], object], **tls: Any) -> Peer:
        peers.append(Peer(behave, **tls))
        return peers[-1]

    yield start
    for each in peers:
        each.stop()


def answering(text: str | bytes) -> Callable[[Raw], object]:
    """A server that answers every request so, and ends the connection."""

    def behave(raw: Raw) -> None:
        raw.request()
        raw.send(text)

    return behave


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


# What is refused before anything is sent.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/", "begins with ws://, where that of a page has http://"),
        ("https://example.com/", "begins with wss://"),
        ("ftp://example.com/", "begins with ws:// or wss://"),
        ("example.com/chat", "begins with ws:// or wss://"),
        ("", "begins with ws:// or wss://"),
        ("ws:/chat", "names no host"),
        ("ws://", "names no host"),
        ("ws://:80/", "names no host"),
        ("ws://name@/", "names no host"),
        ("ws://example.com/#top", "has no fragment"),
        ("ws://example.com/chat?a=b#", "has no fragment"),
        ("ws://example.com:0/", "1 to 65535"),
        ("ws://example.com:65536/", "1 to 65535"),
        ("ws://example.com:http/", "1 to 65535"),
        ("ws://[::1/", "cannot be read"),
        ("ws://[::g]/", "IPv6|cannot be read"),
        ("ws://exa mple.com/", "impossible host"),
        ("ws://.example.com/", "impossible host"),
        (f"ws://{'x' * 64}.example/", "impossible host"),
        ("ws://exa%6dple.com/", "impossible host"),
        ("ws://example.com/\r\nX: y", "control character"),
        ("ws://example.com/\t", "control character"),
        (" ws://example.com/", "a blank at an end"),
        ("ws://na%3Ame:word@example.com/", "no colon"),
    ],
)
def test_a_url_that_is_none_of_a_websocket_is_refused_and_the_error_says_why(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        connect(url, timeout=1)


def test_no_error_shows_a_password(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = peer(answering("HTTP/1.1 403 Forbidden\r\n\r\n"))
    monkeypatch.setenv("http_proxy", f"http://name:topsecret@{refusing.address}")
    for url in (
        "http://name:topsecret@a/",
        "foo://name:topsecret@a/",
        "ws://name:topsecret@a:0/",
        "ws://n:topsecret@a/",
    ):
        with pytest.raises((ValueError, HandshakeRefused)) as refused:
            connect(url, timeout=5)
        assert "topsecret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (ValueError, "list of texts", {"subprotocols": "chat"}),
        (ValueError, "without blanks", {"subprotocols": ["a b"]}),
        (ValueError, "not a name for a header field", {"headers": {"X Y": "z"}}),
        (ValueError, "line break", {"headers": {"X": "a\r\nb: c"}}),
        (ValueError, "line break", {"origin": "http://a\r\nb: c"}),
        (ValueError, "written by the handshake itself", {"headers": {"Host": "other"}}),
        (ValueError, "written by the handshake itself", {"headers": [("Sec-WebSocket-Key", "x")]}),
        (ValueError, "given twice", {"headers": {"origin": "http://a"}, "origin": "http://a"}),
        (ValueError, "a number of seconds above 0", {"timeout": 0}),
        (TypeError, "a number of seconds", {"timeout": "10"}),
        (TypeError, "is not an option of WebSockets", {"pong": 3}),
        (ValueError, "max_message_size must be", {"max_message_size": 0}),
        (ValueError, "ssl_context is for wss://", {"ssl_context": ssl.create_default_context()}),
        (TypeError, "ssl_context is an ssl.SSLContext", {"ssl_context": True}),
        (TypeError, "proxy is a URL", {"proxy": 8080}),
        (ValueError, "SOCKS.*PySocks.*`sock`", {"proxy": "socks5://127.0.0.1:1080"}),
        (ValueError, "only http:// proxies.*`sock`", {"proxy": "https://127.0.0.1:1080"}),
        (ValueError, "names no host", {"proxy": "http://"}),
        (TypeError, "a URL is a str", {"url": b"ws://127.0.0.1/"}),
        (TypeError, "connected socket", {"sock": "/run/socket"}),
    ],
)
def test_an_argument_that_is_none_is_refused_and_the_error_says_why(
    error: type[Exception], says: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(error, match=says):
        connect(**{"url": "ws://127.0.0.1:1/", **arguments})


@pytest.mark.usefixtures("nothing_left")
def test_a_socket_that_was_given_is_closed_when_anything_is_wrong() -> None:
    for arguments in ({"url": "http://a/"}, {"url": "ws://a/", "timeout": -1}, {"url": "ws://a/", "pong": 3}):
        ours, theirs = gevent.socket.socketpair()
        with theirs, pytest.raises((TypeError, ValueError)):
            connect(sock=ours, **arguments)
        assert ours.fileno() == -1


@pytest.mark.skipif(is_module_patched("ssl"), reason="a patched process has no such sockets")
@pytest.mark.usefixtures("nothing_left")
def test_a_tls_socket_that_blocks_is_refused() -> None:
    ours, theirs = get_original("socket", "socketpair")()
    context = get_original("ssl", "SSLContext")(ssl.PROTOCOL_TLS_CLIENT)
    wrapped = context.wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False)
    with theirs, pytest.raises(TypeError, match=r"would block all others: pass the plain socket"):
        connect("wss://localhost/", sock=wrapped)


# Where nobody answers.


@pytest.mark.usefixtures("nothing_left")
def test_nobody_listens() -> None:
    with gevent.socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"cannot connect to 127.0.0.1:{port}: Connection refused"):
            connect(f"ws://127.0.0.1:{port}/")


@pytest.mark.usefixtures("nothing_left")
def test_there_is_no_such_host() -> None:
    # Without asking anybody: there is no such zone on this machine.
    with pytest.raises(gevent.socket.gaierror, match=r"cannot look up \[fe80::1%nothere\]:80"):
        connect("ws://[fe80::1%25nothere]/")


def test_another_address_is_tried_when_one_does_not_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(echo)
    with gevent.socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dead = (native_socket.AF_INET, native_socket.SOCK_STREAM, 6, "", bound.getsockname())
        alive = (native_socket.AF_INET, native_socket.SOCK_STREAM, 6, "", served.address)
        monkeypatch.setattr(gevent.socket, "getaddrinfo", lambda *args, **kwargs: [dead, alive])
        with connect("ws://several.example/") as ws:
            ws.send("hello")
            assert ws.receive(PATIENCE) == "hello"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_server_that_says_nothing_is_waited_for_so_long_and_others_run_meanwhile(peer: Any, secure: bool) -> None:
    silent = peer(Raw.until_end)
    ticks: list[float] = []

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            ticks.append(time.monotonic())

    ticker = gevent.spawn(tick)
    says = "in the TLS handshake" if secure else "while the server's answer was waited for"
    with pytest.raises(TimeoutError, match=f"was not open within {SOON} seconds, {says}"):
        connect(f"{'wss' if secure else 'ws'}://{silent.address}/", timeout=SOON)
    ticker.kill()
    assert len(ticks) >= 3
    assert isinstance(silent.done.get(timeout=PATIENCE), bytes)


@pytest.mark.usefixtures("nothing_left")
def test_a_head_that_trickles_in_does_not_put_off_the_end(peer: Any) -> None:
    def trickle(raw: Raw) -> None:
        raw.send("HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            raw.send("X: y\r\n")
            gevent.sleep(0.02)

    with pytest.raises(TimeoutError, match="the server's answer"):
        connect(peer(trickle).url, timeout=SOON)


@pytest.mark.usefixtures("nothing_left")
def test_a_timeout_of_the_callers_own_passes_and_leaves_nothing_open(peer: Any) -> None:
    silent = peer(Raw.until_end)
    with pytest.raises(gevent.Timeout), gevent.Timeout(SOON):
        connect(silent.url)
    silent.done.get(timeout=PATIENCE)


@pytest.mark.usefixtures("nothing_left")
def test_a_greenlet_that_is_killed_while_it_connects_leaves_nothing_open(peer: Any) -> None:
    silent = peer(lambda raw: (raw.request(), raw.until_end()))
    connecting = gevent.spawn(connect, silent.url)
    wait_until(lambda: silent.requests)
    connecting.kill()
    assert isinstance(connecting.value, gevent.GreenletExit)


# Answers that are none.


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "ended the connection without an answer"),
        ("HTTP/1.1 101 Switch", "broke off its answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP/1: b'SSH-2.0"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speak TLS. Then the URL begins with wss://"),
        ("HTTP/2.0 200\r\n\r\n", "is not HTTP/1"),
        ("HTTP/1.1 abc\r\n\r\n", "status line .* cannot be read"),
        ("HTTP/1.1 1010 X\r\n\r\n", "status line .* cannot be read"),
        ("HTTP/1.0 101 X\r\nUpgrade: websocket\r\n\r\n", "knows no upgrade"),
        ("HTTP/1.1 101 X\r\n\r\n", "does not upgrade"),
        ("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Sec-WebSocket-Accept"),
        ("HTTP/1.1 101 X\r\n" + "X: y\r\n" * 101 + "\r\n", "header fields .* cannot be read"),
        ("HTTP/1.1 101 X\r\nX: " + "y" * 70_000, "longer than 65536 bytes"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n" * 3000, "longer than 65536 bytes"),
    ],
)
def test_what_is_no_answer_to_a_websocket_is_an_error_that_says_why(peer: Any, answer: Any, says: str) -> None:
    with pytest.raises(HandshakeRefused, match=says) as refused:
        connect(peer(answering(answer)).url, timeout=PATIENCE)
    assert refused.value.status == "502 Bad Gateway"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("Sec-WebSocket-Protocol: other\r\n", "'other', which was not offered"),
        ("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n", "which was not offered"),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", "extensions that were not offered"),
        ("Upgrade: h2c\r\n", "does not upgrade"),
    ],
)
def test_an_answer_that_agrees_to_what_was_not_offered_is_an_error(peer: Any, more: str, says: str) -> None:
    with pytest.raises(HandshakeRefused, match=says):
        connect(peer(lambda raw: raw.accept(more)).url, subprotocols=["a", "b"])


# Refusals.


@pytest.mark.usefixtures("nothing_left")
def test_a_refusal_carries_status_and_header_fields_and_what_was_said(serve: Serve) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"), ("X-Why", "rules")])
        return ["Für Fremde\ngeschlossen".encode()]

    served = serve(app)
    with pytest.raises(HandshakeRefused) as refused:
        connect(f"{served.url}/private?token=secret")
    error = refused.value
    assert error.status == "403 Forbidden"
    assert ("X-Why", "rules") in error.headers
    assert not {"content-length", "connection"} & {name.lower() for name, _ in error.headers}
    assert error.body == "Für Fremde\ngeschlossen".encode()
    shown = f"the server refused the WebSocket {served.url}/private: 403 Forbidden: Für Fremde geschlossen"
    assert str(error) == shown


@pytest.mark.usefixtures("nothing_left")
def test_a_redirect_is_not_followed_and_the_error_says_where_it_leads(peer: Any) -> None:
    moved = peer(answering("HTTP/1.1 302 Found\r\nLocation: wss://new.example/chat\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(HandshakeRefused, match=r"302 Found, to be found at wss://new\.example/chat") as refused:
        connect(moved.url)
    assert dict(refused.value.headers)["Location"] == "wss://new.example/chat"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        ("HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        ("HTTP/1.1 400 Bad\r\n\r\nabc", b"abc"),
        ("HTTP/1.0 400 Bad\r\nContent-Length: 3\r\n\r\nabcdef", b"abc"),
        ("HTTP/1.1 400 Bad\r\nContent-Length: 10\r\n\r\nabc", b"abc"),
        ("HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", b""),
        ("HTTP/1.1 400 Bad\r\n\r\n" + "x" * 100_000, b"x" * 4096),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        ("HTTP/1.1 204\r\n\r\n", b""),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_the_beginning_of_a_refusals_body_is_kept(peer: Any, answer: str, body: bytes) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        connect(peer(answering(answer)).url)
    assert refused.value.status == answer.split("\r\n")[0].split(" ", 1)[1]
    assert refused.value.body == body


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("timeout", [0.7, PATIENCE], ids=["the time is up first", "it has waited long enough"])
def test_a_body_that_does_not_end_is_not_waited_for(peer: Any, timeout: float) -> None:
    def behave(raw: Raw) -> None:
        raw.request()
        raw.send("HTTP/1.1 503 Busy\r\nContent-Type: text/plain\r\n\r\nlater")
        raw.until_end()

    with pytest.raises(HandshakeRefused, match="503 Busy: later"):
        connect(peer(behave).url, timeout=timeout)


@pytest.mark.usefixtures("nothing_left")
def test_a_connection_that_is_reset_is_an_error_of_the_system(peer: Any) -> None:
    def behave(raw: Raw) -> None:
        raw.request()
        raw.socket.setsockopt(native_socket.SOL_SOCKET, native_socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raw.socket.close()

    with pytest.raises(ConnectionResetError):
        connect(peer(behave).url)


# TLS.


class Tls:
    """A server's certificate for localhost, and contexts of clients."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.server = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(self.server)

    def client(self, kind: type = gevent.ssl.SSLContext) -> ssl.SSLContext:
        context = kind(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.cert_pem.bytes().decode())
        return context

    def serve(self, serve: Serve, **options: Any) -> str:
        served = serve(echo, server_class=WebSocketServer, server_arguments={"ssl_context": self.server}, **options)
        return f"wss://localhost:{served.server.server_port}/"


@pytest.fixture(scope="module")
def tls() -> Tls:
    return Tls()


@pytest.mark.usefixtures("nothing_left")
def test_a_certificate_of_an_unknown_authority_is_not_trusted(serve: Serve, tls: Tls) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        connect(tls.serve(serve))


@pytest.mark.usefixtures("nothing_left")
def test_a_certificate_of_another_host_is_not_trusted(serve: Serve, tls: Tls) -> None:
    url = tls.serve(serve).replace("localhost", "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for '127\.0\.0\.1'"):
        connect(url, ssl_context=tls.client())


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_speaks_no_tls_is_an_error_that_says_so(serve: Serve) -> None:
    served = serve(echo)
    with pytest.raises(ssl.SSLError, match=r"does not speak TLS.*ws://"):
        connect(served.url.replace("ws", "wss"))


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_speaks_tls_only_is_not_understood(serve: Serve, tls: Tls) -> None:
    with pytest.raises((HandshakeRefused, ConnectionResetError), match=r"without an answer|speak TLS|reset"):
        connect(tls.serve(serve).replace("wss", "ws"))


@pytest.mark.usefixtures("nothing_left")
def test_a_context_for_servers_is_refused(serve: Serve, tls: Tls) -> None:
    with pytest.raises((ssl.SSLError, ValueError), match=r"PROTOCOL_TLS_SERVER|server"):
        connect(tls.serve(serve), ssl_context=gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize("kind", [gevent.ssl.SSLContext, get_original("ssl", "SSLContext")], ids=["gevent's", "native"])
@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
def test_wss_with_either_kind_of_context(serve: Serve, tls: Tls, kind: type, compression: bool) -> None:
    message = "0123456789" * 100_000
    url = tls.serve(serve, compression=compression)
    # The server is in the same hub: were the client's socket to block, nothing would come.
    with connect(url, ssl_context=tls.client(kind), compression=compression) as ws:
        for text in ("hello", message, ""):
            ws.send(text)
            assert ws.receive(PATIENCE) == text
    assert ws.close_code == 1000


def test_the_authorities_of_the_operating_system_are_trusted(
    serve: Serve, tls: Tls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    tls.authority.cert_pem.write_to_path(authority)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    from geventws import client

    monkeypatch.setattr(client, "_default_ssl_context", functools.cache(client._default_ssl_context.__wrapped__))
    with connect(tls.serve(serve)) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"


def test_a_tls_socket_of_gevents_is_used_as_it_is(serve: Serve, tls: Tls) -> None:
    url = tls.serve(serve)
    plain = gevent.socket.create_connection(("127.0.0.1", int(url.split(":")[2].strip("/"))))
    sock = tls.client().wrap_socket(plain, server_hostname="localhost")
    with connect(url, sock=sock) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"


# Proxies.


class Tunnels:
    """A proxy as many companies have one: it connects to whatever CONNECT names, perhaps for those with a password."""

    def __init__(self, peer: Callable[..., Peer], password: str | None = None) -> None:
        self._expected = password and "Basic " + b64encode(password.encode()).decode()
        self.asked: list[str] = []
        self.address = peer(self._tunnel).address

    def _tunnel(self, raw: Raw) -> None:
        request = raw.request()
        self.asked.append(request.split(" ")[1])
        if self._expected and f"Proxy-Authorization: {self._expected}" not in request:
            raw.send('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
            return
        host, port = self.asked[-1].rsplit(":", 1)
        with gevent.socket.create_connection((host.strip("[]"), int(port))) as onward:
            raw.send("HTTP/1.1 200 Connection established\r\n\r\n")
            back = gevent.spawn(pump, onward, raw.socket)
            pump(raw.socket, onward)
            back.join(PATIENCE)


def pump(source: Any, target: Any) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(native_socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            r"the proxy http://{0} did not connect to far\.example:80: 502 Bad Gateway",
        ),
        ("", "the proxy http://{0} ended the connection without an answer"),
        ("hello", "what the proxy http://{0} answers is not HTTP/1"),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "the proxy http://{0} sends more than its answer"),
    ],
)
def test_a_proxy_that_does_not_connect_is_named_and_its_answer_too(peer: Any, answer: str, says: str) -> None:
    proxy = peer(answering(answer))
    with pytest.raises(HandshakeRefused, match=says.format(proxy.address)):
        connect("ws://far.example/", proxy=f"http://{proxy.address}")


@pytest.mark.usefixtures("nothing_left")
def test_a_proxy_wants_a_password(serve: Serve, peer: Any) -> None:
    tunnels = Tunnels(peer, "name:pass word")
    url = serve(echo).url
    with pytest.raises(HandshakeRefused, match="407 Proxy Authentication Required") as refused:
        connect(url, proxy=f"http://name:wrong@{tunnels.address}")
    assert refused.value.status == "407 Proxy Authentication Required"
    assert dict(refused.value.headers)["Proxy-Authenticate"] == 'Basic realm="x"'
    with connect(url, proxy=f"http://name:pass%20word@{tunnels.address}") as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"


@pytest.mark.usefixtures("nothing_left")
def test_a_proxy_that_is_not_there_is_named() -> None:
    with gevent.socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError, match=f"cannot connect to the proxy {address}"):
            connect("ws://far.example/", proxy=f"http://{address}")


@pytest.mark.usefixtures("nothing_left")
def test_a_proxy_that_does_not_answer_is_waited_for_so_long(peer: Any) -> None:
    silent = peer(Raw.until_end)
    with pytest.raises(TimeoutError, match=r"while the proxy http://.* made a tunnel"):
        connect("ws://far.example/", proxy=silent.address, timeout=SOON)


def test_wss_through_a_proxy_is_encrypted_from_end_to_end(serve: Serve, peer: Any, tls: Tls) -> None:
    tunnels = Tunnels(peer)
    url = tls.serve(serve)
    with connect(url, proxy=f"http://{tunnels.address}", ssl_context=tls.client()) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
    assert tunnels.asked == [url[6:-1]]


@pytest.mark.parametrize(
    ("variable", "secure", "used"),
    [
        ("http_proxy", False, True),
        ("HTTP_PROXY", False, True),
        ("https_proxy", False, False),
        ("all_proxy", False, True),
        ("http_proxy", True, False),
        ("https_proxy", True, True),
        ("ALL_PROXY", True, True),
    ],
)
def test_the_environment_names_a_proxy(
    serve: Serve, peer: Any, tls: Tls, monkeypatch: pytest.MonkeyPatch, variable: str, secure: bool, used: bool
) -> None:
    tunnels = Tunnels(peer)
    monkeypatch.setenv(variable, f"http://{tunnels.address}")
    url = tls.serve(serve) if secure else serve(echo).url
    with connect(url, ssl_context=tls.client() if secure else None) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
    assert bool(tunnels.asked) is used


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "example.com,127.0.0.1", "*", "127.0.0.1:{port}"])
def test_the_environment_names_hosts_without_a_proxy(
    serve: Serve, peer: Any, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    tunnels = Tunnels(peer)
    served = serve(echo)
    monkeypatch.setenv("http_proxy", f"http://{tunnels.address}")
    monkeypatch.setenv("no_proxy", no_proxy.format(port=served.server.server_port))
    with connect(served.url) as ws:
        assert ws.state is State.OPEN
    assert tunnels.asked == []


@pytest.mark.parametrize("proxy", [None, False])
def test_no_proxy_is_asked_if_none_is_wanted(serve: Serve, monkeypatch: pytest.MonkeyPatch, proxy: bool | None) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    with connect(serve(echo).url, proxy=proxy) as ws:
        assert ws.state is State.OPEN


def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match="the environment's all_proxy is a SOCKS proxy's"):
        connect("ws://far.example/")


# The request.


def requested(peer: Callable[..., Peer], url: str, answer: str = "", **arguments: Any) -> list[str]:
    """The lines of the request for this URL, `{}` being the address of the server."""

    def behave(raw: Raw) -> None:
        raw.accept(answer)
        closing(raw)

    accepting = peer(behave)
    sock = gevent.socket.create_connection(("127.0.0.1", accepting.port))
    connect(url.format(accepting.address), sock=sock, **arguments).close()
    return accepting.requests[0].split("\r\n")


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("ws://example.com", "/", "example.com"),
        ("ws://example.com:80/chat", "/chat", "example.com"),
        ("WS://EXAMPLE.com:8080/Chat?A=b&c", "/Chat?A=b&c", "example.com:8080"),
        ("ws://example.com?room=1", "/?room=1", "example.com"),
        ("ws://example.com/a b/ü/%C3%BC?q=世%20界", "/a%20b/%C3%BC/%C3%BC?q=%E4%B8%96%20%E7%95%8C", "example.com"),
        ("ws://example.com/a;b=c,d/~e!$&'()*+@:", "/a;b=c,d/~e!$&'()*+@:", "example.com"),
        ("ws://[::1]/", "/", "[::1]"),
        ("ws://[::1]:9000/", "/", "[::1]:9000"),
        ("ws://[fe80::1%25eth0]/", "/", "[fe80::1]"),
        ("ws://bücher.example/", "/", "xn--bcher-kva.example"),
        ("ws://under_score.example:443/", "/", "under_score.example:443"),
    ],
)
def test_the_request_names_what_the_url_names(peer: Any, url: str, line: str, host: str) -> None:
    first, *fields = requested(peer, url)
    assert first == f"GET {line} HTTP/1.1"
    assert f"Host: {host}" in fields


def test_the_request_has_what_it_must_have_and_a_new_key_each_time(peer: Any) -> None:
    keys = set()
    for _ in range(3):
        fields = dict(line.split(": ", 1) for line in requested(peer, "ws://{}/")[1:])
        keys.add(fields.pop("Sec-WebSocket-Key"))
        assert fields.pop("Host")
        assert fields == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert len(keys) == 3
    assert {len(b64decode(key)) for key in keys} == {16}


@pytest.mark.parametrize("headers", [{"Cookie": "a=b", "X-Test": "ü"}, [("Cookie", "a=b"), ("X-Test", "ü")]])
def test_the_request_has_header_fields_and_an_origin(peer: Any, headers: Any) -> None:
    lines = requested(peer, "ws://{}/", headers=headers, origin="https://example.com")
    assert lines[-3:] == ["Origin: https://example.com", "Cookie: a=b", "X-Test: ü"]


def test_a_name_and_password_in_the_url_are_sent_unless_there_is_another_authorization(peer: Any) -> None:
    lines = requested(peer, "ws://n%C3%A4me:pass%3Aword@{}/")
    assert lines[-1] == "Authorization: Basic " + b64encode("näme:pass:word".encode()).decode()
    assert "@" not in "".join(lines)
    lines = requested(peer, "ws://name:word@{}/", headers={"authorization": "Bearer x"})
    assert lines[-1] == "authorization: Bearer x"
    assert not any(line.startswith("Authorization:") for line in lines)


def test_subprotocols_are_offered_and_the_servers_choice_is_taken(peer: Any) -> None:
    answer = "Sec-WebSocket-Protocol: b\r\n"
    lines = requested(peer, "ws://{}/", subprotocols=["a", "b"], answer=answer)
    assert "Sec-WebSocket-Protocol: a, b" in lines
    lines = requested(peer, "ws://{}/", options=WebSocketOptions(subprotocols=("b", "c")), answer=answer)
    assert "Sec-WebSocket-Protocol: b, c" in lines


def test_compression_is_offered_if_it_is_wanted(peer: Any) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    assert any(line.startswith(offer) for line in requested(peer, "ws://{}/", compression=True))
    assert not any(line.startswith(offer) for line in requested(peer, "ws://{}/"))


# The WebSocket.


def test_messages_of_both_kinds_and_many_sizes_are_echoed(serve: Serve) -> None:
    served = serve(echo)
    with connect(served.url) as ws:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 2**20):
            for message in ("x" * size, os.urandom(size)):
                ws.send(message)
                assert ws.receive(PATIENCE) == message
    assert (ws.close_code, ws.state, ws.closed) == (1000, State.CLOSED, True)
    with pytest.raises(ConnectionClosed):
        ws.send("more")
    assert served.access_log()[0].split('"')[2].split()[0] == "101"


def test_it_is_a_websocket_like_any_other(serve: Serve) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept("chat.v1", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        ws.send(f"{environ['PATH_INFO']} {environ['QUERY_STRING']} {environ['HTTP_HOST']} {ws.origin} {ws.subprotocol}")
        ws.receive()
        return []

    served = serve(app, subprotocols=["chat.v1"])
    origin = f"http://127.0.0.1:{served.server.server_port}"
    url = f"{served.url}/the%20chat?room=1"
    with connect(url, subprotocols=["chat.v2", "chat.v1"], origin=origin) as ws:
        assert isinstance(ws, WebSocket)
        assert ws.receive(PATIENCE) == f"/the chat room=1 {origin[7:]} {origin} chat.v1"
        assert (ws.subprotocol, ws.protocol, ws.origin, ws.version) == ("chat.v1", "chat.v2, chat.v1", origin, "13")
        assert (ws.path, ws.environ["QUERY_STRING"]) == ("/the chat", "room=1")
        assert ws.remote_address == served.address
        assert ws.handler is None
        assert repr(ws) == f"<WebSocket {ws.id[:4]} OPEN /the chat 127.0.0.1>"
        cookies = [value for name, value in ws.environ["geventws.response_headers"] if name == "Set-Cookie"]
        assert cookies == ["a=1", "b=2"]
        with pytest.raises(InvalidState, match="answered already"):
            ws.accept()
        received, sent = ws.counts[:2], ws.counts[2:]
        assert received[0] == 1
        assert sent == (0, 0)
    assert repr(ws) == f"<WebSocket {ws.id[:4]} CLOSED /the chat 127.0.0.1>"


def test_frames_that_come_right_behind_the_answer_are_not_lost(peer: Any) -> None:
    def behave(raw: Raw) -> tuple[int, bytes]:
        raw.accept(behind=frame(TEXT, "one", mask=None) + frame(PING, "?", mask=None) + frame(TEXT, "two", mask=None))
        opcode, _, payload = raw.frame()
        raw.send(frame(CLOSE, b"\x03\xe8", mask=None))
        return opcode, payload

    server = peer(behave)
    with connect(server.url) as ws:
        assert ws.receive(PATIENCE) == "one"
        assert ws.receive(PATIENCE) == "two"
        assert ws.receive(PATIENCE) is None
    assert server.done.get(timeout=PATIENCE) == (PONG, b"?")


def test_an_answer_in_pieces_and_behind_others_of_the_kind_is_put_together(peer: Any) -> None:
    def behave(raw: Raw) -> None:
        early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        for character in early + valid_answer(raw.request()):
            raw.send(character)
            gevent.sleep(0)
        raw.send(frame(TEXT, "hello", mask=None) + frame(CLOSE, b"\x03\xe8", mask=None))

    with connect(peer(behave).url) as ws:
        assert ws.receive(PATIENCE) == "hello"


def test_every_frame_is_masked_with_a_key_of_its_own(peer: Any) -> None:
    def behave(raw: Raw) -> list[tuple[int, bytes, bytes]]:
        raw.accept()
        frames = [raw.frame() for _ in range(50)]
        raw.send(frame(CLOSE, b"\x03\xe8", mask=None))
        return frames

    server = peer(behave)
    with connect(server.url) as ws:
        for _ in range(50):
            ws.send("hello")
        frames = server.done.get(timeout=PATIENCE)
    assert {payload for _, _, payload in frames} == {b"hello"}
    assert len({key for _, key, _ in frames}) == 50


def test_compressed_both_ways(serve: Serve) -> None:
    with connect(serve(echo, compression=True).url, compression=True) as ws:
        for number in range(20):
            message = f"{number} of the same words again and again " * 1000
            ws.send(message)
            assert ws.receive(PATIENCE) == message
        assert ws.counts[3] < 20 * 2000
        assert ws.counts[1] < 20 * 2000


def test_a_server_that_does_not_compress_is_spoken_to_without(serve: Serve) -> None:
    with connect(serve(echo).url, compression=True) as ws:
        ws.send("x" * 5000)
        assert ws.receive(PATIENCE) == "x" * 5000
        assert ws.counts[3] > 5000


def test_a_message_over_the_limit_closes_with_1009(serve: Serve) -> None:
    ended: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.send("x" * 1001)
        assert ws.receive() is None
        ended.append(ws.close_code)
        return []

    with connect(serve(app).url, max_message_size=1000) as ws:
        assert ws.receive(PATIENCE) is None
    wait_until(lambda: ended)
    assert ended == [CloseCode.MESSAGE_TOO_BIG]


def test_a_masked_frame_of_the_server_fails_the_connection(peer: Any) -> None:
    def behave(raw: Raw) -> tuple[int, bytes]:
        raw.accept(behind=frame(TEXT, "masked"))
        opcode, _, payload = raw.frame()
        return opcode, payload[:2]

    server = peer(behave)
    with connect(server.url) as ws:
        assert ws.receive(PATIENCE) is None
        assert ws.close_code == CloseCode.PROTOCOL_ERROR
    assert server.done.get(timeout=PATIENCE) == (CLOSE, b"\x03\xea")


def test_the_server_is_pinged_and_given_up_if_it_does_not_answer(peer: Any) -> None:
    def behave(raw: Raw) -> int:
        raw.accept()
        opcode = raw.frame()[0]
        raw.until_end()
        return opcode

    server = peer(behave)
    with connect(server.url, ping_interval=0.1, ping_timeout=0.2) as ws:
        assert ws.receive(PATIENCE) is None
        assert (ws.close_code, ws.close_reason) == (1006, "no answer to a ping within 0.2 seconds")
    done = server.done.get(timeout=PATIENCE)
    assert done == PING or isinstance(done, ConnectionResetError)


def test_pings_go_both_ways_and_measure_the_latency(serve: Serve) -> None:
    with connect(serve(echo, ping_interval=0.05).url, ping_interval=0.05) as ws:
        wait_until(lambda: ws.latency is not None)
        ws.send("still there")
        assert ws.receive(PATIENCE) == "still there"


def test_many_connections_at_once_from_many_greenlets(serve: Serve) -> None:
    url = serve(echo).url

    def talk(number: int) -> object:
        with connect(url, timeout=PATIENCE) as ws:
            ws.send(str(number))
            return ws.receive(PATIENCE)

    talks = [gevent.spawn(talk, number) for number in range(50)]
    assert [each.get(timeout=PATIENCE) for each in talks] == [str(number) for number in range(50)]


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_handler_connects_to_another_server(serve: Serve, tls: Tls, secure: bool) -> None:
    behind = tls.serve(serve) if secure else serve(echo).url

    def relay(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        with connect(behind, ssl_context=tls.client(get_original("ssl", "SSLContext")) if secure else None) as upstream:
            for message in ws:
                upstream.send(message)
                ws.send(upstream.receive())
        return []

    with connect(serve(relay).url) as ws:
        for number in range(10):
            ws.send(f"message {number}")
            assert ws.receive(PATIENCE) == f"message {number}"


def test_a_thread_has_a_connection_of_its_own(serve: Serve, in_thread: Callable[..., Any]) -> None:
    url = serve(echo).url

    def talk() -> object:
        with connect(url, timeout=PATIENCE) as ws:
            ws.send("from a thread")
            return threading.get_ident(), ws.receive(PATIENCE)

    ident, answer = in_thread(talk)
    assert answer == "from a thread"
    assert ident != threading.get_ident()


def test_another_thread_sends_on_it(serve: Serve, in_thread: Callable[..., Any]) -> None:
    with connect(serve(echo).url) as ws:
        in_thread(ws.send, ("from a thread",))
        assert ws.receive(PATIENCE) == "from a thread"


def test_ipv6(serve: Serve) -> None:
    try:
        served = serve(echo, listener=("::1", 0))
    except OSError:
        missing("IPv6")
    with connect(f"ws://[::1]:{served.server.server_port}/") as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
        assert ws.environ["HTTP_HOST"] == f"[::1]:{served.server.server_port}"
        assert ws.remote_address == ("::1", served.server.server_port)


# Sockets that are there already.


@pytest.fixture
def unix_server(serve: Serve, tmp_path: Path) -> str:
    path = str(tmp_path / "socket")
    listener = gevent.socket.socket(native_socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    serve(echo, listener=listener)
    return path


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", [gevent.socket.socket, get_original("socket", "socket")], ids=["gevent's", "native"])
def test_a_unix_socket(unix_server: str, kind: Any) -> None:
    sock = kind(native_socket.AF_UNIX)
    sock.connect(unix_server)
    with connect("ws://localhost/chat", sock=sock) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
        assert ws.remote_address == unix_server
        assert repr(ws) == f"<WebSocket {ws.id[:4]} OPEN /chat {unix_server}>"


@pytest.mark.usefixtures("nothing_left")
def test_a_pair_of_sockets_without_a_network(serve: Serve) -> None:
    served = serve(echo)
    ours, theirs = gevent.socket.socketpair()
    serving = gevent.spawn(served.server.handle, theirs, ("", 0))
    with connect("ws://testserver/", sock=ours) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
    serving.get(timeout=PATIENCE)


def test_a_socket_of_another_thread_is_taken_over(serve: Serve, in_thread: Callable[..., Any]) -> None:
    served = serve(echo)
    sock = in_thread(gevent.socket.create_connection, (served.address,))
    with connect(served.url, sock=sock) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"


# Threads that run no greenlets.

native_threads = pytest.mark.skipif(is_module_patched("threading"), reason="in a patched process threads are greenlets")


def in_fresh_thread(function: Callable[[], Any], in_thread: Any) -> Any:
    """Call `function` in a native thread that has never had to do with gevent."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    in_thread(thread.join)
    return results[0]


@native_threads
def test_a_connection_opened_where_no_greenlets_run_is_looked_after_and_anybody_s(serve: Serve, in_thread: Any) -> None:
    served = serve(echo, ping_interval=0.05, ping_timeout=0.3)
    ws = in_fresh_thread(lambda: connect(served.url), in_thread)
    reading = gevent.get_hub().threadpool.spawn(ws.receive)
    gevent.sleep(
        0.6
    )  # Its own thread has gone, and nobody touches it; without an answer to pings it would be given up.
    ws.send("hello")
    assert reading.get(timeout=PATIENCE) == "hello"
    in_fresh_thread(ws.close, in_thread)
    assert ws.close_code == 1000


@native_threads
@pytest.mark.usefixtures("nothing_left")
def test_threads_that_connect_and_end_leave_nothing_behind(serve: Serve, in_thread: Any) -> None:
    hub_beside()
    before = len(open_descriptors())
    url = serve(echo).url

    def talk() -> None:
        with connect(url) as ws:
            ws.send("hello")
            assert ws.receive(PATIENCE) == "hello"

    for _ in range(3):
        threads = [threading.Thread(target=talk) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            in_thread(thread.join)
    wait_until(lambda: len(open_descriptors()) <= before + 4, PATIENCE)


@native_threads
def test_closing_is_no_error_where_the_thread_that_it_belonged_to_has_ended_with_it(
    serve: Serve, in_thread: Any
) -> None:
    url = serve(echo).url
    opened = []

    def open_and_close() -> None:
        gevent.get_hub()
        with connect(url) as ws:
            opened.append(ws)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=open_and_close)
    thread.start()
    in_thread(thread.join)
    opened[0].close()
    assert opened[0].close_code == 1000


INTERRUPTED = """
import signal, sys
from geventws.client import connect

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
with connect(sys.argv[1]) as ws:
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        ws.receive()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    ws.send("later")
    print(ws.receive(timeout=10))
"""


@native_threads
def test_who_is_interrupted_while_he_waits_takes_no_message_with_him(serve: Serve, in_thread: Any) -> None:
    line = [sys.executable, "-c", INTERRUPTED, serve(echo).url]
    environment = {**os.environ, "PYTHONPATH": str(Path(geventws.__file__).parents[1])}
    run = functools.partial(subprocess.run, line, env=environment, capture_output=True, text=True, timeout=50)
    ended = in_thread(run)
    assert ended.stdout.split() == ["interrupted", "later"], ended.stderr


# The end.


def closing(raw: Raw, code: bytes = b"\x03\xe8") -> None:
    """The server's part of a closing handshake that the client begins."""
    while raw.frame()[0] != CLOSE:
        pass
    raw.send(frame(CLOSE, code, mask=None))


def test_the_server_ends_tcp_first(peer: Any) -> None:
    def behave(raw: Raw) -> object:
        raw.accept()
        closing(raw)
        raw.socket.settimeout(SOON)
        try:
            return raw.socket.recv(1)
        except TimeoutError:
            return "the client waits"

    server = peer(behave)
    started = time.monotonic()
    ws = connect(server.url)
    ws.close()
    assert server.done.get(timeout=PATIENCE) == "the client waits"
    assert time.monotonic() - started < 1.9
    assert (ws.close_code, ws.closed) == (1000, True)


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_does_not_end_tcp_is_not_waited_for_long(peer: Any) -> None:
    def behave(raw: Raw) -> bytes:
        raw.accept()
        closing(raw)
        return raw.until_end()

    server = peer(behave)
    ws = connect(server.url, close_timeout=SOON)
    ws.close()
    assert ws.close_code == 1000
    assert server.done.get(timeout=PATIENCE) == b""


@pytest.mark.usefixtures("nothing_left")
def test_closing_does_not_wait_for_a_server_that_turns_out_to_be_gone(serve: Serve) -> None:
    """Its end of the socket is closed, and nobody here has had a look at it yet."""
    ours, theirs = gevent.socket.socketpair()
    server = serve(lambda environ, start_response: environ["wsgi.websocket"].accept()).server
    serving = gevent.spawn(server.handle, theirs, ("127.0.0.1", 1))
    ws = connect("ws://localhost/", sock=ours)
    theirs._sock.shutdown(gevent.socket.SHUT_RDWR)
    with gevent.Timeout(5):
        ws.close()
    assert ws.closed
    serving.kill()
    theirs.close()


def test_a_server_that_does_not_answer_a_close_frame_is_not_waited_for_long(peer: Any) -> None:
    def behave(raw: Raw) -> bytes:
        raw.accept()
        return raw.until_end()

    server = peer(behave)
    ws = connect(server.url, close_timeout=SOON)
    ws.close(1001, "going")
    assert ws.close_code == 1006
    assert server.done.get(timeout=PATIENCE)


def test_what_the_server_sends_behind_its_close_frame_is_dropped(peer: Any) -> None:
    def behave(raw: Raw) -> None:
        raw.accept()
        closing(raw)
        for _ in range(100):
            raw.send(bytes(65536))

    server = peer(behave)
    ws = connect(server.url)
    ws.close()
    assert ws.close_code == 1000
    assert server.done.get(timeout=PATIENCE) is None


def test_the_answer_to_a_close_frame_leaves_though_the_server_has_ended_its_stream_and_reads_late(peer: Any) -> None:
    def behave(raw: Raw) -> bytes:
        raw.accept()
        raw.read(1)
        raw.send(frame(CLOSE, b"\x0f\xa0later", mask=None))
        raw.socket.shutdown(native_socket.SHUT_WR)
        gevent.sleep(0.05)
        return raw.until_end()[-2:]

    server = peer(behave)
    ws = connect(server.url)
    sending = gevent.spawn(ws.send, bytes(2**23))
    assert ws.receive(PATIENCE) is None
    assert (ws.close_code, ws.close_reason) == (4000, "later")
    # The frame that was under way, and behind it the close frame with the code of the server's.
    last = server.done.get(timeout=PATIENCE)
    assert isinstance(last, bytes)
    assert len(last) == 2
    sending.join(PATIENCE)
    assert ws.closed


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.usefixtures("nothing_left")
def test_closing_takes_no_time_against_our_own_server(serve: Serve, tls: Tls, secure: bool, who: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.receive()
        if who == "server":
            ws.close(4001, "enough")
        ws.receive()
        return []

    arguments: dict[str, Any] = {"server_arguments": {"ssl_context": tls.server}} if secure else {}
    served = serve(app, server_class=WebSocketServer, **arguments)
    url = f"{'wss' if secure else 'ws'}://localhost:{served.server.server_port}/"
    ws = connect(url, ssl_context=tls.client() if secure else None)
    started = time.monotonic()
    ws.send("go")
    if who == "server":
        assert ws.receive(PATIENCE) is None
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    ws.close(4002)
    assert time.monotonic() - started < 1.9
    assert ws.close_code == (4001 if who == "server" else 4002)


@pytest.mark.usefixtures("nothing_left")
def test_a_server_that_is_gone_is_noticed(peer: Any) -> None:
    server = peer(Raw.accept)
    ws = connect(server.url)
    assert ws.receive(PATIENCE) is None
    assert ws.close_code == 1006
    ws.close()


def test_an_exception_in_the_with_block_closes_with_1011(serve: Serve) -> None:
    codes: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert ws.receive() is None
        codes.append(ws.close_code)
        return []

    with pytest.raises(LookupError), connect(serve(app).url):
        raise LookupError("on purpose")
    wait_until(lambda: codes)
    assert codes == [CloseCode.INTERNAL_ERROR]


def test_errno_says_what_it_was() -> None:
    with gevent.socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="cannot connect") as refused:
            connect(f"ws://127.0.0.1:{bound.getsockname()[1]}/")
    assert refused.value.errno == errno.ECONNREFUSED
