"""In which order components go: a ranking, within the limits of what may be cut."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..errors import UsageError, require_count, require_several

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..graph.coupling import Coupling, Group

Ranking = Literal["global", "local", "isomorphic"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)


@dataclass(frozen=True, eq=False)
class Order:
    """Removals, one after the other.

    Attributes
    ----------
    steps
        Components that go together, in the order in which they go; none twice.
    components
        How many components there are.
    """

    steps: Sequence[NDArray[np.int64]]
    components: int

    def first(self, number: int) -> NDArray[np.bool_]:
        """What the first steps remove, shape (components,)."""
        removed = np.zeros(self.components, dtype=bool)
        if number:
            removed[np.concatenate(self.steps[:number])] = True
        return removed


@dataclass(frozen=True)
class Limits:
    """What may be cut, and how far.

    Attributes
    ----------
    round_to
        Widths that are cut become multiples of this. Only where these do not suffice are widths
        halved below it: kernels fill up what is narrower, so that it saves no time.
    min_channels
        At least so many channels are left of each group that has them.
    only, exclude
        Patterns (as of file names) of the layers whose channels may, or may not, be cut: names of
        nodes that make them, of the weights that hold them, or of the tensors that they run
        through.
    """

    round_to: int = 1
    min_channels: int = 1
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_count("round_to", self.round_to)
        require_count("min_channels", self.min_channels)
        require_several("only", self.only)
        require_several("exclude", self.exclude)

    @property
    def barring(self) -> str:
        """Those that keep channels from being cut, for messages; empty if there are none.

        Multiples are none of them: below its multiple, a width is halved down to one channel.
        """
        named = {"only": self.only, "exclude": self.exclude}
        said = [f"{name} {', '.join(patterns)}" for name, patterns in named.items() if patterns]
        if self.min_channels > 1:
            said.append(f"min channels {self.min_channels}")
        return " and ".join(said)


def removal_order(
    coupling: Coupling,
    saliency: NDArray[np.float64],
    ranking: Ranking = "global",
    limits: Limits = Limits(),
) -> Order:
    """Components in the order of their removal, least salient first.

    What leaves a width that is no multiple of `limits.round_to` comes after all that does.

    Of each group at least one component stays: an axis can't become empty.

    Parameters
    ----------
    coupling
        Of the model.
    saliency
        Shape (components,).
    ranking
        "global" compares saliencies across all groups; "local" takes the same share of each;
        "isomorphic" (Fang et al., ECCV 2024) compares within groups that meet operators of the
        same kinds in the same way, and takes the same share of each such class.
    limits
        What may be cut.

    Raises
    ------
    UsageError
        If a pattern fits nothing.
    """
    free = allowed(coupling, limits)
    keys = _keys(coupling, saliency, ranking)
    steps: list[NDArray[np.int64]] = []
    rank: list[tuple[bool, float]] = []
    for group, channels, may in zip(coupling.groups, widths(coupling), free, strict=True):
        for step, whole in _steps(group, saliency, channels, limits) if may else ():
            steps.append(step)
            rank.append((not whole, float(keys[step].mean())))
    order = sorted(range(len(steps)), key=rank.__getitem__)
    return Order([steps[i] for i in order], coupling.size)


def _keys(
    coupling: Coupling, saliency: NDArray[np.float64], ranking: Ranking
) -> NDArray[np.float64]:
    """What is compared across groups; it rises with the saliency inside each."""
    if ranking == "global":
        return saliency
    classes: dict[object, list[Group]] = defaultdict(list)
    for number, group in enumerate(coupling.groups):
        classes[number if ranking == "local" else _signature(coupling, group)].append(group)
    keys = np.empty(coupling.size)
    for groups in classes.values():
        members = np.concatenate([group.components for group in groups])
        order = members[np.argsort(saliency[members], kind="stable")]
        keys[order] = np.arange(1, len(order) + 1) / len(order)
    return keys


def _signature(coupling: Coupling, group: Group) -> tuple[tuple[str, int, int], ...]:
    """Which operators read the constants that a group meets, and along which axes."""
    readers = coupling.view.consumers
    return tuple(
        sorted(
            (node.op, position, axis)
            for tensor, axis in group.axes
            for node, position in readers.get(tensor, ())
        )
    )


def widths(coupling: Coupling) -> NDArray[np.int64]:
    """How many channels one component of each group stands for, at least, shape (groups,).

    One for filters; the size of a head for heads.
    """
    sizes = np.array([len(group.components) for group in coupling.groups], dtype=np.int64)
    least = np.full(len(sizes), np.iinfo(np.int64).max)
    for block in coupling.blocks:
        components = coupling.of(np.arange(block.start, block.stop))
        groups = coupling.group_of[components[components >= 0]]
        met = np.bincount(groups, minlength=len(sizes))
        least = np.where(met > 0, np.minimum(least, met // sizes), least)
    wide: NDArray[np.int64] = np.maximum(least, 1)
    return wide


def _steps(
    group: Group, saliency: NDArray[np.float64], channels: int, limits: Limits
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """What goes of a group at each step, least salient first; and if it leaves a multiple."""
    order = group.components[np.argsort(saliency[group.components], kind="stable")]
    least = max(1, -(-limits.min_channels // channels))
    multiple = limits.round_to // math.gcd(limits.round_to, channels)
    begin = 0
    for kept in _levels(len(order), multiple):
        if kept < least:
            return
        yield order[begin : len(order) - kept], kept % multiple == 0
        begin = len(order) - kept


def _levels(width: int, multiple: int) -> Iterator[int]:
    """Widths that a group may be cut to, falling: multiples, and below the first one halves."""
    kept = width
    while kept > 1:
        while multiple >= kept:
            multiple //= 2
        kept = (kept - 1) // multiple * multiple
        yield kept


def allowed(coupling: Coupling, limits: Limits) -> NDArray[np.bool_]:
    """Which groups may be cut, shape (groups,).

    Raises
    ------
    UsageError
        If a pattern fits nothing; the message lists names like it.
    """
    free = np.ones(len(coupling.groups), dtype=bool)
    if not (limits.only or limits.exclude):
        return free
    known = group_names(coupling)
    fits = {pattern: _fits(known, pattern) for pattern in (*limits.only, *limits.exclude)}
    if limits.only:
        free = np.any([fits[pattern] for pattern in limits.only], axis=0)
    for pattern in limits.exclude:
        free &= ~fits[pattern]
    return free


def _fits(known: Sequence[frozenset[str]], pattern: str) -> NDArray[np.bool_]:
    # A name may hold brackets, as layers[1].weight: then it is meant, and no pattern.
    found = np.array(
        [pattern in names or any(fnmatchcase(name, pattern) for name in names) for names in known]
    )
    if not found.any():
        names = sorted(frozenset().union(*known))
        near = difflib.get_close_matches(pattern, names, 4, 0.4) or names[:4]
        raise UsageError(
            f"no layer that can be cut is named {pattern!r}; there are {', '.join(near)}"
            + (", ..." if len(names) > len(near) else "")
        )
    return found


def group_names(coupling: Coupling) -> list[frozenset[str]]:
    """By what each group is known: what makes its channels, holds them, and carries them on."""
    view = coupling.view
    summed = {
        int(variable)
        for contraction in coupling.contractions
        if contraction.weights is not None
        for variable in contraction.weights
    }
    made = {(b.tensor, b.axis) for b in coupling.blocks if b.start not in summed}
    found = []
    for group, tensors in zip(coupling.groups, coupling.tensors, strict=True):
        names = {group.name, *tensors, *(tensor for tensor, axis in group.axes
                                         if (tensor, axis) in made)}  # fmt: skip
        names |= {view.producer[tensor].name for tensor in tensors if tensor in view.producer}
        found.append(frozenset(names - {""}))
    return found
