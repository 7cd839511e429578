"""Sessions, the classifier in a model, and calibration in one pass."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny_models import CLASS_NAMES, HEIGHT, TAPS, WIDTH, classifier, saved, write_images

from discedit_onnx.calibration import session, tapped
from discedit_onnx.calibration.augment import augment
from discedit_onnx.calibration.binding import Binding
from discedit_onnx.calibration.gathering import Wanted, calibrate
from discedit_onnx.calibration.opening import open_data
from discedit_onnx.calibration.preprocess import Preprocess
from discedit_onnx.calibration.runner import open_session, run_batches
from discedit_onnx.calibration.taps import FEATURES, Tap
from discedit_onnx.calibration.weightless import weightless
from discedit_onnx.errors import DataError, ModelError, UsageError
from discedit_onnx.model import load

PREPROCESS = Preprocess(mean=(0.3,), std=(0.2,))


def has_cuda() -> bool:
    try:
        return open_session(classifier(), "cuda").device == "cuda:0"
    except UsageError:
        return False


CUDA = has_cuda()
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA that ONNX Runtime can start")
needs_no_cuda = pytest.mark.skipif(CUDA, reason="CUDA is there")


@pytest.fixture
def model(tmp_path):
    return saved(named(classifier()), tmp_path)


@pytest.fixture
def data(model, tmp_path):
    return open_data(model, write_images(tmp_path / "images"), preprocess=PREPROCESS)


def named(proto):
    helper.set_model_props(proto, {"discedit.class_names": json.dumps(CLASS_NAMES)})
    return proto


def reopened(model, data):
    """The same images for another model."""
    return open_data(model, data.source.name, preprocess=PREPROCESS)


def feeds_of(data):
    return next(data.batches(len(data))).feeds


def assert_same_moments(a, b, rtol):
    np.testing.assert_array_equal(a.count, b.count)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol * np.abs(b.mean).max())
    atol = rtol * np.abs(b.comoment).max()
    np.testing.assert_allclose(a.comoment, b.comoment, rtol=rtol, atol=atol)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or os.cpu_count() == 1, reason="no cores to be kept from"
)
def test_no_more_threads_than_cores_that_may_be_used():
    """ONNX Runtime counts the machine's."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with open_session(classifier(), "cpu") as found:
            assert "threads: 1;" in str(found)
    finally:
        os.sched_setaffinity(0, before)


def test_calibrate_equals_numpy_on_full_tensors(data, model):
    moments = calibrate(model, data, TAPS, device="cpu", batch_size=4)
    full = classifier(extra_outputs=tuple(tap.tensor for tap in TAPS))
    names = [tap.tensor for tap in TAPS]
    with open_session(full, "cpu") as session:
        logits, *tensors = session.run(["logits", *names], dict(feeds_of(data)))
    flat = [t.reshape(*t.shape[:2], -1).astype(np.float64) for t in tensors]
    means = np.concatenate([t.mean(axis=2) for t in flat], axis=1)
    squares = np.concatenate([np.square(t).mean(axis=2) for t in flat], axis=1)
    features = np.stack([means, np.sqrt(squares), squares], axis=-1)
    for k in range(3):
        z = features[data.labels == k]
        centred = z - z.mean(axis=0)
        comoment = np.einsum("ncf,ncg->cfg", centred, centred)
        np.testing.assert_allclose(moments.mean[k], z.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moments.comoment[k], comoment, rtol=1e-4, atol=1e-5)
    assert moments.count.tolist() == [5, 4, 4]
    assert moments.source == model.hash
    assert moments.class_names == CLASS_NAMES
    accuracy = (logits.argmax(axis=1) == data.labels).mean()
    assert moments.accuracy == accuracy
    assert moments.facts["device"] == "cpu"
    assert moments.facts["provider"] == "CPUExecutionProvider"
    assert moments.facts["preprocessing"] == str(PREPROCESS)
    assert moments.facts["data"] == "images"
    assert moments.facts["labels"] == "class folders by name"
    assert moments.facts["onnxruntime"] == ort.__version__


def test_the_batch_size_does_not_matter(data, model):
    whole = calibrate(model, data, TAPS, device="cpu", batch_size=64)
    for size in (1, 5, 13):
        part = calibrate(model, data, TAPS, device="cpu", batch_size=size)
        assert_same_moments(part, whole, 1e-6)
        assert part.facts == whole.facts


@pytest.mark.parametrize("batch", [1, 4, 20])
def test_a_fixed_batch_is_filled_up_and_its_filling_dropped(data, model, tmp_path, batch):
    fixed = saved(classifier(batch=batch), tmp_path, "fixed.onnx")
    want = calibrate(model, data, TAPS, device="cpu")
    found = calibrate(fixed, reopened(fixed, data), TAPS, device="cpu", batch_size=3)
    assert_same_moments(found, want, 1e-6)
    assert found.accuracy == want.accuracy


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_opsets(data, model, tmp_path, opset):
    want = calibrate(model, data, TAPS, device="cpu")
    other = saved(classifier(opset), tmp_path, "other.onnx")
    found = calibrate(other, reopened(other, data), TAPS, device="cpu")
    assert_same_moments(found, want, 1e-6)


def test_channels_last_input(data, model, tmp_path):
    last = saved(classifier(channels_last=True), tmp_path, "last.onnx")
    want = calibrate(model, data, TAPS, device="cpu")
    found = calibrate(last, reopened(last, data), TAPS, device="cpu")
    assert_same_moments(found, want, 1e-6)


def test_float16_model(data, model, tmp_path):
    half = saved(classifier(dtype=TensorProto.FLOAT16), tmp_path, "half.onnx")
    want = calibrate(model, data, TAPS, device="cpu")
    found = calibrate(half, reopened(half, data), TAPS, device="cpu")
    assert_same_moments(found, want, 2e-2)


def test_a_channels_last_model_of_bytes(data, model, tmp_path):
    """As a mobile model is exported: uint8 (N, H, W, C), scaled by nobody."""
    proto = classifier(channels_last=True)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.node[0].input[0] = "wide"
    proto.graph.node.insert(0, helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT))
    bytes_ = saved(named(proto), tmp_path, "bytes.onnx")
    images = data.source.name
    want = calibrate(model, open_data(model, images, preprocess="raw"), TAPS, device="cpu")
    found = calibrate(bytes_, open_data(bytes_, images), TAPS, device="cpu", batch_size=5)
    assert_same_moments(found, want, 1e-6)
    assert found.facts["preprocessing"] == "scale 1"


def sentences(batch="N", length="T"):
    """Tokens and a mask to three classes."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 4)), "head": rng.normal(size=(4, 3))}
    listed = {name: ", ".join(map(str, v.ravel().round(3))) for name, v in weights.items()}
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[{batch}, {length}, 3] x, int64[{batch}, {length}] attention_mask)
            => (float[{batch}, 3] logits)
        <float[3, 4] w = {{{listed["w"]}}}, float[4, 3] head = {{{listed["head"]}}}>
        {{ h = MatMul(x, w)  y = Relu(h)  p = ReduceMean<axes=[1], keepdims=0>(y)
           logits = MatMul(p, head) }}""")


@pytest.mark.parametrize("second", [None, "matrices", "values"])
@pytest.mark.parametrize("batch", ["N", 4])
def test_padded_tokens_of_several_inputs(tmp_path, batch, second, monkeypatch):
    """A fixed batch, a short last one and a mask at once: only tokens that are there count."""
    monkeypatch.setattr(tapped, "WIDE", 0 if second == "values" else 10**6)
    rng = np.random.default_rng(1)
    lengths, labels = rng.integers(1, 7, 10), np.arange(10) % 3
    rows = [rng.normal(size=(1, n, 3)).astype(np.float32) for n in lengths]
    alone = [({"x": x, "attention_mask": np.ones(x.shape[:2], np.int64)}, [k])
             for x, k in zip(rows, labels, strict=True)]  # fmt: skip
    padded = {
        "x": np.concatenate([np.pad(x, ((0, 0), (0, 6 - x.shape[1]), (0, 0)), constant_values=9)
                             for x in rows]),
        "attention_mask": (np.arange(6) < lengths[:, None]).astype(np.int64),
        "labels": labels,
    }  # fmt: skip
    taps = (Tap("y", 2, 4, 3),)
    wanted = Wanted(features=FEATURES, second=second is not None)
    free = saved(sentences(), tmp_path)
    want = calibrate(free, open_data(free, alone), taps, wanted=wanted, device="cpu", batch_size=1)
    np.savez(tmp_path / "tokens.npz", **padded)
    fixed = saved(sentences(batch, 6), tmp_path, "fixed.onnx")
    data = open_data(fixed, tmp_path / "tokens.npz")
    found = calibrate(fixed, data, taps, wanted=wanted, device="cpu", batch_size=4)
    assert_same_moments(found, want, 1e-5)
    for tensor, part in want.second.items():
        assert found.second[tensor].count == part.count == lengths.sum()
        np.testing.assert_allclose(found.second[tensor].comoment, part.comoment, rtol=1e-4)


def test_any_image_size(data, model, tmp_path):
    free = saved(classifier(height="H", width="W"), tmp_path, "free.onnx")
    want = calibrate(model, data, TAPS, device="cpu")
    assert_same_moments(calibrate(free, reopened(free, data), TAPS, device="cpu"), want, 1e-6)


def test_progress_reaches_the_end_and_nothing_is_printed(data, model, capfd):
    seen = []
    calibrate(model, data, TAPS, batch_size=5, progress=lambda *done: seen.append(done))
    assert seen == [(5, 13), (10, 13), (13, 13)]
    assert capfd.readouterr() == ("", "")


def test_logits_of_all_images_do_not_depend_on_taps(data, model):
    with open_session(model.proto, "cpu") as session:
        batches = run_batches(session, ["logits"], data, batch_size=4)
        logits = np.concatenate([results[0] for results, _ in batches])
        whole = session.run(["logits"], dict(feeds_of(data)))[0]
    np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-6)


def test_data_of_another_model_are_refused(model, data, tmp_path):
    other = saved(classifier(height=7), tmp_path, "other.onnx")
    with pytest.raises(DataError, match=r"opened for .*model\.onnx, whose .*other\.onnx; open"):
        calibrate(other, data, TAPS, device="cpu")


def test_images_of_another_size_are_refused(model, tmp_path):
    root = write_images(tmp_path / "wide", size=(9, 9))
    data = open_data(model, root)
    with pytest.raises(DataError, match=r"0\.png: is 9 x 9 pixels, but the model takes 5 x 6"):
        calibrate(model, data, TAPS, device="cpu")


def parsed(tmp_path, text: str):
    return saved(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":17]>\n{text}'), tmp_path
    )


def test_a_tensor_without_a_batch_axis_is_refused(data, tmp_path):
    proto = classifier()
    proto.graph.node.append(helper.make_node("Transpose", ["pooled"], ["turned"]))
    model = saved(proto, tmp_path)
    with pytest.raises(ModelError, match=r"failed on a batch of 1 "):
        calibrate(model, reopened(model, data), (Tap("turned", 1, 13, 2),), device="cpu")


def test_a_model_that_onnx_runtime_refuses(data, tmp_path):
    proto = classifier()
    proto.graph.node[1].domain = "nowhere"
    proto.opset_import.add(domain="nowhere", version=1)
    with pytest.raises(ModelError, match="ONNX Runtime can't load the model") as caught:
        open_session(proto, "cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_while_it_runs(data, tmp_path):
    """It says that it takes any batch, and then works on one image only."""
    text = """g (float[N,1,6,5] x) => (float[N,3] y)
        <int64[2] shape = {1, 30}, int64[1] a = {0}, int64[1] b = {3}, int64[1] axis = {1}>
        { flat = Reshape(x, shape) y = Slice(flat, a, b, axis) }"""
    model = parsed(tmp_path, text)
    with pytest.raises(ModelError, match=r"failed on a batch of \d+ ") as caught:
        calibrate(model, reopened(model, data), (), device="cpu")
    assert "\n" not in str(caught.value)


def test_no_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r'pip install "discedit-onnx\[cpu\]"'):
        open_session(classifier())


def test_what_uninstalling_one_of_two_runtimes_leaves(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(UsageError, match="broken: uninstall"):
        open_session(classifier())


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:0", "cpu+tf32", "cuda+"]
)
def test_unknown_devices(device):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:N"):
        open_session(classifier(), device)


@needs_no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_asked_for_and_not_there(device, capfd):
    with pytest.raises(UsageError, match=rf"--device {device}: .*pip install .*--device cpu"):
        open_session(classifier(), device)
    assert capfd.readouterr() == ("", "")


@needs_no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_on_offer_that_does_not_start(monkeypatch):
    """`get_available_providers` names CUDA also where its libraries are missing."""
    offer = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: offer)
    with pytest.raises(UsageError, match=r"discedit-onnx\[gpu-cuda\]"):
        open_session(classifier(), "cuda")
    with open_session(classifier(), "auto") as session:
        assert session.device == "cpu"


@pytest.mark.parametrize(
    ("device", "as_written", "number", "tf32", "told"),
    [
        ("cuda", False, "0", "0", "cuda:0"),
        ("cuda:1", False, "1", "0", "cuda:1"),
        ("auto", False, "0", "0", "cuda:0"),
        ("cuda+tf32", False, "0", "1", "cuda:0+tf32"),
        ("cuda:1+tf32", False, "1", "1", "cuda:1+tf32"),
        ("cuda:1+tf32", True, "1", "0", "cuda:1"),  # proofs
    ],
)
def test_tf32_is_off_unless_asked(monkeypatch, device, as_written, number, tf32, told):
    asked = []

    def create(_ort, _source, providers, **_):
        asked.append(dict(providers[:1])["CUDAExecutionProvider"])
        return SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider"],
            get_session_options=ort.SessionOptions,
        )

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(session, "create_session", create)
    found = open_session(classifier(), device, as_written=as_written)
    assert (found.device, found.cuda) == (told, int(number))
    assert [(one["device_id"], one["use_tf32"]) for one in asked] == [(number, tf32)]


@needs_no_cuda
def test_auto_without_cuda_is_the_cpu():
    with open_session(classifier()) as session:
        assert (session.device, session.provider) == ("cpu", "CPUExecutionProvider")


def test_a_broken_model_is_no_missing_cuda():
    proto = classifier()
    proto.graph.node[1].op_type = "Nonsense"
    with pytest.raises(ModelError):
        open_session(proto, "cuda")


def test_a_shared_session_leaves_processor_and_memory_to_others():
    with (
        open_session(classifier(), "cpu", shared=True) as shared,
        open_session(classifier(), "cpu") as alone,
    ):
        found, other = (one.inner.get_session_options() for one in (shared, alone))
    assert found.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not found.enable_mem_pattern
    assert other.enable_mem_pattern


def test_large_weights_travel_beside_the_model():
    """So models of any size run, with no temporary file and no copy of the model's bytes."""
    proto = classifier(channels=64)
    before = proto.SerializeToString()
    parts = weightless(proto)
    assert list(parts.weights) == ["w1"]
    assert parts.proto.ByteSize() < len(before) - parts.weights["w1"].nbytes + 100
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 64, HEIGHT, WIDTH)).astype(np.float32)}
    want = ort.InferenceSession(before, providers=["CPUExecutionProvider"]).run(["logits"], feeds)
    with open_session(proto, "cpu") as session:
        np.testing.assert_array_equal(session.run(["logits"], feeds)[0], want[0])
    assert proto.SerializeToString() == before


def test_no_session_is_given_large_weights_as_bytes(tmp_path, monkeypatch):
    """So a model with external data of any size is calibrated; protobuf ends at 2 GiB."""
    proto = classifier(channels=64)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    model = load(tmp_path / "m.onnx")
    weights = sum(w.nbytes for w in weightless(model.proto).weights.values())
    sizes = []
    create = session.create_session

    def recorded(ort, source, *arguments, **options):
        sizes.append(len(source))
        return create(ort, source, *arguments, **options)

    monkeypatch.setattr(session, "create_session", recorded)
    x = np.random.default_rng(0).normal(size=(6, 64, HEIGHT, WIDTH)).astype(np.float32)
    data = open_data(model, (x, np.arange(6) % 3))
    found = calibrate(model, data, TAPS, wanted=Wanted(second=True), device="cpu")
    assert found.count.sum() == 6
    assert sizes
    plain = classifier(channels=1).ByteSize()
    assert max(sizes) < plain + 20_000, f"the taps and small tensors, not {weights} bytes more"
    assert found.source == model.hash


def test_an_odd_batch_does_not_keep_the_shape_of_the_last():
    """Runs are bound to memory; the shapes of inputs and outputs may change from run to run."""
    proto = classifier()
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(n, 1, HEIGHT, WIDTH)).astype(np.float32)} for n in (4, 4, 1, 7)]
    with open_session(proto, "cpu") as plain:
        bound = Binding(plain, ["logits"])
        for batch in feeds:
            (found,), (want,) = bound.run(batch), plain.run(["logits"], batch)
            np.testing.assert_array_equal(found, want)
        turned = {"x": np.asfortranarray(feeds[0]["x"])}
        np.testing.assert_array_equal(bound.run(turned)[0], plain.run(["logits"], feeds[0])[0])
        with pytest.raises(ModelError, match="failed on a batch of 4"):
            bound.run({"x": feeds[0]["x"][:, 0]})


def test_large_weights_of_float16():
    proto = classifier(channels=64, dtype=TensorProto.FLOAT16)
    assert list(weightless(proto).weights) == ["w1"]
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 64, HEIGHT, WIDTH)).astype("f2")}
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with open_session(proto, "cpu") as session:
        found = session.run(["logits"], feeds)[0]
    np.testing.assert_array_equal(found, plain.run(["logits"], feeds)[0])


def test_weightless_copies_all_that_is_set():
    proto = classifier()
    helper.set_model_props(proto, {"a": "b"})
    proto.doc_string, proto.producer_name, proto.graph.doc_string = "d", "p", "g"
    assert weightless(proto).proto == proto, "there are no large weights"


@pytest.mark.parametrize("name", ["cpu", "CPUExecutionProvider"])
def test_providers_by_name(name):
    with open_session(classifier(), providers=[name]) as session:
        assert (session.device, session.provider) == ("cpu", "CPUExecutionProvider")


@pytest.mark.parametrize("name", ["tensorrt", "openvino", "directml", "coreml", "Nonsense"])
def test_providers_that_are_not_there(name, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=f"--providers {name}: .* it has CPUExecutionProvider"):
        open_session(classifier(), providers=[name, "cpu"])


@needs_no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_on_offer_that_does_not_start(monkeypatch, capfd):
    offer = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: offer)
    with pytest.raises(UsageError, match="--providers tensorrt: does not start"):
        open_session(classifier(), providers=["tensorrt"])
    assert capfd.readouterr() == ("", "")


def test_a_broken_model_is_no_missing_provider():
    proto = classifier()
    proto.graph.node[1].op_type = "Nonsense"
    with pytest.raises(ModelError):
        open_session(proto, providers=["cpu"])


def test_memory_does_not_depend_on_the_number_of_images(data, model):
    """Files repeat, so that only what calibration itself keeps could grow."""

    def peak(times):
        many = data.take(np.tile(np.arange(len(data)), times))
        tracemalloc.start()
        moments = calibrate(model, many, TAPS, device="cpu", batch_size=16)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert moments.count.sum() == len(many)
        return most

    peak(1)  # what is made once and kept (imports, caches) is made here
    few, many = 40, 320  # both with as many images as make the edges of histograms
    features = sum(tap.length for tap in TAPS) * 2 * 4 * (many - few) * len(data)
    assert peak(many) - peak(few) < features / 2, "even the reduced features are not kept"


@needs_cuda
def test_cuda_equals_cpu(data, model):
    cpu = calibrate(model, data, TAPS, device="cpu", batch_size=5)
    cuda = calibrate(model, data, TAPS, device="cuda", batch_size=5)
    assert cuda.facts["device"] == "cuda:0"
    assert_same_moments(cuda, cpu, 1e-3)


@needs_cuda
def test_all_that_can_be_gathered_on_cuda(data, model):
    """All scalars and second moments, with an odd last batch."""
    wanted = Wanted(features=FEATURES, second=True)
    cpu, cuda = (
        calibrate(model, data, TAPS, wanted=wanted, device=device, batch_size=5)
        for device in ("cpu", "cuda")
    )
    assert_same_moments(cuda, cpu, 1e-3)
    for tensor, part in cpu.second.items():
        assert cuda.second[tensor].count == part.count
        size = np.abs(part.comoment).max()
        np.testing.assert_allclose(cuda.second[tensor].comoment, part.comoment, atol=1e-3 * size)


@needs_cuda
@pytest.mark.parametrize("opset", [17, 22])
def test_no_feature_map_crosses_the_bus(opset, tmp_path):
    """Reductions run on the device: what ONNX Runtime leaves to the CPU are shapes."""
    taps = [replace(tap, stride=2, product_stride=2) if tap.rank == 4 else tap for tap in TAPS]
    proto = augment(classifier(opset), taps, FEATURES, second=taps, scores="logits")
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "run")
    with open_session(classifier(opset), "cuda") as opened:
        providers = opened.inner.get_providers()
    inner = ort.InferenceSession(proto.SerializeToString(), options, providers=providers)
    inner.run(None, {"x": np.ones((4, 1, HEIGHT, WIDTH), np.float32)})
    events = json.loads(Path(inner.end_profiling()).read_text())
    ran = [e["args"] for e in events if e["name"].endswith("_kernel_time")]
    assert any(one["op_name"] == "GlobalAveragePool" for one in ran)
    on_cpu = {one["op_name"] for one in ran if one["provider"] == "CPUExecutionProvider"}
    assert on_cpu <= {"Shape", "Size", "Gather", "Equal", "Cast", "Div", "Constant"}, on_cpu
    for one in ran:
        if one["op_name"] in ("MemcpyToHost", "MemcpyFromHost"):
            sizes = [np.prod(dims) for kind in one["output_type_shape"] for dims in kind.values()]
            assert max(sizes) < 4 * HEIGHT * WIDTH, one


@needs_cuda
def test_tf32_on_cuda(data, model):
    moments = calibrate(model, data, TAPS, device="cuda+tf32")
    assert moments.facts["device"] == "cuda:0+tf32"
    with open_session(classifier(), "cuda+tf32") as opened:
        given = opened.inner.get_provider_options()["CUDAExecutionProvider"]["use_tf32"]
    assert given == "1"


@needs_cuda
def test_auto_takes_cuda(data, model):
    moments = calibrate(model, data, TAPS)
    assert moments.facts["provider"] == "CUDAExecutionProvider"


@needs_cuda
def test_a_cuda_device_that_is_not_there(capfd):
    with pytest.raises(UsageError, match="--device cuda:99"):
        open_session(classifier(), "cuda:99")
    assert capfd.readouterr() == ("", "")
