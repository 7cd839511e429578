"""--max-drop: the most compressed model within a drop, on samples kept for that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_models import classifier, taught, write_images

import discedit_onnx as dx
from discedit_onnx.calibration.opening import open_data
from discedit_onnx.editing.order import Limits
from discedit_onnx.editing.prune import check_request
from discedit_onnx.editing.pruner import Pruner
from discedit_onnx.editing.search import search, split
from discedit_onnx.errors import DataError, GateError
from discedit_onnx.graph.coupling import analyse


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that tells the images beside it apart."""
    import onnx

    folder = tmp_path_factory.mktemp("search")
    write_images(folder / "data", (40, 40, 40))
    onnx.save(taught(classifier(), folder / "data"), folder / "model.onnx")
    return folder


def pruner(place, data, **options):
    model = dx.load(place / "model.onnx")
    settings = {"criterion": "least-squares", "refit": "patch"} | options
    return Pruner(
        model, analyse(model.proto), None, data, "sparsity", settings["criterion"], "max", "global",
        Limits(), settings["refit"], 0, "cpu", None,
    )  # fmt: skip


def samples(place):
    return split(open_data(dx.load(place / "model.onnx"), place / "data"))


def right(proto, data, truth):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = [session.run(None, dict(b.feeds))[0].argmax(axis=1) for b in data.batches(16)]
    return np.concatenate(found) == truth


def test_split_keeps_classes_alike_and_samples_apart(place):
    work, kept = samples(place)
    assert not set(work.index) & set(kept.index)
    assert len(work) + len(kept) == 120
    assert np.ptp(np.bincount(kept.labels)) <= 1
    assert split(open_data(dx.load(place / "model.onnx"), place / "data"))[1].index.tolist() == (
        kept.index.tolist()
    )
    with pytest.raises(DataError, match="--validation"):
        split(work.take(np.arange(7)))


@pytest.mark.parametrize("max_drop", [0.0, 0.1, 0.3, 1.0])
def test_the_most_compressed_of_those_within_the_drop(place, max_drop):
    work, kept = samples(place)
    found = search(pruner(place, work), kept, max_drop)
    assert found.measure == "accuracy"
    assert found.best.drop.drop <= max_drop + 1e-12
    for other in found.tried:
        if other.edit.sparsity > found.best.edit.sparsity:
            assert other.drop.drop > max_drop
        assert other.edit.equality.deviation <= 1e-4
        # What was told is what the model does.
        expected = right(other.edit.proto, kept, kept.labels).mean()
        assert other.drop.after == pytest.approx(expected)
        assert other.drop.low <= other.drop.drop <= other.drop.high
        beaten = any(
            o.edit.sparsity >= other.edit.sparsity and o.drop.after >= other.drop.after
            for o in found.tried
            if o is not other
        )
        assert (other in found.frontier) == (not beaten)
    if max_drop == 1.0:
        most = check_most(place)
        assert found.best.edit.sparsity >= most - 0.02


def check_most(place):
    """The largest share that can be removed, from what an impossible budget is told."""
    model = dx.load(place / "model.onnx")
    coupling = analyse(model.proto)
    from discedit_onnx.editing.order import removal_order

    order = removal_order(coupling, np.zeros(coupling.size))
    cost = check_request(model, coupling, _nothing())
    return 1 - cost.left(order.first(len(order.steps))) / cost.total


def _nothing():
    from discedit_onnx.editing.budget import Budget

    return Budget("sparsity", 0.0)


def test_components_are_ranked_once(place, monkeypatch):
    from discedit_onnx.editing import pruner as module

    calls = []
    real = module.least_squares
    monkeypatch.setattr(module, "least_squares", lambda *a, **k: calls.append(1) or real(*a, **k))
    work, kept = samples(place)
    found = search(pruner(place, work), kept, 0.3)
    assert len(found.tried) > 2
    assert calls == [1]


@pytest.mark.parametrize(
    ("kind", "refit", "apart"),
    [
        ("sparsity", "patch", True),
        ("size", "patch", True),
        ("macs", "patch", True),
        ("latency", "patch", True),
        ("sparsity", "channel", False),
        ("sparsity", "off", False),
    ],
)
def test_what_no_two_layers_mend_counts_more_where_pairs_are_refitted(
    place, monkeypatch, kind, refit, apart
):
    from dataclasses import replace

    from discedit_onnx.editing import pruner as module

    told = []
    real = module.least_squares
    monkeypatch.setattr(
        module, "least_squares", lambda *a, **k: told.append(k["apart"]) or real(*a, **k)
    )
    work, _ = samples(place)
    assert replace(pruner(place, work, refit=refit), kind=kind).order is not None
    assert told == [apart]


def test_without_labels_the_dense_model_is_held_for_right(place):
    from dataclasses import replace

    work, kept = samples(place)
    blind = replace(kept, labels=np.full(len(kept), -1))
    found = search(pruner(place, work), blind, 0.2)
    assert found.measure == "agreement"
    dense = dx.load(place / "model.onnx").proto
    session = onnxruntime.InferenceSession(
        dense.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    top = [session.run(None, dict(b.feeds))[0].argmax(axis=1) for b in kept.batches(16)]
    expected = right(found.best.edit.proto, kept, np.concatenate(top)).mean()
    assert found.best.drop.before == 1
    assert found.best.drop.after == pytest.approx(expected)
    some = kept.labels.copy()
    some[0] = -1
    with pytest.raises(DataError):
        search(pruner(place, work), replace(kept, labels=some), 0.2)


def test_no_model_within_the_drop(place):
    """All filters random and not refitted: the least cut of a coarse model may already hurt."""
    work, kept = samples(place)
    with pytest.raises(GateError, match=r"no pruned model stays within -50 points"):
        search(pruner(place, work, criterion="l1", refit="off"), kept, -0.5)


COMMAND = ("prune", "model.onnx", "--device", "cpu", "-o", "out.onnx", "--force")


def test_the_command(run, place, monkeypatch):
    monkeypatch.chdir(place)
    line = (*COMMAND, "--data", "data", "--max-drop", "10", "--keep-frontier", "kept")
    result = run(*line)
    assert result.exit_code == 0, result.stderr
    assert "Frontier on 30 validation samples" in result.stdout
    assert "chosen" in result.stdout
    found = json.loads(run(*line, "--json").stdout)["search"]
    assert found["samples"] == 30
    assert found["measure"] == "accuracy"
    (chosen,) = (candidate for candidate in found["frontier"] if candidate["chosen"])
    assert chosen["drop"] <= 0.1
    for candidate in found["frontier"]:
        model = dx.load(candidate["model"])
        assert (
            sum(int(np.prod(t.dims)) for t in model.proto.graph.initializer)
            == (candidate["parameters"])
        )
    assert Path("out.onnx").stat().st_size == Path(chosen["model"]).stat().st_size


def test_a_frontier_takes_the_place_of_an_earlier_one(run, place, monkeypatch):
    monkeypatch.chdir(place)
    line = (*COMMAND, "--data", "data", "--max-drop", "10", "--keep-frontier", "again")
    assert run(*line).exit_code == 0
    last = Path("again/model-1.onnx").read_bytes()
    Path("again/model-99.onnx").write_bytes(last)
    others = ("model-big.onnx", "model-0.onnx", "other-99.onnx")
    for name in others:
        Path("again", name).write_bytes(last)
    Path("again/model-77.onnx").write_bytes(Path("model.onnx").read_bytes())  # nobody's edit
    found = json.loads(run(*line, "--json").stdout)["search"]
    kept = {Path(candidate["model"]).name for candidate in found["frontier"]}
    assert {path.name for path in Path("again").iterdir()} == {*kept, *others, "model-77.onnx"}


def test_a_frontier_that_can_not_be_written(run, place, monkeypatch, tmp_path):
    """It is told before the search; what is only seen after it does not cost the model."""
    monkeypatch.chdir(place)
    kept = tmp_path / "no/such/folder"
    line = (*COMMAND, "--data", "data", "--max-drop", "10", "--keep-frontier", kept)
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: path != tmp_path)
        result = run(*line)
    assert result.exit_code == 2
    assert f"--keep-frontier {kept}: {tmp_path} can't be written to" in result.stderr
    Path("out.onnx").unlink(missing_ok=True)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert run(*line).exit_code == 2
    assert Path("out.onnx").is_file()


def test_other_samples_for_validation(run, place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    write_images(tmp_path / "other", (9, 9, 9))
    line = (*COMMAND, "--data", "data", "--max-drop", "90", "--validation", tmp_path / "other")
    found = json.loads(run(*line, "--json").stdout)["search"]
    assert found["samples"] == 27


def test_rounds(run, place, monkeypatch):
    monkeypatch.chdir(place)
    line = (*COMMAND, "--sparsity", 0.3, "--rounds", 2, "--json")
    found = json.loads(run(*line, "--data", "data").stdout)
    assert found["rounds"] == 2
    assert found["budget"]["reached"] >= 0.3
    refused = run(*line, "--criterion", "fisher")
    assert refused.exit_code == 2
    assert "--rounds needs" in refused.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--max-drop", 1, "--sparsity", 0.3, "--data", "data"), "give exactly one of"),
        (("--max-drop", 1), "--max-drop needs samples to measure on"),
        (("--sparsity", 0.3, "--validation", "data"), "go with --max-drop"),
        (("--max-drop", 1, "--rounds", 2, "--data", "data"), "leave out --rounds"),
        (("--max-drop", 1, "--data", "data", "--validation", "data"), "--validation is --data"),
        (("--max-drop", 1, "--data", "data", "--keep-frontier", "model.onnx"), "is a file"),
    ],
)
def test_what_makes_no_sense(run, place, monkeypatch, options, says):
    monkeypatch.chdir(place)
    result = run(*COMMAND, "--criterion", "l1", *options)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
