"""Components silenced or cut out of a model whose weights already have other values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from ...graph.coupling import analyse
from ...graph.view import parameter_tensors, weight_tensors
from ..plan import Bias, Update, plan_removal, plan_zeroing
from ..surgery import apply

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from ...model import Model


def new_values(
    model: Model,
    dense: onnx.ModelProto,
    coupling: Coupling,
    components: NDArray[np.bool_],
    added: Sequence[Bias],
    *,
    remove: bool,
) -> tuple[tuple[Update, ...], tuple[Bias, ...]]:
    """Values of what is left when components go from an edited model.

    Parameters
    ----------
    model
        The original.
    dense
        The edited model, with all its components.
    coupling
        Of the original.
    components
        What goes, shape (components,).
    added
        Biases that the edited model has and the original has not.
    remove
        Cut out; otherwise silenced.

    Returns
    -------
    updates, biases
        For the original without the components.
    """
    planner = plan_removal if remove else plan_zeroing
    edited = _coupling_of(dense, coupling) if added else coupling
    plain = apply(model.proto, planner(coupling, components, model.hash))
    left = apply(dense, planner(edited, components, model.hash))
    before, after = weight_tensors(plain), weight_tensors(left)
    updates = [
        Update(name, numpy_helper.to_array(after[name]))
        for name, tensor in before.items()
        if name in after and tensor.dims and not _same(tensor, after[name])
    ]
    makers = {node.output[0]: node for node in left.graph.node if node.output}
    # The bias is the last input of the node, or of the addition that took over its name.
    biases = [
        Bias(bias.node, numpy_helper.to_array(after[makers[bias.node].input[-1]])) for bias in added
    ]
    return tuple(updates), tuple(biases)


def _coupling_of(dense: onnx.ModelProto, coupling: Coupling) -> Coupling:
    """The coupling of a model that has new biases, which belong to components as weights do."""
    edited = analyse(dense, coupling.equations.reach)
    known = [(group.name, group.components.tolist()) for group in edited.groups]
    if known != [(group.name, group.components.tolist()) for group in coupling.groups]:
        raise AssertionError("new biases changed the components of the model")
    return edited


def changed_share(model: Model, edited: onnx.ModelProto) -> float:
    """Share of a model's parameters that are gone or have other values."""
    before, after = parameter_tensors(model.proto), parameter_tensors(edited)
    total = changed = 0
    for name, tensor in before.items():
        old = numpy_helper.to_array(tensor)
        total += old.size
        new = numpy_helper.to_array(after[name]) if name in after else old[:0]
        # Where indices are gone the rest has moved: all of it counts.
        changed += old.size if old.shape != new.shape else int((old != new).sum())
    return changed / max(total, 1)


def _same(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    """Whether two tensors hold the same bits, or the same strings."""
    if onnx.TensorProto.STRING in (a.data_type, b.data_type):
        return list(a.string_data) == list(b.string_data)
    return numpy_helper.to_array(a).tobytes() == numpy_helper.to_array(b).tobytes()
