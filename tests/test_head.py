"""The head is found through what keeps the order of the logits, and through nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from topologies.net import CLASSES, SIZE, Net

import discedit_onnx as dx
from discedit_onnx.editing.forgetting.head import find_head, scores_of
from discedit_onnx.editing.forgetting.strength import Judge
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.errors import ModelError
from discedit_onnx.evidence.observing import Subject, observe
from discedit_onnx.graph.view import View


def ending(op: str, *constants: float | list[float], first: bool = True) -> Net:
    """Logits, and one operator behind them."""
    net = Net()
    logits = net.gemm(net.input("N", 7), 7, CLASSES)
    others = [net.constant(np.array(value, np.float32)) for value in constants]
    return net.model(net.op(op, *([logits, *others] if first else [*others, logits])))


IN_ORDER = {
    "a temperature": ending("Div", 1.7),
    "a scale": ending("Mul", [4.0], first=False),
    "a shift": ending("Add", -3.0),
    "less a number": ending("Sub", 3.0),
    "tanh": ending("Tanh"),
}
OTHERWISE = {
    "a negative scale": ending("Mul", -1.0),
    "a scale for each class": ending("Mul", [1.0, 2.0, 3.0, 4.0, 5.0]),
    "one over them": ending("Div", 1.0, first=False),
    "a number less them": ending("Sub", 1.0, first=False),
    "absolute values": ending("Abs"),
    "none below zero": ending("Relu"),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_keeps_the_order_is_passed(name, tmp_path):
    proto = IN_ORDER[name]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = dx.load(tmp_path / "m.onnx")
    edit = dx.forget(model, None, [1], Way("output"), device="cpu")
    x = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    before, after = (scores(each, x) for each in (proto, edit.proto))
    assert (after.argmax(axis=1) != 1).all()
    retained = [0, 2, 3, 4]
    np.testing.assert_array_equal(
        after[:, retained].argmax(axis=1), before[:, retained].argmax(axis=1)
    )


def scores(proto, x):
    import onnxruntime

    data, provider = proto.SerializeToString(), "CPUExecutionProvider"
    return onnxruntime.InferenceSession(data, providers=[provider]).run(None, {"x": x})[0]


def pooled(bend: str, **attributes: int) -> onnx.ModelProto:
    """Logits at each place of a map, bent, and their means."""
    net = Net()
    logits = net.op("Conv", net.input(), net.weight(CLASSES, 3, 1, 1), net.weight(CLASSES))
    bent = net.op(bend, logits, **attributes)
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", bent)))


@pytest.mark.parametrize("level", ["output", "head"])
def test_a_class_can_not_win_behind_a_convex_function_and_a_pool(level, tmp_path):
    """As SqueezeNet ends."""
    onnx.save(pooled("Relu"), tmp_path / "m.onnx")
    edit = dx.forget(dx.load(tmp_path / "m.onnx"), None, [1], Way(level), device="cpu")
    x = np.random.default_rng(0).normal(size=(500, 3, SIZE, SIZE)).astype(np.float32)
    assert (scores(edit.proto, x).argmax(axis=1) != 1).all()


@pytest.mark.parametrize("bend", ["Sigmoid", "Tanh"])
def test_what_bends_both_ways_does_not_lie_in_front_of_a_pool(bend):
    proto = pooled(bend)
    with pytest.raises(ModelError, match=f"made by {bend}"):
        find_head(View(proto), proto.graph.output[0].name, CLASSES)


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_does_not_is_the_end(name):
    proto = OTHERWISE[name]
    with pytest.raises(ModelError, match="export the model without what follows"):
        find_head(View(proto), proto.graph.output[0].name, CLASSES)


def test_what_is_wrong_with_the_weights_is_said():
    net = Net(21, ir_version=10)
    x = net.input("N", 7)
    codes = net.constant(np.arange(7 * CLASSES, dtype=np.int8).reshape(CLASSES, 7))
    weight = net.op("DequantizeLinear", codes, net.number(0.1))
    about = [net.number(0.02), net.constant(np.array(100, np.uint8))]
    logits = net.op("QuantizeLinear", net.op("Gemm", x, weight, transB=1), *about)
    quantised = net.model(net.op("DequantizeLinear", logits, *about))
    net = Net()
    computed = net.model(net.op("MatMul", net.input("N", 7), net.op("Exp", net.weight(7, CLASSES))))
    net = Net()
    scaled = net.model(net.op("Gemm", net.input("N", 7), net.weight(7, CLASSES), alpha=0.5))
    for proto, said in (
        (quantised, "quantise the result"),
        (computed, "simplify the model"),
        (scaled, "fold its alpha"),
    ):
        with pytest.raises(ModelError, match=said):
            find_head(View(proto), proto.graph.output[0].name, CLASSES)


def test_a_row_of_biases_with_two_axes():
    """As scikit-learn's exporter writes them."""
    net = Net()
    product = net.op("MatMul", net.input("N", 7), net.weight(7, CLASSES))
    proto = net.model(net.op("Add", product, net.weight(1, CLASSES)))
    assert find_head(View(proto), proto.graph.output[0].name, CLASSES).bias is not None


def tokens(count: int = 5) -> onnx.ModelProto:
    """Logits of each token, and their means."""
    net = Net()
    logits = net.op("MatMul", net.input("N", count, 6), net.weight(6, CLASSES))
    return net.model(net.op("ReduceMean", logits, axes=[1], keepdims=0))


@pytest.mark.parametrize(
    ("proto", "shape"),
    [
        (pooled("Relu"), (3, SIZE, SIZE)),
        (pooled("Softmax", axis=1), (3, SIZE, SIZE)),
        (pooled("Identity"), (3, SIZE, SIZE)),
        (tokens(), (5, 6)),
        (tokens(3), (3, 6)),
        (ending("Tanh"), (7,)),
    ],
)
def test_accuracy_is_that_of_the_model(proto, shape, tmp_path):
    """Labels are the model's own answers, so all of them are right."""
    onnx.save(proto, tmp_path / "m.onnx")
    model = dx.load(tmp_path / "m.onnx")
    draws = np.random.default_rng(0)
    image = draws.normal(size=(300, shape[0], *[1] * (len(shape) - 1)))  # what places share
    x = (draws.normal(size=(300, *shape)) + 3 * image).astype(np.float32)
    answers = scores(proto, x).argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=x, labels=answers)
    data = dx.open_data(model, tmp_path / "data.npz")
    counts = np.bincount(answers)
    gone = int(counts.argmax())
    assert counts[gone] < len(x)
    view = View(model.proto)
    head = find_head(view, data.classifier.output, CLASSES)
    judge = Judge(scores_of(view, data.classifier.output, head), data, [gone], 0.01, "cpu", 64)
    trial, _ = judge.measure(proto, 0.0)
    assert (trial.forget, trial.retain) == (1, 1)
    seen = observe(Subject.of(model, CLASSES, [gone]), data, device="cpu")
    np.testing.assert_array_equal(seen.logits.argmax(axis=1), answers)


@pytest.mark.parametrize("axis", [0, 2, 3, -1])
def test_a_softmax_over_places_is_no_head(axis):
    proto = pooled("LogSoftmax", axis=axis)
    with pytest.raises(ModelError, match="runs over places, not over classes"):
        find_head(View(proto), proto.graph.output[0].name, CLASSES)


@pytest.mark.parametrize("level", ["output", "head"])
@pytest.mark.parametrize("kept", [0, 2, CLASSES - 1])
def test_no_class_draws_with_the_only_one_that_stays(level, kept, tmp_path):
    proto = ending("Identity")
    onnx.save(proto, tmp_path / "m.onnx")
    gone = [k for k in range(CLASSES) if k != kept]
    edit = dx.forget(dx.load(tmp_path / "m.onnx"), None, gone, Way(level), device="cpu")
    x = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    assert (scores(edit.proto, x).argmax(axis=1) == kept).all()


def test_a_head_of_equal_rows(tmp_path):
    net = Net()
    weight = net.constant(np.ones((7, CLASSES), np.float32))
    onnx.save(net.model(net.op("MatMul", net.input("N", 7), weight)), tmp_path / "m.onnx")
    edit = dx.forget(dx.load(tmp_path / "m.onnx"), None, [1], Way("head"), device="cpu")
    assert edit.equality.deviation < 1e-4
