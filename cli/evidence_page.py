"""Evidence of forgetting as tables, as a page in Markdown, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from discedit_onnx.amounts import number, percent, points

from .output import short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from discedit_onnx.evidence.intervals import Share
    from discedit_onnx.evidence.verify import Evidence, Probing

    Table = tuple[str, list[str], list[list[str]]]


def tables(found: Evidence) -> list[Table]:
    """Title, headers and rows of each table."""
    listed = [_accuracy(found), _goes_to(found), _recall(found)]
    if found.probed_before is not None:
        listed.append(_probes(found))
    return [*listed, _verdicts(found)]


def brief(found: Evidence) -> list[Table]:
    """What `forget` shows beside accuracy."""
    return [_recall(found), _verdicts(found)]


def _by_class(found: Evidence) -> Table:
    """Accuracy on each class, for the page: a screen shows the worst only."""
    three = (found.before, found.hidden, found.after)
    rows = [
        [name + " (forgotten)" * (k in found.classes), *(interval(a.per_class[k]) for a in three)]
        for k, name in enumerate(found.class_names)
        if found.before.per_class[k].count
    ]
    return "Top-1 accuracy by class", ["class", "before", "logit hidden", "after"], rows


def _accuracy(found: Evidence) -> Table:
    three = (found.before, found.hidden, found.after)
    rows = [
        ["forgotten", *(interval(a.forget) for a in three),
         points(found.before.forget.value, found.after.forget.value)],
        ["retained", *(interval(a.retain) for a in three),
         points(found.hidden.retain.value, found.after.retain.value)],
    ]  # fmt: skip
    worst = found.after.worst(found.classes)
    if worst is not None:
        each = [a.per_class[worst] for a in three]
        change = points(each[1].value, each[2].value)
        rows.append([f"worst: {found.class_names[worst]}", *map(interval, each), change])
    return (
        f"Top-1 accuracy on {number(found.images)} images, with 95 % intervals; the change of "
        "retained ones is from the hidden logit, which lifts them by itself",
        ["", "before", "logit hidden", "after", "change"],
        rows,
    )


def _goes_to(found: Evidence) -> Table:
    rows = []
    for name, counts in zip(found.names, found.goes_to, strict=True):
        order = [int(k) for k in (-counts).argsort(kind="stable")[:3] if counts[k]]
        rows += [[name, found.class_names[k], number(int(counts[k]))] for k in order]
    return "Where forgotten images go", ["class", "answer", "images"], rows


def _recall(found: Evidence) -> Table:
    r = found.recall
    tried = {
        "logit re-enabled": r.logit,
        "recall attack": r.own,
        "the original's head": r.old_head,
        "recall attack and the original's head": r.old_head_attacked,
    }
    rows = [[name, interval(value)] for name, value in tried.items() if value is not None]
    rows.append(["retained accuracy after the recall attack", interval(r.retain)])
    return f"Forgotten images found, with {number(r.images)} retained images", ["", "found"], rows


def _probes(found: Evidence) -> Table:
    models = [found.probed_before, found.probed_after, found.probed_reference]
    known: list[Probing] = [model for model in models if model is not None]
    after = known[1]
    rows = [
        [f"linear probe: {short(name)}", *(_cell(model.probes.get(name)) for model in known)]
        for name in after.probes
    ]
    rows += [
        [f"{k}-shot head", *(_cell(model.shots.get(k)) for model in known)] for k in after.shots
    ]
    rows.append(["nearest class mean", *(_cell(model.nearest) for model in known)])
    columns = ["", "before", "after", "reference"][: len(known) + 1]
    return "Forgotten images found by classifiers fitted on images of the class", columns, rows


def _verdicts(found: Evidence) -> Table:
    rows = [
        [v.level, "passed" if v.passed else "failed", _failed(v.failed)] for v in found.verdicts
    ]
    return "Verdicts", ["level", "", "tests that failed"], rows


def _failed(tests: Sequence[Any]) -> str:
    return "; ".join(f"{t.name} ({percent(t.found)} > {percent(t.limit)})" for t in tests)


def facts(found: Evidence) -> dict[str, str | None]:
    """What is one line each."""
    lines: dict[str, str | None] = {}
    for when, member in (("before", found.membership_before), ("after", found.membership_after)):
        if member is not None:
            a = member.area
            lines[f"confidence, {when}"] = (
                f"AUC {a.value:.3f} ({a.low:.3f} to {a.high:.3f}): {member.compared}"
            )
    for when, witness in (("before", found.witness_before), ("after", found.witness_after)):
        if witness is not None:
            lines[f"strongest witness, {when}"] = (
                f"total variation at least {witness.bound:.3f}, certified at 95 %: "
                f"{short(witness.tensor)}, channel {witness.channel}"
            )
    return {**lines, **{f"note {i}": text for i, text in enumerate(found.notes, 1)}}


def interval(share: Share) -> str:
    """A share with its interval."""
    return f"{percent(share.value)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _cell(share: Share | None) -> str:
    return "-" if share is None else interval(share)


def page(found: Evidence, title: str) -> str:
    """All of it in Markdown."""
    lines = [f"# {_plain(title)}", ""]
    first, *others = tables(found)
    for heading, columns, rows in (first, _by_class(found), *others):
        lines += [f"## {_plain(heading)}", "", _row(columns), _row(["---"] * len(columns))]
        lines += [*map(_row, rows), ""]
    lines += [f"- {_plain(name)}: {_plain(text or '')}" for name, text in facts(found).items()]
    lines += ["", "These are measurements. Nothing is claimed about training data.", ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """A text that is not read as markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def write(path: Path, text: str) -> None:
    """Write a page, all or nothing."""
    from discedit_onnx.files import write_files

    write_files({path: text.encode(errors="backslashreplace")})  # file names may hold anything


def as_json(found: Evidence, original: Path, edited: Path) -> dict[str, Any]:
    """All of it for machines; shares with their values."""
    whole = {name: value for name, value in vars(found).items() if name != "verdicts"}
    return {
        "original": original,
        "edited": edited,
        **{name: _value(value) for name, value in whole.items()},
        "classes": found.names,
        "verdicts": as_verdicts(found),
    }


def as_verdicts(found: Evidence) -> dict[str, Any]:
    """Each level's verdict and tests, for machines."""
    return {
        v.level: {
            "passed": v.passed,
            "tests": [asdict(test) | {"passed": test.passed} for test in v.tests],
        }
        for v in found.verdicts
    }


def _value(value: Any) -> Any:
    from discedit_onnx.evidence.intervals import Share

    if isinstance(value, Share):
        return {"value": value.value, **asdict(value)}
    if isinstance(value, tuple | list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {key: _value(item) for key, item in vars(value).items()}
    return value
