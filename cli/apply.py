"""`discedit-onnx apply`: carry out a plan that was made before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import options, outputs, recording
from .report import report

if TYPE_CHECKING:
    from pathlib import Path

    from .inputs import DataOptions
    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Carry out a plan of prune --dry-run.",
    epilog=options.examples(
        "apply half.json model.onnx -o half.onnx",
        "apply half.json model.onnx -o half.onnx --data calibration/",
    ),
)
@click.argument("plan", type=options.PATH)
@options.model
@options.data("Images for the proof of equality.")
@options.output("The edited model.", required=True)
@options.device
@options.screen
def command(
    screen: Screen,
    plan: Path,
    model: Path,
    data: DataOptions,
    output: Path,
    force: bool,
    device: str,
) -> None:
    """Carry out PLAN on MODEL, for which it was made: the same bytes that prune writes.

    The result is only written if its outputs equal those of MODEL with the same components masked
    and the same new values, on images of --data or else on random inputs.
    """
    from discedit_onnx.editing.edit import replay
    from discedit_onnx.editing.plan_file import load_plan
    from discedit_onnx.model import check_output

    loaded, planned = dx.load(model), load_plan(plan)
    outputs.require_apart()
    check_output(loaded, output, force)
    samples = None if data.where is None else data.open(loaded)
    edit = replay(loaded, planned, data=samples, device=device)
    edit.save(output, force)
    recording.clear(output, force)
    values = report(screen, edit, output, f"{model} by {plan}", {}, samples, device)
    screen.json({**values, "plan": plan})
