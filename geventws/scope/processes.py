"""Child processes and their pipes: `subprocess`, `os.waitpid`, `os.read` and `os.write`."""

from __future__ import annotations

import io
import os
import select
import stat
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from .dispatch import Replacement, dispatched, dispatched_keywords
from .membership import inside
from .waiting import READ, WRITE, Deadline, forget_descriptor, pauses, wait_descriptor

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["replacements"]

_native_read: Final = os.read
_native_write: Final = os.write
_native_waitpid: Final = os.waitpid
_native_poll: Final = select.poll
# gevent's has none, in a process that it has patched.
_native_popen_wait: Final[Any] = getattr(subprocess.Popen, "_wait", None)

# A pipe that says it can be written takes as much at once.
_PIPE_BUF: Final = select.PIPE_BUF


def _wait_ready(fd: int, events: int) -> None:
    """Until `fd` will not block; at once for what never does, and for what is wrong, so that it fails the usual way."""
    if not os.get_blocking(fd):
        return
    poll = _native_poll()
    poll.register(fd, select.POLLIN if events == READ else select.POLLOUT)
    while not poll.poll(0):
        wait_descriptor(fd, events, None)


def _read(fd: int, length: int, /) -> bytes:
    _wait_ready(fd, READ)
    return _native_read(fd, length)


def _write(fd: int, data: ReadableBuffer, /) -> int:
    """All of it; into a pipe in pieces for which there is room, since a blocking one would take all, and wait."""
    _wait_ready(fd, WRITE)
    with memoryview(data) as view, view.cast("B") as octets:
        if len(octets) <= _PIPE_BUF or not os.get_blocking(fd) or not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return _native_write(fd, octets)
        written = _native_write(fd, octets[:_PIPE_BUF])
        while written < len(octets):
            _wait_ready(fd, WRITE)
            written += _native_write(fd, octets[written : written + _PIPE_BUF])
        return written


def _waitpid(pid: int, options: int, /) -> tuple[int, int]:
    looks = pauses(Deadline(None))
    while True:
        found = _native_waitpid(pid, options | os.WNOHANG)
        if found[0] or options & os.WNOHANG:
            return found
        # Only the end of one child can be waited for; whatever else is asked has to be looked for.
        if pid > 0 and options == 0:
            _wait_for_exit(pid, Deadline(None))
        else:
            next(looks)


def _wait_for_exit(pid: int, deadline: Deadline) -> bool:
    """Wait until the child has ended, without collecting it. Returns False when the deadline came first."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return _look_for_exit(pid, deadline)
    try:
        return wait_descriptor(fd, READ, deadline.left)
    finally:
        os.close(fd)


def _look_for_exit(pid: int, deadline: Deadline) -> bool:
    looks = pauses(deadline)
    with suppress(ChildProcessError):  # Somebody else has collected it.
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if next(looks, deadline) is deadline:
                return False
    return True


def _popen_wait(process: Any, timeout: float | None) -> int:
    """Wait before the native one does: that holds the process's lock meanwhile, which others may want."""
    if process.returncode is None and not _wait_for_exit(process.pid, Deadline(timeout)):
        raise subprocess.TimeoutExpired(process.args, timeout or 0)
    return int(_native_popen_wait(process, None))


class _Pipe(io.FileIO):
    """The parent's end of a pipe, which a buffer reads and writes through."""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._wait(READ)
        return super().readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        self._wait(READ)
        return super().read(size)

    def readall(self) -> bytes:
        if not inside():
            return super().readall()
        pieces = []
        while piece := self.read(io.DEFAULT_BUFFER_SIZE):
            pieces.append(piece)
        return b"".join(pieces)

    def write(self, data: ReadableBuffer, /) -> int:
        return _write(self.fileno(), data) if inside() else super().write(data)

    def close(self) -> None:
        if not self.closed:
            forget_descriptor(self.fileno())
        super().close()

    def _wait(self, events: int) -> None:
        if not self.closed and inside():
            _wait_ready(self.fileno(), events)


class _SubprocessIO(ModuleType):
    """What `subprocess` finds under the name `io`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(io, name)

    @staticmethod
    def open(fd: int, mode: str, bufsize: int = -1) -> Any:
        raw = _Pipe(fd, mode)
        if bufsize == 0:
            return raw
        if bufsize == 1:
            text = "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        size = bufsize if bufsize > 1 else io.DEFAULT_BUFFER_SIZE
        return io.BufferedWriter(raw, size) if "w" in mode else io.BufferedReader(raw, size)


def replacements() -> Iterator[Replacement]:
    yield Replacement(os, "read", dispatched(_native_read, _read))
    yield Replacement(os, "write", dispatched(_native_write, _write))
    yield Replacement(os, "waitpid", dispatched(_native_waitpid, _waitpid))
    yield Replacement(subprocess.Popen, "_wait", dispatched_keywords(_native_popen_wait, _popen_wait))
    yield Replacement(subprocess, "io", _SubprocessIO("io"), everywhere=False)
