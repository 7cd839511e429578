"""A model that tells the features of the images that it is run on."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from .augment import augment
from .binding import Binding
from .reductions import ROWS, masks_tokens, token_mask
from .second import Positions, SecondMoments
from .session import certainly_cpu, cores, open_session
from .taps import GATHERED, features_from, statistics_of
from .weightless import Weightless, weightless

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx

    from .session import Session
    from .taps import Tap

LEAST = 4
"""Samples that are run at a time on the CPU, at least, by all lanes together."""

PIECE, BESIDE = 3 << 17, 1 << 17
"""Bytes of inputs run at a time on the CPU, at least, by a lane alone and by each of several: more
take memory, and hardly less time."""

WIDE = 128
"""Channels beyond which the graph hands out values on the CPU, and no matrix: half of the product
can be saved then, which is more than handing them out costs."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What a batch of N images gave.

    Attributes
    ----------
    features : float32 (N, C, F)
    scores : (N, classes), or None
        The model's own output, where it was asked for.
    second
        Second moments by tensor, or the values to make them of; empty where they were not asked
        for.
    """

    features: npt.NDArray[np.float32]
    scores: npt.NDArray[Any] | None
    second: Mapping[str, SecondMoments | Positions]


@dataclass(frozen=True, eq=False)
class TappedModel:
    """A session of a model with taps; use it in a `with` statement.

    Attributes
    ----------
    session
        It runs the augmented model.
    features
        The features that it tells.
    batch
        The only batch size that the model takes, or None.
    channels
        How many channels C there are.
    second
        Taps whose second moments are told.
    positions
        Taps whose values are, to make second moments of.
    mask
        The input that masks tokens, if there is one.
    bindings
        As many as batches may be run on at a time, of one session. Each fetches the statistics
        (N, S C) with the scores beside them, mean, co-moment and size of each of `second`, and
        the values of each of `positions`.
    """

    session: Session
    features: tuple[str, ...]
    batch: int | None
    channels: int
    second: tuple[Tap, ...]
    positions: tuple[Tap, ...]
    mask: str | None
    bindings: Sequence[Binding]

    def __enter__(self) -> TappedModel:
        return self

    def __exit__(self, *_: object) -> None:
        for binding in self.bindings:
            binding.close()

    def observe(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Observed:
        """What a batch gives; raises as `run`."""
        return self.read(feeds, self.run(feeds))

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], lane: int = 0
    ) -> list[list[npt.NDArray[Any]]]:
        """Run a batch. Only scalars leave the device, and the scores where they are needed.

        On the CPU it is run piece by piece, where no values are wanted: a run then takes the memory
        of a piece, and what it works on stays in the processor's cache. Threads may run batches at
        the same time, each on a lane of its own; they allocate no more than the outputs of a piece,
        for what other threads free there is not used again soon.

        Returns
        -------
        list of list of arrays
            Of each piece all outputs; for `read`.

        Raises
        ------
        ModelError
            If the model fails, or an output does not have one row an image.
        """
        count, binding = len(next(iter(feeds.values()))), self.bindings[lane]
        filled = fill_up(feeds, self.batch)
        size = len(next(iter(filled.values())))
        if self.second and self.batch is not None:
            filled[ROWS] = (np.arange(size) < count).astype(np.float32)
        whole = self.positions or self.batch is not None
        pieces: Iterable[Mapping[str, npt.NDArray[Any]]] = [filled]
        if not whole and self.session.device == "cpu":
            pieces = _pieces(filled, len(self.bindings))
        found = []
        for piece in pieces:
            found.append(binding.run(piece))
            check_rows(binding.outputs, found[-1][:1], len(next(iter(piece.values()))))
        return found

    def read(
        self, feeds: Mapping[str, npt.NDArray[Any]], pieces: Sequence[Sequence[npt.NDArray[Any]]]
    ) -> Observed:
        """What was seen of a batch, by the outputs of its pieces."""
        count = len(next(iter(feeds.values())))
        rows = np.concatenate([table for table, *_ in pieces])[:count]
        names = statistics_of(self.features) if self.channels else ()
        ends = [self.channels * (i + 1) for i in range(len(names))]
        *parts, scores = np.split(rows, ends, axis=1)
        return Observed(
            features_from(self.features, dict(zip(names, parts, strict=True)))
            if names
            else np.empty((count, 0, len(self.features)), np.float32),
            scores if scores.shape[1] else None,
            self._second([piece[1:] for piece in pieces], feeds, count),
        )

    def _second(
        self,
        pieces: Sequence[Sequence[npt.NDArray[Any]]],
        feeds: Mapping[str, npt.NDArray[Any]],
        count: int,
    ) -> dict[str, SecondMoments | Positions]:
        """By tensor, of the outputs that are there for them."""
        seen: dict[str, SecondMoments | Positions] = {
            tap.tensor: _pooled([piece[3 * i : 3 * i + 3] for piece in pieces])
            for i, tap in enumerate(self.second)
        }
        values = pieces[0][3 * len(self.second) :]  # where there are any, there is one piece
        for tap, x in zip(self.positions, values, strict=True):
            mask = feeds[self.mask] if self.mask and masks_tokens(tap, self.mask) else None
            seen[tap.tensor] = _positions(tap, x[:count], mask)
        return seen


def _pieces(
    feeds: Mapping[str, npt.NDArray[Any]], lanes: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Equal parts of a batch, none too small for the threads of one of so many lanes."""
    count = len(next(iter(feeds.values())))
    size = sum(values.nbytes for values in feeds.values())
    least = max(1, LEAST // lanes, cores() // lanes)
    return split(feeds, min(count // least, size // (PIECE if lanes == 1 else BESIDE)))


def split(
    feeds: Mapping[str, npt.NDArray[Any]], parts: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """A batch in equal parts, as many as are asked for and it has samples, but one at least."""
    count = len(next(iter(feeds.values())))
    parts = max(1, min(parts, count))
    for part in range(parts):
        rows = slice(count * part // parts, count * (part + 1) // parts)
        yield {name: values[rows] for name, values in feeds.items()}


def open_tapped(
    model: onnx.ModelProto | Weightless,
    taps: Sequence[Tap],
    *,
    features: Sequence[str] = GATHERED,
    second: bool = False,
    scores: str | None = None,
    batch: int | None = None,
    lanes: int = 1,
    device: str = "auto",
    providers: Sequence[str] = (),
) -> TappedModel:
    """Put taps into a model and load it.

    Parameters
    ----------
    model
        The model; not changed.
    taps, features, second
        See `taps.augment`.
    scores
        The output to fetch beside them.
    batch
        The only batch size that the model takes, or None.
    lanes
        Batches to be run at a time, where the model runs on the CPU; each then has its share of
        the cores.
    device, providers
        See `open_session`.

    Raises
    ------
    UsageError, ModelError
        As `open_session`.
    """
    parts = model if isinstance(model, Weightless) else weightless(model)
    values = tuple(tap for tap in taps if second and tap.length > WIDE)
    on_cpu = certainly_cpu(device, providers)
    if not on_cpu:
        values = ()
    matrices = tuple(tap for tap in taps if second and tap not in values)
    tapped = augment(
        parts.proto, taps, features,
        second=matrices, positions=values, padded=batch is not None, scores=scores,
        in_turn=on_cpu,
    )  # fmt: skip
    added = tapped.graph.output[len(parts.proto.graph.output) :]
    session = open_session(
        Weightless(tapped, parts.weights), device, providers=providers, shared=True, lanes=lanes
    )
    _give_back()
    outputs = [value.name for value in added] or [scores or ""]
    lanes = lanes if session.device == "cpu" and not providers else 1
    return TappedModel(
        session,
        tuple(features),
        batch,
        sum(tap.length for tap in taps),
        matrices,
        values,
        token_mask(parts.proto.graph),
        [Binding(session, outputs) for _ in range(lanes)],
    )


def fill_up(feeds: Mapping[str, npt.NDArray[Any]], size: int | None) -> dict[str, npt.NDArray[Any]]:
    """A short batch filled up to the size that a model takes, by repeating the last row."""
    count = len(next(iter(feeds.values())))
    if size is None or count == size:
        return dict(feeds)
    return {
        name: np.concatenate([array, array[-1:].repeat(size - count, axis=0)])
        for name, array in feeds.items()
    }


def check_rows(names: Sequence[str], results: Sequence[npt.NDArray[Any]], size: int) -> None:
    """Raise ModelError if an output does not have one row an image."""
    for name, result in zip(names, results, strict=False):
        if result.shape[0] != size:
            raise ModelError(
                f"tensor {name!r} has {result.shape[0]} rows for {size} images; "
                "export the model so that the first axis is the batch all the way"
            )


def _positions(
    tap: Tap, values: npt.NDArray[np.float32], mask: npt.NDArray[Any] | None
) -> Positions:
    """Of one tensor, channels behind the images; of tokens, those that a mask leaves.

    A tensor of another number of tokens than the mask's, as behind a pooling, has none to leave
    out.
    """
    if mask is not None and mask.shape == values.shape[:2]:
        return Positions(values[mask != 0].T[None])
    last = np.moveaxis(values, tap.axis, -1).reshape(len(values), -1, tap.length)
    return Positions(last.swapaxes(1, 2))


def _pooled(pieces: Sequence[Sequence[npt.NDArray[Any]]]) -> SecondMoments:
    """Of one tensor, as the graph gave them for each piece."""
    means, comoments, sizes = (np.stack(parts) for parts in zip(*pieces, strict=True))
    return SecondMoments.pooled(means[..., 0], comoments, sizes / means.shape[1])


def _give_back() -> None:
    """Let the system have the memory that was freed, which glibc would keep for later.

    While a session opens, ONNX Runtime has weights twice: of a ResNet-50 146 MB stay behind.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
