"""Make a classifier forget classes: by its output, by its head, or by its features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.classifier import classifier_of
from ..calibration.gathering import Wanted, calibrate
from ..calibration.placement import taps_of
from ..errors import DataError
from ..graph.cost import ParameterCount
from ..graph.coupling import analyse
from ..scoring.saliency import score
from .edit import Edit, carry_out
from .forgetting.classes import find_classes
from .forgetting.components import Amount, choose
from .forgetting.erasers import leace_eraser, svd_eraser
from .forgetting.filling import filled
from .forgetting.head import find_head, projected, refitted, suppressed
from .forgetting.inputs import gather_features
from .forgetting.maps import explicit, fold
from .forgetting.outputs import drop_columns
from .forgetting.removal import changed_share, new_values
from .forgetting.spans import span_edits
from .forgetting.strength import (
    DEFAULT_STRENGTH,
    Judge,
    Search,
    search_share,
    search_strength,
    split,
)
from .forgetting.way import Way
from .lineage import hash_of
from .plan import Plan, plan_removal
from .surgery import apply
from .verify import compare, random_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..calibration.moments import Moments
    from ..calibration.second import SecondMoments
    from ..graph.coupling import Coupling
    from ..graph.view import View
    from ..model import Model
    from .forgetting.maps import LayerEdit
    from .refit.layers import Layer
    from .verify import Feeds

ERASERS = {"svd": svd_eraser, "leace": leace_eraser}


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
    classes: Sequence[int | str],
    way: Way = Way(),  # noqa: B008  (frozen)
    *,
    data: Dataset | None = None,
    device: str = "auto",
) -> Forgetting:
    """Make a model forget some classes.

    Parameters
    ----------
    model
        The model; not changed.
    moments
        Of this model. Needed at level features, where they can be gathered from `data` too.
    classes
        Indices or names.
    way
        How.
    data
        Labelled images: to find the strength by, for methods that need them, to refit what is
        left of a removal, and for the proof of equality. None of it needs them with method
        projection: the strength is then the default one, and the proof runs on random inputs.
    device
        "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    Forgetting
        The edited model, proved equal to the original with the edits as nodes of their own.

    Raises
    ------
    UsageError
        If a class is unknown, or all classes are to be forgotten.
    DataError
        If the moments are of another model, or nothing is known of the classes.
    ModelError
        If the model's output does not come from a linear layer.
    GateError
        If the result is not equal to what it should be.
    """
    way.check_sources(moments is not None, data is not None)
    if data is not None:
        data = _labelled(model, data, device)
    if way.level == "features" and moments is None and data is not None:
        moments = calibrate(model, data, taps_of(model), device=device)
    coupling = analyse(model.proto)
    names, chosen = find_columns(model, moments, classes, data)
    known = classifier_of(model)
    head = find_head(coupling.view, known.output, known.num_classes)
    edit = _Job(model, coupling, head, way, chosen, moments, data, device).done()
    plan = replace(
        edit.plan,
        moments="" if moments is None else hash_of(moments),
        forgotten=tuple(names[k] for k in chosen),
    )
    return replace(edit, plan=plan)


def _labelled(model: Model, data: Dataset, device: str) -> Dataset:
    """The data with the model's own labels where those are asked for."""
    from ..evaluation import predict

    data.require_fit(model)
    data.require_labels("forgetting")
    return predict(model, data, device=device) if data.predicted else data


def find_columns(
    model: Model,
    moments: Moments | None,
    classes: Sequence[int | str],
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
        if moments.source != model.hash:
            raise DataError(f"the moments are of another model; calibrate {model.path} again")
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


@dataclass(frozen=True, eq=False)
class _Job:
    """One request, with all that it needs."""

    model: Model
    coupling: Coupling
    head: Layer
    way: Way
    columns: list[int]
    moments: Moments | None
    data: Dataset | None
    device: str

    @property
    def view(self) -> View:
        return self.coupling.view

    def done(self) -> Forgetting:
        """Edit the model, and prove it."""
        edits, strength, found = self._edits()
        gone, removal = self._components(strength)
        feeds, origin = random_feeds(self.view), "random inputs"
        if self.data is not None:
            feeds, origin = self.data.sample(), "images"
        edit = self._carried_out(edits, gone, feeds, origin)
        if self.way.drop_output:
            edit = drop_columns(
                edit, self.view, self.head, classifier_of(self.model), self.columns,
                feeds, self.device, origin,
            )  # fmt: skip
        return Forgetting(
            **vars(edit),
            way=self.way,
            classes=tuple(self.columns),
            layers=tuple(each.layer.weight for each in edits),
            changed=changed_share(self.model, edit.proto),
            strength=strength,
            search=found,
            removal=removal,
        )

    def _edits(self) -> tuple[list[LayerEdit], float | None, Search | None]:
        """What is put around which layers."""
        if self.way.level == "output":
            return [suppressed(self.view, self.head, self.columns)], None, None
        if self.way.level == "head" or self.way.method == "components":
            return self._last([]), None, None
        strength, found = self.way.strength, None
        if strength is None and self.data is not None:
            found = self._search(self.data)
            strength = found.chosen
        strength = DEFAULT_STRENGTH if strength is None else strength
        edits = self._eraser(self.data, self.moments)(strength)
        return [*edits, *self._last(edits)], strength, found

    def _last(self, edits: list[LayerEdit]) -> list[LayerEdit]:
        """What is done to the head behind other edits."""
        if self.way.keep_head:
            return []
        if not self.way.refit_head:
            return [projected(self.view, self.head, self.columns)]
        assert self.data is not None
        updates, biases = fold(self.view, edits)
        edited = apply(self.model.proto, Plan("", updates=updates, biases=biases))
        seen = gather_features(edited, self.head, self.data, self.device)
        return [refitted(self.view, self.head, *seen, self.columns)]

    def _eraser(
        self, data: Dataset | None, moments: Moments | None
    ) -> Callable[[float], list[LayerEdit]]:
        """The method, fitted: from a strength to edits, none of the head if it is projected."""
        if self.way.method in ERASERS:
            assert data is not None
            make = ERASERS[self.way.method]
            eraser = make(self.view, self.head, data, self.columns, self.device)
            spared = None if self.way.keep_head else self.head
            return lambda strength: [e for e in eraser(strength) if e.layer != spared]
        assert moments is not None
        entries = _entries(moments, self.columns)
        return lambda strength: span_edits(self.view, moments, entries, self.head, strength)

    def _fitted(self, data: Dataset) -> tuple[_Job, Judge]:
        """The same job on three images of four, and what judges it on the fourth."""
        fitted, held_out = split(data)
        moments = None
        if self.way.remove or self.way.method not in ERASERS:
            # The given moments may be of these very images.
            moments = calibrate(self.model, fitted, taps_of(self.model), device=self.device)
        judge = Judge(self.head, held_out, self.columns, self.way.max_drop, self.device)
        return replace(self, data=fitted, moments=moments), judge

    def _search(self, data: Dataset) -> Search:
        """The strength, found on held-out images."""
        part, judge = self._fitted(data)
        eraser = part._eraser(part.data, part.moments)

        def edited(strength: float) -> onnx.ModelProto:
            if not strength:
                return self.model.proto
            updates, biases = fold(self.view, eraser(strength))
            return apply(self.model.proto, Plan("", updates=updates, biases=biases))

        return search_strength(judge, edited)

    def _components(self, strength: float | None) -> tuple[NDArray[np.bool_], Search | None]:
        """What is silenced or cut out, shape (components,), and how its share was found."""
        way, found = self.way, None
        if not (way.remove or way.method == "components"):
            return np.zeros(self.coupling.size, dtype=bool), None
        amount = way.default_amount
        if way.remove and way.amount is None and self.data is not None:
            found = self._search_share(self.data, strength)
            if not found.chosen:
                return np.zeros(self.coupling.size, dtype=bool), found
            amount = Amount("share", found.chosen)
        return self._chosen(amount), found

    def _search_share(self, data: Dataset, strength: float | None) -> Search:
        """The share of components to cut, found on held-out images at a strength."""
        part, judge = self._fitted(data)
        part = replace(part, way=replace(self.way, strength=strength))
        edits, *_ = part._edits()
        second = part._second() if self.way.refit else {}

        def edited(share: float) -> onnx.ModelProto:
            if not share:
                return self.model.proto
            gone = part._chosen(Amount("share", share))
            updates, biases = fold(self.view, part._filled(edits, gone, second))
            proto = apply(self.model.proto, Plan("", updates=updates, biases=biases))
            updates, biases = new_values(
                self.model, proto, self.coupling, gone, biases, remove=True
            )
            plan = plan_removal(self.coupling, gone, self.model.hash)
            return apply(self.model.proto, replace(plan, updates=updates, biases=biases))

        return search_share(judge, edited)

    def _chosen(self, amount: Amount) -> NDArray[np.bool_]:
        """The components that are most specific to the classes, shape (components,)."""
        assert self.moments is not None
        scores = score(self.model, self.coupling, self.moments, self.way.witness)
        able = self.coupling.silenceable | self.way.remove
        entries = _entries(self.moments, self.columns)
        return choose(scores, self.coupling, entries, able, amount, self.way.limits)

    def _filled(
        self,
        edits: list[LayerEdit],
        gone: NDArray[np.bool_],
        second: Mapping[str, SecondMoments],
    ) -> list[LayerEdit]:
        """The edits, and what makes up for components that go."""
        if not (gone.any() and self.way.refit):
            return edits
        assert self.moments is not None
        entries = _entries(self.moments, self.columns)
        return filled(self.coupling, self.moments, gone, entries, edits, second)

    def _carried_out(
        self,
        edits: list[LayerEdit],
        gone: NDArray[np.bool_],
        feeds: Sequence[Feeds],
        origin: str,
    ) -> Edit:
        """The folded edits, proved against the maps as nodes; then what is silenced or cut."""
        model = self.model
        if gone.any() and self.way.refit:
            edits = self._filled(edits, gone, self._second())
        updates, biases = fold(self.view, edits)
        plan = Plan(model.hash, updates=updates, biases=biases)
        proto = apply(model.proto, plan)
        equality = compare(explicit(model.proto, edits), proto, feeds, self.device, origin)
        equality.require()
        if not gone.any():
            total = ParameterCount(self.coupling).total
            groups = tuple(
                (group.name, len(group.components), len(group.components))
                for group in self.coupling.groups
            )
            after = total + sum(bias.values.size for bias in biases)
            return Edit(model, proto, plan, gone, groups, (total, after), equality)
        updates, biases = new_values(
            model, proto, self.coupling, gone, biases, remove=self.way.remove
        )
        edit = carry_out(
            model, self.coupling, gone, remove=self.way.remove,
            updates=updates, biases=biases, data=self.data, device=self.device,
        )  # fmt: skip
        worst = max(equality.deviation, edit.equality.deviation)
        return replace(edit, equality=replace(edit.equality, deviation=worst))

    def _second(self) -> Mapping[str, SecondMoments]:
        """Second moments of retained images; without images, those in the moments, of all."""
        if self.data is None:
            assert self.moments is not None
            return self.moments.second
        others = self.data.take(np.flatnonzero(~np.isin(self.data.labels, self.columns)))
        wanted = Wanted(second=True)
        return calibrate(
            self.model, others, taps_of(self.model), wanted=wanted, device=self.device
        ).second


def _entries(moments: Moments, columns: Sequence[int]) -> list[int]:
    """Where the moments hold some columns of the head."""
    entries: list[int] = np.flatnonzero(np.isin(moments.class_index, columns)).tolist()
    return entries
