"""Options that would do nothing where they stand: whoever gives one expects something of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Collection

    from discedit_onnx.editing.forgetting.way import Way

    from .output import Screen

OF_DATA = ("preprocess", "labels", "class_map", "num_samples")
"""Options that say how --data is read."""

OF_COMPONENTS = ("share", "count", "deviations", "witness", "no_refit")
OF_FEATURES = ("method", "max_drop", *OF_COMPONENTS, "round_to")


def given(names: Collection[str]) -> str | None:
    """The first of these parameters that the command line has, as it is written there.

    What the environment sets holds for all commands, whether they have a use for it or not.
    """
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name in names and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            return parameter.opts[0]
    return None


def refuse(names: Collection[str], mend: str) -> None:
    """Refuse options that do nothing here.

    Raises
    ------
    UsageError
        Naming one that was given, and what it would take.
    """
    from discedit_onnx.errors import UsageError

    option = given(names)
    if option is not None:
        raise UsageError(f"{option} does nothing here: {mend}, or leave it out")


def check_forgetting(way: Way, data: bool) -> None:
    """Refuse what this way of forgetting has no use for.

    Raises
    ------
    UsageError
        Naming the option.
    """
    if way.level != "features":
        refuse(OF_FEATURES, "take --level features")
    if way.method == "components":
        refuse(["strength"], "take another --method, which projects")
    if not data:
        refuse(["max_drop"], "give images to measure on with --data")


def note_components(screen: Screen, way: Way) -> None:
    """Say so where options about components were given, and none are taken."""
    taken = way.remove or way.method == "components"
    option = given([*OF_COMPONENTS] * (not taken) + ["round_to"] * (not way.remove))
    if option is not None:
        mend = "--remove" if taken or option == "--round-to" else "--method components or --remove"
        screen.line(f"Note: {option} does nothing without {mend}.")
