"""What `score` tells people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discedit_onnx.amounts import number

from .output import ellipsis, short

if TYPE_CHECKING:
    from rich.text import Text

    from discedit_onnx.scoring.saliency import Scores

    from .output import Screen

CLASS_WIDTH, NAME_WIDTH, LAYER_WIDTH, SIDES_WIDTH = 6, 15, 24, 40
"""Characters that a class takes in the table, and that names of things get."""

LISTED = 5
"""Channels at each end of the list, and classes that are named in one line."""


def show_classes(screen: Screen, scores: Scores) -> None:
    """Layers by classes, where each class is held against the rest."""
    if screen.mute:
        return
    names = [f"{k} {ellipsis(side, NAME_WIDTH)}" for k, (side, _) in enumerate(scores.sides)]
    named = [short(tap.tensor, LAYER_WIDTH) for tap in scores.taps]
    rest = max(map(len, named)) + max(map(len, names)) + len("channels") + 4
    shown = max(1, min(len(names), (screen.console.width - rest) // CLASS_WIDTH))
    rows: list[list[str | Text]] = []
    for layer, tap in zip(named, scores.taps, strict=True):
        mean = scores.bounds[scores.slices[tap.tensor]].mean(axis=0)
        rows.append(
            [
                layer,
                names[int(mean.argmax())],
                number(tap.length),
                *(_cell(float(value), float(mean.max())) for value in mean[:shown]),
            ]
        )
    screen.table(
        "Mean over the channels of each layer, by class",
        ["layer", "clearest", "channels", *map(str, range(shown))],
        rows,
        words=2,
    )
    screen.line()
    screen.line(f"Classes: {', '.join(names[:shown])}")
    if shown < len(names):
        screen.line(f"and {len(names) - shown} more: --csv and --json have all.")


def show_nearest(screen: Screen, scores: Scores) -> None:
    """The pairs that each layer tells apart worst and best."""
    rows = []
    for tap in scores.taps:
        mean = scores.bounds[scores.slices[tap.tensor]].mean(axis=0)
        near, far = int(mean.argmin()), int(mean.argmax())
        rows.append(
            [
                short(tap.tensor, LAYER_WIDTH),
                sides_of(scores, near),
                sides_of(scores, far),
                f"{mean[near]:.2f}",
                f"{mean[far]:.2f}",
            ]
        )
    screen.table(
        "Mean over channels: nearest and farthest pair by layer",
        ["layer", "nearest", "farthest", "nearest", "farthest"],
        rows,
        words=3,
    )


def show_layers(screen: Screen, scores: Scores) -> None:
    """How the channels of each layer are distributed."""
    from discedit_onnx.scoring.layers import QUANTILES, layers

    headers = ["least", *(f"{100 * q:.0f} %" for q in QUANTILES[1:-1]), "most"]
    screen.table(
        "Best bounds of each layer's channels, how mixed (LDIFF)",
        ["layer", "channels", *headers, "LDIFF"],
        [
            [
                short(layer.tap.tensor, LAYER_WIDTH),
                number(layer.tap.length),
                *(f"{value:.2f}" for value in layer.quantiles),
                f"{layer.ldiff:.2f}",
            ]
            for layer in layers(scores)
        ],
    )


def show_channels(screen: Screen, scores: Scores) -> None:
    """The most and the least discriminative channels."""
    from discedit_onnx.scoring.layers import extremes

    most, least = extremes(scores, LISTED)
    for title, chosen in (("Most", most), ("Least", least)):
        rows = []
        for row in chosen.tolist():
            column = int(scores.bounds[row].argmax())
            tap = next(t for t in scores.taps if row < scores.slices[t.tensor].stop)
            found = float(scores.bounds[row, column])
            fires = {1: "more", -1: "less", 0: ""}[int(scores.signs[row, column])]
            rows.append(
                [
                    short(tap.tensor, LAYER_WIDTH),
                    sides_of(scores, column) if found else "",
                    fires if found else "",
                    number(row - scores.slices[tap.tensor].start),
                    f"{found:.3f}",
                ]
            )
        screen.table(
            f"{title} discriminative channels, by their best bound",
            ["layer", "tells apart", "fires", "channel", "bound"],
            rows,
            words=3,
        )


def show_carriers(screen: Screen, scores: Scores) -> None:
    """The classes that lean on few components."""
    from discedit_onnx.scoring.layers import carriers

    found = carriers(scores)
    order = [k for k in found.argsort(kind="stable").tolist() if found[k]][: 2 * LISTED]
    screen.table(
        f"Components with half of a class's bounds, of {number(scores.components)}",
        ["class", "components"],
        [[sides_of(scores, k), number(int(found[k]))] for k in order],
    )


def sides_of(scores: Scores, column: int) -> str:
    """A column, as people call it: a class, or both sides."""
    first, second = scores.sides[column]
    name = first if second == "rest" else f"{first} / {second}"
    return ellipsis(name, SIDES_WIDTH)


def _cell(value: float, most: float) -> Text:
    """A bound; the row's largest stands out."""
    from rich.text import Text

    return Text(f"{value:.2f}", style="bold" if value == most else "")
