"""From moments to scores, and what pruning and forgetting choose by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import discedit_onnx as dx
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.placement import place_taps, tap_components
from discedit_onnx.editing.forget import (
    find_class,
    later,
    most_specific,
    spare_one,
    specificity,
)
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.scoring.saliency import REDUCTIONS, saliency, score
from discedit_onnx.scoring.weights import chance, magnitude

SAMPLES = Path(__file__).parents[1] / "sample_models"
CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model():
    return dx.load(SAMPLES / "fashion_resnet20.onnx")


@pytest.fixture(scope="module")
def coupling(model):
    return analyse(model.proto)


def moments_of(model, taps, features, labels):
    empty = Moments.empty(taps, CLASSES, model.hash)
    return empty.update(np.stack([features, features**2], axis=-1), labels)


@pytest.fixture(scope="module")
def planted(model, coupling):
    """Features of pure noise, but for one component that fires for class b wherever it is seen."""
    taps = place_taps(coupling)
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = generator.standard_normal((300, sum(tap.length for tap in taps)))
    component = np.concatenate([tap_components(coupling, tap) for tap in taps])
    target = int(coupling.groups[0].components[7])
    features[:, component == target] += 6 * (labels == 1)[:, None]
    shy = int(coupling.groups[0].components[9])
    features[:, component == shy] -= 6 * (labels == 1)[:, None]
    return moments_of(model, taps, features, labels), target, shy


def test_scores_find_the_planted_component(model, coupling, planted):
    moments, target, shy = planted
    scores = score(model, coupling, moments)
    for reduction in ("max", "mean"):
        assert set(np.argsort(saliency(scores, reduction))[-2:]) == {target, shy}
    assert scores.bounds.shape == scores.signs.shape == (len(scores.component), len(CLASSES))
    assert scores.per_component(scores.bounds)[target].argmax() == 1


def test_a_component_has_the_largest_bound_of_its_channels(model, coupling, planted):
    scores = score(model, coupling, planted[0])
    joined = scores.per_component(scores.bounds)
    for number in range(0, coupling.size, 17):
        np.testing.assert_array_equal(
            joined[number], scores.bounds[scores.component == number].max(axis=0)
        )


def test_reductions_are_ordered(model, coupling, planted):
    scores = score(model, coupling, planted[0])
    low, middle, high = (saliency(scores, name) for name in ("min", "mean", "max"))
    assert set(REDUCTIONS) == {"min", "mean", "max"}
    assert (low <= middle).all()
    assert (middle <= high).all()


def test_the_sign_tells_who_fires_more_from_who_fires_less(model, coupling, planted):
    moments, target, shy = planted
    scores = score(model, coupling, moments)
    values = specificity(scores, 1, [1])
    assert values.argmax() == target
    assert values[target] > 0.5
    assert values[shy] < 0, "it fires less for the class, so silencing it would not forget"


def test_scores_refuse_moments_of_another_model(model, coupling, planted):
    other = dx.load(SAMPLES / "fashion_vgg.onnx")
    with pytest.raises(DataError, match="another model"):
        score(other, analyse(other.proto), planted[0])
    with pytest.raises(UsageError, match="there are t1, fisher"):
        score(model, coupling, planted[0], "best")


def test_later_layers_are_the_last_half_of_the_taps(model, coupling, planted):
    scores = score(model, coupling, planted[0])
    late = later(scores)
    names = {group.name: late[group.components] for group in coupling.groups}
    assert not names["stem.0.weight"].any(), "the first spine is consumed early"
    assert names["blocks.8.first.0.weight"].all()
    assert 0.2 < late.mean() < 0.8


def test_most_specific_takes_a_share_of_the_candidates_and_only_positive_ones():
    values = np.array([0.9, 0.8, -0.1, 0.7, 0.6, 0.0])
    candidates = np.array([True, False, True, True, True, True])
    assert most_specific(values, candidates, 0.4).tolist() == [
        True,
        False,
        False,
        True,
        *[False] * 2,
    ]
    assert most_specific(values, candidates, 0.99).sum() == 3
    assert most_specific(-values, ~candidates, 0.5).sum() == 0


def test_a_group_is_never_emptied(coupling):
    edited = np.ones(coupling.size, dtype=bool)
    values = np.random.default_rng(0).random(coupling.size)
    left = ~spare_one(coupling, edited, values)
    for group in coupling.groups:
        assert left[group.components].sum() == 1
        assert left[group.components[values[group.components].argmin()]]


def test_classes_by_index_and_by_name():
    names = ("cat", "dog", "7")
    assert find_class(names, 1) == find_class(names, "1") == find_class(names, "dog") == 1
    assert find_class(names, "7") == 2, "a name goes before a number"
    for wrong in (-1, 3, "cow", "1.5"):
        with pytest.raises(UsageError, match="0 cat, 1 dog, 2 7"):
            find_class(names, wrong)


def test_forgetting_refuses_all_classes_and_odd_shares(model, planted):
    with pytest.raises(UsageError, match="leave at least one"):
        dx.forget(model, planted[0], [0, 1, 2])
    for share in (0, 1, -0.5):
        with pytest.raises(UsageError, match="share"):
            dx.forget(model, planted[0], [0], share=share)


def test_forgetting_silences_the_planted_component(model, coupling, planted):
    moments, target, shy = planted
    edit = dx.forget(model, moments, ["b"], device="cpu")
    removed = dx.forget(model, moments, ["b"], remove=True, device="cpu")
    assert edit.components[target] == later(score(model, coupling, moments))[target]
    assert not edit.components[shy]
    np.testing.assert_array_equal(edit.components, removed.components)
    assert edit.sparsity == 0 < removed.sparsity


def test_magnitude_ranks_small_filters_low(model, coupling):
    proto = dx.load(model.path).proto
    (weight,) = (t for t in proto.graph.initializer if t.name == "blocks.4.first.0.weight")
    array = numpy_helper.to_array(weight).copy()
    array[5] *= 1e-3
    weight.raw_data = array.tobytes()
    changed = analyse(proto)
    (group,) = (g for g in changed.groups if g.name == weight.name)
    for order in (1, 2):
        norms = magnitude(changed, order)[group.components]
        assert norms.argmin() == 5
        expected = np.linalg.norm(array.reshape(len(array), -1), ord=order, axis=1)
        np.testing.assert_allclose(norms, expected / expected.mean(), rtol=1e-6)


def test_chance_is_seeded(coupling):
    assert (chance(coupling, 1) == chance(coupling, 1)).all()
    assert (chance(coupling, 1) != chance(coupling, 2)).any()
