"""Sums of products in index notation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..scope import Scope


@rule("Einsum")
def einsum(scope: Scope) -> None:
    """Axes of one letter are cut alike; a letter that is not in the result is summed over."""
    inputs, output = _terms(scope)
    letters: dict[str, NDArray[np.int64] | None] = {}
    for position, term in enumerate(inputs):
        for axis, letter in enumerate(term):
            ids = scope.ids(position, axis)
            letters[letter] = scope.equate(letters[letter], ids) if letter in letters else ids
    for letter in letters:
        holders = [i for i, term in enumerate(inputs) if letter in term]
        if letter not in output:
            _sum_over(scope, letter, inputs, holders)
    scope.emit([letters[letter] for letter in output])


def _sum_over(scope: Scope, letter: str, inputs: list[str], holders: list[int]) -> None:
    """One factor that is masked makes the whole product zero; several need one mask only."""
    varying = [i for i in holders if scope.varies(i)]
    masked = varying[0] if varying else holders[0]
    others = [i for i in holders if i != masked]
    weights = None
    if len(others) == 1 and not scope.varies(others[0]):
        weights = scope.factor(others[0], scope.ids(others[0], inputs[others[0]].index(letter)))
    scope.contract(masked, inputs[masked].index(letter), weights)


def _terms(scope: Scope) -> tuple[list[str], str]:
    """The letters of each input and of the output."""
    equation = scope.attribute("equation").replace(" ", "")
    if "." in equation:
        raise Unsupported("has an ellipsis in its equation")
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if not arrow:
        output = "".join(sorted({letter for letter in left if left.count(letter) == 1} - {","}))
    if any(len(set(term)) < len(term) for term in inputs):
        raise Unsupported("takes a diagonal")
    return inputs, output
