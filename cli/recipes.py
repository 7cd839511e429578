"""Recipes: options of several commands in one TOML file, a table for each step.

What a step may say is what its command takes, and click itself reads the values: nothing is
listed here a second time.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, outputs
from .idle import OF_DATA
from .print_recipe import NOT_STEPS, parameters_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from discedit_onnx.errors import UsageError

EDITING = ("prune", "forget", "apply", "replay")
"""Commands that write a model, which the steps after them take."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as it was read.

    Attributes
    ----------
    path, text
        The file, and what it holds.
    values
        The same, read.
    """

    path: Path
    text: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a file.

        Raises
        ------
        UsageError
            If it can't be read, or is not TOML.
        """
        from discedit_onnx.errors import UsageError

        try:
            text = path.read_bytes().decode()
            return cls(path, text, tomllib.loads(text))
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from error
        except ValueError as error:  # TOML's errors, and those of the encoding
            raise UsageError(f"{path}: not TOML: {error}") from error
        except RecursionError as error:
            raise UsageError(f"{path}: lists or tables lie too deep in one another") from error

    @property
    def defaults(self) -> dict[str, Any]:
        """What holds for all steps."""
        return {key: value for key, value in self.values.items() if not isinstance(value, dict)}

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The steps, in order."""
        return {key: value for key, value in self.values.items() if isinstance(value, dict)}

    def line(self, *keys: str) -> int:
        """The line in which the value of a key begins: `line("prune", "sparsity")`.

        It is the first line that the text can't be read without, with the key in it: TOML itself
        says so, whatever way the key is written.
        """
        lines, last = self.text.splitlines(keepends=True), 0
        for count in range(1, len(lines) + 1):
            try:
                values: Any = tomllib.loads("".join(lines[:count]))
            except ValueError:  # it ends inside of a value
                continue
            for key in keys:
                values = values.get(key) if isinstance(values, dict) else None
            if values is not None:
                return last + 1
            last = count
        return 1


@dataclass(frozen=True)
class Step:
    """A command line of a recipe.

    Attributes
    ----------
    name
        Of the command.
    arguments
        What follows it.
    """

    name: str
    arguments: tuple[str, ...]


def steps(recipe: Recipe, group: click.Group, ctx: click.Context) -> Iterator[Step]:
    """The command lines of a recipe, each checked by its command.

    Parameters
    ----------
    recipe
        What to do.
    group
        What knows the commands.
    ctx
        Of the command that runs it.

    Raises
    ------
    UsageError
        Naming the line that is wrong.
    """
    for key, value in recipe.defaults.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            message = f"[[{key}]] is an array of tables; a step is one table: write [{key}]"
            raise _wrong(recipe, (key,), message)
    if not recipe.tables:
        raise _wrong(recipe, (), "no steps: give a table for each, as [prune]")
    known = {name: _command(recipe, group, ctx, name) for name in recipe.tables}
    for key in recipe.defaults:
        if not any(key in parameters_of(command) for command in known.values()):
            raise _wrong(recipe, (key,), f"{key}: no step has such an option")
    chain: dict[str, Any] = {}
    taken: list[Path] = []
    for number, (name, own) in enumerate(recipe.tables.items(), 1):
        command = known[name]
        parameters = parameters_of(command)
        for key in own:
            if key not in parameters:
                near = ", ".join(parameters)
                raise _wrong(recipe, (name, key), f"[{name}] has no {key}; it has {near}")
        values = recipe.defaults | chain | own
        if not _takes_file(parameters.get("against")):
            values = {k: v for k, v in values.items() if k != "against" or k in own}
        if "data" not in values:  # how it is read, said for all steps, is nothing to this one
            hidden = {name.replace("_", "-") for name in OF_DATA} - own.keys()
            values = {k: v for k, v in values.items() if k not in hidden}
        values = {key: value for key, value in values.items() if key in parameters}
        step = Step(name, _arguments(recipe, parameters, name, values))
        given = _read(recipe, command, step, values, ctx)
        taken += outputs.read_by(command, given)
        _require_free(recipe, name, outputs.written_by(name, given), taken)
        yield step
        if number < len(known):
            chain = _chained(recipe, name, values, chain)


def _command(recipe: Recipe, group: click.Group, ctx: click.Context, name: str) -> click.Command:
    command = None if name in NOT_STEPS else group.get_command(ctx, name)
    if command is None:
        there = ", ".join(found for found in group.list_commands(ctx) if found not in NOT_STEPS)
        raise _wrong(recipe, (name,), f"[{name}] is no step; there are {there}")
    return command


def _takes_file(parameter: click.Parameter | None) -> bool:
    return parameter is not None and parameter.type is options.PATH


def _arguments(
    recipe: Recipe, parameters: Mapping[str, click.Parameter], name: str, values: Mapping[str, Any]
) -> tuple[str, ...]:
    """A step's command line, from its values."""
    flags: list[str] = []
    positions: dict[str, str] = {}
    for key, value in values.items():
        try:
            words = _words(key, value, parameters[key])
        except ValueError as error:
            place = _place(recipe, name, key)
            raise _wrong(recipe, place, f"[{name}] {key}: {error}") from error
        if isinstance(parameters[key], click.Option):
            flags += words
        else:
            positions[key] = words[0]
    for key, parameter in parameters.items():
        if isinstance(parameter, click.Argument) and parameter.required and key not in positions:
            raise _wrong(recipe, (name,), f"[{name}] does not say which {key}")
    # Arguments come in the command's own order, behind all options.
    ordered = [positions[key] for key in parameters if key in positions]
    return (*flags, *(["--", *ordered] if ordered else []))


def _require_free(recipe: Recipe, name: str, written: list[Path], taken: list[Path]) -> None:
    """Refuse a step that would overwrite a file that it or one before it reads or writes."""
    from discedit_onnx.files import same_file

    for path in written:
        if any(same_file(path, file) for file in taken):
            message = f"[{name}] would overwrite {path}, which a step reads or writes before"
            raise _wrong(recipe, _place(recipe, name, "output"), f"{message}; name another output")
        taken.append(path)


def _read(
    recipe: Recipe, command: click.Command, step: Step, keys: Collection[str], ctx: click.Context
) -> dict[str, Any]:
    """The values of a step's parameters, as its command reads them; it must be able to."""
    from discedit_onnx.errors import UsageError

    name = step.name
    try:
        return command.make_context(name, list(step.arguments), parent=ctx).params
    except (click.UsageError, UsageError) as error:
        place: tuple[str, ...] = (name,)
        wrong = getattr(error, "param", None)
        said = error.format_message() if isinstance(error, click.UsageError) else str(error)
        for key, parameter in parameters_of(command).items():
            if parameter is wrong and key in keys:
                place = _place(recipe, name, key)
        raise _wrong(recipe, place, f"[{name}] {said}") from error


def _place(recipe: Recipe, name: str, key: str) -> tuple[str, ...]:
    """Where the recipe says a step's value: in its table, at the top, or nowhere."""
    if key in recipe.tables[name]:
        return (name, key)
    return (key,) if key in recipe.defaults else (name,)


def _words(key: str, value: Any, parameter: click.Parameter) -> list[str]:
    """A value as a command line has it.

    Raises
    ------
    ValueError
        If the parameter can't have such a value.
    """
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    if flag or isinstance(value, bool):
        if not flag or not isinstance(value, bool):
            raise ValueError("give true or false" if flag else "takes no true or false")
        return [f"--{key}"] if value else []
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in several):
        raise ValueError("give a text, a number, or a list of them")
    texts = [str(item) for item in several]
    if not isinstance(parameter, click.Option):
        if len(texts) != 1:
            raise ValueError("takes one value")
        return texts
    if parameter.callback is options.commas:
        texts = [",".join(texts)]
    if len(texts) != 1 and not parameter.multiple:
        raise ValueError("takes one value")
    return [f"--{key}={text}" for text in texts]


def _chained(
    recipe: Recipe, name: str, values: Mapping[str, Any], chain: dict[str, Any]
) -> dict[str, Any]:
    """What a step, and those before it, leave to the next.

    Raises
    ------
    UsageError
        If the next can't know where the model lies.
    """
    from .inputs import beside_model

    output = values.get("output")
    if name == "calibrate":
        return chain | {"moments": str(output or beside_model(Path(values["model"])))}
    if name not in EDITING:
        return chain
    if output is None:
        raise _wrong(recipe, (name,), f"[{name}] name its output, for the steps after it")
    if values.get("dry-run"):
        return chain | {"plan": output}
    # Moments of the model before are none of this one.
    first = recipe.defaults.get("model", values["model"])
    return {"model": output, "edited": output, "against": first, "original": first}


def _wrong(recipe: Recipe, keys: tuple[str, ...], message: str) -> UsageError:
    from discedit_onnx.errors import UsageError

    return UsageError(f"{recipe.path}:{recipe.line(*keys) if keys else 1}: {message}")
