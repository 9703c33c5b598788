"""`geventws.compat`: unchanged programs that import geventwebsocket or flask_sockets, and Flask-SocketIO, on geventws.

Each program runs in a process of its own, as what is imported there stays imported. The programs of Socket.IO are those of
Flask-SocketIO's documentation, and their clients are python-socketio's, and one that looks at the frames.
"""

from __future__ import annotations

import functools
import json
import os
import queue
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import websocket
from waiting import missing

import geventws

PATIENCE = 30  # seconds until something has to come

INSTALL = "import geventws.compat\ngeventws.compat.install()\n"


def environ() -> dict[str, str]:
    """The environment of a program: it imports the geventws that the tests import."""
    paths = [str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], list[str]]:
    """Run a program, which has to end well; gives the lines that it prints."""

    def run(text: str) -> list[str]:
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(text))
        line = [sys.executable, "-W", "error", "-W", "ignore::SyntaxWarning", str(program)]
        ended = subprocess.run(line, env=environ(), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    return run


def require(module: str, component: str) -> None:
    if find_spec(module) is None:
        missing(component)


def require_worker() -> None:
    require("gunicorn", "gunicorn")
    if find_spec("geventws.servers") is None or find_spec("geventws.servers.gunicorn") is None:
        missing("geventws.servers.gunicorn")


# Too late.


def test_it_is_an_error_when_the_package_itself_has_been_imported_already(python: Any) -> None:
    require("geventwebsocket", "gevent-websocket")
    lines = python("""
        import warnings
        warnings.simplefilter("ignore")
        import geventwebsocket.handler
        import geventws.compat

        for _ in range(2):
            try:
                geventws.compat.install()
            except RuntimeError as error:
                print(error)
        import geventwebsocket.resource
        print(geventwebsocket.resource.Resource.__module__)
    """)
    assert lines[0] == lines[1]
    assert "geventwebsocket has been imported already, from " in lines[0]
    assert "geventwebsocket/__init__.py: call geventws.compat.install() at the top" in lines[0]
    assert "python -m geventws serve --compat" in lines[0]
    # It has not been tampered with.
    assert lines[2] == "geventwebsocket.resource"


def test_it_is_an_error_when_flask_sockets_has_been_imported_already(python: Any, tmp_path: Path) -> None:
    (tmp_path / "flask_sockets.py").write_text("")
    (line,) = python("""
        import flask_sockets
        import geventws.compat

        try:
            geventws.compat.install()
        except RuntimeError as error:
            print(error)
    """)
    assert line.startswith(f"flask_sockets has been imported already, from {tmp_path}/flask_sockets.py: call ")


def test_it_is_an_error_when_engine_io_has_looked_for_it_in_vain(python: Any) -> None:
    require("engineio", "Flask-SocketIO")
    (line,) = python("""
        import sys
        sys.modules["geventwebsocket"] = None       # as where it is not installed
        from flask import Flask
        from flask_socketio import SocketIO
        SocketIO(Flask(__name__), async_mode="gevent")
        del sys.modules["geventwebsocket"]
        import geventws.compat

        try:
            geventws.compat.install()
        except RuntimeError as error:
            print(error)
    """)
    assert line.startswith("Engine.IO has looked for geventwebsocket already, and there was none: call ")


@pytest.mark.parametrize("name", ["geventwebsocket.protocols.wamp", "geventwebsocket.utf8validator"])
def test_what_has_no_counterpart_says_so_and_the_installed_package_is_not_mixed_in(python: Any, name: str) -> None:
    (line,) = python(f"""
        {INSTALL.replace(chr(10), "; ")}
        try:
            import {name}
        except ModuleNotFoundError as error:
            print(error.name, error)
    """)
    assert line.startswith(f"{name} No module named {name!r}: geventws.compat.install() has put geventws in the place")


# The modules.


def test_the_modules_are_geventws_s_own(python: Any) -> None:
    lines = python(f"""
        {INSTALL.replace(chr(10), "; ")}
        import importlib

        for name in ("handler", "websocket", "exceptions", "server", "resource", "logging", "protocols", "protocols.base"):
            old = importlib.import_module("geventwebsocket." + name)
            new = importlib.import_module("geventws." + name)
            print(name, old is new, new.__spec__.name)
    """)
    names = ["handler", "websocket", "exceptions", "server", "resource", "logging", "protocols", "protocols.base"]
    assert lines == [f"{name} True geventws.{name}" for name in names]


def test_the_names_of_the_package_are_there_as_programs_use_them(python: Any) -> None:
    lines = python(f"""
        {INSTALL.replace(chr(10), "; ")}
        import os
        import geventwebsocket
        import geventws
        from geventwebsocket import Resource, WebSocketApplication, WebSocketError, WebSocketServer

        print(geventwebsocket.handler.WebSocketHandler is geventws.WebSocketHandler)
        print(geventwebsocket.WebSocketServer is geventws.WebSocketServer, Resource is geventws.Resource)
        print(geventwebsocket.get_version(), geventwebsocket.__version__, geventwebsocket.VERSION)
        print(os.path.dirname(geventwebsocket.__file__) == os.path.dirname(geventws.__file__))
    """)
    assert lines == ["True", "True True", "0.10.1 0.10.1 (0, 10, 1, 'final', 0)", "True"]


def test_it_can_be_asked_whether_they_are_importable_and_nothing_is_imported_before(python: Any) -> None:
    lines = python(f"""
        {INSTALL.replace(chr(10), "; ")}
        import sys
        from importlib.util import find_spec

        geventws.compat.install()
        print(sum(type(finder).__module__ == "geventws.compat" for finder in sys.meta_path))
        for name in ("geventwebsocket", "flask_sockets", "geventwebsocket.gunicorn.workers"):
            print(find_spec(name).name)
        print([name for name in ("flask", "werkzeug", "gunicorn", "engineio") if name in sys.modules])
        print(find_spec("geventwebsockets"), find_spec("flask_socket"))
        import geventwebsocket.handler
        print(find_spec("geventwebsocket").name, find_spec("geventwebsocket.handler").name)
        from flask_sockets import Sockets
        print("flask" in sys.modules, "gunicorn" in sys.modules, Sockets.__module__)
    """)
    assert lines == [
        "1",
        "geventwebsocket",
        "flask_sockets",
        "geventwebsocket.gunicorn.workers",
        "[]",
        "None None",
        "geventwebsocket geventws.handler",
        "True False geventws.flask",
    ]


def test_the_worker_for_gunicorn_is_imported_when_it_is_asked_for(python: Any) -> None:
    require_worker()
    lines = python(f"""
        {INSTALL.replace(chr(10), "; ")}
        import flask_sockets
        from geventwebsocket.gunicorn.workers import GeventWebSocketWorker

        print(GeventWebSocketWorker.__module__, flask_sockets.worker is GeventWebSocketWorker)
        print(hasattr(flask_sockets, "nothing"))
    """)
    assert lines == ["geventws.servers.gunicorn True", "False"]


# Programs, running.


class Running:
    """A program in a process of its own, which prints where it serves."""

    def __init__(self, line: list[str], directory: Path) -> None:
        self._log = directory / "stderr.txt"
        with self._log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *line], cwd=directory, env=environ(), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().rpartition("://")[2]
        if not self.address:
            self.end()
            pytest.fail(self.errors)

    @property
    def errors(self) -> str:
        return self._log.read_text()

    def connect(self, path: str, **options: Any) -> websocket.WebSocket:
        return websocket.create_connection(f"ws://{self.address}{path}", timeout=PATIENCE, **options)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text

    def end(self) -> None:
        try:
            self.process.terminate()
            self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.communicate()


OLD = """
    import geventwebsocket
    from flask import Flask
    from flask_sockets import Sockets
    from geventwebsocket import Resource, WebSocketApplication, WebSocketServer
    from geventwebsocket.handler import WebSocketHandler

    app = Flask(__name__)
    sockets = Sockets(app)

    @sockets.route("/echo")
    def echo_socket(ws):
        while not ws.closed:
            message = ws.receive()
            ws.send(message)

    @app.route("/")
    def hello():
        return "Hello World!"

    class EchoApplication(WebSocketApplication):
        def on_message(self, message):
            self.ws.send("%s by %s" % (message, geventwebsocket.get_version()))

    resource = Resource([("^/old", EchoApplication), ("^/", app)])

    if __name__ == "__main__":
        server = WebSocketServer(("127.0.0.1", 0), resource)
        server.start()
        print("http://127.0.0.1:%d" % server.server_port, flush=True)
        server.serve_forever()
"""


@pytest.mark.parametrize("how", ["serve --compat", "install"])
def test_an_unchanged_program_runs(tmp_path: Path, how: str) -> None:
    text = textwrap.dedent(OLD)
    if how == "install":
        text = INSTALL + text
    (tmp_path / "old.py").write_text(text)
    serve = ["-m", "geventws", "serve", "--compat", "--port", "0", "old:resource"]
    program = Running(serve if how != "install" else ["old.py"], tmp_path)
    try:
        assert program.get("/") == "Hello World!"
        client = program.connect("/old")
        client.send("hello")
        assert client.recv() == "hello by 0.10.1"
        client.close()
        assert "Traceback" not in program.errors
    finally:
        program.end()
    if how != "install":
        assert "close=1000 in=1/" in program.errors  # It is geventws that serves.


# Flask-SocketIO.

CHAT = """
    import sys
    import time

    from flask import Flask, request
    from flask_socketio import ConnectionRefusedError, SocketIO, disconnect, emit, join_room, leave_room, send

    app = Flask(__name__)
    app.config["SECRET_KEY"] = "secret!"
    socketio = SocketIO(app, async_mode="gevent", ping_interval=1, ping_timeout=60)
    left = {}
    woken = set()

    @app.route("/left/<sid>")
    def why(sid):
        while sid not in left:
            socketio.sleep(0.01)
        return left[sid]

    @socketio.on("connect")
    def on_connect(auth):
        if auth == {"token": "wrong"}:
            raise ConnectionRefusedError("unauthorized!")

    @socketio.on("disconnect")
    def on_disconnect(reason):
        left[request.sid] = reason

    @socketio.on("who")
    def who():
        ws = request.environ.get("wsgi.websocket")
        return {
            "handler": sys.modules["geventwebsocket.handler"].__name__,
            "websocket": None if ws is None else type(ws).__module__,
            "sid": request.sid,
        }

    @socketio.on("say")
    def say(data):
        emit("said", data, broadcast=True)
        return len(data)

    @socketio.on("join")
    def on_join(data):
        join_room(data["room"])
        send(data["username"] + " has entered the room.", to=data["room"])
        return "joined"

    @socketio.on("leave")
    def on_leave(data):
        leave_room(data["room"])
        send(data["username"] + " has left the room.", to=data["room"])
        return "left"

    @socketio.on("image")
    def image(data):
        emit("image", {"reversed": data[::-1], "size": len(data)})

    @socketio.on("sleep")
    def sleep(name):
        while name not in woken:
            time.sleep(0.01)
        return "slept"

    @socketio.on("wake")
    def wake(name):
        woken.add(name)
        return "woken"

    @socketio.on("kick me")
    def kick():
        disconnect()
"""

RUN = """
    def tell():
        while not (hasattr(socketio, "wsgi_server") and socketio.wsgi_server.started):
            socketio.sleep(0.01)
        print("http://127.0.0.1:%d" % socketio.wsgi_server.server_port, flush=True)

    if __name__ == "__main__":
        socketio.start_background_task(tell)
        socketio.run(app, port=0)
"""
PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
SERVE = ["-m", "geventws", "serve", "--compat", "--port", "0", "chat:app"]

# How it is started, and what stands above the program.
WAYS = {
    "serve --compat": (SERVE, ""),
    "serve --compat, patched": (SERVE, PATCH),
    "socketio.run": (["chat.py"], INSTALL),
    "socketio.run, patched": (["chat.py"], PATCH + INSTALL),
    "gunicorn": (["-m", "gunicorn", "-b", "127.0.0.1:0", "-k", "flask_sockets.worker", "chat:app"], ""),
}
GUNICORN = (
    INSTALL
    + """
def when_ready(arbiter):
    print("http://127.0.0.1:%d" % arbiter.LISTENERS[0].sock.getsockname()[1], flush=True)
"""
)


@pytest.fixture(scope="module", params=WAYS)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The program of Flask-SocketIO, served. In the end there is nothing that it complains about."""
    for module in ("flask_socketio", "requests"):
        require(module, "Flask-SocketIO")
    line, above = WAYS[request.param]
    directory = tmp_path_factory.mktemp("chat")
    if request.param == "gunicorn":
        require_worker()
        (directory / "gunicorn.conf.py").write_text(GUNICORN)
    (directory / "chat.py").write_text(above + textwrap.dedent(CHAT) + textwrap.dedent(RUN))
    program = Running(line, directory)
    yield program
    errors = program.errors
    program.end()
    assert "Traceback" not in errors, errors
    assert "Error" not in errors, errors


class Person:
    """A client of Socket.IO, and what it has been told."""

    def __init__(self, chat: Running, transports: list[str] | None) -> None:
        import socketio

        self.client = socketio.Client(reconnection=False, handle_sigint=False)
        self.said: queue.Queue[Any] = queue.Queue()
        self.ended: queue.Queue[str] = queue.Queue()
        self.refused: queue.Queue[Any] = queue.Queue()
        for event in ("said", "message", "image"):
            self.client.on(event, lambda data, event=event: self.said.put((event, data)))
        self.client.on("disconnect", lambda reason: self.ended.put(reason))
        self.client.on("connect_error", self.refused.put)
        self.connect = functools.partial(
            self.client.connect, f"http://{chat.address}", transports=transports, wait_timeout=PATIENCE
        )

    def call(self, event: str, *data: Any) -> Any:
        return self.client.call(event, *data, timeout=PATIENCE)

    def told(self) -> Any:
        return self.said.get(timeout=PATIENCE)


@pytest.fixture(params=[["websocket"], None], ids=["websocket", "polling and upgrade"])
def enter(request: pytest.FixtureRequest, chat: Running) -> Iterator[Callable[..., Person]]:
    """Clients of the chat: at once by WebSocket, or first by polling and then upgraded, as browsers do by default."""
    import socketio.exceptions

    people: list[Person] = []

    def enter_one(auth: Any = None) -> Person:
        person = Person(chat, request.param)
        people.append(person)
        try:
            person.connect(auth=auth)
        except socketio.exceptions.ConnectionError:
            assert auth is not None
        else:
            assert person.client.transport() == "websocket"
        return person

    yield enter_one
    for person in people:
        person.client.disconnect()


def test_a_refused_connection_is_told_why(chat: Running, enter: Any) -> None:
    refused = enter(auth={"token": "wrong"})
    assert refused.refused.get(timeout=PATIENCE) in ("unauthorized!", {"message": "unauthorized!"})
    assert not refused.client.connected


def test_it_is_geventws_that_carries_the_websocket(chat: Running, enter: Any) -> None:
    found = enter().call("who")
    assert found["handler"] == "geventws.handler"
    # With an upgrade the environ that Socket.IO keeps is that of the first request, by polling.
    assert found["websocket"] in ("geventws.websocket", None)


def test_events_go_both_ways_with_acknowledgements(enter: Any) -> None:
    ada, grace = enter(), enter()
    assert ada.call("say", "Grüße 👋") == 7
    assert ada.told() == grace.told() == ("said", "Grüße 👋")
    assert grace.call("say", ["a", {"b": None}, 1.5, "x" * 200_000]) == 4
    assert ada.told() == grace.told() == ("said", ["a", {"b": None}, 1.5, "x" * 200_000])


def test_binary_goes_both_ways(enter: Any) -> None:
    ada = enter()
    data = bytes(range(256)) * 100
    ada.client.emit("image", data)
    assert ada.told() == ("image", {"reversed": data[::-1], "size": len(data)})
    ada.client.emit("image", b"")
    assert ada.told() == ("image", {"reversed": b"", "size": 0})


def test_rooms_are_heard_by_who_is_in_them(enter: Any) -> None:
    ada, grace, stranger = enter(), enter(), enter()
    assert ada.call("join", {"username": "Ada", "room": "lobby"}) == "joined"
    assert ada.told() == ("message", "Ada has entered the room.")
    assert grace.call("join", {"username": "Grace", "room": "lobby"}) == "joined"
    assert ada.told() == grace.told() == ("message", "Grace has entered the room.")
    assert grace.call("leave", {"username": "Grace", "room": "lobby"}) == "left"
    assert ada.told() == ("message", "Grace has left the room.")
    # All that Grace and the stranger have heard of since is what was said to everybody.
    ada.call("say", "to all")
    assert grace.told() == stranger.told() == ("said", "to all")


def test_a_client_that_leaves_is_noticed(chat: Running, enter: Any) -> None:
    ada = enter()
    sid = ada.call("who")["sid"]
    ada.client.disconnect()
    assert chat.get(f"/left/{sid}") in ("client disconnect", "transport close")


def test_a_client_that_the_program_disconnects_is_told(chat: Running, enter: Any) -> None:
    ada = enter()
    sid = ada.call("who")["sid"]
    ada.client.emit("kick me")
    assert ada.ended.get(timeout=PATIENCE) == "server disconnect"
    assert chat.get(f"/left/{sid}") == "server disconnect"


def test_a_sleeping_event_handler_holds_up_nobody_else(enter: Any) -> None:
    sleeper, other = enter(), enter()
    name = sleeper.call("who")["sid"]
    answers: queue.Queue[str] = queue.Queue()
    sleeper.client.emit("sleep", name, callback=answers.put)
    assert other.call("say", "meanwhile") == 9
    assert sleeper.told() == ("said", "meanwhile")
    assert answers.empty()
    assert other.call("wake", name) == "woken"
    assert answers.get(timeout=PATIENCE) == "slept"


# The same, frame by frame.

ENGINE_IO = "/socket.io/?EIO=4&transport=websocket"


def open_raw(chat: Running) -> tuple[websocket.WebSocket, str]:
    """A client that speaks Engine.IO 4 and Socket.IO 5 by hand, and its session's name."""
    client = chat.connect(ENGINE_IO)
    opened = client.recv()
    assert opened[0] == "0"
    assert json.loads(opened[1:])["upgrades"] == []
    client.send("40")
    answer = receive(client, "40")
    return client, json.loads(answer[2:])["sid"]


def receive(client: websocket.WebSocket, beginning: str) -> str:
    """The next packet that begins so. Engine.IO's pings before it are answered."""
    while not (packet := client.recv()).startswith(beginning):
        assert packet in ("2", "6"), packet  # a ping, or nothing, with which polling is ended
        if packet == "2":
            client.send("3")
    text: str = packet
    return text


def close_of(client: websocket.WebSocket) -> int:
    while True:
        opcode, payload = client.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(payload[:2], "big")


def test_pings_of_both_protocols_are_answered(chat: Running) -> None:
    client, _ = open_raw(chat)
    client.ping("still there?")
    while True:
        opcode, payload = client.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_PONG:
            break
        assert payload == b"2"
        client.send("3")
    assert payload == b"still there?"
    assert receive(client, "2") == "2"
    client.send("3")
    client.send('421["say","on"]')
    assert receive(client, "42") == '42["said","on"]'
    assert receive(client, "43") == "431[2]"
    client.close()


@pytest.mark.parametrize("code", [1000, 1001, 4001])
def test_a_close_is_answered_with_its_code_and_noticed(chat: Running, code: int) -> None:
    client, sid = open_raw(chat)
    client.send_close(code)
    assert close_of(client) == code
    client.shutdown()
    assert chat.get(f"/left/{sid}") == "transport close"


def test_a_connection_that_just_ends_is_noticed(chat: Running) -> None:
    client, sid = open_raw(chat)
    client.shutdown()
    assert chat.get(f"/left/{sid}") == "transport close"


def test_what_the_program_closes_is_closed_with_1000(chat: Running) -> None:
    client, sid = open_raw(chat)
    client.send('42["kick me"]')
    assert receive(client, "41") == "41"
    client.send("1")  # Engine.IO's own close, as clients of Socket.IO answer
    assert close_of(client) == 1000
    client.shutdown()
    assert chat.get(f"/left/{sid}") == "server disconnect"


def test_a_page_of_another_site_is_refused_by_engine_io_before_the_websocket(chat: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        chat.connect(ENGINE_IO, origin="http://evil.example")
    assert refused.value.status_code == 400


@pytest.fixture(scope="module")
def open_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same program, for pages of a friend's site; served by geventws with `origins` as they are by default."""
    require("flask_socketio", "Flask-SocketIO")
    text = textwrap.dedent(CHAT).replace("ping_interval=1", 'cors_allowed_origins="https://friend.example"')
    text += """
from flask_sockets import Sockets

sockets = Sockets(app)

@sockets.route("/beside")
def beside(ws):
    ws.send("hello")
"""
    directory = tmp_path_factory.mktemp("open_chat")
    (directory / "chat.py").write_text(text)
    program = Running(SERVE, directory)
    yield program
    errors = program.errors
    program.end()
    assert "Traceback" not in errors, errors


FRIEND = "https://friend.example"


def test_pages_that_engine_io_does_not_let_in_are_refused(open_chat: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        open_chat.connect(ENGINE_IO, origin="https://evil.example")
    assert refused.value.status_code == 400


def test_a_websocket_beside_engine_io_is_not_open_to_its_friends(open_chat: Running) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        open_chat.connect("/beside", origin=FRIEND)
    assert refused.value.status_code == 403
    client = open_chat.connect("/beside", origin=f"http://{open_chat.address}")
    assert client.recv() == "hello"
    client.close()


def test_pages_that_engine_io_lets_in_are_let_in_by_websocket(open_chat: Running) -> None:
    client = open_chat.connect(ENGINE_IO, origin=FRIEND)
    assert client.recv()[0] == "0"
    client.close()


def test_pages_that_engine_io_lets_in_are_let_in_by_an_upgrade(open_chat: Running) -> None:
    opened = urllib.request.Request(
        f"http://{open_chat.address}/socket.io/?EIO=4&transport=polling", headers={"Origin": FRIEND}
    )
    with urllib.request.urlopen(opened, timeout=PATIENCE) as answer:
        session = json.loads(answer.read()[1:])
    assert session["upgrades"] == ["websocket"]
    client = open_chat.connect(f"{ENGINE_IO}&sid={session['sid']}", origin=FRIEND)
    client.send("2probe")
    assert client.recv() == "3probe"
    client.send("5")
    client.send("40")
    assert receive(client, "40").startswith('40{"sid":')
    client.close()
