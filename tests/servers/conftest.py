"""What the tests of servers share: starting one, and ending it whatever happens."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import gevent.ssl
import pytest
import trustme
from rawclient import BINARY, frame
from servers.started import Started

Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*command, **arguments)`: a server that answers, in a directory of its own. It is killed after the test."""
    servers: list[Started] = []

    def start_one(*command: str, **arguments: Any) -> Started:
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        servers.append(Started(command, directory, **arguments))
        return servers[-1]

    yield start_one
    for server in servers:
        server.kill()


class Tls:
    """A certificate for "localhost", and how to connect to a server that has it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.pem = authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes().decode()
        self._context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self._context)
        self._server: Started | None = None

    def connect(self) -> Any:
        assert self._server is not None
        plain = gevent.socket.create_connection(("127.0.0.1", self._server.port), timeout=20)
        return self._context.wrap_socket(plain, server_hostname="localhost")

    def start(self, start: Start, *command: str, listening: str, **arguments: Any) -> Started:
        """A server that has `server.pem` in its directory, and writes `listening` when it is ready."""
        files = {"server.pem": self.pem, **arguments.pop("files", {})}
        self._server = start(*command, files=files, answers=False, connect=self.connect, **arguments)
        self._server.wrote(listening)
        return self._server

    def carries_websockets(self, server: Started) -> None:
        for _ in range(3):
            with server.client("/echo") as client:
                client.send(frame(BINARY, bytes(2**20)))
                assert client.read_kind() == (BINARY, bytes(2**20))
                assert client.close_handshake() == 1000
        assert server.get("/").body == b"page"
        assert "Traceback" not in server.output


@pytest.fixture
def tls() -> Tls:
    return Tls()
