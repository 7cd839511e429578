"""What an edited model makes of images, run from the last place before the edit on.

Edits leave the first layers as they were. What these make of all images is kept, at a few places
where one tensor alone carries on, and an edited model is run from the last of these on: the same
figures at a third of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

import discedit_onnx as dx
from discedit_onnx.calibration.runner import run_batches
from discedit_onnx.calibration.session import open_session
from discedit_onnx.editing.forgetting.inputs import with_outputs
from discedit_onnx.editing.refit.layers import find_layers
from discedit_onnx.graph.view import View, weight_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.model import Model

DEPTHS = 0.4, 2 / 3, 1.0
"""Of all layers but the last, how many lie before a place that is kept, besides the input."""
BATCH = 100


@dataclass(frozen=True)
class Place:
    """Between two nodes: how many come before, and the one tensor that goes on."""

    start: int
    tensor: str


def crossings(view: View) -> Iterator[Place]:
    """Where one tensor alone carries on."""
    last = {name: node.index for node in view.nodes for name in node.inputs}
    last.update(dict.fromkeys(view.outputs, len(view.nodes)))
    alive = set(view.inputs)
    for node in view.nodes:
        alive |= set(node.outputs) & view.varying
        alive = {name for name in alive if last.get(name, -1) > node.index}
        if len(alive) == 1:
            yield Place(node.index + 1, *alive)


def places(view: View) -> list[Place]:
    """The input, and for each of `DEPTHS` the last place before the layer there."""
    layers = [view.producer[layer.node].index for layer in find_layers(view)]
    found = [Place(0, view.inputs[0])]
    for depth in DEPTHS:
        most = layers[round(depth * (len(layers) - 1))]
        found.append(max((p for p in crossings(view) if p.start <= most), key=lambda p: p.start))
    return found


def first_change(original: onnx.ModelProto, edited: onnx.ModelProto) -> int:
    """The first node that is another, or has other constants."""
    before, after = (
        {name: tensor.SerializeToString() for name, tensor in weight_tensors(model).items()}
        for model in (original, edited)
    )
    pairs = zip(original.graph.node, edited.graph.node, strict=False)
    for number, (old, new) in enumerate(pairs):
        same = old.SerializeToString() == new.SerializeToString()
        if not same or any(before.get(name) != after.get(name) for name in old.input):
            return number
    return len(original.graph.node)


def tail(model: Model, view: View, place: Place, shape: tuple[int, ...]) -> Model:
    """A model from a place on; `view` is that of the original, which is the same up to there."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = [
        onnx.NodeProto.FromString(node.SerializeToString())
        for number, node in enumerate(proto.graph.node)
        if number >= place.start or view.varying.isdisjoint(node.output)
    ]
    read = {name for node in kept for name in node.input}
    weights = [t for t in model.proto.graph.initializer if t.name in read]
    kind = onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info(place.tensor, kind, ["batch", *shape])
    for field in ("node", "input", "value_info", "initializer"):
        proto.graph.ClearField(field)
    proto.graph.node.extend(kept)
    proto.graph.input.append(given)
    proto.graph.initializer.extend(weights)
    return replace(model, proto=proto)


class Kept:
    """Images as they are at each place, and the original from there on."""

    def __init__(self, model: Model, images: Dataset) -> None:
        self.model, self.labels = model, images.labels
        self.view = View(model.proto)
        self.places = places(self.view)
        later = list(dict.fromkeys(place.tensor for place in self.places[1:]))
        found: dict[str, list[np.ndarray]] = {name: [] for name in (self.view.inputs[0], *later)}
        with open_session(with_outputs(model.proto, later), "cpu") as session:
            for batch in images.batches(BATCH):
                found[self.view.inputs[0]].append(batch.feeds[self.view.inputs[0]])
                for name, values in zip(later, session.run(later, batch.feeds), strict=True):
                    found[name].append(values)
        self.arrays = {name: np.concatenate(parts) for name, parts in found.items()}

    def place_of(self, edited: onnx.ModelProto) -> Place:
        """The last place before an edit."""
        change = first_change(self.model.proto, edited)
        return [place for place in self.places if place.start <= change][-1]

    def tail(self, model: Model, place: Place) -> Model:
        """The original or an edited model from a place on."""
        return tail(model, self.view, place, self.arrays[place.tensor].shape[1:])

    def data(self, place: Place) -> Dataset:
        """The images at a place, for any model from there on."""
        values = {place.tensor: self.arrays[place.tensor]}
        return dx.open_data(self.tail(self.model, place), (values, self.labels))


def logits(model: Model, data: Dataset) -> np.ndarray:
    """Scores of all samples, (N, K)."""
    output = [data.classifier.output]
    with open_session(model.proto, "cpu") as session:
        runs = run_batches(session, output, data, batch_size=BATCH)
        return np.concatenate([values for (values,), _ in runs])
