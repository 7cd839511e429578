"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .output import Screen

Command = TypeVar("Command", bound=Callable[..., Any])

PREFIX = "DISCEDIT"
SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": PREFIX,
    "max_content_width": 100,
}
"""One prefix for all commands: DISCEDIT_DEVICE is the --device of each."""

PATH = click.Path(path_type=Path)
"""Whether a file is there is for the library to say: a missing model is not a usage error."""


def model(function: Command) -> Command:
    """The argument MODEL."""
    return click.argument("model", type=PATH)(function)


def data(help: str) -> Callable[[Command], Command]:
    """--data, for what the help says."""
    return click.option("--data", type=PATH, metavar="DIR", help=help)


def moments(function: Command) -> Command:
    """--moments."""
    return click.option(
        "--moments",
        type=PATH,
        metavar="FILE",
        help="Moments of this model.  [default: the file that calibrate left beside MODEL]",
    )(function)


def running(function: Command) -> Command:
    """--preprocess, --device and --batch-size: how images get through a model."""
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(min=1), default=64, show_default=True,
            help="Images at a time; results do not depend on it.",
        ),
        click.option(
            "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]",
            help="Where models run; auto is CUDA if it starts, else the CPU.",
        ),
        click.option(
            "--preprocess", type=PATH, metavar="FILE",
            help="A preprocessor_config.json.  [default: MODEL's metadata, else values in [0, 1]]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def device(function: Command) -> Command:
    """--device alone."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:N]",
        help="Where models run; auto is CUDA if it starts, else the CPU.",
    )(function)


def witness(function: Command) -> Command:
    """--witness, refused early if there is no such witness."""

    def check(ctx: click.Context, parameter: click.Parameter, name: str) -> str:
        from discedit_onnx.scoring.saliency import check_witness

        if not ctx.resilient_parsing:
            check_witness(name)
        return name

    return click.option(
        "--witness",
        default="sharp",
        show_default=True,
        callback=check,
        help="The bound: t1, fisher, quadratic, sharp or mpm.",
    )(function)


def output(help: str, required: bool = False) -> Callable[[Command], Command]:
    """-o and --force."""

    def decorate(function: Command) -> Command:
        function = click.option("--force", is_flag=True, help="Overwrite the output.")(function)
        option = click.option(
            "-o", "--output", type=PATH, metavar="FILE", required=required, help=help
        )
        return option(function)

    return decorate


def screen(function: Command) -> Command:
    """--json and --quiet; the command gets them as its first argument, a `Screen`."""

    @click.option(
        "--json",
        "as_json",
        envvar="DISCEDIT_JSON",
        is_flag=True,
        help="Print JSON and nothing else.",
    )
    @click.option("-q", "--quiet", is_flag=True, help="No tables, no progress; warnings remain.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        return function(Screen(as_json, quiet), *args, **options)

    return wrapper  # type: ignore[return-value]
