"""Local functions, as PyTorch's exporter emits them, written out as `load` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import parser

from discedit_onnx.functions import inline_functions

from .net import CLASSES, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

HEAD = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'
FUNCTIONS = {
    "plain": ["Act (a) => (b) { s = Sigmoid(a) b = Mul(a, s) }"],
    "nested": [
        "Act (a) => (b) { s = local.Inner(a) b = local.Inner(s) }",
        "Inner (a) => (b) { s = Tanh(a) b = Add(a, s) }",
    ],
    "attribute": [
        "Act <slope: float = 0.3> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }"
    ],
    "constants": [
        "Act (a) => (b) { w = Constant <value = float[1] {0.7}> () t = Add(a, w) b = Relu(t) }"
    ],
    "shape": [
        "Act (a) => (b) { s = Shape(a) t = Relu(a) f = Flatten(t) b = Reshape(f, s) }",
    ],
    "through": ["Act (a) => (a, b) { b = Relu(a) }"],
    "versions": [  # as JAX's exporter writes them: the domain is imported by another version here
        "Act (a) => (b) { s = local.Inner(a) b = Add(a, s) }",
        "Inner (a) => (b) { b = Softplus(a) }",
    ],
    "fused": ["Act (a) => (b) { b = com.microsoft.Gelu(a) }"],
    "weights": [
        "Act (a) => (b) { t = Relu(a) b = local.Dense(t) }",
        "Dense (a) => (b) { m = Constant <value = float[8, 8] {WEIGHTS}> () "
        "t = Transpose <perm = [0, 2, 3, 1]> (a) u = MatMul(t, m) "
        "b = Transpose <perm = [0, 3, 1, 2]> (u) }",
    ],
}


def with_functions(kind: str) -> onnx.ModelProto:
    """Three convolutions with calls in between."""
    net = Net(ir_version=10)
    x = net.stem(8)
    for i in range(2):
        attributes = {"slope": 0.7} if kind == "attribute" and i else {}
        called = net.ops("Act", x, outputs=1 + (kind == "through"), domain="local", **attributes)
        x = net.conv(called[-1], 8, 8)
    model = net.head(x, 8)
    values = ",".join(str(0.1 * ((7 * i) % 11 - 5)) for i in range(64))
    for text in FUNCTIONS[kind]:
        head = HEAD.replace('"local" : 1', '"local" : 17') if kind == "versions" else HEAD
        function = parser.parse_function(f"{head}\n{text.replace('WEIGHTS', values)}")
        if kind == "fused":
            function.opset_import.add(domain="com.microsoft", version=1)
        model.functions.append(function)
    return model


def with_overloads() -> onnx.ModelProto:
    """Two functions of one name."""
    net = Net(ir_version=10)
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    for _ in range(2):
        x = net.gemm(net.op("Act", x, domain="local"), 10, 10)
    model = net.model(net.gemm(x, 10, CLASSES))
    calls = [node for node in model.graph.node if node.op_type == "Act"]
    for call, overload, body in zip(calls, ("", "other"), ("Tanh(a)", "Softplus(a)"), strict=True):
        function = parser.parse_function(f"{HEAD}\nAct (a) => (b) {{ b = {body} }}")
        call.overload = function.overload = overload
        model.functions.append(function)
    return model


@topology(0.95, kind=tuple(FUNCTIONS))
def function(kind: str) -> onnx.ModelProto:
    """A function of the model's own in the way."""
    return inline_functions(with_functions(kind))


@topology(0.9)
def function_overloads() -> onnx.ModelProto:
    """Two of one name."""
    return inline_functions(with_overloads())
