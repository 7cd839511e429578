"""Calibration on an existing Dask cluster: shards on the workers, moments merged as a tree."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UsageError, require_several
from ..model import load
from .gathering import DEFAULT, Wanted, facts_of, gather, plan_run
from .lanes import lanes_for
from .moments import Moments
from .shards import Shard
from .tapped import TappedModel, open_tapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Model
    from .data import Dataset
    from .gathering import Run
    from .histograms import Edges
    from .runner import Progress
    from .taps import Tap

PARTS = 4
"""Shards for each worker thread: so many that none waits long for the last, and few to merge."""


@dataclass(frozen=True, eq=False)
class Task:
    """What workers need to know; weights stay in the model's file, which they read themselves.

    Attributes
    ----------
    path, source
        The model's file, at the same place for every worker, and its hash.
    data, taps, wanted, device, providers, batch_size
        See `gathering.calibrate`.
    """

    path: str
    source: str
    data: Dataset
    taps: tuple[Tap, ...]
    wanted: Wanted
    device: str
    providers: tuple[str, ...]
    batch_size: int

    def run(self, shard: Shard) -> tuple[Run, TappedModel]:
        """A shard's run, and the session of this process."""
        model = load(self.path)
        if model.hash != self.source:
            raise DataError(f"{self.path}: a worker finds another model there; share one file")
        run = plan_run(model, self.data, self.taps, self.wanted, shard, self.batch_size)
        classifier = self.data.classifier
        second = self.wanted.second
        lanes = lanes_for(run.data, run.size)
        key = (self.path, self.source, self.taps, run.kept.features, second, classifier.output)
        return run, _session(*key, classifier.batch, lanes, self.device, self.providers)


@lru_cache(maxsize=1)
def _session(
    path: str,
    source: str,
    taps: tuple[Tap, ...],
    features: tuple[str, ...],
    second: bool,
    scores: str,
    batch: int | None,
    lanes: int,
    device: str,
    providers: tuple[str, ...],
) -> TappedModel:
    """The session of a worker process: made once, for all shards that it gets."""
    return open_tapped(
        load(path).proto,
        taps,
        features=features,
        second=second,
        scores=scores,
        batch=batch,
        lanes=lanes,
        device=device,
        providers=providers,
    )


def calibrate_on(
    address: str,
    model: Model,
    data: Dataset,
    taps: Sequence[Tap],
    *,
    wanted: Wanted = DEFAULT,
    device: str = "auto",
    providers: Sequence[str] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Moments:
    """Gather moments on a Dask cluster; the result is that of a single process.

    Model and data must lie at the same paths for all workers. One process makes the edges of the
    histograms for all. What a worker had that dies, Dask gives to another.

    Parameters
    ----------
    address
        Of the scheduler, as "tcp://host:8786".
    model, data, taps, wanted, device, providers, batch_size, progress
        See `gathering.calibrate`.

    Raises
    ------
    UsageError
        If Dask is not installed, or there is no scheduler or no worker at this address.
    DataError, ModelError
        As `gathering.calibrate`, from whichever worker meets it first.
    """
    require_several("providers", providers)
    data.require_fit(model)
    data.require_labels("calibration")
    path = str(model.place.resolve())
    task = Task(path, model.hash, data, tuple(taps), wanted, device, tuple(providers), batch_size)
    with _client(address) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UsageError(f"--dask {address}: the cluster has no workers; start some")
        edges = client.submit(_edges, task, pure=False)
        shards = [Shard(i, PARTS * threads) for i in range(1, PARTS * threads + 1)]
        parts = [client.submit(_gather, task, edges, shard, pure=False) for shard in shards]
        if progress is not None:
            _follow(parts, shards, task, progress)
        while len(parts) > 1:
            parts = [
                client.submit(Moments.merge, *parts[i : i + 2], pure=False)
                if i + 1 < len(parts)
                else parts[i]
                for i in range(0, len(parts), 2)
            ]
        moments: Moments = parts[0].result()
        return moments


def _client(address: str) -> Any:
    try:
        distributed = _distributed()
    except ImportError as error:
        raise UsageError(
            '--dask: Dask is not installed: pip install "discedit-onnx[dask]", here and on the '
            "workers"
        ) from error
    try:
        return distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"--dask {address}: no Dask scheduler answers there") from error


def _distributed() -> Any:
    """The package, which only this extra needs and which has no types."""
    return importlib.import_module("distributed")


def _edges(task: Task) -> Edges | None:
    """On a worker: the edges for all of them."""
    run, tapped = task.run(Shard())
    return run.edges(tapped)


def _gather(task: Task, edges: Edges | None, shard: Shard) -> Moments:
    """On a worker: the moments of a shard."""
    run, tapped = task.run(shard)
    return replace(gather(run, tapped, edges=edges), facts=facts_of(run, tapped))


def _follow(parts: list[Any], shards: list[Shard], task: Task, progress: Progress) -> None:
    """Tell how many samples are done, as shards come in."""
    total, done = len(task.data), 0
    size = task.data.classifier.batch or task.batch_size
    lengths = {
        part.key: len(shard.places(total, size)) for part, shard in zip(parts, shards, strict=True)
    }
    for part in _distributed().as_completed(parts):
        done += lengths[part.key]
        progress(done, total)
