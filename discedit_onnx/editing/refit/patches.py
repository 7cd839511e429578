"""Rows of numbers that a linear layer multiplies: positions of a sequence, patches of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """How a convolution slides over its input; one entry for each spatial axis.

    Attributes
    ----------
    kernel, strides, dilations
        As in the operator Conv.
    pads
        Zeros before and after each axis.
    stretch
        How far apart a transposed convolution puts neighbours, zeros between; 1 for others.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    stretch: tuple[int, ...]

    @property
    def size(self) -> int:
        """Positions in the kernel."""
        return int(np.prod(self.kernel))

    def places(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial lengths of the output for those of an input."""
        axes = zip(lengths, self.kernel, self.strides, self.dilations, self.pads, self.stretch,
                   strict=True)  # fmt: skip
        return tuple(
            ((n - 1) * stretch + 1 + sum(pads) - d * (k - 1) - 1) // s + 1
            for n, k, s, d, pads, stretch in axes
        )


POINT = Window((1,), (1,), (1,), ((0, 0),), (1,))
"""A window of one place, as a matrix product has."""


def unfold(
    x: NDArray[np.floating], window: Window, groups: int, at: NDArray[np.int64]
) -> NDArray[np.floating]:
    """The patches in front of the kernel at some positions.

    Parameters
    ----------
    x
        Shape (N, C, spatial axes...).
    window
        Of the convolution.
    groups
        Into how many parts the channels fall.
    at
        Flat output positions that are looked at in each image, shape (N, P).

    Returns
    -------
    ndarray of x's type, shape (groups, N * P, C / groups * window.size)
        The columns of a channel lie side by side.
    """
    out = window.places(x.shape[2:])
    x = np.pad(_stretched(x, window.stretch), ((0, 0), (0, 0), *window.pads))
    axes, (n, p) = len(out), at.shape
    starts = np.unravel_index(at, out)
    picks = []
    for axis, start in enumerate(starts):
        shape = [1] * (2 + axes)
        shape[2 + axis] = window.kernel[axis]
        taps = (np.arange(window.kernel[axis]) * window.dilations[axis]).reshape(shape)
        picks.append((start * window.strides[axis]).reshape(n, p, *[1] * axes) + taps)
    images = np.arange(n).reshape(n, *[1] * (1 + axes))
    # Advanced indices around the slice of channels put these last: (N, P, kernel..., C).
    places: tuple[Any, ...] = (images, slice(None), *picks)
    found = x[places]
    found = np.moveaxis(found, -1, 2)
    split = found.reshape(n * p, groups, -1)
    return np.ascontiguousarray(split.transpose(1, 0, 2))


def _stretched(x: NDArray[np.floating], stretch: tuple[int, ...]) -> NDArray[np.floating]:
    """Zeros between the neighbours of each spatial axis."""
    if set(stretch) <= {1}:
        return x
    spatial = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stretch, strict=True)]
    wide = np.zeros((*x.shape[:2], *spatial), x.dtype)
    places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stretch))
    wide[places] = x
    return wide
