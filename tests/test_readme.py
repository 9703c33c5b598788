"""The README's programs run as they stand there."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer
from rawclient import TEXT, RawClient, frame, request

from geventws import scope

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


PRICES = "https://example.com/price.json"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"price": "hello"}')

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def prices() -> Iterator[str]:
    """The page that a program asks, on this machine: its URL."""
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def run(program: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a program up to where it would serve for ever; `server` is then what it would serve with, started."""
    names: dict[str, Any] = {"__name__": "program"}

    def start(server: WSGIServer) -> None:
        names["server"] = server
        server.start()

    monkeypatch.setattr(WSGIServer, "serve_forever", start)
    exec(compile(program.replace('("", 5000)', '("127.0.0.1", 0)'), "README.md", "exec"), names)
    return names


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 5


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_a_program_of_the_readme_runs(program: str, monkeypatch: pytest.MonkeyPatch, serve: Any, prices: str) -> None:
    names = run(program.replace(PRICES, prices), monkeypatch)
    asked = PRICES in program
    if "ask" in names:
        assert names["ask"](serve(echo).url) == "hello"
        return
    server = names.get("server") or serve(names["app"]).server
    address = ("127.0.0.1", server.server_port)
    try:
        with RawClient(address) as client:
            client.send(request("/echo"))
            response = client.read_response()
            if "login_first" in names:
                assert response.status == 401
                return
            assert response.status == 101
            if not asked:
                client.send(frame(TEXT, "hello"))
            assert client.read_text() == "hello"
            client.close_handshake()
    finally:
        server.stop()
        scope.uninstall()
