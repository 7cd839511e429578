"""`moments show` and `moments merge`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import discedit_onnx as dx


def test_show_prints_what_is_inside(run, moments):
    result = run("moments", "show", moments)
    assert result.exit_code == 0, result.stderr
    for word in ("688 in 19 tensors", "mean, rms, mean_square", "ankle-boot", "blocks.0", "size"):
        assert word in result.stdout
    found = json.loads(run("moments", "show", moments, "--json").stdout)
    assert (found["images"], found["channels"], len(found["taps"])) == (60, 688, 19)
    assert found["bytes"] == moments.stat().st_size
    assert found["accuracy"] == dx.load_moments(moments).accuracy


def test_merge_joins_all_files(run, moments, tmp_path):
    for name in "abc":
        shutil.copy(moments, tmp_path / name)
    files = [tmp_path / name for name in "abc"]
    result = run("moments", "merge", *files, "-o", tmp_path / "all")
    assert result.exit_code == 0, result.stderr
    one, three = dx.load_moments(moments), dx.load_moments(tmp_path / "all")
    np.testing.assert_array_equal(three.count, 3 * one.count)
    np.testing.assert_allclose(three.mean, one.mean, rtol=1e-12)
    np.testing.assert_allclose(three.covariance, one.covariance, rtol=1e-9, atol=1e-15)
    assert three.accuracy == one.accuracy
    assert three.facts == one.facts
    assert "180 of 10 classes" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["a", "b", "-o", "a"], 2, "would overwrite the input"),
        (["a", "-o", "b"], 2, "use --force"),
        (["a", "b", "-o", "."], 2, "is a folder"),
        (["a", "b", "-o", "none/c"], 2, "none: no such folder"),
        (["a", "none", "-o", "c"], 4, "no such moments file"),
        (["a", "text", "-o", "c"], 4, "not a safetensors file"),
        (["-o", "c"], 2, "Missing argument"),
    ],
)
def test_merge_refuses(run, moments, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        shutil.copy(moments, name)
    (tmp_path / "text").write_text("text")
    before = sorted(tmp_path.iterdir())
    result = run("moments", "merge", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_show_refuses_another_file(run, tmp_path):
    result = run("moments", "show", tmp_path / "none")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: ")


# What calibrate can be asked for


@pytest.fixture
def calibrate(run, few, tmp_path):
    """Run `calibrate` on a copy of a sample model; returns the result and the folder."""
    model = shutil.copy(few / "fashion_vgg.onnx", tmp_path)

    def invoke(*arguments):
        data = few / "fashion_mnist/calibration"
        return run("calibrate", model, "--data", data, "--device", "cpu", *arguments)

    return invoke


def test_shards_of_the_command_line_merge_to_the_single_run(calibrate, run, tmp_path):
    small = ("--batch-size", 8)
    assert calibrate(*small, "-o", tmp_path / "whole").exit_code == 0
    for i in (1, 2, 3):
        result = calibrate(*small, "--shard", f"{i}/3")
        assert result.exit_code == 0, result.stderr
        assert f"{i}/3 of 60 images" in result.stdout
        assert "warning" not in result.stderr
    files = [tmp_path / f"fashion_vgg.{i}-of-3.moments.safetensors" for i in (3, 1, 2)]
    assert run("moments", "merge", *files, "-o", tmp_path / "merged").exit_code == 0
    whole, merged = dx.load_moments(tmp_path / "whole"), dx.load_moments(tmp_path / "merged")
    np.testing.assert_array_equal(merged.histograms.counts, whole.histograms.counts)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-15)
    assert (merged.accuracy, merged.facts) == (whole.accuracy, whole.facts)


def test_classes_features_and_second_moments(calibrate, tmp_path):
    result = calibrate("--classes", "3, sandal", "--features", "max,positive", "--second-moments")
    assert result.exit_code == 0, result.stderr
    found = dx.load_moments(tmp_path / "fashion_vgg.moments.safetensors")
    assert found.class_names == ("dress", "sandal", "(other)")
    assert found.class_index.tolist() == [3, 5, -1]
    assert found.count.tolist() == [6, 6, 48]
    assert found.features == ("mean", "rms", "mean_square", "max", "positive")
    assert found.second.keys() == {tap.tensor for tap in found.taps}
    assert "2 classes, 8 pooled" in result.stdout


def test_edges_of_another_file(calibrate, tmp_path):
    assert calibrate("-o", tmp_path / "first").exit_code == 0
    assert calibrate("-o", tmp_path / "second", "--edges", tmp_path / "first").exit_code == 0
    first, second = (dx.load_moments(tmp_path / name).histograms for name in ("first", "second"))
    np.testing.assert_array_equal(first.edges, second.edges)
    assert second.counts[:, :, 0].sum() == 60 > first.counts[:, :, 0].sum()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--shard", "4/3"], 2, "--shard 4/3"),
        (["--classes", "10"], 2, "no class '10'"),
        (["--classes", "shoe"], 2, "no class 'shoe'"),
        (["--features", "median"], 2, "there are mean, rms"),
        (["--edges", "none"], 4, "no such moments file"),
        (["--providers", "nonsense"], 2, "--providers nonsense"),
        (["--dask", "tcp://127.0.0.1:1", "--shard", "1/2"], 2, "leave --shard out"),
    ],
)
def test_calibrate_refuses(calibrate, tmp_path, arguments, code, says):
    before = sorted(tmp_path.iterdir())
    result = calibrate(*arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_providers_by_name(calibrate):
    result = calibrate("--providers", "cpu")
    assert result.exit_code == 0, result.stderr
