"""The sample project in a directory of its own, and processes that serve it: `manage.py`, `python -m geventws serve`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
from gevent import subprocess
from rawclient import RawClient

import geventws

_HERE = Path(__file__).parent


class Project:
    """A copy of the sample project, so that its files may be changed; its processes are ended by `end`."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(Path(geventws.__file__).parents[1]),
            "SAMPLE_DIRECTORY": str(directory),
            # The reloader starts a Python of its own, without the options of the first.
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "sample.settings",
            **environ,
        }
        self.processes: list[Any] = []
        shutil.copy(_HERE / "manage.py", directory)
        shutil.copytree(_HERE / "sample", directory / "sample", ignore=shutil.ignore_patterns("__pycache__"))

    def migrate(self) -> None:
        """Make the tables."""
        status, output = self.manage("migrate", "--verbosity=0").end()
        assert status == 0, output

    def manage(self, *arguments: str) -> Process:
        """`manage.py` with these arguments."""
        return self._start("manage.py", *arguments)

    def serve(self) -> tuple[Process, int]:
        """`python -m geventws serve`, and its port."""
        process = self._start("-m", "geventws", "serve", "sample.wsgi:application", "--port", "0")
        return process, int(process.line_with("Serving").rpartition(":")[2])

    def serve_by_gunicorn(self, *arguments: str) -> tuple[Process, int]:
        """gunicorn with these arguments, and its port."""
        port = free_port("127.0.0.1")
        process = self._start("-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments, "sample.wsgi")
        process.line_with("Booting worker")
        wait_for_port("127.0.0.1", port)
        return process, port

    def run(self, *arguments: str, address: str = "127.0.0.1") -> tuple[Process, int]:
        """`manage.py runwebsocket`, serving, and its port."""
        port = free_port(address)
        process = self.manage(
            "runwebsocket", *arguments, f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        )
        process.line_with("development server at")
        wait_for_port(address, port)
        return process, port

    def _start(self, *arguments: str) -> Process:
        # Unbuffered, and its own process group, as a terminal gives it.
        command = [sys.executable, "-u", *arguments]
        process = Process(command, cwd=self.directory, env=self.environ)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill what has not ended by itself."""
        for process in self.processes:
            process.kill()


class Process:
    """A process, with what it writes on both outputs."""

    def __init__(self, command: list[str], **arguments: Any) -> None:
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **arguments
        )
        self.output = ""

    def line_with(self, text: str) -> str:
        """The next line of the output that has `text` in it, waited for."""
        with gevent.Timeout(40, AssertionError(f"no {text!r} in the output")):
            while True:
                line = self.popen.stdout.readline().decode()
                self.output += line
                assert line, f"it has ended without {text!r}: {self.output}"
                if text in line:
                    return line.strip()

    def press_ctrl_c(self) -> None:
        """As a terminal does: to the whole group."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def terminate(self) -> None:
        """As a process manager does: to the process alone."""
        self.popen.terminate()

    def end(self) -> tuple[int, str]:
        """The exit status and the whole output, once it has ended by itself."""
        with gevent.Timeout(40, AssertionError(f"it does not end: {self.output}")):
            rest = self.popen.stdout.read().decode()
            self.popen.wait()
        self.output += rest
        return self.popen.returncode, self.output

    def kill(self) -> None:
        """Kill the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.popen.stdout.close()


def free_port(address: str) -> int:
    """A port that nobody listens on."""
    family = gevent.socket.AF_INET6 if ":" in address else gevent.socket.AF_INET
    with gevent.socket.socket(family) as listener:
        listener.bind((address, 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(address: str, port: int) -> None:
    """Until somebody listens there."""
    with gevent.Timeout(40, AssertionError(f"nobody listens on port {port}")):
        while True:
            try:
                gevent.socket.create_connection((address, port)).close()
                return
            except OSError:
                gevent.sleep(0.05)


def client(port: int, path: str, address: str = "127.0.0.1", **fields: str) -> RawClient:
    """A client whose opening handshake is done."""
    opened = RawClient((address, port), timeout=20)
    try:
        opened.open(path, **fields)
    except BaseException:
        opened.socket.close()
        raise
    return opened
