"""Budgets, limits, plans and the difference of two models on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import onnx
import pytest

import discedit_onnx as dx
from discedit_onnx.graph.coupling import analyse

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
OK, USAGE, DATA = 0, 2, 4


@pytest.fixture
def run(tmp_path, monkeypatch, steady_clock):
    """Runs a command in a folder with one model; gives what it printed, or its one-line error."""
    from click.testing import CliRunner

    from discedit_onnx.cli import cli

    shutil.copy(SAMPLES / "fashion_resnet20.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*arguments, code=OK):
        result = runner.invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.stderr
        if code:
            assert result.stderr.count("\n") == 1
            return result.stderr
        return result.stdout

    return run


PRUNE = ("prune", "model.onnx", "--criterion", "l1", "--device", "cpu")


def pruned(run, *options) -> dict:
    return json.loads(run(*PRUNE, *options, "-o", "out.onnx", "--force", "--json"))


@pytest.mark.parametrize(
    ("options", "kind", "key"),
    [
        (("--sparsity", "40%"), "sparsity", "parameters"),
        (("--sparsity", "100k"), "sparsity", "parameters"),
        (("--macs", "0.5"), "macs", "macs"),
        (("--macs", "12M"), "macs", "macs"),
        (("--size", "0.5"), "size", "file_size"),
        (("--size", "700kB"), "size", "file_size"),
    ],
)
def test_budgets(run, options, kind, key):
    found = pruned(run, *options, "--round-to", "1")
    budget, cost = found["budget"], found[key]
    assert budget["kind"] == kind
    assert (budget["left"], budget["total"]) == (cost["after"], cost["before"])
    if kind == "sparsity":
        assert budget["asked"] <= budget["reached"]
    else:
        assert budget["reached"] <= budget["asked"]
    assert budget["reached"] == pytest.approx(budget["asked"], rel=0.05)
    if kind == "size":
        assert Path("out.onnx").stat().st_size == cost["after"]
    (batch, _) = found["latency_ms"]
    assert batch["batch"] == 1
    assert batch["after"] > 0


def test_what_was_asked_and_reached_is_printed(run):
    text = run(*PRUNE, "--macs", "0.5", "--round-to", 1, "-o", "out.onnx")
    assert re.search(r"budget +macs asked 50\.00 %, reached (49\.\d\d|50\.00) %", text)
    assert re.search(r"time, batch 1 +[\d.]+ -> [\d.]+ ms \([+-][\d.]+ %\)", text)
    assert "time, batch 32" in text
    text = run(*PRUNE, "--size", "800kB", "-o", "out.onnx", "--force")
    assert re.search(r"budget +size asked 0\.80 MB, reached 0\.\d+ MB", text)


def test_a_latency_budget(run, monkeypatch):
    from discedit_onnx.editing import measures
    from discedit_onnx.graph.cost import count_parameters

    monkeypatch.setattr(
        measures, "latencies", lambda models, *_: [count_parameters(m) / 1e5 for m in models]
    )
    found = pruned(run, "--latency", "0.6")
    assert found["budget"]["kind"] == "latency"
    assert found["parameters"]["after"] <= 0.6 * found["parameters"]["before"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give exactly one of --sparsity, --macs, --size, --latency"),
        (("--macs", "0.5", "--size", "0.5"), "give exactly one"),
        (("--macs", "3ms"), "macs 3ms: give a share"),
        (("--size", "50"), "size 50 is not in (0, 1]"),
        (("--macs", "1k"), "macs 1k is less than this graph allows: at least"),
        (("--size", "0.001"), "size 0.001 is less than this graph allows: at least 0."),
        (("--sparsity", "0.5", "--min-channels", "60"), "sparsity 0.5 is more than this graph"),
        (("--sparsity", "0.1", "--round-to", "0"), "--round-to 0: give a number"),
        (("--sparsity", "0.1", "--round-to", "x"), "--round-to x: give a number"),
        (("--sparsity", "0.1", "--only", "blocks.9*"), "no layer that can be cut is named"),
        (("--sparsity", "0.1", "--exclude", "blocs.7.first.0.weight"), "blocks.7.first.0.weight"),
        (("--sparsity", "0.1", "--rounds", "0"), "--rounds"),
        (("--sparsity", "0.1", "--ranking", "best"), "best"),
    ],
)
def test_what_can_not_be_asked(run, options, says):
    assert says in run(*PRUNE, *options, "-o", "out.onnx", code=USAGE)
    assert not Path("out.onnx").exists()


def left(found: dict) -> dict[str, tuple[int, int]]:
    return {group["name"]: (group["before"], group["after"]) for group in found["groups"]}


def test_widths_are_rounded_as_the_device_likes(run):
    for _, after in left(pruned(run, "--sparsity", 0.3)).values():
        assert after % 4 == 0 or after < 4
    for before, after in left(pruned(run, "--sparsity", 0.3, "--round-to", 16)).values():
        assert after % 16 == 0 or before == 16 or after < 16
    widths = [after for _, after in left(pruned(run, "--sparsity", 0.3, "--round-to", 1)).values()]
    assert any(width % 4 for width in widths)


def test_limits_hold(run):
    found = left(pruned(run, "--sparsity", 0.1, "--only", "blocks.[678]*"))
    cut = {name for name, (before, after) in found.items() if after < before}
    assert cut
    assert all(name.startswith(("blocks.6", "blocks.7", "blocks.8")) for name in cut)
    found = left(pruned(run, "--sparsity", 0.3, "--exclude", "stem*", "--exclude", "blocks.7*"))
    assert found["blocks.7.first.0.weight"] == (64, 64)
    assert found["stem.0.weight"] == (16, 16)
    found = left(pruned(run, "--macs", 0.3, "--min-channels", 8, "--round-to", 1))
    assert min(after for _, after in found.values()) == 8


def test_rankings_differ(run):
    found = {
        ranking: left(pruned(run, "--sparsity", 0.4, "--round-to", 1, "--ranking", ranking))
        for ranking in ("global", "local", "isomorphic")
    }
    assert found["global"] != found["local"] != found["isomorphic"] != found["global"]
    shares = [after / before for before, after in found["local"].values()]
    assert max(shares) - min(shares) < 0.1


def test_a_plan_is_carried_out_to_the_same_bytes(run):
    text = run(*PRUNE, "--sparsity", 0.3, "--dry-run", "-o", "plan.json")
    assert "Components by group" in text
    assert sorted(path.name for path in Path().iterdir()) == ["model.onnx", "plan.json"]
    run(*PRUNE, "--sparsity", 0.3, "-o", "small.onnx")
    shown = run("apply", "plan.json", "model.onnx", "-o", "again.onnx", "--device", "cpu")
    assert "equality    " in shown
    assert "on 4 random inputs" in shown
    assert Path("small.onnx").read_bytes() == Path("again.onnx").read_bytes()
    data = ("--data", SAMPLES / "fashion_mnist/test", "--num-samples", 40)
    found = json.loads(run("apply", "plan.json", "model.onnx", "-o", "third.onnx", *data, "--json"))
    assert found["equality"]["origin"] == "images"
    assert found["budget"] is None
    assert found["plan"] == "plan.json"
    assert Path("third.onnx").read_bytes() == Path("small.onnx").read_bytes()
    assert dx.inspect(dx.load("third.onnx")).parameters == found["parameters"]["after"]


def test_a_dry_run_for_machines(run):
    found = json.loads(run(*PRUNE, "--sparsity", 0.3, "--dry-run", "-o", "plan.json", "--json"))
    assert found["plan"] == "plan.json"
    assert len(found["groups"]) == len(analyse(onnx.load("model.onnx")).groups)
    error = run(*PRUNE, "--sparsity", 0.3, "--dry-run", "-o", "plan.json", code=USAGE)
    assert "--force" in error
    assert ".json" in run(*PRUNE, "--sparsity", 0.3, "--dry-run", "-o", "p.onnx", code=USAGE)


def test_a_dry_run_says_what_the_plan_reaches(run):
    line = (*PRUNE, "--sparsity", 0.3)
    text = run(*line, "--dry-run", "-o", "plan.json")
    assert "budget          sparsity asked 30.00 %, reached " in text
    assert text.splitlines()[-1] == "  plan            plan.json"
    planned = json.loads(run(*line, "--dry-run", "--force", "-o", "plan.json", "--json"))
    done = json.loads(run(*line, "-o", "small.onnx", "--json"))
    assert planned.keys() - {"plan"} == done.keys() - {"output"}
    for name in ("parameters", "macs", "file_size", "budget", "groups"):
        assert planned[name] == done[name], name
    assert done["file_size"]["after"] == Path("small.onnx").stat().st_size


@pytest.mark.parametrize(("multiple", "told"), [(1000, True), (16, True), (4, False)])
def test_widths_that_are_no_multiples_are_told(tmp_path, multiple, told):
    from click.testing import CliRunner

    from discedit_onnx.cli import cli

    line = ["prune", str(SAMPLES / "fashion_resnet20.onnx"), "--criterion", "l1", "--macs", "0.3"]
    line += ["--round-to", str(multiple), "--dry-run", "-o", str(tmp_path / "plan.json")]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == OK, result.stderr
    assert (f"left with no multiple of {multiple} channels, such as " in result.stderr) == told


def test_what_can_not_be_carried_out(run):
    run(*PRUNE, "--sparsity", 0.3, "--dry-run", "-o", "plan.json")
    shutil.copy(SAMPLES / "fashion_vgg.onnx", "vgg.onnx")
    error = run("apply", "plan.json", "vgg.onnx", "-o", "out.onnx", code=DATA)
    assert "another model" in error
    assert "no such plan" in run("apply", "none.json", "model.onnx", "-o", "o.onnx", code=DATA)
    Path("bad.json").write_text("{}")
    assert "not a plan" in run("apply", "bad.json", "model.onnx", "-o", "o.onnx", code=DATA)
    fields = json.loads(Path("plan.json").read_text())
    fields["cuts"][0]["indices"] = [0]
    Path("other.json").write_text(json.dumps(fields))
    assert "make it again" in run("apply", "other.json", "model.onnx", "-o", "o.onnx", code=DATA)
    error = run("apply", "plan.json", "model.onnx", "-o", "model.onnx", code=USAGE)
    assert "overwrite the input" in error
    assert not list(Path().glob("o*.onnx"))


def test_diff(run):
    found = pruned(run, "--sparsity", 0.3, "--exclude", "stem*")
    text = run("diff", "model.onnx", "out.onnx")
    rows = {line.split()[0]: line for line in text.splitlines() if " -> " in line}
    before, after = left(found)["blocks.7.first.0.weight"]
    (row,) = (line for name, line in rows.items() if "blocks.7/first" in name)
    assert f"64 -> {after}" in row or f"-> {after}" in row
    assert f"{after - before:+}" in row
    layers = json.loads(run("diff", "model.onnx", "out.onnx", "--json"))["layers"]
    assert len(layers) == sum(
        node.op_type in ("Conv", "Gemm") for node in onnx.load("model.onnx").graph.node
    )
    assert sum(not layer["same"] for layer in layers) == len(rows)
    assert "are the same" in run("diff", "model.onnx", "model.onnx")
