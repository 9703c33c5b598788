"""Every example as its reader runs it: by its one line, on a real port, with a real client, ended by a signal."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
import websocket

import geventws

ROOT = Path(__file__).parents[2]

ALL = (
    "examples/echo_wsgi.py",
    "examples/echo_flask.py",
    "examples/login.py",
    "examples/script.py",
    "examples/resource.py",
    "examples/bottle_app.py",
    "examples/falcon_app.py",
    "examples/pyramid_app.py",
    "examples/stream.py",
    "examples/chat/chat.py",
)
FRAMEWORKS = ("examples/bottle_app.py", "examples/falcon_app.py", "examples/pyramid_app.py")
WHERE = {
    "examples/echo_flask.py": "/echo",
    "examples/chat/chat.py": "/ws",
    "examples/resource.py": "/chat",
    **dict.fromkeys(FRAMEWORKS, "/echo"),
}
FIRST_ANSWERS = (200, 302, 426)  # a page, a login, and where there is nothing but WebSockets
PATIENCE = 20  # seconds until something has to come


@pytest.fixture
def connect():
    """Opens client connections, and closes what a test leaves open."""
    opened = []

    def connect(url, **options):
        client = websocket.create_connection(url, timeout=PATIENCE, **options)
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.shutdown()


def fetch(example, path, method="GET", body=None, **headers):
    """One HTTP request; the response with its body as .text."""
    connection = http.client.HTTPConnection(example.host, example.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.text = response.read().decode()
        return response
    finally:
        connection.close()


def close_of(client):
    """Read up to the Close frame; its code and reason."""
    while True:
        opcode, payload = client.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def until_the_end(client):
    """Read, and answer a Close frame, until TCP is closed."""
    with contextlib.suppress(websocket.WebSocketConnectionClosedException, OSError):
        while True:
            client.recv_data(control_frame=True)


# All of them.


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("path", ALL)
def test_a_signal_ends_it_without_a_word_though_somebody_is_connected(start, connect, path, signum):
    example = start(path)
    assert fetch(example, "/").status in FIRST_ANSWERS
    if path == "examples/login.py":
        client = connect(f"{example.ws}/admin", cookie=log_in(example, "ada", "lovelace"))
    else:
        client = connect(example.ws + WHERE.get(path, "/"))
    example.ask_to_end(signum)
    until_the_end(client)
    example.end()


@pytest.mark.parametrize("path", ALL)
def test_it_says_what_it_is_and_takes_a_host(start, path):
    example = start(path, "--host", "127.0.0.2")
    assert example.host == "127.0.0.2"
    assert fetch(example, "/").status in FIRST_ANSWERS


# echo_wsgi.py


def test_wsgi_echo(start, connect):
    example = start("examples/echo_wsgi.py")
    assert "This server echoes" in fetch(example, "/").text
    client = connect(example.ws)
    client.send("Grüße 👋")
    assert client.recv() == "Grüße 👋"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"
    client.send("")
    assert client.recv() == ""
    client.send_close(1000)
    assert close_of(client) == (1000, "")


# echo_flask.py


def test_flask_echo_with_two_blueprints_under_one_prefix(start, connect):
    example = start("examples/echo_flask.py")
    page = fetch(example, "/")
    assert page.status == 200
    assert "<h1>Echo</h1>" in page.text
    client = connect(f"{example.ws}/echo")
    client.send("hello")
    assert client.recv() == "hello"


def test_flask_echo_is_no_page_and_its_page_no_websocket(start, connect):
    example = start("examples/echo_flask.py")
    assert fetch(example, "/echo").status in (400, 404, 426)
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(f"{example.ws}/")
    assert refused.value.status_code in (400, 404)


# client.py


def run_client(*arguments, typed=""):
    """Runs to its end, with what is typed into it; its exit code, and what it has printed to either output."""
    paths = [str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "examples/client.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_client_says_in_one_line_why_it_does_not_connect(start):
    example = start("examples/echo_flask.py")
    for url, why in ((f"{example.ws}/nowhere", "404 NOT FOUND"), (example.http, "begins with ws://")):
        status, printed, errors = run_client(url)
        assert (status, printed) == (1, [])
        assert why in errors
        assert len(errors.splitlines()) == 1


def test_client_sends_what_is_typed_and_prints_what_comes(start):
    example = start("examples/echo_wsgi.py")
    status, printed, errors = run_client(example.ws, typed="hello\nworld\n")
    assert (status, errors) == (0, "")
    assert printed == [f"Connected to {example.ws}", "hello", "world", "Closed: 1000"]


# login.py


def log_in(example, user, password):
    """The cookie that a browser would have afterwards."""
    form = urllib.parse.urlencode({"user": user, "password": password})
    response = fetch(example, "/login", "POST", form, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert response.status == 302
    return response.headers["Set-Cookie"].split(";")[0]


def refusal_of(connect, url, **options):
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(url, **options)
    return refused.value.status_code


def test_login_lets_nobody_in_without_one(start, connect):
    example = start("examples/login.py")
    page = fetch(example, "/")
    assert (page.status, page.headers["Location"]) == (302, "/login")
    assert refusal_of(connect, f"{example.ws}/visits", subprotocols=["visits.v1"]) == 401
    assert fetch(example, "/login", "POST", "user=ada&password=wrong").status == 401
    assert fetch(example, "/login").status == 200


def test_login_is_known_in_the_websocket_and_its_session_is_written_by_the_handshake(start, connect):
    example = start("examples/login.py")
    cookie = log_in(example, "ada", "lovelace")
    assert "Hello ada" in fetch(example, "/", Cookie=cookie).text
    for times in (1, 2, 3):
        client = connect(f"{example.ws}/visits", subprotocols=["visits.v2", "visits.v1"], cookie=cookie)
        assert client.getstatus() == 101
        assert client.getsubprotocol() == "visits.v1"
        assert client.recv() == f"ada has been here {times} times"
        cookie = client.getheaders()["set-cookie"].split(";")[0]


def test_login_refuses_before_the_handshake_who_may_not_or_does_not_speak_the_subprotocol(start, connect):
    example = start("examples/login.py")
    guest = log_in(example, "guest", "guest")
    assert refusal_of(connect, f"{example.ws}/admin", cookie=guest) == 403
    assert refusal_of(connect, f"{example.ws}/visits", cookie=guest) == 400
    ada = log_in(example, "ada", "lovelace")
    assert connect(f"{example.ws}/admin", cookie=ada).recv() == "Known users: ada, guest"


def test_login_of_a_browser_is_of_no_use_to_the_pages_of_others(start, connect):
    example = start("examples/login.py")
    cookie = log_in(example, "ada", "lovelace")
    assert refusal_of(connect, f"{example.ws}/admin", cookie=cookie, origin="http://evil.example") == 403


# script.py


def test_script_ticks_for_everybody_and_listens(start, connect):
    example = start("examples/script.py", "--interval", "0.02")
    assert "<h1>Ticker</h1>" in fetch(example, "/").text
    one, other = connect(example.ws), connect(example.ws)
    for client in (one, other):
        while not re.fullmatch(r"tick \d+ at \d\d:\d\d:\d\d, 2 connected", client.recv()):
            pass
    one.send("what?")
    while one.recv() != "Only 'reset' is understood here, not 'what?'":
        pass
    one.send("reset")
    while not other.recv().startswith("tick 1 "):
        pass


def test_script_says_goodbye_when_it_is_ended(start, connect):
    example = start("examples/script.py")
    client = connect(example.ws)
    example.ask_to_end()
    assert close_of(client)[0] == 1001


# resource.py


@pytest.fixture(params=["geventws", "geventwebsocket"])
def resource(request, required_or_skipped, start, tmp_path):
    """The program as it is, and as it was for gevent-websocket: by one search and replace."""
    if request.param == "geventws":
        return start("examples/resource.py")
    if importlib.util.find_spec("geventwebsocket") is None:
        required_or_skipped("gevent-websocket")
    here = request.config.rootpath / "examples" / "resource.py"
    there = tmp_path / "resource.py"
    there.write_text(here.read_text().replace("geventws", "geventwebsocket"))
    return start(there)


def test_resource_has_a_page_and_an_echo(resource, connect):
    assert "<h1>A chat</h1>" in fetch(resource, "/").text
    client = connect(f"{resource.ws}/echo")
    client.send("hello")
    assert client.recv() == "hello"


def test_resource_has_a_chat(resource, connect):
    ada, grace = connect(f"{resource.ws}/chat"), connect(f"{resource.ws}/chat")
    ada.send(json.dumps({"nickname": "Ada"}))
    for client in (ada, grace):
        assert json.loads(client.recv()) == {"from": "Server", "text": "Ada is here."}
    ada.send(json.dumps({"text": "Hello!"}))
    assert json.loads(grace.recv()) == {"from": "Ada", "text": "Hello!"}
    grace.send("[1]")
    assert json.loads(grace.recv())["text"] == "Anonymous speaks in riddles: a JSON object was expected."
    ada.close()
    assert json.loads(grace.recv()) == {"from": "Server", "text": "Ada has left."}


def test_resource_answers_404_where_there_is_nothing(start, connect):
    example = start("examples/resource.py")
    assert fetch(example, "/nowhere").status == 404
    assert refusal_of(connect, f"{example.ws}/nowhere") == 404


# bottle_app.py, falcon_app.py, pyramid_app.py


@pytest.mark.parametrize("path", FRAMEWORKS)
def test_a_framework_has_a_page_and_an_echo(start, connect, path):
    example = start(path)
    assert "This server echoes" in fetch(example, "/").text
    answer = fetch(example, "/echo")
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    assert "This address speaks WebSocket" in answer.text
    client = connect(f"{example.ws}/echo")
    client.send("Grüße 👋")
    assert client.recv() == "Grüße 👋"
    client.send_close(1000)
    assert close_of(client) == (1000, "")


@pytest.mark.parametrize("path", FRAMEWORKS)
def test_a_framework_refuses_before_the_handshake(start, connect, path):
    example = start(path)
    assert refusal_of(connect, f"{example.ws}/private") == 401
    assert refusal_of(connect, f"{example.ws}/nowhere") == 404
    assert refusal_of(connect, f"{example.ws}/echo", origin="http://evil.example") == 403
    client = connect(f"{example.ws}/private?word=sesame")
    client.send("hello")
    assert client.recv() == "hello"
    assert fetch(example, "/private").status == 401
    assert fetch(example, "/private?word=sesame").status == 426


# stream.py


def test_stream_adds_up_and_hangs_up(start, connect):
    example = start("examples/stream.py")
    client = connect(example.ws)
    for number, total in (("1", 1), ("41", 42), ("-2", 40)):
        client.send(number)
        assert client.recv() == f"That makes {total}."
    client.send("what?")
    assert client.recv() == "That is no number. Good bye."
    assert close_of(client) == (1000, "")


def test_stream_has_nothing_but_websockets(start):
    answer = fetch(start("examples/stream.py"), "/")
    assert answer.status == 426
    assert "Upgrade: websocket" in answer.text


# chat/


class Chatter:
    """One who chats, as the page does it."""

    def __init__(self, client):
        self.client = client

    def send(self, message):
        self.client.send(message if isinstance(message, str) else json.dumps(message))

    def receive(self, kind=None):
        """The next event, or the next of that type."""
        while True:
            event = json.loads(self.client.recv())
            if kind is None or event["type"] == kind:
                return event

    def join(self, name, **more):
        self.send({"type": "join", "name": name, **more})
        return self.receive()

    def say(self, text):
        self.send({"type": "say", "text": text})


@pytest.fixture
def chat(start):
    return start("examples/chat/chat.py")


@pytest.fixture
def enter(chat, connect):
    """Connects to a room, and joins it if there is a name."""

    def enter(name=None, room="lobby", **options):
        chatter = Chatter(connect(f"{chat.ws}/room/{room}/ws", **options))
        if name is not None:
            assert chatter.join(name)["type"] == "welcome"
        return chatter

    return enter


def test_chat_has_pages_that_load_nothing_from_elsewhere(chat):
    for path in ("/", "/room/lobby"):
        page = fetch(chat, path)
        assert page.status == 200
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        links = re.findall(r"(?:href|src|action)=\"([^\"]*)\"", page.text)
        assert links
        for link in links:
            assert link.startswith("/")
            assert fetch(chat, link).status in (200, 302), link
    scripts = ("room.js", "lobby.js", "connection.js", "status.js", "theme.js")
    code = "".join(fetch(chat, f"/static/{name}").text for name in scripts)
    assert "innerHTML" not in code
    assert "http://" not in code
    assert "https://" not in code


def test_chat_makes_a_room_of_any_title(chat):
    def location(title):
        return fetch(chat, "/room?" + urllib.parse.urlencode({"name": title})).headers["Location"]

    assert location("Garden party!") == "/room/garden-party"
    assert location("Zürich") == "/room/" + urllib.parse.quote("zürich")
    assert location("x" * 100) == "/room/" + "x" * 32
    assert location(" ?! ") == "/"
    assert fetch(chat, "/room/Garden-Party").status == 200


def test_chat_has_no_room_of_an_impossible_name(chat, connect):
    assert fetch(chat, "/room/" + "x" * 33).status == 404
    assert fetch(chat, "/room/a%20b").status == 404
    assert refusal_of(connect, f"{chat.ws}/room/{'x' * 33}/ws") == 404
    assert refusal_of(connect, f"{chat.ws}/room/lobby/ws", origin="http://evil.example") == 403


def test_chat_tells_everybody_in_the_room_and_nobody_else(enter):
    ada = enter("Ada")
    stranger = enter("Stranger", room="garden")
    grace = enter()
    assert grace.join("Grace") == {"type": "welcome", "name": "Grace", "people": ["Ada", "Grace"], "history": []}
    assert ada.receive()["name"] == "Grace"
    ada.say("  Good morning! 👋\n<b>Grace</b>  ")
    for chatter in (ada, grace):
        event = chatter.receive()
        assert (event["type"], event["name"], event["text"]) == ("said", "Ada", "Good morning! 👋\n<b>Grace</b>")
        assert abs(event["time"] / 1000 - time.time()) < 60
    grace.client.close()
    left = ada.receive()
    assert (left["type"], left["name"]) == ("left", "Grace")
    stranger.say("Hello?")
    assert stranger.receive()["text"] == "Hello?"


def test_chat_shows_newcomers_the_last_messages(enter):
    ada = enter("Ada")
    for number in range(60):
        ada.say(f"message {number}")
        ada.receive("said")
    history = enter().join("Grace")["history"]
    assert [event["text"] for event in history] == [f"message {number}" for number in range(10, 60)]


WRONG = {
    "no JSON": ("hello", "That is not a JSON object."),
    "half of JSON": ('{"type": "say', "That is not a JSON object."),
    "a list": ("[1, 2]", "That is not a JSON object."),
    "a number": ("5", "That is not a JSON object."),
    "null": ("null", "That is not a JSON object."),
    "endless nesting": ("[" * 20_000, "That is not a JSON object."),
    "a number of many digits": ("1" * 20_000, "That is not a JSON object."),
    "an empty message": ("", "That is not a JSON object."),
    "no type": ({}, 'The type of a message is "join" or "say".'),
    "a type that is a list": ({"type": ["say"]}, 'The type of a message is "join" or "say".'),
    "an unknown type": ({"type": "shout"}, 'The type of a message is "join" or "say".'),
    "saying before joining": ({"type": "say", "text": "hello"}, "Please join the room first."),
    "no name": ({"type": "join"}, "Please choose a name."),
    "a name that is a number": ({"type": "join", "name": 5}, "Please choose a name."),
    "a name of spaces": ({"type": "join", "name": "   "}, "Please choose a name."),
    "a long name": ({"type": "join", "name": "x" * 25}, "A name has at most 24 characters."),
    "a name written backwards": (
        {"type": "join", "name": "\u202eadA"},
        "That name has characters in it that cannot be shown.",
    ),
    "half a character": ({"type": "join", "name": "\ud800"}, "That name has characters in it that cannot be shown."),
    "a tab that is a list": (
        {"type": "join", "name": "Ada", "tab": []},
        "A tab is known by a text of at most 64 characters.",
    ),
}


@pytest.mark.parametrize(("message", "answer"), WRONG.values(), ids=WRONG.keys())
def test_chat_answers_nonsense_with_a_clear_word_and_goes_on(enter, message, answer):
    chatter = enter()
    chatter.send(message)
    error = chatter.receive()
    assert (error["type"], error["text"]) == ("error", answer)
    assert chatter.join("Ada")["type"] == "welcome"


def test_chat_answers_nonsense_of_members_too(enter):
    ada = enter("Ada")
    for text, answer in (
        (None, "There is no text in that message."),
        (["a"], "There is no text in that message."),
        (" \n ", "There is no text in that message."),
        ("x" * 2001, "A message has at most 2000 characters, this one has 2001."),
    ):
        ada.say(text)
        assert ada.receive() == {"type": "error", "about": "text", "text": answer}
    ada.client.send_binary(b'{"type": "say", "text": "hello"}')
    assert ada.receive()["text"] == "That is not a JSON object."
    assert ada.join("Augusta")["text"] == "You are in this room already."
    ada.say("x" * 2000)
    assert ada.receive()["text"] == "x" * 2000
    ada.say("\ud800")
    assert ada.receive()["text"] == "\ud800"


def test_chat_closes_on_a_message_far_too_long(enter):
    ada = enter("Ada")
    grace = enter("Grace")
    ada.send("x" * 40_000)
    assert close_of(ada.client)[0] == 1009
    assert grace.receive()["type"] == "left"


def test_chat_has_one_of_each_name_however_it_is_written(enter):
    enter("Ada")
    other = enter()
    for name in ("Ada", "ADA", " ada ", "\uff21da"):
        error = other.join(name)
        assert (error["type"], error["about"], error["text"]) == (
            "error",
            "name",
            "Somebody here is called Ada already.",
        )
    assert other.join("Grace")["type"] == "welcome"


def test_chat_knows_who_comes_back_before_the_old_connection_is_gone(enter):
    grace = enter("Grace")
    ada = enter()
    ada.join("Ada", tab="0123")
    assert grace.receive()["type"] == "joined"
    again = enter()
    assert again.join("Ada", tab="4567")["about"] == "name"
    assert again.join("Ada", tab="0123")["people"] == ["Grace", "Ada"]
    assert close_of(ada.client) == (4001, "You have come back in another window")
    again.say("Here I am.")
    assert grace.receive()["text"] == "Here I am."  # and nobody has left or joined meanwhile


def test_chat_is_not_held_up_by_one_who_does_not_read_and_lets_that_one_go(enter):
    slow = enter(sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    slow.join("Slow")
    talkers = [enter(f"Talker {number}") for number in range(4)]
    text = "👋" * 2000  # 24 KB as JSON, and what is on its way in the operating system is some megabytes
    left = False
    slowest = 0
    while not left:
        begun = time.monotonic()
        for talker in talkers:
            talker.say(text)
        for talker in talkers:
            heard = 0
            while heard < len(talkers):
                event = talker.receive()
                heard += event["type"] == "said"
                left = left or (event["type"] == "left" and event["name"] == "Slow")
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 5
    assert close_of(slow.client) == (1013, "You read too slowly")


def test_chat_reads_no_faster_than_it_lets_others_write(enter):
    ada, grace = enter("Ada"), enter("Grace")
    count = 120  # more than fit into a queue, all sent at once
    for number in range(count):
        ada.say(str(number))
    assert [grace.receive("said")["text"] for _ in range(count)] == [str(number) for number in range(count)]


def test_chat_lets_the_lobby_know_who_is_where(chat, enter, connect):
    lobby = Chatter(connect(f"{chat.ws}/ws"))
    empty = [{"name": name, "people": 0} for name in ("lobby", "help", "random")]
    assert lobby.receive() == {"type": "rooms", "rooms": empty}
    ada = enter("Ada", room="garden")
    assert lobby.receive()["rooms"] == [{"name": "garden", "people": 1}, *empty]
    assert "garden" in fetch(chat, "/").text
    ada.client.close()
    assert lobby.receive()["rooms"] == empty
    lobby.send("hello?")
    ada = enter("Ada")
    assert lobby.receive()["rooms"][0] == {"name": "lobby", "people": 1}


def test_chat_forgets_what_was_said_in_the_oldest_empty_room_when_there_are_too_many(enter):
    def heard(room):
        return [event["text"] for event in enter(room=room).join("Grace")["history"]]

    for number in range(250):
        chatter = enter("Ada", room=f"room-{number}")
        if number in (0, 1, 249):
            chatter.say("Remember this.")
            chatter.receive("said")
        if number != 1:
            chatter.client.close()
    assert heard("room-0") == []
    assert heard("room-1") == ["Remember this."]  # it was not empty
    assert heard("room-249") == ["Remember this."]


def test_chat_opens_no_more_rooms_when_all_are_in_use(enter):
    for number in range(197):  # and three that are always there
        enter("Ada", room=f"room-{number}")
    error = enter(room="one-more").join("Ada")
    assert (error["about"], error["text"]) == ("name", "There are too many rooms already. Please join one of them.")
    enter("Ada", room="lobby")


def test_chat_says_goodbye_when_it_is_ended(chat, enter):
    ada = enter("Ada")
    chat.ask_to_end()
    assert close_of(ada.client)[0] == 1001


def test_chat_starts_again_on_the_same_port(chat, start, connect):
    old = Chatter(connect(f"{chat.ws}/room/lobby/ws"))
    old.join("Ada")
    chat.ask_to_end()
    until_the_end(old.client)
    chat.end()
    again = start("examples/chat/chat.py", port=chat.port)
    assert Chatter(connect(f"{again.ws}/room/lobby/ws")).join("Ada")["type"] == "welcome"
