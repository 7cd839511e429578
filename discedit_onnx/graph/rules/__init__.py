"""What each operator does to axes: one small function per operator.

A rule takes a `Scope` and says, for the node before it, which axes are cut alike (`equate`), which
axis is summed over (`contract`), which numbers follow a cut (`extent`), and what the outputs carry
(`emit`). What it does not mention is pinned. It raises `Unsupported` with a reason where it can't
carry components.
"""

from __future__ import annotations

from . import (  # noqa: F401
    attention,
    barriers,
    contraction,
    convolution,
    elementwise,
    fused,
    indexing,
    linear,
    normalisation,
    quantisation,
    recurrent,
    reduction,
    shape,
)
from .registry import Operator, Rule, find_barrier, find_rule, known_operators

__all__ = ["Operator", "Rule", "find_barrier", "find_rule", "known_operators"]
