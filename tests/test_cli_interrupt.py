"""Calibration that is ended from outside, by real signals to a real process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from discedit_onnx.calibration.checkpoint import DONE
from discedit_onnx.calibration.storage import load_moments
from discedit_onnx.cli import cli

SLOWLY = """
import sys, time
from discedit_onnx.calibration import gathering
add = gathering.add
def slow(*arguments):
    time.sleep(0.05)
    add(*arguments)
gathering.add = slow
from discedit_onnx.cli import main
main()
"""


@pytest.fixture
def command(few, tmp_path):
    """A calibration of 60 images in 20 batches, which takes a second at least."""
    model = shutil.copy(few / "fashion_vgg.onnx", tmp_path)
    return [sys.executable, "-c", SLOWLY, *arguments(model, few), "--checkpoint-every", "0"]


def arguments(model, few):
    """Of the command line, in 20 batches."""
    data = few / "fashion_mnist/calibration"
    return ["calibrate", str(model), "--data", str(data), "--batch-size", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory):
    """What comes out where nothing is in the way."""
    output = tmp_path_factory.mktemp("whole") / "m"
    done = CliRunner().invoke(cli, [*arguments(few / "fashion_vgg.onnx", few), "-o", str(output)])
    assert done.exit_code == 0, done.stderr
    assert "resumed" not in done.stdout
    return load_moments(output)


def ended(command, tmp_path, number):
    """Start it, send it a signal once there is a checkpoint, and return what it said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "fashion_vgg.moments.safetensors.partial"
    deadline = time.monotonic() + 60
    while not partial.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    done = int(load_moments(partial).facts[DONE])
    assert 0 < done < 60
    return process.returncode, said, done


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_the_same_command_goes_on(command, whole, tmp_path, number, code):
    returned, said, done = ended(command, tmp_path, number)
    assert returned == code
    output = tmp_path / "fashion_vgg.moments.safetensors"
    assert not output.exists()
    if number != signal.SIGKILL:
        assert said.startswith(f"interrupted: {done} of 60 samples are kept in {output}.partial")
        assert said.count("\n") == 1
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    resumed = next(line for line in result.stdout.splitlines() if "resumed" in line)
    assert int(resumed.split()[2]) >= done
    found = load_moments(output)
    assert not (tmp_path / f"{output.name}.partial").exists()
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
    assert found.facts == whole.facts
