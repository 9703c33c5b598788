"""Who holds the event loop is named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.events
import pytest
from conftest import Serve, Served
from rawclient import frame
from waiting import wait_until

from geventws import Opcode, scope, watchdog


@pytest.fixture(autouse=True)
def monitor_stopped() -> Iterator[None]:
    """Each test starts gevent's monitor itself; none leaves it behind."""
    scope.install()  # Which the first connection of a process waits for, too long here when the machine is busy.
    config: Any = gevent.config
    before, subscribers = config.max_blocking_time, list(gevent.events.subscribers)
    yield
    hub: Any = gevent.get_hub()
    if hub.periodic_monitoring_thread is not None:
        hub.periodic_monitoring_thread.kill()
        hub.periodic_monitoring_thread = None
    watchdog.Watchdog._of_hub.pop(hub, None)
    config.max_blocking_time = before
    gevent.events.subscribers[:] = subscribers


def spin(seconds: float) -> None:
    """Hold the loop, as a computation does."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Length", "0")])
        spin(0.5)
        return []
    spin(float(ws.receive()))
    ws.send("done")
    return []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "geventws.watchdog"]


def told(caplog: pytest.LogCaptureFixture, times: int = 1) -> list[str]:
    """The warnings, waited for: gevent's monitor takes its time to describe all greenlets that there are."""
    wait_until(lambda: len(warnings(caplog)) >= times)
    return warnings(caplog)


def ask(served: Served, seconds: str) -> None:
    with served.client("/room") as client:
        client.send(frame(Opcode.TEXT, seconds))
        assert client.read_text() == "done"


def run(serve: Serve, seconds: str, **options: Any) -> None:
    ask(serve(application, **options), seconds)


def test_a_handler_that_holds_the_loop_is_named_once_with_the_line_and_the_stack(
    serve: Serve, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run(serve, "0.8", warn_blocked=0.1)
    (warning,) = told(caplog)
    first, *stack = warning.splitlines()
    assert "/room" in first
    assert "has held the event loop for 0." in first
    assert f"at {__file__}:" in first
    assert " in spin: " in first
    assert any("spin(float(ws.receive()))" in line for line in stack)
    if hasattr(gevent.config, "print_blocking_reports"):  # Earlier gevents print first and tell then.
        assert "blocking" not in capsys.readouterr().err, "gevent's own report is not printed as well"


def test_a_handler_that_holds_the_loop_for_less_is_not(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    run(serve, "0.2", warn_blocked=1.0)
    assert warnings(caplog) == []


def test_nothing_watches_by_default(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    run(serve, "0.3")
    assert warnings(caplog) == []
    assert gevent.get_hub().periodic_monitoring_thread is None


def test_each_time_is_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = serve(application, warn_blocked=0.1)
    for _ in range(2):
        ask(served, "0.5")
    assert len(told(caplog, 2)) == 2


def test_a_greenlet_that_the_handler_has_spawned_is_named_by_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        gevent.spawn(spin, 0.5).join()
        return []

    with serve(app, warn_blocked=0.1).client("/spawning") as client:
        client.read_frame()
    (warning,) = told(caplog)
    assert "/spawning" in warning


def test_a_plain_request_is_named_by_its_path(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(application, warn_blocked=0.1).client() as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        client.read_response()
    assert "GET /slow" in told(caplog)[0]


def test_a_blocking_call_outside_the_scope_is_told_where_it_was_made(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    if os.environ.get("GEVENTWS_PATCHED") == "1":
        pytest.skip("patched by gevent, time.sleep does not block")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].accept()
        time.sleep(0.5)
        return []

    scope.install()
    try:
        with serve(app, warn_blocked=0.1, cooperative=False).client("/") as client:
            client.read_frame()
    finally:
        scope.uninstall()
    (warning,) = told(caplog)
    assert "time.sleep(0.5)" in warning.splitlines()[0]


def test_another_greenlet_that_holds_the_loop_is_nobodys_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    run(serve, "0", warn_blocked=0.1)
    spin(0.5)
    gevent.sleep(0)
    assert warnings(caplog) == []
