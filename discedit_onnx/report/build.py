"""From an edit, and what was measured of it, to a report's figures."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from ..difference import compare_layers
from ..editing.plan_file import digest
from ..environment import PACKAGES
from ..errors import DataError
from ..graph.coupling import analyse
from ..intervals import wilson
from ..model import load
from .figures import (
    Accuracy,
    AccuracyTable,
    Channels,
    ClassAccuracy,
    File,
    Group,
    HeatMap,
    LayerScores,
    Report,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..difference import Layer
    from ..editing.edit import Edit
    from ..evaluation import Evaluation
    from ..graph.coupling import Coupling
    from ..model import Model
    from ..scoring.saliency import Scores
    from .figures import ForgettingFacts, Latency, Run, Search

MOST_BOUNDS = 100_000
"""Bounds of single channels in a report, so that a browser opens it at once."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Measured:
    """What was measured of a model before and after its edit.

    Attributes
    ----------
    images
        Which images the evaluations are on, in words.
    before, after
        On the same images, except for outputs that are gone.
    latency
        By batch size.
    """

    images: str = ""
    before: Evaluation | None = None
    after: Evaluation | None = None
    latency: tuple[Latency, ...] = ()


def build(
    edit: Edit,
    output: str | Path,
    run: Run,
    *,
    measured: Measured = Measured(),
    scores: Scores | None = None,
    search: Search | None = None,
    forgetting: ForgettingFacts | None = None,
) -> Report:
    """Gather the figures of an edit.

    Parameters
    ----------
    edit
        The edit.
    output
        The model that it was written to.
    run
        How it was made.
    measured
        Accuracy and latency.
    scores
        Of the original.
    search, forgetting
        Where there was such a thing.

    Raises
    ------
    ModelError
        If the written model can't be read.
    """
    written = load(output)
    coupling = analyse(edit.source.proto, edit.plan.reach)
    before, after = edit.parameters
    return Report(
        run=run,
        source=_file(edit.source, before, edit.macs[0]),
        result=_file(written, after, edit.macs[1]),
        plan_sha256=digest(edit.plan),
        exact=edit.plan.exact,
        equality=edit.equality,
        latency=measured.latency,
        accuracy=_accuracies(measured),
        groups=_groups(coupling, edit.components),
        layers=_layers(edit.source, written),
        pinned=coupling.pinned,
        heat=None if scores is None else heat_map(scores, edit.components),
        search=search,
        forgetting=forgetting,
    )


def versions() -> dict[str, str]:
    """Versions of this package and of what it depends on; Python and the system too."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in (*PACKAGES, *RUNTIMES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def accuracies(hits: NDArray[np.float64], count: NDArray[np.int64]) -> list[Accuracy | None]:
    """Shares with Wilson's intervals; None where there are no images.

    Parameters
    ----------
    hits, count
        Shape (K,).
    """
    n = np.maximum(count, 1)
    low, high = wilson(hits, n)
    rows = zip((hits / n).tolist(), low.tolist(), high.tolist(), count.tolist(), strict=True)
    return [Accuracy(*row) if row[-1] else None for row in rows]


def heat_map(scores: Scores, removed: NDArray[np.bool_]) -> HeatMap:
    """Scores by layer, and of as many single channels as a report may hold.

    Parameters
    ----------
    scores
        Of the original.
    removed
        Shape (components,).
    """
    columns = max(len(scores.sides), 1)
    each = max(MOST_BOUNDS // columns // max(len(scores.taps), 1), 1)
    gone = np.append(removed, False)[scores.component]
    layers = []
    for tap in scores.taps:
        part = scores.slices[tap.tensor]
        bounds, there = np.round(scores.bounds[part], 4), gone[part]
        shown = np.sort(np.argsort(-bounds.max(axis=1), kind="stable")[:each])
        layers.append(
            LayerScores(
                tensor=tap.tensor,
                channels=tap.length,
                mean=tuple(np.round(bounds.mean(axis=0), 4).tolist()),
                shown=tuple(shown.tolist()),
                removed=tuple(there[shown].tolist()),
                bounds=tuple(map(tuple, bounds[shown].tolist())),
            )
        )
    names = [a if b == "rest" else f"{a} / {b}" for a, b in scores.sides]
    return HeatMap(scores.witness, scores.confidence, tuple(names), tuple(layers))


def _file(model: Model, parameters: int, macs: int | None) -> File:
    return File(str(model.path), model.hash, model.file_size, parameters, macs)


def _accuracies(measured: Measured) -> AccuracyTable | None:
    before, after = measured.before, measured.after
    if before is None or after is None:
        return None
    each_before, each_after = map(_by_class, (before, after))
    left = dict(zip(after.class_names, each_after, strict=True))
    found = each_after
    there = np.ones(len(each_before), dtype=bool)
    if before.class_names != after.class_names:  # else names may be there twice
        found = [left.get(name) for name in before.class_names]
        there = np.array([name in left for name in before.class_names])
    classes = tuple(map(ClassAccuracy, before.class_names, each_before, found))
    return AccuracyTable(measured.images, _overall(before, there), _overall(after), classes)


def _overall(evaluation: Evaluation, classes: NDArray[np.bool_] | None = None) -> Accuracy:
    """On the images of some classes, or of all."""
    hits = np.nan_to_num(evaluation.per_class) * evaluation.count
    chosen = np.ones(len(hits), dtype=bool) if classes is None else classes
    (found,) = accuracies(
        hits[chosen].sum(keepdims=True), evaluation.count[chosen].sum(keepdims=True)
    )
    if found is None:
        raise DataError("no images of classes that the model has outputs for")
    return found


def _by_class(evaluation: Evaluation) -> list[Accuracy | None]:
    return accuracies(np.nan_to_num(evaluation.per_class) * evaluation.count, evaluation.count)


def _groups(coupling: Coupling, removed: NDArray[np.bool_]) -> tuple[Group, ...]:
    return tuple(
        Group(
            group.name,
            len(group.components),
            tuple(np.flatnonzero(removed[group.components]).tolist()),
        )
        for group in coupling.groups
    )


def _layers(before: Model, after: Model) -> tuple[Channels, ...]:
    def width(layer: Layer | None) -> tuple[int, int] | None:
        return None if layer is None else (layer.inputs, layer.outputs)

    found: Sequence[Channels] = [
        Channels(pair.name, (pair.a or pair.b).op, width(pair.a), width(pair.b), pair.changed)  # type: ignore[union-attr]
        for pair in compare_layers(before, after)
    ]
    return tuple(found)
