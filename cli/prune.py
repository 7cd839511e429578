"""`discedit-onnx prune`: remove what tells no classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import edits, options
from .inputs import Inputs
from .output import percent

if TYPE_CHECKING:
    from pathlib import Path

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Cut out the components that tell classes apart least.",
)
@options.model
@options.data("Labelled images, for the proof and, without --moments, to calibrate on.")
@options.moments
@click.option(
    "--sparsity",
    type=float,
    required=True,
    metavar="SHARE",
    help="Share of MODEL's parameters to remove, in [0, 1).",
)
@click.option(
    "--criterion",
    default="sharp",
    show_default=True,
    help="What components are ranked by: a witness (t1, fisher, quadratic, sharp, mpm); or l1, "
    "l2, random, which need no calibration.",
)
@click.option(
    "--inexact",
    is_flag=True,
    help="Also cut widths under layer normalisation, where equality can't hold.",
)
@click.option(
    "--inside-heads",
    is_flag=True,
    help="Cut the same dimensions in every attention head, not whole heads.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For --criterion random.")
@options.output("The pruned model.", required=True)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: Path | None,
    moments: Path | None,
    sparsity: float,
    criterion: str,
    seed: int,
    inexact: bool,
    inside_heads: bool,
    output: Path,
    force: bool,
    preprocess: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Cut the components out of MODEL that tell the classes apart least.

    The result is a smaller model. It is only written if its outputs equal those of MODEL with the
    same components masked, on images of --data or else on random inputs.
    """
    from discedit_onnx.editing.prune import DATA_FREE, check_request
    from discedit_onnx.graph.axes import Reach
    from discedit_onnx.graph.coupling import analyse
    from discedit_onnx.model import check_output

    loaded = dx.load(model)
    check_output(loaded, output, force)
    check_request(analyse(loaded.proto, Reach(inexact, inside_heads)), sparsity, criterion)
    inputs = Inputs(screen, loaded, data, moments, preprocess, device, batch_size)
    images, gathered, provenance = inputs.images(), None, None
    if criterion not in DATA_FREE:
        provenance = inputs.provenance()
        gathered = inputs.gather(images)
    edit = dx.prune(
        loaded,
        gathered,
        sparsity=sparsity,
        criterion=criterion,
        seed=seed,
        inexact=inexact,
        inside_heads=inside_heads,
        images=images,
        device=device,
    )
    edit.save(output, force)
    if not screen.mute:
        edits.show_groups(screen, edit, "left")
        screen.line()
        screen.facts(
            f"{model} pruned by {criterion}",
            {
                "moments": provenance,
                "sparsity": f"asked {percent(sparsity, 2)}, reached {percent(edit.sparsity, 2)}",
                **edits.costs(edit, output),
            },
        )
    if screen.as_json:
        screen.json(
            {
                **edits.as_json(edit, output),
                "criterion": criterion,
                "seed": seed,
                "moments": provenance,
                "sparsity": {"asked": sparsity, "reached": edit.sparsity},
            }
        )
