"""Intermediate tensors, reduced to a few scalars per image inside the graph itself.

Full feature maps as outputs would cost as much memory traffic as the network; two numbers per
image and channel cost little, and they are all that the moments need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..model import DEFAULT_DOMAINS
from .reductions import ROWS, Places, token_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

FEATURES = ("mean", "rms", "mean_square", "max", "positive")
"""The scalars per image and channel: mean, root of the mean square, mean square, largest value and
share above zero, over all positions."""

GATHERED = ("mean", "rms", "mean_square")
"""Those that are gathered unless others are asked for."""

STATISTICS = ("mean", "mean_square", "max", "positive")
"""What the graph computes of them, in the order in which `augment` appends it."""

GRID = 196
"""Positions of a map, 14 x 14, that are enough for its squares and signs.

Squares of a whole map must be written to memory before they are averaged, which costs more than
anything else here; neighbours in large maps say nearly the same. A scalar of some positions is a
scalar of the image as good as any: what is bounded by it is a bound for the map.
"""


PRODUCTS = 49
"""Positions of a map, 7 x 7, that are enough for the products of its channels.

A matrix product for every position costs as much as the convolution that reads them (on a
ResNet-50, 1.1 times a plain run on 14 x 14 positions), and all images together have far more
positions than channels anyway.
"""


def stride_for(height: int, width: int, least: int = GRID) -> int:
    """The largest step that leaves so many positions of a map, or all of a smaller one."""
    stride = 1
    while -(-height // (stride + 1)) * -(-width // (stride + 1)) >= least:
        stride += 1
    return stride


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
    stride
        Step, on both axes of a map, between the positions whose squares and signs are looked at.
        Mean and maximum are those of all positions.
    product_stride
        The same for the products of channels, which second moments are made of.
    """

    tensor: str
    axis: int
    length: int
    rank: int
    stride: int = 1
    product_stride: int = 1

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that an image's scalars run over: all but the batch and the channels."""
        return tuple(i for i in range(1, self.rank) if i != self.axis)


def statistics_of(features: Sequence[str]) -> tuple[str, ...]:
    """What the graph has to compute for some features."""
    wanted = {"mean_square" if name == "rms" else name for name in features}
    return tuple(name for name in STATISTICS if name in wanted)


def features_from(
    features: Sequence[str], statistics: Mapping[str, npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """The features (N, C, F) of statistics (N, C); F lies first in memory."""
    columns = [
        np.sqrt(statistics["mean_square"]) if name == "rms" else statistics[name]
        for name in features
    ]
    return np.moveaxis(np.stack(columns), 0, -1)


def augment(
    model: onnx.ModelProto,
    taps: Sequence[Tap],
    features: Sequence[str] = GATHERED,
    *,
    second: Sequence[Tap] = (),
    positions: Sequence[Tap] = (),
    padded: bool = False,
    scores: str | None = None,
) -> onnx.ModelProto:
    """Copy a model and give the copy per-image scalars of the tapped tensors as outputs.

    The copy is for running, never for saving. What the model computes stays as it is. Protobuf
    can't share weights between messages: give a model without them (`weightless`) where they are
    large.

    Where the model has an input that masks tokens, features of (N, tokens, channels) are those of
    the tokens that the mask leaves.

    Parameters
    ----------
    model
        The model; not changed.
    taps
        The tensors to reduce.
    features
        Names in `FEATURES`.
    second
        Those of the taps whose second moments are wanted too, of the channels over the positions
        of the batch.
    positions
        Those of the taps whose values at these positions are wanted too.
    padded
        Whether images may fill a batch up that are not to be seen in the second moments.
    scores
        An output (N, classes) of the model to append to the statistics.

    Returns
    -------
    onnx.ModelProto
        The copy. Its outputs are the model's own, then, if there are taps, one of float32
        (N, S C): for each of the S `statistics_of(features)` the channels of all taps in order,
        and then the scores. Statistics of float16, bfloat16 and double tensors are taken in
        float32 too. Then, for each of `second`, the mean (length,), the centred co-moment (length,
        length) and the number of positions that were looked at, (); and for each of `positions`
        the float32 values, axes as in the tensor. With `second` and `padded` there is an input
        `ROWS`, float32 (N,), which is 1 for the images of the batch that count and 0 for those
        that fill it up.

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
    statistics = statistics_of(features) if taps else ()
    mask = token_mask(model.graph)
    columns = [f"{prefix}{number}_{name}" for name in statistics for number in range(len(taps))]
    if scores is not None and taps:
        wide, columns = f"{prefix}_wide", [*columns, f"{prefix}_scores"]
        graph.node.append(helper.make_node("Cast", [scores], [wide], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("Flatten", [wide], [columns[-1]], axis=1))
    # ONNX Runtime walks back from its last node, and into the inputs that stand last first. In
    # this order it reduces a tensor as soon as it is there; in any other it keeps all to the end.
    for number, tap in reversed([*enumerate(taps)]):
        places = Places(tap, f"{prefix}{number}", opset, mask, padded)
        graph.node.extend(places.statistics(statistics))
        if tap in second:
            graph.node.extend(places.second_moments())
        if tap in positions:
            graph.node.extend(places.positions())
    if columns:
        graph.node.append(helper.make_node("Concat", columns, [prefix], axis=1))
    if second and padded:
        graph.input.append(helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [None]))
    numbers = {tap: number for number, tap in enumerate(taps)}
    added = [(prefix, 2)] if columns else []
    for tap in second:
        stem = f"{prefix}{numbers[tap]}_second"
        added += [(f"{stem}_mean", 1), (f"{stem}_comoment", 2), (f"{stem}_count", 0)]
    added += [(f"{prefix}{numbers[tap]}_positions", tap.rank) for tap in positions]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in added
    )
    return augmented


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
