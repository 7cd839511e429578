"""`discedit-onnx completion`: what a shell needs to complete command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from . import options

PROGRAM, VARIABLE = "discedit-onnx", "_DISCEDIT_ONNX_COMPLETE"


@click.command(
    context_settings=options.SETTINGS,
    short_help="Print the script that completes command lines in a shell.",
    epilog=options.examples(
        "completion bash > ~/.local/share/bash-completion/completions/discedit-onnx",
        'completion zsh > "${fpath[1]}/_discedit-onnx"',
        "completion fish > ~/.config/fish/completions/discedit-onnx.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
