"""The head: the layer that makes the logits, and how a class is taken out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...calibration.classifier import FLOATS
from ...errors import DataError, ModelError
from ...graph.view import SCALES
from ..refit.layers import LINEAR, exact_layers, find_layers, is_plain
from .discriminant import discriminant
from .maps import LayerEdit, bias_of, matrix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...graph.view import Node, View
    from ..refit.layers import Layer

PASSED = frozenset(
    ("Cast", "Dropout", "Flatten", "GlobalAveragePool", "Identity", "LogSoftmax", "ReduceMean",
     "Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Tanh")
)  # fmt: skip
"""Operators between the logits and the output that keep their order."""
POOLS, CONVEX, BENT = ("GlobalAveragePool", "ReduceMean"), ("Relu",), ("Sigmoid", "Tanh")
"""Means over places; what may lie in front of them only, for it makes many scores equal; and what
may not: a logit that is the mean of the others at each place stays below the largest of their means
behind a convex function, but not behind these."""
SHARES = ("LogSoftmax", "Softmax")
"""Those that keep the order of the classes if they run over them."""
SCALED = ("Add", "Div", "Mul", "Sub")
"""Those that do with a single number, as a temperature is."""

MARGIN = 1e4
"""How far a suppressed logit lies below the mean of the others; float16 still holds it."""
SLACK = 1e-9
"""Ridge of the direction that is taken out, relative to the spread of the rows."""
RANK = 1e-6
"""Directions of a head's columns that are so much smaller than the largest are rounding."""


def find_head(view: View, output: str, classes: int) -> Layer:
    """The layer that makes the logits.

    Parameters
    ----------
    view
        Of the model.
    output
        The output with the class scores.
    classes
        Its columns.

    Raises
    ------
    ModelError
        If no linear layer with constant weights of its own makes them.
    """
    made = {layer.output: layer for layer in exact_layers(view)}
    name, pooled, shares = output, False, []
    while name not in made:
        node = view.producer.get(name)
        before = None if node is None else _in_order(view, node)
        pooled |= node is not None and node.op in POOLS
        barred = BENT if pooled else CONVEX
        if pooled and node is not None and node.op in SHARES:
            shares.append(node)
        if before is None or (node is not None and node.op in barred):
            raise ModelError(
                f"no head: {output!r} does not come from a linear layer with weights of its own: "
                f"{_said(view, name, node)}"
            )
        name = before
    head = made[name]
    if head.groups != 1 or matrix_of(view, head).shape[1] != classes:
        raise ModelError(f"no head: {head.node!r} does not make one logit for each class")
    for node in shares:
        if not _over_classes(view, node, head):
            raise ModelError(
                f"no head: the {node.op} that makes {node.outputs[0]!r} runs over places, not over "
                "classes, before their mean is taken; export the model without it"
            )
    return head


def scores_of(view: View, output: str, head: Layer) -> str:
    """The tensor with one number for each class that scores can be read off.

    That is the last mean over places: what lies behind it keeps the order of the numbers, but may
    round several to the same one. It is what the head gives where there is none.
    """
    name: str | None = output
    while name is not None and name != head.output:
        node = view.producer[name]
        if node.op in POOLS:
            return name
        name = _in_order(view, node)
    return head.output


def _over_classes(view: View, node: Node, head: Layer) -> bool:
    """Whether a softmax between the head and a mean over places is one of the classes."""
    shape = view.shapes.get(node.inputs[0])
    if shape is None or view.shapes.get(head.output) != shape:
        return False
    old, last = view.opsets.get("", 1) < 13, len(shape) - 1
    axis = int(node.attributes.get("axis", 1 if old else -1)) % len(shape)
    return axis == head.channel_axis % len(shape) and (axis == last or not old)


def _in_order(view: View, node: Node) -> str | None:
    """What a node takes, if it keeps the order of those numbers: one scale or shift does."""
    if node.domain:
        return None
    if node.op in PASSED:
        return node.inputs[0]
    taken = [name for name in node.inputs if name in view.varying]
    if node.op not in SCALED or len(taken) != 1 or len(node.inputs) != 2:
        return None
    place = node.inputs.index(taken[0])
    other = view.constant(node.inputs[1 - place])
    if other is None or other.size != 1 or (place and node.op in ("Div", "Sub")):
        return None
    return taken[0] if node.op in ("Add", "Sub") or other.item() > 0 else None


def _said(view: View, name: str, node: Node | None) -> str:
    """Why the search for the head ends at a tensor, and what to do."""
    while node is not None and node.op in SCALES:
        name = node.inputs[0]
        node = view.producer.get(name)
    if node is None:
        return f"{name!r} is an input; export the model with its last layer"
    if name in {layer.output for layer in find_layers(view)}:
        return (
            f"those of {name!r} are quantised, or kept in another type; make the original model "
            "forget, and quantise the result"
        )
    if node.op == "Gemm" and not is_plain(node):
        return (
            f"the Gemm that makes {name!r} scales or turns what it is given; fold its alpha, beta "
            "and transA into its constants first"
        )
    if node.op in LINEAR and not node.domain:
        return (
            f"those of {name!r} are shared, or computed in the graph; simplify the model first, "
            "with onnxsim or onnxslim"
        )
    return f"{name!r} is made by {node.op}; export the model without what follows its last layer"


def require_alone(view: View, head: Layer, classes: int) -> None:
    """Refuse a model with another output that tells the same classes, and would go on doing so.

    Parameters
    ----------
    view
        Of the model.
    head
        Makes the logits.
    classes
        How many they are.

    Raises
    ------
    ModelError
        If an output that has a number for each class does not come from the head.
    """
    for name in sorted(set(view.outputs) - set(outputs_behind(view, head))):
        lengths = [n for n in (view.shapes.get(name) or ())[1:] if n != 1]
        if lengths == [classes] and view.element_type(name) in FLOATS:
            raise ModelError(
                f"output {name!r} has a number for each class too, and would go on telling the "
                f"class: only {head.output!r} is edited; export the model with one of them"
            )


def outputs_behind(view: View, head: Layer) -> list[str]:
    """The model's outputs that come from the logits."""
    behind = {head.output}
    for node in view.nodes:
        if not behind.isdisjoint((*node.inputs, *node.captured)):
            behind.update(node.outputs)
    return [name for name in view.outputs if name in behind]


def suppressed(view: View, head: Layer, forgotten: Sequence[int]) -> LayerEdit:
    """Level output: a class's logit becomes the mean of the retained ones, less a margin.

    A mean is never above the largest, so the class can't win, on any input; and its row holds
    nothing that tells it from others. The retained logits stay as they are. (Behind a Relu all of
    them may be 0, and so is the class then: the first of them is the answer.)
    """
    classes = matrix_of(view, head).shape[1]
    retained = np.setdiff1d(np.arange(classes), forgotten)
    gone = np.array(forgotten)
    after = np.eye(classes)
    after[:, gone] = 0
    after[np.ix_(retained, gone)] = 1 / len(retained)
    shift = np.zeros(classes)
    shift[gone] = -MARGIN
    return LayerEdit(head, None, after, shift)


def projected(view: View, head: Layer, forgotten: Sequence[int]) -> LayerEdit:
    """Level head: what the head reads of a class is projected out of its input.

    With w_k the head's rows and w the mean of the retained ones, the projection is
    ``x - U V' x`` with V the rows w_c - w and V'U = 1. Whatever U is, the class's logit is then the
    mean of the retained ones: it can't win; less a margin where one is retained only, for it would
    be level with that. U is the one that disturbs the differences between
    retained logits least, not at all where they are independent of V (they are if there are
    fewer classes than features).
    """
    matrix = matrix_of(view, head)
    bias = bias_of(view, head, matrix.shape[1])
    retained = np.setdiff1d(np.arange(matrix.shape[1]), forgotten)
    mean = matrix[:, retained].mean(axis=1, keepdims=True)
    differences = matrix[:, retained] - mean
    read = matrix[:, list(forgotten)] - mean
    gram = differences @ differences.T
    tiny = float(np.finfo(np.float32).tiny)
    slack = SLACK * max(np.trace(gram), float((read**2).sum()), tiny)
    write = np.linalg.solve(gram + slack * np.eye(len(gram)), read)
    write = write @ np.linalg.pinv(read.T @ write)
    shift = np.zeros(matrix.shape[1])
    gone = list(forgotten)
    shift[gone] = bias[retained].mean() - bias[gone] - _margin(retained)
    return LayerEdit(head, np.eye(len(matrix)) - read @ write.T, None, shift)


def refitted(
    view: View,
    head: Layer,
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    forgotten: Sequence[int],
) -> LayerEdit:
    """A new head: linear discriminant analysis of the retained classes, on edited features.

    Class means and one covariance within classes, equal priors (Fisher). One scale and one shift
    for all bring its logits to mean and spread of the old ones: their own would make each sigmoid
    behind them round to 1. A forgotten class gets the mean of the others' logits, as in
    `projected`.

    Parameters
    ----------
    view, head
        Of the original.
    features
        What the head reads in the edited network, (N, C).
    labels
        Classes of these images, (N,); images of forgotten classes are not looked at.
    forgotten
        Columns of the head.

    Raises
    ------
    DataError
        If a retained class has no images, there are more classes than features, or the old head's
        columns depend on one another too much.
    """
    matrix = matrix_of(view, head)
    size, classes = matrix.shape
    retained = np.setdiff1d(np.arange(classes), forgotten)
    missing = np.setdiff1d(retained, labels)
    if len(missing) or size < classes:
        what = (
            f"no images of {len(missing)} classes" if len(missing) else "more classes than features"
        )
        raise DataError(f"the head can't be refitted: {what}; leave out --refit-head")
    inside = np.isin(labels, retained)
    fit = discriminant(features[inside], labels[inside])
    weights = fit.matrix - fit.matrix.mean(axis=1, keepdims=True)  # the old columns may sum to 0
    old = bias_of(view, head, classes)
    seen, wanted = features[inside] @ weights + fit.offset, features[inside] @ matrix + old
    scale = wanted[:, retained].std() / max(seen.std(), np.finfo(float).tiny)
    weights = scale * weights
    offset = scale * (fit.offset - seen.mean()) + wanted[:, retained].mean()
    new, bias = np.empty_like(matrix), np.empty(classes)
    new[:, retained], bias[retained] = weights, offset
    gone = list(forgotten)
    new[:, gone] = weights.mean(axis=1, keepdims=True)
    bias[gone] = bias[retained].mean() - _margin(retained)
    before, after = _turned(matrix, new)
    return LayerEdit(head, before, after, bias - old @ after)


def _turned(
    old: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What makes new columns (C, K) of old ones, ``before @ old @ after``.

    Old columns may depend on one another, as those of a head that has forgotten a class do.

    Raises
    ------
    DataError
        If the old ones have fewer directions than the new ones.
    """
    left, size, right = np.linalg.svd(old, full_matrices=False)
    new_left, new_size, new_right = np.linalg.svd(new, full_matrices=False)
    some = slice(int((new_size > RANK * new_size[0]).sum()))
    if not (size[some] > RANK * size[0]).all():
        raise DataError(
            "the head can't be refitted: too many of its columns depend on one another; leave out "
            "--refit-head"
        )
    before = (new_left[:, some] * new_size[some] / size[some]) @ left[:, some].T
    return before, right[some].T @ new_right[some]


def _margin(retained: NDArray[np.int64]) -> float:
    """What keeps a class from a draw with the mean of the others' logits, if that is one logit."""
    return MARGIN if len(retained) == 1 else 0.0
