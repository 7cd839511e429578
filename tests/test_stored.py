"""Weights that are not initializers of the type that a layer reads: moved, cast, or quantised."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from test_refit import batches, loaded, outputs, removed_with_refit
from topologies.net import CLASSES, Net

from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.forgetting.inputs import with_outputs
from discedit_onnx.editing.refit import curves
from discedit_onnx.editing.refit.elimination import Elimination
from discedit_onnx.editing.refit.layers import exact_layers, find_layers
from discedit_onnx.editing.verify import random_feeds
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.graph.view import View, weight_tensors
from discedit_onnx.moved import write_moved

KINDS = ("plain", "identity", "transpose", "cast", "int8", "uint8 per axis", "int16")
ROUNDED = KINDS[3:]


class Kept(Net):
    """Matrices are kept in some other way than they are read."""

    def __init__(self, kind: str) -> None:
        super().__init__(21, ir_version=10)
        self.kind = kind

    def weight(self, *shape: int, stem: str = "w") -> str:
        name = super().weight(*shape, stem=stem)
        if len(shape) < 2 or self.kind == "plain":
            return name
        values = numpy_helper.to_array(self.initializers.pop())
        if self.kind == "identity":
            return self.op("Identity", self.constant(values, stem))
        if self.kind == "transpose":
            axes = list(range(len(shape)))[::-1]
            return self.op("Transpose", self.constant(values.transpose(), stem), perm=axes)
        if self.kind == "cast":
            return self.op("Cast", self.constant(values.astype(np.float16), stem), to=1)
        return self._quantised(values, np.dtype(self.kind.split()[0]), "axis" in self.kind)

    def _quantised(self, values, dtype, per_axis):
        limits = np.iinfo(dtype)
        axes = tuple(range(1, values.ndim)) if per_axis else None
        scale = (2 * np.abs(values).max(axis=axes) / limits.max).astype(np.float32)
        zero = np.full(scale.shape, limits.max // 2 if limits.min == 0 else 0, dtype)
        wide = (-1, *[1] * (values.ndim - 1)) if per_axis else ()
        stored = np.rint(values / scale.reshape(wide) + zero.reshape(wide))
        codes = np.clip(stored, limits.min, limits.max).astype(dtype)
        names = [self.constant(each) for each in (codes, scale, zero)]
        return self.op("DequantizeLinear", *names, axis=0)


def network(kind: str) -> onnx.ModelProto:
    """Two convolutions and a head, all with a bias but the second."""
    net = Kept(kind)
    x = net.relu(net.op("Conv", net.input(), net.weight(12, 3, 3, 3), net.weight(12)))
    x = net.relu(net.op("Conv", x, net.weight(12, 12, 3, 3)))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model(net.gemm(x, 12, CLASSES))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_read_and_write_what_is_stored(kind, tmp_path):
    view = View(loaded(network(kind), tmp_path).proto)
    layers = find_layers(view)
    assert len(layers) == 3
    assert len(exact_layers(view)) == (0 if kind in ROUNDED else 3)
    (feeds,) = random_feeds(view, 0, 2)
    for layer in layers:
        name = view.producer[layer.node].inputs[1]
        (read,) = values_of(view.proto, name, feeds)
        seen = layer.weight_in(view.initializers)
        np.testing.assert_allclose(seen, read, rtol=1e-6, atol=1e-7)
        assert seen.dtype == read.dtype
        stored = layer.stored.written(seen, view.initializers)
        np.testing.assert_array_equal(
            stored, numpy_helper.to_array(view.initializers[layer.weight])
        )


def values_of(proto, name, feeds):
    """What ONNX Runtime makes of a constant."""
    copy = with_outputs(proto, [name])
    copy.graph.node.add(op_type="Identity", input=[name], output=["seen"])
    copy.graph.output[-1].name = "seen"
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["seen"], feeds)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_refitted(kind, tmp_path):
    """Nearly as well as where any numbers can be stored."""
    model = loaded(network(kind), tmp_path)
    coupling = analyse(model.proto)
    removed = np.zeros(coupling.size, dtype=bool)
    for group in coupling.groups:
        removed[group.components[::3]] = True
    edit, new = removed_with_refit(model, removed, batches(model))
    assert {update.tensor for update in new.updates} <= set(weight_tensors(model.proto))
    plain = carry_out(model, coupling, removed, remove=True, device="cpu")
    test = batches(model, 110)[100:]
    dense = outputs(model.proto, test)
    refitted, cut = (((outputs(e.proto, test) - dense) ** 2).mean() for e in (edit, plain))
    assert refitted < 0.4 * cut


def test_numbers_that_a_code_does_not_have():
    """Beyond its ends, and of a channel whose scale is 0: the nearest, which are all the same."""
    net = Net(21, ir_version=10)
    codes = net.constant(np.zeros((2, 7), np.int8))
    weight = net.op("DequantizeLinear", codes, net.constant(np.array([0.5, 0], np.float32)), axis=0)
    view = View(net.model(net.op("Gemm", net.input("N", 7), weight, transB=1)))
    (layer,) = find_layers(view)
    wanted = np.tile(np.array([-1e9, -0.6, -0.1, 0, 0.3, 63, 1e9]), (2, 1))
    found = layer.stored.written(wanted, view.initializers)
    np.testing.assert_array_equal(found, [[-128, -1, 0, 0, 1, 126, 127], [0] * 7])


def test_a_narrow_type_between_two_wide_ones_rounds():
    net = Net()
    weight = net.op("Cast", net.op("Cast", net.weight(7, CLASSES), to=TensorProto.FLOAT16), to=1)
    (layer,) = find_layers(View(net.model(net.op("MatMul", net.input("N", 7), weight))))
    assert not layer.exact


@pytest.mark.parametrize("kind", ["identity", "transpose"])
def test_constants_that_are_only_moved_are_written_out(kind):
    proto = network(kind)
    before = proto.SerializeToString()
    moved = write_moved(proto)
    assert proto.SerializeToString() == before
    assert not {"Identity", "Transpose"} & {node.op_type for node in moved.graph.node}
    onnx.checker.check_model(moved, full_check=True)
    (feeds,) = random_feeds(View(proto), 0, 4)
    np.testing.assert_array_equal(outputs(moved, [feeds]), outputs(proto, [feeds]))
    assert write_moved(moved) is moved


def test_one_move_behind_another():
    net = Net()
    weight = net.op("Transpose", net.op("Transpose", net.weight(CLASSES, 7)), perm=[0, 1])
    proto = net.model(net.op("MatMul", net.input("N", 7), weight))
    (node,) = write_moved(proto).graph.node
    assert node.op_type == "MatMul"


def test_what_others_see_is_not_moved():
    """A constant that two nodes read, that a caller may change, or that is an output."""
    shared = Net()
    weight = shared.weight(7, 7)
    x = shared.op("MatMul", shared.input("N", 7), weight)
    shared = shared.model(shared.op("MatMul", x, shared.op("Transpose", weight)))
    given = Net(constants="input")
    x = given.input("N", 7)
    given = given.model(given.op("MatMul", x, given.op("Transpose", given.weight(CLASSES, 7))))
    shown = Net()
    weight = shown.op("Transpose", shown.weight(CLASSES, 7))
    shown = shown.model(shown.op("MatMul", shown.input("N", 7), weight), weight)
    for proto in (shared, given, shown):
        assert write_moved(proto) is proto


def test_weights_that_are_computed_make_no_layer():
    net = Net(21, ir_version=10)
    x = net.relu(net.op("MatMul", net.input("N", 7), net.op("Exp", net.weight(7, 9))))
    blocks = [net.constant(np.zeros((9, CLASSES), np.int8)), net.positive(3, CLASSES)]
    x = net.op("MatMul", x, net.op("DequantizeLinear", *blocks, axis=0, block_size=3))
    assert find_layers(View(net.model(x))) == ()


def test_groups_that_no_layer_reads_are_measured_all_the_way(monkeypatch):
    """An error that is only known with all but one removed says nothing of the first ones."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 16))
    proto = net.model(net.op("MatMul", x, net.op("Exp", net.weight(16, CLASSES))))
    coupling = analyse(proto)
    (group,) = coupling.groups
    seen: list[int] = []

    class Outputs:
        before = 0.0

        def error(self, plan):
            seen.append(len(plan.cuts[0].indices))
            return float(len(seen))

    done = Elimination(np.arange(15), np.arange(16.0), {})
    curve = curves._measured(coupling, group, [], {}, done, [2, 4, 8, 16], Outputs())
    assert seen == [2, 4, 8, 15]
    np.testing.assert_allclose(curve[[0, 2, 4, 8, 15]], [0, 1, 2, 3, 4])


def test_layers_that_a_refit_does_not_reach_are_named(run, tmp_path):
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 16))
    weight = net.op("Exp", net.weight(16, CLASSES))
    onnx.save(net.model(net.op("MatMul", x, weight)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 7)).astype("f"))
    asked = ("--sparsity", "0.2", "--criterion", "l1", "--data", tmp_path / "x.npz")
    for refit, warned in (("patch", True), ("off", False)):
        output = tmp_path / f"{refit}.onnx"
        result = run("prune", tmp_path / "m.onnx", *asked, "--refit", refit, "-o", output)
        assert result.exit_code == 0, result.stderr
        assert ("1 of 2 layers can't be refitted" in result.stderr) == warned
