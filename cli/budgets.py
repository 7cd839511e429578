"""Options that say how much of a model may be left, and what may be cut for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from discedit_onnx.editing.budget import Budget
    from discedit_onnx.editing.edit import Edit
    from discedit_onnx.editing.order import Limits
    from discedit_onnx.graph.coupling import Coupling

    from .output import Screen


def budget(function: options.Command) -> options.Command:
    """--sparsity, --macs, --size and --latency, of which one is given; makes a `Budget`.

    None where the command takes a --max-drop too, and that is given in place of them.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **others: Any) -> Any:
        given = {kind: others.pop(kind) for kind in HELP}
        drop = others.pop("max_drop", None)
        return function(*args, budget=_one_of(given, drop), **others)

    command: Any = wrapper
    for kind, (metavar, text) in reversed(HELP.items()):
        read = options.checked(functools.partial(_parse, kind))
        command = click.option(f"--{kind}", metavar=metavar, help=text, callback=read)(command)
    return command  # type: ignore[no-any-return]


BLOCKS = ("macs", "latency")
"""Budgets of work, which fast kernels do by whole blocks of channels."""

HELP = {
    "sparsity": ("SHARE", "Share of MODEL's parameters to remove, in [0, 1), as 0.3 or 30%."),
    "macs": ("SHARE|N", "Multiply-accumulates that may be left: 0.5 is half of MODEL's, or 41M."),
    "size": ("SHARE|N", "Bytes that the file may have left: 0.5 is half of MODEL's, or 5MB."),
    "latency": (
        "SHARE|N",
        "Time that a batch of one may take, measured here: 0.5 is half of MODEL's, or 3ms.",
    ),
}


def _parse(kind: Any, text: str) -> None:
    from discedit_onnx.editing.budget import Budget

    Budget.parse(kind, text)


def _one_of(given: dict[str, str | None], drop: float | None) -> Budget | None:
    from discedit_onnx.editing.budget import KINDS, Budget
    from discedit_onnx.errors import UsageError

    asked = [(kind, text) for kind in KINDS if (text := given[kind]) is not None]
    if len(asked) + (drop is not None) != 1:
        names = ", ".join(f"--{kind}" for kind in KINDS)
        raise UsageError(f"give exactly one of {names} and --max-drop")
    if drop is not None:
        return None
    return Budget.parse(*asked[0])


def limits(function: options.Command) -> options.Command:
    """--ranking, --round-to, --min-channels, --only and --exclude; makes a `Limits`.

    It goes under `budget` and over the command, and --device is among the command's options.
    """

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        round_to: str,
        min_channels: int,
        only: tuple[str, ...],
        exclude: tuple[str, ...],
        budget: Budget | None,
        device: str,
        **others: Any,
    ) -> Any:
        from discedit_onnx.editing.order import Limits

        block = budget is not None and budget.kind in BLOCKS
        return function(
            *args,
            limits=Limits(multiple(round_to, device, block), min_channels, only, exclude),
            budget=budget,
            device=device,
            **others,
        )

    command: Any = wrapper
    for option in (
        click.option(
            "--exclude", multiple=True, metavar="PATTERN",
            help="Leave the channels of layers with such names alone; * stands for anything. "
            "Can be repeated.",
        ),
        click.option(
            "--only", multiple=True, metavar="PATTERN",
            help="Cut channels of layers with such names only. Can be repeated.",
        ),
        click.option(
            "--min-channels", type=click.IntRange(min=1), default=1, show_default=True,
            help="Channels to leave in each group at least.",
        ),
        rounding(", and with --macs or --latency what they work on at a time"),
        click.option(
            "--ranking", type=click.Choice(["global", "local", "isomorphic"]), default="global",
            show_default=True,
            help="Compare components of all layers; take the same share of each; or compare "
            "those of layers that are wired alike.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command  # type: ignore[no-any-return]


def rounding(besides: str = "") -> Callable[[options.Command], options.Command]:
    """--round-to, for `multiple` to read, and what else the help says of auto."""
    return click.option(
        "--round-to",
        default="auto",
        show_default=True,
        metavar="N|auto",
        callback=options.checked(lambda text: text == "auto" or _number(text)),
        help="Cut widths to multiples of N, and to halves of N and so on where that is all that is "
        "left; 1 is any width. auto is what fast kernels of the "
        f"device take{besides}.",
    )


def multiple(round_to: str, device: str, block: bool = False) -> int:
    """What --round-to asks for; see `latency.fast_multiple` for auto.

    Raises
    ------
    UsageError
        If it is no such number.
    """
    from discedit_onnx.latency import fast_multiple

    return fast_multiple(device, block) if round_to == "auto" else _number(round_to)


def _number(round_to: str) -> int:
    from discedit_onnx.errors import UsageError

    if not (round_to.isdecimal() and int(round_to)):
        raise UsageError(f"--round-to {round_to}: give a number from 1 on, or auto")
    return int(round_to)


def warn_of_widths(screen: Screen, edit: Edit, coupling: Coupling, limits: Limits) -> None:
    """Warn where a --round-to that was asked for by its number could not be kept."""
    from discedit_onnx.editing.order import widths

    asked = click.get_current_context().params["round_to"]
    if asked == "auto":
        return
    odd = [
        name
        for (name, before, left), wide in zip(edit.groups, widths(coupling), strict=True)
        if left != before and left * int(wide) % limits.round_to
    ]
    if odd:
        screen.warn(
            f"{len(odd)} of {len(edit.groups)} groups are left with no multiple of {asked} "
            f"channels, such as {odd[0]}: below the first multiple widths are halves of it"
        )
