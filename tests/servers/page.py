"""docs/deployment.md, from which the tests take what they start servers with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"

_BLOCK = re.compile(r"^## (?P<heading>[^\n]+)$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(heading: str, kind: str) -> list[str]:
    """The blocks of this kind (shell, python, nginx) under a heading, in their order."""
    found: list[str] = []
    under = ""
    for match in _BLOCK.finditer(PAGE.read_text()):
        under = match["heading"] or under
        if under == heading and match["kind"] == kind:
            found.append(match["text"])
    assert found, f"docs/deployment.md has no {kind} block under {heading!r}"
    return found


def command(heading: str, index: int = 0) -> tuple[str, ...]:
    """A command on the page, with `{port}` for its port and `{name}` for the program that it calls."""
    program, *arguments = shlex.split(blocks(heading, "shell")[index])
    return f"{{{program}}}", *(argument.replace("5000", "{port}") for argument in arguments)


def program(heading: str, name: str) -> dict[str, str]:
    """The Python program on the page that says what its file is called."""
    text = next(block for block in blocks(heading, "python") if block.startswith(f"# {name}\n"))
    return {name: "import sys\n" + text.replace("5000", "int(sys.argv[1])")}
