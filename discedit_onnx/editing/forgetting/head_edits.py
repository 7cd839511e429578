"""How a class is taken out of the head: by its logit, by what is read of it, or by a new head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from .discriminant import discriminant
from .maps import LayerEdit, bias_of, matrix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...graph.view import View
    from ..refit.layers import Layer

MARGIN = 1e4
"""How far a suppressed logit lies below the mean of the others; float16 still holds it."""
SLACK = 1e-9
"""Ridge of the direction that is taken out, relative to the spread of the rows."""
RANK = 1e-6
"""Directions of a head's columns that are so much smaller than the largest are rounding."""


def suppressed(view: View, head: Layer, forgotten: Sequence[int]) -> LayerEdit:
    """Level output: a class's logit becomes the mean of the retained ones, less a margin.

    A mean is never above the largest, so the class can't win, on any input; and its row holds
    nothing that tells it from others. The retained logits stay as they are. (Behind a Relu all of
    them may be 0, and so is the class then: the first of them is the answer.)
    """
    classes = matrix_of(view, head).shape[1]
    retained = np.setdiff1d(np.arange(classes), forgotten)
    gone = np.array(forgotten)
    after = np.eye(classes)
    after[:, gone] = 0
    after[np.ix_(retained, gone)] = 1 / len(retained)
    shift = np.zeros(classes)
    shift[gone] = -MARGIN
    return LayerEdit(head, None, after, shift)


def projected(view: View, head: Layer, forgotten: Sequence[int]) -> LayerEdit:
    """Level head: what the head reads of a class is projected out of its input.

    With w_k the head's rows and w the mean of the retained ones, the projection is
    ``x - U V' x`` with V the rows w_c - w and V'U = 1. Whatever U is, the class's logit is then the
    mean of the retained ones: it can't win; less a margin where one is retained only, for it would
    be level with that. U is the one that disturbs the differences between
    retained logits least, not at all where they are independent of V (they are if there are
    fewer classes than features).
    """
    matrix = matrix_of(view, head)
    bias = bias_of(view, head, matrix.shape[1])
    retained = np.setdiff1d(np.arange(matrix.shape[1]), forgotten)
    mean = matrix[:, retained].mean(axis=1, keepdims=True)
    differences = matrix[:, retained] - mean
    read = matrix[:, list(forgotten)] - mean
    gram = differences @ differences.T
    tiny = float(np.finfo(np.float32).tiny)
    slack = SLACK * max(np.trace(gram), float((read**2).sum()), tiny)
    write = np.linalg.solve(gram + slack * np.eye(len(gram)), read)
    write = write @ np.linalg.pinv(read.T @ write)
    shift = np.zeros(matrix.shape[1])
    gone = list(forgotten)
    shift[gone] = bias[retained].mean() - bias[gone] - _margin(retained)
    return LayerEdit(head, np.eye(len(matrix)) - read @ write.T, None, shift)


def refitted(
    view: View,
    head: Layer,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    forgotten: Sequence[int],
) -> LayerEdit:
    """A new head: linear discriminant analysis of the retained classes, on edited features.

    Class means and one covariance within classes, equal priors (Fisher). One scale and one shift
    for all bring its logits to mean and spread of the old ones: their own would make each sigmoid
    behind them round to 1. A forgotten class gets the mean of the others' logits, as in
    `projected`.

    Parameters
    ----------
    view, head
        Of the original.
    features
        What the head reads in the edited network, (N, C).
    labels
        Classes of these images, (N,); images of forgotten classes are not looked at.
    forgotten
        Columns of the head.

    Raises
    ------
    DataError
        If a retained class has no images, there are more classes than features, or the old head's
        columns depend on one another too much.
    """
    matrix = matrix_of(view, head)
    size, classes = matrix.shape
    retained = np.setdiff1d(np.arange(classes), forgotten)
    missing = np.setdiff1d(retained, labels)
    if len(missing) or size < classes:
        what = (
            f"no images of {len(missing)} classes" if len(missing) else "more classes than features"
        )
        raise DataError(f"the head can't be refitted: {what}; leave out --refit-head")
    inside = np.isin(labels, retained)
    fit = discriminant(features[inside], labels[inside])
    weights = fit.matrix - fit.matrix.mean(axis=1, keepdims=True)  # the old columns may sum to 0
    old = bias_of(view, head, classes)
    seen, wanted = features[inside] @ weights + fit.offset, features[inside] @ matrix + old
    scale = wanted[:, retained].std() / max(seen.std(), np.finfo(float).tiny)
    weights = scale * weights
    offset = scale * (fit.offset - seen.mean()) + wanted[:, retained].mean()
    new, bias = np.empty_like(matrix), np.empty(classes)
    new[:, retained], bias[retained] = weights, offset
    gone = list(forgotten)
    new[:, gone] = weights.mean(axis=1, keepdims=True)
    bias[gone] = bias[retained].mean() - _margin(retained)
    before, after = _turned(matrix, new)
    return LayerEdit(head, before, after, bias - old @ after)


def _turned(
    old: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What makes new columns (C, K) of old ones, ``before @ old @ after``.

    Old columns may depend on one another, as those of a head that has forgotten a class do.

    Raises
    ------
    DataError
        If the old ones have fewer directions than the new ones.
    """
    left, size, right = np.linalg.svd(old, full_matrices=False)
    new_left, new_size, new_right = np.linalg.svd(new, full_matrices=False)
    some = slice(int((new_size > RANK * new_size[0]).sum()))
    if not (size[some] > RANK * size[0]).all():
        raise DataError(
            "the head can't be refitted: too many of its columns depend on one another; leave out "
            "--refit-head"
        )
    before = (new_left[:, some] * new_size[some] / size[some]) @ left[:, some].T
    return before, right[some].T @ new_right[some]


def _margin(retained: NDArray[np.int64]) -> float:
    """What keeps a class from a draw with the mean of the others' logits, if that is one logit."""
    return MARGIN if len(retained) == 1 else 0.0
