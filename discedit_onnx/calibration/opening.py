"""From what a user names to samples for a model."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, ModelError, UsageError, first_line, require_count
from .classes import UNKNOWN, GivenLabels, match
from .classifier import classifier_of
from .conventions import beside, find_preprocess
from .data import Dataset
from .preprocess import Preprocess
from .sources.arrays import ArrayTable, open_npy, open_npz
from .sources.folder import class_folders, images_in, is_hidden, open_folder
from .sources.foreign import at_home
from .sources.listing import open_list
from .sources.parquet import open_parquet
from .sources.pictures import Pictures
from .sources.rows import NO_PREPARATION, Rows
from .sources.script import call
from .sources.stream import Stream, open_python
from .sources.webdataset import open_tars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Model
    from .classifier import Classifier
    from .data import Index
    from .sources.pictures import Files
    from .sources.source import Source

SCRIPT = re.compile(r"(.+\.py):(\w+)")
LISTS, TARS, PARQUET = (".csv", ".tsv"), (".tar",), (".parquet",)
KINDS = (
    "a folder of class folders, .npz, .npy, .csv, .tsv, .tar (WebDataset), .parquet, or "
    "script.py:function"
)
LABELS = ("given", "predicted")


def open_data(
    model: Model,
    where: object,
    *,
    preprocess: str | Path | Preprocess | None = None,
    labels: str = "given",
    num_samples: int | None = None,
    seed: int = 0,
    class_map: str | Path | Mapping[str, int | str] | None = None,
) -> Dataset:
    """Find samples for a model.

    Parameters
    ----------
    model
        A classifier. Its metadata, or a config.json beside it, may name its classes and its
        preprocessing.
    where
        A path: a folder of class folders, .npz, .npy, .csv or .tsv (path,label), .tar
        (WebDataset), .parquet; for the last two also a folder of them, or a pattern such as
        ``data-*.tar``. Or "script.py:function". Or arrays, an ONNX Runtime
        CalibrationDataReader, or an iterable of feeds or (feeds, labels), which is read to its end.
    preprocess
        A file with the keys of `preprocessor_config.json` or of timm's `pretrained_cfg`, or the
        name of a preset; otherwise what is found in the model's metadata or beside it, or values
        scaled to [0, 1]. For images only: other arrays are fed as they are.
    labels
        "given", or "predicted" to take the model's own top-1.
    num_samples
        How many samples to take, equally many of each class as far as they go; all, if left out.
    seed
        For the choice of them.
    class_map
        Class (index or name) of each label of the data; a mapping, or a JSON file of one.

    Returns
    -------
    Dataset
        Its labels are -1 where nobody gives them.

    Raises
    ------
    UsageError
        If an option makes no sense, or the format needs a library that is not installed.
    ModelError
        If the model is not a classifier, or the data are images and it takes none.
    DataError
        If there are no samples, their labels are not the model's, or they don't fit it.
    """
    if labels not in LABELS:
        raise UsageError(f"labels {labels!r}: may be {' or '.join(LABELS)}")
    if num_samples is not None:
        require_count("num_samples", num_samples)
    require_count("seed", seed, least=0)
    classifier = classifier_of(model)

    def settings() -> Preprocess:
        if isinstance(preprocess, Preprocess):
            return preprocess
        return find_preprocess(model, classifier, preprocess)

    try:
        found = _open(where, classifier)
    except OSError as error:
        said = error.strerror or first_line(error)
        raise DataError(
            f"{error.filename or where}: can't be read ({said}); make it readable, or leave it out"
        ) from error
    source: Source
    if isinstance(found, ArrayTable | Stream):
        source = Rows(found, classifier, settings)
    else:
        source = Pictures(found, settings(), classifier)
    predicted = labels == "predicted"
    given = GivenLabels.none(len(source)) if predicted else source.labels
    names = class_names_of(model, classifier.num_classes)
    mapping = None if predicted else _class_map(class_map)
    matched = match(given, names, classifier.num_classes, source.name, mapping)
    index, chosen = _choose(matched.labels, num_samples, seed)
    what, origin = source.preparation
    if preprocess is not None and what == NO_PREPARATION:
        raise UsageError(f"{source.name}: {origin}, so leave preprocess out: it is for images")
    facts = {
        "data": Path(source.name).name or Path(source.name).resolve().name,
        "labels": "predicted by the model" if predicted else matched.how,
        "preprocessing": what,
        "preprocessing_origin": Path(origin).name,
        "samples": chosen,
    }
    return Dataset(
        source, classifier, matched.class_names, matched.labels[index], index, facts, predicted
    )


def _open(where: object, classifier: Classifier) -> Files | ArrayTable | Stream:
    """Find out what is meant, and look inside."""
    if not isinstance(where, str | Path):
        return open_python(f"data ({type(where).__name__})", where, classifier)
    script = SCRIPT.fullmatch(str(where))
    if script is not None:
        with at_home(Path(script[1])):
            return open_python(str(where), call(Path(script[1]), script[2]), classifier)
    path = Path(where)
    if path.is_dir():
        return _open_directory(path)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return open_npz(path, classifier)
        if suffix == ".npy":
            return open_npy(path, classifier)
        if suffix in LISTS:
            return open_list(path)
        return _open_files(str(where), [path])
    files = [Path(name) for name in sorted(glob.glob(str(where)))]
    if not files:
        raise DataError(f"{where}: no such file or folder; give {KINDS}")
    return _open_files(str(where), files)


def _open_directory(path: Path) -> Files:
    """A folder of tars, of Parquet files, or of class folders, but not of two of them."""
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in (*TARS, *PARQUET) and not is_hidden(file.name) and file.is_file()
    )
    if not files:
        return open_folder(path)
    for folder in class_folders(path):
        if any(images_in(folder)):
            raise DataError(
                f"{path}: holds {files[0].name} and folders of images, such as {folder.name}; "
                "point --data at one of them, or move the other away"
            )
    return _open_files(str(path), files)


def _open_files(name: str, files: Sequence[Path]) -> Files:
    """Files of the kinds that may be several."""
    suffixes = {file.suffix.lower() for file in files}
    if suffixes == set(TARS):
        return open_tars(name, files)
    if suffixes == set(PARQUET):
        return open_parquet(name, files)
    raise DataError(f"{name}: no format that is known; give {KINDS}")


def class_names_of(model: Model, num_classes: int) -> tuple[str, ...] | None:
    """The model's class names: in its metadata, or in a config.json beside it.

    Raises
    ------
    ModelError
        If the metadata name another number of classes.
    """
    names = model.class_names
    if names is not None and len(names) != num_classes:
        raise ModelError(
            f"the model's metadata name {len(names)} classes, but it has {num_classes} "
            "outputs; correct the metadata"
        )
    for file in beside(model.place, "config.json") if names is None else []:
        found = _names_in(file)
        if found is not None and len(found) == num_classes:
            return found
    return names


def _names_in(config: Path) -> tuple[str, ...] | None:
    """Class names in a config.json of transformers (`id2label`) or timm (`label_names`)."""
    try:
        found = json.loads(config.read_bytes())
        listed = found.get("id2label")
        if isinstance(listed, Mapping):
            return tuple(str(listed[str(k)]) for k in range(len(listed)))
        listed = found.get("label_names")
    except (AttributeError, KeyError, OSError, RecursionError, ValueError):
        return None  # some other program's file
    return tuple(map(str, listed)) if isinstance(listed, list) else None


def _class_map(
    asked: str | Path | Mapping[str, int | str] | None,
) -> Mapping[str, int | str] | None:
    if asked is None:
        return None
    found: object = asked
    if isinstance(asked, str | Path):
        try:
            found = json.loads(Path(asked).read_bytes())
        except OSError as error:
            raise DataError(f"{asked}: no such class map") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{asked}: not JSON ({first_line(error)})") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(v, str) or type(v) is int for v in found.values()
    ):
        raise DataError(f"{asked}: a class map is an object of label: class name or index")
    return {str(key): value for key, value in found.items()}


def _choose(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], number: int | None, seed: int
) -> tuple[Index, str]:
    """Places of the samples to take, in order, and what is said of them.

    Each class gives as many as any other, until it has no more.
    """
    total = len(labels)
    if number is None or number >= total:
        return np.arange(total), f"all {total:,}"
    shuffled = np.random.default_rng(seed).permutation(total)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_class], prepend=labels[by_class[0]] - 1))
    # How many of the same class come before each; the lowest go first, classes at random.
    rank = np.arange(total) - np.repeat(starts, np.diff(np.append(starts, total)))
    tie = np.random.default_rng(seed).permuted(np.arange(total))
    chosen = np.sort(by_class[np.lexsort((tie, rank))[:number]])
    how = "class-balanced" if (labels != UNKNOWN).any() else "at random"
    return chosen, f"{number:,} of {total:,}, {how}, seed {seed}"
