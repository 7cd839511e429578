"""Where taps are put, and that they see what the consumers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from discedit_onnx.calibration.placement import place_taps, tap_components
from discedit_onnx.graph.coupling import analyse

SAMPLES = Path(__file__).parents[1] / "sample_models"

TAIL = {
    "flatten": "f = Flatten<axis=1>(r)  y = Gemm<transB=1>(f, w_flat)",
    "global": "g = GlobalAveragePool(r)  f = Flatten(g)  y = Gemm<transB=1>(f, w_pooled)",
    "mean": "f = ReduceMean<axes=[2, 3], keepdims=0>(r)  y = Gemm<transB=1>(f, w_pooled)",
}


def convolution_then(tail: str) -> onnx.ModelProto:
    return parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        tail (float[N, 1, 4, 4] x) => (float[N, 2] y)
        <float[3, 1, 3, 3] w = {{{", ".join(["1"] * 27)}}},
         float[2, 48] w_flat = {{{", ".join(["1"] * 96)}}},
         float[2, 3] w_pooled = {{1, 2, 3, 4, 5, 6}}>
        {{ c = Conv<pads=[1, 1, 1, 1]>(x, w)  r = Relu(c)  {TAIL[tail]} }}""")


@pytest.mark.parametrize("tail", TAIL)
def test_a_tap_climbs_to_the_map_behind_the_activation(tail):
    coupling = analyse(convolution_then(tail))
    (tap,) = place_taps(coupling)
    assert (tap.tensor, tap.axis, tap.length, tap.rank) == ("r", 1, 3, 4)
    assert tap_components(coupling, tap).tolist() == [0, 1, 2]


def test_every_component_of_the_samples_is_seen_behind_its_activation():
    for file in sorted(SAMPLES.glob("*.onnx")):
        coupling = analyse(onnx.load(file))
        taps = place_taps(coupling)
        assert len({tap.tensor for tap in taps}) == len(taps)
        seen = np.unique(np.concatenate([tap_components(coupling, tap) for tap in taps]))
        assert seen[seen >= 0].tolist() == list(range(coupling.size)), file.name
        for tap in taps:
            maker = coupling.view.producer[tap.tensor].op
            assert maker not in ("BatchNormalization", "Flatten", "Reshape", "ReduceMean")


def test_a_graph_without_components_has_no_taps():
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        plain (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}>
        { y = MatMul(x, w) }""")
    assert place_taps(analyse(model)) == ()
