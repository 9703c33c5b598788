"""The README's programs run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer
from rawclient import TEXT, RawClient, frame, request

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(program: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a program up to where it would serve for ever; `server` is then what it would serve with, started."""
    names: dict[str, Any] = {"__name__": "program"}

    def start(server: WSGIServer) -> None:
        names["server"] = server
        server.start()

    monkeypatch.setattr(WSGIServer, "serve_forever", start)
    exec(compile(program.replace('("", 5000)', '("127.0.0.1", 0)'), "README.md", "exec"), names)
    return names


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 5


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_a_program_of_the_readme_runs(program: str, monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    names = run(program, monkeypatch)
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
            client.send(frame(TEXT, "hello"))
            assert client.read_text() == "hello"
            client.close_handshake()
    finally:
        server.stop()
