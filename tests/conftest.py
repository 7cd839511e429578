"""Fixtures of the command line's tests: a runner, sample models, a few of their images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from discedit_onnx.cli import cli

SAMPLES = Path(__file__).parents[1] / "sample_models"


def pytest_configure(config: pytest.Config) -> None:
    """Keep each worker of pytest-xdist, and what it starts, to one core.

    ONNX Runtime and BLAS take a thread for each core that they see, and threads of two workers on
    the same cores spend their time waiting for one another. BLAS counts when NumPy is imported, so
    nothing that is imported here may import it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

    from hypothesis import settings

    settings.register_profile("patient", deadline=None)  # a busy machine stands still at times
    settings.load_profile("patient")


@pytest.fixture
def steady_clock(monkeypatch):
    """Time is in proportion to size, or measured for an instant: on a busy machine it may rise."""
    monkeypatch.setattr(
        "discedit_onnx.latency.latencies", lambda models, *_: [m.ByteSize() / 1e6 for m in models]
    )


@pytest.fixture
def run(monkeypatch, steady_clock):
    """Run a command line in this process."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="discedit-onnx")

    return invoke


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Sample models with six images a class: a folder like `sample_models`."""
    root = tmp_path_factory.mktemp("samples")
    for file in SAMPLES.glob("*.onnx"):
        shutil.copy(file, root)
    for part in ("calibration", "test"):
        for folder in (SAMPLES / "fashion_mnist" / part).iterdir():
            target = root / "fashion_mnist" / part / folder.name
            target.mkdir(parents=True)
            for file in sorted(folder.iterdir())[:6]:
                shutil.copy(file, target)
    return root


@pytest.fixture(scope="session")
def moments(few, tmp_path_factory):
    """Moments of the sample ResNet on these images."""
    path = tmp_path_factory.mktemp("moments") / "resnet.safetensors"
    model, data = few / "fashion_resnet20.onnx", few / "fashion_mnist/calibration"
    result = CliRunner().invoke(
        cli, ["calibrate", str(model), "--data", str(data), "-o", str(path)]
    )
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A folder with a tiny model, its moments, images, and a folder for outputs."""
    import onnx
    from tiny_models import classifier, taught, write_images

    from discedit_onnx.api import calibrate, open_data
    from discedit_onnx.model import CLASS_NAMES_KEY, load

    folder = tmp_path_factory.mktemp("whole")
    proto = taught(classifier(), write_images(folder / "images", (5, 4, 4)))
    proto.metadata_props.add(key=CLASS_NAMES_KEY, value='["ant", "bee", "cat"]')
    onnx.save(proto, folder / "model.onnx")
    (folder / "out").mkdir()
    model = load(folder / "model.onnx")
    moments = calibrate(model, open_data(model, folder / "images"), device="cpu")
    moments.save(folder / "model.moments.safetensors")
    return folder


@pytest.fixture
def here(whole, tmp_path):
    """A copy of it, to be written to, or spoilt."""
    return shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
