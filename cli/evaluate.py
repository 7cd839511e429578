"""`discedit-onnx evaluate`: what a model is worth, and what it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx
from discedit_onnx.amounts import change, number, percent, points, size

from . import inputs, options
from .output import by_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.evaluation import Evaluation

    from .inputs import DataOptions
    from .output import Screen

MOST_CLASSES = 30
"""Rows of the table of classes; of more, those that are worst off are shown."""


@click.command(
    context_settings=options.SETTINGS,
    short_help="Accuracy by class, latency and size, side by side.",
    epilog=options.examples(
        "evaluate model.onnx --data test/", "evaluate small.onnx --data test/ --against model.onnx"
    ),
)
@options.model
@options.data("Labelled images.", required=True)
@click.option(
    "--against",
    type=options.PATH,
    metavar="OTHER",
    help="A model to compare with, such as the one that MODEL was made from.",
)
@options.running
@options.screen
def command(
    screen: Screen,
    model: Path,
    data: DataOptions,
    against: Path | None,
    device: str,
    batch_size: int,
) -> None:
    """Measure MODEL on labelled images: accuracy by class, latency, size.

    Latency is the median of repeated runs in ONNX Runtime, with batches of 1 and of 32. With
    --against, OTHER is measured on the same images, read as its own metadata says, and shown
    first; the two take turns with the clock. Differences are MODEL's minus OTHER's.
    """
    paths = [model] if against is None else [against, model]
    # All files are looked at before any model runs.
    models = [dx.load(path) for path in paths]
    opened = [data.open(loaded) for loaded in models]
    inputs.require_true_labels(opened[0], "accuracy")
    found = []
    for path, loaded, samples in zip(paths, models, opened, strict=True):
        result = inputs.evaluate(
            screen, loaded, samples, path.name,
            device=device, batch_size=batch_size, latency=False,
        )  # fmt: skip
        doubt = inputs.near_chance(path, result.top1, samples)
        if doubt is not None:
            screen.warn(doubt)
        found.append(result)
    found = inputs.with_latency(screen, models, opened, found, device)
    facts = opened[-1].facts
    screen.facts(
        f"{number(len(opened[0]))} images of {data.where}, {facts['labels']}",
        {
            "device": found[0].device,
            "preprocessing": f"{facts['preprocessing']} ({facts['preprocessing_origin']})",
        },
    )
    labels = _labels(paths)
    show_costs(screen, labels, found)
    show_classes(screen, labels, found)
    screen.json(
        {
            "data": data.where,
            **_as_json(model, found[-1]),
            "against": None if against is None else _as_json(against, found[0]),
        }
    )


def show_costs(screen: Screen, labels: Sequence[str], found: Sequence[Evaluation]) -> None:
    """Accuracy, latency and size, side by side."""
    rows = [["top-1", *(percent(e.top1, 2) for e in found)]]
    rows += [
        [f"latency, batch of {batch}", *(f"{e.latency_ms[batch]:.2f} ms" for e in found)]
        for batch in found[0].latency_ms
        if all(batch in e.latency_ms for e in found)
    ]
    rows += [
        ["parameters", *(number(e.parameters) for e in found)],
        ["file", *(size(e.file_size) for e in found)],
    ]
    columns = ["", *labels]
    if len(found) == 2:
        columns.append("difference")
        a, b = found
        differences = [points(a.top1, b.top1)]
        differences += [
            change(a.latency_ms[batch], b.latency_ms[batch])
            for batch in a.latency_ms
            if batch in b.latency_ms
        ]
        differences += [change(a.parameters, b.parameters), change(a.file_size, b.file_size)]
        rows = [[*row, difference] for row, difference in zip(rows, differences, strict=True)]
    screen.table("Accuracy and cost", columns, rows)


def show_classes(screen: Screen, labels: Sequence[str], found: Sequence[Evaluation]) -> None:
    """Accuracy by class, side by side."""
    first, last = found[0], found[-1]
    order = [k for k, count in enumerate(first.count) if count]
    title = "Top-1 accuracy by class"
    if len(order) > MOST_CLASSES:
        loss = last.per_class - (first.per_class if len(found) == 2 else 0)
        order = sorted(order, key=lambda k: float(loss[k]))[:MOST_CLASSES]
        title += f": the {MOST_CLASSES} that are worst off (--json has all)"
    columns = ["class", "images", *labels]
    rows = [
        [
            first.class_names[k],
            number(int(first.count[k])),
            *(percent(e.per_class[k]) for e in found),
        ]
        for k in order
    ]
    if len(found) == 2:
        columns.append("difference")
        for row, k in zip(rows, order, strict=True):
            row.append(points(first.per_class[k], last.per_class[k]))
    screen.table(title, columns, rows)


def _labels(paths: Sequence[Path]) -> list[str]:
    """File names; whole paths where these are the same."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _as_json(path: Path, found: Evaluation) -> dict[str, Any]:
    return {
        "model": path,
        "top1": found.top1,
        "per_class": by_class(
            found.class_names,
            [None if math.isnan(value) else float(value) for value in found.per_class],
        ),
        "images": by_class(found.class_names, found.count),
        "latency_ms": found.latency_ms,
        "file_size": found.file_size,
        "parameters": found.parameters,
        "device": found.device,
    }
