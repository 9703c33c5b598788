"""`python -m geventws serve`, as somebody at a terminal and a process manager see it: a process, its output, its exit status.

What the server itself does is tested with the server.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
import trustme
from gevent import subprocess
from rawclient import TEXT, RawClient, close_frame, frame
from rawclient import request as opening_request

import geventws
from geventws import cli

PROGRAM = """
import gevent

def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"page"]
    if ws.path == "/fail":
        ws.accept()
        raise ValueError("on purpose")
    if ws.path == "/stuck":
        ws.send("stuck")
        while True:
            gevent.sleep(3600)
    for message in ws:
        ws.send(message)
    return []

class Namespace:
    nested = staticmethod(app)

number = 5
"""


class Command:
    """A running `python -m geventws`, whose working directory holds the program that it serves."""

    def __init__(self, directory: Path, arguments: tuple[str, ...]) -> None:
        packages = str(Path(geventws.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "geventws", *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": packages},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.line = ""

    def listening(self) -> tuple[str, int]:
        """The address that the command says it serves on, waited for."""
        with gevent.Timeout(20, AssertionError("the command does not say where it serves")):
            self.line = self.process.stdout.readline().decode()
        assert self.line, self.process.stderr.read().decode()
        host, _, port = self.line.strip().rpartition("://")[2].rpartition(":")
        return host.strip("[]"), int(port)

    def client(self, path: str | None = None) -> RawClient:
        """A client of the command, which has to be serving; with a path its opening handshake is done."""
        client = RawClient(self.listening())
        if path is not None:
            client.open(path)
        return client

    def end(self) -> tuple[int, str, str]:
        """The exit status and what was written to stdout and stderr, once the process has ended by itself."""
        with gevent.Timeout(20, AssertionError("the command does not end")):
            out, err = self.process.communicate()
        return self.process.returncode, self.line + out.decode(), err.decode()


Run = Callable[..., Command]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start `python -m geventws` with the given arguments. What has not ended by itself is killed after the test."""
    (tmp_path / "program.py").write_text(PROGRAM)
    commands: list[Command] = []

    def start(*arguments: str) -> Command:
        commands.append(Command(tmp_path, arguments))
        return commands[-1]

    yield start
    for command in commands:
        with command.process as process:
            if process.poll() is None:
                process.kill()


def told(run: Run, *arguments: str) -> str:
    """What the command says to a mistake: one line on stderr, and exit status 2."""
    status, out, err = run("serve", *arguments).end()
    assert status == 2, err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("geventws: ")
    return line


# Mistakes.


def test_without_a_command_the_usage_is_told(run: Run) -> None:
    status, _, err = run().end()
    assert status == 2
    assert "usage: geventws" in err


@pytest.mark.parametrize("name", ["program", "program:", ":app", ""])
def test_a_name_without_module_or_application_is_told(run: Run, name: str) -> None:
    line = told(run, name)
    assert repr(name) in line
    assert "module:app" in line


@pytest.mark.parametrize("module", ["nowhere", "program.nowhere"])
def test_a_module_that_is_not_there_is_told(run: Run, module: str) -> None:
    assert f"there is no module {module!r}" in told(run, f"{module}:app")


@pytest.mark.parametrize("attribute", ["nothing", "app.nothing"])
def test_a_name_that_the_module_does_not_have_is_told(run: Run, attribute: str) -> None:
    assert f"program has no {attribute!r}" in told(run, f"program:{attribute}")


def test_what_cannot_be_called_is_told(run: Run) -> None:
    line = told(run, "program:number")
    assert "program:number" in line
    assert "int" in line


def test_an_error_in_the_program_itself_is_shown_with_its_traceback(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    status, _, err = run("serve", "broken:app").end()
    assert status == 1
    assert 'broken.py", line 1' in err
    assert "No module named 'a_module_that_is_not_there'" in err.splitlines()[-1]


def test_a_port_in_use_is_told(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = told(run, "program:app", "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "Address already in use" in line


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_a_port_that_cannot_be_is_told(run: Run, port: str) -> None:
    status, _, err = run("serve", "program:app", "--port", port).end()
    assert status == 2
    assert "Traceback" not in err
    assert port in err.splitlines()[-1]


def test_a_host_that_is_not_this_machine_is_told(run: Run) -> None:
    assert "192.0.2.1" in told(run, "program:app", "--host", "192.0.2.1", "--port", "0")


def test_a_missing_certificate_is_told(run: Run) -> None:
    line = told(run, "program:app", "--port", "0", "--certfile", "missing.pem")
    assert "missing.pem" in line
    assert "No such file" in line


def test_a_missing_key_is_told_as_such(run: Run, certificate: tuple[Path, Path]) -> None:
    line = told(run, "program:app", "--port", "0", "--certfile", str(certificate[0]), "--keyfile", "missing.pem")
    assert "missing.pem" in line
    assert "No such file" in line


def test_a_certificate_that_is_none_is_told(run: Run) -> None:
    assert "program.py" in told(run, "program:app", "--port", "0", "--certfile", "program.py")


def test_a_proxy_that_cannot_be_is_told(run: Run) -> None:
    assert "names of hosts are not looked up" in told(run, "program:app", "--trusted-proxy", "proxy.example")


def test_a_trusted_proxy_is_believed(run: Run) -> None:
    command = run("serve", "program:app", "--port", "0", "--trusted-proxy", "10.0.0.1", "--trusted-proxy", "127.0.0.1")
    with command.client() as client:
        client.send(opening_request("/", X_Forwarded_For="192.0.2.1"))
        assert client.read_response().status == 101
        assert client.close_handshake() == 1000
    command.process.send_signal(signal.SIGTERM)
    assert "192.0.2.1 - - " in "".join(command.end()[1:])


def test_a_key_without_a_certificate_is_told(run: Run) -> None:
    assert "--certfile" in told(run, "program:app", "--port", "0", "--keyfile", "key.pem")


# Standing in for geventwebsocket.


def test_that_compat_comes_too_late_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "geventwebsocket", ModuleType("geventwebsocket"))
    assert cli.main(["doctor", "--compat"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("geventws: --compat comes too late: geventwebsocket has been imported already")


OLD_PROGRAM = """
import sys
if "--compat" not in sys.argv:
    sys.modules["geventwebsocket"] = None        # as where gevent-websocket is not installed
from geventwebsocket.handler import WebSocketHandler

def app(environ, start_response):
    environ["wsgi.websocket"].send(WebSocketHandler.__module__)
    return []
"""


def test_without_compat_an_old_program_does_not_find_what_it_imports(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD_PROGRAM)
    status, _, err = run("serve", "old:app", "--port", "0").end()
    assert status == 1
    assert "geventwebsocket" in err.splitlines()[-1]


def test_with_compat_an_old_program_is_served_by_geventws(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD_PROGRAM)
    with run("serve", "--compat", "old:app", "--port", "0").client("/") as client:
        assert client.read_text() == "geventws.handler"
        assert client.read_close() == 1000


def test_the_doctor_looks_at_an_old_program_with_compat(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD_PROGRAM)
    status, out, err = run("doctor", "--compat", "old:app").end()
    assert (status, err) == (0, "")
    assert out == "Nothing was found that would block inside a connection's scope.\n"


# Serving.


def test_it_prints_its_address_and_serves(run: Run) -> None:
    command = run("serve", "program:app", "--port", "0")
    with command.client("/") as client:
        address = client.socket.getpeername()
        assert command.line == f"Serving program:app on http://127.0.0.1:{address[1]}\n"
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000
    with RawClient(address) as client:
        client.send(opening_request("/", drop=("Upgrade", "Connection")))
        assert client.read_response().body == b"page"


def test_what_makes_an_application_is_told_how_to_be_called(run: Run, tmp_path: Path) -> None:
    (tmp_path / "makes.py").write_text("def create_app():\n    from program import app\n    return app\n")
    assert "write 'makes:create_app()'" in told(run, "makes:create_app")


def test_what_makes_an_application_is_called(run: Run, tmp_path: Path) -> None:
    (tmp_path / "makes.py").write_text("def create_app():\n    from program import app\n    return app\n")
    with run("serve", "makes:create_app()", "--port", "0").client("/") as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_text() == "hi"


def test_dots_lead_into_objects(run: Run) -> None:
    with run("serve", "program:Namespace.nested", "--port", "0").client("/") as client:
        assert client.close_handshake() == 1000


def test_it_serves_on_ipv6(run: Run) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("IPv6 is missing")
    command = run("serve", "program:app", "--host", "::1", "--port", "0")
    with command.client("/") as client:
        assert command.line.startswith("Serving program:app on http://[::1]:")
        assert client.close_handshake() == 1000


def test_it_writes_an_access_log_and_the_traceback_of_a_failure(run: Run) -> None:
    command = run("serve", "program:app", "--port", "0")
    with command.client("/fail") as client:
        assert client.read_close() == 1011
        client.send(close_frame(1011))
        assert client.at_end()
    command.process.send_signal(signal.SIGTERM)
    status, _, err = command.end()
    assert status == 0
    assert err.count("ValueError: on purpose") == 1
    assert '"GET /fail HTTP/1.1" 101' in err


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """The files of a certificate for this machine, and of its key."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    for pem in issued.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    issued.private_key_pem.write_to_path(key)
    return chain, key


@pytest.mark.parametrize("files", ["one file", "two files"])
def test_it_serves_over_tls(run: Run, authority: trustme.CA, certificate: tuple[Path, Path], files: str) -> None:
    chain, key = certificate
    arguments = ["--certfile", str(chain), "--keyfile", str(key)]
    if files == "one file":
        with chain.open("a") as both:
            both.write(key.read_text())
        del arguments[2:]
    command = run("serve", "program:app", "--port", "0", *arguments)
    address = command.listening()
    assert command.line.startswith("Serving program:app on https://127.0.0.1:")
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    connection = gevent.socket.create_connection(address, timeout=10)
    with RawClient(address, socket=context.wrap_socket(connection, server_hostname="localhost")) as client:
        client.open("/")
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000


# Its end.


STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def stop_name(value: Any) -> str:
    return signal.Signals(value).name


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=stop_name)
def test_a_second_signal_ends_at_once(run: Run, number: int) -> None:
    command = run("serve", "program:app", "--port", "0", "--drain", "3600")
    with command.client("/stuck") as client:
        assert client.read_text() == "stuck"
        command.process.send_signal(number)
        assert client.read_close() == 1001
        command.process.send_signal(number)
        status, _, err = command.end()
    assert status == 128 + number
    assert "Traceback" not in err


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=stop_name)
def test_a_signal_closes_open_websockets_with_1001_and_ends_in_peace(run: Run, number: int) -> None:
    command = run("serve", "program:app", "--port", "0")
    with command.client("/") as client:
        command.process.send_signal(number)
        assert client.read_close() == 1001
        client.send(close_frame(1001))
        assert client.at_end()
        client.socket.close()
        status, _, err = command.end()
    assert status == 0
    assert "Traceback" not in err


# Its handler of logs lives as long as the interpreter, which takes it down when nothing else is there any more.
LOGGING = """
import logging
from flask import Flask
from geventws.flask import Sockets

logging.basicConfig(level=logging.INFO)
app = Flask(__name__)
sockets = Sockets(app)

@sockets.route("/")
def echo(ws):
    for message in ws:
        ws.send(message)
"""


def test_a_program_that_logs_ends_without_a_word_of_the_interpreter(run: Run, tmp_path: Path) -> None:
    (tmp_path / "logs.py").write_text(LOGGING)
    command = run("serve", "logs:app", "--port", "0")
    with command.client("/") as client:
        client.close_handshake()
    command.process.send_signal(signal.SIGTERM)
    status, _, err = command.end()
    assert status == 0
    assert "Exception ignored" not in err
    assert "Traceback" not in err


# Sends its own process a signal at the very moment at which the address has been printed.
EAGER = """
import os, sys
from program import app

class Stdout:
    def write(self, text):
        return sys.__stdout__.write(text)

    def flush(self):
        sys.__stdout__.flush()
        sys.stdout = sys.__stdout__
        os.kill(os.getpid(), {number})

sys.stdout = Stdout()
"""


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=stop_name)
def test_a_signal_as_soon_as_the_address_is_printed_ends_in_peace(run: Run, tmp_path: Path, number: int) -> None:
    (tmp_path / "eager.py").write_text(EAGER.format(number=int(number)))
    status, out, err = run("serve", "eager:app", "--port", "0").end()
    assert status == 0, err
    assert err == ""
    assert out.startswith("Serving eager:app on ")


def test_a_client_that_does_not_answer_and_a_stuck_program_are_cut_off_after_the_drain_time(run: Run) -> None:
    command = run("serve", "program:app", "--port", "0", "--drain", "0.2")
    with command.client("/stuck") as client:
        assert client.read_text() == "stuck"
        command.process.send_signal(signal.SIGTERM)
        assert client.read_close() == 1001
        assert client.at_end()
        status, _, err = command.end()
    assert status == 0
    assert "Traceback" not in err
