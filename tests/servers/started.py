"""Servers as their users start them: a command line, in a directory with the program, as a process of its own.

Nothing of a particular server is here; which there are is a table in test_every_server.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket as native_socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
from gevent import subprocess
from rawclient import PING, PONG, Frame, RawClient, Response, frame
from rawclient import request as opening_request
from waiting import missing

import geventws

PROGRAM = Path(__file__).with_name("program.py")

# How long a server may take to answer for the first time, and to end when it is told to. Machines are slow at times.
STARTS = 30.0
ENDS = 30.0


class Client(RawClient):
    """A `RawClient` that answers pings and counts them: they come at any time."""

    pings = 0

    def read_frame(self) -> Frame:
        while True:
            received = super().read_frame()
            if received.opcode != PING:
                return received
            self.pings += 1
            self.send(frame(PONG, received.payload))

    def read_kind(self) -> tuple[int, bytes]:
        """The opcode and the payload of the next message, of one frame."""
        received = self.read_frame()
        return received.opcode, received.payload


class Started:
    """A server process and what it wrote; ended with all the processes that it started.

    Args:
        command: the command line. `{python}` in it is this interpreter, `{port}` the port to listen on; `{flask}`,
            `{gunicorn}` and `{uwsgi}` are where these are.
        directory: where it runs; the program is written there as app.py, and everything in `files` by its name.
        environment: variables that it gets beside the test's own.
        connect: makes a connected socket, for a server that does not listen on plain TCP.
        answers: whether to wait until it answers a plain request.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        *,
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        connect: Callable[[], Any] | None = None,
        answers: bool = True,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self._connect = connect
        self._output = directory / "output.txt"
        for name, text in {"app.py": PROGRAM.read_text(), **(files or {})}.items():
            (directory / name).write_text(text)
        values = {"{port}": str(self.port), "{python}": sys.executable}
        values.update({f"{{{name}}}": program(name) or name for name in ("flask", "gunicorn", "uwsgi")})
        self.command = [_filled_in(part, values) for part in command]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=directory,
                env=_environment(directory, environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # A process group of its own, so that all of it can be ended.
            )
        try:
            if answers:
                self._wait_for_an_answer()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        pid: int = self.process.pid
        return pid

    @property
    def output(self) -> str:
        """What it has written to its standard output and error."""
        return self._output.read_text(errors="replace")

    def connect(self) -> Any:
        """A socket that is connected to it."""
        if self._connect is not None:
            return self._connect()
        return gevent.socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def client(self, path: str | None = None, **fields: str) -> Client:
        """A client; with a path its opening handshake is done."""
        client = Client(None, timeout=20, socket=self.connect())
        try:
            if path is not None:
                client.open(path, **fields)
        except BaseException:
            client.socket.close()
            raise
        return client

    def answer(self, path: str, **fields: str) -> Response:
        """The HTTP response to an opening handshake."""
        with self.client() as client:
            client.send(opening_request(path, **fields))
            return client.read_response()

    def get(self, path: str = "/", method: str = "GET", body: bytes = b"", **fields: str) -> Response:
        """The response to a plain request, on a connection of its own."""
        with self.client() as client:
            client.send(plain_request(path, method, body, **{"Connection": "close", **fields}))
            return client.read_response()

    def wrote(self, text: str, seconds: float = 20, times: int = 1) -> str:
        """Its output, waited for until `text` stands in it (so many times)."""
        with gevent.Timeout(seconds, AssertionError(f"{text!r} is not in the output")):
            try:
                while (output := self.output).count(text) < times:
                    gevent.sleep(0.02)
            except AssertionError as error:
                raise AssertionError(f"{error}:\n{self.output}") from None
        return output

    def send_signal(self, number: int) -> None:
        """Send a signal to the process that was started, and to no other."""
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, seconds: float = ENDS) -> int:
        """Tell it to end, and wait for it. Returns the exit status."""
        self.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = ENDS) -> int:
        """Wait until it has ended by itself. Returns the exit status."""
        with gevent.Timeout(seconds, False):
            status: int = self.process.wait()
            return status
        raise AssertionError(f"it has not ended within {seconds} s:\n{self.output}")

    def kill(self) -> None:
        """End all of its processes, whatever they do. Nothing if there are none."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def _wait_for_an_answer(self) -> None:
        with gevent.Timeout(STARTS, False):
            while self.process.poll() is None:
                with suppress(OSError, EOFError):
                    self.get("/")
                    return
                gevent.sleep(0.02)
        how = "does not answer" if self.process.poll() is None else f"ended with {self.process.returncode}"
        raise AssertionError(f"{' '.join(self.command)} {how}:\n{self.output}")


def free_port() -> int:
    """A port on which nobody listens just now."""
    with native_socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def plain_request(path: str = "/", method: str = "GET", body: bytes = b"", **fields: str) -> bytes:
    """A request that is no opening handshake; `fields` with _ for -."""
    headers = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in fields.items()}}
    if body:
        headers["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def require(*names: str) -> None:
    """Each is a module that can be imported, or a program; where one is missing, so is the test."""
    for name in names:
        if importlib.util.find_spec(name) is None and not program(name):
            missing(name)


def program(name: str) -> str | None:
    """Where a program is: beside this interpreter, where pip puts it, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def unexpected_tracebacks(output: str) -> list[str]:
    """The tracebacks in what a server wrote, but for those of errors that the program raises on purpose."""
    return [part for part in output.split("Traceback (most recent call last)")[1:] if "on purpose" not in part]


def _filled_in(part: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part


def _environment(directory: Path, more: Mapping[str, str]) -> dict[str, str]:
    packages = [str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        # Where servers leave files of their own.
        "HOME": str(directory),
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
        "PYTHONUNBUFFERED": "1",
        **more,
    }
