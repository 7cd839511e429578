"""From an image file to the array that a model was trained on."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError, first_line

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from PIL.Image import Image

FloatImage = npt.NDArray[np.float32]

DEFAULT_SCALE = 1 / 255
BILINEAR = 2
"""Pillow's number for the filter, and what `resample` means where it is left out."""

LARGEST_SIDE = 8192
"""In pixels, of what images are resized to: larger ones take gigabytes each."""

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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of the axes of one image; both sides must be known."""
        assert self.height is not None
        assert self.width is not None
        if self.channels_last:
            return self.height, self.width, self.channels
        return self.channels, self.height, self.width

    @property
    def resizing_preset(self) -> str:
        """A preset that resizes to what the model takes, and has means for its channels."""
        return "imagenet" if self.channels == 3 else "inception"

    def takes(self, width: int, height: int) -> bool:
        """Whether an image of this size fits."""
        return all(
            want in (None, side) for want, side in zip(self._sides, (width, height), strict=True)
        )


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image: resize, crop, then ``(value * scale - mean) / std`` by channel.

    Attributes
    ----------
    scale
        Factor for the values 0 to 255 of the file.
    mean, std
        One value for all channels, or one for each.
    size
        (height, width) to resize to, whatever the image's own; or None.
    shortest
        Length that the shorter side is resized to, the longer one in proportion; or None.
    crop
        (height, width) of what is then cut from the middle, zeros around an image that is smaller;
        or None.
    to_even
        Whether a corner of the crop between two pixels goes to the even one, as torchvision and
        timm have it, or to the lower one, as transformers.
    resample
        Pillow's number for the filter of the resize.
    bgr
        Channels in the order blue, green, red.
    origin
        Where these settings come from, in words; no part of equality.
    """

    scale: float = DEFAULT_SCALE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    shortest: int | None = None
    crop: tuple[int, int] | None = None
    to_even: bool = False
    resample: int = BILINEAR
    bgr: bool = False
    origin: str = field(default="default: values scaled to [0, 1]", compare=False)

    def __str__(self) -> str:
        steps = []
        if self.size is not None:
            steps.append(f"resize to {self.size[1]} x {self.size[0]}")
        if self.shortest is not None:
            steps.append(f"shorter side to {self.shortest}")
        if self.crop is not None:
            steps.append(f"middle {self.crop[1]} x {self.crop[0]}")
        if self.bgr:
            steps.append("blue first")
        steps.append(f"scale {self.scale:.6g}")
        if self.mean != (0.0,) or self.std != (1.0,):
            mean, std = (" ".join(f"{v:.6g}" for v in values) for values in (self.mean, self.std))
            steps.append(f"mean {mean}, std {std}")
        return ", ".join(steps)

    def without_values(self) -> Preprocess:
        """The same resize and crop, with the values left as they are in the file."""
        return replace(self, scale=1.0, mean=(0.0,), std=(1.0,))

    @property
    def moves(self) -> bool:
        """Whether images are resized or cropped."""
        return (self.size, self.shortest, self.crop) != (None, None, None)

    def check(self, form: ImageForm) -> None:
        """Refuse a model that these settings can't be for.

        Raises
        ------
        DataError
            If the number of means or deviations is not the model's number of channels, or the
            size that comes out is not one that the model takes.
        """
        for key, values in (("image_mean", self.mean), ("image_std", self.std)):
            if len(values) not in (1, form.channels):
                raise DataError(
                    f"{self.origin}: {key} has {len(values)} values, but the model takes "
                    f"{form.channels} channel(s); give one value, or one for each channel"
                )
        last = self.crop or self.size
        if last is not None and not form.takes(last[1], last[0]):
            key = "crop_size" if self.crop is not None else "size"
            raise DataError(
                f"{self.origin}: {key} is {last[1]} x {last[0]}, but the model takes "
                f"{form}; give that size"
            )

    def read(self, file: Path | BinaryIO, form: ImageForm, name: str | None = None) -> FloatImage:
        """Decode and prepare one image.

        Grey, black-and-white, palette, CMYK and YCbCr images are converted to RGB for a model
        of 3 channels; a model of 1 channel takes images without colour only. An alpha
        channel is dropped if it is opaque everywhere, and refused otherwise: what is seen through
        transparent pixels is not in the file.

        Parameters
        ----------
        file
            The image.
        form
            What the model takes.
        name
            What messages call the image, if not its file's name.

        Returns
        -------
        float32 array
            (C, H, W), or (H, W, C) if `form.channels_last`.

        Raises
        ------
        DataError
            Naming the file, if it can't be decoded or does not fit the model.
        """
        name = name or str(file)
        image = _convert(_decode(file, name), form.channels, name)
        fitted = self.fit(image, form, name)
        return self.values(np.asarray(fitted).reshape(fitted.height, fitted.width, -1), form)

    def fit(self, image: Image, form: ImageForm, name: str) -> Image:
        """Resize and crop an image of the model's colours.

        Raises
        ------
        DataError
            If what comes out is not of a size that the model takes, or too large to be made.
        """
        if not min(image.size):
            raise DataError(f"{name}: has no pixels; remove it")
        if self.size is not None:
            image = image.resize(self.size[::-1], self.resample)
        if self.shortest is not None:
            short = min(image.size)
            # As torchvision and transformers round.
            width, height = (int(self.shortest * side / short) for side in image.size)
            if width * height > LARGEST_SIDE**2:
                raise DataError(
                    f"{name}: would become {width} x {height} pixels, with a shorter side of "
                    f"{self.shortest}; give images that are less narrow, or a smaller side"
                )
            image = image.resize((width, height), self.resample)
        if self.crop is not None:
            height, width = self.crop
            left = self._corner(image.width - width)
            top = self._corner(image.height - height)
            image = image.crop((left, top, left + width, top + height))
        if not form.takes(image.width, image.height):
            raise DataError(
                f"{name}: is {image.width} x {image.height} pixels, but the model takes {form}; "
                "give images of that size, or a --preprocess that resizes them, such as "
                f"{form.resizing_preset}"
            )
        return image

    def _corner(self, spare: int) -> int:
        """Where the middle begins, by how much longer a side is than what is cut from it."""
        if not self.to_even:
            return spare // 2
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def values(self, pixels: npt.NDArray[np.uint8], form: ImageForm) -> FloatImage:
        """Scale and normalise the pixels of one image or several.

        Parameters
        ----------
        pixels : uint8 array
            (H, W, C), or (N, H, W, C).
        form
            What the model takes.

        Returns
        -------
        float32 array
            (C, H, W), or (H, W, C) if `form.channels_last`; N first, if it was there.
        """
        if self.bgr:
            pixels = pixels[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        if not form.channels_last:
            pixels = np.moveaxis(pixels, -1, -3)
            mean, std = mean[:, None, None], std[:, None, None]
        result = np.multiply(pixels, np.float32(self.scale), dtype=np.float32, order="C")
        if self.mean != (0.0,):
            result -= mean
        if self.std != (1.0,):
            result /= std
        return result


@functools.cache
def allow_large() -> None:
    """Keep Pillow from warning of large images; those that it takes for bombs remain errors.

    Done once, and for good: warning filters are the process's, and images are read in threads.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _decode(file: Path | BinaryIO, name: str) -> Image:
    """Decode a file, pixels and all."""
    from PIL import Image

    allow_large()
    try:
        with Image.open(file) as image:
            image.load()
            return image
    # Pillow's decoders raise several kinds for damaged files, far from all of them OSError.
    except Exception as error:
        raise DataError(
            f"{name}: can't be read as an image ({first_line(error)}); replace or remove it"
        ) from error


def _convert(image: Image, channels: int, name: str) -> Image:
    """An image in mode L (1 channel) or RGB (3), or an error that names the file."""
    image = _without_alpha(image, name)
    if image.mode in (GREY_MODES if channels == 1 else COLOUR_MODES):
        return image.convert("L" if channels == 1 else "RGB")
    if channels == 1 and image.mode in COLOUR_MODES:
        # WebP, among others, has no grey.
        red, green, blue = image.convert("RGB").split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return red
    kind = "a colour image" if image.mode in COLOUR_MODES else f"of pixel type {image.mode}"
    takes = "grey images (1 channel)" if channels == 1 else "colour images (3 channels)"
    raise DataError(f"{name}: is {kind}, but the model takes {takes}; convert it first")


def _without_alpha(image: Image, name: str) -> Image:
    """Drop an alpha channel that is opaque everywhere."""
    if not image.has_transparency_data:
        return image
    grey = image.mode in ("LA", "La", "L")
    full = image.convert("LA" if grey else "RGBA")
    if np.asarray(full.getchannel("A")).min() < 255:
        raise DataError(f"{name}: has transparent pixels; put it on a background first")
    return full.convert("L" if grey else "RGB")
