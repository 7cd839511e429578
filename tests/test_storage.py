"""The file of moments: what comes back, and that nothing a stranger sends does harm."""

from __future__ import annotations

import contextlib
import json
import signal
import struct
import tracemalloc
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_moments import EDGES, FEATURES, TAPS, assert_close, complete, empty, images

from discedit_onnx.calibration.accumulator import Accumulator
from discedit_onnx.calibration.histograms import Histograms
from discedit_onnx.calibration.moments import Moments
from discedit_onnx.calibration.storage import METADATA_KEY, load_moments
from discedit_onnx.calibration.taps import Tap
from discedit_onnx.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def full(seed: int) -> Moments:
    """Moments with everything that there is."""
    features, labels = images(seed)
    return complete(features, labels, np.arange(60) - 5, [20])


def check_equal(a: Moments, b: Moments) -> None:
    """Equal in every field, to the bit."""
    names = ("taps", "features", "class_names", "source", "facts", "correct")
    assert [getattr(a, name) for name in names] == [getattr(b, name) for name in names]
    assert a.arrays().keys() == b.arrays().keys()
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(b.arrays()[name], array, strict=True)
    assert {name: part.count for name, part in a.second.items()} == {
        name: part.count for name, part in b.second.items()
    }


@pytest.mark.parametrize("of", [full, lambda seed: replace(empty(), facts={"b": "ü", "a": "1"})])
def test_round_trip(tmp_path: Path, of) -> None:
    moments = of(11)
    moments.save(tmp_path / "m.safetensors")
    found = load_moments(tmp_path / "m.safetensors")
    check_equal(found, moments)
    more = found.update(*images(12))
    assert_close(more, moments.update(*images(12)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_counts_of_every_width_come_back(tmp_path: Path, kind: type) -> None:
    moments = full(15)
    assert moments.histograms is not None
    assert moments.histograms.counts.dtype == np.uint8
    counts = moments.histograms.counts.astype(kind)
    moments = replace(moments, histograms=replace(moments.histograms, counts=counts))
    moments.save(tmp_path / "m.safetensors")
    check_equal(load_moments(tmp_path / "m.safetensors"), moments)


def test_saving_takes_no_memory_of_the_size_of_the_file(tmp_path: Path) -> None:
    """A checkpoint is written while the model is in memory too."""
    taps = (Tap("relu", 1, 20_000, 4),)
    moments = Accumulator(Moments.empty(taps, ["a", "b"], "0" * 64, features=FEATURES)).moments
    tracemalloc.start()
    moments.save(tmp_path / "m.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < moments.nbytes / 10


def test_equal_moments_give_equal_bytes(tmp_path: Path) -> None:
    moments = full(13)
    replace(moments, facts={"a": "1", "b": "2", "c": "3"}).save(tmp_path / "one")
    replace(moments, facts={"c": "3", "b": "2", "a": "1"}).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_saved_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    empty().save(tmp_path / "moments")
    (tmp_path / "other").touch()
    assert (tmp_path / "moments").stat().st_mode == (tmp_path / "other").stat().st_mode


@contextlib.contextmanager
def files_of(size: int) -> Iterator[None]:
    """No file may be longer: as on a disk that is nearly full."""
    resource = pytest.importorskip("resource")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_failed_save_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    empty().save(file)
    before = file.read_bytes()
    with files_of(1000), pytest.raises(UsageError, match=r"can't be written: File too large$"):
        full(14).save(file)
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
    full(15).save(file)
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
    full(16).save(file)
    with safe_open(file, framework="numpy") as stored:
        old = json.loads(stored.metadata()[METADATA_KEY])
    changed = {k: v for k, v in {**load_file(file), **arrays}.items() if v is not None}
    save_file(changed, file, {METADATA_KEY: json.dumps({**old, **header})})


def test_load_names_a_format_that_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    forge(file, {"format": 2}, {})
    with pytest.raises(DataError, match="format 2, but this version reads 3"):
        load_moments(file)


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"class_names": ["cat", "dog"]}, {}),
        ({"class_names": 4}, {}),
        ({"taps": [{"tensor": "relu1", "axis": 1, "length": 3, "rank": 4}]}, {}),
        ({"taps": [{"tensor": "relu1"}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 1, "length": "5", "rank": 4}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 1, "length": 5, "rank": 4, "more": 1}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 4, "length": 5, "rank": 4}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 1, "length": -5, "rank": 4}]}, {}),
        ({"taps": [{"tensor": "x", "axis": 1, "length": 10**30, "rank": 4}]}, {}),
        ({"taps": [{"tensor": "x", "axis": True, "length": 5, "rank": 4}]}, {}),
        ({"taps": [[1]]}, {}),
        ({"taps": {"x": 1}}, {}),
        ({"taps": [asdict(TAPS[0]), {**asdict(TAPS[1]), "tensor": "relu1"}]}, {}),
        ({"features": ["mean"]}, {}),
        ({"features": ["mean", "mean"]}, {}),
        ({"features": ["mean", "median"]}, {}),
        ({"features": ["mean", ["mean"]]}, {}),
        ({"class_names": ["a", "b", "c", 4]}, {}),
        ({"source": None}, {}),
        ({"facts": {"a": 1}}, {}),
        ({"facts": ["a"]}, {}),
        ({"correct": -1}, {}),
        ({"correct": 61}, {}),
        ({"correct": 0.5}, {}),
        ({"histogram_feature": None}, {}),
        ({"histogram_feature": "median"}, {}),
        ({"second_count": {}}, {}),
        ({"second_count": {"relu1": 60, "fb": 60}}, {}),
        ({"second_count": {"relu1": 60, "fc": "60"}}, {}),
        ({"second_count": []}, {}),
        ({}, {"class_index": np.array([0, 1, 2, 2])}),
        ({}, {"class_index": np.array([0, 1, 2, -2])}),
        ({}, {"histogram_edges": None}),
        ({}, {"histogram_edges": EDGES.astype(np.float64)[:, ::-1]}),
        ({}, {"histogram_edges": EDGES.astype(np.float64)[:, 1:]}),
        ({}, {"histogram_edges": EDGES}),
        ({}, {"histogram_edges": EDGES + np.array([0.0] * 6 + [1e-9])}),
        ({}, {"histogram_edges": EDGES + np.array([0.0] * 6 + [1e300])}),
        ({}, {"histogram_edges": np.ones(5)}),
        ({}, {"histogram_edges": np.ones((5, 0))}),
        ({}, {"histogram_counts": np.full((2, 4, 5, 8), 100, np.uint32)}),
        ({}, {"histogram_counts": np.ones((2, 4, 5, 8), np.uint64)}),
        ({}, {"histogram_counts": np.ones((2, 4, 5, 8), np.int8)}),
        ({}, {"histogram_counts": np.arange(320, dtype=np.uint32).reshape(2, 4, 5, 8)}),
        ({}, {"second_comoment.1": None}),
        ({}, {"second_comoment.1": np.ones((3, 3))}),
        ({}, {"second_mean.0": np.full(3, np.inf)}),
        ({"facts": None}, {}),
        ({}, {"mean": None}),
        ({}, {"extra": np.ones(1)}),
        ({}, {"count": np.ones(3, np.int64)}),
        ({}, {"count": np.full(4, -1)}),
        ({}, {"count": np.ones(4)}),
        ({}, {"count": np.full(4, 2**62)}),
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
    with pytest.raises(DataError, match=r"damaged|of format unknown"):
        load_moments(file)


@pytest.mark.parametrize(
    "text",
    ["not json", "[]", "null", "{}", "[" * 100_000, '{"format": ' + "1" * 5000 + "}", '"\\ud800"'],
    ids=["words", "list", "null", "empty", "deep", "long number", "half a character"],
)
def test_load_refuses_a_header_that_is_no_header(tmp_path: Path, text: str) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"mean": np.ones(3)}, file, {METADATA_KEY: text})
    with pytest.raises(DataError, match=r"damaged|of format unknown"):
        load_moments(file)


def refused(file: Path, content: bytes) -> bool:
    """Whether a file is refused, in one line, with no large allocation; or read whole."""
    file.write_bytes(content)
    tracemalloc.start()
    said = None
    try:
        load_moments(file)
    except DataError as error:
        said = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20 + 20 * len(content), "memory that the file does not account for"
    assert said is None or "\n" not in said
    return said is not None


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    full(17).save(file)
    return file.read_bytes()


fuzzed = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1))
@fuzzed
def test_changed_bytes_never_do_harm(tmp_path: Path, content: bytes, changes: list) -> None:
    broken = bytearray(content)
    for place, value in changes:
        broken[int(place * len(broken))] = value
    refused(tmp_path / "m", bytes(broken))


@given(st.integers(0, 2**31), st.integers(1, 4))
@fuzzed
def test_changed_headers_never_do_harm(
    tmp_path: Path, content: bytes, seed: int, changes: int
) -> None:
    """Bytes of the header only, where every one matters: printable ones, so that it parses."""
    rng = np.random.default_rng(seed)
    size = struct.unpack("<Q", content[:8])[0]
    broken = bytearray(content)
    for place in rng.integers(8, 8 + size, changes):
        broken[place] = rng.integers(32, 127)
    refused(tmp_path / "m", bytes(broken))


@given(st.binary(max_size=300), st.floats(0, 1))
@fuzzed
def test_random_and_grafted_bytes_are_refused(
    tmp_path: Path, content: bytes, noise: bytes, share: float
) -> None:
    file, cut = tmp_path / "m", int(share * len(content))
    assert refused(file, noise)
    grafted = content[:cut] + noise + content[cut:]
    assert refused(file, grafted) or not noise


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["mean", "relu1", "", "fc", "\n"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["tensor", "axis", "length", "rank", "fc"]), inner)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(
        [
            "format",
            "source",
            "taps",
            "features",
            "class_names",
            "facts",
            "correct",
            "histogram_feature",
            "second_count",
        ]
    ),
    VALUES,
)
@fuzzed
def test_forged_headers_never_do_harm(
    tmp_path: Path, content: bytes, field: str, value: object
) -> None:
    file = tmp_path / "m"
    file.write_bytes(content)
    with safe_open(file, framework="numpy") as stored:
        header = json.loads(stored.metadata()[METADATA_KEY])
    old = header[field]
    header[field] = value
    save_file(load_file(file), file, {METADATA_KEY: json.dumps(header)})
    harmless = field in ("source", "facts", "correct", "histogram_feature", "class_names")
    assert refused(file, file.read_bytes()) or value == old or harmless


@pytest.mark.parametrize("claimed", [2**20, 2**40, 2**60])
def test_a_claim_of_huge_arrays_is_refused_before_memory_is_taken(
    tmp_path: Path, claimed: int
) -> None:
    """Both in the shapes, and in the shapes and offsets, of a file of some hundred bytes."""
    taps = [{"tensor": "x", "axis": 1, "length": claimed, "rank": 4}]
    stored = {
        "format": 2, "source": "0", "taps": taps, "features": ["mean"], "class_names": ["a"],
        "facts": {}, "correct": None, "histogram_feature": None, "second_count": {},
    }  # fmt: skip
    for end in (16, 8 * claimed):
        header = {
            "__metadata__": {METADATA_KEY: json.dumps(stored)},
            "class_index": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
            "mean": {"dtype": "F64", "shape": [1, claimed, 1], "data_offsets": [8, 8 + end]},
        }
        text = json.dumps(header).encode()
        assert refused(tmp_path / "m", struct.pack("<Q", len(text)) + text + bytes(24))
    for length in (2**20, 2**40, 2**63):
        assert refused(tmp_path / "m", struct.pack("<Q", length) + bytes(100))


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such moments file"):
        load_moments(tmp_path)


def test_histograms_without_a_single_edge(tmp_path: Path) -> None:
    """One bin for everything is of no use, but it is a histogram."""
    one = replace(empty(), histograms=Histograms.empty("mean", np.empty((5, 0), np.float32), 4))
    one.save(tmp_path / "m")
    check_equal(load_moments(tmp_path / "m"), one)
