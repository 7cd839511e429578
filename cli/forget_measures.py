"""What an edit that forgot is measured by: accuracy, and the attacks that need no training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import discedit_onnx as dx
from discedit_onnx.amounts import number, percent, points

from .evidence_page import as_verdicts, brief
from .inputs import evaluate
from .output import by_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.forget import Forgetting
    from discedit_onnx.evaluation import Evaluation
    from discedit_onnx.evidence.verify import Evidence
    from discedit_onnx.model import Model

    from .output import Screen

UNSEEN = (
    "Not verified: without images nothing was measured of what is left; verify-forget does, with "
    "images that the model has not seen."
)


def accuracies(
    screen: Screen, model: Model, edit: Forgetting, data: Dataset, device: str, batch_size: int
) -> dict[str, Any]:
    """Accuracy before, with the class's logit hidden, and after.

    Hiding a logit makes the rest a smaller problem, and lifts accuracy by itself: what an edit
    costs the retained classes is read against that.
    """
    from discedit_onnx.editing.forgetting.way import Way
    from discedit_onnx.evaluation import predict

    if data.predicted:
        data = predict(model, data, device=device, batch_size=batch_size)
    classes = edit.classes
    settings = {"device": device, "batch_size": batch_size, "latency": False}
    hidden = dx.forget(model, None, classes, Way("output"), device=device)
    before = evaluate(screen, model, data, "accuracy before", **settings)
    reference = replace(model, proto=hidden.proto)
    result = replace(model, proto=edit.proto)
    rest = data
    if edit.way.drop_output:
        rest = without(data, result, classes)
    after = evaluate(screen, result, rest, "accuracy after", **settings)
    return {
        "images": before.count.sum(),
        "before": _accuracy(before, classes),
        "hidden": _accuracy(
            evaluate(screen, reference, data, "accuracy with a logit hidden", **settings), classes
        ),
        "after": _accuracy(after, [] if edit.way.drop_output else classes),
    }


def _accuracy(evaluation: Evaluation, chosen: Sequence[int]) -> dict[str, Any]:
    rest = sorted(set(range(len(evaluation.class_names))) - set(chosen))
    return {
        "forget": evaluation.accuracy_of(chosen) if chosen else None,
        "retain": evaluation.accuracy_of(rest),
        "per_class": by_class(evaluation.class_names, evaluation.per_class),
    }


def without(data: Dataset, model: Model, classes: Sequence[int]) -> Dataset:
    """The samples of all other classes, for a model that has no outputs for some."""
    import numpy as np

    from discedit_onnx.calibration.classifier import classifier_of

    kept = np.setdiff1d(np.arange(len(data.class_names)), classes)
    rest = data.take(np.flatnonzero(np.isin(data.labels, kept)))
    return replace(
        rest,
        classifier=classifier_of(model),
        class_names=tuple(data.class_names[k] for k in kept),
        labels=np.searchsorted(kept, rest.labels),
    )


def show_accuracy(
    screen: Screen, found: dict[str, Any], forgotten: Sequence[str], origin: str
) -> None:
    before, hidden, after = (found[key] for key in ("before", "hidden", "after"))
    gone = after["forget"] is None
    screen.table(
        f"Top-1 accuracy on {number(int(found['images']))} images{origin}",
        ["", "before", "logit hidden", "after", "change"],
        [
            [f"forgotten: {', '.join(forgotten)}", percent(before["forget"]),
             percent(hidden["forget"]), "no output" if gone else percent(after["forget"]),
             "" if gone else points(before["forget"], after["forget"])],
            ["all other classes", percent(before["retain"]), percent(hidden["retain"]),
             percent(after["retain"]), points(hidden["retain"], after["retain"])],
        ],
    )  # fmt: skip
    screen.line("The change of the others is read against the hidden logit, which lifts them.")


def attacked(
    model: Model, edit: Forgetting, data: Dataset, device: str, batch_size: int
) -> tuple[Evidence | None, str]:
    """Brief evidence; or None, and why there is none."""
    from discedit_onnx.errors import DataError, ModelError, UsageError
    from discedit_onnx.evidence.verify import verify

    edited = replace(model, proto=edit.proto)
    try:
        found = verify(
            model, edited, data, edit.classes, brief=True, device=device, batch_size=batch_size
        )
    except (DataError, ModelError, UsageError) as error:
        # Too few images, labels of the model's own, or a head that is not linear.
        return None, f"No attack was run: {error}."
    return found, ""


def show_evidence(screen: Screen, found: Evidence | None, why: str) -> None:
    """What the attacks found, and the verdicts."""
    for heading, columns, rows in () if found is None else brief(found):
        screen.table(heading, columns, rows)
    for text in (why,) if found is None else found.notes:
        screen.line(text)


def evidence_json(found: Evidence | None) -> dict[str, Any] | None:
    """The verdicts, for machines."""
    return None if found is None else as_verdicts(found)
