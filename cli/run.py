"""`discedit-onnx run`: the steps of a recipe, one after the other."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import error_as_json
from .recipes import Recipe, Step, steps

if TYPE_CHECKING:
    from pathlib import Path

    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Do all steps of a recipe: calibrate, prune, forget, check.",
    epilog=options.examples("run recipe.toml", "run recipe.toml --json"),
)
@click.argument("recipe", type=options.PATH)
@options.screen
@click.pass_context
def command(ctx: click.Context, screen: Screen, recipe: Path) -> None:
    """Do the steps of RECIPE, a TOML file with a table for each, in order.

    A table is called like a command and holds its options by their long names. What stands above
    all tables holds for every step that has such an option. A step takes the model that the one
    before it wrote; all are checked before the first begins. --print-recipe on a command prints the
    table that repeats it.
    """
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    results: list[dict[str, Any]] = []
    planned = list(steps(Recipe.read(recipe), group, ctx))
    try:
        for step in planned:
            screen.line()
            screen.line(f"$ discedit-onnx {step.name} {shlex.join(step.arguments)}", "bold cyan")
            _run(ctx, group, screen, step, results)
    finally:  # a gate that fails has its result too
        screen.json(results)


def _run(
    ctx: click.Context,
    group: click.Group,
    screen: Screen,
    step: Step,
    results: list[dict[str, Any]],
) -> None:
    """Carry out a step, and keep what it has to say for machines, if that was asked for."""
    from discedit_onnx.errors import DisceditError

    command = group.get_command(ctx, step.name)
    assert command is not None
    asked = ["--json"] * screen.as_json + ["--quiet"] * screen.quiet
    printed, failed = io.StringIO(), {}
    try:
        with (
            contextlib.redirect_stdout(printed) if screen.as_json else contextlib.nullcontext(),
            command.make_context(step.name, [*asked, *step.arguments], parent=ctx) as inner,
        ):
            command.invoke(inner)
    except DisceditError as error:
        failed = error_as_json(str(error), error.exit_code)
        raise
    finally:
        result = {"result": json.loads(printed.getvalue())} if printed.getvalue() else {}
        results.append({"step": step.name, **result, **failed})
