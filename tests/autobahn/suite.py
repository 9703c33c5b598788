"""Where the Autobahn testsuite comes from: found, installed once, and the command that runs its fuzzer.

The suite is a Python 2 program. It runs on a CPython 2.7, or, where there is none, in its authors' Docker image.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

REQUIREMENT = "autobahntestsuite==25.10.1"
IMAGE = "crossbario/autobahn-testsuite"
DEFAULT_DIRECTORY = Path(__file__).resolve().parents[2] / ".tox" / "autobahn-suite"

NEITHER_FOUND = (
    "the Autobahn testsuite needs CPython 2.7 or a running Docker engine, and neither was found. Install CPython 2.7 "
    "(as by `pyenv install 2.7.18`; elsewhere name it by --python27 or the environment variable PYTHON27), "
    "or start Docker"
)

# What Python 2.7 runs. The folder holds a namespace package (zope), so it must be added as a site folder. The thread
# ends the process when its input ends: the runner holds the other end, so that a fuzzer never outlives it. As a server it
# would listen to the whole network.
START_FUZZER = """
import os, site, sys, threading

def end_with_the_runner():
    os.read(0, 1)
    os._exit(1)

thread = threading.Thread(target=end_with_the_runner)
thread.daemon = True
thread.start()
site.addsitedir(sys.argv.pop(1))
from autobahntestsuite import fuzzing, wstest

listen = fuzzing.listenWS
fuzzing.listenWS = lambda factory, context: listen(factory, context, interface="127.0.0.1")
wstest.run()
"""


class SuiteUnavailable(Exception):
    """The testsuite cannot be had on this machine; the text says what would help."""


class Suite(Protocol):
    """A way to run the fuzzer."""

    def command(self, mode: str, spec: Path, name: str) -> list[str]:
        """The command that runs the fuzzer as `spec` says, in the mode "fuzzingclient" or "fuzzingserver".

        It reads and writes only in the spec's folder.
        """

    def stop(self, name: str) -> None:
        """End what the command of this name started outside its own process group."""


@dataclass(frozen=True)
class InPython27:
    python: str
    folder: Path

    def command(self, mode: str, spec: Path, name: str) -> list[str]:
        arguments = [str(self.folder), *_arguments(mode, spec)]
        return [self.python, "-s", "-u", "-c", START_FUZZER, *arguments]

    def stop(self, name: str) -> None:
        pass


@dataclass(frozen=True)
class InDocker:
    docker: str

    def command(self, mode: str, spec: Path, name: str) -> list[str]:
        folder = str(spec.parent)
        # The same path inside as outside, and the same user, to whom the reports will belong.
        container = ["--rm", "--name", name, "--network", "host", "--volume", f"{folder}:{folder}"]
        user = ["--user", f"{os.getuid()}:{os.getgid()}"]
        return [self.docker, "run", *container, *user, IMAGE, "wstest", *_arguments(mode, spec)]

    def stop(self, name: str) -> None:
        subprocess.run([self.docker, "kill", name], capture_output=True, timeout=30, check=False)


def _arguments(mode: str, spec: Path) -> list[str]:
    # Without its web server, whose port is always the same.
    return ["--mode", mode, "--webport", "0", "--spec", str(spec)]


def find_suite(python27: str | None = None, directory: Path = DEFAULT_DIRECTORY, timeout: float = 300) -> Suite:
    """The suite, installed first if need be, which takes at most `timeout` seconds.

    Raises:
        SuiteUnavailable: there is neither CPython 2.7 nor Docker, or the suite could not be installed.
    """
    python = find_python27(python27)
    if python is not None:
        return InPython27(python, install(python, directory, timeout))
    docker = find_docker()
    if docker is None:
        raise SuiteUnavailable(NEITHER_FOUND)
    _run([docker, "pull", "--quiet", IMAGE], timeout)
    return InDocker(docker)


def find_python27(named: str | None = None) -> str | None:
    """A CPython 2.7 that runs: the one that is named, by the caller or by PYTHON27, else what is found.

    Raises:
        SuiteUnavailable: the named one does not run, or is something else.
    """
    named = named or os.environ.get("PYTHON27")
    if named:
        if not _is_python27(named):
            raise SuiteUnavailable(f"{named} is not a CPython 2.7 that runs")
        return named
    return next(filter(_is_python27, _likely_python27()), None)


def find_docker() -> str | None:
    """The Docker client, if its engine answers."""
    docker = shutil.which("docker")
    if docker is None or not _answer([docker, "info", "--format", "{{.ServerVersion}}"]):
        return None
    return docker


def install(python: str, directory: Path, timeout: float) -> Path:
    """The folder in `directory` that holds the suite; if there is none, pip installs it for `python`."""
    folder = directory / REQUIREMENT.replace("==", "-")
    if folder.is_dir():
        return folder
    directory.mkdir(parents=True, exist_ok=True)
    # Installed aside and renamed when complete, so that what other runs see is all or nothing.
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        target = Path(scratch) / "suite"
        _run([python, "-s", "-m", "pip", "install", "--quiet", "--target", str(target), REQUIREMENT], timeout)
        try:
            target.rename(folder)
        except OSError:
            # Another run was faster. Theirs is as good.
            if not folder.is_dir():
                raise
    return folder


def environment_for_python27() -> dict[str, str]:
    """The environment without what is meant for the Python that runs this: PYTHONPATH leads to its packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _likely_python27() -> Iterator[str]:
    on_path = shutil.which("python2.7")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    for python in sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True):
        yield str(python)


def _is_python27(python: str) -> bool:
    question = "import platform; print(platform.python_implementation() + platform.python_version())"
    return _answer([python, "-c", question]).startswith("CPython2.7.")


def _answer(command: list[str]) -> str:
    """What a command prints, or nothing when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True, env=environment_for_python27()
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _run(command: list[str], timeout: float) -> None:
    print("$", *command, file=sys.stderr)
    try:
        subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=True, env=environment_for_python27()
        )
    except subprocess.TimeoutExpired as error:
        raise SuiteUnavailable(f"{' '.join(command)} did not end within {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise SuiteUnavailable(f"{' '.join(command)} failed:\n{error.stdout}{error.stderr}") from error
