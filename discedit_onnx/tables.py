"""Results as tables: how they print, and how a notebook shows them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_ROWS, MOST_COLUMNS = 40, 14
"""Shown of a table; the rest is counted."""


@dataclass(frozen=True)
class Table:
    """A title, headers, and rows of texts.

    Attributes
    ----------
    title
        Printed above it.
    headers
        Of the columns.
    rows
        One text a column each.
    words
        How many columns, from the left, hold words; the others hold numbers.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1

    def __str__(self) -> str:
        """In columns, for a terminal."""
        shown = self._shown()
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < self.words else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in shown
        ]
        return "\n".join(filter(None, [self.title, *lines, self._rest()]))

    def _repr_html_(self) -> str:
        """As an HTML table; whatever names hold is text."""
        head, *body = ("".join(map(self._cell, range(len(row)), row)) for row in self._shown())
        rows = "".join(f"<tr>{row}</tr>" for row in body)
        rest = f"<p>{escape(self._rest())}</p>" if self._rest() else ""
        return (
            f"<table><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"
        )

    def _cell(self, place: int, text: str) -> str:
        side = "left" if place < self.words else "right"
        return f'<td style="text-align: {side}">{escape(text)}</td>'

    def _shown(self) -> list[tuple[str, ...]]:
        """Headers and rows, without what is too much."""
        return [row[:MOST_COLUMNS] for row in (self.headers, *self.rows[:MOST_ROWS])]

    def _rest(self) -> str:
        rows, columns = len(self.rows) - MOST_ROWS, len(self.headers) - MOST_COLUMNS
        left = [f"{rows:,} more rows"] * (rows > 0) + [f"{columns:,} more columns"] * (columns > 0)
        return f"and {', '.join(left)}" if left else ""


class Tabular:
    """A result that prints as tables, and shows as such in notebooks.

    A dataclass that is one is made with `repr=False`.
    """

    def tables(self) -> Iterable[Table]:
        """What there is to see."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """All tables, one under the other."""
        return "\n\n".join(map(str, self.tables()))

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables())


def facts(title: str, **values: object) -> Table:
    """A table of names and values; those that are None are left out."""
    rows = tuple((name.replace("_", " "), str(v)) for name, v in values.items() if v is not None)
    return Table(title, ("", ""), rows, words=2)
