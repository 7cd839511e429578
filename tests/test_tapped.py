"""A tapped model on batches: whole, short and filled up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import HEIGHT, TAPS, WIDTH, classifier

from discedit_onnx.calibration import second, tapped
from discedit_onnx.calibration.augment import augment
from discedit_onnx.calibration.binding import Binding
from discedit_onnx.calibration.products import multiplier
from discedit_onnx.calibration.second import Positions, SecondMoments
from discedit_onnx.calibration.session import open_session
from discedit_onnx.calibration.tapped import WIDE, fill_up, open_tapped
from discedit_onnx.calibration.taps import FEATURES, GATHERED, Tap


def images(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(count)
    return {"x": generator.normal(size=(count, 1, HEIGHT, WIDTH)).astype(np.float32)}


GRIDS = (
    Tap("h1", 1, 4, 4, stride=2, product_stride=3),
    Tap("h2", 1, 5, 4, stride=3, product_stride=3),
)


def tensors(model: onnx.ModelProto, taps, feeds) -> list[np.ndarray]:
    """Full tapped tensors, channels first: (C, N, positions)."""
    full = onnx.ModelProto()
    full.CopyFrom(model)
    have = {output.name for output in model.graph.output}
    full.graph.output.extend(
        helper.make_empty_tensor_value_info(tap.tensor) for tap in taps if tap.tensor not in have
    )
    full = onnx.shape_inference.infer_shapes(full)
    with open_session(full, "cpu") as session:
        found = session.run([tap.tensor for tap in taps], feeds)
    wide = [
        x[:, :, :: tap.product_stride, :: tap.product_stride] if tap.product_stride > 1 else x
        for tap, x in zip(taps, found, strict=True)
    ]
    return [
        np.moveaxis(x.astype(np.float64), (tap.axis, 0), (0, 1)).reshape(tap.length, len(x), -1)
        for tap, x in zip(taps, wide, strict=True)
    ]


@pytest.fixture(params=["values", "matrices"])
def handed_out(request, monkeypatch):
    """What the graph gives for second moments, of any width."""
    monkeypatch.setattr(tapped, "WIDE", 0 if request.param == "values" else 10**6)
    monkeypatch.setattr(second, "BAND", 2)


def second_moments(seen: tapped.Observed) -> dict[str, SecondMoments]:
    """Those of a batch, also where the graph hands out values."""
    found = {}
    for name, part in seen.second.items():
        if isinstance(part, Positions):
            part = SecondMoments.empty(part.values.shape[1]).add_positions(part, multiplier())
            part.mirror()
        found[name] = part
    return found


@pytest.mark.usefixtures("handed_out")
@pytest.mark.parametrize("taps", [TAPS, GRIDS])
@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_second_moments_equal_numpy(opset, taps):
    model, feeds = classifier(opset), images(7)
    with open_tapped(model, taps, second=True, device="cpu") as tapped:
        found = second_moments(tapped.observe(feeds))
    for tap, x in zip(taps, tensors(model, taps, feeds), strict=True):
        flat = x.reshape(tap.length, -1)
        second = found[tap.tensor]
        assert second.count == flat.shape[1]
        np.testing.assert_allclose(second.mean, flat.mean(axis=1), rtol=1e-5, atol=1e-6)
        want = np.cov(flat, bias=True) * flat.shape[1]
        np.testing.assert_allclose(second.comoment, want, rtol=1e-4, atol=1e-5 * want.max())
        np.testing.assert_allclose(
            second.uncentred, flat @ flat.T / flat.shape[1], rtol=1e-4, atol=1e-5
        )


def test_the_graph_hands_out_what_is_less_work():
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, {WIDE + 1}, 2, 2] x) => (float[N, {WIDE + 1}, 2, 2] z)
        {{ y = Relu(x)  z = Identity(y) }}""")
    x = np.random.default_rng(0).normal(size=(3, WIDE + 1, 2, 2)).astype(np.float32)
    with open_tapped(model, [Tap("y", 1, WIDE + 1, 4)], second=True, device="cpu") as tapped:
        seen = tapped.observe({"x": x})
        assert isinstance(seen.second["y"], Positions)
        assert not tapped.second
    flat = np.moveaxis(np.maximum(x, 0).astype(np.float64), 1, 0).reshape(WIDE + 1, -1)
    found = second_moments(seen)["y"]
    np.testing.assert_allclose(found.comoment, np.cov(flat, bias=True) * 12, atol=1e-5)
    with open_tapped(
        model, [Tap("y", 1, WIDE + 1, 4)], second=True, providers=["CPUExecutionProvider"]
    ) as tapped:
        assert not tapped.positions, "on whatever device a provider runs"


@pytest.mark.usefixtures("handed_out")
@pytest.mark.parametrize("batch", [1, 4])
def test_a_short_batch_is_filled_up_and_its_filling_not_seen(batch):
    """Neither in the features nor in the scores nor in the second moments."""
    feeds = images(batch - 1 or 1)
    with open_tapped(classifier(), TAPS, second=True, scores="logits", device="cpu") as tapped:
        want = tapped.observe(feeds)
    fixed = classifier(batch=batch)
    with open_tapped(
        fixed, TAPS, second=True, scores="logits", batch=batch, device="cpu"
    ) as tapped:
        found = tapped.observe(feeds)
    np.testing.assert_allclose(found.features, want.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5, atol=1e-6)
    parts = second_moments(found)
    for name, part in second_moments(want).items():
        assert parts[name].count == part.count
        np.testing.assert_allclose(parts[name].mean, part.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(parts[name].comoment, part.comoment, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("handed_out")
def test_second_moments_keep_their_digits_far_from_zero():
    """A mean of a thousand deviations costs a square six digits, and nothing a centred one."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 8, 8] x) => (float[N, 2, 8, 8] y)'
        " { y = Identity(x) }"
    )
    x = np.random.default_rng(0).normal(1000, 1, (9, 2, 8, 8)).astype(np.float32)
    with open_tapped(model, [Tap("y", 1, 2, 4)], second=True, device="cpu") as tapped:
        second = second_moments(tapped.observe({"x": x}))["y"]
    flat = np.moveaxis(x.astype(np.float64), 1, 0).reshape(2, -1)
    want = np.cov(flat, bias=True) * flat.shape[1]
    np.testing.assert_allclose(second.comoment, want, rtol=1e-4, atol=0.1)


def test_the_scores_are_fetched_only_where_they_are_asked_for():
    with open_tapped(classifier(), TAPS, device="cpu") as tapped:
        assert tapped.observe(images(3)).scores is None


def test_no_taps():
    with open_tapped(classifier(), (), second=True, scores="logits", device="cpu") as tapped:
        seen = tapped.observe(images(3))
    assert seen.features.shape == (3, 0, 3)
    assert seen.scores.shape == (3, 3)
    assert seen.second == {}


def test_pieces_of_a_batch_give_what_the_batch_gives(monkeypatch):
    """Each piece is of enough bytes, of a few samples at least, and of one for each thread."""
    feeds, runs = images(23), []
    run = Binding.run
    monkeypatch.setattr(Binding, "run", lambda self, x: runs.append(len(x["x"])) or run(self, x))
    monkeypatch.setattr(tapped, "cores", lambda: 2)
    with open_tapped(classifier(), TAPS, scores="logits", device="cpu") as model:
        whole = model.observe(feeds)
        for least, threads, sizes in (
            (5 * feeds["x"][:1].nbytes, 2, [5, 6, 6, 6]),
            (1, 2, [4, 5, 4, 5, 5]),
            (1, 8, [11, 12]),
        ):
            monkeypatch.setattr(tapped, "PIECE", least)
            monkeypatch.setattr(tapped, "cores", lambda threads=threads: threads)
            runs.clear()
            seen = model.observe(feeds)
            assert runs == sizes
            np.testing.assert_allclose(seen.features, whole.features, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(seen.scores, whole.scores, rtol=1e-6, atol=1e-6)


def test_all_features():
    with open_tapped(classifier(), TAPS, features=FEATURES, device="cpu") as tapped:
        seen = tapped.observe(images(5)).features
    whole = tensors(classifier(), TAPS, images(5))
    for i, name in enumerate(FEATURES):
        of = {
            "mean": lambda x: x.mean(axis=2),
            "mean_square": lambda x: np.square(x).mean(axis=2),
            "rms": lambda x: np.sqrt(np.square(x).mean(axis=2)),
            "max": lambda x: x.max(axis=2),
            "positive": lambda x: (x > 0).mean(axis=2),
        }[name]
        want = np.concatenate([of(x) for x in whole]).T
        np.testing.assert_allclose(seen[:, :, i], want, rtol=1e-5, atol=1e-6)


def test_fill_up_repeats_the_last_row_of_every_input():
    feeds = {"a": np.arange(2), "b": np.array([[1, 2], [3, 4]])}
    filled = fill_up(feeds, 4)
    assert filled["a"].tolist() == [0, 1, 1, 1]
    assert filled["b"].tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert fill_up(feeds, None)["a"] is feeds["a"]


# Tokens


def sequence(opset: int, mask_type: str = "int64") -> onnx.ModelProto:
    """Tokens through a dense layer with ReLU (`y`), and their first one alone (`first`)."""
    weights = ", ".join(map(str, np.random.default_rng(0).normal(size=12).round(3)))
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[N, T, 3] x, {mask_type}[N, T] attention_mask) => (float[N, T, 4] y)
        <float[3, 4] w = {{{weights}}},
         int64[1] a = {{0}}, int64[1] b = {{1}}, int64[1] axis = {{1}}>
        {{ h = MatMul(x, w)  y = Relu(h)  first = Slice(y, a, b, axis) }}""")


TOKENS = (Tap("y", 2, 4, 3), Tap("first", 2, 4, 3))


def tokens(lengths: list[int], dtype: str = "int64") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(len(lengths))
    x = generator.normal(size=(len(lengths), 6, 3)).astype(np.float32)
    mask = np.arange(6) < np.array(lengths)[:, None]
    return {"x": x, "attention_mask": mask.astype(dtype)}


def alone(opset: int, feeds: dict[str, np.ndarray], lengths: list[int]) -> list[np.ndarray]:
    """Features of each row without its padding, in a batch of its own."""
    found = []
    for row, length in enumerate(lengths):
        one = {name: value[row : row + 1, :length] for name, value in feeds.items()}
        with open_tapped(sequence(opset), TOKENS, features=FEATURES, device="cpu") as tapped:
            found.append(tapped.observe(one).features[0])
    return found


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_tokens_that_only_fill_a_row_up_are_left_out(opset):
    lengths = [6, 1, 3, 4]
    feeds = tokens(lengths)
    with open_tapped(sequence(opset), TOKENS, features=FEATURES, device="cpu") as tapped:
        found = tapped.observe(feeds).features
    want = np.stack(alone(opset, feeds, lengths))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    feeds["x"][np.logical_not(feeds["attention_mask"])] = 1e6
    with open_tapped(sequence(opset), TOKENS, features=FEATURES, device="cpu") as tapped:
        np.testing.assert_allclose(tapped.observe(feeds).features, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float"])
def test_masks_of_other_types(dtype):
    kind = "float32" if dtype == "float" else dtype
    feeds = tokens([2, 5], kind)
    with open_tapped(sequence(17, dtype), TOKENS, features=FEATURES, device="cpu") as tapped:
        found = tapped.observe(feeds).features
    np.testing.assert_allclose(found, np.stack(alone(17, tokens([2, 5]), [2, 5])), rtol=1e-5)


@pytest.mark.usefixtures("handed_out")
@pytest.mark.parametrize("opset", [13, 18])
def test_second_moments_leave_masked_tokens_out(opset):
    lengths = [6, 1, 3, 4]
    feeds = tokens(lengths)
    with open_tapped(sequence(opset), TOKENS, second=True, device="cpu") as tapped:
        found = second_moments(tapped.observe(feeds))
    (whole,) = tensors(sequence(opset), TOKENS[:1], feeds)
    kept = whole[:, feeds["attention_mask"].astype(bool)]
    assert found["y"].count == 14
    assert found["first"].count == 4
    np.testing.assert_allclose(found["y"].mean, kept.mean(axis=1), rtol=1e-5)
    want = np.cov(kept, bias=True) * 14
    np.testing.assert_allclose(found["y"].comoment, want, rtol=1e-4, atol=1e-5)


def test_a_row_without_a_token_is_all_zeros_and_does_no_harm():
    with open_tapped(sequence(17), TOKENS[:1], device="cpu") as tapped:
        found = tapped.observe(tokens([0, 3])).features
    assert (found[0] == 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("features", [(name,) for name in FEATURES] + [GATHERED, FEATURES])
@pytest.mark.parametrize("more", [None, "second", "positions"])
@pytest.mark.parametrize("opset", [17, 18])
def test_every_node_is_read(opset, features, more):
    """ONNX Runtime runs what nothing reads first, and keeps all tapped tensors until it is done."""
    for model, taps in ((classifier(opset), GRIDS), (sequence(opset), TOKENS)):
        graph = augment(model, taps, features, **({more: taps} if more else {})).graph
        inside = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
        nodes = [node for part in (graph, *inside) for node in part.node]
        read = {name for node in nodes for name in node.input}
        read |= {value.name for part in (graph, *inside) for value in part.output}
        idle = [node.output[0] for node in nodes if read.isdisjoint(node.output)]
        assert not idle


@pytest.mark.parametrize("more", ["second", "positions"])
def test_what_takes_turns_has_one_last_node(more):
    for opset, last in ((11, []), (12, ["discedit_tap_done"])):
        graph = augment(classifier(opset), GRIDS, **{more: GRIDS}, in_turn=True).graph
        read = {name for node in graph.node for name in node.input}
        read |= {value.name for value in graph.output}
        assert [node.output[0] for node in graph.node if read.isdisjoint(node.output)] == last
    assert augment(classifier(), GRIDS, in_turn=True) == augment(classifier(), GRIDS)


def chain(layers: int) -> onnx.ModelProto:
    """Convolutions one after the other, as wide as ONNX Runtime's blocks, each with a Relu."""
    weights = np.random.default_rng(0).normal(size=(layers, 16, 16, 3, 3)).astype(np.float32) / 12
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("Conv", [f"h{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"h{i + 1}"]))
    nodes.append(helper.make_node("GlobalAveragePool", [f"h{layers}"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["y"]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "chain",
        [info("h0", TensorProto.FLOAT, ["N", 16, 8, 8])],
        [info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("more", ["second", "positions"])
def test_a_tensor_is_done_with_before_the_next_is_computed(more, tmp_path):
    """Not at the end, when none of them is in the processor's cache, and all are in memory."""
    layers = 6
    taps = [Tap(f"h{i + 1}", 1, 16, 4, stride=2, product_stride=2) for i in range(layers)]
    proto = augment(chain(layers), taps, **{more: taps}, in_turn=True)
    for node in proto.graph.node:
        node.name = node.output[0]
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "run")
    inner = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inner.run(None, {"h0": np.ones((2, 16, 8, 8), np.float32)})
    events = json.loads(Path(inner.end_profiling()).read_text())
    ran = [e["name"] for e in events if e["name"].endswith("_kernel_time")]

    def when(name: str) -> int:
        (place,) = [i for i, one in enumerate(ran) if re.match(rf"{name}(_nchwc)?_kernel", one)]
        return place

    last = "second_left" if more == "second" else "positions"
    layer = [i for i, one in enumerate(ran) if one.startswith(("c", "h"))]
    assert len(layer) == layers
    for i in range(layers - 1):
        for part in ("mean_square_of", last):
            assert layer[i] < when(f"discedit_tap{i}_{part}") < layer[i + 1]


@pytest.mark.parametrize("library", ["glibc", "musl"])
def test_memory_is_given_back_where_the_c_library_would_keep_it(library, monkeypatch):
    """Once the session is open: that is when much of it was freed."""
    seen: list[tuple[str, int]] = []
    has = {"malloc_trim": lambda pad: seen.append(("trim", pad))} if library == "glibc" else {}
    monkeypatch.setattr(tapped.sys, "platform", "linux")
    monkeypatch.setattr(tapped.ctypes, "CDLL", lambda name: SimpleNamespace(**has))
    opening = tapped.open_session

    def opened(*args, **settings):
        session = opening(*args, **settings)
        seen.append(("open", 0))
        return session

    monkeypatch.setattr(tapped, "open_session", opened)
    with open_tapped(classifier(), TAPS, device="cpu") as found:
        found.observe(images(2))
    assert seen == [("open", 0), ("trim", 0)][: 1 + len(has)]
