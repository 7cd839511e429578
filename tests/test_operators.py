"""The registry of rules against onnx: every operator is handled, or pinned on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from test_topologies import all_removable, equality, prune
from topologies import TOPOLOGIES
from topologies.fused import normalised_before_there_was_an_operator

from discedit_onnx.editing.verify import mask, random_feeds
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.graph.fused import DOMAIN
from discedit_onnx.graph.rules import find_barrier, find_rule, known_operators
from discedit_onnx.graph.shapes import CLASSICAL
from discedit_onnx.inspection import inspect
from discedit_onnx.model import Model

NEWEST = onnx.defs.onnx_opset_version()
OLDEST = 7
SCHEMAS = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
CURRENT = sorted({s.name for s in SCHEMAS})


def opsets(name: str) -> list[int]:
    """The opsets from 7 on in which there is an operator."""
    return [v for v in range(OLDEST, NEWEST + 1) if onnx.defs.has(name, v, "")]


@pytest.mark.parametrize("name", CURRENT)
def test_every_operator_is_handled_or_pinned_on_purpose(name: str):
    barrier = find_barrier(name, "")
    for opset in opsets(name):
        deprecated = onnx.defs.get_schema(name, opset, "").deprecated
        assert deprecated or barrier or find_rule(name, "", opset), f"opset {opset}"


def test_no_operator_is_both():
    names = [(operator.domain, operator.name) for operator in known_operators()]
    assert len(names) == len(set(names))


def test_every_operator_of_the_registry_is_known_to_onnx():
    # ONNX Runtime's optimiser writes one into the default domain that onnx does not have there.
    ours = {operator.name for operator in known_operators() if not operator.domain}
    assert ours - set(CURRENT) == {"SimplifiedLayerNormalization"}
    assert {operator.domain for operator in known_operators()} == {"", DOMAIN, CLASSICAL}
    classical = {s.name for s in onnx.defs.get_all_schemas() if s.domain == CLASSICAL}
    assert {o.name for o in known_operators() if o.domain == CLASSICAL} <= classical


def test_reasons_are_phrases():
    for operator in known_operators():
        assert not operator.barrier or operator.barrier[0].islower(), operator
        assert not operator.barrier.endswith("."), operator


def test_what_fused_operators_are_handled():
    ours = {operator.name for operator in known_operators() if operator.domain == DOMAIN}
    assert ours >= {
        "Attention", "BiasGelu", "FastGelu", "FusedConv", "FusedMatMul", "Gelu",
        "LayerNormalization", "MultiHeadAttention", "QuickGelu", "SkipLayerNormalization",
    }  # fmt: skip


def test_every_known_operator_of_ours_is_listed(run):
    result = run("inspect", "--operators")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    for operator in known_operators():
        assert operator.barrier in lines[operator.label]
    assert "MatMul" in lines
    assert "normalises over neighbouring channels" in lines["LRN"]
    found = json.loads(run("inspect", "--operators", "--json").stdout)["operators"]
    assert {"domain": "", "name": "Conv", "barrier": ""} in found
    assert {"domain": DOMAIN, "name": "FusedConv", "barrier": ""} in found
    assert len(found) == len(known_operators())


@pytest.mark.parametrize("arguments", [(), ("model.onnx", "--operators")])
def test_operators_stand_alone(run, arguments):
    result = run("inspect", *arguments)
    assert result.exit_code == 2
    assert "MODEL, or --operators" in result.stderr


def test_what_is_pinned_on_purpose_says_why():
    node = helper.make_node("NonZero", ["y"], ["z"])
    model = _around(node, onnx.TensorProto.INT64, [2, "M"])
    (pin,) = (p for p in inspect(Model(model, Path("m.onnx"))).pinned if "NonZero" in p.where)
    assert pin.why == "gives positions counted over all axes"


def _around(node: onnx.NodeProto, element: int, shape: list[int | str]) -> onnx.ModelProto:
    """A Gemm with its activation in front of a node that reads `y` and makes `z`."""
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["g"], transB=1),
            helper.make_node("Relu", ["g"], ["y"]),
            node,
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("z", element, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_operator_of_the_default_domain_without_a_schema():
    """ONNX Runtime writes it; neurons behind it can be cut, and its width can't."""
    random = np.random.default_rng(0)
    shapes = {"scale": (4,), "w": (4, 10), "v": (10, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("SimplifiedLayerNormalization", ["x", "scale"], ["n"], axis=-1),
            helper.make_node("MatMul", ["n", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    coupling = analyse(helper.make_model(graph, opset_imports=opset, ir_version=8))
    assert [len(group.components) for group in coupling.groups] == [10]
    removed = all_removable(coupling)
    equality(mask(coupling, removed), prune(coupling, removed), coupling).require()


def test_an_operator_before_the_opset_that_has_it():
    """ONNX Runtime writes it; what lies before and behind it can be cut."""
    coupling = analyse(normalised_before_there_was_an_operator())
    assert [len(group.components) for group in coupling.groups] == [10, 12]
    removed = all_removable(coupling)
    equality(mask(coupling, removed), prune(coupling, removed), coupling).require()


def test_a_recurrence_with_the_batch_first():
    """ONNX Runtime refuses this layout; the reference does not."""
    coupling = analyse(TOPOLOGIES["recurrent_batch_first"].build())
    (feed,) = random_feeds(coupling.view)
    removed = all_removable(coupling)
    removed[coupling.groups[0].components[1::3]] = False
    masked, pruned = (
        ReferenceEvaluator(model).run(None, feed)
        for model in (mask(coupling, removed), prune(coupling, removed))
    )
    np.testing.assert_allclose(masked[0], pruned[0], rtol=1e-5)
    whole = ReferenceEvaluator(coupling.view.proto).run(None, feed)
    assert np.abs(whole[0] - pruned[0]).max() > 0.01
