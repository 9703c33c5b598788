"""The other program under test: a client of geventws that goes through the cases of a fuzzing server, echoing what it is sent.

    python echo_client.py ws://127.0.0.1:9001 AGENT NUMBER-OF-CASES '{"compression": true}'

The last argument holds the options of `connect`. It ends when it is through and the server has written its report, or when its
standard input ends.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.os

# In a checkout where the package is not installed.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from geventws.client import connect
from geventws.exceptions import ConnectionClosed

PATIENCE = 60  # seconds for the server to start, and for anything it answers by itself


def main(url: str, agent: str, cases: str, options: str) -> None:
    gevent.spawn(end_with_the_runner)
    wait_for_server(url)
    count = ask(f"{url}/getCaseCount")
    if count != cases:
        sys.exit(f"the server has {count} cases, not {cases}")
    for case in range(1, int(cases) + 1):
        echo(f"{url}/runCase?case={case}&agent={agent}", json.loads(options))
    ask(f"{url}/updateReports?agent={agent}")


def echo(url: str, options: dict[str, Any]) -> None:
    with connect(url, timeout=PATIENCE, proxy=None, **options) as ws, suppress(ConnectionClosed):
        for message in ws:
            ws.send(message)


def ask(url: str) -> object:
    """What the server has to say before it closes the connection."""
    with connect(url, timeout=PATIENCE, proxy=None) as ws:
        answer = ws.receive(PATIENCE)
        if answer is not None:
            ws.receive(PATIENCE)
        return answer


def wait_for_server(url: str) -> None:
    """Its process has been started along with this one."""
    with gevent.Timeout(PATIENCE):
        while True:
            try:
                ask(f"{url}/getCaseCount")
                return
            except ConnectionRefusedError:
                gevent.sleep(0.02)


def end_with_the_runner() -> None:
    # The runner holds the other end, so that a client never outlives it, however it ends.
    gevent.os.tp_read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
