"""The command `python -m geventws`: `serve` an application, or have the `doctor` look at it. How is written elsewhere."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import gevent.event

from . import compat
from .doctor import examine
from .scope import install
from .server import WebSocketServer

__all__ = ["main"]


_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class UsageError(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default). Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except UsageError as error:
        print(f"geventws: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="geventws", description="WebSockets for WSGI programs on gevent.")
    commands = parser.add_subparsers(required=True, metavar="command")
    serve = commands.add_parser("serve", help="serve a WSGI application with its WebSockets")
    serve.set_defaults(run=_serve)
    serve.add_argument("application", metavar="module:app", help="where the application is: module, colon, name")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    serve.add_argument(
        "--port", type=int, default=5000, help="port to listen on (default: %(default)s; 0 for any free one)"
    )
    serve.add_argument("--certfile", help="certificate chain, in PEM, to serve https:// and wss://")
    serve.add_argument("--keyfile", help="private key of the certificate, in PEM, if it is not in the same file")
    serve.add_argument(
        "--drain",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long connections have to end (default: %(default)s)",
    )
    serve.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help='a proxy that is believed when it tells of the client: an address, a network, "unix" or "*"; may be repeated',
    )
    _add_compat(serve)
    doctor = commands.add_parser(
        "doctor", help="tell what in an application would hold up all connections, and what to do"
    )
    doctor.set_defaults(run=_doctor)
    doctor.add_argument(
        "application", metavar="module:app", nargs="?", help="an application to import and look at; nothing for none"
    )
    _add_compat(doctor)
    return parser


def _add_compat(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compat",
        action="store_true",
        help="have geventws stand in for the packages geventwebsocket and flask_sockets in the application, "
        "and in what it uses: Flask-SocketIO, for one",
    )


def _install_compat(options: argparse.Namespace) -> None:
    if not options.compat:
        return
    try:
        compat.install()
    except RuntimeError as error:
        raise UsageError(f"--compat comes too late: {error}") from error


def _doctor(options: argparse.Namespace) -> int:
    """Returns 1 when something was found."""
    _install_compat(options)
    if options.application:
        _load(options.application)
    findings = examine()
    for finding in findings:
        print(f"{finding.subject}: {finding.why}.\n    Remedy: {finding.remedy}.")
    if not findings:
        print("Nothing was found that would block inside a connection's scope.")
    return 1 if findings else 0


def _serve(options: argparse.Namespace) -> int:
    # First, so that the locks and thread-locals that the application makes when it is imported work in a scope.
    install()
    _install_compat(options)
    application = _load(options.application)
    if options.keyfile and not options.certfile:
        raise UsageError("--keyfile goes with --certfile")
    tls = {"certfile": options.certfile, "keyfile": options.keyfile} if options.certfile else {}
    try:
        server = WebSocketServer(
            (options.host, options.port),
            application,
            drain_timeout=options.drain,
            trusted_proxies=options.trusted_proxy,
            **tls,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        files = " with the key ".join(filter(None, (options.certfile, options.keyfile)))
        raise UsageError(f"cannot use the certificate {files}: {error.strerror or error}") from error
    try:
        server.start()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {options.host}:{options.port}: {why}") from error
    scheme = "https" if server.ssl_enabled else "http"
    host = f"[{options.host}]" if ":" in options.host else options.host
    # Before it is told that we serve: whoever reads it may stop us at once.
    stop = gevent.event.Event()
    for number in _STOPPING:
        gevent.signal_handler(number, stop.set)
    print(f"Serving {options.application} on {scheme}://{host}:{server.server_port}", flush=True)
    _wait_for_the_end(server, stop)
    return 0


def _wait_for_the_end(server: WebSocketServer, stop: gevent.event.Event) -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop the server; a second one does not wait for the connections."""
    stop.wait()
    for number in _STOPPING:
        gevent.signal_handler(number, os._exit, 128 + number)
    server.stop()


def _takes_two(application: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(application)
    except (TypeError, ValueError):
        return True  # It does not tell.
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


def _load(name: str) -> Callable[..., Any]:
    """The application that `module:name` means; dots in the name lead into objects, and `()` behind it calls what makes it."""
    module_name, colon, attribute = name.partition(":")
    if not module_name or not colon or not attribute:
        raise UsageError(f"{name!r} does not say where the application is: write module:app, as in chat:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # The module is there; one that it imports is not.
        raise UsageError(f"there is no module {error.name!r} in {os.getcwd()} or among the installed ones") from error
    attribute, factory, _ = attribute.partition("()")
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no {attribute!r}")
        found = getattr(found, part)
    if factory:
        found = found()
    if not callable(found):
        raise UsageError(f"{name} is no WSGI application: it is {type(found).__name__}, which cannot be called")
    if not _takes_two(found):
        raise UsageError(
            f"{name} is no WSGI application: it does not take an environ and a start_response. If it makes the application, "
            f"write '{name}()'"
        )
    application: Callable[..., Any] = found
    return application
