"""Rows of arrays: fed as they are, or, if they are images as bytes, prepared like files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..classifier import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from ..classes import GivenLabels
    from ..classifier import Classifier, Input
    from ..preprocess import Preprocess
    from .source import Feeds

Array = npt.NDArray[Any]

NO_PREPARATION = "none"
PIECE = 16
"""Images that one thread prepares at a time."""


class Table(Protocol):
    """Arrays by the name of the input that they are for, row by row."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def labels(self) -> GivenLabels:
        """The labels that come with the rows."""
        ...

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same shape."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def rows(self, index: npt.NDArray[np.int64]) -> Feeds:
        """Some rows as they are; called from several threads."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """A source of rows.

    Attributes
    ----------
    table
        The rows.
    classifier
        The model.
    find_preprocess
        Finds what becomes of rows that are images as bytes.
    """

    table: Table
    classifier: Classifier
    find_preprocess: Callable[[], Preprocess]

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def labels(self) -> GivenLabels:
        return self.table.labels

    @property
    def preparation(self) -> tuple[str, str]:
        if self.preprocess is None:
            return NO_PREPARATION, "arrays are fed as they are"
        return str(self.preprocess), self.preprocess.origin

    @property
    def uniform(self) -> bool:
        return self.table.uniform

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def preprocess(self) -> Preprocess | None:
        """What becomes of each row, if rows are images as bytes."""
        first = self.table.rows(np.zeros(1, np.int64))
        missing = {taken.name for taken in self.classifier.inputs} - set(first)
        if missing:
            raise DataError(
                f"{self.name}: nothing for the model's input {min(missing)!r}; give an array of "
                "that name"
            )
        if not self._are_images(first):
            return None
        preprocess = self.find_preprocess()
        preprocess.check(self.classifier.form)
        return preprocess

    def _are_images(self, rows: Feeds) -> bool:
        """Whether rows are images that the model does not take as they are."""
        if len(self.classifier.inputs) != 1:
            return False
        taken = self.classifier.inputs[0]
        given = rows[taken.name]
        fits = given.dtype == taken.dtype and _shape_fits(given, taken)
        return (
            given.dtype == np.uint8 and given.ndim in (3, 4) and len(taken.shape) == 4 and not fits
        )

    def start(self, index: npt.NDArray[np.int64], pool: Executor) -> Callable[[], Feeds]:
        preprocess = self.preprocess
        if preprocess is None:
            return pool.submit(self._as_they_are, index).result
        pieces = np.array_split(index, -(-len(index) // PIECE))
        futures: list[Future[Array]] = [
            pool.submit(self._as_images, piece, preprocess) for piece in pieces
        ]

        def finish() -> Feeds:
            images = np.concatenate([future.result() for future in futures])
            return {self.classifier.input.name: images}

        return finish

    def _as_they_are(self, index: npt.NDArray[np.int64]) -> Feeds:
        rows = self.table.rows(index)
        return {
            taken.name: self._checked(rows[taken.name], taken, index)
            for taken in self.classifier.inputs
        }

    def _checked(self, rows: Array, taken: Input, index: npt.NDArray[np.int64]) -> Array:
        if not _shape_fits(rows, taken) or not np.can_cast(rows.dtype, taken.dtype, "same_kind"):
            raise DataError(
                f"{self.name}: rows for input {taken.name!r} are {rows.dtype} {rows.shape[1:]}, "
                f"but the model takes {taken}; convert them first"
            )
        found = np.ascontiguousarray(rows, taken.dtype)
        # Only of images is it known that it is a mistake: a mask may well be infinite.
        if len(self.classifier.inputs) == 1 and found.ndim == 4 and found.dtype.kind == "f":
            bad = ~np.isfinite(found).all(axis=(1, 2, 3))
            if bad.any():
                raise DataError(
                    f"{self.name}: sample {index[bad][0]} holds values that are infinite or not "
                    "numbers; remove or correct it"
                )
        return found

    def _as_images(self, index: npt.NDArray[np.int64], preprocess: Preprocess) -> Array:
        from PIL import Image

        form, taken = self.classifier.form, self.classifier.input
        pixels = self._pixels(self.table.rows(index)[taken.name])
        if preprocess.moves:
            squeezed = pixels[..., 0] if form.channels == 1 else pixels
            names = (f"{self.name}: image {position}" for position in index)
            fitted = [
                np.asarray(preprocess.fit(Image.fromarray(image), form, name))
                for image, name in zip(squeezed, names, strict=True)
            ]
            shapes = {image.shape for image in fitted}
            if len(shapes) > 1:
                raise DataError(f"{self.name}: images have different sizes; give one crop_size")
            pixels = np.stack(fitted).reshape(len(fitted), *fitted[0].shape[:2], -1)
        elif not form.takes(pixels.shape[2], pixels.shape[1]):
            raise DataError(
                f"{self.name}: images are {pixels.shape[2]} x {pixels.shape[1]} pixels, but the "
                f"model takes {form}; give images of that size, or a --preprocess that resizes "
                "them, such as imagenet"
            )
        return preprocess.values(pixels, form).astype(taken.dtype, copy=False)

    def _pixels(self, images: Array) -> npt.NDArray[np.uint8]:
        """Images as (N, H, W, C), with the model's number of channels."""
        if images.ndim == 3:
            images = images[..., None]
        elif images.shape[3] not in CHANNELS and images.shape[1] in CHANNELS:
            images = np.moveaxis(images, 1, 3)
        channels = self.classifier.form.channels
        if images.shape[3] == 1:
            images = images.repeat(channels, axis=3)
        if images.shape[3] != channels:
            raise DataError(
                f"{self.name}: images have {images.shape[3]} channels, but the model takes "
                f"{channels}; convert them first"
            )
        return np.ascontiguousarray(images)


def _shape_fits(rows: Array, taken: Input) -> bool:
    """Whether rows have the axes of an input; nothing is asked where these are not known."""
    return not taken.shape or (
        rows.ndim == len(taken.shape)
        and all(
            want in (None, length)
            for want, length in zip(taken.shape[1:], rows.shape[1:], strict=True)
        )
    )
