"""One request of `forget`, worked out: what is put around layers, and which components go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...calibration.gathering import Wanted, calibrate
from ...calibration.placement import taps_of
from ...graph.cost import ParameterCount
from ...scoring.saliency import score
from ..edit import Edit, carry_out
from ..plan import Plan, plan_removal
from ..surgery import apply
from ..verify import compare
from .components import Amount, choose
from .erasers import ERASERS
from .filling import filled
from .head import scores_of
from .head_edits import projected, refitted, suppressed
from .inputs import gather_features, gather_rows
from .maps import at_input, explicit, fold
from .removal import new_values
from .spans import span_edits
from .strength import DEFAULT_STRENGTH, Judge, Search, search_share, search_strength, split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from ...calibration.data import Dataset
    from ...calibration.moments import Moments
    from ...calibration.second import SecondMoments
    from ...graph.coupling import Coupling
    from ...graph.view import View
    from ...model import Model
    from ..refit.layers import Layer
    from ..verify import Feeds
    from .erasers import Eraser
    from .maps import LayerEdit
    from .way import Way


@dataclass(frozen=True, eq=False)
class Job:
    """One request, with all that it needs.

    Attributes
    ----------
    model, coupling, head
        The model, its coupling, and its last layer.
    way
        How classes are forgotten.
    columns
        Of the head, one for each class that goes.
    moments, data, device, batch_size
        As in `forget`; moments at level features only need to be there.
    """

    model: Model
    coupling: Coupling
    head: Layer
    way: Way
    columns: list[int]
    moments: Moments | None
    data: Dataset | None
    device: str
    batch_size: int

    @property
    def view(self) -> View:
        return self.coupling.view

    def edits(self) -> tuple[list[LayerEdit], float | None, Search | None]:
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
        seen = gather_features(edited, self.head, self.data, self.device, self.batch_size)
        return [refitted(self.view, self.head, *seen, self.columns)]

    def _eraser(
        self, data: Dataset | None, moments: Moments | None
    ) -> Callable[[float], list[LayerEdit]]:
        """The method, fitted: from a strength to edits, none of the head if it is projected."""
        if self.way.method in ERASERS:
            assert data is not None
            return self._erased(ERASERS[self.way.method], data)
        assert moments is not None
        entries = _entries(moments, self.columns)
        return lambda strength: span_edits(self.view, moments, entries, self.head, strength)

    def _erased(self, eraser: Eraser, data: Dataset) -> Callable[[float], list[LayerEdit]]:
        """A method that needs second moments, with those of the data."""
        layers = eraser.layers(self.view, self.head)
        rows = gather_rows(self.view, layers, data, self.columns, self.device, self.batch_size)
        spared = None if self.way.keep_head else self.head

        def edits(strength: float) -> list[LayerEdit]:
            maps = {
                layer: eraser.map(retained, gone, strength)
                for layer, (retained, gone) in zip(layers, rows, strict=True)
                if layer != spared
            }
            return [at_input(self.view, layer, *found) for layer, found in maps.items() if found]

        return edits

    def _fitted(self, data: Dataset) -> tuple[Job, Judge]:
        """The same job on three images of four, and what judges it on the fourth."""
        fitted, held_out = split(data)
        moments = None
        if self.way.remove or self.way.method not in ERASERS:
            # The given moments may be of these very images.
            moments = calibrate(
                self.model, fitted, taps_of(self.model),
                device=self.device, batch_size=self.batch_size,
            )  # fmt: skip
        scores = scores_of(self.view, data.classifier.output, self.head)
        judge = Judge(
            scores, held_out, self.columns, self.way.max_drop, self.device, self.batch_size
        )
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

    def components(self, strength: float | None) -> tuple[NDArray[np.bool_], Search | None]:
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
        edits, *_ = part.edits()
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

    def carried_out(
        self,
        edits: list[LayerEdit],
        gone: NDArray[np.bool_],
        feeds: Sequence[Feeds],
        origin: str,
    ) -> Edit:
        """The folded edits, proved against the maps as nodes; then what is silenced or cut.

        Parameters
        ----------
        edits, gone
            What `edits` and `components` gave.
        feeds, origin
            What to prove it on, and what that is called.

        Raises
        ------
        GateError
            If the result is not equal to what it should be.
        """
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
        return calibrate(
            self.model, others, taps_of(self.model),
            wanted=Wanted(second=True), device=self.device, batch_size=self.batch_size,
        ).second  # fmt: skip


def _entries(moments: Moments, columns: Sequence[int]) -> list[int]:
    """Where the moments hold some columns of the head."""
    entries: list[int] = np.flatnonzero(np.isin(moments.class_index, columns)).tolist()
    return entries
