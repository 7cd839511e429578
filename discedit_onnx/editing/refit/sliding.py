"""Linear layers on regions of maps: what they give there, and the transposes of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .patches import Window

    Floats = NDArray[np.float32]

CHUNK_BYTES = 4 << 20
"""Of the products that are made at a time, so that they stay in the processor's caches."""


@dataclass(frozen=True)
class Sliding:
    """A layer on regions of maps, all of one size, channels last.

    It reads x, (N, *inside, C), and with a matrix M, (groups, C / groups * positions in the kernel,
    O / groups), gives y, (N, *out, O). That is linear in x and in M: `apply` is the map, `back` its
    transpose in x, and `patches` are what M is multiplied with.

    Attributes
    ----------
    window
        Of the layer, not stretched. Its pads are part of the regions.
    groups
        Into how many parts the channels fall.
    out
        Lengths of the regions that it gives.
    """

    window: Window
    groups: int
    out: tuple[int, ...]

    @property
    def inside(self) -> tuple[int, ...]:
        """Lengths of the regions that it reads."""
        window = self.window
        axes = zip(self.out, window.kernel, window.strides, window.dilations, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in axes)

    def apply(self, x: Floats, matrix: Floats) -> Floats:
        """What the layer gives, without its bias."""
        taps, outputs = self._taps(matrix), matrix.shape[2]
        y = np.zeros((len(x), *self.out, self.groups, outputs), np.float32)
        for part in self._parts(len(x), outputs):
            products = self._wide(self._tall(x[part]) @ taps, outputs)
            for number, place in enumerate(self._places()):
                y[part] += products[place][..., number, :]
        return y.reshape(len(x), *self.out, -1)

    def back(self, y: Floats, matrix: Floats) -> Floats:
        """From what the layer gives to what it reads."""
        taps, outputs = self._taps(matrix).transpose(0, 2, 1), matrix.shape[2]
        x = np.empty((len(y), *self.inside, taps.shape[2] * self.groups), np.float32)
        for part in self._parts(len(y), outputs):
            found = self._spread(y[part], outputs) @ taps
            x[part] = found.transpose(1, 0, 2).reshape(x[part].shape)
        return x

    def patches(self, x: Floats, there: NDArray[np.int64]) -> Floats:
        """The rows that the matrix multiplies, (groups, places, features).

        Those at some places, rising flat indices of (N, *out).
        """
        each, width = int(np.prod(self.out)), x.shape[-1] * self.window.size
        found = np.empty((self.groups, len(there), width // self.groups), np.float32)
        step = max(1, CHUNK_BYTES // (4 * each * width))
        for start in range(0, len(x), step):
            begin, end = np.searchsorted(there, (start * each, (start + step) * each))
            some = x[start : start + step]
            whole = np.stack([some[place] for place in self._places()], axis=-1)
            rows = whole.reshape(-1, self.groups, found.shape[2])[there[begin:end] - start * each]
            found[:, begin:end] = rows.transpose(1, 0, 2)
        return found

    def _places(self) -> Iterator[tuple[slice, ...]]:
        """Where each position of the kernel meets the regions that are read."""
        window = self.window
        axes = list(zip(self.out, window.strides, window.dilations, strict=True))
        for offset in np.ndindex(*window.kernel):
            steps = zip(offset, axes, strict=True)
            yield (
                slice(None),
                *(slice(o * d, o * d + (n - 1) * s + 1, s) for o, (n, s, d) in steps),
            )

    def _parts(self, count: int, outputs: int) -> Iterator[slice]:
        each = 4 * int(np.prod(self.inside)) * self.window.size * self.groups * outputs
        step = max(1, CHUNK_BYTES // each)
        return (slice(start, start + step) for start in range(0, count, step))

    def _taps(self, matrix: Floats) -> Floats:
        """(groups, inputs of one, kernel * outputs of one)."""
        return matrix.reshape(self.groups, -1, self.window.size * matrix.shape[2])

    def _tall(self, x: Floats) -> Floats:
        """(groups, positions, inputs of one)."""
        return x.reshape(-1, self.groups, x.shape[-1] // self.groups).transpose(1, 0, 2)

    def _wide(self, products: Floats, outputs: int) -> Floats:
        """(N, *inside, groups, kernel, outputs of one)."""
        shape = (-1, *self.inside, self.groups, self.window.size, outputs)
        return products.transpose(1, 0, 2).reshape(shape)

    def _spread(self, y: Floats, outputs: int) -> Floats:
        """Each output at all places that it is made from: (groups, positions, kernel * outputs)."""
        spread = np.zeros(
            (len(y), *self.inside, self.groups, self.window.size, outputs), np.float32
        )
        split = y.reshape(len(y), *self.out, self.groups, outputs)
        for number, place in enumerate(self._places()):
            spread[place][..., number, :] = split
        return spread.reshape(-1, self.groups, self.window.size * outputs).transpose(1, 0, 2)
