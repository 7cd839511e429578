"""A model run piece by piece: each piece goes on from where the last one stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from ...calibration.session import open_session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ...graph.view import View

    Feeds = Mapping[str, NDArray[Any]]

MOST_HELD = 3 << 29
"""Bytes of activations that are kept to go on from; more than that is computed again."""


class Walk:
    """Some batches on their way through a model, from the inputs to the outputs.

    Parameters
    ----------
    view
        Of a model whose nodes, names and types are those of the one that is walked through.
    batches
        What the model is fed.
    device
        As in `calibrate`.
    """

    def __init__(self, view: View, batches: Sequence[Feeds], device: str) -> None:
        self._view = view
        self._device = device
        self._held = [dict(feeds) for feeds in batches]

    def run(self, proto: onnx.ModelProto, names: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
        """Values of some tensors for each batch; what was passed is not computed again."""
        there = [name for name in names if name in self._held[0]]
        new = [name for name in names if name not in self._held[0]]
        if not new:
            yield from ([held[name] for name in names] for held in self._held)
            return
        part = extract(self._view, proto, self._held[0], new)
        inputs = [value.name for value in part.graph.input]
        with open_session(part, self._device) as session:
            for held in self._held:
                found = session.run(new, {name: held[name] for name in inputs})
                values = dict(zip(new, found, strict=True)) | {n: held[n] for n in there}
                yield [values[name] for name in names]

    def advance(self, proto: onnx.ModelProto, node: int) -> None:
        """Go on to the node of this number: nothing before it will change any more."""
        alive = self._alive(node)
        new = [name for name in alive if name not in self._held[0]]
        known = [name for name in alive if name in self._held[0]]
        for number, found in enumerate(self.run(proto, new)):
            held = {name: self._held[number][name] for name in known}
            size = sum(part.nbytes for part in (*held.values(), *found)) * len(self._held)
            if number == 0 and size > MOST_HELD:
                return
            # What a session gives lies in its memory, which stays as long as any of it is in use:
            # as copies, what was held goes batch by batch as what is held now comes.
            self._held[number] = held | dict(zip(new, map(np.array, found), strict=True))

    def _alive(self, node: int) -> list[str]:
        """Tensors that depend on the inputs, are there before a node, and are wanted from it on."""
        view = self._view
        later = (n for n in view.nodes if n.index >= node)
        read = dict.fromkeys(name for n in later for name in (*n.inputs, *n.captured))
        read |= dict.fromkeys(view.outputs)
        return [
            name
            for name in read
            if name in view.inputs or (name in view.varying and view.producer[name].index < node)
        ]


def extract(
    view: View, proto: onnx.ModelProto, given: Collection[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The part of a model that computes some tensors from others.

    Parameters
    ----------
    view
        Knows the types of the tensors.
    proto
        Has the nodes and the weights.
    given
        Tensors that there are; those that are read become inputs.
    outputs
        Tensors that are wanted.
    """
    graph = proto.graph
    nodes, read = _needed(graph, set(outputs), set(given))
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    part.graph.name = graph.name
    own = {value.name: value for value in graph.input}
    for name in given:
        if name in read:
            info = own.get(name)
            if info is None:
                info = helper.make_tensor_value_info(name, view.element_type(name), None)
            part.graph.input.append(info)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(
        t for t in graph.sparse_initializer if t.values.name in read
    )
    part.graph.node.extend(nodes)
    part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    return part


def _needed(
    graph: onnx.GraphProto, wanted: set[str], given: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Nodes that some tensors depend on, in order, and all names that they read."""
    nodes, read = [], set(wanted)
    for node in reversed(graph.node):
        if not (wanted - given).isdisjoint(node.output):
            nodes.append(node)
            wanted = wanted | set(_reads(node))
            read.update(_reads(node))
    return nodes[::-1], read


def _reads(node: onnx.NodeProto) -> Collection[str]:
    """Names that a node reads, in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for subgraph in (attribute.g, *attribute.graphs):
            for inner in subgraph.node:
                names.update(_reads(inner))
            names.update(output.name for output in subgraph.output)
    return names - {""}
