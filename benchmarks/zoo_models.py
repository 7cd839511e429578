"""What a model of the zoo is: an architecture that we did not write, with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SEED = 0
DYNAMIC_BATCH = 3
"""Samples that a model with a dynamic batch is exported and compared with."""


@dataclass(frozen=True)
class Input:
    """One input of a model, without the batch axis.

    Attributes
    ----------
    name
        What the exported graph calls it.
    shape
        Lengths of the axes behind the batch.
    high
        Integers in [low, high); standard normal numbers if it is None.
    low
        See `high`.
    integers
        Type of integers.
    """

    name: str
    shape: tuple[int, ...]
    high: int | None = None
    low: int = 0
    integers: str = "int64"

    @property
    def dtype(self) -> str:
        """Of its values."""
        return "float32" if self.high is None else self.integers

    def draw(self, batch: int, generator: np.random.Generator) -> NDArray[Any]:
        """Random values, shape (batch, *shape)."""
        if self.high is not None:
            values = generator.integers(self.low, self.high, (batch, *self.shape))
        else:
            values = generator.standard_normal((batch, *self.shape))
        return values.astype(self.dtype)


@dataclass(frozen=True)
class Architecture:
    """One model of the zoo.

    Attributes
    ----------
    name
        Its name in its library.
    library
        Where it comes from.
    build
        Makes it; a `torch.nn.Module` where `exporter` is one of PyTorch's.
    inputs
        In the order of its arguments.
    exporter
        "dynamo" or "script" (PyTorch's two), "keras", "jax", "paddle" or "skl2onnx".
    opset
        Of the default domain.
    dynamic
        Whether the batch axis is open.
    """

    name: str
    library: str
    build: Callable[[], Any]
    inputs: tuple[Input, ...]
    exporter: str
    opset: int
    dynamic: bool

    @property
    def label(self) -> str:
        """Names the model and the way that it was exported; the stem of its file."""
        batch = "dynamic" if self.dynamic else "static"
        return f"{self.library}.{self.name}.{self.exporter}{self.opset}.{batch}"

    @property
    def is_torch(self) -> bool:
        """Whether `build` gives a PyTorch module."""
        return self.exporter in ("dynamo", "script")

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Seeded random inputs by name."""
        generator = np.random.default_rng(SEED)
        batch = DYNAMIC_BATCH if self.dynamic else 1
        return {entry.name: entry.draw(batch, generator) for entry in self.inputs}


@dataclass
class Zoo:
    """A growing list of architectures."""

    models: list[Architecture] = field(default_factory=list)

    def add(
        self,
        library: str,
        name: str,
        build: Callable[[], Any],
        inputs: tuple[Input, ...],
        export: str,
    ) -> None:
        """Append one; `export` reads like "dynamo 18 static"."""
        exporter, opset, batch = export.split()
        model = Architecture(name, library, build, inputs, exporter, int(opset), batch == "dynamic")
        self.models.append(model)


def image(size: int, channels: int = 3) -> tuple[Input, ...]:
    return (Input("image", (channels, size, size)),)


def tokens(length: int = 16, mask: bool = True) -> tuple[Input, ...]:
    """Token numbers of a vocabulary of 100, and which of them count."""
    ids = (Input("input_ids", (length,), 100),)
    return (*ids, Input("attention_mask", (length,), 2, 1)) if mask else ids
