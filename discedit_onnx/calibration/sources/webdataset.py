"""WebDataset tars: images and labels with the same key, read where they lie."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ...errors import DataError, first_line
from ..classes import GivenLabels
from .pictures import SUFFIXES, Encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

JSON_LABELS = ("label", "cls", "class", "class_name", "target")
"""Usual keys of the label in a sample's .json."""


@dataclass(frozen=True)
class Member:
    """An image in a tar.

    Attributes
    ----------
    tar
        The file.
    name
        The image's name in it.
    start, size
        Where its bytes lie.
    label
        Its label; empty if there is none.
    """

    tar: Path
    name: str
    start: int
    size: int
    label: str


@dataclass(frozen=True, eq=False)
class Tars:
    """The images of several tars, in their order."""

    name: str
    members: tuple[Member, ...]
    labels: GivenLabels

    def __len__(self) -> int:
        return len(self.members)

    def open(self, position: int) -> tuple[str, Encoded]:
        member = self.members[position]
        name = f"{member.tar}: {member.name}"
        with member.tar.open("rb") as stream:
            stream.seek(member.start)
            return name, Encoded(stream.read(member.size), name)


def open_tars(name: str, tars: Sequence[Path]) -> Tars:
    """Find the images in tars. Only headers and labels are read; tars must not be compressed.

    Raises
    ------
    DataError
        If a tar is cut, damaged or compressed, or there are no images.
    """
    members = tuple(member for tar in tars for member in _members(tar))
    if not members:
        raise DataError(f"{name}: no images; give tars of KEY.jpg with KEY.cls or KEY.json")
    return Tars(name, members, GivenLabels.of_names([member.label for member in members]))


def _members(tar: Path) -> Iterator[Member]:
    """The images of one tar."""
    size = tar.stat().st_size
    key, image, label = "", None, ""
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in _infos(archive, tar):
                if not info.isreg():
                    continue
                if info.offset_data + info.size > size:
                    raise DataError(f"{tar}: ends inside {info.name}; copy it anew")
                found, suffix = _split(info.name)
                if found != key:
                    if image is not None:
                        yield _labelled(image, label)
                    key, image, label = found, None, ""
                if suffix in SUFFIXES:
                    image = Member(tar, info.name, info.offset_data, info.size, "")
                elif suffix in (".cls", ".json"):
                    content = archive.extractfile(info)
                    assert content is not None
                    label = _label(content.read(), suffix, f"{tar}: {info.name}") or label
    except tarfile.TarError as error:
        raise DataError(
            f"{tar}: can't be read as a tar that is not compressed ({first_line(error)})"
        ) from error
    if image is not None:
        yield _labelled(image, label)


def _infos(archive: tarfile.TarFile, tar: Path) -> Iterator[tarfile.TarInfo]:
    """All members of a tar, which must be followed by zeros, or by nothing.

    tarfile takes a header that is cut or damaged for the end: the rest of the data would be lost
    without a word. How many zeros there are differs from program to program.
    """
    try:
        yield from archive
    except tarfile.TarError as error:
        raise DataError(f"{tar}: is cut or damaged ({first_line(error)}); copy it anew") from error
    with tar.open("rb") as stream:
        stream.seek(archive.offset)
        if any(stream.read(tarfile.BLOCKSIZE)):
            raise DataError(
                f"{tar}: is cut or damaged (no header at byte {archive.offset}); copy it anew"
            )


def _labelled(image: Member, label: str) -> Member:
    return Member(image.tar, image.name, image.start, image.size, label)


def _split(name: str) -> tuple[str, str]:
    """A member's key, up to the first dot of its file name, and its last suffix."""
    path = PurePosixPath(name)
    stem = path.name.split(".", 1)[0]
    return str(path.with_name(stem)) if stem else name, path.suffix.lower()


def _label(content: bytes, suffix: str, name: str) -> str:
    """The label in a .cls or a .json; empty if it has none."""
    try:
        if suffix == ".cls":
            return content.decode().strip()
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: can't be read ({first_line(error)})") from error
    if isinstance(found, list):
        return ""  # annotations of something else
    if isinstance(found, dict):
        given = (found.get(key) for key in JSON_LABELS)
        found = next((value for value in given if value is not None), None)
    if isinstance(found, bool | list | dict):
        kind = type(found).__name__
        raise DataError(f"{name}: its label is a {kind}; give a number or a name")
    return "" if found is None or found != found else str(found)
