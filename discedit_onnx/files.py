"""Where files may be written, and how: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError, reason_of
from .interruption import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def real_path(path: Path) -> Path:
    """The file that a path stands for: links are followed, and stay."""
    return Path(os.path.realpath(path))


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, which need not be there yet."""
    with contextlib.suppress(OSError):
        return real_path(a) == real_path(b) or a.samefile(b)
    return False


def check_place(
    path: Path, force: bool = False, inputs: Iterable[Path] = (), what: str = "output"
) -> None:
    """Refuse a place that can't be written to, before any work is done.

    Parameters
    ----------
    path
        The file.
    force
        Whether it may be there already.
    inputs
        What is read, and is never overwritten.
    what
        What it is called in messages.

    Raises
    ------
    UsageError
        If the path is "-", a folder or whatever else is no file, its name is not UTF-8, it is one
        of the inputs, it exists without `force`, or its folder is missing or can't be written to.
    """
    if str(path) == "-":
        raise UsageError(f"-: the {what} does not go to standard output; give the name of a file")
    try:
        place = real_path(path)
        str(place).encode()
    except ValueError as error:  # of names that hold a zero byte too
        raise UsageError(f"{path}: the {what}'s name is not UTF-8; choose another") from error
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a file")
    if os.path.lexists(place) and not place.is_file():
        raise UsageError(f"{path}: is no regular file; choose another name")
    if any(same_file(path, file) for file in inputs):
        raise UsageError(f"{path}: the {what} would overwrite the input; choose another name")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; use --force to overwrite it")
    if not place.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder for the {what}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{place.parent}: this folder can't be written to; choose another")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, all of each or nothing; the last is only there once the others are.

    Raises
    ------
    UsageError
        If they can't be written.
    """
    with contextlib.ExitStack() as stack:
        path = Path()
        try:
            moves = []
            for path, content in contents.items():
                place = real_path(path)
                folder = tempfile.TemporaryDirectory(prefix=".discedit-", dir=place.parent)
                temporary = Path(stack.enter_context(folder)) / place.name
                temporary.write_bytes(content)
                moves.append((temporary, place))
            with uninterrupted():
                for temporary, place in moves:
                    temporary.replace(place)
        except OSError as error:
            raise UsageError(f"{path}: can't be written: {reason_of(error)}") from error
