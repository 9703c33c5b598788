"""What the tests of servers share: starting one, and ending it whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
