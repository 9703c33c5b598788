"""Tests that run in a child process of their own, which is stopped with all its stacks when it hangs.

Written as functions with `in_child` above them; `main` is what the child runs.
"""

from __future__ import annotations

import _thread
import faulthandler
import functools
import gc
import importlib.util
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gevent.hub import Hub
from greenlet import greenlet

import geventws

TESTS = Path(__file__).resolve().parents[1]

_sleep = time.sleep


class Watch:
    """Ends this process, and shows where its threads and greenlets are, unless it is told in time that all goes well."""

    def __init__(self) -> None:
        self._until = time.monotonic()
        self._note = ""
        self._started = False

    def allow(self, seconds: float, note: str = "") -> None:
        """note: what is going on, for who reads of the hang."""
        self._until = time.monotonic() + seconds
        self._note = note
        # If even that thread cannot run any more.
        faulthandler.dump_traceback_later(seconds + 5, exit=True)
        if not self._started:
            self._started = True
            _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while time.monotonic() < self._until:
            _sleep(0.1)
        print(f"It hangs {self._note}", *stacks(), sep="\n", flush=True)
        os._exit(70)


def stacks() -> Iterator[str]:
    """Where each thread and each greenlet that waits is."""
    for ident, running in sys._current_frames().items():
        yield f"Thread {ident:#x}:\n{''.join(traceback.format_stack(running)[-12:])}"
    for waiting in gc.get_objects():
        if isinstance(waiting, greenlet) and not isinstance(waiting, Hub) and waiting.gr_frame is not None:
            yield f"{waiting!r}:\n{''.join(traceback.format_stack(waiting.gr_frame)[-12:])}"


watch = Watch()


def in_child(seconds: float = 10) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Run the test in a fresh process, whatever it installs there. It may take so many seconds."""

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def test() -> None:
            run_in_child(function, seconds)

        return pytest.mark.timeout(seconds + 40)(test)

    return decorate


def run_in_child(function: Callable[[], None], seconds: float) -> None:
    paths = [str(TESTS), str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "from scope.watched import main; main()",
            function.__code__.co_filename,
            function.__name__,
            str(seconds),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=seconds + 30,
    )
    if child.returncode:
        said = child.stdout if len(child.stdout) < 20_000 else f"{child.stdout[:10_000]}\n...\n{child.stdout[-10_000:]}"
        pytest.fail(f"{function.__name__} in a child ended with {child.returncode}:\n{said}", False)


def main() -> None:
    path, name, seconds = sys.argv[1:]
    watch.allow(float(seconds))
    spec = importlib.util.spec_from_file_location("in_child", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["in_child"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name).__wrapped__()
