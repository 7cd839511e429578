"""Options that would do nothing where they stand."""

from __future__ import annotations

import pytest
from tiny_models import classifier, saved, taught, write_images

USAGE, DATA = 2, 4


@pytest.fixture
def model(tmp_path):
    proto = taught(classifier(), write_images(tmp_path / "images"))
    return saved(proto, tmp_path).path


@pytest.mark.parametrize(
    ("words", "option", "mend"),
    [
        ("--level head --method svd", "--method", "--level features"),
        ("--level head --share 0.5 --witness mpm --no-refit", "--share", "--level features"),
        ("--level head --witness mpm", "--witness", "--level features"),
        ("--level head --no-refit", "--no-refit", "--level features"),
        ("--level output --max-drop 3", "--max-drop", "--level features"),
        ("--method components --strength 2", "--strength", "another --method"),
        ("--max-drop 3", "--max-drop", "--data"),
        ("--num-samples 3", "--num-samples", "--data"),
        ("--preprocess imagenet", "--preprocess", "--data"),
        ("--labels predicted", "--labels", "--data"),
    ],
)
def test_what_has_no_effect_is_refused(run, model, words, option, mend):
    result = run("forget", model, "--class", 0, *words.split())
    assert (result.exit_code, result.stdout) == (USAGE, "")
    assert result.stderr.startswith(f"error: {option} does nothing here: ")
    assert mend in result.stderr


@pytest.mark.parametrize("words", [("prune", "--sparsity", 0.1, "-o", "o.onnx"), ("score",)])
def test_how_data_are_read_needs_data(run, model, words):
    result = run(words[0], model, *words[1:], "--num-samples", 3)
    assert result.exit_code == USAGE
    assert "--num-samples does nothing here: give images with --data" in result.stderr


def test_what_the_environment_sets_holds_for_other_commands(run, model, monkeypatch):
    monkeypatch.setenv("DISCEDIT_NUM_SAMPLES", "3")
    monkeypatch.setenv("DISCEDIT_METHOD", "svd")
    result = run("forget", model, "--class", 0, "--level", "output")
    assert result.exit_code == 0, result.stderr


def test_what_holds_for_all_steps_is_nothing_to_those_without_data(run, model, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{model}"\nnum-samples = 9\n[calibrate]\ndata = "{tmp_path / "images"}"\n'
        f'[prune]\nsparsity = 0.1\noutput = "{tmp_path / "p.onnx"}"\n'
    )
    result = run("run", recipe)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("--share 0.5", "--share does nothing without --method components or --remove"),
        ("--round-to 2 --method components", "--round-to does nothing without --remove"),
    ],
)
def test_what_hardly_has_an_effect_is_told(run, model, tmp_path, words, note):
    result = run("forget", model, "--class", 0, "--data", tmp_path / "images", *words.split())
    assert result.stdout.endswith(f"Note: {note}.\n")


def test_data_that_no_gate_looks_at_must_be_there(run, model, tmp_path):
    arguments = ("check", model, "--max-size", "5MB", "--data")
    result = run(*arguments, tmp_path / "nope")
    assert result.exit_code == DATA
    assert "nope: no such file or folder" in result.stderr
    assert run(*arguments, tmp_path / "images").exit_code == 0
