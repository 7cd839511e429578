"""`discedit-onnx check`: gates that a model must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx
from discedit_onnx.amounts import percent, size
from discedit_onnx.errors import GateError, UsageError

from . import ci, options, outputs
from .inputs import require_true_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.gates import Gates, Verdict

    from .inputs import DataOptions
    from .output import Screen


def class_and_share(text: str) -> tuple[str, float]:
    """The parts of CLASS:SHARE; a class's name may hold colons.

    Raises
    ------
    ValueError
        If there is no class, or no share in [0, 1].
    """
    name, _, share = text.rpartition(":")
    if not name or not 0 <= float(share) <= 1:
        raise ValueError
    return name, float(share)


def _classes_and_shares(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Callback of --forgotten, which refuses early what is none, or names a class twice."""
    seen = set()
    for text in values:
        try:
            name, _ = class_and_share(text)
        except ValueError as error:
            message = f"{text}: give a class and a share, as 3:0.01"
            raise click.BadParameter(message, ctx, parameter) from error
        if name in seen:
            raise click.BadParameter(f"{text}: class {name} is named twice.", ctx, parameter)
        seen.add(name)
    return values


@click.command(
    context_settings=options.SETTINGS,
    short_help="Fail unless a model passes gates: accuracy, size, latency.",
    epilog=options.examples(
        "check model.onnx --data test/ --min-accuracy 0.9 --max-size 2MB",
        "check small.onnx --against model.onnx --data test/ --max-drop 0.01 --junit gates.xml",
    ),
)
@options.model
@options.data("Labelled images, for the gates on accuracy.")
@click.option(
    "--against", type=options.PATH, metavar="BASE", help="The model that MODEL was made from."
)
@click.option(
    "--min-accuracy",
    type=options.Number(0, 1),
    metavar="SHARE",
    help="Least top-1 accuracy; with --forgotten, on all other classes.",
)
@click.option(
    "--max-drop",
    type=options.Number(0, 1),
    metavar="SHARE",
    help="How much less than BASE's it may be, as 0.01; with --forgotten, on all other classes.",
)
@click.option(
    "--max-size",
    metavar="SHARE|N",
    help="Bytes of the file, weights beside it included: 5MB, or 0.5 for half of BASE's.",
)
@click.option(
    "--max-latency-ratio",
    type=options.Number(0, min_open=True),
    metavar="RATIO",
    help="Time for a batch of one, over BASE's; both are measured in turns, here.",
)
@click.option(
    "--forgotten",
    multiple=True,
    callback=_classes_and_shares,
    metavar="CLASS:SHARE",
    help="Largest accuracy that may be left on a class, as 3:0.01; may be repeated.",
)
@click.option("--junit", type=options.PATH, metavar="FILE", help="Also write JUnit XML.")
@click.option(
    "--github/--no-github",
    default=None,
    help="Annotations for GitHub's pages, on standard error.  [default: where GITHUB_ACTIONS is "
    "set]",
)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: DataOptions,
    against: Path | None,
    min_accuracy: float | None,
    max_drop: float | None,
    max_size: str | None,
    max_latency_ratio: float | None,
    forgotten: tuple[str, ...],
    junit: Path | None,
    github: bool | None,
    device: str,
    batch_size: int,
) -> None:
    """Hold MODEL against gates, and exit with 5 unless all of them hold.

    Accuracy is shown with its 95 % confidence interval; that of a drop comes from comparing the
    two models image by image. The measured value decides, not the interval. A gate that
    needs images or a model that were not given is an error of usage (2).
    """
    from discedit_onnx.editing.budget import Budget
    from discedit_onnx.gates import Gates

    if junit is not None:
        _check_junit(junit)
    with ci.reported(junit, str(model)):
        gates = Gates(
            min_accuracy=min_accuracy,
            max_drop=max_drop,
            max_size=None if max_size is None else Budget.parse("size", max_size),
            max_latency_ratio=max_latency_ratio,
            forgotten=dict(map(class_and_share, forgotten)),
        )
        verdicts = _verdicts(screen, gates, model, against, data, device, batch_size)
    _show(screen, model, verdicts)
    screen.json(_as_json(model, against, data, verdicts))
    if junit is not None:
        ci.write_junit(junit, str(model), [(v.gate, words(v), v.passed) for v in verdicts])
    failed = [words(verdict) for verdict in verdicts if not verdict.passed]
    if github if github is not None else ci.on_github():
        for line in failed:
            click.echo(ci.annotation(f"{model} fails a gate", line), err=True)
    if failed:
        raise GateError(f"{len(failed)} of {len(verdicts)} gates failed: {'; '.join(failed)}")


def _verdicts(
    screen: Screen,
    gates: Gates,
    model: Path,
    against: Path | None,
    data: DataOptions,
    device: str,
    batch_size: int,
) -> tuple[Verdict, ...]:
    """What is found of each gate."""
    from discedit_onnx.gates import check

    gates.require_sources(against is not None, data.where is not None)
    loaded = dx.load(model)
    base = None if against is None else dx.load(against)
    if data.where is not None and not gates.need_data:
        data.require_there()
    samples, base_samples = (
        None if of is None or not gates.need_data else data.open(of) for of in (loaded, base)
    )
    if samples is not None:
        require_true_labels(samples, "a gate on accuracy")
    with screen.progress("checking") as progress:
        return check(
            loaded,
            gates,
            base=base,
            data=samples,
            base_data=base_samples,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )


def _check_junit(path: Path) -> None:
    """Refuse a place for the XML, which may replace XML only."""
    from discedit_onnx.files import check_place

    outputs.require_apart()
    check_place(path, force=True, what="JUnit file")
    if path.exists() and path.suffix != ".xml":
        raise UsageError(f"{path}: exists already, and is no .xml; choose another name")


def words(verdict: Verdict) -> str:
    """A verdict in one line, with how far off the limit it is where it fails."""
    found = _written(verdict, verdict.found)
    if verdict.interval is not None:
        low, high = (_written(verdict, value) for value in verdict.interval)
        found += f" (95 % interval {low} to {high})"
    side = "least" if verdict.at_least else "most"
    line = f"{verdict.gate}: {verdict.subject}: {found}, at {side} {_limit(verdict)} asked"
    if verdict.passed:
        return line
    return f"{line}, missed by {_missed(verdict)}"


def _missed(verdict: Verdict) -> str:
    if verdict.unit == "share":
        return f"{100 * verdict.missed_by:.2f} points"
    return _written(verdict, verdict.missed_by)


def _written(verdict: Verdict, value: float) -> str:
    """A value in the unit of a verdict."""
    if verdict.unit == "bytes":
        return size(round(value))
    if verdict.unit == "share":
        return percent(value, 2)
    return f"{value:.3f}" if value >= 0.001 or not value else f"{value:.1g}"


def _limit(verdict: Verdict) -> str:
    return _written(verdict, verdict.limit)


def _show(screen: Screen, model: Path, verdicts: Sequence[Verdict]) -> None:
    rows = []
    for verdict in verdicts:
        interval = verdict.interval
        between = "" if interval is None else " to ".join(_written(verdict, v) for v in interval)
        limit = f"{'>=' if verdict.at_least else '<='} {_limit(verdict)}"
        rows.append(
            [verdict.gate, verdict.subject, _written(verdict, verdict.found), between, limit,
             "holds" if verdict.passed else f"fails by {_missed(verdict)}"]
        )  # fmt: skip
    screen.table(
        f"Gates of {model}",
        ["gate", "", "found", "95 % interval", "asked", ""],
        rows,
        words=2,
    )


def _as_json(
    model: Path, against: Path | None, data: DataOptions, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    return {
        "model": model,
        "against": against,
        "data": data.where,
        "passed": all(verdict.passed for verdict in verdicts),
        "gates": [
            {**vars(verdict), "passed": verdict.passed, "missed_by": verdict.missed_by}
            for verdict in verdicts
        ],
    }
