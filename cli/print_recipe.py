"""--print-recipe: the table of a recipe that repeats a command."""

from __future__ import annotations

import functools
import json
from typing import Any

import click
from click.core import ParameterSource

NOT_STEPS = ("moments", "demo", "doctor", "run", "completion")
"""Commands that are no step of a recipe: they take no model, or have commands of their own."""

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
PRINT, HELP = "print_recipe", "help"


def parameters_of(command: click.Command) -> dict[str, click.Parameter]:
    """What a command takes, by long name; flags that come in two by both."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if parameter.name in (PRINT, HELP):
            continue
        if isinstance(parameter, click.Option):
            for text in (*parameter.opts, *parameter.secondary_opts):
                if text.startswith("--"):
                    found[text[2:]] = parameter
        else:
            found[str(parameter.name)] = parameter
    return found


def printable(command: click.Command) -> click.Command:
    """A command with --print-recipe, which prints what it was given and does nothing."""
    if any(parameter.name == PRINT for parameter in command.params):
        return command
    callback = command.callback
    assert callback is not None

    @functools.wraps(callback)
    def wrapper(*args: Any, print_recipe: bool = False, **values: Any) -> Any:
        if print_recipe:
            click.echo(written(click.get_current_context()), nl=False)
            return None
        return callback(*args, **values)

    command.callback = wrapper
    text = "Print the recipe that repeats this command, for `discedit-onnx run`; do nothing else."
    command.params.append(click.Option([f"--{PRINT.replace('_', '-')}"], is_flag=True, help=text))
    return command


def written(ctx: click.Context) -> str:
    """The recipe that repeats a command: all that was given, on its line or in the environment."""
    lines = [f"[{ctx.info_name}]"]
    for key, parameter in parameters_of(ctx.command).items():
        value = ctx.params.get(str(parameter.name))
        if ctx.get_parameter_source(str(parameter.name)) not in GIVEN:
            continue
        if isinstance(parameter, click.Option) and parameter.is_flag:
            if bool(value) == (f"--{key}" in parameter.opts):  # its other name says the opposite
                lines.append(f"{key} = true")
        else:
            lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    # TOML's strings are JSON's, but for the one control character that JSON lets stand.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
