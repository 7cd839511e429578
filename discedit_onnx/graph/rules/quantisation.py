"""Quantisation: numbers stored as integers, with a scale and a zero point.

With the scale given, each number is rounded by itself: an index can go without the others knowing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    from ..scope import Scope

SCALE, ZERO_POINT = 1, 2


@rule("DequantizeLinear", "QuantizeLinear", opset=(10, None))
@rule("DequantizeLinear", "QuantizeLinear", domain="com.microsoft", opset=(1, None))
def quantise(scope: Scope) -> None:
    """One scale for all, or one for each index of an axis, which then follows it."""
    if scope.attribute("block_size", 0):
        raise Unsupported("has a scale for each block of an axis")
    axes = scope.axes(0)
    if scope.shape(SCALE) not in ((), (1,)):
        axis = scope.attribute("axis", 1) % len(axes)
        for position in (SCALE, ZERO_POINT):
            if scope.has(position):
                axes[axis] = scope.equate(axes[axis], scope.ids(position, 0))
    scope.emit(axes)
