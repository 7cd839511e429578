"""The registry of generated graphs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx

Builder = Callable[..., onnx.ModelProto]


@dataclass(frozen=True)
class Topology:
    """A small graph with one coupling pattern.

    Attributes
    ----------
    name
        Of the builder, with the variant in brackets.
    build
        Makes the model; the same one each time.
    share
        Least share of the parameters that can be removed: pinning everything must not pass.
    runnable
        Whether ONNX Runtime has all its operators; the others are only analysed.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    share: float
    runnable: bool = True


TOPOLOGIES: dict[str, Topology] = {}


def topology(
    share: float, runnable: bool = True, **variants: Sequence[Any]
) -> Callable[[Builder], Builder]:
    """Register a builder, once for each combination of the values of its arguments."""

    def register(builder: Builder) -> Builder:
        for values in itertools.product(*variants.values()):
            arguments = dict(zip(variants, values, strict=True))
            inside = ",".join(f"{key}={value}" for key, value in arguments.items())
            name = builder.__name__ + (f"[{inside}]" if inside else "")
            TOPOLOGIES[name] = Topology(name, partial(builder, **arguments), share, runnable)
        return builder

    return register
