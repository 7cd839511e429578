"""Numbers and names, as people read them in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import amounts

if TYPE_CHECKING:
    from .figures import Accuracy, Report


def unbroken(text: str) -> str:
    """In one piece, wherever lines are broken."""
    return text.replace(" ", "\u00a0")


def percent(share: float) -> str:
    """0.942 as 94.2 %."""
    return unbroken(amounts.percent(share))


def change(before: float | None, after: float | None) -> str:
    """From one number to another, as -20.1 %."""
    return unbroken(amounts.change(before, after))


def large(value: int | None) -> str:
    """31021952 as 31.0 M."""
    return unbroken(amounts.large(value))


def accuracy(found: Accuracy | None) -> str:
    """94.2 % (93.2 to 95.0)."""
    if found is None:
        return "-"
    return f"{percent(found.value)} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def points(before: Accuracy | None, after: Accuracy | None) -> str:
    """The change in percentage points."""
    if before is None or after is None:
        return "-"
    return amounts.points(before.value, after.value)


def verdict(report: Report) -> str:
    """What the proof of equality found."""
    found = report.equality
    where = f"on {found.samples} {found.origin} ({found.device})"
    apart = f"{found.deviation:.1e} from the masked original"
    if not report.exact:
        return f"none, for the edit is inexact: {apart}, {where}"
    return f"proved: {apart}, allowed {found.tolerance:.0e}, {where}"


def summary(report: Report) -> list[tuple[str, str, str, str]]:
    """The table at the top: what, before, after, change."""
    a, b = report.source, report.result
    rows = [
        (
            "parameters",
            f"{a.parameters:,}",
            f"{b.parameters:,}",
            change(a.parameters, b.parameters),
        ),
        ("MACs, one sample", large(a.macs), large(b.macs), change(a.macs, b.macs)),
        ("bytes", f"{a.size:,}", f"{b.size:,}", change(a.size, b.size)),
    ]
    if report.accuracy is not None:
        top = report.accuracy
        words = (accuracy(top.before), accuracy(top.after), points(top.before, top.after))
        rows.insert(0, ("top-1 accuracy", *words))
    rows += [
        (f"latency, batch {t.batch}", unbroken(f"{t.before:.2f} ms"),
         unbroken(f"{t.after:.2f} ms"), change(t.before, t.after))
        for t in report.latency
    ]  # fmt: skip
    return rows


def width(channels: tuple[int, int] | None) -> str:
    """Channels in and out."""
    return "-" if channels is None else f"{channels[0]} → {channels[1]}"
