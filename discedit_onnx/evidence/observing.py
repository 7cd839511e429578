"""What a model makes of images: logits, and per-image channel means of some tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.classifier import classifier_of
from ..calibration.runner import run_batches
from ..calibration.session import open_session
from ..editing.forgetting.head import find_head, scores_of
from ..editing.forgetting.inputs import with_outputs
from ..errors import DataError
from ..graph.view import View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..editing.refit.layers import Layer
    from ..model import Model

    FloatArray = NDArray[np.float64]

FIRST_CHANNEL = ("Conv", "ConvTranspose", "BatchNormalization")
"""Operators with channels on axis 1; the others that are looked at have them last."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is looked at, with the columns that it has of the original's classes.

    Attributes
    ----------
    model
        The model.
    columns : int64 (K',)
        Class of each column of its output.
    classes
        The K classes of the original.
    """

    model: Model
    columns: NDArray[np.int64]
    classes: int

    @classmethod
    def of(cls, model: Model, classes: int, forgotten: Sequence[int]) -> Subject:
        """A model of the same classes, or without the forgotten ones.

        Raises
        ------
        DataError
            If it has another number of classes.
        """
        found = classifier_of(model).num_classes
        kept = np.setdiff1d(np.arange(classes), forgotten)
        if found == classes:
            return cls(model, np.arange(classes), classes)
        if found == len(kept):
            return cls(model, kept, classes)
        raise DataError(
            f"{model.path}: has {found} classes, which are neither the {classes} of the original "
            "nor those without the forgotten; give the model that was made from it"
        )

    @cached_property
    def view(self) -> View:
        """Of its graph."""
        return View(self.model.proto)

    @cached_property
    def head(self) -> Layer:
        """The layer that makes its logits."""
        found = classifier_of(self.model)
        return find_head(self.view, found.output, found.num_classes)

    def fed_with(self, data: Dataset) -> Dataset:
        """Images opened for the original, for this model.

        Raises
        ------
        DataError
            If it takes other inputs.
        """
        own = classifier_of(self.model)
        if own.inputs != data.classifier.inputs:
            raise DataError(
                f"{self.model.path} and {data.classifier.path} take other inputs; compare models "
                "of the same inputs"
            )
        return replace(data, classifier=own)

    def spread(self, logits: FloatArray) -> FloatArray:
        """Logits (N, K') as (N, K), minus infinity where a class has no column."""
        full = np.full((len(logits), self.classes), -np.inf)
        full[:, self.columns] = logits
        return full


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model made of images.

    Attributes
    ----------
    labels : int64 (N,)
        Their classes.
    logits : float64 (N, K)
        Minus infinity where the model has no column.
    last : float64 (N, C)
        Channel means of what the head reads.
    means
        By tensor, channel means, float64 (N, C).
    """

    labels: NDArray[np.int64]
    logits: FloatArray
    last: FloatArray
    means: Mapping[str, FloatArray]


def observe(
    subject: Subject,
    data: Dataset,
    tensors: Mapping[str, int] | None = None,
    *,
    device: str = "auto",
    batch_size: int = 64,
) -> Seen:
    """Run a model over labelled images.

    Memory is O(images x channels) of the tensors named, never a map of more than a batch.

    Parameters
    ----------
    subject
        The model.
    data
        Images opened for the original.
    tensors
        Tensors to look at, and the axis of their channels.
    device, batch_size
        As in `calibrate`.
    """
    head = subject.head
    scores = scores_of(subject.view, classifier_of(subject.model).output, head)
    axes = {**(tensors or {}), head.input: head.channel_axis}
    names = [*axes, *{scores} - axes.keys()]
    found: dict[str, list[FloatArray]] = {name: [] for name in names}
    labels, logits = [], []
    with open_session(with_outputs(subject.model.proto, names), device) as session:
        batches = run_batches(session, names, subject.fed_with(data), batch_size=batch_size)
        for values, batch in batches:
            labels.append(batch)
            for name, value in zip(names, values, strict=True):
                if name in axes:
                    found[name].append(channel_means(value, axes[name]))
                if name == scores:
                    logits.append(value.reshape(len(value), -1).astype(np.float64))
    whole = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    return Seen(
        np.concatenate(labels),
        subject.spread(np.concatenate(logits)),
        whole[head.input],
        {name: whole[name] for name in tensors or {}},
    )


def channel_means(values: NDArray[Any], axis: int) -> FloatArray:
    """Mean of each channel of each image, float64 (N, C)."""
    last = np.moveaxis(values, axis, -1) if values.ndim > 1 else values[:, None]
    flat = last.reshape(len(values), -1, last.shape[-1])
    means: FloatArray = flat.mean(axis=1, dtype=np.float64)
    return means
