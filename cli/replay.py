"""`discedit-onnx replay`: do again what a manifest records, to the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import options, outputs, recording
from .inputs import beside_model

if TYPE_CHECKING:
    from pathlib import Path

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Do again what a manifest records, to the same bytes.",
    epilog=options.examples(
        "replay without.onnx.manifest.json model.onnx --data calibration/ -o again.onnx"
    ),
)
@click.argument("manifest", type=options.PATH)
@options.model
@click.option("--data", metavar="DATA", help="The images that it names, if it names any.")
@click.option("--moments", type=options.PATH, metavar="FILE", help="The moments, if it names any.")
@options.output("The edited model.", required=True)
@options.screen
def command(
    screen: Screen,
    manifest: Path,
    model: Path,
    data: str | None,
    moments: Path | None,
    output: Path,
    force: bool,
) -> None:
    """Edit MODEL once more as MANIFEST records it.

    The model, the moments and the images must have the hashes recorded, and the result is written
    only if it has the one recorded too; else it is said which differs.
    """
    from discedit_onnx.errors import DataError, UsageError
    from discedit_onnx.evidence.manifest import load_manifest, replay
    from discedit_onnx.model import check_output

    recorded = load_manifest(manifest)
    loaded = dx.load(model)
    if recorded.moments is not None and moments is None:
        beside = beside_model(model)
        there = f", such as {beside}" if beside.is_file() else ""
        raise DataError(f"{manifest}: names moments; give them with --moments{there}")
    if recorded.data is not None and data is None:
        raise DataError(f"{manifest}: names images, {recorded.data.name}; give them with --data")
    outputs.require_apart()
    check_output(loaded, output, force)
    samples = None
    if data is not None:
        how = recorded.data
        if how is None:
            raise UsageError(f"{manifest}: names no images; leave out --data")
        samples = dx.open_data(
            loaded,
            data,
            preprocess=how.preprocess,
            labels=how.labels,
            num_samples=how.num_samples,
            seed=how.seed,
            class_map=how.class_map,
        )
    gathered = None if moments is None else dx.load_moments(moments)
    replay(recorded, loaded, output, moments=gathered, data=samples, force=force)
    recording.clear(output, force)
    screen.line(f"{output}: the same bytes as recorded, SHA-256 {recorded.result}")
    screen.json({"output": output, "sha256": recorded.result, "same": True})
