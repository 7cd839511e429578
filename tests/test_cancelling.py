"""Work that is given up from a progress callback: it ends at once, and leaves nothing behind."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import discedit_onnx as dx
from discedit_onnx.calibration.checkpoint import Checkpoint


class Enough(Exception):
    """What a caller raises; the library knows nothing of it."""


class Stop:
    """A progress callback that has enough after some calls."""

    def __init__(self, calls=1):
        self.left = calls

    def __call__(self, done, total):
        assert 0 < done <= total
        self.left -= 1
        if not self.left:
            raise Enough


@pytest.fixture
def opened(few):
    model = dx.load(few / "fashion_resnet20.onnx")
    return model, dx.open_data(model, few / "fashion_mnist/calibration")


WORK = {
    "calibrate": lambda model, data, **o: dx.calibrate(model, data, batch_size=8, **o),
    "evaluate": lambda model, data, **o: dx.evaluate(model, data, batch_size=8, latency=False, **o),
    "prune": lambda model, data, **o: dx.prune(model, sparsity=0.1, data=data, **o),
}


@pytest.mark.parametrize("name", WORK)
def test_it_ends_with_what_the_callback_raised(opened, name, few):
    model, data = opened
    before, files = model.proto.SerializeToString(), sorted(few.rglob("*"))
    threads = threading.active_count()
    with pytest.raises(Enough):
        WORK[name](model, data, progress=Stop())
    gc.collect()
    assert threading.active_count() <= threads
    assert model.proto.SerializeToString() == before
    assert sorted(few.rglob("*")) == files
    calls = []
    WORK[name](model, data, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]


def test_a_checkpoint_lets_it_go_on(opened, tmp_path):
    model, data = opened
    checkpoint = Checkpoint(tmp_path / "m.partial", 0.0)
    with pytest.raises(Enough):
        dx.calibrate(model, data, batch_size=8, checkpoint=checkpoint, progress=Stop(4))
    all_done, seen = [], []
    resumed = dx.calibrate(
        model, data, batch_size=8, checkpoint=checkpoint, progress=lambda done, _: seen.append(done)
    )
    whole = dx.calibrate(model, data, batch_size=8, progress=lambda n, _: all_done.append(n))
    # The step in which it was given up is done again.
    assert seen == all_done[3:]
    np.testing.assert_array_equal(resumed.mean, whole.mean)
