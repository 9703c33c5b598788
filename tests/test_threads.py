"""What only native threads have: the Service, who holds a connection, sockets that are polled while others close them.

What a WebSocket does in both worlds is in test_websocket, test_transport and their like.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent._hub_local import get_hub_if_exists
from gevent.pywsgi import WSGIServer
from rawclient import BINARY, CLOSE, PING, PONG, TEXT, RawClient, close_frame, frame, request
from waiting import Event, Result, wait_until
from worlds import natively

from geventws import ConnectionClosed, State, WebSocket, WebSocketHandler, broadcast, threads
from geventws.threads import Service, ThreadRuntime

WORLDS = ["threads"]

Handler = Callable[[WebSocket], Any]


def app_of(handler: Handler) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        handler(environ["wsgi.websocket"])
        return []

    return app


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Held:
    """Serves one connection whose handler waits natively until the test has done with it."""

    def __init__(self, serve: Any, **options: Any) -> None:
        here = Result()
        self.done = threading.Event()

        def handler(ws: WebSocket) -> None:
            ws.accept()
            here.set(ws)
            self.done.wait()

        self.client: RawClient = serve(app_of(handler), **options).client("/")
        self.ws: WebSocket = here.get(timeout=5)


@pytest.fixture
def hold(serve: Any) -> Iterator[Callable[..., Held]]:
    held: list[Held] = []

    def start(**options: Any) -> Held:
        held.append(Held(serve, **options))
        return held[-1]

    yield start
    for one in held:
        one.client.socket.close()
        one.done.set()


def run_script(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, which must end by itself."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    command = [sys.executable, "-W", "error", "-c", SCRIPT + body, *arguments]
    return natively(subprocess.run, command, capture_output=True, text=True, timeout=50, env=environment)


SCRIPT = """
import atexit, os, signal, socket, socketserver, sys, threading, time
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from geventws.middleware import WebSocketMiddleware
from geventws.threads import Service, ThreadRuntime

REQUEST = (b"GET / HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
           b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass

def serve(handler, *mixins, **attributes):
    def app(environ, start_response):
        handler(environ["wsgi.websocket"])
        return []
    server = type("Server", (*mixins, WSGIServer), attributes)(("127.0.0.1", 0), Quiet)
    server.set_app(WebSocketMiddleware(app))
    return server

def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(REQUEST)
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += client.recv(1)
    assert b" 101 " in head, head
    return client

def in_thread(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()
"""


# The service.


def test_the_service_is_started_once_and_only_when_it_is_needed() -> None:
    ended = run_script("""
WebSocketMiddleware(print)
assert Service._current is None and threading.active_count() == 1
found, start = [], threading.Barrier(20)
def ask():
    start.wait()
    found.append(Service.current())
asking = [threading.Thread(target=ask) for _ in range(20)]
for thread in asking: thread.start()
for thread in asking: thread.join()
assert len(found) == 20 and len(set(map(id, found))) == 1
time.sleep(0.05)
assert len(os.listdir("/proc/self/task")) == 2
""")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_forked_child_has_a_service_of_its_own_and_the_parent_keeps_its() -> None:
    ended = run_script("""
def works():
    done = threading.Event()
    ThreadRuntime().soon(done.set)
    return done.wait(20)

assert works()
child = os.fork()
if not child:
    os._exit(0 if works() else 1)
assert os.waitpid(child, 0)[1] == 0
assert works()
""")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_fails_in_the_service_is_logged_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    runtime, done = ThreadRuntime(), Event()
    runtime.soon(lambda: 1 // 0)
    Service.current().do(lambda: [][1])  # type: ignore[misc]
    runtime.soon(done.set)
    assert done.wait(5)
    assert "ZeroDivisionError" in caplog.text
    assert "IndexError" in caplog.text


def test_a_connection_that_is_held_for_long_does_not_keep_others_from_being_served() -> None:
    held, other = ThreadRuntime(), ThreadRuntime()
    done: list[str] = []
    let_go = threading.Event()
    here = Event()

    def hold() -> None:
        here.set()
        let_go.wait()

    holder = threading.Thread(target=held.call, args=(hold,))
    holder.start()
    here.wait()

    class Target:
        def tick(self, now: float) -> None:
            done.append("tick")

    target = Target()
    held.at(time.monotonic(), target)
    held.soon(lambda: done.append("held"))
    other.soon(lambda: done.append("other"))
    wait_until(lambda: done)
    assert done == ["other"]
    let_go.set()
    wait_until(lambda: len(done) == 3)
    holder.join()


def test_without_room_for_another_thread_a_connection_is_looked_after(hold: Any, monkeypatch: Any) -> None:
    def none_left(*args: Any) -> int:
        raise RuntimeError("can't start new thread")

    held = hold()
    monkeypatch.setattr(threads, "_start_new_thread", none_left)
    held.client.send(frame(PING, b"still"))
    assert held.client.read_frame() == (0x80 | PONG, b"still")
    assert held.client.close_handshake(4000) == 4000


def test_times_that_are_longer_than_the_operating_system_takes_are_kept(hold: Any, caplog: Any) -> None:
    held = hold(ping_interval=1e9, send_timeout=1e9)
    receiver = gevent.spawn(natively, held.ws.receive, timeout=1e9)
    sender = gevent.spawn(natively, held.ws.send, b"x" * 8_000_000)
    wait_until(lambda: held.ws.buffered_amount)
    held.client.send(frame(TEXT, "there"))
    assert receiver.get(timeout=5) == "there"
    assert len(held.client.read_frame().payload) == 8_000_000
    sender.get(timeout=5)
    assert not [record for record in caplog.records if record.name == "geventws.threads"]


# Handlers that are busy with something else.


def test_a_ping_is_answered_and_the_end_seen_soon_after_a_handler_has_gone_from_receive_to_sleep(serve: Any) -> None:
    seen: list[bool] = []
    wake = threading.Event()

    def handler(ws: WebSocket) -> None:
        assert ws.receive() == "go"
        wake.wait()
        seen.append(ws.closed)

    with serve(app_of(handler)).client("/") as client:
        client.send(frame(TEXT, "go"))
        time.sleep(0.01)
        started = time.monotonic()
        client.send(frame(PING, b"p"))
        assert client.read_frame() == (0x80 | PONG, b"p")
        assert client.close_handshake() == 1000
        assert time.monotonic() - started < 1
        wake.set()
        wait_until(lambda: seen)
    assert seen == [True]


def test_a_handler_that_comes_back_to_receive_gets_what_came_in_meanwhile_and_what_comes_then(serve: Any) -> None:
    def handler(ws: WebSocket) -> None:
        for message in ws:
            if message == "sleep":
                time.sleep(0.3)
            ws.send(message)

    with serve(app_of(handler)).client("/") as client:
        for _ in range(2):
            client.send(frame(TEXT, "sleep"))
            for number in range(50):
                client.send(frame(TEXT, str(number)))
            assert [client.read_text() for _ in range(51)] == ["sleep", *map(str, range(50))]
        client.close_handshake()


def test_a_silent_peer_is_given_up_while_the_handler_computes(serve: Any) -> None:
    told = Result()

    def handler(ws: WebSocket) -> None:
        ws.accept()
        until = time.monotonic() + 20
        while ws.state is State.OPEN and time.monotonic() < until:
            sum(range(1000))
        told.set((ws.close_code, ws.close_reason))

    with serve(app_of(handler), ping_interval=0.05, ping_timeout=0.05).client("/"):
        code, reason = told.get(timeout=25)
    assert code == 1006
    assert "ping" in reason


# Several threads.


def test_messages_of_twenty_threads_never_interleave_and_keep_each_one_s_order(hold: Any) -> None:
    held = hold()

    def send(name: int) -> None:
        for number in range(20):
            held.ws.send(bytes([name, number]) * (1 if number % 3 else 20_000))

    senders = [threading.Thread(target=send, args=(name,)) for name in range(20)]
    for sender in senders:
        sender.start()
    got: dict[int, list[int]] = {}
    for _ in range(400):
        received = held.client.read_frame()
        name, number = received.payload[:2]
        assert received == (0x80 | BINARY, bytes([name, number]) * (1 if number % 3 else 20_000))
        got.setdefault(name, []).append(number)
    for sender in senders:
        sender.join()
    assert got == {name: list(range(20)) for name in range(20)}


def test_two_threads_may_be_the_first_to_use_a_connection(serve: Any) -> None:
    ends: list[Any] = []

    def handler(ws: WebSocket) -> None:
        start = threading.Barrier(3)

        def use(how: Callable[[], Any]) -> None:
            start.wait()
            try:
                ends.append(how())
            except Exception as error:
                ends.append(error)

        users = [
            threading.Thread(target=use, args=(how,))
            for how in (lambda: ws.closed, partial(ws.send, "x"), partial(ws.ping, b""))
        ]
        for user in users:
            user.start()
        for user in users:
            user.join()

    served = serve(app_of(handler))
    for _ in range(20):
        with served.client("/"):
            pass
    wait_until(lambda: len(ends) == 60)
    assert [end for end in ends if end not in (None, False, True) and not isinstance(end, ConnectionClosed)] == []


def test_hooks_that_send_to_each_other_s_connections_do_not_wait_for_each_other_for_ever(serve: Any) -> None:
    both: list[WebSocket] = []

    class Telling(WebSocket):
        __slots__ = ()

        def handle_ping(self, header: Any, payload: bytes) -> None:
            for websocket in both:
                websocket.send("pinged")

    def handler(ws: WebSocket) -> None:
        ws.accept()
        both.append(ws)
        ws.receive()

    served = serve(app_of(handler), websocket_class=Telling)
    clients = [served.client("/") for _ in range(2)]
    wait_until(lambda: len(both) == 2)
    for _ in range(100):
        for client in clients:
            client.send(frame(PING))
    for client in clients:
        texts = 0
        while texts < 200:
            texts += client.read_frame().opcode == TEXT
        client.socket.close()


# Sockets.


def use_connection(address: tuple[str, int], name: int, tls: ssl.SSLContext | None, chance: random.Random) -> None:
    """Connect, check that what comes back is one's own, and leave in one way or another."""
    client = socket.create_connection(address, timeout=20)
    if tls is not None:
        client = tls.wrap_socket(client, server_hostname="localhost")
    try:
        client.sendall(request("/"))
        reader = client.makefile("rb")
        while reader.readline() != b"\r\n":
            pass
        for number in range(chance.randrange(4)):
            payload = f"{name}/{number}/".encode() * chance.choice((1, 5000))
            client.sendall(frame(BINARY, payload, mask=bytes(4)))
            head = reader.read(2)
            assert head[0] == 0x80 | BINARY, head
            size = head[1] if head[1] < 126 else int.from_bytes(reader.read(2 if head[1] == 126 else 8), "big")
            assert reader.read(size) == payload
        leaving = chance.randrange(4)
        if leaving == 0:
            client.sendall(close_frame(1000))
            assert reader.read(2)[0] == 0x80 | CLOSE
        elif leaving == 1:
            client.sendall(frame(TEXT, "close it"))
            assert reader.read(2)[0] == 0x80 | CLOSE
        elif leaving == 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reader.close()
    finally:
        client.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_no_descriptor_is_lost_or_mixed_up_while_many_connections_come_and_go(
    serve: Any, world: Any, tls: bool
) -> None:
    theirs, ours = tls_contexts(world) if tls else (None, None)

    def handler(ws: WebSocket) -> None:
        for message in ws:
            if message == "close it":
                ws.close()
            elif len(message) % 3:
                ws.send(message)
            else:
                # Not by itself: somebody else may close meanwhile, too.
                threading.Thread(target=send_quietly, args=(ws, message)).start()

    def send_quietly(ws: WebSocket, message: Any) -> None:
        with suppress(ConnectionClosed):
            ws.send(message)

    served = serve(app_of(handler), server_arguments={"ssl_context": ours} if tls else None, close_timeout=1)
    errors: list[BaseException] = []

    def clients(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(20 if tls else 30):
            try:
                use_connection(served.address, seed * 1000 + number, theirs, chance)
            except BaseException as error:
                errors.append(error)
                return

    natively(clients, 99)
    wait_until(lambda: not served.server.websockets, seconds=20)
    before, threads_before = descriptors(), native_threads()
    together = [threading.Thread(target=clients, args=(seed,)) for seed in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        natively(thread.join)
    assert errors == []
    wait_until(lambda: not served.server.websockets, seconds=20)
    wait_until(lambda: descriptors() <= before and native_threads() <= threads_before, seconds=10)


def test_connections_that_rest_take_no_time(serve: Any) -> None:
    over = threading.Event()

    def handler(ws: WebSocket) -> None:
        if ws.path == "/receiving":
            ws.receive()
        else:
            ws.accept()
            over.wait()

    served = serve(app_of(handler))
    clients = [served.client(path) for path in ("/receiving", "/sleeping") for _ in range(25)]
    gevent.sleep(0.2)
    used = time.process_time()
    gevent.sleep(1)
    # 60 looks of the test's own server for its end, and 10 of the service.
    assert time.process_time() - used < 0.15
    over.set()
    for client in clients:
        client.socket.close()


def tls_contexts(world: Any) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ours = world.tls_context(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(theirs)
    return theirs, ours


def test_over_tls_messages_pings_and_the_close_are_as_without(serve: Any, world: Any) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ours = world.tls_context(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    codes: list[Any] = []

    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)
            if message == "sleep":
                while not ws.closed:
                    time.sleep(0.01)
        codes.append(ws.close_code)

    served = serve(app_of(handler), server_arguments={"ssl_context": ours}, max_message_size=2**22)
    plain = gevent.socket.create_connection(served.address, timeout=10)
    client = RawClient(served.address, socket=context.wrap_socket(plain, server_hostname="localhost"))
    client.send(request("/") + frame(TEXT, "behind the request"))
    assert client.read_response().status == 101
    assert client.read_text() == "behind the request"
    big = bytes(range(256)) * 8192
    sending = gevent.spawn(client.send, frame(BINARY, big, mask=bytes(4)) * 2)
    for _ in range(2):
        gevent.sleep(0.05)
        assert client.read_frame().payload == big
    sending.get()
    client.send(frame(TEXT, "sleep"))
    assert client.read_text() == "sleep"
    client.send(frame(PING, b"?"))
    assert client.read_frame() == (0x80 | PONG, b"?")
    client.send(close_frame(4001))
    assert client.read_close() == 4001
    client.socket.close()
    wait_until(lambda: codes)
    assert codes == [4001]


def test_the_peer_sees_the_end_at_once_though_the_handler_goes_on(hold: Any) -> None:
    """The server has a socket of its own for the same connection, until its handler has returned."""
    held = hold()
    natively(held.ws.hang_up)
    assert held.client.at_end()


# Greenlets and their hubs.


def test_no_hub_is_made_for_connections_of_native_threads(serve: Any) -> None:
    hubs: list[Any] = []

    def handler(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)
        hubs.append(get_hub_if_exists())

    served = serve(app_of(handler), ping_interval=0.01, warn_blocked=1)
    with served.client("/") as client:
        client.send(frame(TEXT, "x" * 1000) * 5)
        for _ in range(6):  # With a ping.
            client.read_frame()
        client.send(close_frame(1000))
        while client.read_frame().opcode != CLOSE:
            pass
    wait_until(lambda: hubs)
    ThreadRuntime().soon(lambda: hubs.append(get_hub_if_exists()))
    wait_until(lambda: len(hubs) == 2)
    assert hubs == [None, None]


def test_a_broadcast_goes_to_connections_of_a_hub_and_of_native_threads(hold: Any) -> None:
    there: list[WebSocket] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept()
        there.append(ws)
        ws.receive()
        return []

    held = hold()
    server = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
    server.start()
    try:
        with RawClient(("127.0.0.1", server.server_port)) as client:
            client.open()
            wait_until(lambda: there)
            everybody = [held.ws, *there]
            assert broadcast(everybody, "from a greenlet") == []
            assert natively(broadcast, everybody, "from a thread") == []
            natively(there[0].send, "to one")
            for one in (client, held.client):
                assert [one.read_text(), one.read_text()] == ["from a greenlet", "from a thread"]
            assert client.read_text() == "to one"
    finally:
        server.stop()


def test_a_greenlet_that_sends_to_a_slow_peer_lets_its_hub_run_and_can_be_killed(hold: Any) -> None:
    held = hold()
    turns: list[int] = []
    sender = gevent.spawn(held.ws.send, b"x" * 8_000_000)
    receiver = gevent.spawn(held.ws.receive)
    wait_until(lambda: held.ws.buffered_amount)
    for _ in range(5):
        gevent.sleep(0.01)
        turns.append(1)
    assert not sender.dead
    sender.kill()
    held.client.send(frame(TEXT, "to a greenlet"))
    assert receiver.get(timeout=5) == "to a greenlet"
    receiver = gevent.spawn(held.ws.receive)
    gevent.sleep(0.01)
    receiver.kill()
    held.client.send(frame(TEXT, "to a thread"))
    assert natively(held.ws.receive, timeout=5) == "to a thread"
    with pytest.raises(TimeoutError):
        held.ws.receive(timeout=0.01)
    assert len(held.client.read_frame().payload) == 8_000_000
    held.ws.send("whole")
    assert held.client.read_text() == "whole"
    closing = gevent.spawn(held.ws.close, 4000)
    assert held.client.close_handshake(4000) == 4000
    held.client.socket.close()
    closing.get(timeout=5)


# The end of the process, and its children.


def test_an_interrupt_ends_receive_and_the_peer_is_told() -> None:
    ended = run_script("""
here = []

def handler(ws):
    ws.accept()
    here.append(ws)
    try:
        ws.receive()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise

def client(port):
    connected = connect(port)
    while not here or not here[0]._transport.receiving:
        time.sleep(0.001)
    time.sleep(0.1)  # A signal just before a system call does not end it: so it is in Python everywhere.
    os.kill(os.getpid(), signal.SIGINT)
    print(connected.recv(100).hex(), connected.recv(100), flush=True)

server = serve(handler, handle_error=lambda *args: None)
watching = threading.Thread(target=client, args=(server.server_port,))
watching.start()
server.handle_request()
watching.join()
""")
    assert ended.stdout.split("\n") == ["interrupted", "880203e9 b''", ""]


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon threads", "threads that are waited for"])
def test_at_the_end_of_the_process_peers_are_told_and_it_does_not_hang(daemon: bool) -> None:
    ended = run_script(
        """
def handler(ws):
    ws.send("ready")
    if len(busy) == 0:
        busy.append(1)
        while not ws.closed: time.sleep(0.01)
    else:
        while ws.receive() is not None: pass

busy = []
server = serve(handler, socketserver.ThreadingMixIn, daemon_threads=sys.argv[1] == "True", block_on_close=False)
in_thread(server.serve_forever)
clients = [connect(server.server_port) for _ in range(2)]
for client in clients:
    assert client.recv(7) == b"\\x81\\x05ready"
pid = os.fork()
if not pid:
    # The peers, in a process of their own, which outlives the first. They answer, as is usual.
    for client in clients:
        said = client.recv(100)
        client.sendall(b"\\x88\\x82\\0\\0\\0\\0\\x03\\xe9")
        print(said.hex(), flush=True)
    os._exit(0)
for client in clients:
    client.close()
""",
        str(daemon),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    goodbye = (bytes([0x88, 14, 0x03, 0xE9]) + b"server stops").hex()
    assert ended.stdout.split() == [goodbye] * 2


def test_a_child_that_ends_does_not_end_its_parent_s_connections() -> None:
    ended = run_script("""
def handler(ws):
    ws.accept()
    child = os.fork()
    if not child:
        if len(server.get_app().websockets):
            os._exit(1)  # They count for the parent's limits.
        threading._shutdown()
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ws.send("still here")
    ws.receive()

server = serve(handler, socketserver.ThreadingMixIn, daemon_threads=True)
in_thread(server.serve_forever)
client = connect(server.server_port)
assert client.recv(12) == b"\\x81\\x0astill here"
client.sendall(b"\\x88\\x80\\0\\0\\0\\0")
assert client.recv(12) == b"\\x88\\0"
""")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_server_that_forks_for_each_request_serves_websockets() -> None:
    ended = run_script("""
def handler(ws):
    for message in ws: ws.send(message)

server = serve(handler, socketserver.ForkingMixIn)
in_thread(server.serve_forever)
clients = [connect(server.server_port) for _ in range(3)]
for client in clients:
    client.sendall(b"\\x81\\x82\\0\\0\\0\\0hi")
    assert client.recv(4) == b"\\x81\\x02hi"
    client.sendall(b"\\x89\\x80\\0\\0\\0\\0")
    assert client.recv(4) == b"\\x8a\\0"
for client in clients:
    client.sendall(b"\\x88\\x80\\0\\0\\0\\0")
    assert client.recv(4) == b"\\x88\\0"
    assert client.recv(4) == b""
    client.close()
server.shutdown()
server.server_close()
""")
    assert (ended.returncode, ended.stderr) == (0, "")
