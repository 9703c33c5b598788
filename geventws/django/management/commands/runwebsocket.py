"""`manage.py runwebsocket`: `runserver` with WebSockets. What it checks, prints and reloads is Django's; the server is ours."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import gevent
from django.apps import apps
from django.core.management.commands.runserver import Command as RunserverCommand
from django.utils import autoreload
from gevent.event import Event

from geventws.codes import CloseCode
from geventws.django.conf import configured
from geventws.handler import WebSocketHandler
from geventws.scope import install
from geventws.server import WebSocketServer

__all__ = ["Command"]

logger = logging.getLogger("django.server")

_RELOAD = 3
"""The exit status by which Django's reloader asks for a new process."""


def _runserver() -> Any:
    """The command that is built on: that of the static files, where they are installed, serves them as well."""
    if not apps.is_installed("django.contrib.staticfiles"):
        return RunserverCommand
    from django.contrib.staticfiles.management.commands.runserver import Command as StaticFilesCommand

    return StaticFilesCommand


class Command(_runserver()):  # type: ignore[misc]  # one of two
    """From Django, by its name."""

    help = "Starts a web server for development that carries WebSockets."

    _server: _Server | None = None
    _patience = 2.0
    _reloader: Any = None
    _interrupts = 0
    _is_ending = False

    def add_arguments(self, parser: Any) -> None:
        super().add_arguments(parser)
        for action in parser._actions:
            if action.dest == "use_threading":
                action.help = argparse.SUPPRESS  # There is a greenlet for each connection.
        parser.add_argument(
            "--drain",
            type=float,
            default=self._patience,
            metavar="SECONDS",
            help="How long WebSockets have to end when the server stops or reloads (default: %(default)s).",
        )

    def run(self, **options: Any) -> None:
        """From runserver: serve, with the reloader or without."""
        self._patience = options["drain"]
        if not options["use_reloader"]:
            self.inner_run(None, **options)
        elif os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) == "true":
            self._run_reloadable(options)
        else:
            sys.exit(_run_again_and_again())

    def _run_reloadable(self, options: dict[str, Any]) -> None:
        """The server runs in a thread, the reloader in this one."""
        reloader = autoreload.get_reloader()
        autoreload.logger.info("Watching for file changes with %s", type(reloader).__name__)
        # Django's own `run_with_reloader` raises what ends the process wherever this thread is; then a second signal breaks
        # off what the first has asked for.
        self._reloader = reloader
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        code, reason = CloseCode.GOING_AWAY, "server stops"
        try:
            autoreload.start_django(reloader, self.inner_run, **options)
        except SystemExit as end:
            if end.code == _RELOAD:
                code, reason = CloseCode.SERVICE_RESTART, "server reloads"
            raise
        finally:
            if self._server is not None:
                self._server.stop(code, reason)
                self._server.wait()

    def _on_signal(self, number: int, _: object) -> None:
        """End. A second Ctrl-C does not wait. (The first comes twice: from the terminal, and from the parent as SIGTERM.)"""
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(128 + number)
        if self._is_ending:
            return  # The second may come in the middle of what follows, which must not be begun twice: it takes a lock.
        self._is_ending = True
        # The reloader looks for this once a second.
        autoreload.BaseReloader.stop(self._reloader)
        if self._server is not None:
            self._server.stop(CloseCode.GOING_AWAY, "server stops")

    def inner_run(self, *args: Any, **options: Any) -> None:
        """From the reloader: the checks, and then `_Server`, which runserver believes to be its own."""
        # Before the project's views are imported: what they make of locks and thread-locals works in a scope.
        install()
        options["use_threading"] = False
        self.server_cls = functools.partial(_Server, self)
        super().inner_run(*args, **options)

    def serving(self, server: _Server) -> None:
        """From the server: it is about to serve."""
        server.patience = self._patience
        self._server = server


def _run_again_and_again() -> int:
    """Run the server in a child process, and again whenever it asks for that. Returns the exit status.

    Django's own way of doing it kills the child when this process is to stop: WebSockets would be torn off.
    """
    environ = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true"}
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def end(number: int, _: object) -> None:
        asked.append(number)
        for child in children:
            child.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    while True:
        with subprocess.Popen(autoreload.get_child_arguments(), env=environ, close_fds=False) as child:
            children[:] = [child]
            if asked:
                child.terminate()  # It was too early to tell it.
            status = child.wait()
        if status != _RELOAD or asked:
            return 0 if asked and status in (_RELOAD, -signal.SIGTERM) else status


class _Server:
    """`WebSocketServer` in the clothes of the server that `runserver` expects."""

    def __init__(self, command: Command, address: tuple[str, int], *_: Any, ipv6: bool = False, **__: Any) -> None:
        options = {"cooperative": "requests", **configured()}
        self.server = WebSocketServer(address, handler_class=_Handler.configured(**options), log=None)
        # The port is taken here, for runserver to tell if it cannot be.
        self.server.init_socket()
        self.server_port = self.server.server_port
        self.patience = 2.0
        self._command = command
        self._hub = gevent.get_hub()
        self._stop = Event()
        self._stopped = threading.Event()
        self._why: tuple[int, str] | None = None

    def set_app(self, application: Any) -> None:
        """From runserver."""
        self.server.application = application

    def serve_forever(self) -> None:
        """From runserver: until `stop` is called, or, in the main thread, a signal asks for the end."""
        self._command.serving(self)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                gevent.signal_handler(number, self._stop_for_signal, number)
        try:
            self.server.start()
            self._stop.wait()
            self.server.close()
            code, reason = self._why or (CloseCode.GOING_AWAY, "server stops")
            self.server.websockets.drain(self.patience, code, reason)
            self.server.stop(self.patience)
        finally:
            self._stopped.set()

    def _stop_for_signal(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # A second one does not wait.
        self._stop.set()

    def stop(self, code: int, reason: str) -> None:
        """From another thread: close all WebSockets, and serve no longer. Only the first call counts."""
        if self._why is None:
            self._why = (code, reason)
            self._hub.loop.run_callback_threadsafe(self._stop.set)

    def wait(self) -> None:
        """From another thread, after `stop`: until all is closed."""
        self._stopped.wait(2 * self.patience + 2)


class _Handler(WebSocketHandler):
    """Logs as `runserver` does, where the settings' LOGGING wants it."""

    def log_request(self) -> None:
        status = abs(int(self.code or 0))
        level = logging.ERROR if status >= 500 else logging.WARNING if status >= 400 else logging.INFO
        more = ""
        if self._upgraded and self.websocket is not None:
            received, _, sent, _ = self.websocket.counts
            more = f" closed with {self.websocket.close_code}, {received} messages in, {sent} out"
        line = (self.requestline or "").encode("unicode_escape").decode("ascii")
        extra = {"status_code": status, "request": self.socket}
        logger.log(level, '"%s" %s %s%s', line, status, self.response_length, more, extra=extra)
