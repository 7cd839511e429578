"""Image folders: which class a folder is, in which order images come, what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image
from tiny_models import CLASS_NAMES, HEIGHT, WIDTH, write_images

from discedit_onnx.calibration.data import open_folder
from discedit_onnx.calibration.preprocess import ImageForm, Preprocess
from discedit_onnx.errors import DataError, ModelError

FORM = ImageForm(1, HEIGHT, WIDTH)
ANY_SIZE = ImageForm(1, None, None)


def matched(tmp_path, folders, names=CLASS_NAMES, classes=3):
    """Class of each folder in sorted order, and the data."""
    write_images(tmp_path, (1,) * len(folders), tuple(folders))
    data = open_folder(tmp_path, names, classes)
    assert [file.parent.name for file in data.files] == sorted(folders)
    return data.labels.tolist(), data


@pytest.mark.parametrize(
    ("folders", "names", "labels", "how"),
    [
        (["ant", "bee", "cat"], CLASS_NAMES, [0, 1, 2], "by name"),
        (["bee", "cat"], ("cat", "dog", "bee"), [2, 0], "by name"),
        (["1", "2"], ("2", "0", "1"), [2, 0], "by name"),
        (["0", "2"], CLASS_NAMES, [0, 2], "by number"),
        (["00", "02"], CLASS_NAMES, [0, 2], "by number"),
        (["0_ant", "2_cat"], CLASS_NAMES, [0, 2], "by number"),
        (["0-Ant", "1-bee"], CLASS_NAMES, [0, 1], "by number"),
        (["1_ankle boot", "2"], ("x", "ankle-boot", "y"), [1, 2], "by number"),
        (["0", "1"], None, [0, 1], "by number"),
        (["n01", "n02", "n03"], CLASS_NAMES, [0, 1, 2], "in sorted order"),
        (["ants", "bees", "cats"], CLASS_NAMES, [0, 1, 2], "in sorted order"),
        (["x", "y", "z"], None, [0, 1, 2], "in sorted order"),
    ],
)
def test_how_folders_become_classes(tmp_path, folders, names, labels, how):
    found, data = matched(tmp_path, folders, names)
    assert (found, data.matched) == (labels, how)
    assert len(data.class_names) == 3


def test_names_that_are_not_known_are_those_of_the_folders(tmp_path):
    _, data = matched(tmp_path, ["0_ant", "2"], None)
    assert data.class_names == ("ant", "1", "2")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["ant", "bee"], ("cat", "dog", "eel")),  # too few, other names
        (["bees", "cats", "dogs"], ("cat", "dog", "bee")),  # resemble classes elsewhere
        (["ant", "bee", "dog"], ("ant", "dog", "eel")),  # a class elsewhere
        (["ant", "bee", "dog"], CLASS_NAMES),  # two by name, one unknown
        (["1", "2", "3"], CLASS_NAMES),  # counted from 1
        (["1", "2", "3"], None),
        (["1", "10", "2"], None),
        (["0_bee", "1_ant", "2_cat"], CLASS_NAMES),  # numbers against names
        (["0", "00", "1"], CLASS_NAMES),  # the same class twice
        (["w", "x", "y", "z"], CLASS_NAMES),  # too many
        (["crane", "x"], ("crane", "crane", "x")),  # a name of two classes
    ],
)
def test_folders_that_do_not_match_are_shown(tmp_path, folders, names):
    with pytest.raises(DataError, match="don't match the model's classes") as caught:
        matched(tmp_path, folders, names)
    text = str(caught.value)
    assert sorted(folders)[0] in text
    assert (names[0] if names else "unnamed, 3 of them") in text
    assert "name each folder" in text
    assert "\n" not in text


def test_long_lists_are_shown_in_short(tmp_path):
    names = tuple(f"class{i}" for i in range(1000))
    with pytest.raises(DataError) as caught:
        matched(tmp_path, [f"x{i:02}" for i in range(20)], names, 1000)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_names_must_be_as_many_as_outputs(tmp_path):
    with pytest.raises(ModelError, match="name 3 classes, but it has 4 outputs"):
        matched(tmp_path, ["ant", "bee"], CLASS_NAMES, 4)


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such folder; give"):
        open_folder(tmp_path / "gone", CLASS_NAMES, 3)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="empty; give"):
        open_folder(tmp_path, CLASS_NAMES, 3)


def test_class_folders_without_images(tmp_path):
    for name in CLASS_NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no images in its 3 class folders; .*png"):
        open_folder(tmp_path, CLASS_NAMES, 3)


def test_a_flat_folder_of_images(tmp_path):
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="images without class folders; move"):
        open_folder(tmp_path, CLASS_NAMES, 3)


def test_which_files_are_images_and_in_which_order(tmp_path):
    image = Image.new("L", (WIDTH, HEIGHT))
    kept = ["a.PNG", "b.jpg", "c.jpeg", "d.bmp", "e.webp", "f.tif", "g.tiff", "inner/a.png"]
    for name in [*reversed(kept), ".hidden.png", "notes.txt"]:
        file = tmp_path / "bee" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            file.write_text("no image")
        else:
            image.save(file)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "bee" / "folder.png").mkdir()
    data = open_folder(tmp_path, CLASS_NAMES, 3)
    assert [file.relative_to(tmp_path / "bee").as_posix() for file in data.files] == kept
    assert data.labels.tolist() == [1] * len(kept)


@pytest.mark.parametrize("size", [1, 4, 13, 50])
@pytest.mark.parametrize("threads", [1, 4])
def test_batches_hold_all_images_in_order(tmp_path, size, threads):
    data = open_folder(write_images(tmp_path), CLASS_NAMES, 3)
    batches = list(data.batches(Preprocess(), FORM, size, threads))
    assert all(len(images) == size for images, _ in batches[:-1])
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    want = np.stack([Preprocess().read(file, FORM) for file in data.files])
    np.testing.assert_array_equal(images, want, strict=True)
    np.testing.assert_array_equal(labels, data.labels, strict=True)


def test_decoding_keeps_a_bounded_distance_and_stops_with_its_reader(tmp_path):
    class Counting(Preprocess):
        reads: list = []  # noqa: RUF012

        def read(self, file, form):
            self.reads.append(file)
            return super().read(file, form)

    data = open_folder(write_images(tmp_path, (40, 40, 40)), CLASS_NAMES, 3)
    before = threading.active_count()
    batches = data.batches(Counting(), FORM, 2)
    next(batches)
    next(batches)
    batches.close()
    assert len(Counting.reads) <= 1 + 5 * 2  # the first for its size, two batches, three ahead
    assert threading.active_count() == before


def test_the_first_broken_file_in_order_is_named(tmp_path):
    data = open_folder(write_images(tmp_path), CLASS_NAMES, 3)
    for file in (data.files[5], data.files[9]):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"can't be read") as caught:
        list(data.batches(Preprocess(), FORM, 4))
    assert str(caught.value).startswith(str(data.files[5]))


def test_images_of_two_sizes_are_refused_where_the_model_takes_any(tmp_path):
    data = open_folder(write_images(tmp_path), CLASS_NAMES, 3)
    Image.new("L", (9, 9)).save(data.files[7])
    with pytest.raises(DataError, match=r"2\.png: is 9 x 9 pixels"):
        list(data.batches(Preprocess(), ANY_SIZE, 4))
    resized = data.batches(Preprocess(size=(HEIGHT, WIDTH)), ANY_SIZE, 4)
    assert sum(len(images) for images, _ in resized) == 13
