"""Widths under layer normalisation: held by default, cut on request, never called equal."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from topologies import TOPOLOGIES
from topologies.net import CLASSES, Net

import discedit_onnx as dx
from discedit_onnx.calibration.placement import tap_components
from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.plan import plan_removal
from discedit_onnx.editing.surgery import apply
from discedit_onnx.editing.verify import compare, mask, random_feeds
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.cost import count_parameters
from discedit_onnx.graph.coupling import analyse

SAMPLES = Path(__file__).parents[1] / "sample_models"


def normalised() -> onnx.ModelProto:
    """A width of eight under LayerNormalization, and one of ten that is free."""
    net = Net()
    x = net.gemm(net.input("N", 6), 6, 8)
    x = net.op("LayerNormalization", x, net.positive(8), net.weight(8), axis=-1)
    return net.model(net.gemm(net.relu(net.gemm(x, 8, 10)), 10, CLASSES))


def test_widths_under_a_normalisation_are_held_by_default():
    exact, loose = analyse(normalised()), analyse(normalised(), Reach(inexact=True))
    assert exact.size == 10
    assert not exact.inexact.any()
    assert {pinned.where.split(" ")[0] for pinned in exact.pinned} == {"", "LayerNormalization"}
    assert loose.size == 18
    assert loose.inexact.sum() == 8


def test_a_normalisation_written_as_means_is_one():
    net = Net(13)
    x = net.gemm(net.input("N", 6), 6, 8)
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    square = net.op("Mul", centred, centred)
    spread = net.op("Sqrt", net.op("Add", net.op("ReduceMean", square, axes=[-1]), net.number(1)))
    proto = net.model(net.gemm(net.op("Div", centred, spread), 8, CLASSES))
    assert analyse(proto).size == 0
    loose = analyse(proto, Reach(inexact=True))
    assert loose.inexact.sum() == loose.size == 8
    removed = np.arange(8) < 3
    pruned = apply(proto, plan_removal(loose, removed, "source"))
    onnx.checker.check_model(pruned, full_check=True)
    assert count_parameters(pruned) == 6 * 5 + 5 + 5 * CLASSES + CLASSES


@pytest.mark.parametrize(
    "name",
    [
        *(f"group_norm_as_instance_norm[groups=1,computed={c}]" for c in (False, True)),
        "group_normalization_over_all",
        "global_response_normalization",
        "mean_variance_normalization",
    ],
)
def test_other_normalisations_over_a_width_are_inexact(name):
    proto = TOPOLOGIES[name].build()
    exact, loose = analyse(proto), analyse(proto, Reach(inexact=True))
    assert loose.inexact.sum() == loose.size - exact.size == 8
    assert not exact.inexact.any()
    removed = loose.inexact.copy()
    removed[removed.nonzero()[0][:3]] = False
    plan = plan_removal(loose, removed, "source")
    pruned = apply(proto, plan)
    onnx.checker.check_model(pruned, full_check=True)
    onnx.shape_inference.infer_shapes(pruned, check_type=True, strict_mode=True)
    assert not plan.exact
    assert count_parameters(pruned) < 0.7 * count_parameters(proto)
    found = compare(mask(loose, removed), pruned, random_feeds(loose.view), "cpu")
    assert found.tolerance < found.deviation < 2, "it runs, with other statistics"


def test_a_plan_says_whether_it_is_exact():
    coupling = analyse(normalised(), Reach(inexact=True))
    for removed in (coupling.inexact.nonzero()[0][:1], (~coupling.inexact).nonzero()[0][:1]):
        chosen = np.zeros(coupling.size, dtype=bool)
        chosen[removed] = True
        plan = plan_removal(coupling, chosen, "source")
        assert plan.exact == (not coupling.inexact[removed].any())


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(normalised(), path)
    return dx.load(path)


def test_an_inexact_edit_is_valid_and_reports_how_far_it_is(model, tmp_path):
    edit = dx.prune(model, sparsity=0.5, criterion="l2", inexact=True, device="cpu")
    assert not edit.plan.exact
    assert edit.equality.deviation > edit.equality.tolerance, "statistics are over fewer indices"
    edit.save(tmp_path / "small.onnx")
    assert edit.sparsity >= 0.5
    exact = dx.prune(model, sparsity=0.3, criterion="l2", device="cpu")
    assert exact.plan.exact


def test_inspect_says_what_it_would_free(model):
    found = dx.inspect(model)
    assert found.inexact_share > found.removable_share + 0.2
    residual = dx.inspect(dx.load(SAMPLES / "fashion_resnet20.onnx"))
    assert residual.inexact_share == residual.removable_share


def test_nothing_is_picked_where_only_what_reads_it_would_be_narrower(model):
    coupling = analyse(model.proto)
    assert coupling.equations.choices
    assert not plan_removal(coupling, np.ones(coupling.size, dtype=bool), "").picks


def test_dimensions_inside_heads_are_cut_in_every_head():
    model = dx.load(SAMPLES / "fashion_vit.onnx")
    heads, inside = analyse(model.proto), analyse(model.proto, Reach(inside_heads=True))
    sizes = [sorted({len(group.components) for group in c.groups}) for c in (heads, inside)]
    assert sizes == [[4, 192], [24, 192]], "4 heads of 24 dimensions; 192 neurons"
    # Queries and keys share their dimensions, values have their own.
    assert sum(len(group.components) == 24 for group in inside.groups) == 2 * 4
    removed = np.random.default_rng(0).random(inside.size) < 0.4
    edit = carry_out(model, inside, removed, remove=True, device="cpu")
    assert edit.equality.deviation <= edit.equality.tolerance


REACHES = [Reach(*flags) for flags in itertools.product((False, True), repeat=2)]


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_one_calibration_serves_every_reach(reach, moments):
    """Taps see all components, or those that they miss would all score nothing and go first."""
    model, few, gathered = moments
    coupling = analyse(model.proto, reach)
    components = [tap_components(coupling, tap) for tap in gathered.taps]
    assert set(range(coupling.size)) <= set(np.concatenate(components).tolist())
    edit = dx.prune(
        model,
        gathered,
        sparsity=0.2,
        inexact=reach.inexact,
        inside_heads=reach.inside_heads,
        data=few,
        device="cpu",
    )
    assert edit.sparsity >= 0.2
    assert edit.plan.exact or reach.inexact


@pytest.fixture(scope="module")
def moments():
    model = dx.load(SAMPLES / "fashion_vit.onnx")
    images = dx.open_data(model, SAMPLES / "fashion_mnist" / "calibration")
    few = images.take(np.arange(0, len(images), 12))
    return model, few, dx.calibrate(model, few, device="cpu")
