"""From an image file to the array that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError, first_line
from ..model import PREPROCESS_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from ..model import Model

FloatImage = npt.NDArray[np.float32]

KEYS = frozenset(
    {
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
    }
)
"""The keys of Hugging Face's `preprocessor_config.json` that are looked at."""

DEFAULT_SCALE = 1 / 255
BILINEAR = 2
"""Pillow's number for the filter, and what `resample` means where it is left out."""

COLOUR_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr")
"""Pillow modes whose conversion to RGB keeps what the picture shows."""

GREY_MODES = ("L", "1")


@dataclass(frozen=True)
class ImageForm:
    """The form of image that a model takes.

    Attributes
    ----------
    channels
        1 (grey) or 3 (red, green, blue).
    height, width
        In pixels; None where the model takes any.
    channels_last
        (H, W, C) if true, else (C, H, W).
    """

    channels: int
    height: int | None
    width: int | None
    channels_last: bool = False

    def __str__(self) -> str:
        sides = " x ".join("any" if side is None else str(side) for side in self._sides)
        return f"{sides} pixels"

    @property
    def _sides(self) -> tuple[int | None, int | None]:
        return self.width, self.height

    def takes(self, width: int, height: int) -> bool:
        """Whether an image of this size fits."""
        return all(
            want in (None, side) for want, side in zip(self._sides, (width, height), strict=True)
        )


@dataclass(frozen=True)
class Preprocess:
    """What happens to the pixels: resize, then ``(value * scale - mean) / std`` by channel.

    Attributes
    ----------
    scale
        Factor for the values 0 to 255 of the file.
    mean, std
        One value for all channels, or one for each.
    size
        (height, width) to resize to, or None to leave the size alone.
    resample
        Pillow's number for the filter of the resize.
    origin
        Where these settings come from, in words; no part of equality.
    """

    scale: float = DEFAULT_SCALE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    resample: int = BILINEAR
    origin: str = field(default="default: values scaled to [0, 1]", compare=False)

    @classmethod
    def from_json(cls, config: object, origin: str) -> Preprocess:
        """Read a parsed `preprocessor_config.json`; keys that are not `KEYS` are passed over.

        As in the libraries that write such files, rescaling is on unless switched off;
        normalising and resizing are on where the values for them are given.

        Parameters
        ----------
        config
            The parsed JSON.
        origin
            Where it was read from, for messages.

        Raises
        ------
        DataError
            If it is not such a config, or asks for what is not supported.
        """
        if not isinstance(config, Mapping) or not KEYS & set(config):
            raise DataError(
                f"{origin}: no preprocessing; give a JSON object with rescale_factor, image_mean "
                "and image_std, like a preprocessor_config.json"
            )
        if config.get("do_center_crop"):
            raise DataError(f"{origin}: do_center_crop is not supported yet; crop the images first")
        scale: tuple[float, ...] = (1.0,)
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        if config.get("do_rescale", True):
            factor = config.get("rescale_factor", DEFAULT_SCALE)
            scale = _numbers(factor, "rescale_factor", origin)
        if config.get("do_normalize", "image_mean" in config or "image_std" in config):
            mean = _numbers(config.get("image_mean", 0.0), "image_mean", origin)
            std = _numbers(config.get("image_std", 1.0), "image_std", origin)
        if len(scale) > 1:
            raise DataError(f"{origin}: rescale_factor must be one number")
        if 0.0 in std:
            raise DataError(f"{origin}: image_std must not be 0")
        resize = config.get("do_resize", "size" in config)
        return cls(
            scale=scale[0],
            mean=mean,
            std=std,
            size=_size(config.get("size"), origin) if resize else None,
            resample=_resample(config.get("resample", BILINEAR), origin),
            origin=origin,
        )

    def __str__(self) -> str:
        steps = [f"scale {self.scale:.6g}"]
        if self.size is not None:
            steps.insert(0, f"resize to {self.size[1]} x {self.size[0]}")
        if self.mean != (0.0,) or self.std != (1.0,):
            mean, std = (" ".join(f"{v:.6g}" for v in values) for values in (self.mean, self.std))
            steps.append(f"mean {mean}, std {std}")
        return ", ".join(steps)

    def check(self, form: ImageForm) -> None:
        """Refuse a model that these settings can't be for.

        Raises
        ------
        DataError
            If the number of means or deviations is not the model's number of channels, or the
            size that is resized to is not one that the model takes.
        """
        for key, values in (("image_mean", self.mean), ("image_std", self.std)):
            if len(values) not in (1, form.channels):
                raise DataError(
                    f"{self.origin}: {key} has {len(values)} values, but the model takes "
                    f"{form.channels} channel(s); give one value, or one for each channel"
                )
        if self.size is not None and not form.takes(self.size[1], self.size[0]):
            raise DataError(
                f"{self.origin}: size is {self.size[1]} x {self.size[0]}, but the model takes "
                f"{form}; give that size"
            )

    def read(self, file: Path, form: ImageForm) -> FloatImage:
        """Decode and prepare one image.

        Grey, black-and-white, palette, CMYK and YCbCr images are converted to RGB for a model
        of 3 channels; a model of 1 channel takes grey and black-and-white images only. An alpha
        channel is dropped if it is opaque everywhere, and refused otherwise: what is seen through
        transparent pixels is not in the file.

        Parameters
        ----------
        file
            The image.
        form
            What the model takes.

        Returns
        -------
        float32 array
            (C, H, W), or (H, W, C) if `form.channels_last`.

        Raises
        ------
        DataError
            Naming the file, if it can't be decoded or does not fit the model.
        """
        image = _convert(_decode(file), form.channels, file)
        if self.size is not None:
            image = image.resize(self.size[::-1], self.resample)
        if not form.takes(image.width, image.height):
            raise DataError(
                f"{file}: is {image.width} x {image.height} pixels, but the model takes {form}; "
                "give images of that size, or set do_resize and size in a --preprocess file"
            )
        pixels = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = (pixels * np.float32(self.scale) - mean) / std
        return pixels if form.channels_last else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def find_preprocess(model: Model, file: Path | None = None) -> Preprocess:
    """The preprocessing that a model wants.

    Parameters
    ----------
    model
        The model, whose metadata may hold it.
    file
        A `preprocessor_config.json` that goes before the metadata.

    Returns
    -------
    Preprocess
        From `file`, else from the model's metadata, else values scaled to [0, 1]; `origin`
        says which.

    Raises
    ------
    DataError
        If the file is missing, or the first of the two that there is can't be used.
    """
    if file is not None:
        if not file.is_file():
            raise DataError(f"{file}: no such preprocessing file")
        return _parse(file.read_bytes(), str(file))
    text = model.metadata.get(PREPROCESS_KEY)
    if text is not None:
        return _parse(text, f"model metadata {PREPROCESS_KEY}")
    return Preprocess()


def _parse(text: str | bytes, origin: str) -> Preprocess:
    try:
        config = json.loads(text)
    except ValueError as error:  # not JSON, or not even text
        raise DataError(f"{origin}: not JSON; write a preprocessor_config.json") from error
    return Preprocess.from_json(config, origin)


def _numbers(value: object, key: str, origin: str) -> tuple[float, ...]:
    """A number, or a list of one for each channel, as a tuple."""
    items: list[object] = value if isinstance(value, list) else [value]
    # The bound is far inside float32; NaN and infinity fail the comparison as well.
    values = tuple(
        float(item)
        for item in items
        if isinstance(item, int | float) and not isinstance(item, bool) and -1e30 < item < 1e30
    )
    if not values or len(values) < len(items):
        raise DataError(f"{origin}: {key} must be finite numbers, not {value!r}")
    return values


def _size(value: object, origin: str) -> tuple[int, int]:
    """(height, width) of a `size`: an object with both, or one number for a square."""
    height = width = value
    if isinstance(value, Mapping):
        height, width = value.get("height"), value.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise DataError(
            f'{origin}: size {value!r} is not supported; give {{"height": H, "width": W}}'
        )
    return height, width


def _resample(value: object, origin: str) -> int:
    from PIL.Image import Resampling

    numbers = [int(name) for name in Resampling]
    if type(value) is not int or value not in numbers:
        raise DataError(
            f"{origin}: resample must be one of Pillow's filters {numbers}, not {value!r}"
        )
    return value


def _decode(file: Path) -> Image:
    """Decode a file, pixels and all."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            return image
    # Pillow's decoders raise several kinds for damaged files, far from all of them OSError.
    except Exception as error:
        raise DataError(
            f"{file}: can't be read as an image ({first_line(error)}); replace or remove it"
        ) from error


def _convert(image: Image, channels: int, file: Path) -> Image:
    """An image in mode L (1 channel) or RGB (3), or an error that names the file."""
    image = _without_alpha(image, file)
    if image.mode in (GREY_MODES if channels == 1 else COLOUR_MODES):
        return image.convert("L" if channels == 1 else "RGB")
    kind = "a colour image" if image.mode in COLOUR_MODES else f"of pixel type {image.mode}"
    takes = "grey images (1 channel)" if channels == 1 else "colour images (3 channels)"
    raise DataError(f"{file}: is {kind}, but the model takes {takes}; convert it first")


def _without_alpha(image: Image, file: Path) -> Image:
    """Drop an alpha channel that is opaque everywhere."""
    if not image.has_transparency_data:
        return image
    grey = image.mode in ("LA", "La", "L")
    full = image.convert("LA" if grey else "RGBA")
    if np.asarray(full.getchannel("A")).min() < 255:
        raise DataError(f"{file}: has transparent pixels; put it on a background first")
    return full.convert("L" if grey else "RGB")
