"""`broadcast`: one message to many, encoded once, and nobody is waited for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.pywsgi import WSGIServer
from rawclient import BINARY, PING, TEXT, RawClient, close_frame, frame, request
from waiting import Event, wait_until
from worlds import BOTH

import geventws
from geventws import DeflateOptions, WebSocket, WebSocketHandler, broadcast
from geventws.protocol.deflate import Deflate

WORLDS = BOTH


class Room:
    """A server whose handlers wait until the test is over, and the WebSockets that are open on it."""

    def __init__(self, serve: Any, **options: Any) -> None:
        self.over = Event()
        self.websockets: list[WebSocket] = []
        self.clients: list[RawClient] = []
        self.served = serve(self._app, **options)

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept()
        self.websockets.append(ws)
        self.over.wait()
        return []

    def enter(self, *, compressing: bool = False) -> RawClient:
        extensions = {"Sec_WebSocket_Extensions": "permessage-deflate"} if compressing else {}
        self.clients.append(self.served.client("/", **extensions))
        wait_until(lambda: len(self.websockets) == len(self.clients))
        return self.clients[-1]


@pytest.fixture
def room(serve: Any) -> Iterator[Callable[..., Room]]:
    made: list[Room] = []

    def make(**options: Any) -> Room:
        made.append(Room(serve, **options))
        return made[-1]

    yield make
    for one in made:
        one.over.set()
        for client in one.clients:
            client.socket.close()


def test_what_is_no_message_is_refused_and_nobody_gets_anything(room: Any) -> None:
    here = room()
    client = here.enter()
    for message in (None, 7, ["a"]):
        with pytest.raises(TypeError, match="a message is str"):
            broadcast(here.websockets, message)
    with pytest.raises(ValueError, match="surrogate"):
        broadcast(here.websockets, "\ud800")
    with pytest.raises(UnicodeDecodeError):
        broadcast(here.websockets, b"\xff", binary=False)
    broadcast(here.websockets, "after")
    assert client.read_text() == "after"


def test_what_is_no_websocket_is_refused_before_anybody_gets_anything(room: Any) -> None:
    here = room()
    client = here.enter()
    with pytest.raises(TypeError, match="goes to WebSockets"):
        broadcast([*here.websockets, "nobody"], "never")  # type: ignore[list-item]
    broadcast(here.websockets, "after")
    assert client.read_text() == "after"


def test_nobody_is_nobody() -> None:
    assert broadcast([], "hello") == []


def test_those_that_have_closed_are_passed_over(room: Any) -> None:
    here = room()
    gone, client = here.enter(), here.enter()
    gone.send(close_frame(1000))
    wait_until(lambda: here.websockets[0].state != geventws.State.OPEN)
    assert broadcast(here.websockets, "still here") == []
    assert client.read_text() == "still here"


def test_those_that_are_not_accepted_yet_are_passed_over(serve: Any) -> None:
    held: list[WebSocket] = []
    go = Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        held.append(environ["wsgi.websocket"])
        go.wait()
        start_response("403 Forbidden", [])
        return [b"no"]

    with serve(app).client() as client:
        client.send(request())
        wait_until(lambda: held)
        assert broadcast(held, "hello") == []
        go.set()
        assert client.read_response().status == 403


def test_everybody_gets_it_once_as_text_or_as_binary(room: Any) -> None:
    here = room()
    clients = [here.enter() for _ in range(20)]
    assert broadcast(here.websockets, "täxt") == []
    broadcast(set(here.websockets), b"bytes")
    broadcast(iter(here.websockets), bytearray(b"as text"), binary=False)
    broadcast(here.websockets, memoryview(b"x" * 100_000))
    for client in clients:
        assert client.read_text() == "täxt"
        assert client.read_frame() == (0x80 | BINARY, b"bytes")
        assert client.read_text() == "as text"
        assert client.read_frame() == (0x80 | BINARY, b"x" * 100_000)
    assert [ws.counts[2] for ws in here.websockets] == [4] * 20


def test_it_stands_in_its_order_between_what_else_is_sent(room: Any) -> None:
    here = room()
    client = here.enter()
    (ws,) = here.websockets
    client.send(frame(TEXT, "a") + frame(TEXT, "b") + frame(PING, "p"))
    assert ws.receive() == "a"
    ws.send("1")  # "b" is at hand: it may leave later, but not behind what follows
    broadcast([ws], "2")
    ws.send("3")
    texts = []
    while len(texts) < 3:
        received = client.read_frame()
        if received.opcode == TEXT:
            texts.append(received.payload)
    assert texts == [b"1", b"2", b"3"]


def test_a_peer_that_does_not_read_is_not_waited_for_and_is_told_of_once_it_is_too_far_behind(room: Any) -> None:
    here = room(send_timeout=30)
    slow, quick = here.enter(), here.enter()
    behind: list[WebSocket] = []
    sent = 0
    while not behind:
        with gevent.Timeout(5):
            behind = broadcast(here.websockets, b"x" * 200_000, max_backlog=1_000_000)
        sent += 1
        assert quick.read_frame().payload == b"x" * 200_000
    assert behind == here.websockets[:1]
    assert 1_000_000 < here.websockets[0].buffered_amount <= 1_300_000
    for _ in range(sent - 1):
        assert slow.read_frame().payload == b"x" * 200_000
    wait_until(lambda: not here.websockets[0].buffered_amount)
    assert broadcast(here.websockets, "caught up") == []
    assert slow.read_text() == quick.read_text() == "caught up"


def test_a_peer_that_reads_nothing_for_too_long_is_given_up(room: Any) -> None:
    here = room(send_timeout=0.2)
    here.enter()
    while not here.websockets[0].buffered_amount:
        broadcast(here.websockets, b"x" * 200_000)
    wait_until(lambda: here.websockets[0].closed)
    assert "not read" in here.websockets[0].close_reason


def test_a_message_is_compressed_once_for_all_that_are_set_up_alike(room: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = room(compression=DeflateOptions(threshold=10))
    clients = [here.enter(compressing=True) for _ in range(5)] + [here.enter()]
    compressed: list[bytes] = []
    compress = Deflate.compress

    def counting(self: Deflate, payload: bytes) -> bytes:
        compressed.append(payload)
        return compress(self, payload)

    monkeypatch.setattr(Deflate, "compress", counting)
    broadcast(here.websockets, "all alike " * 20)
    broadcast(here.websockets, "short")
    assert len(compressed) == 1
    for client in clients[:5]:
        received = client.read_frame()
        assert received.first == 0xC0 | TEXT
        assert zlib.decompressobj(-15).decompress(received.payload + b"\0\0\xff\xff") == b"all alike " * 20
    assert clients[5].read_text() == "all alike " * 20
    assert [client.read_text() for client in clients] == ["short"] * 6


def test_what_is_sent_afterwards_can_be_read_by_peers_that_keep_their_window(room: Any) -> None:
    here = room(compression=DeflateOptions(threshold=1))
    clients = [here.enter(compressing=True) for _ in range(2)]
    inflaters = [zlib.decompressobj(-15) for _ in clients]

    def read(number: int) -> bytes:
        payload = clients[number].read_frame().payload
        return inflaters[number].decompress(payload + b"\0\0\xff\xff")

    story = b"once upon a time there was a window of thirty-two thousand bytes, "
    for turn in range(4):
        for number, ws in enumerate(here.websockets):
            own = story + b"and this is number %d in turn %d" % (number, turn)
            ws.send(own)
            assert read(number) == own
        broadcast(here.websockets, story * 2 + b"for all in turn %d" % turn)
        assert read(0) == read(1) == story * 2 + b"for all in turn %d" % turn


def test_it_may_come_from_another_thread_and_go_to_connections_of_several(room: Any, in_thread: Any) -> None:
    here = room()
    clients = [here.enter() for _ in range(3)]
    there: list[WebSocket] = []
    over: list[bool] = []
    ports: list[int] = []

    def serve_there() -> None:
        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            ws = environ["wsgi.websocket"]
            ws.accept()
            there.append(ws)
            while not over:
                gevent.sleep(0.01)
            return []

        server = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
        server.start()
        ports.append(server.server_port)
        while not over:
            gevent.sleep(0.01)
        server.stop()

    served = gevent.get_hub().threadpool.spawn(serve_there)
    wait_until(lambda: ports)
    with RawClient(("127.0.0.1", ports[0])) as foreign:
        foreign.open()
        wait_until(lambda: there)
        everybody = [*here.websockets, *there]
        assert in_thread(broadcast, (everybody, "from a thread")) == []
        assert broadcast(everybody, "from here") == []
        for client in [*clients, foreign]:
            assert client.read_text() == "from a thread"
            assert client.read_text() == "from here"
        over.append(True)
    served.get()
