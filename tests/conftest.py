"""What tests of all modules share: a server with an application in the test's own hub, and what is skipped or required."""

from __future__ import annotations

import os

if os.environ.get("GEVENTWS_PATCHED") == "1":
    # The same tests in a process of the kind that many programs on gevent are.
    from gevent import monkey

    monkey.patch_all()

import contextlib
import gc
import io
import signal
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.pywsgi import WSGIServer
from rawclient import RawClient
from worlds import BOTH, PYWSGI, World, natively, serve_natively


def outdated() -> list[Path]:
    """What was compiled in place for this Python, and not of the sources as they are now. setup.py asks the same."""
    package = Path(find_spec("geventws").origin).parent
    setup = package.parent / "setup.py"
    if not setup.exists() or os.environ.get("GEVENTWS_PURE_PYTHON", "") not in ("", "0"):
        return []  # Installed as a whole; or there, and not used.
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compiled = list(package.rglob(f"*{suffix}"))
    names = {path.name.removesuffix(suffix) for path in compiled}
    sources = [setup, *(path for kind in ("pxd", "pyx", "c") for path in package.rglob(f"*.{kind}"))]
    for path in package.rglob("*.py"):
        # Beside a source that is written for the compiler it is not what is compiled.
        if path.stem in names and not any(path.with_suffix(kind).exists() for kind in (".pyx", ".c")):
            sources.append(path)
    newest = max(path.stat().st_mtime for path in sources)
    return sorted(path for path in compiled if path.stat().st_mtime < newest)


# Before anything is imported of it: tests of what is no longer there say nothing.
if outdated():
    raise pytest.UsageError(
        f"{len(outdated())} compiled modules are older than their sources. Either: python setup.py build_ext --inplace "
        "(with Cython, greenlet and setuptools), or: GEVENTWS_PURE_PYTHON=1"
    )

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell has it for what runs behind "&". Every server that is started would inherit it, and no Ctrl-C end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from geventws import WebSocket, WebSocketHandler, compiled  # noqa: E402
from geventws.middleware import WebSocketMiddleware  # noqa: E402

# What starts processes, and depends on other packages more than on the Python: one Python is enough.
ON_ONE_PYTHON = tuple(Path(__file__).parent / name for name in ("examples", "frameworks", "servers", "test_compat.py"))


def pytest_report_header() -> str:
    return f"geventws: {'compiled' if compiled else 'plain Python'}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "world(name, reason): the test is about one world only (worlds.py)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" not in metafunc.fixturenames:
        return
    there = getattr(metafunc.module, "WORLDS", ["gevent"])
    mark = metafunc.definition.get_closest_marker("world")
    names = there if mark is None else [name for name in there if _kind(name) == mark.args[0]] or [mark.args[0]]
    if names != ["gevent"]:
        metafunc.parametrize("world", names, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is of a world that is not there: in a patched process there are no native threads."""
    items[:] = [item for item in items if _kind(_world_of(item)) in ("none", *BOTH)]
    for item in items:
        if any(item.path.is_relative_to(path) for path in ON_ONE_PYTHON):
            item.add_marker(pytest.mark.endtoend)


def pytest_collection_finish() -> None:
    """Have what lasts until the end left out when tests collect garbage: the thousands of tests themselves above all."""
    gc.collect()
    gc.freeze()


def _kind(world: str) -> str:
    return "gevent" if world == PYWSGI else world


def _world_of(item: pytest.Item) -> Any:
    if getattr(getattr(item, "module", None), "WORLDS", None) == ["threads"]:
        return "threads"
    return item.callspec.params.get("world", "none") if hasattr(item, "callspec") else "none"


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """Where the connections of the test live: `worlds`."""
    return World(getattr(request, "param", "gevent"))


class Served:
    """A running server with what it wrote to its logs, and what its application left behind for the test."""

    def __init__(self, server: WSGIServer, log: io.StringIO) -> None:
        self.server = server
        self.log = log

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.server_port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.server_port}"

    def client(self, path: str | None = None, **fields: str) -> RawClient:
        """A new client; with a path its opening handshake is done."""
        client = RawClient(self.address)
        try:
            if path is not None:
                client.open(path, **fields)
        except BaseException:
            client.socket.close()
            raise
        return client

    def access_log(self, lines: int = 1) -> list[str]:
        """The access log, waited for until it has so many lines."""
        with gevent.Timeout(10, AssertionError(f"the access log has no {lines} lines: {self.log.getvalue()!r}")):
            while len(self.log.getvalue().splitlines()) < lines:
                gevent.sleep(0.001)
        return self.log.getvalue().splitlines()


Serve = Callable[..., Served]


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture, world: World) -> Iterator[Serve]:
    """Start servers: `serve(app, max_message_size=100)` gives one with these options. They are stopped after the test.

    In the world of threads it is a server of the standard library with the WebSocketMiddleware.

    Whatever the server reports as unexpected (a traceback in a greenlet or in the hub) fails the test.
    """
    hub = gevent.get_hub()
    errors: list[str] = []

    def print_exception(context: object, kind: Any, value: Any, tb: Any) -> None:
        errors.append("".join(traceback.format_exception(kind, value, tb)))

    with contextlib.ExitStack() as stack:
        original, hub.print_exception = hub.print_exception, print_exception
        stack.callback(setattr, hub, "print_exception", original)

        def start(
            app: Callable[..., Any],
            handler_class: type[WebSocketHandler] = WebSocketHandler,
            server_class: type[WSGIServer] = WSGIServer,
            listener: Any = ("127.0.0.1", 0),
            server_arguments: dict[str, Any] | None = None,
            websocket_class: type[WebSocket] | None = None,
            **options: Any,
        ) -> Served:
            log = io.StringIO()
            if world.threads:
                assert (handler_class, server_class) == (WebSocketHandler, WSGIServer)
                middleware = WebSocketMiddleware(app, websocket_class=websocket_class, **options)
                server = serve_natively(stack, middleware, log, errors, **(server_arguments or {}))
                served = Served(server, log)
                served.errors = errors  # type: ignore[attr-defined]
                return served
            configured = world.handler_class(handler_class).configured(**options)
            if websocket_class is not None:
                configured.websocket_class = websocket_class
            server = server_class(
                listener,
                app,
                log=log,
                handler_class=configured,
                **(server_arguments or {}),
            )
            server.start()
            stack.callback(server.stop)
            served = Served(server, log)
            served.errors = errors  # type: ignore[attr-defined]
            return served

        yield start
    assert not errors, errors[0]


@pytest.fixture
def in_thread() -> Callable[..., Any]:
    """Run a blocking function, such as a client nobody here wrote, in a native thread while the hub serves it."""
    return lambda function, args=(), named=None: natively(function, *args, **(named or {}))
