"""The load generator, the floor and the servers for geventws: each kind of measurement once and briefly, and that the load
notices a server that does not do what it should.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from measuring import Bench, Cores, MeasurementFailed, Pace, pinned
from peers import SERVERS
from rows import Row, options
from tools import Tools, ToolsMissing, prepare
from waiting import missing

import geventws

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs epoll and /proc"),
]

OPENED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.fixture(scope="module")
def tools() -> Tools:
    try:
        return prepare(node=False)
    except ToolsMissing as error:
        missing(str(error))
        raise


@pytest.fixture
def bench(tools: Tools) -> Bench:
    """Wherever the system likes: on a core of its own, a server that waits for other tests has no latencies to tell."""
    return bench_on(Cores(None, None), tools)


def bench_on(cores: Cores, tools: Tools) -> Bench:
    where = Path(geventws.__file__).resolve().parents[1]
    return Bench(tools, cores, Pace(seconds=0.2, warmup=0.05), where)


def row(mode: str, server_mode: str = "echo", **given: object) -> Row:
    return Row("a-row", "A row", "", (mode, *options(**given)), server_mode=server_mode)


@pytest.mark.parametrize("server", ["floor", "geventws", "geventws-pure"])
@pytest.mark.parametrize(
    "load",
    [
        {"connections": 5},
        {"connections": 3, "in_flight": 100},
        {"connections": 2, "size": 2**20, "binary": True},
        {"connections": 5, "idle": 20, "rate": 2000},
    ],
    ids=["one in flight", "many in flight", "large", "paced"],
)
def test_echo(bench: Bench, server: str, load: dict[str, Any]) -> None:
    found = bench.measure(SERVERS[server], row("echo", **load))
    assert found["count"] > 0
    assert found["cpu_us"] > 0
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["p999_us"]
    assert found["server_busy"] < 1.5


def test_a_rate_is_kept(bench: Bench) -> None:
    found = bench.measure(SERVERS["floor"], row("echo", connections=5, rate=2000))
    assert found["per_second"] == pytest.approx(2000, rel=0.2)


@pytest.mark.parametrize("whose", ["server", "load"])
def test_messages_on_their_way_while_another_program_has_the_core_have_no_part_in_the_latencies(
    tools: Tools, whose: str
) -> None:
    cores = Cores.choose()
    if cores.load is None:
        missing("two cores are needed")
    with busy(getattr(cores, whose)):
        found = bench_on(cores, tools).measure(SERVERS["floor"], row("echo", connections=5))
    assert found["stalled"] > 0
    assert found["count"] > found["stalled"]


def test_that_server_and_load_wait_for_each_other_on_one_core_is_in_the_latencies(tools: Tools) -> None:
    core = min(os.sched_getaffinity(0))
    with busy(core):
        found = bench_on(Cores(core, core), tools).measure(SERVERS["floor"], row("echo", connections=5))
    assert found["stalled"] == 0


@pytest.mark.parametrize("size", [1024, 65536])
def test_compressed_echo(bench: Bench, size: int) -> None:
    found = bench.measure(SERVERS["geventws"], row("echo", "deflate", connections=2, size=size, deflate=True))
    assert 10 < found["wire_bytes"] < size / 2


@pytest.mark.parametrize("server", ["gevent", "geventws"])
def test_handshakes(bench: Bench, server: str) -> None:
    assert bench.measure(SERVERS[server], row("handshake", connections=4))["count"] > 10


@pytest.mark.parametrize("server", ["gevent", "geventws"])
def test_idle_connections(bench: Bench, server: str) -> None:
    found = bench.measure(SERVERS[server], row("idle", connections=300))
    assert 1 < found["kib"] < 200
    assert found["kib_after_a_message"] > 1


@pytest.mark.parametrize("server", ["floor", "geventws"])
def test_broadcast(bench: Bench, server: str) -> None:
    assert bench.measure(SERVERS[server], row("broadcast", "broadcast", connections=50))["count"] > 1


def test_a_server_that_does_not_start_is_a_failure_with_its_last_words(bench: Bench) -> None:
    with pytest.raises(MeasurementFailed, match=r"the server ended with 2 .*usage: floor PORT"):
        bench.measure(SERVERS["floor"], row("echo", "unheard of"))


@contextmanager
def busy(core: int | None) -> Iterator[None]:
    """Another program has this core for as long as the system lets it."""
    with pinned(core):
        process = subprocess.Popen([sys.executable, "-c", "for _ in range(10**9): pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def wrong_server(behave: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server of one connection: reads the request, and then does as told. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection, suppress(OSError):
                connection.recv(4096)
                behave(connection)
                connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def answers(response: bytes, frame: bytes = b"") -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.sendall(response)
        if frame:
            connection.recv(4096)
            connection.sendall(frame)

    return behave


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (answers(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "no 101 but HTTP/1.1 403"),
        (answers(OPENED.replace(b"s3pP", b"xxxx")), "Sec-WebSocket-Accept is wrong"),
        (answers(OPENED, b"\x81\x05abcdx"), "what came back is not what was sent"),
        (answers(OPENED, b"\x81\x04abcd"), "a message came back too short"),
        (answers(OPENED, b"\x82\x05abcde"), "text came back as binary"),
        (answers(OPENED, b"\x88\x02\x03\xea"), "the server closed a connection with 1002"),
        (lambda connection: connection.shutdown(socket.SHUT_RDWR), "the server closed TCP"),
    ],
    ids=["refused", "wrong accept", "wrong text", "too short", "wrong type", "closed", "gone"],
)
def test_the_load_notices(tools: Tools, behave: Callable[[socket.socket], object], said: str) -> None:
    with wrong_server(behave) as port:
        line = [str(tools.load), "echo", str(port), "--connections", "1", "--size", "5", "--seconds", "0.2"]
        result = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=20, check=False)
    assert said in json.loads(result.stdout)["error"]
    assert result.returncode == 1


def test_the_load_notices_that_compression_is_declined(tools: Tools) -> None:
    with wrong_server(answers(OPENED)) as port:
        line = [str(tools.load), "echo", str(port), "--connections", "1", "--deflate", "--seconds", "0.2"]
        result = subprocess.run(line, stdout=subprocess.PIPE, text=True, timeout=20, check=False)
    assert "declines permessage-deflate" in json.loads(result.stdout)["error"]
