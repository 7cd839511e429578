"""What programs pass to the library by mistake: told in one line, before any work."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from onnx import helper
from tiny_models import CLASS_NAMES, classifier, saved, write_images

import discedit_onnx as dx
from discedit_onnx.calibration.gathering import Wanted
from discedit_onnx.calibration.shards import Shard
from discedit_onnx.editing.forget import find_columns
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.errors import UsageError, first_line
from discedit_onnx.evaluation import predict


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    proto = classifier()
    helper.set_model_props(proto, {"discedit.class_names": json.dumps(CLASS_NAMES)})
    return saved(proto, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return dx.open_data(model, write_images(tmp_path_factory.mktemp("images")))


def refused(says, function, *arguments, **options):
    with pytest.raises(UsageError) as caught:
        function(*arguments, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strength", [math.inf, -math.inf, math.nan])
def test_a_strength_is_finite(strength):
    refused(f"strength {strength} is not a finite number", dx.Way, strength=strength)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_error_that_can_not_be_told_is_named():
    assert first_line(Unspeakable()) == "Unspeakable"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == ""


@pytest.mark.parametrize("name", ["ranking", "refit"])
def test_names_that_there_are_not(model, data, name):
    says = f"no {name} 'x'; there are "
    for given in ({}, {"data": data}):
        refused(says, dx.prune, model, sparsity=0.1, criterion="l1", **{name: "x"}, **given)


def test_budgets():
    refused("no budget of 'x'; there are sparsity, macs, size, latency", dx.Budget, "x", 0.1)
    refused("'10%' is no number; Budget.parse reads such text", dx.Budget, "macs", "10%")
    assert dx.Budget("macs", np.float32(0.5)).amount == 0.5


def test_a_sparsity_is_a_number(model):
    refused("'10%' is no number; Budget.parse reads", dx.prune, model, sparsity="10%")


@pytest.mark.parametrize("number", [0, -1])
def test_counts_start_at_one(model, data, number):
    says = f"{number}: give a number from 1 on"
    for name in ("round_to", "min_channels"):
        refused(f"{name} {says}", dx.Limits, **{name: number})
    for function in (dx.calibrate, dx.evaluate, predict):
        refused(f"batch_size {says}", function, model, data, batch_size=number)
    refused(f"rounds {says}", dx.prune, model, sparsity=0.1, criterion="l1", rounds=number)


@pytest.mark.parametrize("number", [1.5, "2", None])
def test_counts_are_whole_numbers(model, data, number):
    says = f"{number!r} is no whole number"
    for name in ("round_to", "min_channels"):
        refused(f"{name} {says}", dx.Limits, **{name: number})
    refused(f"--round-to {says}", dx.Way, round_to=number)
    for function in (dx.calibrate, dx.evaluate, predict):
        refused(f"batch_size {says}", function, model, data, batch_size=number)
    for name in ("rounds", "seed"):
        refused(f"{name} {says}", dx.prune, model, sparsity=0.1, criterion="l1", **{name: number})
    refused(f"seed {says}", dx.open_data, model, data.source.name, seed=number)
    if number is not None:
        refused(
            f"num_samples {says}", dx.open_data, model, data.source.name, num_samples=number
        )  # fmt: skip
    refused(f"classes {says}", Wanted, classes=(number,))
    for both in ((number, 2), (1, number)):
        refused(says, Shard, *both)


def test_a_seed_is_not_negative(model, data):
    refused("seed -1: give a number from 0 on", dx.open_data, model, data.source.name, seed=-1)
    refused("seed -1: give a", dx.prune, model, sparsity=0.1, criterion="random", seed=-1)
    refused("num_samples 0: give a", dx.open_data, model, data.source.name, num_samples=0)
    assert dx.prune(model, sparsity=0.1, criterion="random", seed=np.int64(1)).sparsity >= 0.1


@pytest.mark.parametrize("number", ["a", None, [0.1], 10**400])
def test_what_is_no_number(model, data, number):
    moments = dx.calibrate(model, data)
    says = "is no number" if number != 10**400 else "is not a finite number"
    refused(says, dx.Budget, "macs", number)
    refused(says, Amount, "share", number)
    refused(says, dx.Way, max_drop=number)
    if number is not None:
        refused(says, dx.Way, strength=number)
        refused(says, dx.score, model, moments, confidence=number)
        refused(says, dx.prune, model, sparsity=number)


def test_flags_are_true_or_false():
    for name in ("remove", "refit", "keep_head", "refit_head", "drop_output"):
        refused(f"{name} 'yes': give True or False", dx.Way, **{name: "yes"})


@pytest.mark.parametrize("budget", [0.5, "50%"])
def test_a_budget_has_a_kind(model, budget):
    refused(f'budget {budget!r}: give one as Budget("macs", 0.5)', dx.prune, model, budget=budget)


def test_names_that_are_no_text(model, data):
    moments = dx.calibrate(model, data)
    refused(
        "no criterion named '5'; there are", dx.prune, model, moments, sparsity=0.1, criterion=5
    )
    refused("no reduction named None; there are", dx.prune, model, moments, sparsity=0.1, join=None)


def test_what_is_wanted_is_there():
    refused("--features foo: no such feature; there are mean", Wanted, ("foo",))
    refused("features (): name one", Wanted, ())
    refused("features ('mean', 'mean'): name one", Wanted, ("mean", "mean"))
    for name in ("features", "classes"):
        refused(f"{name} 3 is no sequence", Wanted, **{name: 3})
    refused("only None is no sequence", dx.Limits, only=None)


def test_one_string_where_several_are_taken(model, data):
    for name in ("only", "exclude"):
        refused(f"{name} 'w1' is one string; give ('w1',)", dx.Limits, **{name: "w1"})
    refused("providers 'cpu' is one", dx.calibrate, model, data, providers="cpu")
    refused("features 'mean' is one", Wanted, features="mean")


def test_one_class_needs_no_list(model):
    assert find_columns(model, None, "bee")[1] == [1]
    assert find_columns(model, None, "cat, bee")[1] == [2, 1]
    assert find_columns(model, None, 1)[1] == [1]
    assert find_columns(model, None, np.int64(2))[1] == [2]
    assert find_columns(model, None, np.array([2, 0]))[1] == [2, 0]
    assert find_columns(model, None, {2})[1] == [2]


@pytest.mark.parametrize("wrong", [1.0, True, np.float32(1.7), np.True_, None])
def test_what_is_no_class(model, wrong):
    for classes in (wrong, [wrong]):
        refused(f"no class {wrong!r}; there are 0 ant", find_columns, model, None, classes)


def test_moments_that_are_missing():
    with pytest.raises(UsageError, match=r"^level features needs moments, or images"):
        dx.Way().check_sources(moments=False, data=False)


@pytest.mark.parametrize("kind", ["share", "count", "deviations"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_amount_is_finite(kind, value):
    with pytest.raises(UsageError, match="not a finite number"):
        Amount(kind, value)
