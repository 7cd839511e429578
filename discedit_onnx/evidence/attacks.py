"""Closed-form classifiers on features: probes, few shots, nearest class means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..editing.forgetting.discriminant import Discriminant, discriminant
from .intervals import Share, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    Labels = NDArray[np.int64]

SHOTS = (1, 5, 10)
DRAWS = 5
"""Draws of the few images; the median of them is reported."""


def nearest_mean(x: FloatArray, labels: Labels) -> Discriminant:
    """The classifier by the nearest class mean, in Euclidean distance."""
    classes, place = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(classes), x.shape[1]))
    np.add.at(sums, place, x)
    means = sums / np.bincount(place)[:, None]
    return Discriminant(classes, means.T, -0.5 * (means**2).sum(axis=1))


def halves(labels: Labels) -> NDArray[np.bool_]:
    """The images to fit on, bool (N,): of each class, every second in the order of the data."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    fitted = np.zeros(len(labels), dtype=bool)
    fitted[order] = rank % 2 == 0
    return fitted


def found_again(
    fit: Discriminant, x: FloatArray, labels: Labels, forgotten: Sequence[int]
) -> Share:
    """Share of the forgotten images that a classifier puts into a forgotten class."""
    inside = np.isin(labels, list(forgotten))
    return share(np.isin(fit.top(x[inside]), list(forgotten)))


def probe(x: FloatArray, labels: Labels, forgotten: Sequence[int]) -> Share:
    """Share of the forgotten images that a linear probe of all classes finds.

    Fitted on one half of the images, forgotten ones among them, scored on the other.
    """
    fitted = halves(labels)
    fit = discriminant(x[fitted], labels[fitted])
    return found_again(fit, x[~fitted], labels[~fitted], forgotten)


def nearest(x: FloatArray, labels: Labels, forgotten: Sequence[int]) -> Share:
    """The same of the nearest class mean."""
    fitted = halves(labels)
    fit = nearest_mean(x[fitted], labels[fitted])
    return found_again(fit, x[~fitted], labels[~fitted], forgotten)


def few_shots(
    x: FloatArray, labels: Labels, forgotten: Sequence[int], seed: int = 0
) -> dict[int, Share]:
    """Share of the forgotten images that a head refitted on a few of each class finds.

    Retained images of the same half go with them. The median of `DRAWS` draws is reported. Numbers
    of images that the half does not hold are left out.
    """
    generator = np.random.default_rng(seed)
    fitted = halves(labels)
    inside = np.isin(labels, list(forgotten))
    retained = np.flatnonzero(fitted & ~inside)
    own = [np.flatnonzero(fitted & (labels == k)) for k in forgotten]
    results = {}
    for shots in SHOTS:
        if min(map(len, own)) < shots:
            continue
        drawn = []
        for _ in range(DRAWS):
            few = [generator.choice(images, shots, replace=False) for images in own]
            chosen = np.concatenate([retained, *few])
            fit = discriminant(x[chosen], labels[chosen])
            drawn.append(found_again(fit, x[~fitted], labels[~fitted], forgotten))
        results[shots] = sorted(drawn, key=lambda found: found.hits)[DRAWS // 2]
    return results
