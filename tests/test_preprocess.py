"""Preprocessing: where it comes from, what it does to pixels, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import classifier, saved

from discedit_onnx.calibration.preprocess import ImageForm, Preprocess, find_preprocess
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
    default = find_preprocess(saved(proto, tmp_path))
    assert default == Preprocess()
    assert "default" in default.origin
    proto.metadata_props.add(key="discedit.preprocess", value=json.dumps({"image_mean": [0.3]}))
    model = saved(proto, tmp_path)
    assert find_preprocess(model).mean == (0.3,)
    assert "metadata" in find_preprocess(model).origin
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.7]}))
    assert find_preprocess(model, file).mean == (0.7,)
    assert find_preprocess(model, file).origin == str(file)


def test_a_config_is_read_as_its_writers_mean_it():
    found = Preprocess.from_json(CONFIG, "test")
    assert found == Preprocess(1 / 255, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    assert str(found) == "scale 0.00392157, mean 0.5 0.4 0.3, std 0.25 0.2 0.1"
    off = {**CONFIG, "do_rescale": False, "do_normalize": False}
    assert Preprocess.from_json(off, "test") == Preprocess(1.0)
    assert Preprocess.from_json({"image_std": 2}, "test") == Preprocess(std=(2.0,))
    resized = Preprocess.from_json({"size": {"height": 4, "width": 8}, "resample": 3}, "test")
    assert (resized.size, resized.resample) == ((4, 8), 3)
    assert Preprocess.from_json({"do_resize": True, "size": 7}, "test").size == (7, 7)
    assert Preprocess.from_json({"do_resize": False, "size": 7}, "test").size is None


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
        ({"size": {"shortest_edge": 256}}, "shortest_edge"),
        ({"size": {"height": 4, "width": -1}}, "size"),
        ({"size": 7, "resample": 99}, "resample"),
        ({"do_center_crop": True}, "do_center_crop"),
    ],
)
def test_a_bad_config_is_named(config, named):
    with pytest.raises(DataError, match=named) as caught:
        Preprocess.from_json(config, "cfg.json")
    assert str(caught.value).startswith("cfg.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]"])
def test_a_bad_file_is_named(tmp_path, content):
    model = saved(classifier(), tmp_path)
    with pytest.raises(DataError, match=r"gone\.json: no such"):
        find_preprocess(model, tmp_path / "gone.json")
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json"):
        find_preprocess(model, tmp_path / "bad.json")


@pytest.mark.parametrize("last", [False, True])
def test_values_and_layout(tmp_path, last):
    raw = pixels(3)
    file = save(tmp_path, raw)
    found = Preprocess.from_json(CONFIG, "test").read(file, ImageForm(3, 2, 3, last))
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


def test_resize_is_pillows(tmp_path):
    raw = pixels(3, 9, 8)
    file = save(tmp_path, raw)
    prepare = Preprocess.from_json({"size": {"height": 4, "width": 5}, "resample": 3}, "test")
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
        Preprocess.from_json(CONFIG, "cfg").check(GREY)
    with pytest.raises(DataError, match=r"size is 5 x 4, .* takes 3 x 2 pixels"):
        Preprocess(size=(4, 5)).check(ImageForm(3, 2, 3))
    Preprocess(mean=(0.5,), size=(4, 5)).check(ImageForm(3, 4, None))
