"""The most compressed model whose accuracy stays within a drop, on samples kept for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.classes import UNKNOWN
from ..calibration.runner import run_batches
from ..calibration.session import open_session
from ..errors import DataError, GateError, UsageError
from ..graph.cost import ParameterCount
from ..intervals import newcombe, wilson_of_loss
from .budget import Budget, cut_off, give_back

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from .edit import Edit
    from .pruner import Pruner

SHARE = 4
"""Of so many samples one is kept for validation where no others are given for it."""
RESOLUTION = 0.01
"""Share of the parameters that the search ends at."""


@dataclass(frozen=True)
class Drop:
    """How much a model lost against the dense one on the same samples, as shares.

    Attributes
    ----------
    before, after
        Accuracy of the two; where there are no labels, agreement with the dense model: 1 before.
    low, high
        Confidence interval of ``before - after``.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def drop(self) -> float:
        """What was lost."""
        return self.before - self.after


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pruned model that was tried.

    Attributes
    ----------
    edit
        The model, refitted and proved.
    macs
        None where they can't be counted.
    size
        Bytes, without what is written into the metadata.
    drop
        On the validation samples.
    """

    edit: Edit
    macs: int | None
    size: int
    drop: Drop


@dataclass(frozen=True, eq=False)
class Search:
    """What was found.

    Attributes
    ----------
    best
        The most compressed model within the drop.
    tried
        All candidates, the least compressed first.
    frontier
        Those of them that no other one beats in both size and accuracy.
    measure
        "accuracy", or "agreement" where there were no labels.
    samples
        How many were validated on.
    """

    best: Candidate
    tried: tuple[Candidate, ...]
    frontier: tuple[Candidate, ...]
    measure: str
    samples: int


def split(data: Dataset, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Samples to work with, and samples to validate on: a quarter, of each class alike.

    Raises
    ------
    DataError
        If there are too few.
    """
    if len(data) < 2 * SHARE:
        raise DataError(f"{data.source.name}: {len(data)} samples are too few to split: "
                        "give others with --validation")  # fmt: skip
    shuffled = np.random.default_rng(seed).permutation(len(data))
    order = shuffled[np.argsort(data.labels[shuffled], kind="stable")]
    kept = np.arange(len(order)) % SHARE == SHARE - 1
    return data.take(np.sort(order[~kept])), data.take(np.sort(order[kept]))


def search(pruner: Pruner, validation: Dataset, max_drop: float) -> Search:
    """Prune as far as the drop allows, by bisection over the share of parameters.

    Components are ranked once; each candidate is refitted anew. That a larger share costs more is
    assumed for the order of the trials only: the result is the most compressed of those within
    the drop, whatever else was tried. It holds for the validation samples; what it may be on
    others is what the interval says, for one model: the best of several tried is looked at with
    luck, so that a figure for a report takes samples of its own.

    Parameters
    ----------
    pruner
        Of the model, with samples that are not among those of `validation`.
    validation
        Samples to measure on; without labels, the dense model's top-1 is held for right.
    max_drop
        As a share: 0.01 is a point.

    Raises
    ------
    DataError
        If only some of the samples have labels.
    GateError
        If no pruned model stays within the drop.
    """
    measure = "accuracy" if has_labels(validation) else "agreement"
    judge = _Judge(pruner, validation, measure)
    cost = ParameterCount(pruner.coupling)
    order = pruner.order
    tried: dict[bytes, Candidate] = {}
    least = cost.left(order.first(len(order.steps)))
    low, high = 0.0, 1 - least / cost.total
    while high - low > RESOLUTION:
        share = (low + high) / 2
        budget = Budget("sparsity", share)
        removed = cut_off(order, budget, cost)
        removed = give_back(order, removed, budget, cost, pruner.coupling.group_of)
        key = removed.tobytes()
        if key not in tried:
            tried[key] = judge.look_at(pruner.edit(removed))
        within = tried[key].drop.drop <= max_drop + 1e-12
        low, high = (share, high) if within else (low, share)
    ordered = sorted(tried.values(), key=lambda found: found.edit.sparsity)
    return _found(ordered, max_drop, measure, len(validation))


def has_labels(data: Dataset) -> bool:
    """Whether samples say what they are; with some that do not they can't be judged.

    Raises
    ------
    DataError
        If only some of them do.
    """
    if data.predicted or (data.labels == UNKNOWN).all():
        return False
    data.require_labels("validation")
    return True


def _found(tried: list[Candidate], max_drop: float, measure: str, samples: int) -> Search:
    within = [found for found in tried if found.drop.drop <= max_drop + 1e-12]
    if not within:
        if not tried:
            raise UsageError("nothing can be removed: `discedit-onnx inspect` says why")
        nearest = min(tried, key=lambda found: found.drop.drop)
        least = (
            f": with {nearest.edit.sparsity:.1%} of the parameters removed it loses "
            f"{100 * nearest.drop.drop:.2f}"
        )
        raise GateError(
            f"no pruned model stays within {100 * max_drop:g} points of {measure} on {samples} "
            f"samples{least}; allow more with --max-drop"
        )
    frontier: list[Candidate] = []
    for found in reversed(tried):
        if not frontier or found.drop.after > frontier[-1].drop.after:
            frontier.append(found)
    return Search(within[-1], tuple(tried), tuple(reversed(frontier)), measure, samples)


class _Judge:
    """The dense model's answers, and what others lose against them."""

    def __init__(self, pruner: Pruner, data: Dataset, measure: str) -> None:
        self._data, self._device, self._batch_size = data, pruner.device, pruner.batch_size
        answers = self._answers(pruner.model.proto)
        self._truth = data.labels if measure == "accuracy" else answers
        self._interval = newcombe if measure == "accuracy" else wilson_of_loss
        self._right = answers == self._truth

    def _answers(self, proto: onnx.ModelProto) -> NDArray[np.int64]:
        with open_session(proto, self._device) as session:
            names = [self._data.classifier.output]
            batches = run_batches(session, names, self._data, batch_size=self._batch_size)
            return np.concatenate([logits.argmax(axis=1) for (logits,), _ in batches])

    def look_at(self, edit: Edit) -> Candidate:
        """A candidate with what it costs and loses."""
        right = self._answers(edit.proto) == self._truth
        before, after = float(self._right.mean()), float(right.mean())
        drop = Drop(before, after, *self._interval(self._right, right))
        return Candidate(edit, edit.macs[1], edit.proto.ByteSize(), drop)
