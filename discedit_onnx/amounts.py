"""Amounts as people read them: on the terminal, in a notebook, in a report."""

from __future__ import annotations

import math


def number(value: int) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}"


def large(value: int | None) -> str:
    """31021952 as 31.0 M."""
    if value is None:
        return "unknown"
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= unit:
            return f"{value / unit:.1f}{name}"
    return str(value)


def size(value: int) -> str:
    """Bytes, as 1.12 MB."""
    if value >= 10**5:
        return f"{value / 10**6:,.2f} MB"
    return f"{value / 1000:.1f} kB" if value >= 1000 else f"{value} B"


def percent(share: float, digits: int = 1) -> str:
    """0.942 as 94.2 %; not a number as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def change(before: float | None, after: float | None) -> str:
    """The change from one number to another, as -20.1 %; a dash where there is none."""
    if before is None or after is None or not before:
        return "-"
    return f"{100 * (after / before - 1):+.1f} %"


def points(before: float, after: float) -> str:
    """The change from one share to another, in percentage points."""
    return "-" if math.isnan(after - before) else f"{100 * (after - before):+.1f}"
