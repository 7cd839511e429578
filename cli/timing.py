"""Measured times of an edited model and its original, and what to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from discedit_onnx.amounts import change

if TYPE_CHECKING:
    from collections.abc import Sequence

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.edit import Edit

    from .output import Screen

BATCHES = (1, 32)
ROUNDS = 3

LAG = 0.25
"""A model whose time, as a share of the original's, is so far above its MACs is warned of."""
LEAST_GAIN = 0.25
"""And only if not even so much of the fall in MACs is gained: small models have fixed costs."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one batch size."""

    batch: int
    before: float
    after: float

    def __str__(self) -> str:
        times = f"{self.before:.2f} -> {self.after:.2f} ms"
        return f"{times} ({change(self.before, self.after)})"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"batch": self.batch, "before": self.before, "after": self.after}


def measure(edit: Edit, data: Dataset | None, device: str) -> list[Timing]:
    """Both models in turn, at each batch size of `BATCHES`, or at the only one they take."""
    from discedit_onnx.editing.verify import random_feeds
    from discedit_onnx.latency import latencies

    view, models = edit.views[0], [edit.source.proto, edit.proto]
    (most,) = random_feeds(view, batch=max(BATCHES)) if data is None else data.sample()[:1]
    rows = min((len(values) for values in most.values() if values.ndim), default=1)
    fixed = any((view.shapes.get(name) or (1,))[0] for name in view.inputs)
    found = []
    for size in [rows] if fixed else sorted({min(size, rows) for size in BATCHES}):
        feeds = {name: values[:size] if values.ndim else values for name, values in most.items()}
        found.append(Timing(size, *latencies(models, [feeds] * len(models), device, ROUNDS)))
    return found


def warn_of_lag(
    screen: Screen, timings: Sequence[Timing], macs: tuple[int | None, int | None]
) -> None:
    """Warn where the time does not fall as the MACs do."""
    before, after = macs
    if not before or after is None or after == before:
        return
    share = after / before
    allowed = max(share + LAG, 1 - LEAST_GAIN * (1 - share))
    for timing in timings:
        if timing.after > allowed * timing.before:
            screen.warn(
                f"the time for a batch of {timing.batch} does not fall as the MACs do "
                f"({change(timing.before, timing.after)} against {change(before, after)}); "
                "--round-to sets the multiples of channels that are kept"
            )
