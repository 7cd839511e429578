"""The file of moments: safetensors, safe to read from strangers (docs/moments-format.md)."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import DataError, UsageError, first_line
from .histograms import BINS, FOLDS, Histograms
from .moments import Moments
from .second import SecondMoments
from .taps import FEATURES, Tap

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

FORMAT = 3
"""Version of the file format; a reader refuses any other."""

METADATA_KEY = "discedit.moments"
"""All metadata is one JSON string: safetensors writes several strings in no fixed order."""

MOST = 2**48
"""No count, length or number of images in a file is larger; products of a few can't overflow."""

COUNTS = ("U8", "U16", "U32")
"""Types that images in bins are counted in."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def save_moments(moments: Moments, path: str | Path) -> None:
    """Write moments, all of them or nothing; equal contents give equal bytes.

    Raises
    ------
    UsageError
        If they can't be written there.
    """
    path = Path(path)
    counted = moments.histograms
    header = {
        "format": FORMAT,
        "source": moments.source,
        "taps": [asdict(tap) for tap in moments.taps],
        "features": moments.features,
        "class_names": moments.class_names,
        "facts": dict(moments.facts),
        "correct": moments.correct,
        "histogram_feature": None if counted is None else counted.feature,
        "second_count": {name: part.count for name, part in moments.second.items()},
    }
    # Edges are float64 in the file, though narrower here.
    kinds = {"histogram_edges": np.float64}
    arrays = {
        name: np.ascontiguousarray(part, kinds.get(name)) for name, part in moments.arrays().items()
    }
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True)}
    try:
        with tempfile.TemporaryDirectory(prefix=".discedit-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            temporary.touch()
            mode = temporary.stat().st_mode
            # Not as bytes first: they would double the memory that a checkpoint takes.
            save_file(arrays, temporary, metadata)
            temporary.chmod(mode)  # the library's own is for nobody else
            temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: can't be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the system says, which safetensors hands on in words of its own."""
    number = getattr(error, "errno", None)
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told is not None:
        number = int(told[1])
    return os.strerror(number) if number else first_line(error)


def load_moments(path: str | Path) -> Moments:
    """Read what `save_moments` wrote.

    No array is read before its size is known to be the one that the others imply and to lie
    inside the file, so a file can't make its reader take more memory than its own size.

    Raises
    ------
    DataError
        If the file is missing, truncated, not a moments file or one of another version, or its
        parts do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such moments file; make one with `discedit-onnx calibrate`")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise DataError("not a moments file; make one with `discedit-onnx calibrate`")
            header = _Header(json.loads(text))
            shapes = header.shapes(*_bins_of(file))
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if shapes != {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in found.items()}:
                raise ValueError("shapes do not agree")
            return header.moments({name: file.get_tensor(name) for name in found})
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: not a safetensors file, or a truncated one: calibrate again"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: the moments file is damaged: calibrate again") from error


def _bins_of(file: Any) -> tuple[int, str]:
    """Bins of each channel's histogram and the type of their counts, as far as the file says."""
    if "histogram_counts" not in file.keys():  # noqa: SIM118
        return BINS, COUNTS[0]
    counts = file.get_slice("histogram_counts")
    shape, kind = counts.get_shape(), str(counts.get_dtype())
    return int(shape[-1]) if shape else BINS, kind if kind in COUNTS else COUNTS[0]


class _Header:
    """What a file says about its arrays; any error raised means that it can't be so.

    Parameters
    ----------
    stored
        The JSON value. Every part of it is checked here before anything relies on it.
    """

    def __init__(self, stored: Any) -> None:
        if stored["format"] != FORMAT:
            raise DataError(
                f"moments of format {_shown(stored['format'])}, but this version reads {FORMAT}: "
                "calibrate again"
            )
        self.source = _text(stored["source"])
        self.taps = tuple(_tap(tap) for tap in _list(stored["taps"]))
        self.features = tuple(_feature(name) for name in _list(stored["features"]))
        self.class_names = tuple(_text(name) for name in _list(stored["class_names"]))
        self.facts = {_text(key): _text(value) for key, value in stored["facts"].items()}
        self.correct = None if stored["correct"] is None else _integer(stored["correct"])
        counted = stored["histogram_feature"]
        self.histogram_feature = None if counted is None else _feature(counted)
        self.second = {name: _integer(n) for name, n in stored["second_count"].items()}
        tensors = [tap.tensor for tap in self.taps]
        if len(set(tensors)) < len(tensors) or len(set(self.features)) < len(self.features):
            raise ValueError("a name occurs twice")
        if self.second and self.second.keys() != set(tensors):
            raise ValueError("second moments of other tensors")

    def shapes(self, bins: int, kind: str) -> Shapes:
        """Type and shape that each array must have, with so many bins counted in this type."""
        classes, size = len(self.class_names), len(self.features)
        channels = sum(tap.length for tap in self.taps)
        shapes: Shapes = {
            "class_index": ("I64", (classes,)),
            "count": ("I64", (classes,)),
            "mean": ("F64", (classes, channels, size)),
            "comoment": ("F64", (classes, channels, size, size)),
        }
        if self.histogram_feature is not None:
            shapes["histogram_edges"] = ("F64", (channels, bins - 1))
            shapes["histogram_counts"] = (kind, (FOLDS, classes, channels, bins))
        for number, tap in enumerate(self.taps if self.second else ()):
            shapes[f"second_mean.{number}"] = ("F64", (tap.length,))
            shapes[f"second_comoment.{number}"] = ("F64", (tap.length, tap.length))
        return shapes

    def moments(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Moments:
        """The moments, of arrays that have these shapes."""
        for array in arrays.values():
            if array.dtype == np.float64 and not np.isfinite(array).all():
                raise ValueError("not finite")
        count = arrays["count"]
        if (count < 0).any() or (count > MOST).any() or (self.correct or 0) > count.sum():
            raise ValueError("impossible counts")
        index = arrays["class_index"]
        if (index < -1).any() or max(Counter(index.tolist()).values(), default=1) > 1:
            raise ValueError("impossible classes")
        return Moments(
            taps=self.taps,
            features=self.features,
            class_names=self.class_names,
            class_index=index,
            count=count,
            mean=arrays["mean"],
            comoment=arrays["comoment"],
            source=self.source,
            facts=self.facts,
            correct=self.correct,
            histograms=self._histograms(arrays),
            second={
                tap.tensor: SecondMoments(
                    self.second[tap.tensor],
                    arrays[f"second_mean.{number}"],
                    arrays[f"second_comoment.{number}"],
                )
                for number, tap in enumerate(self.taps if self.second else ())
            },
        )

    def _histograms(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Histograms | None:
        if self.histogram_feature is None:
            return None
        stored, counts = arrays["histogram_edges"], arrays["histogram_counts"]
        with np.errstate(over="ignore"):
            edges = np.asfortranarray(stored, np.float32)
        if (np.diff(stored, axis=1) < 0).any() or (edges != stored).any():
            raise ValueError("edges do not ascend, or are no float32 numbers")
        counted = counts.sum(axis=(0, 3), dtype=np.int64)
        if (counted > arrays["count"][:, None]).any() or (counted != counted[:, :1]).any():
            raise ValueError("counts do not agree")
        return Histograms(self.histogram_feature, edges, counts)


def _tap(stored: Any) -> Tap:
    tap = Tap(**stored)
    _text(tap.tensor)
    for number in (tap.axis, tap.length, tap.rank, tap.stride, tap.product_stride):
        _integer(number)
    if not 0 < tap.axis < tap.rank <= 64 or not tap.stride or not tap.product_stride:
        raise ValueError("no such axis")
    return tap


def _feature(stored: Any) -> str:
    if stored not in FEATURES:
        raise ValueError("no such feature")
    return _text(stored)


def _text(stored: Any) -> str:
    if not isinstance(stored, str):
        raise TypeError("not a string")
    return stored


def _integer(stored: Any) -> int:
    if type(stored) is not int or not 0 <= stored <= MOST:
        raise TypeError("not a number that can be")
    return stored


def _list(stored: Any) -> list[Any]:
    if not isinstance(stored, list):
        raise TypeError("not a list")
    return stored


def _shown(stored: Any) -> str:
    """A version as it may be shown: a stranger's text is not passed on."""
    return str(stored) if type(stored) is int and abs(stored) < MOST else "unknown"
