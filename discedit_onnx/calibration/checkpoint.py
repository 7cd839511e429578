"""Moments so far, kept beside the output while they are gathered, so that a run can go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from .storage import load_moments

if TYPE_CHECKING:
    from pathlib import Path

    from .moments import Moments

SUFFIX = ".partial"

INTERVAL = 30.0
"""Seconds between checkpoints: what a run that is killed loses at most, and one batch."""

DONE, RUN = "partial.done", "partial.run"
"""Facts of a partial file: images done, and the fingerprint of the run that they belong to."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to end, and what it had gathered is saved.

    Attributes
    ----------
    exit_code
        128 and the number of the signal, as shells have it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Checkpoint:
    """The partial file of one run.

    Attributes
    ----------
    path
        Where it lies: the output's name and ".partial".
    interval
        Seconds between two saves.
    careful
        Refuse to replace a file that is no checkpoint of this run: hours may have gone into it.
    resumed
        How many samples an earlier run had done, once it is loaded.
    """

    path: Path
    interval: float = INTERVAL
    careful: bool = False
    resumed: int = 0
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def beside(cls, output: Path, interval: float = INTERVAL, careful: bool = False) -> Checkpoint:
        """The checkpoint of a run that will write `output`."""
        return cls(output.with_name(output.name + SUFFIX), interval, careful)

    def load(self, run: str) -> tuple[Moments, int] | None:
        """What an earlier run of this fingerprint had gathered, and from how many images.

        None if there is nothing, or it belongs to another run: then it is of no use here.

        Raises
        ------
        UsageError
            If it belongs to another run, or is something else, and this one is careful.
        """
        if not self.path.is_file():
            return None
        try:
            moments = load_moments(self.path)
            done = int(moments.facts[DONE])
        except (DataError, KeyError, ValueError):
            self._refuse("no checkpoint of a calibration: move it away")
            return None
        if moments.facts.get(RUN) != run:
            self._refuse(
                f"{done:,} images of another calibration: go on with that one's command, remove it"
            )
            return None
        self.resumed = done
        return replace(moments, facts={}), done

    def _refuse(self, what: str) -> None:
        if self.careful:
            raise UsageError(f"{self.path}: is {what}, or use --force to overwrite it")

    def save(self, moments: Moments, done: int, run: str) -> None:
        """Write the moments so far, all of them or nothing."""
        replace(moments, facts={DONE: str(done), RUN: run}).save(self.path)
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval is over."""
        return time.monotonic() - self._saved >= self.interval

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)
