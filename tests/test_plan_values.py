"""Plans that carry new values: what is cut and updated equals what is masked and updated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from test_topologies import RUNNABLE, check_valid, equality, random_removal
from topologies import TOPOLOGIES
from topologies.net import Net

from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.plan import Bias, Plan, Update, plan_removal
from discedit_onnx.editing.surgery import BIASED, apply
from discedit_onnx.editing.verify import reference
from discedit_onnx.errors import DataError
from discedit_onnx.graph.coupling import Coupling, analyse
from discedit_onnx.graph.view import View, weight_tensors
from discedit_onnx.model import load

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
"""Whose constants get new values; others may hold zeros or ones that a rule relies on."""


def new_values(coupling: Coupling, pruned: onnx.ModelProto, seed: int) -> Plan:
    """Random values for a random half of the learned constants, and biases where there are none."""
    generator = np.random.default_rng(seed)
    tensors = weight_tensors(pruned)
    learned = {
        name
        for node in pruned.graph.node
        if node.op_type in WEIGHTED
        for name in node.input[1:3]
        if name in tensors and tensors[name].dims and tensors[name].data_type in (1, 10, 11)
    }
    updates = []
    for name in sorted(learned):
        if generator.random() < 0.5:
            old = numpy_helper.to_array(tensors[name])
            # Outputs of the same size, however much is summed: where numbers overflow, as behind
            # two exponentials in a row, nothing can be proved.
            spread = 0.5 / np.sqrt(max(1, old[0].size))
            updates.append(Update(name, generator.normal(0, spread, old.shape).astype(old.dtype)))
    shapes = View(pruned).shapes
    biases = []
    for node in pruned.graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if node.op_type in BIASED and weight in tensors and not any(node.input[2:]):
            shape = shapes.get(node.output[0]) or ()
            width = shape[1 if "Conv" in node.op_type else -1] if len(shape) > 1 else None
            if width and generator.random() < 0.7:
                dtype = helper.tensor_dtype_to_np_dtype(tensors[weight].data_type)
                if dtype.kind == "f":
                    values = generator.normal(0, 0.5, width).astype(dtype)
                    biases.append(Bias(node.output[0], values))
    return Plan("source", updates=tuple(updates), biases=tuple(biases))


def planned(name: str, seed: int) -> tuple[Coupling, np.ndarray, Plan]:
    coupling = analyse(TOPOLOGIES[name].build())
    removed = random_removal(coupling, seed)
    cut = plan_removal(coupling, removed, "source")
    new = new_values(coupling, apply(coupling.view.proto, cut), seed)
    return coupling, removed, replace(cut, updates=new.updates, biases=new.biases)


def check(name: str, seed: int) -> Plan:
    coupling, removed, plan = planned(name, seed)
    edited = apply(coupling.view.proto, plan)
    check_valid(edited)
    assert edited.graph.output == coupling.view.proto.graph.output
    equality(reference(coupling, removed, plan), edited, coupling).require()
    return plan


@pytest.mark.parametrize("name", [topology.name for topology in RUNNABLE])
def test_cut_and_updated_equals_masked_and_updated(name):
    check(name, 0)


@settings(max_examples=40)
@given(st.sampled_from(RUNNABLE), st.integers(0, 2**32 - 1))
def test_any_choice_with_any_values(topology, seed):
    check(topology.name, seed)


def test_these_tests_update_something():
    plans = [planned(topology.name, 0)[2] for topology in RUNNABLE]
    assert sum(bool(plan.updates) for plan in plans) > len(plans) / 2
    assert sum(bool(plan.biases) for plan in plans) > 20


def test_values_of_a_wrong_entry_are_noticed():
    """The reference is no copy of the candidate: values that belong elsewhere give a difference."""
    coupling, removed, plan = planned("residual_identity", 3)
    assert plan.updates
    turned = [Update(u.tensor, np.ascontiguousarray(np.flip(u.values))) for u in plan.updates]
    edited = apply(coupling.view.proto, Plan("source", plan.cuts, (), plan.rewrites, tuple(turned)))
    found = equality(reference(coupling, removed, plan), edited, coupling)
    assert found.deviation > 0.01


@pytest.mark.parametrize("output", ["graph", "inner"])
@pytest.mark.parametrize("kind", ["initializer", "node", "input"])
def test_a_matrix_product_gets_an_addition_behind_it(kind, output):
    net = Net(13, ir_version=3 if kind == "input" else 8, constants=kind)
    product = net.op("MatMul", net.input("N", 4), net.weight(4, 3))
    last = product if output == "graph" else net.relu(product)
    proto = net.model(last)
    names = [f"{product}.bias", f"{product}.product"]
    edited = apply(proto, Plan("s", biases=(Bias(product, np.float32([1, 2, 3])),)))
    edited = apply(edited, Plan("s", updates=(Update(names[0], np.float32([3, 2, 1])),)))
    check_valid(edited)
    (feed,) = ({"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)},)
    from discedit_onnx.calibration.runner import open_session

    before, after = (open_session(m, "cpu").run([product], feed)[0] for m in exposed(
        product, proto, edited
    ))  # fmt: skip
    np.testing.assert_allclose(after, before + np.float32([3, 2, 1]), rtol=1e-6)
    assert edited.graph.output == proto.graph.output
    assert [i.name for i in edited.graph.input if i.name == names[0]] == (
        [names[0]] if kind == "input" else []
    )


def exposed(name: str, *models: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Copies whose one output is some tensor."""
    copies = []
    for model in models:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.append(helper.make_empty_tensor_value_info(name))
        copies.append(copy)
    return copies


def test_names_that_are_taken_are_not_taken_again():
    net = Net()
    product = net.op("MatMul", net.input("N", 4), net.weight(4, 3))
    proto = net.model(net.op("Add", product, net.weight(3)))
    proto.graph.initializer[1].name = proto.graph.node[1].input[1] = f"{product}.bias"
    proto.graph.node[1].name = f"{product}.product"
    edited = apply(proto, Plan("s", biases=(Bias(product, np.ones(3, np.float32)),)))
    check_valid(edited)
    assert edited.graph.initializer[2].name == f"{product}.bias_"
    assert edited.graph.node[0].output[0] == f"{product}.product_"


@pytest.mark.parametrize(
    ("updates", "biases"),
    [
        ([("nothing", np.zeros(1, np.float32))], []),
        ([("w2", np.zeros((8, 3, 3), np.float32))], []),
        ([("w2", np.zeros((8, 3, 3, 3), np.float64))], []),
        ([], [("nothing", np.zeros(1, np.float32))]),
        ([], [("relu", np.zeros(8, np.float32))]),
        ([], [("conv", np.zeros(8, np.float32))]),
        ([], [("gap", np.zeros(8, np.float32))]),
        ([], [("bare", np.zeros(8, np.float64))]),
        ([], [("bare", np.zeros((1, 8), np.float32))]),
    ],
)
def test_values_that_do_not_fit_are_refused(updates, biases):
    net = Net()
    conv = net.conv(net.input(), 3, 8)
    bare = net.conv(conv, 8, 8, bias=False)
    relu = net.relu(bare)
    proto = net.head(relu, 8)
    names = {"w2": proto.graph.initializer[0].name, "relu": relu, "conv": conv, "bare": bare}
    plan = Plan(
        "s",
        updates=tuple(Update(names.get(name, name), values) for name, values in updates),
        biases=tuple(Bias(names.get(name, name), values) for name, values in biases),
    )
    with pytest.raises(DataError):
        apply(proto, plan)


def test_carry_out_takes_new_values(tmp_path: Path):
    coupling, removed, plan = planned("residual_identity", 1)
    path = tmp_path / "model.onnx"
    onnx.save(coupling.view.proto, path)
    model = load(path)
    coupling = analyse(model.proto)
    edit = carry_out(
        model, coupling, removed, remove=True, updates=plan.updates, biases=plan.biases,
        device="cpu",
    )  # fmt: skip
    assert edit.plan.updates == plan.updates
    assert edit.equality.deviation <= 1e-4
    before, after = edit.parameters
    from discedit_onnx.graph.cost import count_parameters

    assert (before, after) == (count_parameters(model.proto), count_parameters(edit.proto))
    with pytest.raises(DataError, match=r"fit|is float"):
        carry_out(model, coupling, removed & False, remove=True, updates=plan.updates, device="cpu")
