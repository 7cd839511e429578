"""Comparing quantised models: what is rounded between layers does not blur the comparison."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from test_topologies import run
from topologies import TOPOLOGIES

from discedit_onnx.editing.rounding import without_rounding
from discedit_onnx.graph.cost import count_parameters
from discedit_onnx.graph.coupling import analyse


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_a_model_that_rounds_nothing_stays_itself():
    model = TOPOLOGIES["residual_identity"].build()
    assert without_rounding(model) is model


def test_rounding_goes_and_the_rest_stays():
    model = TOPOLOGIES["quantised_on_both_sides[per_axis=True]"].build()
    before = model.SerializeToString()
    plain = without_rounding(model)
    assert model.SerializeToString() == before
    assert "QuantizeLinear" in kinds(model)
    assert "QuantizeLinear" not in kinds(plain)
    assert "DequantizeLinear" in kinds(plain)  # of the weights
    onnx.checker.check_model(plain, full_check=True)
    coupling = analyse(model)
    (rounded,), (exact,) = run(model, coupling), run(plain, coupling)
    np.testing.assert_allclose(rounded, exact, atol=0.2)
    assert not np.array_equal(rounded, exact)


def test_integers_that_someone_else_reads_stay():
    model = TOPOLOGIES["quantised_on_both_sides[per_axis=True]"].build()
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    shape = ["N", 8, 6, 6]
    model.graph.output.append(
        helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, shape)
    )
    plain = without_rounding(model)
    assert [n.output[0] for n in plain.graph.node if n.op_type == "QuantizeLinear"] == [
        node.output[0]
    ]
    onnx.checker.check_model(plain, full_check=True)


def test_integers_that_stand_for_numbers_are_parameters():
    model = TOPOLOGIES["quantised_weights[per_axis=True,shift=0]"].build()
    weights = 8 * 3 * 9 + 2 * 8 * 8 * 9 + 5 * 8
    biases, scales = 3 * 8 + 5, 3 * 8 + 5
    assert count_parameters(model) == weights + biases + scales


def test_what_was_said_of_integers_is_not_said_of_numbers():
    """As shape inference writes it: ONNX Runtime refuses a type that is not so."""
    name = "quantised_on_both_sides[per_axis=True]"
    model = onnx.shape_inference.infer_shapes(TOPOLOGIES[name].build())
    said = {info.name for info in model.graph.value_info}
    rounded = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert rounded & said
    plain = without_rounding(model)
    assert {info.name for info in plain.graph.value_info} == said - rounded
    onnx.checker.check_model(plain, full_check=True)
    run(plain, analyse(TOPOLOGIES[name].build()))
