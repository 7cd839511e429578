"""`score` with what it can be asked for: comparisons, features, certificates, plans, archives."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import discedit_onnx as dx
from discedit_onnx.scoring.certificates import certify
from discedit_onnx.scoring.comparison import OneVsRest, Pairs, Sets
from discedit_onnx.scoring.layers import carriers, layers

USAGE, DATA = 2, 4


@pytest.fixture
def resnet(few, tmp_path, moments):
    """A ResNet of one's own, with its moments beside it."""
    shutil.copy(moments, tmp_path / "resnet.moments.safetensors")
    return shutil.copy(few / "fashion_resnet20.onnx", tmp_path / "resnet.onnx")


def ran(result):
    """Standard output of a command that succeeded without a word on standard error."""
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def scored(path, *arguments, **options):
    return dx.score(
        dx.load(path), dx.load_moments(path.with_suffix(".moments.safetensors")), *arguments,
        **options,
    )  # fmt: skip


def joined(found):
    """The bounds in a JSON report, all layers."""
    return np.concatenate([np.array(layer["bounds"]) for layer in found["layers"]])


def test_all_pairs(run, resnet):
    found = json.loads(ran(run("score", resnet, "--pairs", "--witness", "threshold", "--json")))
    expected = scored(resnet, "threshold", comparison=Pairs(tuple(range(10))))
    np.testing.assert_allclose(joined(found), expected.bounds)
    assert [tuple(side) for side in found["sides"]] == list(expected.sides)
    assert list(found["layers"][0]["mean"])[:2] == ["t-shirt / trouser", "t-shirt / pullover"]
    text = ran(run("score", resnet, "--pairs", "--witness", "threshold"))
    assert "each class against each other (estimates, 60 images)" in text
    assert "nearest" in text


def test_totals_of_all_classes_tell_none_apart(run, resnet):
    """As `calibrate` keeps them of more classes than fit; an empty table would say nothing."""
    path = resnet.with_suffix(".moments.safetensors")
    known = dx.load_moments(path)
    rows = {name: getattr(known, name)[:1] for name in ("count", "mean", "comoment")}
    totals = replace(
        known, class_names=("(all)",), class_index=np.array([-1]), **rows,
        histograms=None, correct=0,
    )  # fmt: skip
    totals.save(path)
    for more in ([], ["--pairs"], ["--json"]):
        result = run("score", resnet, *more)
        assert result.exit_code == DATA
        assert "all classes together" in result.stderr
        assert "calibrate with --classes" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_some_classes_in_each_way(run, resnet):
    some = ["--class", "sandal", "--class", 7]
    rest = json.loads(ran(run("score", resnet, *some, "--json")))
    np.testing.assert_allclose(joined(rest), scored(resnet).bounds[:, [5, 7]])
    assert rest["sides"] == [["sandal", "rest"], ["sneaker", "rest"]]
    pair = json.loads(ran(run("score", resnet, *some, "--pairs", "--json")))
    assert pair["sides"] == [["sandal", "sneaker"]]
    sets = json.loads(ran(run("score", resnet, *some, "--against", "ankle-boot", "--json")))
    expected = scored(resnet, comparison=Sets((5, 7), (9,)))
    np.testing.assert_allclose(joined(sets), expected.bounds)
    text = ran(run("score", resnet, *some, "--against", "ankle-boot"))
    assert "sandal, sneaker against ankle-boot" in text


def test_features(run, resnet):
    found = json.loads(
        ran(run("score", resnet, "--witness", "mpm", "--feature", "mean", "--feature", "rms",
                "--json"))
    )  # fmt: skip
    assert found["features"] == ["mean", "rms"]
    expected = scored(resnet, "mpm", features=("mean", "rms"))
    np.testing.assert_allclose(joined(found), expected.bounds)


def test_layers_channels_and_carriers_for_people_and_machines(run, resnet):
    scores = scored(resnet)
    found = json.loads(ran(run("score", resnet, "--json")))
    for layer, expected in zip(found["layers"], layers(scores), strict=True):
        assert layer["ldiff"] == pytest.approx(expected.ldiff)
        assert list(layer["quantiles"].values()) == pytest.approx(list(expected.quantiles))
    assert list(found["carriers"].values()) == carriers(scores).tolist()
    text = ran(run("score", resnet))
    best = scores.bounds.max(axis=1)
    assert f"{best[scores.component >= 0].max():.3f}" in text
    assert f"{best[scores.component >= 0].min():.3f}" in text
    for words in ("LDIFF", "Most discriminative", "Least discriminative", "half of a class"):
        assert words in text


def test_an_assumption_is_said(run, resnet):
    text = ran(run("score", resnet, "--witness", "hellinger"))
    assert "for normal features only" in text
    found = json.loads(ran(run("score", resnet, "--witness", "robust", "--json")))
    assert found["kind"] == "bound for normal features"


def test_certificates(run, resnet):
    text = ran(run("score", resnet, "--confidence", 0.95))
    assert "certified at 0.95, 60 images" in text
    assert "estimate" not in text
    found = json.loads(ran(run("score", resnet, "--confidence", 0.9, "--json")))
    gathered = dx.load_moments(resnet.with_suffix(".moments.safetensors"))
    expected = certify("threshold", gathered, OneVsRest(tuple(range(10))), 0.9)
    np.testing.assert_allclose(joined(found), expected)
    assert found["witness"] == found["certificate"] == "threshold", "of few images the best"
    assert found["estimate"] is None
    assert found["confidence"] == 0.9
    named = json.loads(
        ran(run("score", resnet, "--confidence", 0.9, "--witness", "sharp", "--json"))
    )
    assert named["certificate"] == "sharp"
    estimate = scored(resnet, "threshold").bounds
    assert (joined(found) <= estimate + 1e-9).all()


def test_a_plan(run, resnet):
    text = ran(run("score", resnet, "--plan-samples", 0.5))
    assert "certify a bound of 0.5" in text
    found = json.loads(ran(run("score", resnet, "--plan-samples", 0.5, "--json")))
    needed = [row["needed"] for row in found["images"]]
    assert needed == sorted(needed, reverse=True)
    assert found["images"][-1]["estimate"] == 1
    assert found["confidence"] == 0.95
    assert found["comparisons"] == scored(resnet).bounds.size
    more = json.loads(
        ran(run("score", resnet, "--plan-samples", 0.5, "--confidence", 0.999, "--json"))
    )
    assert more["images"][0]["needed"] > needed[0]


def test_an_archive(run, resnet, tmp_path):
    path = tmp_path / "scores.npz"
    ran(run("score", resnet, "--npz", path, "-q"))
    scores = scored(resnet)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["bounds"], scores.bounds)
        np.testing.assert_array_equal(arrays["signs"], scores.signs)
        np.testing.assert_array_equal(arrays["component"], scores.component)
        assert [tuple(side) for side in arrays["sides"]] == list(scores.sides)
        assert arrays["layer"][0] == scores.taps[0].tensor
        assert arrays["channel"][scores.taps[0].length] == 0
        assert str(arrays["witness"]) == "fisher"
    before = path.read_bytes()
    refused = run("score", resnet, "--npz", path)
    assert refused.exit_code == USAGE
    assert "--force" in refused.stderr
    assert path.read_bytes() == before
    ran(run("score", resnet, "--npz", path, "--force", "--pairs"))
    with np.load(path) as arrays:
        assert arrays["bounds"].shape[1] == 45
    assert run("score", resnet, "--npz", resnet, "--force").exit_code == USAGE


def test_csv_of_pairs(run, resnet):
    rows = list(csv.DictReader(ran(run("score", resnet, "--pairs", "--csv")).splitlines()))
    scores = scored(resnet, comparison=Pairs(tuple(range(10))))
    assert len(rows) == scores.bounds.size
    assert (rows[0]["class"], rows[0]["against"]) == ("t-shirt", "trouser")
    np.testing.assert_allclose([float(r["bound"]) for r in rows], scores.bounds.ravel(), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--against", 3), "--against needs --class"),
        (("--class", 1, "--against", 3, "--pairs"), "excludes --pairs"),
        (("--class", 1, "--against", 1), "both sides"),
        (("--class", 1, "--pairs"), "two classes at least"),
        (("--class", "cow"), "no class 'cow' in the moments; there are 0 t-shirt"),
        (("--class", 10), "no class '10'"),
        (("--witness", "quadratic", "--feature", "mean"), "nothing else"),
        (("--confidence", 1.5), "between 0 and 1"),
        (("--confidence", 0.9, "--feature", "rms"), "histograms are of mean"),
        (("--plan-samples", 1.5), "between 0 and 1"),
        (("--plan-samples", 0.5, "--csv"), "no scores to write"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run, resnet, arguments, says):
    result = run("score", resnet, *arguments)
    assert result.exit_code == USAGE, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_classes_with_commas_between(run, resnet):
    both = run("score", resnet, "--class", "3", "--class", "dress", "--class", "4", "--csv")
    assert both.exit_code == 0, both.stderr
    assert run("score", resnet, "--class", "dress, 4", "--csv").stdout == both.stdout


def test_features_that_are_not_there(run, resnet):
    result = run("score", resnet, "--feature", "nope")
    assert result.exit_code == 2
    assert "--feature nope: no such feature; the moments hold mean, rms, " in result.stderr
    result = run("score", resnet, "--feature", "max")
    assert result.exit_code == 4
    assert f"`discedit-onnx calibrate {resnet} --features max`" in result.stderr
