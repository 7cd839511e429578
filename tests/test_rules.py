"""Rules against index tracing: removing what a rule calls one component commutes with the node."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from discedit_onnx.editing.plan import Rewrite
from discedit_onnx.editing.surgery import _rewrite_all
from discedit_onnx.graph.axes import Equations, Extent
from discedit_onnx.graph.coupling import _labels
from discedit_onnx.graph.rules import find_rule
from discedit_onnx.graph.rules.shape import _match
from discedit_onnx.graph.scope import Scope, Unsupported
from discedit_onnx.graph.shapes import BATCHES
from discedit_onnx.graph.view import View

LENGTHS = st.sampled_from([1, 1, 2, 2, 3, 4, 6])


@st.composite
def factorisation(draw: st.DrawFn, product: int) -> tuple[int, ...]:
    """Lengths with a given product, ones among them."""
    lengths = []
    while product > 1 and len(lengths) < 4:
        length = draw(st.sampled_from([d for d in range(1, product + 1) if product % d == 0]))
        lengths.append(length)
        product //= length
    lengths.append(product)
    return tuple(draw(st.permutations(lengths)))


def shapes(most: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(LENGTHS, min_size=1, max_size=most).map(tuple)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int], bool]:
    """A shape, a target with zeros and -1 in it, and whether the first axis is the open batch."""
    before = draw(shapes())
    after = draw(factorisation(math.prod(before)))
    target = list(after)
    for axis, length in enumerate(before[: len(after)]):
        if after[axis] == length and draw(st.booleans()):
            target[axis] = 0
    if draw(st.booleans()):
        target[draw(st.integers(0, len(after) - 1))] = -1
    return before, target, draw(st.booleans())


class Tracing:
    """One node between an input whose axes carry components, as if a convolution had made it."""

    def __init__(self, node, shape, constants=(), carrying=(), opset=18, outputs=1):
        names = [f"y{i}" for i in range(outputs)]
        self.node = helper.make_node(node.op_type, node.input, names)
        self.node.attribute.extend(node.attribute)
        self.constants = {name: np.asarray(value) for name, value in constants}
        self.graph = helper.make_graph(
            [self.node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.INT64, shape)],
            [helper.make_empty_tensor_value_info(name) for name in names],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        self.opset = opset
        self.view = View(self.model(self.node, self.constants))
        self.equations = Equations(self.view)
        self.input = [
            self.equations.fresh(length) if axis in carrying else None
            for axis, length in enumerate(shape)
        ]
        self.equations.axes["x"] = list(self.input)
        scope = Scope(self.equations, self.view.nodes[0])
        try:
            find_rule(node.op_type, "", opset)(scope)
        except Unsupported as reason:
            self.equations.give_up(self.view.nodes[0], str(reason))
            self.gave_up = True
        else:
            scope.finish()
            self.gave_up = False

    def model(self, node, constants):
        graph = helper.make_graph(
            [node],
            "g",
            self.graph.input,
            self.graph.output,
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )

    def rewritten(self, gone: np.ndarray):
        """The model with its extents brought up to date."""
        model = self.model(self.node, self.constants)
        rewrites = []
        for extent in self.equations.extents:
            assert isinstance(extent, Extent)
            read = [count.ids for count in extent.counts]
            read += [] if extent.depends is None else [extent.depends]
            if not any(gone[ids].any() for ids in read):
                continue  # what is written in the model stays
            values = extent.base.copy().reshape(-1)
            for count in extent.counts:
                values[count.element] = int((~gone[count.ids]).sum()) // count.unit
            name, numbers = self.node.output[0], tuple(values.tolist())
            rewrites.append(Rewrite(name, extent.place, numbers, values.shape, "int64"))
        _rewrite_all(model, tuple(rewrites))
        return model

    def check(self, batch: int | None = None) -> int:
        """Remove each free component; how many there are."""
        labels = _labels(self.equations)
        pinned = {label for pin in self.equations.pins for label in labels[pin.ids]}
        free = sorted({*labels.tolist()} - pinned)
        shape = [d.dim_value or batch for d in self.graph.input[0].type.tensor_type.shape.dim]
        x = np.arange(math.prod(shape)).reshape(shape)
        whole = ReferenceEvaluator(self.model(self.node, self.constants)).run(None, {"x": x})
        for label in free:
            gone = labels == label
            cut = x
            for axis, ids in enumerate(self.input):
                if ids is not None:
                    cut = np.delete(cut, np.flatnonzero(gone[ids]), axis)
            if not cut.size or any(gone[ids].all() for ids in self.equations.parts):
                continue  # the last one of an axis never goes
            parts = ReferenceEvaluator(self.rewritten(gone)).run(None, {"x": cut})
            for name, expected, found in zip(self.node.output, whole, parts, strict=True):
                for axis, ids in enumerate(self.equations.axes[name]):
                    if ids is not None:
                        expected = np.delete(expected, np.flatnonzero(gone[ids]), axis)
                np.testing.assert_array_equal(found, expected)
        return len(free)


@settings(max_examples=250)
@given(reshapes(), st.data())
def test_reshape(case, data):
    shape, target, open_batch = case
    batch, declared = None, list(shape)
    if open_batch:
        batch, declared[0] = BATCHES[0], "N"  # merged with others, it counts as this
        whole = [batch, *shape[1:]]
        lengths = [whole[axis] if n == 0 else n for axis, n in enumerate(target)]
        known = math.prod(n for n in lengths if n > 0)
        assume(math.prod(whole) % known == 0 and (-1 in lengths or known == math.prod(whole)))
    carrying = data.draw(st.sets(st.integers(int(open_batch), len(shape)), max_size=2))
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    try:
        tracing = Tracing(node, declared, [("shape", np.array(target))], carrying)
    except Exception as error:  # a target that shape inference refuses
        assume("Inference" not in type(error).__name__)
        raise
    tracing.check(batch)


@settings(max_examples=60)
@given(shapes(), st.data())
def test_flatten(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape)))
    carrying = data.draw(st.sets(st.integers(0, len(shape) - 1), max_size=2))
    node = helper.make_node("Flatten", ["x"], ["y"], axis=axis)
    Tracing(node, shape, carrying=carrying).check()


@settings(max_examples=60)
@given(shapes(), st.data())
def test_transpose(shape, data):
    attributes = {}
    if data.draw(st.booleans()):
        attributes["perm"] = data.draw(st.permutations(range(len(shape))))
    node = helper.make_node("Transpose", ["x"], ["y"], **attributes)
    wide = {axis for axis, length in enumerate(shape) if length > 1}
    found = Tracing(node, shape, carrying=wide).check()
    assert found == sum(shape[axis] for axis in wide)


@settings(max_examples=100)
@given(shapes(), st.data())
def test_squeeze(shape, data):
    single = [axis for axis, length in enumerate(shape) if length == 1]
    constants, inputs = [], ["x"]
    if data.draw(st.booleans()):
        given_axes = data.draw(st.lists(st.sampled_from(single or [0]), unique=True))
        assume(single and given_axes)
        constants, inputs = [("axes", np.array(given_axes))], ["x", "axes"]
    carrying = data.draw(st.sets(st.integers(0, len(shape) - 1), max_size=3))
    Tracing(helper.make_node("Squeeze", inputs, ["y"]), shape, constants, carrying).check()


@settings(max_examples=60)
@given(shapes(3), st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True))
def test_unsqueeze(shape, axes):
    assume(max(axes) < len(shape) + len(axes))
    node = helper.make_node("Unsqueeze", ["x", "axes"], ["y"])
    wide = set(range(len(shape)))
    Tracing(node, shape, [("axes", np.array(axes))], wide).check()


@settings(max_examples=60)
@given(shapes(), st.data())
def test_split(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    assume(shape[axis] > 1)
    cuts = data.draw(st.sets(st.integers(1, shape[axis] - 1), min_size=1, max_size=3))
    sizes = [b - a for a, b in pairwise([0, *sorted(cuts), shape[axis]])]
    node = helper.make_node(
        "Split", ["x", "sizes"], ["y"], axis=axis - data.draw(st.sampled_from([0, len(shape)]))
    )
    tracing = Tracing(
        node, shape, [("sizes", np.array(sizes))], {axis}, opset=13, outputs=len(sizes)
    )
    tracing.check()
    assert [len(part) for part in tracing.equations.parts] == sizes


@settings(max_examples=40)
@given(shapes(3), st.integers(1, 4))
def test_split_into_a_number_of_parts(shape, number):
    assume(-(-shape[0] // number) * (number - 1) < shape[0])  # else the last part is empty
    node = helper.make_node("Split", ["x"], ["y"], axis=0, num_outputs=number)
    assert Tracing(node, shape, carrying={0}, outputs=number).check()


@settings(max_examples=300)
@given(st.integers(2, 9), st.data())
def test_slice_with_a_step(length, data):
    bounds = st.one_of(st.integers(-length - 2, length + 2), st.sampled_from([2**31 - 1, -(2**31)]))
    start, end = data.draw(bounds), data.draw(bounds)
    step = data.draw(st.sampled_from([1, 2, 3, 4, -1, -2]))
    taken = range(length)[start:end:step]
    assume(len(taken))
    node = helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])
    numbers = {"start": start, "end": end, "axis": 1, "step": step}
    constants = [(name, np.array([value])) for name, value in numbers.items()]
    tracing = Tracing(node, (2, length), constants, carrying={1})
    free = tracing.check()
    if step > 0:
        # What is passed over goes with what is taken; the rest is free.
        tied = length - (taken[0] if taken[0] >= step else 0)
        assert free == length - min(tied, len(taken) * step) + len(taken)
    elif len(taken) == length:
        assert free == length


@settings(max_examples=100)
@given(st.integers(2, 9), st.data())
def test_slice_by_attributes(length, data):
    bounds = st.integers(-length - 2, length + 2)
    start, end = data.draw(bounds), data.draw(bounds)
    assume(range(length)[start:end])
    node = helper.make_node("Slice", ["x"], ["y"], starts=[start], ends=[end], axes=[1])
    assert Tracing(node, (2, length), carrying={1}, opset=9).check() == length


# --- the matching of axes itself


@settings(max_examples=300)
@given(st.data())
def test_matched_runs_hold_the_same_elements(data):
    before = data.draw(shapes(5))
    after = data.draw(factorisation(math.prod(before)))
    pairs = _match(before, after)
    assert [axis for run, _ in pairs for axis in run] == list(range(len(before)))
    assert [axis for _, run in pairs for axis in run] == list(range(len(after)))
    for run, into in pairs:
        assert math.prod(before[a] for a in run) == math.prod(after[a] for a in into)
        # No shorter beginning of both matches, or it would be a run of its own.
        wide = [before[a] for a in run if before[a] > 1]
        other = [after[a] for a in into if after[a] > 1]
        inner = set(np.cumprod(wide)[:-1]) & set(np.cumprod(other)[:-1])
        assert not inner


def test_shapes_that_do_not_fit_are_refused():
    for shape, out in (((2, 4), (2, 5)), ((3,), (2,)), ((), (2,))):
        with pytest.raises(Unsupported):
            _match(shape, out)
