"""Rows for a layer's regression: a few positions of every image, the same ones for all tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from .layers import Layer

ROWS_PER_FEATURE = 120
"""Rows that a regression gets for each of its features, where there are so many."""
LEAST_ROWS, MOST_BYTES = 32_000, 256 << 20
"""Rows at least; and bytes of the widest tensor's at most."""
HELD_OUT = 8
"""Of so many images one is kept to judge a fit by."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a layer.

    Attributes
    ----------
    x
        Its input as it is multiplied, float32 (groups, rows, features).
    tensors
        Outputs or addends at the same places, float32 (groups, rows, outputs) each.
    held_out
        Rows of the images to judge by, bool (rows,).
    """

    x: NDArray[np.float32]
    tensors: tuple[NDArray[np.float32], ...]
    held_out: NDArray[np.bool_]


def sample(
    layer: Layer,
    batches: Iterable[tuple[NDArray[Any], list[NDArray[Any]]]],
    images: int,
    seed: int,
) -> Sample:
    """Look at random positions of every image.

    Neighbouring positions say nearly the same, so that a share of them serves as well as all; the
    memory is bounded by `MOST_BYTES`, whatever the size of the maps.

    Parameters
    ----------
    layer
        The layer.
    batches
        Its input, and tensors of its output's shape.
    images
        How many there are in all.
    seed
        Of the positions.
    """
    generator = np.random.default_rng(seed)
    parts, rows = [], []
    for found, count in _parts(layer, batches, images, generator):
        parts.append(found)
        rows.append(np.full(found[0].shape[1] // count, count))
    x, *tensors = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    each = np.concatenate(rows)
    return Sample(x, tuple(tensors), np.repeat(held_out(len(each), images), each))


def held_out(entries: int, images: int) -> NDArray[np.bool_]:
    """Which entries of the leading axis are those of images to judge by, shape (entries,).

    An image has several entries where batch and sequence are merged.
    """
    image = np.arange(entries) * images // entries
    every = max(2, min(HELD_OUT, images))
    judged: NDArray[np.bool_] = image % every == every - 1
    return judged


def _parts(
    layer: Layer,
    batches: Iterable[tuple[NDArray[Any], list[NDArray[Any]]]],
    images: int,
    generator: np.random.Generator,
) -> Iterator[tuple[list[NDArray[np.float32]], int]]:
    """Rows of each batch, and how many of them are one entry's."""
    for x, tensors in batches:
        places = layer.positions(x)
        count = _per_image(layer, [x, *tensors], images, places)
        at = generator.random((len(x), places)).argpartition(count - 1, axis=1)[:, :count]
        at.sort(axis=1)
        found = [layer.rows(x, at), *(layer.targets(tensor, at) for tensor in tensors)]
        yield [part.astype(np.float32, copy=False) for part in found], count


def _per_image(layer: Layer, tensors: Sequence[NDArray[Any]], images: int, places: int) -> int:
    """Positions of each image that are looked at; what the layer reads comes first."""
    widths = [int(tensor.shape[layer.channel_axis]) for tensor in tensors]
    widths[0] *= layer.window.size if layer.window is not None else 1
    wanted = max(ROWS_PER_FEATURE * widths[0] // layer.groups, LEAST_ROWS)
    rows = min(wanted, MOST_BYTES // (4 * max(widths)))
    return max(1, min(places, -(-rows // images)))
