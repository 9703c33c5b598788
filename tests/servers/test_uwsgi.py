"""uWSGI: what is special to it. The rest is in test_every_server.py."""

from __future__ import annotations

from typing import Any

import pytest
from rawclient import TEXT, frame
from servers.started import Started, require

UWSGI = ("{uwsgi}", "--master", "--need-app", "--module", "app:app")


@pytest.fixture(autouse=True)
def uwsgi() -> None:
    require("uwsgi")


def echoes(server: Started) -> None:
    with server.client("/echo") as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_text() == "hi"
        assert client.close_handshake() == 1000


def test_one_process_without_threads_works_and_the_log_says_what_a_websocket_keeps_waiting(start: Any) -> None:
    server: Started = start(*UWSGI, "--http-socket", "127.0.0.1:{port}", "--enable-threads")
    echoes(server)
    echoes(server)
    assert server.wrote("--gevent 100").count("nothing else is served") == 1


def test_its_log_has_a_line_and_no_complaints(start: Any) -> None:
    server: Started = start(*UWSGI, "--http-socket", "127.0.0.1:{port}", "--gevent", "100")
    echoes(server)
    output = server.wrote("GET /echo")
    assert "(HTTP/1.1 101)" in output
    assert "Broken pipe" not in output


def test_more_websockets_come_and_go_than_it_has_places(start: Any) -> None:
    server: Started = start(*UWSGI, "--http-socket", "127.0.0.1:{port}", "--gevent", "5")
    for _ in range(20):
        echoes(server)
    assert server.get("/").body == b"page"


def test_its_own_tls_is_refused_with_the_remedy_in_its_log(start: Any, tls: Any) -> None:
    socket = ("--https-socket", "127.0.0.1:{port},server.pem,server.pem")
    server: Started = tls.start(start, *UWSGI, *socket, "--threads", "2", listening="spawned uWSGI worker 1")
    assert server.answer("/echo").status == 501
    server.wrote("--http-websockets")
