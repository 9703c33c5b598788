"""`manage.py runwebsocket`, as somebody at a terminal sees it: a process, its output, and what it does to open WebSockets."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.socket
import pytest
from rawclient import TEXT, RawClient, close_frame, frame
from rawclient import request as opening_request
from running import Project, client, wait_for_port
from waiting import missing

pytestmark = pytest.mark.timeout(180)


def say(peer, text: str) -> str:
    peer.send(frame(TEXT, text))
    return peer.read_text()


def closed_by_server(peer) -> int | None:
    code = peer.read_close()
    peer.send(close_frame(code))
    assert peer.at_end()
    return code


def get(port: int, path: str, **fields: str):
    with gevent.socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        peer = RawClient(None, socket=connection, timeout=20)
        plain = ("Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
        peer.send(opening_request(path, drop=plain, **{"Connection": "close", **fields}))
        return peer.read_response()


# Mistakes.


def test_an_address_that_is_none_is_told(project: Project) -> None:
    status, output = project.manage("runwebsocket", "nonsense").end()
    assert status == 1
    assert '"nonsense" is not a valid port number or address:port pair.' in output


def test_a_port_that_is_in_use_is_told(project: Project) -> None:
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        status, output = project.manage("runwebsocket", "--noreload", str(port)).end()
    assert status == 1
    assert "Error: That port is already in use." in output


def test_a_setting_that_is_no_option_is_told_by_the_system_check(project: Project) -> None:
    with (project.directory / "sample" / "settings.py").open("a") as settings:
        settings.write("\nGEVENTWS = {'MAX_MESAGE_SIZE': 5}\n")
    status, output = project.manage("runwebsocket", "--noreload", "0").end()
    assert status == 1
    assert "geventws.E001" in output
    assert "GEVENTWS['MAX_MESAGE_SIZE'] is not an option of WebSockets" in output


def test_migrations_that_are_missing_are_told(tmp_path: Path) -> None:
    project = Project(tmp_path)
    try:
        process, _ = project.run("--noreload")
        assert "unapplied migration" in process.output
    finally:
        project.end()


# Serving.


def test_it_serves_websockets_pages_and_static_files(project: Project) -> None:
    project.environ["SAMPLE_DEBUG"] = "1"
    process, port = project.run("--noreload")
    with client(port, "/ws/echo/") as peer:
        assert say(peer, "hello") == "hello"
        assert get(port, "/").status == 200
        assert b"console.log" in get(port, "/static/sample.js").body
        peer.close_handshake()
    line = process.line_with('"GET /ws/echo/ HTTP/1.1" 101')
    assert "closed with 1000, 1 messages in, 1 out" in line
    assert '"GET / HTTP/1.1" 200' in process.output


def test_plain_requests_that_wait_keep_nobody_waiting(project: Project) -> None:
    _, port = project.run("--noreload")
    started = time.monotonic()
    requests = [gevent.spawn(get, port, "/slow/") for _ in range(10)]
    gevent.joinall(requests, timeout=30, raise_error=True)
    # One after the other they would take 5 s.
    assert time.monotonic() - started < 4
    assert {request.value.body for request in requests} == {b"0"}


def test_nostatic_serves_no_static_files(project: Project) -> None:
    project.environ["SAMPLE_DEBUG"] = "1"
    _, port = project.run("--noreload", "--nostatic")
    assert get(port, "/static/sample.js").status == 404


def test_it_serves_on_ipv6(project: Project) -> None:
    try:
        with gevent.socket.socket(gevent.socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        missing("IPv6")
    _, port = project.run("--noreload", "-6", address="::1")
    with client(port, "/ws/echo/", address="::1") as peer:
        assert say(peer, "hello") == "hello"


# The end.


@pytest.mark.parametrize("arguments", [("--noreload",), ()], ids=["alone", "with the reloader"])
def test_ctrl_c_closes_websockets_with_1001_and_ends(project: Project, arguments: tuple[str, ...]) -> None:
    process, port = project.run(*arguments)
    with client(port, "/ws/echo/") as peer:
        assert say(peer, "hello") == "hello"
        process.press_ctrl_c()
        assert closed_by_server(peer) == 1001
    status, output = process.end()
    assert status == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("arguments", [("--noreload",), ()], ids=["alone", "with the reloader"])
def test_sigterm_to_the_process_alone_closes_websockets_with_1001_and_ends(
    project: Project, arguments: tuple[str, ...]
) -> None:
    process, port = project.run(*arguments)
    with client(port, "/ws/echo/") as peer:
        assert say(peer, "hello") == "hello"
        process.terminate()
        assert closed_by_server(peer) == 1001
    status, output = process.end()
    assert status == 0, output
    assert "Traceback" not in output


def test_a_view_that_does_not_end_does_not_keep_it_from_ending(project: Project) -> None:
    process, port = project.run("--drain", "0.5")
    with client(port, "/ws/stuck/") as peer:
        assert peer.read_text() == "stuck"
        process.press_ctrl_c()
        assert peer.read_close() == 1001
        status, output = process.end()
    assert status == 0, output


# Reloading.


@contextlib.contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """Write `text` into a file, whose time goes on while the block runs: the reloader may look for the first time later."""

    def touch() -> None:
        for seconds in itertools.count(10, 10):
            os.utime(path, (time.time() + seconds, time.time() + seconds))
            gevent.sleep(1)

    path.write_text(text)
    touching = gevent.spawn(touch)
    try:
        yield
    finally:
        gevent.kill(touching)


@pytest.mark.endtoend
def test_a_changed_file_closes_websockets_with_1012_and_is_loaded(project: Project) -> None:
    process, port = project.run()
    views = project.directory / "sample" / "views.py"
    with client(port, "/ws/5/") as peer:
        assert peer.read_text() == "This is room 5."
    with client(port, "/ws/echo/") as peer:
        assert say(peer, "hello") == "hello"
        with changed(views, views.read_text().replace("This is room", "Now it is room")):
            assert closed_by_server(peer) == 1012
    process.line_with("development server at")
    wait_for_port("127.0.0.1", port)
    with client(port, "/ws/5/") as peer:
        assert peer.read_text() == "Now it is room 5."
    process.press_ctrl_c()
    status, output = process.end()
    assert status == 0, output


@pytest.mark.endtoend
def test_a_mistake_in_a_file_is_told_and_mending_it_is_enough(project: Project) -> None:
    process, _ = project.run()
    views = project.directory / "sample" / "views.py"
    right = views.read_text()
    with changed(views, right + "\nthis is no Python\n"):
        process.line_with("SyntaxError")
    with changed(views, right):
        process.line_with("development server at")
