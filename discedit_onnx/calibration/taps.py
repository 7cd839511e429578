"""Which intermediate tensors are looked at, and which numbers of each image are kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

FEATURES = ("mean", "rms", "mean_square", "max", "positive")
"""The scalars per image and channel: mean, root of the mean square, mean square, largest value and
share above zero, over all positions."""

GATHERED = ("mean", "rms", "mean_square")
"""Those that are gathered unless others are asked for."""

STATISTICS = ("mean", "mean_square", "max", "positive")
"""What the graph computes of them, in the order in which `augment` appends it."""

GRID = 196
"""Positions of a map, 14 x 14, that are enough for its squares and signs.

Squares of a whole map must be written to memory before they are averaged, which costs more than
anything else here; neighbours in large maps say nearly the same. A scalar of some positions is a
scalar of the image as good as any: what is bounded by it is a bound for the map.
"""


PRODUCTS = 49
"""Positions of a map, 7 x 7, that are enough for the products of its channels.

A matrix product for every position costs as much as the convolution that reads them (on a
ResNet-50, 1.1 times a plain run on 14 x 14 positions), and all images together have far more
positions than channels anyway.
"""


def stride_for(height: int, width: int, least: int = GRID) -> int:
    """The largest step that leaves so many positions of a map, or all of a smaller one."""
    stride = 1
    while -(-height // (stride + 1)) * -(-width // (stride + 1)) >= least:
        stride += 1
    return stride


@dataclass(frozen=True)
class Tap:
    """A tensor that is looked at, and the axis of it that carries channels.

    Attributes
    ----------
    tensor
        Name of the tensor in the model's main graph; its axis 0 is the batch.
    axis
        The channel axis, from 1 to `rank` - 1.
    length
        Number of channels.
    rank
        Number of axes of the tensor.
    stride
        Step, on both axes of a map, between the positions whose squares and signs are looked at.
        Mean and maximum are those of all positions.
    product_stride
        The same for the products of channels, which second moments are made of.
    """

    tensor: str
    axis: int
    length: int
    rank: int
    stride: int = 1
    product_stride: int = 1

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that an image's scalars run over: all but the batch and the channels."""
        return tuple(i for i in range(1, self.rank) if i != self.axis)


def statistics_of(features: Sequence[str]) -> tuple[str, ...]:
    """What the graph has to compute for some features."""
    wanted = {"mean_square" if name == "rms" else name for name in features}
    return tuple(name for name in STATISTICS if name in wanted)


def features_from(
    features: Sequence[str], statistics: Mapping[str, npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """The features (N, C, F) of statistics (N, C); F lies first in memory."""
    columns = [
        np.sqrt(statistics["mean_square"]) if name == "rms" else statistics[name]
        for name in features
    ]
    return np.moveaxis(np.stack(columns), 0, -1)
