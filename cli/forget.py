"""`discedit-onnx forget`: silence what carries a class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx

from . import edits, options
from .inputs import Inputs, evaluate
from .output import number, percent, points

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.calibration.images import Images
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.evaluation import Evaluation

    from .output import Screen

NAMED = 3
"""Classes that the default output's name spells out; more are counted."""


@click.command(
    context_settings=options.SETTINGS,
    short_help="Silence or cut out the components that carry a class.",
)
@options.model
@click.option(
    "--class",
    "classes",
    envvar="DISCEDIT_CLASS",
    multiple=True,
    required=True,
    metavar="CLASS",
    help="Index or name of a class to forget; may be given several times.",
)
@options.data("Labelled images: accuracy before and after is measured on them.")
@options.moments
@click.option("--remove", is_flag=True, help="Cut the components out instead of zeroing them.")
@click.option(
    "--share",
    type=float,
    metavar="SHARE",
    help="Share of the later layers' components to edit for each class.  [default: 0.08]",
)
@options.witness
@options.output("The edited model.  [default: MODEL's name with .forget-CLASS.onnx, beside it]")
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    classes: tuple[str, ...],
    data: Path | None,
    moments: Path | None,
    remove: bool,
    share: float | None,
    witness: str,
    output: Path | None,
    force: bool,
    preprocess: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Make MODEL forget classes: zero the components of its later layers that fire for them most.

    With a moments file beside MODEL no images are needed. The result is only written if its
    outputs equal those of MODEL with the same components masked.
    """
    from discedit_onnx.editing.forget import DEFAULT_SHARE, check_request
    from discedit_onnx.model import check_output

    loaded = dx.load(model)
    inputs = Inputs(screen, loaded, data, moments, preprocess, device, batch_size)
    images, file = inputs.images(), inputs.moments_file()
    gathered = dx.load_moments(file) if file is not None else None
    share = DEFAULT_SHARE if share is None else share
    names = gathered.class_names if gathered is not None else images.folder.class_names  # type: ignore[union-attr]
    chosen = check_request(names, classes, share)
    output = output or beside(model, [names[k] for k in chosen], remove)
    check_output(loaded, output, force)
    gathered = gathered or inputs.gather(images)
    edit = dx.forget(
        loaded,
        gathered,
        chosen,
        share=share,
        witness=witness,
        remove=remove,
        images=images,
        device=device,
    )
    edit.save(output, force)
    forgotten = [names[k] for k in chosen]
    accuracy = None
    if images is not None and not (screen.quiet and not screen.as_json):
        settings = {"device": device, "batch_size": batch_size, "latency": False}
        accuracy = [
            evaluate(screen, loaded, images, "accuracy before", **settings),
            evaluate(screen, dx.load(output), images, "accuracy after", **settings),
        ]
    seen = images is not None and same_images(images, gathered, file is None)
    if not screen.mute:
        edits.show_groups(screen, edit, "left" if remove else "active")
        screen.line()
        screen.facts(
            f"{model} without {', '.join(forgotten)}",
            {"moments": inputs.provenance(), **edits.costs(edit, output)},
        )
        if accuracy is not None:
            _show_accuracy(screen, accuracy, forgotten, chosen, seen)
    if screen.as_json:
        screen.json(
            {
                **edits.as_json(edit, output),
                "classes": forgotten,
                "removed": remove,
                "share": share,
                "witness": witness,
                "moments": inputs.provenance(),
                "accuracy": None
                if accuracy is None
                else {
                    "images": accuracy[0].count.sum(),
                    "calibration_images": seen,
                    "before": _accuracy(accuracy[0], chosen),
                    "after": _accuracy(accuracy[1], chosen),
                },
            }
        )


def beside(model: Path, names: Sequence[str], remove: bool) -> Path:
    """The output unless another is named: model.forget-sandal.onnx, with .removed before .onnx.

    What is neither letter nor digit in a class name becomes a hyphen.
    """
    words = [re.sub(r"[\W_]+", "-", name).strip("-") for name in names]
    what = "+".join(words) if len(words) <= NAMED and all(words) else f"{len(words)}-classes"
    return model.with_name(f"{model.stem}.forget-{what}{'.removed' * remove}.onnx")


def same_images(images: Images, moments: Moments, calibrated_now: bool) -> bool:
    """Whether images are, as far as can be told, those that moments were gathered from."""
    folder = images.folder
    if calibrated_now:
        return True
    counts = [int((folder.labels == k).sum()) for k in range(len(folder.class_names))]
    named = folder.root.resolve().name in moments.facts.get("data", "").split("; ")
    return named and counts == moments.count.tolist()


def _accuracy(evaluation: Evaluation, chosen: Sequence[int]) -> dict[str, Any]:
    rest = sorted(set(range(len(evaluation.class_names))) - set(chosen))
    return {
        "forget": evaluation.accuracy_of(chosen),
        "retain": evaluation.accuracy_of(rest),
        "per_class": dict(zip(evaluation.class_names, evaluation.per_class, strict=True)),
    }


def _show_accuracy(
    screen: Screen,
    accuracy: Sequence[Evaluation],
    forgotten: Sequence[str],
    chosen: Sequence[int],
    seen: bool,
) -> None:
    before, after = (_accuracy(evaluation, chosen) for evaluation in accuracy)
    images = number(int(accuracy[0].count.sum()))
    same = ", the same images that it was calibrated on" if seen else ""
    screen.table(
        f"Top-1 accuracy on {images} images{same}",
        ["", "before", "after", "change"],
        [
            [label, percent(before[key]), percent(after[key]), points(before[key], after[key])]
            for key, label in (
                ("forget", f"forgotten: {', '.join(forgotten)}"),
                ("retain", "all other classes"),
            )
        ],
    )
