"""Small generated graphs: what is cut out equals what is masked, and enough can be cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topologies import TOPOLOGIES, Topology
from topologies.net import Net

import discedit_onnx as dx
from discedit_onnx.calibration.runner import open_session
from discedit_onnx.editing.plan import Plan, plan_removal, plan_zeroing
from discedit_onnx.editing.surgery import apply
from discedit_onnx.editing.verify import HALF_TOLERANCE, Equality, compare, mask, random_feeds
from discedit_onnx.errors import GateError
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.cost import ParameterCount, count_parameters
from discedit_onnx.graph.coupling import Coupling, analyse
from discedit_onnx.inspection import inspect
from discedit_onnx.model import Model

RUNNABLE = [topology for topology in TOPOLOGIES.values() if topology.runnable]
every = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
each_runnable = pytest.mark.parametrize("topology", RUNNABLE, ids=[t.name for t in RUNNABLE])


def random_removal(coupling: Coupling, seed: int) -> np.ndarray:
    """A random choice of components that leaves at least one of each group."""
    generator = np.random.default_rng(seed)
    removed = generator.random(coupling.size) < generator.choice([0.2, 0.5, 0.9])
    for group in coupling.groups:
        removed[generator.choice(group.components)] = False
    return removed


def all_removable(coupling: Coupling) -> np.ndarray:
    """All components but the first of each group."""
    removed = np.ones(coupling.size, dtype=bool)
    for group in coupling.groups:
        removed[group.components[0]] = False
    return removed


def prune(coupling: Coupling, removed: np.ndarray) -> onnx.ModelProto:
    return apply(coupling.view.proto, plan_removal(coupling, removed, "source"))


def run(proto: onnx.ModelProto, coupling: Coupling) -> list[np.ndarray]:
    (feed,) = random_feeds(coupling.view)
    return open_session(proto, "cpu").run([o.name for o in proto.graph.output], feed)


def equality(a: onnx.ModelProto, b: onnx.ModelProto, coupling: Coupling) -> Equality:
    return compare(a, b, random_feeds(coupling.view), "cpu", "random inputs")


def check_valid(proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    for info in inferred.graph.value_info:
        lengths = [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value")]
        assert 0 not in lengths, f"{info.name} became empty"


def test_there_are_enough_of_them():
    assert len({topology.build.func for topology in TOPOLOGIES.values()}) >= 80


@every
def test_builders_make_the_same_valid_model_each_time(topology: Topology):
    model = topology.build()
    onnx.checker.check_model(model, full_check=True)
    assert model == topology.build()


@every
def test_enough_can_be_removed(topology: Topology):
    model = Model(topology.build(), Path("model.onnx"))
    inspection = inspect(model)
    assert inspection.removable_share >= topology.share
    coupling = analyse(model.proto)
    removed = all_removable(coupling)
    left = count_parameters(prune(coupling, removed))
    assert ParameterCount(coupling).left(removed) == left
    if coupling.groups:
        assert left < inspection.parameters


@every
def test_what_is_left_is_valid_and_looks_the_same_from_outside(topology: Topology):
    coupling = analyse(topology.build())
    before = coupling.view.proto
    for removed in (all_removable(coupling), random_removal(coupling, 1)):
        after = prune(coupling, removed)
        check_valid(after)
        assert after.graph.output == before.graph.output
        inputs = {info.name: info for info in after.graph.input}
        assert all(
            inputs[i.name] == i for i in before.graph.input if i.name in coupling.view.inputs
        )


@each_runnable
def test_pruned_equals_masked(topology: Topology):
    coupling = analyse(topology.build())
    for removed in (all_removable(coupling), *(random_removal(coupling, s) for s in range(2))):
        equality(mask(coupling, removed), prune(coupling, removed), coupling).require()


SPLITTING = ("attention", "reshape", "shuffle", "split", "weight_behind", "group_norm_as")


@pytest.mark.parametrize(
    "topology",
    [t for t in RUNNABLE if any(part in t.name for part in SPLITTING)],
    ids=lambda topology: topology.name,
)
def test_pruned_equals_masked_inside_heads(topology: Topology):
    coupling = analyse(topology.build(), Reach(inside_heads=True))
    for removed in (all_removable(coupling), random_removal(coupling, 0)):
        pruned = prune(coupling, removed)
        check_valid(pruned)
        equality(mask(coupling, removed), pruned, coupling).require()


def test_heads_go_where_nothing_inside_them_can():
    proto = TOPOLOGIES["cross_covariance_attention"].build()
    whole, inside = (analyse(proto, Reach(inside_heads=flag)) for flag in (False, True))
    assert [len(g.components) for g in inside.groups] == [len(g.components) for g in whole.groups]


@each_runnable
def test_zeroed_equals_masked(topology: Topology):
    coupling = analyse(topology.build())
    silenced = random_removal(coupling, 2) & coupling.silenceable
    zeroed = apply(coupling.view.proto, plan_zeroing(coupling, silenced, "source"))
    equality(mask(coupling, silenced), zeroed, coupling).require()


@settings(max_examples=30, derandomize=True)
@given(st.sampled_from(RUNNABLE), st.data())
def test_any_choice_can_be_removed(topology: Topology, data: st.DataObject):
    coupling = analyse(topology.build())
    removed = np.zeros(coupling.size, dtype=bool)
    for group in coupling.groups:
        members = st.sets(
            st.sampled_from(group.components.tolist()), max_size=len(group.components) - 1
        )
        removed[list(data.draw(members))] = True
    pruned = prune(coupling, removed)
    check_valid(pruned)
    equality(mask(coupling, removed), pruned, coupling).require()


@pytest.mark.parametrize(
    "topology",
    # Few groups are left of these, and few groups are cut in another way than many.
    [t for t in RUNNABLE if not t.name.startswith("conv_grouped")],
    ids=lambda topology: topology.name,
)
def test_a_pruned_model_can_be_pruned_again(topology: Topology):
    """One by one gives what all at once does."""
    coupling = analyse(topology.build())
    removed = all_removable(coupling)
    at_once = prune(coupling, removed)
    first = removed & (np.arange(coupling.size) % 2 == 0)
    again = analyse(prune(coupling, first))
    assert again.size == coupling.size - first.sum()
    # The kept components come first in their groups in both.
    twice = prune(again, all_removable(again))
    for a, b in zip(run(at_once, coupling), run(twice, coupling), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# --- the same by hand, where neither the mask nor the cut comes from the coupling


def weights(model: onnx.ModelProto) -> list[str]:
    kinds = ("Conv", "ConvTranspose", "Gemm")
    return [node.input[1] for node in model.graph.node if node.op_type in kinds]


def biases(model: onnx.ModelProto) -> list[str]:
    kinds = ("Conv", "ConvTranspose", "Gemm")
    return [[*node.input, ""][2] for node in model.graph.node if node.op_type in kinds]


# Name: a layer k and an index i of its weight's first axis; what goes with it by weight number,
# axis and indices; and the same for the weights that consume it.
BY_HAND = {
    "conv_chain[bias=True,opset=11]": (0, 3, {(0, 0): [3], (1, 1): [3]}, {(1, 1): [3]}),
    "conv_grouped[groups=2]": (0, 2, {(0, 0): [2, 10], (1, 1): [2]}, {(1, 1): [2]}),
    "conv_grouped[groups=8]": (
        0,
        2,
        {(0, 0): [2, 3], (1, 0): [2, 3], (2, 1): [2, 3]},
        {(2, 1): [2, 3]},
    ),
    "conv_depthwise[multiplier=2]": (
        0,
        2,
        {(0, 0): [2], (1, 0): [4, 5], (2, 1): [4, 5]},
        {(2, 1): [4, 5]},
    ),
    "conv_transpose[groups=2]": (
        0,
        1,
        {(0, 0): [0, 1, 2, 3], (1, 0): [0, 1, 2, 3], (2, 1): [0, 1, 2, 3]},
        {(2, 1): [0, 1, 2, 3]},
    ),
    "flatten[axis=1,batch=N]": (
        0,
        2,
        {(0, 0): [2], (1, 1): [*range(72, 108)]},
        {(1, 1): [*range(72, 108)]},
    ),
    "channels_last_flattened": (
        0,
        2,
        {(0, 0): [2], (1, 1): [*range(2, 144, 4)]},
        {(1, 1): [*range(2, 144, 4)]},
    ),
    "residual_identity": (
        0,
        5,
        {(0, 0): [5], (1, 1): [5], (2, 0): [5], (3, 1): [5], (4, 0): [5], (5, 1): [5]},
        {(1, 1): [5], (3, 1): [5], (5, 1): [5]},
    ),
    "concat_with_input": (1, 2, {(1, 0): [2], (2, 1): [13]}, {(2, 1): [13]}),
    "reshape_splits_channels": (
        0,
        4,
        {(0, 0): [3, 4, 5], (1, 1): [1, 5, 9]},
        {(1, 1): [1, 5, 9]},
    ),
    "split_to_gate[form=attribute]": (1, 3, {(1, 0): [3, 11], (2, 1): [3]}, {(2, 1): [3]}),
    "tied_with_its_transpose": (0, 4, {(0, 0): [4], (2, 1): [4]}, {(0, 0): [4], (2, 1): [4]}),
    "reshape_864_style": (
        0,
        1,
        {(0, 0): [1], (1, 1): [*range(6, 12)]},
        {(1, 1): [*range(6, 12)]},
    ),
}


def component_at(coupling: Coupling, tensor: str, axis: int, index: int) -> int:
    (block,) = (b for b in coupling.blocks if (b.tensor, b.axis) == (tensor, axis))
    return int(coupling.component[block.start + index])


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str):
    layer, index, cuts, consumers = BY_HAND[name]
    model = TOPOLOGIES[name].build()
    coupling = analyse(model)
    names = weights(model)
    removed = np.zeros(coupling.size, dtype=bool)
    removed[component_at(coupling, names[layer], 0, index)] = True
    plan = plan_removal(coupling, removed, "source")
    expected = {(names[number], axis): indices for (number, axis), indices in cuts.items()}
    found = {(cut.tensor, cut.axis): list(cut.indices) for cut in plan.cuts}
    assert {key: found.get(key) for key in expected} == expected
    assert {tensor for tensor, _ in found} & set(names) == {tensor for tensor, _ in expected}

    silenced = onnx.ModelProto()
    silenced.CopyFrom(model)
    for tensor in silenced.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        for (number, axis), indices in consumers.items():
            if tensor.name == names[number]:
                array[(slice(None),) * axis + (indices,)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert equality(silenced, apply(model, plan), coupling).deviation < 1e-5
    assert equality(silenced, mask(coupling, removed), coupling).deviation < 1e-5


def test_against_numpy():
    model = TOPOLOGIES["gemm[trans_a=0,trans_b=1,bias=row]"].build()
    coupling = analyse(model)
    removed = random_removal(coupling, 3)
    (feed,) = random_feeds(coupling.view)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (w1, w2, w3), (b1, b2, b3) = (
        [arrays[name] for name in names] for names in (weights(model), biases(model))
    )
    kept = [
        [not removed[component_at(coupling, name, 0, i)] for i in range(len(arrays[name]))]
        for name in weights(model)[:2]
    ]
    hidden = np.maximum(feed["x"] @ w1.T + b1, 0) * kept[0]
    hidden = np.exp(0.5 * hidden @ w2.T + 2 * b2) * kept[1]
    np.testing.assert_allclose(
        run(prune(coupling, removed), coupling)[0], hidden @ w3.T + b3, rtol=1e-4
    )
    assert 0 < removed.sum() < coupling.size


# --- what must not pass


@pytest.mark.parametrize(
    "name", ["conv_chain[bias=True,opset=11]", "residual_identity", "unary[kind=Cos]"]
)
def test_a_wrong_index_is_noticed(name: str):
    coupling = analyse(TOPOLOGIES[name].build())
    removed = np.zeros(coupling.size, dtype=bool)
    removed[coupling.groups[0].components[:3]] = True
    plan = plan_removal(coupling, removed, "source")
    reference = mask(coupling, removed)
    equality(reference, apply(coupling.view.proto, plan), coupling).require()
    tensors = coupling.view.initializers
    for i, cut in enumerate(plan.cuts):
        last = tensors[cut.tensor].dims[cut.axis] - 1
        wrong = replace(cut, indices=tuple(last - index for index in cut.indices))
        cuts = (*plan.cuts[:i], wrong, *plan.cuts[i + 1 :])
        edited = apply(coupling.view.proto, Plan("source", cuts, (), plan.rewrites))
        with pytest.raises(GateError, match="differs from the masked original"):
            equality(reference, edited, coupling).require()


def test_half_precision_is_allowed_its_rounding():
    for constants in ("initializer", "node"):
        coupling = analyse(TOPOLOGIES[f"half_precision[constants={constants}]"].build())
        proto = coupling.view.proto
        assert equality(proto, proto, coupling).tolerance == HALF_TOLERANCE


def test_what_is_not_a_number_is_noticed():
    with pytest.raises(GateError):
        Equality(float("nan"), 4, 1e-4, "images", "cpu").require()


@pytest.mark.parametrize("fault", ["loads", "runs"])
def test_an_edited_model_that_does_not_run_is_our_fault(fault: str):
    """It is not the user's model that failed, nor a batch that was too large."""
    coupling = analyse(TOPOLOGIES["reshape[target=(0, 144)]"].build())
    broken = onnx.ModelProto()
    broken.CopyFrom(coupling.view.proto)
    reshape = next(node for node in broken.graph.node if node.op_type == "Reshape")
    if fault == "loads":
        reshape.op_type = "Mystery"
    (target,) = (t for t in broken.graph.initializer if t.name == reshape.input[1])
    target.CopyFrom(onnx.numpy_helper.from_array(np.array([7, 144]), target.name))
    with pytest.raises(
        GateError, match="the edited model does not run, though the original does"
    ) as said:
        equality(coupling.view.proto, broken, coupling)
    assert "--batch-size" not in str(said.value)


def test_what_is_no_number_on_both_sides_proves_nothing(tmp_path):
    """The logarithm of what is never positive: any two such models give the same."""
    net = Net(17)
    minus = net.op("Neg", net.op("Abs", net.stem(8)))
    proto = net.head(net.conv(net.op("Log", minus), 8, 6), 6)
    onnx.save(proto, tmp_path / "m.onnx")
    model = dx.load(tmp_path / "m.onnx")
    says = r"not proved.* on 4 random inputs the model gives no finite number; give .*--data"
    with pytest.raises(GateError, match=says):
        dx.prune(model, sparsity=0.3, criterion="l1", device="cpu")


HELD = {
    "custom_operator": ("Mystery", "has no rule"),
    "operator_pinned_on_purpose": ("LRN", "normalises over neighbouring channels"),
    "layer_normalization": ("LayerNormalization", "normalises over"),
    "dropout_in_training": ("Dropout", "random numbers"),
    "local_function": ("Gate", "local function"),
    "subgraph[captured=output]": ("If", "subgraph"),
    "subgraph[captured=weight]": ("If", "subgraph"),
    "loop[captured=tensor]": ("Loop", "used inside a subgraph"),
    "loop[captured=weight]": ("Loop", "used inside a subgraph"),
    "scan": ("Scan", "repeats a subgraph"),
    "softmax[opset=13,kind=Softmax]": ("Softmax", "works across this axis"),
    "reduce_channels[opset=18]": ("ReduceMean", "takes a mean"),
    "max_pool_with_positions": ("MaxPool", "positions"),
    "flatten_of_an_open_batch": ("", "graph output"),
    "matmul_with_a_vector": ("MatMul", "vector"),
    "quantised_in_each_run": ("DynamicQuantizeLinear", "from all values"),
    "quantised_in_blocks": ("DequantizeLinear", "each block"),
    "attention_with_heads_apart[scale=None]": ("Attention", "scales by their number"),
    "two_outputs": ("", "graph output"),
    "residual_from_input": ("", "graph input"),
}


@pytest.mark.parametrize("name", HELD)
def test_inspect_says_who_holds_what(name: str):
    operator, why = HELD[name]
    model = Model(TOPOLOGIES[name].build(), Path("model.onnx"))
    found = [
        pinned
        for pinned in inspect(model).pinned
        if pinned.where.split(" ")[0] == operator and why in pinned.why
    ]
    assert found
    assert found[0].indices > 0
    # What is held is never cut.
    coupling = analyse(model.proto)
    held = {
        index
        for pin in coupling.equations.pins
        if (pin.node.op if pin.node else "") == operator and why in pin.why
        for index in pin.ids
    }
    assert not coupling.gone(np.array(sorted(held)), all_removable(coupling)).any()


@pytest.mark.parametrize("name", ["subgraph[captured=weight]", "loop[captured=weight]", "scan"])
def test_what_a_subgraph_reads_stays(name: str):
    """Also where it reads a weight that no node of the main graph does."""
    coupling = analyse(TOPOLOGIES[name].build())
    (node,) = (node for node in coupling.view.nodes if node.captured)
    cut = {cut.tensor for cut in plan_removal(coupling, all_removable(coupling), "").cuts}
    assert cut
    assert not cut & set(node.captured)
    names = {tensor for pinned in coupling.pinned for tensor in pinned.tensors}
    assert {name for name in node.captured if name in coupling.view.initializers} <= names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("attention", "prune --inside-heads would free up to"),
        ("layer_normalization", "prune --inexact would free up to"),
        ("custom_operator", "A rule for org.example.Mystery (1x) may free more"),
        ("residual_identity", "nothing is held back for want of a rule; most is by graph"),
    ],
)
def test_inspect_ends_in_what_would_unlock_more(name: str, said: str):
    conclusion = inspect(Model(TOPOLOGIES[name].build(), Path("model.onnx"))).conclusion
    assert said in conclusion
    assert "\n" not in conclusion


def test_who_hides_shapes_holds_back_what_lies_behind():
    """The operator reads no weight, and of what it makes nothing is known."""
    inspection = inspect(Model(TOPOLOGIES["custom_operator"].build(), Path("model.onnx")))
    assert "3 weights, some behind them, where shapes are unknown" in inspection.conclusion
    net = Net()
    x = net.op("Mystery", net.input("N", 7), net.weight(7, 8), domain="org.example")
    inspection = inspect(Model(net.model(x), Path("model.onnx")))
    assert "org.example.Mystery (1x) may free more: they hold back 1 weights" in (
        inspection.conclusion
    )
    (pin,) = inspection.pinned
    assert (pin.why, pin.indices) == ("has no rule in org.example", 15)


@pytest.mark.parametrize("name", ["subgraph[captured=own]", "local_function_with_a_weight"])
def test_weights_that_no_rule_sees_are_counted_and_named(name: str):
    model = TOPOLOGIES[name].build()
    inspection = inspect(Model(model, Path("model.onnx")))
    (held,) = (pinned for pinned in inspection.pinned if "holds weights inside" in pinned.why)
    assert held.tensors == ("own",)
    assert held.indices > 8
    weights = onnx.numpy_helper.to_array
    seen = sum(weights(t).size for t in model.graph.initializer if t.data_type == 1 and t.dims)
    assert inspection.parameters == seen + (576 if name.startswith("subgraph") else 8)


def test_inspect_lists_operators_without_rules():
    model = Model(TOPOLOGIES["custom_operator"].build(), Path("model.onnx"))
    assert inspect(model).unknown == {"org.example.Mystery": 1}
    model = Model(TOPOLOGIES["operator_pinned_on_purpose"].build(), Path("model.onnx"))
    assert inspect(model).unknown == {}


def test_weights_that_are_shifted_are_not_silenceable():
    coupling = analyse(TOPOLOGIES["weight_shifted"].build())
    assert not coupling.silenceable.all()
    coupling = analyse(TOPOLOGIES["weight_behind[kind=Transpose]"].build())
    assert coupling.silenceable.all()
