"""Small generated graphs, one for each coupling pattern, with seeded random weights."""

from __future__ import annotations

from . import (  # noqa: F401
    activation,
    barriers,
    branches,
    carriers,
    convolution,
    exporters,
    functions,
    fused,
    linear,
    networks,
    quantised,
    recurrent,
    reduction,
    reshaping,
)
from .registry import TOPOLOGIES, Topology

__all__ = ["TOPOLOGIES", "Topology"]
