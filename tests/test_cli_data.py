"""The options that say what the data are, on every command that takes them."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_models import HEIGHT, WIDTH, classifier, saved

import discedit_onnx as dx
from discedit_onnx.cli import cli

WITH_DATA = ("calibrate", "evaluate", "forget", "prune", "score")


@pytest.fixture
def model(few, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((few / "fashion_resnet20.onnx").read_bytes())
    return path


@pytest.fixture
def folder(few):
    return few / "fashion_mnist/calibration"


@pytest.fixture
def archive(folder, tmp_path):
    """The images of the class folders as an .npz of bytes."""
    files = sorted(folder.rglob("*.png"))
    np.savez(
        tmp_path / "data.npz",
        x=np.stack([np.asarray(Image.open(file)) for file in files]),
        y=np.array([int(file.parent.name[0]) for file in files]),
    )
    return tmp_path / "data.npz"


def ran(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", WITH_DATA)
def test_all_of_them_have_all_options(command):
    names = {name for option in cli.get_command(None, command).params for name in option.opts}
    assert names >= {
        "--data", "--preprocess", "--labels", "--class-map", "--num-samples", "--seed"
    }  # fmt: skip


def test_bytes_in_an_archive_give_the_moments_of_files(run, model, folder, archive, tmp_path):
    found = []
    for data in (folder, archive):
        out = tmp_path / f"{data.name}.safetensors"
        ran(run("calibrate", model, "--data", data, "-o", out, "--device", "cpu", "--json"))
        found.append(dx.load_moments(out))
    files, arrays = found
    np.testing.assert_array_equal(arrays.count, files.count)
    np.testing.assert_array_equal(arrays.mean, files.mean)
    assert arrays.facts["preprocessing"] == files.facts["preprocessing"]
    assert arrays.facts["labels"] == "labels by number"


def test_a_balanced_subset(run, model, folder, tmp_path):
    out = tmp_path / "m.safetensors"
    arguments = ("calibrate", model, "--data", folder, "-o", out, "--json", "--force")
    found = ran(run(*arguments, "--num-samples", 20))
    assert set(found["images_per_class"].values()) == {2}
    first = dx.load_moments(out)
    assert first.facts["samples"] == "20 of 60, class-balanced, seed 0"
    ran(run(*arguments, "--num-samples", 20, "--seed", 1))
    assert not np.array_equal(first.mean, dx.load_moments(out).mean)


@pytest.fixture
def unlabelled(folder, tmp_path):
    root = tmp_path / "flat"
    root.mkdir()
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        (root / f"{i:03}.png").write_bytes(file.read_bytes())
    return root


def test_predicted_labels(run, model, unlabelled, tmp_path):
    out = tmp_path / "m.safetensors"
    arguments = ("--data", unlabelled, "--device", "cpu", "--json")
    refused = run("calibrate", model, *arguments, "-o", out)
    assert refused.exit_code == 4
    assert "--labels predicted" in refused.stderr
    assert not out.exists()
    ran(run("calibrate", model, *arguments, "-o", out, "--labels", "predicted"))
    moments = dx.load_moments(out)
    assert moments.facts["labels"] == "predicted by the model"
    assert moments.accuracy is None
    loaded = dx.load(model)
    data = dx.open_data(loaded, unlabelled, labels="predicted")
    from discedit_onnx.evaluation import predict

    top = predict(loaded, data, device="cpu").labels
    np.testing.assert_array_equal(moments.count, np.bincount(top, minlength=10))
    edit = tmp_path / "edit.onnx"
    found = ran(run("forget", model, "--class", "sandal", *arguments, "--labels", "predicted",
                    "-o", edit))  # fmt: skip
    assert found["accuracy"]["before"] == {
        "forget": 1.0, "retain": 1.0, "per_class": found["accuracy"]["before"]["per_class"]
    }  # fmt: skip
    assert found["accuracy"]["after"]["forget"] < 1
    refused = run("evaluate", model, *arguments, "--labels", "predicted")
    assert refused.exit_code == 2
    assert "nothing of its accuracy" in refused.stderr


def test_unlabelled_images_serve_for_the_proof(run, model, unlabelled, moments, tmp_path):
    found = ran(run("prune", model, "--sparsity", 0.1, "--moments", moments, "--data", unlabelled,
                    "-o", tmp_path / "p.onnx", "--json"))  # fmt: skip
    assert found["equality"]["origin"] == "images"
    refused = run("forget", model, "--class", 0, "--moments", moments, "--data", unlabelled)
    assert refused.exit_code == 4
    assert "no labels" in refused.stderr


def test_a_class_map_and_a_preset(run, model, folder, tmp_path):
    data = tmp_path / "named"
    data.mkdir()
    for source in folder.iterdir():
        (data / f"group-{source.name[0]}").symlink_to(source)
    refused = run("evaluate", model, "--data", data, "--json", "--preprocess", "unit")
    mapping = {f"group-{k}": k for k in range(10)}
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    found = ran(run("evaluate", model, "--data", data, "--class-map", tmp_path / "map.json",
                    "--json"))  # fmt: skip
    assert found["top1"] > 0.8
    assert refused.exit_code == 0, "as many folders as classes, in sorted order"
    refused = run("evaluate", model, "--data", data, "--preprocess", "imagenets")
    assert refused.exit_code == 4
    assert "presets imagenet, " in refused.stderr


def test_preprocessing_is_found_printed_stored_and_overridden(run, model, folder, tmp_path):
    out = tmp_path / "m.safetensors"
    arguments = ("calibrate", model, "--data", folder, "-o", out, "--device", "cpu", "--force")
    for extra, origin in (((), "metadata"), (("--preprocess", "unit"), "preset unit")):
        result = run(*arguments, *extra)
        assert result.exit_code == 0, result.stderr
        facts = dx.load_moments(out).facts
        assert origin in facts["preprocessing_origin"]
        assert facts["preprocessing"].startswith("scale 0.00392157")
        said = " ".join(result.stdout.split())
        assert f"preprocessing {facts['preprocessing']}" in said
        assert facts["preprocessing_origin"] in said
        shown = " ".join(run("moments", "show", out).stdout.split())
        assert facts["preprocessing"] in shown


def test_a_script(run, model, archive, tmp_path):
    (tmp_path / "give.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n"
        "def data():\n"
        "    found = np.load(Path(__file__).with_name('data.npz'))\n"
        "    for x, y in zip(found['x'], found['y']):\n        yield x, y\n"
    )
    found = ran(run("evaluate", model, "--data", f"{tmp_path / 'give.py'}:data", "--json"))
    assert found["top1"] == ran(run("evaluate", model, "--data", archive, "--json"))["top1"]


@pytest.mark.parametrize("command", WITH_DATA)
@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("gone.npz", None, 4, "no such file or folder"),
        ("torn.npz", b"PK", 4, "can't be read as .npz"),
        ("torn.tar", b"?", 4, "can't be read as a tar"),
        ("gone.csv", b"gone.png,bag", 4, "is missing"),
        ("give.py:f", None, 4, "no such script"),
        ("what.txt", b"?", 4, "no format that is known"),
        ("some.parquet", b"PAR1", 2, "discedit-onnx[parquet]"),
    ],
)
def test_data_that_can_not_be_used(run, model, tmp_path, monkeypatch, command, name, content,
                                   code, said):  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    extra = {"prune": ("--sparsity", 0.1, "-o", tmp_path / "o.onnx"), "forget": ("--class", 0)}
    before = set(tmp_path.iterdir())
    result = run(command, model, "--data", tmp_path / name, *extra.get(command, ()))
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_script_that_ends_the_program_passes_no_gate(run, model, tmp_path):
    (tmp_path / "l.py").write_text("import sys\ndef f():\n    sys.exit(0)\n")
    result = run("check", model, "--data", f"{tmp_path / 'l.py'}:f", "--min-accuracy", 0.99)
    assert result.exit_code == 4
    assert "l.py:f: ended the program (SystemExit: 0)" in result.stderr


def test_a_script_may_print_and_move(run, model, archive, tmp_path, monkeypatch):
    (tmp_path / "l.py").write_text(
        "import os\nimport numpy as np\nfrom pathlib import Path\nprint('hello')\n"
        "found = np.load(Path(__file__).with_name('data.npz'))\n"
        "def f():\n    print('reading')\n    os.chdir('/')\n"
        "    for x, y in zip(found['x'], found['y']):\n        yield x, y\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", model.name, "--data", "l.py:f", "--json")
    assert ran(result)["top1"] > 0.8
    assert result.stderr.startswith("hello\nreading\n")


def test_classes_of_one_name_are_told_apart_in_json(run, tmp_path):
    """ImageNet has two cranes: a bird and a machine."""
    proto = classifier()
    names = ["crane", "crane", "cat"]
    onnx.helper.set_model_props(proto, {"discedit.class_names": json.dumps(names)})
    model = saved(proto, tmp_path)
    images = np.random.default_rng(0).random((24, 1, HEIGHT, WIDTH), np.float32)
    np.savez(tmp_path / "data.npz", x=images, y=[0] * 8 + [1] * 6 + [2] * 10)
    out = tmp_path / "m.safetensors"
    arguments = ("--data", tmp_path / "data.npz", "--json")
    told = ["crane (0)", "crane (1)", "cat"]
    counts = dict(zip(told, [8, 6, 10], strict=True))
    gathered = ran(run("calibrate", model.path, *arguments, "-o", out, "--force"))
    assert gathered["images_per_class"] == counts
    assert ran(run("moments", "show", out, "--json"))["images_per_class"] == counts
    measured = ran(run("evaluate", model.path, *arguments))
    assert measured["images"] == counts
    assert list(measured["per_class"]) == told
    scored = ran(run("score", model.path, "--moments", out, "--json", "--force"))
    assert list(scored["carriers"]) == list(scored["layers"][0]["mean"]) == told
    partly = ("calibrate", model.path, *arguments, "-o", out, "--force", "--classes", "1,2")
    assert ran(run(*partly))["images_per_class"] == {"crane": 6, "cat": 10, "(other)": 8}
