"""A native thread that does things later, as many a program has one. It was there before any connection."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

_jobs: queue.SimpleQueue[tuple[float, Callable[..., object], tuple[Any, ...]]] = queue.SimpleQueue()


def later(seconds: float, function: Callable[..., object], *arguments: object) -> None:
    """Have the thread call `function` so many seconds from now."""
    _jobs.put((time.monotonic() + seconds, function, arguments))


def _work() -> None:
    while True:
        due, function, arguments = _jobs.get()
        time.sleep(max(0.0, due - time.monotonic()))
        function(*arguments)


threading.Thread(target=_work, daemon=True).start()
