"""Outputs of a model on held-out samples, and how far edits move them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ...graph.view import View
from ..plan import Plan
from ..surgery import apply
from .stages import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]

MOST = 1e30
"""An error as large as any; where numbers overflow there is no larger one."""


class Outputs:
    """Outputs of a model on some batches, and how far those of edited ones lie from them.

    Parameters
    ----------
    view
        The model that components are removed from; how far it lies is `before`.
    aim
        The model whose outputs count, if it is another one.
    batches, device
        As in `least_squares`.
    """

    def __init__(
        self, view: View, aim: onnx.ModelProto | None, batches: Sequence[Feeds], device: str
    ) -> None:
        self._view, self._walk = view, Walk(view, batches, device)
        self._names = [output.name for output in view.proto.graph.output]
        walk = self._walk if aim is None else Walk(View(aim), batches, device)
        values = self._of(walk, aim or view.proto)
        self._finite = np.isfinite(values)  # some mask classes with minus infinity
        self._dense = values[self._finite]
        self._spread = float(self._dense.var()) + 1e-300
        self._bare = onnx.ModelProto()
        self._bare.CopyFrom(view.proto)
        del self._bare.graph.value_info[:]  # nobody reads it here, and plans would keep it up
        self.before = self.error(Plan(""))

    def advance(self, node: int) -> None:
        """From now on, only edits from this node on are asked for."""
        self._walk.advance(self._view.proto, node)

    def error(self, plan: Plan) -> float:
        """Mean squared distance of an edited model's outputs, relative to their variance."""
        values = self._of(self._walk, apply(self._bare, plan))[self._finite]
        error = np.mean((values - self._dense) ** 2) / self._spread
        return min(float(np.nan_to_num(error, nan=MOST)), MOST)

    def _of(self, walk: Walk, proto: onnx.ModelProto) -> NDArray[np.float64]:
        """All numbers in all outputs; floating-point ones where there are any."""
        found = [
            part for run in walk.run(proto, self._names) for out in run for part in _parts(out)
        ]
        for kinds in ("f", "fiub"):
            numbers = [
                part.ravel().astype(np.float64) for part in found if part.dtype.kind in kinds
            ]
            if numbers:
                return np.concatenate(numbers)
        return np.empty(0)


def _parts(output: Any) -> list[NDArray[Any]]:
    """The arrays in an output, which may be a sequence or a map, or a sequence of maps."""
    if isinstance(output, dict):
        return [np.array([*output.values()])]
    return (
        [part for each in output for part in _parts(each)] if isinstance(output, list) else [output]
    )
