"""How long models take, side by side: what disturbs one run disturbs the others too."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .calibration.session import CUDA, import_onnxruntime, open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import onnx
    from numpy.typing import NDArray

ROUNDS = 5
"""Turns that each model gets."""
TURN = 0.1
"""Seconds of a turn, at least one run."""
REST = 0.03
"""Seconds between turns: ONNX Runtime's threads spin for a while after a run."""


def latencies(
    models: Sequence[onnx.ModelProto],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    device: str = "auto",
    rounds: int = ROUNDS,
) -> tuple[float, ...]:
    """Median time of a run of each model, in milliseconds.

    Parameters
    ----------
    models
        The models.
    feeds
        One batch for each: input name to array.
    device
        As in `calibrate`.
    rounds
        How often the models take turns.
    """
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(model, device)) for model in models]
        outputs = [[output.name for output in model.graph.output] for model in models]
        for turn in range(rounds + 1):  # the first one warms up
            for session, names, batch, found in zip(sessions, outputs, feeds, times, strict=True):
                time.sleep(REST)
                session.run(names, batch)
                begin = before = time.perf_counter()
                while before - begin < TURN:
                    session.run(names, batch)
                    after = time.perf_counter()
                    if turn:
                        found.append(after - before)
                    before = after
    return tuple(1000 * statistics.median(found) for found in times)


def fast_multiple(device: str = "auto", block: bool = False) -> int:
    """Multiples of channels that the kernels of a device are made for.

    Parameters
    ----------
    device
        As in `calibrate`.
    block
        Ask for the width that kernels work on at a time, which fewer channels are filled up to;
        otherwise for the least multiple that the fast kernels take.

    Returns
    -------
    int
        8 on CUDA, for tensor cores. On the CPU, ONNX Runtime's blocked convolutions take multiples
        of 4, and others are up to three and a half times as slow; their block is 16 with AVX-512,
        else 8.
    """
    if device.startswith("cuda") or (device == "auto" and CUDA in _offered()):
        return 8
    if not block:
        return 4
    flags = Path("/proc/cpuinfo")
    return 16 if flags.is_file() and "avx512f" in flags.read_text() else 8


def _offered() -> list[str]:
    return list(import_onnxruntime().get_available_providers())
