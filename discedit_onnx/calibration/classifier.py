"""The classifier in a model: what it is fed, and where its class scores come out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import ModelError
from .preprocess import ImageForm
from .weightless import weightless

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..model import Model

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
IMAGE_DTYPES = ("float32", "float16", "float64", "uint8")
CHANNELS = (1, 3)
SHOWN = 4
"""Outputs that a message names."""
FORMS = frozenset(
    ("Cast", "Div", "Dropout", "Flatten", "Identity", "LpNormalization", "Mul", "Reshape",
     "Squeeze", "Unsqueeze")
)  # fmt: skip
"""Operators between features and an output that gives them: embeddings are often normalised."""


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes
    ----------
    name
        Its name.
    dtype
        NumPy type.
    shape
        Lengths of its axes, None where open; the first is the batch.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('?' if n is None else str(n) for n in self.shape)})"


@dataclass(frozen=True)
class Classifier:
    """How a model is fed and where its logits come out.

    Attributes
    ----------
    path
        The model's file, for messages.
    inputs
        All inputs that must be fed, in the order of the model.
    output
        Name of the output with one column for each class.
    batch
        The only batch size that it takes, or None if it takes any.
    num_classes
        Columns of the output.
    """

    path: Path
    inputs: tuple[Input, ...]
    output: str
    batch: int | None
    num_classes: int

    @property
    def input(self) -> Input:
        """The one input that images can be fed to.

        Raises
        ------
        ModelError
            If it has several inputs, or its only one does not take images.
        """
        if len(self.inputs) != 1:
            names = ", ".join(found.name for found in self.inputs)
            raise ModelError(
                f"{self.path}: takes {len(self.inputs)} inputs ({names}): images alone can't feed "
                "it; give arrays for all of them, as an .npz or a script.py:function"
            )
        found = self.inputs[0]
        if found.dtype.name not in IMAGE_DTYPES or len(found.shape) != 4:
            raise ModelError(
                f"{self.path}: input {found.name!r} is {found}, which is no image; give arrays of "
                "that type, as an .npz or a script.py:function"
            )
        return found

    @cached_property
    def form(self) -> ImageForm:
        """The images that it takes; channels-first where both layouts are possible.

        Raises
        ------
        ModelError
            If it does not take images, or says not how many channels they have.
        """
        found = self.input
        _, a, b, c = found.shape
        if a in CHANNELS:
            return ImageForm(a, b, c)
        if c in CHANNELS:
            return ImageForm(c, a, b, channels_last=True)
        raise ModelError(
            f"{self.path}: input {found.name!r} is {found}, with no axis of 1 or 3 channels; "
            "export it with a fixed number of channels"
        )


def classifier_of(model: Model) -> Classifier:
    """Find the inputs and the class scores of a model.

    The inputs are those that no initializer fills. The output is the first that is
    floating-point with 2 axes, the second of known length 2 or more, and that no such output of
    another width is computed from; or else the first with more axes, of length 1. The batch is the
    first axis of the first input.

    Raises
    ------
    ModelError
        If there is no input, or no such output.
    """
    graph = model.proto.graph
    filled = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_input(value) for value in graph.input if value.name not in filled)
    if not inputs:
        raise ModelError(f"{model.path}: takes no inputs; export it with its inputs")
    output, num_classes = _class_scores(model)
    batch = inputs[0].shape[0] if inputs[0].shape else None
    return Classifier(model.path, inputs, output, batch, num_classes)


def _input(value: onnx.ValueInfoProto) -> Input:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return Input(value.name, dtype, tuple(_dims(value)))


def _class_scores(model: Model) -> tuple[str, int]:
    """Name and width of the classifier output."""
    found = _first_matrix(model.proto.graph)
    if found is None:
        # Exporters may leave a width open that follows from the weights.
        with contextlib.suppress(Exception):
            # Without the weights' bytes: inference does not need them, nor hold 2 GiB of them.
            skeleton = weightless(model.proto).proto
            found = _first_matrix(onnx.shape_inference.infer_shapes(skeleton).graph)
    if found is None:
        known = ", ".join(map(_said, model.proto.graph.output[:SHOWN]))
        learned = " (from scikit-learn with the option zipmap=False)" if "sequence" in known else ""
        raise ModelError(
            f"{model.path}: no classifier output: none of its outputs ({known}) is (batch, "
            "classes) with two classes or more; export the model so that it ends in its class "
            f"scores{learned}"
        )
    return found


def _said(value: onnx.ValueInfoProto) -> str:
    """An output, for messages."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        return f"{value.name}: a {kind.removesuffix('_type')}"
    return f"{value.name}: {', '.join('?' if n is None else str(n) for n in _dims(value))}"


def _first_matrix(graph: onnx.GraphProto) -> tuple[str, int] | None:
    """Name and width of the first floating-point output of two or more columns.

    If there is none, of the first with further axes of length 1, as a pooled map has them. What an
    output of another width is computed from are features, and come last.
    """
    for rank in (2, None):
        found = {}
        for value in graph.output:
            dims = _dims(value)
            fits = value.type.tensor_type.elem_type in FLOATS and len(dims) == (rank or len(dims))
            if fits and dims[1:2] and set(dims[2:]) <= {1} and (dims[1] or 0) >= 2:
                found[value.name] = dims[1] or 0
        if found:
            return min(found.items(), key=lambda each: _is_read(graph, each[0], each[1], found))
    return None


def _is_read(graph: onnx.GraphProto, name: str, width: int, outputs: Mapping[str, int]) -> bool:
    """Whether an output of another width is computed from this one, or from what it passes on."""
    others = {other for other, its in outputs.items() if its != width}
    behind = _passed_on(graph, name) if others else set()
    for node in graph.node if others else ():
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
    return not others.isdisjoint(behind)


def _passed_on(graph: onnx.GraphProto, name: str) -> set[str]:
    """A tensor, and those that it is in another form or on another scale."""
    makers = {output: node for node in graph.node for output in node.output}
    found = {name}
    while (node := makers.get(name)) is not None and node.op_type in FORMS and node.input:
        name = node.input[0]
        found.add(name)
    return found


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Lengths of a tensor's axes, None where open; empty if nothing is known."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
