"""Nodes in an order in which they can be run, which ONNX asks for and ONNX Runtime does not."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterator


def sort_nodes(graph: onnx.GraphProto) -> str:
    """Put each node behind those that it reads, in subgraphs too; what is in order stays as it is.

    Parameters
    ----------
    graph
        It is changed in place.

    Returns
    -------
    str
        What the first node is called that can't be run, for a circle among those before it; or
        nothing.
    """
    order = _order(graph)
    if len(order) < len(graph.node):
        node = graph.node[min(set(range(len(graph.node))) - set(order))]
        return node.name or node.output[0]
    if order != sorted(order):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[index] for index in order)
    subgraphs = (inner for node in graph.node for inner in _subgraphs(node))
    return next(filter(None, map(sort_nodes, subgraphs)), "")


def _order(graph: onnx.GraphProto) -> list[int]:
    """Positions of the nodes, the first that is ready first; without those in a circle."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    readers: list[list[int]] = [[] for _ in graph.node]
    waits = []
    for index, node in enumerate(graph.node):
        makers = {maker[name] for name in _reads(node) if name in maker}
        waits.append(len(makers))
        for made in makers:
            readers[made].append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return order


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, and those that its subgraphs do not make themselves."""
    yield from node.input
    for graph in _subgraphs(node):
        own = {info.name for info in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read = [output.name for output in graph.output]
        read += [name for inner in graph.node for name in _reads(inner)]
        yield from (name for name in read if name not in own)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
