"""Normalisations that treat each channel by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..axes import Unsupported
from .registry import rule

if TYPE_CHECKING:
    from ..axes import Scope


@rule("BatchNormalization")
def batch_normalization(scope: Scope) -> None:
    """Scale, bias, mean and variance follow the channels."""
    if scope.attribute("training_mode", 0) or any(scope.node.outputs[1:]):
        raise Unsupported("is in training mode")
    axes = scope.axes(0)
    if len(axes) < 2:
        raise Unsupported("has no channel axis")
    for parameter in range(1, 5):
        axes[1] = scope.equate(axes[1], scope.ids(parameter, 0))
    scope.emit(axes)


@rule("InstanceNormalization")
def instance_normalization(scope: Scope) -> None:
    """Scale and bias follow the channels; the axes after them are normalised over."""
    channels = scope.ids(0, 1)
    for parameter in (1, 2):
        channels = scope.equate(channels, scope.ids(parameter, 0))
    scope.emit([None, channels, *[None] * (len(scope.shape(0)) - 2)])
