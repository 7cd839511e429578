"""What a model is, and what of it could be removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .amounts import percent
from .editing.order import removal_order
from .graph.axes import Reach
from .graph.cost import ParameterCount, count_macs, uncounted
from .graph.coupling import analyse
from .graph.rules import find_barrier, find_rule
from .graph.scope import UNKNOWN_SHAPES
from .graph.solving import NO_RULE
from .tables import Table, Tabular, facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import ValueInfoProto

    from .graph.coupling import Coupling, Group, Pinned
    from .graph.view import View
    from .model import Model


@dataclass(frozen=True)
class TensorInfo:
    """Name, element type and shape ("?" or a name for open lengths) of an input or output."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GroupInfo:
    """A prunable group.

    Attributes
    ----------
    name
        The weight that it is named after.
    components
        How many there are.
    size
        Parameters that go with one of them.
    weights
        (constant, axis) that are cut.
    tensors
        Computed tensors that they run through.
    """

    name: str
    components: int
    size: int
    weights: tuple[tuple[str, int], ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Inspection(Tabular):
    """What `inspect` found.

    Attributes
    ----------
    inputs, outputs
        Of the graph.
    opsets
        Domain to version.
    inlined
        Local functions and If nodes that are looked at, and edited, as what they are made of.
    parameters
        Elements of floating-point constants.
    macs
        Multiply-accumulates for one sample, or None where shapes are open.
    uncounted
        Operators that multiply, too, and that `macs` leaves out.
    groups
        What can be removed.
    pinned
        What can't, and why.
    unknown
        Operators that have no rule and are not pinned on purpose, with how often they occur.
    removable_share
        Share of the parameters that can be removed when each group keeps one component.
    inside_share
        The same, if dimensions inside heads are cut in place of whole heads.
    inexact_share
        The same, if widths under layer normalisation may be cut as well.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opsets: dict[str, int]
    inlined: tuple[str, ...]
    parameters: int
    macs: int | None
    uncounted: tuple[str, ...]
    groups: tuple[GroupInfo, ...]
    pinned: tuple[Pinned, ...]
    unknown: dict[str, int]
    removable_share: float
    inside_share: float
    inexact_share: float

    @property
    def conclusion(self) -> str:
        """One line that says what would unlock more."""
        if self.unknown:
            return self._for_want_of_rules()
        more = []
        if self.inside_share > self.removable_share + 0.001:
            more.append(f"--inside-heads would free up to {percent(self.inside_share)}")
        if self.inexact_share > self.removable_share + 0.001:
            more.append(
                f"--inexact would free up to {percent(self.inexact_share)}: widths under layer "
                "normalisation, without the proof of equality"
            )
        if more:
            return f"prune {'; '.join(more)}."
        known = "Every operator is known: nothing is held back for want of a rule"
        return f"{known}{self._most()}."

    def _for_want_of_rules(self) -> str:
        names = ", ".join(f"{name} ({count}x)" for name, count in self.unknown.items())
        held = [pin for pin in self.pinned if pin.why.startswith(NO_RULE)]
        behind = [pin for pin in self.pinned if pin.why == UNKNOWN_SHAPES]
        tensors = {tensor for pin in held + behind for tensor in pin.tensors}
        if not tensors:
            return f"No rule for {names}, but they hold nothing back{self._most()}."
        hidden = ", some behind them, where shapes are unknown" if behind else ""
        count = f"{len(tensors)} weights{hidden}"
        return f"A rule for {names} may free more: they hold back {count}."

    def _most(self) -> str:
        """What holds back most, to go on a sentence with."""
        most = [f"; most is by {pin.where} {pin.why}".replace("  ", " ") for pin in self.pinned[:1]]
        return "".join(most)

    def tables(self) -> Iterator[Table]:
        """What it costs, what can be removed, and what can't."""
        yield facts(
            "Inspection",
            parameters=f"{self.parameters:,}",
            MACs=None if self.macs is None else f"{self.macs:,}",
            not_counted=", ".join(self.uncounted) or None,
            removable=f"{percent(self.removable_share)} of the parameters at most",
            no_rule=", ".join(self.unknown) or None,
        )
        rows = tuple((g.name, f"{g.components:,}", f"{g.size:,}") for g in self.groups)
        yield Table("Groups", ("group", "components", "parameters of one"), rows)
        held = tuple((p.where or "the graph", p.why, f"{p.indices:,}") for p in self.pinned)
        yield Table("Held back", ("by", "because", "indices"), held, words=2)


def inspect(model: Model) -> Inspection:
    """Look at a model without running it.

    Parameters
    ----------
    model
        Any ONNX model.

    Returns
    -------
    Inspection
    """
    coupling = analyse(model.proto)
    view = coupling.view
    count = ParameterCount(coupling)
    return Inspection(
        inputs=_describe(i for i in model.proto.graph.input if i.name in view.inputs),
        outputs=_describe(model.proto.graph.output),
        opsets=dict(view.opsets),
        inlined=model.inlined,
        parameters=count.total,
        macs=count_macs(view),
        uncounted=uncounted(view),
        groups=tuple(_group(coupling, count, i) for i in range(len(coupling.groups))),
        pinned=coupling.pinned,
        unknown=_unknown(view),
        removable_share=_removable_share(coupling, count),
        inside_share=_removable_share(analyse(model.proto, Reach(inside_heads=True))),
        inexact_share=_removable_share(analyse(model.proto, Reach(inexact=True))),
    )


def _removable_share(coupling: Coupling, count: ParameterCount | None = None) -> float:
    count = count or ParameterCount(coupling)
    order = removal_order(coupling, np.zeros(coupling.size))
    return 1 - count.left(order.first(len(order.steps))) / count.total if count.total else 0.0


def _describe(values: Iterable[ValueInfoProto]) -> tuple[TensorInfo, ...]:
    from onnx import TensorProto

    described = []
    for value in values:
        kind = value.type.tensor_type  # of a sequence, this is empty
        shape = tuple(d.dim_param or d.dim_value or "?" for d in kind.shape.dim)
        dtype = TensorProto.DataType.Name(kind.elem_type).lower()
        described.append(TensorInfo(value.name, dtype, shape))
    return tuple(described)


def _group(coupling: Coupling, count: ParameterCount, index: int) -> GroupInfo:
    group: Group = coupling.groups[index]
    one = np.zeros(coupling.size, dtype=bool)
    one[group.components[0]] = True
    return GroupInfo(
        name=group.name,
        components=len(group.components),
        size=count.total - count.left(one),
        weights=group.axes,
        tensors=coupling.tensors[index],
    )


def _unknown(view: View) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in view.nodes:
        if node.op == "Constant" and not node.domain:
            continue
        rule = find_rule(node.op, node.domain, view.opsets.get(node.domain, 1))
        if rule is None and find_barrier(node.op, node.domain) is None:
            name = f"{node.domain}.{node.op}" if node.domain else node.op
            found[name] = found.get(name, 0) + 1
    return found
