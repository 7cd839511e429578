"""What Python programs give: arrays, and iterables of feeds, which may be read only once."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..classes import UNKNOWN, GivenLabels
from ..classifier import CHANNELS
from .arrays import ArrayTable, table_of
from .foreign import told

if TYPE_CHECKING:
    from ..classifier import Classifier, Input
    from .source import Feeds

Array = npt.NDArray[Any]

IN_MEMORY = 1 << 26
"""Bytes of a stream that are kept in memory; of more, all go to a temporary file."""


@dataclass(frozen=True)
class Piece:
    """Rows of one input that were given together.

    Attributes
    ----------
    start
        Where their bytes lie.
    dtype, shape
        Of all of them.
    """

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows from an iterable, kept in a temporary file: they are read more than once.

    Attributes
    ----------
    name
        What messages call it.
    pieces
        For each item the rows of each input.
    ends
        Number of rows up to the end of each item.
    labels
        Of all rows.
    file
        Holds the rows; removed with this object.
    """

    name: str
    pieces: tuple[Mapping[str, Piece], ...]
    ends: npt.NDArray[np.int64]
    labels: GivenLabels
    file: IO[bytes]
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def uniform(self) -> bool:
        shapes = {tuple(part.shape[1:] for part in piece.values()) for piece in self.pieces}
        return len(shapes) == 1

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, index: npt.NDArray[np.int64]) -> Feeds:
        items = np.searchsorted(self.ends, index, side="right")
        first = np.concatenate([[0], self.ends])[items]
        cuts = np.flatnonzero(np.diff(items)) + 1
        parts = [
            {name: self._read(piece, rows) for name, piece in self.pieces[group[0]].items()}
            for group, rows in zip(
                np.split(items, cuts), np.split(index - first, cuts), strict=True
            )
        ]
        return {name: self._joined([part[name] for part in parts]) for name in parts[0]}

    def _read(self, piece: Piece, rows: npt.NDArray[np.int64]) -> Array:
        """Some rows of a piece; only the bytes from the first to the last of them are read."""
        low, high = int(rows.min()), int(rows.max()) + 1
        shape = piece.shape[1:]
        width = int(np.prod(shape)) * piece.dtype.itemsize
        with self._lock:
            self.file.seek(piece.start + low * width)
            content = self.file.read((high - low) * width)
        found = np.frombuffer(content, piece.dtype).reshape(high - low, *shape)
        return found[rows - low]

    def _joined(self, parts: list[Array]) -> Array:
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(
                f"{self.name}: samples of different shapes can't share a batch; pad them, or give "
                "--batch-size 1"
            )
        return np.concatenate(parts)


def open_python(name: str, given: object, classifier: Classifier) -> ArrayTable | Stream:
    """Take what a Python program gives.

    One of: an array of samples; a mapping of arrays, or of lists, by input, perhaps with "labels";
    a pair of either and an array of labels; an ONNX Runtime CalibrationDataReader; an iterable of
    feeds, of arrays, or of pairs of either and labels. An item of an iterable is a batch, or one
    sample if it lacks the first axis.

    Raises
    ------
    DataError
        If it is none of these, empty, lacks an input, or fails while it is read.
    """
    with told(name):
        if isinstance(given, tuple) and len(given) == 2 and _are_rows(given[0]):
            samples, labels = given
            if isinstance(labels, np.ndarray | list):
                named = {**_named(samples, classifier), "labels": np.asarray(labels)}
                return table_of(name, named, classifier)
        if _are_rows(given):
            return table_of(name, _named(given, classifier), classifier)
        return _kept(name, _items(given, name), classifier)


def _are_rows(given: object) -> bool:
    return isinstance(given, np.ndarray | Mapping)


def _named(given: Any, classifier: Classifier) -> dict[str, Array]:
    """Arrays by name; a bare one is for the model's only input."""
    if isinstance(given, Mapping):
        return {str(key): np.asarray(value) for key, value in given.items()}
    if len(classifier.inputs) != 1:
        names = ", ".join(taken.name for taken in classifier.inputs)
        raise DataError(f"one array for a model of several inputs; give feeds by name ({names})")
    return {classifier.inputs[0].name: np.asarray(given)}


def _items(given: Any, name: str) -> Iterator[Any]:
    if hasattr(given, "get_next"):  # an onnxruntime.quantization.CalibrationDataReader
        return iter(given.get_next, None)
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return iter(given)
    raise DataError(
        f"{name}: is {type(given).__name__}; give arrays, a CalibrationDataReader, or an iterable "
        "of feeds or (feeds, labels)"
    )


def _kept(name: str, items: Iterator[Any], classifier: Classifier) -> Stream:
    """Read an iterable to its end, into a temporary file."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY, prefix="discedit-")  # noqa: SIM115
    pieces: list[dict[str, Piece]] = []
    labels: list[Array] = []
    try:
        for item in items:
            samples, given = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            feeds = _batch(_named(samples, classifier), classifier, name)
            count = len(next(iter(feeds.values())))
            label = np.full(count, UNKNOWN) if given is None else np.atleast_1d(np.asarray(given))
            if len(label) != count:
                raise DataError(f"{name}: {len(label)} labels for {count} samples; give one each")
            if count:
                pieces.append({key: _append(file, rows) for key, rows in feeds.items()})
                labels.append(label)
        if not pieces:
            raise DataError(f"{name}: empty; give at least one sample")
        ends = np.cumsum([len(label) for label in labels])
        joined = GivenLabels.of_array(np.concatenate(labels), name)
    except BaseException:
        file.close()
        raise
    return Stream(name, tuple(pieces), ends, joined, file)


def _batch(rows: dict[str, Array], classifier: Classifier, name: str) -> dict[str, Array]:
    """The inputs of one item, with the first axis that a single sample lacks."""
    for taken in classifier.inputs:
        if taken.name not in rows:
            raise DataError(
                f"{name}: an item has nothing for the model's input {taken.name!r}; give feeds by "
                "name"
            )
    feeds = {taken.name: _with_rows(rows[taken.name], taken) for taken in classifier.inputs}
    if any(found.dtype.hasobject for found in feeds.values()):
        raise DataError(f"{name}: samples are Python objects; give arrays of numbers")
    if len({len(found) for found in feeds.values()}) > 1:
        raise DataError(f"{name}: inputs of one item have different lengths; give one row a sample")
    return feeds


def _with_rows(array: Array, taken: Input) -> Array:
    """An item as rows: a single sample has one axis less than the input."""
    axes = len(taken.shape)
    if array.dtype == np.uint8 and axes == 4 and array.ndim == 3:
        # One image, (H, W, C) or (C, H, W), or several grey ones.
        channels = {taken.shape[1], taken.shape[3]} & set(CHANNELS)
        single = bool({array.shape[0], array.shape[2]} & channels)
    elif array.dtype == np.uint8 and axes == 4:
        single = array.ndim == 2
    else:
        single = array.ndim == 0 or array.ndim == axes - 1
    return array[None] if single else array


def _append(file: IO[bytes], rows: Array) -> Piece:
    start = file.seek(0, 2)
    file.write(np.ascontiguousarray(rows).tobytes())
    return Piece(start, rows.dtype, rows.shape)
