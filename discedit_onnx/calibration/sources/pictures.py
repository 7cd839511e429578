"""Encoded images, wherever they lie: decoded in threads, straight into their batch."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future
    from pathlib import Path

    import numpy.typing as npt

    from ..classes import GivenLabels
    from ..classifier import Classifier
    from ..preprocess import ImageForm, Preprocess
    from .source import Feeds

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


class Encoded(io.BytesIO):
    """An encoded image in memory; its name stands in Pillow's messages, as that of a file would."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._shown = name

    def __repr__(self) -> str:
        return repr(self._shown)


class Files(Protocol):
    """Encoded images by position."""

    @property
    def name(self) -> str:
        """What messages call all of them."""
        ...

    @property
    def labels(self) -> GivenLabels:
        """The labels that come with them."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def open(self, position: int) -> tuple[str, Path | BinaryIO]:
        """What messages call an image, and its file or bytes; called from several threads."""
        ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """A source of encoded images.

    Attributes
    ----------
    files
        The images.
    preprocess
        What becomes of each.
    classifier
        The model, which takes images.
    """

    files: Files
    preprocess: Preprocess
    classifier: Classifier

    def __post_init__(self) -> None:
        self.preprocess.check(self.classifier.form)

    @property
    def name(self) -> str:
        return self.files.name

    @property
    def labels(self) -> GivenLabels:
        return self.files.labels

    @property
    def preparation(self) -> tuple[str, str]:
        return str(self.preprocess), self.preprocess.origin

    @property
    def uniform(self) -> bool:
        return True  # else reading fails

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def form(self) -> ImageForm:
        """What the model takes; where it takes any size, that of the first image."""
        form = self.classifier.form
        if form.height is not None and form.width is not None:
            return form
        image = self._read(0, form)
        height, width = image.shape[:2] if form.channels_last else image.shape[1:]
        return replace(form, height=height, width=width)

    def start(self, index: npt.NDArray[np.int64], pool: Executor) -> Callable[[], Feeds]:
        form, taken = self.form, self.classifier.input
        batch = np.empty((len(index), *form.shape), taken.dtype)
        futures: list[Future[None]] = [
            pool.submit(self._fill, row, int(position))
            for row, position in zip(batch, index, strict=True)
        ]

        def finish() -> Feeds:
            for future in futures:
                future.result()
            return {taken.name: batch}

        return finish

    def _fill(self, row: npt.NDArray[np.float32], position: int) -> None:
        row[...] = self._read(position, self.form)

    def _read(self, position: int, form: ImageForm) -> npt.NDArray[np.float32]:
        name, file = self.files.open(position)
        return self.preprocess.read(file, form, name)
