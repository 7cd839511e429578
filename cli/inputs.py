"""Data and moments, from the options that name them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import discedit_onnx as dx
from discedit_onnx.amounts import percent
from discedit_onnx.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.calibration.shards import Shard
    from discedit_onnx.evaluation import Evaluation
    from discedit_onnx.model import Model

    from .output import Screen

MOMENTS_SUFFIX = ".moments.safetensors"

NEAR_CHANCE = 0.1
"""Share of the way from chance to perfection below which a model's accuracy is suspicious."""

MEND = "give the right one with --preprocess or --class-map, or go on with --force"

LOOKED_AT = 256
"""Samples on which it is measured where nothing else needs the labels."""


@dataclass(frozen=True)
class DataOptions:
    """What was asked for of the data; see the options of the same names."""

    where: str | None
    preprocess: str | None = None
    labels: str = "given"
    class_map: Path | None = None
    num_samples: int | None = None
    seed: int = 0

    def require_there(self) -> None:
        """Refuse a name that stands for nothing, where the samples themselves are not needed.

        Raises
        ------
        DataError
            If there is no such file or folder.
        """
        from discedit_onnx.calibration.opening import SCRIPT

        script = SCRIPT.fullmatch(str(self.where))
        where = str(self.where) if script is None else script[1]
        if not (os.path.exists(where) or glob.glob(where)):
            raise DataError(f"{where}: no such file or folder; correct --data, or leave it out")

    def open(self, model: Model) -> Dataset:
        """The samples of --data."""
        assert self.where is not None
        return dx.open_data(
            model,
            self.where,
            preprocess=self.preprocess,
            labels=self.labels,
            num_samples=self.num_samples,
            seed=self.seed,
            class_map=self.class_map,
        )


@dataclass(frozen=True)
class Inputs:
    """What was asked for; see the options of the same names."""

    screen: Screen
    model: Model
    data: DataOptions
    moments: Path | None
    device: str
    batch_size: int
    force: bool

    def opened(self) -> Dataset | None:
        """The samples of --data, if it was given."""
        return None if self.data.where is None else self.data.open(self.model)

    def moments_file(self) -> Path | None:
        """The file to read moments from; None if they are to be gathered from --data.

        Raises
        ------
        UsageError
            If there is neither.
        """
        beside = beside_model(self.model.path)
        if self.moments is not None or self.data.where is not None:
            return self.moments
        if beside.is_file():
            return beside
        raise UsageError(
            f"no calibration: give --data DIR or --moments FILE, or make {beside} with "
            f"`discedit-onnx calibrate {self.model.path} --data DIR`"
        )

    def gather(self, data: Dataset | None) -> Moments:
        """The moments, read or gathered."""
        file = self.moments_file()
        if file is None:
            assert data is not None
            return calibrate(
                self.screen,
                self.model,
                data,
                force=self.force,
                device=self.device,
                batch_size=self.batch_size,
            )
        return dx.load_moments(file)

    def require_sense(self, data: Dataset | None) -> None:
        """Refuse labelled samples on which the model does hardly better than guessing.

        For commands that need no labels, and would otherwise fit a model to images that are
        prepared wrongly.

        Raises
        ------
        DataError
            If it does, unless forced.
        """
        if data is None or self.force or data.predicted or (data.labels < 0).any():
            return
        import numpy as np

        few = data.take(np.linspace(0, len(data) - 1, min(LOOKED_AT, len(data))).astype(np.int64))
        settings = {"device": self.device, "batch_size": self.batch_size, "latency": False}
        found = evaluate(self.screen, self.model, few, "looking at the data", **settings)
        doubt = near_chance(self.model.path, found.top1, data)
        if doubt is not None:
            raise DataError(f"{doubt}; {MEND}")

    def provenance(self) -> str:
        """Where the moments come from, in words."""
        file = self.moments_file()
        return f"calibrated on {self.data.where}" if file is None else str(file)


def beside_model(model: Path, shard: Shard | None = None) -> Path:
    """Where a model's moments lie unless another place is named: model.moments.safetensors.

    Those of a shard are no moments of all data: they lie in model.2-of-8.moments.safetensors.
    """
    part = "" if shard is None or shard.of == 1 else f".{shard.number}-of-{shard.of}"
    return model.with_name(model.stem + part + MOMENTS_SUFFIX)


def calibrate(
    screen: Screen, model: Model, data: Dataset, *, force: bool, **options: Any
) -> Moments:
    """Gather moments, with a bar, and with warnings where they can't be worth much.

    Raises
    ------
    DataError
        If the model does hardly better than guessing, unless forced.
    """
    with screen.progress("calibrating") as progress:
        moments = dx.calibrate(model, data, progress=progress, **options)
    whole = moments.count.sum() == len(data)  # else it is a shard, perhaps of one class
    doubt = None
    if moments.accuracy is not None:
        doubt = near_chance(model.path, moments.accuracy, data)
    if doubt is not None and whole and not force:
        raise DataError(f"{doubt}; {MEND}")
    if doubt is not None:
        screen.warn(doubt)
    unseen = [name for name, n in zip(moments.class_names, moments.count, strict=True) if not n]
    if unseen and whole:
        screen.warn(f"no images of {_listed(unseen)}: nothing is known of what tells them apart")
    return moments


def evaluate(screen: Screen, model: Model, data: Dataset, what: str, **options: Any) -> Evaluation:
    """Run a model over samples, with a bar."""
    with screen.progress(what) as progress:
        return dx.evaluate(model, data, progress=progress, **options)


def with_latency(
    screen: Screen,
    models: Sequence[Model],
    data: Sequence[Dataset],
    found: Sequence[Evaluation],
    device: str,
) -> list[Evaluation]:
    """What was found of models, with their times: they take turns, so that they compare."""
    from discedit_onnx.evaluation import measure_latency

    with screen.progress("latency") as progress:
        times = measure_latency(models, data, device, progress)
    return [replace(one, latency_ms=own) for one, own in zip(found, times, strict=True)]


def require_true_labels(data: Dataset, purpose: str) -> None:
    """Refuse samples without labels where the model's own can't stand in for them.

    Raises
    ------
    DataError
        If a label is missing.
    """
    missing = int((data.labels < 0).sum())
    if missing and not data.predicted:
        which = "no labels" if missing == len(data) else f"{missing:,} samples without a label"
        raise DataError(
            f"{data.source.name}: {which}, and {purpose} needs true ones; sort images into one "
            "folder a class"
        )


def near_chance(model: Path, accuracy: float, data: Dataset) -> str | None:
    """What to say if a model does hardly better than guessing on data that it should know."""
    chance = 1 / len(data.class_names)
    if accuracy >= chance + NEAR_CHANCE * (1 - chance):
        return None
    facts = data.facts
    return (
        f"{model}: top-1 accuracy on these images is {percent(accuracy)}, near chance "
        f"({percent(chance)}): the preprocessing ({facts['preprocessing']}; "
        f"{facts['preprocessing_origin']}) or the order of the classes ({facts['labels']}) is "
        "probably wrong"
    )


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
