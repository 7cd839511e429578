"""What is held against what: each class against the rest, pairs of classes, sets of classes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from ..errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..calibration.moments import Moments
    from .laws import BinnedLaws, MomentLaws

    AnyLaws = TypeVar("AnyLaws", MomentLaws, BinnedLaws)

REST = "rest"
"""What all other classes together are called in names of comparisons."""


class Comparison(Protocol):
    """Which laws P are held against which laws Q, column by column of the bounds.

    Classes are positions on the class axis of the moments.
    """

    def __len__(self) -> int:
        """Number of columns L."""

    def sides(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Names of P and Q of each column."""

    def laws(self, laws: AnyLaws) -> tuple[AnyLaws, AnyLaws]:
        """P and Q, L laws each, from the laws of the single classes."""


@dataclass(frozen=True)
class OneVsRest:
    """Some classes, each against all images that are not of it.

    Attributes
    ----------
    classes
        Positions of the classes, one for each column.
    """

    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def sides(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Each class and "rest"."""
        return [(names[k], REST) for k in self.classes]

    def laws(self, laws: AnyLaws) -> tuple[AnyLaws, AnyLaws]:
        """The classes and what is left of each."""
        rest = laws.rest()
        if self.classes == tuple(range(len(laws.count))):
            return laws, rest
        return laws.take(self.classes), rest.take(self.classes)


@dataclass(frozen=True)
class Pairs:
    """All pairs among some classes; pair (i, j), i before j, in lexicographic order.

    Attributes
    ----------
    classes
        Positions of the classes.
    """

    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes) * (len(self.classes) - 1) // 2

    @property
    def members(self) -> list[tuple[int, int]]:
        """Both classes of each column."""
        return list(combinations(self.classes, 2))

    def sides(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Both classes."""
        return [(names[i], names[j]) for i, j in self.members]

    def laws(self, laws: AnyLaws) -> tuple[AnyLaws, AnyLaws]:
        """The first and the second class of each pair."""
        members = np.array(self.members, dtype=np.int64).reshape(-1, 2)
        return laws.take(members[:, 0].tolist()), laws.take(members[:, 1].tolist())


@dataclass(frozen=True)
class Sets:
    """The images of one set of classes against those of another; one column.

    Attributes
    ----------
    first, second
        Positions of the classes of each.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.first or not self.second:
            raise UsageError("a set of classes is empty; name at least one on each side")
        if set(self.first) & set(self.second):
            raise UsageError("a class is on both sides; name each class once")

    def __len__(self) -> int:
        return 1

    def sides(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """The names of each set, joined."""
        first, second = (", ".join(names[k] for k in part) for part in (self.first, self.second))
        return [(first, second)]

    def laws(self, laws: AnyLaws) -> tuple[AnyLaws, AnyLaws]:
        """Both pooled laws."""
        return laws.pool(self.first), laws.pool(self.second)


def single_classes(moments: Moments) -> tuple[int, ...]:
    """Positions of the entries that are one class each, not many pooled."""
    return tuple(np.flatnonzero(moments.class_index >= 0).tolist())


def compare(
    moments: Moments,
    classes: Sequence[int | str] = (),
    against: Sequence[int | str] = (),
    *,
    pairs: bool = False,
) -> Comparison:
    """The comparison that is asked for by names or indices of classes.

    Parameters
    ----------
    moments
        Whose classes they are.
    classes
        The classes of interest; all, if none is named.
    against
        The classes that all of these together are held against; each against its rest, if left
        out.
    pairs
        Hold each class against each other one instead.

    Raises
    ------
    UsageError
        If a class is unknown or the request makes no sense.
    DataError
        If the moments hold no class by itself.
    """
    if against and (pairs or not classes):
        raise UsageError("--against needs --class and excludes --pairs: it compares two sets")
    chosen = positions(moments, classes) or single_classes(moments)
    if not chosen:
        raise DataError(
            "the moments hold all classes together, so that none can be told from others: "
            "calibrate with --classes and some of them"
        )
    if against:
        return Sets(chosen, positions(moments, against))
    if pairs and len(chosen) < 2:
        raise UsageError("pairs need two classes at least")
    return Pairs(chosen) if pairs else OneVsRest(chosen)


def positions(moments: Moments, wanted: Sequence[int | str]) -> tuple[int, ...]:
    """Where classes lie on the class axis, each once; given by name or by the model's index.

    Raises
    ------
    UsageError
        If there is no such class; the message lists some that there are.
    """
    single = single_classes(moments)
    place = {str(int(moments.class_index[k])): k for k in single}
    place |= {moments.class_names[k]: k for k in single}  # a name goes before a number
    for name in map(str, wanted):
        if name not in place:
            known = ", ".join(f"{moments.class_index[k]} {moments.class_names[k]}"
                              for k in single[:12])  # fmt: skip
            more = ", ..." if len(single) > 12 else ""
            raise UsageError(f"no class {name!r} in the moments; there are {known}{more}")
    return tuple(dict.fromkeys(place[str(name)] for name in wanted))
