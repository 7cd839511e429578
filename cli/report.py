"""The report on a model that was cut and written: groups, costs, measured time, the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from discedit_onnx.amounts import large, percent, size

from . import edits, timing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.budget import Budget
    from discedit_onnx.editing.edit import Edit

    from .output import Screen
    from .timing import Timing


def report(
    screen: Screen,
    edit: Edit,
    output: Path,
    title: str,
    facts: Mapping[str, str | None],
    data: Dataset | None,
    device: str,
    budget: Budget | None = None,
    planned: bool = False,
) -> dict[str, Any]:
    """Show what was done to a model, and warn of what did not come out as it was asked for.

    Parameters
    ----------
    screen
        Where to.
    edit, output
        What was written, and where.
    title, facts
        What to put in front.
    data
        To measure the time on; random inputs where there are none.
    device
        As in `calibrate`.
    budget
        What was asked for.
    planned
        A plan was written, and the model is still to be.

    Returns
    -------
    dict
        The same for machines.
    """
    from discedit_onnx.graph.cost import uncounted

    if screen.quiet and not screen.as_json:
        return {}
    values = edits.as_json(edit, output, planned)
    timings = timing.measure(edit, data, device)
    macs = values["macs"]
    if not uncounted(edit.views[0]):
        timing.warn_of_lag(screen, timings, (macs["before"], macs["after"]))
    asked = None if budget is None else _reached(budget, values, timings)
    if budget is not None and asked is not None and not budget.met(asked["left"], asked["total"]):
        screen.warn(f"the {budget.kind} asked for was missed: {_words(budget, asked)}")
    edits.show_groups(screen, edit, "left")
    screen.line()
    told = dict(edits.costs(edit, values)) if not screen.mute else {}
    place = told.pop("output", None)
    told |= {f"time, batch {t.batch}": str(t) for t in timings}
    words = None if budget is None or asked is None else _words(budget, asked)
    screen.facts(title, {**facts, "budget": words, **told, "plan" if planned else "output": place})
    return {**values, "latency_ms": [t.as_json() for t in timings], "budget": asked}


def _reached(budget: Budget, values: Mapping[str, Any], timings: list[Timing]) -> dict[str, Any]:
    """What was asked for and what was reached, in the same terms."""
    pair = {
        "sparsity": values["parameters"],
        "macs": values["macs"],
        "size": values["file_size"],
        "latency": {"before": timings[0].before, "after": timings[0].after},
    }[budget.kind]
    left, total = pair["after"], pair["before"]
    return {
        "kind": budget.kind,
        "absolute": budget.absolute,
        "asked": budget.amount,
        "reached": budget.reached(left, total),
        "left": left,
        "total": total,
    }


def _words(budget: Budget, asked: Mapping[str, Any]) -> str:
    def form(amount: float) -> str:
        if not budget.absolute:
            return percent(amount, 2)
        if budget.kind == "latency":
            return f"{amount:.2f} ms"
        return size(round(amount)) if budget.kind == "size" else large(round(amount))

    return f"{budget.kind} asked {form(asked['asked'])}, reached {form(asked['reached'])}"
