"""What a network is refitted on: some hundred samples, and for images the views beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .sampling import HELD_OUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...calibration.data import Dataset

Feeds = Mapping[str, NDArray[Any]]

SHOWN, CHOSEN_BY = 2048, 512
"""Samples, or views of fewer, that a refit sees; and samples for the choice: it needs no more."""
MOST_BYTES, LEAST = 256 << 20, 32
"""Of inputs that are kept in memory, with views: large samples are fewer, as their activations are
held, too; and samples that are kept however large they are, where there are as many."""
BATCH, RUN_BYTES = 128, 10 << 20
"""Samples that are read and run at a time; fewer where they are larger, for their activations are,
too."""
JUDGES = 4
"""Of so many samples one is kept out of the choice's fits, to measure errors on."""
VIEWS = 4
"""Of an image at most: itself, mirrored, and two that are moved a little, each its own way."""
MOVED = 0.1
"""Largest share of its sides that an image is moved by."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Samples for choice and refit, batch by batch; the dense network says what is wanted of each.

    Attributes
    ----------
    choose, judge
        Two parts: one to choose components on, one to measure errors on.
    refit
        All samples, and other views where they are few.
    """

    choose: tuple[Feeds, ...]
    judge: tuple[Feeds, ...]
    refit: tuple[Feeds, ...]


def gather_batches(data: Dataset, seed: int = 0) -> Batches:
    """Take samples from a data set.

    The network's own outputs are the targets, so that no labels are needed, and slightly changed
    images serve as well: they show layers values that they will meet.

    Parameters
    ----------
    data
        For the model.
    seed
        Which samples, and how views are moved.

    Raises
    ------
    DataError
        If there is not one batch of the size that the model takes.
    """
    generator = np.random.default_rng(seed)
    places = generator.permutation(len(data))[:SHOWN]
    turn = math.lcm(HELD_OUT, data.classifier.batch or 1)
    if len(places) >= turn:
        places = places[: len(places) // turn * turn]
    batch = data.classifier.batch or _batch_of(data, places)
    feeds: list[Feeds] = []
    size = 0
    for found in data.take(places).batches(batch):
        larger, count = size + _bytes_of(found.feeds), len(feeds) * batch
        if larger > MOST_BYTES and count >= LEAST and count % HELD_OUT == 0:
            break
        size = larger
        if data.classifier.batch is None or len(found) == batch:
            feeds.append(found.feeds)
    if not feeds:
        raise DataError(f"{data.source.name}: {len(data)} samples fill no batch of {batch}")
    if data.classifier.batch is None and len(feeds) < JUDGES:
        feeds = [part for whole in feeds for part in _split(whole, JUDGES)]
    before = np.cumsum([0, *(images_in([part]) for part in feeds)])
    looked_at = [part for part, count in zip(feeds, before, strict=False) if count < CHOSEN_BY]
    judge = looked_at[JUDGES - 1 :: JUDGES] or looked_at
    choose = [part for i, part in enumerate(looked_at) if i % JUDGES != JUDGES - 1]
    views = min(VIEWS, round(SHOWN / before[-1]), MOST_BYTES // size) if _is_image(data) else 1
    if before[-1] % HELD_OUT:  # every eighth image of a view would be another one
        views = 1
    shown = [tuple(_views(part, max(1, views), generator, data)) for part in feeds]
    # View by view, so that every eighth image is the same one in each: they are held out together.
    refit = [part for view in zip(*shown, strict=True) for part in view]
    return Batches(tuple(choose), tuple(judge), tuple(refit))


def images_in(batches: Iterable[Feeds]) -> int:
    """How many samples there are in some batches; inputs of one number are for all of a batch."""
    return sum(max(len(values) for values in feeds.values() if values.ndim) for feeds in batches)


def _batch_of(data: Dataset, places: NDArray[np.int64]) -> int:
    """How many samples are run at a time; of different shapes each alone."""
    if not data.source.uniform:
        return 1
    (first,) = data.take(places[:1]).batches(1)
    count = min(BATCH, max(1, RUN_BYTES // _bytes_of(first.feeds)))
    return max(count - count % HELD_OUT, min(count, HELD_OUT))


def _bytes_of(feeds: Feeds) -> int:
    return sum(values.nbytes for values in feeds.values())


def _split(feeds: Feeds, parts: int) -> Iterator[Feeds]:
    """A batch in several parts."""
    count = images_in([feeds])
    for part in np.array_split(np.arange(count), min(count, parts)):
        yield {name: values[part] if values.ndim else values for name, values in feeds.items()}


def _is_image(data: Dataset) -> bool:
    inputs = data.classifier.inputs
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and 1 not in inputs[0].shape[2:]


def _views(
    feeds: Feeds, count: int, generator: np.random.Generator, data: Dataset
) -> Iterator[Feeds]:
    """The images as they are, mirrored, and moved; those that leave one side repeat its edge."""
    yield feeds
    if count == 1:
        return
    ((name, images),) = feeds.items()
    rows, columns = (1, 2) if data.classifier.form.channels_last else (2, 3)
    mirrored = np.flip(images, axis=columns)
    yield {name: np.ascontiguousarray(mirrored)}
    for source in (images, mirrored)[: count - 2]:
        moved = source
        for axis in (rows, columns):
            reach = max(1, round(MOVED * images.shape[axis]))
            moved = _moved(moved, axis, generator.integers(-reach, reach + 1, len(images)))
        yield {name: moved}


def _moved(images: NDArray[Any], axis: int, steps: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Each image moved along an axis by steps of its own."""
    length = images.shape[axis]
    places = np.clip(np.arange(length) + steps[:, None], 0, length - 1)
    others = [1] * (images.ndim - 2)
    others.insert(axis - 1, length)
    return np.take_along_axis(images, places.reshape(len(images), *others), axis=axis)
