"""Each command on the sample models, with few images, as people and as machines read it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import discedit_onnx as dx
from discedit_onnx.cli.forget import beside
from discedit_onnx.cli.output import short
from discedit_onnx.evidence.manifest import manifest_path
from discedit_onnx.scoring.witness import WITNESSES

ROOT = Path(__file__).parents[1]
MODELS = ("fashion_resnet20", "fashion_vgg", "fashion_mobilenet")
CLASSES = [
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
]


@pytest.fixture
def resnet(few, tmp_path, moments):
    """A ResNet of one's own, with its moments beside it."""
    shutil.copy(moments, tmp_path / "resnet.moments.safetensors")
    return shutil.copy(few / "fashion_resnet20.onnx", tmp_path / "resnet.onnx")


@pytest.fixture
def data(few):
    return few / "fashion_mnist/calibration"


def ran(result):
    """Standard output of a command that succeeded without a word on standard error."""
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def accuracies(path, folder):
    model = dx.load(path)
    found = dx.evaluate(model, dx.open_data(model, folder), device="cpu", latency=False)
    return found.per_class


@pytest.mark.parametrize("name", MODELS)
def test_inspect(run, few, name):
    path = few / f"{name}.onnx"
    text = ran(run("inspect", path))
    found = json.loads(ran(run("inspect", path, "--json")))
    assert f"{found['parameters']:,}" in text
    assert f"{100 * found['removable_share']:.1f} %" in text
    assert "image float (batch, 1, 28, 28)" in text
    assert "Every operator is known" in text
    want = dx.inspect(dx.load(path))
    assert [g["name"] for g in found["groups"]] == [g.name for g in want.groups]
    assert found["macs"] == want.macs
    for group in want.groups:
        assert short(group.name) in text
    assert any(pin["why"] == "graph output" for pin in found["pinned"])


def test_inspect_names_operators_without_a_rule(run, few, tmp_path):
    proto = onnx.load(few / "fashion_vgg.onnx")
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain = "Strange", "example.domain"
    proto.opset_import.append(onnx.helper.make_opsetid("example.domain", 1))
    onnx.save(proto, tmp_path / "odd.onnx")
    text = ran(run("inspect", tmp_path / "odd.onnx"))
    last = text.splitlines()[-1]
    assert re.match(
        r"A rule for example\.domain\.Strange \(1x\) may free more: .* \d+ weights", last
    )
    found = json.loads(ran(run("inspect", tmp_path / "odd.onnx", "--json")))
    assert found["unknown"] == {"example.domain.Strange": 1}


@pytest.mark.parametrize("name", MODELS)
def test_calibrate_writes_beside_the_model(run, few, data, tmp_path, name):
    model = shutil.copy(few / f"{name}.onnx", tmp_path)
    text = ran(run("calibrate", model, "--data", data, "--device", "cpu"))
    path = tmp_path / f"{name}.moments.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, f"{name}.onnx"])
    gathered = dx.load_moments(path)
    assert gathered.source == dx.load(model).hash
    assert gathered.count.tolist() == [6] * 10
    for words in (
        "60 of 10 classes",
        "by number",
        "mean 0.286",
        "model metadata",
        "cpu",
        path.name,
    ):
        assert words in text
    assert f"{100 * gathered.accuracy:.1f} % on these images" in text


def test_calibrate_for_machines(run, few, data, tmp_path):
    out = tmp_path / "m.safetensors"
    result = run("calibrate", few / "fashion_vgg.onnx", "--data", data, "-o", out, "--json")
    found = json.loads(ran(result))
    assert found["output"] == str(out)
    assert found["bytes"] == out.stat().st_size
    assert found["images_per_class"] == dict.fromkeys(CLASSES, 6)
    assert found["device"] in ("cpu", "cuda:0")
    assert 0.8 < found["accuracy"] <= 1


def test_quiet_says_nothing(run, few, data, tmp_path):
    out = tmp_path / "m.safetensors"
    model = few / "fashion_vgg.onnx"
    assert ran(run("calibrate", model, "--data", data, "-o", out, "-q")) == ""
    assert ran(run("prune", model, "--moments", out, "--sparsity", 0.1, "-q",
                   "-o", tmp_path / "p.onnx")) == ""  # fmt: skip


def test_force_overwrites(run, few, data, tmp_path):
    out = tmp_path / "m.safetensors"
    out.write_text("old")
    ran(run("calibrate", few / "fashion_vgg.onnx", "--data", data, "-o", out, "--force"))
    assert dx.load_moments(out).count.sum() == 60


def test_near_chance_stops_unless_forced(run, few, data, tmp_path):
    """The class folders in reverse: no image has its own class."""
    for folder in data.iterdir():
        shutil.copytree(folder, tmp_path / "data" / str(9 - int(folder.name[0])))
    out = tmp_path / "m.safetensors"
    result = run("calibrate", few / "fashion_vgg.onnx", "--data", tmp_path / "data", "-o", out)
    assert result.exit_code == 4
    assert not out.exists()
    assert result.stderr.startswith("error: ")
    assert "near chance (10.0 %)" in result.stderr
    assert "class folders by number" in result.stderr
    assert "--force" in result.stderr
    assert result.stderr.count("\n") == 1
    result = run("score", few / "fashion_vgg.onnx", "--data", tmp_path / "data")
    assert result.exit_code == 4
    result = run(
        "calibrate", few / "fashion_vgg.onnx", "--data", tmp_path / "data", "-o", out, "--force"
    )
    assert result.exit_code == 0
    assert out.exists()
    assert result.stderr.startswith("warning: ")
    assert "near chance (10.0 %)" in result.stderr
    result = run("evaluate", few / "fashion_vgg.onnx", "--data", tmp_path / "data", "--json")
    assert "near chance" in result.stderr
    json.loads(result.stdout)


def test_classes_without_images_are_warned_of(run, few, data, tmp_path):
    for folder in data.iterdir():
        if folder.name[0] != "5":
            shutil.copytree(folder, tmp_path / "data" / folder.name)
    arguments = ["--data", tmp_path / "data", "--json"]
    result = run("score", few / "fashion_vgg.onnx", *arguments)
    assert result.stderr == (
        "warning: no images of sandal: nothing is known of what tells them apart\n"
    )
    json.loads(result.stdout)


def test_score_of_moments_beside_the_model_named_and_of_images(run, resnet, moments, data):
    texts = [
        ran(run("score", resnet, *arguments, "--json"))
        for arguments in ([], ["--moments", moments], ["--data", data])
    ]
    layers = [json.loads(text)["layers"] for text in texts]
    assert layers[0] == layers[1] == layers[2]
    scores = dx.score(dx.load(resnet), dx.load_moments(moments))
    assert [layer["tensor"] for layer in layers[0]] == [tap.tensor for tap in scores.taps]
    for layer in layers[0]:
        bounds = scores.bounds[scores.slices[layer["tensor"]]]
        assert layer["channels"] == len(bounds)
        np.testing.assert_allclose(list(layer["mean"].values()), bounds.mean(axis=0))
        np.testing.assert_allclose(list(layer["max"].values()), bounds.max(axis=0))
        assert list(layer["mean"]) == CLASSES


@pytest.mark.parametrize("witness", WITNESSES)
def test_score_for_people(run, resnet, witness):
    text = ran(run("score", resnet, "--witness", witness))
    assert "estimates, 60 images" in text
    assert witness in text
    scores = dx.score(
        dx.load(resnet), dx.load_moments(resnet.with_suffix(".moments.safetensors")), witness
    )
    first = scores.bounds[scores.slices[scores.taps[0].tensor]].mean(axis=0)
    layer = short(scores.taps[0].tensor, 24)
    row = next(line for line in text.splitlines() if line.startswith(f"{layer} "))
    assert row.split()[4:] == [f"{value:.2f}" for value in first]
    assert f" {first.argmax()} {CLASSES[first.argmax()]} " in row


def test_score_as_csv(run, resnet, moments):
    rows = list(csv.DictReader(ran(run("score", resnet, "--csv")).splitlines()))
    scores = dx.score(dx.load(resnet), dx.load_moments(moments))
    assert len(rows) == scores.bounds.size
    np.testing.assert_allclose(
        [float(row["bound"]) for row in rows], scores.bounds.reshape(-1), atol=1e-6
    )
    assert [int(row["sign"]) for row in rows] == scores.signs.reshape(-1).tolist()
    assert [int(row["component"]) for row in rows[::10]] == scores.component.tolist()
    assert [row["class"] for row in rows[:10]] == CLASSES


def test_score_shows_as_many_classes_as_fit(run, resnet, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    text = ran(run("score", resnet))
    assert re.search(r"and [2-9] more: --csv and --json have all", text)


@pytest.mark.parametrize(
    ("criterion", "name"), [*(("l1", name) for name in MODELS), ("sharp", "fashion_vgg")]
)
def test_prune(run, few, data, tmp_path, name, criterion):
    model, out = few / f"{name}.onnx", tmp_path / "out.onnx"
    arguments = ["prune", model, "--data", data, "--sparsity", 0.3]
    arguments += ["--criterion", criterion, "--refit", "off" if criterion == "l1" else "bias"]
    text = ran(run(*arguments, "-o", out))
    parameters = dx.inspect(dx.load(out)).parameters
    before = dx.inspect(dx.load(model)).parameters
    reached = 1 - parameters / before
    assert 0.3 <= reached < 0.34  # widths are rounded
    assert f"asked 30.00 %, reached {100 * reached:.2f} %" in text
    assert f"{before:,} -> {parameters:,}" in text
    assert "on 32 images" in text
    again = tmp_path / "again.onnx"
    found = json.loads(ran(run(*arguments, "-o", again, "--json")))
    assert again.read_bytes() == out.read_bytes()
    assert (found["budget"]["kind"], found["budget"]["asked"]) == ("sparsity", 0.3)
    assert found["budget"]["reached"] == pytest.approx(reached)
    assert found["parameters"] == {"before": before, "after": parameters}
    assert found["file_size"]["after"] == out.stat().st_size
    assert found["macs"]["after"] == dx.inspect(dx.load(out)).macs
    assert found["equality"]["deviation"] <= found["equality"]["tolerance"]
    gone = sum(group["before"] - group["after"] for group in found["groups"])
    assert gone == found["components"]["edited"] > 0


def test_prune_without_any_data(run, few, tmp_path):
    """With the data-free criteria, and then the proof is on random inputs."""
    model = few / "fashion_vgg.onnx"
    contents = set()
    for seed in (0, 1):
        out = tmp_path / f"{seed}.onnx"
        text = ran(run("prune", model, "--sparsity", 0.2, "--criterion", "random",
                       "--seed", seed, "-o", out))  # fmt: skip
        assert "random inputs" in text
        contents.add(out.read_bytes())
    assert len(contents) == 2


def test_prune_by_moments_and_prove_on_images(run, resnet, moments, few, data, tmp_path):
    found = json.loads(ran(run(
        "prune", resnet, "--moments", moments, "--data", few / "fashion_mnist/test",
        "--sparsity", 0.1, "-o", tmp_path / "a.onnx", "--json",
    )))  # fmt: skip
    assert found["moments"] == str(moments)
    assert found["equality"]["origin"] == "images"
    ran(run("prune", resnet, "--sparsity", 0.1, "-o", tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_prune_joins_classes_as_asked(run, resnet, tmp_path):
    plans = []
    for join in ("max", "pairwise-mean"):
        out = tmp_path / f"{join}.json"
        found = ran(run("prune", resnet, "--sparsity", 0.1, "--join", join, "--dry-run", "-o", out,
                        "--json"))  # fmt: skip
        assert json.loads(found)["join"] == join
        plans.append(json.loads(out.read_text())["cuts"])
    assert plans[0] != plans[1]


def test_nothing_pruned_is_the_same_file(run, resnet, tmp_path):
    text = ran(run("prune", resnet, "--sparsity", 0, "-o", tmp_path / "same.onnx"))
    assert (tmp_path / "same.onnx").read_bytes() == resnet.read_bytes()
    assert "unchanged" in text


@pytest.mark.parametrize("remove", [False, True])
def test_forget_with_no_data(run, resnet, remove, few):
    """Exactly as in the README: a model, a class, and the moments beside it."""
    by_index = ["forget", resnet, "--class", 5, "--share", 0.1, *["--remove"] * remove]
    text = ran(run(*by_index))
    out = resnet.with_name("resnet.forget-sandal" + ".removed" * remove + ".onnx")
    assert str(out) in text
    before = accuracies(resnet, few / "fashion_mnist/test")
    after = accuracies(out, few / "fashion_mnist/test")
    assert before[5] - after[5] > 0.5
    smaller = dx.inspect(dx.load(out)).parameters < dx.inspect(dx.load(resnet)).parameters
    assert smaller == remove
    named = resnet.with_name("named.onnx")
    ran(
        run(
            "forget",
            resnet,
            "--class",
            "sandal",
            "--share",
            0.1,
            *["--remove"] * remove,
            "-o",
            named,
        )
    )
    assert named.read_bytes() == out.read_bytes()


def test_forget_rounds_widths_as_prune_does(run, few, moments, tmp_path):
    """auto is what the device likes; the class is gone all the same."""
    model, out = few / "fashion_resnet20.onnx", tmp_path / "out.onnx"
    arguments = ["forget", model, "--class", 5, "--moments", moments, "--remove", "--share", 0.1]
    arguments += ["--device", "cpu", "--force", "-o", out, "--json"]

    def widths(*words):
        groups = json.loads(ran(run(*arguments, *words)))["groups"]
        assert accuracies(out, few / "fashion_mnist/test")[5] == 0
        return [group["after"] for group in groups if group["after"] < group["before"]]

    assert not any(width % 4 for width in widths())
    assert json.loads(manifest_path(out).read_bytes())["way"]["round_to"] == 4
    assert any(width % 4 for width in widths("--round-to", 1))
    result = run(*arguments, "--round-to", "some")
    assert "--round-to some: give a number from 1 on, or auto" in result.stderr


def test_forget_measures_on_images(run, resnet, few, data, tmp_path):
    arguments = ["forget", resnet, "--class", "bag", "--class", "1", "--class", "8"]
    test = few / "fashion_mnist/test"
    found = json.loads(ran(run(*arguments, "--data", test, "--moments",
                               resnet.with_suffix(".moments.safetensors"), "--json")))  # fmt: skip
    out = resnet.with_name("resnet.forget-bag+trouser.onnx")
    assert found["output"] == str(out)
    assert found["classes"] == ["bag", "trouser"]
    for when, path in (("before", resnet), ("after", out)):
        per_class = accuracies(path, test)
        accuracy = found["accuracy"][when]
        assert accuracy["forget"] == pytest.approx(per_class[[1, 8]].mean())
        assert accuracy["retain"] == pytest.approx(np.delete(per_class, [1, 8]).mean())
        assert list(accuracy["per_class"].values()) == pytest.approx(per_class.tolist())
    assert found["accuracy"]["calibration_images"] is False
    text = ran(run(*arguments, "--data", data, "-o", tmp_path / "x.onnx"))
    assert "on 60 images, the same images that it was calibrated on" in text
    assert "forgotten: bag, trouser" in text


def test_default_names():
    from pathlib import Path

    model = Path("models/net.v2.onnx")
    assert str(beside(model, ["ankle boot"], False)) == "models/net.v2.forget-ankle-boot.onnx"
    assert str(beside(model, ["3", "a/b"], True)) == "models/net.v2.forget-3+a-b.removed.onnx"
    assert str(beside(model, ["!?"], False)) == "models/net.v2.forget-1-classes.onnx"
    assert str(beside(model, list("abcd"), False)) == "models/net.v2.forget-4-classes.onnx"


def test_evaluate(run, few):
    model, test = few / "fashion_vgg.onnx", few / "fashion_mnist/test"
    text = ran(run("evaluate", model, "--data", test))
    found = json.loads(ran(run("evaluate", model, "--data", test, "--json")))
    per_class = accuracies(model, test)
    assert list(found["per_class"].values()) == pytest.approx(per_class.tolist())
    assert found["top1"] == pytest.approx(per_class.mean())
    assert sorted(found["latency_ms"]) == ["1", "32"]
    assert found["against"] is None
    assert f"{100 * found['top1']:.2f} %" in text
    assert "difference" not in text
    for name in CLASSES:
        assert re.search(rf"^{name} +6 ", text, re.M)


def test_evaluate_side_by_side(run, few, resnet, tmp_path):
    """The other model says for itself how it is read: here, not normalised, and badly named."""
    test = few / "fashion_mnist/test"
    model = dx.load(resnet)
    ran(run("prune", resnet, "--sparsity", 0.3, "-o", tmp_path / "small.onnx"))
    other = onnx.load(tmp_path / "small.onnx")
    for prop in other.metadata_props:
        if prop.key == "discedit.preprocess":
            prop.value = json.dumps({"rescale_factor": 1 / 255})
    onnx.save(other, tmp_path / "other.onnx")
    result = run("evaluate", tmp_path / "small.onnx", "--data", test, "--against", resnet, "--json")
    found = json.loads(result.stdout)
    assert found["against"]["parameters"] == dx.inspect(model).parameters > found["parameters"]
    assert found["against"]["top1"] == pytest.approx(accuracies(resnet, test).mean())
    result = run("evaluate", resnet, "--data", test, "--against", tmp_path / "other.onnx", "--json")
    normalised = accuracies(tmp_path / "small.onnx", test).mean()
    read = json.loads(result.stdout)["against"]["top1"]
    assert read == pytest.approx(accuracies(tmp_path / "other.onnx", test).mean())
    assert read != pytest.approx(normalised)
    text = run("evaluate", tmp_path / "small.onnx", "--data", test, "--against", resnet).stdout
    header = next(line for line in text.splitlines() if "difference" in line)
    assert header.split() == ["resnet.onnx", "small.onnx", "difference"]
    change = 100 * (found["top1"] - found["against"]["top1"])
    row = next(line for line in text.splitlines() if line.startswith("top-1"))
    assert row.split()[-1] == f"{change:+.1f}"


def test_doctor(run):
    text = ran(run("doctor"))
    found = json.loads(ran(run("doctor", "--json")))
    assert found["packages"]["onnx"] == onnx.__version__
    assert found["providers"]["CPUExecutionProvider"] is True
    assert re.search(r"CPUExecutionProvider +starts", text)


def test_demo(run, few, tmp_path, monkeypatch):
    """For machines, over the files of an earlier one; the README's text is run as a document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("discedit_onnx.editing.refit.batches.SHOWN", 128)
    monkeypatch.setattr("discedit_onnx.editing.refit.batches.CHOSEN_BY", 32)
    (tmp_path / "sample_models").symlink_to(few)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/fashion_resnet20.pruned.onnx").write_text("earlier")
    for name, value in {"JSON": "1", "OUTPUT": "other", "RANKING": "not for its steps"}.items():
        monkeypatch.setenv(f"DISCEDIT_{name}", value)
    found = json.loads(ran(run("demo", "--device", "cpu")))
    original, pruned, silenced, removed = found["models"]
    assert original["top1"] > 0.9
    assert pruned["parameters"] < 0.51 * original["parameters"]
    assert silenced["forgotten"] < original["forgotten"] - 0.5
    assert removed["forgotten"] == silenced["forgotten"]
    assert removed["parameters"] < original["parameters"] <= silenced["parameters"]
    names = {
        "fashion_resnet20.onnx",
        "fashion_resnet20.moments.safetensors",
        "fashion_resnet20.pruned.onnx",
        "fashion_resnet20.forget-sandal.onnx",
        "fashion_resnet20.forget-sandal.removed.onnx",
        "fashion_resnet20.forget-sandal.onnx.manifest.json",
        "fashion_resnet20.forget-sandal.removed.onnx.manifest.json",
    }
    assert {path.name for path in (tmp_path / "other").iterdir()} == names
    assert removed["path"] == "other/fashion_resnet20.forget-sandal.removed.onnx"


def test_demo_finds_the_checkout_from_anywhere(tmp_path, monkeypatch):
    from discedit_onnx.cli.demo import find_samples

    monkeypatch.chdir(tmp_path)
    assert (find_samples(None) / "fashion_resnet20.onnx").is_file()


def test_inspect_puts_holders_of_the_same_weights_together(run):
    text = ran(run("inspect", ROOT / "sample_models/fashion_vit.onnx"))
    assert "node_layer_norm and 8 more" in " ".join(text.split())
    assert "prune --inside-heads would free up to" in text
    assert "--inexact would free up to 99.7 %" in text


def test_a_class_by_the_name_of_its_folder(run, few, tmp_path):
    """Where the model names no classes, the data do; moments are only gathered later."""
    proto = onnx.load(few / "fashion_vgg.onnx")
    kept = [p for p in proto.metadata_props if p.key != "discedit.class_names"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    model = tmp_path / "unnamed.onnx"
    onnx.save(proto, model)
    arguments = ["forget", model, "--data", few / "fashion_mnist/test", "--level", "head"]
    result = run(*arguments, "--class", "dress", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0, result.stderr
    assert "unnamed.onnx without dress" in result.stdout


def test_least_squares_on_images_that_are_prepared_wrongly(run, few, tmp_path):
    """No labels are needed, but where there are some they can say that something is wrong."""
    arguments = ["prune", few / "fashion_vgg.onnx", "--data", few / "fashion_mnist/calibration"]
    arguments += ["--sparsity", "0.1", "-o", tmp_path / "p.onnx"]
    (tmp_path / "wrong.json").write_text('{"image_mean": [9.0], "image_std": [0.01]}')
    result = run(*arguments, "--preprocess", tmp_path / "wrong.json")
    assert result.exit_code == 4, result.stdout
    assert "near chance" in result.stderr
    assert "--preprocess" in result.stderr
    assert not (tmp_path / "p.onnx").exists()
    arguments += ["--criterion", "l1", "--refit", "bias", "--force"]
    forced = run(*arguments, "--preprocess", tmp_path / "wrong.json")
    assert forced.exit_code == 0, forced.stderr
