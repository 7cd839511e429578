"""What prune and forget have in common: the report on an edited model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from discedit_onnx.amounts import change, large, number, size

from .output import short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from discedit_onnx.editing.criteria import Refitting
    from discedit_onnx.editing.edit import Edit
    from discedit_onnx.graph.view import View

    from .output import Screen


NAMED = 3
"""Layers that a warning names."""


def warn_of_fixed(screen: Screen, view: View, refit: Refitting) -> None:
    """Say which layers a refit can't reach: the result is worse for each of them."""
    from discedit_onnx.editing.refit.layers import find_layers, fixed_layers

    fixed = fixed_layers(view) if refit != "off" else ()
    if fixed:
        every = len(fixed) + len(find_layers(view))
        named = ", ".join(node.label for node in fixed[:NAMED])
        screen.warn(
            f"{len(fixed)} of {every} layers can't be refitted, for their weights are shared or "
            f"computed in the graph ({named}{', ...' if len(fixed) > NAMED else ''}): simplifying "
            "the model first, with onnxsim or onnxslim, may help"
        )


def show_groups(screen: Screen, edit: Edit, after: str) -> None:
    """What was taken from each group.

    Parameters
    ----------
    screen
        Where to.
    edit
        The edit.
    after
        Header for what is left.
    """
    screen.table(
        f"Components by group: {int(edit.components.sum()):,} of {len(edit.components):,} edited",
        ["group", "before", after, "change"],
        [
            [short(name), number(before), number(left), number(left - before) if left != before
             else ""]
            for name, before, left in edit.groups
        ],
    )  # fmt: skip


def costs(edit: Edit, values: Mapping[str, Any]) -> dict[str, str | None]:
    """Before and after, for people, from what machines are told."""
    from discedit_onnx.graph.cost import uncounted

    equality, macs = edit.equality, values["macs"]
    left_out = uncounted(edit.views[0])
    without = f", without {', '.join(left_out)}" * bool(left_out)
    return {
        "parameters": _change(number, values["parameters"]),
        "MACs": None if None in macs.values() else _change(large, macs) + without,
        "file": _change(size, values["file_size"]),
        "equality": f"{_verdict(edit)}, on {equality.samples} {equality.origin} "
        f"({equality.device})",
        "output": str(values["output"]),
    }


def _verdict(edit: Edit) -> str:
    """What the comparison with the masked original says."""
    equality = edit.equality
    found = f"{equality.deviation:.1e} from the masked original"
    if not edit.plan.exact:
        return f"none, for the edit is inexact: {found}"
    return f"proved: {found}, allowed {equality.tolerance:.0e}"


def as_json(edit: Edit, output: Path, planned: bool = False) -> dict[str, Any]:
    """Before and after, for machines; of a plan, the size of the file that it will give."""
    import discedit_onnx as dx

    size = edit.planned_size if planned else dx.load(output).file_size
    return {
        "model": edit.source.path,
        "output": output,
        "components": {"edited": edit.components.sum(), "all": len(edit.components)},
        "parameters": _pair(*edit.parameters),
        "macs": _pair(*edit.macs),
        "file_size": _pair(edit.source.file_size, size),
        "groups": groups_as_json(edit),
        "exact": edit.plan.exact,
        "equality": asdict(edit.equality),
    }


def groups_as_json(edit: Edit) -> list[dict[str, Any]]:
    """What was taken from each group, for machines."""
    return [{"name": name, "before": before, "after": left} for name, before, left in edit.groups]


def _pair(before: int | None, after: int | None) -> dict[str, int | None]:
    return {"before": before, "after": after}


def _change(form: Callable[[int], str], pair: Mapping[str, int]) -> str:
    before, after = pair["before"], pair["after"]
    if before == after:
        return f"{form(before)}, unchanged"
    return f"{form(before)} -> {form(after)} ({change(before, after)})"
