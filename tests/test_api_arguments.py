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
from discedit_onnx.editing.forget import find_columns
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.errors import DataError, UsageError, first_line
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


def test_one_string_where_several_are_taken(model, data):
    for name in ("only", "exclude"):
        refused(f"{name} 'w1' is one string; give ('w1',)", dx.Limits, **{name: "w1"})
    refused("providers 'cpu' is one", dx.calibrate, model, data, providers="cpu")
    refused("features 'mean' is one", Wanted, features="mean")


def test_one_class_needs_no_list(model):
    assert find_columns(model, None, "bee")[1] == [1]
    assert find_columns(model, None, "cat, bee")[1] == [2, 1]


def test_moments_that_are_missing():
    with pytest.raises(DataError, match=r"^level features needs moments, or images"):
        dx.Way().check_sources(moments=False, data=False)


@pytest.mark.parametrize("kind", ["share", "count", "deviations"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_amount_is_finite(kind, value):
    with pytest.raises(UsageError, match="not a finite number"):
        Amount(kind, value)
