"""Parts of the data that several runs gather, each on its own machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError, require_whole

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the data, as `--shard 2/8` names it.

    Attributes
    ----------
    number
        From 1 to `of`.
    of
        How many parts there are.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        require_whole("a shard's number", self.number)
        require_whole("a shard's of", self.of)
        if not 1 <= self.number <= self.of:
            raise _no_shard(str(self))

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard named `i/n`.

        Raises
        ------
        UsageError
            If there is no such shard.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise _no_shard(text)
        return cls(int(number), int(of))

    def places(self, total: int, size: int) -> npt.NDArray[np.int64]:
        """Its samples. Shards are whole batches, so that batches are those of a single run."""
        batches = -(-total // size)
        start, end = (batches * i // self.of * size for i in (self.number - 1, self.number))
        return np.arange(start, min(end, total), dtype=np.int64)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def _no_shard(text: str) -> UsageError:
    return UsageError(f"--shard {text}: give it as i/n, from 1/n to n/n")


EVERYTHING = Shard()
