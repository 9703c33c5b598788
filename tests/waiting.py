"""What tests wait for, in a greenlet of the hub or in a native thread without one: conditions, events, results, a while.

Also components of the machine that are there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists


def pause(seconds: float) -> None:
    """Do nothing for a while, and let others run."""
    if get_hub_if_exists() is None:
        time.sleep(seconds)
    else:
        gevent.sleep(seconds)


class Event:
    """As `gevent.event.Event`, between greenlets and native threads, too."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_set = self._event.is_set
        self.set = self._event.set

    def wait(self, timeout: float | None = None) -> bool:
        if get_hub_if_exists() is None:
            return self._event.wait(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        while not self._event.is_set() and (until is None or time.monotonic() < until):
            gevent.sleep(0.001)
        return self._event.is_set()


class Result:
    """As `gevent.event.AsyncResult`, between greenlets and native threads, too."""

    def __init__(self) -> None:
        self._there = Event()
        self._value: Any = None

    def set(self, value: Any) -> None:
        self._value = value
        self._there.set()

    def get(self, timeout: float) -> Any:
        assert self._there.wait(timeout), f"nothing within {timeout} s"
        return self._value


def together(*calls: Callable[[], Any]) -> None:
    """Make several calls at once, in greenlets or in native threads, and wait for them. Raises what the first raised."""
    if get_hub_if_exists() is not None:
        gevent.joinall([gevent.spawn(call) for call in calls], timeout=30, raise_error=True)
        return
    errors: list[BaseException] = []

    def make(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def wait_until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Let other greenlets run until `condition()` is true; fails after `seconds`."""
    with gevent.Timeout(seconds, AssertionError(f"not true within {seconds} s")):
        while not condition():
            gevent.sleep(0.001)


def missing(component: str) -> None:
    """A component of this machine that a test needs is not there: a named skip, or a failure where all is required."""
    if os.environ.get("GEVENTWS_REQUIRE_ALL") == "1":
        pytest.fail(f"{component} is missing, and GEVENTWS_REQUIRE_ALL=1 requires it")
    pytest.skip(f"{component} is missing")
