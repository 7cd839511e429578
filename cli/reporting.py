"""The option --report: what was done to a model, as a file to keep."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx

from . import options, timing
from .forget_measures import attacked, without
from .inputs import beside_model, calibrate, evaluate
from .print_recipe import GIVEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.editing import search as pruning
    from discedit_onnx.editing.edit import Edit
    from discedit_onnx.editing.forget import Forgetting
    from discedit_onnx.report.build import Measured
    from discedit_onnx.report.figures import Attack, ForgettingFacts, Search

    from .inputs import Inputs


def option(function: options.Command) -> options.Command:
    """--report; the command gets `report_to`."""
    return click.option(
        "--report",
        "report_to",
        envvar="DISCEDIT_REPORT",
        type=options.PATH,
        metavar="FILE",
        help="Also write what was done and measured, as .html, .md or .json by FILE's ending.",
    )(function)


def check(path: Path | None, force: bool, dry_run: bool = False) -> None:
    """Refuse a report that can't be written, before any work is done.

    Raises
    ------
    UsageError
        As `discedit_onnx.report.writing.check_path`, or if no model will be written.
    """
    from discedit_onnx.errors import UsageError
    from discedit_onnx.report.writing import check_path

    if path is None:
        return
    if dry_run:
        raise UsageError("--dry-run writes no model that --report could be about; leave one out")
    check_path(path, force)


def write(
    path: Path | None,
    edit: Edit,
    output: Path,
    title: str,
    facts: Mapping[str, str | None],
    inputs: Inputs,
    data: Dataset | None,
    moments: Moments | None,
    forgetting: Forgetting | None = None,
    names: Sequence[str] = (),
    searched: pruning.Search | None = None,
    latency: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Measure what a report holds, and write it.

    Parameters
    ----------
    path
        Where to; None where no report was asked for.
    edit, output
        What was done, and the model that was written.
    title, facts
        In words.
    inputs
        The options of the command.
    data
        Samples, for accuracy and time; random inputs for the time where there are none.
    moments
        Of the original; where there are none they are read or gathered, if they can be.
    forgetting, names
        The edit again, and the names of all classes, for `forget`.
    searched
        For `prune`, where it looked for what a drop allows.
    latency
        What was measured and shown already, see `timing.Timing.as_json`: two measurements would
        differ.

    Raises
    ------
    UsageError
        If the file can't be written.
    """
    if path is None:
        return
    from discedit_onnx.report import build, writing
    from discedit_onnx.report.figures import Run

    labelled = data if data is not None and _labelled(data) else None
    if moments is None:
        moments = _moments(inputs, labelled)
    run = Run(
        title=title,
        command=command_line(click.get_current_context()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=build.versions(),
        facts={name: value for name, value in facts.items() if value is not None},
    )
    report = build.build(
        edit,
        output,
        run,
        measured=_measured(edit, inputs, data, labelled, latency),
        scores=None if moments is None else dx.score(inputs.model, moments),
        search=_sparsities(searched) if searched is not None else _strengths(forgetting),
        forgetting=None if forgetting is None else _forgotten(forgetting, names, inputs, labelled),
    )
    writing.write(report, path, inputs.force)


def command_line(ctx: click.Context) -> str:
    """What was asked for, as a line for the shell; environment variables as options."""
    words, last = ["discedit-onnx", str(ctx.info_name)], []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        value: Any = ctx.params.get(name)
        if ctx.get_parameter_source(name) not in GIVEN:
            continue
        if not isinstance(parameter, click.Option):
            last.append(str(value))
        elif parameter.is_flag:
            words += [parameter.opts[0]] if value else []
        else:
            for item in value if parameter.multiple else [value]:
                words += [parameter.opts[0], str(item)]
    return shlex.join([*words, *last])


def _moments(inputs: Inputs, data: Dataset | None) -> Moments | None:
    """Moments for the heat map: those that lie beside the model, or of these samples."""
    beside = inputs.moments or beside_model(inputs.model.path)
    if beside.is_file():
        found = dx.load_moments(beside)
        if found.source == inputs.model.hash:
            return found
    if data is None:
        return None
    return calibrate(
        inputs.screen,
        inputs.model,
        data,
        force=True,
        device=inputs.device,
        batch_size=inputs.batch_size,
    )


def _measured(
    edit: Edit,
    inputs: Inputs,
    data: Dataset | None,
    labelled: Dataset | None,
    known: Sequence[Mapping[str, Any]] | None,
) -> Measured:
    from discedit_onnx.editing.forget import Forgetting
    from discedit_onnx.report.build import Measured
    from discedit_onnx.report.figures import Latency

    if known is None:
        known = [t.as_json() for t in timing.measure(edit, data, inputs.device)]
    latency = tuple(Latency(**times) for times in known)
    if labelled is None:
        return Measured(latency=latency)
    settings = {"device": inputs.device, "batch_size": inputs.batch_size, "latency": False}
    before = evaluate(inputs.screen, inputs.model, labelled, "accuracy before", **settings)
    result = replace(inputs.model, proto=edit.proto)
    rest = labelled
    if isinstance(edit, Forgetting) and edit.way.drop_output:
        rest = without(labelled, result, edit.classes)
    after = evaluate(inputs.screen, result, rest, "accuracy after", **settings)
    images = f"{len(labelled):,} images of {inputs.data.where}, which the edit was made with"
    return Measured(images, before, after, latency)


def _labelled(data: Dataset) -> bool:
    """Whether there are labels to measure accuracy by; the model's own say nothing of it."""
    return not data.predicted and bool((data.labels >= 0).all())


def _sparsities(found: pruning.Search) -> Search:
    from discedit_onnx.report.figures import Point, Search

    tried = tuple(Point(c.edit.sparsity, c.drop.after, found.measure) for c in found.tried)
    images = f"{found.samples:,} validation samples, on which it was also chosen"
    return Search("sparsity", images, tried, found.best.edit.sparsity)


def _strengths(edit: Forgetting | None) -> Search | None:
    from discedit_onnx.report.figures import Point, Search

    if edit is None or edit.search is None:
        return None
    found = edit.search
    points = [
        *(Point(trial.value, trial.forget, "forgotten") for trial in found.trials),
        *(Point(trial.value, trial.retain, "others, logit hidden") for trial in found.trials),
    ]
    images = f"{found.forget_images:,} held-out images to forget and {found.retain_images:,} others"
    return Search("strength", images, tuple(points), found.chosen)


def _forgotten(
    edit: Forgetting, names: Sequence[str], inputs: Inputs, data: Dataset | None
) -> ForgettingFacts:
    """What was forgotten, and where the images of these classes go."""
    import numpy as np

    from discedit_onnx.evaluation import predict
    from discedit_onnx.report.figures import Confusion, ForgettingFacts

    way = edit.way
    words = f"level {way.level}"
    if way.level == "features":
        words += f": {way.method}" + (f", strength {edit.strength:g}" if edit.strength else "")
    classes, confusions = tuple(names[k] for k in edit.classes), []
    settings: dict[str, Any] = {"device": inputs.device, "batch_size": inputs.batch_size}
    result = replace(inputs.model, proto=edit.proto)
    for k in edit.classes if data is not None and not way.drop_output else ():
        assert data is not None
        images = data.take(np.flatnonzero(data.labels == k))
        if not len(images):
            continue
        counts = []
        for model in (inputs.model, result):
            found = np.bincount(predict(model, images, **settings).labels, minlength=len(names))
            order = [int(i) for i in np.argsort(-found, kind="stable") if found[i]]
            counts.append(tuple((names[i], int(found[i])) for i in order))
        confusions.append(Confusion(names[k], counts[0], counts[1]))
    attacks, notes = _attacked(edit, inputs, data)
    return ForgettingFacts(classes, words, tuple(confusions), attacks, notes)


def _attacked(
    edit: Forgetting, inputs: Inputs, data: Dataset | None
) -> tuple[tuple[Attack, ...], tuple[str, ...]]:
    """What brief evidence finds, and what it can't say."""
    from discedit_onnx.report.attacks import attacks_of

    if data is None:
        return (), ("No attack was run: there were no labelled images.",)
    found, why = attacked(inputs.model, edit, data, inputs.device, inputs.batch_size)
    return ((), (why,)) if found is None else (attacks_of(found), found.notes)
