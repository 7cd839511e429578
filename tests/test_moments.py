"""The monoid of moments: exactness, stability, and what its file survives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from discedit_onnx.calibration.moments import METADATA_KEY, Moments, load_moments
from discedit_onnx.calibration.taps import FEATURES, Tap
from discedit_onnx.errors import DataError, UsageError

TAPS = (Tap("relu1", 1, 3, 4), Tap("fc", 1, 2, 2))
CLASSES = ("cat", "dog", "owl", "newt")
CHANNELS = sum(tap.length for tap in TAPS)

seeds = st.integers(0, 2**32 - 1)


def empty(**facts: str) -> Moments:
    return Moments.empty(TAPS, CLASSES, "0" * 64, facts)


def images(seed: int, number: int = 60, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Random features, of channels and classes with different scales, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), number)
    scale = 10.0 ** rng.uniform(-3, 3, (1, CHANNELS, len(FEATURES)))
    noise = rng.normal(size=(number, CHANNELS, len(FEATURES)))
    return (noise + rng.normal(size=noise.shape[1:]) * labels[:, None, None] + mean) * scale, labels


def gather(features: np.ndarray, labels: np.ndarray, cuts: list[int]) -> Moments:
    """Moments of the images, updated in the batches that the cuts make."""
    moments = empty()
    for part, of in zip(np.split(features, cuts), np.split(labels, cuts), strict=True):
        moments = moments.update(part, of)
    return moments


def direct(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and co-moment of some images, in two passes and extended precision."""
    wide = features.astype(np.longdouble)
    mean = wide.mean(axis=0)
    return mean.astype(float), np.einsum("nci,ncj->cij", wide - mean, wide - mean).astype(float)


def assert_close(a: Moments, b: Moments, tolerance: float = 1e-12) -> None:
    """Equal to a share of each feature's own size and spread."""
    np.testing.assert_array_equal(a.count, b.count)
    deviation = np.sqrt(np.diagonal(b.comoment, axis1=-2, axis2=-1))
    size = np.abs(b.mean) + deviation
    assert (np.abs(a.mean - b.mean) <= tolerance * size).all()
    spread = deviation[..., :, None] * deviation[..., None, :]
    assert (np.abs(a.comoment - b.comoment) <= tolerance * spread).all()


def test_empty_has_the_documented_shapes() -> None:
    moments = empty(device="cpu")
    assert moments.count.shape == (4,)
    assert moments.count.dtype == np.int64
    assert moments.mean.shape == (4, 5, 2)
    assert moments.comoment.shape == (4, 5, 2, 2)
    assert moments.mean.dtype == moments.comoment.dtype == np.float64
    assert moments.facts == {"device": "cpu"}
    assert moments.slices == {"relu1": slice(0, 3), "fc": slice(3, 5)}


@given(seeds)
def test_update_equals_the_textbook(seed: int) -> None:
    features, labels = images(seed)
    moments = empty().update(features, labels)
    np.testing.assert_array_equal(moments.count, np.bincount(labels, minlength=4))
    for k in np.unique(labels):
        mean, comoment = direct(features[labels == k])
        np.testing.assert_allclose(moments.mean[k], mean, rtol=1e-9)
        np.testing.assert_allclose(
            moments.comoment[k], comoment, rtol=1e-9, atol=1e-12 * comoment.max()
        )


def test_covariance_divides_by_n() -> None:
    features, labels = images(1)
    covariance = empty().update(features, labels).covariance
    expected = np.cov(features[labels == 2, 4].T, bias=True)
    np.testing.assert_allclose(covariance[2, 4], expected, rtol=1e-12)


def test_update_leaves_the_old_moments_alone() -> None:
    features, labels = images(2)
    old = empty()
    assert old.update(features, labels).count.sum() == len(labels)
    assert not old.count.any()
    assert not old.mean.any()


@given(seeds, st.lists(st.integers(0, 60), max_size=8).map(sorted))
def test_any_split_into_batches_gives_the_same(seed: int, cuts: list[int]) -> None:
    features, labels = images(seed)
    assert_close(gather(features, labels, cuts), gather(features, labels, []))


def test_float32_features_are_summed_in_float64() -> None:
    features, labels = images(3)
    narrow = features.astype(np.float32)
    assert_close(gather(narrow, labels, [7]), gather(narrow.astype(np.float64), labels, []))


@given(seeds)
def test_merge_is_commutative_and_associative(seed: int) -> None:
    a, b, c = (gather(*images(seed + i, 20), []) for i in range(3))
    assert_close(a.merge(b), b.merge(a))
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_empty_is_neutral() -> None:
    moments = gather(*images(4), [])
    for joined in (moments.merge(empty()), empty().merge(moments)):
        np.testing.assert_array_equal(joined.count, moments.count)
        np.testing.assert_array_equal(joined.mean, moments.mean)
        np.testing.assert_array_equal(joined.comoment, moments.comoment)


@given(seeds)
@settings(max_examples=25)
def test_a_mean_of_a_million_deviations_costs_no_digits(seed: int) -> None:
    features, labels = images(seed, mean=1e6)
    cut = gather(features, labels, list(range(7, 60, 7)))
    for k in np.unique(labels):
        _, comoment = direct(features[labels == k])
        variance = np.diagonal(comoment, axis1=-2, axis2=-1)
        found = np.diagonal(cut.comoment[k], axis1=-2, axis2=-1)
        np.testing.assert_allclose(found, variance, rtol=1e-9, atol=1e-20)


def test_a_constant_feature_has_exactly_its_value_and_no_spread() -> None:
    features = np.full((50, CHANNELS, 2), 0.1)
    labels = np.arange(50) % 4
    moments = gather(features, labels, [3, 10, 11, 40])
    assert (moments.mean == 0.1).all()
    assert not moments.comoment.any()
    assert (moments.rest().mean == 0.1).all()
    assert not moments.rest().comoment.any()


@given(seeds)
def test_rest_is_the_other_classes(seed: int) -> None:
    features, labels = images(seed, number=30)
    rest = gather(features, labels, []).rest()
    for k in range(len(CLASSES)):
        others = labels != k
        expected = gather(features[others], np.zeros(others.sum(), int), [])
        np.testing.assert_array_equal(rest.count[k], expected.count[0])
        np.testing.assert_allclose(
            rest.mean[k], expected.mean[0], rtol=1e-12, atol=1e-12 * np.abs(features).max()
        )
        size = np.sqrt(np.diagonal(expected.comoment[0], axis1=-2, axis2=-1))
        error = np.abs(rest.comoment[k] - expected.comoment[0])
        assert (error <= 1e-12 * size[..., :, None] * size[..., None, :]).all()


def test_rest_keeps_its_digits_beside_a_class_far_away() -> None:
    features, labels = images(5)
    far = features + 1e9 * (labels == 1)[:, None, None]
    rest = gather(far, labels, []).rest()
    near = gather(features[labels != 1], labels[labels != 1], []).rest()
    np.testing.assert_allclose(rest.comoment[1], near.comoment[1], rtol=1e-12)


def test_rest_of_a_lone_class_is_empty() -> None:
    features, _ = images(6)
    rest = gather(features, np.full(60, 2), []).rest()
    assert rest.count.tolist() == [60, 60, 0, 60]
    assert not rest.mean[2].any()
    assert not rest.comoment[2].any()


def test_select_picks_features_by_name() -> None:
    moments = gather(*images(7), [])
    chosen = moments.select(("mean_square",))
    assert chosen.features == ("mean_square",)
    np.testing.assert_array_equal(chosen.mean, moments.mean[..., 1:])
    np.testing.assert_array_equal(chosen.comoment, moments.comoment[..., 1:, 1:])
    swapped = moments.select(("mean_square", "mean"))
    np.testing.assert_array_equal(swapped.comoment, moments.comoment[..., ::-1, ::-1])
    with pytest.raises(DataError, match="'max'"):
        moments.select(("max",))


def test_update_refuses_what_does_not_fit() -> None:
    features, labels = images(8)
    with pytest.raises(ValueError, match="features are"):
        empty().update(features[:, :4], labels)
    with pytest.raises(ValueError, match="features are"):
        empty().update(features, labels[:-1])
    for wrong in (-1, 4):
        with pytest.raises(DataError, match="4 classes"):
            empty().update(features, np.full(60, wrong))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_update_names_a_tensor_that_is_not_finite(value: float) -> None:
    features, labels = images(9)
    features[13, 3, 1] = value
    with pytest.raises(DataError, match="'fc'"):
        empty().update(features, labels)


def test_update_with_no_images_changes_nothing() -> None:
    moments = gather(*images(10), [])
    same = moments.update(np.empty((0, CHANNELS, 2), np.float32), np.empty(0, int))
    np.testing.assert_array_equal(same.comoment, moments.comoment)


@pytest.mark.parametrize(
    "other",
    [
        replace(empty(), source="1" * 64),
        replace(empty(), taps=(TAPS[1], TAPS[0])),
        replace(empty(), features=("mean_square", "mean")),
        replace(empty(), class_names=("dog", "cat", "owl", "newt")),
    ],
    ids=["source", "taps", "features", "class_names"],
)
def test_merge_refuses_moments_of_another_kind(other: Moments) -> None:
    with pytest.raises(DataError, match="can't be merged"):
        empty().merge(other)


def test_merge_joins_facts_in_any_order() -> None:
    parts = [
        empty(device="cuda:0", data="b"),
        empty(device="cpu", data="b"),
        empty(device="cuda:1", onnxruntime="1.32"),
    ]
    expected = {"data": "b", "device": "cpu; cuda:0; cuda:1", "onnxruntime": "1.32"}
    a, b, c = parts
    assert a.merge(b).merge(c).facts == expected
    assert c.merge(b.merge(a)).facts == expected


def test_file_round_trip(tmp_path: Path) -> None:
    moments = replace(gather(*images(11), [20]), facts={"b": "ü", "a": "1"})
    moments.save(tmp_path / "m.safetensors")
    found = load_moments(tmp_path / "m.safetensors")
    for field in ("taps", "features", "class_names", "source", "facts"):
        assert getattr(found, field) == getattr(moments, field)
    for field in ("count", "mean", "comoment"):
        np.testing.assert_array_equal(getattr(found, field), getattr(moments, field))
        assert getattr(found, field).dtype == getattr(moments, field).dtype
    more = found.update(*images(12))
    assert_close(more, moments.update(*images(12)))


def test_equal_moments_give_equal_bytes(tmp_path: Path) -> None:
    moments = gather(*images(13), [])
    replace(moments, facts={"a": "1", "b": "2", "c": "3"}).save(tmp_path / "one")
    replace(moments, facts={"c": "3", "b": "2", "a": "1"}).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_saved_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    empty().save(tmp_path / "moments")
    (tmp_path / "other").touch()
    assert (tmp_path / "moments").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_save_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.safetensors"
    empty().save(file)
    before = file.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        gather(*images(14), []).save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_save_into_no_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        empty().save(tmp_path / "none" / "m.safetensors")


def test_load_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such moments file"):
        load_moments(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"PK\x03\x04" * 50])
def test_load_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"not a safetensors file"):
        load_moments(file)


def test_load_refuses_a_truncated_file(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    gather(*images(15), []).save(file)
    content = file.read_bytes()
    for size in [*range(0, len(content), 97), len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(DataError, match="truncated"):
            load_moments(file)


def test_load_refuses_other_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"weight": np.ones(3)}, file)
    with pytest.raises(DataError, match="not a moments file"):
        load_moments(file)


def forge(file: Path, header: dict[str, object], arrays: dict[str, np.ndarray | None]) -> None:
    """Save moments, then change parts of the header and some arrays (None drops one)."""
    gather(*images(16), []).save(file)
    with safe_open(file, framework="numpy") as stored:
        old = json.loads(stored.metadata()[METADATA_KEY])
    changed = {k: v for k, v in {**load_file(file), **arrays}.items() if v is not None}
    save_file(changed, file, {METADATA_KEY: json.dumps({**old, **header})})


def test_load_names_a_format_that_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    forge(file, {"format": 2}, {})
    with pytest.raises(DataError, match="format 2, but this version reads 1"):
        load_moments(file)


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"class_names": ["cat", "dog"]}, {}),
        ({"class_names": 4}, {}),
        ({"taps": [{"tensor": "relu1", "axis": 1, "length": 3, "rank": 4}]}, {}),
        ({"taps": [{"tensor": "relu1"}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 1, "length": "5", "rank": 4}]}, {}),
        ({"features": ["mean"]}, {}),
        ({"facts": None}, {}),
        ({}, {"mean": None}),
        ({}, {"extra": np.ones(1)}),
        ({}, {"count": np.ones(3, np.int64)}),
        ({}, {"count": np.full(4, -1)}),
        ({}, {"count": np.ones(4)}),
        ({}, {"mean": np.ones((4, 5, 2), np.float32)}),
        ({}, {"mean": np.full((4, 5, 2), np.nan)}),
        ({}, {"comoment": np.ones((4, 5, 2))}),
    ],
)
def test_load_refuses_parts_that_do_not_agree(
    tmp_path: Path, header: dict[str, object], arrays: dict[str, np.ndarray | None]
) -> None:
    file = tmp_path / "m.safetensors"
    forge(file, header, arrays)
    with pytest.raises(DataError, match="damaged"):
        load_moments(file)


@pytest.mark.parametrize("text", ["not json", "[]", "null", "{}"])
def test_load_refuses_a_header_that_is_no_header(tmp_path: Path, text: str) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"mean": np.ones(3)}, file, {METADATA_KEY: text})
    with pytest.raises(DataError, match="damaged"):
        load_moments(file)
