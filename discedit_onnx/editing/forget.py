"""Make a classifier forget classes: by its output, by its head, or by its features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.classifier import classifier_of
from ..calibration.gathering import calibrate
from ..calibration.placement import taps_of
from ..errors import DataError
from ..graph.coupling import analyse
from .edit import Edit
from .forgetting.classes import find_classes
from .forgetting.head import find_head, require_alone
from .forgetting.job import Job
from .forgetting.outputs import drop_columns
from .forgetting.removal import changed_share
from .forgetting.way import NEED_DATA, Way
from .lineage import hash_of
from .verify import random_feeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..calibration.data import Dataset
    from ..calibration.moments import Moments
    from ..model import Model
    from .forgetting.strength import Search


@dataclass(frozen=True, eq=False, repr=False)
class Forgetting(Edit):
    """An edit that makes a model forget.

    Attributes
    ----------
    way
        What was done.
    classes
        Columns of the original's output that were forgotten.
    layers
        Weights that a projection was folded into.
    changed
        Share of the parameters that have other values than before, or are gone.
    strength
        Of the projection; None where there is none.
    search
        How the strength was found; None where it was not.
    removal
        How the share of components to cut was found; None where it was not.
    """

    way: Way
    classes: tuple[int, ...]
    layers: tuple[str, ...]
    changed: float
    strength: float | None
    search: Search | None
    removal: Search | None


def forget(
    model: Model,
    moments: Moments | None,
    classes: int | str | Sequence[int | str],
    way: Way = Way(),  # noqa: B008  (frozen)
    *,
    data: Dataset | None = None,
    device: str = "auto",
    batch_size: int = 64,
) -> Forgetting:
    """Make a model forget some classes.

    Parameters
    ----------
    model
        The model; not changed.
    moments
        Of this model. Needed at level features, where they can be gathered from `data` too.
    classes
        Indices or names; a single one needs no list.
    way
        How.
    data
        Labelled images: to find the strength by, for methods that need them, to refit what is
        left of a removal, and for the proof of equality. None of it needs them with method
        projection: the strength is then the default one, and the proof runs on random inputs.
    device
        "auto", "cpu", "cuda" or "cuda:N".
    batch_size
        Images at a time; what comes out does not depend on it, but by rounding.

    Returns
    -------
    Forgetting
        The edited model, proved equal to the original with the edits as nodes of their own.

    Raises
    ------
    UsageError
        If a class is unknown, all classes are to be forgotten, or images or moments are needed and
        not given.
    DataError
        If the moments are of another model, or nothing is known of the classes or of others.
    ModelError
        If the model's output does not come from a linear layer, or another output tells the
        classes too.
    GateError
        If the result is not equal to what it should be.
    """
    way.check_sources(moments is not None, data is not None)
    if data is not None:
        data = _labelled(model, data, device, batch_size)
    if way.level == "features" and moments is None and data is not None:
        moments = calibrate(model, data, taps_of(model), device=device, batch_size=batch_size)
    coupling = analyse(model.proto)
    names, chosen = find_columns(model, moments, classes, data)
    known = classifier_of(model)
    head = find_head(coupling.view, known.output, known.num_classes)
    require_alone(coupling.view, head, known.num_classes)
    if way.level == "features":
        _require_both(way, moments, data, chosen)
    edit = _done(Job(model, coupling, head, way, chosen, moments, data, device, batch_size))
    plan = replace(
        edit.plan,
        moments="" if moments is None else hash_of(moments),
        forgotten=tuple(names[k] for k in chosen),
    )
    return replace(edit, plan=plan)


def _labelled(model: Model, data: Dataset, device: str, batch_size: int) -> Dataset:
    """The data with the model's own labels where those are asked for."""
    from ..evaluation import predict

    data.require_fit(model)
    data.require_labels("forgetting")
    if not data.predicted:
        return data
    return predict(model, data, device=device, batch_size=batch_size)


def _require_both(
    way: Way, moments: Moments | None, data: Dataset | None, chosen: list[int]
) -> None:
    """Refuse images that are all of the classes to be forgotten, or none of them."""
    labels = [] if data is None else [data.labels]
    known = [] if moments is None else [moments.class_index[moments.count > 0]]
    if any(np.isin(each, chosen).all() for each in (*labels, *known)):
        raise DataError("there are no images of classes that stay: give images of all classes")
    looked_at = labels if way.method in NEED_DATA else known
    if not any(np.isin(each, chosen).any() for each in looked_at):
        raise DataError(
            "nothing to edit: there are no images of the classes to forget; give images of all "
            "classes, or use --level head"
        )


def _done(job: Job) -> Forgetting:
    """The model edited, and the edit proved."""
    edits, strength, found = job.edits()
    gone, removal = job.components(strength)
    feeds, origin = random_feeds(job.view), "random inputs"
    if job.data is not None:
        feeds, origin = job.data.sample(), "images"
    edit = job.carried_out(edits, gone, feeds, origin)
    if job.way.drop_output:
        edit = drop_columns(
            edit, job.view, job.head, classifier_of(job.model), job.columns,
            feeds, job.device, origin,
        )  # fmt: skip
    return Forgetting(
        **vars(edit),
        way=job.way,
        classes=tuple(job.columns),
        layers=tuple(each.layer.weight for each in edits),
        changed=changed_share(job.model, edit.proto),
        strength=strength,
        search=found,
        removal=removal,
    )


def find_columns(
    model: Model,
    moments: Moments | None,
    classes: int | str | Sequence[int | str],
    data: Dataset | None = None,
) -> tuple[tuple[str, ...], list[int]]:
    """Names of all columns of the head, and the columns to be forgotten.

    Names are those in the model; else those of the moments; else those of the data.

    Raises
    ------
    UsageError
        If a class is unknown, or none or all are to be forgotten.
    DataError
        If the moments are of another model, or do not tell the class from others.
    """
    count = classifier_of(model).num_classes
    names = [str(k) for k in range(count)] if data is None else list(data.class_names)
    if moments is not None:
        moments.require_fit(model)
        for name, column in zip(moments.class_names, moments.class_index.tolist(), strict=True):
            if column >= 0:
                names[column] = name
    if model.class_names is not None and len(model.class_names) == count:
        names = list(model.class_names)
    chosen = find_classes(names, classes)
    if moments is not None and not set(chosen) <= set(moments.class_index.tolist()):
        raise DataError(
            "the moments hold that class among others only; calibrate again with it kept by itself"
        )
    return tuple(names), chosen
