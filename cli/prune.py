"""`discedit-onnx prune`: remove what tells no classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import budgets, edits, options, outputs, recording, reporting, searching
from .inputs import Inputs
from .report import report

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.budget import Budget
    from discedit_onnx.editing.criteria import Refitting
    from discedit_onnx.editing.order import Limits, Ranking
    from discedit_onnx.editing.search import Search

    from .inputs import DataOptions
    from .output import Screen
    from .searching import Hunt


def _check_criterion(criterion: str) -> None:
    from discedit_onnx.editing.criteria import check_criterion, factors

    factors(criterion)  # an empty one is no wish for the default
    check_criterion(criterion, "max")


@click.command(
    context_settings=options.SETTINGS,
    short_help="Cut out the components that tell classes apart least.",
    epilog=options.examples(
        "prune model.onnx --data calibration/ --sparsity 0.5 -o small.onnx",
        "prune model.onnx --data calibration/ --max-drop 1 -o small.onnx --report small.html",
    ),
)
@options.model
@options.data("Images for choice, refit and proof; with --moments for the proof alone.")
@options.moments
@searching.hunting
@budgets.budget
@click.option(
    "--criterion",
    callback=options.checked(_check_criterion),
    help="What components are ranked by: least-squares (what the rest makes up for best, on "
    "--data, no labels needed); a witness (t1, fisher, quadratic, sharp, mpm, "
    "mpm-paper, robust, hellinger, gaussian, exponential, threshold, histogram); "
    "energy; l1, l2, random, which need no calibration; or a product, as 'fisher*energy^0.5'.  "
    "[default: least-squares with --data alone, else fisher]",
)
@click.option(
    "--join",
    default="max",
    show_default=True,
    help="How a witness's bounds of all classes become one: max, mean, min, top-3 (of the largest "
    "three), pairwise-min, pairwise-mean.",
)
@click.option(
    "--refit",
    type=click.Choice(["off", "bias", "channel", "patch"]),
    help="Give what is left the weights that bring it nearest to MODEL, in closed form, on --data: "
    "patch by all that they read, channel by one place of it at a time, bias the biases only.  "
    "[default: patch with --data alone, else off]",
)
@budgets.limits
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Steps to the budget; what is left is calibrated on --data and scored anew between them.",
)
@click.option(
    "--inexact",
    is_flag=True,
    help="Also cut widths under layer normalisation, where equality can't hold.",
)
@click.option(
    "--inside-heads",
    is_flag=True,
    help="Cut the same dimensions in every attention head, not whole heads, where that can be.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write the plan to --output, for `discedit-onnx apply`, and no model.",
)
@options.output("The pruned model, or the plan of a --dry-run.", required=True, calibrates=True)
@reporting.option
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: DataOptions,
    moments: Path | None,
    budget: Budget | None,
    hunt: Hunt | None,
    criterion: str | None,
    join: str,
    refit: Refitting | None,
    ranking: Ranking,
    limits: Limits,
    rounds: int,
    inexact: bool,
    inside_heads: bool,
    dry_run: bool,
    output: Path,
    force: bool,
    report_to: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Cut the components out of MODEL that tell the classes apart least.

    One of --sparsity, --macs, --size, --latency and --max-drop says how far. The result is a
    smaller model. It is only written if its outputs equal those of MODEL with the same components
    masked, on images of --data or else on random inputs; with --inexact a result
    that can't be proved is marked so.
    """
    from discedit_onnx.editing import plan_file
    from discedit_onnx.editing.budget import Budget
    from discedit_onnx.editing.criteria import (
        check_criterion,
        defaults,
        needs_moments,
        require_data,
    )
    from discedit_onnx.editing.prune import check_request
    from discedit_onnx.editing.pruner import Pruner
    from discedit_onnx.editing.rounds import in_rounds
    from discedit_onnx.editing.search import search
    from discedit_onnx.graph.axes import Reach
    from discedit_onnx.graph.coupling import analyse
    from discedit_onnx.model import check_output

    loaded = dx.load(model)
    outputs.require_apart()
    if dry_run:
        plan_file.check_output(output, force)
    else:
        check_output(loaded, output, force)
    reporting.check(report_to, force, dry_run)
    criterion, refit = defaults(criterion, refit, data.where is not None, moments is not None)
    require_data(criterion, refit, rounds, data.where is not None)
    check_criterion(criterion, join)
    coupling = analyse(loaded.proto, Reach(inexact, inside_heads))
    wanted = budget or Budget("sparsity", 0.0)
    cost = check_request(loaded, coupling, wanted, limits, refit, device)
    edits.warn_of_fixed(screen, coupling.view, refit)
    inputs = Inputs(screen, loaded, data, moments, device, batch_size, force)
    samples, gathered, provenance = inputs.opened(), None, None
    validation: Dataset | None = None
    found: Search | None = None
    if hunt is not None:
        hunt.check(loaded, output, force)
        known_from = needs_moments(criterion) and inputs.moments_file() is not None
        samples, validation = hunt.samples(loaded, data, samples, known_from)
    if needs_moments(criterion):
        provenance = inputs.provenance()
        gathered = inputs.gather(samples)
    else:
        inputs.require_sense(samples)
    with screen.progress("pruning") as progress:
        pruner = Pruner(
            loaded, coupling, gathered, samples, wanted.kind, criterion, join, ranking, limits,
            refit, data.seed, device, progress, batch_size,
        )  # fmt: skip
        if hunt is not None and validation is not None:
            found = search(pruner, validation, hunt.max_drop / 100)
            edit = found.best.edit
        else:
            edit = pruner.edit(in_rounds(pruner, wanted, cost, rounds))
    facts = {
        "criterion": criterion,
        "join": join if needs_moments(criterion) else None,
        "refit": refit,
        "seed": data.seed,
        "moments": provenance,
        "rounds": rounds,
    }
    # What was asked for comes first: a frontier that can't be written is no reason to lose it.
    if dry_run:
        edit.plan.save(output, force)
    else:
        edit.save(output, force)
        recording.clear(output, force)
    sought = {}
    if hunt is not None and found is not None:
        sought = {"search": searching.report(screen, hunt, found, loaded, force)}
    title, known = f"{model} pruned by {criterion}", {"moments": provenance}
    values = report(screen, edit, output, title, known, samples, device, budget, dry_run)
    budgets.warn_of_widths(screen, edit, coupling, limits)
    if dry_run:
        values["plan"] = values.pop("output", output)
    told = {name: None if fact is None else str(fact) for name, fact in facts.items()}
    short = f"{model.name} pruned by {criterion}"
    reporting.write(
        report_to, edit, output, short, told, inputs, samples, gathered, searched=found,
        latency=values.get("latency_ms"),
    )  # fmt: skip
    screen.json({**values, **facts, **sought})
