"""The recall attack: statistics of every channel, estimated anew on retained images alone.

Whoever has a few images of other classes can do this. Where a BatchNormalization follows, its
running mean and variance are estimated again. Where it was folded into the layer, the layer is
scaled and shifted so that each channel of its output has the mean and the standard deviation that
the original has on the same images. Layers are taken in order, each behind those already attacked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from ..calibration.session import open_session
from ..editing.forgetting.inputs import with_outputs
from ..editing.forgetting.maps import bias_of, matrix_of
from ..editing.plan import Bias, Plan, Update
from ..editing.refit.layers import exact_layers
from ..editing.refit.stages import Walk
from ..editing.surgery import apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..editing.refit.layers import Layer
    from ..graph.view import Node
    from .observing import Subject

    FloatArray = NDArray[np.float64]
    Feeds = Mapping[str, NDArray[Any]]

MOST_IMAGES = 1000
"""Retained images that statistics are taken from, spread evenly over those there are."""
SILENT = 1e-4
"""A channel whose deviation is smaller than this share of the original's is shifted only."""
RUNNING = 2
"""Inputs of a BatchNormalization: its scale and shift come before its mean and variance."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each channel, over images and places: float64 (C,) each."""

    mean: FloatArray
    deviation: FloatArray


@dataclass(frozen=True, eq=False)
class Recalled:
    """An attacked model.

    Attributes
    ----------
    subject
        The model, with other statistics.
    attacked
        Layers that were given others.
    skipped
        Layers that could not be: their channels are not those of the original any more, or they
        have no bias that could be shifted.
    images
        Retained images that the statistics are from.
    """

    subject: Subject
    attacked: int
    skipped: int
    images: int


def recall(
    original: Subject, edited: Subject, retained: Dataset, device: str = "auto", size: int = 64
) -> Recalled:
    """Attack a model with retained images.

    Parameters
    ----------
    original, edited
        The models.
    retained
        Images of retained classes, opened for the original.
    device, size
        Where, and images at a time.
    """
    feeds, images = _feeds(edited, retained, size)
    places = {layer.node: layer for layer in exact_layers(edited.view) if layer != edited.head}
    steps = [node for node in edited.view.nodes if _normalises(edited, node)]
    normalised = {node.inputs[0] for node in steps}
    folded = [layer for layer in places.values() if layer.output not in normalised]
    wanted = _original_statistics(original, folded, feeds, device)
    walk = Walk(edited.view, feeds, device)
    proto, attacked, skipped = edited.model.proto, 0, 0
    for node in edited.view.nodes:
        layer = places.get(node.outputs[0]) if node.outputs else None
        if node in steps:
            walk.advance(proto, node.index)
            found = statistics((v for (v,) in walk.run(proto, [node.inputs[0]])), 1)
            proto = _renormalised(proto, edited, node, found)
        elif layer is not None and layer in folded:
            target = wanted.get(layer.output)
            walk.advance(proto, node.index)
            values = (v for (v,) in walk.run(proto, [layer.output]))
            found = statistics(values, layer.channel_axis)
            if target is None or len(target.mean) != len(found.mean) or not _able(layer):
                skipped += 1
                continue
            proto = _rescaled(proto, edited, layer, found, target)
        else:
            continue
        attacked += 1
    # The subject's view would be that of other weights: it is made anew where it is asked for.
    changed = replace(edited, model=replace(edited.model, proto=proto))
    return Recalled(changed, attacked, skipped, images)


def statistics(batches: Iterable[NDArray[Any]], axis: int) -> Statistics:
    """Mean and deviation of each channel over everything else."""
    running = _Running(axis)
    for values in batches:
        running.add(values)
    return running.done()


class _Running:
    """Statistics of the batches so far, by Chan's merge."""

    def __init__(self, axis: int) -> None:
        self._axis, self._count = axis, 0
        self._mean: FloatArray = np.zeros(())
        self._square: FloatArray = np.zeros(())

    def add(self, values: NDArray[Any]) -> None:
        last = np.moveaxis(values, self._axis, -1).astype(np.float64)
        flat = last.reshape(-1, last.shape[-1])
        own, new = flat.mean(axis=0), len(flat)
        step, total = own - self._mean, self._count + new
        within = ((flat - own) ** 2).sum(axis=0)
        self._square = self._square + within + step**2 * (self._count * new / total)
        self._mean = self._mean + step * (new / total)
        self._count = total

    def done(self) -> Statistics:
        return Statistics(self._mean, np.sqrt(self._square / max(self._count, 1)))


def reenabled(
    logits: FloatArray, before: FloatArray, retained: NDArray[np.bool_], forgotten: Sequence[int]
) -> FloatArray:
    """The same attack on the logits of forgotten classes.

    They get the mean and the deviation that the original's have on retained images. A logit that
    was suppressed wins again where it still knows the class.

    Parameters
    ----------
    logits, before
        Of the edited model and of the original, (N, K), on the same images.
    retained
        Images that statistics are taken from, (N,).
    forgotten
        Classes; those without a column stay without.
    """
    changed = logits.copy()
    for k in forgotten:
        own = logits[retained, k]
        if np.isfinite(own).all():
            found = Statistics(own.mean(keepdims=True), own.std(keepdims=True))
            there = before[retained, k]
            scale = _scale(found, Statistics(there.mean(keepdims=True), there.std(keepdims=True)))
            changed[:, k] = (logits[:, k] - found.mean) * scale + there.mean()
    return changed


def by_head_of(original: Subject, last: FloatArray) -> FloatArray | None:
    """What the original's head makes of features (N, C); None where it takes others."""
    matrix = matrix_of(original.view, original.head)
    if len(matrix) != last.shape[1]:
        return None
    logits: FloatArray = last @ matrix + bias_of(original.view, original.head, matrix.shape[1])
    return logits


def _feeds(edited: Subject, retained: Dataset, size: int) -> tuple[list[Feeds], int]:
    """Batches of some of the images; whole ones where the model takes no others."""
    data = edited.fed_with(retained)
    fixed = data.classifier.batch
    size = fixed or size
    number = min(len(data), MOST_IMAGES)
    number = max(fixed, number - number % fixed) if fixed else number
    part = data.take(np.linspace(0, len(data) - 1, number).astype(np.int64))
    return [dict(batch.feeds) for batch in part.batches(size)], number


def _normalises(subject: Subject, node: Node) -> bool:
    """Whether a node is a BatchNormalization with constant running statistics."""
    return (
        node.op == "BatchNormalization"
        and not node.domain
        and node.inputs[0] in subject.view.varying
        and all(name in subject.view.initializers for name in node.inputs[RUNNING + 1 :])
    )


def _able(layer: Layer) -> bool:
    """Whether a layer can be scaled and shifted by its weights alone."""
    if layer.op == "MatMul":
        return layer.bias is not None
    return layer.op != "ConvTranspose" or layer.groups == 1


def _original_statistics(
    original: Subject, layers: Sequence[Layer], feeds: Sequence[Feeds], device: str
) -> dict[str, Statistics]:
    """Of the outputs of layers, where the original has them."""
    known = original.view.producer
    axes = {each.output: each.channel_axis for each in layers if each.output in known}
    if not axes:
        return {}
    merged = {name: _Running(axis) for name, axis in axes.items()}
    proto = with_outputs(original.model.proto, list(axes))
    with open_session(proto, device) as session:
        for batch in feeds:
            for name, value in zip(axes, session.run(list(axes), batch), strict=True):
                merged[name].add(value)
    return {name: running.done() for name, running in merged.items()}


def _scale(found: Statistics, target: Statistics) -> FloatArray:
    """What brings deviations to their target; 1 for channels that are silent."""
    alive = found.deviation > SILENT * target.deviation
    ratio = np.divide(
        target.deviation, found.deviation, out=np.ones_like(found.deviation), where=alive
    )
    scale: FloatArray = np.where(target.deviation > 0, ratio, 1.0)
    return scale


def _renormalised(
    proto: onnx.ModelProto, edited: Subject, node: Node, found: Statistics
) -> onnx.ModelProto:
    updates = []
    for name, values in zip(
        node.inputs[RUNNING + 1 :], (found.mean, found.deviation**2), strict=True
    ):
        old = numpy_helper.to_array(edited.view.initializers[name])
        updates.append(Update(name, values.astype(old.dtype)))
    return apply(proto, Plan("", updates=tuple(updates)))


def _rescaled(
    proto: onnx.ModelProto, edited: Subject, layer: Layer, found: Statistics, target: Statistics
) -> onnx.ModelProto:
    """The layer with outputs (y - mean) * scale + the target's mean."""
    scale = _scale(found, target)
    shift = target.mean - found.mean * scale
    weight = numpy_helper.to_array(edited.view.initializers[layer.weight])
    shape = [1] * weight.ndim
    shape[1 if layer.transposed else 0] = -1
    updates = [Update(layer.weight, (weight * scale.reshape(shape)).astype(weight.dtype))]
    biases: tuple[Bias, ...] = ()
    if layer.bias is not None:
        old = numpy_helper.to_array(edited.view.initializers[layer.bias])
        new = old.reshape(-1) * scale + shift
        updates.append(Update(layer.bias, new.astype(old.dtype).reshape(old.shape)))
    else:
        biases = (Bias(layer.node, shift.astype(weight.dtype)),)
    return apply(proto, Plan("", updates=tuple(updates), biases=biases))
