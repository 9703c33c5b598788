"""Builds the compiled twins of some modules (geventws/twins.py). What else there is to say is in pyproject.toml."""

import os
import sys
from pathlib import Path

import greenlet
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# By module: written for the compiler, or the Python source itself, with the types from the .pxd file beside it.
SOURCES = {
    "geventws.scope.calling": "geventws/scope/calling.c",
    "geventws.scope.local": "geventws/scope/local.py",
    "geventws.protocol.masking": "geventws/protocol/masking.pyx",
    "geventws.protocol.payload": "geventws/protocol/payload.pyx",
    "geventws.protocol.messages": "geventws/protocol/messages.py",
    "geventws.protocol.frames": "geventws/protocol/frames.py",
    "geventws.protocol.connection": "geventws/protocol/connection.py",
    "geventws.native": "geventws/native.pyx",
    "geventws.transport": "geventws/transport.py",
    "geventws.websocket": "geventws/websocket.py",
}
DIRECTIVES = {
    # The annotations are for readers and type checkers, who know `int` without bounds.
    "annotation_typing": False,
    # A mistake shall raise what it raises in Python.
    "boundscheck": True,
    "nonecheck": True,
    "always_allow_keywords": True,
}
REQUIRED = os.environ.get("GEVENTWS_REQUIRE_COMPILED", "") not in ("", "0")
REFUSED = os.environ.get("GEVENTWS_PURE_PYTHON", "") not in ("", "0")


class OptionalBuild(build_ext):
    """Without a compiler the Python twins do the same, slower: that is said, and no reason to fail."""

    def run(self):
        try:
            super().run()
        except Exception as error:
            if REQUIRED:
                raise
            # All or none: they know each other's insides.
            self.extensions = []
            print(
                f"geventws: the compiled part could not be built ({error}). geventws works without it, slower. "
                "With a C compiler and Python's headers it is built; GEVENTWS_REQUIRE_COMPILED=1 makes this an error.",
                file=sys.stderr,
            )


def extensions():
    # Not to be had for interpreters whose extension modules are slow, or that have no greenlet in C.
    if REFUSED or sys.implementation.name != "cpython":
        return []
    # greenlet.h lies in the package itself.
    include = [str(Path(greenlet.__file__).parents[1])]
    found = [
        Extension(name, [path], include_dirs=include, extra_compile_args=["-O3"] if os.name == "posix" else [])
        for name, path in SOURCES.items()
    ]
    return cythonize(
        found, build_dir="build", language_level=3, compiler_directives=DIRECTIVES, nthreads=os.cpu_count()
    )


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
