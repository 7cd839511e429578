"""Image files in a CSV or TSV list of `path,label`."""

from __future__ import annotations

import csv
import os
from itertools import chain
from typing import TYPE_CHECKING

from ...errors import DataError, first_line
from ..classes import GivenLabels, brief
from .folder import Folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATHS = ("path", "file", "filename", "filepath", "image", "image_path")
LABELS = ("label", "labels", "class", "class_name", "target", "y")
"""Usual names of the columns."""

MARKS = {",": "commas", "\t": "tabs", ";": "semicolons"}
"""What columns are separated by."""


def open_list(file: Path) -> Folder:
    """The images of a list; paths are relative to the list.

    A first line with usual names of columns says which is which; without it the first column holds
    paths and the second, if there is one, labels.

    Raises
    ------
    DataError
        If the list is empty or can't be read, or a file is missing.
    """
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    lines = _lines(file, delimiter)
    path, label = 0, 1
    header = [name.strip().lower() for name in lines[0]] if lines else []
    if any(name in PATHS for name in header):
        lines = lines[1:]
        path, label = _column(header, PATHS), _column(header, LABELS)
    if not lines:
        raise DataError(f"{file}: empty; give one line path,label an image")
    paths = tuple(file.parent / _cell(line, path) for line in lines)
    for number, (image, line) in enumerate(zip(paths, lines, strict=True), 1):
        if not os.path.isfile(image):  # Path.is_file fails for names that are too long
            fix = _fix(line, delimiter)
            named = file.parent / brief(_cell(line, path))
            raise DataError(f"{file}: image {number}, {named}, is missing; {fix}")
    labels = GivenLabels.of_names([_cell(line, label) for line in lines])
    return Folder(file, paths, labels)


def _lines(file: Path, delimiter: str) -> list[list[str]]:
    """The rows of a list that are not empty."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            # A quote that is not closed swallows all rows behind it, and so the one put there.
            lines = list(csv.reader(chain(stream, [delimiter]), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(
            f"{file}: can't be read as a list ({first_line(error)}); is a quote not closed?"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: can't be read as a list ({first_line(error)})") from error
    if lines[-1] != ["", ""]:
        raise DataError(
            f"{file}: a quote is not closed in the row that begins with {brief(lines[-1][0])!r}; "
            "close it"
        )
    return [line for line in lines if any(line)]


def _fix(line: Sequence[str], delimiter: str) -> str:
    """What to do about a row whose image is missing."""
    others = [mark for mark in MARKS if mark != delimiter and mark in line[0]]
    if len(line) == 1 and others:
        return f"separate its columns by {MARKS[delimiter]} in place of {MARKS[others[0]]}"
    return "paths are relative to the list"


def _column(header: Sequence[str], names: Sequence[str]) -> int:
    """Position of the first usual name; behind the end if there is none."""
    return next((header.index(name) for name in names if name in header), len(header))


def _cell(line: Sequence[str], column: int) -> str:
    return line[column].strip() if column < len(line) else ""
