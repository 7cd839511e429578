"""Forgetting on a sample model: levels, methods, strength, removal, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tiny_models import saved

import discedit_onnx as dx
from discedit_onnx.calibration.data import Dataset
from discedit_onnx.calibration.gathering import Wanted
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.editing.forgetting.erasers import leace_map, svd_map
from discedit_onnx.editing.forgetting.head import find_head
from discedit_onnx.editing.forgetting.inputs import gather_features, gather_rows
from discedit_onnx.editing.forgetting.spans import later_layers
from discedit_onnx.editing.forgetting.strength import (
    Judge,
    Search,
    Trial,
    search_strength,
    split,
)
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.errors import DataError, UsageError
from discedit_onnx.graph.view import View

SAMPLES = Path(__file__).parents[1] / "sample_models"
GONE = 3
FEATURES_ALONE = Way(keep_head=True)


@pytest.fixture(scope="module")
def model():
    return dx.load(SAMPLES / "fashion_resnet20.onnx")


@pytest.fixture(scope="module")
def data(model):
    """40 images of each class."""
    found = dx.open_data(model, SAMPLES / "fashion_mnist/calibration")
    return found.take(np.flatnonzero(np.arange(len(found)) % 120 < 40))


@pytest.fixture(scope="module")
def moments(model, data):
    return dx.calibrate(model, data, device="cpu", wanted=Wanted(second=True))


@pytest.fixture(scope="module")
def test_images(model):
    """30 images of each class: inputs and labels."""
    found = dx.open_data(model, SAMPLES / "fashion_mnist/test")
    (batch,) = found.take(np.flatnonzero(np.arange(len(found)) % 250 < 30)).batches(300)
    return dict(batch.feeds), batch.labels


def logits(proto, test_images):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, test_images[0])[0]


def accuracies(proto, test_images):
    """Forget and retain accuracy."""
    labels = test_images[1]
    right = logits(proto, test_images).argmax(axis=1) == labels
    return right[labels == GONE].mean(), right[labels != GONE].mean()


def hidden(proto, test_images):
    """Retain accuracy of a model with the class's logit hidden."""
    values, labels = logits(proto, test_images).copy(), test_images[1]
    values[:, GONE] = -np.inf
    return (values.argmax(axis=1) == labels)[labels != GONE].mean()


@pytest.mark.parametrize("level", ["output", "head"])
def test_the_head_forgets_and_the_rest_does_not_notice(model, test_images, level):
    edit = dx.forget(model, None, [GONE], Way(level), device="cpu")
    forget, retain = accuracies(edit.proto, test_images)
    assert forget == 0
    assert retain == hidden(model.proto, test_images)
    assert edit.equality.deviation <= edit.equality.tolerance
    assert edit.changed < 0.01


def test_the_features_forget_without_the_head(model, moments, test_images):
    """With the original head, which is what an attacker who holds it would put back."""
    before, _ = accuracies(model.proto, test_images)
    edit = dx.forget(model, moments, ["dress"], FEATURES_ALONE, device="cpu")
    forget, retain = accuracies(edit.proto, test_images)
    assert before > 0.9
    assert forget < 0.2
    assert retain > hidden(model.proto, test_images) - 0.02
    assert "head.weight" not in edit.layers
    whole = dx.forget(model, moments, ["dress"], device="cpu")
    assert "head.weight" in whole.layers
    assert accuracies(whole.proto, test_images)[0] == 0
    again = dx.forget(model, moments, [GONE], device="cpu")
    assert again.proto.SerializeToString() == whole.proto.SerializeToString()


def test_stronger_forgets_more(model, moments, test_images):
    found = [
        accuracies(
            dx.forget(
                model, moments, [GONE], replace(FEATURES_ALONE, strength=s), device="cpu"
            ).proto,
            test_images,
        )[0]
        for s in (0.0, 0.5, 1.5)
    ]
    assert found[0] == accuracies(model.proto, test_images)[0]
    assert found[0] > found[1] > found[2]


def test_several_classes(model, moments, test_images):
    edit = dx.forget(model, moments, ["0,6", "dress"], device="cpu")
    assert edit.classes == (0, 6, 3)
    values, labels = logits(edit.proto, test_images), test_images[1]
    assert not np.isin(values.argmax(axis=1), edit.classes).any()
    rest = ~np.isin(labels, edit.classes)
    assert (values.argmax(axis=1) == labels)[rest].mean() > 0.93


def test_the_strength_is_found_on_held_out_images(model, moments, data, test_images):
    fitted, held_out = split(data)
    assert not set(fitted.index.tolist()) & set(held_out.index.tolist())
    assert np.bincount(held_out.labels).tolist() == [10] * 10
    loose = dx.forget(model, moments, [GONE], Way(max_drop=0.1), data=data, device="cpu")
    tight = dx.forget(model, moments, [GONE], Way(max_drop=0.0), data=data, device="cpu")
    for edit, drop in ((loose, 0.1), (tight, 0.0)):
        search = edit.search
        assert isinstance(search, Search)
        assert (search.forget_images, search.retain_images) == (10, 90)
        first = search.trials[0]
        assert first.value == 0
        assert edit.strength == search.chosen
        able = [t for t in search.trials[1:] if t.retain >= first.retain - max(drop, 1 / 90)]
        (taken,) = (t for t in search.trials if t.value == search.chosen)
        assert taken in able
        best = min(t.forget for t in able)
        near = best + max(np.sqrt(best * (1 - best) / 10), 0.1)
        assert taken.forget <= near
        assert all(t.forget > near for t in able if t.value < taken.value)
    assert loose.equality.origin == "images"
    named = dx.forget(model, moments, [GONE], Way(strength=loose.strength), data=data, device="cpu")
    assert named.search is None
    assert named.proto == loose.proto


def test_no_strength_is_cheap_enough(model, moments, data, monkeypatch):
    monkeypatch.setattr("discedit_onnx.editing.forgetting.strength.STRENGTHS", (40.0,))
    with pytest.raises(DataError, match="no strength from 40 costs the other classes 1 points"):
        dx.forget(model, moments, [GONE], data=data, device="cpu")


class Known(Judge):
    """Of 400 images to forget and 225 others; a model is the retained images it puts right."""

    counts = (400, 225)

    def measure(self, proto, value):
        return Trial(value, 1.0 - min(value, 1.0), proto.mean()), proto


def test_a_drop_within_the_error_of_few_images_is_taken_where_there_is_none_smaller():
    start = np.ones(225, bool)

    def search(made):
        judge = Known(None, None, [0], 0.01, "cpu", 64)
        return search_strength(judge, lambda strength: made.get(strength, made[0.25]))

    def wrong(number):
        right = start.copy()
        right[:number] = False
        return right

    within = search({0.0: start, 0.25: wrong(4), 0.5: wrong(2), 0.75: wrong(2)})
    assert within.chosen == 0.75  # 2 of 225 are within a point
    assert within.drop < 0.01
    near = search({0.0: start, 0.25: wrong(4), 1.0: wrong(3)})
    assert near.chosen == 1.0  # 3 are not, but no more than a point and an error
    assert near.drop > 0.01
    assert near.trials[4].error == pytest.approx(np.sqrt(3 * 222) / 225 / 15)
    with pytest.raises(DataError, match="no strength from"):
        search({0.0: start, 0.25: wrong(20)})


def test_too_few_images_to_hold_any_out(model, moments, data):
    few = data.take(np.flatnonzero(np.arange(len(data)) % 40 < 3))
    with pytest.raises(DataError, match="--strength"):
        dx.forget(model, moments, [GONE], data=few, device="cpu")


@pytest.mark.parametrize("method", ["svd", "leace"])
def test_methods_that_need_images(model, moments, data, test_images, method):
    with pytest.raises(UsageError, match=f"--method {method} needs second moments"):
        dx.forget(model, moments, [GONE], Way(method=method), device="cpu")
    way = Way(method=method, strength=1.0)
    edit = dx.forget(model, moments, [GONE], way, data=data, device="cpu")
    forget, retain = accuracies(edit.proto, test_images)
    assert forget == 0
    assert retain > 0.9


def test_leace_leaves_no_difference_of_means(model, data):
    """At strength 1, in what the edited layers read, on the images that it was fitted to."""
    view = View(model.proto)
    head = find_head(view, "logits", 10)
    layers = [layer for layer, _ in later_layers(view, head)]
    for retained, gone in gather_rows(view, layers, data, [GONE], "cpu", 64):
        matrix, offset = leace_map(retained, gone, 1.0)
        before = gone.mean - retained.mean
        after = before @ matrix
        assert np.linalg.norm(after) < 1e-6 * np.linalg.norm(before)
        assert (retained.count, gone.count) == (9 * gone.count, retained.count // 9)
        both = retained.merge(gone)
        np.testing.assert_allclose(both.mean @ matrix + offset, both.mean, atol=1e-9)


def test_the_svd_is_the_formula_of_the_paper(model, data):
    """What rows of the head are multiplied with, strength 1: of retained ones a scale of 100."""
    view = View(model.proto)
    head = find_head(view, "logits", 10)
    (moments,) = gather_rows(view, [head], data, [GONE], "cpu", 64)
    matrix, offset = svd_map(*moments, 1.0)
    features, labels = gather_features(model.proto, head, data, "cpu", 64)
    scaled = []
    for rows, scale in ((features[labels != GONE], 100.0), (features[labels == GONE], 3.0)):
        _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
        share = sizes**2 / (sizes**2).sum()
        importance = scale * share / ((scale - 1) * share + 1)
        scaled.append((directions.T * importance) @ directions)
    retained, gone = scaled
    unit = np.eye(len(retained))
    np.testing.assert_allclose(matrix, unit - gone @ (unit - retained), atol=1e-6)
    assert not offset.any()


def test_no_layer_but_the_head_can_be_edited(tmp_path):
    """All others are convolutions of two groups: the SVD leaves them, and the head is projected."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        grouped (float[N, 2, 2, 2] x) => (float[N, 3] logits) {
            first = Conv<group = 2>(x, w1)
            h = Relu(first)
            second = Conv<group = 2>(h, w2)
            r = Relu(second)
            p = GlobalAveragePool(r)
            pooled = Flatten(p)
            logits = Gemm(pooled, w3)
        }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 1, 1, 1), "w2": (8, 4, 1, 1), "w3": (8, 3)}.items():
        weights = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weights, name))
    x, y = rng.normal(size=(60, 2, 2, 2)).astype(np.float32), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", x=x, y=y)
    model = saved(proto, tmp_path)
    data = dx.open_data(model, tmp_path / "data.npz")
    way = Way(method="svd", strength=1.0)
    edit = dx.forget(model, dx.calibrate(model, data, device="cpu"), [1], way, data=data)
    assert [update.tensor for update in edit.plan.updates] == ["w3"]


def test_the_later_layers_and_their_depth(model):
    view = View(model.proto)
    head = find_head(view, "logits", 10)
    found = later_layers(view, head)
    depths = [depth for _, depth in found]
    assert depths == sorted(depths)
    assert 0 < depths[0] < depths[-1] < 1
    assert 6 <= len(found) <= 8
    assert head not in [layer for layer, _ in found]


def test_the_head_is_refitted_to_the_others(model, moments, data, test_images):
    way = Way(refit_head=True, strength=1)
    edit = dx.forget(model, moments, [GONE], way, data=data, device="cpu")
    forget, retain = accuracies(edit.proto, test_images)
    assert forget == 0
    assert retain > hidden(model.proto, test_images) - 0.02
    few = data.take(np.flatnonzero(data.labels != 5))
    with pytest.raises(DataError, match="no images of 1 classes; leave out --refit-head"):
        dx.forget(model, moments, [GONE], way, data=few, device="cpu")
    with pytest.raises(UsageError, match="--refit-head needs images"):
        dx.forget(model, moments, [GONE], way, device="cpu")


@pytest.mark.parametrize("remove", [False, True])
def test_components_go_and_are_made_up_for(model, moments, test_images, remove):
    way = Way(method="components", remove=remove, amount=Amount("share", 0.1))
    plain = dx.forget(model, moments, [GONE], replace(way, refit=False), device="cpu")
    edit = dx.forget(model, moments, [GONE], way, device="cpu")
    np.testing.assert_array_equal(plain.components, edit.components)
    assert accuracies(edit.proto, test_images)[0] == 0
    lost, left = (accuracies(e.proto, test_images)[1] for e in (plain, edit))
    assert left > lost + 0.01
    smaller = edit.parameters[1] < 0.9 * edit.parameters[0]
    assert smaller == remove


def test_as_much_is_removed_as_the_others_allow(model, moments, data, test_images):
    way = Way(remove=True, strength=1)
    edit = dx.forget(model, moments, [GONE], way, data=data, device="cpu")
    forget, retain = accuracies(edit.proto, test_images)
    assert forget == 0
    assert retain > hidden(model.proto, test_images) - 0.025
    first, *tried = edit.removal.trials
    able = [t.value for t in tried if t.retain >= first.retain - 1 / 90]
    assert edit.removal.chosen == max(able)
    assert edit.sparsity > 0.01
    named = replace(way, amount=Amount("share", edit.removal.chosen))
    again = dx.forget(model, moments, [GONE], named, data=data, device="cpu")
    np.testing.assert_array_equal(again.components, edit.components)
    assert again.removal is None


def test_what_is_removed_leaves_widths_that_kernels_like(model, moments, test_images):
    """As few steps as the share asks for, of the components that are most specific."""
    way = Way(remove=True, amount=Amount("share", 0.1))
    found = {
        multiple: dx.forget(model, moments, [GONE], replace(way, round_to=multiple), device="cpu")
        for multiple in (1, 4, 8)
    }
    assert any(after % 4 for _, _, after in found[1].groups)
    for multiple in (4, 8):
        edit = found[multiple]
        assert all(after % multiple == 0 for _, before, after in edit.groups if after < before)
        assert 0 <= edit.components.sum() - found[1].components.sum() < multiple
        forget, retain = accuracies(edit.proto, test_images)
        assert forget == 0
        assert retain > hidden(model.proto, test_images) - 0.04
    both = found[1].components & found[4].components
    assert both.sum() > 0.8 * found[1].components.sum()
    silenced = Way(method="components", amount=way.amount)
    any_width = dx.forget(model, moments, [GONE], silenced, device="cpu")
    rounded = dx.forget(model, moments, [GONE], replace(silenced, round_to=8), device="cpu")
    np.testing.assert_array_equal(rounded.components, any_width.components)


def test_no_share_can_go(model, moments, data, monkeypatch):
    monkeypatch.setattr("discedit_onnx.editing.forgetting.strength.SHARES", (0.9,))
    way = Way(remove=True, strength=1)
    edit = dx.forget(model, moments, [GONE], way, data=data, device="cpu")
    assert edit.removal.chosen == 0
    assert not edit.components.any()
    assert edit.sparsity <= 0


def test_how_many_components(model, moments):
    found = {
        amount: dx.forget(
            model, moments, [GONE], Way(method="components", amount=amount), device="cpu"
        )
        for amount in (Amount("count", 1), Amount("count", 3), Amount("deviations", 2.0))
    }
    one, three, above = (edit.components.sum() for edit in found.values())
    groups = len(found[Amount("count", 1)].groups)
    assert 0 < one <= groups
    assert one < three <= 3 * groups
    assert above > 0
    for wrong in (("share", 1.0), ("share", 0.0), ("count", 0), ("count", 1.5)):
        with pytest.raises(UsageError):
            Amount(*wrong)


@pytest.mark.parametrize("way", [Way("output"), Way("head"), Way(), Way(remove=True)])
def test_the_output_shrinks(model, moments, test_images, way, tmp_path):
    whole = dx.forget(model, moments, [GONE], way, device="cpu")
    edit = dx.forget(model, moments, [GONE], replace(way, drop_output=True), device="cpu")
    kept = np.delete(np.arange(10), GONE)
    values = logits(edit.proto, test_images)
    np.testing.assert_allclose(values, logits(whole.proto, test_images)[:, kept], atol=1e-4)
    edit.save(tmp_path / "small.onnx")
    small = dx.load(tmp_path / "small.onnx")
    assert small.class_names == tuple(np.array(model.class_names)[kept])
    assert whole.parameters[1] - edit.parameters[1] == 65
    (output,) = small.proto.graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == 9


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"level": "deep"}, "no level 'deep'"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"level": "head", "remove": True}, "edits the head only"),
        ({"level": "output", "keep_head": True}, "edits the head only"),
        ({"level": "head", "refit_head": True}, "edits the head only"),
        ({"keep_head": True, "refit_head": True}, "one of --keep-head and --refit-head"),
        ({"max_drop": -0.1}, "--max-drop"),
        ({"strength": -1.0}, "below 0"),
        ({"remove": True, "round_to": 0}, "--round-to 0: give a number from 1 on"),
    ],
)
def test_ways_that_make_no_sense(fields, says):
    with pytest.raises(UsageError, match=says):
        Way(**fields)


def test_moments_of_another_model(model, moments):
    other = dx.load(SAMPLES / "fashion_vgg.onnx")
    with pytest.raises(DataError, match="another model"):
        dx.forget(other, moments, [GONE], device="cpu")


@pytest.mark.parametrize("name", ["fashion_vgg", "fashion_mobilenet", "fashion_vit"])
def test_other_architectures(name):
    """A flattened map, grouped convolutions, and tokens behind layer normalisations."""
    model = dx.load(SAMPLES / f"{name}.onnx")
    data = dx.open_data(model, SAMPLES / "fashion_mnist/calibration")
    data = data.take(np.flatnonzero(np.arange(len(data)) % 120 < 15))
    moments = dx.calibrate(model, data, device="cpu")
    # What a Vision Transformer carries past its last layer normalisation no layer's weights hold.
    way = replace(FEATURES_ALONE, strength=1.5)
    edit = dx.forget(model, moments, [8], way, device="cpu")
    (batch,) = data.batches(150)
    runs = []
    for proto in (model.proto, edit.proto):
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        runs.append(session.run(None, dict(batch.feeds))[0].argmax(axis=1) == batch.labels)
    before, after = runs
    inside = batch.labels == 8
    assert after[inside].mean() <= before[inside].mean() - 0.3 * (name != "fashion_vit")
    assert after[~inside].mean() > before[~inside].mean() - 0.06


def test_the_command(run, few, tmp_path):
    """Without moments the head can be edited; with images all is measured."""
    path = tmp_path / "net.onnx"
    path.write_bytes((few / "fashion_resnet20.onnx").read_bytes())
    result = run("forget", path, "--class", 3, "--level", "head")
    assert result.exit_code == 0, result.stderr
    assert "Not verified: without images nothing was measured" in " ".join(result.stdout.split())
    test = few / "fashion_mnist/test"
    arguments = ("forget", path, "--class", "dress,bag", "--data", test, "--json", "--force")
    result = run(*arguments, "-o", tmp_path / "a.onnx")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["classes"] == ["dress", "bag"]
    assert found["level"] == "features"
    assert found["verdicts"]["output"]["passed"]
    assert [test["name"] for test in found["verdicts"]["head"]["tests"]][1] == "logit re-enabled"
    assert found["unverified"] is None
    assert len(found["trials"]) > 3
    accuracy = found["accuracy"]
    assert accuracy["after"]["forget"] == accuracy["hidden"]["forget"] == 0
    assert accuracy["hidden"]["retain"] >= accuracy["before"]["retain"]
    result = run(*arguments, "-o", tmp_path / "b.onnx", "--drop-output", "--level", "output")
    assert result.exit_code == 0, result.stderr
    dropped = json.loads(result.stdout)["accuracy"]
    assert dropped["after"]["forget"] is None
    assert dropped["after"]["retain"] == dropped["hidden"]["retain"]
    for words, says in (
        (("--share", 0.1, "--count", 2), "give one of --share"),
        (("--method", "svd"), "--method svd needs second moments"),
        (("--level", "deep"), "no level 'deep'"),
    ):
        result = run("forget", path, "--class", 1, "--moments", "none", *words)
        assert result.exit_code in (2, 4)
        assert says in result.stderr or "none" in result.stderr


@pytest.mark.parametrize("way", [Way(), Way(method="leace", remove=True), Way(refit_head=True)])
def test_as_many_images_are_run_at_a_time_as_asked_for(model, data, way, monkeypatch):
    sizes = set()
    batches = Dataset.batches

    def spied(self, size, *args, **named):
        sizes.add(min(size, len(self)))
        return batches(self, size, *args, **named)

    monkeypatch.setattr(Dataset, "batches", spied)
    few = data.take(np.arange(0, len(data), 4))
    dx.forget(model, None, [GONE], way, data=few, device="cpu", batch_size=40)
    assert max(sizes) == 40  # the proof takes 32
