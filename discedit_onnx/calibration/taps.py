"""Intermediate tensors, reduced to a few scalars per image inside the graph itself.

Full feature maps as outputs would cost as much memory traffic as the network; two numbers per
image and channel cost little, and they are all that the moments need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from ..model import DEFAULT_DOMAINS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FEATURES = ("mean", "mean_square")
"""The scalars per image and channel, in the order in which `augment` appends them."""

AXES_AS_INPUT = 18
"""Opset from which ReduceMean takes its axes as an input; before, they are an attribute."""


@dataclass(frozen=True)
class Tap:
    """A tensor that is looked at, and the axis of it that carries channels.

    Attributes
    ----------
    tensor
        Name of the tensor in the model's main graph; its axis 0 is the batch.
    axis
        The channel axis, from 1 to `rank` - 1.
    length
        Number of channels.
    rank
        Number of axes of the tensor.
    """

    tensor: str
    axis: int
    length: int
    rank: int

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that an image's scalars run over: all but the batch and the channels."""
        return tuple(i for i in range(1, self.rank) if i != self.axis)


def augment(model: onnx.ModelProto, taps: Sequence[Tap]) -> onnx.ModelProto:
    """Copy a model and give the copy per-image scalars of the tapped tensors as outputs.

    The copy is for running, never for saving. What the model computes stays as it is. Protobuf
    can't share weights between messages, so while the copy lives they are in memory twice.

    Parameters
    ----------
    model
        The model; not changed.
    taps
        The tensors to reduce.

    Returns
    -------
    onnx.ModelProto
        The copy. Its outputs are the model's own, then tap by tap one for each of `FEATURES`,
        float32 (N, `length`). Statistics of float16, bfloat16 and double tensors are taken in
        float32 too.

    Raises
    ------
    ValueError
        If the model's main graph computes no tensor of a tap's name.
    """
    computed = {name for node in model.graph.node for name in node.output}
    for tap in taps:
        if tap.tensor not in computed:
            raise ValueError(f"the model computes no tensor named {tap.tensor!r}")
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    graph = augmented.graph
    opset = max((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), default=1)
    prefix = _free_prefix(model.graph)
    for number, tap in enumerate(taps):
        stem = f"{prefix}{number}"
        graph.node.extend(_statistics(tap, stem, opset))
        for feature in FEATURES:
            shape = [None, tap.length]
            info = helper.make_tensor_value_info(f"{stem}_{feature}", TensorProto.FLOAT, shape)
            graph.output.append(info)
    return augmented


def _statistics(tap: Tap, stem: str, opset: int) -> list[onnx.NodeProto]:
    """Nodes that compute `{stem}_mean` and `{stem}_mean_square` of a tensor.

    The cast is there for narrower and wider types than float32; where there is nothing to cast,
    ONNX Runtime drops it before it looks at anything else.
    """
    x, square = f"{stem}_x", f"{stem}_square"
    return [
        helper.make_node("Cast", [tap.tensor], [x], to=TensorProto.FLOAT),
        helper.make_node("Mul", [x, x], [square]),
        *_mean(x, f"{stem}_mean", tap, opset),
        *_mean(square, f"{stem}_mean_square", tap, opset),
    ]


def _mean(x: str, mean: str, tap: Tap, opset: int) -> list[onnx.NodeProto]:
    """Nodes that average `x` over the axes that a tap reduces.

    Both ways divide by the size met at run time, so dynamic shapes need nothing more. Why there
    are two: on 2 AVX-512 cores under ONNX Runtime 1.32, with every activation tapped for mean and
    mean square, a run took this many times one without taps (medians, on a machine with other
    work; the order was the same in three repetitions):

    =======================================  ======================  =====================
    formulation                              ResNet-18, 16 x 224^2   ResNet-20, 64 x 28^2
    =======================================  ======================  =====================
    GlobalAveragePool of x and of x * x      1.12                    1.26
    GlobalAveragePool; sum of squares / n    1.20                    1.38
    ReduceMean of x and of x * x             1.28                    1.43
    =======================================  ======================  =====================

    ONNX Runtime keeps feature maps in a blocked layout on such processors; a product and the
    pool read it as it lies, the reductions need a copy in plain order first.
    """
    if not tap.reduced:
        return [helper.make_node("Identity", [x], [mean])]
    if tap.axis == 1:
        pooled = f"{mean}_pooled"
        return [
            helper.make_node("GlobalAveragePool", [x], [pooled]),
            helper.make_node("Flatten", [pooled], [mean], axis=1),
        ]
    if opset < AXES_AS_INPUT:
        return [helper.make_node("ReduceMean", [x], [mean], axes=tap.reduced, keepdims=0)]
    axes = f"{mean}_axes"
    return [
        helper.make_node("Constant", [], [axes], value_ints=tap.reduced),
        helper.make_node("ReduceMean", [x, axes], [mean], keepdims=0),
    ]


def _free_prefix(graph: onnx.GraphProto) -> str:
    """A prefix that no name in the graph or its subgraphs begins with."""
    names = set(_names(graph))
    prefix = "discedit_tap"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """All tensor names that a graph and its subgraphs define or use."""
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _names(subgraph)
