"""What a model costs, and where the ranking is cut off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from topologies import TOPOLOGIES
from topologies.net import Net

from discedit_onnx.editing.budget import choose, removable
from discedit_onnx.editing.plan import plan_removal
from discedit_onnx.editing.prune import prune
from discedit_onnx.editing.surgery import apply
from discedit_onnx.errors import UsageError
from discedit_onnx.graph.cost import ParameterCount, count_macs, count_parameters
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.graph.view import View
from discedit_onnx.model import load

if TYPE_CHECKING:
    from pathlib import Path

NAMES = (
    "conv_chain[bias=True,opset=11]",
    "residual_identity",
    "dense_block",
    "conv_grouped[groups=2]",
    "tied_convolutions[pair=both]",
    "split_and_swap[form=input]",
    "weights_kept_elsewhere[constants=node]",
)
MODELS = {name: TOPOLOGIES[name].build() for name in NAMES}
COUPLINGS = {name: analyse(model) for name, model in MODELS.items()}
sampled = pytest.mark.parametrize("name", NAMES)


def saliency(name: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(COUPLINGS[name].size)


def left(name: str, removed: np.ndarray) -> int:
    return count_parameters(apply(MODELS[name], plan_removal(COUPLINGS[name], removed, "")))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_reached_is_at_least_asked_and_no_component_too_many(name, seed, sparsity):
    coupling, ranking = COUPLINGS[name], saliency(name, seed)
    total = count_parameters(MODELS[name])
    order = removable(coupling, ranking)
    try:
        removed = choose(coupling, ranking, sparsity)
    except UsageError:
        most = np.isin(np.arange(coupling.size), order)
        assert 1 - left(name, most) / total < sparsity
        return
    number = int(removed.sum())
    assert set(np.flatnonzero(removed)) == set(order[:number])
    assert 1 - left(name, removed) / total >= sparsity
    if number:
        removed[order[number - 1]] = False
        assert 1 - left(name, removed) / total < sparsity


@sampled
def test_each_group_keeps_its_most_salient(name):
    coupling, ranking = COUPLINGS[name], saliency(name, 0)
    kept = np.ones(coupling.size, dtype=bool)
    kept[removable(coupling, ranking)] = False
    assert kept.sum() == len(coupling.groups)
    for group in coupling.groups:
        assert kept[group.components[np.argmax(ranking[group.components])]]


@sampled
def test_equal_saliency_still_leaves_one_of_each_group(name):
    coupling = COUPLINGS[name]
    order = removable(coupling, np.zeros(coupling.size))
    assert len(order) == len(set(order)) == coupling.size - len(coupling.groups)


@sampled
def test_the_limit_in_the_message_can_be_reached(name):
    coupling, ranking = COUPLINGS[name], saliency(name, 1)
    with pytest.raises(UsageError, match=r"sparsity 0\.999 .* at most") as caught:
        choose(coupling, ranking, 0.999)
    limit = float(re.search(r"at most ([\d.]+)", str(caught.value))[1])
    removed = choose(coupling, ranking, limit)
    with pytest.raises(UsageError):
        choose(coupling, ranking, limit + 1e-4)
    assert removed.sum() <= coupling.size - len(coupling.groups)


@sampled
def test_nothing_is_removed_at_zero(name):
    assert not choose(COUPLINGS[name], saliency(name, 2), 0.0).any()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 7.0, float("nan")])
def test_out_of_range(sparsity):
    with pytest.raises(UsageError, match=r"not in \[0, 1\)"):
        choose(COUPLINGS[NAMES[0]], saliency(NAMES[0], 0), sparsity)


@pytest.mark.parametrize("name", ["no_parameters", "nothing_removable"])
def test_a_model_of_which_nothing_can_go(name):
    coupling = analyse(TOPOLOGIES[name].build())
    assert not choose(coupling, np.zeros(0), 0.0).size
    with pytest.raises(UsageError, match=r"at most 0\.0000"):
        choose(coupling, np.zeros(0), 0.1)


def test_prune_reaches_what_was_asked(tmp_path: Path):
    import onnx

    path = tmp_path / "model.onnx"
    onnx.save(MODELS["residual_identity"], path)
    edit = prune(load(path), sparsity=0.3, criterion="l1", device="cpu")
    assert edit.sparsity >= 0.3
    assert edit.parameters == (
        count_parameters(MODELS["residual_identity"]),
        count_parameters(edit.proto),
    )
    for (_, before, after), group in zip(
        edit.groups, COUPLINGS["residual_identity"].groups, strict=True
    ):
        assert before == len(group.components)
        assert after == before - edit.components[group.components].sum()


# --- counts by hand


def test_parameters_by_hand():
    # Two convolutions with bias and a dense layer; the shared shape is not a parameter.
    assert count_parameters(MODELS["weights_kept_elsewhere[constants=node]"]) == (
        (8 * 3 * 9 + 8) + 2 * (8 * 8 * 9 + 8) + (5 * 8 + 5)
    )
    # One weight for two layers counts once.
    assert count_parameters(MODELS["tied_convolutions[pair=both]"]) == (
        (8 * 3 * 9 + 8) + (8 * 8 * 9 + 8) + (5 * 8 + 5)
    )


def test_one_of_everything_is_left():
    for name, expected in (
        ("conv_chain[bias=True,opset=11]", (27 + 1) + (9 + 1) + (5 + 5)),
        ("tied_convolutions[pair=both]", (27 + 1) + (9 + 1) + (5 + 5)),
        ("conv_grouped[groups=2]", (2 * 27 + 2) + (2 * 9 + 2) + (2 * 9 + 1) + (5 + 5)),
    ):
        coupling = COUPLINGS[name]
        removed = np.ones(coupling.size, dtype=bool)
        removed[[group.components[0] for group in coupling.groups]] = False
        assert ParameterCount(coupling).left(removed) == expected == left(name, removed)


def macs(net: Net, *outputs: str) -> int | None:
    return count_macs(View(net.model(*outputs)))


def test_macs_of_convolutions():
    net = Net()
    x = net.conv(net.input("N", 3, 6, 6), 3, 8)
    x = net.conv(x, 8, 8, group=8)
    x = net.op("ConvTranspose", x, net.weight(8, 4, 2, 2), strides=[2, 2])
    assert macs(net, x) == 36 * 8 * 27 + 36 * 8 * 9 + 36 * 8 * 4 * 4


@pytest.mark.parametrize("trans_b", [0, 1])
def test_macs_of_gemm(trans_b):
    net = Net()
    weight = net.weight(12, 7) if trans_b else net.weight(7, 12)
    assert macs(net, net.op("Gemm", net.input("N", 7), weight, transB=trans_b)) == 7 * 12


def test_macs_of_matmul():
    net = Net()
    x = net.input("N", 4, 7)
    y = net.op("MatMul", x, net.weight(7, 9))
    z = net.op("MatMul", net.weight(5, 4), y)
    scores = net.op("MatMul", z, net.op("Transpose", z, perm=[0, 2, 1]))
    line = net.op("MatMul", scores, net.weight(5))
    assert macs(net, line) == 4 * 7 * 9 + 5 * 4 * 9 + 5 * 9 * 5 + 5 * 5


def test_macs_of_a_fixed_batch_are_those_of_one_sample():
    net = Net()
    assert macs(net, net.conv(net.input(4, 3, 6, 6), 3, 8)) == 36 * 8 * 27


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_macs_of_a_batch_that_is_merged_with_tokens(batch):
    net = Net()
    x = net.op("MatMul", net.input(batch, 4, 7), net.weight(7, 9))
    rows = net.op("Reshape", x, net.ints(-1, 9))
    assert macs(net, net.op("Gemm", rows, net.weight(9, 3))) == 4 * 7 * 9 + 4 * 9 * 3


def test_macs_are_not_known_where_sizes_are_open():
    net = Net()
    assert macs(net, net.conv(net.input("N", 3, "H", "W"), 3, 8)) is None


def test_other_operators_cost_nothing():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    assert count_macs(View(helper.make_model(graph))) == 0
