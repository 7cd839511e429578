"""`discedit-onnx score`: how well each layer tells classes apart."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import discedit_onnx as dx
from discedit_onnx.errors import DataError, UsageError

from . import options, outputs, score_plan, score_tables
from .inputs import Inputs
from .output import by_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.scoring.saliency import Scores

    from .inputs import DataOptions
    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Bound how well each layer tells each class apart.",
    epilog=options.examples(
        "score model.onnx", "score model.onnx --data calibration/ --class dress --against coat"
    ),
)
@options.model
@options.data("Labelled images to calibrate on.")
@options.moments
@options.witness
@click.option(
    "--feature",
    "features",
    envvar="DISCEDIT_FEATURE",
    multiple=True,
    metavar="NAME",
    help="What the bound is taken of: mean, rms, mean_square, or what else the moments hold; "
    "may be given several times.  [default: the witness's own]",
)
@click.option(
    "--class",
    "classes",
    envvar="DISCEDIT_CLASS",
    multiple=True,
    metavar="CLASS",
    help="Index or name of a class, or several with commas between; may be repeated.  "
    "[default: all]",
)
@click.option(
    "--against",
    envvar="DISCEDIT_AGAINST",
    multiple=True,
    metavar="CLASS",
    help="Hold all classes of --class together against these; several as in --class.",
)
@click.option("--pairs", is_flag=True, help="Hold each class against each other one.")
@click.option(
    "--confidence",
    type=float,
    metavar="SHARE",
    help="Certify: bounds that hold all at once with this probability, such as 0.95; by "
    "threshold, unless a witness is named.  [default: estimates]",
)
@click.option(
    "--plan-samples",
    "target",
    envvar="DISCEDIT_PLAN_SAMPLES",
    type=float,
    metavar="BOUND",
    help="Tell how many images it takes to certify a bound of this size.",
)
@click.option(
    "--csv",
    "as_csv",
    envvar="DISCEDIT_CSV",
    is_flag=True,
    help="Print one line for each channel and class.",
)
@click.option(
    "--npz", type=options.PATH, metavar="FILE", help="Write all arrays to a NumPy archive."
)
@click.option(
    "--force", is_flag=True, help="Overwrite the archive; go on although accuracy is near chance."
)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: DataOptions,
    moments: Path | None,
    witness: str,
    features: tuple[str, ...],
    classes: tuple[str, ...],
    against: tuple[str, ...],
    pairs: bool,
    confidence: float | None,
    target: float | None,
    as_csv: bool,
    npz: Path | None,
    force: bool,
    device: str,
    batch_size: int,
) -> None:
    """Bound from below how well MODEL's channels tell each class from the rest.

    The bounds are on the total variation between a channel's activations for the class and for
    all others: 0 says nothing, 1 tells them apart without error. They are estimates, made from
    the moments of the calibration images, unless --confidence asks for certificates.
    """
    from discedit_onnx.files import real_path
    from discedit_onnx.model import check_output
    from discedit_onnx.scoring.comparison import compare
    from discedit_onnx.scoring.export import save_npz

    if as_csv and screen.as_json:
        raise UsageError("--csv and --json exclude each other; give one")
    if target is not None and (as_csv or npz is not None):
        raise UsageError("--plan-samples has no scores to write; leave --csv and --npz out")
    if confidence is not None or target is not None:
        witness = _certifiable(witness)
    loaded = dx.load(model)
    if npz is not None:
        outputs.require_apart()
        check_output(loaded, npz, force)
        outputs.require_no_model(npz, ".npz")
    inputs = Inputs(screen, loaded, data, moments, device, batch_size, force)
    inputs.moments_file()
    gathered = inputs.gather(inputs.opened())
    _check_features(gathered, features, loaded.path)
    named = gathered.class_names
    comparison = compare(gathered, _single(classes, named), _single(against, named), pairs=pairs)
    if target is not None:
        score_plan.show(screen, gathered, comparison, witness, target, confidence)
        return
    scores = dx.score(
        loaded,
        gathered,
        witness,
        comparison=comparison,
        features=features,
        confidence=confidence,
    )
    if npz is not None:
        save_npz(scores, real_path(npz))
    if as_csv:
        _write_csv(scores)
        return
    images = int(gathered.count.sum())
    _show(screen, scores, images, inputs.provenance(), npz)
    if screen.as_json:
        screen.json(_report(scores, model, images, inputs.provenance()))


def _single(classes: Sequence[str], names: Sequence[str]) -> list[str]:
    """Classes one by one, as `forget` takes them; a name may hold commas itself."""
    found = []
    for item in classes:
        found += [item] if item in names else [part.strip() for part in item.split(",")]
    return found


def _check_features(moments: Moments, features: Sequence[str], model: Path) -> None:
    """Refuse features that there are not, and name the mend where they were not gathered.

    Raises
    ------
    UsageError, DataError
        Naming what there is, or how to gather it.
    """
    from discedit_onnx.calibration.taps import FEATURES

    for name in features:
        if name in moments.features:
            continue
        there = ", ".join(moments.features)
        if name not in FEATURES:
            raise UsageError(f"--feature {name}: no such feature; the moments hold {there}")
        raise DataError(
            f"the moments hold no feature {name!r} but {there}: gather it with `discedit-onnx "
            f"calibrate {model} --features {name}`"
        )


def _certifiable(witness: str) -> str:
    """The witness asked for; where none was, the one that is certified with few images."""
    source = click.get_current_context().get_parameter_source("witness")
    return "threshold" if source is ParameterSource.DEFAULT else witness


def _show(screen: Screen, scores: Scores, images: int, provenance: str, npz: Path | None) -> None:
    from discedit_onnx.scoring.certificates import CERTIFIED_BY
    from discedit_onnx.scoring.comparison import OneVsRest, Pairs
    from discedit_onnx.scoring.witness import find_witness

    what = "each class against the rest"
    if isinstance(scores.comparison, Pairs):
        what = "each class against each other"
    elif not isinstance(scores.comparison, OneVsRest):
        what = " against ".join(scores.sides[0])
    assumes = find_witness(scores.witness).assumes
    certified = scores.confidence is not None
    standing = f"certified at {scores.confidence:.4g}" if certified else "estimates"
    screen.facts(
        f"Lower bounds on total variation, {what} ({standing}, {images:,} images)",
        {
            "witness": scores.witness,
            "certificate": CERTIFIED_BY[scores.witness] if certified else None,
            "features": ", ".join(scores.features),
            "holds": f"for {assumes} only" if assumes and not certified else None,
            "moments": provenance,
            "arrays": None if npz is None else str(npz),
        },
    )
    if isinstance(scores.comparison, OneVsRest):
        score_tables.show_classes(screen, scores)
    elif isinstance(scores.comparison, Pairs):
        score_tables.show_nearest(screen, scores)
    score_tables.show_layers(screen, scores)
    score_tables.show_channels(screen, scores)
    if isinstance(scores.comparison, OneVsRest):
        score_tables.show_carriers(screen, scores)


def _report(scores: Scores, model: Path, images: int, provenance: str) -> dict[str, Any]:
    """The result for machines."""
    from discedit_onnx.scoring.certificates import CERTIFIED_BY
    from discedit_onnx.scoring.layers import QUANTILES, carriers, layers
    from discedit_onnx.scoring.witness import find_witness

    columns = [first if second == "rest" else f"{first} / {second}"
               for first, second in scores.sides]  # fmt: skip
    return {
        "model": model,
        "witness": scores.witness,
        "features": scores.features,
        "moments": provenance,
        "images": images,
        "estimate": "plug-in" if scores.confidence is None else None,
        "confidence": scores.confidence,
        "certificate": None if scores.confidence is None else CERTIFIED_BY[scores.witness],
        "kind": find_witness(scores.witness).kind,
        "class_names": scores.class_names,
        "sides": scores.sides,
        "carriers": by_class(columns, carriers(scores)),
        "layers": [
            {
                "tensor": layer.tap.tensor,
                "channels": layer.tap.length,
                "mean": by_class(columns, bounds.mean(axis=0)),
                "max": by_class(columns, bounds.max(axis=0)),
                "quantiles": dict(zip(map(str, QUANTILES), layer.quantiles, strict=True)),
                "ldiff": layer.ldiff,
                "bounds": bounds,
                "signs": scores.signs[part],
                "component": scores.component[part],
            }
            for layer in layers(scores)
            for part in [scores.slices[layer.tap.tensor]]
            for bounds in [scores.bounds[part]]
        ],
    }


def _write_csv(scores: Scores) -> None:
    """One line for each channel and class."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["layer", "channel", "component", "class", "against", "bound", "sign"])
    for tap in scores.taps:
        part = scores.slices[tap.tensor]
        for channel in range(tap.length):
            row = part.start + channel
            for column, (first, second) in enumerate(scores.sides):
                writer.writerow(
                    [
                        tap.tensor,
                        channel,
                        int(scores.component[row]),
                        first,
                        second,
                        f"{scores.bounds[row, column]:.6f}",
                        int(scores.signs[row, column]),
                    ]
                )
