"""How strongly to forget, and how much to cut: as held-out images of retained classes allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...calibration.runner import run_batches
from ...calibration.session import open_session
from ...errors import DataError
from .inputs import with_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx
    from numpy.typing import NDArray

    from ...calibration.data import Dataset
    from ..refit.layers import Layer

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
DEFAULT_STRENGTH = 1.0
"""Where there are no images to find one by."""
SHARES = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Of the later layers' components: how many to cut."""
HELD_OUT = 4
"""Of so many images of each class, one is held out."""


@dataclass(frozen=True)
class Trial:
    """What a strength, or a share of components that goes, does to held-out images.

    Attributes
    ----------
    value
        The strength or the share; 0 is the original.
    forget
        Share of the class's images that are still found. Where a strength is looked for: by the
        head without the projection of level head.
    retain
        Accuracy on the others, the class's logit hidden.
    """

    value: float
    forget: float
    retain: float


@dataclass(frozen=True)
class Search:
    """What was tried.

    Attributes
    ----------
    trials
        From the weakest to the strongest; the first is the original.
    chosen
        The value that was taken.
    forget_images, retain_images
        How many held-out images that rests on.
    """

    trials: tuple[Trial, ...]
    chosen: float
    forget_images: int
    retain_images: int


@dataclass(frozen=True, eq=False)
class Judge:
    """Held-out images, and what an edit may cost on them.

    Attributes
    ----------
    head
        Of the model.
    held_out
        Labelled images.
    forgotten
        Columns of the head.
    max_drop
        As a share of all retained images; one image is always allowed.
    device, batch_size
        As in `calibrate`.
    """

    head: Layer
    held_out: Dataset
    forgotten: Sequence[int]
    max_drop: float
    device: str = "auto"
    batch_size: int = 64

    @property
    def counts(self) -> tuple[int, int]:
        """Images to forget, and others."""
        inside = np.isin(self.held_out.labels, list(self.forgotten))
        return int(inside.sum()), int((~inside).sum())

    def try_all(
        self, make: Callable[[float], onnx.ModelProto], values: Sequence[float]
    ) -> tuple[list[Trial], list[Trial]]:
        """The trials, 0 first, and those of them but the first that cost no more than they may."""
        trials = [self.measure(make(value), value) for value in (0.0, *values)]
        least = trials[0].retain - max(self.max_drop, 1 / max(self.counts[1], 1)) - 1e-12
        return trials, [trial for trial in trials[1:] if trial.retain >= least]

    def measure(self, proto: onnx.ModelProto, value: float) -> Trial:
        """Run a model on the images."""
        hits: NDArray[np.int64] = np.zeros((2, 2), np.int64)
        hidden, names = list(self.forgotten), [self.head.output]
        with open_session(with_outputs(proto, names), self.device) as session:
            runs = run_batches(session, names, self.held_out, batch_size=self.batch_size)
            for (found,), labels in runs:
                logits = found.reshape(*found.shape[:2], -1).mean(axis=2, dtype=np.float64)
                inside = np.isin(labels, hidden)
                top = logits.argmax(axis=1)
                logits[:, hidden] = -np.inf
                right = np.where(inside, np.isin(top, hidden), logits.argmax(axis=1) == labels)
                for kind, chosen in enumerate((inside, ~inside)):
                    hits[kind] += int(right[chosen].sum()), int(chosen.sum())
        forget, retain = hits[:, 0] / np.maximum(hits[:, 1], 1)
        return Trial(value, float(forget), float(retain))


def split(data: Dataset) -> tuple[Dataset, Dataset]:
    """Images to fit on, and held-out ones: of each class, every fourth in the order of the data.

    Raises
    ------
    DataError
        If no class has as many images.
    """
    order = np.argsort(data.labels, kind="stable")
    ordered = data.labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    held_out = np.zeros(len(order), dtype=bool)
    held_out[order] = rank % HELD_OUT == HELD_OUT - 1
    if not held_out.any():
        raise DataError(
            f"no class has {HELD_OUT} images, so that none can be held out to find the strength "
            "by; give more images, or name it with --strength"
        )
    return data.take(np.flatnonzero(~held_out)), data.take(np.flatnonzero(held_out))


def search_strength(judge: Judge, make: Callable[[float], onnx.ModelProto]) -> Search:
    """The strength that forgets most while retained classes lose no more than they may.

    Of strengths that can't be told apart on so few images the weakest is taken: the first that
    comes within one standard error of the best.

    Both are read off the logits before the projection of level head: that forgets by itself,
    whatever the features hold. Retained accuracy is that with the class's logit hidden,
    before and after, so that the free gain of one class less is on both sides.

    Parameters
    ----------
    judge
        The images.
    make
        From a strength to the model, fitted on other images, without the projection of level head;
        from 0 to the original.

    Raises
    ------
    DataError
        If the weakest costs more already.
    """
    trials, able = judge.try_all(make, STRENGTHS)
    if not able:
        raise DataError(
            f"no strength from {STRENGTHS[0]:g} costs the other classes {100 * judge.max_drop:g} "
            "points or less on held-out images: raise --max-drop, or take --level head"
        )
    best = min(trial.forget for trial in able)
    most = best + _error(best, judge.counts[0])
    chosen = next(trial.value for trial in able if trial.forget <= most)
    return Search(tuple(trials), chosen, *judge.counts)


def search_share(judge: Judge, make: Callable[[float], onnx.ModelProto]) -> Search:
    """The largest share of components that retained classes can do without; 0 if there is none.

    Parameters
    ----------
    judge
        The images.
    make
        From a share to the model without these components, fitted on other images; from 0 to the
        original.
    """
    trials, able = judge.try_all(make, SHARES)
    return Search(tuple(trials), max((trial.value for trial in able), default=0.0), *judge.counts)


def _error(share: float, images: int) -> float:
    """Standard error of a share, and not less than one image."""
    return max(math.sqrt(share * (1 - share) / max(images, 1)), 1 / max(images, 1))
