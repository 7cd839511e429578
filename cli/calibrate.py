"""`discedit-onnx calibrate`: images to moments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

import discedit_onnx as dx
from discedit_onnx.amounts import number, percent, size
from discedit_onnx.errors import UsageError

from . import inputs, options, outputs
from .output import by_class

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.gathering import Wanted
    from discedit_onnx.calibration.shards import Shard

    from .inputs import DataOptions
    from .output import Screen


def _shard(text: str) -> Shard:
    from discedit_onnx.calibration.shards import Shard

    return Shard.parse(text)


@click.command(
    context_settings=options.SETTINGS,
    short_help="Gather the moments of activations from labelled images.",
    epilog=options.examples(
        "calibrate model.onnx --data calibration/",
        "calibrate model.onnx --data train.npz --preprocess imagenet --num-samples 2000",
    ),
)
@options.model
@options.data("Labelled calibration images.", required=True)
@options.output(
    "Moments file.  [default: MODEL's name with .moments.safetensors, beside it]",
    calibrates=True,
)
@click.option(
    "--features",
    callback=options.commas,
    default="",
    metavar="NAME,...",
    help="Also gather max, positive (the share above zero).",
)
@click.option(
    "--second-moments", is_flag=True, help="Also gather each tensor's channels against each other."
)
@click.option(
    "--classes",
    callback=options.commas,
    default="",
    metavar="CLASS,...",
    help="Keep these apart, by name or index, and all others as one.  [default: all, as far as "
    "they fit into 512 MB]",
)
@click.option(
    "--edges", type=options.PATH, metavar="FILE", help="Moments whose histograms' bins to use."
)
@click.option(
    "--shard",
    default="1/1",
    metavar="I/N",
    callback=options.checked(_shard),
    help="Only the Ith of N parts of the data.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Spread the work over a Dask cluster; MODEL and data lie at the same paths everywhere.",
)
@click.option(
    "--providers",
    callback=options.commas,
    default="",
    metavar="NAME,...",
    help="ONNX Runtime's execution providers, instead of --device: cuda, tensorrt, openvino, ...",
)
@click.option(
    "--checkpoint-every",
    type=options.Number(min=0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How often to keep what is gathered so far; the same command goes on from there.",
)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: DataOptions,
    output: Path | None,
    force: bool,
    features: tuple[str, ...],
    second_moments: bool,
    classes: tuple[str, ...],
    edges: Path | None,
    shard: str,
    dask: str | None,
    providers: tuple[str, ...],
    checkpoint_every: float,
    device: str,
    batch_size: int,
) -> None:
    """Gather the moments of MODEL's activations, class by class, in one pass over images.

    The moments file is all that score, prune and forget need: it can be shipped beside the model.
    It is bound to the model by hash. A run that is interrupted keeps what it has in a file beside
    the output, and the same command goes on from there.
    """
    from discedit_onnx.calibration.checkpoint import Checkpoint
    from discedit_onnx.files import real_path
    from discedit_onnx.model import check_output

    start = time.perf_counter()
    loaded = dx.load(model)
    part = _shard(shard)
    output = output or inputs.beside_model(model, part)
    outputs.require_apart(output)
    check_output(loaded, output, force)
    outputs.require_no_model(output, inputs.MOMENTS_SUFFIX)
    samples = data.open(loaded)
    checkpoint = Checkpoint.beside(output, checkpoint_every, careful=not force)
    if dask is not None and part.of > 1:
        raise UsageError("--dask makes shards of its own: leave --shard out")
    _require_some(part, len(samples), samples.classifier.batch or batch_size)
    where = {"shard": part, "checkpoint": checkpoint} if dask is None else {"cluster": dask}
    moments = inputs.calibrate(
        screen,
        loaded,
        samples,
        force=force,
        wanted=_wanted(samples, features, second_moments, classes, edges),
        device=device,
        providers=providers,
        batch_size=batch_size,
        **where,
    )
    moments.save(real_path(output))
    if dask is None:
        checkpoint.remove()
    seconds = time.perf_counter() - start
    facts, channels, total = moments.facts, moments.mean.shape[1], int(moments.count.sum())
    accuracy = moments.accuracy
    screen.facts(
        f"{model}: moments of {number(channels)} channels in {len(moments.taps)} tensors",
        {
            "images": f"{number(total)} of {len(samples.class_names)} classes",
            "shard": None if part.of == 1 else f"{part} of {number(len(samples))} images",
            "resumed": f"after {number(checkpoint.resumed)} images" if checkpoint.resumed else None,
            "classes": facts["labels"],
            "kept": None if facts["kept"] == "all classes" else facts["kept"],
            "preprocessing": f"{facts['preprocessing']} ({facts['preprocessing_origin']})",
            "accuracy": None if accuracy is None else f"{percent(accuracy)} on these images",
            "device": f"{facts['device']}, ONNX Runtime {facts['onnxruntime']}",
            "time": f"{seconds:.1f} s",
            "moments": f"{output} ({size(output.stat().st_size)})",
        },
    )
    screen.json(
        {
            "output": output,
            "bytes": output.stat().st_size,
            "model": model,
            "sha256": moments.source,
            "images": total,
            "images_per_class": by_class(
                moments.class_names, moments.count, moments.class_index.tolist()
            ),
            "taps": [tap.tensor for tap in moments.taps],
            "channels": channels,
            "features": moments.features,
            "shard": str(part),
            "seconds": round(seconds, 3),
            **facts,
            "accuracy": accuracy,
        }
    )


def _require_some(part: Shard, total: int, size: int) -> None:
    """Refuse a shard with nothing in it: its moments would be of no images.

    Raises
    ------
    UsageError
        Naming the most shards that there can be.
    """
    if not len(part.places(total, size)):
        most = -(-total // size)
        raise UsageError(
            f"--shard {part}: nothing is in it, for {number(total)} images are {number(most)} "
            f"batches of {size}: give N up to {most}, or a smaller --batch-size"
        )


def _wanted(
    samples: Dataset,
    features: tuple[str, ...],
    second: bool,
    classes: tuple[str, ...],
    edges: Path | None,
) -> Wanted:
    """What was asked for."""
    from discedit_onnx.calibration.gathering import Wanted
    from discedit_onnx.calibration.taps import GATHERED
    from discedit_onnx.editing.forgetting.classes import find_class

    found = None if edges is None else dx.load_moments(edges).histograms
    if edges is not None and found is None:
        raise UsageError(f"--edges {edges}: those moments hold no histograms")
    return Wanted(
        features=tuple(dict.fromkeys((*GATHERED, *features))),
        second=second,
        classes=tuple(find_class(samples.class_names, name) for name in classes),
        edges=None if found is None else found.edges,
    )
