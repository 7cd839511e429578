"""How others write down the preprocessing of a model, and where it is found."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..model import PREPROCESS_KEY
from .preprocess import BILINEAR, DEFAULT_SCALE, LARGEST_SIDE, Preprocess

if TYPE_CHECKING:
    from ..model import Model
    from .classifier import Classifier
    from .preprocess import ImageForm

HUGGING_FACE = frozenset(
    {
        "do_resize",
        "size",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
    }
)
"""Keys of Hugging Face's `preprocessor_config.json` that tell one."""

TIMM = frozenset({"input_size", "crop_pct", "mean", "std"})
"""Keys of timm's `pretrained_cfg` that tell one."""

REFUSED = ("rescale_offset", "do_pad", "do_thumbnail", "do_flip_channel")
"""Keys that ask for what is not done here."""

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""timm's names of Pillow's filters."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

VALUES: dict[str, tuple[float, tuple[float, ...], tuple[float, ...]]] = {
    "unit": (DEFAULT_SCALE, (0.0,), (1.0,)),
    "raw": (1.0, (0.0,), (1.0,)),
    "symmetric": (DEFAULT_SCALE, (0.5,), (0.5,)),
    "mnist": (DEFAULT_SCALE, (0.1307,), (0.3081,)),
    "cifar10": (DEFAULT_SCALE, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (DEFAULT_SCALE, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Presets that change values only: scale, mean, standard deviation."""

CROPPED = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, 0.875, "bilinear"),
    "inception": ((0.5,), (0.5,), 0.875, "bicubic"),
    "clip": (CLIP_MEAN, CLIP_STD, 1.0, "bicubic"),
}
"""Presets that also resize the shorter side and cut out the middle: mean, standard deviation,
share of the shorter side that is cut out, filter."""

PRESETS = (*CROPPED, *VALUES)
LEAST_DEVIATION = 1e-30
"""Smaller ones are zero in float32, or make infinities of pixels."""
USUAL_SIDE = 224
"""What images are cut to for a model that takes any size."""


def find_preprocess(
    model: Model, classifier: Classifier, asked: str | Path | None = None
) -> Preprocess:
    """The preprocessing that a model wants.

    The first of: what is asked for; the model's metadata; a `preprocessor_config.json`, or a
    timm `config.json`, beside the model or beside the folder `onnx` that it lies in; values
    scaled to [0, 1]. Of a model that takes bytes, values are left as they are.

    Parameters
    ----------
    model
        The model, whose metadata may hold it.
    classifier
        Its image input.
    asked
        A file of either kind, or a name in `PRESETS`.

    Returns
    -------
    Preprocess
        Its `origin` says which.

    Raises
    ------
    DataError
        If the file is missing, or the first that there is can't be used.
    ModelError
        If the model takes no images.
    """
    found = _find(model, classifier.form, asked)
    return found.without_values() if classifier.input.dtype.name == "uint8" else found


def _find(model: Model, form: ImageForm, asked: str | Path | None) -> Preprocess:
    if asked is not None:
        file = Path(asked)
        if not file.is_file():
            if str(asked) in PRESETS:
                return preset(str(asked), form)
            raise DataError(
                f"{asked}: no such preprocessing file, nor one of the presets {', '.join(PRESETS)}"
            )
        return from_config(_parse(file.read_bytes(), str(file)), str(file), form)
    text = model.metadata.get(PREPROCESS_KEY)
    if text is not None:
        origin = f"model metadata {PREPROCESS_KEY}"
        return from_config(_parse(text, origin), origin, form)
    for file in beside(model.place, "preprocessor_config.json"):
        return from_config(_parse(file.read_bytes(), str(file)), str(file), form)
    for file in beside(model.place, "config.json"):
        try:
            config = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            continue  # some other program's file
        if isinstance(config, Mapping) and "pretrained_cfg" in config:
            return from_config(config, str(file), form)
    return Preprocess()


def beside(model: Path, name: str) -> list[Path]:
    """Files of a name that lie beside a model, or above the folder `onnx` that it lies in."""
    folder = model.resolve().parent
    places = [folder, folder.parent] if folder.name == "onnx" else [folder]
    return [place / name for place in places if (place / name).is_file()]


def preset(name: str, form: ImageForm) -> Preprocess:
    """One of `PRESETS`, for the size that a model takes."""
    origin = f"preset {name}"
    if name in VALUES:
        scale, mean, std = VALUES[name]
        return Preprocess(scale, mean, std, origin=origin)
    mean, std, share, interpolation = CROPPED[name]
    crop = (form.height or USUAL_SIDE, form.width or USUAL_SIDE)
    return Preprocess(
        mean=mean,
        std=std,
        shortest=math.floor(max(crop) / share),
        crop=crop,
        to_even=True,
        resample=FILTERS[interpolation],
        origin=origin,
    )


def from_config(config: object, origin: str, form: ImageForm) -> Preprocess:
    """Read a parsed `preprocessor_config.json`, or timm's `config.json` or `pretrained_cfg`.

    Parameters
    ----------
    config
        The parsed JSON; keys that are not known are passed over.
    origin
        Where it was read from, for messages.
    form
        What the model takes: timm has one size for training and one for use.

    Raises
    ------
    DataError
        If it is neither, or asks for what is not supported.
    """
    if isinstance(config, Mapping):
        if isinstance(config.get("pretrained_cfg"), Mapping):
            return _from_timm(config["pretrained_cfg"], origin, form)
        if HUGGING_FACE & set(config):
            return _from_hugging_face(config, origin)
        if TIMM & set(config):
            return _from_timm(config, origin, form)
    raise DataError(
        f"{origin}: no preprocessing; give a JSON object with rescale_factor, image_mean and "
        "image_std, like a preprocessor_config.json, or timm's pretrained_cfg"
    )


def _from_hugging_face(config: Mapping[str, Any], origin: str) -> Preprocess:
    """Rescaling is on unless switched off; the rest is on where its values are given."""
    for key in REFUSED:
        if config.get(key):
            raise DataError(f"{origin}: {key} is not supported; switch it off, or use a preset")
    scale: tuple[float, ...] = (1.0,)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if config.get("do_rescale", True):
        scale = _numbers(config.get("rescale_factor", DEFAULT_SCALE), "rescale_factor", origin)
    if config.get("do_normalize", "image_mean" in config or "image_std" in config):
        mean = _numbers(config.get("image_mean", 0.0), "image_mean", origin)
        std = _numbers(config.get("image_std", 1.0), "image_std", origin)
    if len(scale) > 1:
        raise DataError(f"{origin}: rescale_factor must be one number")
    found = Preprocess(
        scale=scale[0],
        mean=mean,
        std=_deviations(std, "image_std", origin),
        resample=_resample(config.get("resample", BILINEAR), origin),
        bgr=bool(config.get("do_flip_channel_order", False)),
        origin=origin,
    )
    cropped = bool(config.get("do_center_crop", "crop_size" in config))
    if config.get("do_resize", "size" in config):
        found = _resized(found, config.get("size"), config.get("crop_pct"), cropped)
    if cropped:
        size = config.get("crop_size", config.get("size"))
        found = replace(found, crop=_size(size, "crop_size", origin))
    return found


def _resized(found: Preprocess, size: object, share: object, cropped: bool) -> Preprocess:
    """With the resize that a `size` means: to both sides, or of the shorter one."""
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if edge is None and (type(size) is not int or not cropped):
        return replace(found, size=_size(size, "size", found.origin))
    shortest = _size(size if edge is None else edge, "size", found.origin)[0]
    if share is None:
        return replace(found, shortest=shortest)
    # As ConvNeXt's processor: small images keep a margin, large ones are squeezed.
    if shortest >= 384:
        return replace(found, size=(shortest, shortest))
    share = _numbers(share, "crop_pct", found.origin)[0]
    whole = _uncropped(shortest, share, found.origin)
    return replace(found, shortest=whole, crop=(shortest, shortest))


def _from_timm(config: Mapping[str, Any], origin: str, form: ImageForm) -> Preprocess:
    """As timm's evaluation transform: resize by `crop_pct`, cut out the middle, normalise."""
    size = _sides(config.get("input_size"), origin)
    share = config.get("crop_pct", 0.875)
    test = config.get("test_input_size")
    if test is not None and form.height == _sides(test, origin)[0] != size[0]:
        size, share = _sides(test, origin), config.get("test_crop_pct", share)
    if form.height is not None and form.width is not None:
        size = (form.height, form.width)
    share = _numbers(share, "crop_pct", origin)[0]
    whole = tuple(_uncropped(side, share, origin) for side in size)
    mode = config.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise DataError(
            f"{origin}: crop_mode {reprlib.repr(mode)} is not supported; it may be center, squash"
        )
    name = config.get("interpolation", "bilinear")
    if not isinstance(name, str) or name not in FILTERS:
        known = ", ".join(FILTERS)
        raise DataError(f"{origin}: interpolation {reprlib.repr(name)} is none of {known}")
    squeezed = mode == "squash" or size[0] != size[1]
    return Preprocess(
        mean=_numbers(config.get("mean", 0.0), "mean", origin),
        std=_deviations(_numbers(config.get("std", 1.0), "std", origin), "std", origin),
        size=(whole[0], whole[1]) if squeezed else None,
        shortest=None if squeezed else whole[0],
        crop=size,
        to_even=True,
        resample=FILTERS[name],
        origin=origin,
    )


def _sides(value: object, origin: str) -> tuple[int, int]:
    """(height, width) of timm's [channels, height, width]."""
    if isinstance(value, list) and len(value) == 3:
        return _size({"height": value[1], "width": value[2]}, "input_size", origin)
    raise DataError(
        f"{origin}: input_size must be [channels, height, width], not {reprlib.repr(value)}"
    )


def _uncropped(side: int, share: float, origin: str) -> int:
    """The side of which a share is then cut out."""
    if not 0 < share <= 1:
        raise DataError(f"{origin}: crop_pct must be in (0, 1], not {share:g}")
    if side > LARGEST_SIDE * share:
        raise DataError(
            f"{origin}: crop_pct {share:g} of {side} asks for more than {LARGEST_SIDE} pixels a "
            "side; give a larger one"
        )
    return math.floor(side / share)


def _parse(text: str | bytes, origin: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, not even text, or nested too deep
        raise DataError(f"{origin}: not JSON; write a preprocessor_config.json") from error


def _deviations(values: tuple[float, ...], key: str, origin: str) -> tuple[float, ...]:
    if any(abs(value) < LEAST_DEVIATION for value in values):
        raise DataError(f"{origin}: {key} must not be 0")
    return values


def _numbers(value: object, key: str, origin: str) -> tuple[float, ...]:
    """A number, or a list of one for each channel, as a tuple."""
    items: list[object] = list(value) if isinstance(value, list | tuple) else [value]
    # The bound is far inside float32; NaN and infinity fail the comparison as well.
    values = tuple(
        float(item)
        for item in items
        if isinstance(item, int | float) and not isinstance(item, bool) and -1e30 < item < 1e30
    )
    if not values or len(values) < len(items):
        raise DataError(f"{origin}: {key} must be finite numbers, not {reprlib.repr(value)}")
    return values


def _size(value: object, key: str, origin: str) -> tuple[int, int]:
    """(height, width) of an object with both, or of one number for a square."""
    height = width = value
    if isinstance(value, Mapping):
        height, width = value.get("height"), value.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise DataError(
            f"{origin}: {key} {reprlib.repr(value)} is not supported; give "
            '{"height": H, "width": W}'
        )
    if max(height, width) > LARGEST_SIDE:
        raise DataError(
            f"{origin}: {key} {reprlib.repr(value)} is more than {LARGEST_SIDE} pixels a side; "
            "give a smaller one"
        )
    return height, width


def _resample(value: object, origin: str) -> int:
    from PIL.Image import Resampling

    numbers = [int(name) for name in Resampling]
    if type(value) is not int or value not in numbers:
        raise DataError(
            f"{origin}: resample must be one of Pillow's filters {numbers}, not "
            f"{reprlib.repr(value)}"
        )
    return value
