"""What this run was made on: it stands beside the figures, which mean little without it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peers import SERVERS, environment, versions
from tools import Tools

__all__ = ["describe"]

ASK = "import geventws; print(bool(getattr(geventws, 'compiled', False)))"


def describe(tools: Tools, geventws: Path | None) -> dict[str, Any]:
    compiled = geventws_is_compiled(tools, geventws)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions(tools),
        "geventws_compiled": compiled,
        "geventws_from": "an installed package" if geventws is None else "a source tree",
        "geventws_revision": revision(geventws or Path(__file__).parent),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Processor", "cpu model"):
            return value.strip()
    return platform.machine()


def geventws_is_compiled(tools: Tools, geventws: Path | None) -> bool | None:
    """As the servers get it: of the package that they import, in the environment that they have. None: it does not import."""
    env = environment(SERVERS["geventws"], tools, geventws)
    # Not from the tree's root, which Python would put in front of what is installed.
    result = subprocess.run([sys.executable, "-c", ASK], env=env, cwd="/", capture_output=True, text=True, check=False)
    return None if result.returncode else result.stdout.strip() == "True"


def revision(folder: Path) -> str | None:
    """The commit that is checked out there, with a "+" if the tree has been changed since. None: it is no git tree."""
    line = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
