"""What pruned models cost that can't be counted in the graph: bytes and time."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ..graph.cost import MacCount, ParameterCount
from ..latency import latencies
from .lineage import inscribe
from .plan import plan_removal
from .surgery import apply
from .verify import random_feeds

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from ..graph.coupling import Coupling
    from ..model import Model
    from .budget import Cost, Kind


FLOAT_BYTES = 4


def cost_of(kind: Kind, model: Model, coupling: Coupling, device: str = "auto") -> Cost:
    """What a budget of some kind is held against.

    Raises
    ------
    UsageError
        If the MACs of the model can't be counted.
    """
    if kind == "latency":
        return Latency(model, coupling, device)
    if kind == "size":
        return FileSize(model, coupling)
    return MacCount(coupling) if kind == "macs" else ParameterCount(coupling)


class WithBiases:
    """A cost with the biases that a refit may add to layers that have none, at their full width."""

    def __init__(self, cost: Cost, kind: Kind, biases: int) -> None:
        self.total = cost.total
        self._cost = cost
        self._added = biases * {"sparsity": 1, "size": FLOAT_BYTES}.get(kind, 0)

    def left(self, removed: NDArray[np.bool_]) -> float:
        """What is left at most; `removed` has the shape (components,)."""
        return self._cost.left(removed) + (self._added if removed.any() else 0)


class FileSize:
    """Bytes of the file; of external data too, up to a few bytes for each tensor in it."""

    def __init__(self, model: Model, coupling: Coupling) -> None:
        self.total = model.file_size
        self._model, self._coupling = model, coupling
        self._parameters = ParameterCount(coupling)

    def left(self, removed: NDArray[np.bool_]) -> int:
        """Bytes left; `removed` has the shape (components,)."""
        if not removed.any():
            return self.total
        plan = plan_removal(self._coupling, removed, self._model.hash)
        pruned = apply(self._coupling.view.proto, plan)
        count = self._parameters
        inscribe(pruned, self._model, plan, (count.total, count.left(removed)))
        return int(pruned.ByteSize())


class Latency:
    """Milliseconds for a batch of one, on this machine, measured beside the whole model."""

    def __init__(self, model: Model, coupling: Coupling, device: str) -> None:
        self._coupling, self._whole, self._device = coupling, model.proto, device
        (self._feeds,) = random_feeds(coupling.view, batch=1)
        self._measured = list(latencies([model.proto], [self._feeds], device))

    @property
    def total(self) -> float:
        """Of the whole model: the median of all measurements so far."""
        return statistics.median(self._measured)

    def left(self, removed: NDArray[np.bool_]) -> float:
        """Milliseconds left; `removed` has the shape (components,)."""
        if not removed.any():
            return self.total
        models = [self._whole, _pruned(self._coupling, removed)]
        before, after = latencies(models, [self._feeds] * len(models), self._device)
        self._measured.append(before)
        # As a ratio to its neighbour: other programs come and go between two measurements.
        return self.total * after / before


def _pruned(coupling: Coupling, removed: NDArray[np.bool_]) -> onnx.ModelProto:
    return apply(coupling.view.proto, plan_removal(coupling, removed, ""))
