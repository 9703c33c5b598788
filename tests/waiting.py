"""What tests wait for: a condition that becomes true, and components of the machine that are there."""

from __future__ import annotations

import os
from collections.abc import Callable

import gevent
import pytest


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
