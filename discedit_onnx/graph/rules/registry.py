"""The registry of rules, by operator, domain and opset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..axes import Scope

Rule = Callable[["Scope"], None]

_RULES: dict[tuple[str, str], list[tuple[int, int | None, Rule]]] = defaultdict(list)


def rule(
    *operators: str, domain: str = "", opset: tuple[int, int | None] = (7, None)
) -> Callable[[Rule], Rule]:
    """Register a function for operators of a domain, in a range of opsets (ends included)."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            _RULES[domain, operator].append((*opset, function))
        return function

    return register


def find_rule(operator: str, domain: str, opset: int) -> Rule | None:
    """The rule for an operator at an opset, or None."""
    for first, last, function in _RULES.get((domain, operator), ()):
        if first <= opset and (last is None or opset <= last):
            return function
    return None


def known_operators() -> tuple[tuple[str, str], ...]:
    """(domain, operator) of everything that has a rule, sorted."""
    return tuple(sorted(_RULES))
