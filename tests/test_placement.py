"""Where taps are put, and that they see what the consumers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import discedit_onnx as dx
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


FOLDED = {
    "windows": ("Reshape(x, fold)", "Reshape(r, unfold)"),
    "time first": ("Transpose<perm=[1, 0, 2]>(x)", "Transpose<perm=[1, 0, 2]>(r)"),
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_tap_does_not_climb_to_where_the_first_axis_is_not_the_batch(name):
    """Its rows are no images: calibration would fail, or mix them up."""
    fold, unfold = FOLDED[name]
    proto = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        folded (float[N, 3, 8] x) => (float[N, 2] y)
        <float[8, 4] w = {{{", ".join(["1"] * 32)}}}, float[4, 2] h = {{{", ".join(["1"] * 8)}}},
         int64[2] fold = {{-1, 8}}, int64[3] unfold = {{-1, 3, 4}}>
        {{ f = {fold}  m = MatMul(f, w)  r = Relu(m)  u = {unfold}
           p = ReduceMean<axes=[1], keepdims=0>(u)  y = MatMul(p, h) }}""")
    coupling = analyse(proto)
    assert coupling.size == 4
    (tap,) = place_taps(coupling)
    assert (tap.tensor, tap.axis) == ("p", 1)


def test_what_no_tap_sees_goes_last(tmp_path):
    """Nothing is known of the first layer, which reads windows: the second is cut."""
    rng = np.random.default_rng(0)
    w, v, h = (rng.normal(size=shape).round(2) for shape in ((8, 4), (4, 6), (6, 2)))
    text = [", ".join(map(str, values.reshape(-1))) for values in (w, v, h)]
    proto = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        folded (float[N, 3, 8] x) => (float[N, 2] y)
        <float[8, 4] w = {{{text[0]}}}, float[4, 6] v = {{{text[1]}}},
         float[6, 2] h = {{{text[2]}}},
         int64[2] fold = {{-1, 8}}, int64[3] unfold = {{-1, 3, 6}}>
        {{ f = Reshape(x, fold)  m = MatMul(f, w)  r = Relu(m)  n = MatMul(r, v)  q = Relu(n)
           u = Reshape(q, unfold)  p = ReduceMean<axes=[1], keepdims=0>(u)  y = MatMul(p, h) }}""")
    onnx.save(proto, tmp_path / "m.onnx")
    model = dx.load(tmp_path / "m.onnx")
    images = rng.normal(size=(40, 3, 8)).astype(np.float32)
    data = dx.open_data(model, (images, np.arange(40) % 2))
    moments = dx.calibrate(model, data, device="cpu")
    for criterion in ("fisher", "fisher*energy"):
        edit = dx.prune(
            model, moments=moments, sparsity=0.3, criterion=criterion, refit="off", device="cpu"
        )
        shapes = {t.name: list(t.dims) for t in edit.proto.graph.initializer}
        assert shapes["w"] == [8, 4]
        assert shapes["v"][1] < 6
