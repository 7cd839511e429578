"""Recurrent layers: a hidden unit goes with all its gates, its column and its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .net import CLASSES, Net
from .registry import topology

if TYPE_CHECKING:
    import onnx

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 6, 8


def _layer(
    net: Net,
    kind: str,
    x: str,
    width: int,
    hidden: int,
    *more: str,
    directions: int = 1,
    **said: Any,
) -> list[str]:
    """One layer; gives back Y, Y_h and for LSTM Y_c."""
    rows = GATES[kind] * hidden
    weights = [
        net.weight(directions, rows, width),
        net.weight(directions, rows, hidden),
        net.weight(directions, 2 * rows),
    ]
    if directions == 2:
        said["direction"] = "bidirectional"
    return net.ops(
        kind,
        x,
        *weights,
        *more,
        outputs=3 if kind == "LSTM" else 2,
        hidden_size=hidden,
        **said,
    )


@topology(0.9, kind=("RNN", "GRU", "LSTM"), directions=(1, 2))
def recurrent(kind: str, directions: int) -> onnx.ModelProto:
    """As PyTorch exports it: batch first outside, both directions side by side."""
    net = Net()
    x = net.op("Transpose", net.input("N", STEPS, WIDTH), perm=[1, 0, 2])
    for width in (WIDTH, directions * HIDDEN):
        y = _layer(net, kind, x, width, HIDDEN, directions=directions)[0]
        if directions == 1:
            x = net.op("Squeeze", y, net.ints(1))
        else:
            y = net.op("Transpose", y, perm=[0, 2, 1, 3])
            x = net.op("Reshape", y, net.ints(0, 0, -1))
    x = net.op("ReduceMean", x, axes=[0], keepdims=0)
    return net.model(net.gemm(x, directions * HIDDEN, CLASSES))


@topology(0.85, kind=("RNN", "GRU", "LSTM"))
def recurrent_with_a_learned_state(kind: str) -> onnx.ModelProto:
    """Weights as initial states, and only the last state is used."""
    net = Net()
    states = [net.weight(1, BATCH, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]
    lengths = net.constant(np.array([5, 2, 3], np.int32))
    x = net.input(STEPS, BATCH, WIDTH)
    x = _layer(net, kind, x, WIDTH, HIDDEN, lengths, *states)[1]
    return net.model(net.gemm(net.op("Squeeze", x, net.ints(0)), HIDDEN, CLASSES))


@topology(0.9, filled=("ConstantOfShape", "Expand"))
def recurrent_with_zeros_filled_in(filled: str) -> onnx.ModelProto:
    """The state's shape is computed from the batch, with the hidden size in it."""
    net = Net()
    x = net.input("N", STEPS, WIDTH)
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    shape = net.op("Concat", net.ints(2), batch, net.ints(HIDDEN), axis=0)
    if filled == "Expand":
        zeros = net.op("Expand", net.number(0), shape)
    else:
        zeros = net.op("ConstantOfShape", shape)
    state = net.op("Slice", zeros, net.ints(1), net.ints(2), net.ints(0))
    x = net.op("Transpose", x, perm=[1, 0, 2])
    _, hidden, cell = _layer(net, "LSTM", x, WIDTH, HIDDEN, "", state, state)
    x = net.op("Concat", hidden, cell, axis=2)
    return net.model(net.gemm(net.op("Squeeze", x, net.ints(0)), 2 * HIDDEN, CLASSES))


@topology(0.9, joined=("Concat", "Add", "Mul", "Where"))
def recurrent_with_zeros_put_together(joined: str) -> onnx.ModelProto:
    """Keras, through tf2onnx: the states of both directions are filled and strung together."""
    net = Net()
    x = net.input("N", STEPS, WIDTH)
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1), net.ints(0))
    zeros = net.op("Expand", net.number(0), net.op("Concat", batch, net.ints(HIDDEN), axis=0))
    zeros = net.op("Unsqueeze", zeros, net.ints(0))
    state = net.op("Concat", zeros, zeros, axis=0)
    if joined == "Where":
        some = net.op("Greater", net.weight(2, 1, HIDDEN), net.number(0))
        state = net.op("Where", some, state, net.number(0))
    elif joined != "Concat":
        state = net.op(joined, state, state)
    x = net.op("Transpose", x, perm=[1, 0, 2])
    hidden = _layer(net, "LSTM", x, WIDTH, HIDDEN, "", state, state, directions=2)[1]
    x = net.op("Reshape", net.op("Transpose", hidden, perm=[1, 0, 2]), net.ints(0, -1))
    return net.model(net.gemm(x, 2 * HIDDEN, CLASSES))


@topology(0.85, kind=("GRU", "LSTM"))
def encoder_and_decoder(kind: str) -> onnx.ModelProto:
    """The last state of one layer is the first of another: their units go together."""
    net = Net()
    x = net.input(STEPS, "N", WIDTH)
    states = _layer(net, kind, x, WIDTH, HIDDEN)[1:]
    y = _layer(net, kind, x, WIDTH, HIDDEN, "", *states)[0]
    x = net.op("ReduceMax", net.op("Squeeze", y, net.ints(1)), axes=[0], keepdims=0)
    return net.model(net.gemm(x, HIDDEN, CLASSES))


@topology(0.9)
def lstm_with_peepholes() -> onnx.ModelProto:
    net = Net()
    x = net.input(STEPS, "N", WIDTH)
    hidden = _layer(net, "LSTM", x, WIDTH, HIDDEN, "", "", "", net.weight(1, 3 * HIDDEN), clip=0.8)[
        1
    ]
    return net.model(net.gemm(net.op("Squeeze", hidden, net.ints(0)), HIDDEN, CLASSES))


@topology(0.9, before=(0, 1))
def gru_that_resets(before: int) -> onnx.ModelProto:
    """The reset gate works before or behind the recurrent product."""
    net = Net()
    x = net.input(STEPS, "N", WIDTH)
    hidden = _layer(net, "GRU", x, WIDTH, HIDDEN, linear_before_reset=before)[1]
    return net.model(net.gemm(net.op("Squeeze", hidden, net.ints(0)), HIDDEN, CLASSES))


@topology(0.9, runnable=False)
def recurrent_batch_first() -> onnx.ModelProto:
    """ONNX Runtime refuses this layout."""
    net = Net()
    x = net.input("N", STEPS, WIDTH)
    hidden = _layer(net, "GRU", x, WIDTH, HIDDEN, layout=1)[1]
    return net.model(net.gemm(net.op("Squeeze", hidden, net.ints(1)), HIDDEN, CLASSES))


@topology(0.9)
def recurrence_between_projections() -> onnx.ModelProto:
    """What feeds it is cut with its input weights; time is turned around behind it."""
    net = Net()
    x = net.relu(net.op("MatMul", net.input(STEPS, 2, WIDTH), net.weight(WIDTH, 10)))
    y = net.op("Squeeze", _layer(net, "LSTM", x, 10, HIDDEN)[0], net.ints(1))
    y = net.op("ReverseSequence", y, net.ints(4, 3), time_axis=0, batch_axis=1)
    x = net.op("MatMul", net.op("Tanh", y), net.weight(HIDDEN, CLASSES))
    return net.model(x)
