"""`WebSocketServer`: its options, TLS, and stopping politely; `StreamServer`, which is that for scripts without WSGI."""

from __future__ import annotations

import gc
import io
import ssl
import time
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.event
import gevent.server
import gevent.socket
import gevent.ssl
import pytest
import trustme
from gevent.monkey import is_module_patched
from gevent.pool import Pool
from rawclient import TEXT, RawClient, close_frame, frame, request
from waiting import wait_until

from geventws import HandshakeError, StreamServer, WebSocket, WebSocketHandler, WebSocketOptions, WebSocketServer


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Length", "5")])
        return [b"plain"]
    for message in ws:
        ws.send(message)
    return []


def starting(kind: Any, serves: Any) -> Iterator[Any]:
    servers: list[Any] = []

    def start_one(serves: Any = serves, **arguments: Any) -> Any:
        server = kind(("127.0.0.1", 0), serves, log=io.StringIO(), **arguments)
        servers.append(server)
        server.start()
        return server

    yield start_one
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture
def start() -> Any:
    """`start(app, **arguments)`: a running WebSocketServer, stopped after the test."""
    yield from starting(WebSocketServer, echo)


def connect(server: WebSocketServer) -> RawClient:
    client = RawClient(("127.0.0.1", server.server_port))
    client.open("/")
    return client


# Options.


def test_a_wrong_option_is_an_error_when_the_server_is_made() -> None:
    with pytest.raises(ValueError, match="max_queue"):
        WebSocketServer(("127.0.0.1", 0), echo, max_queue=0)


@pytest.mark.skipif(is_module_patched("ssl"), reason="in a patched process every context is gevent's")
def test_an_ssl_context_that_would_block_everything_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"gevent\.ssl"):
        WebSocketServer(("127.0.0.1", 0), echo, ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_options_are_taken_by_name_or_as_a_whole(start: Any) -> None:
    assert start(max_message_size=5).handler_class.options.max_message_size == 5
    whole = WebSocketOptions(max_queue=7)
    assert start(options=whole, max_message_size=5).handler_class.options == whole.replace(max_message_size=5)
    plain = start()
    assert plain.handler_class is WebSocketHandler


def test_a_handler_class_of_one_s_own_gets_the_options_too(start: Any) -> None:
    class Own(WebSocketHandler):
        options = WebSocketOptions(max_queue=2)

    server = start(handler_class=Own, max_message_size=5)
    assert issubclass(server.handler_class, Own)
    assert server.handler_class.options == WebSocketOptions(max_queue=2, max_message_size=5)


def test_it_counts_what_is_open(start: Any) -> None:
    server = start()
    with connect(server) as client:
        assert len(server.websockets) == 1
        assert [ws.path for ws in server.websockets] == ["/"]
        client.close_handshake()
    wait_until(lambda: not server.websockets)
    assert server.clients == {}


# Stopping.


def test_stop_closes_all_with_1001_and_waits_for_their_handlers(start: Any) -> None:
    ended: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert ws.receive() is None
        gevent.sleep(0.05)
        ended.append(ws.close_code)
        return []

    server = start(app)
    clients = [connect(server) for _ in range(3)]
    stopping = gevent.spawn(server.stop)
    for client in clients:
        with client:
            assert client.close_handshake() == 1001 if client.buffer else client.read_close() == 1001
            client.send(close_frame(1001))
            assert client.at_end()
    stopping.get(timeout=5)
    assert ended == [1001, 1001, 1001]
    assert len(server.websockets) == 0


def test_stop_cuts_off_what_has_not_ended_in_time_and_leaves_nothing_open(start: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        gevent.sleep(3600)
        return []

    server = start(app, drain_timeout=0.1)
    with connect(server) as client:
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        assert client.read_close() == 1001
        assert client.at_end()
    assert len(server.websockets) == 0
    assert server.clients == {}


def test_while_it_stops_new_upgrades_are_answered_503_and_connections_refused(start: Any) -> None:
    leave = gevent.event.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/busy":
            environ["wsgi.websocket"].accept()
            leave.wait()
            return []
        return echo(environ, start_response)

    server = start(app)
    address = ("127.0.0.1", server.server_port)
    with RawClient(address) as busy, RawClient(address) as kept:
        busy.open("/busy")
        kept.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept.read_response().body == b"plain"
        kept.send(b"GET / HTTP/1.1\r\nHost: local")
        wait_until(lambda: not server.websockets.idle)
        stopping = gevent.spawn(server.stop)
        assert busy.read_close() == 1001
        kept.send(b"host\r\n" + request().partition(b"Host: localhost\r\n")[2])
        response = kept.read_response()
        assert response.status == 503
        assert b"stopped" in response.body
        leave.set()
        busy.send(close_frame(1001))
        busy.socket.close()
        stopping.get(timeout=5)
        with pytest.raises(OSError, match="refused"):
            RawClient(address)


@pytest.mark.parametrize("spawn", [Pool, lambda: "default"], ids=["pool", "default"])
def test_stop_closes_idle_connections_and_does_not_wait_for_them(start: Any, spawn: Any) -> None:
    server = start(spawn=spawn(), drain_timeout=10)
    address = ("127.0.0.1", server.server_port)
    with RawClient(address) as kept_alive, RawClient(address) as new:
        kept_alive.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert kept_alive.read_response().body == b"plain"
        wait_until(lambda: len(server.websockets.idle) == 2)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        assert kept_alive.at_end()
        assert new.at_end()


def test_stop_does_not_wait_for_a_handler_that_takes_its_time_to_be_killed(start: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        try:
            gevent.sleep(3600)
        finally:
            gevent.sleep(5)
        return []

    server = start(app)
    with connect(server):
        started = time.monotonic()
        server.stop(timeout=0.1)
        assert time.monotonic() - started < 3


def test_a_handler_may_stop_its_own_server(start: Any) -> None:
    stopped = gevent.event.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].receive()
        server.stop(timeout=0.5)
        stopped.set()
        return []

    server = start(app)
    with connect(server) as client:
        client.send(frame(TEXT, "stop"))
        assert client.read_close() == 1001
        client.send(close_frame(1001))
        client.socket.close()
        assert stopped.wait(5)


@pytest.mark.parametrize("argument", ["max_mesage_size", "bogus"])
def test_an_argument_that_nobody_knows_is_a_type_error(argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        WebSocketServer(("127.0.0.1", 0), echo, **{argument: 5})


def test_options_that_are_none_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="WebSocketOptions"):
        WebSocketServer(("127.0.0.1", 0), echo, options={"max_queue": 1})  # type: ignore[arg-type]


def test_a_handshake_that_is_answered_while_the_server_stops_is_refused(start: Any) -> None:
    go = gevent.event.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        go.wait()
        return echo(environ, start_response)

    server = start(app)
    with RawClient(("127.0.0.1", server.server_port)) as client:
        client.send(request())
        wait_until(lambda: server.websockets)
        stopping = gevent.spawn(server.stop)
        gevent.sleep(0)
        go.set()
        assert client.read_response().status == 503
    stopping.get(timeout=5)


def test_the_listening_socket_is_closed_before_anybody_is_waited_for(start: Any) -> None:
    """So that whoever comes while a peer takes its time finds the next server, or is refused at once."""
    server = start()
    address = ("127.0.0.1", server.server_port)
    with connect(server) as unhurried:
        stopping = gevent.spawn(server.stop)
        assert unhurried.read_close() == 1001
        with pytest.raises(OSError, match="refused"):
            RawClient(address)
        following = WebSocketServer(address, echo, log=io.StringIO())
        following.start()
        with connect(following) as client:
            client.send(frame(TEXT, "already here"))
            assert client.read_text() == "already here"
        following.stop(timeout=0)
    stopping.get(timeout=5)


def test_a_stopped_server_leaves_no_watchers_and_no_greenlets(start: Any) -> None:
    def running() -> int:
        gc.collect()
        return sum(isinstance(thing, gevent.Greenlet) and not thing.dead for thing in gc.get_objects())

    before = running()
    server = start()
    clients = [connect(server) for _ in range(5)]
    server.stop(timeout=0.1)
    for client in clients:
        client.socket.close()
    wait_until(lambda: running() <= before + 1)  # The hub's keepalive stays.


def test_sockets_of_handlers_that_end_are_closed(start: Any) -> None:
    import os

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    server = start()
    before = descriptors()
    for _ in range(20):
        with connect(server) as client:
            client.close_handshake()
    wait_until(lambda: descriptors() <= before)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(start: Any, authority: trustme.CA, tmp_path: Any) -> Any:
    """A TLS server, and a function that connects to it."""
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)

    def start_tls(app: Any = echo, **options: Any) -> tuple[WebSocketServer, Any]:
        server = start(app, certfile=str(pem), keyfile=str(pem), **options)

        def connect_tls() -> RawClient:
            plain = gevent.socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
            client = RawClient(None, socket=context.wrap_socket(plain, server_hostname="localhost"))
            client.open("/")
            return client

        return server, connect_tls

    return start_tls


def test_one_mebibyte_is_echoed_over_tls(tls: Any) -> None:
    _, connect_tls = tls()
    with connect_tls() as client:
        for _ in range(3):
            gevent.spawn(client.send, frame(0x2, bytes(2**20), mask=bytes(4)))
            assert client.read_frame() == (0x82, bytes(2**20))
        client.send(close_frame(1000))
        assert client.read_close() == 1000
        assert client.at_end()


def test_bytes_sent_behind_the_request_are_not_lost_over_tls(tls: Any) -> None:
    server, _ = tls()
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = gevent.ssl.CERT_NONE
    plain = gevent.socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
    with RawClient(None, socket=context.wrap_socket(plain)) as client:
        client.send(request() + frame(TEXT, "at once") + frame(TEXT, "x" * 50_000, mask=bytes(4)))
        assert client.read_response().status == 101
        assert client.read_text() == "at once"
        assert client.read_text() == "x" * 50_000


def test_a_slow_reader_over_tls_gets_every_byte(tls: Any) -> None:
    payload = bytes(range(256)) * 20_000

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(payload)
        environ["wsgi.websocket"].send("done")
        return []

    _, connect_tls = tls(app)
    with connect_tls() as client:
        gevent.sleep(0.05)
        received = b""
        while len(received) < len(payload) + 10:
            received += client.read(min(50_000, len(payload) + 10 - len(received)))
            gevent.sleep(0)
        assert received[10:] == payload
        assert client.read_text() == "done"
        assert client.read_close() == 1000


def test_a_close_is_seen_over_tls_while_the_handler_sleeps(tls: Any) -> None:
    seen = gevent.event.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        while not ws.closed:
            gevent.sleep(0.005)
        seen.set()
        return []

    _, connect_tls = tls(app)
    with connect_tls() as client:
        assert client.close_handshake() == 1000
        assert seen.wait(1)


def test_a_client_that_never_does_its_tls_handshake_is_dropped(tls: Any) -> None:
    server, _ = tls(handshake_timeout=0.05)
    with RawClient(("127.0.0.1", server.server_port)) as client:
        assert client.at_end()


def test_a_client_that_speaks_no_tls_is_dropped_quietly(tls: Any, capfd: Any) -> None:
    server, _ = tls()
    with RawClient(("127.0.0.1", server.server_port)) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((EOFError, ConnectionError)):
            client.read(1000)
    assert "Traceback" not in capfd.readouterr().err


# StreamServer.


def echo_stream(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


@pytest.fixture
def stream() -> Any:
    """`stream(handle, **arguments)`: a running StreamServer, stopped after the test."""
    yield from starting(StreamServer, echo_stream)


@pytest.mark.parametrize("handle", [None, 5, "echo"])
def test_a_handle_that_cannot_be_called_is_a_type_error(handle: Any) -> None:
    with pytest.raises(TypeError, match=f"handle .* got {handle!r}"):
        StreamServer(("127.0.0.1", 0), handle)


def test_an_argument_that_a_stream_server_does_not_know_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="max_mesage_size"):
        StreamServer(("127.0.0.1", 0), echo_stream, max_mesage_size=5)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_stream_server_answers_426_to_what_asks_for_no_websocket(stream: Any, method: str) -> None:
    server = stream()
    with RawClient(("127.0.0.1", server.server_port)) as client:
        for _ in range(2):  # The connection stays for a client that has understood.
            client.send(f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
            response = client.read_response()
            assert (response.status, response.reason) == (426, "Upgrade Required")
            assert response.headers["upgrade"] == "websocket"
            assert response.headers["connection"] == "Upgrade"
            assert b"Upgrade: websocket" in response.body
        client.open("/")
        assert client.close_handshake() == 1000


def test_a_stream_server_answers_head_without_a_body(stream: Any) -> None:
    received = b""
    with RawClient(("127.0.0.1", stream().server_port)) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while data := client.socket.recv(4096):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert body == b""


def test_a_stream_server_answers_another_upgrade_with_426(stream: Any) -> None:
    with RawClient(("127.0.0.1", stream().server_port)) as client:
        client.send(request(Upgrade="h2c"))
        assert client.read_response().status == 426


def test_a_wrong_opening_handshake_is_told_what_is_wrong_with_it(stream: Any) -> None:
    with RawClient(("127.0.0.1", stream().server_port)) as client:
        client.send(request(drop=("Sec-WebSocket-Key",)))
        response = client.read_response()
        assert response.status == 400
        assert b"Sec-WebSocket-Key" in response.body


def test_a_handle_refuses_the_handshake_by_an_error(stream: Any) -> None:
    def handle(ws: WebSocket) -> None:
        raise HandshakeError("403 Forbidden", f"{ws.path} is not for you.")

    with RawClient(("127.0.0.1", stream(handle).server_port)) as client:
        client.send(request("/secret"))
        response = client.read_response()
        assert (response.status, response.body) == (403, b"/secret is not for you.\n")


def test_a_handle_that_fails_closes_its_connection_alone_with_1011(stream: Any, caplog: Any) -> None:
    def handle(ws: WebSocket) -> None:
        for message in ws:
            ws.send(str(int(message)))

    server = stream(handle)
    with connect(server) as broken, connect(server) as other:
        broken.send(frame(TEXT, "x"))
        assert broken.read_close() == 1011
        broken.send(close_frame(1011))
        assert broken.at_end()
        other.send(frame(TEXT, "5"))
        assert other.read_text() == "5"
        other.close_handshake()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "invalid literal for int()" in str(record.exc_info[1])


def test_a_handle_is_called_in_a_greenlet_for_each_connection_and_its_end_is_the_connection_s(stream: Any) -> None:
    greenlets: set[Any] = set()

    def handle(ws: WebSocket) -> str:
        greenlets.add(gevent.getcurrent())
        ws.send(f"{ws.path} {ws.receive()}")
        return "ignored"

    server = stream(handle)
    with connect(server) as one, connect(server) as other:
        for client in (other, one):
            client.send(frame(TEXT, "hello"))
            assert client.read_text() == "/ hello"
            assert client.read_close() == 1000
            client.send(close_frame(1000))
            assert client.at_end()
    assert len(greenlets) == 2


def test_a_stream_server_takes_options_and_a_handle_chooses_the_subprotocol(stream: Any) -> None:
    def handle(ws: WebSocket) -> None:
        ws.accept(subprotocol="two")
        echo_stream(ws)

    server = stream(handle, max_message_size=5)
    with RawClient(("127.0.0.1", server.server_port)) as client:
        response = client.open("/", Sec_WebSocket_Protocol="one, two")
        assert response.headers["sec-websocket-protocol"] == "two"
        client.send(frame(TEXT, "123456"))
        assert client.read_close() == 1009


def test_a_stream_server_drains_when_it_is_stopped(stream: Any) -> None:
    ended: list[Any] = []

    def handle(ws: WebSocket) -> None:
        assert ws.receive() is None
        gevent.sleep(0.05)
        ended.append(ws.close_code)

    server = stream(handle)
    with connect(server) as client:
        stopping = gevent.spawn(server.stop)
        assert client.read_close() == 1001
        client.send(close_frame(1001))
        assert client.at_end()
    stopping.get(timeout=10)
    assert ended == [1001]
    assert len(server.websockets) == 0


# Sockets from elsewhere.


@pytest.mark.parametrize("kind", ["StreamServer", "WebSocketServer"])
def test_a_server_that_was_never_started_serves_the_sockets_of_another(kind: str) -> None:
    if kind == "StreamServer":
        server: WebSocketServer = StreamServer(0, echo_stream, log=io.StringIO())
    else:
        server = WebSocketServer(0, echo, log=io.StringIO(), environ={"SERVER_NAME": "here", "SERVER_PORT": "1"})
    listening = gevent.server.StreamServer(("127.0.0.1", 0), server.handle)
    listening.start()
    try:
        with RawClient(("127.0.0.1", listening.server_port)) as plain:
            plain.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert plain.read_response().status == (426 if kind == "StreamServer" else 200)
        with RawClient(("127.0.0.1", listening.server_port)) as client:
            client.open("/")
            client.send(frame(TEXT, "hello"))
            assert client.read_text() == "hello"
            assert len(server.websockets) == 1
            listening.stop()
            stopping = gevent.spawn(server.stop)
            assert client.read_close() == 1001
            client.send(close_frame(1001))
            assert client.at_end()
        stopping.get(timeout=10)
        assert len(server.websockets) == 0
    finally:
        listening.stop()
        server.stop(timeout=0)


def test_one_port_speaks_two_protocols() -> None:
    """What a program that looks at the first bytes does: the rest is the server's."""
    websockets = StreamServer(0, echo_stream, log=io.StringIO())

    def first_bytes(connection: Any, address: Any) -> None:
        if connection.recv(4, gevent.socket.MSG_PEEK) == b"TIME":
            connection.sendall(b"it is late")
        else:
            websockets.handle(connection, address)

    listening = gevent.server.StreamServer(("127.0.0.1", 0), first_bytes)
    listening.start()
    try:
        with RawClient(("127.0.0.1", listening.server_port)) as client:
            client.send(b"TIME")
            assert client.read(10) == b"it is late"
        with RawClient(("127.0.0.1", listening.server_port)) as client:
            client.open("/")
            client.send(frame(TEXT, "hello"))
            assert client.read_text() == "hello"
            assert client.close_handshake() == 1000
    finally:
        listening.stop()
        websockets.stop(timeout=0)
