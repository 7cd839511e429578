"""The command line: `discedit-onnx`. Commands, and with them the library, load when they run."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .options import SETTINGS

COMMANDS = ("inspect", "calibrate", "score", "prune", "forget", "evaluate", "demo", "doctor")
"""Each is the `command` of the module of its name."""

TRACEBACK = "DISCEDIT_TRACEBACK"
"""Environment variable that asks for Python's traceback where the program itself is wrong."""

INTERNAL, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


class Commands(click.Group):
    """Loads a command when it is asked for, and ends every failure in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a module."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{name}", __package__).command
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit: usage errors of the options are told in one line as well."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.UsageError as error:
            program = error.ctx.command_path if error.ctx else "discedit-onnx"
            _tell("error", f"{error.format_message()} See {program} --help")
            code = USAGE
        except click.ClickException as error:
            _tell("error", error.format_message())
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong in it becomes a line and an exit code."""
        from discedit_onnx.errors import DisceditError

        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except DisceditError as error:
            _tell("error", str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _tell("interrupted", "nothing more was written")
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Python flushes once more when it ends; that must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            _tell("error", f"{name}{error.strerror or error}")
            ctx.exit(USAGE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            what = f"{type(error).__name__}: {error}"
            _tell("internal error", f"{what}. Please report it; {TRACEBACK}=1 shows where")
            ctx.exit(INTERNAL)


def _tell(kind: str, message: str) -> None:
    from .output import one_line

    click.echo(f"{kind}: {one_line(message)}", err=True)


@click.command(cls=Commands, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(package_name="discedit-onnx", prog_name="discedit-onnx")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Score, prune and forget: edit trained ONNX classifiers by what their components tell apart.

    DIR is a folder with one folder of images for each class. Every option can also be set in the
    environment: DISCEDIT_DEVICE=cpu stands for --device cpu. Exit codes: 0 done, 1 our own bug,
    2 usage, 3 the model, 4 the data, 5 a result that could not be proved.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    cli(prog_name="discedit-onnx")
