"""What a model costs: parameters and multiply-accumulates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from .fused import DOMAIN as FUSED
from .fused import INFERRED_LIKE
from .shapes import BATCHES
from .view import parameter_tensors, parameters_inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from .coupling import Coupling
    from .view import Node, View


UNCOUNTED = frozenset(
    ("Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM", "MatMulInteger",
     "MultiHeadAttention", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "RNN")
)  # fmt: skip
"""Operators of any domain whose multiplications are not counted."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose multiplications are, and those of ONNX Runtime that are one of them and more."""


def count_parameters(proto: onnx.ModelProto) -> int:
    """Elements of all constants that have an axis and hold learned numbers.

    Statistics of normalisations count, as they lie in the file; scalars don't. Of integers, those
    count that stand for other numbers: what is dequantised, convolved or multiplied. So do those
    in subgraphs, and in functions, which can't be cut.
    """
    inside = (tensor for _, tensor in parameters_inside(proto))
    return sum(math.prod(tensor.dims) for tensor in (*parameter_tensors(proto).values(), *inside))


class Kept:
    """Counts, for some lists of variables, how many belong to what is kept.

    Parameters
    ----------
    coupling
        Of the model.
    lists
        Variables, none of the lists empty.
    """

    def __init__(self, coupling: Coupling, lists: Sequence[NDArray[np.int64]]) -> None:
        self._coupling = coupling
        self._variables = np.concatenate([*lists, np.empty(0, dtype=np.int64)])
        self.lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
        self._starts = np.cumsum([0, *self.lengths])[:-1].astype(np.int64)

    def counts(self, removed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Variables kept of each list, when components of shape (components,) are removed."""
        if not len(self.lengths):
            return self.lengths
        gone = self._coupling.gone(self._variables, removed).astype(np.int64)
        kept: NDArray[np.int64] = self.lengths - np.add.reduceat(gone, self._starts)
        return kept


class ParameterCount:
    """Counts the parameters that are left when components are removed."""

    def __init__(self, coupling: Coupling) -> None:
        view = coupling.view
        self.total = count_parameters(view.proto)
        counted = parameter_tensors(view.proto)
        self._blocks = [block for block in coupling.blocks if block.tensor in counted]
        self._kept = Kept(coupling, [np.arange(b.start, b.stop) for b in self._blocks])
        self._dims = {b.tensor: list(view.initializers[b.tensor].dims) for b in self._blocks}
        self._fixed = self.total - sum(math.prod(dims) for dims in self._dims.values())

    def left(self, removed: NDArray[np.bool_]) -> int:
        """Parameters left.

        Parameters
        ----------
        removed
            Shape (components,).
        """
        dims = {name: list(lengths) for name, lengths in self._dims.items()}
        for block, count in zip(self._blocks, self._kept.counts(removed), strict=True):
            dims[block.tensor][block.axis] = int(count)
        return self._fixed + sum(math.prod(lengths) for lengths in dims.values())


class MacCount:
    """Counts the multiply-accumulates that are left when components are removed.

    Each product is as many as the elements that it gives, times what one is summed over; those
    axes of both that carry components shrink, and the rest stays.

    Raises
    ------
    UsageError
        If they can't be counted, for a length behind the batch is open, or a shape unknown.
    """

    def __init__(self, coupling: Coupling) -> None:
        view = coupling.view
        total = count_macs(view)
        if total is None:
            raise UsageError(
                f"the MACs of this model can't be counted, for {_obstacle(view)} ask for a share "
                "of the parameters"
            )
        self.total = total
        self._view = view
        self._products = []
        blocks = {(b.tensor, b.axis): np.arange(b.start, b.stop) for b in coupling.blocks}
        lists: list[NDArray[np.int64]] = []
        for node in view.nodes:
            macs = [_macs(view, node, run) for run in range(len(BATCHES))]
            if any(macs):
                axes = [
                    ids
                    for name, axis in _factors(view, node)
                    if len(ids := _variables(coupling, blocks, name, axis))
                ]
                self._products.append((macs, range(len(lists), len(lists) + len(axes))))
                lists += axes
        self._kept = Kept(coupling, lists)

    def left(self, removed: NDArray[np.bool_]) -> int:
        """MACs left for one sample.

        Parameters
        ----------
        removed
            Shape (components,).
        """
        kept = self._kept.counts(removed).tolist()
        of = self._kept.lengths.tolist()
        totals = [0] * len(BATCHES)
        for macs, axes in self._products:
            share = math.prod(kept[i] for i in axes), math.prod(of[i] for i in axes)
            for run, count in enumerate(macs):
                totals[run] += (count or 0) * share[0] // share[1]
        return _for_one_sample(self._view, totals)


def count_macs(view: View) -> int | None:
    """Multiply-accumulates of convolutions and matrix products for one sample.

    An open batch may be merged with other axes further on, so products are counted at both numbers
    that it was given, and carried on to one. None if another length is open, or a shape unknown.
    """
    if _is_open(view):
        return None
    totals = []
    for run in range(len(BATCHES)):
        macs = [_macs(view, node, run) for node in view.nodes]
        if None in macs:
            return None
        totals.append(sum(count for count in macs if count is not None))
    return _for_one_sample(view, totals)


def _is_open(view: View) -> bool:
    """Whether a length of an input other than the batch is open, or there is no input."""
    shapes = [view.shapes.get(name, (None, None)) for name in view.inputs]
    return not shapes or any(None in shape[1:] for shape in shapes)


def _obstacle(view: View) -> str:
    """Why products can't be counted, up to what else could be done."""
    if _is_open(view):
        return "the size of its input is open: fix the size, or"
    hiding = next((node for node in view.nodes if view.hides_shapes(node)), None)
    if hiding is None:
        return "a shape in it is unknown:"
    domain = f" of {hiding.domain}" if hiding.domain else ""
    return f"nothing is known of the shape that {hiding.op} {hiding.label}{domain} makes:"


def uncounted(view: View) -> tuple[str, ...]:
    """Operators of the graph that multiply by weights, and that `count_macs` leaves out."""
    return tuple(sorted({node.op for node in view.nodes if node.op in UNCOUNTED}))


def _for_one_sample(view: View, totals: Sequence[int]) -> int:
    """MACs of one sample, from those at both numbers that an open batch was given."""
    shapes = [view.shapes.get(name, ()) for name in view.inputs]
    batch = max((shape[0] or 0 for shape in shapes if shape), default=1)
    if batch:
        return totals[0] // batch
    (first, second), (a, b) = totals, BATCHES
    return first - (second - first) // (b - a) * (a - 1)


def _factors(view: View, node: Node) -> Iterator[tuple[str, int]]:
    """The axes, of a node's result and of its weight, whose lengths `_macs` multiplies."""
    counted, weight = _counted(node), node.inputs[1]
    yield from ((counted, axis) for axis in range(view.rank(counted) or 0))
    rank = view.rank(weight) or 0
    yield from ((weight, axis) for axis in range(rank)[_summed(node, rank)])


def _variables(
    coupling: Coupling,
    blocks: Mapping[tuple[str, int], NDArray[np.int64]],
    name: str,
    axis: int,
) -> NDArray[np.int64]:
    """Variables of an axis of a computed tensor or of a constant; none where nothing can go."""
    axes = coupling.equations.axes.get(name)
    ids = blocks.get((name, axis)) if axes is None else axes[axis]
    return np.empty(0, dtype=np.int64) if ids is None else ids


def _counted(node: Node) -> str:
    """The tensor each of whose elements a filter is multiplied with, or that holds its results."""
    return node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]


def _summed(node: Node, rank: int) -> slice:
    """Which axes of a node's weight one element of the result is summed over.

    A filter; a row of the weight; a column, or all of a vector.
    """
    if rank == 1:
        return slice(None)
    kind, turned = _kind(node), node.attributes.get("transB", 0)
    if kind == "MatMul":
        return slice(-1, None) if turned else slice(-2, -1)
    return slice(-2, -1) if kind == "Gemm" and not turned else slice(1, None)


def _kind(node: Node) -> str:
    """The operator of `PRODUCTS` that a node is."""
    if node.domain == FUSED:
        return INFERRED_LIKE.get(node.op, "")
    return "" if node.domain else node.op


def _macs(view: View, node: Node, run: int) -> int | None:
    if _kind(node) not in PRODUCTS:
        return 0
    lengths = view.facts.lengths
    counted = _counted(node)
    if counted not in lengths or node.inputs[1] not in lengths:
        return None
    weight = lengths[node.inputs[1]][run]
    each = weight[_summed(node, len(weight))]
    macs = math.prod(lengths[counted][run]) * math.prod(each)
    return macs or None  # a length of 0 is one that is unknown
