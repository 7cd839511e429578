"""A plan that is carried out again, rounds, and times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from test_plan_values import new_values
from test_topologies import random_removal
from tiny_models import classifier, saved
from topologies import TOPOLOGIES

import discedit_onnx as dx
from discedit_onnx import latency
from discedit_onnx.editing.budget import Budget
from discedit_onnx.editing.edit import carry_out, replay
from discedit_onnx.editing.measures import cost_of
from discedit_onnx.editing.plan import Cut, Pick, Rewrite, plan_removal
from discedit_onnx.editing.plan_file import load_plan
from discedit_onnx.editing.rounds import carry_back, in_rounds
from discedit_onnx.editing.surgery import apply
from discedit_onnx.editing.verify import random_feeds
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.latency import fast_multiple, latencies
from discedit_onnx.model import load

if TYPE_CHECKING:
    from discedit_onnx.editing.order import Order
    from discedit_onnx.model import Model

SAMPLES = Path(__file__).parents[1] / "sample_models"
NAMES = (
    "residual_identity",
    "conv_grouped[groups=2]",
    "split_and_swap[form=input]",
    "matmul_chain",
    "half_precision[constants=node]",
    "fused_projection",
)
NAMES = tuple(name for name in TOPOLOGIES if name.startswith(NAMES))


def written(name: str, folder: Path) -> Model:
    onnx.save(TOPOLOGIES[name].build(), folder / "model.onnx")
    return load(folder / "model.onnx")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("remove", [True, False])
def test_a_plan_gives_the_same_file_again(tmp_path, name, remove):
    model = written(name, tmp_path)
    coupling = analyse(model.proto, Reach(inside_heads=True))
    removed = random_removal(coupling, 0)
    new = None
    if remove:
        new = new_values(coupling, apply(model.proto, plan_removal(coupling, removed, "")), 0)
    else:
        removed &= coupling.silenceable
    edit = carry_out(
        model, coupling, removed, remove=remove, device="cpu",
        updates=new.updates if new else (), biases=new.biases if new else (),
    )  # fmt: skip
    edit.plan.save(tmp_path / "plan.json")
    again = replay(model, load_plan(tmp_path / "plan.json"), device="cpu")
    assert again.equality == edit.equality
    assert again.parameters == edit.parameters
    assert again.groups == edit.groups
    for number, done in enumerate((edit, again)):
        done.save(tmp_path / f"{number}.onnx")
    a, b = ((tmp_path / f"{number}.onnx").read_bytes() for number in range(2))
    assert a == b


def test_a_plan_for_another_model_is_refused(tmp_path):
    model = written("residual_identity", tmp_path)
    coupling = analyse(model.proto)
    plan = plan_removal(coupling, random_removal(coupling, 0), "0" * 64)
    with pytest.raises(DataError, match="another model"):
        replay(model, plan, device="cpu")


def changed(plan):
    """Plans that are not what the analysis of the model gives."""
    first, *rest = plan.cuts
    yield replace(plan, cuts=tuple(rest))
    yield replace(plan, cuts=(replace(first, indices=first.indices[1:]), *rest))
    yield replace(plan, cuts=(replace(first, indices=(10**6,)), *rest))
    yield replace(plan, cuts=(*plan.cuts, Cut("nothing", 0, (1,))))
    yield replace(plan, cuts=(*plan.cuts, Cut(first.tensor, 7, (1,))))
    yield replace(plan, picks=(Pick("nothing", 1, (0,)),))
    yield replace(plan, exact=False)
    yield replace(plan, rewrites=(Rewrite(plan.source, 1, (1.0,), (1,), "int64"),))


def test_a_plan_that_was_tampered_with_is_refused(tmp_path):
    model = written("residual_identity", tmp_path)
    coupling = analyse(model.proto)
    plan = plan_removal(coupling, random_removal(coupling, 0), model.hash)
    replay(model, plan, device="cpu")
    for wrong in changed(plan):
        with pytest.raises(DataError, match="not one for this model"):
            replay(model, wrong, device="cpu")


# --- rounds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_saliency_finds_its_way_back(name, seed):
    """Through the names and indices of what is left, also where groups are cut in another way."""
    coupling = analyse(TOPOLOGIES[name].build())
    removed = random_removal(coupling, seed)
    pruned = analyse(apply(coupling.view.proto, plan_removal(coupling, removed, "")))
    values = np.random.default_rng(seed).random(pruned.size)
    carried = carry_back(coupling, removed, pruned, values)
    assert (carried[removed] == -np.inf).all()
    assert (carried[~removed] != -np.inf).all()
    left = np.isfinite(carried)
    if pruned.size == coupling.size - removed.sum():
        assert left.sum() == pruned.size
        # Components of both are numbered in the order of the graph.
        np.testing.assert_array_equal(carried[left], values)


def test_rounds_look_at_what_is_left_and_end_at_the_budget(tmp_path):
    model = written("residual_identity", tmp_path)
    coupling = analyse(model.proto)
    cost, budget = cost_of("sparsity", model, coupling), Budget("sparsity", 0.6)
    seen: list[tuple[int, int]] = []
    orders: list[Order] = []

    def score_of(current: Model, its):
        assert current.hash
        seen.append((its.size, cost.total))
        return np.random.default_rng(len(seen)).random(its.size)

    def order_of(saliency):
        from discedit_onnx.editing.order import removal_order

        orders.append(removal_order(coupling, saliency))
        return orders[-1]

    def left_of(removed: np.ndarray) -> onnx.ModelProto:
        return apply(model.proto, plan_removal(coupling, removed, ""))

    pruner: Any = SimpleNamespace(
        model=model, coupling=coupling, score_of=score_of, order_of=order_of, left=left_of,
        order=order_of(score_of(model, coupling)),
    )  # fmt: skip
    removed = in_rounds(pruner, budget, cost, 4)
    sizes = [size for size, _ in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert budget.met(cost.left(removed), cost.total)
    # What went in a round stays away in the next ones.
    gone = coupling.size - sizes[1]
    assert set(np.concatenate(orders[1].steps[:gone])) <= set(np.flatnonzero(removed))


def test_one_round_is_no_rounds_and_more_need_data():
    model = load(SAMPLES / "fashion_resnet20.onnx")
    data = dx.open_data(model, SAMPLES / "fashion_mnist/calibration", num_samples=60)
    moments = dx.calibrate(model, data, device="cpu")
    once = dx.prune(model, moments, sparsity=0.3, device="cpu")
    thrice = dx.prune(model, moments, sparsity=0.3, rounds=3, data=data, device="cpu")
    assert thrice.sparsity >= 0.3
    assert (once.components != thrice.components).any()
    assert thrice.equality.deviation <= 1e-4
    with pytest.raises(UsageError, match="--rounds"):
        dx.prune(model, moments, sparsity=0.3, rounds=3, device="cpu")
    random = [
        dx.prune(model, sparsity=0.3, rounds=rounds, criterion="l1", device="cpu")
        for rounds in (1, 2)
    ]
    assert random[1].sparsity >= 0.3


# --- time


def test_latencies_tell_a_large_model_from_a_small_one(monkeypatch):
    monkeypatch.setattr(latency, "TURN", 0.02)
    large = load(SAMPLES / "fashion_resnet20.onnx").proto
    coupling = analyse(large)
    removed = np.ones(coupling.size, dtype=bool)
    removed[[group.components[0] for group in coupling.groups]] = False
    small = apply(large, plan_removal(coupling, removed, ""))
    (feeds,) = random_feeds(coupling.view, batch=2)
    a, b, c = latencies([large, small, large], [feeds] * 3, "cpu", rounds=2)
    assert b < 0.7 * a
    assert 0.2 < a / c < 5


def test_a_latency_budget(monkeypatch):
    """With a clock that counts parameters, so that the test does not hang on the machine."""
    from discedit_onnx.editing import measures
    from discedit_onnx.graph.cost import count_parameters

    monkeypatch.setattr(
        measures, "latencies", lambda models, *_: [count_parameters(m) / 1e5 for m in models]
    )
    model = load(SAMPLES / "fashion_resnet20.onnx")
    edit = dx.prune(model, budget=Budget("latency", 2.0, True), criterion="l1", device="cpu")
    assert edit.parameters[1] <= 2e5
    again = dx.prune(model, budget=Budget("latency", 0.5), criterion="l1", device="cpu")
    assert 0.48 < again.parameters[1] / again.parameters[0] <= 0.5


def test_multiples_for_devices(monkeypatch):
    assert fast_multiple("cpu") == 4
    assert fast_multiple("cpu", block=True) in (8, 16)
    assert fast_multiple("cuda:1") == 8
    monkeypatch.setattr(latency, "_offered", lambda: ["CUDAExecutionProvider"])
    assert fast_multiple("auto") == 8


def test_data_of_another_model_are_refused(tmp_path):
    """Before any work, by each that takes them: they would be fed to other inputs."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    model = saved(classifier(), tmp_path / "one")
    other = saved(classifier(channels_last=True), tmp_path / "other")
    data = dx.open_data(other, np.zeros((8, 6, 5, 1), np.float32))
    plan = dx.prune(model, sparsity=0.1, criterion="l1").plan
    asked = {"criterion": "l1", "refit": "off", "sparsity": 0.1}
    for refused in (
        lambda: dx.prune(model, data=data, **asked),
        lambda: dx.prune(model, data=data, sparsity=0.1),
        lambda: replay(model, plan, data=data),
    ):
        with pytest.raises(DataError, match=r"was opened for .* open it for that model"):
            refused()
