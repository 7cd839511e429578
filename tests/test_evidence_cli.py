"""`verify-forget`, `replay`, and the manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import discedit_onnx as dx
from discedit_onnx.cli import cli
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.errors import DataError, GateError
from discedit_onnx.evidence.manifest import (
    DataRecord,
    digest_of,
    load_manifest,
    manifest_path,
    record,
    replay,
    save_manifest,
)

SAMPLES = Path(__file__).parents[1] / "sample_models"
MODEL = SAMPLES / "fashion_resnet20.onnx"
IMAGES = SAMPLES / "fashion_mnist/calibration"


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """A model at level features, its manifest, and what it was made of."""
    folder = tmp_path_factory.mktemp("edited")
    model = dx.load(MODEL)
    data = dx.open_data(model, IMAGES, num_samples=60, seed=5)
    edit = dx.forget(model, None, ["dress"], Way(strength=1.0), data=data, device="cpu")
    output = folder / "edited.onnx"
    edit.save(output)
    images = DataRecord("calibration", len(data), digest_of(data), num_samples=60, seed=5)
    manifest = record(edit, output, moments=None, data=images, device="cpu")
    save_manifest(manifest, manifest_path(output))
    return output, manifest, model, data


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_manifest_reads_back(edited):
    output, manifest, _, _ = edited
    assert load_manifest(manifest_path(output)) == manifest


def test_replay_gives_the_same_bytes(edited, tmp_path):
    output = edited[0]
    again = tmp_path / "again.onnx"
    result = run("replay", manifest_path(output), MODEL, "--data", IMAGES, "-o", again)
    assert result.exit_code == 0, result.output
    assert again.read_bytes() == output.read_bytes()


def test_replay_says_which_hash_differs(edited, tmp_path):
    _, manifest, model, data = edited
    out = tmp_path / "out.onnx"
    with pytest.raises(DataError, match="the model: another hash"):
        replay(replace(manifest, model="0" * 64), model, out, data=data)
    with pytest.raises(DataError, match="the images: another hash"):
        replay(manifest, model, out, data=data.take(np.arange(9)))
    with pytest.raises(DataError, match="the images: not given"):
        replay(manifest, model, out)
    with pytest.raises(GateError, match="nothing was written"):
        replay(replace(manifest, result="0" * 64), model, out, data=data)
    assert not out.exists()


def test_digest_sees_labels_and_order(edited):
    data = edited[3]
    assert digest_of(data) == digest_of(data.take(np.arange(len(data))))
    assert digest_of(data) != digest_of(data.take(np.arange(len(data))[::-1]))
    assert digest_of(data) != digest_of(replace(data, labels=data.labels[::-1]))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "discedit-onnx forget 1"}'])
def test_what_is_no_manifest(text, tmp_path):
    file = tmp_path / "m.json"
    file.write_text(text)
    with pytest.raises(DataError, match="not a manifest"):
        load_manifest(file)


def test_verify_forget_gates_and_writes_a_page(edited, tmp_path):
    page = tmp_path / "evidence.md"
    arguments = ["verify-forget", MODEL, edited[0], "--class", "dress", "--device", "cpu",
                 "--data", SAMPLES / "fashion_mnist/test", "--num-samples", "80"]  # fmt: skip
    result = run(*arguments, "-o", page, "--require", "output", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["classes"] == ["dress"]
    assert found["verdicts"]["output"]["passed"]
    assert found["after"]["forget"]["value"] == 0
    text = page.read_text()
    assert "Verdicts" in text
    assert "| dress (forgotten) |" in text
    assert "Nothing is claimed about training data" in text
    strict = run("verify-forget", MODEL, MODEL, *arguments[3:], "--require", "features")
    assert strict.exit_code == 5
    assert "forget accuracy" in strict.output
    assert run(*arguments, "--require", "depth").exit_code == 2
    assert run(*arguments, "-o", page).exit_code == 2


@pytest.mark.parametrize(
    "words", [("--level", "output"), (), ("--remove",), ("--remove", "--round-to", "8")]
)
def test_forget_leaves_a_manifest_that_replays(words, tmp_path):
    out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    result = run("forget", MODEL, "--class", "bag", *words, "--strength", "1", "-q",
                 "--data", IMAGES, "--num-samples", "60", "--device", "cpu", "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    result = run("replay", manifest_path(out), MODEL, "--data", IMAGES, "-o", again)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == again.read_bytes()


def test_members_are_other_images_than_data(edited, few, tmp_path):
    images, copy = few / "fashion_mnist/test", tmp_path / "copy"
    shutil.copytree(images / "3_dress", copy / "3_dress")
    arguments = ["verify-forget", MODEL, edited[0], "--class", "dress", "--data", images,
                 "--device", "cpu", "-q"]  # fmt: skip
    for members in (images, images / "../test", copy):
        result = run(*arguments, "--members", members)
        assert result.exit_code == 2
        assert "--members are images of --data" in result.stderr
    first, *others = sorted((copy / "3_dress").iterdir())
    for file in others:
        file.unlink()
    for file in (few / "fashion_mnist/calibration/3_dress").iterdir():
        shutil.copy(file, copy / "3_dress")
    first.rename(copy / "3_dress/shared.png")
    result = run(*arguments, "--members", copy)
    assert result.exit_code == 0, result.stderr
    assert "warning: 1 image of --members is in --data too: it blurs" in result.stderr


def test_nothing_claims_compliance():
    """What can be recorded is what ran on which bytes; the words say no more than that."""
    root = SAMPLES.parent
    folders = (root / "cli", root / "discedit_onnx", root / "docs")
    files = [root / "README.md", *(f for each in folders for f in each.rglob("*.[pm][yd]"))]
    for file in files:
        text = " ".join(file.read_text(encoding="utf-8").split())
        for sentence in text.split(". "):
            if any(word in sentence.lower() for word in ("complian", "gdpr", "right to be")):
                assert "Nothing is claimed" in sentence, file
