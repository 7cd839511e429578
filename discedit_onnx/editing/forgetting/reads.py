"""Which of the features that a layer reads are which channel of a tap, and at which place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from ...calibration.placement import CLIMBED
from ...calibration.session import open_session
from ...errors import ModelError
from ..refit.stages import extract

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...calibration.moments import Moments
    from ...calibration.taps import Tap
    from ...graph.view import View
    from ..refit.layers import Layer

UNKNOWN = 2
"""Positions along an axis whose length is not known: not one, so that they are told apart."""


@dataclass(frozen=True, eq=False)
class Read:
    """How a layer reads the channels of a tap.

    Attributes
    ----------
    tap
        The tensor that is looked at.
    places : int64 (P, C)
        For each place and channel, the feature that the layer reads it as, in the order of
        `Layer.rows`; each feature once. A flattened map has as many places as positions, in
        whatever order the graph flattens them, and a convolution those of its kernel.
    """

    tap: Tap
    places: NDArray[np.int64]

    def at_places(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of channels (C,) as those of the features (F,)."""
        found = np.empty(self.places.size)
        found[self.places] = values
        return found

    def mapped(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """A map of channels (C, C), the same at every place, as one of the features (F, F)."""
        found = np.zeros((self.places.size, self.places.size))
        for place in self.places:
            found[np.ix_(place, place)] = matrix
        return found


def read_of(view: View, moments: Moments, layer: Layer) -> Read | None:
    """How a layer reads the channels of a tap, where there is one in front of it.

    The tap may lie before operators that only move or average. What they make of its channels and
    positions is asked of the graph itself: it is run with their numbers in place of values.
    """
    taps = {tap.tensor: tap for tap in moments.taps}
    name = layer.input
    while name not in taps:
        node = view.producer.get(name)
        if node is None or node.domain or node.op not in CLIMBED:
            return None
        name = node.inputs[0]
    tap, size = taps[name], layer.slid.size
    if name == layer.input:
        if tap.axis != layer.channel_axis % tap.rank:
            return None
        read = np.arange(tap.length)[None]
    else:
        found = _traced(view, tap, layer)
        if found is None:
            return None
        read = found
    # Rows hold, for each channel that is read, the positions of the kernel side by side.
    places = read[:, None] * size + np.arange(size)[:, None]
    return Read(tap, places.reshape(-1, tap.length))


def _traced(view: View, tap: Tap, layer: Layer) -> NDArray[np.int64] | None:
    """Indices along the channel axis of a layer's input, (places, C); None where they are mixed."""
    numbers = _numbers(view, tap)
    part = extract(view, view.proto, [tap.tensor], [layer.input])
    if numbers is None or [value.name for value in part.graph.input] != [tap.tensor]:
        return None
    try:
        with open_session(part, "cpu") as session:
            runs = [session.run([layer.input], {tap.tensor: each})[0] for each in numbers]
    except ModelError:
        return None
    channel, place = (np.rint(np.moveaxis(x, layer.channel_axis, -1)) for x in runs)
    channel, place = (x.reshape(-1, x.shape[-1]).astype(np.int64) for x in (channel, place))
    if (channel != channel[0]).any() or channel.shape[1] % tap.length:
        return None
    _, at = np.unique(place, axis=1, return_inverse=True)
    grid = np.lexsort((channel[0], at)).reshape(-1, tap.length)
    whole = (channel[0][grid] == np.arange(tap.length)).all()
    return grid if whole and (at[grid] == at[grid[:, :1]]).all() else None


def _numbers(view: View, tap: Tap) -> list[NDArray[np.floating]] | None:
    """Two values of a tapped tensor: the number of each channel, and that of each position."""
    shape, element = view.shapes.get(tap.tensor), view.element_type(tap.tensor)
    if shape is None or not element:
        return None
    sizes = [n or UNKNOWN for n in shape]
    sizes[0] = shape[0] or 1
    dtype = helper.tensor_dtype_to_np_dtype(element)
    along = [1] * tap.rank
    along[tap.axis] = tap.length
    channel = np.broadcast_to(np.arange(tap.length).reshape(along), sizes)
    positions = [1 if axis in (0, tap.axis) else n for axis, n in enumerate(sizes)]
    place = np.arange(np.prod(positions)).reshape(positions)
    return [np.ascontiguousarray(np.broadcast_to(x, sizes), dtype) for x in (channel, place)]
