"""Two layers in a row, the second the only reader of the first: fitted to one goal together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ...calibration.session import Session, open_session
from ...graph.rules.elementwise import BROADCAST, UNARY
from .goals import find_goal
from .stages import extract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...graph.view import View
    from .layers import Layer

STEP = 1e-3
"""Half of the distance over which slopes are taken, as a share of the values' deviation."""


@dataclass(frozen=True, eq=False)
class Bend:
    """A function of single numbers: the activation between two layers.

    Attributes
    ----------
    model
        Its nodes, from one tensor to one other.
    """

    model: onnx.ModelProto

    @cached_property
    def _session(self) -> Session:
        return open_session(self.model, "cpu")

    def value(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """The function, of any shape."""
        graph = self.model.graph
        if not graph.node:
            return z
        found: NDArray[np.float32]
        (found,) = self._session.run([graph.output[0].name], {graph.input[0].name: z})
        return found

    def slope(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Its derivative, by central differences."""
        step = np.float32(STEP * z.std() + 1e-12)
        return (self.value(z + step) - self.value(z - step)) / (2 * step)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers in a row.

    Attributes
    ----------
    first, second
        The layers.
    bend
        The activation, between the goal of the first and the second.
    """

    first: Layer
    second: Layer
    bend: Bend


def find_pairs(view: View, layers: Sequence[Layer]) -> dict[str, Pair]:
    """Layers that are fed by one other layer alone, which feeds nothing else, by their node."""
    sources = {}
    for layer in layers:
        goal = find_goal(view, layer)
        if not goal.other and _plain(view, layer):
            sources[goal.tensor] = layer
    found = {}
    for layer in layers:
        if _plain(view, layer) and (source := _source(view, layer, set(sources))):
            first = sources[source]
            if (first.window is None) == (layer.window is None):
                model = extract(view, view.proto, [source], [layer.input])
                found[layer.node] = Pair(first, layer, Bend(model))
    return found


def _plain(view: View, layer: Layer) -> bool:
    """Whether a layer slides without stretching, over single-precision numbers."""
    window = layer.window
    single = view.element_type(layer.input) == onnx.TensorProto.FLOAT
    return single and (window is None or set(window.stretch) <= {1})


def _source(view: View, layer: Layer, sources: set[str]) -> str | None:
    """The one tensor of `sources` that a layer's input is a function of, number by number."""
    inner, found, stack = set(), set(), [layer.input]
    while stack:
        name = stack.pop()
        if name in view.outputs:
            return None
        if name in sources:
            found.add(name)
            continue
        node = view.producer.get(name)
        if node is None or node.domain or node.op not in (*UNARY, *BROADCAST):
            return None
        inner.add(node.index)
        for read in filter(None, node.inputs):
            if read in view.varying:
                stack.append(read)
            elif (constant := view.constant(read)) is None or np.size(constant) != 1:
                return None
    if len(found) != 1:
        return None
    (source,) = found
    between = {source, layer.input, *(o for i in inner for o in view.nodes[i].outputs if o)}
    end = view.producer[layer.node].index
    readers = {node.index for name in between for node, _ in view.consumers[name]}
    captured = any(name in node.captured for node in view.nodes for name in between)
    return source if readers <= inner | {end} and not captured else None
