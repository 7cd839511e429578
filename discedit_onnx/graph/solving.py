"""Lets the rules speak about a graph, node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .axes import Equations
from .rules import find_barrier, find_rule
from .scope import Scope, Unsupported

if TYPE_CHECKING:
    from .axes import Reach
    from .view import Node, View

NO_RULE = "has no rule"

ELEMENTWISE = ("Cast", "Identity", "Not")
"""Operators on single elements by which graphs come to hold one constant twice."""


def solve(view: View, reach: Reach, whole: frozenset[int] = frozenset()) -> Equations:
    """Let every node's rule speak, in the order of the graph; `whole` as in `Equations`."""
    equations = Equations(view, reach, whole)
    for node in view.nodes:
        for name in node.captured:
            equations.hold(name, node, "is used inside a subgraph")
        if node.op == "Constant" and not node.domain:
            continue
        if view.facts.numbers.issuperset(node.outputs):
            equations.numbers.follow(node)
            if not _passes_constant(equations, node):
                _hold_constants(equations, node)
                continue
        scope = Scope(equations, node)
        rule = find_rule(node.op, node.domain, scope.opset)
        try:
            if rule is None:
                why = _why_not(view, node)
                for name in filter(None, node.inputs):
                    equations.hold(name, node, why)
                raise Unsupported(why)
            rule(scope)
        except Unsupported as reason:
            equations.give_up(node, str(reason))
        else:
            scope.finish()
        scope.settle_numbers()
    equations.close()
    return equations


def _passes_constant(equations: Equations, node: Node) -> bool:
    """Whether a number is a constant's elements one by one: then it is cut as the constant is."""
    view = equations.view
    if node.op not in ELEMENTWISE or not any(name in view.consumers for name in node.outputs):
        return False
    source = node.inputs[0]
    counts = equations.numbers.counted(source) is not None
    return not counts and (source in view.initializers or source in equations.axes)


def _hold_constants(equations: Equations, node: Node) -> None:
    """Pin the lists that a number is computed from: another node may read, and cut, them too."""
    for name in filter(None, node.inputs) if node.op not in ("Shape", "Size") else ():
        for axis in range(equations.view.rank(name) or 0):
            equations.pass_over(name, axis, node, "computes with it")


def _why_not(view: View, node: Node) -> str:
    """Why no rule speaks of a node."""
    if (node.domain, node.op) in view.functions:
        return "is a local function that can't be inlined: it is written for other opsets"
    return find_barrier(node.op, node.domain) or " in ".join(filter(None, (NO_RULE, node.domain)))
