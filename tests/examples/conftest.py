"""How the examples are started, found and ended, as their readers do it: one line, a real port, a signal."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from browser import FLAGS

import geventws

ROOT = Path(__file__).parents[2]
ENDING = 20  # seconds, far more than any example needs to end

SCREENSHOTS = pytest.StashKey[Path]()


class Example:
    """One example, running. Its address is known because it has printed it."""

    def __init__(self, path, *options, log):
        self.log = log
        self.asked = False
        self.line = [sys.executable, str(path), *options]
        # The example imports the geventws that the tests import. There is no PYTHONUNBUFFERED: an example prints its line
        # at once even into a pipe, or nobody could wait for it.
        paths = [str(Path(geventws.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                self.line, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
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

    def ask_to_end(self, signum=signal.SIGTERM):
        self.asked = True
        self.process.send_signal(signum)

    def end(self):
        """See it end, asked to if need be: by itself, and with nothing to complain about."""
        if self.process.returncode is not None:
            return
        if not self.asked:
            self.ask_to_end()
        try:
            self.process.communicate(timeout=ENDING)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.line} did not end within {ENDING} seconds:\n{self.errors()}")
        assert self.process.returncode == 0, self.errors()
        assert "Traceback" not in self.errors(), self.errors()

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path):
    """Starts an example by its path under examples/ and ends it after the test, where a traceback is a failure."""
    started = []

    def start(path, *options, port=0):
        log = tmp_path / f"stderr-{len(started)}.txt"
        example = Example(path, "--port", str(port), *options, log=log)
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
def required_or_skipped():
    """Skips the test because something is not installed, or fails it where everything has to be."""

    def required_or_skipped(missing):
        if os.environ.get("GEVENTWS_REQUIRE_ALL") == "1":
            pytest.fail(f"{missing} is not installed, and GEVENTWS_REQUIRE_ALL=1 demands it")
        pytest.skip(f"{missing} is not installed")

    return required_or_skipped


@pytest.fixture(scope="session")
def chromium(required_or_skipped, tmp_path_factory):
    """A browser without a screen, and with nothing in its memory."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        required_or_skipped("Chromium" if binary is None else "chromedriver")
    # Only here, so that the tests without a browser run without Selenium too.
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, "--lang=en-GB", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium):
    """The browser with one empty window; the windows of a test are closed behind it."""
    empty = chromium.current_window_handle
    yield chromium
    for handle in chromium.window_handles:
        if handle != empty:
            chromium.switch_to.window(handle)
            chromium.close()
    chromium.switch_to.window(empty)


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
            terminalreporter.write_line(str(picture))
