"""The protobuf is the carrier: what a plan does not name stays byte for byte what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_topologies import equality
from topologies import TOPOLOGIES
from topologies.net import Net

from discedit_onnx import model as model_module
from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.plan import Plan, plan_removal, plan_zeroing
from discedit_onnx.editing.prune import prune
from discedit_onnx.editing.surgery import apply
from discedit_onnx.editing.verify import mask
from discedit_onnx.errors import ModelError, UsageError
from discedit_onnx.graph.coupling import Coupling, analyse
from discedit_onnx.inspection import inspect
from discedit_onnx.model import Model, load, save

if TYPE_CHECKING:
    from pathlib import Path


def rich() -> onnx.ModelProto:
    """A model with everything in it that an edit could lose."""
    model = TOPOLOGIES["local_function"].build()
    model.producer_name, model.producer_version = "a producer", "1.2"
    model.domain, model.model_version, model.doc_string = "org.example", 7, "a model"
    helper.set_model_props(model, {"key": "value", "another": "one"})
    graph = model.graph
    graph.name, graph.doc_string = "a graph", "of nodes"
    for i, node in enumerate(graph.node):
        node.name, node.doc_string = f"layer/{i}", f"node {i}"
        node.metadata_props.add(key="place", value=str(i))
    for tensor in graph.initializer:
        tensor.doc_string = f"values of {tensor.name}"
    graph.input[0].doc_string = "an image"
    graph.metadata_props.add(key="graph", value="props")
    model.functions[0].doc_string = "a function"
    note = graph.quantization_annotation.add(tensor_name=graph.initializer[0].name)
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=graph.initializer[1].name)
    graph.value_info.extend(onnx.shape_inference.infer_shapes(model).graph.value_info)
    # Weights as numbers in a field of their own, as some writers keep them.
    for tensor in graph.initializer[:2]:
        values = numpy_helper.to_array(tensor).reshape(-1)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.tolist())
    model.opset_import.add(domain="org.example.unused", version=3)
    onnx.checker.check_model(model, full_check=True)
    return model


def saved(proto: onnx.ModelProto, folder: Path, **options: object) -> Model:
    onnx.save(proto, folder / "model.onnx", **options)
    return load(folder / "model.onnx")


def every_second(coupling: Coupling) -> np.ndarray:
    removed = np.zeros(coupling.size, dtype=bool)
    for group in coupling.groups:
        removed[group.components[1::2]] = True
    return removed


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# --- nothing to do


@pytest.mark.parametrize("name", ["residual_identity", "weights_kept_elsewhere[constants=input]"])
def test_an_empty_plan_gives_a_byte_identical_file(name, tmp_path):
    model = saved(TOPOLOGIES[name].build(), tmp_path)
    assert Plan(model.hash).empty
    edited = apply(model.proto, Plan(model.hash))
    save(edited, model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.path.read_bytes()


def test_pruning_nothing_gives_a_byte_identical_file(tmp_path):
    model = saved(rich(), tmp_path)
    # A field that protobuf does not know.
    model.path.write_bytes(model.path.read_bytes() + b"\xfa\x7f\x03odd")
    model = load(model.path)
    edit = prune(model, sparsity=0.0, criterion="l2", device="cpu")
    edit.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.path.read_bytes()
    assert edit.plan.empty
    assert edit.sparsity == 0


# --- what an edit leaves alone


def test_only_what_the_plan_names_changes(tmp_path):
    model = saved(rich(), tmp_path)
    before = model.proto.SerializeToString()
    coupling = analyse(model.proto)
    edit = carry_out(model, coupling, every_second(coupling), remove=True, device="cpu")
    edit.save(tmp_path / "out.onnx")
    after = load(tmp_path / "out.onnx").proto
    assert model.proto.SerializeToString() == before
    old, new = onnx.ModelProto.FromString(before), onnx.ModelProto.FromString(before)
    new.CopyFrom(after)
    assert new.metadata_props.pop().key == "discedit.edit.1"

    cut = {c.tensor for c in edit.plan.cuts}
    assert cut
    for a, b in zip(old.graph.initializer, new.graph.initializer, strict=True):
        assert (a.name, a.doc_string, a.data_type) == (b.name, b.doc_string, b.data_type)
        assert (a == b) == (a.name not in cut)
    assert list(old.graph.node) == list(new.graph.node)
    for model_proto in (old, new):
        del model_proto.graph.initializer[:]
        del model_proto.graph.value_info[:]
    assert old.SerializeToString(deterministic=True) == new.SerializeToString(deterministic=True)


def test_only_the_rewritten_attribute_changes():
    proto = TOPOLOGIES["conv_depthwise[multiplier=2]"].build()
    for node in proto.graph.node:
        node.doc_string = "kept"
    coupling = analyse(proto)
    plan = plan_removal(coupling, every_second(coupling), "")
    edited = apply(proto, plan)
    assert plan.rewrites
    rewritten = {rewrite.node for rewrite in plan.rewrites}
    for a, b in zip(proto.graph.node, edited.graph.node, strict=True):
        assert (a == b) == (a.output[0] not in rewritten)
        for x, y in zip(a.attribute, b.attribute, strict=True):
            if x.name == "group" and a.output[0] in rewritten:
                assert (x.i, y.i) == (8, 4)
            else:
                assert x == y


def test_zeroing_changes_values_only():
    proto = rich()
    coupling = analyse(proto)
    plan = plan_zeroing(coupling, every_second(coupling), "")
    edited = apply(proto, plan)
    zeroed = {zero.tensor for zero in plan.zeros}
    assert zeroed
    for a, b in zip(proto.graph.initializer, edited.graph.initializer, strict=True):
        assert a.dims == b.dims
        assert (a == b) == (a.name not in zeroed)
        if a.name in zeroed:
            x, y = numpy_helper.to_array(a), numpy_helper.to_array(b)
            assert ((x == y) | (y == 0)).all()
    assert edited.graph.value_info == proto.graph.value_info


def test_constant_nodes_are_cut_in_place():
    proto = TOPOLOGIES["weights_kept_elsewhere[constants=node]"].build()
    coupling = analyse(proto)
    edited = apply(proto, plan_removal(coupling, every_second(coupling), ""))
    assert [n.op_type for n in edited.graph.node] == [n.op_type for n in proto.graph.node]
    assert [n.name for n in edited.graph.node] == [n.name for n in proto.graph.node]


@pytest.mark.parametrize(
    "name", ["half_precision[constants=initializer]", "double_precision", "mixed_precision"]
)
def test_element_types_stay(name):
    proto = TOPOLOGIES[name].build()
    coupling = analyse(proto)
    edited = apply(proto, plan_removal(coupling, every_second(coupling), ""))
    for a, b in zip(proto.graph.initializer, edited.graph.initializer, strict=True):
        assert a.data_type == b.data_type


def test_stale_shapes_are_brought_up_to_date():
    proto = TOPOLOGIES["stale_value_info"].build()
    noted = [info.name for info in proto.graph.value_info]
    coupling = analyse(proto)
    edited = apply(proto, plan_removal(coupling, every_second(coupling), ""))
    assert [info.name for info in edited.graph.value_info] == noted
    shapes = {
        info.name: [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in edited.graph.value_info
    }
    first = edited.graph.node[0]
    assert shapes[first.output[0]] == ["N", 4, 6, 6]
    for tensor in edited.graph.initializer:
        assert shapes[tensor.name] == list(tensor.dims)
    onnx.checker.check_model(edited, full_check=True)
    onnx.shape_inference.infer_shapes(edited, check_type=True, strict_mode=True)


def test_names_of_open_lengths_stay():
    proto = TOPOLOGIES["stale_value_info"].build()
    for info in proto.graph.value_info:
        info.type.tensor_type.shape.dim[0].denotation = "BATCH"
    coupling = analyse(proto)
    edited = apply(proto, plan_removal(coupling, every_second(coupling), ""))
    for info in edited.graph.value_info:
        assert info.type.tensor_type.shape.dim[0].denotation == "BATCH"


# --- constants that describe shapes


def shape_inputs(proto: onnx.ModelProto) -> list[str]:
    return [node.input[1] for node in proto.graph.node if node.op_type == "Reshape"]


def test_a_shared_shape_gets_private_copies():
    proto = TOPOLOGIES["reshape_by_the_shape_of_an_equal"].build()
    coupling = analyse(proto)
    removed = np.zeros(coupling.size, dtype=bool)
    first, second = coupling.groups
    removed[first.components[:3]] = True
    one = apply(proto, plan_removal(coupling, removed, ""))
    arrays = {t.name: numpy_helper.to_array(t).tolist() for t in one.graph.initializer}
    assert [arrays[name] for name in shape_inputs(one)] == [[-1, 5, 36], [-1, 8, 36]]
    (shared,) = set(shape_inputs(proto))
    assert shared in shape_inputs(one)
    assert arrays[shared] == [-1, 8, 36]
    removed[second.components[:1]] = True
    both = apply(proto, plan_removal(coupling, removed, ""))
    arrays = {t.name: numpy_helper.to_array(t).tolist() for t in both.graph.initializer}
    assert [arrays[name] for name in shape_inputs(both)] == [[-1, 5, 36], [-1, 7, 36]]
    assert len(both.graph.initializer) == len(proto.graph.initializer) + 1


def test_a_shape_that_a_subgraph_reads_is_not_changed():
    proto = TOPOLOGIES["shape_used_in_a_subgraph"].build()
    coupling = analyse(proto)
    edited = apply(proto, plan_removal(coupling, every_second(coupling), ""))
    (shared,) = shape_inputs(proto)
    arrays = {t.name: numpy_helper.to_array(t).tolist() for t in edited.graph.initializer}
    assert arrays[shared] == [2, 8, 36]
    assert arrays[shape_inputs(edited)[0]] == [2, 4, 36]


# --- plans


# --- files


def external(folder: Path) -> Model:
    return saved(
        TOPOLOGIES["flatten[axis=1,batch=N]"].build(),
        folder,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


@pytest.mark.parametrize("nothing", [True, False])
def test_weights_outside_stay_outside(nothing, tmp_path):
    model = external(tmp_path)
    before = files(tmp_path)
    coupling = analyse(model.proto)
    removed = every_second(coupling) & (not nothing)
    edit = carry_out(model, coupling, removed, remove=True, device="cpu")
    edit.save(tmp_path / "out.onnx")
    after = files(tmp_path)
    assert after.keys() == before.keys() | {"out.onnx", "out.onnx.data"}
    assert {name: after[name] for name in before} == before
    found = load(tmp_path / "out.onnx")
    assert [file.name for file in found.external] == ["out.onnx.data"]
    for a, b in zip(edit.proto.graph.initializer, found.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_external_data_is_not_appended_to(tmp_path):
    model = external(tmp_path)
    for _ in range(2):
        save(model.proto, model, tmp_path / "out.onnx", force=True)
    size = sum(len(t.raw_data) for t in model.proto.graph.initializer)
    assert (tmp_path / "out.onnx.data").stat().st_size < size + 4096 * len(
        model.proto.graph.initializer
    )


def test_the_inputs_own_weights_are_not_overwritten(tmp_path):
    """The output's data file would be the input's."""
    proto = TOPOLOGIES["conv_chain[bias=True,opset=11]"].build()
    model = saved(
        proto, tmp_path, save_as_external_data=True, location="out.onnx.data", size_threshold=0
    )
    before = files(tmp_path)
    with pytest.raises(UsageError, match="overwrite the input"):
        save(model.proto, model, tmp_path / "out.onnx", force=True)
    assert files(tmp_path) == before


def test_output_equal_to_input(tmp_path):
    model = saved(rich(), tmp_path)
    (tmp_path / "link.onnx").symlink_to(model.path)
    (tmp_path / "folder").mkdir()
    for name in ("model.onnx", "folder/../model.onnx", "link.onnx"):
        with pytest.raises(UsageError, match="overwrite the input"):
            save(model.proto, model, tmp_path / name, force=True)


def test_output_that_exists(tmp_path):
    model = saved(rich(), tmp_path)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--force"):
        save(model.proto, model, out)
    assert out.read_bytes() == b"precious"
    save(model.proto, model, out, force=True)
    assert out.read_bytes() == model.path.read_bytes()


def test_any_output_name_will_do(tmp_path):
    """The ending does not choose another format."""
    model = saved(rich(), tmp_path)
    edited = onnx.ModelProto.FromString(model.proto.SerializeToString())
    save(edited, model, tmp_path / "out.json")
    assert load(tmp_path / "out.json").proto == model.proto


@pytest.mark.parametrize("name", ["missing/out.onnx", "folder"])
def test_output_that_can_not_be(name, tmp_path):
    model = saved(rich(), tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder"):
        save(model.proto, model, tmp_path / name, force=True)


def test_a_model_that_is_not_valid_leaves_nothing(tmp_path):
    model = saved(rich(), tmp_path)
    before = files(tmp_path)
    broken = onnx.ModelProto.FromString(model.proto.SerializeToString())
    broken.graph.initializer[0].dims[0] += 1
    with pytest.raises(ModelError, match="not valid"):
        save(broken, model, tmp_path / "out.onnx")
    assert files(tmp_path) == before


@pytest.mark.parametrize("outside", [True, False])
def test_an_interrupted_save_leaves_nothing(outside, tmp_path, monkeypatch):
    model = external(tmp_path) if outside else saved(rich(), tmp_path)
    before = files(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_module.onnx, "save", full)
    edited = onnx.ModelProto.FromString(model.proto.SerializeToString())
    with pytest.raises(UsageError, match="No space left"):
        save(edited, model, tmp_path / "out.onnx")
    assert files(tmp_path) == before


def test_a_pruned_file_says_float_where_it_was_float(tmp_path):
    """Weights kept as float_data come out once, not twice."""
    model = saved(rich(), tmp_path)
    coupling = analyse(model.proto)
    edited = apply(model.proto, plan_removal(coupling, every_second(coupling), ""))
    for tensor in edited.graph.initializer:
        assert not (tensor.float_data and tensor.raw_data)
        assert tensor.data_type == TensorProto.FLOAT


# --- inputs of odd lengths

LENGTHS = (-1, 0, None, "N")


def with_lengths(proto: onnx.ModelProto, *lengths: int | str | None) -> onnx.ModelProto:
    """The model with other lengths noted for its input; the batch for its output too."""
    noted = proto.graph.input[0].type.tensor_type.shape.dim
    outer = proto.graph.output[0].type.tensor_type.shape.dim[0]
    for dim, length in ((outer, lengths[0]), *zip(noted, lengths, strict=False)):
        dim.Clear()
        if isinstance(length, int):
            dim.dim_value = length
        elif length:
            dim.dim_param = length
    return proto


@pytest.mark.parametrize("batch", LENGTHS)
@pytest.mark.parametrize("name", ["residual_identity", "flatten[axis=1,batch=N]", "recurrent"])
def test_a_batch_of_odd_length_is_open(name, batch, tmp_path):
    name = "recurrent[kind=GRU,directions=2]" if name == "recurrent" else name
    model = saved(with_lengths(TOPOLOGIES[name].build(), batch), tmp_path)
    assert model.hash == load(model.path).hash
    edit = prune(model, sparsity=0.4, criterion="l2", device="cpu")
    edit.save(tmp_path / "out.onnx")
    assert edit.sparsity >= 0.4
    usual = saved(TOPOLOGIES[name].build(), tmp_path)
    assert analyse(model.proto).size == analyse(usual.proto).size
    again = load(tmp_path / "out.onnx").proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert again.dim_value == 0
    assert again.dim_param == ("N" if batch == "N" else "")


@pytest.mark.parametrize("batch", LENGTHS)
@pytest.mark.parametrize("side", LENGTHS)
def test_sides_of_odd_length_are_open(batch, side, tmp_path):
    model = saved(with_lengths(TOPOLOGIES["dense_block"].build(), batch, 3, side, side), tmp_path)
    edit = prune(model, sparsity=0.4, criterion="l2", device="cpu")
    edit.save(tmp_path / "out.onnx")
    assert edit.sparsity >= 0.4


@pytest.mark.parametrize("side", LENGTHS)
def test_weights_that_fit_one_length_only_hold_an_open_one(side, tmp_path):
    """Flattened, the map has as many elements as the weight asks for, but the file says not."""
    proto = with_lengths(TOPOLOGIES["flatten[axis=1,batch=N]"].build(), "N", 3, side)
    found = inspect(saved(proto, tmp_path))
    (held,) = (pinned for pinned in found.pinned if "only one open length" in pinned.why)
    assert held.where.startswith("Gemm ")
    assert held.tensors


def test_without_any_shape_all_is_held(tmp_path):
    proto = TOPOLOGIES["residual_identity"].build()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    found = inspect(saved(proto, tmp_path))
    assert not found.groups
    assert any("its shapes are unknown" in pinned.why for pinned in found.pinned)


@pytest.mark.parametrize("taken", ["output", "initializer"])
def test_a_new_constant_takes_no_name_that_is_there_already(taken: str):
    """Also where nothing reads what has it."""
    net = Net()
    x = net.stem(8)
    sizes = net.ints(4, 4)
    first, _ = net.ops("Split", x, sizes, outputs=2, axis=1)
    again = net.ops("Split", net.stem(8, x="x"), sizes, outputs=2, axis=1)
    proto = net.head(net.op("Concat", first, *again, axis=1), 12)
    split = next(node for node in proto.graph.node if first in node.output)
    if taken == "output":  # the second is read by nobody
        split.output[1] = f"{first}.1"
    else:
        other = numpy_helper.from_array(np.zeros(3, np.float32), f"{first}.1")
        proto.graph.initializer.append(other)
    coupling = analyse(proto)
    removed = np.ones(coupling.size, dtype=bool)
    for group in coupling.groups:
        removed[group.components[0]] = False
    edited = apply(proto, plan_removal(coupling, removed, "source"))
    onnx.checker.check_model(edited, full_check=True)
    equality(mask(coupling, removed), edited, coupling).require()
