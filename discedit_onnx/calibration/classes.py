"""Which class of the model each label in the data means."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .wordnet import classes_by_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

NUMBERED = re.compile(r"(\d+)(?:[_-](.+))?", re.DOTALL)
"""A name that begins with the index of its class: ``3``, ``3_dress``, ``3-dress``."""

WHOLE = re.compile(r"(-?\d+)(?:\.0*)?")
"""A whole number, perhaps as it looks in a column of floats."""

LONGEST = 100
"""Characters of the data that a message quotes in one piece."""

UNKNOWN = -1
"""The label of a sample whose class nobody gives."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GivenLabels:
    """Labels as the data give them, before they are classes of a model.

    Attributes
    ----------
    codes : int64 (N,)
        For each sample the index of its label among `names`, -1 where there is none. Without
        `names`, labels are numbers, and these are they.
    names
        What the data call their classes; empty if they number them.
    kind
        What the names are of, in words, for messages.
    """

    codes: Labels
    names: tuple[str, ...] = ()
    kind: str = "labels"

    @classmethod
    def none(cls, count: int) -> GivenLabels:
        """No labels at all."""
        return cls(np.full(count, UNKNOWN, np.int64))

    @classmethod
    def of_names(cls, labels: Sequence[str], kind: str = "labels") -> GivenLabels:
        """One name a sample; an empty one means that there is none."""
        names = sorted(set(labels) - {""})
        code = {name: i for i, name in enumerate(names)} | {"": UNKNOWN}
        return cls(np.array([code[label] for label in labels], np.int64), tuple(names), kind)

    @classmethod
    def of_array(cls, labels: npt.NDArray[np.generic], where: str) -> GivenLabels:
        """One number or name a sample.

        Raises
        ------
        DataError
            If they are neither, or not one a sample.
        """
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.ndim == 1 and labels.dtype.kind in "iu":
            return cls(labels.astype(np.int64))
        if labels.ndim == 1 and labels.dtype.kind in "US":
            return cls.of_names([str(label) for label in labels.astype(str)])
        raise DataError(
            f"{where}: labels are {labels.dtype} {labels.shape}; give one whole number or name "
            "a sample"
        )

    def named(self) -> GivenLabels:
        """With numbers as names, so that a map can be looked up."""
        if self.names:
            return self
        texts = ["" if code == UNKNOWN else str(code) for code in self.codes]
        return GivenLabels.of_names(texts, self.kind)

    @property
    def known(self) -> bool:
        """Whether there is any label."""
        return bool((self.codes != UNKNOWN).any())


@dataclass(frozen=True, eq=False)
class Matched:
    """Labels as classes of a model.

    Attributes
    ----------
    labels : int64 (N,)
        Class of each sample, -1 where nobody gives it.
    class_names
        The K classes.
    how
        How labels were matched to classes, in words.
    """

    labels: Labels
    class_names: tuple[str, ...]
    how: str


def match(
    given: GivenLabels,
    class_names: Sequence[str] | None,
    num_classes: int,
    where: str,
    class_map: Mapping[str, int | str] | None = None,
) -> Matched:
    """Find the model's class of each label.

    Names that are all whole numbers written as floats, such as 3.0, count as 3, unless the map or
    the model's classes have such names. With a map, each label must be in it. Without, numbers are
    indices of classes, and for names the first that holds for all of them decides:

    1. each is exactly the name of a class;
    2. each is a class's index, alone or followed by ``_`` or ``-`` and the class's name;
    3. the model has ImageNet's 1,000 classes, and each is the WordNet id of a different one, alone
       or followed by a name;
    4. there are as many names as classes, and none speaks against their sorted order.

    With 1, 2 and 3, classes may lack samples.

    Parameters
    ----------
    given
        The labels.
    class_names
        Names of the model's classes in the order of its outputs, or None if they are not known.
    num_classes
        How many classes the model has.
    where
        Where the labels come from, for messages.
    class_map
        Class (index or name) of each label.

    Raises
    ------
    DataError
        If labels can't be matched, or are out of range.
    """
    given = _as_whole(given, class_names or () if class_map is None else class_map)
    if class_map is not None:
        given, how = given.named(), "by the class map"
        classes = _by_map(given, class_names, num_classes, where, class_map)
    elif given.names:
        how, classes = _by_rule(given, class_names, num_classes, where)
    else:
        return _numbers(given, class_names, num_classes, where)
    labels = np.append(np.array(classes, np.int64), UNKNOWN)[given.codes]
    if class_names is None:
        known = {k: _name_of(name) for k, name in zip(classes, given.names, strict=True)}
        class_names = [known.get(k, str(k)) for k in range(num_classes)]
    return Matched(labels, tuple(class_names), f"{given.kind} {how}")


def _as_whole(given: GivenLabels, known: Collection[str]) -> GivenLabels:
    """Whole numbers without their point: pandas writes 3.0 in a column where a label is missing."""
    whole = [found[1] for name in given.names if (found := WHOLE.fullmatch(name))]
    if len(whole) < len(given.names) or tuple(whole) == given.names:
        return given
    if not set(known).isdisjoint(set(given.names) - set(whole)):
        return given
    texts = np.array([*whole, ""])[given.codes]
    return GivenLabels.of_names(texts.tolist(), given.kind)


def _numbers(
    given: GivenLabels, class_names: Sequence[str] | None, num_classes: int, where: str
) -> Matched:
    """Labels that are indices of classes already."""
    low, high = int(given.codes.min(initial=0)), int(given.codes.max(initial=0))
    if low < UNKNOWN or high >= num_classes:
        raise DataError(
            f"{where}: label {low if low < UNKNOWN else high} is out of range: the model has "
            f"classes 0 to {num_classes - 1}; correct it, or give a --class-map"
        )
    names = class_names or [str(k) for k in range(num_classes)]
    return Matched(given.codes, tuple(names), f"{given.kind} by number" if given.known else "none")


def _by_map(
    given: GivenLabels,
    class_names: Sequence[str] | None,
    num_classes: int,
    where: str,
    class_map: Mapping[str, int | str],
) -> list[int]:
    """Class of each name that the data have, by a map."""
    index = _index(class_names or ())
    classes = []
    for name in given.names:
        if name not in class_map:
            raise DataError(f"{where}: the class map lacks {brief(name)!r}; add it")
        value = class_map[name]
        label = index.get(value, UNKNOWN) if isinstance(value, str) else value
        if not 0 <= label < num_classes:
            raise DataError(
                f"{where}: the class map sends {brief(name)!r} to {value!r}, which is no class of "
                f"the model; give a name of one, or an index from 0 to {num_classes - 1}"
            )
        classes.append(label)
    return classes


def _by_rule(
    given: GivenLabels, class_names: Sequence[str] | None, num_classes: int, where: str
) -> tuple[str, list[int]]:
    """How names are matched, in words, and the class of each."""
    names = given.names
    by_name = _by_name(names, class_names)
    if by_name is not None:
        return "by name", by_name
    by_number = _by_number(names, class_names, num_classes)
    if by_number is not None:
        return "by number", by_number
    by_id = classes_by_id(names, num_classes)
    if by_id is not None:
        return "by WordNet id", by_id
    if len(names) == num_classes and not _contradict(names, class_names):
        return "in sorted order", list(range(num_classes))
    classes = _short(class_names) if class_names is not None else f"unnamed, {num_classes} of them"
    raise DataError(
        f"{where}: its {len(names)} {given.kind} ({_short(names)}) don't match the model's classes "
        f"({classes}); name each like its class, or by its index from 0, or give a --class-map"
    )


def _by_name(folders: Sequence[str], class_names: Sequence[str] | None) -> list[int] | None:
    """Classes of names that are all exactly those of a class, or None."""
    if class_names is None:
        return None
    index = _index(class_names)
    classes = [index.get(folder, UNKNOWN) for folder in folders]
    return None if UNKNOWN in classes else classes


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


def brief(text: str) -> str:
    """What a message quotes of the data: the first line of it, cut where it is long."""
    line = next(iter(text.splitlines()), "")[:LONGEST]
    return line if line == text else f"{line}..."


def _short(names: Sequence[str], most: int = 4) -> str:
    """The first few of some names."""
    listed = ", ".join(map(brief, names[:most]))
    return listed if len(names) <= most else f"{listed}, ..."
