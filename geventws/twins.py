"""Which twin is imported of the modules that have two: the compiled one, or the Python source it was compiled from.

Only that choice is made here, before any of them is imported. What they do is in the modules themselves.

The environment may decide: `GEVENTWS_PURE_PYTHON=1` refuses the compiled ones, `GEVENTWS_REQUIRE_COMPILED=1` insists on them.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import greenlet

__all__ = ["COMPILED", "compiled"]

COMPILED = {
    "geventws.scope.calling": ".c",
    "geventws.scope.local": ".py",
    "geventws.protocol.masking": ".pyx",
    "geventws.protocol.plain": ".pyx",
    "geventws.protocol.payload": ".pyx",
    "geventws.protocol.messages": ".py",
    "geventws.protocol.frames": ".py",
    "geventws.protocol.connection": ".py",
    "geventws.protocol.handshake": ".py",
    "geventws.native": ".pyx",
    "geventws.head": ".py",
    "geventws.runtime": ".py",
    "geventws.transport": ".py",
    "geventws.websocket": ".py",
}
"""The modules that are compiled where there is a compiler, and what from: written for it, or the Python source itself, with the
types in the .pxd file beside it. They know each other's insides: it is all of them, or none. setup.py reads this, too."""

_HERE = Path(__file__).parent


class _Sources(MetaPathFinder):
    """Finds the Python sources, which Python itself would only take where there is nothing compiled beside them."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, _path(fullname, ".py")) if fullname in COMPILED else None


def _choose() -> bool:
    """Decide for this process. Raises ImportError if the environment insists on what is not there, or on both."""
    refused, required = _flag("GEVENTWS_PURE_PYTHON"), _flag("GEVENTWS_REQUIRE_COMPILED")
    if refused and required:
        raise ImportError("GEVENTWS_PURE_PYTHON and GEVENTWS_REQUIRE_COMPILED are both set: unset one of them")
    present = [name for name in COMPILED if any(_path(name, suffix).exists() for suffix in EXTENSION_SUFFIXES)]
    if not refused:
        reason = _reason_against(present)
        if reason is None:
            return True
        if required:
            raise ImportError(f"GEVENTWS_REQUIRE_COMPILED is set, but {reason}")
    if present:
        sys.meta_path.insert(0, _Sources())
    return False


def _reason_against(present: list[str]) -> str | None:
    """Why the compiled twins cannot be used, if so, and what helps."""
    missing = [name for name in COMPILED if name not in present]
    if missing:
        return (
            f"these modules are not compiled for this Python: {', '.join(missing)}. Install a wheel for this platform, or a C "
            "compiler with Python's headers, and then geventws again. This shows what the build says: "
            "`pip install -v --force-reinstall --no-deps --no-cache-dir --no-binary geventws geventws`; "
            "in a source tree: `python setup.py build_ext --inplace`"
        )
    if getattr(greenlet, "_C_API", None) is None:
        return f"greenlet {greenlet.__version__} has no interface for C here, which they need. Install greenlet from a wheel"
    return None


def _flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _path(module: str, suffix: str) -> Path:
    return _HERE.joinpath(*module.split(".")[1:]).with_suffix(suffix)


compiled = _choose()
"""Whether the compiled twins are in use in this process."""
