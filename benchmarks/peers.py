"""The servers that are measured: what each needs, how it is started, what it can do. Which rows they run in is in `rows`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tools import Tools, node_version

__all__ = ["SERVERS", "Server", "environment", "versions"]

FOLDER = Path(__file__).resolve().parent / "servers"


@dataclass(frozen=True)
class Server:
    """One way to serve a WebSocket, as a program of its own: `PROGRAM PORT MODE` until it is killed."""

    name: str
    title: str
    program: str
    """A file in `servers`, or "floor"."""

    distributions: tuple[str, ...] = ()
    """What it is about and stands on. All must be installed, but geventws may come from a source tree."""

    cannot: dict[str, str] = field(default_factory=dict)
    """Modes that its program has not, and why; "websocket" stands for all that need one."""

    environment: dict[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bool:
        """It speaks no WebSocket."""
        return self.program == "floor"

    @property
    def ours(self) -> bool:
        return self.name.startswith("geventws")

    def missing(self, tools: Tools) -> str | None:
        """What keeps it from being started on this machine, if anything does."""
        if self.program.endswith(".cjs"):
            return tools.without_node
        missing = [name for name in self.distributions if name != "geventws" and installed(name) is None]
        return f"{' and '.join(missing)} not installed" if missing else None

    def command(self, tools: Tools, port: int, mode: str) -> list[str]:
        if self.raw:
            return [str(tools.floor), str(port), mode]
        interpreter = "node" if self.program.endswith(".cjs") else sys.executable
        return [interpreter, str(FOLDER / self.program), str(port), mode]


NO_DEFLATE = {"deflate": "no permessage-deflate"}
NO_BROADCAST = {"broadcast": "nothing to broadcast with"}

SERVERS = {
    server.name: server
    for server in (
        Server(
            "floor", "C, plain TCP (floor)", "floor", cannot=dict.fromkeys(("websocket", "deflate"), "no WebSocket")
        ),
        Server(
            "gevent",
            "gevent alone, no WSGI",
            "gevent_alone.py",
            ("gevent",),
            cannot={**NO_DEFLATE, **NO_BROADCAST},
        ),
        Server("geventws", "geventws, WSGI", "geventws_wsgi.py", ("geventws", "gevent")),
        Server("geventws-flask", "geventws, Flask route", "geventws_flask.py", ("geventws", "gevent", "flask")),
        Server(
            "geventws-pure",
            "geventws, plain Python",
            "geventws_wsgi.py",
            ("geventws", "gevent"),
            environment={"GEVENTWS_PURE_PYTHON": "1"},
        ),
        Server(
            "geventws-werkzeug",
            "geventws, werkzeug",
            "geventws_werkzeug.py",
            ("geventws", "gevent", "werkzeug"),
            cannot={**NO_DEFLATE, **NO_BROADCAST},
        ),
        Server(
            "geventws-gthread",
            "geventws, gunicorn threads",
            "geventws_gunicorn_threads.py",
            ("geventws", "gevent", "gunicorn"),
            cannot={**NO_DEFLATE, **NO_BROADCAST},
        ),
        Server(
            "gevent-websocket",
            "gevent-websocket, WSGI",
            "gevent_websocket.py",
            ("gevent-websocket", "gevent"),
            cannot=NO_DEFLATE,
        ),
        Server(
            "flask-sock",
            "flask-sock on gevent",
            "flask_sock_gevent.py",
            ("flask-sock", "simple-websocket", "gevent"),
            cannot=NO_BROADCAST,
        ),
        Server(
            "websockets-threads",
            "websockets, threads",
            "websockets_threads.py",
            ("websockets",),
        ),
        Server("websockets", "websockets on uvloop", "websockets_asyncio.py", ("websockets", "uvloop")),
        Server("aiohttp", "aiohttp on uvloop", "aiohttp_uvloop.py", ("aiohttp", "uvloop")),
        Server("uvicorn", "uvicorn on uvloop", "uvicorn_asgi.py", ("uvicorn", "uvloop", "websockets")),
        Server("picows", "picows on uvloop", "picows_uvloop.py", ("picows", "uvloop"), cannot=NO_DEFLATE),
        Server("ws", "ws on Node", "node_ws.cjs"),
    )
}


def installed(distribution: str) -> str | None:
    """Its version."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def environment(server: Server, tools: Tools, geventws: Path | None) -> dict[str, str]:
    """What the server is started in. `geventws`: a folder to import it from; None: as it is installed."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("GEVENTWS_")}
    if geventws is not None:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(geventws), os.environ.get("PYTHONPATH"))))
    if server.program.endswith(".cjs"):
        found["NODE_PATH"] = str(tools.node_modules)
    return {**found, **server.environment}


def versions(tools: Tools) -> dict[str, str]:
    """Of everything that is measured and of what it stands on, as far as it is installed."""
    names = sorted({name for server in SERVERS.values() for name in server.distributions} | {"greenlet"})
    found = {name: number for name in names if (number := installed(name))}
    if not tools.without_node:
        found.update(node_version(tools.node_modules))
    return found
