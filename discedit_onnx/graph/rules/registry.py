"""The registry of rules, by operator, domain and opset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..scope import Scope

Rule = Callable[["Scope"], None]

_RULES: dict[tuple[str, str], list[tuple[int, int | None, Rule]]] = defaultdict(list)
_BARRIERS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True, order=True)
class Operator:
    """What the registry knows of an operator.

    Attributes
    ----------
    domain, name
        The default domain is "".
    barrier
        Why it is pinned on purpose; empty where it has a rule.
    """

    domain: str
    name: str
    barrier: str = ""

    @property
    def label(self) -> str:
        """Domain and name."""
        return f"{self.domain}.{self.name}" if self.domain else self.name


def rule(
    *operators: str, domain: str = "", opset: tuple[int, int | None] = (7, None)
) -> Callable[[Rule], Rule]:
    """Register a function for operators of a domain, in a range of opsets (ends included)."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            _RULES[domain, operator].append((*opset, function))
        return function

    return register


def barriers(reasons: Mapping[str, str], domain: str = "") -> None:
    """Pin operators on purpose, at every opset; the reason completes "<operator> <name> ..."."""
    for operator, reason in reasons.items():
        _BARRIERS[domain, operator] = reason


def find_rule(operator: str, domain: str, opset: int) -> Rule | None:
    """The rule for an operator at an opset, or None."""
    for first, last, function in _RULES.get((domain, operator), ()):
        if first <= opset and (last is None or opset <= last):
            return function
    return None


def find_barrier(operator: str, domain: str) -> str | None:
    """Why an operator is pinned on purpose, or None."""
    return _BARRIERS.get((domain, operator))


def known_operators() -> tuple[Operator, ...]:
    """Everything that has a rule or is pinned on purpose, sorted."""
    ruled = (Operator(*key) for key in _RULES)
    pinned = (Operator(*key, reason) for key, reason in _BARRIERS.items())
    return tuple(sorted((*ruled, *pinned)))
