"""Every kind of data gives the model the same, and every kind of damage one clear line."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader
from PIL import Image
from tiny_models import CLASS_NAMES, HEIGHT, WIDTH, classifier, saved

from discedit_onnx.calibration.opening import open_data
from discedit_onnx.calibration.sources import stream
from discedit_onnx.errors import DataError, ModelError, UsageError

COUNT = 7
LABELS = np.array([0, 1, 2, 2, 1, 0, 1])


@pytest.fixture(scope="module")
def pixels():
    """Grey images as bytes."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def model(tmp_path):
    proto = classifier()
    proto.metadata_props.add(key="discedit.class_names", value=json.dumps(CLASS_NAMES))
    (tmp_path / "model").mkdir()
    return saved(proto, tmp_path / "model")


@pytest.fixture
def pair(tmp_path):
    """A model with two inputs, one of them of whole numbers."""
    text = """<ir_version: 8, opset_import: ["":17]>
        g (int64[N,T] ids, float[N,T] mask) => (float[N,3] y) <float[1,3] one = {1, 2, 3}>
        { f = Cast<to=1>(ids) p = Mul(f, mask) m = ReduceMean<axes = [1]>(p) y = Mul(m, one) }"""
    return saved(onnx.parser.parse_model(text), tmp_path, "pair.onnx")


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def prepared(pixels):
    """What a model is fed for images as bytes."""
    return pixels[:, None] * np.float32(1 / 255)


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_files(pixels, suffix):
    for i, image in enumerate(pixels):
        label = str(LABELS[i]) if suffix == "cls" else json.dumps({"label": int(LABELS[i])})
        yield f"part/{i:03}.png", png(image)
        yield f"part/{i:03}.{suffix}", label.encode()


def write_list(path, pixels, header=True):
    folder = path.parent / "files"
    folder.mkdir(exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        if header:
            writer.writerow(["label", "path"] if header == "turned" else ["path", "label"])
        for i, image in enumerate(pixels):
            (folder / f"{i}.png").write_bytes(png(image))
            row = [f"files/{i}.png", CLASS_NAMES[LABELS[i]]]
            writer.writerow(row[::-1] if header == "turned" else row)
    return path


def write_parquet(path, pixels, names=True, labels=True, row_group_size=2):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(image), "path": None} for image in pixels]
    columns = {"image": images} | ({"label": LABELS[: len(pixels)]} if labels else {})
    table = pa.table(columns)
    if names:
        features = {"label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"}}
        stored = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": stored})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def formats(tmp_path, pixels):
    """Every way to give the same labelled samples, by name."""
    x, some = prepared(pixels), slice(0, 4)
    np.savez(tmp_path / "stored.npz", x=x, y=LABELS)
    np.savez_compressed(tmp_path / "packed.npz", images=pixels, labels=LABELS[:, None])
    np.savez(tmp_path / "turned.npz", x=np.asfortranarray(x), y=LABELS.astype(np.uint8))
    names = np.array(CLASS_NAMES)[LABELS]
    np.savez(tmp_path / "named.npz", X=x.astype(np.float64), label=names)
    for folder in ("bytes", "floats"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "bytes/images.npy", pixels[..., None])
    np.save(tmp_path / "bytes/labels.npy", LABELS)
    np.save(tmp_path / "floats/x_test.npy", x)
    np.save(tmp_path / "floats/y_test.npy", LABELS)
    tars = tmp_path / "tars"
    tars.mkdir()
    files = list(tar_files(pixels, "json"))
    write_tar(tars / "b-0.tar", files[:8])
    write_tar(tars / "b-1.tar", files[8:])
    (tmp_path / "give.py").write_text(
        textwrap.dedent("""
            import numpy as np
            from pathlib import Path

            here = np.load(Path(__file__).with_name("stored.npz"))

            def batches():
                for i in range(0, 7, 3):
                    yield {"x": here["x"][i : i + 3]}, here["y"][i : i + 3]

            def arrays():
                return here["x"], here["y"]
        """)
    )
    return {
        "npz": tmp_path / "stored.npz",
        "npz compressed, bytes": tmp_path / "packed.npz",
        "npz, Fortran order": tmp_path / "turned.npz",
        "npz, names": tmp_path / "named.npz",
        "npy, bytes": tmp_path / "bytes/images.npy",
        "npy": tmp_path / "floats/x_test.npy",
        "csv": write_list(tmp_path / "list.csv", pixels),
        "csv without header": write_list(tmp_path / "bare.csv", pixels, header=False),
        "tsv, turned": write_list(tmp_path / "list.tsv", pixels, header="turned"),
        "tar, cls": write_tar(tmp_path / "a.tar", tar_files(pixels, "cls")),
        "tars, folder": tars,
        "tars, pattern": str(tars / "b-*.tar"),
        "script, generator": f"{tmp_path / 'give.py'}:batches",
        "script, arrays": f"{tmp_path / 'give.py'}:arrays",
        "pair of arrays": (x, LABELS),
        "mapping": {"x": x, "labels": LABELS},
        "feeds and labels": [({"x": x[some]}, LABELS[some]), ({"x": x[4:]}, LABELS[4:])],
        "single samples": [(x[i], LABELS[i]) for i in range(COUNT)],
        "single bytes": zip(pixels, LABELS, strict=True),
        "batches of bytes": iter([(pixels[some], LABELS[some]), (pixels[4:], LABELS[4:])]),
    }


FORMATS = (
    "npz", "npz compressed, bytes", "npz, Fortran order", "npz, names", "npy, bytes", "npy", "csv",
    "csv without header", "tsv, turned", "tar, cls", "tars, folder", "tars, pattern",
    "script, generator", "script, arrays", "pair of arrays", "mapping", "feeds and labels",
    "single samples", "single bytes", "batches of bytes",
)  # fmt: skip


def assert_same(data, pixels, labels=LABELS):
    assert len(data) == COUNT
    assert data.labels.tolist() == list(labels)
    for size, start in ((3, 0), (2, 3), (50, 0)):
        batches = list(data.batches(size, start))
        assert {name for batch in batches for name in batch.feeds} == {"x"}
        x = np.concatenate([batch.feeds["x"] for batch in batches])
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, prepared(pixels)[start:], rtol=1e-6)
        assert [i for batch in batches for i in batch.index] == list(range(start, COUNT))
    places = np.array([5, 0, 6, 3])
    (batch,) = data.take(places).batches(10)
    np.testing.assert_allclose(batch.feeds["x"], prepared(pixels)[places], rtol=1e-6)
    assert batch.labels.tolist() == [labels[i] for i in places]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same(model, tmp_path, pixels, kind):
    found = formats(tmp_path, pixels)
    assert tuple(found) == FORMATS
    data = open_data(model, found[kind])
    assert_same(data, pixels)
    assert set(data.facts) == {
        "data", "labels", "preprocessing", "preprocessing_origin", "samples"
    }  # fmt: skip


@pytest.mark.parametrize("names", [True, False])
def test_parquet_gives_the_same(model, tmp_path, pixels, names):
    data = open_data(model, write_parquet(tmp_path / "a.parquet", pixels, names))
    assert_same(data, pixels)
    assert data.facts["labels"] == f"labels by {'name' if names else 'number'}"


def test_several_parquet_files_without_labels(model, tmp_path, pixels):
    (tmp_path / "parts").mkdir()
    write_parquet(tmp_path / "parts/0.parquet", pixels[:3], labels=False)
    write_parquet(tmp_path / "parts/1.parquet", pixels[3:], labels=False)
    assert_same(open_data(model, tmp_path / "parts"), pixels, [-1] * COUNT)


def test_a_calibration_data_reader(model, pixels):
    x = prepared(pixels)
    data = open_data(model, Reader([{"x": x[:1]}, {"x": x[1:5]}, {"x": x[5:]}]))
    assert_same(data, pixels, [-1] * COUNT)


@pytest.mark.parametrize("given", ["y list", "y tuple", "x list", "x list of arrays", "pair"])
def test_a_mapping_of_what_arrays_can_be_made_of(model, pixels, given):
    """Read as arrays by name, not as an iterable of its keys."""
    x, y = prepared(pixels), np.asarray(LABELS)
    data = {
        "y list": {"x": x, "y": y.tolist()},
        "y tuple": {"x": x, "y": tuple(LABELS)},
        "x list": {"x": pixels.tolist(), "y": y},
        "x list of arrays": {"x": list(x), "y": y},
        "pair": ({"x": list(x)}, y.tolist()),
    }[given]
    if given == "x list":
        with pytest.raises(DataError, match="int64"):
            list(open_data(model, data).batches(2))
        return
    assert_same(open_data(model, data), pixels)


def test_a_stream_larger_than_memory_goes_to_a_file(model, pixels, monkeypatch):
    monkeypatch.setattr(stream, "IN_MEMORY", 100)
    data = open_data(
        model, (({"x": x[None]}, k) for x, k in zip(prepared(pixels), LABELS, strict=True))
    )
    assert_same(data, pixels)
    assert data.source.table.file._rolled


def test_stored_arrays_are_mapped(model, tmp_path, pixels):
    found = formats(tmp_path, pixels)
    for kind in ("npz", "npz, Fortran order", "npy", "npy, bytes"):
        column = open_data(model, found[kind]).source.table.columns["x"]
        assert isinstance(column, np.memmap), kind
    column = open_data(model, found["npz compressed, bytes"]).source.table.columns["x"]
    assert not isinstance(column, np.memmap)


def test_several_inputs(pair, tmp_path):
    ids, mask = np.arange(12).reshape(4, 3), np.ones((4, 3), np.float32)
    np.savez(tmp_path / "tokens.npz", ids=ids, mask=mask, labels=[0, 1, 2, 0])
    given = [{"ids": ids[i : i + 2], "mask": mask[i : i + 2]} for i in (0, 2)]
    for where in (tmp_path / "tokens.npz", {"ids": ids, "mask": mask}, given, Reader(given)):
        (batch,) = open_data(pair, where).batches(4)
        np.testing.assert_array_equal(batch.feeds["ids"], ids)
        np.testing.assert_array_equal(batch.feeds["mask"], mask)
        assert batch.feeds["ids"].dtype == np.int64
    with pytest.raises(DataError, match="nothing for the model's input 'mask'"):
        open_data(pair, {"ids": ids})
    with pytest.raises(DataError, match="nothing for the model's input 'mask'"):
        open_data(pair, [{"ids": ids}])
    with pytest.raises(DataError, match="give feeds by name"):
        open_data(pair, ids)
    with pytest.raises(DataError, match="different lengths"):
        open_data(pair, [{"ids": ids, "mask": mask[:2]}])


def test_images_can_not_feed_several_inputs(pair, tmp_path, pixels):
    with pytest.raises(ModelError, match="takes 2 inputs"):
        open_data(pair, write_list(tmp_path / "list.csv", pixels))


def test_sequences_of_several_lengths(pair):
    given = [{"ids": np.ones((1, n), np.int64), "mask": np.ones((1, n), "f4")} for n in (2, 3)]
    data = open_data(pair, given)
    assert [batch.feeds["ids"].shape for batch in data.batches(1)] == [(1, 2), (1, 3)]
    assert [feeds["ids"].shape[0] for feeds in data.sample(3)] == [1, 1, 1]
    with pytest.raises(DataError, match=r"different shapes .*--batch-size 1"):
        list(data.batches(2))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("order", ["hwc", "chw", "grey"])
def test_bytes_in_any_layout(tmp_path, channels_last, order):
    model = saved(classifier(channels=3, channels_last=channels_last), tmp_path)
    hwc = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    hwc = hwc[..., :1].repeat(3, axis=3) if order == "grey" else hwc
    given = {"hwc": hwc, "chw": np.moveaxis(hwc, 3, 1), "grey": hwc[..., 0]}[order]
    (batch,) = open_data(model, given, preprocess="imagenet").batches(4)
    (want,) = open_data(
        model, [image[None] for image in hwc], preprocess="imagenet"
    ).batches(4)  # fmt: skip
    name = "image" if channels_last else "x"
    np.testing.assert_array_equal(batch.feeds[name], want.feeds[name])
    shape = (HEIGHT, WIDTH, 3) if channels_last else (3, HEIGHT, WIDTH)
    assert batch.feeds[name].shape == (4, *shape)


def test_a_model_that_takes_bytes(tmp_path, pixels):
    text = f"""<ir_version: 8, opset_import: ["":17]>
        g (uint8[N,{HEIGHT},{WIDTH},1] x) => (float[N,{HEIGHT * WIDTH}] y)
        {{ b = Cast<to=1>(x) y = Flatten(b) }}"""
    model = saved(onnx.parser.parse_model(text), tmp_path)
    files = write_list(tmp_path / "list.csv", pixels)
    for where in (pixels[..., None], pixels):
        (batch,) = open_data(model, where).batches(COUNT)
        assert batch.feeds["x"].dtype == np.uint8
        np.testing.assert_array_equal(batch.feeds["x"], pixels[..., None])
    data = open_data(model, files, preprocess="cifar10", labels="predicted")
    (batch,) = data.batches(COUNT)
    np.testing.assert_array_equal(batch.feeds["x"], pixels[..., None])
    assert data.facts["preprocessing"] == "scale 1"


def test_float16_models_get_float16(tmp_path, pixels):
    model = saved(classifier(dtype=onnx.TensorProto.FLOAT16), tmp_path)
    for where in (prepared(pixels), pixels):
        (batch,) = open_data(model, where).batches(COUNT)
        assert batch.feeds["x"].dtype == np.float16


# What is wrong


def broken(tmp_path, pixels):
    """Data that can't be used, by name, with what the message must say."""
    x = prepared(pixels)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY torn")
    whole = write_tar(tmp_path / "whole.tar", tar_files(pixels, "cls")).read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[:560])
    (tmp_path / "noise.tar").write_bytes(bytes(range(256)) * 8)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(tmp_path / "torn.npz", "a.png")
    write_tar(tmp_path / "none.tar", [("a.txt", b"hello")])
    write_tar(tmp_path / "json.tar", [("a.png", png(pixels[0])), ("a.json", b"{")])
    write_tar(tmp_path / "image.tar", [("a.png", b"no image"), ("a.cls", b"0")])
    write_tar(tmp_path / "range.tar", [("a.png", png(pixels[0])), ("a.cls", b"3")])
    (tmp_path / "empty.csv").write_text("path,label\n")
    (tmp_path / "gone.csv").write_text("gone.png,ant\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00,")
    (tmp_path / "what.bin").write_bytes(b"?")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "other.npz", a=x, b=x)
    np.savez(tmp_path / "lengths.npz", x=x, y=LABELS[:3])
    np.savez(tmp_path / "none.npz", x=x[:0])
    np.savez(tmp_path / "number.npz", x=np.float32(1))
    np.savez(tmp_path / "label.npz", x=x, y=LABELS + 1)
    np.savez(tmp_path / "soft.npz", x=x, y=np.eye(3)[LABELS])
    np.savez(tmp_path / "shape.npz", x=x[..., :3], y=LABELS)
    np.savez(tmp_path / "colour.npz", x=pixels[..., None].repeat(3, axis=3), y=LABELS)
    np.savez(tmp_path / "size.npz", x=pixels[:, :4], y=LABELS)
    np.savez(tmp_path / "complex.npz", x=x.astype(np.complex64), y=LABELS)
    (tmp_path / "bad.py").write_text(
        "def fails():\n    raise KeyError('no key')\n"
        "def late():\n    yield {'x': 1}\n"
        "def text():\n    return 'text'\n"
        "def nothing():\n    return []\n"
    )
    (tmp_path / "syntax.py").write_text("def")
    return {
        "gone.npz": "gone.npz: no such file or folder; give a folder",
        "gone-*.tar": r"no such file or folder",
        "what.bin": "no format that is known; give a folder",
        "torn.npz": "torn.npz: can't be read as .npz",
        "torn.npy": "torn.npy: can't be read as .npy",
        "torn.tar": "torn.tar: ends inside part/000.png",
        "noise.tar": "noise.tar: can't be read as a tar",
        "packed.tar": "packed.tar: can't be read as a tar that is not compressed",
        "none.tar": "no images; give tars",
        "json.tar": r"json.tar: a.json: can't be read",
        "image.tar": r"image.tar: a.png: can't be read as an image",
        "range.tar": r"its 1 labels \(3\) don't match",
        "empty.csv": "empty.csv: empty",
        "gone.csv": r"image 1, .*gone.png, is missing; paths are relative",
        "bytes.csv": "bytes.csv: can't be read as a list",
        "objects.npz": "can't be read as .npz",
        "other.npz": r"nothing for the model's input 'x' among its arrays \(a, b\)",
        "lengths.npz": r"arrays of different lengths \(7, 3\)",
        "none.npz": "empty; give at least one sample",
        "number.npz": "a single number",
        "label.npz": "label 3 is out of range: the model has classes 0 to 2",
        "soft.npz": r"labels are float64 \(7, 3\); give one whole number",
        "shape.npz": r"are float32 \(1, 6, 3\), but the model takes float32 \(\?, 1, 6, 5\)",
        "colour.npz": "images have 3 channels, but the model takes 1",
        "size.npz": "images are 5 x 4 pixels, but the model takes 5 x 6",
        "complex.npz": "are complex64",
        "bad.py:fails": "bad.py:fails: failed with KeyError: 'no key'",
        "bad.py:gone": "bad.py:gone: the script has no such function",
        "gone.py:f": "gone.py: no such script",
        "syntax.py:f": "syntax.py:f: failed with SyntaxError",
        "bad.py:late": r"bad.py:late: .*",
        "bad.py:text": "bad.py:text: is str; give arrays",
        "bad.py:nothing": "bad.py:nothing: empty",
    }


BROKEN = (
    "gone.npz", "gone-*.tar", "what.bin", "torn.npz", "torn.npy", "torn.tar", "noise.tar",
    "packed.tar", "none.tar", "json.tar", "image.tar", "range.tar", "empty.csv", "gone.csv",
    "bytes.csv", "objects.npz", "other.npz", "lengths.npz", "none.npz", "number.npz", "label.npz",
    "soft.npz", "shape.npz", "colour.npz", "size.npz", "complex.npz", "bad.py:fails",
    "bad.py:gone", "gone.py:f", "syntax.py:f", "bad.py:late", "bad.py:text", "bad.py:nothing",
)  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_can_not_be_used_is_named_in_one_line(model, tmp_path, pixels, name):
    found = broken(tmp_path, pixels)
    assert tuple(found) == BROKEN
    with pytest.raises(DataError, match=found[name]) as caught:
        list(open_data(model, str(tmp_path / name)).batches(4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "is int; give arrays"),
        ([], "empty; give at least one"),
        ([(np.zeros((2, 1, HEIGHT, WIDTH), "f4"), [0])], "1 labels for 2 samples"),
        ({"a": np.zeros(3)}, "nothing for the model's input 'x'|are float64"),
    ],
)
def test_what_programs_must_not_give(model, given, said):
    with pytest.raises(DataError, match=said):
        list(open_data(model, given).batches(4))


@pytest.mark.parametrize("damage", ["torn", "no images", "no bytes", "no image"])
def test_damaged_parquet(model, tmp_path, pixels, damage):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    if damage == "torn":
        path.write_bytes(write_parquet(path, pixels).read_bytes()[:100])
    elif damage == "no images":
        pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    else:
        content = None if damage == "no bytes" else b"no image"
        images = pa.array([{"bytes": content, "path": None}],
                          pa.struct({"bytes": pa.binary(), "path": pa.string()}))  # fmt: skip
        pq.write_table(pa.table({"image": images, "label": [0]}), path)
    said = {
        "torn": "a.parquet: can't be read as Parquet",
        "no images": "no column of images among text, label",
        "no bytes": "image 0: has neither bytes nor a path",
        "no image": "image 0: can't be read as an image",
    }
    with pytest.raises(DataError, match=said[damage]) as caught:
        list(open_data(model, path).batches(4))
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow(model, tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r'pip install "discedit-onnx\[parquet\]"'):
        open_data(model, tmp_path / "a.parquet")


def test_preprocessing_is_for_images_only(model, pixels):
    x = prepared(pixels)
    with pytest.raises(UsageError, match="fed as they are, so leave preprocess out"):
        open_data(model, x, preprocess="imagenet")


def test_reports_name_no_places(model, tmp_path, pixels):
    """Facts are stored in moments, which are shipped to strangers."""
    config = tmp_path / "preprocessor_config.json"
    config.write_text('{"image_mean": [0.5]}')
    facts = open_data(model, write_list(tmp_path / "a.csv", pixels), preprocess=config).facts
    assert facts["preprocessing_origin"] == config.name
    assert facts["data"] == "a.csv"
    assert not any(str(tmp_path) in value for value in facts.values())


# The user's own code


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def f():\n    sys.exit(0)", r"ended the program \(SystemExit: 0\)"),
        ("def f():\n    yield x, 0\n    sys.exit(3)", r"ended the program \(SystemExit: 3\)"),
        ("sys.exit('two\\nlines')", r"ended the program \(SystemExit: two\)"),
        (
            "def f():\n    yield x, 0\n    raise GeneratorExit",
            r"ended the program \(GeneratorExit\)",
        ),
        ("def f():\n    raise GeneratorExit", r"ended the program \(GeneratorExit\)"),
        (
            "class Bad:\n    def __iter__(self):\n        raise OSError('gone')\nf = Bad",
            "failed with OSError: gone",
        ),
        (
            "class Bad:\n    def __getattr__(self, name):\n        sys.exit(0)\nf = Bad",
            r"ended the program \(SystemExit: 0\)",
        ),
        ("def f():\n    yield np.zeros((0, 1, 6, 5), 'f4'), np.zeros(0, int)", "empty; give at"),
        (
            "def f():\n    yield np.array([object()]), 1",
            "samples are Python objects; give arrays of numbers",
        ),
    ],
)
def test_what_a_script_raises_is_one_line(model, tmp_path, body, said):
    (tmp_path / "l.py").write_text(
        f"import sys\nimport numpy as np\nx = np.zeros((1, 6, 5), 'f4')\n{body}\n"
    )
    with pytest.raises(DataError, match=rf"l\.py:f: {said}") as caught:
        open_data(model, f"{tmp_path / 'l.py'}:f")
    assert "\n" not in str(caught.value)


def test_an_interrupted_script_is_interrupted(model, tmp_path):
    (tmp_path / "l.py").write_text("def f():\n    raise KeyboardInterrupt\n    yield 1\n")
    with pytest.raises(KeyboardInterrupt):
        open_data(model, f"{tmp_path / 'l.py'}:f")


def test_a_batch_without_samples_is_passed_over(model, pixels):
    none = (np.zeros((0, 1, HEIGHT, WIDTH), "f4"), np.zeros(0))
    full = (prepared(pixels), LABELS)
    assert_same(open_data(model, [none, full, none]), pixels)


def test_a_script_leaves_the_command_as_it_was(model, tmp_path, monkeypatch, capfd):
    """What it prints is no part of a command's output, and relative paths stay what they are."""
    (tmp_path / "other").mkdir()
    (tmp_path / "helper.py").write_text("import numpy as np\nx = np.zeros((1, 6, 5), 'f4')\n")
    (tmp_path / "l.py").write_text(
        "import os\nprint('loaded')\nos.chdir('other')\n"
        "def f():\n    from helper import x\n    print('read')\n"
        "    print(os.path.basename(os.getcwd()))\n    yield x, 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    before = list(sys.path)
    assert len(open_data(model, "l.py:f")) == 1
    assert (Path.cwd(), sys.path) == (tmp_path, before)
    assert tuple(capfd.readouterr()) == ("", "loaded\nread\nother\n")


# Whatever is passed over is said, or is no data


def cut(path, whole, size):
    path.write_bytes(whole[:size])
    return path


def test_a_tar_that_was_cut_is_not_a_smaller_data_set(model, tmp_path, pixels):
    whole = write_tar(tmp_path / "ok.tar", tar_files(pixels, "cls")).read_bytes()
    with tarfile.open(tmp_path / "ok.tar") as archive:
        starts = [info.offset for info in archive]
    for size in (starts[4] + 32, starts[4] + 511, starts[4] + 513, starts[-1] + 513):
        with pytest.raises(DataError, match=r"tr\.tar: .*; copy it anew") as caught:
            open_data(model, cut(tmp_path / "tr.tar", whole, size))
        assert "\n" not in str(caught.value)
    for noise in (b"x" * 512, b"x"):
        damaged = whole[: starts[4]] + noise + whole[starts[4] + len(noise) :]
        with pytest.raises(DataError, match=r"tr\.tar: is cut or damaged \(no header at byte"):
            open_data(model, cut(tmp_path / "tr.tar", damaged, None))


@pytest.mark.parametrize("padding", [0, 100, 512, 1024, 5000])
def test_a_tar_may_be_padded_as_it_likes(model, tmp_path, pixels, padding):
    whole = write_tar(tmp_path / "ok.tar", tar_files(pixels, "cls")).read_bytes()
    with tarfile.open(tmp_path / "ok.tar") as archive:
        end = archive.getmembers()[-1].offset_data + 512
    assert_same(
        open_data(model, cut(tmp_path / "t.tar", whole[:end] + bytes(padding), None)), pixels
    )


def class_folders(root, pixels):
    for i, image in enumerate(pixels):
        folder = root / CLASS_NAMES[LABELS[i]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(image))
    return root


@pytest.mark.parametrize("name", ["stray.tar", "stray.parquet"])
def test_a_stray_file_does_not_hide_class_folders(model, tmp_path, pixels, name):
    root = class_folders(tmp_path / "images", pixels)
    (root / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"holds {name} and folders of images, such as ant; point"):
        open_data(model, root)


def test_which_files_of_a_folder_count(model, tmp_path, pixels):
    root = class_folders(tmp_path / "images", pixels)
    (root / "._hidden.tar").write_bytes(b"")
    assert len(open_data(model, root)) == COUNT
    (root / "cat").rename(root / "x.tar")
    assert open_data(model, root, class_map={"ant": 0, "bee": 1, "x.tar": 2}).labels.max() == 2
    tars = tmp_path / "tars"
    (tars / "logs").mkdir(parents=True)
    write_tar(tars / "a.tar", tar_files(pixels, "cls"))
    assert_same(open_data(model, tars), pixels)
    write_tar(tars / "a.tar", [])
    with pytest.raises(DataError, match="tars: no images; give tars"):
        open_data(model, tars)


def test_hidden_folders_are_passed_over_at_every_level(model, tmp_path, pixels):
    root = class_folders(tmp_path / ".data/images", pixels)
    for hidden in ("ant/.ipynb_checkpoints", "bee/inner/.cache/deep"):
        (root / hidden).mkdir(parents=True)
        (root / hidden / "x.png").write_bytes(png(pixels[0]))
    assert len(open_data(model, root)) == COUNT


@pytest.mark.parametrize("which", ["images", "ant"])
def test_a_folder_that_can_not_be_read_is_named(model, tmp_path, pixels, which, monkeypatch):
    root = class_folders(tmp_path / "images", pixels)
    scandir, listdir = os.scandir, os.listdir

    def refusing(call):
        def called(path):
            if Path(path).name == which:
                raise PermissionError(13, "Permission denied", str(path))
            return call(path)

        return called

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    with pytest.raises(DataError, match=rf"{which}: can't be read \(Permission denied\)"):
        open_data(model, root)


# Labels that others write


def twelve(tmp_path):
    """A model of twelve classes, which sorted order would mix up."""
    text = """<ir_version: 8, opset_import: ["":17]>
        g (float[N,1,3,4] x) => (float[N,12] y) { y = Flatten(x) }"""
    return saved(onnx.parser.parse_model(text), tmp_path, "twelve.onnx")


@pytest.mark.parametrize("kind", ["csv", "tar", "parquet"])
def test_whole_numbers_written_as_floats_are_numbers(tmp_path, kind):
    image = png(np.zeros((3, 4), np.uint8))
    labels = [float(k) for k in range(12)]
    if kind == "csv":
        (tmp_path / "a.png").write_bytes(image)
        path = tmp_path / "a.csv"
        path.write_text("path,label\n" + "".join(f"a.png,{k}\n" for k in [*labels, ""]))
    elif kind == "tar":
        files = []
        for i, label in enumerate([*labels, None, float("nan")]):
            files += [(f"{i}.png", image), (f"{i}.json", json.dumps({"label": label}).encode())]
        path = write_tar(tmp_path / "a.tar", files)
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "a.parquet"
        table = {"image": [image] * 14, "label": pa.array([*labels, None, float("nan")])}
        pq.write_table(pa.table(table), path)
    data = open_data(twelve(tmp_path), path)
    assert data.labels.tolist() == [*range(12), *[-1] * (1 if kind == "csv" else 2)]
    assert data.facts["labels"] == "labels by number"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"label": None}, [-1]),
        ({"label": None, "cls": "bee"}, [1]),
        (2, [2]),
        (2.0, [2]),
        ([1], [-1]),  # annotations of something else
        (None, [-1]),
        ({"label": [1]}, "its label is a list; give a number or a name"),
        ({"label": {}}, "its label is a dict; give a number or a name"),
        ({"label": True}, "its label is a bool; give a number or a name"),
        (True, "its label is a bool; give a number or a name"),
        ("[" * 100_000, r"a\.json: can't be read"),
    ],
)
def test_labels_in_json(model, tmp_path, pixels, content, labels):
    text = content if isinstance(content, str) else json.dumps(content)
    path = write_tar(tmp_path / "a.tar", [("a.png", png(pixels[0])), ("a.json", text.encode())])
    if isinstance(labels, list):
        assert open_data(model, path).labels.tolist() == labels
    else:
        with pytest.raises(DataError, match=rf"a\.tar: a\.json: .*{labels}|{labels}") as caught:
            open_data(model, path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "found"),
    [([0.0, 2.0], [0, 2]), ([0, 3], "label 3 has no name"), ([0.5, 1], "label 0.5 has no name")],
)
def test_parquet_numbers_that_have_names(model, tmp_path, pixels, labels, found):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    stored = {"info": {"features": {"label": {"names": list(CLASS_NAMES)}}}}
    table = pa.table({"image": [png(image) for image in pixels[:2]], "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(stored)}),
                   tmp_path / "a.parquet")  # fmt: skip
    if isinstance(found, list):
        assert open_data(model, tmp_path / "a.parquet").labels.tolist() == found
    else:
        with pytest.raises(DataError, match=rf"a\.parquet: {found}; correct it"):
            open_data(model, tmp_path / "a.parquet")


@pytest.mark.parametrize("key", ["path", "bytes"])
def test_parquet_cells_of_another_kind(model, tmp_path, key):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cell = {"bytes": None, "path": None} | {key: 7}
    pq.write_table(pa.table({"image": [cell], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="image 0: has neither bytes nor a path"):
        list(open_data(model, tmp_path / "a.parquet").batches(4))


# What messages quote


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_broken_image_is_named_and_not_its_bytes(model, tmp_path, kind):
    if kind == "tar":
        path = write_tar(tmp_path / "a.tar", [("a.png", b"no image"), ("a.cls", b"0")])
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"image": [b"no image"], "label": [0]}), path)
    with pytest.raises(DataError, match="cannot identify image file") as caught:
        list(open_data(model, path).batches(4))
    assert "BytesIO" not in str(caught.value)
    assert "a.png" in str(caught.value) or "image 0" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'path,label\na.png,ant\n"b.png,bee\n' + "c.png,cat\n" * 50,
            r"a quote is not closed.*'b\.png,",
        ),
        ('a.png,"ant\na.png,bee\n', r"a quote is not closed.*'a\.png'"),
        ('a.png,ant\n"', r"a quote is not closed.*','"),
        ('a.png,"ant\n' + "a.png,bee\n" * 20_000, "list .*; is a quote not closed?"),
        ("path;label\na.png;ant\n", "separate its columns by commas"),
        ("a.png;ant\n", "separate its columns by commas"),
        ("a.png\tant\n", "separate its columns by commas"),
        ("x" * 5000 + ",ant\n", "x{20,}"),
    ],
)
def test_lists_that_are_none_are_told_in_short(model, tmp_path, pixels, text, said):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png(pixels[0]))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        open_data(model, tmp_path / "list.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_labels_are_quoted_in_short(model, tmp_path, pixels):
    files = [("a.png", png(pixels[0])), ("a.cls", b"two\nlines " + b"x" * 5000)]
    with pytest.raises(DataError, match="don't match") as caught:
        open_data(model, write_tar(tmp_path / "a.tar", files))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_folder_of_arrays_says_to_name_the_file(model, tmp_path, pixels):
    for name in ("images.npy", "labels.npy"):
        np.save(tmp_path / name, LABELS)
    with pytest.raises(DataError, match=r"no folders of images, but images\.npy; name that file"):
        open_data(model, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_of_images_are_numbers(model, tmp_path, pixels, value):
    x = prepared(pixels)
    x[[3, 5], 0, 1, 1] = value
    np.savez(tmp_path / "a.npz", x=x, y=LABELS)
    with pytest.raises(DataError, match=r"a\.npz: sample 3 holds values that are infinite or not"):
        list(open_data(model, tmp_path / "a.npz").batches(5))


def test_masks_may_be_infinite(pair):
    feeds = {"ids": np.zeros((2, 3), np.int64), "mask": np.full((2, 3), -np.inf, np.float32)}
    assert len(list(open_data(pair, feeds).batches(2))) == 1
