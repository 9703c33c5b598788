"""gunicorn with threads: what is special to it. The rest is in test_every_server.py."""

from __future__ import annotations

from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from rawclient import BINARY, TEXT, close_frame, frame
from servers.started import Started, require
from waiting import wait_until

BIND = ("--bind", "127.0.0.1:{port}")
GUNICORN = ("{python}", "-m", "gunicorn", *BIND, "--access-logfile", "-")
POLITE = ("-k", "geventws.servers.gunicorn.ThreadWebSocketWorker")


@pytest.fixture(autouse=True)
def gunicorn() -> None:
    require("gunicorn")


def test_a_worker_without_threads_is_refused_with_the_remedy_in_its_log(start: Any) -> None:
    server: Started = start(*GUNICORN, "app:app")
    for _ in range(2):
        response = server.answer("/echo")
        assert response.status == 501
        assert b"--threads" not in response.body
    assert server.get("/").body == b"page"
    assert server.wrote("--threads 8").count("geventws.servers.gunicorn.GeventWebSocketWorker") == 1


def test_threads_and_places_are_free_again_after_a_websocket(start: Any) -> None:
    server: Started = start(*GUNICORN, "--threads", "2", "--worker-connections", "4", "app:app")
    for _ in range(10):
        with server.client("/echo") as client:
            client.send(frame(TEXT, "hi"))
            assert client.read_text() == "hi"
            assert client.close_handshake() == 1000
    with server.client("/echo"), server.client("/echo"):
        pass
    wait_until(lambda: server.get("/").body == b"page", 20)


def test_the_access_log_has_a_line_when_the_websocket_ends(start: Any) -> None:
    server: Started = start(*GUNICORN, "--threads", "2", "--access-logformat", "<%(r)s %(s)s %(B)s>", "app:app")
    with server.client("/echo") as client:
        client.send(frame(BINARY, bytes(1000)))
        client.read_frame()
        client.close_handshake()
    # Two heads of frames, the message, and the code of the Close frame.
    server.wrote("<GET /echo HTTP/1.1 101 1008>")


def test_it_carries_websockets_over_tls(start: Any, tls: Any) -> None:
    files = ("--certfile", "server.pem", "--keyfile", "server.pem")
    tls.carries_websockets(tls.start(start, *GUNICORN, "--threads", "4", *files, "app:app", listening="Listening at"))


@pytest.mark.parametrize("reason", ["SIGTERM", "max_requests"])
def test_its_polite_worker_closes_with_1012_and_ends_at_once(start: Any, reason: str) -> None:
    limit = ("--max-requests", "3") if reason == "max_requests" else ()
    server: Started = start(*GUNICORN, *POLITE, "--threads", "4", *limit, "--graceful-timeout", "60", "app:app")
    with server.client("/echo") as client:
        if reason == "SIGTERM":
            server.send_signal(15)
        else:
            server.get("/")
            server.get("/")
        assert client.read_close() == 1012
        client.send(close_frame(1012))
        assert client.at_end()
    if reason == "SIGTERM":
        with gevent.Timeout(20):
            assert server.wait() == 0
    else:
        wait_until(lambda: server.output.count("Booting worker") == 2, 20)
        assert server.get("/").body == b"page"
