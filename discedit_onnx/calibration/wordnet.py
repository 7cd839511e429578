"""The classes of ImageNet by the WordNet ids that its folders are called."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FILE = "imagenet.txt"
"""The ids of the 1,000 classes of ILSVRC 2012 in ascending order, which is that of the outputs of
the models that are trained on it."""

ID = re.compile(r"(n\d{8})(?:[ _-].+)?", re.DOTALL)
"""A name that is an id, or begins with one: ``n01440764``, ``n01440764_tench``."""


@cache
def imagenet() -> Mapping[str, int]:
    """Class of each id."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="ascii")
    return {name: index for index, name in enumerate(text.split())}


def classes_by_id(names: Sequence[str], num_classes: int) -> list[int] | None:
    """Classes of names that all are ids of different classes of ImageNet, or None.

    A model is taken for one of ImageNet if it has as many classes.
    """
    index = imagenet()
    found = [ID.fullmatch(name) for name in names]
    ids = [match[1] for match in found if match is not None and match[1] in index]
    if num_classes != len(index) or len(set(ids)) < len(names):
        return None
    return [index[name] for name in ids]
