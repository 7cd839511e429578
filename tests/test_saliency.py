"""From moments to scores, and what pruning and forgetting choose by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import discedit_onnx as dx
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.placement import place_taps, tap_components
from discedit_onnx.editing.forgetting.classes import find_class, find_classes
from discedit_onnx.editing.forgetting.components import (
    Amount,
    choose,
    later,
    most_specific,
    specific_steps,
    specificity,
)
from discedit_onnx.editing.order import Limits
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.scoring.comparison import Pairs
from discedit_onnx.scoring.layers import carriers, extremes, layers, ldiff
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
    empty = Moments.empty(taps, CLASSES, model.hash, features=("mean", "mean_square"))
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
    assert set(REDUCTIONS) == {"min", "mean", "max", "pairwise-min", "pairwise-mean"}
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


@pytest.mark.parametrize("wrong", [{"tensor": "nowhere"}, {"axis": 9, "rank": 10}, {"length": 4}])
@pytest.mark.parametrize("criterion", ["fisher", "energy"])
def test_taps_that_the_model_does_not_have(model, planted, wrong, criterion):
    """The hash is the model's, so a file says: but anyone can write it."""
    moments = planted[0]
    first = replace(moments.taps[0], **wrong)
    moments = replace(moments, taps=(first, *moments.taps[1:]))
    if "length" in wrong:
        channels = {n: getattr(moments, n)[:, 12:] for n in ("mean", "comoment")}
        moments = replace(moments, **channels)
    with pytest.raises(DataError, match=r"moments are of .* which the model does not have.*again"):
        dx.prune(model, moments, sparsity=0.05, criterion=criterion)


def test_later_layers_are_the_last_half_of_the_taps(model, coupling, planted):
    scores = score(model, coupling, planted[0])
    late = later(scores)
    names = {group.name: late[group.components] for group in coupling.groups}
    assert not names["stem.0.weight"].any(), "the first spine is consumed early"
    assert names["blocks.8.first.0.weight"].all()
    assert 0.2 < late.mean() < 0.8


def test_most_specific_takes_a_share_of_the_candidates_and_only_positive_ones(coupling):
    values = np.zeros(coupling.size)
    values[:6] = 0.9, 0.8, -0.1, 0.7, 0.6, 0.0
    candidates = np.zeros(coupling.size, dtype=bool)
    candidates[[0, 2, 3, 4, 5]] = True

    def taken(values, candidates, share):
        nothing = np.zeros(coupling.size, dtype=bool)
        steps = specific_steps(coupling, values, candidates, nothing, Limits())
        amount = Amount("share", share)
        chosen = most_specific(values, candidates, amount, steps, coupling.group_of)
        return np.flatnonzero(chosen).tolist()

    assert taken(values, candidates, 0.4) == [0, 3]
    assert taken(values, candidates, 0.99) == [0, 3, 4]
    assert taken(-values, ~candidates, 0.5) == []


def test_a_group_is_never_emptied(coupling):
    everything = np.ones(coupling.size, dtype=bool)
    values = np.random.default_rng(0).random(coupling.size)
    steps = specific_steps(coupling, values, everything, ~everything, Limits())
    left = everything.copy()
    left[np.concatenate(steps)] = False
    for group in coupling.groups:
        assert left[group.components].sum() == 1
        assert left[group.components[values[group.components].argmin()]]


def fits(width, left, multiple):
    """Whether a group may be left so wide: see `Limits.round_to`."""
    while multiple > 1 and width < 2 * multiple:
        multiple //= 2
    return left == width or left % multiple == 0 or (left > 0 and multiple % left == 0)


@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
@pytest.mark.parametrize("amount", [("share", 0.08), ("share", 0.5), ("count", 3)])
def test_specific_components_leave_widths_that_kernels_like(coupling, multiple, amount):
    """Also where several classes, one after the other, take components of one group."""
    generator = np.random.default_rng(multiple)
    everything = np.ones(coupling.size, dtype=bool)
    gone = ~everything
    for _ in range(3):
        values = generator.uniform(-0.5, 1, coupling.size)
        steps = specific_steps(coupling, values, everything, gone, Limits(multiple))
        chosen = most_specific(values, everything, Amount(*amount), steps, coupling.group_of)
        assert (values[chosen] > 0).all()
        if amount[0] == "share":
            assert chosen.sum() - round(amount[1] * coupling.size) < multiple
        gone |= chosen
        for group in coupling.groups:
            width = len(group.components)
            assert fits(width, int((~gone[group.components]).sum()), multiple)


def test_classes_by_index_and_by_name():
    names = ("cat", "dog", "7")
    assert find_class(names, 1) == find_class(names, "1") == find_class(names, "dog") == 1
    assert find_class(names, "7") == 2, "a name goes before a number"
    for wrong in (-1, 3, "cow", "1.5"):
        with pytest.raises(UsageError, match="0 cat, 1 dog, 2 7"):
            find_class(names, wrong)


def test_forgetting_refuses_all_classes_and_odd_shares():
    with pytest.raises(UsageError, match="leave at least one"):
        find_classes(CLASSES, [0, 1, 2])
    for share in (0, 1, -0.5):
        with pytest.raises(UsageError, match="share"):
            Amount("share", share)


def test_forgetting_takes_the_planted_component(model, coupling, planted):
    moments, target, shy = planted
    scores = score(model, coupling, moments)
    edited = choose(scores, coupling, [1], np.ones(coupling.size, dtype=bool), Amount())
    assert edited.any()
    assert edited[target] == later(scores)[target]
    assert not edited[shy]


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


# Comparisons, reductions, layers


def test_reductions_of_classes_and_of_pairs(model, coupling, planted):
    moments = planted[0]
    rest = score(model, coupling, moments)
    pairs = score(model, coupling, moments, comparison=Pairs((0, 1, 2)))
    assert pairs.sides == (("a", "b"), ("a", "c"), ("b", "c"))
    assert rest.sides == (("a", "rest"), ("b", "rest"), ("c", "rest"))
    joined = rest.per_component(rest.bounds)
    ordered = np.sort(joined, axis=1)
    np.testing.assert_allclose(saliency(rest, "top-1"), saliency(rest, "max"))
    np.testing.assert_allclose(saliency(rest, "top-2"), ordered[:, 1:].mean(axis=1))
    np.testing.assert_allclose(saliency(rest, "top-9"), saliency(rest, "mean"))
    each = pairs.per_component(pairs.bounds)
    np.testing.assert_allclose(saliency(pairs, "pairwise-min"), each.min(axis=1))
    np.testing.assert_allclose(saliency(pairs, "pairwise-mean"), each.mean(axis=1))
    for scores, wrong in ((rest, "pairwise-min"), (pairs, "max"), (pairs, "top-2")):
        with pytest.raises(UsageError, match="score these"):
            saliency(scores, wrong)
    for name in ("median", "top-0", "top-", "top-k"):
        with pytest.raises(UsageError, match="no reduction named"):
            saliency(rest, name)


@pytest.mark.parametrize("join", ["max", "mean", "min", "top-3", "pairwise-min", "pairwise-mean"])
def test_no_bounds_are_not_joined(model, coupling, planted, join):
    """Of the totals of all classes there is no bound; of one class, none of pairs."""
    mixed = planted[0]
    kept = {"(all)": [-1], "a": [0], "a, (other)": [0, -1]}
    for names, index in kept.items():
        moments = replace(
            mixed, class_names=tuple(names.split(", ")), class_index=np.array(index),
            **{name: getattr(mixed, name)[: len(index)] for name in ("count", "mean", "comoment")},
        )  # fmt: skip
        if names != "(all)" and "pairwise" not in join:
            assert np.isfinite(dx.prune(model, moments, sparsity=0.05, join=join).sparsity)
            continue
        with pytest.raises(DataError, match=r"classes one by one.*--classes.*criterion"):
            dx.prune(model, moments, sparsity=0.05, join=join, criterion="fisher")


def test_pruning_joins_classes_as_asked(model, coupling, planted):
    """Of two filters the one goes that says less: of all pairs, or of any class."""
    removed = {
        join: dx.prune(
            model, planted[0], sparsity=0.05, criterion="sharp", join=join, device="cpu"
        ).components
        for join in ("max", "pairwise-mean")
    }
    assert (removed["max"] != removed["pairwise-mean"]).any()
    for join, comparison in (("max", None), ("pairwise-mean", Pairs((0, 1, 2)))):
        scores = score(model, coupling, planted[0], "sharp", comparison=comparison)
        found = saliency(scores, join)
        assert found[removed[join]].max() < np.median(found)
    for criterion, join in (("l1", "min"), ("fisher", "median")):
        with pytest.raises(UsageError, match=join):
            dx.prune(model, planted[0], sparsity=0.05, criterion=criterion, join=join)


def test_a_component_that_tells_one_class_of_three_apart_is_not_lost(model, coupling, planted):
    """The published minimum over classes would call it useless if any pair shared its law."""
    moments, target, _ = planted
    pairs = score(model, coupling, moments, comparison=Pairs((0, 1, 2)))
    rest = score(model, coupling, moments)
    assert saliency(pairs, "pairwise-min")[target] < 0.2 < saliency(rest)[target]
    assert saliency(rest).argsort()[-2:].tolist().count(target) == 1


def test_a_table_that_would_not_fit_is_refused(model, coupling, planted):
    class Many(Pairs):
        def __len__(self) -> int:
            return 10**9

    with pytest.raises(UsageError, match="name fewer classes"):
        score(model, coupling, planted[0], comparison=Many((0, 1)))


def test_ldiff_of_mixed_and_uniform_layers():
    assert ldiff(np.array([0.4, 0.4, 0.4])) == 0
    assert ldiff(np.zeros(3)) == 0
    assert ldiff(np.array([0.0, 0.0, 0.7])) == 1
    assert ldiff(np.array([0.1, 0.1, 0.3, 0.3])) == pytest.approx(0.5)
    low, high = np.array([0.2, 0.25, 0.3]), np.array([0.05, 0.1, 0.6])
    assert ldiff(low) < ldiff(high)


def test_layers_extremes_and_carriers_find_what_was_planted(model, coupling, planted):
    moments, target, shy = planted
    scores = score(model, coupling, moments)
    found = layers(scores)
    assert [layer.tap for layer in found] == list(scores.taps)
    for layer in found:
        best = scores.bounds[scores.slices[layer.tap.tensor]].max(axis=1)
        assert layer.quantiles[0] == best.min()
        assert layer.quantiles[-1] == best.max()
        assert list(layer.quantiles) == sorted(layer.quantiles)
    most, least = extremes(scores, 4)
    assert {*scores.component[most]} <= {target, shy}
    best = scores.bounds.max(axis=1)
    assert best[least].tolist() == sorted(best[least])
    assert best[least].max() <= best[scores.component >= 0].min() + 0.01
    number = carriers(scores)
    assert number[1] < number[0], "b leans on the planted component"
    positive = scores.per_component(scores.bounds * (scores.signs > 0))
    ordered = np.sort(positive, axis=0)[::-1]
    for column in range(3):
        total = positive[:, column].sum()
        assert ordered[: number[column], column].sum() >= 0.5 * total - 1e-9
        assert ordered[: number[column] - 1, column].sum() < 0.5 * total
