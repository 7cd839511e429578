"""The public functions: what the command line does, for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import evaluation
from .calibration import gathering
from .calibration.gathering import DEFAULT, Wanted
from .calibration.opening import open_data
from .calibration.placement import taps_of
from .calibration.shards import EVERYTHING, Shard
from .calibration.storage import load_moments
from .editing.budget import Budget
from .editing.forget import forget
from .editing.forgetting.way import Way
from .editing.order import Limits
from .editing.prune import prune
from .graph.coupling import analyse
from .inspection import inspect
from .model import Model, load
from .scoring import saliency
from .scoring.saliency import DEFAULT_WITNESS, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .calibration.checkpoint import Checkpoint
    from .calibration.data import Dataset
    from .calibration.moments import Moments
    from .calibration.runner import Progress
    from .evaluation import Evaluation
    from .scoring.comparison import Comparison

__all__ = [
    "Budget",
    "Limits",
    "Way",
    "calibrate",
    "evaluate",
    "forget",
    "inspect",
    "load",
    "load_moments",
    "open_data",
    "prune",
    "score",
]


def calibrate(
    model: Model,
    data: Dataset,
    *,
    wanted: Wanted = DEFAULT,
    shard: Shard = EVERYTHING,
    device: str = "auto",
    providers: Sequence[str] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    cluster: str | None = None,
) -> Moments:
    """Gather moments of a model's activations, class by class, in one pass over samples.

    Parameters
    ----------
    model
        A classifier.
    data
        What `open_data` found.
    wanted
        What to gather: features, second moments, which classes one by one.
    shard
        The part of the data to gather.
    device
        "auto" (CUDA where it starts, else the CPU), "cpu", "cuda" or "cuda:N"; with "+tf32" behind
        it CUDA may use TF32.
    providers
        Execution providers by name, in place of a device.
    batch_size
        Samples at a time; it changes the moments by rounding only.
    progress
        Called after each batch with the samples done and the samples in all.
    checkpoint
        Where the moments so far are kept, so that an interrupted run can go on.
    cluster
        Address of a Dask scheduler, whose workers then do it all, without shard and checkpoint.

    Returns
    -------
    Moments
        Bound to the model by its hash. Memory is O(channels x classes).

    Raises
    ------
    ModelError
        If nothing in the model can be removed, or it can't be run.
    UsageError
        If there is no ONNX Runtime, or the device can't be had.
    DataError
        If a sample can't be read or does not fit the model.
    """
    if cluster is not None:
        from .calibration.cluster import calibrate_on

        return calibrate_on(
            cluster,
            model,
            data,
            taps_of(model),
            wanted=wanted,
            device=device,
            providers=providers,
            batch_size=batch_size,
            progress=progress,
        )
    return gathering.calibrate(
        model,
        data,
        taps_of(model),
        wanted=wanted,
        shard=shard,
        device=device,
        providers=providers,
        batch_size=batch_size,
        progress=progress,
        checkpoint=checkpoint,
    )


def score(
    model: Model,
    moments: Moments,
    witness: str = DEFAULT_WITNESS,
    *,
    comparison: Comparison | None = None,
    features: Sequence[str] | None = None,
    confidence: float | None = None,
) -> Scores:
    """Bound how well each channel of a model tells classes apart.

    Parameters
    ----------
    model
        The model that the moments are of.
    moments
        What `calibrate` gathered.
    witness
        A name in `scoring.witness.WITNESSES`.
    comparison
        Which classes are held against which, of `scoring.comparison`; each class against the
        rest, if left out.
    features
        Names of the features, where not the witness's own.
    confidence
        Certify the bounds at this confidence, all at once.

    Returns
    -------
    Scores
        Lower bounds on total variation, (channels, classes): plug-in estimates, unless a
        confidence was asked for.

    Raises
    ------
    UsageError
        If there is no such witness, or it can't take the features.
    DataError
        If the moments are of another model, or do not hold what the witness needs.
    """
    return saliency.score(
        model,
        analyse(model.proto),
        moments,
        witness,
        comparison=comparison,
        features=features,
        confidence=confidence,
    )


def evaluate(
    model: Model,
    data: Dataset,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
    latency: bool = True,
) -> Evaluation:
    """Accuracy, latency and size of a model on labelled samples.

    Parameters are those of `calibrate`, and errors too, but that labels which are the model's own
    are a UsageError; `latency=False` leaves the timing out.
    """
    return evaluation.evaluate(
        model,
        data,
        device=device,
        batch_size=batch_size,
        progress=progress,
        latency=latency,
    )
