"""Labelled images in class folders, and their batches."""

from __future__ import annotations

import re
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .preprocess import FloatImage, ImageForm, Preprocess

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})

DECODERS = 4
"""Threads that decode images while the model runs; Pillow lets go of the interpreter lock."""

NUMBERED = re.compile(r"(\d+)(?:[_-](.+))?", re.DOTALL)
"""A folder name that begins with the index of its class: ``3``, ``3_dress``, ``3-dress``."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images, and the model's class of each.

    Attributes
    ----------
    root
        The folder that they lie in.
    files
        The images in the order in which they are read: by class folder, then by name.
    labels : int64 (N,)
        Index of each image's class among `class_names`.
    class_names
        The K classes of the model, also those that have no images here.
    matched
        How folders were matched to classes, in words.
    """

    root: Path
    files: tuple[Path, ...]
    labels: Labels
    class_names: tuple[str, ...]
    matched: str = "by name"

    def __len__(self) -> int:
        return len(self.files)

    def batches(
        self, preprocess: Preprocess, form: ImageForm, size: int, threads: int = DECODERS
    ) -> Iterator[tuple[npt.NDArray[np.float32], Labels]]:
        """Decode all images in order, at most two batches ahead of the one that is handed out.

        Parameters
        ----------
        preprocess, form
            What becomes of each image, and the form that the model takes.
        size
            Images in a batch; the last one may be shorter.
        threads
            How many images are decoded at a time; the result does not depend on it.

        Yields
        ------
        images : float32 array
            (N, C, H, W), or (N, H, W, C) if `form.channels_last`.
        labels : int64 array
            (N,)

        Raises
        ------
        DataError
            Naming the first file that can't be read or does not fit. Where the model takes any
            size, all images must be of the first one's.
        """
        preprocess.check(form)
        form = _with_size_of(preprocess.read(self.files[0], form), form)
        waiting = iter(self.files)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="discedit-decode")
        try:
            ahead: deque[Future[FloatImage]] = deque(
                pool.submit(preprocess.read, file, form) for file in islice(waiting, 3 * size)
            )
            for start in range(0, len(self), size):
                labels = self.labels[start : start + size]
                images = [ahead.popleft().result() for _ in labels]
                ahead.extend(
                    pool.submit(preprocess.read, file, form) for file in islice(waiting, size)
                )
                yield np.stack(images), labels
        finally:
            pool.shutdown(cancel_futures=True)


def _with_size_of(image: FloatImage, form: ImageForm) -> ImageForm:
    """The form with the height and width of an image of that form."""
    height, width = image.shape[:2] if form.channels_last else image.shape[1:]
    return replace(form, height=height, width=width)


def open_folder(
    root: str | Path, class_names: Sequence[str] | None, num_classes: int
) -> ImageFolder:
    """Find the images in a folder of class folders and match the folders to a model's classes.

    The first that holds for all folders decides:

    1. each is named exactly like a class;
    2. each is named by a class's index, alone or followed by ``_`` or ``-`` and the class's name;
    3. there are as many folders as classes, and no name speaks against their sorted order.

    With 1 and 2, classes may lack a folder. Folders whose name begins with a dot are passed over.

    Parameters
    ----------
    root
        The folder.
    class_names
        Names of the model's classes in the order of its outputs, or None if they are not known.
    num_classes
        How many classes the model has.

    Raises
    ------
    DataError
        If the folder is missing or holds no images in class folders, or the folders can't be
        matched.
    ModelError
        If the model does not have as many names as classes.
    """
    root = Path(root)
    if class_names is not None and len(class_names) != num_classes:
        raise ModelError(
            f"the model's metadata name {len(class_names)} classes, but it has {num_classes} "
            "outputs; correct the metadata"
        )
    folders = _class_folders(root)
    names = [folder.name for folder in folders]
    matched, classes = _match(names, class_names, num_classes, root)
    files: list[Path] = []
    labels: list[int] = []
    for folder, label in zip(folders, classes, strict=True):
        found = _images(folder)
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(
            f"{root}: no images in its {len(folders)} class folders; put image files there "
            f"({_suffixes()})"
        )
    if class_names is None:
        known = {k: _name_of(folder) for k, folder in zip(classes, names, strict=True)}
        class_names = [known.get(k, str(k)) for k in range(num_classes)]
    return ImageFolder(root, tuple(files), np.array(labels, np.int64), tuple(class_names), matched)


def _class_folders(root: Path) -> list[Path]:
    """The folders in `root`, sorted by name."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder with one folder of images a class")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if folders:
        return folders
    if any(_is_image(p) for p in root.iterdir()):
        raise DataError(f"{root}: images without class folders; move each class's into its own")
    raise DataError(f"{root}: empty; give a folder with one folder of images a class")


def _images(folder: Path) -> list[Path]:
    """The images in a folder and the folders inside it, sorted."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _is_image(path: Path) -> bool:
    # Files such as `._1.png` are what some systems leave beside the real ones.
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _suffixes() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))


def _match(
    folders: Sequence[str], class_names: Sequence[str] | None, num_classes: int, root: Path
) -> tuple[str, list[int]]:
    """How folders are matched, in words, and the class of each."""
    by_name = _by_name(folders, class_names)
    if by_name is not None:
        return "by name", by_name
    by_number = _by_number(folders, class_names, num_classes)
    if by_number is not None:
        return "by number", by_number
    if len(folders) == num_classes and not _contradict(folders, class_names):
        return "in sorted order", list(range(num_classes))
    classes = _short(class_names) if class_names is not None else f"unnamed, {num_classes} of them"
    raise DataError(
        f"{root}: its {len(folders)} folders ({_short(folders)}) don't match the model's classes "
        f"({classes}); name each folder like its class, or by its index from 0"
    )


def _by_name(folders: Sequence[str], class_names: Sequence[str] | None) -> list[int] | None:
    """Classes of folders that are all named exactly like one, or None."""
    if class_names is None:
        return None
    index = _index(class_names)
    classes = [index.get(folder, -1) for folder in folders]
    return None if -1 in classes else classes


def _index(class_names: Sequence[str]) -> Mapping[str, int]:
    """Class by name, without the names that several classes have (ImageNet has two cranes)."""
    times = Counter(class_names)
    return {name: k for k, name in enumerate(class_names) if times[name] == 1}


def _by_number(
    folders: Sequence[str], class_names: Sequence[str] | None, num_classes: int
) -> list[int] | None:
    """Classes of folders that all begin with the index of a different one, or None."""
    classes = []
    for folder in folders:
        found = NUMBERED.fullmatch(folder)
        if found is None or int(found[1]) >= num_classes:
            return None
        label = int(found[1])
        if class_names is not None and found[2] and _plain(found[2]) != _plain(class_names[label]):
            return None
        classes.append(label)
    return classes if len(set(classes)) == len(classes) else None


def _contradict(folders: Sequence[str], class_names: Sequence[str] | None) -> bool:
    """Whether a folder's name speaks against its place in the sorted order.

    It does if it begins with another number, or resembles the name of another class only; or if
    other folders are named exactly like classes and it is not, for then names are what counts.
    """
    if class_names is not None and not set(folders).isdisjoint(class_names):
        return True
    for place, folder in enumerate(folders):
        found = NUMBERED.fullmatch(folder)
        if found is not None and int(found[1]) != place:
            return True
        if class_names is None:
            continue
        alike = [k for k, name in enumerate(class_names) if _alike(_name_of(folder), name)]
        if alike and place not in alike:
            return True
    return False


def _alike(a: str, b: str) -> bool:
    """Whether one name begins with the other, as in `cat` and `Cats`."""
    a, b = _plain(a), _plain(b)
    return bool(a and b) and (a.startswith(b) or b.startswith(a))


def _plain(name: str) -> str:
    """A name without case and punctuation."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _name_of(folder: str) -> str:
    """What a class is called whose only name is that of its folder: `3_dress` is a dress."""
    found = NUMBERED.fullmatch(folder)
    return found[2] if found is not None and found[2] else folder


def _short(names: Sequence[str], most: int = 4) -> str:
    """The first few of some names."""
    listed = ", ".join(names[:most])
    return listed if len(names) <= most else f"{listed}, ..."
