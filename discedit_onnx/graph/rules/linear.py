"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scope import Unsupported
from .elementwise import broadcast_axis
from .registry import rule

if TYPE_CHECKING:
    from ..scope import Scope


@rule("Gemm")
def gemm(scope: Scope) -> None:
    """Y = A' B' + C, with A and B of rank 2, either transposed."""
    a_inner = 0 if scope.attribute("transA", 0) else 1
    b_inner = 1 if scope.attribute("transB", 0) else 0
    contract_pair(scope, a_inner, b_inner)
    rows, columns = scope.ids(0, 1 - a_inner), scope.ids(1, 1 - b_inner)
    if scope.has(2):
        bias = scope.shape(2)
        if bias and bias[-1] != 1:
            columns = scope.equate(columns, scope.ids(2, len(bias) - 1))
        if len(bias) == 2 and bias[0] != 1:
            rows = scope.equate(rows, scope.ids(2, 0))
    scope.emit([rows, columns])


@rule("MatMul")
def matmul(scope: Scope) -> None:
    """Batched product over the last axis of A and the last but one of B."""
    a, b = scope.shape(0), scope.shape(1)
    if len(a) < 2 or len(b) < 2:
        raise Unsupported("multiplies a vector")
    contract_pair(scope, len(a) - 1, len(b) - 2)
    leading = max(len(a), len(b)) - 2
    batch = [broadcast_axis(scope, [0, 1], axis - leading - 2) for axis in range(leading)]
    scope.emit([*batch, scope.ids(0, len(a) - 2), scope.ids(1, len(b) - 1)])


def contract_pair(scope: Scope, a_axis: int, b_axis: int) -> None:
    """Both factors are cut alike along the axis that is summed over."""
    a, b = scope.ids(0, a_axis), scope.ids(1, b_axis)
    scope.equate(a, b, "is multiplied with what can't be cut")
    if scope.varies(0):
        scope.contract(0, a_axis, scope.factor(1, b))
    else:
        scope.contract(1, b_axis, scope.factor(0, a))
