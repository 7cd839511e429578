"""`discedit-onnx moments`: look into moments files, and join them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx
from discedit_onnx.amounts import number, percent, size

from . import options, outputs
from .inputs import MOMENTS_SUFFIX
from .output import by_class

if TYPE_CHECKING:
    from pathlib import Path

    from discedit_onnx.calibration.moments import Moments

    from .output import Screen


@click.group(
    invoke_without_command=True,
    context_settings=options.SETTINGS,
    short_help="Show moments files, and merge those of shards.",
    epilog=options.examples(
        "moments show model.moments.safetensors",
        "moments merge first.moments second.moments -o all.moments",
    ),
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Look into the files that calibrate writes, and join what several runs have gathered."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command(
    context_settings=options.SETTINGS,
    short_help="Print what is inside.",
    epilog=options.examples("moments show model.moments.safetensors"),
)
@click.argument("file", type=options.PATH)
@options.screen
def show(screen: Screen, file: Path) -> None:
    """Print what the moments in FILE are of, and how they were gathered."""
    moments = dx.load_moments(file)
    bytes_ = file.stat().st_size
    _facts(screen, str(file), moments, bytes_)
    rows = [
        [name, "" if index < 0 else str(index), number(count)]
        for name, index, count in zip(
            moments.class_names, moments.class_index.tolist(), moments.count.tolist(), strict=True
        )
    ]
    screen.table("Images by class", ["class", "index", "images"], rows)
    taps = [[tap.tensor, str(tap.length), str(tap.axis), str(tap.rank)] for tap in moments.taps]
    screen.table("Tensors", ["tensor", "channels", "axis", "axes"], taps)
    screen.json(_described(file, moments, bytes_))


@command.command(
    context_settings=options.SETTINGS,
    short_help="Join the moments of several runs.",
    epilog=options.examples("moments merge first.moments second.moments -o all.moments"),
)
@click.argument("files", type=options.PATH, nargs=-1, required=True)
@options.output("Moments file.", required=True)
@options.screen
def merge(screen: Screen, files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Join moments of one model, gathered on different images: all FILES into one.

    The result is the one that a single run over all the images gives, in whatever order and
    however the images were divided.
    """
    from discedit_onnx.files import check_place, real_path

    outputs.require_apart()
    check_place(output, force)
    outputs.require_no_model(output, MOMENTS_SUFFIX)
    merged = dx.load_moments(files[0])
    for file in files[1:]:
        merged = merged.merge(dx.load_moments(file))
    merged.save(real_path(output))
    bytes_ = output.stat().st_size
    _facts(screen, f"{output}: moments of {len(files)} files", merged, bytes_)
    screen.json(_described(output, merged, bytes_))


def _facts(screen: Screen, title: str, moments: Moments, bytes_: int) -> None:
    accuracy, counted = moments.accuracy, moments.histograms
    screen.facts(
        title,
        {
            "model": f"SHA-256 {moments.source[:12]}...",
            "images": f"{number(int(moments.count.sum()))} of {len(moments.class_names)} classes",
            "channels": f"{number(moments.mean.shape[1])} in {len(moments.taps)} tensors",
            "features": ", ".join(moments.features),
            "histograms": "none"
            if counted is None
            else f"of {counted.feature}, {counted.counts.shape[-1]} bins, "
            f"{number(int(counted.counts[:, :, :1].sum()))} images",
            "second moments": f"{len(moments.second)} tensors" if moments.second else None,
            "accuracy": None if accuracy is None else f"{percent(accuracy)} on these images",
            **{name: value for name, value in moments.facts.items() if name != "accuracy"},
            "size": size(bytes_),
        },
    )


def _described(file: Path, moments: Moments, bytes_: int) -> dict[str, object]:
    counted = moments.histograms
    return {
        "file": file,
        "bytes": bytes_,
        "sha256": moments.source,
        "images": moments.count.sum(),
        "images_per_class": by_class(
            moments.class_names, moments.count, moments.class_index.tolist()
        ),
        "class_index": moments.class_index,
        "channels": moments.mean.shape[1],
        "features": moments.features,
        "histograms": None
        if counted is None
        else {"feature": counted.feature, "bins": counted.counts.shape[-1]},
        "second_moments": bool(moments.second),
        "accuracy": moments.accuracy,
        "taps": [vars(tap) for tap in moments.taps],
        "facts": dict(moments.facts),
    }
