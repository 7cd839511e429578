"""A model with all that its pruning looks at, found once: for one budget or for many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..calibration.gathering import calibrate
from ..calibration.placement import taps_of
from ..errors import UsageError
from ..graph.cost import MacCount, ParameterCount
from ..scoring.energy import energy
from ..scoring.saliency import comparison_for, saliency, score
from ..scoring.weights import chance, magnitude
from .criteria import ENERGY, LEAST_SQUARES, factors, needs_moments, needs_samples
from .edit import carry_out
from .lineage import hash_of
from .order import removal_order
from .plan import plan_removal
from .refit.batches import gather_batches
from .refit.curves import least_squares
from .refit.refit import refit as refit_layers
from .surgery import apply

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray

    from ..calibration.data import Dataset
    from ..calibration.moments import Moments
    from ..graph.coupling import Coupling
    from ..model import Model
    from .budget import Cost, Kind
    from .criteria import Factor, Refitting
    from .edit import Edit
    from .order import Limits, Order, Ranking
    from .plan import Plan
    from .refit.batches import Batches


@dataclass(frozen=True, eq=False)
class Pruner:
    """What `prune` was asked for, and what it found out so far.

    Attributes
    ----------
    model, coupling
        What is pruned.
    moments, data
        What there is to look at.
    kind
        Of the budget.
    criterion, join, ranking, limits, refit, seed, device, progress, batch_size
        As in `prune`.
    """

    model: Model
    coupling: Coupling
    moments: Moments | None
    data: Dataset | None
    kind: Kind
    criterion: str
    join: str
    ranking: Ranking
    limits: Limits
    refit: Refitting
    seed: int
    device: str
    progress: Callable[[int, int], None] | None
    batch_size: int = 64

    @cached_property
    def batches(self) -> Batches | None:
        """Samples for choice and refit; None where neither looks at any."""
        needed = needs_samples(self.criterion) or self.refit != "off"
        return gather_batches(self.data, self.seed) if needed and self.data is not None else None

    @cached_property
    def order(self) -> Order:
        """Of all removals that are possible, first to last."""
        return self.order_of(self.score_of(self.model, self.coupling))

    def score_of(self, current: Model, its: Coupling) -> NDArray[np.float64]:
        """Saliency of the components of the model, or of what rounds left of it.

        That of a product is on no scale: only its order counts.
        """
        parts = factors(self.criterion)
        moments = self.moments
        if needs_moments(self.criterion) and current is not self.model and self.data is not None:
            moments = calibrate(
                current, self.data, taps_of(current),
                device=self.device, batch_size=self.batch_size, progress=self.progress,
            )  # fmt: skip
        found = [self._factor(part, current, its, moments) for part in parts]
        if len(parts) == 1 and parts[0].power == 1:
            return found[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = [part.power * np.log(each) for part, each in zip(parts, found, strict=True)]
            product: NDArray[np.float64] = np.nan_to_num(np.exp(sum(logs)), nan=0.0, posinf=np.inf)
        return product

    def _factor(
        self, part: Factor, current: Model, its: Coupling, moments: Moments | None
    ) -> NDArray[np.float64]:
        if part.name == LEAST_SQUARES and self.batches is not None:
            return least_squares(
                its, _counted(self.kind, its), self.batches.choose, self.batches.judge,
                aim=self.model.proto, apart=self.refit == "patch",
                device=self.device, seed=self.seed, progress=self.progress,
            )  # fmt: skip
        if part.name in ("l1", "l2"):
            return magnitude(its, int(part.name[1]))
        if part.name == "random":
            return chance(its, self.seed)
        known = require(moments, self.criterion)
        known.require_fit(current)
        if part.name == ENERGY:
            return energy(its, known)
        comparison = comparison_for(self.join, known)
        return saliency(score(current, its, known, part.name, comparison=comparison), self.join)

    def order_of(self, saliency: NDArray[np.float64]) -> Order:
        """The order of removals for a saliency of shape (components,)."""
        return removal_order(self.coupling, saliency, self.ranking, self.limits)

    def refitted(self, removed: NDArray[np.bool_]) -> Plan:
        """The plan that removes components, of shape (components,), and refits what is left."""
        plan = plan_removal(self.coupling, removed, self.model.hash)
        if self.refit == "off" or self.batches is None:
            return plan
        new = refit_layers(
            self.coupling, removed, plan, self.batches.refit,
            kind=self.refit, device=self.device, seed=self.seed,
            progress=self.progress,
        )  # fmt: skip
        return replace(plan, updates=new.updates, biases=new.biases)

    def left(self, removed: NDArray[np.bool_]) -> onnx.ModelProto:
        """What is left, refitted and not proved: for the next round to look at."""
        return apply(self.model.proto, self.refitted(removed))

    def edit(self, removed: NDArray[np.bool_]) -> Edit:
        """What is left, refitted and proved.

        Raises
        ------
        GateError
            If it is not equal to the masked original.
        """
        plan = self.refitted(removed)
        edit = carry_out(
            self.model, self.coupling, removed, remove=True,
            updates=plan.updates, biases=plan.biases, data=self.data, device=self.device,
        )  # fmt: skip
        if self.moments is None or not needs_moments(self.criterion):
            return edit
        return replace(edit, plan=replace(edit.plan, moments=hash_of(self.moments)))


def _counted(kind: Kind, coupling: Coupling) -> Cost:
    """What stands for a cost where many removals are compared: it can't be measured each time."""
    return (MacCount if kind in ("macs", "latency") else ParameterCount)(coupling)


def require(moments: Moments | None, purpose: str) -> Moments:
    """The moments, or an error that says how to get them."""
    if moments is None:
        raise UsageError(f"{purpose} needs calibration: give --data or --moments")
    return moments
