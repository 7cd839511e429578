"""README and docs: every example runs, and prints what is written there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [
        body
        for document in DOCUMENTS
        for found, body in FENCE.findall(document.read_text(encoding="utf-8"))
        if found == kind
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples find: a model, calibration images, test images."""
    place = tmp_path_factory.mktemp("examples")
    shutil.copy(ROOT / "sample_models/fashion_resnet20.onnx", place / "model.onnx")
    for name in ("calibration", "test"):
        (place / name).symlink_to(ROOT / "sample_models/fashion_mnist" / name)
    return place


def run(command: str, folder: Path) -> str:
    """What a command prints, both streams."""
    program, *arguments = shlex.split(command)
    assert program == "discedit-onnx"
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "discedit_onnx", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def words(text: str) -> list[tuple[str, ...]]:
    """The words of each line that has any: numbers, rules and widths change from run to run."""
    lines = (tuple(re.findall(r"[^\W\d_]{2,}", line)) for line in text.splitlines())
    return [line for line in lines if line]


def test_console_examples_print_what_is_written(folder):
    """In the order of the documents: later commands use the files of earlier ones."""
    seen = 0
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, written = part.partition("\n")
            printed = words(run(command, folder))
            for line in words(written):
                assert line in printed, f"{command}: {line} is not printed:\n{printed}"
            seen += 1
    assert seen >= 8, "the README shows each command"


def test_python_examples_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    examples = blocks("python")
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
