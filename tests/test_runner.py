"""Sessions, the classifier in a model, and calibration in one pass."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny_models import CLASS_NAMES, HEIGHT, TAPS, WIDTH, classifier, saved, write_images

from discedit_onnx.calibration import session as session_module
from discedit_onnx.calibration.data import open_folder
from discedit_onnx.calibration.preprocess import ImageForm, Preprocess
from discedit_onnx.calibration.runner import calibrate, classifier_of, open_session, run_batches
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError, ModelError, UsageError

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
def data(tmp_path):
    return open_folder(write_images(tmp_path / "images"), CLASS_NAMES, 3)


@pytest.fixture
def model(tmp_path):
    return saved(classifier(), tmp_path)


def images_of(data):
    return np.stack([PREPROCESS.read(file, ImageForm(1, HEIGHT, WIDTH)) for file in data.files])


def assert_same_moments(a, b, rtol):
    np.testing.assert_array_equal(a.count, b.count)
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=rtol * np.abs(b.mean).max())
    atol = rtol * np.abs(b.comoment).max()
    np.testing.assert_allclose(a.comoment, b.comoment, rtol=rtol, atol=atol)


def test_calibrate_equals_numpy_on_full_tensors(data, model):
    moments = calibrate(model, data, TAPS, PREPROCESS, device="cpu", batch_size=4)
    full = classifier(extra_outputs=tuple(tap.tensor for tap in TAPS))
    names = [tap.tensor for tap in TAPS]
    with open_session(full, "cpu") as session:
        logits, *tensors = session.run(["logits", *names], {session.input: images_of(data)})
    flat = [t.reshape(*t.shape[:2], -1).astype(np.float64) for t in tensors]
    means = np.concatenate([t.mean(axis=2) for t in flat], axis=1)
    squares = np.concatenate([np.square(t).mean(axis=2) for t in flat], axis=1)
    features = np.stack([means, squares], axis=-1)
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
    assert moments.facts["accuracy"] == f"{accuracy:.4f}"
    assert moments.facts["device"] == "cpu"
    assert moments.facts["provider"] == "CPUExecutionProvider"
    assert moments.facts["preprocessing"] == str(PREPROCESS)
    assert moments.facts["data"] == "images"
    assert moments.facts["labels"] == "class folders by name"
    assert moments.facts["onnxruntime"] == ort.__version__


def test_the_batch_size_does_not_matter(data, model):
    whole = calibrate(model, data, TAPS, PREPROCESS, device="cpu", batch_size=64)
    for size in (1, 5, 13):
        part = calibrate(model, data, TAPS, PREPROCESS, device="cpu", batch_size=size)
        assert_same_moments(part, whole, 1e-6)
        assert part.facts == whole.facts


@pytest.mark.parametrize("batch", [1, 4, 20])
def test_a_fixed_batch_is_filled_up_and_its_filling_dropped(data, model, tmp_path, batch):
    fixed = saved(classifier(batch=batch), tmp_path, "fixed.onnx")
    assert classifier_of(fixed).batch == batch
    want = calibrate(model, data, TAPS, PREPROCESS, device="cpu")
    found = calibrate(fixed, data, TAPS, PREPROCESS, device="cpu", batch_size=3)
    assert_same_moments(found, want, 1e-6)
    assert found.facts["accuracy"] == want.facts["accuracy"]


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_opsets(data, model, tmp_path, opset):
    want = calibrate(model, data, TAPS, PREPROCESS, device="cpu")
    other = saved(classifier(opset), tmp_path, "other.onnx")
    found = calibrate(other, data, TAPS, PREPROCESS, device="cpu")
    assert_same_moments(found, want, 1e-6)


def test_channels_last_input(data, model, tmp_path):
    last = saved(classifier(channels_last=True), tmp_path, "last.onnx")
    want = calibrate(model, data, TAPS, PREPROCESS, device="cpu")
    found = calibrate(last, data, TAPS, PREPROCESS, device="cpu")
    assert_same_moments(found, want, 1e-6)


def test_float16_model(data, model, tmp_path):
    half = saved(classifier(dtype=TensorProto.FLOAT16), tmp_path, "half.onnx")
    want = calibrate(model, data, TAPS, PREPROCESS, device="cpu")
    found = calibrate(half, data, TAPS, PREPROCESS, device="cpu")
    assert_same_moments(found, want, 2e-2)


def test_any_image_size(data, model, tmp_path):
    free = saved(classifier(height="H", width="W"), tmp_path, "free.onnx")
    want = calibrate(model, data, TAPS, PREPROCESS, device="cpu")
    assert_same_moments(calibrate(free, data, TAPS, PREPROCESS, device="cpu"), want, 1e-6)


def test_progress_reaches_the_end_and_nothing_is_printed(data, model, capfd):
    seen = []
    calibrate(model, data, TAPS, PREPROCESS, batch_size=5, progress=lambda *done: seen.append(done))
    assert seen == [(5, 13), (10, 13), (13, 13)]
    assert capfd.readouterr() == ("", "")


def test_logits_of_all_images_do_not_depend_on_taps(data, model):
    found = classifier_of(model)
    with open_session(model.proto, "cpu") as session:
        batches = run_batches(session, found, ["logits"], data, PREPROCESS, batch_size=4)
        logits = np.concatenate([results[0] for results, _ in batches])
        whole = session.run(["logits"], found.feeds(images_of(data)))[0]
    np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-6)


def test_data_of_other_classes_are_refused(model, tmp_path):
    names = ("ant", "bee")
    other = open_folder(write_images(tmp_path / "two", (1, 1), names), names, 2)
    with pytest.raises(DataError, match="2 classes, but the model has 3"):
        calibrate(model, other, TAPS, PREPROCESS, device="cpu")


def test_images_of_another_size_are_refused(model, tmp_path):
    root = write_images(tmp_path / "wide", size=(9, 9))
    data = open_folder(root, CLASS_NAMES, 3)
    with pytest.raises(DataError, match=r"0\.png: is 9 x 9 pixels, but the model takes 5 x 6"):
        calibrate(model, data, TAPS, PREPROCESS, device="cpu")


@pytest.mark.parametrize(
    ("kind", "form", "batch"),
    [
        ({}, ImageForm(1, HEIGHT, WIDTH), None),
        ({"channels": 3}, ImageForm(3, HEIGHT, WIDTH), None),
        ({"channels_last": True}, ImageForm(1, HEIGHT, WIDTH, True), None),
        ({"channels_last": True, "channels": 3}, ImageForm(3, HEIGHT, WIDTH, True), None),
        ({"height": "H", "width": "W", "batch": 2}, ImageForm(1, None, None), 2),
    ],
)
def test_classifier_of(tmp_path, kind, form, batch):
    found = classifier_of(saved(classifier(**kind), tmp_path))
    assert (found.form, found.batch) == (form, batch)
    assert (found.output, found.num_classes) == ("logits", 3)
    assert found.dtype == np.float32


def test_an_open_width_is_inferred(tmp_path):
    proto = classifier()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    assert classifier_of(saved(proto, tmp_path)).num_classes == 3


def test_the_classifier_output_need_not_be_the_first(tmp_path):
    proto = classifier()
    maps = helper.make_tensor_value_info("h1", TensorProto.FLOAT, ["N", 4, HEIGHT, WIDTH])
    proto.graph.output.insert(0, maps)
    assert classifier_of(saved(proto, tmp_path)).output == "logits"


def parsed(tmp_path, text: str):
    return saved(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":17]>\n{text}'), tmp_path
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "g (float[N,1,4,4] a, float[N,2] b) => (float[N,16] y)"
            " { c = Flatten(a) y = Concat<axis=1>(c, b) }",
            r"takes 2 inputs \(a, b\)",
        ),
        ("g (uint8[N,1,4,4] a) => (uint8[N,16] y) { y = Flatten(a) }", "not a floating-point"),
        ("g (float[N,16] a) => (float[N,16] y) { y = Relu(a) }", "not a floating-point .* 4 axes"),
        ("g (float[N,5,4,4] a) => (float[N,80] y) { y = Flatten(a) }", r"\? x 5 x 4 x 4, with no"),
        ("g (float[N,1,4,4] a) => (float[N,1,4,4] y) { y = Relu(a) }", "no classifier output"),
        ("g (float[N,1,1,1] a) => (float[N,1] y) { y = Flatten(a) }", "no classifier output"),
        ("g (float[N,1,H,4] a) => (float[N,M] y) { y = Flatten(a) }", "no classifier output"),
    ],
)
def test_models_that_are_no_image_classifiers(tmp_path, text, said):
    with pytest.raises(ModelError, match=said) as caught:
        classifier_of(parsed(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_tensor_without_a_batch_axis_is_refused(data, tmp_path):
    proto = classifier()
    proto.graph.node.append(helper.make_node("Transpose", ["pooled"], ["turned"]))
    model = saved(proto, tmp_path)
    with pytest.raises(ModelError, match="5 rows for 13 images"):
        calibrate(model, data, (Tap("turned", 1, 13, 2),), PREPROCESS, device="cpu")


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
    with pytest.raises(ModelError, match="failed on a batch of 13") as caught:
        calibrate(model, data, (), PREPROCESS, device="cpu")
    assert "\n" not in str(caught.value)


def test_no_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r'pip install "discedit-onnx\[cpu\]"'):
        open_session(classifier())


def test_what_uninstalling_one_of_two_runtimes_leaves(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    with pytest.raises(UsageError, match="broken: uninstall"):
        open_session(classifier())


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:0"])
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


@needs_no_cuda
def test_auto_without_cuda_is_the_cpu():
    with open_session(classifier()) as session:
        assert (session.device, session.provider) == ("cpu", "CPUExecutionProvider")


def test_a_broken_model_is_no_missing_cuda():
    proto = classifier()
    proto.graph.node[1].op_type = "Nonsense"
    with pytest.raises(ModelError):
        open_session(proto, "cuda")


def test_a_model_too_large_for_protobuf_runs_from_files(monkeypatch, tmp_path):
    """Only the size is pretended: the way through files is the real one."""
    proto = classifier(channels=64)
    before = proto.SerializeToString()
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 64, HEIGHT, WIDTH)).astype(np.float32)}
    with open_session(proto, "cpu") as session:
        want = session.run(["logits"], feeds)[0]
    monkeypatch.setattr(session_module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(session_module, "_serialised", lambda model: None)
    with open_session(proto, "cpu") as session:
        assert len(list(tmp_path.glob("discedit-*/model.data"))) == 1
        np.testing.assert_array_equal(session.run(["logits"], feeds)[0], want)
    assert list(tmp_path.iterdir()) == []
    assert proto.SerializeToString() == before


def test_memory_does_not_depend_on_the_number_of_images(data, model):
    """Files repeat, so that only what calibration itself keeps could grow."""

    def peak(times):
        many = replace(data, files=data.files * times, labels=np.tile(data.labels, times))
        tracemalloc.start()
        moments = calibrate(model, many, TAPS, PREPROCESS, device="cpu", batch_size=8)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert moments.count.sum() == len(many)
        return most

    peak(1)  # what is made once and kept (imports, caches) is made here
    few, many = 20, 320
    features = sum(tap.length for tap in TAPS) * 2 * 4 * (many - few) * len(data)
    assert peak(many) - peak(few) < features / 2, "even the reduced features are not kept"


@needs_cuda
def test_cuda_equals_cpu(data, model):
    cpu = calibrate(model, data, TAPS, PREPROCESS, device="cpu", batch_size=5)
    cuda = calibrate(model, data, TAPS, PREPROCESS, device="cuda", batch_size=5)
    assert cuda.facts["device"] == "cuda:0"
    assert_same_moments(cuda, cpu, 1e-3)


@needs_cuda
def test_auto_takes_cuda(data, model):
    moments = calibrate(model, data, TAPS, PREPROCESS)
    assert moments.facts["provider"] == "CUDAExecutionProvider"


@needs_cuda
def test_a_cuda_device_that_is_not_there(capfd):
    with pytest.raises(UsageError, match="--device cuda:99"):
        open_session(classifier(), "cuda:99")
    assert capfd.readouterr() == ("", "")
