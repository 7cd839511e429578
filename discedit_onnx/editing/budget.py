"""How much may be left, and the shortest run of removals that gets there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..errors import UsageError, require_finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .order import Order

Kind = Literal["sparsity", "macs", "size", "latency"]
KINDS: tuple[Kind, ...] = get_args(Kind)

COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}
UNITS: dict[str, dict[str, float]] = {
    "sparsity": COUNTS,
    "macs": COUNTS,
    "size": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"us": 1e-3, "ms": 1, "s": 1e3},
}
"""What absolute amounts are given in, in parameters, MACs, bytes and milliseconds; in any case."""

AMOUNT = re.compile(r"([-+.\de]*\d)\s*(%|[a-z]+)", re.IGNORECASE)


class Cost(Protocol):
    """What a model costs when components are removed; never more than with fewer removed."""

    @property
    def total(self) -> float:
        """With nothing removed."""

    def left(self, removed: NDArray[np.bool_]) -> float:
        """With components of shape (components,) removed."""


@dataclass(frozen=True)
class Budget:
    """What an edited model may cost.

    Attributes
    ----------
    kind
        "sparsity" (parameters), "macs" (multiply-accumulates for one sample), "size" (bytes of
        the file) or "latency" (milliseconds for a batch of one, measured).
    amount
        Of sparsity, the least share of the parameters to remove, in [0, 1). Of the others, the
        largest share that may be left, in (0, 1].
    absolute
        Whether `amount` is no share, but a number: parameters to remove; MACs, bytes or
        milliseconds that may be left.

    Raises
    ------
    UsageError
        If there is no such kind, or the amount is no number or out of range.
    """

    kind: Kind
    amount: float
    absolute: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no budget of {self.kind!r}; there are {', '.join(KINDS)}")
        if isinstance(self.amount, str):
            raise UsageError(
                f"{self.kind} {self.amount!r} is no number; Budget.parse reads such text"
            )
        require_finite(self.kind, self.amount)
        fits, interval = self.amount > 0, "positive"
        if self.kind == "sparsity":
            fits = self.amount >= 0
        if not self.absolute and self.kind == "sparsity":
            fits, interval = 0 <= self.amount < 1, "in [0, 1)"
        elif not self.absolute:
            fits, interval = 0 < self.amount <= 1, "in (0, 1]"
        if not fits:
            units = ", ".join(UNITS[self.kind])
            raise UsageError(
                f"{self.kind} {self.amount:g} is not {interval}; a number that is no share needs "
                f"a unit ({units})"
            )

    @classmethod
    def parse(cls, kind: Kind, text: str) -> Budget:
        """What people write: 0.3, 30%, 41M, 5MB, 3ms.

        Raises
        ------
        UsageError
            If it is none of these, or out of range.
        """
        number, unit = _number_and_unit(text)
        if unit in ("", "%"):
            return cls(kind, number / 100 if unit else number)
        factors = {name.lower(): factor for name, factor in UNITS[kind].items()}
        if unit not in factors:
            units = ", ".join(UNITS[kind])
            raise UsageError(f"{kind} {text}: give a share, as 0.5 or 50%, or a number of {units}")
        return cls(kind, number * factors[unit], absolute=True)

    def reached(self, left: float, total: float) -> float:
        """What of `total` was removed or is left, in the terms of `amount`."""
        number = total - left if self.kind == "sparsity" else left
        if self.absolute:
            return number
        # Not through `number`: a share must not fall short of itself by rounding.
        ratio = left / total if total else 1.0
        return 1 - ratio if self.kind == "sparsity" else ratio

    def met(self, left: float, total: float) -> bool:
        """Whether what is left of `total` is little enough."""
        reached = self.reached(left, total)
        return reached >= self.amount if self.kind == "sparsity" else reached <= self.amount

    def on_the_way(self, total: float, done: float) -> Budget:
        """An intermediate budget, by a share in (0, 1] of the way there: equal ratios each time."""
        if done == 1:
            return self
        allowed = self.amount / total if self.absolute and total else self.amount
        left = min(1.0, 1 - allowed if self.kind == "sparsity" else allowed)
        ratio = max(left, 0.0) ** done
        return Budget(self.kind, 1 - ratio if self.kind == "sparsity" else ratio)

    def written(self, amount: float) -> str:
        """An amount as people write it, rounded to what can be met where it can be."""
        rounding = math.floor if self.kind == "sparsity" else math.ceil
        if not self.absolute:
            return f"{rounding(amount * 1e4) / 1e4:.4f}"
        usual = {name: factor for name, factor in UNITS[self.kind].items() if "i" not in name}
        fitting = [name for name in usual if amount >= usual[name]]
        unit = max(fitting, key=usual.__getitem__, default=min(usual, key=usual.__getitem__))
        return f"{rounding(amount / usual[unit] * 1e3) / 1e3:g}{unit}"


def _number_and_unit(text: str) -> tuple[float, str]:
    """The unit is "" where there is none, and "?" where the text is no number."""
    try:
        return float(text), ""
    except ValueError:
        found = AMOUNT.fullmatch(text.strip())
    try:
        return (math.nan, "?") if found is None else (float(found[1]), found[2].lower())
    except ValueError:
        return math.nan, "?"


def cut_off(order: Order, budget: Budget, cost: Cost) -> NDArray[np.bool_]:
    """The shortest run of removals, from the first, that meets a budget.

    Parameters
    ----------
    order
        All removals that are possible, first to last.
    budget
        What may be left.
    cost
        Of its kind.

    Returns
    -------
    ndarray of bool, shape (components,)
        What to remove. The budget is met, and would not be without the last step.

    Raises
    ------
    UsageError
        If all removals together do not meet it; the message says what they reach.
    """
    require_reach(order, budget, cost)
    low, high = 0, len(order.steps)
    while low < high:
        middle = (low + high) // 2
        enough = budget.met(cost.left(order.first(middle)), cost.total)
        low, high = (low, middle) if enough else (middle + 1, high)
    return order.first(low)


def give_back(
    order: Order,
    removed: NDArray[np.bool_],
    budget: Budget,
    cost: Cost,
    group_of: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Put back what the last, large steps made it needless to remove, most salient first.

    Parameters
    ----------
    order
        What `cut_off` was given.
    removed
        What it chose, shape (components,).
    budget, cost
        As there; the cost is asked for once for each step of `removed` at most.
    group_of
        Group of each component; what went first from a group stays away longest.

    Returns
    -------
    ndarray of bool, shape (components,)
        Part of `removed`. The budget is met, and would not be with one step less of any group.
    """
    removed = removed.copy()
    needed: set[int] = set()
    for step in reversed([step for step in order.steps if removed[step].all()]):
        group = int(group_of[step[0]])
        if group not in needed:
            removed[step] = False
            if not budget.met(cost.left(removed), cost.total):
                removed[step] = True
                needed.add(group)
    return removed


def require_reach(order: Order, budget: Budget, cost: Cost, barring: str = "") -> None:
    """Refuse a budget that all removals together do not meet.

    Parameters
    ----------
    order, budget, cost
        As for `cut_off`.
    barring
        What keeps the order from being longer, besides the graph; see `order.Limits.barring`.

    Raises
    ------
    UsageError
        Saying what they reach.
    """
    least = cost.left(order.first(len(order.steps)))
    if not budget.met(least, cost.total):
        more, most = ("more", "most") if budget.kind == "sparsity" else ("less", "least")
        reached = budget.written(budget.reached(least, cost.total))
        within = f" with {barring}" if barring else ""
        raise UsageError(
            f"{budget.kind} {_asked(budget)} is {more} than this graph allows{within}: "
            f"at {most} {reached}"
        )


def _asked(budget: Budget) -> str:
    return budget.written(budget.amount) if budget.absolute else f"{budget.amount:g}"
