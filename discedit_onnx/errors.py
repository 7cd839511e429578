"""What can go wrong through the user's input: one line each, and the exit code it ends in."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import SupportsIndex


class DisceditError(Exception):
    """Base of all errors that a user can mend; the message is one line and names the mend."""

    exit_code = 1


class UsageError(DisceditError):
    """An option that makes no sense here, or an environment that can't do what was asked."""

    exit_code = 2


class ModelError(DisceditError):
    """The model can't be read, or is not one that this tool can work on."""

    exit_code = 3


class DataError(DisceditError):
    """Images, labels or moments are missing, unreadable, or don't fit the model."""

    exit_code = 4


class GateError(DisceditError):
    """A requested gate failed, or an edit could not be proved equal to the masked model."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """What a library's error says, without the rest of its report; its kind if it can't tell."""
    try:
        return str(error).strip().split("\n")[0]
    except Exception:  # what a caller's own code raises may be unfit even to be printed
        return type(error).__name__


def reason_of(error: OSError) -> str:
    """Why something can't be read or written, in the system's words where it has any."""
    return error.strerror or first_line(error)


def require_whole(name: str, value: SupportsIndex) -> None:
    """Refuse what is no whole number, of Python or of NumPy.

    Raises
    ------
    UsageError
        Naming the argument.
    """
    try:
        operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} {value!r} is no whole number; give one") from error


def require_count(name: str, value: int, least: int = 1) -> None:
    """Refuse a number of things below 1, or below another least.

    Raises
    ------
    UsageError
        Naming the argument.
    """
    require_whole(name, value)
    if value < least:
        raise UsageError(f"{name} {value}: give a number from {least} on")


def require_finite(name: str, value: float) -> None:
    """Refuse what is no number, or none that can be compared with others.

    Raises
    ------
    UsageError
        Naming the argument.
    """
    try:
        finite = math.isfinite(value)
    except TypeError as error:
        raise UsageError(f"{name} {value!r} is no number; give one") from error
    except OverflowError:  # of a whole number that is larger than any float
        finite = False
    if not finite:
        raise UsageError(f"{name} {value} is not a finite number")


def require_several(name: str, value: object) -> None:
    """Refuse one thing where a sequence is taken: a string would be read letter by letter.

    Raises
    ------
    UsageError
        Naming the argument.
    """
    if isinstance(value, str):
        raise UsageError(f"{name} {value!r} is one string; give ({value!r},)")
    if not isinstance(value, Collection):
        raise UsageError(f"{name} {value!r} is no sequence; give one, () where there is none")
