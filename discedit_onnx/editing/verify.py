"""The proof of an edit: the edited model against the original with the same components masked."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..calibration.runner import open_session
from ..errors import DataError, GateError, ModelError, first_line
from ..graph.view import weight_tensors
from .plan import Bias, Plan, Update
from .rounding import without_rounding
from .surgery import apply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..graph.coupling import Coupling
    from ..graph.view import View

Feeds = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-4
"""Largest deviation, relative to the largest output."""
HALF_TOLERANCE = 2e-2
"""The same for models whose outputs or weights are half precision."""
UNKNOWN_LENGTH = 32
"""Length that random inputs get along unknown axes behind the batch."""


@dataclass(frozen=True)
class Equality:
    """How far two models' outputs lie apart.

    Attributes
    ----------
    deviation
        Largest absolute difference over the largest absolute value, over all outputs; NaN where
        nothing is proved, for all numbers that came are infinite or none.
    samples
        Inputs that were compared.
    tolerance
        What is allowed.
    origin
        Where the inputs came from: "images" or "random inputs".
    device
        Where both models ran.
    """

    deviation: float
    samples: int
    tolerance: float
    origin: str
    device: str

    def require(self) -> None:
        """Raise GateError if the models differ by more than is allowed, or nobody knows."""
        if math.isnan(self.deviation):
            raise GateError(
                "the edit is not proved equal to the masked original, and nothing was written: on "
                f"{self.samples} {self.origin} the model gives no finite number; give samples that "
                "it is made for, with --data"
            )
        if not self.deviation <= self.tolerance:
            raise GateError(
                f"the edited model differs from the masked original by {self.deviation:.1e} "
                f"(allowed {self.tolerance:.0e}); nothing was written. Please report this model"
            )


def reference(coupling: Coupling, removed: NDArray[np.bool_], plan: Plan) -> onnx.ModelProto:
    """What an edited model must equal: the original, masked, and with the plan's new values.

    Parameters
    ----------
    coupling
        Of the original.
    removed
        Shape (components,).
    plan
        What was done; only its new values are looked at.

    Returns
    -------
    onnx.ModelProto
        See `mask`. Constants keep their full size: what is kept of them has the new values.

    Raises
    ------
    DataError
        If the new values do not fit what is kept.
    """
    gone = removed if plan.cuts else np.zeros_like(removed)  # what is zeroed keeps its place
    updates = tuple(_full_update(coupling, gone, update) for update in plan.updates)
    biases = tuple(_full_bias(coupling, gone, bias) for bias in plan.biases)
    return apply(mask(coupling, removed), Plan(plan.source, updates=updates, biases=biases))


def _full_update(coupling: Coupling, removed: NDArray[np.bool_], update: Update) -> Update:
    """New values of a whole constant: the old ones where it was cut."""
    tensor = coupling.view.initializers.get(update.tensor)
    if tensor is None:
        raise DataError(f"new values for {update.tensor}, which is no constant of the model")
    full = numpy_helper.to_array(tensor).copy()
    kept = [np.arange(length) for length in full.shape]
    for block in coupling.blocks:
        if block.tensor == update.tensor:
            gone = coupling.gone(np.arange(block.start, block.stop), removed)
            kept[block.axis] = np.flatnonzero(~gone)
    if update.values.shape != tuple(map(len, kept)) or update.values.dtype != full.dtype:
        raise DataError(f"new values for {update.tensor} do not fit what is left of it")
    full[np.ix_(*kept)] = update.values
    return Update(update.tensor, full)


def _full_bias(coupling: Coupling, removed: NDArray[np.bool_], bias: Bias) -> Bias:
    """A bias for all outputs: 0 for those that were cut."""
    node = coupling.view.producer.get(bias.node)
    axis = 1 if node and node.op in ("Conv", "ConvTranspose") else -1
    kept = coupling.left(bias.node, axis, removed)
    if kept is None:
        return bias
    if bias.values.shape != (kept.sum(),):
        raise DataError(f"the bias for {bias.node} does not fit what is left of it")
    full = np.zeros(len(kept), bias.values.dtype)
    full[kept] = bias.values
    return Bias(bias.node, full)


def mask(coupling: Coupling, removed: NDArray[np.bool_]) -> onnx.ModelProto:
    """The original with components set to zero where something sums over them.

    Parameters
    ----------
    coupling
        Of the original.
    removed
        Shape (components,).

    Returns
    -------
    onnx.ModelProto
        A copy, with a multiplication before each consumer of a removed component.
    """
    masked = onnx.ModelProto()
    masked.CopyFrom(coupling.view.proto)
    before: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for contraction in coupling.contractions:
        gone = coupling.gone(contraction.ids, removed)
        if gone.any():
            node = masked.graph.node[contraction.node.index]
            name = node.input[contraction.input]
            keep = _along(~gone, contraction.axis, coupling.view, name)
            mask_name = f"{name}.mask.{contraction.node.index}.{contraction.input}"
            keep_type = coupling.view.element_type(name) or onnx.TensorProto.FLOAT
            masked.graph.initializer.append(
                helper.make_tensor(mask_name, keep_type, keep.shape, keep.reshape(-1))
            )
            product = helper.make_node("Mul", [name, mask_name], [mask_name + ".product"])
            node.input[contraction.input] = product.output[0]
            before[contraction.node.index].append(product)
    nodes = [n for i, node in enumerate(masked.graph.node) for n in (*before[i], node)]
    # Extending from itself would copy after clearing, so the nodes are taken out first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del masked.graph.node[:]
    masked.graph.node.extend(copies)
    return masked


def _along(keep: NDArray[np.bool_], axis: int, view: View, name: str) -> NDArray[np.float32]:
    """The mask of one axis, shaped to be multiplied with a tensor."""
    rank = view.rank(name) or axis + 1
    return keep.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(rank)])


def compare(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    feeds: Sequence[Feeds],
    device: str = "auto",
    origin: str = "images",
) -> Equality:
    """Run both models on the same inputs, without the rounding between quantised layers.

    Parameters
    ----------
    reference, candidate
        Models with the same inputs and outputs.
    feeds
        Batches, each a mapping of input name to array.
    device
        As in `calibrate`.
    origin
        What the feeds are, for the record.

    Raises
    ------
    ModelError
        If the reference does not load or run.
    GateError
        If it does, and the candidate does not.
    """
    a = open_session(without_rounding(reference), device, as_written=True)
    with _blamed_on_the_edit():
        b = open_session(without_rounding(candidate), device, as_written=True)
    names = [output.name for output in reference.graph.output]
    deviation, samples = 0.0, 0
    finite = []
    for feed in feeds:
        expected = a.run(names, feed)
        with _blamed_on_the_edit():
            found = b.run(names, feed)
        for x, y in zip(expected, found, strict=True):
            deviation = max(deviation, _deviation(x, y))
            finite += [_any_finite(part) for part in _arrays(x) if part.size]
        samples += max((len(values) for values in feed.values() if values.ndim), default=1)
    if not deviation and finite and not any(finite):
        deviation = math.nan  # such outputs are equal whatever was edited
    tolerance = HALF_TOLERANCE if _is_half(reference) else TOLERANCE
    return Equality(deviation, samples, tolerance, origin, a.device)


@contextlib.contextmanager
def _blamed_on_the_edit() -> Iterator[None]:
    """What the original does and the edited model does not is no fault of the user's."""
    try:
        yield
    except ModelError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise GateError(
            "the edited model does not run, though the original does; nothing was written. Please "
            f"report this model: {first_line(cause)}"
        ) from error


def _arrays(output: Any) -> Iterator[NDArray[Any]]:
    """What an output holds: an array, a sequence of them, or a map of numbers."""
    if isinstance(output, list):
        for part in output:
            yield from _arrays(part)
    else:
        yield np.array([*output.values()]) if isinstance(output, dict) else output


def _any_finite(values: NDArray[Any]) -> bool:
    return values.dtype.kind not in "fc" or bool(np.isfinite(values).any())


def _deviation(x: Any, y: Any) -> float:
    """Largest difference, relative to the largest value; of sequences and maps part by part."""
    if isinstance(x, dict):
        same = x.keys() == y.keys()
        return _deviation(*(np.array([*v.values()]) for v in (x, y))) if same else float("inf")
    if isinstance(x, list):
        parts = map(_deviation, x, y)
        return max(parts, default=0.0) if len(x) == len(y) else float("inf")
    if x.shape != y.shape:
        return float("inf")
    if x.dtype.kind not in "fc":
        return 0.0 if np.array_equal(x, y) else float("inf")
    equal = np.isnan(x) & np.isnan(y) | (x == y)
    with np.errstate(invalid="ignore"):  # of infinity from infinity
        difference = np.where(equal, 0.0, x.astype(np.float64) - y)
    # What is no number on one side alone must not get lost: no comparison with it is true.
    difference = np.where(np.isnan(difference), np.inf, difference)
    largest = float(np.abs(np.where(np.isfinite(x), x, 0)).max(initial=0))
    worst = float(np.abs(difference).max(initial=0))
    return worst / max(largest, float(np.finfo(np.float32).tiny))


def _is_half(proto: onnx.ModelProto) -> bool:
    """Whether a weight or an output is narrower than float32."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    outputs = [value.type.tensor_type.elem_type for value in proto.graph.output]
    weights = [tensor.data_type for tensor in weight_tensors(proto).values()]
    return not {*outputs, *weights}.isdisjoint(halves)


def random_feeds(view: View, seed: int = 0, batch: int = 4) -> list[dict[str, NDArray[Any]]]:
    """One batch of random inputs: standard normal, or zero and one for integers.

    Parameters
    ----------
    view
        Of the model.
    seed
        Of the generator.
    batch
        Length of a first axis that is unknown.
    """
    generator = np.random.default_rng(seed)
    feed = {}
    for name in view.inputs:
        known = view.shapes.get(name, ())
        shape = [
            length or (batch if axis == 0 else UNKNOWN_LENGTH) for axis, length in enumerate(known)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(view.element_type(name))
        values = generator.standard_normal(shape)
        feed[name] = np.asarray(values if dtype.kind == "f" else values > 0, dtype)
    return [feed]
