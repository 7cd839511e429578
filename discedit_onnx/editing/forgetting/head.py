"""The head: the layer that makes the logits, and what lies behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...calibration.classifier import FLOATS
from ...errors import ModelError
from ...graph.view import SCALES
from ..refit.layers import LINEAR, exact_layers, find_layers, is_plain
from .maps import matrix_of

if TYPE_CHECKING:
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
