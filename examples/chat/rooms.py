"""Rooms, who is in them and what was said there. Nothing of Flask here, and of a WebSocket only send() and close().

Nobody waits for anybody: to tell a member something is to put it into that member's queue, which never blocks. A
greenlet of its own carries it from there to the browser, as fast as that browser reads. One that reads so slowly that
its queue is full has to go; the alternative is a queue that grows until the server has no memory left.
"""

import json
import secrets
import time
import unicodedata
from collections import deque
from contextlib import suppress

import gevent
from gevent.queue import Full, Queue

from geventws.exceptions import ConnectionClosed

HISTORY = 50  # messages that a newcomer is shown
QUEUE = 100  # events that may wait for one member
ROOMS = 200  # rooms kept in memory; empty ones make place for new ones
ALWAYS = ("lobby", "help", "random")  # rooms that are there from the start, and stay
NAME_LIMIT = 24
TEXT_LIMIT = 2000

TRY_AGAIN_LATER = 1013  # from the registry of RFC 6455, section 11.7
TAKEN_OVER = 4001  # 4000 to 4999 are free for applications


class Refused(Exception):
    """What a browser asked for cannot be done. The text tells the person in front of it why."""

    def __init__(self, text, about="message"):
        super().__init__(text)
        self.about = about


def clean_name(name):
    """A name fit to be shown, or Refused."""
    if not isinstance(name, str) or not name.strip():
        raise Refused("Please choose a name.", about="name")
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if len(name) > NAME_LIMIT:
        raise Refused(f"A name has at most {NAME_LIMIT} characters.", about="name")
    if not name.isprintable():  # control characters, and those that turn the direction of writing
        raise Refused("That name has characters in it that cannot be shown.", about="name")
    return name


def clean_text(text):
    """A text fit to be passed on, or Refused."""
    if not isinstance(text, str) or not text.strip():
        raise Refused("There is no text in that message.", about="text")
    if len(text) > TEXT_LIMIT:
        raise Refused(f"A message has at most {TEXT_LIMIT} characters, this one has {len(text)}.", about="text")
    return text.strip()


def key(name):
    """What two names that look alike to a reader have in common, so that nobody passes for somebody else."""
    return unicodedata.normalize("NFKC", name).casefold()


class Member:
    """One browser: its WebSocket, the queue in front of it and, once it has joined a room, its name there."""

    def __init__(self, ws):
        self.ws = ws
        self.room = None
        self.name = None
        self.tab = None
        self.dropped = False
        self.queue = Queue(QUEUE)
        self.writer = gevent.spawn(self._write)

    def _write(self):
        with suppress(ConnectionClosed):  # the handler, which reads, finds out as well, and calls leave()
            for text in self.queue:
                self.ws.send(text)

    def put(self, text):
        """Send a text some time soon. Never blocks, and never fails."""
        if self.dropped:
            return
        try:
            self.queue.put_nowait(text)
        except Full:
            self.drop(TRY_AGAIN_LATER, "You read too slowly")

    def put_event(self, kind, **event):
        self.put(json.dumps({"type": kind, **event}))

    def drop(self, code, reason):
        """Close the connection, without waiting for it: close() waits for the answer of the browser."""
        self.dropped = True
        gevent.spawn(self._drop, code, reason)

    def _drop(self, code, reason):
        self.leave()
        self.ws.close(code, reason)

    def leave(self):
        if self.room is not None:
            self.room.leave(self)

    def stop(self):
        """The connection is over."""
        self.leave()
        self.writer.kill(block=False)


class Room:
    def __init__(self, name, on_change):
        self.name = name
        self.members = {}  # by the key of their names
        self.history = deque(maxlen=HISTORY)
        self.on_change = on_change

    def join(self, member, name, tab):
        earlier = self.members.get(key(name))
        if earlier is not None:
            # A browser that lost its connection comes back before this side has noticed. It is known by the random
            # value its tab keeps, takes its own place again, and to the others nobody has left or joined.
            if earlier.tab is None or earlier.tab != tab:
                raise Refused(f"Somebody here is called {earlier.name} already.", about="name")
            earlier.room = None
            earlier.drop(TAKEN_OVER, "You have come back in another window")
        member.room, member.name, member.tab = self, name, tab
        self.members[key(name)] = member
        people = [other.name for other in self.members.values()]
        member.put_event("welcome", name=name, people=people, history=list(self.history))
        if earlier is None:
            self._broadcast("joined", name=name, but=member)
            self.on_change()

    def leave(self, member):
        del self.members[key(member.name)]
        member.room = None
        self._broadcast("left", name=member.name)
        self.on_change()

    def say(self, member, text):
        self.history.append(self._broadcast("said", name=member.name, text=text))

    def _broadcast(self, kind, but=None, **event):
        event = {"type": kind, "id": secrets.token_hex(8), "time": round(time.time() * 1000), **event}
        text = json.dumps(event)  # once for all
        for member in self.members.values():  # put() never waits, so nobody joins or leaves meanwhile
            if member is not but:
                member.put(text)
        return event


class Rooms:
    """All rooms, and those who watch from the front page how many people are in each."""

    def __init__(self):
        self.rooms = {name: Room(name, self.tell_watchers) for name in ALWAYS}
        self.watchers = set()

    def open(self, name):
        """The room of that name; a new one if there is none yet."""
        if name not in self.rooms:
            self._make_place()
            self.rooms[name] = Room(name, self.tell_watchers)
        return self.rooms[name]

    def _make_place(self):
        if len(self.rooms) < ROOMS:
            return
        for room in self.rooms.values():  # the oldest first
            if not room.members and room.name not in ALWAYS:
                del self.rooms[room.name]
                return
        raise Refused("There are too many rooms already. Please join one of them.", about="name")

    def overview(self):
        """Name and number of people of the rooms worth showing, the liveliest first."""
        shown = [room for room in self.rooms.values() if room.members or room.name in ALWAYS]
        shown.sort(key=lambda room: -len(room.members))
        return [{"name": room.name, "people": len(room.members)} for room in shown]

    def watch(self, watcher):
        self.watchers.add(watcher)
        watcher.put_event("rooms", rooms=self.overview())

    def unwatch(self, watcher):
        self.watchers.discard(watcher)

    def tell_watchers(self):
        text = json.dumps({"type": "rooms", "rooms": self.overview()})
        for watcher in self.watchers:
            watcher.put(text)
