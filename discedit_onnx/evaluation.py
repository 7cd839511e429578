"""What a model is worth on labelled images, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import latency as timing
from .amounts import percent
from .calibration.runner import open_session, run_batches
from .errors import UsageError, require_count
from .graph.cost import count_parameters
from .tables import Table, Tabular, facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .calibration.data import Dataset
    from .calibration.runner import Progress
    from .model import Model

LATENCY_BATCHES = (1, 32)
TURNS = 3
"""Turns that each model gets at each batch size."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Tabular):
    """Accuracy, latency and size of a model.

    Attributes
    ----------
    top1
        Share of all images whose class has the highest score.
    per_class : float64 (K,)
        The same for the images of each class; NaN for a class with no images.
    count : int64 (K,)
        Images of each class.
    class_names
        The K classes.
    latency_ms
        By batch size, milliseconds from arrays in memory to scores in memory; empty if not timed.
    file_size
        Bytes on disk, external data included.
    parameters
        See `count_parameters`.
    device
        Where it ran.
    """

    top1: float
    per_class: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    latency_ms: Mapping[int, float]
    file_size: int
    parameters: int
    device: str

    def tables(self) -> Iterator[Table]:
        """All of it, and accuracy class by class."""
        timed = {f"latency, batch {n}": f"{ms:.2f} ms" for n, ms in self.latency_ms.items()}
        known = {"parameters": f"{self.parameters:,}", "bytes": f"{self.file_size:,}"}
        yield facts("Evaluation", **{"top-1": percent(self.top1)}, **known, **timed, on=self.device)
        each = zip(self.class_names, self.count.tolist(), self.per_class.tolist(), strict=True)
        rows = tuple((name, f"{count:,}", percent(hits)) for name, count, hits in each)
        yield Table("Top-1 accuracy by class", ("class", "images", "top-1"), rows)

    def accuracy_of(self, classes: Sequence[int]) -> float:
        """Share of the images of some classes that are put into the right one; NaN for none."""
        chosen = list(set(classes))
        hits = np.nansum(self.per_class[chosen] * self.count[chosen])
        total = self.count[chosen].sum()
        return float(hits / total) if total else math.nan


def evaluate(
    model: Model,
    data: Dataset,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
    latency: bool = True,
) -> Evaluation:
    """Run a model over labelled images, then time it.

    Parameters
    ----------
    model
        The classifier.
    data
        Labelled samples for this model.
    device
        See `calibration.session.open_session`.
    batch_size
        Images at a time, for the accuracy.
    progress
        Called after each batch with the images done and the images in all.
    latency
        Whether to time it; it takes some seconds.

    Raises
    ------
    UsageError
        If there is no ONNX Runtime, the device can't be had, the batch size is below 1, or the
        labels are the model's own.
    ModelError
        If the model is not an image classifier, or can't be run.
    DataError
        If the images do not fit the model, or have no labels.
    """
    require_count("batch_size", batch_size)
    data.require_fit(model)
    if data.predicted:
        raise UsageError(
            "the model's own labels say nothing of its accuracy; evaluate with --labels given"
        )
    data.require_labels("evaluation")
    classifier = data.classifier
    hits = np.zeros(classifier.num_classes, np.int64)
    with open_session(model.proto, device) as session:
        for (logits,), labels in run_batches(
            session,
            [classifier.output],
            data,
            batch_size=batch_size,
            progress=progress,
        ):
            np.add.at(hits, labels[logits.argmax(axis=1) == labels], 1)
    count = np.bincount(data.labels, minlength=classifier.num_classes)
    return Evaluation(
        top1=float(hits.sum() / count.sum()),
        per_class=np.where(count > 0, hits / np.maximum(count, 1), np.nan),
        count=count,
        class_names=data.class_names,
        latency_ms=measure_latency([model], [data], device)[0] if latency else {},
        file_size=model.file_size,
        parameters=count_parameters(model.proto),
        device=session.device,
    )


def predict(
    model: Model,
    data: Dataset,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Dataset:
    """The same data, with a model's top-1 for the labels.

    Raises
    ------
    UsageError, ModelError, DataError
        As `evaluate`.
    """
    require_count("batch_size", batch_size)
    data.require_fit(model)
    output = data.classifier.output
    with open_session(model.proto, device) as session:
        batches = run_batches(session, [output], data, batch_size=batch_size, progress=progress)
        top = [logits.argmax(axis=1) for (logits,), _ in batches]
    return replace(data, labels=np.concatenate(top), predicted=False)


def measure_latency(
    models: Sequence[Model],
    data: Sequence[Dataset],
    device: str = "auto",
    progress: Progress | None = None,
) -> list[dict[int, float]]:
    """Milliseconds of each model by batch size; those that take the same one take turns.

    Parameters
    ----------
    models
        The models.
    data
        Samples for each; the first one is run, again and again.
    device
        As in `evaluate`.
    progress
        Called after each batch size with those done and all.

    Returns
    -------
    list of dict
        For each model, at each of `LATENCY_BATCHES`, or at the only size that it takes.
    """
    fixed = [samples.classifier.batch for samples in data]
    sizes = [LATENCY_BATCHES if size is None else (size,) for size in fixed]
    first = [next(samples.batches(1)).feeds for samples in data]
    every = sorted(set().union(*sizes))
    found: list[dict[int, float]] = [{} for _ in models]
    for done, size in enumerate(every, 1):
        some = [i for i, own in enumerate(sizes) if size in own]
        feeds = [{k: row.repeat(size, axis=0) for k, row in first[i].items()} for i in some]
        times = timing.latencies([models[i].proto for i in some], feeds, device, TURNS)
        for i, milliseconds in zip(some, times, strict=True):
            found[i][size] = milliseconds
        if progress is not None:
            progress(done, len(every))
    return found
