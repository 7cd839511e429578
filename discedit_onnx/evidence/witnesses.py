"""What still tells the forgotten class from the rest, certified; and who was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.gathering import Wanted, calibrate
from ..calibration.placement import taps_of
from ..scoring.certificates import certify
from ..scoring.comparison import OneVsRest
from .intervals import CONFIDENCE, Area, area

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from .observing import Subject

CERTIFICATE = "threshold"
"""Holds from few images on; see docs/certificates.md."""


@dataclass(frozen=True)
class Witness:
    """The channel that tells a forgotten class apart best.

    Attributes
    ----------
    bound
        Total variation is at least this, for all channels and forgotten classes at once, with
        probability `CONFIDENCE`.
    tensor, channel
        Where it lies.
    label
        The class.
    """

    bound: float
    tensor: str
    channel: int
    label: int


def strongest_witness(
    subject: Subject, data: Dataset, forgotten: Sequence[int], device: str, batch_size: int
) -> Witness:
    """The largest certified bound of all channels, each forgotten class against the rest."""
    wanted = Wanted(classes=tuple(forgotten))
    model, data = subject.model, subject.fed_with(data)
    moments = calibrate(
        model, data, taps_of(model), wanted=wanted, device=device, batch_size=batch_size
    )
    own = [int(np.flatnonzero(moments.class_index == k)[0]) for k in forgotten]
    bounds = certify(CERTIFICATE, moments, OneVsRest(tuple(own)), CONFIDENCE)
    place, column = np.unravel_index(int(bounds.argmax()), bounds.shape)
    tensor, lies = next(
        (name, part) for name, part in moments.slices.items() if part.start <= place < part.stop
    )
    found = float(bounds[place, column])
    return Witness(found, tensor, int(place) - lies.start, forgotten[int(column)])


@dataclass(frozen=True)
class Membership:
    """Whether confidence tells images that the model was trained on.

    Attributes
    ----------
    area
        Of the largest softmax, of `positives` against `negatives`.
    compared
        What they are, in words.
    """

    area: Area
    compared: str


def membership(
    members: NDArray[np.float64] | None,
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    forgotten: Sequence[int],
) -> Membership:
    """The attack by confidence.

    Parameters
    ----------
    members
        Logits of training images of the forgotten classes, (M, K); None where there are none.
        Retained classes' images stand in their place then, and what is compared is not members
        with others, but how sure the model is of forgotten images and of retained ones.
    logits, labels
        Of held-out images, (N, K) and (N,).
    forgotten
        Classes.
    """
    inside = np.isin(labels, list(forgotten))
    own = confidence(logits[inside])
    if members is not None:
        words = "training images of the class against held-out ones of it"
        return Membership(area(confidence(members), own), words)
    words = "held-out images of the class against held-out images of other classes"
    return Membership(area(own, confidence(logits[~inside])), words)


def confidence(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of the largest softmax of each row, float64 (N,).

    Unlike the softmax itself, or its logarithm, they do not round to the same number where a model
    is sure.
    """
    from scipy.special import logsumexp

    others = logits.copy()
    np.put_along_axis(others, logits.argmax(axis=1)[:, None], -np.inf, axis=1)
    found: NDArray[np.float64] = logits.max(axis=1) - logsumexp(others, axis=1)
    return found
