"""The program under test: a WSGI server as a user writes it, whose websocket handlers block in some library.

    python server.py http_clients redis_clients

It knows nothing of the scope: the first connection brings it. It prints the port of a server with the default options and
of one with `cooperative=False`, and which programs cannot be imported here; it ends when its standard input ends. A message
`0.3 this` to `/http_clients.urlopen` calls that function, and is answered with what it returns. Any plain HTTP request
tells for how long, in seconds, nothing else could run since the last one.
"""

from __future__ import annotations

import os

if os.environ.get("GEVENTWS_PATCHED") == "1":
    # What such a program does is the measure for one with the scope.
    from gevent import monkey

    monkey.patch_all()

import faulthandler
import gc
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import gevent
import gevent.os
from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler


class Ticker:
    """A greenlet that wants to run every few milliseconds, and sees when it cannot.

    Time in which the hub's thread was ready and the machine ran others is nobody's fault here, and does not count.
    """

    def __init__(self) -> None:
        try:
            self._scheduler = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._scheduler = -1
        self._longest = 0.0
        self._last = self._now()
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(0.005)
            self._tick()

    def _tick(self) -> None:
        now = self._now()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def _now(self) -> float:
        now = time.perf_counter()
        if self._scheduler != -1:
            now -= int(os.pread(self._scheduler, 100, 0).split()[1]) / 1e9
        return now

    def take(self) -> float:
        """The longest time between two ticks since the last call."""
        self._tick()
        longest, self._longest = self._longest, 0.0
        return longest


ticker = Ticker()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(ticker.take()).encode()]
    program, _, name = environ["PATH_INFO"].strip("/").partition(".")
    function = getattr(importlib.import_module(f"programs.{program}"), name)
    for message in ws:
        seconds, word = message.split()
        try:
            answer = function(float(seconds), word)
        except Exception:
            answer = traceback.format_exc()
        ws.send(answer)
    return []


def main(*programs: str) -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    missing: dict[str, str] = {}
    for program in programs:
        try:
            importlib.import_module(f"programs.{program}")
        except ImportError as error:
            missing[program] = str(error)
    gc.freeze()  # To look through all those libraries for garbage takes longer than anything here may.
    on = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler, log=None)
    off = WSGIServer(("127.0.0.1", 0), app, handler_class=WebSocketHandler.configured(cooperative=False), log=None)
    for server in (on, off):
        server.start()
    print(json.dumps({"on": on.server_port, "off": off.server_port, "missing": missing}), flush=True)
    gevent.os.make_nonblocking(sys.stdin.fileno())
    gevent.os.nb_read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
