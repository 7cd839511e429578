"""An edited model with the proof that it is what was planned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..amounts import percent
from ..errors import DataError
from ..graph.cost import ParameterCount, count_macs
from ..graph.coupling import analyse
from ..graph.view import View
from ..model import save
from ..tables import Table, Tabular, facts
from .lineage import inscribe
from .plan import plan_removal, plan_zeroing
from .surgery import apply
from .verify import Equality, compare, random_feeds, reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..graph.coupling import Coupling
    from ..model import Model
    from .plan import Bias, Cut, Plan, Update, Zero


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Tabular):
    """An edited model, not yet written.

    Attributes
    ----------
    source
        The model that was edited; unchanged.
    proto
        The edited model; the source's own where nothing was edited.
    plan
        All that was changed.
    components
        What was removed or silenced, shape (components,).
    groups
        For each group, in the order of the graph: its name, its components before, and those
        that are left.
    parameters
        Before and after.
    equality
        How far the edited model lies from the masked original.
    """

    source: Model
    proto: onnx.ModelProto
    plan: Plan
    components: NDArray[np.bool_]
    groups: tuple[tuple[str, int, int], ...]
    parameters: tuple[int, int]
    equality: Equality

    @property
    def sparsity(self) -> float:
        """Share of the parameters that was removed."""
        before, after = self.parameters
        return 1 - after / before if before else 0.0

    @cached_property
    def views(self) -> tuple[View, View]:
        """The graphs before and after."""
        return View(self.source.proto), View(self.proto)

    @cached_property
    def macs(self) -> tuple[int | None, int | None]:
        """Multiply-accumulates for one sample, before and after; None where they are unknown."""
        before, after = self.views
        return count_macs(before), count_macs(after)

    @property
    def planned_size(self) -> int:
        """Bytes that the edited model will take as a file."""
        self._inscribe()
        whole = self.proto is self.source.proto
        return self.source.file_size if whole else self.proto.ByteSize()

    def _inscribe(self) -> None:
        if not self.plan.empty:
            inscribe(self.proto, self.source, self.plan, self.parameters)

    def tables(self) -> Iterator[Table]:
        """What it came to, and what is left of each group."""
        before, after = self.parameters
        found = self.equality
        yield facts(
            f"{self.source.path}, edited",
            parameters=f"{before:,} -> {after:,} ({percent(-self.sparsity)})",
            exact=self.plan.exact,
            deviation=f"{found.deviation:.1e}, on {found.samples} {found.origin}",
        )
        rows = tuple((name, f"{all_:,}", f"{left:,}") for name, all_, left in self.groups)
        yield Table("Components by group", ("group", "before", "left"), rows)

    def save(
        self,
        path: str | Path,
        force: bool = False,
        beside: Callable[[Path], Mapping[str, bytes]] | None = None,
    ) -> None:
        """Write the edited model, and where it comes from; see `discedit_onnx.model.save`."""
        self._inscribe()
        save(self.proto, self.source, path, force, beside)


def carry_out(
    model: Model,
    coupling: Coupling,
    components: NDArray[np.bool_],
    *,
    remove: bool,
    updates: tuple[Update, ...] = (),
    biases: tuple[Bias, ...] = (),
    data: Dataset | None = None,
    device: str = "auto",
) -> Edit:
    """Remove or silence components, and prove the result against the masked original.

    Parameters
    ----------
    model
        The original.
    coupling
        Its coupling.
    components
        Which, shape (components,).
    remove
        Cut them out; otherwise zero the weights that consume them.
    updates, biases
        New values, for the model without the components. Weights that consume silenced ones must
        be zero in them too.
    data
        For the proof of equality; random inputs where there are none.
    device
        As in `calibrate`.

    Raises
    ------
    DataError
        If new values do not fit what is left of the model.
    GateError
        If the edited model's outputs differ from those of the masked original with the same new
        values, though the plan is exact.
    """
    planner = plan_removal if remove else plan_zeroing
    plan = planner(coupling, components, model.hash)
    plan = replace(plan, updates=updates, biases=biases)
    return _proved(model, coupling, components, plan, data, device)


def replay(model: Model, plan: Plan, *, data: Dataset | None = None, device: str = "auto") -> Edit:
    """Carry out a plan that was made before, and prove the result as it was proved then.

    Parameters
    ----------
    model
        The model that the plan was made for.
    plan
        What to do.
    data, device
        As in `carry_out`.

    Raises
    ------
    DataError
        If the plan is for another model, or no plan for this one, or the data were opened for
        another model.
    GateError
        As `carry_out` does.
    """
    if plan.source != model.hash:
        raise DataError(
            f"the plan is for another model (SHA-256 {plan.source[:12]}..., not "
            f"{model.hash[:12]}...) than {model.path}"
        )
    if data is not None:
        data.require_fit(model)
    coupling = analyse(model.proto, plan.reach)
    components = _components(coupling, plan)
    planner = plan_zeroing if plan.zeros else plan_removal
    again = planner(coupling, components, model.hash)
    told = {name: getattr(plan, name) for name in ("updates", "biases", "moments", "forgotten")}
    if replace(again, **told) != plan:
        raise DataError("the plan is not one for this model: make it again")
    return _proved(model, coupling, components, plan, data, device)


def _components(coupling: Coupling, plan: Plan) -> NDArray[np.bool_]:
    """What a plan cuts or zeroes, shape (components,); what can't be removed is left out."""
    chosen = np.zeros(coupling.size + 1, dtype=bool)
    blocks = {(block.tensor, block.axis): block for block in coupling.blocks}
    changes: tuple[Cut | Zero, ...] = (*plan.cuts, *plan.zeros)
    for change in changes:
        block = blocks.get((change.tensor, change.axis))
        if block is not None:
            ids = block.start + np.array(change.indices, dtype=np.int64)
            chosen[coupling.of(ids[ids < block.stop])] = True
    return chosen[:-1]


def _proved(
    model: Model,
    coupling: Coupling,
    components: NDArray[np.bool_],
    plan: Plan,
    data: Dataset | None,
    device: str,
) -> Edit:
    """The edit, if it equals what it must."""
    proto = apply(model.proto, plan)
    origin, feeds = "random inputs", random_feeds(coupling.view)
    if data is not None:
        origin, feeds = "images", data.sample()
    equality = compare(reference(coupling, components, plan), proto, feeds, device, origin)
    if plan.exact:
        equality.require()
    count = ParameterCount(coupling)
    left = count.left(components) if plan.cuts else count.total
    left += sum(bias.values.size for bias in plan.biases)
    groups = tuple(
        (group.name, len(group.components), int((~components[group.components]).sum()))
        for group in coupling.groups
    )
    return Edit(model, proto, plan, components, groups, (count.total, left), equality)
