"""What components are ranked by: one criterion, or a product of several."""

from __future__ import annotations

import numpy as np
import pytest

import discedit_onnx as dx
from discedit_onnx.editing.criteria import Factor, criteria, factors, require_data
from discedit_onnx.editing.order import Limits, _fits
from discedit_onnx.editing.pruner import Pruner
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.scoring.energy import energy


@pytest.fixture(scope="module")
def known(few):
    model = dx.load(few / "fashion_resnet20.onnx")
    return model, dx.calibrate(model, dx.open_data(model, few / "fashion_mnist/calibration"))


def saliency(known, criterion, join="max"):
    model, moments = known
    coupling = analyse(model.proto)
    pruner = Pruner(
        model, coupling, moments, None, "sparsity", criterion, join, "global", Limits(), "off", 0,
        "cpu", None,
    )  # fmt: skip
    return pruner.score_of(model, coupling)


def test_criteria_are_read():
    assert factors("fisher") == (Factor("fisher"),)
    found = factors("least-squares * fisher^0.5*l1^-1")
    assert found == (
        Factor("least-squares"), Factor("fisher", 0.5), Factor("l1", -1.0)
    )  # fmt: skip
    assert all(factors(name) == (Factor(name),) for name in criteria())


@pytest.mark.parametrize("wrong", ["", "best", "fisher*", "fisher^x", "l1^nan", "l1^inf"])
def test_what_is_no_criterion_is_refused(wrong):
    with pytest.raises(UsageError):
        factors(wrong)


def test_a_product_is_that_of_its_factors(known):
    one, other = saliency(known, "fisher"), saliency(known, "energy")
    np.testing.assert_allclose(saliency(known, "fisher*energy^0.5"), one * np.sqrt(other))
    np.testing.assert_allclose(saliency(known, "fisher^2"), one**2)


def test_bounds_are_joined_as_asked_for(known):
    most, mean = saliency(known, "fisher"), saliency(known, "fisher", "mean")
    nearest = saliency(known, "fisher", "pairwise-min")
    assert (mean <= most).all()
    assert (nearest < most).any()


def test_energy_is_relative_to_that_of_the_tensor(known):
    model, moments = known
    coupling = analyse(model.proto)
    found = energy(coupling, moments)
    squares = (moments.mean[..., 2] * moments.count[:, None]).sum(axis=0) / moments.count.sum()
    inner = squares[moments.slices["/blocks/blocks.8/Relu_output_0"]]
    made = np.isclose(found[:, None], inner / inner.mean()).any(axis=0)
    assert made.all()


@pytest.mark.parametrize("criterion", ["fisher", "energy", "energy*l1"])
def test_moments_of_another_model_are_refused(known, few, criterion):
    other = dx.load(few / "fashion_vgg.onnx")
    with pytest.raises(DataError, match=r"moments are of another model .*; calibrate .*vgg"):
        dx.prune(other, known[1], sparsity=0.1, criterion=criterion)


def test_rounds_need_samples_where_moments_are_needed():
    require_data("l1*l2", "off", 2, data=False)
    with pytest.raises(UsageError, match="--rounds needs samples"):
        require_data("l1*fisher", "off", 2, data=False)


def test_moments_are_gathered_where_there_are_images(known, few):
    model, _ = known
    data = dx.open_data(model, few / "fashion_mnist/calibration")
    given = dx.calibrate(model, data, device="cpu")
    edits = [
        dx.prune(model, moments, sparsity=0.1, criterion="fisher", data=data, device="cpu",
                 refit="off")
        for moments in (None, given)
    ]  # fmt: skip
    np.testing.assert_array_equal(edits[0].components, edits[1].components)


def test_a_name_with_brackets_is_a_name():
    known = [frozenset({"layers[1].weight"}), frozenset({"layers1.weight"})]
    np.testing.assert_array_equal(_fits(known, "layers[1].weight"), [True, True])
    np.testing.assert_array_equal(_fits(known, "layers[[]1[]].*"), [True, False])


def test_pruning_by_a_product_is_proved(known):
    model, moments = known
    edit = dx.prune(model, moments, sparsity=0.2, criterion="sharp*energy", device="cpu")
    assert edit.sparsity >= 0.2
