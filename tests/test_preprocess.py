"""Preprocessing: where it comes from, what it does to pixels, what it refuses."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import classifier, saved

from discedit_onnx.calibration import conventions
from discedit_onnx.calibration import preprocess as preparing
from discedit_onnx.calibration.classifier import classifier_of
from discedit_onnx.calibration.conventions import PRESETS, find_preprocess, from_config, preset
from discedit_onnx.calibration.preprocess import LARGEST_SIDE, ImageForm, Preprocess
from discedit_onnx.errors import DataError

GREY = ImageForm(1, None, None)
COLOUR = ImageForm(3, None, None)

CONFIG = {
    "do_resize": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.2, 0.1],
}


def find(model, asked=None):
    return find_preprocess(model, classifier_of(model), asked)


def save(tmp_path, pixels, mode=None, name="image.png"):
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    path = tmp_path / name
    (image if mode is None else image.convert(mode)).save(path)
    return path


def pixels(channels, height=2, width=3):
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def test_priority_is_file_then_metadata_then_default(tmp_path):
    proto = classifier()
    default = find(saved(proto, tmp_path))
    assert default == Preprocess()
    assert "default" in default.origin
    proto.metadata_props.add(key="discedit.preprocess", value=json.dumps({"image_mean": [0.3]}))
    model = saved(proto, tmp_path)
    assert find(model).mean == (0.3,)
    assert "metadata" in find(model).origin
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.7]}))
    assert find(model, file).mean == (0.7,)
    assert find(model, file).origin == str(file)


def test_a_config_is_read_as_its_writers_mean_it():
    found = from_config(CONFIG, "test", COLOUR)
    assert found == Preprocess(1 / 255, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    assert str(found) == "scale 0.00392157, mean 0.5 0.4 0.3, std 0.25 0.2 0.1"
    off = {**CONFIG, "do_rescale": False, "do_normalize": False}
    assert from_config(off, "test", COLOUR) == Preprocess(1.0)
    assert from_config({"image_std": 2}, "test", COLOUR) == Preprocess(std=(2.0,))
    resized = from_config({"size": {"height": 4, "width": 8}, "resample": 3}, "test", COLOUR)
    assert (resized.size, resized.resample) == ((4, 8), 3)
    assert from_config({"do_resize": True, "size": 7}, "test", COLOUR).size == (7, 7)
    assert from_config({"do_resize": False, "size": 7}, "test", COLOUR).size is None


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ([], "JSON object"),
        ({"model_type": "vit"}, "JSON object"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"rescale_factor": [1, 2]}, "rescale_factor"),
        ({"image_mean": []}, "image_mean"),
        ({"image_mean": [True]}, "image_mean"),
        ({"image_mean": [float("nan")]}, "image_mean"),
        ({"image_mean": [10**400]}, "image_mean"),
        ({"image_std": [1, None]}, "image_std"),
        ({"image_std": [0.2, 0]}, "image_std"),
        ({"do_resize": True}, "size"),
        ({"size": {"shortest_edge": 0}}, "size"),
        ({"size": {"longest_edge": 256}}, "longest_edge"),
        ({"size": {"height": 4, "width": -1}}, "size"),
        ({"size": 7, "resample": 99}, "resample"),
        ({"do_center_crop": True}, "crop_size"),
        ({"size": 7, "rescale_offset": True}, "rescale_offset"),
        ({"crop_pct": 0.9}, "input_size"),
        ({"input_size": [3, 8]}, "input_size"),
        ({"input_size": [3, 8, 8], "crop_pct": 0}, "crop_pct"),
        ({"input_size": [3, 8, 8], "crop_mode": "border"}, "crop_mode"),
        ({"input_size": [3, 8, 8], "interpolation": "odd"}, "interpolation"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "input_size"),
        ({"input_size": [3, 8, 8], "mean": None}, "mean must be finite numbers"),
        ({"input_size": [3, 8, 8], "std": {}}, "std must be finite numbers"),
        ({"input_size": [3, 8, 8], "std": 1e-60}, "std must not be 0"),
        ({"input_size": [3, 8, 8], "interpolation": []}, "interpolation"),
        ({"input_size": [3, 8, 8], "crop_pct": 1e-9}, "crop_pct"),
        ({"input_size": [3, 8, 8], "crop_pct": 1e-320}, "crop_pct"),
        ({"size": {"shortest_edge": 28}, "crop_pct": 0}, "crop_pct"),
        ({"size": {"shortest_edge": 28}, "crop_pct": -0.5}, "crop_pct"),
        ({"size": {"shortest_edge": 28}, "crop_pct": 1e-20}, "crop_pct"),
        ({"size": {"shortest_edge": 99999999}}, "size 99999999 is more than"),
        ({"size": 7, "crop_size": {"height": 4, "width": 10**9}}, "crop_size .* is more than"),
        ({"input_size": [3, 8, 10**9]}, "input_size .* is more than"),
    ],
)
def test_a_bad_config_is_named(config, named):
    with pytest.raises(DataError, match=named) as caught:
        from_config(config, "cfg.json", COLOUR)
    assert str(caught.value).startswith("cfg.json: ")
    assert "\n" not in str(caught.value)


def json_values():
    numbers = st.one_of(
        st.sampled_from([0, -1, 1, 2, 28, 384, 10**9, 10**400, 1e-320, 1e-20, 0.875, 1e300]),
        st.integers(), st.floats(), st.booleans(), st.none(),
    )  # fmt: skip
    words = st.sampled_from(
        ["shortest_edge", "height", "width", "bilinear", "squash", "", "\ud800"]
    )
    return st.recursive(
        numbers | words,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
        max_leaves=6,
    )


KEYS = sorted(
    {*conventions.HUGGING_FACE, *conventions.TIMM, *conventions.REFUSED}
    | {"pretrained_cfg", "test_input_size", "test_crop_pct", "crop_mode", "interpolation"}
    | {"do_flip_channel_order"}
)
BASES = ({}, {"input_size": [1, 28, 28]}, {"size": {"shortest_edge": 28}}, {"size": 7})


@settings(max_examples=200)
@given(
    st.sampled_from(BASES),
    st.dictionaries(st.sampled_from(KEYS), json_values(), max_size=4),
    st.sampled_from([GREY, COLOUR, ImageForm(1, 28, 28)]),
)
def test_any_config_is_read_or_named(base, config, form):
    said = ""
    try:
        found = from_config({**base, **config}, "cfg.json", form)
        found.check(form)
        image = Image.new("L" if form.channels == 1 else "RGB", (3, 2))
        if found.shortest is None or found.shortest < 500:
            found.values(np.zeros((2, 3, form.channels), np.uint8), form)
            found.fit(image, form, "image.png")
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 400


def test_one_value_may_stand_for_all_channels_in_timms_config_too():
    found = from_config({"input_size": [1, 28, 28], "mean": 5, "std": 2.0}, "test", GREY)
    assert (found.mean, found.std) == ((5.0,), (2.0,))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b"[" * 100_000])
def test_a_bad_file_is_named(tmp_path, content):
    model = saved(classifier(), tmp_path)
    with pytest.raises(DataError, match=r"gone\.json: no such"):
        find(model, tmp_path / "gone.json")
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json"):
        find(model, tmp_path / "bad.json")


@pytest.mark.parametrize("last", [False, True])
def test_values_and_layout(tmp_path, last):
    raw = pixels(3)
    file = save(tmp_path, raw)
    found = from_config(CONFIG, "test", COLOUR).read(file, ImageForm(3, 2, 3, last))
    want = (raw / 255 - [0.5, 0.4, 0.3]) / [0.25, 0.2, 0.1]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, want if last else want.transpose(2, 0, 1), rtol=1e-5)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr"])
def test_what_a_colour_model_takes(tmp_path, mode):
    name = "image.tif" if mode in ("CMYK", "YCbCr") else "image.png"
    grey = np.repeat(np.array([[0, 255, 255], [255, 0, 0]])[..., None], 3, axis=2)
    file = save(tmp_path, grey, mode, name)
    found = Preprocess().read(file, COLOUR)
    np.testing.assert_allclose(found, grey.transpose(2, 0, 1) / 255, atol=0.01)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_what_a_grey_model_takes(tmp_path, mode):
    grey = np.array([[0, 255, 255], [255, 0, 0]])
    found = Preprocess().read(save(tmp_path, grey, mode), GREY)
    np.testing.assert_array_equal(found, grey[None] / np.float32(255))


def test_a_16_bit_image_is_refused(tmp_path):
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((2, 3), 40000, np.uint16)).save(file)
    for form in (GREY, COLOUR):
        with pytest.raises(DataError, match=r"deep\.png.*I;16"):
            Preprocess().read(file, form)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_a_colour_image_for_a_grey_model_is_refused(tmp_path, mode):
    file = save(tmp_path, pixels(3), mode)
    with pytest.raises(DataError, match=r"image\.png: is a colour image.*grey"):
        Preprocess().read(file, GREY)


@pytest.mark.parametrize(("channels", "form"), [(4, COLOUR), (2, GREY)])
def test_transparent_pixels_are_refused(tmp_path, channels, form):
    raw = pixels(channels)
    raw[0, 0, -1] = 17
    file = save(tmp_path, raw)
    with pytest.raises(DataError, match=r"image\.png: has transparent pixels"):
        Preprocess().read(file, form)


def test_a_wrong_size_is_refused_with_both_sizes(tmp_path):
    file = save(tmp_path, pixels(1, height=4, width=7))
    with pytest.raises(DataError, match=r"image\.png: is 7 x 4 pixels, .* takes 3 x 2 pixels"):
        Preprocess().read(file, ImageForm(1, 2, 3))
    with pytest.raises(DataError, match="takes any x 2 pixels"):
        Preprocess().read(file, ImageForm(1, 2, None))
    assert Preprocess().read(file, GREY).shape == (1, 4, 7)


@pytest.mark.parametrize("form", [ImageForm(1, 2, 3), ImageForm(3, 2, 3)])
def test_the_preset_that_a_wrong_size_is_told_of_fits(form):
    mode = "L" if form.channels == 1 else "RGB"
    with pytest.raises(DataError, match=r"such as \w+$") as caught:
        Preprocess().fit(Image.new(mode, (7, 4)), form, "image.png")
    name = str(caught.value).rpartition(" ")[2]
    assert name in conventions.CROPPED
    preset(name, form).check(form)


def test_an_image_that_would_become_too_large_is_named():
    thin = Image.new("L", (60_000, 1))
    with pytest.raises(DataError, match=r"^thin\.png: would become .* pixels.*shorter side"):
        Preprocess(shortest=LARGEST_SIDE).fit(thin, GREY, "thin.png")


@pytest.mark.parametrize("prepare", [Preprocess(), Preprocess(shortest=4), Preprocess(size=(4, 4))])
def test_an_image_without_pixels_is_named(prepare):
    with pytest.raises(DataError, match=r"^none\.png: has no pixels"):
        prepare.fit(Image.new("L", (0, 4)), GREY, "none.png")


def test_large_images_are_read_without_a_warning_up_to_pillows_limit(tmp_path, monkeypatch):
    file = save(tmp_path, pixels(3))
    preparing.allow_large.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
        assert Preprocess().read(file, COLOUR).shape == (3, 2, 3)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
        with pytest.raises(DataError, match="bomb"):
            Preprocess().read(file, COLOUR)
    preparing.allow_large.cache_clear()


def test_resize_is_pillows(tmp_path):
    raw = pixels(3, 9, 8)
    file = save(tmp_path, raw)
    prepare = from_config({"size": {"height": 4, "width": 5}, "resample": 3}, "test", COLOUR)
    want = np.asarray(Image.fromarray(raw).resize((5, 4), Image.Resampling.BICUBIC)) / 255
    found = prepare.read(file, ImageForm(3, 4, 5, channels_last=True))
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert str(prepare) == "resize to 5 x 4, scale 0.00392157"


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_an_unreadable_image_is_named(tmp_path, content):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png: can't be read as an image"):
        Preprocess().read(file, GREY)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    whole = save(tmp_path, pixels(3, 40, 40), name=f"whole.{suffix}").read_bytes()
    file = tmp_path / f"broken.{suffix}"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"broken\.\w+: can't be read as an image") as caught:
        Preprocess().read(file, COLOUR)
    assert "\n" not in str(caught.value)


def test_settings_for_another_model_are_refused():
    with pytest.raises(DataError, match=r"image_mean has 3 values, .* takes 1 channel"):
        from_config(CONFIG, "cfg", COLOUR).check(GREY)
    with pytest.raises(DataError, match=r"size is 5 x 4, .* takes 3 x 2 pixels"):
        Preprocess(size=(4, 5)).check(ImageForm(3, 2, 3))
    Preprocess(mean=(0.5,), size=(4, 5)).check(ImageForm(3, 4, None))


# Resize, crop, and what others write down

SHAPES = [(40, 30), (30, 40), (33, 33), (9, 50)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("crop", [24, 25, 31])
def test_the_shorter_side_and_the_middle(tmp_path, height, width, crop):
    raw = pixels(3, height, width)
    file = save(tmp_path, raw)
    config = {
        "size": {"shortest_edge": 28},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": crop, "width": crop},
        "do_rescale": False,
    }
    prepare = from_config(config, "test", COLOUR)
    found = prepare.read(file, ImageForm(3, crop, crop, channels_last=True))
    scale = min(height, width)
    sides = (int(28 * width / scale), int(28 * height / scale))
    assert min(sides) == 28
    image = np.asarray(Image.fromarray(raw).resize(sides, Image.Resampling.BICUBIC), np.float32)
    padded = np.zeros((*(max(n, crop) for n in image.shape[:2]), 3), np.float32)
    top, left = (-(-(p - n) // 2) for p, n in zip(padded.shape[:2], image.shape[:2], strict=True))
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    y, x = ((n - crop) // 2 for n in padded.shape[:2])
    np.testing.assert_array_equal(found, padded[y : y + crop, x : x + crop])
    assert str(prepare) == f"shorter side to 28, middle {crop} x {crop}, scale 1"


def test_what_hugging_face_writes():
    clip = {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3,
        "size": 224,
    }  # fmt: skip
    found = from_config(clip, "clip", COLOUR)
    assert (found.size, found.shortest, found.crop) == (None, 224, (224, 224))
    convnext = {"crop_pct": 0.875, "size": {"shortest_edge": 224}, "image_mean": [0.5]}
    found = from_config(convnext, "convnext", COLOUR)
    assert (found.size, found.shortest, found.crop) == (None, 256, (224, 224))
    large = from_config({**convnext, "size": {"shortest_edge": 384}}, "convnext", COLOUR)
    assert (large.size, large.shortest, large.crop) == ((384, 384), None, None)
    mobilevit = {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256},
                 "do_center_crop": True, "do_flip_channel_order": True}  # fmt: skip
    assert from_config(mobilevit, "mobilevit", COLOUR).bgr


def test_blue_first(tmp_path):
    raw = pixels(3)
    prepare = Preprocess(scale=1.0, bgr=True, mean=(1.0, 2.0, 3.0))
    found = prepare.read(save(tmp_path, raw), ImageForm(3, 2, 3, channels_last=True))
    np.testing.assert_array_equal(found, raw[..., ::-1].astype(np.float32) - [1, 2, 3])


TIMM = {
    "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.95,
    "test_crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip


def test_what_timm_writes():
    found = from_config({"architecture": "x", "pretrained_cfg": TIMM}, "timm", COLOUR)
    assert (found.shortest, found.crop, found.resample) == (235, (224, 224), 3)
    assert found.mean == (0.485, 0.456, 0.406)
    test = from_config(TIMM, "timm", ImageForm(3, 288, 288))
    assert (test.shortest, test.crop) == (288, (288, 288))
    squash = from_config({**TIMM, "crop_mode": "squash"}, "timm", COLOUR)
    assert (squash.size, squash.shortest, squash.crop) == ((235, 235), None, (224, 224))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("side", [None, 32])
def test_presets(tmp_path, name, side):
    form = ImageForm(3, side, side)
    prepare = preset(name, form)
    if name == "mnist":
        assert prepare.mean == (0.1307,)
    prepare.check(form)
    assert prepare.origin == f"preset {name}"
    found = prepare.read(save(tmp_path, pixels(3, 32, 32)), form)
    want = 224 if prepare.moves and side is None else 32
    assert found.shape == (3, want, want)
    assert np.isfinite(found).all()


def test_the_imagenet_preset_is_torchvisions():
    found = preset("imagenet", COLOUR)
    assert (found.shortest, found.crop, found.resample) == (256, (224, 224), 2)


def test_what_lies_beside_the_model_is_found_in_order(tmp_path):
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = saved(classifier(channels=3), folder)
    assert find(model).origin.startswith("default")
    timm = tmp_path / "config.json"
    timm.write_text(json.dumps({"pretrained_cfg": {**TIMM, "input_size": [3, 6, 5]}}))
    assert find(model).origin == str(timm)
    above = tmp_path / "preprocessor_config.json"
    above.write_text(json.dumps({"image_mean": [0.2]}))
    assert find(model).mean == (0.2,)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3]}))
    assert find(model).mean == (0.3,)
    assert find(model, "cifar10").origin == "preset cifar10"
    above.rename(tmp_path / "cifar10")
    with pytest.raises(DataError, match="gone: no such preprocessing file, nor one of the presets"):
        find(model, "gone")


def test_a_colour_image_without_colour_is_grey(tmp_path):
    grey = np.repeat(pixels(1)[..., None], 3, axis=2)
    for name in ("image.png", "image.bmp"):
        found = Preprocess(scale=1.0).read(save(tmp_path, grey, name=name), GREY)
        np.testing.assert_array_equal(found[0], grey[..., 0])


@pytest.mark.parametrize(
    ("side", "crop", "lower", "even"),
    [(30, 24, 3, 3), (35, 24, 5, 6), (37, 24, 6, 6), (9, 24, -8, -7), (10, 24, -7, -7)],
)
def test_where_the_middle_begins(tmp_path, side, crop, lower, even):
    """Seen in the sources of transformers (`center_crop`) and torchvision (the same)."""
    raw = pixels(1, side, side)
    file = save(tmp_path, raw)
    for to_even, start in ((False, lower), (True, even)):
        prepare = Preprocess(scale=1.0, crop=(crop, crop), to_even=to_even)
        found = prepare.read(file, GREY)[0]
        want = np.pad(raw, 24)[24 + start :, 24 + start :][:crop, :crop]
        np.testing.assert_array_equal(found, want)
