"""Reports: the same figures as HTML, Markdown and JSON, whatever the names hold."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

import discedit_onnx as dx
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.cli import reporting
from discedit_onnx.editing import search
from discedit_onnx.editing.verify import Equality
from discedit_onnx.errors import UsageError
from discedit_onnx.graph.coupling import Pinned
from discedit_onnx.report import build, html, json_file, markdown, words, writing
from discedit_onnx.report.figures import (
    Accuracy,
    AccuracyTable,
    Attack,
    Channels,
    ClassAccuracy,
    Confusion,
    File,
    ForgettingFacts,
    Group,
    HeatMap,
    Latency,
    LayerScores,
    Point,
    Report,
    Run,
    Search,
)
from discedit_onnx.scoring.comparison import OneVsRest
from discedit_onnx.scoring.saliency import Scores

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>|`*@team"


def example(name: str = "bee") -> Report:
    """A report with everything in it; `name` is the class, the layer and the file."""
    one, half = Accuracy(1.0, 0.9, 1.0, 40), Accuracy(0.5, 0.4, 0.6, 40)
    return Report(
        run=Run(f"{name} pruned", f"discedit-onnx prune '{name}'", "2026-01-02T03:04:05+00:00",
                {"numpy": "2"}, {"criterion": "sharp", "moments": name}),
        source=File(f"{name}.onnx", "a" * 64, 1000, 100, None),
        result=File(f"{name}.small.onnx", "b" * 64, 900, 80, 10**6),
        plan_sha256="c" * 64,
        exact=True,
        equality=Equality(1e-7, 4, 1e-4, "images", "cpu"),
        latency=(Latency(1, 2.0, 1.0),),
        accuracy=AccuracyTable(f"40 images of {name}", one, half,
                               (ClassAccuracy(name, one, half), ClassAccuracy("cat", one, None))),
        groups=(Group(f"{name}.weight", 4, (1, 3)), Group("other", 2, ())),
        layers=(Channels(name, "Conv", (3, 4), (3, 2), False),
                Channels("gone", "Gemm", (4, 2), None, False)),
        pinned=(Pinned("", "graph output", (name,), 7),),
        heat=HeatMap("sharp", None, (name, "cat"), (
            LayerScores(name, 2, (0.3, 0.1), (0, 1), (False, True), ((0.6, 0.2), (0.0, 0.0))),)),
        search=Search("strength", "8 images",
                      (Point(0.0, 0.9, "forgotten"), Point(1.0, 0.0, "forgotten")), 1.0),
        forgetting=ForgettingFacts(
            (name,), "level head", (Confusion(name, ((name, 9),), (("cat", 9),)),),
            (Attack("linear probe", "accuracy", 0.9, 0.5),),
            (f"no {name}",)),
    )  # fmt: skip


def bare() -> Report:
    """A report with as little as can be."""
    full = example()
    return replace(full, latency=(), accuracy=None, groups=(), layers=(), pinned=(), heat=None,
                   search=None, forgetting=None, exact=False)  # fmt: skip


@pytest.mark.parametrize("report", [example(), example(EVIL), bare()], ids=["all", "evil", "bare"])
def test_the_json_is_what_the_schema_says(report):
    schema = json_file.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    fields = json.loads(json_file.text(report))
    validator.validate(fields)
    assert fields["run"]["title"] == report.run.title
    for key in fields:
        missing = {name: value for name, value in fields.items() if name != key}
        assert not validator.is_valid(missing)
    assert not validator.is_valid({**fields, "more": 1})


def test_what_is_not_a_number_is_null():
    report = replace(example(), equality=replace(example().equality, deviation=float("nan")))
    assert json.loads(json_file.text(report))["equality"]["deviation"] is None


@pytest.mark.parametrize("report", [example(EVIL), bare()], ids=["evil", "bare"])
def test_names_are_only_text_in_html(report):
    page = html.text(report).replace(html._vega(), "")
    assert "<img" not in page
    assert len(re.findall(r"<script[^>]*>", page)) == 3
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert json.loads(found[1]) == json_file.as_json(report)


def test_names_are_only_text_in_markdown():
    text = markdown.text(example(EVIL))
    outside = text[: text.index("```")]
    assert not re.search(r"(?<!\\)<", outside)
    assert "@team" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("| <") or "taken" in line]
    for line in rows:
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 6)


def test_a_command_can_not_end_its_block():
    report = example()
    report = replace(report, run=replace(report.run, command="a ``` b"))
    assert "````sh\na ``` b\n````" in markdown.text(report)


def test_the_same_figures_everywhere():
    report = example()
    page, text = html.text(report), markdown.text(report)
    for row in words.summary(report):
        for cell in row:
            assert cell in page
            assert cell.replace("\xa0", " ") in text
    for figure in ("a" * 64, "b" * 64, "c" * 64, "graph output", "linear probe"):
        assert figure in page
        assert figure in text


def scores(channels: int, classes: int, layers: int = 2) -> Scores:
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(classes)))
    total = channels * layers
    return Scores(
        "sharp", ("mean",), names, OneVsRest(tuple(range(classes))),
        tuple((name, "rest") for name in names),
        tuple(Tap(f"t{i}", 1, channels, 4) for i in range(layers)), None,
        rng.random((total, classes)), np.ones((total, classes), np.int8),
        np.arange(total) - 1, total - 1,
    )  # fmt: skip


def test_the_heat_map_is_the_mean_of_the_scores():
    found = scores(5, 3)
    removed = np.zeros(found.components, bool)
    removed[2] = True  # component of channel 3
    heat = build.heat_map(found, removed)
    np.testing.assert_allclose(heat.layers[1].mean, found.bounds[5:].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(heat.layers[0].bounds, found.bounds[:5], atol=1e-4)
    assert heat.layers[0].removed == (False, False, False, True, False)
    assert not any(heat.layers[1].removed)
    assert heat.columns == ("0", "1", "2")


def test_of_many_channels_those_with_the_largest_bounds_are_listed(monkeypatch):
    monkeypatch.setattr(build, "MOST_BOUNDS", 2 * 3 * 4)
    found = scores(50, 3)
    heat = build.heat_map(found, np.zeros(found.components, bool))
    for layer, part in zip(heat.layers, found.slices.values(), strict=True):
        best = found.bounds[part].max(axis=1)
        assert layer.channels == 50
        assert set(layer.shown) == set(np.argsort(-best)[:4].tolist())
        assert list(layer.shown) == sorted(layer.shown)


@pytest.mark.parametrize("ending", [".html", ".md", ".json"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, ending, monkeypatch):
    path = tmp_path / f"report{ending}"
    writing.write(example(), path)
    first = path.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        writing.write(bare(), path)
    assert path.read_bytes() == first

    def broken(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", broken)
        with pytest.raises(UsageError, match="can't be written"):
            writing.write(bare(), path, force=True)
    assert path.read_bytes() == first
    writing.write(bare(), path, force=True)
    assert path.read_bytes() != first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["report.pdf", "report", "nowhere/report.md"])
def test_a_path_that_can_not_be_written_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"a report ends in|no such folder"):
        writing.check_path(tmp_path / name)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == "vl_convert" else find(n))
    with pytest.raises(UsageError, match=r"vl-convert-python: pip install .*\[report\]"):
        writing.check_path(tmp_path / "report.html")
    writing.check_path(tmp_path / "report.md")


def test_what_a_page_is_made_of_is_installed():
    folder = Path(html.__file__).parent
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    setup = project["tool"]["setuptools"]
    listed = set(setup["package-data"]["discedit_onnx.report"])
    assert {f.name for f in folder.iterdir() if f.is_file() and f.suffix != ".py"} == listed
    assert "discedit_onnx.report" in setup["packages"]


def test_prune_writes_what_it_did(run, few, moments, tmp_path):
    model, data = few / "fashion_resnet20.onnx", few / "fashion_mnist/calibration"
    output, report = tmp_path / "small.onnx", tmp_path / "report.json"
    words = ["prune", model, "--data", data, "--moments", moments, "--sparsity", "0.3", "-q"]
    words += ["--criterion", "sharp", "--refit", "off", "-o", output, "--report", report]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    fields = json.loads(report.read_text())
    jsonschema.validate(fields, json_file.schema())
    before, after = dx.load(model), dx.load(output)
    assert (fields["source"]["sha256"], fields["result"]["sha256"]) == (before.hash, after.hash)
    assert fields["result"]["size"] == output.stat().st_size
    assert fields["result"]["parameters"] == dx.inspect(after).parameters
    opened = dx.open_data(after, str(data))
    found = dx.evaluate(after, opened, latency=False)
    assert fields["accuracy"]["after"]["value"] == pytest.approx(found.top1)
    assert fields["accuracy"]["after"]["images"] == len(opened)
    kept = {g["name"]: g["components"] - len(g["removed"]) for g in fields["groups"]}
    assert kept == {group.name: group.components for group in dx.inspect(after).groups}
    assert [t["batch"] for t in fields["latency"]] == [1, 32]
    assert len(fields["heat"]["layers"]) == 19
    assert f"--report {report}" in fields["run"]["command"]
    again = run(*words, "--force")
    assert again.exit_code == 0
    refused = run(*words)
    assert refused.exit_code == 2
    assert run(*words, "--force", "--dry-run").exit_code == 2


def test_the_report_has_the_times_that_were_shown(run, few, tmp_path, monkeypatch):
    """Measured twice, they would differ."""
    times = iter(range(1, 99))
    monkeypatch.setattr("discedit_onnx.latency.latencies", lambda *_: [next(times), next(times)])
    report = tmp_path / "report.json"
    words = ["prune", few / "fashion_resnet20.onnx", "--sparsity", "0.3", "--criterion", "l1"]
    result = run(*words, "-o", tmp_path / "small.onnx", "--report", report)
    assert result.exit_code == 0, result.stderr
    found = json.loads(report.read_text())["latency"]
    assert [(t["before"], t["after"]) for t in found] == [(1, 2), (3, 4)]
    assert "1.00 -> 2.00 ms" in result.stdout


def test_what_prune_searched_is_drawn_against_sparsity():
    def candidate(sparsity, accuracy):
        edit = SimpleNamespace(sparsity=sparsity)
        return search.Candidate(edit, 1, 1, search.Drop(0.9, accuracy, 0.0, 0.1))

    tried = (candidate(0.1, 0.9), candidate(0.4, 0.8), candidate(0.6, 0.3))
    found = reporting._sparsities(search.Search(tried[1], tried, tried, "agreement", 25))
    assert [(p.x, p.accuracy) for p in found.points] == [(0.1, 0.9), (0.4, 0.8), (0.6, 0.3)]
    assert found.chosen == 0.4
    assert {p.series for p in found.points} == {"agreement"}
    assert "25 validation samples" in found.images


def test_the_command_line_repeats_itself(run, few, moments, tmp_path):
    model, report = few / "fashion_resnet20.onnx", tmp_path / "a report.json"
    words = ["prune", model, "--sparsity", "0.1", "--criterion", "l1", "--only", "blocks.6*", "-q"]
    words += ["--only", "blocks.7*", "-o", tmp_path / "out.onnx", "--report", report]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    before = json.loads(report.read_text())
    program, *again = shlex.split(before["run"]["command"])
    assert program == "discedit-onnx"
    result = run(*again, "--force")
    assert result.exit_code == 0, result.stderr
    after = json.loads(report.read_text())
    assert after["plan_sha256"] == before["plan_sha256"]
    assert after["result"]["sha256"] == before["result"]["sha256"]


def test_forget_tells_where_images_go(run, few, moments, tmp_path):
    model, data = few / "fashion_resnet20.onnx", few / "fashion_mnist/test"
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    result = run("forget", model, "--class", "sandal", "--level", "output", "--data", data,
                 "-o", output, "--report", report, "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    fields = json.loads(report.read_text())
    jsonschema.validate(fields, json_file.schema())
    (confusion,) = fields["forgetting"]["confusions"]
    assert confusion["name"] == "sandal"
    assert sum(images for _, images in confusion["after"]) == 6
    assert "sandal" not in dict(confusion["after"])
    sandal = next(c for c in fields["accuracy"]["classes"] if c["name"] == "sandal")
    assert sandal["after"]["value"] == 0
    # Level output only hides the logit: what it was comes back.
    attacks = {attack["name"]: attack["after"] for attack in fields["forgetting"]["attacks"]}
    assert attacks["the original's head on the edited features"] > 0.5


def test_a_dropped_class_is_in_neither_accuracy(run, few, tmp_path):
    model, data = few / "fashion_resnet20.onnx", few / "fashion_mnist/test"
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    result = run("forget", model, "--class", "sandal", "--level", "output", "--drop-output",
                 "--data", data, "-o", output, "--report", report, "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    accuracy = json.loads(report.read_text())["accuracy"]
    assert accuracy["before"]["images"] == accuracy["after"]["images"] == 54
    sandal = next(c for c in accuracy["classes"] if c["name"] == "sandal")
    assert sandal["before"]["images"] == 6
    assert sandal["after"] is None


def test_a_report_without_images(run, few, tmp_path):
    output, report = tmp_path / "small.onnx", tmp_path / "report.md"
    result = run("prune", few / "fashion_resnet20.onnx", "--sparsity", "0.2", "--criterion", "l1",
                 "-o", output, "--report", report, "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    text = report.read_text()
    assert "random inputs" in text
    assert "top-1" not in text
