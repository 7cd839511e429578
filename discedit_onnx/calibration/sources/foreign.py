"""The user's own code: what it raises becomes one line, and what it changes is put back."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from ...errors import DataError, DisceditError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Whatever goes wrong in the user's code is told in one line; an interruption stays one.

    Raises
    ------
    DataError
        Naming what the code raised, also where it asked to end the program: that would end the
        command with an exit code of the code's own, and a gate would pass.
    """
    try:
        yield
    except DisceditError:
        raise
    except Exception as error:
        said = first_line(error) or "no message"
        raise DataError(f"{name}: failed with {type(error).__name__}: {said}") from error
    except (SystemExit, GeneratorExit) as error:
        code = str(error).split("\n")[0]
        said = type(error).__name__ + (f": {code}" if code else "")
        raise DataError(f"{name}: ended the program ({said}); let it return instead") from error


@contextlib.contextmanager
def at_home(script: Path) -> Iterator[None]:
    """A script may import from its folder, as if Python ran it, and print and move as it likes.

    What it prints goes to standard error: standard output is the command's, perhaps JSON.
    """
    before = list(sys.path)
    sys.path.insert(0, str(script.resolve().parent))
    try:
        with contextlib.redirect_stdout(sys.stderr), contextlib.chdir("."):
            yield
    finally:
        sys.path[:] = before
