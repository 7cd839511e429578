"""Data sets: which class a label is, order, batches made ahead, subsets, what is refused."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import CLASS_NAMES, HEIGHT, WIDTH, classifier, saved, write_images

from discedit_onnx.calibration.classes import GivenLabels, match
from discedit_onnx.calibration.opening import _choose, open_data
from discedit_onnx.calibration.preprocess import ImageForm, Preprocess
from discedit_onnx.errors import DataError, ModelError, UsageError

FORM = ImageForm(1, HEIGHT, WIDTH)


def model_of(tmp_path, names=CLASS_NAMES, **kind):
    proto = classifier(**kind)
    if names is not None:
        proto.metadata_props.add(key="discedit.class_names", value=json.dumps(names))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    return saved(proto, folder)


@pytest.fixture
def model(tmp_path):
    return model_of(tmp_path)


@pytest.fixture
def data(model, tmp_path):
    return open_data(model, write_images(tmp_path / "images"))


def matched(folders, names=CLASS_NAMES, classes=3, **options):
    """Class of each folder in sorted order, and how they were matched."""
    labels = GivenLabels.of_names(sorted(folders), "class folders")
    found = match(labels, names, classes, "here", **options)
    return found.labels.tolist(), found


@pytest.mark.parametrize(
    ("folders", "names", "labels", "how"),
    [
        (["ant", "bee", "cat"], CLASS_NAMES, [0, 1, 2], "by name"),
        (["bee", "cat"], ("cat", "dog", "bee"), [2, 0], "by name"),
        (["1", "2"], ("2", "0", "1"), [2, 0], "by name"),
        (["n02", "n03"], ("n03", "n01", "n02"), [2, 0], "by name"),
        (["0", "2"], CLASS_NAMES, [0, 2], "by number"),
        (["00", "02"], CLASS_NAMES, [0, 2], "by number"),
        (["0_ant", "2_cat"], CLASS_NAMES, [0, 2], "by number"),
        (["0-Ant", "1-bee"], CLASS_NAMES, [0, 1], "by number"),
        (["1_ankle boot", "2"], ("x", "ankle-boot", "y"), [1, 2], "by number"),
        (["0", "1"], None, [0, 1], "by number"),
        (["0.0", "2."], CLASS_NAMES, [0, 2], "by number"),
        (["1.0", "2"], ("2", "0", "1"), [2, 0], "by name"),  # as 1 and 2 are
        (["1.0", "2.0"], ("2.0", "0.0", "1.0"), [2, 0], "by name"),
        (["n01", "n02", "n03"], CLASS_NAMES, [0, 1, 2], "in sorted order"),
        (["ants", "bees", "cats"], CLASS_NAMES, [0, 1, 2], "in sorted order"),
        (["x", "y", "z"], None, [0, 1, 2], "in sorted order"),
    ],
)
def test_how_folders_become_classes(folders, names, labels, how):
    found, matching = matched(folders, names)
    assert (found, matching.how) == (labels, f"class folders {how}")
    assert len(matching.class_names) == 3


@pytest.mark.parametrize("names", [None, tuple(f"class {k}" for k in range(1000))])
def test_some_of_imagenets_folders_are_known_by_their_ids(names):
    """Ten of them, as in Imagenette; sorted order could not tell which ten."""
    ten = ["n01440764", "n02102040", "n02979186_cassette player", "n03445777", "n15075141"]
    found, matching = matched(ten, names, 1000)
    assert (found, matching.how) == ([0, 217, 482, 574, 999], "class folders by WordNet id")


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["n01440764", "n99999999"], 1000),  # no class of ImageNet
        (["n01440764", "n01440764_tench"], 1000),  # the same class twice
        (["n01440764", "n02102040"], 999),  # not ImageNet's classes
        (["n01440764", "tench"], 1000),
    ],
)
def test_ids_that_say_nothing(folders, classes):
    with pytest.raises(DataError, match="--class-map"):
        matched(folders, None, classes)


def test_names_that_are_not_known_are_those_of_the_folders():
    assert matched(["0_ant", "2"], None)[1].class_names == ("ant", "1", "2")


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
def test_folders_that_do_not_match_are_shown(folders, names):
    with pytest.raises(DataError, match="don't match the model's classes") as caught:
        matched(folders, names)
    text = str(caught.value)
    assert sorted(folders)[0] in text
    assert (names[0] if names else "unnamed, 3 of them") in text
    assert "--class-map" in text
    assert "\n" not in text


def test_long_lists_are_shown_in_short():
    names = tuple(f"class{i}" for i in range(1000))
    with pytest.raises(DataError) as caught:
        matched([f"x{i:02}" for i in range(20)], names, 1000)
    assert len(str(caught.value)) < 320


def test_numbers_are_classes_within_their_range():
    found = match(GivenLabels(np.array([2, 0, -1])), CLASS_NAMES, 3, "here")
    assert (found.labels.tolist(), found.how) == ([2, 0, -1], "labels by number")
    for wrong in (3, -2):
        with pytest.raises(DataError, match=f"here: label {wrong} is out of range: .* 0 to 2"):
            match(GivenLabels(np.array([0, wrong])), None, 3, "here")


@pytest.mark.parametrize("form", ["mapping", "file"])
def test_a_class_map(model, tmp_path, form):
    root = write_images(tmp_path / "images", (1, 2), ("v", "w"))
    class_map = {"v": "cat", "w": 1, "unused": 0}
    if form == "file":
        (tmp_path / "map.json").write_text(json.dumps(class_map))
        class_map = tmp_path / "map.json"
    data = open_data(model, root, class_map=class_map)
    assert data.labels.tolist() == [2, 1, 1]
    assert data.facts["labels"] == "class folders by the class map"


def test_a_class_map_of_numbers(model):
    x = np.zeros((2, 1, HEIGHT, WIDTH), np.float32)
    data = open_data(model, (x, np.array([281, 7])), class_map={"281": "bee", "7": 2})
    assert data.labels.tolist() == [1, 2]


@pytest.mark.parametrize("key", ["7", "7.0"])
def test_a_class_map_of_whole_numbers_written_as_floats(key):
    assert matched(["7.0"], class_map={key: "bee"})[0] == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such class map"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "is an object of"),
        ('{"v": 1.5}', "is an object of"),
        ('{"v": true}', "is an object of"),
        ('{"v": 0}', "lacks 'w'"),
        ('{"v": 0, "w": 3}', "sends 'w' to 3"),
        ('{"v": 0, "w": "dog"}', "sends 'w' to 'dog'"),
    ],
)
def test_class_maps_that_are_none(model, tmp_path, content, said):
    root = write_images(tmp_path / "images", (1, 1), ("v", "w"))
    if content is not None:
        (tmp_path / "map.json").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        open_data(model, root, class_map=tmp_path / "map.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["model", "above"])
@pytest.mark.parametrize(
    "config",
    [{"id2label": {"0": "x", "1": "y", "2": "z"}}, {"label_names": ["x", "y", "z"]}],
)
def test_class_names_from_a_config_beside_the_model(tmp_path, place, config):
    folder = tmp_path / "onnx"
    folder.mkdir()
    model = saved(classifier(), folder)
    (folder if place == "model" else tmp_path).joinpath("config.json").write_text(
        json.dumps(config)
    )
    data = open_data(model, write_images(tmp_path / "images", (1, 2), ("z", "x")))
    assert data.class_names == ("x", "y", "z")
    assert data.labels.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, '{"id2label": {"0": "x"}}', '{"id2label": {"a": 1}}']
)
def test_a_config_of_something_else_is_passed_over(tmp_path, text):
    model = saved(classifier(), tmp_path)
    (tmp_path / "config.json").write_text(text)
    data = open_data(model, write_images(tmp_path / "images"))
    assert data.class_names == CLASS_NAMES


def test_names_must_be_as_many_as_outputs(tmp_path):
    model = model_of(tmp_path, (*CLASS_NAMES, "dog"))
    with pytest.raises(ModelError, match="name 4 classes, but it has 3 outputs"):
        open_data(model, write_images(tmp_path / "images"))


def test_which_files_are_images_and_in_which_order(model, tmp_path):
    image, root = Image.new("L", (WIDTH, HEIGHT)), tmp_path / "images"
    kept = ["a.PNG", "b.jpg", "c.jpeg", "d.bmp", "e.webp", "f.tif", "g.tiff", "inner/a.png"]
    for name in [*reversed(kept), ".hidden.png", "notes.txt"]:
        file = root / "bee" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            file.write_text("no image")
        else:
            image.save(file)
    (root / ".cache").mkdir()
    (root / "bee" / "folder.png").mkdir()
    data = open_data(model, root)
    assert [p.relative_to(root / "bee").as_posix() for p in data.source.files.paths] == kept
    assert data.labels.tolist() == [1] * len(kept)
    assert sum(len(batch) for batch in data.batches(3)) == len(kept)


@pytest.mark.parametrize("size", [1, 4, 13, 50])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("start", [0, 5, 13])
def test_batches_hold_all_samples_in_order(data, size, threads, start):
    batches = list(data.batches(size, start, threads))
    assert all(len(batch) == size for batch in batches[:-1])
    assert [i for batch in batches for i in batch.index] == list(range(start, 13))
    assert [k for batch in batches for k in batch.labels] == data.labels[start:].tolist()
    want = [Preprocess().read(file, FORM) for file in data.source.files.paths[start:]]
    found = [image for batch in batches for image in batch.feeds["x"]]
    np.testing.assert_array_equal(found, want)


def test_samples_are_spread_and_whole_batches_where_the_model_wants_them(data, tmp_path):
    (feeds,) = data.sample(4)
    want = next(data.take(np.array([0, 4, 8, 12])).batches(4)).feeds
    np.testing.assert_array_equal(feeds["x"], want["x"])
    fixed = open_data(model_of(tmp_path, batch=5), tmp_path / "images")
    assert [len(feeds["x"]) for feeds in fixed.sample(12)] == [5, 5]


def test_decoding_keeps_a_bounded_distance_and_stops_with_its_reader(model, tmp_path):
    class Counting(Preprocess):
        reads: list = []  # noqa: RUF012

        def read(self, file, form, name=None):
            self.reads.append(file)
            return super().read(file, form, name)

    root = write_images(tmp_path / "images", (40, 40, 40))
    data = open_data(model, root, preprocess=Counting())
    before = threading.active_count()
    batches = data.batches(2)
    next(batches)
    next(batches)
    batches.close()
    assert len(Counting.reads) <= 4 * 2  # two handed out, two ahead
    assert threading.active_count() == before


def test_the_first_broken_file_in_order_is_named(data):
    paths = data.source.files.paths
    for file in (paths[5], paths[9]):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"can't be read") as caught:
        list(data.batches(4))
    assert str(caught.value).startswith(str(paths[5]))


def test_images_of_two_sizes_are_refused_where_the_model_takes_any(tmp_path):
    model, root = model_of(tmp_path, height="H", width="W"), write_images(tmp_path / "images")
    data = open_data(model, root)
    Image.new("L", (9, 9)).save(data.source.files.paths[7])
    with pytest.raises(DataError, match=r"2\.png: is 9 x 9 pixels"):
        list(data.batches(4))
    resized = open_data(model, root, preprocess=Preprocess(size=(HEIGHT, WIDTH)))
    assert sum(len(batch) for batch in resized.batches(4)) == 13


def test_data_without_labels_are_only_refused_where_classes_are_needed(model, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    Image.new("L", (WIDTH, HEIGHT)).save(root / "1.png")
    data = open_data(model, root)
    assert data.labels.tolist() == [-1]
    with pytest.raises(DataError, match=r"no labels, and scoring needs .*--labels predicted"):
        data.require_labels("scoring")
    predicted = open_data(model, root, labels="predicted")
    predicted.require_labels("scoring")
    assert predicted.facts["labels"] == "predicted by the model"
    with pytest.raises(UsageError, match="labels 'mine'"):
        open_data(model, root, labels="mine")


# Subsets


@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    number=st.integers(1, 70),
    seed=st.integers(0, 5),
)
def test_a_subset_is_balanced(labels, number, seed):
    labels = np.array(labels)
    chosen, _ = _choose(labels, number, seed)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(number, len(labels))
    np.testing.assert_array_equal(chosen, _choose(labels, number, seed)[0])
    taken = {k: int((labels[chosen] == k).sum()) for k in set(labels.tolist())}
    most = max(taken.values())
    for k, count in taken.items():
        assert count >= most - 1 or count == (labels == k).sum()


def test_a_subset_depends_on_its_seed(model, tmp_path):
    root = write_images(tmp_path / "images", (20, 20, 20))
    a, b = (open_data(model, root, num_samples=12, seed=seed) for seed in (0, 1))
    assert np.bincount(a.labels).tolist() == np.bincount(b.labels).tolist() == [4, 4, 4]
    assert a.index.tolist() != b.index.tolist()
    assert a.facts["samples"] == "12 of 60, class-balanced, seed 0"
    whole = next(open_data(model, root).batches(60)).feeds["x"]
    np.testing.assert_array_equal(next(a.batches(12)).feeds["x"], whole[a.index])
    with pytest.raises(UsageError, match="from 1 on"):
        open_data(model, root, num_samples=0)


def test_batches_are_made_while_the_model_works(model, tmp_path):
    """Two batches ahead, whether anybody asks for them or not."""
    read = threading.Semaphore(0)

    class Telling(Preprocess):
        def read(self, file, form, name=None):
            image = super().read(file, form, name)
            read.release()
            return image

    data = open_data(model, write_images(tmp_path / "images", (8, 8, 8)), preprocess=Telling())
    batches = data.batches(4)
    next(batches)
    assert all(read.acquire(timeout=10) for _ in range(3 * 4))
    batches.close()
