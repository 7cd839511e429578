"""README and docs: every example runs, and prints what is written there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from discedit_onnx.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))
]  # fmt: skip
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}


def blocks(document: Path) -> list[tuple[str, str]]:
    """Kind and text of each."""
    return FENCE.findall(document.read_text(encoding="utf-8"))


CALIBRATE = "discedit-onnx calibrate model.onnx --data calibration/"
"""A document in which this stands makes the moments itself."""


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Some images of each class."""
    root = tmp_path_factory.mktemp("test")
    for source in (ROOT / "sample_models/fashion_mnist/test").iterdir():
        (root / source.name).mkdir()
        for file in sorted(source.iterdir())[:30]:
            (root / source.name / file.name).symlink_to(file)
    return root


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """The moments that the README leaves beside the model."""
    path = tmp_path_factory.mktemp("beside") / "model.moments.safetensors"
    model, data = (ROOT / "sample_models" / f for f in ("fashion_resnet20.onnx", "fashion_mnist"))
    run(f"discedit-onnx calibrate {model} --data {data / 'calibration'} -o {path}")
    return path


@pytest.fixture
def folder(held_out, tmp_path, monkeypatch, steady_clock):
    """What the examples find where they run: models, calibration images, test images.

    Words are compared, not numbers: a refit looks at fewer images, and no time is measured, so that
    warnings that it does not fall come always.
    """
    for name, model in {"model": "resnet20", "vit": "vit"}.items():
        shutil.copy(ROOT / f"sample_models/fashion_{model}.onnx", tmp_path / f"{name}.onnx")
    (tmp_path / "calibration").symlink_to(ROOT / "sample_models/fashion_mnist/calibration")
    (tmp_path / "test").symlink_to(held_out)
    monkeypatch.setattr("discedit_onnx.editing.refit.batches.SHOWN", 128)
    monkeypatch.setattr("discedit_onnx.editing.refit.batches.CHOSEN_BY", 32)
    monkeypatch.setattr("discedit_onnx.latency.latencies", lambda models, *_: [1.0] * len(models))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> str:
    """What a command prints, both streams."""
    program, *arguments = shlex.split(command)
    assert program == "discedit-onnx"
    environment = {"COLUMNS": "100", "NO_COLOR": "1"}
    done = CliRunner().invoke(cli, arguments, prog_name=program, env=environment)
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


def words(text: str) -> list[tuple[str, ...]]:
    """The words of each line that has any: numbers, hashes, rules and widths are not the same."""
    text = re.sub(r"\b[0-9a-f]{40,}\b", "", text)
    lines = (tuple(re.findall(r"[^\W\d_]{2,}", line)) for line in text.splitlines())
    return [line for line in lines if line]


def console(block: str, folder: Path) -> None:
    """Each command prints the lines that are written under it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, written = part.partition("\n")
        printed = words(run(command))
        for line in words(written):
            assert line in printed, f"{command}: {line} is not printed:\n{printed}"


def python(block: str, folder: Path) -> None:
    """Run in a namespace of its own."""
    exec(compile(block, "<example>", "exec"), {"__name__": "__main__"})


def recipe(block: str, folder: Path) -> None:
    """Saved as recipe.toml, and run."""
    (folder / "recipe.toml").write_text(block, encoding="utf-8")
    run("discedit-onnx run recipe.toml")


def pipeline(block: str, folder: Path) -> None:
    """It gives the action what it takes, and names commands and hooks that there are."""
    found = yaml.safe_load(block)
    steps = [step for job in found.get("jobs", {}).values() for step in job["steps"]]
    ours = [step["with"] for step in steps if "discedit-onnx" in step.get("uses", "")]
    hooks = [hook for repo in found.get("repos", []) for hook in repo["hooks"]]
    assert ours or hooks
    for given in ours:
        assert set(given) <= set(ACTION["inputs"])
        assert shlex.split(given["arguments"])[0] in COMMANDS
    assert {hook["id"] for hook in hooks} <= HOOKS


def data(block: str, folder: Path) -> None:
    """It can be read."""
    json.loads(block)


def shell(block: str, folder: Path) -> None:
    """Installing is what CI does with the README's; here, that it is a script."""
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def nothing(block: str, folder: Path) -> None:
    """The site's build reads it, and fails where it is wrong; or it is a drawing."""


RUN = {
    "console": console, "python": python, "toml": recipe, "yaml": pipeline, "sh": shell,
    "json": data, "text": nothing, "{toctree}": nothing, "{eval-rst}": nothing,
}  # fmt: skip


def missing(document: Path) -> list[str]:
    """Packages that its examples import, and that are not here."""
    found = [body for kind, body in blocks(document) if kind == "python"]
    names = re.findall(r"^(?:import|from) (\w+)", "\n".join(found), re.MULTILINE)
    return sorted({name for name in names if importlib.util.find_spec(name) is None})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_block_runs(document, folder, beside):
    """In the order of the document: later blocks use the files of earlier ones."""
    if missing(document):
        pytest.skip(f"{document.name}: needs {', '.join(missing(document))}")
    text = document.read_text(encoding="utf-8")
    if CALIBRATE not in text and "[calibrate]" not in text:
        shutil.copy(beside, folder)
    for kind, body in blocks(document):
        RUN[kind](body, folder)


def test_the_readme_shows_most_commands():
    shown = {
        c for _, body in blocks(DOCUMENTS[0]) for c in re.findall(r"^\$ \S+ (\S+)", body, re.M)
    }
    assert len(shown) >= 8
    assert shown <= set(COMMANDS)


def test_the_site_has_every_page():
    """Sphinx refuses a page that is in no table of contents; here, that each is in one only."""
    listed = re.findall(
        r"^[\w-]+$",
        "\n".join(body for kind, body in blocks(ROOT / "docs/index.md") if kind == "{toctree}"),
        re.M,
    )
    assert sorted(listed) == sorted(p.stem for p in DOCUMENTS[2:] if p.stem != "index")


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
