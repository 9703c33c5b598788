"""What the tests of libraries share: the servers that are started once, and the program whose handlers use them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from scope.libraries import services
from scope.libraries.crowd import FOLDER, PROGRAMS, Program, Script
from waiting import missing

SERVICES = {
    "redis_clients": ("redis", services.redis),
    "mariadb_clients": ("mariadb", services.mariadb),
    "postgresql_clients": ("postgresql", services.postgresql),
    "psycopg_clients": ("postgresql", services.postgresql),
}
"""The server that a program cannot do without: its name and how it is started."""


class Surroundings:
    """All servers that the programs talk to: started when they are wanted, told to the programs by the environment."""

    def __init__(self, stack: contextlib.ExitStack, certificates: Path) -> None:
        self._stack = stack
        self._ports: dict[str, int | services.NotHere] = {}
        authority, names = trustme.CA(), ("localhost", "127.0.0.1")
        certificate, key, trusted = (certificates / name for name in ("certificate", "key", "authority"))
        issued = authority.issue_cert(*names)
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        authority.cert_pem.write_to_path(trusted)
        line = [sys.executable, str(FOLDER / "peers.py"), str(certificate), str(key)]
        peers = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stack.callback(peers.stdin.close)  # which ends it
        ports = json.loads(peers.stdout.readline())
        self.environment = {f"PEER_{name.upper()}": str(port) for name, port in ports.items()}
        self.environment["PEER_AUTHORITY"] = str(trusted)

    def provide(self, program: str) -> services.NotHere | None:
        """Have the server that `program` needs; what is missing, if it cannot be had."""
        if program not in SERVICES:
            return None
        name, start = SERVICES[program]
        if name not in self._ports:
            try:
                self._ports[name] = self._stack.enter_context(start())
                self.environment[f"{name.upper()}_PORT"] = str(self._ports[name])
            except services.NotHere as lack:
                self._ports[name] = lack
        found = self._ports[name]
        return found if isinstance(found, services.NotHere) else None


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    with contextlib.ExitStack() as stack:
        yield Surroundings(stack, tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def scripts() -> Iterator[dict[str, Script]]:
    """The programs that run, by the psycopg that they have."""
    running: dict[str, Script] = {}
    yield running
    for script in running.values():
        script.end()


@pytest.fixture
def script(
    surroundings: Surroundings, scripts: dict[str, Script], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Script]]:
    """`script("http_clients")` gives a program that has it and all others; it is the same in all tests, unless it died.

    `script("psycopg_clients", "python")` gives one with the psycopg that is written in Python, and nothing else.
    What a program writes on its standard error fails the test.
    """
    used: list[Script] = []

    def get(program: str, psycopg: str = "binary") -> Script:
        lack = surroundings.provide(program)
        if lack is not None:
            missing(str(lack))
        if psycopg not in scripts or not scripts[psycopg].alive:
            programs = PROGRAMS if psycopg == "binary" else [program]
            scripts[psycopg] = Script(
                [one for one in programs if surroundings.provide(one) is None],
                tmp_path_factory.mktemp("script") / "errors",
                {**surroundings.environment, "PSYCOPG_IMPL": psycopg},
            )
        used.append(scripts[psycopg])
        if program in used[0].missing:
            missing(used[0].missing[program])
        return used[0]

    yield get
    assert "".join(script.errors() for script in used if script.alive) == ""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Program]:
    """`python -m geventws serve`, with locks that its application made when it was imported."""
    program = Program(["-m", "geventws", "serve", "--port", "0", "served:app"], tmp_path / "errors")
    yield program
    program.end()
