"""How deep a class is forgotten: a verdict for each level, with the tests that failed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..editing.forgetting.way import LEVELS
from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..editing.forgetting.way import Level


@dataclass(frozen=True)
class Limits:
    """What tests are held against, as shares.

    Attributes
    ----------
    forget
        Largest accuracy on forgotten images, of the model as it is.
    recall
        The same after each recall attack.
    gain
        How far probes and few shots may lie above those of a model that never saw the class.
    """

    forget: float = 0.05
    recall: float = 0.05
    gain: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"--max-{name} {100 * value:g} is not in [0, 100] per cent")


@dataclass(frozen=True)
class Test:
    """One test.

    Attributes
    ----------
    level
        The first level that it counts for; it counts for all deeper ones too.
    name
        What was tried.
    found, limit
        Share of forgotten images that it finds, or how many more than the reference's, and the
        most that passes.
    """

    level: Level
    name: str
    found: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the share decides so; its interval does not count."""
        return self.found <= self.limit


@dataclass(frozen=True)
class Verdict:
    """What became of a level.

    Attributes
    ----------
    level
        Its name.
    tests
        Those of this level and of the ones above it.
    """

    level: Level
    tests: tuple[Test, ...]

    @property
    def failed(self) -> tuple[Test, ...]:
        """The tests that failed."""
        return tuple(test for test in self.tests if not test.passed)

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed


def verdicts(tests: Iterable[Test]) -> tuple[Verdict, ...]:
    """One for each level, from the shallowest; tests that gave no number do not count."""
    known = [test for test in tests if not math.isnan(test.found)]
    return tuple(
        Verdict(level, tuple(t for t in known if LEVELS.index(t.level) <= depth))
        for depth, level in enumerate(LEVELS)
    )
