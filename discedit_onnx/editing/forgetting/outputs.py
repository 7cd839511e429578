"""A class's column taken off the output."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ModelError
from ...model import CLASS_NAMES_KEY, fault_of
from ..plan import Bias, Cut, Update
from ..surgery import apply
from ..verify import compare
from .head import outputs_behind
from .maps import LayerEdit, explicit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from ...calibration.classifier import Classifier
    from ...graph.view import View
    from ..edit import Edit
    from ..refit.layers import Layer
    from ..verify import Feeds


def drop_columns(
    edit: Edit,
    view: View,
    head: Layer,
    classifier: Classifier,
    forgotten: Sequence[int],
    feeds: Sequence[Feeds],
    device: str,
    origin: str,
) -> Edit:
    """An edit with some classes' rows of the head cut off besides.

    The class names in the metadata lose theirs, and the output says its new width. It is proved
    against the edit with the columns of the logits left out by nodes of their own.

    Raises
    ------
    ModelError
        If the output does not shrink with the head.
    GateError
        If what is left of the outputs is not what it was.
    """
    indices = tuple(sorted(forgotten))
    transposed = head.transposed
    cuts = [Cut(head.weight, 1 if transposed else 0, indices)]
    if head.bias is not None:
        axis = len(view.initializers[head.bias].dims) - 1
        cuts.append(Cut(head.bias, axis, indices))
    axes = {cut.tensor: cut.axis for cut in cuts}
    updates = tuple(
        Update(u.tensor, np.delete(u.values, indices, axes[u.tensor])) if u.tensor in axes else u
        for u in edit.plan.updates
    )
    biases = tuple(
        Bias(b.node, np.delete(b.values, indices)) if b.node == head.node else b
        for b in edit.plan.biases
    )
    plan = replace(edit.plan, cuts=(*edit.plan.cuts, *cuts), updates=updates, biases=biases)
    left = classifier.num_classes - len(indices)
    proto = apply(edit.source.proto, plan)
    behind = outputs_behind(view, head)
    _describe(proto, behind, classifier, indices)
    keep = np.delete(np.eye(classifier.num_classes), indices, axis=1)
    reference = explicit(edit.proto, [LayerEdit(head, None, keep, np.zeros(left))])
    _describe(reference, behind, classifier, indices)
    fault = fault_of(proto)
    if fault and fault != fault_of(edit.source.proto):
        raise ModelError(
            f"{classifier.path}: its output does not shrink with the head; leave out --drop-output"
        )
    compare(reference, proto, feeds, device, origin).require()
    before, after = edit.parameters
    after -= sum(_rows(view, cut) for cut in cuts)
    return replace(edit, plan=plan, proto=proto, parameters=(before, after))


def _rows(view: View, cut: Cut) -> int:
    """Parameters of a constant that a cut takes."""
    dims = list(view.initializers[cut.tensor].dims)
    return len(cut.indices) * int(np.prod(dims)) // dims[cut.axis]


def _describe(
    model: onnx.ModelProto, names: Sequence[str], classifier: Classifier, indices: Sequence[int]
) -> None:
    """Bring the shapes of some outputs, and the class names, up to date."""
    for output in model.graph.output:
        if output.name in names:
            for dim in output.type.tensor_type.shape.dim[1:]:
                if dim.dim_value == classifier.num_classes:
                    dim.dim_value -= len(indices)
    del model.graph.value_info[:]
    for prop in model.metadata_props:
        if prop.key == CLASS_NAMES_KEY:
            names = json.loads(prop.value)
            prop.value = json.dumps([n for i, n in enumerate(names) if i not in set(indices)])
