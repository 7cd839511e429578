"""`discedit-onnx verify-forget`: what was forgotten, by attacks that would bring it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import discedit_onnx as dx

from . import options, outputs
from .evidence_page import as_json, facts, page, tables
from .inputs import require_true_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset

    from .inputs import DataOptions
    from .output import Screen


def _limit(name: str, what: str) -> Callable[[options.Command], options.Command]:
    return click.option(
        f"--max-{name}",
        type=float,
        default=5.0,
        show_default=True,
        metavar="PERCENT",
        help=what,
    )


def _require_level(level: str) -> None:
    from discedit_onnx.editing.forgetting.way import LEVELS
    from discedit_onnx.errors import UsageError

    if level not in LEVELS:
        raise UsageError(f"--require {level}: no such level; there are {', '.join(LEVELS)}")


@click.command(
    "verify-forget",
    context_settings=options.SETTINGS,
    short_help="Attack a model that forgot classes; a verdict for each level.",
    epilog=options.examples(
        "verify-forget model.onnx without.onnx --class dress --data test/",
        "verify-forget model.onnx without.onnx --class 3 --data test/ -o left.md --require head",
    ),
)
@click.argument("original", type=options.PATH)
@click.argument("edited", type=options.PATH)
@click.option(
    "--class",
    "classes",
    envvar="DISCEDIT_CLASS",
    multiple=True,
    required=True,
    metavar="CLASS",
    help="Index or name of a forgotten class, or several with commas between; may be repeated.",
)
@options.data("Labelled images that neither model was made with.", required=True)
@click.option(
    "--reference", type=options.PATH, metavar="RETRAINED", help="A model trained without the class."
)
@click.option(
    "--members",
    metavar="DATA",
    help="Images of the class that ORIGINAL was trained on; none of --data.",
)
@_limit("forget", "Most accuracy on forgotten images that passes.")
@_limit("recall", "The same after each recall attack.")
@_limit("gain", "How far probes and few shots may lie above those of --reference.")
@click.option(
    "--require",
    metavar="LEVEL",
    callback=options.checked(_require_level),
    help="End with code 5 unless this level passes.",
)
@options.output("A page with all of it, in Markdown.")
@options.running
@options.screen
def command(
    screen: Screen,
    original: Path,
    edited: Path,
    classes: tuple[str, ...],
    data: DataOptions,
    reference: Path | None,
    members: str | None,
    max_forget: float,
    max_recall: float,
    max_gain: float,
    require: str | None,
    output: Path | None,
    force: bool,
    device: str,
    batch_size: int,
) -> None:
    """Measure what EDITED has forgotten of ORIGINAL's classes, and try to bring it back.

    Levels: output (the class is not answered), head (nor when its logit is re-enabled), features
    (nor after the recall attack, with either head). Nothing is claimed about training data.
    """
    from dataclasses import replace

    from discedit_onnx.editing.forgetting.classes import find_classes
    from discedit_onnx.editing.forgetting.way import LEVELS
    from discedit_onnx.errors import GateError
    from discedit_onnx.evidence.verdict import Limits
    from discedit_onnx.evidence.verify import verify
    from discedit_onnx.files import check_place

    if output is not None:
        outputs.require_apart()
        check_place(output, force)
        outputs.require_no_model(output, ".md")
    limits = Limits(max_forget / 100, max_recall / 100, max_gain / 100)
    before, after = dx.load(original), dx.load(edited)
    third = None if reference is None else dx.load(reference)
    samples = data.open(before)
    require_true_labels(samples, "evidence of forgetting")
    known = None
    if members is not None:
        known = replace(data, where=members).open(before)
        _require_apart(screen, samples, known, find_classes(samples.class_names, classes))
    found = verify(
        before,
        after,
        samples,
        classes,
        reference=third,
        members=known,
        limits=limits,
        seed=data.seed,
        device=device,
        batch_size=batch_size,
    )
    title = f"{edited}: what is left of {', '.join(found.names)}"
    if not screen.mute:
        for heading, columns, rows in tables(found):
            screen.table(heading, columns, rows)
        screen.line()
        screen.facts(title, facts(found))
    screen.json(as_json(found, original, edited))
    if output is not None:  # last, so that a full disk does not cost what was measured
        from .evidence_page import write

        write(output, page(found, title))
    if require is not None:
        verdict = found.verdicts[LEVELS.index(require)]
        if not verdict.passed:
            failed = ", ".join(test.name for test in verdict.failed)
            raise GateError(f"level {require} failed: {failed}")


def _require_apart(screen: Screen, data: Dataset, members: Dataset, classes: list[int]) -> None:
    """Refuse the same images as held-out ones and as members: there would be nothing to tell.

    Raises
    ------
    UsageError
        If all of one are among the other.
    """
    from discedit_onnx.errors import UsageError

    held, trained = _images(data, classes), _images(members, classes)
    shared = len(held & trained)
    if not shared:
        return
    if shared == len(trained) or shared == len(held):
        raise UsageError(
            "--members are images of --data: give those that ORIGINAL was trained on, and others "
            "with --data"
        )
    words = "1 image of --members is in --data too: it blurs"
    if shared > 1:
        words = f"{shared:,} images of --members are in --data too: they blur"
    screen.warn(f"{words} the test of membership")


def _images(data: Dataset, classes: list[int]) -> set[bytes]:
    """Hashes of what a model is fed for the images of these classes."""
    import hashlib

    import numpy as np

    part = data.take(np.flatnonzero(np.isin(data.labels, classes)))
    found = set()
    for batch in part.batches(64 if data.source.uniform else 1):
        for row in range(len(batch)):
            hashed = hashlib.sha256()
            for _, values in sorted(batch.feeds.items()):
                hashed.update(np.ascontiguousarray(values[row]).tobytes())
            found.add(hashed.digest())
    return found
