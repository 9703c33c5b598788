"""A chat with rooms. Flask has the pages and the WebSockets, rooms.py who is where, static/ what runs in the browser.

python examples/chat/chat.py

A browser sends JSON objects and receives them; "type" says what each one is:

    to the server    {"type": "join", "name": …, "tab": …}     tab: random, kept by the browser's tab, to come back by
                     {"type": "say", "text": …}
    to the browser   {"type": "welcome", "name": …, "people": […], "history": […]}
                     {"type": "joined" | "left", "name": …, "time": …, "id": …}
                     {"type": "said", "name": …, "text": …, "time": …, "id": …}
                     {"type": "error", "about": "name" | "text" | "message", "text": …}
"""

import argparse
import json
import re
import signal

import gevent
from flask import Flask, redirect, render_template, request, url_for
from rooms import NAME_LIMIT, TEXT_LIMIT, Member, Refused, Rooms, clean_name, clean_text
from werkzeug.routing import BaseConverter

from geventws.flask import Sockets
from geventws.server import WebSocketServer

ROOM_NAME_LIMIT = 32
TAB_LIMIT = 64

# Seconds between two messages that are read from one browser. One that sends faster than this fills up nothing but its
# own connection, and meanwhile the greenlets that write get their turn.
PAUSE = 0.05


class RoomName(BaseConverter):
    """/room/Lobby and /room/lobby are one room. What does not fit is a 404, for the page and for the WebSocket."""

    regex = rf"[\w-]{{1,{ROOM_NAME_LIMIT}}}"

    def to_python(self, value):
        return value.lower()


app = Flask(__name__)
app.url_map.converters["room"] = RoomName
app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 32 * 1024  # bytes, plenty for TEXT_LIMIT; more closes the connection (1009)
sockets = Sockets(app)
rooms = Rooms()


@app.get("/")
def lobby():
    return render_template("lobby.html", rooms=rooms.overview(), limit=ROOM_NAME_LIMIT)


@app.get("/room")
def choose_room():
    """Where the form on the front page leads: any title becomes a name fit for a URL."""
    name = re.sub(r"\W+", "-", request.args.get("name", "").lower()).strip("-")[:ROOM_NAME_LIMIT]
    return redirect(url_for("room", name=name) if name else url_for("lobby"))


@app.get("/room/<room:name>")
def room(name):
    return render_template("room.html", room=name, name_limit=NAME_LIMIT, text_limit=TEXT_LIMIT)


@sockets.route("/room/<room:name>/ws")
def talk(ws, name):
    """One browser in one room. This greenlet reads, the member's own greenlet writes."""
    member = Member(ws)
    try:
        for message in ws:
            try:
                act_on(message, member, name)
            except Refused as refusal:
                member.put_event("error", about=refusal.about, text=str(refusal))
            gevent.sleep(PAUSE)
    finally:
        member.stop()


def act_on(message, member, room_name):
    """Do what a browser asks for, or raise Refused. Nothing that a browser sends is trusted here."""
    try:
        wish = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        wish = None
    if not isinstance(wish, dict):
        raise Refused("That is not a JSON object.")
    match wish.get("type"):
        case "join" if member.room is None:
            name, tab = clean_name(wish.get("name")), wish.get("tab")
            if tab is not None and not (isinstance(tab, str) and len(tab) <= TAB_LIMIT):
                raise Refused(f"A tab is known by a text of at most {TAB_LIMIT} characters.")
            rooms.open(room_name).join(member, name, tab)
        case "join":
            raise Refused("You are in this room already.")
        case "say" if member.room is not None:
            member.room.say(member, clean_text(wish.get("text")))
        case "say":
            raise Refused("Please join the room first.")
        case _:
            raise Refused('The type of a message is "join" or "say".')


@sockets.route("/ws")
def watch(ws):
    """For the front page: how many people are in which room, now and whenever that changes."""
    watcher = Member(ws)
    rooms.watch(watcher)
    try:
        for _ in ws:  # a watcher has nothing to say
            gevent.sleep(PAUSE)
    finally:
        rooms.unwatch(watcher)
        watcher.stop()


@app.after_request
def allow_only_our_own(response):
    # Should a text ever slip into a page as HTML, the browser still runs no script and loads nothing from elsewhere.
    response.headers["Content-Security-Policy"] = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    options = parser.parse_args()

    server = WebSocketServer((options.host, options.port), app)
    server.start()
    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, server.stop)  # says goodbye (1001) to every browser and ends serve_forever()
    print(f"Chat on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
