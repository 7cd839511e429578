"""Plans as files: what is read back is what was written, and nothing else is read."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan_values import planned
from topologies import TOPOLOGIES

from discedit_onnx.editing.plan import Bias, Cut, Plan, Update, plan_removal, plan_zeroing
from discedit_onnx.editing.plan_file import load_plan
from discedit_onnx.editing.surgery import apply
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.coupling import analyse

NAMES = (
    "residual_identity",
    "conv_depthwise[multiplier=2]",
    "split_unequally[form=input]",
    "half_precision[constants=node]",
    "gate_of_a_normalised_half[kind=LayerNormalization]",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("planner", [plan_removal, plan_zeroing])
@pytest.mark.parametrize("reach", [Reach(), Reach(inexact=True)], ids=str)
def test_a_plan_that_was_read_back_gives_the_same_bytes(tmp_path, name, planner, reach):
    coupling = analyse(TOPOLOGIES[name].build(), reach)
    plan = planner(coupling, np.arange(coupling.size) % 2 == 1, "abc")
    plan.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert again.reach == reach
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    proto = coupling.view.proto
    a, b = (apply(proto, p).SerializeToString(deterministic=True) for p in (plan, again))
    assert a == b


@pytest.mark.parametrize("name", NAMES)
def test_new_values_lie_beside(tmp_path, name):
    _, _, plan = planned(name, 0)
    assert plan.updates
    for file in ("a.json", "b.json"):
        plan.save(tmp_path / file)
    assert load_plan(tmp_path / "a.json") == plan
    assert len(list(tmp_path.iterdir())) == 4
    a, b = ((tmp_path / f"{stem}.safetensors").read_bytes() for stem in "ab")
    assert a == b


dtypes = st.sampled_from(
    [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, ml_dtypes.bfloat16]
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dtypes, st.lists(st.integers(0, 3), max_size=4), st.integers(0, 99))
def test_any_values(tmp_path, dtype, shape, seed):
    values = np.random.default_rng(seed).normal(0, 50, shape).astype(dtype)
    plan = Plan("s", updates=(Update("ü", values),), biases=(Bias("b", values.reshape(-1)),))
    plan.save(tmp_path / "p.json", force=True)
    assert load_plan(tmp_path / "p.json") == plan


def test_plans_that_differ_in_a_value_differ():
    a, b, c = (
        Plan("s", updates=(Update("w", np.array([x], dtype)),))
        for x, dtype in ((1, np.float32), (2, np.float32), (1, np.float64))
    )
    assert a == replace(a)
    assert a != b
    assert a != c
    assert Plan("s", updates=(Update("w", np.array([np.nan])),)) == Plan(
        "s", updates=(Update("w", np.array([np.nan])),)
    )


def test_files_are_not_overwritten(tmp_path):
    _, _, plan = planned(NAMES[0], 0)
    path = tmp_path / "plan.json"
    plan.save(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        plan.save(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"plan\.safetensors.*--force"):
        plan.save(path)
    plan.save(path, force=True)
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="no such folder"):
        plan.save(tmp_path / "none" / "plan.json")
    with pytest.raises(UsageError, match="is a folder"):
        plan.save(tmp_path)
    with pytest.raises(UsageError, match=r"call it plan\.json"):
        plan.save(tmp_path / "plan.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "7", "null", "[" * 100_000, '{"format": 1}', '{"format": 2, "source": "x"}',
     b"\xff\xfe\x00"],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="plan"):
        load_plan(path)


def test_a_missing_plan(tmp_path):
    with pytest.raises(DataError, match="no such plan"):
        load_plan(tmp_path / "plan.json")


DAMAGE = {
    ("cuts", 0, "tensor"): 7,
    ("cuts", 0, "axis"): -1,
    ("cuts", 0, "indices"): [2, 1],
    ("cuts", 0, "indices", 0): 1.5,
    ("updates", 0, "shape"): [1],
    ("updates", 0, "dtype"): "float64",
    ("updates",): [],
    ("exact",): "yes",
    ("reach", "further"): True,
    ("source",): None,
    ("arrays", "sha256"): "0" * 64,
}


@pytest.mark.parametrize("place", DAMAGE, ids=str)
def test_damage_is_noticed(tmp_path, place):
    _, _, plan = planned(NAMES[0], 0)
    path = tmp_path / "plan.json"
    plan.save(path)
    fields = json.loads(path.read_text())
    part = fields
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = DAMAGE[place]
    path.write_text(json.dumps(fields))
    with pytest.raises(DataError, match=r"plan\.json: "):
        load_plan(path)


@pytest.mark.parametrize("how", ["missing", "other", "truncated"])
def test_values_that_are_not_those_written(tmp_path, how):
    _, _, plan = planned(NAMES[0], 0)
    path = tmp_path / "plan.json"
    plan.save(path)
    beside = tmp_path / "plan.safetensors"
    if how == "missing":
        beside.unlink()
    else:
        content = beside.read_bytes()
        beside.write_bytes(content[:-8] + bytes(8) if how == "other" else content[:-8])
    with pytest.raises(DataError, match=r"plan\.json: "):
        load_plan(path)


@pytest.mark.parametrize("index", [2**53, 2**63 - 1, 10**30])
def test_an_index_beyond_all_lengths_is_refused(index, tmp_path):
    """Added to others it would overflow."""
    Plan("", cuts=(Cut("w", 0, (1, 2)),)).save(tmp_path / "p.json")
    fields = json.loads((tmp_path / "p.json").read_text())
    fields["cuts"][0]["indices"][1] = index
    (tmp_path / "p.json").write_text(json.dumps(fields))
    with pytest.raises(DataError):
        load_plan(tmp_path / "p.json")
