"""Parts of a batch that run side by side on the CPU, each by some of the cores.

ONNX Runtime divides every operator among its threads beforehand: where one of them has to share
its core with a decoder, the others wait for it, at each operator. Runs side by side do not wait for
each other, and take no more memory, for each has a part of the batch.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from .session import cores
from .tapped import LEAST, split

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from .data import Batch, Dataset
    from .tapped import Observed, TappedModel

VALUES, BYTES = 8, 3 << 18
"""Samples, and bytes of inputs, that are run at a time where the CPU hands out values, at least:
fewer cost time outside of the graph, more cost memory and the processor's cache."""


def lanes_for(data: Dataset, size: int) -> int:
    """How many parts of a batch are run at a time.

    Parameters
    ----------
    data
        What is run; batches that the model fixes, or that are of one sample each, stay whole.
    size
        Samples in a batch.
    """
    if data.classifier.batch is not None or not data.source.uniform:
        return 1
    most = min(cores(), size // LEAST)
    return next((n for n in range(most, 1, -1) if size % n == 0), 1)


def side_by_side(
    data: Dataset, model: TappedModel, size: int, start: int = 0
) -> Iterator[tuple[Batch, Observed]]:
    """Batches, or parts of them, with what they gave, in the order of the samples.

    Parameters
    ----------
    data
        The samples.
    model
        Each of its lanes runs one part at a time.
    size
        Samples in a batch.
    start
        Samples to leave out at the beginning.

    Raises
    ------
    DataError, ModelError
        If a sample can't be read, or the model fails.
    """
    lanes = len(model.bindings)
    whole, parts = _division(data, model, size)
    batches = data.batches(whole, start=start)
    if lanes == 1:
        yield from ((batch, model.observe(batch.feeds)) for batch in batches)
        return
    pools = [ThreadPoolExecutor(1, f"discedit-lane-{lane}") for lane in range(lanes)]
    turn = cycle(range(lanes))
    waiting: deque[tuple[Batch, list[Future[list[list[npt.NDArray[Any]]]]]]] = deque()

    def first() -> tuple[Batch, Observed]:
        batch, found = waiting.popleft()
        return batch, model.read(batch.feeds, [piece for part in found for piece in part.result()])

    try:
        for batch in batches:
            runs = [
                pools[lane].submit(model.run, part, lane)
                for part, lane in zip(split(batch.feeds, parts), turn, strict=False)
            ]
            waiting.append((batch, runs))
            if len(waiting) * parts > lanes:
                yield first()
        while waiting:
            yield first()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _division(data: Dataset, model: TappedModel, size: int) -> tuple[int, int]:
    """Samples that are added up at a time, and in how many parts they are run.

    What a batch gives is added up together, for that costs no more than for a part. But few samples
    are run, and each time by one lane, where the CPU hands out values: those of a few parts are in
    memory together.
    """
    lanes = len(model.bindings)
    if not model.positions:
        return size, lanes
    most = size // lanes
    on_cpu = model.session.device == "cpu" and model.batch is None
    if not on_cpu or not data.source.uniform or not len(data):
        return most, 1
    (sample,) = data.take(np.zeros(1, np.int64)).batches(1)
    each = sum(values.nbytes for values in sample.feeds.values())
    least = max(VALUES, BYTES // max(each, 1))
    return next(n for n in range(min(least, most), most + 1) if most % n == 0), 1
