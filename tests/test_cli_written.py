"""What commands write: whole, together with what goes with it, and nothing of before beside it."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import onnx
import pytest

from discedit_onnx.api import calibrate, open_data
from discedit_onnx.calibration.checkpoint import Checkpoint
from discedit_onnx.model import load, save

OK, USAGE = 0, 2


@pytest.fixture
def full(monkeypatch):
    """Make the disk full for files of a name; gives what says which."""
    names = []
    write = Path.write_bytes

    def refuse(path, content):
        if any(path.name.endswith(name) for name in names):
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    return names.append


# The manifest of a model that forgot


def forgetting(here):
    """A command line, and the two files that it writes."""
    out = here / "out.onnx"
    return (
        ("forget", here / "model.onnx", "--class", 0, "-o", out),
        out,
        here / ("out.onnx.manifest.json"),
    )


def test_a_manifest_is_not_overwritten_unasked(here, run):
    arguments, out, manifest = forgetting(here)
    manifest.write_text("precious")
    result = run(*arguments)
    assert result.exit_code == USAGE
    assert result.stderr == f"error: {manifest}: exists already; use --force to overwrite it\n"
    assert manifest.read_text() == "precious"
    assert not out.exists()
    assert run(*arguments, "--force").exit_code == OK
    assert manifest.read_text() != "precious"


def test_a_model_that_forgot_is_not_left_without_its_manifest(here, run, full):
    arguments, out, _ = forgetting(here)
    before = sorted(here.rglob("*"))
    full(".manifest.json")
    result = run(*arguments)
    assert result.exit_code == USAGE
    assert result.stderr == f"error: {out}: can't be written: No space left on device\n"
    assert sorted(here.rglob("*")) == before


def test_an_interrupt_waits_until_both_are_there(here, monkeypatch):
    """Ctrl-C between two renames would leave one without the other."""
    moved = []
    replace = Path.replace

    def interrupted(path, target):
        if not moved:
            signal.raise_signal(signal.SIGINT)
        moved.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    model, out = load(here / "model.onnx"), here / "out.onnx"
    with pytest.raises(KeyboardInterrupt):
        save(model.proto, model, out, beside=lambda _: {".json": b"{}"})
    assert moved == [here / "out.onnx.json", out]
    assert all(path.is_file() for path in moved)


# A calibration under way


@pytest.fixture
def partial(here):
    """What a calibration that was interrupted keeps beside its output."""
    model = load(here / "model.onnx")
    checkpoint = Checkpoint.beside(here / "m", interval=0)
    checkpoint.remove = lambda: None
    calibrate(model, open_data(model, here / "images"), device="cpu", checkpoint=checkpoint)
    return checkpoint.path


def test_a_calibration_under_way_is_not_lost_to_another(here, run, partial):
    kept = partial.read_bytes()
    arguments = ("calibrate", here / "model.onnx", "--data", here / "images", "-o", here / "m")
    result = run(*arguments, "--num-samples", 6, "--device", "cpu")
    assert result.exit_code == USAGE
    assert result.stderr == (
        f"error: {partial}: is 13 images of another calibration: go on with that one's command, "
        "remove it, or use --force to overwrite it\n"
    )
    assert partial.read_bytes() == kept
    assert not (here / "m").exists()
    assert run(*arguments, "--num-samples", 6, "--force").exit_code == OK
    assert not partial.exists()


def test_what_is_no_checkpoint_is_not_removed(here, run):
    file = here / "m.partial"
    file.write_text("precious")
    arguments = ("calibrate", here / "model.onnx", "--data", here / "images", "-o", here / "m")
    result = run(*arguments)
    assert result.exit_code == USAGE
    assert "is no checkpoint of a calibration: move it away, or use --force" in result.stderr
    assert file.read_text() == "precious"


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_checkpoints_need_a_real_interval(here, run, seconds):
    arguments = ("calibrate", here / "model.onnx", "--data", here / "images", "-o", here / "m")
    result = run(*arguments, "--checkpoint-every", seconds)
    assert result.exit_code == USAGE
    assert "--checkpoint-every" in result.stderr


# What is left of what was overwritten


def pruning(here, *words):
    return ("prune", here / "model.onnx", "--sparsity", 0.3, "--criterion", "l1", "--force", *words)


def test_the_manifest_of_a_model_that_is_overwritten_goes(here, run):
    arguments, out, manifest = forgetting(here)
    assert run(*arguments).exit_code == OK
    moments = ("--moments", here / "model.moments.safetensors")
    again = ("replay", manifest, here / "model.onnx", *moments, "-o", out, "--force")
    assert run(*again).exit_code == OK
    assert manifest.is_file(), "it is of this very model"
    assert run(*pruning(here, "-o", out)).exit_code == OK
    assert not manifest.exists()
    manifest.write_text("precious")
    assert run(*pruning(here, "-o", out)).exit_code == OK
    assert manifest.read_text() == "precious"


def test_the_weights_of_a_model_that_is_overwritten_go(here, run):
    out, data = here / "out.onnx", here / "out.onnx.data"
    onnx.save(
        onnx.load(here / "model.onnx"), out, save_as_external_data=True,
        location=data.name, size_threshold=0,
    )  # fmt: skip
    assert data.is_file()
    assert run(*pruning(here, "-o", out)).exit_code == OK
    assert not data.exists()
    data.write_text("precious")
    assert run(*pruning(here, "-o", out)).exit_code == OK
    assert data.read_text() == "precious"


def test_the_values_of_a_plan_that_is_overwritten_go(here, run):
    plan, values = here / "plan.json", here / "plan.safetensors"
    words = ("-o", plan, "--dry-run", "--data", here / "images")
    assert run(*pruning(here, *words, "--refit", "patch")).exit_code == OK
    assert values.is_file()
    assert run(*pruning(here, *words, "--refit", "off")).exit_code == OK
    assert not values.exists()
    values.write_text("precious")
    assert run(*pruning(here, *words, "--refit", "off")).exit_code == OK
    assert values.read_text() == "precious"


@pytest.mark.parametrize(("shard", "code"), [("1/100000", USAGE), ("1/5", USAGE), ("4/4", OK)])
def test_a_shard_with_nothing_in_it(here, run, shard, code):
    arguments = ("calibrate", here / "model.onnx", "--data", here / "images", "-o", here / "m")
    result = run(*arguments, "--shard", shard, "--batch-size", 4)
    says = "nothing is in it, for 13 images are 4 batches of 4: give N up to 4, or a smaller"
    assert result.exit_code == code, result.stderr
    assert (says in result.stderr) == (code == USAGE)
    assert (here / "m").exists() == (code == OK)


def test_what_was_measured_is_shown_although_the_page_can_not_be_written(here, run, full):
    arguments, out, _ = forgetting(here)
    assert run(*arguments).exit_code == OK
    full("left.md")
    result = run(
        "verify-forget", here / "model.onnx", out, "--class", 0, "--data", here / "images",
        "-o", here / "left.md",
    )  # fmt: skip
    assert result.exit_code == USAGE
    assert (
        result.stderr == f"error: {here / 'left.md'}: can't be written: No space left on device\n"
    )
    assert "Verdicts" in result.stdout
    assert not (here / "left.md").exists()


def test_a_demo_on_a_full_disk_blames_the_disk(tmp_path, run, full):
    full("fashion_resnet20.onnx")
    samples = Path(__file__).parents[1] / "sample_models"
    result = run("demo", "--samples", samples, "-o", tmp_path / "demo")
    place = tmp_path / "demo/fashion_resnet20.onnx"
    assert result.exit_code == USAGE
    assert result.stderr == f"error: {place}: can't be written: No space left on device\n"
    assert not place.exists()


def test_a_replay_on_a_full_disk_names_its_output(here, run, monkeypatch):
    arguments, _, manifest = forgetting(here)
    assert run(*arguments).exit_code == OK

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    moments, again = ("--moments", here / "model.moments.safetensors"), here / "again.onnx"
    result = run("replay", manifest, here / "model.onnx", *moments, "-o", again)
    assert result.exit_code == USAGE
    assert result.stderr == f"error: {again}: can't be written: No space left on device\n"
