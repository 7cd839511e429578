"""A report as GitHub's Markdown, short enough for a job's summary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .figures import Report

MOST_ROWS = 50
"""Of a table; the rest is counted."""


def text(report: Report) -> str:
    """The file."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"## {_safe(report.run.title)}"
    yield from _table("", ["", "before", "after", "change"], words.summary(report))
    if report.accuracy is not None:
        top = report.accuracy
        yield from ("", f"Accuracy on {_safe(top.images)}; 95 % intervals of Wilson.")
        yield from _table(
            "Accuracy by class",
            ["class", "before", "after", "points"],
            [
                (c.name, words.accuracy(c.before), words.accuracy(c.after),
                 words.points(c.before, c.after))
                for c in top.classes
            ],
        )  # fmt: skip
    yield from _forgotten(report)
    yield from _searched(report)
    yield from _table(
        "Components",
        ["group", "before", "left"],
        [
            (g.name, str(g.components), str(g.components - len(g.removed)))
            for g in report.groups
            if g.removed
        ],
    )
    yield from _table(
        "Held back",
        ["by", "because", "indices"],
        [(p.where or "the graph", p.why, f"{p.indices:,}") for p in report.pinned],
    )
    yield from ("", f"Equality: {_safe(words.verdict(report))}.", "")
    facts = {
        **report.run.facts,
        "source": f"{report.source.path}, SHA-256 {report.source.sha256}",
        "result": f"{report.result.path}, SHA-256 {report.result.sha256}",
        "plan": f"SHA-256 {report.plan_sha256}",
        "made": report.run.created,
        "versions": ", ".join(f"{name} {found}" for name, found in report.run.versions.items()),
    }
    yield from (f"- {_safe(name)}: {_safe(value)}" for name, value in facts.items())
    yield from ("", *_code(report.run.command))


def _forgotten(report: Report) -> Iterator[str]:
    facts = report.forgetting
    if facts is None:
        return
    yield from ("", f"Forgotten: {_safe(', '.join(facts.classes))}, by {_safe(facts.way)}.")
    for confusion in facts.confusions:
        before, after = dict(confusion.before), dict(confusion.after)
        names = dict.fromkeys([*after, *before])
        counts = [(name, str(before.get(name, 0)), str(after.get(name, 0))) for name in names]
        title = f"Where images of {confusion.name} go"
        yield from _table(title, ["class", "before", "after"], counts)
    rows = [
        (a.name, a.measure, words.percent(a.before), words.percent(a.after)) for a in facts.attacks
    ]
    yield from _table("Attacks", ["attack", "measure", "before", "after"], rows)
    for note in facts.notes:
        yield from ("", _safe(note))


def _searched(report: Report) -> Iterator[str]:
    search = report.search
    if search is None:
        return
    rows = [
        (f"{p.x:g}", p.series, words.percent(p.accuracy), "taken" * (p.x == search.chosen))
        for p in search.points
    ]
    title = f"Accuracy against {search.axis}, on {search.images}"
    yield from _table(title, [search.axis, "of", "accuracy", ""], rows)


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"### {_safe(title)}", "") if title else ("",)
    yield f"| {' | '.join(headers)} |"
    yield f"|{' --- |' * len(headers)}"
    for row in rows[:MOST_ROWS]:
        yield f"| {' | '.join(map(_safe, row))} |"
    if len(rows) > MOST_ROWS:
        yield from ("", f"and {len(rows) - MOST_ROWS:,} more")


def _safe(text: str) -> str:
    """A text that is only text: names may hold markup, links, mentions or line breaks."""
    one = " ".join(text.split())
    escaped = re.sub(r"([\\`*_\[\]<>|~#$])", r"\\\1", one.replace("&", "&amp;"))
    return re.sub(r"@(?=\w)", "@\u2060", escaped)


def _code(command: str) -> tuple[str, str, str]:
    """A fenced block, with a fence that is not in it."""
    longest = max(map(len, re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh", command, fence
