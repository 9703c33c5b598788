"""The head of a request: what pywsgi makes of it itself is the judge, whichever way it comes in."""

from __future__ import annotations

import random
import socket
from typing import Any

import gevent.socket
import pytest
from gevent.pywsgi import WSGIHandler

from geventws import WebSocketHandler
from geventws.head import Incoming, header_of, read_head
from geventws.protocol.handshake import wants_websocket


class Arriving:
    """A socket on which bytes come in pieces: the next one comes when the one before has been read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.far, self.near = socket.socketpair()
        self.near.setblocking(False)
        self._sock = self
        self.send = self.near.send

    def fileno(self) -> int:
        try:
            self.near.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            if self.pieces:
                self.far.sendall(self.pieces.pop(0))
            else:
                self.far.shutdown(socket.SHUT_WR)
        return self.near.fileno()

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.fileno()
        return self.near.recv(size, flags)

    def recv_into(self, buffer: Any) -> int:
        self.fileno()
        return self.near.recv_into(buffer)

    def gettimeout(self) -> float | None:
        return 0.0

    def settimeout(self, timeout: float | None) -> None:
        pass

    def __del__(self) -> None:
        self.far.close()
        self.near.close()


class NoServer:
    def get_environ(self) -> dict[str, Any]:
        return {"wsgi.url_scheme": "http", "SCRIPT_NAME": "", "HTTP_X_PRESET": "server", "HTTP_COOKIE": "server=1"}


def pywsgi(*pieces: bytes) -> Any:
    return WSGIHandler(object(), ("10.0.0.7", 4000), NoServer(), Incoming(Arriving(*pieces)).buffered())  # type: ignore[call-arg]


def ours(*pieces: bytes) -> Any:
    """As for a socket without TLS, which is looked at before there is anything like a file."""
    handler: Any = WebSocketHandler(Arriving(*pieces), ("10.0.0.7", 4000), NoServer())
    handler.rfile = Incoming(handler.socket)
    return handler


def ours_buffered(*pieces: bytes) -> Any:
    """As for TLS, and for what comes behind another request."""
    return WebSocketHandler(Arriving(*pieces), ("10.0.0.7", 4000), NoServer())


def understood(make: Any, *pieces: bytes) -> dict[str, Any]:
    """All that a handler knows of a request once it has read its head, and what it has left unread behind it."""
    handler = make(*pieces)
    line = handler.read_requestline()
    try:
        known: dict[str, Any] = {"read": handler.read_request(line)}
    except Exception as error:
        return {"error": type(error), "args": error.args, "left": left_of(handler)}
    finally:
        if make is not pywsgi:
            handler._stop_head_timer()
    known["environ"] = handler.get_environ()
    environ = known["environ"]
    reader = environ.pop("wsgi.input")
    if "CONTENT_LENGTH" not in environ and wants_websocket(environ.get("HTTP_UPGRADE")):
        assert make is pywsgi or reader is handler.rfile or reader.read() == b""  # Nothing that is a WebSocket's.
    else:
        known["input"] = reader is handler.rfile or type(reader)
    known["body"] = handler.wsgi_input.content_length, handler.wsgi_input.chunked_input
    known["continues"] = handler.wsgi_input.socket is not None
    known["left"] = left_of(handler)
    for name in ("command", "path", "request_version", "requestline", "content_length", "close_connection"):
        known[name] = getattr(handler, name)
    message = handler.headers
    known["fields"] = message.items(), list(message.headers), len(message), message.status, message.typeheader
    for name in ("Host", "X-A", "x-a", "Cookie", "Content-Length"):
        known[name] = message[name], message.get_all(name), message.getheader(name, "none"), name in message
    return known


def left_of(handler: Any) -> bytes:
    reader = handler.rfile
    left: bytes = (reader.buffered() if isinstance(reader, Incoming) else reader).read()
    return left


def assert_same(*pieces: bytes) -> None:
    judged = understood(pywsgi, *pieces)
    assert understood(ours, *pieces) == judged
    assert understood(ours_buffered, *pieces) == judged


HEADS = [
    "",
    "Host: a",
    "Host:a|X-A:|X-B:   |X-C: \t v \t ",
    "x-a: 1|X-A: 2|X-a:3",
    "Cookie: a=1|cookie: b=2|Accept: x|ACCEPT: y",
    "X-A: one| two|\tthree|X-B: b",
    " X-A: folded at once",
    "X_A: 1|X-A: 2|Content_Length: 5",
    "X-A: gr\xfc\xdf|X-B: \x80\x85\xa0|X-C: \xa0v\x85",
    "X-A: \x00\x01\x0b\x0c\x1c\x1f\x7f",
    "X-A : 1|X-B: 2",
    "X A: 1|X-B: 2",
    ": 1|X-B: 2",
    "no colon|X-B: 2",
    "X-B: 2|no colon",
    "X-A: 1:2::3",
    "X\xfc: 1|X-B: 2",
    'X"A(): 1|X-B: 2',
    "X-A: a\rX-B: b",
    "X-A: a\r|X-B: b",
    "X-A: a\nX-B: b",
    "From me|X-A: 1",
    "From: me|X-A: 1",
    "Content-Length: 5",
    "Content-Length: 5|Content-Length: 6",
    "Content-Length: -5",
    "Content-Length: five",
    "Content-Length: " + "9" * 18,
    "Content-Length: " + "9" * 19,
    "Content-Length: " + "9" * 4301,
    "Content-Length: \u00b2",
    "Content-Length:  5 ",
    "Content-Length: ",
    "content-length: 5|Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked|Content-Length: 5|content-length: 6|X-A: 1",
    "Transfer-Encoding: gzip, chunked",
    "Content-Type: text/html; charset=utf-8|Content-Type: second",
    "Content-Type: multipart/form-data; boundary=x|Content-Transfer-Encoding: base64",
    "Content-Type: message/rfc822|Subject: =?utf-8?q?x?=",
    "Expect: 100-continue|Content-Length: 5",
    "Expect: 100-Continue|Content-Length: 5",
    "Connection: close",
    "Connection: Keep-Alive",
    "Connection: Upgrade|Upgrade: websocket",
    "Connection: upgrade ",
    "Connection: upgrade|Connection: HTTP2-Settings|Upgrade: h2c",
    "Connection: HTTP2-Settings|Connection: upgrade|Upgrade: h2c",
    "Connection: Upgrade|Upgrade: other|Content-Length: 5",
    "Upgrade: websocket|Upgrade: other",
    "Upgrade: other|Upgrade: websocket",
    "Connection: Upgrade|Upgrade: websocket|Content-Length: 5",
    "Connection: keep-alive, Upgrade|Upgrade: WebSocket",
    "X-A: " + "a" * 5000,
    "X-A: " + "a" * 9000 + "|X-B: b",
    "X-A: " + "a" * 65531,
    "X-A: " + "a" * 65532,
    "X" * 64 + ": 1|X-A: 2",
    "X" * 65 + ": 1|X-A: 2",
    *("|".join(f"X-{number}: {number}" for number in range(count)) for count in (59, 60, 61, 98, 99, 100, 101)),
]


def head_of(lines: str) -> bytes:
    return "\r\n".join(["GET /a%20b?c=%20 HTTP/1.1", *filter(None, lines.split("|")), "", ""]).encode("latin-1")


@pytest.mark.parametrize("lines", HEADS, ids=range(len(HEADS)))
def test_a_head_is_understood_as_pywsgi_does(lines: str) -> None:
    head = head_of(lines)
    for behind in (b"", b"hello", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"):
        assert_same(head + behind)
    assert_same(head[:-2])
    assert_same(head[:-1])
    assert_same(head.replace(b"\r\n", b"\n"))
    assert_same(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert_same(head.replace(b"GET", b"HEAD"))


@pytest.mark.parametrize(
    "line", ["GET /", "GET / HTTP/0.9", "GET / HTTP/2.0", "GET / HTTP/1.x", "GET / X", "POST /", "GET"]
)
def test_a_request_line_is_understood_as_pywsgi_does(line: str) -> None:
    assert_same(f"{line}\r\nHost: a\r\nX-A: 1\r\n\r\n".encode())


@pytest.mark.parametrize("lines", [lines for lines in HEADS if len(lines) < 100])
def test_a_head_that_comes_in_two_pieces_is_understood_as_in_one(lines: str) -> None:
    head = head_of(lines)
    whole = understood(pywsgi, head + b"behind")
    for at in range(1, len(head) + 1):
        assert understood(ours, head[:at], head[at:] + b"behind") == whole
        assert understood(ours_buffered, head[:at], head[at:] + b"behind") == whole
    for make in (ours, ours_buffered):
        assert understood(make, *(bytes([octet]) for octet in head + b"behind")) == whole


def test_any_head_is_understood_as_pywsgi_does() -> None:
    parts = [
        "X-A",
        "x_a",
        "Host",
        "Cookie",
        "content-length",
        ":",
        ": ",
        ":\t",
        " ",
        "\t",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
    ]
    parts += [
        "\r\n ",
        "1",
        "value",
        ",",
        "\xfc",
        "\x85",
        "\x0b",
        "\0",
        "From ",
        "Transfer-Encoding: chunked",
        "\r\n\r\n",
    ]
    for seed in range(3000):
        chance = random.Random(seed)
        text = "".join(chance.choices(parts, k=chance.randrange(1, 30)))
        assert_same(b"GET / HTTP/1.1\r\n" + text.encode("latin-1") + b"\r\n\r\nbehind")


def test_header_fields_that_a_program_changes_are_changed_for_the_environ_too() -> None:
    for make in (pywsgi, ours, ours_buffered):
        handler = make(head_of("X-A: 1|X-B: 2|X-C: 3"))
        handler.read_request(handler.read_requestline())
        handler.headers["X-D"] = "4"
        handler.headers.replace_header("X-A", "5")
        del handler.headers["x-b"]
        assert handler.headers.get("X-D") == "4"
        fields = fields_in(handler.get_environ())
        assert fields == {
            "HTTP_X_A": "5",
            "HTTP_X_C": "3",
            "HTTP_X_D": "4",
            "HTTP_X_PRESET": "server",
            "HTTP_COOKIE": "server=1",
        }


def fields_in(environ: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key.startswith("HTTP_")}


def test_requests_behind_each_other_are_read_one_after_the_other() -> None:
    requests = [head_of(f"X-A: {number}") for number in range(4)]
    empty = b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    body = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    odd = b"GET /folded HTTP/1.1\r\nX-A: 1\r\n 2\r\n\r\n"
    stream = b"".join([requests[0], empty, requests[1], body, requests[2], odd, requests[3]])
    for make in (ours, ours_buffered):
        for size in (len(stream), 1000, 100, 45, 7, 1):
            handler = make(*(stream[at : at + size] for at in range(0, len(stream), size)))
            seen = []
            for _ in range(7):
                handler.read_request(handler.read_requestline())
                environ = handler.get_environ()
                seen.append(
                    (
                        environ["PATH_INFO"],
                        environ.get("HTTP_X_A"),
                        environ["wsgi.input"].readline() + environ["wsgi.input"].read(),
                    )
                )
            assert seen == [
                ("/a b", "0", b""),
                ("/e", None, b""),
                ("/a b", "1", b""),
                ("/b", None, b"hello"),
                ("/a b", "2", b""),
                ("/folded", "1\r\n 2", b""),
                ("/a b", "3", b""),
            ]
            assert handler.read_requestline() == ""


def test_the_usual_head_takes_no_detour() -> None:
    for lines in ("Host: a", "Content-Length: 5", "Connection: Upgrade|Upgrade: websocket", "Cookie: a=1|Cookie: b=2"):
        assert read_head(head_of(lines) + b"behind") is not None
    for octets in (
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        head_of("Expect: 100-continue"),
    ):
        assert read_head(octets) is None


def test_names_of_fields_are_shared_by_all_environs_and_do_not_pile_up() -> None:
    first, second = fields_in(environ_of(head_of("X-Shared: 1"))), fields_in(environ_of(head_of("X-Shared: 2")))
    (key,) = (key for key in first if "SHARED" in key)
    assert any(key is other for other in second)
    for number in range(5000):
        assert fields_in(environ_of(head_of(f"X-{number}: 1|{'Y' * 60}-{number}: 2")))[f"HTTP_X_{number}"] == "1"
    later = fields_in(environ_of(head_of("X-Shared: 3")))
    assert key in later
    assert not any(key is other for other in later)


def test_values_that_are_alike_for_many_are_shared_and_those_of_one_are_not_kept() -> None:
    def values(number: int) -> list[str]:
        agent = f"agent {number}"
        return list(fields_in(environ_of(head_of(f"User-Agent: {agent}|Cookie: of {agent}|X-A: a {agent}"))).values())

    first = values(1)
    assert [one is another for one, another in zip(first, values(1), strict=True)] == [True, False, False]
    long = "x" * 301
    assert agent_of(long) is not agent_of(long)
    for number in range(5000):
        assert values(number)[0] == f"agent {number}"
    assert values(1)[0] is not first[0]


def agent_of(text: str) -> str:
    return fields_in(environ_of(head_of(f"User-Agent: {text}")))["HTTP_USER_AGENT"]


def environ_of(head: bytes) -> dict[str, Any]:
    read: Any = read_head(head)
    environ: dict[str, Any] = {}
    read.fill(environ, "unix")
    assert "REMOTE_ADDR" not in environ
    return environ


def test_a_header_field_is_found_in_an_environ_by_its_name() -> None:
    header = header_of({"HTTP_SEC_WEBSOCKET_KEY": "k", "CONTENT_LENGTH": "5", "CONTENT_TYPE": "t"})
    assert [header(name) for name in ("sec-websocket-key", "content-length", "content-type", "origin")] == [
        "k",
        "5",
        "t",
        None,
    ]


def test_what_has_been_looked_at_without_waiting_is_read_afterwards() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        incoming = Incoming(ours)
        assert incoming.peek_now() == b""
        theirs.sendall(b"hello, world")
        assert incoming.peek() == incoming.peek_now() == b"hello, world"
        assert incoming.read1(5) == b"hello"
        theirs.shutdown(gevent.socket.SHUT_WR)
        assert incoming.peek_now() == b", world"
        reader = incoming.buffered()
        assert reader.fileno() == ours.fileno()
        assert reader.read() == b", world"
        assert (Incoming(ours).peek_now(), Incoming(ours).peek(), Incoming(ours).read1()) == (b"", b"", b"")
