"""`Sockets`: what the Flask adapter promises, seen by a client on a real socket. Frames and limits as such are not here.

In every group what is refused or fails comes first, then what works.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import websocket
from asking import answer, answer_to_plain, closed_by_server, first_text
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    copy_current_request_context,
    current_app,
    g,
    redirect,
    request,
    session,
    url_for,
)
from rawclient import CLOSE, TEXT, RawClient, frame
from rawclient import request as opening_request
from waiting import wait_until
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

from geventws import ConnectionClosed, HandshakeError, HandshakeRefused, InvalidState, State, middleware
from geventws.flask import Sockets
from geventws.middleware import WebSocketMiddleware
from geventws.testing import Refused, connect


@pytest.fixture
def app() -> Flask:
    app = Flask("program")
    app.secret_key = "not a secret"
    return app


@pytest.fixture
def sockets(app: Flask) -> Sockets:
    return Sockets(app)


def echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


def says(text: str) -> Callable[..., None]:
    """A websocket view that sends `text` and returns."""

    def view(ws: Any) -> None:
        ws.send(text)

    return view


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def only_traceback(caplog: pytest.LogCaptureFixture) -> BaseException:
    """The exception of the one traceback in the log."""
    (record,) = tracebacks(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert record.exc_info[2] is not None
    return record.exc_info[1]


# Declaring routes.


def test_a_path_without_a_rule_is_answered_404(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/echo")(echo)
    assert answer(serve(app), "/nothing").status == 404


def test_an_option_that_does_not_exist_is_an_error_that_names_it(sockets: Sockets) -> None:
    with pytest.raises(TypeError, match="max_mesage_size"):
        sockets.route("/echo", max_mesage_size=5)(echo)


def test_an_option_out_of_its_range_is_an_error_at_the_route(sockets: Sockets) -> None:
    with pytest.raises(ValueError, match="max_message_size must be a whole number"):
        sockets.route("/echo", max_message_size=0)(echo)


def test_a_method_other_than_get_is_an_error_at_the_route(sockets: Sockets) -> None:
    with pytest.raises(ValueError, match="WebSocket rules can only use"):
        sockets.route("/echo", methods=["POST"])(echo)


def test_two_views_cannot_share_an_endpoint(sockets: Sockets) -> None:
    sockets.route("/echo")(echo)
    with pytest.raises(AssertionError, match="overwriting an existing endpoint function: echo"):
        sockets.route("/other", endpoint="echo")(says("other"))


def test_a_message_is_echoed_through_a_route(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/echo")
    def view(ws: Any) -> None:
        while not ws.closed:
            message = ws.receive()
            if message is not None:
                ws.send(message)

    with serve(app).client("/echo") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000


def test_a_browser_that_also_asks_to_keep_the_connection_is_served(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/hello")(says("hello"))
    assert first_text(serve(app), "/hello", Connection="keep-alive, Upgrade") == "hello"


def test_a_client_nobody_here_wrote_is_echoed(app: Flask, sockets: Sockets, serve: Any, in_thread: Any) -> None:
    sockets.route("/echo")(echo)
    url = serve(app).url + "/echo"

    def talk() -> str | bytes:
        client = websocket.create_connection(url, timeout=10)
        try:
            client.send("hello")
            received: str | bytes = client.recv()
            return received
        finally:
            client.close()

    assert in_thread(talk) == "hello"


def test_the_decorated_view_is_returned_unchanged(sockets: Sockets) -> None:
    blueprint = Blueprint("chat", __name__)
    assert sockets.route("/echo")(echo) is echo
    assert sockets.route("/echo", accept=False, max_message_size=5, blueprint=blueprint)(echo) is echo


def test_add_url_rule_does_the_same_for_a_view_that_is_not_decorated(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.add_url_rule("/one", None, says("one"))
    sockets.add_url_rule("/two", "second", says("two"), defaults={})
    served = serve(app)
    assert first_text(served, "/one") == "one"
    assert first_text(served, "/two") == "two"
    assert set(app.view_functions) >= {"view", "second"}


def test_a_view_may_be_a_callable_without_a_name_if_its_endpoint_is_given(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    def greet(ws: Any, greeting: str) -> None:
        ws.send(greeting)

    sockets.add_url_rule("/greet", "greet", functools.partial(greet, greeting="hello"))
    assert first_text(serve(app), "/greet") == "hello"


def test_routes_stack_on_one_view(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/echo")
    @sockets.route("/also")
    @sockets.route("/rooms/<room>")
    def view(ws: Any, room: str = "none") -> None:
        ws.send(f"{request.path} {room}")

    served = serve(app)
    assert first_text(served, "/echo") == "/echo none"
    assert first_text(served, "/also") == "/also none"
    assert first_text(served, "/rooms/blue") == "/rooms/blue blue"


def test_stacked_routes_may_have_options_of_their_own(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/small", max_message_size=4)
    @sockets.route("/large")
    def view(ws: Any) -> None:
        echo(ws)

    served = serve(app)
    with served.client("/large") as client:
        client.send(frame(TEXT, "12345"))
        assert client.read_text() == "12345"
    with served.client("/small") as client:
        client.send(frame(TEXT, "12345"))
        assert client.read_close() == 1009


@pytest.mark.parametrize("first", ["/rooms", "/rooms/<int:room>"])
def test_options_go_with_their_own_route_whatever_values_it_has(
    app: Flask, sockets: Sockets, serve: Any, first: str
) -> None:
    def view(ws: Any, room: int = 0) -> None:
        if ws.state is State.CONNECTING:
            abort(403)
        echo(ws)

    rules: dict[str, dict[str, Any]] = {"/rooms": {"accept": False}, "/rooms/<int:room>": {"max_message_size": 4}}
    for rule in sorted(rules, key=lambda rule: rule != first):
        sockets.route(rule, **rules[rule])(view)
    served = serve(app)
    assert answer(served, "/rooms").status == 403
    with served.client("/rooms/1") as client:
        client.send(frame(TEXT, "12345"))
        assert client.read_close() == 1009


def test_an_endpoint_may_be_named_at_the_route(app: Flask, sockets: Sockets) -> None:
    sockets.route("/echo", endpoint="mirror")(echo)
    with app.test_request_context():
        assert url_for("mirror") == "ws://localhost/echo"


def test_a_converter_that_does_not_match_is_answered_404(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/rooms/<int:room>")(echo)
    assert answer(serve(app), "/rooms/blue").status == 404


def test_converters_give_the_view_its_values(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/rooms/<int:room>/<path:rest>")
    def view(ws: Any, room: int, rest: str) -> None:
        ws.send(repr((room, rest)))

    assert first_text(serve(app), "/rooms/7/a/b") == "(7, 'a/b')"


class Numbers(BaseConverter):
    regex = r"\d+(?:,\d+)*"
    part_isolating = False

    def to_python(self, value: str) -> list[int]:
        return [int(number) for number in value.split(",")]


@pytest.mark.parametrize("when", ["before init_app", "after init_app"])
def test_a_converter_may_be_added_to_the_url_map(app: Flask, serve: Any, when: str) -> None:
    sockets = Sockets()
    if when == "before init_app":
        sockets.url_map.converters["numbers"] = Numbers
        sockets.init_app(app)
    else:
        sockets.init_app(app)
        sockets.url_map.converters["numbers"] = Numbers

    @sockets.route("/sum/<numbers:terms>")
    def view(ws: Any, terms: list[int]) -> None:
        ws.send(str(sum(terms)))

    assert first_text(serve(app), "/sum/1,2,3") == "6"


def test_defaults_fill_in_what_the_path_does_not_say(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/rooms", defaults={"room": 1})
    @sockets.route("/rooms/<int:room>")
    def view(ws: Any, room: int) -> None:
        ws.send(str(room))

    served = serve(app)
    assert first_text(served, "/rooms") == "1"
    assert first_text(served, "/rooms/2") == "2"


def test_a_rule_for_one_host_leaves_other_hosts_alone(serve: Any) -> None:
    app = Flask("program", host_matching=True, static_host="static.example")
    sockets = Sockets(app)
    sockets.route("/", host="a.example", endpoint="a")(says("a"))
    sockets.route("/", host="<name>.b.example", endpoint="b")(lambda ws, name: ws.send(name))
    served = serve(app)
    assert answer(served, "/", Host="c.example").status == 404
    assert first_text(served, "/", Host="a.example") == "a"
    assert first_text(served, "/", Host="x.b.example") == "x"


def test_a_rule_for_a_subdomain_leaves_others_alone(serve: Any) -> None:
    app = Flask("program", subdomain_matching=True)
    app.config["SERVER_NAME"] = "example.test"
    sockets = Sockets(app)
    sockets.route("/", subdomain="chat")(says("chat"))
    served = serve(app)
    assert answer(served, "/", Host="example.test").status == 404
    assert first_text(served, "/", Host="chat.example.test") == "chat"


@pytest.mark.parametrize(("base", "expected"), [("http://a.example", "ws"), ("https://a.example", "wss")])
def test_url_for_gives_a_websocket_url(app: Flask, sockets: Sockets, base: str, expected: str) -> None:
    @sockets.route("/rooms/<int:room>")
    def chat(ws: Any, room: int) -> None:
        pass

    with app.test_request_context(base_url=base):
        assert url_for("chat", room=3, tone="low") == f"{expected}://a.example/rooms/3?tone=low"


def test_url_for_works_in_a_websocket_view(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.route("/page")
    def page() -> str:
        return "page"

    @sockets.route("/where")
    def where(ws: Any) -> None:
        ws.send(url_for("where"))
        ws.send(url_for("page"))
        ws.send(url_for("page", _external=True, _scheme="http"))

    with serve(app).client("/where") as client:
        assert client.read_text() in ("/where", "ws://localhost/where")
        assert client.read_text().endswith("/page")
        assert client.read_text() == "http://localhost/page"


def test_a_missing_slash_is_answered_with_a_redirect(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/echo/")(echo)
    served = serve(app)
    response = answer(served, "/echo")
    assert response.status in (301, 308)
    assert response.headers["location"].endswith("localhost/echo/")
    with served.client("/echo/"):
        pass


def test_a_slash_too_few_is_no_matter_where_strict_slashes_is_off(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/hello/", strict_slashes=False)(says("hello"))
    assert first_text(serve(app), "/hello") == "hello"


# Applications.


def test_routes_declared_before_init_app_are_served(app: Flask, serve: Any) -> None:
    sockets = Sockets()
    sockets.route("/hello")(says("hello"))
    sockets.init_app(app)
    assert first_text(serve(app), "/hello") == "hello"


def test_routes_declared_after_init_app_are_served(app: Flask, serve: Any) -> None:
    sockets = Sockets()
    sockets.init_app(app)
    sockets.route("/hello")(says("hello"))
    assert first_text(serve(app), "/hello") == "hello"


def test_several_applications_get_the_routes_declared_so_far(serve: Any) -> None:
    sockets = Sockets()
    sockets.route("/name")(lambda ws: ws.send(current_app.name))
    for name in ("one", "two"):
        app = Flask(name)
        sockets.init_app(app)
        assert first_text(serve(app), "/name") == name


def test_an_application_factory_may_declare_its_routes_itself(serve: Any) -> None:
    """As it is called for each test: the extension is a module's, the applications come and go."""
    sockets = Sockets()
    chat = Blueprint("chat", __name__)
    chat.route("/name")(lambda ws: ws.send(current_app.name))

    def create_app(name: str) -> Flask:
        app = Flask(name)
        sockets.init_app(app)
        sockets.route("/own")(says(f"own {name}"))
        sockets.register_blueprint(chat, url_prefix="/chat")
        return app

    for name in ("one", "two", "three"):
        served = serve(create_app(name))
        assert first_text(served, "/own") == f"own {name}"
        assert first_text(served, "/chat/name") == name


def test_what_a_view_that_has_not_accepted_returns_is_the_answer(app: Flask, sockets: Sockets, serve: Any) -> None:
    """It may be what it is decorated with that answers: flask-login's `login_required` returns a redirect."""

    def login_required(view: Any) -> Any:
        @functools.wraps(view)
        def guarded(ws: Any) -> Any:
            return view(ws) if session.get("user") else redirect("/login")

        return guarded

    @sockets.route("/private", accept=False)
    @login_required
    def private(ws: Any) -> None:
        ws.send("secret")

    @sockets.route("/no", accept=False)
    def no(ws: Any) -> Any:
        return "no", 403

    served = serve(app)
    response = answer(served, "/private")
    assert (response.status, response.headers["location"]) == (302, "/login")
    assert answer(served, "/no").status == 403


def test_a_route_without_its_path_is_a_type_error(sockets: Sockets) -> None:
    with pytest.raises(TypeError, match="needs its path"):
        sockets.route(echo)  # type: ignore[arg-type]


def test_what_is_no_application_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="Flask application"):
        Sockets("app")  # type: ignore[arg-type]


def test_a_view_may_be_given_by_the_name_that_flask_has_for_it(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.add_url_rule("/hello", view_func=says("hello"))
    assert first_text(serve(app), "/hello") == "hello"


@pytest.mark.parametrize("option", [{"max_connections": 5}, {"trusted_proxies": ["10.0.0.1"]}], ids=["max", "proxies"])
@pytest.mark.parametrize("where", ["configuration", "route"])
def test_an_option_of_the_server_is_refused_where_it_would_be_ignored(app: Flask, where: str, option: Any) -> None:
    [(name, value)] = option.items()
    if where == "configuration":
        app.config[f"GEVENTWS_{name.upper()}"] = value
        with pytest.raises(ValueError, match=f"GEVENTWS_{name.upper()} comes too late"):
            Sockets(app)
    else:
        with pytest.raises(ValueError, match=name):
            Sockets(app).route("/x", **option)(echo)


def test_several_extensions_share_an_application(app: Flask, serve: Any) -> None:
    Sockets(app).route("/one", endpoint="one")(says("one"))
    Sockets(app).route("/two", endpoint="two")(says("two"))
    served = serve(app)
    assert first_text(served, "/one") == "one"
    assert first_text(served, "/two") == "two"


# HTTP and WebSockets side by side.


def test_an_http_request_to_a_websocket_rule_is_a_bad_request(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sockets.route("/echo")(echo)
    assert answer_to_plain(serve(app), "/echo").status in (400, 426)
    assert not tracebacks(caplog)


def test_a_websocket_to_an_http_rule_is_refused(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    called = []

    @app.route("/page")
    def page() -> str:
        called.append("page")
        return "page"

    assert answer(serve(app), "/page").status == 400
    assert not called
    assert not tracebacks(caplog)


def test_an_http_rule_and_a_websocket_rule_may_share_a_path(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.route("/both")
    def page() -> str:
        return "page"

    sockets.route("/both")(says("socket"))
    served = serve(app)
    assert answer_to_plain(served, "/both").body == b"page"
    assert first_text(served, "/both") == "socket"


def test_http_goes_on_as_before(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.route("/page", methods=["GET", "POST"])
    def page() -> str:
        return "page"

    response = answer_to_plain(serve(app), "/page")
    assert (response.status, response.body) == (200, b"page")


# Before the handshake is answered.


def test_before_request_refuses_with_its_own_response(app: Flask, sockets: Sockets, serve: Any) -> None:
    called = []

    @app.before_request
    def guard() -> Any:
        return "log in first", 401, {"WWW-Authenticate": "Basic"}

    sockets.route("/echo")(called.append)
    response = answer(serve(app), "/echo")
    assert (response.status, response.body) == (401, b"log in first")
    assert response.headers["www-authenticate"] == "Basic"
    assert not called


def test_before_request_refuses_by_abort(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.before_request
    def guard() -> None:
        abort(403, "members only")

    sockets.route("/echo")(echo)
    response = answer(serve(app), "/echo")
    assert response.status == 403
    assert b"members only" in response.body


def test_before_request_redirects(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.before_request
    def guard() -> Any:
        return redirect("/login")

    sockets.route("/echo")(echo)
    response = answer(serve(app), "/echo")
    assert response.status == 302
    assert response.headers["location"].endswith("/login")


def test_a_refused_client_is_told_that_the_connection_ends(app: Flask, sockets: Sockets, serve: Any) -> None:
    with serve(app).client() as client:
        client.send(opening_request("/nothing") + frame(TEXT, "too early"))
        assert client.read_response().headers["connection"] == "close"
        assert client.at_end()


def test_a_refusal_runs_the_teardown_functions(app: Flask, sockets: Sockets, serve: Any) -> None:
    events = []
    app.before_request(lambda: ("no", 401))
    app.teardown_request(lambda error: events.append("request"))
    app.teardown_appcontext(lambda error: events.append("app"))
    sockets.route("/echo")(echo)
    served = serve(app)
    assert answer(served, "/echo").status == 401
    served.access_log()
    assert events == ["request", "app"]


def test_a_blueprints_before_request_guards_only_its_own_rules(app: Flask, sockets: Sockets, serve: Any) -> None:
    members = Blueprint("members", __name__)
    members.before_request(lambda: ("members only", 401))
    members.route("/inside")(says("inside"))
    sockets.register_blueprint(members)
    sockets.route("/outside")(says("outside"))
    served = serve(app)
    response = answer(served, "/inside")
    assert (response.status, response.body) == (401, b"members only")
    assert first_text(served, "/outside") == "outside"


def test_a_404_is_answered_by_the_applications_own_error_handler(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.errorhandler(404)
    def not_found(error: Exception) -> Any:
        return f"nothing at {request.path}", 404

    response = answer(serve(app), "/nowhere")
    assert (response.status, response.body) == (404, b"nothing at /nowhere")


def test_an_exception_before_the_accept_is_answered_by_its_error_handler(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.errorhandler(KeyError)
    def no_key(error: KeyError) -> Any:
        return f"no key {error}", 418

    @sockets.route("/refuse", accept=False)
    def refuse(ws: Any) -> None:
        raise KeyError("token")

    response = answer(serve(app), "/refuse")
    assert (response.status, response.body) == (418, b"no key 'token'")
    assert not tracebacks(caplog)


def test_an_exception_before_the_accept_is_answered_by_its_blueprints_error_handler(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    chat = Blueprint("chat", __name__)
    chat.errorhandler(403)(lambda error: ("not in this chat", 403))

    @sockets.route("/refuse", accept=False, blueprint=chat)
    def refuse(ws: Any) -> None:
        abort(403)

    app.register_blueprint(chat)
    response = answer(serve(app), "/refuse")
    assert (response.status, response.body) == (403, b"not in this chat")


def test_an_exception_before_the_accept_is_logged_once_and_answered_500(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("before")

    @sockets.route("/fail", accept=False)
    def fail(ws: Any) -> None:
        raise error

    assert answer(serve(app), "/fail").status == 500
    assert only_traceback(caplog) is error


def test_an_exception_in_before_request_is_logged_once_and_answered_500(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("before")

    @app.before_request
    def fail() -> None:
        raise error

    sockets.route("/echo")(echo)
    assert answer(serve(app), "/echo").status == 500
    assert only_traceback(caplog) is error


def test_before_request_that_lets_pass_shares_g_and_request_with_the_view(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    @app.before_request
    def who() -> None:
        g.user = request.args["user"]

    @sockets.route("/who")
    def view(ws: Any) -> None:
        ws.send(f"{g.user} {request.headers['X-Color']} {request.endpoint} {current_app.name}")

    assert first_text(serve(app), "/who?user=ada", X_Color="blue") == "ada blue view program"


def test_blueprint_hooks_run_in_flasks_order(app: Flask, sockets: Sockets, serve: Any) -> None:
    g_events: list[str] = []
    chat = Blueprint("chat", __name__)
    app.before_request(lambda: g_events.append("app"))
    chat.before_request(lambda: g_events.append("blueprint"))
    chat.url_value_preprocessor(lambda endpoint, values: g_events.append(f"values {values}"))

    @chat.route("/<int:room>")
    def view(ws: Any, room: int) -> None:
        ws.send(" ".join(g_events))

    sockets.register_blueprint(chat)
    assert first_text(serve(app), "/3") == "values {'room': 3} app blueprint"


# The session.


def test_a_change_of_the_session_without_a_secret_key_is_flasks_clear_error(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("program")
    sockets = Sockets(app)

    @sockets.route("/visit", accept=False)
    def visit(ws: Any) -> None:
        session["visits"] = 1

    assert answer(serve(app), "/visit").status == 500
    assert "secret key" in str(only_traceback(caplog))


def test_a_session_is_not_needed_for_a_websocket(serve: Any) -> None:
    app = Flask("program")
    Sockets(app).route("/hello")(says("hello"))
    assert first_text(serve(app), "/hello") == "hello"


def visits(sockets: Sockets) -> None:
    """A view that counts visits in the session, and one that only looks."""

    @sockets.route("/visit", accept=False)
    def visit(ws: Any) -> None:
        session["visits"] = session.get("visits", 0) + 1
        ws.accept(headers=[("X-Extra", "beside")])
        ws.send(str(session["visits"]))

    @sockets.route("/look")
    def look(ws: Any) -> None:
        ws.send(str(session.get("visits")))


def test_no_cookie_is_set_where_the_session_is_not_changed(app: Flask, sockets: Sockets, serve: Any) -> None:
    visits(sockets)
    client = RawClient(serve(app).address)
    with client:
        assert client.open("/look").set_cookies == []
        assert client.read_text() == "None"


def test_a_session_changed_before_the_accept_travels_in_the_101(app: Flask, sockets: Sockets, serve: Any) -> None:
    visits(sockets)
    served = serve(app)
    with served.client() as client:
        response = client.open("/visit")
        assert client.read_text() == "1"
    (cookie,) = response.set_cookies
    assert "HttpOnly" in cookie
    assert response.headers["x-extra"] == "beside"
    sent_back = cookie.split(";")[0]
    assert first_text(served, "/look", Cookie=sent_back) == "1"
    assert first_text(served, "/visit", Cookie=sent_back) == "2"


def test_a_session_changed_by_before_request_travels_in_the_101(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.before_request
    def change() -> None:
        session["seen"] = True

    sockets.route("/echo")(echo)
    with serve(app).client() as client:
        assert len(client.open("/echo").set_cookies) == 1


def test_a_session_changed_before_an_accept_by_first_use_travels_in_the_101(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    @sockets.route("/visit", accept=False)
    def visit(ws: Any) -> None:
        session["seen"] = True
        ws.send("hello")

    with serve(app).client() as client:
        assert len(client.open("/visit").set_cookies) == 1


def test_a_session_that_is_cleared_before_the_accept_deletes_its_cookie(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    visits(sockets)

    @sockets.route("/forget", accept=False)
    def forget(ws: Any) -> None:
        session.clear()

    served = serve(app)
    with served.client() as client:
        cookie = client.open("/visit").set_cookies[0].split(";")[0]
    with served.client() as client:
        (deletion,) = client.open("/forget", Cookie=cookie).set_cookies
    assert deletion.startswith("session=;")


def test_a_session_changed_before_a_refusal_travels_with_the_refusal(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/refuse", accept=False)
    def refuse(ws: Any) -> None:
        session["refused"] = True
        abort(403)

    response = answer(serve(app), "/refuse")
    assert response.status == 403
    assert len(response.set_cookies) == 1


def test_a_session_of_an_http_page_is_readable_in_a_websocket_view(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.route("/login")
    def login() -> str:
        session["user"] = "ada"
        return "welcome"

    @sockets.route("/who")
    def who(ws: Any) -> None:
        ws.send(session["user"])

    served = serve(app)
    (cookie,) = answer_to_plain(served, "/login").set_cookies
    assert first_text(served, "/who", Cookie=cookie.split(";")[0]) == "ada"


# The accept left to the view.


def test_a_view_refuses_by_abort(app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    @sockets.route("/refuse", accept=False)
    def refuse(ws: Any) -> None:
        assert ws.state is State.CONNECTING
        abort(403, "members only")

    response = answer(serve(app), "/refuse")
    assert response.status == 403
    assert b"members only" in response.body
    assert not tracebacks(caplog)


def test_a_view_refuses_by_abort_with_a_response_of_its_own(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/refuse", accept=False)
    def refuse(ws: Any) -> None:
        abort(Response("slow down", 429, {"Retry-After": "3"}))

    response = answer(serve(app), "/refuse")
    assert (response.status, response.body, response.headers["retry-after"]) == (429, b"slow down", "3")


def test_a_subprotocol_that_was_not_offered_is_an_error_before_the_101(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @sockets.route("/chat", accept=False)
    def chat(ws: Any) -> None:
        ws.accept(subprotocol="chat.v2")

    assert answer(serve(app), "/chat", Sec_WebSocket_Protocol="chat.v1").status == 500
    assert "did not offer the subprotocol 'chat.v2'" in str(only_traceback(caplog))


@pytest.mark.parametrize("accept", [True, False])
def test_a_second_accept_is_a_clear_error(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture, accept: bool
) -> None:
    @sockets.route("/twice", accept=accept)
    def twice(ws: Any) -> None:
        if not accept:
            ws.accept()
        ws.accept()

    with serve(app).client("/twice") as client:
        assert client.read_close() == 1011
    error = only_traceback(caplog)
    assert isinstance(error, InvalidState)
    assert "accept() is called once" in str(error)


def test_a_view_accepts_with_a_subprotocol_and_headers(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/chat", accept=False)
    def chat(ws: Any) -> None:
        ws.accept(subprotocol="chat.v1", headers=[("X-Room", "blue"), ("Set-Cookie", "a=b")])
        ws.send(ws.subprotocol)

    with serve(app).client() as client:
        response = client.open("/chat", Sec_WebSocket_Protocol="chat.v2, chat.v1")
        assert response.headers["sec-websocket-protocol"] == "chat.v1"
        assert response.headers["x-room"] == "blue"
        assert response.set_cookies == ["a=b"]
        assert client.read_text() == "chat.v1"


def test_a_view_accepts_by_first_use(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/echo", accept=False)(echo)
    with serve(app).client("/echo") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"


def test_what_another_server_answers_to_the_view_is_not_for_the_client(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @sockets.route("/view", accept=False)
    def view(ws: Any) -> None:
        raise HandshakeRefused("403 Forbidden", "refused by ws://internal", [("X-Internal", "1")], b"secret")

    response = answer(serve(app), "/view")
    assert response.status == 500
    assert "x-internal" not in response.headers
    assert b"ws://internal" not in response.body
    assert "refused by ws://internal" in str(only_traceback(caplog))


def test_a_view_that_returns_without_a_word_has_not_refused(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/nothing", accept=False)(lambda ws: None)
    with serve(app).client("/nothing") as client:
        assert client.read_close() == 1000


def test_a_view_that_returns_without_a_word_to_a_page_of_another_site_is_a_403(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    sockets.route("/nothing", accept=False)(lambda ws: None)
    assert answer(serve(app), "/nothing", Origin="https://evil.example").status == 403


def test_a_view_goes_on_with_a_connection_that_before_request_has_accepted(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.before_request
    def hook() -> None:
        request.environ["wsgi.websocket"].send("from the hook")

    sockets.route("/hello")(says("hello"))
    served = serve(app)
    with served.client("/hello") as client:
        assert client.read_text() == "from the hook"
        assert client.read_text() == "hello"
        assert closed_by_server(client) == 1000
    assert not tracebacks(caplog)


def test_the_handshake_is_answered_before_the_view_is_called(app: Flask, sockets: Sockets, serve: Any) -> None:
    states = []
    sockets.route("/state")(lambda ws: states.append(ws.state))
    with serve(app).client("/state") as client:
        assert client.read_close() == 1000
    assert states == [State.OPEN]


# Exceptions after the accept.


SWITCHES: list[dict[str, bool]] = [
    {},
    {"DEBUG": True},
    {"TESTING": True},
    {"PROPAGATE_EXCEPTIONS": True},
    {"PROPAGATE_EXCEPTIONS": False, "DEBUG": True},
    {"TRAP_HTTP_EXCEPTIONS": True},
]


@pytest.fixture(params=SWITCHES, ids=str)
def switched(app: Flask, request: pytest.FixtureRequest) -> Flask:
    """The application with each of the switches that change what Flask does with exceptions."""
    app.config.update(request.param)
    return app


def test_an_exception_is_logged_once_with_its_traceback_and_closes_1011(
    switched: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("after the accept")

    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise error

    served = serve(switched)
    with served.client("/fail") as client:
        assert closed_by_server(client) == 1011
    assert "101" in served.access_log()[0]
    assert only_traceback(caplog) is error


def test_an_abort_after_the_accept_is_logged_once_and_closes_1011(
    switched: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @sockets.route("/find")
    def find(ws: Any) -> None:
        abort(404)

    served = serve(switched)
    with served.client("/find") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert "404" in str(only_traceback(caplog))


@pytest.mark.parametrize("error", [KeyError("name"), HandshakeError("502 Bad Gateway", "another server's"), OSError(5)])
def test_an_exception_of_any_kind_after_the_accept_is_logged_and_closes_1011(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise error

    served = serve(app)
    with served.client("/fail") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert only_traceback(caplog) is error


def test_an_exception_after_the_accept_is_logged_even_if_an_error_handler_takes_it(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = KeyError("after the accept")
    app.errorhandler(Exception)(lambda error: ("nobody reads this", 500))

    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise error

    served = serve(app)
    with served.client("/fail") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert only_traceback(caplog) is error


def test_an_exception_in_before_request_after_its_own_accept_is_logged_and_closes_1011(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("in a hook")

    @app.before_request
    def hook() -> None:
        request.environ["wsgi.websocket"].send("from the hook")
        raise error

    sockets.route("/echo")(echo)
    served = serve(app)
    with served.client("/echo") as client:
        assert client.read_text() == "from the hook"
        assert closed_by_server(client) == 1011
    served.access_log()
    assert only_traceback(caplog) is error


def test_a_timeout_of_gevent_that_ends_the_view_is_logged_and_closes_1011(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @sockets.route("/slow")
    def slow(ws: Any) -> None:
        with gevent.Timeout(0.01):
            ws.receive()

    served = serve(app)
    with served.client("/slow") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert isinstance(only_traceback(caplog), gevent.Timeout)


def test_nothing_falls_through_to_http_after_an_exception(app: Flask, sockets: Sockets, serve: Any) -> None:
    called = []

    @app.route("/fail")
    def page() -> str:
        called.append("page")
        return "page"

    @app.errorhandler(Exception)
    def handler(error: Exception) -> Any:
        called.append("handler")
        return "an error page", 500

    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise KeyError("after the accept")

    with serve(app).client("/fail") as client:
        assert closed_by_server(client) == 1011
    assert "page" not in called


def test_an_exception_under_werkzeugs_debugger_closes_1011(
    app: Flask, sockets: Sockets, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise ValueError("after the accept")

    app.debug = True
    served = serve(DebuggedApplication(app, evalex=False))
    with served.client("/fail") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert capsys.readouterr().err.count("ValueError: after the accept") == 1


def test_a_view_that_finds_its_connection_closing_logs_nothing(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does when the server is being stopped: the peer has not answered yet."""

    @sockets.route("/closing")
    def closing(ws: Any) -> None:
        ws.start_closing(1001)
        ws.send("too late")

    served = serve(app)
    with served.client("/closing") as client:
        assert closed_by_server(client) == 1001
    served.access_log()
    assert not tracebacks(caplog)


def test_the_end_of_another_connection_that_ends_a_view_is_a_failure(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ConnectionClosed(4000, "another one")

    @sockets.route("/fail")
    def fail(ws: Any) -> None:
        raise error

    served = serve(app)
    with served.client("/fail") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert only_traceback(caplog) is error


def test_connection_closed_in_a_view_logs_nothing(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    @sockets.route("/push")
    def push(ws: Any) -> None:
        assert ws.receive() is None
        try:
            ws.send("too late")
        except ConnectionClosed as error:
            seen.append(error.code)
            raise

    served = serve(app)
    with served.client("/push") as client:
        assert client.close_handshake(4001) == 4001
    served.access_log()
    assert seen == [4001]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_peer_that_vanishes_logs_nothing(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @sockets.route("/push")
    def push(ws: Any) -> None:
        while True:
            ws.send("x" * 100_000)

    served = serve(app)
    client = served.client("/push")
    client.read_frame()
    client.reset()
    assert "close=1006" in served.access_log()[0]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# The end of a view.


@pytest.mark.parametrize("returned", [None, "text", ("no", 404), object(), b"bytes", {"json": 1}], ids=str)
def test_what_the_view_returns_is_ignored(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture, returned: object
) -> None:
    sockets.route("/return")(lambda ws: returned)
    served = serve(app)
    with served.client("/return") as client:
        assert closed_by_server(client) == 1000
    served.access_log()
    assert not tracebacks(caplog)


def test_a_view_closes_with_a_code_of_its_own(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/bye")(lambda ws: ws.close(4000, "enough"))
    with serve(app).client("/bye") as client:
        received = client.read_frame()
        assert received.payload == (4000).to_bytes(2, "big") + b"enough"
        client.send(frame(CLOSE, received.payload))
        assert client.at_end()


@pytest.mark.parametrize("fails", [False, True])
def test_the_teardown_functions_run_once_at_the_end(app: Flask, sockets: Sockets, serve: Any, fails: bool) -> None:
    events: list[str] = []
    app.teardown_request(lambda error: events.append(f"request {type(error).__name__}"))
    app.teardown_appcontext(lambda error: events.append(f"app {type(error).__name__}"))

    @sockets.route("/task")
    def work(ws: Any) -> None:
        for message in ws:
            events.append(message)
            ws.send(message)
        events.append("end")
        if fails:
            raise ValueError

    served = serve(app)
    with served.client("/task") as client:
        for text in ("one", "two"):
            client.send(frame(TEXT, text))
            assert client.read_text() == text
        assert events == ["one", "two"]
        client.close_handshake()
    served.access_log()
    kind = "ValueError" if fails else "NoneType"
    assert events == ["one", "two", "end", f"request {kind}", f"app {kind}"]


def test_after_request_cannot_write_into_the_stream(app: Flask, sockets: Sockets, serve: Any) -> None:
    @app.after_request
    def header(response: Response) -> Response:
        response.set_data("late")
        response.headers["X-Late"] = "1"
        return response

    sockets.route("/hello")(says("hello"))
    with serve(app).client("/hello") as client:
        assert client.read_text() == "hello"
        assert closed_by_server(client) == 1000


# A context for each message.


@pytest.fixture
def teardowns(app: Flask) -> list[BaseException | None]:
    """What the application's teardown functions were called with, in order."""
    calls: list[BaseException | None] = []
    app.teardown_appcontext(calls.append)
    return calls


def test_an_exception_in_the_middle_of_a_message_cleans_up_and_closes_1011(
    app: Flask,
    sockets: Sockets,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    teardowns: list[BaseException | None],
) -> None:
    error = ValueError("in the middle")

    @sockets.route("/task")
    def work(ws: Any) -> None:
        for _ in sockets.messages(ws):
            raise error

    served = serve(app)
    with served.client("/task") as client:
        client.send(frame(TEXT, "one"))
        assert closed_by_server(client) == 1011
    served.access_log()
    assert len(teardowns) == 3, "at the beginning, after the message, after the view"
    assert only_traceback(caplog) is error


def test_the_teardown_of_a_message_that_failed_is_told_why(
    app: Flask, sockets: Sockets, serve: Any, teardowns: list[BaseException | None]
) -> None:
    error = ValueError("in the middle")

    @sockets.route("/task")
    def work(ws: Any) -> None:
        for _ in sockets.messages(ws):
            raise error

    served = serve(app)
    with served.client("/task") as client:
        client.send(frame(TEXT, "one"))
        assert closed_by_server(client) == 1011
    served.access_log()
    assert teardowns[1:] == [error, error]


def test_an_abort_in_the_middle_of_a_message_cleans_up_and_closes_1011(
    app: Flask, sockets: Sockets, serve: Any, teardowns: list[BaseException | None]
) -> None:
    @sockets.route("/task")
    def work(ws: Any) -> None:
        for _ in sockets.messages(ws):
            abort(404)

    served = serve(app)
    with served.client("/task") as client:
        client.send(frame(TEXT, "one"))
        assert closed_by_server(client) == 1011
    served.access_log()
    assert len(teardowns) == 3


def test_a_peer_that_leaves_in_the_middle_of_a_message_cleans_up_and_logs_nothing(
    app: Flask,
    sockets: Sockets,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    teardowns: list[BaseException | None],
) -> None:
    @sockets.route("/push")
    def push(ws: Any) -> None:
        for _ in sockets.messages(ws):
            while True:
                ws.send("x" * 100_000)

    served = serve(app)
    client = served.client("/push")
    client.send(frame(TEXT, "go"))
    client.read_frame()
    client.reset()
    served.access_log()
    assert len(teardowns) == 3
    assert not tracebacks(caplog)


def test_the_teardown_runs_before_the_next_message_is_waited_for(
    app: Flask, sockets: Sockets, serve: Any, teardowns: list[BaseException | None]
) -> None:
    @sockets.route("/task")
    def work(ws: Any) -> None:
        for message in sockets.messages(ws):
            ws.send(f"{message} {len(teardowns)}")

    served = serve(app)
    with served.client("/task") as client:
        wait_until(lambda: teardowns == [None])
        for count, text in enumerate(("one", "two"), 1):
            client.send(frame(TEXT, text))
            assert client.read_text() == f"{text} {count}", "not in the middle of a message"
            wait_until(lambda count=count: len(teardowns) == count + 1)
        client.close_handshake()
    served.access_log()
    assert teardowns == [None] * 4


def test_what_the_view_has_used_before_its_messages_is_torn_down_first(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    open_sessions = []

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        if g.pop("db", None) is not None:
            open_sessions.pop()

    @app.before_request
    def load_user() -> None:
        g.db = "session"
        open_sessions.append(g.db)

    @sockets.route("/task")
    def work(ws: Any) -> None:
        for message in sockets.messages(ws):
            ws.send(message)

    with serve(app).client("/task"):
        wait_until(lambda: not open_sessions)


def test_each_message_has_a_g_of_its_own_and_the_request_of_the_handshake(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    @app.before_request
    def remember() -> None:
        g.old = "of the handshake"
        session["user"] = "ada"

    @sockets.route("/task/<int:room>")
    def work(ws: Any, room: int) -> None:
        for message in sockets.messages(ws):
            before = sorted(g)
            g.message = message
            ws.send(f"{before} {request.path} {session['user']} {current_app.name} {url_for('page', _external=False)}")

    @app.route("/page")
    def page() -> str:
        return "page"

    with serve(app).client("/task/3") as client:
        for text in ("one", "two"):
            client.send(frame(TEXT, text))
            said = client.read_text()
            assert said.startswith("[] /task/3 ada program ")
            assert said.endswith("/page")


def test_a_loop_left_by_break_has_its_context_left_with_the_view(
    app: Flask, sockets: Sockets, serve: Any, teardowns: list[BaseException | None]
) -> None:
    @sockets.route("/one")
    def one(ws: Any) -> None:
        for message in sockets.messages(ws):
            ws.send(message)
            break
        ws.send(current_app.name)

    served = serve(app)
    with served.client("/one") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.read_text() == "program"
        assert closed_by_server(client) == 1000
    served.access_log()
    assert teardowns == [None] * 3


def test_one_iterator_may_be_gone_on_with_after_its_first_message(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/login")
    def login(ws: Any) -> None:
        messages = sockets.messages(ws)
        name = next(messages)
        for message in messages:
            ws.send(f"{name} {message}")

    with serve(app).client("/login") as client:
        for text in ("ada", "one"):
            client.send(frame(TEXT, text))
        assert client.read_text() == "ada one"


def test_a_second_loop_leaves_the_context_of_the_first(
    app: Flask,
    sockets: Sockets,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    teardowns: list[BaseException | None],
) -> None:
    @sockets.route("/login")
    def login(ws: Any) -> None:
        for message in sockets.messages(ws):
            name = message
            break
        for message in sockets.messages(ws):
            ws.send(f"{name} {message} {len(teardowns)}")

    served = serve(app)
    with served.client("/login") as client:
        for text in ("ada", "one"):
            client.send(frame(TEXT, text))
        assert client.read_text().startswith("ada one ")
        assert client.close_handshake() == 1000
    served.access_log()
    assert not tracebacks(caplog)


def test_messages_accept_a_connection_that_was_left_to_the_view(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/task", accept=False)
    def work(ws: Any) -> None:
        for message in sockets.messages(ws):
            ws.send(message)

    with serve(app).client("/task") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"


def test_a_database_session_is_held_for_a_message_and_not_for_a_socket(
    app: Flask, sockets: Sockets, serve: Any, tmp_path: Any
) -> None:
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    from sqlalchemy import func, select, text

    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'orders.db'}"
    db = flask_sqlalchemy.SQLAlchemy(app)

    class Order(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        text = db.Column(db.String)

    with app.app_context():
        db.create_all()
        pool = db.engine.pool

    @app.before_request
    def look_up_the_user() -> None:
        db.session.execute(text("select 1"))

    @sockets.route("/orders")
    def orders(ws: Any) -> None:
        for message in sockets.messages(ws):
            db.session.add(Order(text=message))
            db.session.flush()
            if message == "nonsense":
                raise ValueError(message)
            db.session.commit()
            ws.send(str(db.session.scalar(select(func.count()).select_from(Order))))

    served = serve(app)
    try:
        with served.client("/orders") as client:
            wait_until(lambda: pool.checkedout() == 0)
            client.send(frame(TEXT, "one"))
            assert client.read_text() == "1"
            wait_until(lambda: pool.checkedout() == 0)
            client.send(frame(TEXT, "nonsense"))
            assert closed_by_server(client) == 1011
        served.access_log()
        assert pool.checkedout() == 0
        with served.client("/orders") as client:
            client.send(frame(TEXT, "two"))
            assert client.read_text() == "2", "what failed was rolled back"
    finally:
        pool.dispose()


# Blueprints.


@pytest.fixture
def chat() -> Blueprint:
    chat = Blueprint("chat", __name__)

    @chat.route("/rooms/<int:room>")
    def room(ws: Any, room: int, **values: Any) -> None:
        ws.send(f"{request.endpoint} {request.blueprint} {room} {values}")

    return chat


def test_a_blueprint_registered_twice_under_one_name_is_flasks_error_and_http_goes_on(
    app: Flask, sockets: Sockets, serve: Any, chat: Blueprint
) -> None:
    sockets.register_blueprint(chat)
    with pytest.raises(ValueError, match="'chat' is already registered"):
        sockets.register_blueprint(chat)

    @app.route("/page")
    def page() -> str:
        return "page"

    assert answer_to_plain(serve(app), "/page").body == b"page"


def test_an_http_request_to_a_rule_of_a_websocket_blueprint_is_a_bad_request(
    app: Flask, sockets: Sockets, serve: Any, chat: Blueprint
) -> None:
    sockets.register_blueprint(chat)
    assert answer_to_plain(serve(app), "/rooms/1").status == 400


def test_every_rule_of_a_registered_blueprint_is_a_websocket_rule(
    app: Flask, sockets: Sockets, serve: Any, chat: Blueprint
) -> None:
    sockets.register_blueprint(chat, url_prefix="/chat")
    served = serve(app)
    assert answer(served, "/rooms/1").status == 404
    assert first_text(served, "/chat/rooms/1") == "chat.room chat 1 {}"
    with app.test_request_context():
        assert url_for("chat.room", room=2) == "ws://localhost/chat/rooms/2"


def test_a_blueprint_may_be_registered_before_init_app(app: Flask, serve: Any, chat: Blueprint) -> None:
    sockets = Sockets()
    sockets.register_blueprint(chat, url_prefix="/chat")
    sockets.init_app(app)
    assert first_text(serve(app), "/chat/rooms/1") == "chat.room chat 1 {}"


def test_a_blueprint_goes_to_several_applications(serve: Any, chat: Blueprint) -> None:
    sockets = Sockets()
    sockets.register_blueprint(chat)
    for name in ("one", "two"):
        app = Flask(name)
        sockets.init_app(app)
        assert first_text(serve(app), "/rooms/1") == "chat.room chat 1 {}"


def test_the_prefix_slash_is_the_root(app: Flask, sockets: Sockets, serve: Any, chat: Blueprint) -> None:
    html = Blueprint("html", __name__)
    html.route("/")(lambda: "page")
    app.register_blueprint(html, url_prefix="/")
    sockets.register_blueprint(chat, url_prefix="/")
    served = serve(app)
    assert answer_to_plain(served, "/").body == b"page"
    assert first_text(served, "/rooms/1") == "chat.room chat 1 {}"


def test_the_prefix_of_the_blueprint_itself_holds(app: Flask, sockets: Sockets, serve: Any) -> None:
    chat = Blueprint("chat", __name__, url_prefix="/own")
    chat.route("/hello")(says("hello"))
    sockets.register_blueprint(chat)
    assert first_text(serve(app), "/own/hello") == "hello"


def test_one_blueprint_may_be_registered_twice_under_two_names(
    app: Flask, sockets: Sockets, serve: Any, chat: Blueprint
) -> None:
    sockets.register_blueprint(chat, url_prefix="/one")
    sockets.register_blueprint(chat, url_prefix="/two", name="second", url_defaults={"tone": "low"})
    served = serve(app)
    assert first_text(served, "/one/rooms/1") == "chat.room chat 1 {}"
    assert first_text(served, "/two/rooms/1") == "second.room second 1 {'tone': 'low'}"


def test_a_blueprint_may_be_registered_for_a_subdomain(serve: Any, chat: Blueprint) -> None:
    app = Flask("program", subdomain_matching=True)
    app.config["SERVER_NAME"] = "example.test"
    Sockets(app).register_blueprint(chat, subdomain="talk")
    served = serve(app)
    assert answer(served, "/rooms/1", Host="example.test").status == 404
    assert first_text(served, "/rooms/1", Host="talk.example.test") == "chat.room chat 1 {}"


def test_blueprints_nest(app: Flask, sockets: Sockets, serve: Any, chat: Blueprint) -> None:
    outer = Blueprint("outer", __name__)
    outer.before_request(lambda: ("closed", 401) if "closed" in request.args else None)
    outer.route("/hello")(says("hello"))
    outer.register_blueprint(chat, url_prefix="/inner")
    sockets.register_blueprint(outer, url_prefix="/outer")
    served = serve(app)
    assert answer(served, "/outer/inner/rooms/1?closed").status == 401
    assert first_text(served, "/outer/hello") == "hello"
    assert first_text(served, "/outer/inner/rooms/1") == "outer.chat.room outer.chat 1 {}"


def test_the_static_files_of_a_websocket_blueprint_remain_http(
    app: Flask, sockets: Sockets, serve: Any, tmp_path: Any
) -> None:
    (tmp_path / "script.js").write_text("let it = be;")
    chat = Blueprint("chat", __name__, static_folder=str(tmp_path), static_url_path="/files")
    chat.route("/hello")(says("hello"))
    sockets.register_blueprint(chat, url_prefix="/chat")
    served = serve(app)
    assert answer_to_plain(served, "/chat/files/script.js").body == b"let it = be;"
    assert first_text(served, "/chat/hello") == "hello"


@pytest.mark.parametrize("registrar", ["app", "sockets"])
def test_a_blueprint_may_hold_websocket_routes_with_options(
    app: Flask, sockets: Sockets, serve: Any, registrar: str
) -> None:
    chat = Blueprint("chat", __name__)

    @sockets.route("/refuse", blueprint=chat, accept=False)
    def refuse(ws: Any) -> None:
        abort(403)

    @sockets.route("/small", blueprint=chat, max_message_size=4, endpoint="little")
    def small(ws: Any) -> None:
        echo(ws)

    {"app": app, "sockets": sockets}[registrar].register_blueprint(chat, url_prefix="/chat")
    served = serve(app)
    assert answer(served, "/chat/refuse").status == 403
    with served.client("/chat/small") as client:
        client.send(frame(TEXT, "12345"))
        assert client.read_close() == 1009
    assert "chat.little" in app.view_functions


def test_routes_of_a_blueprint_keep_their_options_under_each_of_its_names(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    chat = Blueprint("chat", __name__)

    @sockets.route("/rooms/<int:room>", blueprint=chat, max_message_size=4, defaults={"tone": "low"})
    @sockets.route("/rooms", blueprint=chat, accept=False)
    def view(ws: Any, room: int = 0, tone: str = "") -> None:
        if ws.state is State.CONNECTING:
            abort(403)
        ws.send(f"{request.endpoint} {tone}")
        echo(ws)

    for name in ("one", "two"):
        app.register_blueprint(chat, name=name, url_prefix=f"/{name}")
    served = serve(app)
    for name in ("one", "two"):
        assert answer(served, f"/{name}/rooms").status == 403
        with served.client(f"/{name}/rooms/1") as client:
            assert client.read_text() == f"{name}.view low"
            client.send(frame(TEXT, "12345"))
            assert client.read_close() == 1009


def test_a_blueprint_may_mix_http_and_websocket_rules(app: Flask, sockets: Sockets, serve: Any) -> None:
    chat = Blueprint("chat", __name__)

    @chat.route("/room")
    def page() -> str:
        return url_for(".talk")

    sockets.route("/room", blueprint=chat, endpoint="talk")(says("hello"))
    app.register_blueprint(chat, url_prefix="/chat")
    served = serve(app)
    assert answer_to_plain(served, "/chat/room").body == b"ws://localhost/chat/room"
    assert first_text(served, "/chat/room") == "hello"


def test_http_blueprints_registered_afterwards_remain_http(
    app: Flask, sockets: Sockets, serve: Any, chat: Blueprint
) -> None:
    sockets.register_blueprint(chat)
    html = Blueprint("html", __name__)
    html.route("/page")(lambda: "page")
    app.register_blueprint(html)
    assert answer_to_plain(serve(app), "/page").body == b"page"


# Options.


def test_a_key_of_the_configuration_that_is_no_option_is_a_clear_error(app: Flask) -> None:
    app.config["GEVENTWS_MAX_MESAGE_SIZE"] = 5
    with pytest.raises(ValueError, match=r"GEVENTWS_MAX_MESAGE_SIZE is not an option.*max_message_size"):
        Sockets(app)


def test_a_value_of_the_configuration_out_of_range_is_a_clear_error(app: Flask) -> None:
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = "large"
    with pytest.raises(ValueError, match="max_message_size must be a whole number"):
        Sockets(app)


def test_a_wrong_key_set_after_init_app_refuses_the_handshake_and_says_why_in_the_log(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sockets.route("/echo")(echo)
    app.config["GEVENTWS_MAX_MESAGE_SIZE"] = 5
    assert answer(serve(app), "/echo").status == 500
    assert "GEVENTWS_MAX_MESAGE_SIZE is not an option" in str(only_traceback(caplog))


def limit(served: Any, path: str) -> int:
    """The size of the largest message that passes, among 4, 8 and 16 bytes."""
    with served.client(path) as client:
        for size in (4, 8, 16, 32):
            client.send(frame(TEXT, "x" * size))
            if client.read_frame().opcode == CLOSE:
                return size // 2
    raise AssertionError("there is no limit")


def test_options_come_from_the_server_then_the_configuration_then_the_route(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    sockets.route("/echo")(echo)
    sockets.route("/small", endpoint="small", max_message_size=4)(echo)
    served = serve(app, max_message_size=16)
    assert limit(served, "/echo") == 16
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 8
    assert limit(served, "/echo") == 8
    assert limit(served, "/small") == 4


def test_a_list_in_the_configuration_may_grow_later(app: Flask, sockets: Sockets, serve: Any) -> None:
    app.config["GEVENTWS_ORIGINS"] = hosts = ["friends.example"]
    sockets.route("/hello")(says("hello"))
    served = serve(app)
    assert first_text(served, "/hello", Origin="https://friends.example") == "hello"
    assert answer(served, "/hello", Origin="https://new.example").status == 403
    hosts.append("new.example")
    assert first_text(served, "/hello", Origin="https://new.example") == "hello"


def test_a_page_of_another_site_is_refused_with_a_body_that_says_why(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    called = []
    sockets.route("/echo")(called.append)
    response = answer(serve(app), "/echo", Origin="https://evil.example")
    assert response.status == 403
    assert response.headers["content-type"].startswith("text/plain")
    assert b"https://evil.example" in response.body
    assert b"origins" in response.body
    assert not called
    assert not tracebacks(caplog)


def test_a_page_of_another_site_is_refused_when_the_view_accepts(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/echo", accept=False)
    def view(ws: Any) -> None:
        ws.accept()

    response = answer(serve(app), "/echo", Origin="https://evil.example")
    assert response.status == 403
    assert b"https://evil.example" in response.body


def test_a_page_of_the_same_site_is_let_in(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/hello")(says("hello"))
    assert first_text(serve(app), "/hello", Origin="http://localhost") == "hello"


def test_origins_are_set_for_a_route_and_in_the_configuration(app: Flask, sockets: Sockets, serve: Any) -> None:
    app.config["GEVENTWS_ORIGINS"] = ["*.friends.example"]
    sockets.route("/hello")(says("hello"))
    sockets.route("/public", endpoint="public", origins="*")(says("public"))
    served = serve(app)
    assert answer(served, "/hello", Origin="https://evil.example").status == 403
    assert first_text(served, "/hello", Origin="https://www.friends.example") == "hello"
    assert first_text(served, "/public", Origin="https://evil.example") == "public"


def test_subprotocols_are_chosen_by_the_route(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/chat", subprotocols=["chat.v2", "chat.v1"])(lambda ws: ws.send(str(ws.subprotocol)))
    served = serve(app)
    assert first_text(served, "/chat", Sec_WebSocket_Protocol="chat.v3") == "None"
    assert first_text(served, "/chat", Sec_WebSocket_Protocol="chat.v1, chat.v2") == "chat.v2"


def test_compression_is_switched_on_by_the_configuration_and_off_by_the_route(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    app.config["GEVENTWS_COMPRESSION"] = True
    sockets.route("/echo")(echo)
    sockets.route("/plain", endpoint="plain", compression=False)(echo)
    served = serve(app)
    for path, compressed in (("/plain", False), ("/echo", True)):
        with served.client() as client:
            response = client.open(path, Sec_WebSocket_Extensions="permessage-deflate")
            assert ("sec-websocket-extensions" in response.headers) == compressed


# What Flask programs do besides.


def test_an_async_view_without_asgiref_is_flasks_clear_error(
    app: Flask, sockets: Sockets, serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asgiref", None)
    monkeypatch.setitem(sys.modules, "asgiref.sync", None)

    @sockets.route("/later")
    async def later(ws: Any) -> None:
        ws.send("never")

    served = serve(app)
    with served.client() as client:
        client.send(opening_request("/later"))
        response = client.read_response()
        assert response.status == 500 or client.read_close() == 1011
    served.access_log()
    assert "Install Flask with the 'async' extra" in str(only_traceback(caplog))


def test_another_greenlet_sends_with_a_copy_of_the_request_context(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/clock/<name>")
    def clock(ws: Any, name: str) -> None:
        @copy_current_request_context
        def tick() -> None:
            for count in range(3):
                ws.send(f"{request.path} {count}")

        gevent.spawn(tick).join()
        for message in ws:
            ws.send(message)

    with serve(app).client("/clock/a") as client:
        assert [client.read_text() for _ in range(3)] == [f"/clock/a {count}" for count in range(3)]
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"


def test_an_http_view_sends_to_a_websocket_that_another_view_waits_on(app: Flask, sockets: Sockets, serve: Any) -> None:
    members = set()

    @sockets.route("/news")
    def news(ws: Any) -> None:
        members.add(ws)
        try:
            for _ in ws:
                pass
        finally:
            members.discard(ws)

    @app.route("/tell/<text>")
    def tell(text: str) -> str:
        for ws in members:
            ws.send(text)
        return str(len(members))

    served = serve(app)
    with served.client("/news") as client:
        wait_until(lambda: members)
        assert answer_to_plain(served, "/tell/hello").body == b"1"
        assert client.read_text() == "hello"
    wait_until(lambda: not members)


def test_an_application_may_be_mounted_below_a_path(app: Flask, sockets: Sockets, serve: Any) -> None:
    @sockets.route("/where")
    def where(ws: Any) -> None:
        ws.send(f"{request.script_root} {request.path} {ws.path} {url_for('where', _external=True)}")

    served = serve(DispatcherMiddleware(Flask("root"), {"/mounted": app}))
    assert answer(served, "/where").status == 404
    assert first_text(served, "/mounted/where") == "/mounted /where /where ws://localhost/mounted/where"


def behind_proxy(app: Flask) -> Flask:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)
    return app


FORWARDED = {
    "X_Forwarded_For": "203.0.113.9",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "public.example",
}


def test_a_page_of_another_site_is_refused_behind_a_proxy(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/echo")(echo)
    served = serve(behind_proxy(app))
    assert answer(served, "/echo", **FORWARDED, Origin="https://evil.example").status == 403


def test_a_page_of_the_same_site_is_let_in_behind_a_proxy(app: Flask, sockets: Sockets, serve: Any) -> None:
    sockets.route("/hello")(says("hello"))
    served = serve(behind_proxy(app))
    assert first_text(served, "/hello", **FORWARDED, Origin="https://public.example") == "hello"


def test_a_view_behind_a_proxy_knows_the_clients_address_and_its_own_url(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    @sockets.route("/who")
    def who(ws: Any) -> None:
        ws.send(f"{request.remote_addr} {ws.remote_address[0]} {url_for('who', _external=True)}")

    said = first_text(serve(behind_proxy(app)), "/who", **FORWARDED)
    assert said == "203.0.113.9 203.0.113.9 wss://public.example/who"


def test_a_server_without_websockets_gives_a_clear_error_in_the_log_and_none_to_the_client(
    app: Flask, sockets: Sockets, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "_warned", set())
    sockets.route("/echo")(echo)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with app.test_client().get("/echo", headers=upgrade) as response:
        assert response.status_code == 501
        assert b"Traceback" not in response.data
        assert b"geventws" not in response.data
    assert "does not carry WebSockets" in caplog.text
    assert "python -m geventws serve" in caplog.text


def test_what_waits_for_the_end_of_the_response_is_told_when_the_view_has_returned(
    app: Flask, sockets: Sockets, serve: Any
) -> None:
    told: list[str] = []

    @app.after_request
    def after(response: Any) -> Any:
        told.append(f"{response.status} {response.mimetype}")
        response.call_on_close(lambda: told.append("closed"))
        return response

    @sockets.route("/view")
    def view(ws: Any) -> None:
        ws.send("hello")
        told.append("view")

    assert first_text(serve(app), "/view") == "hello"
    wait_until(lambda: told == ["view", "200 OK text/html", "closed"])


def test_a_program_that_puts_its_wsgi_app_back_gets_it_wrapped_again(app: Flask) -> None:
    Sockets(app)
    once = app.wsgi_app
    Sockets(app)
    assert app.wsgi_app is once
    del vars(app)["wsgi_app"]
    Sockets(app)
    assert app.wsgi_app != Flask.wsgi_app.__get__(app)


def test_a_wsgi_app_with_a_middleware_of_ours_is_left_as_it_is(app: Flask) -> None:
    app.wsgi_app = theirs = WebSocketMiddleware(app.wsgi_app, max_message_size=100)  # type: ignore[method-assign]
    Sockets(app)
    assert app.wsgi_app is theirs


def test_a_view_may_be_whatever_can_be_called(app: Flask, sockets: Sockets) -> None:
    class Named:
        __name__ = 5  # As proxies and mocks may have it.

        def __call__(self, ws: Any) -> None:
            ws.send("called")

    sockets.add_url_rule("/named", "named", Named())
    with connect(app, "/named") as ws:
        assert ws.receive() == "called"


def test_options_that_change_are_obeyed_by_the_next_connection(app: Flask, sockets: Sockets) -> None:
    tenants = {1: "https://a.example"}
    app.config["GEVENTWS_ORIGINS"] = tenants.values()
    sockets.add_url_rule("/", "view", says("hi"))
    with connect(app, "/", origin="https://a.example") as ws:
        assert ws.receive() == "hi"
    tenants.clear()
    with pytest.raises(Refused, match="403"):
        connect(app, "/", origin="https://a.example")
