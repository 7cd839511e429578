"""Intermediate tensors, reduced to a few scalars per image inside the graph itself.

Full feature maps as outputs would cost as much memory traffic as the network; two numbers per
image and channel cost little, and they are all that the moments need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from ..model import DEFAULT_DOMAINS
from .reductions import ROWS, Places, token_mask
from .taps import GATHERED, statistics_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .taps import Tap

MAX_OF_INTEGERS = 12
"""Opset from which Max takes integers."""


def augment(
    model: onnx.ModelProto,
    taps: Sequence[Tap],
    features: Sequence[str] = GATHERED,
    *,
    second: Sequence[Tap] = (),
    positions: Sequence[Tap] = (),
    padded: bool = False,
    scores: str | None = None,
    in_turn: bool = False,
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
    in_turn
        Whether to see to it that ONNX Runtime is done with a tensor before it computes the next,
        also where more than statistics is wanted (and the opset is 12 or more).

    Returns
    -------
    onnx.ModelProto
        The copy. Its outputs are the model's own, then, if there are taps, one of float32
        (N, S C): for each of the S `statistics_of(features)` the channels of all taps in order,
        and then the scores. Statistics of float16, bfloat16 and double tensors are taken in
        float32 too. Then, for each of `second`, the mean (length, 1), the centred co-moment
        (length, length) and the number of values that were looked at, length times that of the
        positions, (); and for each of `positions` the float32 values, axes as in the tensor. With
        `second` and `padded` there is an input `ROWS`, float32 (N,), which is 1 for the images of
        the batch that count and 0 for those that fill it up.

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
    done: list[str] = []
    for number, tap in reversed([*enumerate(taps)]):
        stem = f"{prefix}{number}"
        places = Places(tap, stem, opset, mask, padded)
        results = [f"{stem}_{name}" for name in statistics]
        graph.node.extend(places.statistics(statistics))
        if tap in second:
            graph.node.extend(places.second_moments())
            results += [f"{stem}_second_comoment", f"{stem}_second_size"]
        if tap in positions:
            graph.node.extend(places.positions())
            results.append(f"{stem}_positions")
        if in_turn and (second or positions) and opset >= MAX_OF_INTEGERS:
            # The size of a tensor takes no time, and needs the tensor.
            sizes = [helper.make_node("Size", [name], [f"{name}_done"]) for name in results]
            graph.node.extend(sizes)
            done += [size.output[0] for size in sizes]
    if columns:
        graph.node.append(helper.make_node("Concat", columns, [prefix], axis=1))
    if done:  # nothing reads it, but it needs everything: the last node
        graph.node.append(helper.make_node("Max", done, [f"{prefix}_done"]))
    if second and padded:
        graph.input.append(helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [None]))
    numbers = {tap: number for number, tap in enumerate(taps)}
    added = [(prefix, 2)] if columns else []
    for tap in second:
        stem = f"{prefix}{numbers[tap]}_second"
        added += [(f"{stem}_mean", 2), (f"{stem}_comoment", 2), (f"{stem}_size", 0)]
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
