"""Pruning: which components go, and what is left refitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..calibration.gathering import calibrate
from ..calibration.placement import taps_of
from ..errors import UsageError, require_count
from ..graph.axes import Reach
from ..graph.coupling import analyse
from ..scoring.saliency import DEFAULT_REDUCTION
from .budget import Budget, require_reach
from .criteria import REFITS, check_criterion, defaults, needs_moments, require_data
from .measures import WithBiases, cost_of
from .order import RANKINGS, Limits, Ranking, removal_order
from .pruner import Pruner
from .refit.biases import missing_biases
from .rounds import in_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..calibration.data import Dataset
    from ..calibration.moments import Moments
    from ..graph.coupling import Coupling
    from ..model import Model
    from .budget import Cost
    from .criteria import Refitting
    from .edit import Edit


def prune(
    model: Model,
    moments: Moments | None = None,
    *,
    budget: Budget | None = None,
    sparsity: float | None = None,
    criterion: str | None = None,
    join: str = DEFAULT_REDUCTION,
    ranking: Ranking = "global",
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    refit: Refitting | None = None,
    rounds: int = 1,
    seed: int = 0,
    inexact: bool = False,
    inside_heads: bool = False,
    data: Dataset | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Edit:
    """Remove components of a model, and refit what is left of it.

    Parameters
    ----------
    model
        The model; not changed.
    moments
        Of this model; needed by the witnesses, and gathered where only `data` are given.
    budget
        What the result may cost.
    sparsity
        In place of a budget, the share of the model's parameters to remove, in [0, 1).
    criterion
        "least-squares" (what the rest can make up for best, needs `data`); a witness of
        `scoring.witness.WITNESSES`; "energy" (mean square, relative to its layer's); "l1", "l2"
        (filter norms, likewise); "random"; or a product, such as "fisher*energy^0.5"
        (`criteria.factors`). By default "least-squares" where there are data and no moments, else
        a witness.
    join
        How a witness's bounds for all classes become one number: "max", "mean", "min", "top-3"
        and the like, "pairwise-min", "pairwise-mean"; see `scoring.saliency.REDUCTIONS`.
    ranking
        How components of different groups are compared; see `order.removal_order`.
    limits
        What may be cut, and how far.
    refit
        "patch" gives the layers the weights that bring them nearest to what the whole network
        gives, "channel" tells each removed channel from those that are left, "bias" only gives
        back the mean of what was removed, "off" nothing. By default "patch" where
        there are data and no moments; see `refit.refit`.
    rounds
        Steps to the budget; between them the pruned model is scored anew, with `data`
        (IterTVSPrune).
    seed
        For "random", and for the samples that are looked at.
    inexact
        Also remove widths that a layer normalisation takes its statistics over; the result then
        differs from the masked original, and only the difference is reported.
    inside_heads
        Remove the same dimensions in every attention head, not whole heads.
    data
        For least squares, refit and later rounds; and for the proof of equality, which takes
        random inputs where there are none. No labels are needed for these.
    device
        "auto", "cpu", "cuda" or "cuda:N".
    batch_size
        Samples at a time where moments are gathered.
    progress
        Called with steps done and steps in all, of each part of the work in turn.

    Returns
    -------
    Edit
        The edited model, proved equal to the masked original with the same new weights, but with
        `inexact`, where that can't be proved.

    Raises
    ------
    UsageError
        If the criterion, the ranking, the refit or the way to join classes is unknown, not exactly
        one of `budget` and `sparsity` is given, data or moments are needed and not given, or the
        graph does not allow the budget.
    DataError
        If the moments are of another model, or the data were opened for another.
    GateError
        If the result is not equal to the masked original.
    """
    if data is not None:
        data.require_fit(model)
    wanted = _one_of(budget, sparsity)
    require_count("rounds", rounds)
    require_count("seed", seed, least=0)
    _require_known("ranking", ranking, RANKINGS)
    _require_known("refit", refit, (None, *REFITS))
    criterion, refit = defaults(criterion, refit, data is not None, moments is not None)
    require_data(criterion, refit, rounds, data is not None)
    coupling = analyse(model.proto, Reach(inexact, inside_heads))
    check_criterion(criterion, join)
    cost = check_request(model, coupling, wanted, limits, refit, device)
    if moments is None and data is not None and needs_moments(criterion):
        moments = calibrate(model, data, taps_of(model), device=device, batch_size=batch_size)
    pruner = Pruner(
        model, coupling, moments, data, wanted.kind, criterion, join, ranking, limits, refit, seed,
        device, progress, batch_size,
    )  # fmt: skip
    return pruner.edit(in_rounds(pruner, wanted, cost, rounds))


def _require_known(name: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        raise UsageError(f"no {name} {value!r}; there are {', '.join(filter(None, known))}")


def _one_of(budget: Budget | None, sparsity: float | None) -> Budget:
    if (budget is None) == (sparsity is None):
        raise UsageError("give exactly one of a budget and a sparsity")
    if budget is None:
        return Budget("sparsity", sparsity)  # type: ignore[arg-type]
    if not isinstance(budget, Budget):
        raise UsageError(f'budget {budget!r}: give one as Budget("macs", 0.5)')
    return budget


def check_request(
    model: Model,
    coupling: Coupling,
    budget: Budget,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    refit: Refitting = "off",
    device: str = "auto",
) -> Cost:
    """Refuse what can't be done, before time is spent on calibration.

    Returns
    -------
    Cost
        What the budget is held against.

    Raises
    ------
    UsageError
        If a pattern of the limits fits nothing, or the graph does not allow the budget.
    """
    cost = cost_of(budget.kind, model, coupling, device)
    if refit != "off":
        cost = WithBiases(cost, budget.kind, missing_biases(coupling.view))
    order = removal_order(coupling, np.zeros(coupling.size), limits=limits)
    require_reach(order, budget, cost, limits.barring)
    return cost
