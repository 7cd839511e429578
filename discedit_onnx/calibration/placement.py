"""Where to look: the tensors that carry components to where they are consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, ModelError
from ..graph.axes import Reach
from ..graph.coupling import analyse
from .taps import GRID, PRODUCTS, Tap, stride_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..graph.axes import Contraction
    from ..graph.coupling import Coupling
    from ..graph.view import View
    from ..model import Model

CLIMBED = frozenset(
    ("Cast", "Dropout", "Flatten", "GlobalAveragePool", "Identity", "ReduceMean", "Reshape",
     "Squeeze", "Transpose", "Unsqueeze")
)  # fmt: skip
"""Operators that only move or average what a tap would see; the tap goes in front of them."""


def taps_of(model: Model) -> tuple[Tap, ...]:
    """Taps for all that could be asked of a model later, so that one calibration serves for it.

    Raises
    ------
    ModelError
        If nothing in the model can be removed, or no image's part of it can be looked at.
    """
    couplings = [analyse(model.proto, Reach(True, inside)) for inside in (False, True)]
    if couplings[0].equations.loose:  # without the inexact, more may be picked behind it
        couplings += [analyse(model.proto, Reach(False, inside)) for inside in (False, True)]
    taps = place_taps(*couplings)
    if not taps:
        why = "nothing in it can be removed; `discedit-onnx inspect` says why"
        if any(coupling.size for coupling in couplings):
            why = (
                "images can't be told apart where something can be removed, as in a batch that is "
                "folded into other axes; prune by least-squares or l1, which need no moments"
            )
        raise ModelError(f"{model.path}: {why}")
    return taps


def place_taps(*couplings: Coupling) -> tuple[Tap, ...]:
    """One tap for each tensor in which removable components are consumed.

    A consumer reads behind the activation, so that ONNX Runtime's fusions of convolution,
    normalisation and activation survive. In front of a flattening or of global pooling a
    component is one channel with a map, not many features or a single number.

    There is none where the first axis is not the batch: windows or frames folded into it, time
    first. What is said of an image could not be told from what is said of others.

    Parameters
    ----------
    couplings
        Of one model, under one reach or several.

    Returns
    -------
    tuple of Tap
        In the order of the graph, each tensor once; those that only later couplings see are last.
    """
    placed: dict[str, Tap] = {}
    found = ((coupling, record) for coupling in couplings for record in coupling.contractions)
    for coupling, contraction in found:
        if (coupling.of(contraction.ids) >= 0).any():
            own = contraction.node.inputs[contraction.input], contraction.axis
            for name, axis in (_climb(coupling, contraction), own):
                # Another axis may be looked at: heads there, dimensions inside heads here.
                known = name not in placed or placed[name].axis == axis
                if known and axis > 0 and _by_image(coupling.view, name):
                    placed.setdefault(name, _tap(coupling, name, axis))
                    break
    return tuple(placed.values())


def _by_image(view: View, name: str) -> bool:
    """Whether a tensor is computed, of known rank, and its first axis is the batch."""
    if name not in view.varying or view.shapes.get(name) is None:
        return False
    lengths = view.facts.lengths
    batches = [_firsts(lengths[given]) for given in view.inputs if given in lengths]
    return not batches or _firsts(lengths[name]) in filter(all, batches)


def _firsts(shapes: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The first axis of each shape; empty where there is none."""
    return [shape[:1] for shape in shapes]


def _tap(coupling: Coupling, name: str, axis: int) -> Tap:
    shape = coupling.view.shapes[name]
    length = len(coupling.equations.axes[name][axis])  # type: ignore[arg-type]
    strides = (_stride(shape, axis, least) for least in (GRID, PRODUCTS))
    return Tap(name, axis, length, len(shape), *strides)


def _stride(shape: Sequence[int | None], axis: int, least: int) -> int:
    """Step between the positions of a map that are looked at; 1 where its size is not known."""
    if axis != 1 or len(shape) != 4:
        return 1
    height, width = shape[2:]
    return 1 if height is None or width is None else stride_for(height, width, least)


def tap_components(coupling: Coupling, tap: Tap) -> NDArray[np.int64]:
    """Component of each channel of a tap, shape (tap.length,); -1 where it can't be removed.

    Raises
    ------
    DataError
        If the model has no such tensor: a moments file may say what it likes.
    """
    axes = coupling.equations.axes.get(tap.tensor, [])
    ids = axes[tap.axis] if tap.axis < len(axes) else np.empty(0, np.int64)
    if ids is not None and len(ids) != tap.length:
        raise DataError(
            f"the moments are of {tap.length} channels of {tap.tensor!r} along axis {tap.axis}, "
            "which the model does not have: calibrate again"
        )
    return np.full(tap.length, -1) if ids is None else coupling.of(ids)


def _climb(coupling: Coupling, contraction: Contraction) -> tuple[str, int]:
    """The tensor and axis behind the operators that only move or average."""
    name, axis = contraction.node.inputs[contraction.input], contraction.axis
    ids = contraction.ids
    while (node := coupling.view.producer.get(name)) and node.op in CLIMBED and not node.domain:
        axes = coupling.equations.axes.get(node.inputs[0], [])
        carrying = [i for i, above in enumerate(axes) if above is not None]
        if len(carrying) != 1:
            break
        above = axes[carrying[0]]
        if above is None or not np.array_equal(np.unique(above), np.unique(ids)):
            break
        name, axis, ids = node.inputs[0], carrying[0], above
    return name, axis
