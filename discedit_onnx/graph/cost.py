"""What a model costs: parameters and multiply-accumulates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

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

    An unknown first dimension counts as one; None if another dimension is unknown.
    """
    total = 0
    for node in view.nodes:
        macs = _macs(view, node)
        if macs is None:
            return None
        total += macs
    return total


def _macs(view: View, node: Node) -> int | None:
    if node.domain or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    elements = _elements(view, node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0])
    weight = view.shapes.get(node.inputs[1])
    if elements is None or weight is None:
        return None
    by_rows = node.op != "MatMul" and (node.op != "Gemm" or node.attributes.get("transB", 0))
    # What one element is summed over: a filter; a row of the weight; a column, or all of a vector.
    each = weight[1:] if by_rows else weight[-2:-1] or weight
    lengths = [length for length in each if length is not None]
    return elements * math.prod(lengths) if len(lengths) == len(each) else None


def _elements(view: View, name: str) -> int | None:
    """Elements of a tensor for one sample."""
    shape = view.shapes.get(name)
    if shape is None or None in shape[1:]:
        return None
    return math.prod(length or 1 for length in shape[1:])
