"""Our client against servers that nobody here wrote: `websockets`, blocking and on asyncio, and Node's `ws`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from geventws import ConnectionClosed
from geventws.client import connect

PATIENCE = 20  # seconds until something has to come
HERE = Path(__file__).parent


class Foreign(NamedTuple):
    url: str
    arguments: dict[str, Any]
    """For `connect`."""

    def connect(self, path: str = "/", **more: Any) -> Any:
        # `websockets` lets nobody in who does not offer what it speaks.
        arguments = {"subprotocols": ["chat.v1"], **self.arguments, **more}
        return connect(self.url + path, proxy=None, timeout=PATIENCE, **arguments)


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[..., int]]:
    """Start servers, each once; they end with the module. Gives their ports."""
    processes: dict[tuple[str, ...], tuple[subprocess.Popen[str], int]] = {}

    def start(*command: str) -> int:
        if command not in processes:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes[command] = process, 0
            assert process.stdout is not None
            processes[command] = process, int(process.stdout.readline())
        return processes[command][1]

    yield start
    for process, _ in processes.values():
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()


@pytest.fixture(params=["sync", "asyncio", pytest.param("node", marks=pytest.mark.endtoend)])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "node":
        modules = request.getfixturevalue("node_modules")
        return "node", str(HERE / "node_server.mjs"), f"{modules}/"
    return sys.executable, str(HERE / "echo_servers.py"), request.param


@pytest.fixture(params=["plain", "deflate"])
def compression(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=["ws", "wss"])
def server(
    request: pytest.FixtureRequest,
    command: tuple[str, ...],
    compression: str,
    started: Callable[..., int],
    certificates: Any,
) -> Foreign:
    files = [certificates.certfile, certificates.keyfile] if request.param == "wss" else []
    port = started(*command, compression, *files)
    arguments: dict[str, Any] = {"compression": compression == "deflate"}
    if files:
        arguments["ssl_context"] = certificates.client_context
    return Foreign(f"{request.param}://127.0.0.1:{port}", arguments)


def test_messages_of_many_sizes_are_echoed(server: Foreign) -> None:
    sizes = (0, 1, 125, 126, 65535, 65536, 2**20)
    with server.connect() as ws:
        for size in sizes:
            for message in ("x" * size, os.urandom(size)):
                ws.send(message)
                assert ws.receive(PATIENCE) == message
        _, received, _, sent = ws.counts
    assert ws.close_code == 1000
    # The texts shrink to next to nothing, the rest does not.
    for transferred in (received, sent):
        assert (transferred < 1.5 * sum(sizes)) == server.arguments["compression"]


def test_many_messages_are_answered_in_order(server: Foreign) -> None:
    with server.connect() as ws:
        for number in range(500):
            ws.send(f"message {number}")
        assert [ws.receive(PATIENCE) for _ in range(500)] == [f"message {number}" for number in range(500)]


def test_a_subprotocol_is_agreed_upon(server: Foreign) -> None:
    with server.connect(subprotocols=["chat.v2", "chat.v1"]) as ws:
        assert ws.subprotocol == "chat.v1"


def test_closing_takes_no_time(server: Foreign) -> None:
    ws = server.connect()
    ws.send("hello")
    assert ws.receive(PATIENCE) == "hello"
    started = time.monotonic()
    ws.close(4001, "done")
    # Less than the 2 s for which a server is waited for that does not end TCP.
    assert time.monotonic() - started < 1.9
    assert (ws.close_code, ws.close_reason) == (4001, "done")


def test_the_server_closes(server: Foreign) -> None:
    with server.connect("/close") as ws:
        assert ws.receive(PATIENCE) is None
        started = time.monotonic()
        with pytest.raises(ConnectionClosed, match="4000 enough"):
            ws.receive()
    assert time.monotonic() - started < 1.9
    assert (ws.close_code, ws.close_reason) == (4000, "enough")


@pytest.mark.parametrize("compression", ["plain"], indirect=True)
def test_compression_that_the_server_does_not_speak_is_done_without(server: Foreign) -> None:
    server.arguments["compression"] = True
    with server.connect() as ws:
        ws.send("x" * 10_000)
        assert ws.receive(PATIENCE) == "x" * 10_000
        assert ws.counts[3] > 10_000
