"""What components can be ranked by, what is left refitted with, and what that takes."""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import DataError, UsageError
from ..scoring.saliency import DEFAULT_REDUCTION, DEFAULT_WITNESS, find_reduction
from ..scoring.witness import WITNESSES

DATA_FREE = ("l1", "l2", "random")
"""Criteria that need no calibration."""
LEAST_SQUARES = "least-squares"
"""The criterion that needs samples, but no moments and no labels."""

Refitting = Literal["off", "bias", "patch"]
REFITS: tuple[Refitting, ...] = get_args(Refitting)


def criteria() -> tuple[str, ...]:
    """Names of everything that components can be ranked by."""
    return (LEAST_SQUARES, *WITNESSES, *DATA_FREE)


def needs_moments(criterion: str) -> bool:
    """Whether a criterion looks at calibration's moments."""
    return criterion not in (LEAST_SQUARES, *DATA_FREE)


def check_criterion(criterion: str, join: str = DEFAULT_REDUCTION) -> None:
    """Refuse names that there are not, and joining classes where nothing is said of classes.

    Raises
    ------
    UsageError
        Naming what there is.
    """
    if criterion not in criteria():
        raise UsageError(f"no criterion named {criterion!r}; there are {', '.join(criteria())}")
    find_reduction(join)
    if join != DEFAULT_REDUCTION and not needs_moments(criterion):
        raise UsageError(f"--join {join} joins a witness's bounds, and {criterion} has none")


def defaults(
    criterion: str | None, refit: Refitting | None, data: bool, moments: bool = False
) -> tuple[str, Refitting]:
    """What is taken where nothing is named: what measures best with what there is.

    Where moments are named besides data, they are what is to be looked at, and the data are there
    for the proof.
    """
    alone = data and not moments
    return criterion or (LEAST_SQUARES if alone else DEFAULT_WITNESS), refit or (
        "patch" if alone else "off"
    )


def require_data(criterion: str, refit: Refitting, rounds: int, data: bool) -> None:
    """Refuse what can't be done without samples.

    Raises
    ------
    DataError
        Naming what needs them.
    """
    needs = {
        "--criterion least-squares": criterion == LEAST_SQUARES,
        f"--refit {refit}": refit != "off",
        "--rounds": rounds > 1 and criterion not in DATA_FREE,
    }
    for name, need in needs.items():
        if need and not data:
            raise DataError(f"{name} needs samples to run the model on: give --data")
