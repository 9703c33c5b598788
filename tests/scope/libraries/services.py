"""Real servers for real libraries: Redis, MariaDB and PostgreSQL, each a child process on a free port of the loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

STARTING = 30  # seconds that a server may take to start


class NotHere(Exception):
    """This machine lacks a component; the message is its name."""


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A Redis that keeps nothing; gives its port."""
    program = find("redis-server")
    with folder() as place:
        port = free_port()
        line = [program, "--bind", "127.0.0.1", "--port", str(port), "--hz", "100", "--save", "", "--appendonly", "no"]
        with running([*line, "--dir", str(place)], place):
            yield port


@contextlib.contextmanager
def mariadb() -> Iterator[int]:
    """A MariaDB that lets everyone in; gives its port."""
    program = find("mariadbd")
    with folder() as place:
        port = free_port()
        options = {
            "datadir": place,
            "socket": place / "socket",
            "pid-file": place / "pid",
            "bind-address": "127.0.0.1",
            "port": port,
            "innodb-buffer-pool-size": "8M",
            "innodb-log-file-size": "4M",
            "innodb-use-native-aio": 0,
        }
        line = [program, "--no-defaults", "--skip-grant-tables", *(f"--{name}={to}" for name, to in options.items())]
        with running(line, place):
            yield port


@contextlib.contextmanager
def postgresql() -> Iterator[int]:
    """A PostgreSQL that lets everyone in as the user postgres; gives its port."""
    program = find("postgres", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))
    with folder() as place:
        port, data = free_port(), place / "data"
        init = [str(Path(program).resolve().with_name("initdb")), "-D", str(data), "-U", "postgres", "--auth=trust"]
        init += ["--no-sync", "--no-locale", "--encoding=UTF8"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd=place, timeout=STARTING, **not_as_root())
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        line = [program, "-D", str(data)]
        for name, value in settings.items():
            line += ["-c", f"{name}={value}"]
        with running(line, place, signal.SIGQUIT):
            yield port


def find(name: str, *folders: str) -> str:
    """The path of a program, also where only an administrator's PATH leads to."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise NotHere(name)
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def not_as_root() -> dict[str, Any]:
    """Database servers refuse to run as root: there they run as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards, and belongs to whom a server runs as."""
    with tempfile.TemporaryDirectory(prefix="geventws-") as name:
        owner = not_as_root()
        if owner:
            os.chown(name, owner["user"], owner["group"])
        yield Path(name)


@contextlib.contextmanager
def running(line: Sequence[str], place: Path, end: signal.Signals = signal.SIGKILL) -> Iterator[None]:
    """Run a server from when it says that it is ready to the end of the block; `end` ends it at once, all of it."""
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(line, cwd=place, stdout=output, stderr=output, **not_as_root())
    try:
        deadline = time.monotonic() + STARTING
        while not re.search(rb"ready (to accept|for) connections", log.read_bytes(), re.IGNORECASE):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{line[0]} did not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(end)
        process.wait(STARTING)
