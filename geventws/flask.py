"""`Sockets`: websocket routes and blueprints on Flask's own router. Only what is Flask's about a WebSocket is here."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from flask import Blueprint, Flask, Request, Response, current_app, request, session
from flask.blueprints import BlueprintSetupState
from flask.ctx import AppContext
from flask.sessions import SecureCookieSessionInterface
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RuleFactory
from werkzeug.wsgi import ClosingIterator

from .application import view_surroundings
from .codes import CloseCode
from .exceptions import ConnectionClosed, HandshakeError, HandshakeRefused
from .middleware import WebSocketMiddleware
from .options import OF_THE_SERVER, WebSocketOptions, refuse_server_options
from .protocol import State
from .websocket import WebSocket

__all__ = ["Sockets"]

View = Callable[..., Any]
AnyView = TypeVar("AnyView", bound=View)

_CONFIG_PREFIX = "GEVENTWS_"


class Sockets:
    """Websocket routes for a Flask application.

    ::

        app = Flask(__name__)
        sockets = Sockets(app)              # or Sockets(), and sockets.init_app(app) later

        @sockets.route("/echo")
        def echo(ws):
            for message in ws:
                ws.send(message)

    A websocket rule is a rule of Flask's own router: converters, defaults, hosts, `url_for`, `before_request`, error
    handlers and the session work as they do for any view. Whatever answers before the view is called (a 404, a redirect, a
    401 of `before_request`) is the answer to the opening handshake. Then the connection is accepted, with the session's
    cookie if it was changed, and the view runs as `view(ws, **values)`. What it returns is ignored; if it raises, the
    exception is logged once and the connection closed with 1011.

    Options are taken from the server, then from the configuration (`GEVENTWS_MAX_MESSAGE_SIZE`, `GEVENTWS_ORIGINS` and so
    on, the fields of `WebSocketOptions` in capitals), then from the route. Those that concern the server as a whole
    (`handshake_timeout`, `max_connections`, `max_connections_per_ip`) can only be set there.
    """

    def __init__(self, app: Flask | None = None) -> None:
        # The application that declarations go to, once there is one; those from before go to every one.
        self._app: weakref.ref[Flask] | None = None
        self._registrations: list[Callable[[Flask], None]] = []
        self._url_map = Map()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add the routes to `app`.

        Routes declared before the first call are added to every application that this is called for; those declared
        afterwards to the one it was called for last. So an application factory may do either.

        Raises:
            TypeError: `app` is no Flask application.
            ValueError: a `GEVENTWS_` key of the configuration is no option, or its value is out of range.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"Sockets is for a Flask application; got {app!r}")
        WebSocketOptions(**_configured(app))
        self._app = weakref.ref(app)
        if not isinstance(getattr(app.wsgi_app, _MIDDLEWARE, app.wsgi_app), WebSocketMiddleware):
            vars(app)["wsgi_app"] = _with_websockets(app.wsgi_app)
        app.extensions["geventws"] = self
        for name, converter in self._url_map.converters.items():
            app.url_map.converters.setdefault(name, converter)
        for register in self._registrations:
            register(app)

    @property
    def url_map(self) -> Map:
        """The application's URL map, for its `converters`, as in Flask-Sockets.

        `url_map.add(Rule("/echo", endpoint=echo, websocket=True))` adds a route, as programs do that got around
        Flask-Sockets' defects: a rule whose endpoint is a function is a route to it.
        """
        app = self._current()
        return self._url_map if app is None else cast(Map, _UrlMap(self, app.url_map))

    def _current(self) -> Flask | None:
        return None if self._app is None else self._app()

    # Declaring routes.

    def route(self, rule: str, *, blueprint: Blueprint | None = None, **options: Any) -> Callable[[AnyView], AnyView]:
        """Decorate a view: `@sockets.route("/rooms/<int:room>")`. The view itself is returned unchanged.

        Args:
            rule: the path, as for `Flask.route`.
            blueprint: add the rule to this blueprint, which may hold HTTP rules as well; then `app.register_blueprint` it.
            options: `accept=False` leaves the handshake to the view, and to what it is decorated with (`login_required`):
                it calls `ws.accept(...)` or uses `ws`, or else it returns a response or calls `abort(403)`; any
                field of `WebSocketOptions`; and what `Flask.route` takes (`endpoint`, `defaults`, `host` ...).

        Raises:
            ValueError: an option out of its range.
        """

        if not isinstance(rule, str):
            raise TypeError(f'a route needs its path, as in @sockets.route("/chat"); got {rule!r}')

        def decorate(view: AnyView) -> AnyView:
            endpoint = options.pop("endpoint", None)
            if blueprint is None:
                self.add_url_rule(rule, endpoint, view, **options)
            else:
                _Settings.of(options)
                blueprint.record(lambda state: _add_to_blueprint(state, rule, endpoint, view, options))
            return view

        return decorate

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view: View | None = None,
        *,
        view_func: View | None = None,
        **options: Any,
    ) -> None:
        """As `route`, for a view that is not decorated. `view_func` is what Flask calls `view`."""
        view = view_func if view is None else view
        _Settings.of(options)
        self._register(lambda app: _add_websocket_rule(app, rule, endpoint, view, **options))

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register `blueprint`, and those nested in it, with every rule of it a websocket rule.

        Args:
            blueprint: one whose views are all websocket views: `view(ws, **values)`. Static files stay ordinary HTTP.
            options: as for `Flask.register_blueprint`: `url_prefix`, `name`, `subdomain`, `url_defaults`.
        """

        def register(app: Flask) -> None:
            with _websocket_rules_only(app):
                app.register_blueprint(blueprint, **options)

        self._register(register)

    def _register(self, register: Callable[[Flask], None]) -> None:
        app = self._current()
        if app is None:
            self._registrations.append(register)
        else:
            register(app)

    # Inside a view.

    def messages(self, ws: WebSocket) -> Iterator[str | bytes]:
        """The messages of `ws`, each handled in an application context of its own.

        What hangs on the application context, a database session above all, lives as long as a message is worked on and
        not as long as the socket: the context's teardown functions run before the next message is waited for. They also
        run once at the beginning, for what `before_request` and the view have used so far.

        ::

            @sockets.route("/orders")
            def orders(ws):
                for message in sockets.messages(ws):
                    db.session.add(Order(message))
                    db.session.commit()

        `request` and `session` go on to be those of the opening handshake; `g` is new for each message.
        """
        return _Messages(ws, current_app._get_current_object())  # type: ignore[attr-defined]  # a proxy's own method


_RULE_OPTIONS = ("defaults", "subdomain", "host", "strict_slashes")


class _UrlMap:
    """An application's URL map that takes views for endpoints."""

    def __init__(self, sockets: Sockets, url_map: Map) -> None:
        self._sockets = sockets
        self._url_map = url_map

    def __getattr__(self, name: str) -> Any:
        return getattr(self._url_map, name)

    def add(self, rulefactory: RuleFactory) -> None:
        for rule in rulefactory.get_rules(self._url_map):
            if callable(rule.endpoint):
                options: dict[str, Any] = {name: getattr(rule, name) for name in _RULE_OPTIONS}
                self._sockets.add_url_rule(rule.rule, None, rule.endpoint, **options)
            else:
                self._url_map.add(rule)


# What the server calls, and what Flask calls.


def _with_websockets(wsgi_app: Callable[..., Any]) -> Callable[..., Any]:
    """`wsgi_app`, behind a `WebSocketMiddleware` where the server does not put WebSockets there itself."""
    middleware = WebSocketMiddleware(wsgi_app)

    # A function, for the same reason as `_websocket_view`.
    def wsgi_app_with_websockets(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "wsgi.websocket" in environ:
            return wsgi_app(environ, start_response)
        return middleware(environ, start_response)

    setattr(wsgi_app_with_websockets, _MIDDLEWARE, middleware)
    return wsgi_app_with_websockets


_MIDDLEWARE = "geventws_middleware"


def _websocket_view(view: View) -> View:
    """What Flask calls for `view`. A function: an object that is called keeps more C stack for as long as the view runs."""
    # As Flask finds it out, which takes a while.
    is_async = inspect.iscoroutinefunction(view)

    def websocket_view(**values: Any) -> Any:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # a proxy's own method
        opening: Request = request._get_current_object()  # type: ignore[attr-defined]  # a proxy's own method
        ws = _websocket_of(opening)
        response = None
        try:
            _answer_handshake(app, opening, ws)
            handle = app.ensure_sync(view) if is_async else view
            with view_surroundings(ws.cooperative):
                # A plain call where it can be: one with `**` keeps half a KiB of C stack for as long as the view runs.
                response = handle(ws, **values) if values else handle(ws)
            if ws.state is State.CONNECTING and response is None:
                ws.accept()  # It returned without a word: that is no refusal.
        except ConnectionClosed as error:
            # The peer left while the view was busy with it: that is how connections end. While ours is open, or not yet
            # there, it is another one's end that the view has not reckoned with.
            if ws.state is State.CONNECTING:
                raise
            if ws.state is State.OPEN:
                _failed(app, ws, error)
                raise
        except HandshakeError as error:
            if ws.state is not State.CONNECTING:
                _failed(app, ws, error)
            elif not isinstance(error, HandshakeRefused):
                return _refusal(error)
            raise
        except Exception as error:
            if ws.state is not State.CONNECTING:
                _failed(app, ws, error)
            raise
        finally:
            _leave_message_context(ws, sys.exc_info()[1])
        if ws.state is State.CONNECTING:
            return response  # The view, or what it is decorated with, answers with HTTP: a redirect to the login, say.
        return _AcceptedResponse()

    functools.update_wrapper(websocket_view, view, assigned=("__module__", "__doc__"), updated=())
    websocket_view.__name__ = websocket_view.__qualname__ = _name_of(view)
    setattr(websocket_view, _VIEW, view)
    return websocket_view


_VIEW = "_geventws_view"


def _name_of(view: View) -> str:
    name = getattr(view, "__name__", None)
    return name if isinstance(name, str) else type(view).__name__


def _answer_handshake(app: Flask, opening: Request, ws: WebSocket) -> None:
    if ws.state is not State.CONNECTING:
        return  # `before_request` has been there.
    settings: _Settings = getattr(opening.url_rule, _SETTINGS, _NO_SETTINGS)
    ws.options = settings.options(app, ws.options)
    state = session._get_current_object()  # type: ignore[attr-defined]  # a proxy's own method
    ws.before_accept = functools.partial(_session_cookies, app, state)
    if settings.accept:
        ws.accept()


def _failed(app: Flask, ws: WebSocket, error: Exception) -> None:
    """The view raised when it was too late for an HTTP answer."""
    ws.start_closing(CloseCode.INTERNAL_ERROR)
    # Flask does not log what becomes a response: there it would be seen.
    responded = isinstance(error, HTTPException) and not app.trap_http_exception(error)
    if responded or app._find_error_handler(error, request.blueprints) is not None:
        app.log_exception(sys.exc_info())


class _AcceptedResponse(Response):
    """What Flask wants of a view. The connection is accepted, so it goes nowhere; only its end is of interest."""

    def __init__(self) -> None:
        super().__init__(headers=Headers([("Content-Type", "text/html; charset=utf-8")]))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(self.status, self.headers.to_wsgi_list())
        return ClosingIterator((), self.close)


def _websocket_of(opening: Request) -> WebSocket:
    ws = opening.environ.get("wsgi.websocket")
    if isinstance(ws, WebSocket):
        return ws
    raise RuntimeError(
        "There is no WebSocket in this request's environ: something between the server and the application has taken it "
        "away, or `app.wsgi_app` was replaced by something that leaves out what it was before."
    )


def _refusal(error: HandshakeError) -> Response:
    return Response(f"{error}\n", error.status, error.headers, content_type="text/plain; charset=utf-8")


def _session_cookies(app: Flask, state: Any) -> list[tuple[str, str]]:
    """The `Set-Cookie` fields that carry changes of the session."""
    sessions = app.session_interface
    if sessions.is_null_session(state):
        return []
    cookies_only = type(sessions).save_session is SecureCookieSessionInterface.save_session
    if cookies_only and not sessions.should_set_cookie(app, state):
        return []
    response = app.response_class()
    sessions.save_session(app, state, response)
    return [("Set-Cookie", cookie) for cookie in response.headers.getlist("Set-Cookie")]


# Options.


def _configured(app: Flask) -> dict[str, Any]:
    """The options in `app`'s configuration. Raises ValueError for a key that is none."""
    # Nobody tells when the configuration changes: this is looked at for every connection.
    if _CONFIG_PREFIX not in " ".join(app.config):
        return {}
    configured = {}
    for key, value in app.config.get_namespace(_CONFIG_PREFIX).items():
        name = f"{_CONFIG_PREFIX}{key.upper()}"
        if key not in WebSocketOptions.names():
            known = ", ".join(sorted(WebSocketOptions.names() - OF_THE_SERVER))
            raise ValueError(f"{name} is not an option of WebSockets; there are: {known}")
        refuse_server_options(name, {key})
        configured[key] = value
    return configured


_SETTINGS = "geventws_settings"


@dataclass
class _Settings:
    """What a route says about its connections; kept as an attribute of its rule."""

    accept: bool = True
    changes: dict[str, Any] = field(default_factory=dict)
    # What `options` has found last, and what of.
    _found: tuple[WebSocketOptions, str, WebSocketOptions] | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Settings:
        """What of the `options` of a route is ours. Raises ValueError for a value that is out of range."""
        changes = {name: value for name, value in options.items() if name in WebSocketOptions.names()}
        refuse_server_options("The option of the route", changes.keys())
        WebSocketOptions(**changes)
        return cls(options.get("accept", True), changes)

    def options(self, app: Flask, given: WebSocketOptions) -> WebSocketOptions:
        """The server's options, as `app`'s configuration, and then the route, would have them."""
        configured = _configured(app)
        if not configured and not self.changes:
            return given
        # Not the values themselves: a list of them may have grown meanwhile.
        text = repr(configured)
        found = self._found
        if found is not None and found[0] is given and found[1] == text:
            return found[2]
        options = given.replace(**configured).replace(**self.changes)
        self._found = (given, text, options)
        return options


_NO_SETTINGS = _Settings()


# Adding rules.


def _add_websocket_rule(app: Flask, rule: str, endpoint: str | None, view: View | None, **options: Any) -> None:
    """`app.add_url_rule`, for a websocket view."""
    settings = _Settings.of(options)
    for name in ("accept", *settings.changes):
        options.pop(name, None)
    endpoint = endpoint or (None if view is None else _name_of(view))
    view_func = None if view is None else _view_func(app, endpoint, view)
    options = {"provide_automatic_options": False, **options, "websocket": True}
    type(app).add_url_rule(app, rule, endpoint, view_func, **options)
    added = next(
        known for known in app.url_map.iter_rules(endpoint) if known.websocket and not hasattr(known, _SETTINGS)
    )
    setattr(added, _SETTINGS, settings)


def _view_func(app: Flask, endpoint: str | None, view: View) -> View:
    """What stands for `view` at `endpoint`: if it has another rule there, the same as for that."""
    known = app.view_functions.get(endpoint or "")
    if known is not None and getattr(known, _VIEW, None) == view:
        return known
    return _websocket_view(view)


def _add_to_blueprint(
    state: BlueprintSetupState, rule: str, endpoint: str | None, view: View, options: dict[str, Any]
) -> None:
    """`blueprint.add_url_rule`, when the blueprint is registered: prefix, name and defaults are added by Flask."""
    with _websocket_rules_only(cast(Flask, state.app)):
        state.add_url_rule(rule, endpoint or _name_of(view), view, **options)


@contextmanager
def _websocket_rules_only(app: Flask) -> Iterator[None]:
    """While a blueprint is replayed on `app`, the rules that it adds are websocket rules, but for static files."""

    def add(rule: str, endpoint: str | None = None, view_func: View | None = None, **options: Any) -> None:
        if getattr(view_func, "__func__", None) is Blueprint.send_static_file:
            type(app).add_url_rule(app, rule, endpoint, view_func, **options)
        else:
            options.pop("provide_automatic_options", None)
            _add_websocket_rule(app, rule, endpoint, view_func, **options)

    # In front of the class's method, for the time of this registration, which is part of the application's set-up.
    before = vars(app).get("add_url_rule")
    vars(app)["add_url_rule"] = add
    try:
        yield
    finally:
        if before is None:
            del vars(app)["add_url_rule"]
        else:
            vars(app)["add_url_rule"] = before


# A context for each message.


class _Messages(Iterator["str | bytes"]):
    """The iterator behind `Sockets.messages`. Its context is also left by `_leave_message_context`, if the view raises."""

    def __init__(self, ws: WebSocket, app: Flask) -> None:
        self._ws = ws
        self._app = app
        self._context: AppContext | None = None
        _leave_message_context(ws, None)
        ws.environ[_MESSAGES] = self
        app.do_teardown_appcontext(None)

    def __next__(self) -> str | bytes:
        self.leave(None)
        try:
            message = self._ws.receive()
        except ConnectionClosed:
            message = None
        if message is None:
            raise StopIteration
        self._context = self._app.app_context()
        self._context.push()
        return message

    def leave(self, error: BaseException | None) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.pop(error)


_MESSAGES = "geventws.messages"


def _leave_message_context(ws: WebSocket, error: BaseException | None) -> None:
    messages = ws.environ.pop(_MESSAGES, None)
    if messages is not None:
        messages.leave(error)
