"""Images in class folders, as torchvision's ImageFolder takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ..classes import GivenLabels
from .pictures import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

SINGLE = (".npz", ".npy", ".csv", ".tsv")
"""Kinds of data that are one file, and not looked for in a folder."""


@dataclass(frozen=True, eq=False)
class Folder:
    """Image files, in the order in which they are read.

    Attributes
    ----------
    root
        The folder that they lie in, or the list that names them.
    paths
        The images: by class folder, then by name.
    labels
        By class folder; none where the images lie in `root` itself.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: GivenLabels

    @property
    def name(self) -> str:
        return str(self.root)

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, position: int) -> tuple[str, Path]:
        return str(self.paths[position]), self.paths[position]


def open_folder(root: Path) -> Folder:
    """Find the images in a folder of class folders, or in one folder without classes.

    Names that begin with a dot are passed over, and images beside class folders.

    Raises
    ------
    DataError
        If there are no images.
    OSError
        If a folder can't be read.
    """
    folders = class_folders(root)
    if not folders:
        loose = tuple(sorted(path for path in root.iterdir() if _is_image(path)))
        if not loose:
            raise _without_images(root, "empty; give a folder with one folder of images a class")
        return Folder(root, loose, GivenLabels.none(len(loose)))
    found = [sorted(images_in(folder)) for folder in folders]
    if not any(found):
        suffixes = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        said = f"no images in its {len(folders)} class folders; put image files there ({suffixes})"
        raise _without_images(root, said)
    codes = np.repeat(np.arange(len(folders)), [len(images) for images in found])
    names = tuple(folder.name for folder in folders)
    paths = tuple(path for images in found for path in images)
    return Folder(root, paths, GivenLabels(codes, names, "class folders"))


def _without_images(root: Path, said: str) -> DataError:
    single = sorted(path.name for path in root.iterdir() if path.suffix.lower() in SINGLE)
    if single:
        said = f"no folders of images, but {single[0]}; name that file in place of the folder"
    return DataError(f"{root}: {said}")


def class_folders(root: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def images_in(folder: Path) -> Iterator[Path]:
    """The images in a folder and the folders inside it.

    Raises
    ------
    OSError
        If one of the folders can't be read.
    """
    for place, inner, files in os.walk(folder, onerror=_refuse):
        inner[:] = [name for name in inner if not is_hidden(name)]
        yield from filter(_is_image, map(Path(place).joinpath, files))


def _refuse(error: OSError) -> None:
    raise error


def is_hidden(name: str) -> bool:
    """Whether a name is one of those that systems and editors leave beside the data."""
    return name.startswith(".")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and path.is_file()
