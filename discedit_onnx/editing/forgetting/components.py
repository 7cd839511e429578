"""DisCEdit-U: which components carry a class, by sign and bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...errors import DataError, UsageError, require_finite
from ..order import Limits, removal_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from ...scoring.saliency import Scores

LATER = 0.5
"""A component is in the later layers if it is first consumed in the last half of the taps."""


@dataclass(frozen=True)
class Amount:
    """How many components are taken for each class.

    Attributes
    ----------
    kind
        "share": of the later layers' components, all layers ranked together; "count": in each
        group; "deviations": those above the mean by so many standard deviations.
    value
        In (0, 1), at least 1, and any number.
    """

    kind: Literal["share", "count", "deviations"] = "share"
    value: float = 0.08

    def __post_init__(self) -> None:
        require_finite(self.kind, self.value)
        if self.kind == "share" and not 0 < self.value < 1:
            raise UsageError(f"share {self.value:g} is not in (0, 1)")
        if self.kind == "count" and not (self.value >= 1 and self.value == int(self.value)):
            raise UsageError(f"count {self.value:g} is not a whole number from 1")


def choose(
    scores: Scores,
    coupling: Coupling,
    forgotten: Sequence[int],
    candidates: NDArray[np.bool_],
    amount: Amount,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> NDArray[np.bool_]:
    """The components that are specific to some classes, shape (components,).

    Raises
    ------
    DataError
        If there are none, or the scores are of no class that stays.
    """
    if len(scores.class_names) <= len(set(forgotten)):
        raise DataError(
            "nothing to edit: the moments hold no class that stays one by one, to compare with; "
            "calibrate with --classes and some of these, too"
        )
    candidates = candidates & later(scores)
    edited = np.zeros(coupling.size, dtype=bool)
    for index in forgotten:
        values = specificity(scores, index, forgotten)
        steps = specific_steps(coupling, values, candidates, edited, limits)
        edited |= most_specific(values, candidates, amount, steps, coupling.group_of)
    if not edited.any():
        names = ", ".join(scores.class_names[index] for index in forgotten)
        any_width = ", or leave any width with --round-to 1" if limits.round_to > 1 else ""
        raise DataError(
            f"nothing to edit: too few components of the later layers fire more for {names} than "
            f"for the other classes; calibrate with more images of it{any_width}"
        )
    return edited


def later(scores: Scores) -> NDArray[np.bool_]:
    """Components that are first consumed in the last half of the taps, shape (components,)."""
    tap = np.repeat(np.arange(len(scores.taps)), [tap.length for tap in scores.taps])
    first = np.full(scores.components, -1)
    seen = scores.component >= 0
    # In reverse, so that the first tap of a component is written last.
    first[scores.component[seen][::-1]] = tap[seen][::-1]
    return first >= LATER * len(scores.taps)


def specificity(scores: Scores, index: int, forgotten: Sequence[int]) -> NDArray[np.float64]:
    """How much more a component says of one class than of the average class to be retained.

    Bounds count where the component fires more for a class than for the rest; one that fires
    less carries the class's absence, and silencing it would help the class.

    Returns
    -------
    ndarray of float64, shape (components,)
        In [-1, 1].
    """
    positive = scores.per_component(scores.bounds * (scores.signs > 0))
    retained = np.delete(positive, list(forgotten), axis=1)
    excess: NDArray[np.float64] = positive[:, index] - retained.mean(axis=1)
    return excess


def specific_steps(
    coupling: Coupling,
    values: NDArray[np.float64],
    candidates: NDArray[np.bool_],
    edited: NDArray[np.bool_],
    limits: Limits,
) -> list[NDArray[np.int64]]:
    """What goes of the groups step by step: candidates with positive values only.

    Parameters
    ----------
    coupling
        Of the model.
    values
        The specificity to one class, shape (components,).
    candidates
        What may go, shape (components,).
    edited
        What goes for other classes, shape (components,): whole steps of these limits.
    limits
        Which widths may be left.
    """
    able = candidates & (values > 0)
    # Values are in [-1, 1]. What goes anyway comes first, so that widths count from there on.
    saliency = np.where(able, -values, 1.0) - 3.0 * edited
    order = removal_order(coupling, saliency, limits=limits)
    return [step for step in order.steps if able[step].all()]


def most_specific(
    values: NDArray[np.float64],
    candidates: NDArray[np.bool_],
    amount: Amount,
    steps: Sequence[NDArray[np.int64]],
    group_of: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """The steps with the greatest mean values: the fewest that are as much as is asked for."""
    worth = np.array([values[step].mean() for step in steps])
    chosen = np.zeros(len(values), dtype=bool)
    if amount.kind == "deviations":
        seen = values[candidates]
        for step, mean in zip(steps, worth, strict=True):
            chosen[step] = mean > seen.mean() + amount.value * seen.std()
        return chosen
    share = amount.kind == "share"
    wanted = max(1, round(amount.value * int(candidates.sum()))) if share else amount.value
    taken: Counter[int] = Counter()
    for number in np.argsort(-worth, kind="stable"):
        step = steps[number]
        place = 0 if share else int(group_of[step[0]])
        if taken[place] < wanted:
            taken[place] += len(step)
            chosen[step] = True
    return chosen
