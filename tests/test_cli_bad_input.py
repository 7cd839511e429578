"""Whatever is wrong with the input: one line, an exit code, and nothing left lying about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tiny_models import CLASS_NAMES, classifier

from discedit_onnx.errors import ModelError
from discedit_onnx.model import load, save

USAGE, MODEL, DATA = 2, 3, 4


def contents(folder):
    """Every file, link and folder below a folder, hidden ones too."""
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(here, run):
    """Run a command line that must fail, in a folder that must stay as it is."""

    def refuse(code, *arguments, says=()):
        before = contents(here)
        result = run(*arguments)
        assert contents(here) == before
        if "--json" in arguments:
            assert json.loads(result.stdout)["error"]["exit_code"] == code
        else:
            assert result.stdout == ""
        assert result.exit_code == code, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert result.stderr.endswith("\n")
        for words in [says] if isinstance(says, str) else says:
            assert words in result.stderr
        return result.stderr

    return refuse


def commands(here, model):
    """Every command line that reads a model, with all else in order."""
    data, moments, out = here / "images", here / "model.moments.safetensors", here / "out/x"
    return {
        "inspect": ("inspect", model),
        "calibrate": ("calibrate", model, "--data", data, "-o", out),
        "score": ("score", model, "--moments", moments),
        "score-data": ("score", model, "--data", data),
        "prune": ("prune", model, "--sparsity", 0.2, "--moments", moments, "-o", out),
        "prune-data": (
            "prune",
            model,
            "--sparsity",
            0.2,
            "--data",
            data,
            "--criterion",
            "sharp",
            "-o",
            out,
        ),
        "prune-l1": ("prune", model, "--sparsity", 0.2, "--criterion", "l1", "-o", out),
        "forget": ("forget", model, "--class", 0, "--moments", moments, "-o", out),
        "forget-data": ("forget", model, "--class", 0, "--data", data, "-o", out),
        "evaluate": ("evaluate", model, "--data", data),
        "evaluate-against": ("evaluate", here / "model.onnx", "--data", data, "--against", model),
    }


READING = (
    "inspect", "calibrate", "score", "score-data", "prune", "prune-data", "prune-l1", "forget",
    "forget-data", "evaluate", "evaluate-against",
)  # fmt: skip
WITH_DATA = ("calibrate", "score-data", "prune-data", "forget-data", "evaluate")


def test_all_of_them_work_when_nothing_is_wrong(here, run):
    for arguments in commands(here, here / "model.onnx").values():
        result = run(*arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
        for file in (here / "out").iterdir():
            file.unlink()
    assert tuple(commands(here, None)) == READING


# The model


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "noise", "truncated"])
def test_a_file_that_is_no_model(here, refused, command, kind):
    path = here / "bad.onnx"
    whole = (here / "model.onnx").read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(
            {
                "text": b"not a model\n",
                "empty": b"",
                "noise": bytes(range(256)),
                "truncated": whole[: len(whole) // 2],
            }[kind]
        )
    told = {"missing": "no such file", "folder": "is a folder; give the model's file in it"}
    what = told.get(kind, "not an ONNX model, or a truncated")
    refused(MODEL, *commands(here, path)[command], says=("bad.onnx", what))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_sample_model_truncated(run, few, tmp_path, share):
    whole = (few / "fashion_resnet20.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    result = run("inspect", path)
    assert result.exit_code == MODEL
    assert result.stderr == f"error: {path}: not an ONNX model, or a truncated one\n"


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("cut", ["missing", "short"])
def test_external_data_that_is_not_there(here, refused, command, cut):
    path, weights = here / "big.onnx", here / "big.weights"
    onnx.save(
        onnx.load(here / "model.onnx"), path, save_as_external_data=True,
        location=weights.name, size_threshold=0,
    )  # fmt: skip
    if cut == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:10])
    says = ("big.weights, which is missing" if cut == "missing" else "can't be read",)
    refused(MODEL, *commands(here, path)[command], says=says)


@pytest.mark.parametrize("command", WITH_DATA)
def test_no_classifier_output(here, refused, command):
    proto = classifier()
    del proto.graph.output[:]
    shape = ["N", 5, 6, 5]
    proto.graph.output.append(helper.make_tensor_value_info("h2", TensorProto.FLOAT, shape))
    del proto.graph.node[4:]
    onnx.save(proto, here / "features.onnx")
    says = "no classifier output"
    refused(MODEL, *commands(here, here / "features.onnx")[command], says=says)


def test_nothing_to_calibrate(here, refused):
    """A model whose only layer is its output."""
    proto = classifier()
    del proto.graph.node[:-3]
    proto.graph.node[0].input[0] = "x"
    w3 = next(t for t in proto.graph.initializer if t.name == "w3")
    w3.CopyFrom(helper.make_tensor("w3", TensorProto.FLOAT, [1, 3], [1, 2, 3]))
    onnx.save(proto, here / "flat.onnx")
    arguments = commands(here, here / "flat.onnx")
    refused(MODEL, *arguments["calibrate"], says="nothing in it can be removed")
    refused(USAGE, *arguments["prune-l1"], says="at most 0")


# Classes


@pytest.mark.parametrize("source", ["--moments", "--data"])
@pytest.mark.parametrize("name", ["3", "-1", "dog", "Ant", ""])
def test_a_class_that_is_not_there(here, refused, source, name):
    place = here / ("images" if source == "--data" else "model.moments.safetensors")
    arguments = ("forget", here / "model.onnx", "--class", name, source, place)
    refused(USAGE, *arguments, says=(f"no class {name!r}", "0 ant, 1 bee, 2 cat"))


def test_all_classes(here, refused):
    arguments = [word for k in (0, 1, 2) for word in ("--class", k)]
    refused(USAGE, "forget", here / "model.onnx", *arguments, says="leave at least one")


@pytest.mark.parametrize("share", [0, 1, -0.1, "nan"])
def test_a_share_that_is_none(here, refused, share):
    arguments = ("forget", here / "model.onnx", "--class", 0, "--share", share)
    says = "is not a finite number" if share == "nan" else "is not in (0, 1)"
    refused(USAGE, *arguments, says=says)


def test_a_class_without_images_can_not_be_forgotten(here, run):
    shutil.rmtree(here / "images/bee")
    arguments = ("forget", here / "model.onnx", "--class", "bee", "--data", here / "images")
    before = contents(here)
    result = run(*arguments)
    assert result.exit_code == DATA
    assert contents(here) == before
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: no images of bee")
    assert error.startswith("error: nothing to edit")


# Images


def spoil(folder, how):
    """Make something of a folder of images that can't be used; what the message must say."""
    image = folder / "bee" / "2.png"
    if how == "unreadable":
        image.write_bytes(image.read_bytes()[:40])
        return "bee/2.png: can't be read as an image"
    if how == "no image":
        image.write_text("hello")
        return "bee/2.png: can't be read as an image"
    if how == "size":
        Image.new("L", (7, 6)).save(image)
        return "bee/2.png: is 7 x 6 pixels, but the model takes 5 x 6 pixels"
    if how == "colour":
        Image.new("RGB", (5, 6), "red").save(image)
        return "bee/2.png: is a colour image, but the model takes grey images"
    if how == "missing":
        shutil.rmtree(folder)
        return "no such file or folder"
    if how == "flat":
        shutil.rmtree(folder)
        folder.mkdir()
        Image.new("L", (5, 6)).save(folder / "1.png")
        return "no labels, and "
    for found in folder.rglob("*.png"):
        found.unlink()
    if how == "empty folders":
        return "no images in its 3 class folders"
    for found in folder.iterdir():
        found.rmdir()
    return "images: empty"


@pytest.mark.parametrize("command", WITH_DATA)
@pytest.mark.parametrize(
    "how",
    ["unreadable", "no image", "size", "colour", "missing", "flat", "empty folders", "empty"],
)
def test_images_that_can_not_be_used(here, refused, command, how):
    says = spoil(here / "images", how)
    refused(DATA, *commands(here, here / "model.onnx")[command], says=says)


@pytest.mark.parametrize("command", WITH_DATA)
@pytest.mark.parametrize(
    "names",
    [("ant", "cat", "dog"), ("0", "1", "3"), ("ant", "bee"), ("1", "2", "3")],
)
def test_labels_that_do_not_match(here, refused, command, names):
    folders = [here / "images" / name for name in CLASS_NAMES]
    for folder, name in zip(folders, names, strict=False):
        folder.rename(here / "images" / f"new-{name}")
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
    for name in names:
        (here / "images" / f"new-{name}").rename(here / "images" / name)
    if names == ("ant", "bee"):  # classes may be missing, others may not be added
        (here / "images" / "wasp").mkdir()
        (here / "images" / "cat").mkdir()
        shutil.copy(here / "images/ant/0.png", here / "images/wasp")
    refused(DATA, *commands(here, here / "model.onnx")[command], says="don't match the model's")


@pytest.mark.parametrize("text", [None, "", "[]", '{"image_std": 0, "image_mean": 0}'])
def test_preprocessing_that_is_none(here, refused, text):
    path = here / "preprocess.json"
    if text is not None:
        path.write_text(text)
    arguments = commands(here, here / "model.onnx")["calibrate"]
    refused(DATA, *arguments, "--preprocess", path, says="preprocess.json: ")


# Moments


@pytest.mark.parametrize("command", ["score", "prune", "forget"])
@pytest.mark.parametrize("kind", ["another", "damaged", "missing"])
def test_moments_that_do_not_belong(here, refused, command, kind):
    path = here / "model.moments.safetensors"
    if kind == "another":
        proto = onnx.load(here / "model.onnx")
        proto.doc_string = "changed"
        onnx.save(proto, here / "model.onnx")
        says = "moments are of another model"
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
        says = "not a safetensors file, or a truncated one"
    else:
        path.unlink()
        says = "no such moments file"
    refused(DATA, *commands(here, here / "model.onnx")[command], says=says)


@pytest.mark.parametrize("command", ["score", "prune", "forget"])
def test_neither_data_nor_moments(here, refused, command):
    (here / "model.moments.safetensors").unlink()
    whole = list(commands(here, here / "model.onnx")[command])
    at = whole.index("--moments")
    says = ("--data DIR", "--moments FILE", "model.moments.safetensors")
    refused(USAGE, *whole[:at], *whole[at + 2 :], says=says)


# Outputs


def writing(here):
    return {
        name: [*arguments[:-2], "-o"]
        for name, arguments in commands(here, here / "model.onnx").items()
        if "-o" in arguments
    }


WRITING = ("calibrate", "prune", "prune-data", "prune-l1", "forget", "forget-data")


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("spelling", ["model.onnx", "out/../model.onnx", "link.onnx"])
def test_the_output_is_the_input(here, refused, command, force, spelling):
    (here / "link.onnx").symlink_to(here / "model.onnx")
    says = "would overwrite the input"
    refused(USAGE, *writing(here)[command], here / spelling, *["--force"] * force, says=says)


@pytest.mark.parametrize("command", WRITING)
def test_the_output_exists(here, refused, run, command):
    (here / "out/x").write_text("precious")
    arguments = writing(here)[command]
    refused(USAGE, *arguments, here / "out/x", says=("exists already", "--force"))
    assert run(*arguments, here / "out/x", "--force").exit_code == 0
    assert (here / "out/x").read_bytes() != b"precious"


def test_a_default_output_exists(here, refused, run):
    model = here / "model.onnx"
    refused(USAGE, "calibrate", model, "--data", here / "images", says="exists already")
    assert run("forget", model, "--class", 0, "--share", 0.5).exit_code == 0
    says = "model.forget-ant.onnx: exists already"
    refused(USAGE, "forget", model, "--class", "ant", "--share", 0.5, says=says)


@pytest.mark.parametrize("command", WRITING)
def test_the_output_can_not_be_there(here, refused, command):
    arguments = writing(here)[command]
    refused(USAGE, *arguments, here / "nowhere/x", says="nowhere: no such folder")
    for force in ([], ["--force"]):
        refused(USAGE, *arguments, here / "out", *force, says="out: is a folder")


def test_the_output_would_overwrite_external_weights(here, refused):
    """What is written for such a model is `NAME` and `NAME.data`."""
    path = here / "big.onnx"
    onnx.save(
        onnx.load(here / "model.onnx"), path, save_as_external_data=True,
        location="w.data", size_threshold=0,
    )  # fmt: skip
    arguments = ("prune", path, "--criterion", "l1", "--sparsity", 0.2, "-o")
    refused(USAGE, *arguments, here / "w", "--force", says="would overwrite the input")
    (here / "other.data").write_text("precious")
    refused(USAGE, *arguments, here / "other", says="other.data: exists already")


def test_a_disk_that_is_full(here, refused, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    arguments = commands(here, here / "model.onnx")["prune-l1"]
    refused(USAGE, *arguments, says="out/x: can't be written: No space left on device")


def test_an_invalid_result_is_not_written(here):
    model = load(here / "model.onnx")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node[0].input[0] = "nowhere"
    before = contents(here)
    with pytest.raises(ModelError, match="the edited model is not valid"):
        save(proto, model, here / "out/x.onnx")
    assert contents(here) == before


@pytest.fixture
def plan(here, run):
    """A plan for the model."""
    arguments = ("prune", here / "model.onnx", "--sparsity", 0.2, "--dry-run")
    assert run(*arguments, "-o", here / "plan.json").exit_code == 0
    return here / "plan.json"


@pytest.mark.parametrize(
    ("arguments", "outputs"),
    [
        (["verify-forget", "model.onnx", "other.onnx", "--class", 1, "--data", "images"],
         ["model.onnx", "other.onnx"]),
        (["apply", "plan.json", "model.onnx"], ["plan.json", "model.onnx"]),
        (["prune", "model.onnx", "--sparsity", 0.2, "--dry-run"], ["model.moments.json"]),
        (["prune", "model.onnx", "--sparsity", 0.2], ["model.moments.safetensors"]),
        (["moments", "merge", "model.moments.safetensors"], ["model.moments.safetensors"]),
        (["score", "model.onnx", "--npz"], ["model.moments.safetensors"]),
        (["forget", "model.onnx", "--class", 0, "--data", "images", "--class-map", "map.json"],
         ["map.json"]),
    ],
)  # fmt: skip
def test_no_input_is_overwritten(here, refused, plan, monkeypatch, arguments, outputs):
    monkeypatch.chdir(here)
    shutil.copy("model.onnx", "other.onnx")
    (here / "map.json").write_text('{"ant": 0, "bee": 1, "cat": 2}')
    (here / "link").symlink_to(here / outputs[0])
    for name in (*outputs, "link" + outputs[0][-5:] * (outputs[0].endswith(".json"))):
        if not (here / name).exists():
            continue
        line = [*arguments, *([] if arguments[-1] == "--npz" else ["-o"]), name, "--force"]
        refused(USAGE, *line, says="would overwrite the input")


def test_a_model_is_no_place_for_moments(here, refused, monkeypatch):
    monkeypatch.chdir(here)
    file, says = "model.moments.safetensors", "call it model.moments.safetensors"
    refused(USAGE, "moments", "merge", file, "-o", "model.onnx", "--force", says=says)


@pytest.mark.parametrize("report", ["z.html", "z.html.manifest.json"])
def test_a_report_is_a_file_of_its_own(here, refused, monkeypatch, report):
    monkeypatch.chdir(here)
    arguments = ("forget", "model.onnx", "--class", 0, "-o", "z.html", "--report", report)
    refused(USAGE, *arguments, "--force", says=f"{report}: two outputs would be this file")


def test_an_output_among_the_models_of_a_frontier(here, refused, monkeypatch):
    monkeypatch.chdir(here)
    arguments = ("prune", "model.onnx", "--data", "images", "--max-drop", 1)
    says = "--keep-frontier writes models of such names there"
    refused(USAGE, *arguments, "-o", "out/model-1.onnx", "--keep-frontier", "out", says=says)


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_folder_that_can_not_be_written_to(here, refused, monkeypatch, option):
    """Nobody is asked whether they are root, to whom no folder is closed."""
    closed = (here / "closed").resolve()
    closed.mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda at, mode: at != closed and allowed(at, mode))
    places = {"-o": here / "out/x.onnx", "--report": here / "out/x.md", option: closed / "x.md"}
    arguments = [word for pair in places.items() for word in pair]
    for line in (("forget", "--class", 0), ("prune", "--sparsity", 0.2)):
        whole = (line[0], here / "model.onnx", *line[1:], *arguments)
        refused(USAGE, *whole, says="closed: this folder can't be written to")


@pytest.mark.parametrize("command", WRITING)
def test_what_is_no_file_is_not_replaced(here, refused, command):
    os.mkfifo(here / "out/pipe")
    (here / "out/loop").symlink_to(here / "out/loop")
    for name in ("pipe", "loop"):
        arguments = (*writing(here)[command], here / "out" / name)
        refused(USAGE, *arguments, "--force", says=f"{name}: is no regular file")
    refused(USAGE, *writing(here)[command], "-", says="does not go to standard output")
    says = "name is not UTF-8"
    refused(USAGE, *writing(here)[command], os.fsdecode(b"a\xff.onnx"), says=says)


@pytest.mark.parametrize("command", WRITING)
def test_a_link_stays_and_its_target_is_replaced(here, run, command):
    (here / "elsewhere").mkdir()
    target, link = here / "elsewhere/y", here / "out/x"
    target.write_text("precious")
    link.symlink_to(target)
    assert run(*writing(here)[command], link).exit_code == USAGE
    result = run(*writing(here)[command], link, "--force")
    assert result.exit_code == 0, result.stderr
    assert link.is_symlink()
    assert target.read_bytes() == link.read_bytes() != b"precious"
    assert [file.name for file in (here / "elsewhere").iterdir()] == ["y"]


# What is asked for


@pytest.mark.parametrize("command", ["prune", "prune-data", "prune-l1"])
@pytest.mark.parametrize("sparsity", ["1", "1.5", "-0.1", "nan", "inf"])
def test_a_sparsity_that_is_none(here, refused, command, sparsity):
    whole = commands(here, here / "model.onnx")[command]
    arguments = [f"--sparsity={sparsity}" if word == 0.2 else word for word in whole]
    arguments.remove("--sparsity")
    finite = sparsity not in ("nan", "inf")
    refused(USAGE, *arguments, says="is not in [0, 1)" if finite else "is not a finite number")


@pytest.mark.parametrize("command", ["prune", "prune-data", "prune-l1"])
def test_a_sparsity_that_the_graph_does_not_allow(here, refused, run, command):
    whole = commands(here, here / "model.onnx")[command]
    line = refused(
        USAGE, *[0.99 if a == 0.2 else a for a in whole],
        says="sparsity 0.99 is more than this graph allows: at most 0.",
    )  # fmt: skip
    most = float(line.split("at most ")[1])
    assert run(*[most if a == 0.2 else a for a in whole]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("score", "--witness", "best"), "no witness named 'best'; there are t1, "),
        (("forget", "--class", 0, "--witness", "l1"), "no witness named 'l1'"),
        (("score", "--csv", "--json"), "give one"),
    ],
)
def test_options_that_make_no_sense(here, refused, arguments, says):
    refused(USAGE, arguments[0], here / "model.onnx", *arguments[1:], says=says)


def test_a_criterion_that_is_unknown(here, refused):
    arguments = commands(here, here / "model.onnx")["prune"]
    says = "no criterion named 'best'; there are least-squares, t1"
    refused(USAGE, *arguments, "--criterion", "best", says=says)
    refused(USAGE, *arguments, "--join", "best", says="no reduction named 'best'; there are max")
    says = "--join min joins a witness's bounds, and l1 has none"
    refused(USAGE, *arguments, "--criterion", "l1", "--join", "min", says=says)


@pytest.mark.parametrize("command", ["evaluate", "check", "verify-forget"])
def test_no_labels_where_the_models_own_will_not_do(here, refused, monkeypatch, command):
    monkeypatch.chdir(here)
    np.save("x.npy", np.zeros((9, 1, 6, 5), np.float32))
    more = {"check": ["--min-accuracy", 0.1], "verify-forget": ["model.onnx", "--class", 1]}
    arguments = (command, "model.onnx", "--data", "x.npy", *more.get(command, []))
    told = refused(DATA, *arguments, says=("x.npy: no labels", "one folder a class"))
    assert "predicted" not in told


def test_an_empty_criterion_is_none(here, refused):
    arguments = ("prune", here / "model.onnx", "--sparsity", 0.2, "-o", here / "out/x.onnx")
    refused(USAGE, *arguments, "--criterion", "", says="no criterion named ''")


def test_a_drop_needs_samples_though_there_are_moments(here, refused):
    arguments = ("prune", here / "model.onnx", "--max-drop", 1, "-o", here / "out/x.onnx")
    refused(USAGE, *arguments, says="needs samples to measure on: give --validation or --data")


@pytest.mark.parametrize("command", ["replay", "apply"])
@pytest.mark.parametrize("content", [None, "", "{}", "[" * 100_000])
def test_what_is_neither_plan_nor_manifest(here, refused, command, content):
    path = here / "bad.json"
    if content is not None:
        path.write_text(content)
    refused(DATA, command, path, here / "model.onnx", "-o", here / "out/x.onnx", says="bad.json: ")


def test_what_a_replay_lacks_is_named(here, run, refused, monkeypatch):
    monkeypatch.chdir(here)
    model, again = "model.onnx", ("-o", "again.onnx")
    assert run("forget", model, "--class", 0, "--strength", 1, "-o", "f.onnx").exit_code == 0
    says = "give them with --moments, such as model.moments.safetensors"
    refused(DATA, "replay", "f.onnx.manifest.json", model, *again, says=says)
    level = ("--level", "head", "--data", "images")
    assert run("forget", model, "--class", 0, *level, "-o", "h.onnx").exit_code == 0
    says = "names images, images; give them with --data"
    refused(DATA, "replay", "h.onnx.manifest.json", model, *again, says=says)


# Devices


RUNNING = tuple(name for name in READING if name not in ("inspect", "score"))


@pytest.mark.parametrize("command", RUNNING)
@pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", ""])
def test_a_device_that_is_none(here, refused, command, device):
    arguments = commands(here, here / "model.onnx")[command]
    refused(USAGE, *arguments, "--device", device, says="use auto, cpu, cuda or cuda:N")


@pytest.mark.parametrize("command", RUNNING)
def test_cuda_that_is_not_there(here, refused, command, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    arguments = commands(here, here / "model.onnx")[command]
    says = ("built without CUDA", "discedit-onnx[gpu]", "--device cpu")
    refused(USAGE, *arguments, "--device", "cuda", says=says)


@pytest.mark.parametrize("command", RUNNING)
def test_no_onnx_runtime(here, refused, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = commands(here, here / "model.onnx")[command]
    refused(USAGE, *arguments, says=("ONNX Runtime is not installed", "discedit-onnx[cpu]"))


def test_no_onnx_runtime_in_a_process_of_its_own(here):
    """Nothing else imports it on the way; what needs no runtime still works."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None; from discedit_onnx.cli import main; main()"
    )

    def run(*arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    model = here / "model.onnx"
    refused = run("evaluate", model, "--data", here / "images")
    assert refused.returncode == USAGE
    assert refused.stderr.startswith("error: ONNX Runtime is not installed")
    assert refused.stderr.count("\n") == 1
    for arguments in (("inspect", model), ("score", model)):
        assert run(*arguments).returncode == 0
    doctor = run("doctor")
    assert doctor.returncode == 0
    assert "warning: ONNX Runtime is not installed" in doctor.stderr


@pytest.mark.parametrize("command", ["calibrate", "prune-data", "forget-data"])
def test_an_interruption_leaves_nothing(here, run, command, monkeypatch):
    """Ctrl-C comes while images are read."""

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("discedit_onnx.calibration.gathering.add", interrupt)
    before = contents(here)
    result = run(*commands(here, here / "model.onnx")[command])
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing more was written\n"
    assert contents(here) == before


# The demo


def test_a_demo_without_sample_models(here, refused):
    arguments = ("demo", "--samples", here / "images", "-o", here / "out/demo")
    refused(USAGE, *arguments, says=("images: no sample models there", "--samples"))


def test_a_demo_where_it_must_not_write(here, refused, few):
    for folder, says in ((few, "the folder of the sample models"), (here / "model.onnx", "is not")):
        refused(USAGE, "demo", "--samples", few, "-o", folder, says=says)
    assert (few / "fashion_resnet20.onnx").is_file()
