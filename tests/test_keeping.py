"""What is kept of many classes is bounded, and said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discedit_onnx.calibration.histograms import Histograms, quantile_edges
from discedit_onnx.calibration.keeping import LIMIT, Kept, what_to_keep
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.taps import GATHERED, Tap
from discedit_onnx.errors import UsageError


def names(number: int) -> list[str]:
    return [f"c{k}" for k in range(number)]


def moments_of(kept: Kept, channels: int) -> Moments:
    taps = [Tap("relu", 1, channels, 4)]
    moments = Moments.empty(
        taps, kept.class_names, "0", features=kept.features, class_index=kept.class_index
    )
    if not kept.histograms:
        return moments
    edges = quantile_edges(np.zeros((3, channels)))
    counted = Histograms.empty("mean", edges, len(kept.class_names))
    return replace(moments, histograms=replace(counted, counts=counted.counts.astype(np.uint32)))


@pytest.mark.parametrize(
    ("classes", "channels", "said"),
    [
        (10, 26_000, "all classes"),
        (100, 4_000, "all classes"),
        (1000, 688, "all classes"),
        (200, 22_720, "all classes, no histograms"),
        (1000, 22_720, "all classes, only mean, no histograms"),
        (20_000, 22_720, "totals of all classes"),
    ],
)
def test_the_ladder(classes, channels, said):
    kept = what_to_keep(names(classes), channels, GATHERED)
    assert kept.said == said
    assert kept.nbytes(channels) <= LIMIT


@given(st.integers(2, 40), st.integers(1, 20), st.sampled_from([1, 10_000, 100_000, 10**9]))
def test_the_size_is_what_moments_of_many_images_take(classes, channels, limit):
    kept = what_to_keep(names(classes), channels, GATHERED, limit=limit)
    moments = moments_of(kept, channels)
    assert moments.nbytes == kept.nbytes(channels) + 16 * len(kept.class_names)
    assert kept.nbytes(channels) <= limit or kept.said == "totals of all classes"


def test_classes_that_are_asked_for_and_the_rest_pooled():
    kept = what_to_keep(names(1000), 22_720, GATHERED, [7, 3, 7])
    assert kept.class_names == ("c3", "c7", "(other)")
    assert kept.class_index.tolist() == [3, 7, -1]
    assert kept.histograms
    assert kept.said == "2 classes, 998 pooled"


def test_all_classes_asked_for_leave_nothing_to_pool():
    kept = what_to_keep(names(3), 10, GATHERED, [0, 1, 2])
    assert kept.class_index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("k", [-1, 3])
def test_a_class_that_is_not_there(k):
    with pytest.raises(UsageError, match=f"--classes {k}: no such class; the model has 0 to 2"):
        what_to_keep(names(3), 10, GATHERED, [1, k])


def test_more_classes_than_fit():
    with pytest.raises(UsageError, match="keep fewer"):
        what_to_keep(names(9), 1000, GATHERED, [1, 2], limit=1000)
