"""`discedit-onnx score`: how well each layer tells each class apart."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

import click

import discedit_onnx as dx
from discedit_onnx.errors import UsageError

from . import options
from .inputs import Inputs
from .output import ellipsis, number, short

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from discedit_onnx.scoring.saliency import Scores

    from .output import Screen

CLASS_WIDTH, NAME_WIDTH = 6, 15
"""Characters that a class takes in the table, and that its name gets."""


@click.command(
    context_settings=options.SETTINGS,
    short_help="Bound how well each layer tells each class apart.",
)
@options.model
@options.data("Labelled images to calibrate on.")
@options.moments
@options.witness
@click.option(
    "--csv",
    "as_csv",
    envvar="DISCEDIT_CSV",
    is_flag=True,
    help="Print one line for each channel and class.",
)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: Path | None,
    moments: Path | None,
    witness: str,
    as_csv: bool,
    preprocess: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Bound from below how well MODEL's channels tell each class from the rest.

    The bounds are on the total variation between a channel's activations for the class and for
    all others: 0 says nothing, 1 tells them apart without error. They are estimates, made from
    the moments of the calibration images.
    """
    if as_csv and screen.as_json:
        raise UsageError("--csv and --json exclude each other; give one")
    loaded = dx.load(model)
    inputs = Inputs(screen, loaded, data, moments, preprocess, device, batch_size)
    inputs.moments_file()
    gathered = inputs.gather(inputs.images())
    scores = dx.score(loaded, gathered, witness)
    if as_csv:
        _write_csv(scores)
        return
    images = int(gathered.count.sum())
    _show(screen, scores, images, inputs.provenance())
    screen.json(
        {
            "model": model,
            "witness": witness,
            "moments": inputs.provenance(),
            "images": images,
            "estimate": "plug-in",
            "class_names": scores.class_names,
            "layers": [
                {
                    "tensor": tap.tensor,
                    "channels": tap.length,
                    "mean": dict(zip(scores.class_names, bounds.mean(axis=0), strict=True)),
                    "max": dict(zip(scores.class_names, bounds.max(axis=0), strict=True)),
                    "bounds": bounds,
                    "signs": scores.signs[scores.slices[tap.tensor]],
                    "component": scores.component[scores.slices[tap.tensor]],
                }
                for tap in scores.taps
                for bounds in [scores.bounds[scores.slices[tap.tensor]]]
            ],
        }
    )


def _show(screen: Screen, scores: Scores, images: int, provenance: str) -> None:
    if screen.mute:
        return
    names = [f"{k} {ellipsis(name, NAME_WIDTH)}" for k, name in enumerate(scores.class_names)]
    layers = [short(tap.tensor, 24) for tap in scores.taps]
    rest = max(map(len, layers)) + max(map(len, names)) + len("channels") + 4
    shown = max(1, min(len(names), (screen.console.width - rest) // CLASS_WIDTH))
    rows: list[list[str | Text]] = []
    for layer, tap in zip(layers, scores.taps, strict=True):
        mean = scores.bounds[scores.slices[tap.tensor]].mean(axis=0)
        rows.append(
            [
                layer,
                names[int(mean.argmax())],
                number(tap.length),
                *(_cell(float(value), float(mean.max())) for value in mean[:shown]),
            ]
        )
    screen.facts(
        f"Lower bounds on total variation, each class against the rest (estimates, {images:,} "
        "images)",
        {"witness": scores.witness, "moments": provenance},
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


def _cell(value: float, most: float) -> Text:
    """A bound; the row's largest stands out."""
    from rich.text import Text

    return Text(f"{value:.2f}", style="bold" if value == most else "")


def _write_csv(scores: Scores) -> None:
    """One line for each channel and class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["layer", "channel", "component", "class", "bound", "sign"])
    for tap in scores.taps:
        part = scores.slices[tap.tensor]
        for channel in range(tap.length):
            row = part.start + channel
            for k, name in enumerate(scores.class_names):
                writer.writerow(
                    [
                        tap.tensor,
                        channel,
                        int(scores.component[row]),
                        name,
                        f"{scores.bounds[row, k]:.6f}",
                        int(scores.signs[row, k]),
                    ]
                )
