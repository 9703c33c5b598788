"""The sample project under `python -m geventws serve`, and its own tests by `manage.py test`: as its users run them."""

from __future__ import annotations

import gevent
import pytest
from rawclient import TEXT, RawClient, close_frame, frame
from rawclient import request as opening_request
from running import Project, client

pytestmark = pytest.mark.timeout(180)


WORKERS = "geventws.servers.gunicorn"


@pytest.mark.parametrize(
    ("gunicorn", "goodbye"),
    [
        pytest.param((), 1001, id="geventws"),
        pytest.param(("-k", f"{WORKERS}.GeventWebSocketWorker"), 1012, id="gunicorn", marks=pytest.mark.endtoend),
        pytest.param(
            ("-k", f"{WORKERS}.ThreadWebSocketWorker", "--threads", "8"),
            1012,
            id="gunicorn with threads",
            marks=pytest.mark.endtoend,
        ),
    ],
)
def test_the_project_is_served(project: Project, gunicorn: tuple[str, ...], goodbye: int) -> None:
    process, port = project.serve_by_gunicorn(*gunicorn) if gunicorn else project.serve()
    with RawClient(("127.0.0.1", port), timeout=20) as peer:
        peer.send(opening_request("/ws/members/"))
        refused = peer.read_response()
        assert (refused.status, refused.headers["location"]) == (302, "/login/?next=/ws/members/")
    with RawClient(("127.0.0.1", port), timeout=20) as peer:
        peer.send(opening_request("/ws/writers/"))
        assert peer.read_response().status == 403
    with RawClient(("127.0.0.1", port), timeout=20) as peer:
        (cookie,) = peer.open("/ws/visits/").set_cookies
        assert peer.read_text() == "1"
        with client(port, "/ws/visits/", Cookie=cookie.partition(";")[0]) as again:
            assert again.read_text() == "2"

    def write(number: int) -> None:
        with client(port, "/ws/sayings/7/") as peer:
            for _ in range(5):
                peer.send(frame(TEXT, str(number)))
                peer.read_text()
            peer.close_handshake()

    gevent.joinall([gevent.spawn(write, number) for number in range(5)], timeout=60, raise_error=True)
    with client(port, "/ws/sayings/7/") as peer:
        peer.send(frame(TEXT, "one more"))
        assert peer.read_text() == "26"
        process.terminate()
        code = peer.read_close()
        peer.send(close_frame(code))
        assert code == goodbye
    assert process.end()[0] == 0


@pytest.mark.parametrize("memory", ["0", "1"], ids=["a database in a file", "a database in memory"])
def test_the_project_s_own_tests_pass(project: Project, memory: str) -> None:
    project.environ["SAMPLE_MEMORY"] = memory
    status, output = project.manage("test", "--noinput").end()
    assert status == 0, output
    assert "OK" in output
