"""Gates that a model must pass: accuracy, size, latency, and what it has forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from .editing.forgetting.classes import find_class
from .editing.verify import random_feeds
from .errors import DataError, UsageError
from .evaluation import predict
from .graph.view import View
from .intervals import wilson
from .latency import latencies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .calibration.data import Dataset
    from .calibration.runner import Progress
    from .editing.budget import Budget
    from .model import Model

Z = 1.959963984540054
"""The normal law's quantile for two sides at `intervals.CONFIDENCE`."""

Unit = Literal["share", "bytes", "ratio"]


@dataclass(frozen=True)
class Gates:
    """What is asked of a model; None is not asked.

    Attributes
    ----------
    min_accuracy
        Least top-1 accuracy. Where classes were forgotten, it is that on all others.
    max_drop
        How much less than that of the base model it may be, as a share.
    max_size
        Bytes of the file, or a share of the base model's.
    max_latency_ratio
        Time for a batch of one, or of the size that both take, as a share of the base model's.
    forgotten
        By class, index or name: the largest accuracy that may be left on it.

    Raises
    ------
    UsageError
        If a limit is none: accuracies lie in [0, 1], a drop in [0, 1), a ratio is positive and
        finite.
    """

    min_accuracy: float | None = None
    max_drop: float | None = None
    max_size: Budget | None = None
    max_latency_ratio: float | None = None
    forgotten: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shares = {
            "--min-accuracy": self.min_accuracy,
            "--max-drop": self.max_drop,
            **{f"--forgotten {name}": share for name, share in self.forgotten.items()},
        }
        # Not a number is in no interval, and would let every model pass.
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} {share:g} is not in [0, 1]; give a share, as 0.9")
        if self.max_drop == 1:  # whoever writes it means a point, as prune and forget do
            raise UsageError("--max-drop 1 lets every model pass; give a share, as 0.01")
        ratio = self.max_latency_ratio
        if ratio is not None and not 0 < ratio < math.inf:
            raise UsageError(
                f"--max-latency-ratio {ratio:g} is no positive number; give a ratio, as 0.7"
            )

    @property
    def need_data(self) -> bool:
        """Whether one of them is about accuracy."""
        return self.min_accuracy is not None or self.max_drop is not None or bool(self.forgotten)

    def require_sources(self, base: bool, data: bool) -> None:
        """Refuse gates that can't be evaluated with what there is.

        Raises
        ------
        UsageError
            If no gate is asked for, or one needs data or a base model that there is not.
        """
        share = self.max_size is not None and not self.max_size.absolute
        needs = {
            "--min-accuracy": (self.min_accuracy is not None, True, False),
            "--max-drop": (self.max_drop is not None, True, True),
            "--max-size as a share": (share, False, True),
            "--max-latency-ratio": (self.max_latency_ratio is not None, False, True),
            "--forgotten": (bool(self.forgotten), True, False),
        }
        if self.max_size is None and not any(asked for asked, _, _ in needs.values()):
            raise UsageError("nothing to check: give a gate, such as --min-accuracy 0.9")
        for name, (asked, needs_data, needs_base) in needs.items():
            if asked and needs_data and not data:
                raise UsageError(f"{name} needs labelled images: give --data")
            if asked and needs_base and not base:
                raise UsageError(f"{name} compares with another model: give --against")


@dataclass(frozen=True)
class Verdict:
    """What became of one gate.

    Attributes
    ----------
    gate
        Its name: that of the option, and the class where there may be several.
    subject
        What was measured, in words.
    found, limit
        The value, and what it may be at most, or at least.
    unit
        Of both: a share, bytes, or a ratio.
    at_least
        Whether the limit is a least value.
    interval
        Confidence interval of the value, at `intervals.CONFIDENCE`; None where there is none.
    """

    gate: str
    subject: str
    found: float
    limit: float
    unit: Unit
    at_least: bool = False
    interval: tuple[float, float] | None = None

    @property
    def missed_by(self) -> float:
        """How far the value lies on the wrong side of the limit; 0 where the gate holds."""
        return max(0.0, self.limit - self.found if self.at_least else self.found - self.limit)

    @property
    def passed(self) -> bool:
        """Whether the gate holds. The value decides, not its interval."""
        return self.missed_by == 0


def check(
    model: Model,
    gates: Gates,
    *,
    base: Model | None = None,
    data: Dataset | None = None,
    base_data: Dataset | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[Verdict, ...]:
    """Hold a model against gates.

    Parameters
    ----------
    model
        The model.
    gates
        What is asked of it.
    base
        The model to compare with.
    data, base_data
        The same labelled images, opened for each of the two.
    device, batch_size, progress
        As in `calibrate`.

    Returns
    -------
    tuple of Verdict
        One for each gate that was asked for.

    Raises
    ------
    UsageError
        If a gate needs data or a base model that there is not, a class is unknown, the data have
        no images that a gate is about, or the labels are the model's own.
    DataError
        If labels are missing, or the two models do not know the same classes.
    """
    gates.require_sources(base is not None, data is not None)
    if gates.max_drop is not None and base_data is None:
        raise UsageError("--max-drop needs the images opened for the base model too: base_data")
    verdicts: list[Verdict] = []
    if data is not None and gates.need_data:
        right = _right(model, data, device, batch_size, progress)
        forgotten = _by_column(gates.forgotten, data.class_names)
        others = ~np.isin(data.labels, list(forgotten))
        words = "the images of all other classes" if forgotten else "the images"
        if gates.min_accuracy is not None:
            verdicts.append(_accuracy(gates.min_accuracy, right[others], words))
        if gates.max_drop is not None and base is not None and base_data is not None:
            if not np.array_equal(base_data.labels, data.labels):
                raise DataError(f"{base.path} and {model.path} do not know the same classes")
            before = _right(base, base_data, device, batch_size, progress)
            verdicts.append(_drop(gates.max_drop, before[others], right[others], words))
        for k, most in forgotten.items():
            verdicts.append(_left(most, right[data.labels == k], data.class_names[k]))
    if gates.max_size is not None:
        verdicts.append(_size(gates.max_size, model, base))
    if gates.max_latency_ratio is not None and base is not None:
        verdicts.append(_latency(gates.max_latency_ratio, model, base, device))
    return tuple(verdicts)


def _by_column(forgotten: Mapping[str, float], names: Sequence[str]) -> dict[int, float]:
    """What may be left on each class, by its column; each is named once."""
    found: dict[int, float] = {}
    for name, most in forgotten.items():
        k = find_class(names, name)
        if k in found:
            raise UsageError(f"--forgotten {name}: class {names[k]} is named twice; name it once")
        found[k] = most
    return found


def _right(
    model: Model, data: Dataset, device: str, batch_size: int, progress: Progress | None
) -> NDArray[np.bool_]:
    """Whether the model's top-1 is each image's class, shape (N,)."""
    if data.predicted:
        raise UsageError("the model's own labels say nothing of its accuracy; use --labels given")
    data.require_labels("a gate on accuracy")
    top = predict(model, data, device=device, batch_size=batch_size, progress=progress)
    return np.asarray(top.labels == data.labels)


def _accuracy(least: float, right: NDArray[np.bool_], words: str) -> Verdict:
    subject = f"top-1 accuracy on {words}"
    share, interval = _share(right, subject)
    return Verdict("min-accuracy", subject, share, least, "share", True, interval)


def _left(most: float, right: NDArray[np.bool_], name: str) -> Verdict:
    subject = f"top-1 accuracy on {name}"
    share, interval = _share(right, subject)
    return Verdict(f"forgotten {name}", subject, share, most, "share", interval=interval)


def _share(right: NDArray[np.bool_], subject: str) -> tuple[float, tuple[float, float]]:
    """The share of images that are right, and its interval (Wilson's score interval)."""
    if not len(right):
        raise UsageError(f"{subject}: --data has no such images")
    hits = int(right.sum())
    low, high = wilson(hits, len(right)).tolist()
    return hits / len(right), (low, high)


def _drop(most: float, before: NDArray[np.bool_], after: NDArray[np.bool_], words: str) -> Verdict:
    """The loss of accuracy, image by image.

    Only images that one model gets right and the other wrong say anything: the interval is far
    narrower than that of two samples. It is Wald's with half an image added to each of the four
    cells (Agresti and Min, Statistics in Medicine 24, 2005).
    """
    subject = f"loss of top-1 accuracy on {words}"
    if not len(after):
        raise UsageError(f"{subject}: --data has no such images")
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    count = len(after) + 2
    middle = (lost - won) / count
    spread = Z * math.sqrt((lost + won + 1) - (lost - won) ** 2 / count) / count
    interval = (max(-1.0, middle - spread), min(1.0, middle + spread))
    return Verdict("max-drop", subject, (lost - won) / len(after), most, "share", interval=interval)


def _size(budget: Budget, model: Model, base: Model | None) -> Verdict:
    limit = budget.amount
    if base is not None and not budget.absolute:
        limit *= base.file_size
    return Verdict("max-size", "size of the file", model.file_size, limit, "bytes")


def _latency(most: float, model: Model, base: Model, device: str) -> Verdict:
    """Both models take turns, so that what slows one down slows the other down too."""
    (feeds,) = random_feeds(View(base.proto), batch=1)
    before, after = latencies([base.proto, model.proto], [feeds, feeds], device)
    size = max((len(values) for values in feeds.values() if values.ndim), default=1)
    subject = f"time for a batch of {size}, {after:.2f} ms against {before:.2f} ms"
    return Verdict("max-latency-ratio", subject, after / before, most, "ratio")
