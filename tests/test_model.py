"""Reading models, and what is said of those that can't be read."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import HEIGHT, WIDTH, classifier
from topologies import TOPOLOGIES
from topologies.fused import normalised_before_there_was_an_operator
from topologies.net import SIZE, Net

from discedit_onnx.api import prune
from discedit_onnx.calibration.opening import open_data
from discedit_onnx.constants import hold_tensors
from discedit_onnx.errors import ModelError, UsageError
from discedit_onnx.inspection import inspect
from discedit_onnx.model import CLASS_NAMES_KEY, load, save


@pytest.fixture
def proto():
    return TOPOLOGIES["conv_chain[bias=True,opset=11]"].build()


def outside(proto, path, **options):
    onnx.save(
        proto,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
        **options,
    )


def test_load(proto, tmp_path):
    onnx.save(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert model.proto == proto
    assert model.hash == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert model.file_size == (tmp_path / "m.onnx").stat().st_size
    assert model.external == ()
    assert model.class_names is None


def test_external_data_is_loaded_and_hashed(proto, tmp_path):
    original = [numpy_helper.to_array(t).copy() for t in proto.graph.initializer]
    outside(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    for array, tensor in zip(original, model.proto.graph.initializer, strict=True):
        assert (numpy_helper.to_array(tensor) == array).all()
    before = model.hash
    weights = tmp_path / "weights.bin"
    assert model.external == (weights,)
    assert model.file_size == weights.stat().st_size + (tmp_path / "m.onnx").stat().st_size
    content = bytearray(weights.read_bytes())
    content[3] ^= 1
    weights.write_bytes(bytes(content))
    assert load(tmp_path / "m.onnx").hash != before


def test_external_data_of_constant_nodes_is_loaded(tmp_path):
    proto = TOPOLOGIES["weights_kept_elsewhere[constants=node]"].build()
    share = inspect_share(proto, tmp_path / "inside.onnx")
    outside(proto, tmp_path / "m.onnx")
    assert [file.name for file in load(tmp_path / "m.onnx").external] == ["weights.bin"]
    assert inspect(load(tmp_path / "m.onnx")).removable_share == share
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin.*missing"):
        load(tmp_path / "m.onnx")


def inspect_share(proto, path):
    onnx.save(proto, path)
    return inspect(load(path)).removable_share


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe: is no regular file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" + bytes(64), b"\x08\x07", bytes(1000)],
)
@pytest.mark.parametrize("name", ["m.onnx", "m.json", "m.textproto", "m"])
def test_not_onnx(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated(share, proto, tmp_path):
    content = proto.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="truncated"):
        load(tmp_path / "m.onnx")


def test_any_file_name_will_do(proto, tmp_path):
    """The content says what a file is, not its name."""
    (tmp_path / "m.json").write_bytes(proto.SerializeToString())
    assert load(tmp_path / "m.json").proto == proto


def test_external_data_missing(proto, tmp_path):
    outside(proto, tmp_path / "m.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin, which is missing"):
        load(tmp_path / "m.onnx")


def test_external_data_truncated(proto, tmp_path):
    outside(proto, tmp_path / "m.onnx")
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match="external data can't be read") as caught:
        load(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_external_data_elsewhere(proto, tmp_path):
    """A model must not make us read files outside of its folder."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    outside(proto, tmp_path / "inner" / "m.onnx")
    model = onnx.load(tmp_path / "inner" / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        (entry,) = (e for e in tensor.external_data if e.key == "location")
        entry.value = "../secret"
    onnx.save(model, tmp_path / "inner" / "m.onnx")
    with pytest.raises(ModelError, match="external data"):
        load(tmp_path / "inner" / "m.onnx")


def test_class_names(proto, tmp_path):
    helper.set_model_props(proto, {CLASS_NAMES_KEY: json.dumps(["a", "b", 3])})
    onnx.save(proto, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").class_names == ("a", "b", "3")


@pytest.mark.parametrize("text", ["", "{", "3", "null", '"abc"', '{"0": "a"}'])
def test_class_names_that_are_no_list(text, proto, tmp_path):
    helper.set_model_props(proto, {CLASS_NAMES_KEY: text})
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=CLASS_NAMES_KEY):
        _ = load(tmp_path / "m.onnx").class_names


def test_outputs_that_are_no_tensors_can_be_inspected(tmp_path):
    """As scikit-learn's exports have them."""
    net = Net()
    x = net.relu(net.gemm(net.input("N", 7), 7, 10))
    logits = net.gemm(x, 10, 5)
    model = net.model(logits)
    model.graph.node.add(op_type="SequenceConstruct", input=[logits], output=["all"])
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    info = helper.make_value_info("all", helper.make_sequence_type_proto(kind))
    model.graph.output.append(info)
    onnx.save(model, tmp_path / "m.onnx")
    inspection = inspect(load(tmp_path / "m.onnx"))
    assert [output.name for output in inspection.outputs] == [logits, "all"]
    assert inspection.removable_share > 0.5


def test_links_stay_where_weights_lie_outside_too(proto, tmp_path):
    outside(proto, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere/real.onnx", tmp_path / "link.onnx"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(UsageError, match="exists already"):
        save(model.proto, model, link)
    save(model.proto, model, link, force=True)
    assert link.is_symlink()
    assert target.read_bytes() == link.read_bytes()
    assert load(link).proto == model.proto


@pytest.mark.parametrize("extra", [-4, 4])
def test_constants_of_another_size_than_their_shape_are_named(extra, tmp_path):
    net = Net()
    proto = net.model(net.relu(net.conv(net.input(), 3, 6)))
    tensor = proto.graph.initializer[0]
    tensor.raw_data = (tensor.raw_data + bytes(4))[: len(tensor.raw_data) + extra]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="bytes: the file is damaged"):
        load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=tensor.name):
        load(tmp_path / "m.onnx")


def test_weights_beside_a_model_can_be_read_by_whoever_reads_the_model(tmp_path):
    net = Net()
    proto = net.model(net.relu(net.conv(net.input(), 3, 40)))
    onnx.save(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    model = load(tmp_path / "m.onnx")
    save(model.proto, model, tmp_path / "out.onnx")
    modes = [(tmp_path / name).stat().st_mode for name in ("out.onnx", "out.onnx.data")]
    assert modes[0] == modes[1]


def test_a_file_of_the_name_of_the_weights_where_the_process_is(tmp_path, monkeypatch):
    """It is not the one that is written, or it is the one to overwrite."""
    net = Net()
    proto = net.model(net.relu(net.conv(net.input(), 3, 40)))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    model = load(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        save(model.proto, model, tmp_path / "out.onnx", force=True)
        assert load(tmp_path / "out.onnx").external == (tmp_path / "out.onnx.data",)
    (tmp_path / "inner").mkdir()
    edited = onnx.ModelProto()
    edited.CopyFrom(model.proto)
    save(edited, model, tmp_path / "inner/out.onnx")
    assert (tmp_path / "inner/out.onnx.data").is_file()
    assert load(tmp_path / "inner/out.onnx").proto == model.proto


def test_a_fault_that_the_source_has_too_is_none_of_the_edit(tmp_path):
    """ONNX Runtime runs what onnx refuses; another fault is still refused."""
    onnx.save(normalised_before_there_was_an_operator(), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    edited = onnx.ModelProto()
    edited.CopyFrom(model.proto)
    edited.doc_string = "edited"
    save(edited, model, tmp_path / "out.onnx")
    assert load(tmp_path / "out.onnx").proto == edited
    edited.graph.node[0].op_type = "Mystery"
    with pytest.raises(ModelError, match=r"not valid: No Op registered for Mystery"):
        save(edited, model, tmp_path / "worse.onnx")
    assert not (tmp_path / "worse.onnx").exists()


@pytest.mark.parametrize("name", ["residual_identity", "loop[captured=tensor]"])
def test_nodes_in_any_order_are_pruned(name, tmp_path):
    """ONNX Runtime runs them; what is in order stays as it is."""
    proto = TOPOLOGIES[name].build()
    onnx.save(proto, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").proto.graph == proto.graph
    for graph in (proto.graph, *(a.g for n in proto.graph.node for a in n.attribute)):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[::-1])
    onnx.save(proto, tmp_path / "any.onnx")
    model = load(tmp_path / "any.onnx")
    onnx.checker.check_model(model.proto, full_check=True)
    edit = prune(model, sparsity=0.3, criterion="l1", device="cpu")
    assert edit.parameters[1] < edit.parameters[0]
    save(edit.proto, model, tmp_path / "out.onnx")


def test_nodes_in_a_circle_are_refused(proto, tmp_path):
    proto.graph.node[0].input[0] = proto.graph.node[2].output[0]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"in a circle, at '{proto.graph.node[0].name}'"):
        load(tmp_path / "m.onnx")


def test_a_relative_path_stays_the_file_that_it_was(proto, tmp_path, monkeypatch):
    """Its hash, its copy and what lies beside it are read later, wherever the process is then."""
    onnx.save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {0: "x", 1: "y", 2: "z"}}))
    outside(proto, tmp_path / "w.onnx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model, apart = load("m.onnx"), load("w.onnx")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert str(model.path) == "m.onnx"
    assert model.hash == load("../m.onnx").hash
    assert apart.hash == load("../w.onnx").hash
    assert apart.file_size == load("../w.onnx").file_size
    with pytest.raises(UsageError, match="overwrite the input"):
        save(model.proto, model, "../m.onnx", force=True)
    save(model.proto, model, "copy.onnx")
    assert load("copy.onnx").hash == model.hash
    images = np.zeros((3, 1, HEIGHT, WIDTH), np.float32)
    assert open_data(model, images).class_names == ("x", "y", "z")


@pytest.mark.parametrize("how", ["written over", "gone", "weights"])
def test_a_file_that_changed_since_it_was_loaded_is_not_taken_for_it(proto, tmp_path, how):
    if how == "weights":
        outside(proto, tmp_path / "m.onnx")
    else:
        onnx.save(proto, tmp_path / "m.onnx")
    model, known = load(tmp_path / "m.onnx"), load(tmp_path / "m.onnx")
    before = known.hash
    file = tmp_path / ("weights.bin" if how == "weights" else "m.onnx")
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-4] + b"1234")
        os.utime(file, ns=(0, 0))  # whatever the clock's grain
    says = r"m\.onnx: changed since it was loaded; load it anew"
    with pytest.raises(ModelError, match=says):
        print(model.hash)
    assert known.hash == before
    if how != "weights":
        with pytest.raises(ModelError, match=says):
            save(known.proto, known, tmp_path / "copy.onnx")
        assert not (tmp_path / "copy.onnx").exists()


@pytest.mark.parametrize(
    ("attribute", "value", "wanted"),
    [
        ("value_floats", [1.5, -2.0], np.array([1.5, -2.0], np.float32)),
        ("value_floats", [], np.array([], np.float32)),
        ("value_float", 0.5, np.array(0.5, np.float32)),
        ("value_ints", [3, 4], np.array([3, 4])),
        ("value_int", 7, np.array(7)),
    ],
)
def test_numbers_of_constants_are_tensors(attribute, value, wanted):
    if value == []:
        node = helper.make_node("Constant", [], ["c"])
        node.attribute.add(name=attribute, type=onnx.AttributeProto.FLOATS)
    else:
        node = helper.make_node("Constant", [], ["c"], **{attribute: value})
    graph = onnx.GraphProto(node=[node])
    hold_tensors(graph)
    (found,) = graph.node[0].attribute
    tensor = numpy_helper.to_array(found.t)
    assert found.name == "value"
    assert tensor.dtype == wanted.dtype
    np.testing.assert_array_equal(tensor, wanted)


def test_weights_may_be_lists_of_numbers(tmp_path):
    """As some exporters write biases."""
    net = Net()
    bias = net.name("bias")
    net.nodes.append(helper.make_node("Constant", [], [bias], value_floats=[0.1] * 8))
    x = net.relu(net.op("Conv", net.input(), net.weight(8, 3, 3, 3), bias))
    onnx.save(net.head(x, 8), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert inspect(model).removable_share > 0.5
    x = np.random.default_rng(0).normal(size=(40, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    edit = prune(model, sparsity=0.2, data=open_data(model, tmp_path / "data.npz"))
    assert edit.sparsity >= 0.2
