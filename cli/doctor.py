"""`discedit-onnx doctor`: what this machine has to run models with."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from .output import Screen


@click.command(
    context_settings=options.SETTINGS,
    short_help="Versions, and the execution providers that really start.",
    epilog=options.examples("doctor"),
)
@options.screen
def command(screen: Screen) -> None:
    """Show versions, the execution providers that really start, and what is wrong."""
    from discedit_onnx.environment import examine

    found = examine()
    screen.facts(
        f"Python {found.python} on {found.system}",
        {name: version or "not installed" for name, version in found.packages.items()},
    )
    screen.line()
    screen.facts("ONNX Runtime", dict(found.runtimes) or {"none": "not installed"})
    if found.providers:
        screen.line()
        screen.facts(
            "Execution providers",
            {name: "starts" if ok else "does not start" for name, ok in found.providers.items()},
        )
    for warning in found.warnings:
        screen.warn(warning)
    if not found.warnings:
        screen.line()
        screen.line("Nothing is wrong.")
    screen.json(asdict(found))
