"""One pass of samples through a model as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from .session import Session, open_session
from .tapped import check_rows, fill_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .classes import Labels
    from .data import Dataset

__all__ = [
    "Progress",
    "Session",
    "open_session",
    "run_batches",
]

Array: TypeAlias = npt.NDArray[Any]
Progress: TypeAlias = Callable[[int, int], None]
"""Called after each batch with the images done and the images in all."""


def run_batches(
    session: Session,
    outputs: Sequence[str],
    data: Dataset,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Iterator[tuple[list[Array], Labels]]:
    """Run a session over all samples, in order.

    A model of a fixed batch size overrules `batch_size`; the last batch is then filled up, and
    the rows of the filling are dropped. Where labels are to be predicted, they are the model's
    top-1.

    Yields
    ------
    results : list of arrays
        The named outputs, N rows each; class scores have one column a class.
    labels : int64 array
        (N,)

    Raises
    ------
    DataError
        If a sample can't be read.
    ModelError
        If the model fails, or an output does not have one row a sample.
    """
    classifier = data.classifier
    size = classifier.batch or batch_size
    asked = [*outputs, *[classifier.output] * data.predicted]
    done = 0
    for batch in data.batches(size):
        count = len(batch)
        results = session.run(asked, fill_up(batch.feeds, classifier.batch))
        check_rows(asked, results, classifier.batch or count)
        results = [
            # Class scores may be a map of one place.
            result[:count].reshape(count, -1) if name == classifier.output else result[:count]
            for name, result in zip(asked, results, strict=True)
        ]
        labels = results.pop().argmax(axis=1) if data.predicted else batch.labels
        yield results, labels
        done += count
        if progress is not None:
            progress(done, len(data))
