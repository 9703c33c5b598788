"""A real server in a thread of its own, so that clients that block, or are other programs, may be used as their users do."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import logging
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlencode

import gevent
import gevent.event
import pytest
import trustme
from gevent import monkey
from gevent.pywsgi import WSGIServer
from waiting import missing, wait_until

from geventws import WebSocket, WebSocketHandler

PATIENCE = 20  # seconds that anything may take before the test has failed


class Programs:
    """The application that the clients talk to: one behaviour to a path, its numbers in the query."""

    def __init__(self) -> None:
        self.told: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        """How each connection ended: its path, close code and reason."""
        self.websockets: dict[str, WebSocket] = {}
        """The latest connection of each path."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        ws = environ.get("wsgi.websocket")
        if ws is None:
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [str(self.websockets["/push"].buffered_amount).encode() if path == "/buffered" else PAGE]
        if path == "/secret":
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"who are you?"]
        query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        self.websockets[path] = ws
        ws.accept()
        try:
            getattr(self, path.strip("/"))(ws, **query)
        finally:
            self.told.put((path, ws.close_code, ws.close_reason))
        return []

    def echo(self, ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)

    def push(self, ws: WebSocket, count: str, size: str) -> None:
        """Send so many messages of that size, each of one byte value: its number."""
        for number in range(int(count)):
            ws.send(bytes([number % 256]) * int(size))
        ws.receive()

    def close(self, ws: WebSocket, code: str, reason: str = "") -> None:
        ws.close(int(code), reason)

    def wait(self, ws: WebSocket) -> None:
        """Neither send nor receive; only see the peer go."""
        while not ws.closed:
            gevent.sleep(0.005)

    def facts(self, ws: WebSocket) -> None:
        ws.send(f"{ws.subprotocol} {ws.origin} {ws.environ.get('HTTP_COOKIE')} {ws.environ.get('HTTP_X_TEST')}")


class ServerThread:
    """A thread with a hub of its own, where all servers of the session run, one test's after the other's.

    In a process that is patched by gevent it is a greenlet, and so are the threads of the clients.
    """

    def __init__(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="servers", daemon=True)
        self._thread.start()
        started.wait(PATIENCE)

    def _run(self, started: threading.Event) -> None:
        self._hub = gevent.get_hub()
        end = gevent.event.Event()
        self._end = self._hub.loop.async_()
        self._end.start(end.set)
        started.set()
        end.wait()
        self._end.close()
        if not monkey.is_module_patched("threading"):
            gc.collect()  # Sockets in reference cycles want their loop to be closed.
            self._hub.destroy(destroy_loop=True)

    @contextlib.contextmanager
    def collecting_errors(self) -> Iterator[list[str]]:
        """The tracebacks of greenlets that would be printed meanwhile."""
        errors: list[str] = []

        def print_exception(context: object, kind: Any, value: Any, tb: Any) -> None:
            errors.append("".join(traceback.format_exception(kind, value, tb)))

        original, self._hub.print_exception = self._hub.print_exception, print_exception
        try:
            yield errors
        finally:
            self._hub.print_exception = original

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in a greenlet of this thread, and wait for what it returns or raises."""
        outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def run() -> None:
            try:
                outcome.put((function(*args), None))
            except BaseException as error:
                outcome.put((None, error))

        self._hub.loop.run_callback_threadsafe(gevent.spawn, run)
        result, error = outcome.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._end.send()
        self._thread.join(PATIENCE)


@pytest.fixture(scope="session")
def server_thread() -> Iterator[ServerThread]:
    thread = ServerThread()
    yield thread
    thread.end()


class Served:
    """A server in its thread. It may be stopped and started again on its port."""

    def __init__(self, thread: ServerThread, make: Callable[..., WSGIServer], listener: Callable[[], Any]) -> None:
        self.programs = Programs()
        self.log = io.StringIO()
        self.call = thread.call
        """Call a function in a greenlet of the server's thread, and wait for what it returns."""
        self._make = make
        self.call(self._start, listener)

    def _start(self, listener: Callable[[], Any]) -> None:
        self.server = self._make(listener(), self.programs, log=self.log)
        self.server.start()

    def stop(self) -> None:
        """Stop the server, as its process would at its end."""
        self.call(self.server.stop)

    def restart(self) -> None:
        """Start it again, on the same port."""
        port = self.port
        self.call(self._start, lambda: ("127.0.0.1", port))

    @property
    def port(self) -> int:
        port: int = self.server.server_port
        return port

    def ws(self, path: str, **query: object) -> str:
        url = f"{'wss' if self.server.ssl_enabled else 'ws'}://127.0.0.1:{self.port}{path}"
        return f"{url}?{urlencode(query)}" if query else url

    @property
    def origin(self) -> str:
        """Of the pages that this server serves."""
        return f"{'https' if self.server.ssl_enabled else 'http'}://127.0.0.1:{self.port}"

    def ended(self) -> tuple[Any, ...]:
        """How the next connection has ended: its path, close code and reason."""
        return self.programs.told.get(timeout=PATIENCE)

    def websocket(self, path: str) -> WebSocket:
        """The server's side of the latest connection to `path`."""
        return self.programs.websockets[path]

    def echoed(self, path: str) -> int:
        """How many messages the latest connection to `path` has sent; 0 if there is none yet."""
        ws = self.programs.websockets.get(path)
        return 0 if ws is None else ws.counts[2]

    def access_log(self, line: str) -> None:
        """Wait until `line` stands in the access log."""
        wait_until(lambda: line in self.log.getvalue())


@pytest.fixture
def serve_apart(server_thread: ServerThread, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Served]]:
    """Start servers in a thread of their own: `serve_apart(compression=True)` gives one with that option.

    They are stopped after the test. What is reported as unexpected, or logged as an error, or left behind fails it.
    """
    servers: list[Served] = []

    def start(
        server_class: type[WSGIServer] = WSGIServer,
        listener: Callable[[], Any] = lambda: ("127.0.0.1", 0),
        arguments: dict[str, Any] | None = None,
        **options: Any,
    ) -> Served:
        handler_class = WebSocketHandler.configured(**options)
        make = functools.partial(server_class, handler_class=handler_class, **arguments or {})
        servers.append(Served(server_thread, make, listener))
        return servers[-1]

    with server_thread.collecting_errors() as errors:
        yield start
        for server in servers:
            # The clients are gone by now: nothing of their connections may be left.
            wait_until(lambda server=server: not getattr(server.server, "clients", None), seconds=PATIENCE)
            server.stop()
    assert errors == []
    ours = [record for record in caplog.get_records("call") if record.name.startswith("geventws")]
    assert [record.getMessage() for record in ours if record.levelno >= logging.ERROR] == []


class Certificates:
    """A certificate for 127.0.0.1 that clients trust, as the server and as the clients want to have it."""

    def __init__(self, folder: Any) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.keyfile, self.certfile, self.authority = (
            str(folder / name) for name in ("key.pem", "certificate.pem", "authority.pem")
        )
        issued.private_key_pem.write_to_path(self.keyfile)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certfile, append=True)
        authority.cert_pem.write_to_path(self.authority)
        self.client_context = ssl.create_default_context(cafile=self.authority)

    @property
    def server_arguments(self) -> dict[str, str]:
        return {"keyfile": self.keyfile, "certfile": self.certfile}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """Where Node finds `ws`: installed once, and kept beside the environments of tox."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("Node with npm")
    kept = pytestconfig.rootpath / ".tox" / "node"
    if not (kept / "node_modules" / "ws" / "package.json").exists():
        _install(kept)
    return kept


def _install(kept: Path) -> None:
    """Aside first and then into its place, so that a run that is cut off, or another at the same time, does no harm."""
    kept.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as aside:
        line = ["npm", "install", "--no-audit", "--no-fund", "--prefix", aside, "ws@8"]
        try:
            subprocess.run(line, capture_output=True, check=True, timeout=50)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            missing(f"Node's ws, which npm did not install ({error})")
        if not kept.exists():
            os.rename(aside, kept)
            os.mkdir(aside)


SIZES = sorted(
    {
        *range(131),
        *(around for power in range(7, 21) for around in (2**power - 1, 2**power, 2**power + 1)),
        *(2**16 + 2**power for power in range(15)),
        *range(1_000, 2**20, 99_991),
    }
    - {2**20 + 1}
)
"""From nothing to 1 MiB: every one where the length's form changes, and enough in between."""


@pytest.fixture(scope="session")
def sizes() -> list[int]:
    return SIZES


PAGE = b"""<!DOCTYPE html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>A page with WebSockets</title>
<script>
"use strict";

// A WebSocket whose events are awaited one by one, in order, with `await ws.next()`.
function connect(path, protocols = [], binaryType = "arraybuffer") {
  const ws = new WebSocket(new URL(path, location.href.replace(/^http/, "ws")), protocols);
  const events = [], waiting = [];
  const tell = (event) => { waiting.length ? waiting.shift()(event) : events.push(event); };
  ws.binaryType = binaryType;
  ws.onopen = () => tell({type: "open", protocol: ws.protocol, extensions: ws.extensions});
  ws.onmessage = ({data}) => tell({type: "message", data});
  ws.onerror = () => tell({type: "error"});
  ws.onclose = ({code, reason, wasClean}) => tell({type: "close", code, reason, wasClean});
  ws.next = () => events.length ? Promise.resolve(events.shift()) : new Promise((next) => waiting.push(next));
  return ws;
}
</script>
"""
