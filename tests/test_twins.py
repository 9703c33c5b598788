"""Which of the twins is used, and how they come to be: what is chosen in child processes, and real builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from waiting import missing

import geventws
from geventws.twins import COMPILED

ROOT = Path(__file__).parents[1]
PACKAGE = Path(geventws.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
REBUILD = "python setup.py build_ext --inplace"

ASK = f"""
import importlib, json, geventws
modules = [importlib.import_module(name) for name in {list(COMPILED)}]
names = [getattr(module, "__all__", dir(module)) for module in modules]
print(json.dumps([geventws.compiled, [module.__file__ for module in modules], names]))
"""


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEVENTWS_", "CFLAGS"))}
    return {**kept, **variables}


def run(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(*command: object, cwd: Path, **variables: str) -> str:
    done = run(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder to import a copy of the package from, with what was compiled for this Python."""
    copy = tmp_path / "geventws"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for path in PACKAGE.rglob(f"*{SUFFIX}"):
        shutil.copy2(path, copy / path.relative_to(PACKAGE))
    return tmp_path


@pytest.fixture
def compiled_copy(copied: Path) -> Path:
    if not all(compiled_file(copied, name).exists() for name in COMPILED):
        missing("the compiled part of geventws")
    return copied


def compiled_file(folder: Path, module: str) -> Path:
    return folder / (module.replace(".", "/") + SUFFIX)


def ask(folder: Path, **variables: str) -> tuple[bool, list[str], list[list[str]]]:
    """What a program in `folder` gets: `compiled`, and each module's file and names."""
    compiled, files, names = json.loads(succeed(sys.executable, "-c", ASK, cwd=folder, **variables))
    assert all(file.startswith(str(folder)) for file in files), files
    return compiled, files, names


def refused(folder: Path, before: str = "", **variables: str) -> str:
    """What the ImportError says."""
    done = run(sys.executable, "-c", before + "import geventws", cwd=folder, **variables)
    assert done.returncode == 1, done.stdout
    *_, last = done.stdout.splitlines()
    assert last.startswith("ImportError: "), done.stdout
    return last


def test_compiled_twins_are_used_where_they_are(compiled_copy: Path) -> None:
    for variables in ({}, {"GEVENTWS_REQUIRE_COMPILED": "1"}, {"GEVENTWS_PURE_PYTHON": "0"}):
        compiled, files, _ = ask(compiled_copy, **variables)
        assert compiled is True
        assert all(file.endswith(SUFFIX) for file in files)


def test_compiled_twins_can_be_refused(copied: Path) -> None:
    compiled, files, _ = ask(copied, GEVENTWS_PURE_PYTHON="1", GEVENTWS_REQUIRE_COMPILED="0")
    assert compiled is False
    assert all(file.endswith(".py") for file in files)


def test_what_is_public_in_one_twin_is_in_the_other(compiled_copy: Path) -> None:
    wanted = ask(compiled_copy, GEVENTWS_PURE_PYTHON="1")[2]
    for name, expected, found in zip(COMPILED, wanted, ask(compiled_copy)[2], strict=True):
        assert set(expected) <= set(found), name


def test_refusing_and_insisting_is_an_error(copied: Path) -> None:
    said = refused(copied, GEVENTWS_PURE_PYTHON="1", GEVENTWS_REQUIRE_COMPILED="1")
    assert "GEVENTWS_PURE_PYTHON and GEVENTWS_REQUIRE_COMPILED are both set: unset one of them" in said


@pytest.mark.parametrize("name", ["geventws.scope.calling", "geventws.protocol.frames", "geventws.websocket"])
def test_if_one_is_missing_none_is_used(compiled_copy: Path, name: str) -> None:
    compiled_file(compiled_copy, name).unlink()
    compiled, files, _ = ask(compiled_copy)
    assert compiled is False
    assert all(file.endswith(".py") for file in files)
    said = refused(compiled_copy, GEVENTWS_REQUIRE_COMPILED="1")
    assert f"not compiled for this Python: {name}. " in said


def test_insisting_on_what_is_not_there_is_an_error_that_tells_the_remedy(copied: Path) -> None:
    for name in COMPILED:
        compiled_file(copied, name).unlink(missing_ok=True)
    assert ask(copied)[0] is False
    said = refused(copied, GEVENTWS_REQUIRE_COMPILED="1")
    for part in (*COMPILED, "a C compiler", "pip install -v", "--no-binary geventws", REBUILD):
        assert part in said


def test_without_greenlets_interface_for_c_none_is_used(compiled_copy: Path) -> None:
    hide = "import greenlet; del greenlet._C_API; "
    ask = hide + "import geventws; print(geventws.compiled)"
    # gevent needs it, too, where it is not plain Python.
    assert succeed(sys.executable, "-c", ask, cwd=compiled_copy, PURE_PYTHON="1").strip() == "False"
    said = refused(compiled_copy, hide, PURE_PYTHON="1", GEVENTWS_REQUIRE_COMPILED="1")
    assert "has no interface for C here" in said


def test_every_module_that_is_compiled_has_its_sources() -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a source tree")
    for name, suffix in COMPILED.items():
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists()
        assert path.with_suffix(suffix).exists()


@pytest.mark.parametrize(
    "changed", ["setup.py", "geventws/transport.py", "geventws/native.pxd", "geventws/native.pyx", None]
)
def test_what_is_older_than_its_sources_is_not_tested(compiled_copy: Path, changed: str | None) -> None:
    tree = compiled_copy
    for name in ("setup.py", "tests/conftest.py", "tests/rawclient.py", "tests/waiting.py", "tests/worlds.py"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    for path in tree.rglob("*"):
        os.utime(path, (1000, 1000))
    # Of a module with a source for the compiler, the Python source is not what is compiled.
    os.utime(tree / (changed or "geventws/native.py"), (2000, 2000))
    collect = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tree)
    done = run(*collect, "tests", cwd=tree, PYTHONPATH=str(tree / "tests"))
    assert (REBUILD in done.stdout) is (changed is not None), done.stdout
    assert done.returncode == (5 if changed is None else 4), done.stdout


# Real builds.

QUICKLY = {"CFLAGS": "-O0"}


class Workshop:
    """A source tree as it would be checked out, and an environment with what builds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.tree.mkdir()
        # Not all that lies there: other builds come and go meanwhile.
        for name in ("geventws", "tests", "docs", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for pattern in ("*.py", "*.toml", "*.cfg", "*.ini", "*.in", "*.md", "LICENSE"):
            for path in ROOT.glob(pattern):
                shutil.copy2(path, self.tree)
        self.python = self.environment("builder")
        import tomllib

        requires = tomllib.loads((self.tree / "pyproject.toml").read_text())["build-system"]["requires"]
        self.pip("install", *requires)
        succeed(self.python, "setup.py", "-q", "sdist", "-d", folder / "sdist", cwd=self.tree)
        (self.sdist,) = (folder / "sdist").iterdir()

    def environment(self, name: str) -> Path:
        succeed(sys.executable, "-m", "venv", self.folder / name, cwd=self.folder)
        return self.folder / name / "bin" / "python"

    def pip(self, command: str, *arguments: object, python: Path | None = None, **variables: str) -> str:
        return succeed(python or self.python, "-m", "pip", command, *arguments, cwd=self.folder, **variables)

    def build(self, folder: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A wheel from the sdist, which is in this folder then."""
        arguments = ("--no-build-isolation", "--no-deps", "--no-cache-dir", "-v", "-w", self.folder / folder)
        return run(self.python, "-m", "pip", "wheel", *arguments, self.sdist, cwd=self.folder, **variables)

    def wheel(self, folder: str, **variables: str) -> tuple[Path, str]:
        done = self.build(folder, **variables)
        assert done.returncode == 0, done.stdout
        (wheel,) = (self.folder / folder).iterdir()
        return wheel, done.stdout

    def echo(self, wheel: Path) -> str:
        """Install it in an environment of its own, and have it answer. Returns which twin that was."""
        python = self.environment(f"with-{wheel.parent.name}")
        self.pip("install", wheel, python=python)
        return succeed(python, ROOT / "tests" / "one_echo.py", cwd=self.folder).strip()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a source tree")
    pytest.importorskip("tomllib")
    return Workshop(tmp_path_factory.mktemp("workshop"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def sources(*suffixes: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "geventws").rglob("*") if path.suffix in suffixes}


@pytest.mark.endtoend
def test_the_sdist_has_everything_and_nothing_that_is_made_of_it(workshop: Workshop) -> None:
    with tarfile.open(workshop.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= sources(".py", ".pyx", ".pxd", ".c") | {
        "geventws/py.typed",
        "setup.py",
        "setup.cfg",
        "pyproject.toml",
    }
    assert names >= {
        "CHANGES.md",
        "LICENSE",
        "README.md",
        "tox.ini",
        "tests/conftest.py",
        "docs",
        "examples",
        "benchmarks",
    }
    assert {name for name in names if name.startswith("geventws/") and name.endswith(".c")} == sources(".c")
    assert not [name for name in names if name.startswith("build") or name.endswith((".so", ".pyc"))]


@pytest.mark.endtoend
@pytest.mark.timeout(180)
def test_a_wheel_is_compiled_and_works(workshop: Workshop) -> None:
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
        missing("a C compiler")
    wheel, _ = workshop.wheel("compiled", GEVENTWS_REQUIRE_COMPILED="1", **QUICKLY)
    compiled = {str(compiled_file(Path(), name)) for name in COMPILED}
    assert names_in(wheel) == sources(".py") | compiled | {"geventws/py.typed"}
    assert "-none-any" not in wheel.name
    assert workshop.echo(wheel) == "compiled"


@pytest.mark.endtoend
@pytest.mark.timeout(180)
def test_without_a_compiler_a_wheel_is_plain_python_and_works_and_that_is_said(workshop: Workshop) -> None:
    wheel, said = workshop.wheel("without", CC="false")
    assert "geventws: NOT COMPILED" in said
    assert "GEVENTWS_REQUIRE_COMPILED=1 makes it an error" in said
    assert names_in(wheel) == sources(".py") | {"geventws/py.typed"}
    assert wheel.name.endswith("-py3-none-any.whl")
    assert workshop.echo(wheel) == "plain Python"


@pytest.mark.endtoend
def test_a_wheel_that_is_asked_to_be_plain_python_is(workshop: Workshop) -> None:
    wheel, said = workshop.wheel("pure", GEVENTWS_PURE_PYTHON="1")
    assert "geventws: NOT COMPILED: GEVENTWS_PURE_PYTHON is set" in said
    assert names_in(wheel) == sources(".py") | {"geventws/py.typed"}
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.endtoend
def test_a_build_fails_that_insists_and_has_no_compiler(workshop: Workshop) -> None:
    done = workshop.build("failed", GEVENTWS_REQUIRE_COMPILED="1", CC="false")
    assert done.returncode != 0
    assert not (workshop.folder / "failed").exists() or not list((workshop.folder / "failed").iterdir())


@pytest.mark.endtoend
@pytest.mark.timeout(180)
def test_what_was_built_in_place_is_not_built_again_and_goes_if_it_cannot_be(workshop: Workshop) -> None:
    command = (workshop.python, "setup.py", "build_ext", "--inplace")
    built = [compiled_file(workshop.tree, name) for name in COMPILED]
    succeed(*command, cwd=workshop.tree, GEVENTWS_REQUIRE_COMPILED="1", **QUICKLY)
    assert all(path.exists() for path in built)
    assert "Cythonizing" not in succeed(*command, cwd=workshop.tree, CC="false")
    assert all(path.exists() for path in built)
    changed = workshop.tree / "geventws" / "native.pxd"
    os.utime(changed)
    assert "NOT COMPILED" in succeed(*command, cwd=workshop.tree, CC="false")
    assert not any(path.exists() for path in built)
