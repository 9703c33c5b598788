"""Handlers that wait for other processes: `subprocess` with pipes, pipes and children by `os`."""

from __future__ import annotations

import os
import subprocess

from .native import later


def run(seconds: float, word: str) -> str:
    shell = ["sh", "-c", f"sleep {seconds}; cat"]
    return subprocess.run(shell, input=word, capture_output=True, text=True, check=True, timeout=10).stdout


def run_without_pipes(seconds: float, word: str) -> str:
    assert subprocess.run(["sleep", str(seconds)]).returncode == 0
    return word


def run_times_out(seconds: float, word: str) -> str:
    try:
        return str(subprocess.run(["sleep", str(seconds + 1)], stdout=subprocess.PIPE, timeout=seconds))
    except subprocess.TimeoutExpired:
        return word


def communicate(seconds: float, word: str) -> str:
    """More on both pipes than they hold."""
    shell = ["sh", "-c", f"sleep {seconds}; cat >&2; echo {word}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(shell, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        out, errors = process.communicate(bytes(300_000))
    assert errors == bytes(300_000)
    return out.decode().strip()


def lines(seconds: float, word: str) -> str:
    """Each line is read when it comes."""
    shell = ["sh", "-c", f"for part in 1 2 3; do sleep {seconds / 3}; echo $part; done; echo {word}"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as process:
        *parts, said = (line.strip() for line in process.stdout)
    assert parts == ["1", "2", "3"]
    return said


def wait(seconds: float, word: str) -> str:
    process = subprocess.Popen(["sh", "-c", f"sleep {seconds}; exit 3"])
    assert process.wait(10) == 3
    return word


def os_waitpid(seconds: float, word: str) -> str:
    child = os.posix_spawn("/bin/sh", ["sh", "-c", f"sleep {seconds}; exit 3"], dict(os.environ))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    return word


def os_read(seconds: float, word: str) -> str:
    """A pipe that a native thread writes to."""
    reading, writing = os.pipe()
    later(seconds, os.write, writing, word.encode())
    try:
        return os.read(reading, 100).decode()
    finally:
        os.close(reading)
        os.close(writing)


def os_write(seconds: float, word: str) -> str:
    """A pipe that is full until a child reads it."""
    reading, writing = os.pipe()
    shell = ["sh", "-c", f"sleep {seconds}; wc -c"]
    with subprocess.Popen(shell, stdin=reading, stdout=subprocess.PIPE, text=True) as process:
        os.close(reading)
        data = memoryview(bytes(100_000 + int(word)))
        while data:
            data = data[os.write(writing, data) :]
        os.close(writing)
        return str(int(process.stdout.read()) - 100_000)
