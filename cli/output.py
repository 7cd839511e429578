"""What people read: tables, facts, warnings, progress; and JSON for machines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

    from discedit_onnx.calibration.runner import Progress

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask; COLUMNS goes before it."""

LEAST_WIDTH = 40
"""Of narrower tables nothing could be read; of no width, rich prints nothing at all."""


PRINTED = "discedit_onnx.printed"
"""In a context's `meta` once machines have their result: a failure after it is not told twice."""


@dataclass(frozen=True)
class Screen:
    """Where a command's results go.

    Attributes
    ----------
    as_json
        Standard output holds one JSON value; tables and facts are left out.
    quiet
        Tables, facts and progress are left out; warnings remain.
    """

    as_json: bool = False
    quiet: bool = False

    @property
    def mute(self) -> bool:
        """Whether people get no results."""
        return self.as_json or self.quiet

    @property
    def console(self) -> Console:
        """Standard output, as it is now; names are never read as markup."""
        from rich.console import Console

        class Plain(Console):
            def on_broken_pipe(self) -> None:
                """Rich would end the program; how it ends is for the command line to say."""
                raise BrokenPipeError

        return Plain(markup=False, highlight=False, emoji=False, width=_width())

    def line(self, text: str = "", style: str | None = None) -> None:
        """A line of text."""
        if not self.mute:
            self.console.print(printable(text), style=style, soft_wrap=True)

    def facts(self, title: str, facts: Mapping[str, str | None]) -> None:
        """A title, and names with values under it; those without a value are left out."""
        shown = {name: value for name, value in facts.items() if value is not None}
        width = max(map(len, shown), default=0)
        self.line(title, "bold")
        for name, value in shown.items():
            self.line(f"  {name:<{width}}  {value}")

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str | Text]],
        words: int = 1,
    ) -> None:
        """A table; the first columns hold words, the others numbers.

        Parameters
        ----------
        title
            Printed above it.
        columns
            Headers.
        rows
            Cells.
        words
            How many columns hold words.
        """
        if self.mute:
            return
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for position, name in enumerate(columns):
            justify: Literal["left", "right"] = "left" if position < words else "right"
            table.add_column(printable(name), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*(printable(c) if isinstance(c, str) else c for c in row))
        console = self.console
        with console.capture() as capture:
            console.print(table)
        self.line()
        self.line(title, "bold")
        for line in capture.get().splitlines():
            click.echo(line.rstrip(), color=True)

    def warn(self, text: str) -> None:
        """A warning, on standard error, whatever was asked for."""
        click.echo(f"warning: {one_line(text)}", err=True)

    def json(self, value: Any) -> None:
        """The result for machines; not a number becomes null."""
        if self.as_json:
            click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))
            ctx = click.get_current_context(silent=True)
            if ctx is not None:
                ctx.meta[PRINTED] = True

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Progress | None]:
        """A bar on standard error while images go through a model, if someone is watching."""
        if self.quiet or not sys.stderr.isatty():
            yield None
            return
        from .progress import bar

        with bar(what) as update:
            yield update


def _width() -> int:
    """Columns that COLUMNS says, unless it is none; else those of the terminal, if there is one."""
    said = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty() and not (said.isdecimal() and int(said)):
        return PLAIN_WIDTH
    return max(LEAST_WIDTH, shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Print what the library logs on standard error, each line once."""
    import logging

    logger, seen = logging.getLogger("discedit_onnx"), set()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = one_line(record.getMessage())
            if line not in seen:
                seen.add(line)
                click.echo(line, err=True)

    handler, level = Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _plain(value: Any) -> Any:
    """A value of types that JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def error_as_json(message: str, code: int) -> dict[str, Any]:
    """A failure, for machines."""
    return {"error": {"message": one_line(message), "exit_code": code}}


def one_line(text: str) -> str:
    """A message without line breaks."""
    return printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))


def printable(text: str) -> str:
    """A text without what would steer the terminal; file names may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short(tensor: str, most: int = 32) -> str:
    """A tensor's name without what exporters add to it, and the end only of a long one.

    `/blocks/blocks.6/second/second.0/Conv_output_0` becomes `blocks.6/second.0/Conv`.
    """
    parts = tensor.removesuffix("_output_0").strip("/").split("/")
    kept = [
        part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not following.startswith(f"{part}.")
    ]
    return ellipsis("/".join(kept) or tensor, most, end=True)


def ellipsis(text: str, most: int, end: bool = False) -> str:
    """The beginning, or the end, of a text that is too long."""
    if len(text) <= most:
        return text
    return f"...{text[3 - most :]}" if end else f"{text[: most - 3]}..."


def by_class(
    names: Sequence[str], values: Iterable[Any], index: Sequence[int] = ()
) -> dict[str, Any]:
    """What is said of each class, by its name; "name (index)" where several have that name.

    Parameters
    ----------
    names
        Of the classes.
    values
        What is said.
    index
        Of the classes; their positions, if left out.
    """
    often = Counter(names)
    numbers = index if len(index) else range(len(names))
    told = (
        name if often[name] == 1 else f"{name} ({number})"
        for name, number in zip(names, numbers, strict=True)
    )
    return dict(zip(told, values, strict=True))
