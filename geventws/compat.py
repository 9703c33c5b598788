"""`install`: what imports `geventwebsocket` or `flask_sockets` gets geventws, with not a word of it changed.

Here are the names of those packages' modules, and what stands behind each. What the modules do is their own business.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .protocol import State
from .websocket import WebSocket

__all__ = ["install"]

# The release of gevent-websocket whose names these are: programs print it, or ask for it.
_VERSION = (0, 10, 1, "final", 0)


def install() -> None:
    """From now on `import geventwebsocket` and `import flask_sockets` give geventws, in the whole process.

    ::

        import geventws.compat
        geventws.compat.install()               # at the top of the program, before what is to use it

        socketio = SocketIO(app, async_mode="gevent")       # Engine.IO takes the websocket transport from it

    So programs run that were written for gevent-websocket or Flask-Sockets, and libraries that look for gevent-websocket:
    Engine.IO, and with it Socket.IO and Flask-SocketIO. `python -m geventws serve --compat module:app` calls it before it
    imports the application.

    Which pages may connect to Engine.IO is its own to say (`cors_allowed_origins`), as before: `origins` does not count there.

    The modules are geventws's own, not copies: `geventwebsocket.handler is geventws.handler`. Nothing is imported before
    it is asked for: Flask for `flask_sockets`, gunicorn for the worker. The two packages need not be installed; where they
    are, they are not used. What geventws has no counterpart for (`geventwebsocket.protocols.wamp`) is a
    ModuleNotFoundError that says so. What is installed stays as it is: for `pip` and `importlib.metadata` there is no
    gevent-websocket that was not there before.

    Calling it again does nothing. It may be called from any thread.

    Raises:
        RuntimeError: it comes too late. One of the two packages has been imported already, or Engine.IO has looked for it
            and settled for something else; what was imported would stay what it is. Nothing is changed then.
    """
    if _aliases in sys.meta_path:
        return
    for package in _PACKAGES:
        if package in sys.modules:
            where = getattr(sys.modules[package], "__file__", None) or "somewhere"
            raise RuntimeError(f"{package} has been imported already, from {where}: {_REMEDY}")
    if _ENGINE_IO in sys.modules:
        raise RuntimeError(f"Engine.IO has looked for geventwebsocket already, and there was none: {_REMEDY}")
    sys.meta_path.insert(0, _aliases)


_PACKAGES = ("geventwebsocket", "flask_sockets")
# The module in which Engine.IO decides, when it is imported, where its WebSockets come from.
_ENGINE_IO = "engineio.async_drivers.gevent"
_REMEDY = (
    "call geventws.compat.install() at the top of the program, before anything that uses it is imported or made, "
    "or serve the program with `python -m geventws serve --compat module:app`"
)

# Imported with the package itself, as there: programs write `import geventwebsocket` and then `geventwebsocket.handler`.
_AT_ONCE = ("exceptions", "handler", "logging", "protocols", "resource", "server", "websocket")

_SAME = {
    **{f"geventwebsocket.{name}": f"geventws.{name}" for name in _AT_ONCE},
    "geventwebsocket.protocols.base": "geventws.protocols.base",
    "geventwebsocket.gunicorn.workers": "geventws.servers.gunicorn",
}


def _fill_geventwebsocket(module: ModuleType) -> None:
    geventws = importlib.import_module("geventws")
    version = ".".join(str(part) for part in _VERSION[:3])
    # Programs print where it is.
    vars(module).update(__file__=geventws.__file__, __version__=version, VERSION=_VERSION, get_version=lambda: version)
    vars(module).update({name: getattr(geventws, name) for name in geventws.__all__})
    for name in _AT_ONCE:
        importlib.import_module(f"{module.__name__}.{name}")


def _fill_flask_sockets(module: ModuleType) -> None:
    def worker(name: str) -> Any:
        # `gunicorn -k flask_sockets.worker app:app`
        if name not in ("worker", "Worker"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return importlib.import_module("geventws.servers.gunicorn").GeventWebSocketWorker

    adapter = importlib.import_module("geventws.flask")
    vars(module).update(__file__=adapter.__file__, __all__=["Sockets"], Sockets=adapter.Sockets, __getattr__=worker)


_OWN: dict[str, Callable[[ModuleType], None]] = {
    "geventwebsocket": _fill_geventwebsocket,
    "geventwebsocket.gunicorn": lambda module: None,
    "flask_sockets": _fill_flask_sockets,
}
_WITH_SUBMODULES = ("geventwebsocket", "geventwebsocket.gunicorn", "geventwebsocket.protocols")


def _leave_origins_to_engine_io(driver: ModuleType) -> None:
    """Engine.IO compares a page's origin with its `cors_allowed_origins`, and only then looks for the WebSocket.

    Were the handshake refused after that, when the WebSocket is first used, the session would stay between its two
    transports, and its client poll without end.
    """
    offered: dict[str, Any] = getattr(driver, "_async", {})
    original = offered.get("websocket")
    if original is None:
        return

    class WebSocketWSGI(original):  # type: ignore[misc, valid-type]  # found at run time
        def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            ws = environ.get("wsgi.websocket")
            if isinstance(ws, WebSocket) and ws.state is State.CONNECTING:
                ws.options = ws.options.replace(origins="*")
            answer: Iterable[bytes] = super().__call__(environ, start_response)
            return answer

    offered["websocket"] = WebSocketWSGI


class _Adapting(Loader):
    """Loads a module as its own loader does, and adapts it then."""

    def __init__(self, loader: Loader, adapt: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._adapt = adapt

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks later, for its source say, asks the one that knows.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._adapt(module)


class _Aliases(MetaPathFinder, Loader):
    """Finds the modules of the two packages, before anything else looks for them; and Engine.IO's, to adapt it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _SAME or fullname in _OWN:
            return ModuleSpec(fullname, self, is_package=fullname in _WITH_SUBMODULES)
        if fullname.partition(".")[0] == "geventwebsocket":
            # The installed package must not be mixed in.
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: geventws.compat.install() has put geventws in the place of "
                "gevent-websocket, and geventws has no counterpart for it",
                name=fullname,
            )
        if fullname == _ENGINE_IO:
            return self._find_engine_io(path, target)
        return None

    def _find_engine_io(self, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(_ENGINE_IO, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Adapting(spec.loader, _leave_origins_to_engine_io)
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes it."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in _OWN:
            _OWN[name](module)
        else:
            # Documented for loaders: what stands in sys.modules afterwards is what was imported.
            sys.modules[name] = importlib.import_module(_SAME[name])


_aliases = _Aliases()
