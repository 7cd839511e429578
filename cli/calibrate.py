"""`discedit-onnx calibrate`: images to moments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import inputs, options
from .output import number, percent, size

if TYPE_CHECKING:
    from pathlib import Path

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Gather the moments of activations from labelled images.",
)
@options.model
@click.option(
    "--data", type=options.PATH, metavar="DIR", required=True, help="Labelled calibration images."
)
@options.output("Moments file.  [default: MODEL's name with .moments.safetensors, beside it]")
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: Path,
    output: Path | None,
    force: bool,
    preprocess: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Gather the moments of MODEL's activations, class by class, in one pass over images.

    The moments file is all that score, prune and forget need: it can be shipped beside the model.
    It is bound to the model by hash.
    """
    from discedit_onnx.model import check_output

    start = time.perf_counter()
    loaded = dx.load(model)
    output = output or inputs.beside_model(model)
    check_output(loaded, output, force)
    images = dx.open_images(loaded, data, preprocess)
    moments = inputs.calibrate(screen, loaded, images, device, batch_size)
    moments.save(output)
    seconds = time.perf_counter() - start
    facts, channels = moments.facts, moments.mean.shape[1]
    screen.facts(
        f"{model}: moments of {number(channels)} channels in {len(moments.taps)} tensors",
        {
            "images": f"{number(len(images.folder))} of {len(moments.class_names)} classes",
            "classes": facts["labels"],
            "preprocessing": f"{facts['preprocessing']} ({images.preprocess.origin})",
            "accuracy": f"{percent(float(facts['accuracy']))} on these images",
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
            "images": moments.count.sum(),
            "images_per_class": dict(zip(moments.class_names, moments.count, strict=True)),
            "taps": [tap.tensor for tap in moments.taps],
            "channels": channels,
            "preprocessing_origin": images.preprocess.origin,
            "seconds": round(seconds, 3),
            **facts,
            "accuracy": float(facts["accuracy"]),
        }
    )
