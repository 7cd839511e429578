"""One pass of the samples through a tapped model: batches to moments."""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from ..errors import UsageError, require_count, require_several, require_whole
from ..interruption import signals_deferred
from .accumulator import Accumulator
from .checkpoint import Interrupted
from .histograms import Histograms, check_edges, pilot_of, quantile_edges
from .keeping import what_to_keep
from .lanes import lanes_for, side_by_side
from .moments import SHARDS, Moments
from .second import SecondMoments
from .session import import_onnxruntime
from .shards import EVERYTHING
from .tapped import open_tapped
from .taps import FEATURES, GATHERED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ..interruption import Asked
    from ..model import Model
    from .checkpoint import Checkpoint
    from .data import Batch, Dataset
    from .histograms import Edges
    from .keeping import Kept
    from .runner import Progress
    from .shards import Shard
    from .tapped import Observed, TappedModel
    from .taps import Tap

NOT_COUNTED = -1
"""Index of a sample that made the edges, so that histograms leave it out."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be gathered.

    Attributes
    ----------
    features
        Names in `taps.FEATURES`; the first is the one that histograms count.
    second
        Second moments of each tensor's channels too.
    classes
        The classes to keep one by one, all if there are none; see `keeping.what_to_keep`.
    edges : float32 (C, B - 1), or None
        Edges of the histograms; None makes them of a first few samples.
    """

    features: tuple[str, ...] = GATHERED
    second: bool = False
    classes: tuple[int, ...] = ()
    edges: Edges | None = None

    def __post_init__(self) -> None:
        require_several("features", self.features)
        require_several("classes", self.classes)
        for name in self.features:
            if name not in FEATURES:
                there = ", ".join(FEATURES)
                raise UsageError(f"--features {name}: no such feature; there are {there}")
        if not self.features or len(set(self.features)) < len(self.features):
            raise UsageError(f"features {self.features}: name one at least, and none twice")
        for index in self.classes:
            require_whole("classes", index)
        if self.edges is not None:
            check_edges(self.edges)


DEFAULT = Wanted()


@dataclass(frozen=True, eq=False)
class Run:
    """Which samples go through which model, and what is kept of them.

    Attributes
    ----------
    data
        All samples, also those of other shards.
    shard
        The part to gather.
    size
        Samples in a batch.
    kept
        What is kept.
    start
        The moments of no samples.
    wanted
        What was asked for.
    """

    data: Dataset
    shard: Shard
    size: int
    kept: Kept
    start: Moments
    wanted: Wanted

    @property
    def fingerprint(self) -> str:
        """Equal for two runs if one can go on where the other ended."""
        digest = hashlib.sha256()
        start, wanted = self.start, self.wanted
        told: list[object] = [start.source, [asdict(tap) for tap in start.taps], start.features]
        told += [wanted.second, str(self.shard), self.size, dict(self.data.facts)]
        told += [start.class_names, self.data.predicted]
        digest.update(json.dumps(told, sort_keys=True).encode())
        for array in (start.class_index, self.data.index, self.data.labels, wanted.edges):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def whole(self) -> str:
        """Eight digits that tell these data, in these batches, from others."""
        digest = hashlib.sha256(json.dumps([self.size, dict(self.data.facts)]).encode())
        for array in (self.data.index, self.data.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:8]

    @property
    def pilot(self) -> Dataset:
        """The samples that make the edges; the same for every shard."""
        return self.data.take(pilot_of(len(self.data)))

    def edges(self, model: TappedModel) -> Edges | None:
        """Edges of the histograms, given or made; None if there are to be none."""
        if not self.kept.histograms or not self.start.taps:
            return None
        if self.wanted.edges is not None:
            return self.wanted.edges
        position = model.features.index(self.wanted.features[0])
        seen = side_by_side(self.pilot, model, self.size)
        values = [found.features[:, :, position] for _, found in seen]
        return quantile_edges(np.concatenate(values))

    def begin(self, edges: Edges | None) -> Moments:
        """The moments of no samples, with edges to count between."""
        if edges is None:
            return self.start
        classes = len(self.kept.class_names)
        counted = Histograms.empty(self.wanted.features[0], edges, classes)
        return replace(self.start, histograms=counted)

    def counted(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Positions of a batch's samples, without those that made the edges."""
        if self.wanted.edges is not None:
            return batch.index
        return np.where(np.isin(batch.index, self.pilot.index), NOT_COUNTED, batch.index)


def plan_run(
    model: Model,
    data: Dataset,
    taps: Sequence[Tap],
    wanted: Wanted = DEFAULT,
    shard: Shard = EVERYTHING,
    batch_size: int = 64,
) -> Run:
    """Decide what is kept.

    Raises
    ------
    UsageError
        If classes are asked for that are not there, given edges are of other taps, or the batch
        size is below 1.
    """
    require_count("batch_size", batch_size)
    channels = sum(tap.length for tap in taps)
    kept = what_to_keep(data.class_names, channels, wanted.features, wanted.classes)
    if wanted.edges is not None and len(wanted.edges) != channels:
        raise UsageError("--edges: those moments have other channels; give a file of this model")
    start = Moments.empty(
        taps,
        kept.class_names,
        model.hash,
        features=kept.features,
        class_index=kept.class_index,
    )
    second = {tap.tensor: SecondMoments.empty(tap.length) for tap in taps if wanted.second}
    start = replace(start, correct=None if data.predicted else 0, second=second)
    return Run(data, shard, data.classifier.batch or batch_size, kept, start, wanted)


def gather(
    run: Run,
    model: TappedModel,
    *,
    edges: Edges | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Moments:
    """Run the samples of a shard, from the beginning or from a checkpoint, and add them up.

    A batch is added up in a thread of its own while the model runs on the next one: in one thread,
    for the model has use for the other cores.

    Parameters
    ----------
    run
        What to gather.
    model
        The tapped model; it must tell `run.kept.features` and its scores.
    edges
        `run.edges(model)`, where another process has made them.
    progress
        Called after each batch with the samples done and those of the shard.
    checkpoint
        Where the moments so far are kept; the caller removes it when all is done.

    Raises
    ------
    Interrupted
        If SIGINT or SIGTERM came and there is a checkpoint; it is saved then.
    DataError, ModelError
        If a sample can't be read, or the model fails.
    """
    part = run.data
    if run.shard.of > 1:
        part = part.take(run.shard.places(len(part), run.size))
    found = checkpoint.load(run.fingerprint) if checkpoint is not None else None
    if found is None:
        found = run.begin(run.edges(model) if edges is None else edges), 0
    gathered, done = Accumulator(found[0]), found[1]
    del found  # its arrays were copied
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(signals_deferred()) if checkpoint is not None else None
        stack.enter_context(threadpool_limits(1, "blas"))
        adder = stack.enter_context(ThreadPoolExecutor(1, "discedit-moments"))
        added: Future[None] = adder.submit(lambda: None)
        for batch, seen in side_by_side(part, model, run.size, done):
            added.result()
            added = adder.submit(add, gathered, run, batch, seen)
            done += len(batch)
            if progress is not None:
                progress(done, len(part))
            if checkpoint is not None and asked is not None and (asked.signal or checkpoint.due):
                added.result()
                _keep(checkpoint, run, gathered, done, len(part), asked)
        added.result()
    return gathered.moments


def add(gathered: Accumulator, run: Run, batch: Batch, seen: Observed) -> None:
    """Add what a batch gave to what was gathered."""
    labels = batch.labels
    if seen.scores is not None:
        top = seen.scores.argmax(axis=1)
        if run.data.predicted:
            labels = top
        else:
            gathered.add_correct(int((top == labels).sum()))
    gathered.update(seen.features, labels, run.counted(batch))
    gathered.add_second(seen.second)


def _keep(
    checkpoint: Checkpoint, run: Run, gathered: Accumulator, done: int, total: int, asked: Asked
) -> None:
    """Save what there is, and end if the process has to."""
    checkpoint.save(gathered.moments, done, run.fingerprint)
    if asked.signal:
        raise Interrupted(
            f"{done:,} of {total:,} samples are kept in {checkpoint.path}; the same command "
            "goes on from there",
            128 + asked.signal,
        )


def calibrate(
    model: Model,
    data: Dataset,
    taps: Sequence[Tap],
    *,
    wanted: Wanted = DEFAULT,
    shard: Shard = EVERYTHING,
    device: str = "auto",
    providers: Sequence[str] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Moments:
    """Gather the moments of tapped tensors in one pass over samples.

    Memory does not depend on the number of samples.

    Parameters
    ----------
    model
        The classifier.
    data
        The samples.
    taps
        The tensors to look at.
    wanted
        What to gather.
    shard
        The part of the data to gather; the moments of all shards merge to those of all data.
    device, providers
        See `open_session`.
    batch_size
        Samples at a time. It changes the moments by rounding only.
    progress
        Called after each batch with the samples done and the samples in all.
    checkpoint
        Where to keep what is gathered so far, and to take up what an interrupted run has left.

    Returns
    -------
    Moments
        With `facts`: those of the data, device, provider, version of ONNX Runtime, and what is
        kept of the classes.

    Raises
    ------
    UsageError
        If there is no ONNX Runtime, the device can't be had, or an argument makes no sense.
    ModelError
        If the model can't be run.
    DataError
        If the samples do not fit the model.
    Interrupted
        See `gather`.
    """
    require_several("providers", providers)
    data.require_fit(model)
    data.require_labels("calibration")
    run = plan_run(model, data, taps, wanted, shard, batch_size)
    with open_run(model, run, device=device, providers=providers) as tapped:
        moments = gather(run, tapped, progress=progress, checkpoint=checkpoint)
        return replace(moments, facts=facts_of(run, tapped))


def open_run(
    model: Model, run: Run, *, device: str = "auto", providers: Sequence[str] = ()
) -> TappedModel:
    """The tapped model that a run needs."""
    classifier = run.data.classifier
    return open_tapped(
        model.proto,
        run.start.taps,
        features=run.kept.features,
        second=run.wanted.second,
        scores=classifier.output,
        batch=classifier.batch,
        lanes=lanes_for(run.data, run.size),
        device=device,
        providers=providers,
    )


def facts_of(run: Run, model: TappedModel) -> dict[str, str]:
    """What is said of how moments were gathered."""
    shard = {SHARDS: f"{run.shard} of {run.whole}"} if run.shard.of > 1 else {}
    return {
        **run.data.facts,
        **shard,
        "device": model.session.device,
        "kept": run.kept.said,
        "onnxruntime": str(import_onnxruntime().__version__),
        "provider": model.session.provider,
    }
