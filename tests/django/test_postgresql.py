"""The sample project over a real PostgreSQL: whose its connections are, how long they last, that nobody waits for others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import gevent
import psycopg
import pytest
from rawclient import TEXT, close_frame, frame
from running import Project, client
from scope.libraries import services
from waiting import missing, wait_until

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a PostgreSQL."""
    try:
        running = services.postgresql()
        port = running.__enter__()
    except services.NotHere as name:
        missing(str(name))
    yield port
    running.__exit__(None, None, None)


@pytest.fixture
def project(tmp_path: Path, server: int) -> Iterator[Project]:
    project = Project(tmp_path, SAMPLE_POSTGRESQL=str(server))
    project.migrate()
    yield project
    project.end()


def asked(server: int, query: str) -> Any:
    with psycopg.connect(f"host=127.0.0.1 port={server} user=postgres dbname=postgres") as connection:
        return connection.execute(query).fetchone()[0]


def connections_of_project(server: int) -> int:
    return asked(server, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()")


def test_queries_of_many_websockets_run_at_once_each_in_a_connection_of_its_own(project: Project, server: int) -> None:
    _, port = project.serve()
    peers = [client(port, "/ws/naps/") for _ in range(10)]

    def process_of(peer: Any, seconds: str) -> str:
        peer.send(frame(TEXT, seconds))
        return peer.read_text()

    naps = [gevent.spawn(process_of, peer, "1") for peer in peers]
    started = time.monotonic()
    gevent.joinall(naps, timeout=60, raise_error=True)
    # One after the other it would take 10 s.
    assert time.monotonic() - started < 6
    assert len({nap.value for nap in naps}) == 10
    wait_until(lambda: connections_of_project(server) == 0, 20)
    for peer in peers:
        peer.close_handshake()
        peer.socket.close()


@pytest.mark.skipif(django.VERSION < (5, 1), reason="this Django has no pools")
def test_a_pool_of_two_connections_is_enough_for_many_websockets(project: Project, server: int) -> None:
    project.environ["SAMPLE_POOL"] = "1"
    process, port = project.serve()
    peers = [client(port, "/ws/naps/") for _ in range(8)]
    for _ in range(2):
        for peer in peers:
            peer.send(frame(TEXT, "0.05"))
        # None holds its connection while it waits for its next message.
        assert len({peer.read_text() for peer in peers}) <= 2
    assert connections_of_project(server) <= 2
    for peer in peers:
        peer.close_handshake()
        peer.socket.close()
    process.terminate()
    assert process.end()[0] == 0


def test_what_one_websocket_has_not_committed_no_other_sees(project: Project, server: int) -> None:
    _, port = project.serve()
    with client(port, "/ws/transactions/1/") as one, client(port, "/ws/transactions/1/") as other:
        for peer, text, answer in [
            (one, "count", "0"),
            (one, "said", "written"),
            (other, "count", "0"),
            (one, "commit", "committed"),
            (other, "count", "1"),
            (other, "said", "written"),
        ]:
            peer.send(frame(TEXT, text))
            assert peer.read_text() == answer
        assert connections_of_project(server) == 2
        other.send(frame(TEXT, "roll back"))
        code = other.read_close()
        other.send(close_frame(code))
        assert code == 1011
        one.send(frame(TEXT, "count"))
        assert one.read_text() == "1"
        one.close_handshake()
    wait_until(lambda: connections_of_project(server) == 0, 20)


def test_the_project_s_own_tests_pass(project: Project) -> None:
    status, output = project.manage("test", "--noinput").end()
    assert status == 0, output
