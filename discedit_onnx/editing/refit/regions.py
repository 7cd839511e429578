"""Regions of maps for the joint fit of two layers: a piece of every image, or of some."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .joint import Regions
from .sampling import held_out
from .sliding import Sliding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .layers import Layer

    Values = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]

SIDE = 8
"""Longest side of what the second layer gives in a region."""
PLACES_PER_FEATURE = 200
"""So many places of what the second layer gives are looked at for each feature of the first."""
MOST_BYTES = 256 << 20
"""Of the patches that the first layer reads in all regions."""


def look(
    first: Layer, second: Layer, batches: Iterable[Values], images: int, seed: int
) -> tuple[Regions, Regions, Sliding, Sliding]:
    """Cut one region out of every image, at random, or of fewer where they take too much memory.

    Parameters
    ----------
    first, second
        Two layers in a row, the second reading nothing but what the first gives.
    batches
        Of each batch, what the first reads, what the second should give, and what is added to it.
    images
        How many there are in all.
    seed
        Of the places.

    Returns
    -------
    seen, unseen
        What was cut out of the images to fit on, and of those to judge by.
    first, second
        The layers on these regions.
    """
    generator = np.random.default_rng(seed)
    found: list[tuple[NDArray[np.float32], ...]] = []
    numbers: list[NDArray[np.int64]] = []
    slides: tuple[Sliding, Sliding] | None = None
    begun = 0
    for x, aim, other in batches:
        maps = [first.as_map(x), *(second.as_map(v) for v in (aim, other) if v is not None)]
        lengths = maps[1].shape[2:]
        if slides is None:
            features = maps[0].shape[1] // first.groups * first.slid.size
            outer = Sliding(second.slid, second.groups, _sides(lengths, features, images))
            slides = Sliding(first.slid, first.groups, outer.inside), outer
        begun, number = begun + len(x), np.arange(begun, begun + len(x))
        if all(n >= least for n, least in zip(lengths, slides[1].out, strict=True)):
            each = 4 * int(np.prod(slides[0].out)) * maps[0].shape[1] * slides[0].window.size
            wanted = max(1, min(len(x), MOST_BYTES * len(x) // (each * images)))
            some = np.sort(generator.permutation(len(x))[:wanted])
            found.append(_cut(slides, [part[some] for part in maps], generator))
            numbers.append(number[some])
    assert slides is not None
    x, there, aim, *others = (np.concatenate(part) for part in zip(*found, strict=True))
    other = others[0] if others else np.zeros((1,) * aim.ndim, np.float32)
    judged = held_out(begun, images)[np.concatenate(numbers)]
    regions = Regions(x, there, aim, other)
    return regions.select(~judged), regions.select(judged), *slides


def _sides(lengths: tuple[int, ...], features: int, images: int) -> tuple[int, ...]:
    """Of a region: as long as it takes for enough places in all images together."""
    wanted = (PLACES_PER_FEATURE * features / images) ** (1 / len(lengths))
    return tuple(min(SIDE, math.ceil(wanted), n) for n in lengths)


def _cut(
    slides: tuple[Sliding, Sliding], maps: list[NDArray[Any]], generator: np.random.Generator
) -> tuple[NDArray[np.float32], ...]:
    """One region of each image: what is read, which places there are between, what is given."""
    first, second = slides
    lengths, count = np.array(maps[1].shape[2:]), len(maps[0])
    starts = generator.integers(0, lengths - np.array(second.out) + 1, (count, len(lengths)))
    between = starts * second.window.strides - np.array(second.window.pads)[:, 0]
    before = between * first.window.strides - np.array(first.window.pads)[:, 0]
    middle = first.window.places(maps[0].shape[2:])
    there = np.ones((count, 1, *(1,) * len(middle)), np.float32)
    there = np.broadcast_to(there, (count, 1, *middle))
    return (
        _piece(maps[0], before, first.inside),
        _piece(there, between, second.inside),
        *(_piece(part, starts, second.out) for part in maps[1:]),
    )


def _piece(
    x: NDArray[Any], starts: NDArray[np.int64], lengths: tuple[int, ...]
) -> NDArray[np.float32]:
    """(N, C, spatial axes...) to (N, *lengths, C), with zeros beyond the edges."""
    axes = len(lengths)
    inside: NDArray[Any] = np.ones((), bool)
    picks = []
    for axis, (length, whole) in enumerate(zip(lengths, x.shape[2:], strict=True)):
        shape = [len(x)] + [1] * axes
        shape[1 + axis] = length
        place = (starts[:, axis, None] + np.arange(length)).reshape(shape)
        inside = inside & (place >= 0) & (place < whole)
        picks.append(np.clip(place, 0, whole - 1))
    images = np.arange(len(x)).reshape(-1, *[1] * axes)
    # Advanced indices around the slice of channels put these last.
    places: tuple[Any, ...] = (images, slice(None), *picks)
    found: NDArray[np.float32] = np.where(inside[..., None], x[places], 0).astype(np.float32)
    return found
