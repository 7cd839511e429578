"""`discedit-onnx diff`: the channels of two models side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

import discedit_onnx as dx
from discedit_onnx.amounts import number

from . import options
from .output import short

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.difference import Layer, Pair

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Show the channels of two models side by side.",
    epilog=options.examples("diff model.onnx small.onnx"),
)
@click.argument("a", type=options.PATH)
@click.argument("b", type=options.PATH)
@options.screen
def command(screen: Screen, a: Path, b: Path) -> None:
    """Show in which layers A and B differ, matched by the names of weights and nodes."""
    from discedit_onnx.difference import compare_layers

    pairs = compare_layers(dx.load(a), dx.load(b))
    different = [pair for pair in pairs if not pair.same]
    if different:
        screen.table(
            f"Channels in and out: {len(different)} of {len(pairs)} layers differ",
            ["layer", "operator", str(a), str(b), "in", "out"],
            [_row(pair) for pair in different],
            words=2,
        )
    else:
        screen.line(f"All {len(pairs)} layers are the same")
    screen.json(
        {
            "a": a,
            "b": b,
            "layers": [{**asdict(pair), "same": pair.same} for pair in pairs],
        }
    )


def _row(pair: Pair) -> list[str]:
    a, b = pair.a, pair.b
    layer = a or b
    assert layer is not None
    row = [short(pair.name), layer.op, _channels(a), _channels(b)]
    if a is None or b is None:
        return [*row, "", ""]
    if pair.changed:
        return [*row, "new", "values"]
    return [*row, *(_change(x, y) for x, y in ((a.inputs, b.inputs), (a.outputs, b.outputs)))]


def _channels(layer: Layer | None) -> str:
    return "-" if layer is None else f"{number(layer.inputs)} -> {number(layer.outputs)}"


def _change(a: int, b: int) -> str:
    return f"{b - a:+,}" if a != b else ""
