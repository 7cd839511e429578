"""`discedit-onnx forget`: make a model forget classes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx
from discedit_onnx.amounts import percent

from . import budgets, edits, idle, options, outputs, reporting
from .forget_measures import (
    UNSEEN,
    accuracies,
    attacked,
    evidence_json,
    show_accuracy,
    show_evidence,
)
from .inputs import Inputs, beside_model
from .recording import save_with_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.editing.forget import Forgetting
    from discedit_onnx.editing.forgetting.components import Amount
    from discedit_onnx.editing.forgetting.strength import Search
    from discedit_onnx.editing.forgetting.way import Way

    from .inputs import DataOptions
    from .output import Screen

NAMED = 3
"""Classes that the default output's name spells out; more are counted."""


def _way(**values: Any) -> Way:
    """What each of these options says by itself; a value that is none is refused."""
    from discedit_onnx.editing.forgetting.way import Way

    return Way(**values)


@click.command(
    context_settings=options.SETTINGS,
    short_help="Make a model forget classes.",
    epilog=options.examples(
        "forget model.onnx --class 3",
        "forget model.onnx --class dress --remove --data calibration/ -o without-dress.onnx",
    ),
)
@options.model
@click.option(
    "--class",
    "classes",
    envvar="DISCEDIT_CLASS",
    multiple=True,
    required=True,
    metavar="CLASS",
    help="Index or name of a class to forget, or several with commas between; may be repeated.",
)
@click.option(
    "--level",
    default="features",
    show_default=True,
    metavar="LEVEL",
    callback=options.checked(lambda level: _way(level=level)),
    help="output: the class's logit can't win. head: what the head reads of it is projected out. "
    "features: it is removed from the layers.",
)
@click.option(
    "--method",
    default="projection",
    show_default=True,
    metavar="METHOD",
    callback=options.checked(lambda method: _way(method=method)),
    help="At level features: projection, svd or leace (both need --data), or components.",
)
@options.data("Labelled images: the strength is found on them, and accuracy is measured.")
@options.moments
@click.option(
    "--max-drop",
    type=float,
    default=1.0,
    show_default=True,
    metavar="POINTS",
    callback=options.checked(lambda points: _way(max_drop=points / 100)),
    help="Points of accuracy that the other classes may lose to the strength, and to the share of "
    "--remove, that is looked for.",
)
@click.option(
    "--strength",
    type=float,
    metavar="S",
    callback=options.checked(lambda strength: _way(strength=strength)),
    help="Strength of the projection.  [default: found with --data, else 1]",
)
@click.option("--remove", is_flag=True, help="Cut the class's components out besides.")
@click.option(
    "--share",
    type=float,
    metavar="SHARE",
    help="Components to silence or cut: share of the later layers' for each class."
    "  [default: 0.08; of --remove, found with --data, else 0.02]",
)
@click.option("--count", type=int, metavar="N", help="The same: so many in each group.")
@click.option(
    "--deviations",
    type=float,
    metavar="K",
    help="The same: those K standard deviations above the mean.",
)
@budgets.rounding()
@options.witness
@click.option(
    "--no-refit",
    is_flag=True,
    help="Do not make up for components that go with those that stay.",
)
@click.option("--keep-head", is_flag=True, help="At level features: without level head.")
@click.option(
    "--refit-head",
    is_flag=True,
    help="At level features: fit the head anew to the other classes.  [needs --data]",
)
@click.option("--drop-output", is_flag=True, help="Take the class's column off the output.")
@options.output(
    "The edited model.  [default: MODEL's name with .forget-CLASS.onnx, beside it]",
    calibrates=True,
)
@reporting.option
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    classes: tuple[str, ...],
    level: Any,
    method: Any,
    data: DataOptions,
    moments: Path | None,
    max_drop: float,
    strength: float | None,
    remove: bool,
    share: float | None,
    count: int | None,
    deviations: float | None,
    round_to: str,
    witness: str,
    no_refit: bool,
    keep_head: bool,
    refit_head: bool,
    drop_output: bool,
    output: Path | None,
    force: bool,
    report_to: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Make MODEL forget classes, by its output, by its head or by its features.

    With a moments file beside MODEL no images are needed; levels output and head need nothing at
    all. The result is only written if its outputs equal those of MODEL with the edits as nodes of
    their own. Nothing is claimed about training data.
    """
    from discedit_onnx.editing.forget import find_columns
    from discedit_onnx.evidence.manifest import manifest_path
    from discedit_onnx.files import check_place
    from discedit_onnx.model import check_output

    loaded = dx.load(model)
    way = _way(
        level=level,
        method=method,
        strength=strength,
        max_drop=max_drop / 100,
        amount=amount_of(share, count, deviations),
        witness=witness,
        remove=remove,
        round_to=budgets.multiple(round_to, device),
        refit=not no_refit,
        keep_head=keep_head,
        refit_head=refit_head,
        drop_output=drop_output,
    )
    idle.check_forgetting(way, data.where is not None)
    inputs = Inputs(screen, loaded, data, moments, device, batch_size, force)
    samples = inputs.opened()
    if samples is not None:
        samples.require_labels("the accuracy of single classes")
    head_only = level != "features" and moments is None and data.where is None
    file = None if head_only and not beside_model(model).is_file() else inputs.moments_file()
    gathered = dx.load_moments(file) if file is not None else None
    way.check_sources(gathered is not None, samples is not None)
    names, chosen = find_columns(loaded, gathered, classes, samples)
    output = output or beside(model, [names[k] for k in chosen], remove)
    outputs.require_apart(output)
    check_output(loaded, output, force)
    check_place(manifest_path(output), force)
    reporting.check(report_to, force)
    if gathered is None and level == "features":
        gathered = inputs.gather(samples)
    edit = dx.forget(
        loaded, gathered, chosen, way, data=samples, device=device, batch_size=batch_size
    )
    given = None if file is None else gathered
    save_with_manifest(edit, output, force, given, samples, data, device)
    forgotten = [names[k] for k in chosen]
    title = f"{model.name} without {', '.join(forgotten)}"
    known = {"moments": None if gathered is None else inputs.provenance()}
    reporting.write(report_to, edit, output, title, known, inputs, samples, gathered, edit, names)
    found, evidence, why = None, None, ""
    if samples is not None and not (screen.quiet and not screen.as_json):
        found = accuracies(screen, loaded, edit, samples, device, batch_size)
        evidence, why = attacked(loaded, edit, samples, device, batch_size)
    seen = samples is not None and same_images(samples, gathered, file is None)
    values = {} if screen.mute and not screen.as_json else edits.as_json(edit, output)
    if not screen.mute:
        _show(screen, edit, forgotten, values, None if gathered is None else inputs.provenance())
        if found is not None:
            origin = ", labels predicted by MODEL" * (data.labels == "predicted")
            if seen:
                origin += ", the same images that it was calibrated on"
            show_accuracy(screen, found, forgotten, origin)
            show_evidence(screen, evidence, why)
        elif samples is None:
            screen.line(UNSEEN)
        idle.note_components(screen, way)
    if screen.as_json:
        screen.json(
            {
                **values,
                "classes": forgotten,
                "level": level,
                "method": method if level == "features" else None,
                "strength": edit.strength,
                "trials": _trials(edit.search, "strength"),
                "removal_trials": _trials(edit.removal, "share"),
                "layers": edit.layers,
                "changed": edit.changed,
                "removed": remove,
                "dropped": drop_output,
                "moments": None if gathered is None else inputs.provenance(),
                "accuracy": None if found is None else {**found, "calibration_images": seen},
                "verdicts": evidence_json(evidence),
                "unverified": UNSEEN if samples is None else why or None,
            }
        )


def _trials(search: Search | None, name: str) -> list[dict[str, float]]:
    """What was tried, for machines."""
    tried = () if search is None else search.trials
    return [{name: t.value, "forget": t.forget, "retain": t.retain} for t in tried]


def amount_of(share: float | None, count: int | None, deviations: float | None) -> Amount | None:
    """How many components, from the options of these names; None where none is given.

    Raises
    ------
    UsageError
        If more than one is given.
    """
    from discedit_onnx.editing.forgetting.components import Amount
    from discedit_onnx.errors import UsageError

    if sum(value is not None for value in (share, count, deviations)) > 1:
        raise UsageError("give one of --share, --count and --deviations")
    if count is not None:
        return Amount("count", count)
    if deviations is not None:
        return Amount("deviations", deviations)
    return None if share is None else Amount("share", share)


def beside(model: Path, names: Sequence[str], remove: bool) -> Path:
    """The output unless another is named: model.forget-sandal.onnx, with .removed before .onnx.

    What is neither letter nor digit in a class name becomes a hyphen.
    """
    words = [re.sub(r"[\W_]+", "-", name).strip("-") for name in names]
    what = "+".join(words) if len(words) <= NAMED and all(words) else f"{len(words)}-classes"
    return model.with_name(f"{model.stem}.forget-{what}{'.removed' * remove}.onnx")


def same_images(data: Dataset, moments: Moments | None, calibrated_now: bool) -> bool:
    """Whether images are, as far as can be told, those that moments were gathered from."""
    if moments is None:
        return False
    if calibrated_now:
        return True
    counts = [int((data.labels == k).sum()) for k in range(len(data.class_names))]
    named = data.facts["data"] in moments.facts.get("data", "").split("; ")
    return named and counts == moments.count.tolist()


def _show(
    screen: Screen,
    edit: Forgetting,
    forgotten: Sequence[str],
    values: Mapping[str, Any],
    provenance: str | None,
) -> None:
    if edit.components.any():
        edits.show_groups(screen, edit, "left" if edit.way.remove else "active")
    if edit.search is not None:
        _show_search(screen, edit.search, "Strength", "strength", ", before the head is projected")
        if edit.search.drop > max(edit.way.max_drop, 1 / edit.search.retain_images) + 1e-12:
            screen.warn(
                f"all strengths cost the others more than {100 * edit.way.max_drop:g} points; the "
                "one taken does within the error of so few images: give more, or name --strength"
            )
    if edit.removal is not None:
        _show_search(screen, edit.removal, "Components to cut", "share", "")
        if not edit.removal.chosen:
            screen.warn(
                "nothing was cut: no share costs so little; raise --max-drop, or name --share"
            )
    if edit.components.any() or edit.search is not None:
        screen.line()
    way, layers = edit.way, len(edit.layers)
    method = {
        "output": "its logit can't win",
        "head": "projected out of what the head reads",
        "features": way.method + (f", strength {edit.strength:g}" if edit.strength else ""),
    }[way.level]
    weights = f"{percent(edit.changed)} have other values" + f", in {layers} layers" * bool(layers)
    screen.facts(
        f"{edit.source.path} without {', '.join(forgotten)}",
        {
            "level": f"{way.level}: {method}",
            "moments": provenance,
            "weights": weights,
            **edits.costs(edit, values),
        },
    )


def _show_search(screen: Screen, search: Search, title: str, name: str, ends: str) -> None:
    """The trade-off."""
    screen.table(
        f"{title}, by {search.forget_images:,} held-out images to forget and "
        f"{search.retain_images:,} others{ends}",
        [name, "forget", "retain", ""],
        [
            [percent(trial.value) if name == "share" else f"{trial.value:g}",
             percent(trial.forget), percent(trial.retain),
             "taken" if trial.value == search.chosen else ""]
            for trial in search.trials
        ],
    )  # fmt: skip
