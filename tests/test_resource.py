"""`Resource`, `WebSocketApplication` and `BaseProtocol`: the class-based way, as programs for gevent-websocket use it."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from rawclient import CLOSE, TEXT, RawClient, close_frame, frame
from rawclient import request as opening_request
from waiting import wait_until

from geventws import ConnectionClosed, WebSocketServer
from geventws.protocols.base import BaseProtocol
from geventws.resource import Resource, WebSocketApplication

PLAIN = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"page"]


def says(text: str) -> type[WebSocketApplication]:
    """An application that sends `text` when it is opened."""

    class Speaker(WebSocketApplication):
        def on_open(self) -> None:
            self.ws.send(text)

    return Speaker


def recorder() -> tuple[type[WebSocketApplication], list[Any]]:
    """An application that notes what it is told, and the notes."""
    events: list[Any] = []

    class Recorder(WebSocketApplication):
        def on_open(self) -> None:
            events.append("open")

        def on_message(self, message: Any) -> None:
            events.append(message)

        def on_close(self, reason: Any) -> None:
            events.append(("close", reason))

    return Recorder, events


def answer(served: Any, path: str, **fields: str) -> Any:
    """The HTTP response to an opening handshake."""
    with served.client() as client:
        client.send(opening_request(path, **fields))
        return client.read_response()


def answer_to_plain(served: Any, path: str) -> Any:
    """The response to an ordinary GET."""
    with served.client() as client:
        client.send(opening_request(path, drop=PLAIN))
        return client.read_response()


def first_text(served: Any, path: str) -> str:
    with served.client() as client:
        client.open(path)
        text: str = client.read_text()
        return text


def closed_by_server(client: RawClient) -> int | None:
    """The code of the Close frame that comes next, whose closing handshake is then completed."""
    code = client.read_close()
    client.send(close_frame(code))
    assert client.at_end()
    return code


# Which application is picked.


@pytest.mark.parametrize("apps", [5, object()], ids=["number", "object"])
def test_what_is_no_list_of_applications_is_a_type_error(apps: Any) -> None:
    with pytest.raises(TypeError):
        Resource(apps)


@pytest.mark.parametrize("apps", [None, [], {}], ids=repr)
def test_without_applications_everything_is_answered_404(serve: Any, apps: Any) -> None:
    served = serve(Resource(apps))
    assert answer(served, "/").status == 404
    assert answer_to_plain(served, "/").status == 404


def test_where_nothing_matches_the_answer_is_404_and_nothing_is_logged(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(Resource([("^/chat", says("chat")), ("^/page", page)]))
    response = answer(served, "/nowhere")
    assert response.status == 404
    assert b"/nowhere" in response.body
    assert answer_to_plain(served, "/nowhere").status == 404
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_websocket_request_does_not_match_a_wsgi_application(serve: Any) -> None:
    assert answer(serve(Resource([("^/", page)])), "/").status == 404


def test_a_plain_request_does_not_match_a_websocket_application(serve: Any) -> None:
    assert answer_to_plain(serve(Resource([("^/", says("chat"))])), "/").status == 404


def test_a_pattern_matches_at_the_beginning_of_the_path_only(serve: Any) -> None:
    served = serve(Resource([("/chat", says("chat"))]))
    assert answer(served, "/old/chat").status == 404
    assert first_text(served, "/chat/room") == "chat"


def test_the_first_pattern_that_matches_wins(serve: Any) -> None:
    served = serve(Resource([("^/chat/special", says("special")), ("^/chat", says("chat")), ("^/", says("root"))]))
    assert first_text(served, "/chat/special") == "special"
    assert first_text(served, "/chat/other") == "chat"
    assert first_text(served, "/other") == "root"


def test_the_first_pattern_of_the_right_kind_wins(serve: Any) -> None:
    served = serve(Resource([("^/both", says("socket")), ("^/both", page)]))
    assert answer_to_plain(served, "/both").body == b"page"
    assert first_text(served, "/both") == "socket"


@pytest.mark.parametrize("kind", [dict, OrderedDict, tuple, iter], ids=lambda kind: kind.__name__)
def test_applications_come_as_a_dict_or_as_pairs_of_any_kind(serve: Any, kind: Any) -> None:
    served = serve(Resource(kind([("^/chat", says("chat")), ("^/", page)])))
    assert first_text(served, "/chat") == "chat"
    assert answer_to_plain(served, "/").body == b"page"


def test_a_factory_is_picked_where_the_resource_says_that_it_is_one(serve: Any) -> None:
    class Room(WebSocketApplication):
        def __init__(self, ws: Any, name: str) -> None:
            super().__init__(ws)
            self.name = name

        def on_open(self) -> None:
            self.ws.send(self.name)

    class Rooms(Resource):
        def _is_websocket_app(self, app: Any) -> bool:
            return isinstance(app, functools.partial) or super()._is_websocket_app(app)

    served = serve(Rooms([("^/blue", functools.partial(Room, name="blue")), ("^/chat", says("chat")), ("^/", page)]))
    assert first_text(served, "/blue") == "blue"
    assert first_text(served, "/chat") == "chat"
    assert answer_to_plain(served, "/blue").body == b"page"


def test_a_wsgi_application_gets_the_environ_as_it_is(serve: Any) -> None:
    def show(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", str(len(environ["PATH_INFO"])))])
        return [environ["PATH_INFO"].encode()]

    assert answer_to_plain(serve(Resource({"^/page": show})), "/page/one").body == b"/page/one"


# The life of an application.


def test_an_exception_in_on_message_is_logged_once_and_closes_1011(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("on a message")
    closes: list[Any] = []

    class Failing(WebSocketApplication):
        def on_message(self, message: Any) -> None:
            raise error

        def on_close(self, reason: Any) -> None:
            closes.append(reason)

    served = serve(Resource([("^/", Failing)]))
    with served.client("/") as client:
        client.send(frame(TEXT, "hello"))
        assert closed_by_server(client) == 1011
    served.access_log()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert closes == [None]


def test_on_close_is_called_even_if_on_open_failed(serve: Any) -> None:
    closes: list[Any] = []

    class Failing(WebSocketApplication):
        def on_open(self) -> None:
            self.ws.accept()
            raise ValueError("on opening")

        def on_close(self, reason: Any) -> None:
            closes.append(reason)

    served = serve(Resource([("^/", Failing)]))
    with served.client("/") as client:
        assert closed_by_server(client) == 1011
    served.access_log()
    assert closes == [None]


def test_a_peer_that_is_gone_while_on_open_sends_is_no_error(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    closes: list[Any] = []

    class Greeting(WebSocketApplication):
        def on_open(self) -> None:
            while True:
                self.ws.send("x" * 100_000)

        def on_close(self, reason: Any) -> None:
            closes.append(reason)

    served = serve(Resource([("^/", Greeting)]))
    client = served.client("/")
    client.read_frame()
    client.reset()
    served.access_log()
    assert len(closes) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_peer_that_is_gone_while_on_message_sends_is_no_error(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    closes: list[Any] = []

    class Flood(WebSocketApplication):
        def on_message(self, message: Any) -> None:
            while True:
                self.ws.send("x" * 100_000)

        def on_close(self, reason: Any) -> None:
            closes.append(reason)

    served = serve(Resource([("^/", Flood)]))
    client = served.client("/")
    client.send(frame(TEXT, "go"))
    client.read_frame()
    client.reset()
    served.access_log()
    assert len(closes) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_none_is_not_given_to_on_message_when_the_peer_leaves(serve: Any) -> None:
    application, events = recorder()
    with serve(Resource([("^/", application)])).client("/") as client:
        client.send(frame(TEXT, "hello"))
        client.close_handshake()
    wait_until(lambda: len(events) == 3)
    assert events == ["open", "hello", ("close", None)]


def test_on_close_is_told_the_reason_that_the_peer_gave(serve: Any) -> None:
    application, events = recorder()
    with serve(Resource([("^/", application)])).client("/") as client:
        client.send(close_frame(4001, "enough"))
        received = client.read_frame()
        assert (received.opcode, received.payload[:2]) == (CLOSE, (4001).to_bytes(2, "big"))
    wait_until(lambda: len(events) == 2)
    assert events == ["open", ("close", "enough")]


def test_on_close_is_called_when_tcp_just_ends(serve: Any) -> None:
    application, events = recorder()
    serve(Resource([("^/", application)])).client("/").reset()
    wait_until(lambda: len(events) == 2)
    assert events == ["open", ("close", None)]


def test_on_close_finds_the_websocket_closed(serve: Any) -> None:
    seen: list[Any] = []

    class Application(WebSocketApplication):
        def on_close(self, reason: Any) -> None:
            seen.append((self.ws.closed, self.ws.close_code))
            with pytest.raises(ConnectionClosed):
                self.ws.send("too late")

    served = serve(Resource([("^/", Application)]))
    with served.client("/") as client:
        client.close_handshake(4001)
    served.access_log()
    assert seen == [(True, 4001)]


def test_an_application_that_overrides_nothing_is_an_echo(serve: Any) -> None:
    with serve(Resource([("^/", WebSocketApplication)])).client("/") as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "hello"
        assert client.close_handshake() == 1000


def test_an_application_closes_its_websocket(serve: Any) -> None:
    class Goodbye(WebSocketApplication):
        def on_message(self, message: Any) -> None:
            self.ws.close(4000, message)

    with serve(Resource([("^/", Goodbye)])).client("/") as client:
        client.send(frame(TEXT, "bye"))
        received = client.read_frame()
        assert received.payload == (4000).to_bytes(2, "big") + b"bye"
        client.send(frame(CLOSE, received.payload))
        assert client.at_end()


def test_the_websocket_knows_its_application(serve: Any) -> None:
    class Application(WebSocketApplication):
        def on_open(self) -> None:
            self.ws.send(str(self.ws.current_app is self))

    assert first_text(serve(Resource([("^/", Application)])), "/") == "True"


@pytest.mark.parametrize("plain_server", [True, False], ids=["WSGIServer", "WebSocketServer"])
def test_applications_reach_each_other_over_the_servers_clients(serve: Any, plain_server: bool) -> None:
    class Chat(WebSocketApplication):
        def on_open(self) -> None:
            self.ws.handler.active_client.nickname = self.ws.path

        def on_message(self, message: Any) -> None:
            sender = self.ws.handler.active_client.nickname
            for client in self.ws.handler.server.clients.values():
                client.ws.send(f"{client.address[0]} {client.nickname}: {sender} says {message}")

    arguments = {} if plain_server else {"server_class": WebSocketServer}
    served = serve(Resource({"^/": Chat}), **arguments)
    with served.client("/ada") as ada, served.client("/bob") as bob:
        wait_until(lambda: len(served.server.clients) == 2)
        ada.send(frame(TEXT, "hello"))
        assert ada.read_text() == "127.0.0.1 /ada: /ada says hello"
        assert bob.read_text() == "127.0.0.1 /bob: /ada says hello"
    wait_until(lambda: not served.server.clients)


# Protocols.


class Greeting(BaseProtocol):
    """A message protocol that says more than its application does, and hears less."""

    PROTOCOL_NAME = "greeting"

    def on_open(self) -> None:
        super().on_open()
        self.app.ws.send(f"protocol {self.handler is self.app.ws.handler} {self.server is self.handler.server}")

    def on_message(self, message: Any) -> None:
        super().on_message(message.upper())


class Polite(WebSocketApplication):
    protocol_class = Greeting

    def on_open(self) -> None:
        self.ws.accept()
        self.ws.send(f"application {self.ws.subprotocol} {type(self.protocol).__name__}")


def test_a_subprotocol_that_the_client_does_not_offer_is_not_chosen(serve: Any) -> None:
    served = serve(Resource([("^/", Polite)]))
    with served.client() as client:
        assert "sec-websocket-protocol" not in client.open("/", Sec_WebSocket_Protocol="greetings").headers
        assert client.read_text() == "application None Greeting"


def test_a_path_without_a_websocket_application_has_no_subprotocol() -> None:
    resource = Resource([("^/polite", Polite), ("^/plain", page), ("^/", WebSocketApplication)])
    assert resource.app_protocol("/plain") == ""
    assert resource.app_protocol("/") == ""
    assert Resource([("^/polite", Polite)]).app_protocol("/nowhere") == ""


def test_the_protocol_class_names_the_subprotocol_of_the_handshake(serve: Any) -> None:
    resource = Resource([("^/polite", Polite), ("^/", WebSocketApplication)])
    assert resource.app_protocol("/polite") == Polite.protocol_name() == "greeting"
    served = serve(resource)
    with served.client() as client:
        response = client.open("/polite", Sec_WebSocket_Protocol="other, greeting")
        assert response.headers["sec-websocket-protocol"] == "greeting"
        assert client.read_text() == "application greeting Greeting"
    with served.client() as client:
        assert "sec-websocket-protocol" not in client.open("/", Sec_WebSocket_Protocol="greeting").headers


def test_an_application_may_name_its_subprotocol_itself(serve: Any) -> None:
    class Named(WebSocketApplication):
        @classmethod
        def protocol_name(cls) -> str:
            return "named.v1"

    with serve(Resource([("^/", Named)])).client() as client:
        response = client.open("/", Sec_WebSocket_Protocol="named.v1")
        assert response.headers["sec-websocket-protocol"] == "named.v1"


def test_the_protocol_stands_between_the_websocket_and_the_application(serve: Any) -> None:
    with serve(Resource([("^/", Polite)])).client("/") as client:
        assert client.read_text().startswith("application")
        assert client.read_text() == "protocol True True"
        client.send(frame(TEXT, "hello"))
        assert client.read_text() == "HELLO"


def test_a_protocol_without_an_application_is_a_clear_error() -> None:
    protocol = BaseProtocol(None)
    with pytest.raises(RuntimeError, match="no application"):
        protocol.on_open()


def test_a_protocol_without_a_connection_has_no_handler_and_no_server() -> None:
    for application in (SimpleNamespace(), SimpleNamespace(ws=None)):
        protocol = BaseProtocol(application)
        assert protocol.handler is None
        assert protocol.server is None


def test_a_protocol_hands_every_event_to_its_application() -> None:
    application, events = recorder()
    protocol = BaseProtocol(application(None))
    protocol.on_open()
    protocol.on_message("hello")
    protocol.on_close("enough")
    protocol.on_close()
    assert events == ["open", "hello", ("close", "enough"), ("close", None)]
