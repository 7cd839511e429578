"""What is installed: one package, typed, with the command line inside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of what the build reads, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("discedit_onnx", "cli"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    build = "from setuptools import build_meta as b; b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (file,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_the_command_line_is_a_part_of_the_package(wheel):
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"discedit_onnx"}
    assert "discedit_onnx/cli/__init__.py" in names
    assert "discedit_onnx/py.typed" in names


def test_the_wheel_holds_every_module(wheel):
    names = set(wheel.namelist())
    for file in (ROOT / "discedit_onnx").rglob("*.py"):
        assert file.relative_to(ROOT).as_posix() in names
    for file in (ROOT / "cli").rglob("*.py"):
        assert f"discedit_onnx/{file.relative_to(ROOT).as_posix()}" in names


def test_entry_point_and_extras(wheel):
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "discedit-onnx = discedit_onnx.cli:main" in wheel.read(points).decode()
    extras = set(metadata.metadata("discedit-onnx").get_all("Provides-Extra") or [])
    assert {"cpu", "gpu", "gpu-cuda", "test"} <= extras


def test_no_build_of_onnxruntime_in_the_base():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [need for need in project["dependencies"] if need.startswith("onnxruntime")]
    assert project["requires-python"] == ">=3.11"


def test_the_installed_package_has_its_command_line():
    code = "import discedit_onnx.cli as c; print(c.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "discedit_onnx.cli"
    module = [sys.executable, "-m", "discedit_onnx", "--version"]
    done = subprocess.run(module, capture_output=True, text=True, check=True)
    assert metadata.version("discedit-onnx") in done.stdout


def test_public_names_are_there_and_typed():
    import discedit_onnx

    for name in discedit_onnx.__all__:
        assert getattr(discedit_onnx, name).__doc__, name
    with pytest.raises(AttributeError):
        discedit_onnx.missing  # noqa: B018


def test_the_library_imports_no_training_framework_and_nothing_heavy():
    code = (
        "import sys, discedit_onnx; assert 'numpy' not in sys.modules; "
        "discedit_onnx.prune, discedit_onnx.calibrate; "
        "heavy = {'torch', 'onnxruntime', 'onnx_graphsurgeon', 'scipy.stats', 'rich'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_committed_models_hold_no_local_paths():
    for file in (ROOT / "sample_models").rglob("*.onnx"):
        raw = file.read_bytes()
        for trace in (
            b"/home/",
            b"/root/",
            b"/work",
            b"site-packages",
            b'.py", line',
            b"Traceback",
        ):
            assert trace not in raw, f"{file.name} holds {trace!r}"


def test_samples_are_small_and_complete():
    files = [file for file in (ROOT / "sample_models").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 15e6
    for split, least in (("calibration", 100), ("test", 200)):
        folders = sorted((ROOT / "sample_models/fashion_mnist" / split).iterdir())
        assert len(folders) == 10
        for folder in folders:
            assert len(list(folder.glob("*.png"))) >= least
