"""`discedit-onnx demo`: inspect, calibrate, score, prune, forget on a sample model."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx
from discedit_onnx.amounts import number, percent, size
from discedit_onnx.errors import UsageError

from . import calibrate, forget, inspect, options, prune, score
from .inputs import beside_model, evaluate, with_latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from discedit_onnx.evaluation import Evaluation

    from .output import Screen

MODEL = "fashion_resnet20.onnx"
CALIBRATION, TEST = Path("fashion_mnist/calibration"), Path("fashion_mnist/test")
CLASS = "sandal"
SPARSITY = 0.5


@dataclass(frozen=True)
class Files:
    """What the demo writes.

    Attributes
    ----------
    model
        A copy of the sample model.
    moments, pruned, silenced, removed
        What is made of it.
    """

    model: Path
    moments: Path
    pruned: Path
    silenced: Path
    removed: Path


@click.command(
    context_settings=options.SETTINGS,
    short_help="All of it on a sample model.",
    epilog=options.examples("demo", "demo --samples sample_models -o /tmp/demo"),
)
@click.option(
    "--samples",
    type=options.PATH,
    metavar="DIR",
    help="The folder sample_models of a checkout.  [default: here, or in the checkout that is "
    "installed]",
)
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="DIR",
    default=Path("discedit-demo"),
    show_default=True,
    help="Folder for what is written; files of an earlier demo are replaced.",
)
@options.device
@options.screen
def command(screen: Screen, samples: Path | None, output: Path, device: str) -> None:
    """Calibrate a trained ResNet-20, score it, prune it, and make it forget a class.

    Each step shows the command line that does the same. It ends with a table of what was measured
    on test images that none of the steps has seen.
    """
    # The steps are what their command lines say, whatever else the environment sets.
    for name in [name for name in os.environ if name.startswith(f"{options.PREFIX}_")]:
        del os.environ[name]
    samples = find_samples(samples)
    files = prepare(samples, output)
    data, test = samples / CALIBRATION, samples / TEST
    model, on = str(files.model), ["--device", device] if device != "auto" else []
    _step(screen, inspect.command, "inspect", model)
    _step(screen, calibrate.command, "calibrate", model, "--data", data, *on)
    _step(screen, score.command, "score", model)
    much = ["--sparsity", SPARSITY, "-o", files.pruned]
    _step(screen, prune.command, "prune", model, "--data", data, *much, *on)
    _step(screen, forget.command, "forget", model, "--class", CLASS, *on)
    _step(screen, forget.command, "forget", model, "--class", CLASS, "--remove", *on)
    rows = {
        "original": files.model,
        f"pruned by {percent(SPARSITY, 0)}": files.pruned,
        f"{CLASS} forgotten": files.silenced,
        f"{CLASS} cut out": files.removed,
    }
    models = [dx.load(path) for path in rows.values()]
    images = [dx.open_data(loaded, test) for loaded in models]
    found = [
        evaluate(screen, loaded, samples, loaded.path.name, device=device, latency=False)
        for loaded, samples in zip(models, images, strict=True)
    ]
    found = with_latency(screen, models, images, found, device)
    _show(screen, list(rows), found)
    screen.line()
    screen.facts("Written", {path.name: str(path) for path in vars(files).values()})
    screen.json(
        {
            "class": CLASS,
            "models": [
                {"name": name, "path": path, **_figures(evaluation)}
                for (name, path), evaluation in zip(rows.items(), found, strict=True)
            ],
            "moments": files.moments,
        }
    )


def find_samples(asked: Path | None) -> Path:
    """The folder with the sample model and its images.

    Raises
    ------
    UsageError
        If it is neither where it was said to be, nor here, nor in an installed checkout.
    """
    checkout = Path(dx.__file__).resolve().parents[1] / "sample_models"
    places = [Path("sample_models"), checkout] if asked is None else [asked]
    for place in places:
        if all((place / part).exists() for part in (MODEL, CALIBRATION, TEST)):
            return place
    raise UsageError(
        f"{places[0]}: no sample models there ({MODEL}, {CALIBRATION}, {TEST}); run the demo in a "
        "checkout of discedit-onnx, or give its folder sample_models with --samples"
    )


def prepare(samples: Path, folder: Path) -> Files:
    """Copy the model into the output folder, and clear away what an earlier demo left there."""
    from discedit_onnx.evidence.manifest import manifest_path
    from discedit_onnx.files import write_files

    model = folder / MODEL
    files = Files(
        model=model,
        moments=beside_model(model),
        pruned=model.with_name(f"{model.stem}.pruned.onnx"),
        silenced=forget.beside(model, [CLASS], remove=False),
        removed=forget.beside(model, [CLASS], remove=True),
    )
    if folder.resolve() == samples.resolve():
        raise UsageError(f"{folder}: is the folder of the sample models; choose another --output")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    manifests = map(manifest_path, (files.silenced, files.removed))
    for path in (*vars(files).values(), *manifests):
        path.unlink(missing_ok=True)
    write_files({model: (samples / MODEL).read_bytes()})
    return files


def _step(screen: Screen, command: click.Command, name: str, *arguments: Any) -> None:
    """Show a command line and run it."""
    line = [str(argument) for argument in arguments]
    screen.line()
    screen.line(f"$ discedit-onnx {name} {shlex.join(line)}", "bold cyan")
    command.main([*line, *["--quiet"] * screen.mute], name, standalone_mode=False)


def _figures(found: Evaluation) -> dict[str, Any]:
    forgotten = found.class_names.index(CLASS)
    rest = [k for k in range(len(found.class_names)) if k != forgotten]
    return {
        "top1": found.top1,
        "forgotten": found.accuracy_of([forgotten]),
        "retained": found.accuracy_of(rest),
        "parameters": found.parameters,
        "file_size": found.file_size,
        "latency_ms": found.latency_ms,
    }


def _show(screen: Screen, names: Sequence[str], found: Sequence[Evaluation]) -> None:
    rows = []
    for name, evaluation in zip(names, found, strict=True):
        figures = _figures(evaluation)
        rows.append(
            [
                name,
                *(percent(figures[key]) for key in ("top1", "forgotten", "retained")),
                number(evaluation.parameters),
                size(evaluation.file_size),
                *(f"{value:.2f} ms" for value in evaluation.latency_ms.values()),
            ]
        )
    screen.table(
        f"On {number(int(found[0].count.sum()))} test images, on {found[0].device}",
        ["model", "top-1", CLASS, "others", "parameters", "file",
         *(f"batch {batch}" for batch in found[0].latency_ms)],
        rows,
    )  # fmt: skip
