"""The library in ten functions: what the command line does, for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import evaluation
from .calibration import runner
from .calibration.images import Images, open_images
from .calibration.moments import Moments, load_moments
from .calibration.placement import place_taps
from .editing.forget import forget
from .editing.prune import prune
from .errors import ModelError
from .graph.axes import Reach
from .graph.coupling import analyse
from .inspection import inspect
from .model import Model, load
from .scoring import saliency
from .scoring.saliency import DEFAULT_WITNESS, Scores

if TYPE_CHECKING:
    from .calibration.runner import Progress
    from .evaluation import Evaluation

__all__ = [
    "calibrate",
    "evaluate",
    "forget",
    "inspect",
    "load",
    "load_moments",
    "open_images",
    "prune",
    "score",
]


def calibrate(
    model: Model,
    images: Images,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Moments:
    """Gather moments of a model's activations, class by class, in one pass over images.

    Parameters
    ----------
    model
        An image classifier.
    images
        What `open_images` found.
    device
        "auto" (CUDA where it starts, else the CPU), "cpu", "cuda" or "cuda:N".
    batch_size
        Images at a time; it changes the moments by rounding only.
    progress
        Called after each batch with the images done and the images in all.

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
        If an image can't be read or does not fit the model.
    """
    # All that could be asked for later, so that one file of moments serves for it.
    reaches = (Reach(inexact=True), Reach(inexact=True, inside_heads=True))
    taps = place_taps(*(analyse(model.proto, reach) for reach in reaches))
    if not taps:
        raise ModelError(
            f"{model.path}: nothing in it can be removed; `discedit-onnx inspect` says why"
        )
    return runner.calibrate(
        model,
        images.folder,
        taps,
        images.preprocess,
        device=device,
        batch_size=batch_size,
        progress=progress,
    )


def score(model: Model, moments: Moments, witness: str = DEFAULT_WITNESS) -> Scores:
    """Bound how well each channel of a model tells each class from the rest.

    Parameters
    ----------
    model
        The model that the moments are of.
    moments
        What `calibrate` gathered.
    witness
        "t1", "fisher", "quadratic", "sharp" or "mpm"; see `scoring.witness`.

    Returns
    -------
    Scores
        Plug-in estimates of lower bounds on total variation, (channels, classes).

    Raises
    ------
    UsageError
        If there is no such witness.
    DataError
        If the moments are of another model.
    """
    return saliency.score(model, analyse(model.proto), moments, witness)


def evaluate(
    model: Model,
    images: Images,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
    latency: bool = True,
) -> Evaluation:
    """Accuracy, latency and size of a model on labelled images.

    Parameters and errors are those of `calibrate`; `latency=False` leaves the timing out.
    """
    return evaluation.evaluate(
        model,
        images.folder,
        images.preprocess,
        device=device,
        batch_size=batch_size,
        progress=progress,
        latency=latency,
    )
