"""Dependencies point one way, as docs/architecture.md says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "discedit_onnx"
PAGE = PACKAGE.parent / "docs" / "architecture.md"


def floors() -> list[set[str]]:
    """The rooms that the drawing shows, floor by floor, from the top."""
    drawn = re.findall(r"^ │(.*)│", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [set(line.split()) for line in drawn]


def imported(file: Path) -> set[str]:
    """Rooms that a module imports, for types too."""
    place = file.relative_to(PACKAGE).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = place[: len(place) - node.level + 1]
            path = (*above, *(node.module or "").split(".")) if node.module else above
            rooms |= {path[0]} if path else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("discedit_onnx"):
            rooms.add("outside")  # inside the package, imports are relative
    return rooms


def test_each_room_imports_only_those_below_it():
    above, seen = floors(), set()
    assert above[0] == {"cli"}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if room.startswith("__"):
            continue
        seen.add(room)
        (floor,) = (number for number, rooms in enumerate(above) if room in rooms)
        allowed = {room}.union(*above[floor + 1 :])
        assert imported(file) <= allowed, f"{file.relative_to(PACKAGE)}: {imported(file) - allowed}"
    assert seen == set().union(*above[1:])


def test_no_module_is_a_hall():
    for file in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "cli").glob("*.py")]:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 450, file


def test_the_library_does_not_know_the_command_line():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "import click" not in text, file
        assert "import rich" not in text, file
        assert "import torch" not in text, file
        assert file.name == "__main__.py" or "from .cli" not in text, file
