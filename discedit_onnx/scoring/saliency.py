"""From bounds per channel and class to one number per component."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.placement import tap_components
from ..errors import DataError, UsageError
from ..tables import Table, Tabular
from .certificates import CERTIFIED_BY, certify
from .comparison import Comparison, OneVsRest, Pairs, single_classes
from .witness import WITNESSES, find_witness, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..calibration.moments import Moments
    from ..calibration.taps import Tap
    from ..graph.coupling import Coupling
    from ..model import Model

DEFAULT_WITNESS = "fisher"
"""The one that pruning and forgetting do best by (docs/bounds.md)."""

DEFAULT_REDUCTION = "max"
"""The one that pruning does best by (docs/pruning.md)."""

MOST_BYTES = 4 * 2**30
"""Of one table of bounds; pairs of a thousand classes would take a hundred times as much."""


@dataclass(frozen=True, repr=False)
class Scores(Tabular):
    """Bounds of one witness, where components are consumed.

    A component may be consumed in several tensors (a residual spine is), and thus have several
    channels here.

    Attributes
    ----------
    witness
        Its name.
    features
        The features that it was computed from.
    class_names
        The K classes that are known one by one, in the order of the moments.
    comparison
        What is held against what: each class against the rest, unless something else was asked
        for.
    sides
        Names of both sides of each column, L of them.
    taps
        The tensors, in the order of the channel axis.
    confidence
        That all bounds hold at once; None for plug-in estimates.
    bounds
        Shape (channels, L), in [0, 1]. Plug-in estimates of the witness, or certificates in its
        place.
    signs
        +1 where a channel fires more for the first side than for the second, -1 where less,
        shape (channels, L).
    component
        Component of each channel, -1 where it can't be removed, shape (channels,).
    components
        Number of components.
    """

    witness: str
    features: tuple[str, ...]
    class_names: tuple[str, ...]
    comparison: Comparison
    sides: tuple[tuple[str, str], ...]
    taps: tuple[Tap, ...]
    confidence: float | None
    bounds: NDArray[np.float64]
    signs: NDArray[np.int8]
    component: NDArray[np.int64]
    components: int

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Channels of each tensor."""
        ends = np.cumsum([tap.length for tap in self.taps]).tolist()
        return {
            tap.tensor: slice(end - tap.length, end)
            for tap, end in zip(self.taps, ends, strict=True)
        }

    def tables(self) -> Iterator[Table]:
        """Mean bounds, layers by comparisons."""
        columns = tuple(a if b == "rest" else f"{a} / {b}" for a, b in self.sides)
        means = [(t, self.bounds[self.slices[t.tensor]].mean(axis=0)) for t in self.taps]
        rows = tuple(
            (tap.tensor, f"{tap.length:,}", *(f"{bound:.2f}" for bound in mean))
            for tap, mean in means
        )
        kind = "estimates" if self.confidence is None else f"confidence {self.confidence:g}"
        title = f"Bounds by {self.witness} ({kind}), mean over the channels of each layer"
        yield Table(title, ("layer", "channels", *columns), rows)

    def per_component(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest value over the channels of each component.

        This is the rule for components that span several layers: one that tells a class apart in
        any tensor in which it is consumed does tell it apart.

        Parameters
        ----------
        values
            Shape (channels, ...).

        Returns
        -------
        ndarray of float64, shape (components, ...)
            0 for a component that no tap sees.
        """
        largest = np.zeros((self.components, *values.shape[1:]))
        seen = self.component >= 0
        np.maximum.at(largest, self.component[seen], values[seen])
        return largest


def score(
    model: Model,
    coupling: Coupling,
    moments: Moments,
    witness: str = DEFAULT_WITNESS,
    *,
    comparison: Comparison | None = None,
    features: Sequence[str] | None = None,
    confidence: float | None = None,
) -> Scores:
    """Bound how well each channel tells classes apart.

    Parameters
    ----------
    model
        The model.
    coupling
        Its coupling.
    moments
        Of the same model.
    witness
        A name in `scoring.witness.WITNESSES`.
    comparison
        What is held against what; each class against the rest, if left out.
    features
        What the witness is computed from, where it is not its default.
    confidence
        Certify the bounds at this confidence, all at once (`certificates.certify`), by the
        certificate that stands in for the witness; only the histograms' feature can be asked for.

    Raises
    ------
    UsageError
        If there is no such witness, it can't take the features, or the table would be too large.
    DataError
        If the moments are of another model, or do not hold what the witness needs.
    """
    found = find_witness(witness)
    moments.require_fit(model)
    single = single_classes(moments)
    comparison = OneVsRest(single) if comparison is None else comparison
    _require_room(moments, comparison)
    if confidence is None:
        names, bounds = found.reads(moments, features), found(moments, comparison, features)
    else:
        names = WITNESSES["histogram"].reads(moments, features)
        bounds = certify(CERTIFIED_BY[witness], moments, comparison, confidence)
    component = [tap_components(coupling, tap) for tap in moments.taps]
    return Scores(
        witness=witness,
        features=names,
        class_names=tuple(moments.class_names[k] for k in single),
        comparison=comparison,
        sides=tuple(comparison.sides(moments.class_names)),
        taps=moments.taps,
        confidence=confidence,
        bounds=bounds,
        signs=sign(moments, comparison),
        component=np.concatenate(component) if component else np.empty(0, dtype=np.int64),
        components=coupling.size,
    )


def _require_room(moments: Moments, comparison: Comparison) -> None:
    """Refuse a table of bounds and signs that would fill the memory."""
    channels = moments.mean.shape[1]
    needed = 9 * len(comparison) * channels
    if needed > MOST_BYTES:
        raise UsageError(
            f"{len(comparison):,} comparisons of {channels:,} channels would take "
            f"{needed / 2**30:.0f} GB; name fewer classes"
        )


@dataclass(frozen=True)
class Reduction:
    """A way to join the bounds of a component into one saliency.

    Attributes
    ----------
    join
        From shape (components, L) to (components,).
    pairwise
        Whether the bounds are of all pairs of classes, and not of each class against the rest.
    """

    join: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    pairwise: bool = False


REDUCTIONS: dict[str, Reduction] = {
    "max": Reduction(lambda bounds: bounds.max(axis=1)),
    "mean": Reduction(lambda bounds: bounds.mean(axis=1)),
    "min": Reduction(lambda bounds: bounds.min(axis=1)),
    "pairwise-min": Reduction(lambda bounds: bounds.min(axis=1), pairwise=True),
    "pairwise-mean": Reduction(lambda bounds: bounds.mean(axis=1), pairwise=True),
}
"""Ways to join the bounds of all classes or pairs; `top-3`, with any number, is one more.

`max`: important to any class. `mean`: to the average class. `min`, of the published code: to
every class; it throws away a filter that tells nine classes of ten apart. `top-k`: the mean of
the k largest, between `max` (k = 1) and `mean` (k = K). `pairwise-min`, of TVSPrune: tells even
the two classes apart that are nearest to each other. `pairwise-mean`: the average pair.
"""


def find_reduction(name: str) -> Reduction:
    """The reduction of this name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name in REDUCTIONS:
        return REDUCTIONS[name]
    top = re.fullmatch(r"top-([1-9]\d*)", str(name))
    if top is None:
        raise UsageError(f"no reduction named {name!r}; there are {', '.join(REDUCTIONS)}, top-3")
    number = int(top[1])
    return Reduction(lambda bounds: np.sort(bounds, axis=1)[:, -number:].mean(axis=1))


def comparison_for(reduction: str, moments: Moments) -> Comparison:
    """What has to be scored for a reduction: all pairs of classes, or each against the rest.

    Raises
    ------
    UsageError
        If there is no such reduction.
    """
    single = single_classes(moments)
    return Pairs(single) if find_reduction(reduction).pairwise else OneVsRest(single)


def saliency(scores: Scores, reduction: str = DEFAULT_REDUCTION) -> NDArray[np.float64]:
    """One number per component: the lower, the less it tells classes apart.

    A component's bound in a column is the largest over its channels, in all layers that it spans
    (`Scores.per_component`); the columns are joined after that.

    Parameters
    ----------
    scores
        Of the model.
    reduction
        A name in `REDUCTIONS`, or `top-` and a number.

    Returns
    -------
    ndarray of float64, shape (components,)
        Infinite for a component that no tap sees: nothing is known of it, so it goes last.

    Raises
    ------
    UsageError
        If there is no such reduction, or it needs another comparison than the scores hold.
    DataError
        If they hold no bounds: moments may hold all classes together, or one and the others.
    """
    found = find_reduction(reduction)
    if found.pairwise != isinstance(scores.comparison, Pairs):
        wanted = "all pairs" if found.pairwise else "classes against the rest"
        raise UsageError(f"{reduction} joins scores of {wanted}; score these")
    if not len(scores.comparison):
        joins, classes = ("pairs", "two") if found.pairwise else ("each class", "some")
        raise DataError(
            f"{reduction} joins bounds of {joins}, and the moments hold too few classes one by "
            f"one: calibrate with --classes and {classes} of them, or take another criterion"
        )
    joined = found.join(scores.per_component(scores.bounds))
    seen = np.isin(np.arange(scores.components), scores.component)
    return np.where(seen, joined, np.inf)
