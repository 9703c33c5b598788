"""How the examples are started, found and ended, as their readers do it: a program with one line, a real port, a signal."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDING = 20  # seconds, far more than any example needs to end

SCREENSHOTS = pytest.StashKey[Path]()


class Example:
    """One example, running. Its address is known because it has printed it."""

    def __init__(self, path, *options, cwd=ROOT, log):
        self.log = log
        self.line = [sys.executable, str(path), *options]
        # -u is not given: the line is printed at once even into a pipe, or nobody could wait for it.
        with log.open("w") as stderr:
            self.process = subprocess.Popen(self.line, cwd=cwd, stdout=subprocess.PIPE, stderr=stderr, text=True)
        first = self.process.stdout.readline()
        found = re.fullmatch(r"\w+ on http://([\w.]+):(\d+)\n", first)
        if found is None:
            self.kill()
            pytest.fail(f"{path} printed {first!r} instead of an address, and on its error output:\n{self.errors()}")
        self.title = first.split()[0]
        self.host, self.port = found[1], int(found[2])

    @property
    def http(self):
        return f"http://{self.host}:{self.port}"

    @property
    def ws(self):
        return f"ws://{self.host}:{self.port}"

    def errors(self):
        """The error output: the access log, and what should not be there."""
        return self.log.read_text()

    def end(self, signum=signal.SIGTERM):
        """Ask it to end. It has to do so by itself, and with nothing to complain about."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(signum)
        try:
            self.process.communicate(timeout=ENDING)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.line} did not end within {ENDING} seconds after signal {signum}:\n{self.errors()}")
        assert self.process.returncode == 0, self.errors()
        assert "Traceback" not in self.errors(), self.errors()

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path):
    """Starts an example by its path under examples/ and ends it after the test, where a traceback is a failure."""
    started = []

    def start(path, *options, port=0, cwd=ROOT):
        log = tmp_path / f"stderr-{len(started)}.txt"
        example = Example(path, "--port", str(port), *options, cwd=cwd, log=log)
        started.append(example)
        return example

    yield start
    try:
        for example in started:
            example.end()
    finally:
        for example in started:
            if example.process.returncode is None:
                example.kill()


@pytest.fixture(scope="session")
def screenshots(request, tmp_path_factory):
    """A folder for pictures of pages. Where it is stands at the end of the report."""
    folder = tmp_path_factory.mktemp("screenshots")
    request.config.stash[SCREENSHOTS] = folder
    return folder


def pytest_terminal_summary(terminalreporter, config):
    folder = config.stash.get(SCREENSHOTS, None)
    if folder is not None:
        terminalreporter.section("screenshots")
        for picture in sorted(folder.iterdir()):
            terminalreporter.write_line(os.fspath(picture))
