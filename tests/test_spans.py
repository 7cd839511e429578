"""Which layers a class is projected out of, on networks made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from topologies.net import CLASSES, SIZE, Net

import discedit_onnx as dx
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.model import Model


def normalised(*kinds: str, gamma: float = 0.0) -> onnx.ModelProto:
    """Convolutions with batch normalisation, of which one channel has this factor, and a head."""
    net = Net()
    x = net.relu(net.conv(net.input(), 3, 8))
    for kind in kinds:
        if kind == "depthwise":
            x = net.op("Conv", x, net.weight(8, 1, 3, 3), group=8, pads=[1] * 4)
        else:
            x = net.norm(net.conv(x, 8, 8), 8)
            scale = next(t for t in net.initializers if t.name == net.nodes[-1].input[1])
            values = numpy_helper.to_array(scale).copy()
            values[2] = gamma
            scale.CopyFrom(numpy_helper.from_array(values, scale.name))
        x = net.relu(x)
    return net.head(x, 8)


def tiny(proto: onnx.ModelProto, folder: Path) -> tuple[Model, Dataset]:
    onnx.save(proto, folder / "tiny.onnx")
    model = dx.load(folder / "tiny.onnx")
    draws = np.random.default_rng(0)
    labels = np.arange(100) % CLASSES
    x = draws.normal(size=(CLASSES, 3, SIZE, SIZE))[labels] + draws.normal(
        size=(100, 3, SIZE, SIZE)
    )
    return model, dx.open_data(model, (x.astype(np.float32), labels))


def test_channels_that_are_multiplied_with_nothing(tmp_path):
    """As training with a penalty on the factors leaves them."""
    found = []
    for gamma in (0.0, 1e-3):
        model, moments = with_moments(normalised("full", "full", gamma=gamma), tmp_path)
        found.append(dx.forget(model, moments, [1], Way(strength=1.0), device="cpu"))
    dead, alive = found
    assert dead.layers == alive.layers
    assert len(dead.layers) > 1


def with_moments(proto: onnx.ModelProto, folder: Path) -> tuple[Model, Moments]:
    model, data = tiny(proto, folder)
    return model, dx.calibrate(model, data, device="cpu")


def test_the_last_layer_that_can_be_edited(tmp_path):
    """Where the last third of the layers holds depthwise ones only."""
    model, moments = with_moments(normalised("full", "depthwise"), tmp_path)
    edit = dx.forget(model, moments, [1], Way(strength=1.0), device="cpu")
    assert len(edit.layers) == 2  # the head is one


def test_what_the_moments_do_not_tell(tmp_path):
    """An output in between: nothing that the last layer reads can be removed."""
    net = Net()
    x = net.relu(net.conv(net.input(), 3, 8))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.relu(net.conv(x, 8, 8))))
    model, data = tiny(net.model(net.gemm(pooled, 8, CLASSES), x), tmp_path)
    with pytest.raises(DataError, match="nothing of what the later layers read"):
        dx.forget(model, None, [1], Way(strength=1.0), data=data, device="cpu")
