"""Lets the rules speak about a graph, node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .axes import Equations
from .rules import find_barrier, find_rule
from .scope import Scope, Unsupported

if TYPE_CHECKING:
    from .axes import Reach
    from .view import Node, View


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
            continue
        scope = Scope(equations, node)
        rule = find_rule(node.op, node.domain, scope.opset)
        try:
            if rule is None:
                raise Unsupported(_why_not(view, node))
            rule(scope)
        except Unsupported as reason:
            equations.give_up(node, str(reason))
        else:
            scope.finish()
        scope.settle_numbers()
    equations.close()
    return equations


def _why_not(view: View, node: Node) -> str:
    """Why no rule speaks of a node."""
    if (node.domain, node.op) in view.functions:
        return "is a local function that can't be inlined: it is written for other opsets"
    return find_barrier(node.op, node.domain) or "has no rule"
