"""All figures of a report, whatever it is written as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..editing.verify import Equality
    from ..graph.coupling import Pinned


@dataclass(frozen=True)
class File:
    """A model as a file.

    Attributes
    ----------
    path, sha256
        Where it lies, and the hash that moments and plans are bound to.
    size
        Bytes, external data included.
    parameters
        Elements of floating-point constants.
    macs
        Multiply-accumulates for one sample; None where shapes are open.
    """

    path: str
    sha256: str
    size: int
    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one batch, both models measured in turn."""

    batch: int
    before: float
    after: float


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are put into the right class.

    Attributes
    ----------
    value
        The share.
    low, high
        Wilson's interval at `intervals.CONFIDENCE`.
    images
        How many it rests on.
    """

    value: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy on one class; None where it has no images or no output."""

    name: str
    before: Accuracy | None
    after: Accuracy | None


@dataclass(frozen=True)
class AccuracyTable:
    """Top-1 accuracy before and after.

    Attributes
    ----------
    images
        Which ones, in words.
    before, after
        On the images of all classes that the edited model has outputs for.
    classes
        Class by class.
    """

    images: str
    before: Accuracy
    after: Accuracy
    classes: tuple[ClassAccuracy, ...]


@dataclass(frozen=True)
class Group:
    """A group of components.

    Attributes
    ----------
    name
        The weight that it is named after.
    components
        How many it has.
    removed
        Which of them are gone or silenced, from 0.
    """

    name: str
    components: int
    removed: tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """Channels in and out of one layer; None where the layer is missing."""

    name: str
    op: str
    before: tuple[int, int] | None
    after: tuple[int, int] | None
    changed: bool


@dataclass(frozen=True)
class LayerScores:
    """How well the channels of one tensor tell classes apart.

    Attributes
    ----------
    tensor
        Its name.
    channels
        How many it has.
    mean
        Mean over all of them, by column.
    shown
        The channels that are listed, in order; those with the largest bounds where
        not all are.
    removed
        Whether each listed channel is gone or silenced.
    bounds
        Of each listed channel, by column.
    """

    tensor: str
    channels: int
    mean: tuple[float, ...]
    shown: tuple[int, ...]
    removed: tuple[bool, ...]
    bounds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class HeatMap:
    """Lower bounds on total variation in the original, layers by columns.

    Attributes
    ----------
    witness
        What made the bounds.
    confidence
        That all hold at once; None for estimates.
    columns
        What is told apart: a class from the rest, or two sides.
    layers
        In the order of the graph.
    """

    witness: str
    confidence: float | None
    columns: tuple[str, ...]
    layers: tuple[LayerScores, ...]


@dataclass(frozen=True)
class Point:
    """One value of what was searched, and what it costs."""

    x: float
    accuracy: float
    series: str


@dataclass(frozen=True)
class Search:
    """Accuracy against what was searched.

    Attributes
    ----------
    axis
        What it was: "sparsity", "strength".
    images
        Which images, in words.
    points
        All that was tried.
    chosen
        What was taken.
    """

    axis: str
    images: str
    points: tuple[Point, ...]
    chosen: float | None


@dataclass(frozen=True)
class Confusion:
    """Where the images of a forgotten class go: (class, images), the most first."""

    name: str
    before: tuple[tuple[str, int], ...]
    after: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Attack:
    """An attempt to get a forgotten class back.

    Attributes
    ----------
    name
        What was tried, in words.
    measure
        What the numbers are, in words.
    before, after
        On the original and on the edited model.
    """

    name: str
    measure: str
    before: float
    after: float


@dataclass(frozen=True)
class ForgettingFacts:
    """What was forgotten, and what speaks for it.

    Attributes
    ----------
    classes
        Names.
    way
        Level, method and strength, in words.
    confusions
        One for each forgotten class; none without labelled images.
    attacks
        Those that were run.
    notes
        What could not be measured, and why.
    """

    classes: tuple[str, ...]
    way: str
    confusions: tuple[Confusion, ...] = ()
    attacks: tuple[Attack, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """How an edit was made.

    Attributes
    ----------
    title
        What was done, in a line.
    command
        The command line that repeats it.
    created
        When, UTC, as ISO 8601.
    versions
        By package; Python and the system too.
    facts
        What else is worth knowing: criterion, moments, budget.
    """

    title: str
    command: str
    created: str
    versions: Mapping[str, str]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What was done to a model, and what came of it.

    Attributes
    ----------
    run
        How it was made.
    source, result
        The model before and after.
    plan_sha256
        Of the plan, new values included.
    exact, equality
        Whether the edit was held to the proof, and what the proof found.
    latency
        By batch size; empty where it was not measured.
    accuracy
        None without labelled images.
    groups, layers
        What was kept and removed.
    pinned
        What could not be removed, and why.
    heat
        None without scores.
    search
        None where nothing was searched.
    forgetting
        None where nothing was forgotten.
    """

    run: Run
    source: File
    result: File
    plan_sha256: str
    exact: bool
    equality: Equality
    latency: tuple[Latency, ...]
    accuracy: AccuracyTable | None
    groups: tuple[Group, ...]
    layers: tuple[Channels, ...]
    pinned: tuple[Pinned, ...]
    heat: HeatMap | None
    search: Search | None
    forgetting: ForgettingFacts | None
