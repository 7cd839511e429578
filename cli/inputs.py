"""Images and moments, from the options that name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import discedit_onnx as dx
from discedit_onnx.errors import UsageError

from .output import percent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.calibration.images import Images
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.evaluation import Evaluation
    from discedit_onnx.model import Model

    from .output import Screen

MOMENTS_SUFFIX = ".moments.safetensors"

NEAR_CHANCE = 0.1
"""Share of the way from chance to perfection below which a model's accuracy is suspicious."""


@dataclass(frozen=True)
class Inputs:
    """What was asked for; see the options of the same names."""

    screen: Screen
    model: Model
    data: Path | None
    moments: Path | None
    preprocess: Path | None
    device: str
    batch_size: int

    def images(self) -> Images | None:
        """The images of --data, if it was given."""
        if self.data is None:
            return None
        return dx.open_images(self.model, self.data, self.preprocess)

    def moments_file(self) -> Path | None:
        """The file to read moments from; None if they are to be gathered from --data.

        Raises
        ------
        UsageError
            If there is neither.
        """
        beside = beside_model(self.model.path)
        if self.moments is not None or self.data is not None:
            return self.moments
        if beside.is_file():
            return beside
        raise UsageError(
            f"no calibration: give --data DIR or --moments FILE, or make {beside} with "
            f"`discedit-onnx calibrate {self.model.path} --data DIR`"
        )

    def gather(self, images: Images | None) -> Moments:
        """The moments, read or gathered."""
        file = self.moments_file()
        if file is None:
            assert images is not None
            return calibrate(self.screen, self.model, images, self.device, self.batch_size)
        return dx.load_moments(file)

    def provenance(self) -> str:
        """Where the moments come from, in words."""
        file = self.moments_file()
        return f"calibrated on {self.data}" if file is None else str(file)


def beside_model(model: Path) -> Path:
    """Where a model's moments lie unless another place is named: model.moments.safetensors."""
    return model.with_name(model.stem + MOMENTS_SUFFIX)


def calibrate(
    screen: Screen, model: Model, images: Images, device: str, batch_size: int
) -> Moments:
    """Gather moments, with a bar, and with warnings where they can't be worth much."""
    with screen.progress("calibrating") as progress:
        moments = dx.calibrate(
            model, images, device=device, batch_size=batch_size, progress=progress
        )
    accuracy, classes = float(moments.facts["accuracy"]), len(moments.class_names)
    warn_of_chance(screen, model.path, accuracy, classes)
    unseen = [name for name, n in zip(moments.class_names, moments.count, strict=True) if not n]
    if unseen:
        screen.warn(f"no images of {_listed(unseen)}: nothing is known of what tells them apart")
    return moments


def evaluate(screen: Screen, model: Model, images: Images, what: str, **options: Any) -> Evaluation:
    """Run a model over images, with a bar."""
    with screen.progress(what) as progress:
        return dx.evaluate(model, images, progress=progress, **options)


def warn_of_chance(screen: Screen, model: Path, accuracy: float, classes: int) -> None:
    """Warn if a model does hardly better than guessing on images that it should know."""
    chance = 1 / classes
    if accuracy < chance + NEAR_CHANCE * (1 - chance):
        screen.warn(
            f"{model}: top-1 accuracy on these images is {percent(accuracy)}, near chance "
            f"({percent(chance)}): the preprocessing or the order of the classes is probably wrong"
        )


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
