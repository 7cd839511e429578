"""Operators that ONNX Runtime's optimiser makes of several, in the domain com.microsoft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fused import DOMAIN
from ..scope import Unsupported
from .convolution import conv
from .elementwise import broadcast, broadcast_axis, unary
from .linear import contract_pair, gemm
from .normalisation import layer_normalization, normalised
from .registry import rule

if TYPE_CHECKING:
    from ..scope import Scope

ALL = (1, None)

rule("FusedConv", domain=DOMAIN, opset=ALL)(conv)
rule("FusedGemm", domain=DOMAIN, opset=ALL)(gemm)
rule("Gelu", "QuickGelu", domain=DOMAIN, opset=ALL)(unary)
rule("BiasGelu", "FastGelu", domain=DOMAIN, opset=ALL)(broadcast)
rule("LayerNormalization", "SimplifiedLayerNormalization", domain=DOMAIN, opset=ALL)(
    layer_normalization
)
# In the default domain, too, where onnx has no schema: of the one at any opset, of the other yet.
rule("SimplifiedLayerNormalization")(layer_normalization)
rule("LayerNormalization", opset=(1, 16))(layer_normalization)


@rule("FusedMatMul", domain=DOMAIN, opset=ALL)
def fused_matmul(scope: Scope) -> None:
    """Batched product, with the last two axes of either factor in the other order."""
    if scope.attribute("transBatchA", 0) or scope.attribute("transBatchB", 0):
        raise Unsupported("moves the batch in between the axes")
    a, b = len(scope.shape(0)), len(scope.shape(1))
    if a < 2 or b < 2:
        raise Unsupported("multiplies a vector")
    a_inner = a - 2 if scope.attribute("transA", 0) else a - 1
    b_inner = b - 1 if scope.attribute("transB", 0) else b - 2
    contract_pair(scope, a_inner, b_inner)
    leading = max(a, b) - 2
    batch = [broadcast_axis(scope, [0, 1], axis - leading - 2) for axis in range(leading)]
    scope.emit([*batch, scope.ids(0, 2 * a - 3 - a_inner), scope.ids(1, 2 * b - 3 - b_inner)])


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN, opset=ALL)
def skip_layer_normalization(scope: Scope) -> None:
    """The sum of two tensors, normalised over the last axis; the sum is the last output."""
    rank = len(scope.shape(0))
    axes = [broadcast_axis(scope, [0, 1], axis - rank) for axis in range(rank)]
    for parameter in range(2, len(scope.node.inputs)):
        if scope.has(parameter):
            axes[-1] = scope.equate(axes[-1], scope.ids(parameter, 0))
    scope.emit([*axes[:-1], normalised(scope, rank - 1, axes[-1])])
    scope.emit(axes, 3)
