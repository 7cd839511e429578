"""What a model costs: parameters and multiply-accumulates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .shapes import BATCHES
from .view import parameter_tensors

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from .coupling import Coupling
    from .view import Node, View


def count_parameters(proto: onnx.ModelProto) -> int:
    """Elements of all constants that have an axis and hold learned numbers.

    Statistics of normalisations count, as they lie in the file; scalars don't. Of integers, those
    count that stand for other numbers: what is dequantised, convolved or multiplied.
    """
    return sum(math.prod(tensor.dims) for tensor in parameter_tensors(proto).values())


class ParameterCount:
    """Counts the parameters that are left when components are removed."""

    def __init__(self, coupling: Coupling) -> None:
        view = coupling.view
        self.total = count_parameters(view.proto)
        self._coupling = coupling
        counted = parameter_tensors(view.proto)
        self._blocks = [block for block in coupling.blocks if block.tensor in counted]
        self._starts = np.cumsum([0, *(b.stop - b.start for b in self._blocks)])[:-1]
        self._variables = np.concatenate(
            [np.arange(b.start, b.stop) for b in self._blocks] or [np.empty(0, dtype=np.int64)]
        )
        self._dims = {b.tensor: list(view.initializers[b.tensor].dims) for b in self._blocks}
        self._fixed = self.total - sum(math.prod(dims) for dims in self._dims.values())

    def left(self, removed: NDArray[np.bool_]) -> int:
        """Parameters left.

        Parameters
        ----------
        removed
            Shape (components,).
        """
        if not self._blocks:
            return self.total
        gone = self._coupling.gone(self._variables, removed).astype(np.int64)
        lost = np.add.reduceat(gone, self._starts)
        dims = {name: list(lengths) for name, lengths in self._dims.items()}
        for block, count in zip(self._blocks, lost, strict=True):
            dims[block.tensor][block.axis] -= int(count)
        return self._fixed + sum(math.prod(lengths) for lengths in dims.values())


def count_macs(view: View) -> int | None:
    """Multiply-accumulates of convolutions and matrix products for one sample.

    An open batch may be merged with other axes further on, so products are counted at both numbers
    that it was given, and carried on to one. None if another length is open, or a shape unknown.
    """
    shapes = [view.shapes.get(name, (None, None)) for name in view.inputs]
    if not shapes or any(None in shape[1:] for shape in shapes):
        return None
    totals = []
    for run in range(len(BATCHES)):
        macs = [_macs(view, node, run) for node in view.nodes]
        if None in macs:
            return None
        totals.append(sum(count for count in macs if count is not None))
    batch = max((shape[0] or 0 for shape in shapes if shape), default=1)
    if batch:
        return totals[0] // batch
    (first, second), (a, b) = totals, BATCHES
    return first - (second - first) // (b - a) * (a - 1)


def _macs(view: View, node: Node, run: int) -> int | None:
    if node.domain or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    lengths = view.facts.lengths
    counted = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    if counted not in lengths or node.inputs[1] not in lengths:
        return None
    weight = lengths[node.inputs[1]][run]
    by_rows = node.op != "MatMul" and (node.op != "Gemm" or node.attributes.get("transB", 0))
    # What one element is summed over: a filter; a row of the weight; a column, or all of a vector.
    each = weight[1:] if by_rows else weight[-2:-1] or weight
    macs = math.prod(lengths[counted][run]) * math.prod(each)
    return macs or None  # a length of 0 is one that is unknown
