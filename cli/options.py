"""Options that several commands share."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from . import idle
from .output import Screen, told

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


class Number(click.FloatRange):
    """A number in a range; click takes "nan" for one that is in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


def commas(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Callback of an option that takes words with commas between them."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def checked(check: Callable[[Any], object]) -> Callable[..., Any]:
    """Callback of an option whose value the library checks: early, and so in recipes too.

    Parameters
    ----------
    check
        Called with a value that is given; raises a UsageError if it is none.
    """

    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        from discedit_onnx.errors import UsageError

        if value is not None and not ctx.resilient_parsing:
            try:
                check(value)
            except UsageError as error:
                error.param = parameter  # type: ignore[attr-defined]  # as click's errors have it
                raise
        return value

    return callback


def examples(*lines: str) -> str:
    """The end of a command's help: invocations, without the program's name."""
    return "\n".join(["\b", "Examples:", *(f"  discedit-onnx {line}" for line in lines)])


def model(function: Command) -> Command:
    """The argument MODEL."""
    return click.argument("model", type=PATH)(function)


def data(help: str, required: bool = False) -> Callable[[Command], Command]:
    """--data and what goes with it, for what the help says; the command gets a `DataOptions`."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def wrapper(
            *args: Any,
            data: str | None,
            preprocess: str | None,
            labels: str,
            class_map: Path | None,
            num_samples: int | None,
            seed: int,
            **options: Any,
        ) -> Any:
            from .inputs import DataOptions

            # What --validation of prune names is read in the same way.
            if data is None and options.get("validation") is None:
                idle.refuse(idle.OF_DATA, "give images with --data")
            where = None if data is None else str(Path(data))
            asked = DataOptions(where, preprocess, labels, class_map, num_samples, seed)
            return function(*args, data=asked, **options)

        command: Any = wrapper
        for option in reversed(_data_options(help, required)):
            command = option(command)
        return command  # type: ignore[no-any-return]

    return decorate


def _data_options(help: str, required: bool) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--data", metavar="DATA", required=required,
            help=f"{help} A folder of class folders, .npz, .npy, .csv, .tsv, .tar, .parquet, or "
            "script.py:function.",
        ),
        click.option(
            "--preprocess", metavar="FILE|NAME",
            help="A preprocessor_config.json, a timm config, or a preset (imagenet, inception, "
            "clip, cifar10, cifar100, mnist, symmetric, unit, raw).  [default: what MODEL's "
            "metadata or a config beside it say, else values in [0, 1]]",
        ),
        click.option(
            "--labels", type=click.Choice(["given", "predicted"]), default="given",
            show_default=True, help="Whose labels: those of DATA, or the top-1 of MODEL itself.",
        ),
        click.option(
            "--class-map", type=PATH, metavar="FILE",
            help="JSON object of the class (name or index) of each label in DATA.",
        ),
        click.option(
            "--num-samples", type=click.IntRange(min=1), metavar="N",
            help="Take only N samples, equally many of each class.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True,
            help="For whatever is random.",
        ),
    ]  # fmt: skip


def moments(function: Command) -> Command:
    """--moments."""
    return click.option(
        "--moments",
        type=PATH,
        metavar="FILE",
        help="Moments of this model.  [default: the file that calibrate left beside MODEL]",
    )(function)


def running(function: Command) -> Command:
    """--device and --batch-size: how samples get through a model."""
    return device(
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=64,
            show_default=True,
            help="Images at a time in calibration and measurement; results do not depend on it.",
        )(function)
    )


def device(function: Command) -> Command:
    """--device alone."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:N][+tf32]",
        help="Where models run; auto is CUDA if it starts, else the CPU; +tf32 is faster and less "
        "exact.",
    )(function)


def witness(function: Command) -> Command:
    """--witness, refused early if there is no such witness."""

    def check(name: str) -> None:
        from discedit_onnx.scoring.witness import find_witness

        find_witness(name)

    return click.option(
        "--witness",
        default="fisher",
        show_default=True,
        callback=checked(check),
        help="The bound: t1, fisher, quadratic, sharp, mpm, mpm-paper, robust, hellinger, "
        "gaussian, exponential, threshold or histogram; see docs/bounds.md.",
    )(function)


def output(
    help: str, required: bool = False, calibrates: bool = False
) -> Callable[[Command], Command]:
    """-o and --force, which has more to say where accuracy is looked at first."""
    also = "; go on although accuracy is near chance" * calibrates

    def decorate(function: Command) -> Command:
        function = click.option("--force", is_flag=True, help=f"Overwrite the output{also}.")(
            function
        )
        option = click.option(
            "-o", "--output", type=PATH, metavar="FILE", required=required, help=help
        )
        return option(function)

    return decorate


def screen(function: Command) -> Command:
    """--json, --quiet and --verbose; the command gets a `Screen` as its first argument."""

    @click.option(
        "--json",
        "as_json",
        envvar="DISCEDIT_JSON",
        is_flag=True,
        help="Print JSON and nothing else.",
    )
    @click.option("-q", "--quiet", is_flag=True, help="No tables, no progress; warnings remain.")
    @click.option(
        "-v", "--verbose", is_flag=True, help="Tell what ONNX Runtime runs with, on standard error."
    )
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        with told() if verbose else contextlib.nullcontext():
            return function(Screen(as_json, quiet), *args, **options)

    return wrapper  # type: ignore[return-value]
