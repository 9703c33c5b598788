"""Handlers that hold a lock while they wait. The locks were made at import: after `install()`, where a program is served."""

from __future__ import annotations

import threading
import time
from typing import Any

lock = threading.Lock()
rlock = threading.RLock()
condition = threading.Condition()


def _hold(held: Any, seconds: float, word: str) -> str:
    with held:
        time.sleep(seconds / 10)
    return word


def held_lock(seconds: float, word: str) -> str:
    """One after the other, a tenth of the time each."""
    return _hold(lock, seconds, word)


def held_rlock(seconds: float, word: str) -> str:
    with rlock:
        return _hold(rlock, seconds, word)


def held_condition(seconds: float, word: str) -> str:
    return _hold(condition, seconds, word)
