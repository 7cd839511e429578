"""How strongly to forget, and how much to cut: as held-out images of retained classes allow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    error
        Standard error of what `retain` has changed by, from image to image.
    """

    value: float
    forget: float
    retain: float
    error: float = 0.0


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

    @property
    def drop(self) -> float:
        """What the retained classes lose by the value that was taken, as a share."""
        taken = next((t for t in self.trials if t.value == self.chosen), self.trials[0])
        return self.trials[0].retain - taken.retain


@dataclass(frozen=True, eq=False)
class Judge:
    """Held-out images, and what an edit may cost on them.

    Attributes
    ----------
    scores
        The tensor that they are read off; see `head.scores_of`.
    held_out
        Labelled images.
    forgotten
        Columns of the head.
    max_drop
        As a share of all retained images; one image is always allowed.
    device, batch_size
        As in `calibrate`.
    """

    scores: str
    held_out: Dataset
    forgotten: Sequence[int]
    max_drop: float
    device: str
    batch_size: int

    @property
    def counts(self) -> tuple[int, int]:
        """Images to forget, and others."""
        inside = np.isin(self.held_out.labels, list(self.forgotten))
        return int(inside.sum()), int((~inside).sum())

    def try_all(
        self, make: Callable[[float], onnx.ModelProto], values: Sequence[float]
    ) -> list[Trial]:
        """The trials, 0 first."""
        original, before = self.measure(make(0.0), 0.0)
        trials = [original]
        for value in values:
            trial, after = self.measure(make(value), value)
            change = after.astype(float) - before
            trials.append(replace(trial, error=float(change.std() / max(len(change), 1) ** 0.5)))
        return trials

    def affordable(self, trials: Sequence[Trial], errors: float = 0.0) -> list[Trial]:
        """Those but the first that cost no more than they may, give or take so many errors."""
        least = trials[0].retain - max(self.max_drop, 1 / max(self.counts[1], 1)) - 1e-12
        return [trial for trial in trials[1:] if trial.retain + errors * trial.error >= least]

    def measure(self, proto: onnx.ModelProto, value: float) -> tuple[Trial, NDArray[np.bool_]]:
        """Run a model on the images; also which of the retained ones it puts right."""
        sides: tuple[list[NDArray[np.bool_]], ...] = ([], [])
        hidden, names = list(self.forgotten), [self.scores]
        with open_session(with_outputs(proto, names), self.device) as session:
            runs = run_batches(session, names, self.held_out, batch_size=self.batch_size)
            for (found,), labels in runs:
                logits = found.reshape(len(found), -1).astype(np.float64)
                inside = np.isin(labels, hidden)
                top = logits.argmax(axis=1)
                logits[:, hidden] = -np.inf
                right = np.where(inside, np.isin(top, hidden), logits.argmax(axis=1) == labels)
                for kind, chosen in zip(sides, (inside, ~inside), strict=True):
                    kind.append(right[chosen])
        forget, retain = (np.concatenate(kind) for kind in sides)
        shares = (float(kind.sum() / max(len(kind), 1)) for kind in (forget, retain))
        return Trial(value, *shares), retain


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
    before and after, so that the free gain of one class less is on both sides. Where all
    strengths cost more than they may, those count that do so by no more than a standard error:
    on a hundred images a point is one image, and no edit leaves each of them where it was.

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
        If all cost more than that, or no image of the class is held out.
    """
    if not judge.counts[0]:
        raise DataError(
            f"each class to forget has fewer than {HELD_OUT} images, so that none can be held out "
            "to find the strength by; give more of them, or name it with --strength"
        )
    trials = judge.try_all(make, STRENGTHS)
    able = judge.affordable(trials) or judge.affordable(trials, errors=1.0)
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
    trials = judge.try_all(make, SHARES)
    most = max((trial.value for trial in judge.affordable(trials)), default=0.0)
    return Search(tuple(trials), most, *judge.counts)


def _error(share: float, images: int) -> float:
    """Standard error of a share, and not less than one image."""
    return max(math.sqrt(share * (1 - share) / max(images, 1)), 1 / max(images, 1))
