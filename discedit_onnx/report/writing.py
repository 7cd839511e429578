"""Reports as files: what they are written as is in their name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import check_place, write_files
from . import html, json_file, markdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .figures import Report

WRITERS: dict[str, Callable[[Report], str]] = {
    ".html": html.text,
    ".md": markdown.text,
    ".json": json_file.text,
}


def check_path(path: Path, force: bool = False) -> None:
    """Refuse a path that no report can be written to.

    Raises
    ------
    UsageError
        If its ending is unknown, `check_place` refuses it, or the packages that HTML needs are
        not installed.
    """
    if path.suffix not in WRITERS:
        raise UsageError(f"{path}: a report ends in {', '.join(WRITERS)}")
    check_place(path, force, what="report")
    if path.suffix == ".html":
        html.require_packages()


def write(report: Report, path: str | Path, force: bool = False) -> None:
    """Write a report, all of it or nothing.

    Raises
    ------
    UsageError
        As `check_path`, or if the file can't be written.
    """
    path = Path(path)
    check_path(path, force)
    text = WRITERS[path.suffix](report)
    write_files({path: text.encode(errors="backslashreplace")})  # file names may hold anything
