"""Parquet files with encoded images, as Hugging Face's datasets are stored."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, UsageError, first_line
from ..classes import UNKNOWN, GivenLabels, brief
from .pictures import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

IMAGES = ("image", "img", "images", "jpg", "png")
LABELS = ("label", "labels", "fine_label", "cls", "class", "target")
"""Usual names of the columns."""

KEPT = 2
"""Row groups that are held: threads read a little ahead of one another."""


@dataclass(frozen=True, eq=False)
class Group:
    """A row group of a file."""

    file: Path
    number: int
    column: str


@dataclass(frozen=True, eq=False)
class Parquet:
    """The images of several files, in their order.

    Attributes
    ----------
    name
        What messages call it.
    groups
        All row groups.
    ends
        Number of images up to the end of each.
    labels
        By the names that the schema gives to numbers, if it does.
    """

    name: str
    groups: tuple[Group, ...]
    ends: tuple[int, ...]
    labels: GivenLabels
    _held: OrderedDict[int, Any] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return self.ends[-1]

    def open(self, position: int) -> tuple[str, Path | Encoded]:
        number = int(np.searchsorted(self.ends, position, side="right"))
        group = self.groups[number]
        row = position - (self.ends[number - 1] if number else 0)
        value: Any = self._column(number)[row].as_py()
        name = f"{group.file}: image {position}"
        path: Any = None
        if isinstance(value, dict):
            path, value = value.get("path"), value.get("bytes")
        if isinstance(value, bytes):
            return name, Encoded(value, name)
        if path and isinstance(path, str):
            return name, group.file.parent / path
        raise DataError(f"{name}: has neither bytes nor a path; remove it")

    def _column(self, number: int) -> Any:
        with self._lock:
            if number not in self._held:
                group = self.groups[number]
                try:
                    opened = _parquet().ParquetFile(group.file)
                    column = opened.read_row_group(group.number, [group.column]).column(0)
                except Exception as error:  # pyarrow's kinds have no common base but this
                    raise DataError(
                        f"{group.file}: can't be read as Parquet ({first_line(error)})"
                    ) from error
                self._held[number] = column
                while len(self._held) > KEPT:
                    self._held.popitem(last=False)
            return self._held[number]


def open_parquet(name: str, files: Sequence[Path]) -> Parquet:
    """Find images and labels in Parquet files.

    Raises
    ------
    UsageError
        If pyarrow is not installed.
    DataError
        If a file is damaged, or has no column of images.
    """
    groups: list[Group] = []
    lengths: list[int] = []
    labels: list[str] = []
    for file in files:
        try:
            opened = _parquet().ParquetFile(file)
            schema, metadata = opened.schema_arrow, opened.metadata
            image, label = _image_column(schema), _named(LABELS, schema.names)
            for number in range(metadata.num_row_groups):
                groups.append(Group(file, number, image or ""))
                lengths.append(metadata.row_group(number).num_rows)
            values = opened.read([label]).column(0).to_pylist() if label else []
        except Exception as error:  # pyarrow's kinds have no common base but this
            if isinstance(error, UsageError):
                raise
            raise DataError(f"{file}: can't be read as Parquet ({first_line(error)})") from error
        if image is None:
            raise DataError(
                f"{file}: no column of images among {', '.join(schema.names)}; it should be named "
                "image and hold bytes"
            )
        names = _names(schema, label)
        labels += [_text(value, names, file) for value in values or [None] * metadata.num_rows]
    if not labels:
        raise DataError(f"{name}: empty; give at least one image")
    ends = tuple(np.cumsum(lengths).tolist())
    return Parquet(name, tuple(groups), ends, GivenLabels.of_names(labels))


def _parquet() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            'Parquet needs pyarrow, which is not installed: pip install "discedit-onnx[parquet]"'
        ) from error
    return pyarrow.parquet  # type: ignore[no-any-return]


def _image_column(schema: Any) -> str | None:
    """The first usual name of a column of bytes, or else the first such column."""
    fitting = [entry.name for entry in schema if _holds_bytes(entry.type)]
    return _named(IMAGES, fitting) or next(iter(fitting), None)


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(part.name == "bytes" for part in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _named(usual: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in usual if name in names), None)


def _names(schema: Any, label: str | None) -> list[str] | None:
    """Names of the label's numbers, as Hugging Face's ClassLabel stores them."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        names = stored["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _text(value: Any, names: list[str] | None, file: Path) -> str:
    """A label by name where numbers have names; empty where there is none."""
    if value is None or value == UNKNOWN or value != value:  # NaN fills gaps among floats
        return ""
    if names is None or isinstance(value, str):
        return str(value)
    known = isinstance(value, int | float) and 0 <= value < len(names) and value == int(value)
    if not known:
        raise DataError(
            f"{file}: label {brief(str(value))} has no name; correct it, or the schema's names"
        )
    return names[int(value)]
