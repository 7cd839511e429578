"""Which classes are to be forgotten."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = 12
"""Classes that an error message lists."""


def find_classes(names: Sequence[str], wanted: int | str | Sequence[int | str]) -> list[int]:
    """Indices of the classes to forget, each once, where the request makes sense.

    Parameters
    ----------
    names
        Of all classes.
    wanted
        An index, a name, several of these, or several in one string, separated by commas.

    Raises
    ------
    UsageError
        If a class is unknown, or none or all are to be forgotten.
    """
    found: dict[int, None] = {}
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    for item in wanted:
        # A name may hold commas itself: "tench, Tinca tinca".
        split = isinstance(item, str) and item not in names and "," in item
        parts = item.split(",") if split and isinstance(item, str) else [item]
        for part in parts:
            found[find_class(names, part.strip() if split and isinstance(part, str) else part)] = (
                None
            )
    if not found:
        raise UsageError("no class to forget was named; give at least one")
    if len(found) >= len(names):
        raise UsageError("all classes are to be forgotten; leave at least one")
    return list(found)


def find_class(names: Sequence[str], wanted: int | str) -> int:
    """Index of a class that is given by index or by name.

    Raises
    ------
    UsageError
        If there is no such class, or several of that name; the message lists them.
    """
    if isinstance(wanted, str) and wanted in names:
        called = [index for index, name in enumerate(names) if name == wanted]
        if len(called) > 1:
            several = ", ".join(map(str, called[:SHOWN]))
            raise UsageError(f"classes {several} are all named {wanted!r}; give an index")
        return called[0]
    try:
        index = int(wanted) if isinstance(wanted, str) else operator.index(wanted)
    except (TypeError, ValueError):  # 1.7 is no class, and not class 1 either
        index = -1
    if isinstance(wanted, bool) or not 0 <= index < len(names):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:SHOWN]))
        more = ", ..." if len(names) > SHOWN else ""
        raise UsageError(f"no class {wanted!r}; there are {known}{more}")
    return index
