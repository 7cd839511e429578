"""Walks through a model: the same values as a run of all of it, wherever they have got to."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from topologies import TOPOLOGIES

from discedit_onnx.editing.refit import stages
from discedit_onnx.editing.refit.stages import Walk
from discedit_onnx.editing.verify import random_feeds
from discedit_onnx.graph.view import View

NAMES = ("residual_identity", "dense_block", "conv_chain[bias=True,opset=11]", "unet")


def whole(proto, feeds, names):
    """These tensors, by one session that gives all of them."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(names, feeds)


@pytest.mark.parametrize("limit", [0, 3000, 1 << 30])
@pytest.mark.parametrize("name", [n for n in TOPOLOGIES if n.startswith(NAMES)])
def test_a_walk_gives_what_a_run_gives(name, limit, monkeypatch):
    monkeypatch.setattr(stages, "MOST_HELD", limit)
    proto = TOPOLOGIES[name].build()
    view = View(proto)
    batches = [random_feeds(view, seed, rows)[0] for seed, rows in enumerate((4, 4, 3))]
    walk = Walk(view, batches, "cpu")
    for node in view.nodes:
        walk.advance(proto, node.index)
        later = [n for other in view.nodes[node.index :] for n in other.outputs if n]
        names = list(dict.fromkeys([later[0], *view.outputs]))
        for feeds, found in zip(batches, walk.run(proto, names), strict=True):
            for value, wanted in zip(found, whole(proto, feeds, names), strict=True):
                np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_what_is_held_counts_as_a_whole_and_is_its_own(limit, monkeypatch):
    """An array in a session's memory would keep all of it."""
    monkeypatch.setattr(stages, "MOST_HELD", limit)
    proto = TOPOLOGIES["residual_identity"].build()
    view = View(proto)
    walk = Walk(view, [random_feeds(view, seed, 4)[0] for seed in range(3)], "cpu")
    names = {name for node in view.nodes for name in node.outputs}
    for node in view.nodes:
        walk.advance(proto, node.index)
        new = [part for held in walk._held for name, part in held.items() if name in names]
        assert all(part.flags.owndata for part in new)
        assert sum(part.nbytes for part in new) <= limit


def test_an_output_that_came_early_is_still_there():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "ab"],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    view = View(proto)
    x = np.array([[1, -2]], np.float32)
    walk = Walk(view, [{"x": x}], "cpu")
    for node in (1, 2):
        walk.advance(proto, node)
        ((a, b),) = walk.run(proto, ["a", "b"])
        np.testing.assert_array_equal(a, np.maximum(x, 0))
        np.testing.assert_array_equal(b, -x)
