"""What a model costs, and where the ranking is cut off."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from topologies import TOPOLOGIES
from topologies.net import Net

from discedit_onnx.editing.budget import KINDS, Budget, Kind, cut_off, give_back
from discedit_onnx.editing.measures import cost_of
from discedit_onnx.editing.order import RANKINGS, Limits, Order, removal_order, widths
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


def pruned(name: str, removed: np.ndarray) -> onnx.ModelProto:
    return apply(MODELS[name], plan_removal(COUPLINGS[name], removed, ""))


def left(name: str, removed: np.ndarray) -> int:
    return count_parameters(pruned(name, removed))


def budgets() -> st.SearchStrategy[Budget]:
    shares = st.floats(0, 0.99).map(lambda share: Budget("sparsity", share))
    left = st.floats(0.01, 1).map(lambda share: Budget("macs", share))
    counts = st.integers(0, 3000).map(lambda count: Budget("sparsity", count, True))
    macs = st.integers(1, 60_000).map(lambda count: Budget("macs", count, True))
    return st.one_of(shares, left, counts, macs)


@settings(max_examples=100)
@given(
    st.sampled_from(NAMES), st.integers(0, 2**32 - 1), budgets(), st.sampled_from(RANKINGS),
    st.sampled_from([1, 1, 2, 4, 8]), st.integers(1, 3),
)  # fmt: skip
def test_what_is_asked_is_reached_and_no_step_too_many(
    name, seed, budget, ranking, multiple, least
):
    """Against what is counted in the model that surgery makes."""
    coupling = COUPLINGS[name]
    limits = Limits(round_to=multiple, min_channels=least)
    order = removal_order(coupling, saliency(name, seed), ranking, limits)
    counted = {"sparsity": count_parameters, "macs": lambda model: count_macs(View(model))}
    count = counted[budget.kind]
    total = count(MODELS[name])

    def met(number: int) -> bool:
        reached = count(pruned(name, order.first(number)))
        if budget.kind == "sparsity":
            gone = total - reached
            return (
                gone >= budget.amount if budget.absolute else 1 - reached / total >= budget.amount
            )
        return reached <= budget.amount if budget.absolute else reached / total <= budget.amount

    try:
        removed = cut_off(order, budget, cost_of(budget.kind, None, coupling))
    except UsageError:
        assert not met(len(order.steps))
        return
    number = next(n for n in range(len(order.steps) + 1) if (order.first(n) == removed).all())
    assert met(number)
    assert not number or not met(number - 1)
    cost = cost_of(budget.kind, None, coupling)
    less = give_back(order, removed, budget, cost, coupling.group_of)
    assert not (less & ~removed).any()
    assert budget.met(cost.left(less), cost.total)
    for group in coupling.groups:
        steps = [s for s in order.steps if np.isin(s, group.components).all() and less[s].all()]
        if steps:
            fewer = less.copy()
            fewer[steps[-1]] = False
            assert not budget.met(cost.left(fewer), cost.total)


@settings(max_examples=60)
@given(
    st.sampled_from(NAMES), st.integers(0, 2**32 - 1), st.sampled_from(RANKINGS),
    st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
def test_an_order_is_nested_least_salient_first_and_within_its_limits(
    name, seed, ranking, multiple, least
):
    coupling, ranked = COUPLINGS[name], saliency(name, seed)
    limits = Limits(round_to=multiple, min_channels=least)
    order = removal_order(coupling, ranked, ranking, limits)
    gone = np.concatenate([*order.steps, np.empty(0, dtype=np.int64)])
    assert len(gone) == len(set(gone))
    each = widths(coupling)
    for number in range(len(order.steps) + 1):
        removed = order.first(number)
        for group, channels in zip(coupling.groups, each, strict=True):
            members = group.components
            kept = members[~removed[members]]
            if len(kept) == len(members):
                continue
            assert ranked[kept].min() > ranked[members[removed[members]]].max()
            assert len(kept) * channels >= least
            step = multiple // math.gcd(multiple, int(channels))
            if len(kept) >= step and len(members) >= 2 * step:
                assert len(kept) % step == 0


@sampled
def test_each_group_keeps_its_most_salient(name):
    coupling, ranking = COUPLINGS[name], saliency(name, 0)
    order = removal_order(coupling, ranking)
    kept = ~order.first(len(order.steps))
    assert kept.sum() == len(coupling.groups)
    for group in coupling.groups:
        assert kept[group.components[np.argmax(ranking[group.components])]]


@sampled
def test_equal_saliency_still_leaves_one_of_each_group(name):
    coupling = COUPLINGS[name]
    order = np.concatenate(removal_order(coupling, np.zeros(coupling.size)).steps)
    assert len(order) == len(set(order)) == coupling.size - len(coupling.groups)


def test_global_is_one_ranking():
    coupling, ranking = COUPLINGS["residual_identity"], saliency("residual_identity", 0)
    (values,) = np.stack([ranking[step] for step in removal_order(coupling, ranking).steps], axis=1)
    assert (np.diff(values) > 0).all()


def two_widths(*pairs: tuple[int, int]) -> onnx.ModelProto:
    """Residual blocks side by side on one spine, of these inner widths and kernels."""
    net = Net()
    spine = net.stem(8)
    for width, kernel in pairs:
        inner = net.relu(net.conv(spine, 8, width, kernel))
        spine = net.op("Add", spine, net.conv(inner, width, 8, 3))
    return net.head(spine, 8)


def shares(proto: onnx.ModelProto, ranking: str, number: int, scale: float = 1.0) -> list[float]:
    """Share left of each group after some steps, where later groups are `scale` as salient."""
    coupling = analyse(proto)
    values = np.random.default_rng(0).random(coupling.size) * scale**coupling.group_of
    removed = removal_order(coupling, values, ranking).first(number)
    return [float((~removed[group.components]).mean()) for group in coupling.groups]


def test_local_takes_the_same_share_of_each():
    proto = two_widths((8, 3), (16, 3), (32, 3))
    assert shares(proto, "local", 32, 0.1) == [0.5] * 4
    assert len(set(shares(proto, "global", 32, 0.1))) > 2


def test_isomorphic_takes_the_same_share_of_each_class():
    """The inner layers are alike; the spine meets more, and is another class."""
    spine, *inner = shares(two_widths((16, 3), (16, 3)), "isomorphic", 20, 0.1)
    assert spine == 0.5
    assert sum(inner) / 2 == 0.5
    assert inner[1] < inner[0], "inside a class saliencies are compared"


def test_multiples():
    def kept(width: int, multiple: int, least: int = 1) -> list[int]:
        net = Net()
        coupling = analyse(net.head(net.stem(width), width))
        limits = Limits(round_to=multiple, min_channels=least)
        order = removal_order(coupling, np.arange(width, dtype=float), limits=limits)
        return [int((~order.first(n)).sum()) for n in range(1, len(order.steps) + 1)]

    assert kept(5, 1) == [4, 3, 2, 1]
    assert kept(64, 16) == [48, 32, 16, 8, 4, 2, 1]
    assert kept(36, 8) == [32, 24, 16, 8, 4, 2, 1]
    assert kept(16, 16) == kept(16, 8) == [8, 4, 2, 1]
    assert kept(7, 4) == [4, 2, 1]
    assert kept(5, 16) == [4, 2, 1]
    assert kept(64, 16, 20) == [48, 32]
    assert kept(8, 1, 8) == []


def test_less_than_a_multiple_is_left_only_where_multiples_do_not_suffice():
    """Kernels fill up what is narrower: it saves multiplications, and no time."""
    net = Net()
    wide = net.relu(net.conv(net.stem(16), 16, 32))
    coupling = analyse(net.head(wide, 32))
    worth = np.where(
        np.repeat(
            [len(g.components) for g in coupling.groups],
            [len(g.components) for g in coupling.groups],
        )
        == 16,
        1.0,
        2.0,
    )
    order = removal_order(coupling, worth, limits=Limits(round_to=16))
    kept = [
        tuple(int((~order.first(n))[g.components].sum()) for g in coupling.groups)
        for n in range(1, len(order.steps) + 1)
    ]
    assert sorted(kept[0]) == [16, 16], "first the wide one loses a block, though worth more"
    assert min(kept[1]) == 8


def test_heads_are_rounded_by_their_size():
    """Components of two channels each need no more than half the multiple of them."""
    name = "conv_depthwise[multiplier=2]"
    coupling = analyse(TOPOLOGIES[name].build())
    assert widths(coupling).tolist() == [1] * len(coupling.groups)
    heads = analyse(TOPOLOGIES["reshape_splits_channels"].build())
    assert widths(heads).max() > 1


def test_patterns_name_what_makes_the_channels():
    proto = two_widths((4, 3), (8, 3))
    coupling = analyse(proto)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    inner = convolutions[1]  # stem, first inner, first outer, ...

    def cut(**limits: tuple[str, ...]) -> list[int]:
        order = removal_order(coupling, np.zeros(coupling.size), limits=Limits(**limits))
        removed = order.first(len(order.steps))
        return [int((~removed[group.components]).sum()) for group in coupling.groups]

    assert cut() == [1, 1, 1]
    for name in (inner.name, inner.input[1], inner.input[2], inner.output[0]):
        assert cut(only=(name,)) == [8, 1, 8]
        assert cut(exclude=(name,)) == [1, 4, 1]
    # Its consumer's weight stands for what the consumer makes: the spine.
    assert cut(only=(convolutions[2].input[1],)) == [1, 4, 8]
    assert cut(only=("*",), exclude=(inner.name, convolutions[3].name)) == [1, 4, 8]
    for pattern in ("conv9999", "node_Convv*"):
        with pytest.raises(UsageError, match=r"no layer .* there are .*[cC]onv"):
            cut(only=(pattern,))


# --- amounts


@pytest.mark.parametrize(
    ("kind", "text", "amount", "absolute"),
    [
        ("sparsity", "0.3", 0.3, False),
        ("sparsity", "30%", 0.3, False),
        ("sparsity", "80k", 8e4, True),
        ("macs", " 0.5 ", 0.5, False),
        ("macs", "41M", 41e6, True),
        ("macs", "1.5g", 1.5e9, True),
        ("size", "5MB", 5e6, True),
        ("size", "5 MiB", 5 * 2**20, True),
        ("size", "300kB", 3e5, True),
        ("latency", "3ms", 3, True),
        ("latency", "250us", 0.25, True),
        ("latency", "1", 1, False),
    ],
)
def test_what_people_write(kind, text, amount, absolute):
    budget = Budget.parse(kind, text)
    assert (budget.kind, budget.absolute) == (kind, absolute)
    assert budget.amount == pytest.approx(amount)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("sparsity", "1"), ("sparsity", "-0.1"), ("sparsity", "nan"), ("sparsity", "inf"),
     ("macs", "0"), ("macs", "1.5"), ("macs", "41000000"), ("macs", "5MB"), ("size", "3ms"),
     ("latency", "-3ms"), ("latency", ""), ("latency", "ms"), ("size", "1e999"), ("macs", "a lot")],
)  # fmt: skip
def test_what_is_no_amount(kind, text):
    with pytest.raises(UsageError, match=r"is not|give a share"):
        Budget.parse(kind, text)


@pytest.mark.parametrize(
    ("kind", "text"), [("macs", "1e400M"), ("sparsity", "nan"), ("size", "inf")]
)
def test_what_is_not_finite_is_called_so(kind, text):
    with pytest.raises(UsageError, match=rf"^{kind} (inf|nan) is not a finite number$"):
        Budget.parse(kind, text)


LIMITS = {"sparsity": ("0.999", "more"), "macs": ("0.0001", "less"), "size": ("0.0001", "less")}


@sampled
@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("absolute", [False, True])
def test_the_limit_in_the_message_can_be_reached(tmp_path, name, kind, absolute):
    onnx.save(MODELS[name], tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx")
    coupling = analyse(model.proto)
    order, cost = removal_order(coupling, saliency(name, 1)), cost_of(kind, model, coupling)
    asked, word = LIMITS[kind]
    if absolute:
        asked = {"sparsity": "5M", "macs": "0.001k", "size": "1B"}[kind]
    with pytest.raises(UsageError, match=rf"{kind} .* is {word} than this graph") as caught:
        cut_off(order, Budget.parse(kind, asked), cost)
    limit = re.search(r"at (?:most|least) ([\d.]+\w*)$", str(caught.value))[1]
    removed = cut_off(order, Budget.parse(kind, limit), cost)
    assert removed.sum() <= coupling.size - len(coupling.groups)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absolute", [False, True])
def test_intermediate_budgets_go_there_in_equal_ratios(kind: Kind, absolute: bool):
    amount = {"sparsity": 0.6}.get(kind, 0.4) * (1000 if absolute else 1)
    budget = Budget(kind, amount, absolute)
    steps = [budget.on_the_way(1000, i / 4) for i in range(1, 5)]
    assert steps[-1] == budget
    left = [1 - b.amount if kind == "sparsity" else b.amount for b in steps[:3]]
    np.testing.assert_allclose(left, [0.4**0.25, 0.4**0.5, 0.4**0.75])


@pytest.mark.parametrize("kind", ["sparsity", "macs"])
def test_nothing_is_removed_for_nothing(kind):
    for name in NAMES:
        coupling = COUPLINGS[name]
        budget = Budget(kind, 0.0 if kind == "sparsity" else 1.0)
        order = removal_order(coupling, saliency(name, 2))
        assert not cut_off(order, budget, cost_of(kind, None, coupling)).any()


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"exclude": ("*",)}, r"graph allows with exclude \*: at most 0\.0000$"),
        ({"min_channels": 1000}, r"graph allows with min channels 1000: at most 0\.0000$"),
        ({"only": ("*",), "min_channels": 8}, r"allows with only \* and min channels 8: at most"),
        ({"round_to": 4}, r"graph allows: at most 0\.\d+$"),
    ],
)
def test_limits_that_bar_a_budget_are_named(tmp_path, limits, says):
    onnx.save(MODELS["residual_identity"], tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match=says):
        prune(model, sparsity=0.999, criterion="l1", limits=Limits(**limits), device="cpu")


@pytest.mark.parametrize("name", ["no_parameters", "nothing_removable"])
def test_a_model_of_which_nothing_can_go(name):
    coupling = analyse(TOPOLOGIES[name].build())
    order, cost = Order([], 0), ParameterCount(coupling)
    assert not cut_off(order, Budget("sparsity", 0.0), cost).size
    with pytest.raises(UsageError, match=r"at most 0\.0000"):
        cut_off(order, Budget("sparsity", 0.1), cost)


@sampled
def test_file_size_is_that_of_the_file(tmp_path, name):
    onnx.save(MODELS[name], tmp_path / "model.onnx")
    edit = prune(load(tmp_path / "model.onnx"), budget=Budget("size", 0.6), criterion="random",
                 device="cpu")  # fmt: skip
    edit.save(tmp_path / "small.onnx")
    size = (tmp_path / "small.onnx").stat().st_size
    assert size <= 0.6 * (tmp_path / "model.onnx").stat().st_size
    cost = cost_of("size", edit.source, analyse(edit.source.proto))
    assert cost.left(edit.components) == size


def test_exactly_one_of_budget_and_sparsity(tmp_path):
    onnx.save(MODELS["residual_identity"], tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx")
    for options in ({}, {"sparsity": 0.1, "budget": Budget("macs", 0.5)}):
        with pytest.raises(UsageError, match="exactly one"):
            prune(model, criterion="l1", **options)


def test_prune_reaches_what_was_asked(tmp_path: Path):
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
