"""`discedit-onnx inspect`: what a model is, and what of it could be removed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

import discedit_onnx as dx
from discedit_onnx.amounts import large, number, percent, size
from discedit_onnx.errors import UsageError

from . import options
from .output import short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.editing.lineage import Record
    from discedit_onnx.graph.coupling import Pinned
    from discedit_onnx.inspection import Inspection, TensorInfo

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="What a model is, and what of it can be removed.",
    epilog=options.examples("inspect model.onnx", "inspect --operators"),
)
@click.argument("model", type=options.PATH, required=False)
@click.option(
    "--operators", is_flag=True, help="List the operators that there are rules for; no MODEL."
)
@options.screen
def command(screen: Screen, model: Path | None, operators: bool) -> None:
    """Show what MODEL is, what of it can be removed, and what holds back the rest.

    A component is what can only be removed as a whole: a channel with all the weights that make
    it and use it, in every layer that a residual sum, a concatenation or the like ties together.
    Components that meet the same weights form a group.
    """
    if operators == (model is not None):
        raise UsageError("inspect takes MODEL, or --operators alone")
    if model is None:
        _list_operators(screen)
    else:
        _show(screen, model)


def _list_operators(screen: Screen) -> None:
    """Every operator that is known, and why some are pinned."""
    from discedit_onnx.graph.rules import known_operators

    known = known_operators()
    screen.table(
        "Operators that components go through, and those that are pinned on purpose",
        ["operator", "because it"],
        [[operator.label, operator.barrier] for operator in known],
        words=2,
    )
    pinned = sum(bool(operator.barrier) for operator in known)
    screen.line()
    screen.line(f"{len(known) - pinned} operators have a rule; {pinned} are pinned on purpose.")
    screen.json({"operators": [asdict(operator) for operator in known]})


def _macs(found: Inspection) -> str:
    if found.macs is None:
        return "unknown"
    without = f", without {', '.join(found.uncounted)}" if found.uncounted else ""
    return f"{large(found.macs)} for one sample{without}"


def _show(screen: Screen, model: Path) -> None:
    from discedit_onnx.editing.lineage import history

    loaded = dx.load(model)
    found, edits = dx.inspect(loaded), history(loaded)
    screen.facts(
        str(model),
        {
            "inputs": _tensors(found.inputs),
            "outputs": _tensors(found.outputs),
            "opset": ", ".join(f"{n or 'ai.onnx'} {v}" for n, v in found.opsets.items()),
            **({"inlined": ", ".join(found.inlined)} if found.inlined else {}),
            "parameters": number(found.parameters),
            "MACs": _macs(found),
            "file": size(loaded.file_size),
            "removable": f"{percent(found.removable_share)} of the parameters at most",
            "edited": "; then ".join(map(_edit, edits)) or None,
        },
    )
    if found.groups:
        screen.table(
            "Groups that can be removed; parameters of one component",
            ["group", "runs through", "components", "parameters", "weights"],
            [
                [
                    short(group.name),
                    _through(group.tensors),
                    number(group.components),
                    number(group.size),
                    number(len(group.weights)),
                ]
                for group in found.groups
            ],
            words=2,
        )
    if found.pinned:
        screen.table(
            "Held back",
            ["by", "because", "weights", "indices"],
            [
                [_holders(pins), pins[0].why, _through(pins[0].tensors), number(pins[0].indices)]
                for pins in _alike(found.pinned)
            ],
            words=3,
        )
    screen.line()
    screen.line(found.conclusion)
    screen.json(
        {
            "model": model,
            "sha256": loaded.hash,
            "file_size": loaded.file_size,
            "edits": [asdict(edit) for edit in edits],
            **asdict(found),
        }
    )


def _alike(pinned: Sequence[Pinned]) -> list[list[Pinned]]:
    """Nodes of one operator that hold the same weights for the same reason belong together."""
    together: dict[object, list[Pinned]] = {}
    for pin in pinned:
        key = pin.where.partition(" ")[0], pin.why, pin.tensors
        together.setdefault(key, []).append(pin)
    return list(together.values())


def _holders(pins: Sequence[Pinned]) -> str:
    """The first node of some, and how many more there are."""
    more = f" and {len(pins) - 1} more" if len(pins) > 1 else ""
    return (pins[0].where or "the graph") + more


def _edit(edit: Record) -> str:
    """An edit that the model has gone through, by what it was made of."""
    before, after = edit.parameters
    forgotten = f", without {', '.join(edit.forgotten)}" if edit.forgotten else ""
    counts = f"{number(before)} -> {number(after)} parameters"
    return f"from {edit.source[:12]}..., {counts}{forgotten}"


def _tensors(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(
        f"{info.name} {info.dtype} ({', '.join(str(n) for n in info.shape)})" for info in infos
    )


def _through(tensors: Sequence[str]) -> str:
    """The first and the last of some tensors, and how many they are."""
    names = list(dict.fromkeys(short(tensor) for tensor in tensors))
    if len(names) < 3:
        return ", ".join(names)
    return f"{names[0]} ... {names[-1]}" + (f" ({len(names)})" if len(names) > 3 else "")
