"""What components can be ranked by, what is left refitted with, and what that takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError
from ..scoring.saliency import DEFAULT_REDUCTION, DEFAULT_WITNESS, find_reduction
from ..scoring.witness import WITNESSES

DATA_FREE = ("l1", "l2", "random")
"""Criteria that need no calibration."""
LEAST_SQUARES = "least-squares"
"""The criterion that needs samples, but no moments and no labels."""
ENERGY = "energy"
"""The criterion that needs moments, but no labels."""

Refitting = Literal["off", "bias", "channel", "patch"]
REFITS: tuple[Refitting, ...] = get_args(Refitting)


@dataclass(frozen=True)
class Factor:
    """One of the saliencies that a criterion multiplies.

    Attributes
    ----------
    name
        One of `criteria`.
    power
        To which it is raised: how much it counts beside the others.
    """

    name: str
    power: float = 1.0


def criteria() -> tuple[str, ...]:
    """Names of everything that components can be ranked by."""
    return (LEAST_SQUARES, *WITNESSES, ENERGY, *DATA_FREE)


def factors(criterion: str) -> tuple[Factor, ...]:
    """Read a criterion: ``fisher``, or a product as ``least-squares*fisher^0.5``.

    A product trades one saliency for another: a component that tells no class apart but carries
    energy, say, stays or goes by how much each of them counts.

    Raises
    ------
    UsageError
        If it can't be read, or names what there is not.
    """
    found = []
    for part in str(criterion).split("*"):
        name, _, power = part.strip().partition("^")
        if name not in criteria():
            raise UsageError(
                f"no criterion named {name!r}; there are {', '.join(criteria())}, and products "
                "as fisher*energy^0.5"
            )
        if not re.fullmatch(r"-?\d*\.?\d+", power or "1"):
            raise UsageError(f"--criterion {criterion}: {power!r} is no power")
        found.append(Factor(name, float(power or "1")))
    return tuple(found)


def needs_moments(criterion: str) -> bool:
    """Whether a criterion looks at calibration's moments."""
    return any(factor.name not in (LEAST_SQUARES, *DATA_FREE) for factor in factors(criterion))


def needs_samples(criterion: str) -> bool:
    """Whether a criterion runs the model on samples."""
    return any(factor.name == LEAST_SQUARES for factor in factors(criterion))


def check_criterion(criterion: str, join: str = DEFAULT_REDUCTION) -> None:
    """Refuse names that there are not, and joining classes where nothing is said of classes.

    Raises
    ------
    UsageError
        Naming what there is.
    """
    witness = any(factor.name in WITNESSES for factor in factors(criterion))
    find_reduction(join)
    if join != DEFAULT_REDUCTION and not witness:
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
    UsageError
        Naming what needs them.
    """
    needs = {
        "--criterion least-squares": needs_samples(criterion),
        f"--refit {refit}": refit != "off",
        "--rounds": rounds > 1 and needs_moments(criterion),
    }
    for name, need in needs.items():
        if need and not data:
            raise UsageError(f"{name} needs samples to run the model on: give --data")
