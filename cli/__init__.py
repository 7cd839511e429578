"""The command line: `discedit-onnx`. Commands, and with them the library, load when they run."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .options import PREFIX, SETTINGS
from .output import PRINTED
from .print_recipe import NOT_STEPS, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECTIONS = {
    "Look at models": ("inspect", "score", "diff", "evaluate"),
    "Gather moments": ("calibrate", "moments"),
    "Edit": ("prune", "forget", "apply", "replay"),
    "Evidence": ("verify-forget",),
    "Pipelines": ("check", "run"),
    "This program": ("demo", "doctor", "completion"),
}
"""Commands by purpose, as help lists them; each is the `command` of the module of its name."""

COMMANDS = tuple(name for names in SECTIONS.values() for name in names)

TRACEBACK = "DISCEDIT_TRACEBACK"
"""Environment variable that asks for Python's traceback where the program itself is wrong."""

INTERNAL, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


class Unusable(click.ClickException):
    """A file or a stream that can't be read or written."""

    exit_code = USAGE


class Commands(click.Group):
    """Loads a command when it is asked for, and ends every failure in one line.

    Attributes
    ----------
    as_json
        Whether machines read standard output: a failure is told there, too.
    """

    as_json = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """By purpose."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a module."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(_module(name), __package__).command
        return command if name in NOT_STEPS else printable(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by purpose."""
        width = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            rows = [(f"{name:<{width}}", self._about(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def _about(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.short_help or "" if command else ""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit: usage errors of the options are told in one line as well."""
        words = args[0] if args else extra.get("args")
        self.as_json = _asked_for_json(sys.argv[1:] if words is None else words)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.UsageError as error:
            program = error.ctx.command_path if error.ctx else "discedit-onnx"
            said = error.format_message()
            said += "." * (said[-1:] not in (".", "?", "!"))
            code = self._fail("error", f"{said} See {program} --help", USAGE)
        except click.ClickException as error:
            code = self._fail("error", error.format_message(), error.exit_code)
        except click.Abort:
            code = self._fail("interrupted", "nothing was begun", INTERRUPTED)
        sys.exit(code or 0)

    def _fail(self, kind: str, message: str, code: int, printed: bool = False) -> int:
        """Tell of a failure, for people and, unless they have a result, for machines."""
        from .output import Screen, error_as_json

        _tell(kind, message)
        if self.as_json and not printed:
            with contextlib.suppress(OSError):  # it may be standard output that failed
                Screen(as_json=True).json(error_as_json(message, code))
        return code

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options; help and the version are written here."""
        with _written():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong in it becomes a line and an exit code."""
        from discedit_onnx.errors import DisceditError

        try:
            with _written():
                super().invoke(ctx)
                sys.stdout.flush()
        except DisceditError as error:
            ctx.exit(self._fail("error", str(error), error.exit_code, PRINTED in ctx.meta))
        except KeyboardInterrupt as error:
            said, code = str(error) or "nothing more was written", INTERRUPTED
            code = getattr(error, "exit_code", code)
            ctx.exit(self._fail("interrupted", said, code, PRINTED in ctx.meta))
        except (click.UsageError, click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            said = error.format_message()
            ctx.exit(self._fail("error", said, error.exit_code, PRINTED in ctx.meta))
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            what = f"{type(error).__name__}: {error}"
            said = f"{what}. Please report it; {TRACEBACK}=1 shows where"
            ctx.exit(self._fail("internal error", said, INTERNAL, PRINTED in ctx.meta))


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """What can't be read or written ends the program: in one line, or silently with its reader."""
    try:
        yield
    except BrokenPipeError as error:
        _let_go_of_output()
        raise click.exceptions.Exit(PIPE_CLOSED) from error
    except OSError as error:
        _let_go_of_output()
        name = f"{error.filename}: " if error.filename else ""
        raise Unusable(f"{name}{error.strerror or error}") from error


def _let_go_of_output() -> None:
    """Python flushes once more when it ends; that must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _asked_for_json(words: Sequence[str]) -> bool:
    """Whether standard output is for machines, as far as can be told before options are read."""
    said = os.environ.get(f"{PREFIX}_JSON", "").strip().lower()
    return "--json" in words or said in ("1", "true", "t", "yes", "y", "on")


def _module(name: str) -> str:
    return f".{name.replace('-', '_')}"


def _tell(kind: str, message: str) -> None:
    from .output import one_line

    click.echo(f"{kind}: {one_line(message)}", err=True)


@click.command(
    cls=Commands,
    context_settings=SETTINGS,
    invoke_without_command=True,
    epilog="\b\nExamples:\n"
    "  discedit-onnx prune model.onnx --data calib/ --sparsity 0.5 -o small.onnx\n"
    "  discedit-onnx forget model.onnx --class 3",
)
@click.version_option(package_name="discedit-onnx", prog_name="discedit-onnx")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Score, prune and forget: edit trained ONNX classifiers by what their components tell apart.

    DIR is a folder with one folder of images for each class. Every option can also be set in the
    environment: DISCEDIT_DEVICE=cpu stands for --device cpu. Exit codes: 0 done, 1 our own bug,
    2 usage, 3 the model, 4 the data, 5 a gate that failed, or a result that could not be proved,
    130 or 143 interrupted, 141 the reader of the output has gone.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """The console script."""
    if sys.stdout is None:  # the next file that is opened would be taken for it
        _tell("error", "standard output is closed; send it to /dev/null if it is not wanted")
        sys.exit(USAGE)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    cli(prog_name="discedit-onnx")
