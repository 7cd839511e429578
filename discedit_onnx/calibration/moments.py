"""What calibration keeps of the images: counts, means and co-moments by class and channel.

Moments form a commutative monoid: `Moments.empty` is its neutral element and `Moments.merge` its
operation. They can therefore be gathered in any batches, on any number of machines, and joined.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from ..errors import DataError, UsageError
from .taps import FEATURES, Tap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = 1
"""Version of the file format; a reader refuses any other."""

METADATA_KEY = "discedit.moments"
"""All metadata is one JSON string: safetensors writes several strings in no fixed order."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of per-image features, by class and by channel.

    A sample is an image; its features are a few scalars per channel (`taps.FEATURES`). Channels
    of all taps lie one after the other on one axis of length C, see `slices`.

    Attributes
    ----------
    taps
        The tensors looked at, in the order of the channel axis.
    features
        Names of the F features.
    class_names
        Names of the K classes.
    count : int64 (K,)
        Images seen of each class.
    mean : float64 (K, C, F)
        Mean of each feature; 0 for a class with no images.
    comoment : float64 (K, C, F, F)
        Centred sums of products, sum_i (z_i - mean)(z_i - mean)', not yet divided by the count.
    source
        SHA-256 of the model that the features come from.
    facts
        How they were gathered: device, versions, preprocessing, data.
    """

    taps: tuple[Tap, ...]
    features: tuple[str, ...]
    class_names: tuple[str, ...]
    count: npt.NDArray[np.int64]
    mean: FloatArray
    comoment: FloatArray
    source: str
    facts: Mapping[str, str]

    @classmethod
    def empty(
        cls,
        taps: Sequence[Tap],
        class_names: Sequence[str],
        source: str,
        facts: Mapping[str, str] | None = None,
    ) -> Moments:
        """The moments of no images at all, with the features of `taps.FEATURES`."""
        classes, channels, size = len(class_names), sum(tap.length for tap in taps), len(FEATURES)
        return cls(
            taps=tuple(taps),
            features=FEATURES,
            class_names=tuple(class_names),
            source=source,
            facts=dict(facts or {}),
            **vars(_zeros(classes, channels, size)),
        )

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where the channels of each tapped tensor lie on the channel axis."""
        ends = np.cumsum([tap.length for tap in self.taps]).tolist()
        return {
            tap.tensor: slice(end - tap.length, end)
            for tap, end in zip(self.taps, ends, strict=True)
        }

    @property
    def covariance(self) -> FloatArray:
        """Covariances (K, C, F, F), of the images as they are: the divisor is n, not n - 1.

        The witness bounds hold between two laws, and the law that is known here is that of the
        images seen. A class with no images has covariance 0.
        """
        return self.comoment / np.maximum(self.count, 1)[:, None, None, None]

    def select(self, features: Sequence[str]) -> Moments:
        """The moments of some features only, in the order asked for.

        Raises
        ------
        DataError
            If these moments do not hold one of them.
        """
        missing = [name for name in features if name not in self.features]
        if missing:
            raise DataError(f"the moments hold no feature {missing[0]!r}: calibrate again")
        index = [self.features.index(name) for name in features]
        return replace(
            self,
            features=tuple(features),
            mean=self.mean[..., index],
            comoment=self.comoment[..., index, :][..., index],
        )

    def update(
        self, features: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
    ) -> Moments:
        """The moments of the images so far and of one batch more.

        Parameters
        ----------
        features : (N, C, F)
            The features of N images, of any float type.
        labels : (N,)
            Their classes, from 0 to K - 1.

        Returns
        -------
        Moments
            New moments; these stay as they are.

        Raises
        ------
        DataError
            If a label is not one of the classes, or a feature is not finite.
        ValueError
            If the shapes do not fit.
        """
        if features.shape != (len(labels), *self.mean.shape[1:]):
            raise ValueError(
                f"features are {features.shape}, not {(len(labels), *self.mean.shape[1:])}"
            )
        if not len(labels):
            return self
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise DataError(
                f"labels run from {labels.min()} to {labels.max()}, but the model has "
                f"{len(self.class_names)} classes, counted from 0: use data with its classes"
            )
        self._check_finite(features)
        present, batch = _sums_by_class(features, labels)
        seen = _Sums(self.count[present], self.mean[present], self.comoment[present])
        joined = _combine(seen, batch)
        count, mean, comoment = self.count.copy(), self.mean.copy(), self.comoment.copy()
        count[present] = joined.count
        mean[present] = joined.mean
        comoment[present] = joined.comoment
        return replace(self, count=count, mean=mean, comoment=comoment)

    def _check_finite(self, features: npt.NDArray[np.floating]) -> None:
        """Name the first tap with a feature that is infinite or not a number."""
        finite = np.isfinite(features).all(axis=(0, 2))
        if not finite.all():
            tensor = next(name for name, part in self.slices.items() if not finite[part].all())
            raise DataError(
                f"tensor {tensor!r} holds values that overflow or are not numbers: "
                "check that the preprocessing is the one that the model was trained with"
            )

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of images together.

        Facts that differ are joined, in alphabetical order, by "; ".

        Raises
        ------
        DataError
            If the two are not moments of the same taps, features and classes of one model.
        """
        for field in ("source", "taps", "features", "class_names"):
            if getattr(self, field) != getattr(other, field):
                what = {"source": "model", "class_names": "class names"}.get(field, field)
                raise DataError(
                    f"moments of different {what} can't be merged: calibrate both alike"
                )
        joined = _combine(self._sums, other._sums)
        return replace(self, **vars(joined), facts=_join_facts(self.facts, other.facts))

    @property
    def _sums(self) -> _Sums:
        return _Sums(self.count, self.mean, self.comoment)

    def rest(self) -> Moments:
        """For each class, the moments of the images of all other classes.

        Nothing is subtracted, so a rest that is far tighter than the class left out keeps all its
        digits, and its covariance stays positive semi-definite: the classes before and the
        classes after are merged, each from running sums. The cost is 3 K merges.

        Returns
        -------
        Moments
            Of the same shape; entry k describes all classes but k.
        """
        sums, rest = self._sums, _zeros(*self.comoment.shape[:3])
        before = after = _zeros(1, *self.comoment.shape[1:3]).of(0)
        for k in range(len(self.count)):
            rest.put(k, before)
            before = _combine(before, sums.of(k))
        for k in reversed(range(len(self.count))):
            rest.put(k, _combine(rest.of(k), after))
            after = _combine(sums.of(k), after)
        return replace(self, **vars(rest))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, all of it or nothing; equal contents give equal bytes.

        Raises
        ------
        UsageError
            If it can't be written there.
        """
        path = Path(path)
        header = {
            "format": FORMAT,
            "source": self.source,
            "taps": [asdict(tap) for tap in self.taps],
            "features": self.features,
            "class_names": self.class_names,
            "facts": dict(self.facts),
        }
        arrays = {name: np.ascontiguousarray(part) for name, part in vars(self._sums).items()}
        content = to_safetensors(arrays, {METADATA_KEY: json.dumps(header, sort_keys=True)})
        try:
            with tempfile.TemporaryDirectory(prefix=".discedit-", dir=path.parent) as folder:
                temporary = Path(folder) / path.name
                temporary.write_bytes(content)
                temporary.replace(path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UsageError(f"{path}: can't be written: {reason}") from error


def load_moments(path: str | Path) -> Moments:
    """Read what `Moments.save` wrote.

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
            header = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a safetensors file, or a truncated one: calibrate again"
        ) from error
    if header is None:
        raise DataError(f"{path}: not a moments file; make one with `discedit-onnx calibrate`")
    try:
        return _parse(json.loads(header), arrays)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: the moments file is damaged: calibrate again") from error


def _parse(header: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Moments:
    """Build moments from a file's parts; any error raised means that these do not agree."""
    if header["format"] != FORMAT:
        raise DataError(
            f"moments of format {header['format']}, but this version reads {FORMAT}: "
            "calibrate again"
        )
    moments = Moments(
        taps=tuple(Tap(**tap) for tap in header["taps"]),
        features=tuple(header["features"]),
        class_names=tuple(header["class_names"]),
        source=header["source"],
        facts=dict(header["facts"]),
        **arrays,
    )
    classes, size = len(moments.class_names), len(moments.features)
    channels = sum(tap.length for tap in moments.taps)
    shapes = {
        "count": (classes,),
        "mean": (classes, channels, size),
        "comoment": (classes, channels, size, size),
    }
    for name, found in vars(moments._sums).items():
        kind = np.int64 if name == "count" else np.float64
        if found.shape != shapes[name] or found.dtype != kind:
            raise ValueError("shapes do not agree")
        if not np.isfinite(found).all():
            raise ValueError("not finite")
    if (moments.count < 0).any():
        raise ValueError("negative counts")
    return moments


@dataclass(frozen=True, eq=False)
class _Sums:
    """The arrays of `Moments`; axes between the count's and the features' are free."""

    count: npt.NDArray[np.int64]
    mean: FloatArray
    comoment: FloatArray

    def of(self, k: int) -> _Sums:
        """The sums of one class."""
        return _Sums(self.count[k], self.mean[k], self.comoment[k])

    def put(self, k: int, sums: _Sums) -> None:
        """Write the sums of one class, in place."""
        self.count[k], self.mean[k], self.comoment[k] = sums.count, sums.mean, sums.comoment


def _zeros(classes: int, channels: int, size: int) -> _Sums:
    """The sums of no images."""
    return _Sums(
        np.zeros(classes, np.int64),
        np.zeros((classes, channels, size)),
        np.zeros((classes, channels, size, size)),
    )


def _sums_by_class(
    features: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.integer], _Sums]:
    """Sums of a batch for those classes that occur in it, and which these are.

    Two passes: means, then products of what is left. All is taken relative to the first image,
    so a feature that never changes gets exactly its value as mean, and exactly 0 as comoment.
    """
    present, row, count = np.unique(labels, return_inverse=True, return_counts=True)
    members = (row == np.arange(len(present))[:, None]).astype(np.float64)
    first = features[0].astype(np.float64)
    shifted = features.astype(np.float64) - first
    mean = np.tensordot(members, shifted, axes=1) / count[:, None, None]
    centred = shifted - mean[row]
    products = centred[..., :, None] * centred[..., None, :]
    comoment = np.tensordot(members, products, axes=1)
    return present, _Sums(count.astype(np.int64), mean + first, comoment)


def _combine(a: _Sums, b: _Sums) -> _Sums:
    """Sums of two sets of images together.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979. Only differences of means are squared, so no digits cancel.
    """
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    pairs = a.count * share
    delta = b.mean - a.mean
    spread = delta[..., :, None] * delta[..., None, :]
    return _Sums(
        count,
        a.mean + delta * share[..., None, None],
        a.comoment + b.comoment + spread * pairs[..., None, None, None],
    )


def _join_facts(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, str]:
    """Facts of both; where they differ, each statement once, in alphabetical order."""
    facts = {**a, **b}
    for key in a.keys() & b.keys():
        if a[key] != b[key]:
            facts[key] = "; ".join(sorted({*a[key].split("; "), *b[key].split("; ")}))
    return dict(sorted(facts.items()))
