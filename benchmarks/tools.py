"""What is not Python and has to be there first: the two programs in C, compiled, and Node's `ws`, installed by npm.

Both are kept beside the environments of tox, out of the way of git.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tools", "ToolsMissing", "node_version", "prepare"]

SOURCES = Path(__file__).resolve().parent
KEPT = SOURCES.parent / ".tox" / "bench-tools"


class ToolsMissing(Exception):
    """Nothing can be measured without this."""


@dataclass(frozen=True)
class Tools:
    load: Path
    floor: Path
    node_modules: Path
    without_node: str | None
    """Why Node's `ws` cannot be measured, if so."""


def prepare(node: bool) -> Tools:
    """Compile what is not there or older than its source. `node`: install `ws` as well.

    Raises:
        ToolsMissing: there is no C compiler, or no zlib to compile with; the text says what to install.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    load, floor = compiled("load", "-lz"), compiled("floor")
    modules = KEPT / "node" / "node_modules"
    return Tools(load, floor, modules, install_ws() if node else "not asked for")


def compiled(name: str, *libraries: str) -> Path:
    source, program = SOURCES / f"{name}.c", KEPT / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ToolsMissing("a C compiler is needed for the load generator (Debian: apt install gcc zlib1g-dev)")
    # Aside first, so that a run at the same time never starts half a program.
    with tempfile.TemporaryDirectory(dir=KEPT) as aside:
        made = Path(aside) / name
        line = [*compiler.split(), "-O2", "-o", str(made), str(source), *libraries]
        result = subprocess.run(line, capture_output=True, text=True, check=False)
        if result.returncode:
            raise ToolsMissing(f"{name}.c does not compile (zlib's headers? apt install zlib1g-dev):\n{result.stderr}")
        os.replace(made, program)
    return program


def install_ws() -> str | None:
    """Have `ws` with `bufferutil`, its optional part in C, installed. Returns what is missing, if something is."""
    kept = KEPT / "node"
    if shutil.which("node") is None:
        return "node not installed"
    if (kept / "node_modules" / "ws" / "package.json").exists():
        return None
    if shutil.which("npm") is None:
        return "npm not installed"
    with tempfile.TemporaryDirectory(dir=KEPT) as aside:
        line = ["npm", "install", "--no-audit", "--no-fund", "--prefix", aside, "ws@8", "bufferutil@4"]
        try:
            subprocess.run(line, capture_output=True, check=True, timeout=90)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return f"npm did not install ws: {error}"
        if not kept.exists():
            shutil.move(aside, kept)
            os.mkdir(aside)
    return None


def node_version(modules: Path) -> dict[str, str]:
    found = {
        "node": subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip("v\n")
    }
    for name in ("ws", "bufferutil"):
        package = modules / name / "package.json"
        if package.exists():
            found[name] = json.loads(package.read_text())["version"]
    return found
