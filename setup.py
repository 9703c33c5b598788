"""Builds the compiled twins of some modules (geventws/twins.py). What else there is to say is in pyproject.toml."""

import ast
import contextlib
import os
import sys
import sysconfig
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE, GENERATED = Path("geventws"), Path("build")
DIRECTIVES = {
    # The annotations are for readers and type checkers, who know `int` without bounds.
    "annotation_typing": False,
    # A mistake shall raise what it raises in Python.
    "boundscheck": True,
    "nonecheck": True,
    "always_allow_keywords": True,
}


def table():
    """The modules and the suffixes of their sources; read, as importing geventws would take gevent."""
    for statement in ast.parse(PACKAGE.joinpath("twins.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "COMPILED":
            return ast.literal_eval(statement.value)
    raise LookupError("geventws/twins.py has no COMPILED")


SOURCES = {name: Path(*name.split(".")).with_suffix(suffix) for name, suffix in table().items()}


def flag(name):
    return os.environ.get(name, "") not in ("", "0")


def reason_against():
    """Why there is nothing to be compiled, if so: asked for, or not to be had here."""
    if flag("GEVENTWS_PURE_PYTHON"):
        return "GEVENTWS_PURE_PYTHON is set"
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} runs Python faster than extension modules, and has no greenlet.h"
    if os.name != "posix":
        return "it reads and writes sockets as POSIX has them"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it relies on the GIL, which this Python has not"
    return None


@contextlib.contextmanager
def alone():
    """The environments of one tree may be built at the same time. All but the first find what they need."""
    import fcntl

    GENERATED.mkdir(exist_ok=True)
    with GENERATED.joinpath("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class NotForThisPython(Exception):
    """There is nothing to be compiled here."""


class Build(build_ext):
    """Builds all or none: they know each other's insides.

    Without a compiler the Python twins do the same, slower. That is said, and no reason to fail unless it is asked for.
    """

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def run(self):
        inplace = self.inplace
        try:
            if reason := reason_against():
                raise NotForThisPython(reason)
            with alone():
                # An editable installation would compile everything anew, in each environment.
                if self.force or not (inplace and self.is_fresh()):
                    self.build(inplace)
        except Exception as error:
            if flag("GEVENTWS_REQUIRE_COMPILED"):
                raise
            self.leave_out(inplace, error)

    def built(self, folder):
        return [Path(folder, self.get_ext_filename(name)) for name in SOURCES]

    def is_fresh(self):
        """Whether what was built in place is of the sources as they are. tests/conftest.py asks the same."""
        sources = [*SOURCES.values(), *PACKAGE.rglob("*.pxd"), Path("setup.py")]
        built = self.built(".")
        return all(path.exists() for path in built) and min(map(modified, built)) >= max(map(modified, sources))

    def build(self, inplace):
        from Cython.Build import cythonize

        started = time.time()
        earlier = [GENERATED / path.with_suffix(".c") for path in SOURCES.values() if path.suffix != ".c"]
        # The compiler is quick, and Cython needs but seconds for everything: no processes of its own.
        generated = cythonize(
            [Extension(name, [str(path)]) for name, path in SOURCES.items()],
            build_dir=str(GENERATED),
            language_level=3,
            compiler_directives=DIRECTIVES,
            # It looks at the sources, not at how they are compiled.
            force=self.force or any(path.exists() and modified(path) < modified("setup.py") for path in earlier),
        )
        sources = {extension.name: extension.sources for extension in generated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
            extension.include_dirs = [greenlet_headers()]
        super().run()
        if inplace:
            # Also those that needed no compiling are of the sources as they are now.
            for path in self.built("."):
                os.utime(path, (started, started))

    def leave_out(self, inplace, error):
        if not isinstance(error, NotForThisPython):
            for path in [*self.built(self.build_lib), *(self.built(".") if inplace else ())]:
                path.unlink(missing_ok=True)
        self.extensions = self.distribution.ext_modules = []
        print(
            f"\ngeventws: NOT COMPILED: {str(error).rstrip('.')}.\n"
            "geventws works without its compiled part, slower. It takes CPython with its headers and a C compiler "
            "(apt install gcc python3-dev); GEVENTWS_REQUIRE_COMPILED=1 makes it an error if it cannot be built.\n",
            file=sys.stderr,
            flush=True,
        )


class Wheel(bdist_wheel):
    """Named for this platform only if it holds anything that was built for it."""

    def run_command(self, command):
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()


def greenlet_headers():
    import greenlet

    # It is included as "greenlet/greenlet.h", and lies in the package itself.
    return str(Path(greenlet.__file__).parents[1])


def modified(path):
    return os.stat(path).st_mtime


setup(
    ext_modules=[
        Extension(
            name,
            [str(path)],
            depends=["setup.py"],
            # Who has wishes says them in CFLAGS.
            extra_compile_args=[] if "CFLAGS" in os.environ else ["-O3", "-g0"],
        )
        for name, path in SOURCES.items()
    ],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
