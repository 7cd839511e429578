"""What calibration keeps of the images: counts, means and co-moments by class and channel.

Moments form a commutative monoid: `Moments.empty` is its neutral element and `Moments.merge` its
operation. They can therefore be gathered in any batches, on any number of machines, and joined.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..amounts import percent
from ..errors import DataError
from ..tables import Table, Tabular, facts
from . import histograms, second
from .sums import FloatArray, Sums, combine
from .taps import GATHERED, Tap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..model import Model
    from .histograms import Histograms
    from .second import SecondMoments

SHARDS = "shards"
"""The fact that names the parts of data that moments are of, where others are missing."""
POOLED = -1
"""Class index of the entry that holds all images of the classes that are not kept one by one."""


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Tabular):
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
        Names of the K classes; "(other)" for the pooled entry, if there is one.
    class_index : int64 (K,)
        Index of each class in the model's outputs, -1 for the pooled entry.
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
    correct
        How many images the model itself puts into their class; None where there are no labels
        but its own.
    histograms
        Of one feature, or None.
    second
        Second moments among the channels of each tapped tensor; empty if they were not gathered.
    """

    taps: tuple[Tap, ...]
    features: tuple[str, ...]
    class_names: tuple[str, ...]
    class_index: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    mean: FloatArray
    comoment: FloatArray
    source: str
    facts: Mapping[str, str]
    correct: int | None = None
    histograms: Histograms | None = None
    second: Mapping[str, SecondMoments] = field(default_factory=dict)

    def tables(self) -> Iterator[Table]:
        """What they are of, and how many images of each class."""
        yield facts(
            "Moments",
            of=f"model {self.source[:12]}...",
            channels=f"{self.mean.shape[1]:,} in {len(self.taps)} tensors",
            features=", ".join(self.features),
            accuracy=None if self.accuracy is None else percent(self.accuracy),
        )
        counted = zip(self.class_names, self.count.tolist(), strict=True)
        rows = tuple((name, f"{count:,}") for name, count in counted)
        yield Table("Images", ("class", "images"), rows)

    @classmethod
    def empty(
        cls,
        taps: Sequence[Tap],
        class_names: Sequence[str],
        source: str,
        facts: Mapping[str, str] | None = None,
        *,
        features: Sequence[str] = GATHERED,
        class_index: npt.NDArray[np.int64] | None = None,
    ) -> Moments:
        """The moments of no images at all; classes are the model's, in order, unless indexed."""
        classes, channels = len(class_names), sum(tap.length for tap in taps)
        return cls(
            taps=tuple(taps),
            features=tuple(features),
            class_names=tuple(class_names),
            class_index=np.arange(classes) if class_index is None else class_index,
            source=source,
            facts=dict(facts or {}),
            **vars(Sums.zeros(classes, channels, len(features))),
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

    @property
    def accuracy(self) -> float | None:
        """The model's top-1 accuracy on the images; None where labels are its own, or none."""
        total = int(self.count.sum())
        return None if self.correct is None or not total else self.correct / total

    @property
    def sums(self) -> Sums:
        """The arrays that `combine` joins; not copied."""
        return Sums(self.count, self.mean, self.comoment)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All arrays by the name under which they are stored; not copied."""
        named: dict[str, npt.NDArray[np.generic]] = {
            "class_index": self.class_index,
            **vars(self.sums),
        }
        if self.histograms is not None:
            named["histogram_edges"] = self.histograms.edges
            named["histogram_counts"] = self.histograms.counts
        for number, tap in enumerate(self.taps):
            if tap.tensor in self.second:
                named[f"second_mean.{number}"] = self.second[tap.tensor].mean
                named[f"second_comoment.{number}"] = self.second[tap.tensor].comoment
        return named

    @property
    def nbytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def require_fit(self, model: Model) -> None:
        """Refuse a model that these are not the moments of.

        Raises
        ------
        DataError
            If it is another one than the images ran through.
        """
        if self.source != model.hash:
            raise DataError(
                f"the moments are of another model (SHA-256 {self.source[:12]}..., not "
                f"{model.hash[:12]}...); calibrate {model.path} again"
            )

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
        self,
        features: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        index: npt.NDArray[np.integer] | None = None,
    ) -> Moments:
        """The moments of the images so far and of one batch more; these stay as they are.

        It copies all arrays: for many batches use `accumulator.Accumulator`, whose `update`
        says what the parameters and errors are.
        """
        from .accumulator import Accumulator

        grown = Accumulator(self)
        grown.update(features, labels, index)
        return grown.moments

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of images together.

        Facts that differ are joined, in alphabetical order, by "; ". Of shards, those are named
        that others are still missing beside.

        Raises
        ------
        DataError
            If the two are not moments of the same taps, features and classes of one model, or have
            a shard of the same data in common.
        """
        for name in ("source", "taps", "features", "class_names"):
            if getattr(self, name) != getattr(other, name):
                what = {"source": "model", "class_names": "class names"}.get(name, name)
                raise DataError(
                    f"moments of different {what} can't be merged: calibrate both alike"
                )
        if not np.array_equal(self.class_index, other.class_index):
            raise DataError("moments of different classes can't be merged: calibrate both alike")
        known = self.correct is not None and other.correct is not None
        return replace(
            self,
            **vars(combine(self.sums, other.sums)),
            facts=_join_facts(self.facts, other.facts),
            correct=(self.correct or 0) + (other.correct or 0) if known else None,
            histograms=histograms.merged(self.histograms, other.histograms),
            second=second.merged(self.second, other.second),
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, all of it or nothing; equal contents give equal bytes.

        Raises
        ------
        UsageError
            If it can't be written there.
        """
        from .storage import save_moments

        save_moments(self, path)


def _join_facts(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, str]:
    """Facts of both; where they differ, each statement once, in alphabetical order."""
    shards = _join_shards(*(part.get(SHARDS, "").split("; ") for part in (a, b)))
    facts = {**a, **b}
    for key in a.keys() & b.keys():
        if a[key] != b[key]:
            facts[key] = "; ".join(sorted({*a[key].split("; "), *b[key].split("; ")}))
    facts |= {SHARDS: "; ".join(shards)}
    return dict(sorted((key, said) for key, said in facts.items() if said or key != SHARDS))


def _join_shards(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Shards as `1/8 of 3f9a12cd`, without those of data that are complete."""
    twice = sorted({*a} & {*b} - {""})
    if twice:
        raise DataError(
            f"shard {', '.join(twice)} is in both: its samples would count twice; give it once"
        )
    wholes: dict[tuple[str, str], list[str]] = {}
    for shard in sorted({*a, *b} - {""}):
        part, _, data = shard.partition(" of ")
        wholes.setdefault((part.partition("/")[2], data), []).append(shard)
    return [shard for (of, _), parts in wholes.items() if len(parts) < int(of) for shard in parts]
