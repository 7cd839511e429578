"""What a command reads and what it writes: no output may be one of its inputs, or another output.

Both are read off the command's parameters, so that one rule holds for every command, and for the
steps of a recipe before any of them runs.
"""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OUTPUTS = ("output", "report_to", "npz", "junit")
"""Parameters that name a file to write."""

FOLDERS = ("keep_frontier",)
"""Parameters that name a folder to write into; all other paths are read."""

DATA = ("data", "validation", "members", "preprocess")
"""Parameters that are no paths to click, and may well be."""


def require_apart(output: Path | None = None) -> None:
    """Refuse to write what the running command reads, or one file twice.

    Parameters
    ----------
    output
        Where it writes unless told otherwise.

    Raises
    ------
    UsageError
        Naming the files.
    """
    from discedit_onnx.errors import UsageError
    from discedit_onnx.files import same_file

    ctx = click.get_current_context()
    values = ctx.params if output is None else {**ctx.params, "output": output}
    written = written_by(str(ctx.info_name), values)
    for path, read in product(written, read_by(ctx.command, values)):
        if same_file(path, read):
            raise UsageError(f"{path}: the output would overwrite the input; choose another name")
    for a, b in combinations(written, 2):
        if same_file(a, b):
            raise UsageError(f"{b}: two outputs would be this file; choose another name for one")


def require_no_model(path: Path, suffix: str) -> None:
    """Refuse to call something a model that is none, and to replace a model by it.

    Raises
    ------
    UsageError
        Naming a better name, with this suffix.
    """
    from discedit_onnx.errors import UsageError

    if path.suffix == ".onnx":
        raise UsageError(f"{path}: no model is written; call it {path.stem}{suffix}")


def read_by(command: click.Command, values: Mapping[str, Any]) -> Iterator[Path]:
    """The files that a command reads, by the values of its parameters."""
    for parameter in command.params:
        name = str(parameter.name)
        if name in DATA or (parameter.type is options.PATH and name not in OUTPUTS + FOLDERS):
            value = values.get(name)
            given = value if isinstance(value, tuple) else (value,)
            for path in (Path(item) for item in given if item is not None):
                script, colon, _ = path.name.rpartition(":")  # script.py:function
                yield path.with_name(script) if colon and script else path
    yield from _beside(values)


def _beside(values: Mapping[str, Any]) -> Iterator[Path]:
    """Files that go with those that were named: moments, and a plan's new values."""
    from discedit_onnx.editing.plan_file import arrays_path

    from .inputs import beside_model

    if "moments" in values and values["moments"] is None:
        moments = beside_model(values["model"])
        if moments.is_file():
            yield moments
    if values.get("plan") is not None:
        yield arrays_path(values["plan"])


def written_by(name: str, values: Mapping[str, Any]) -> list[Path]:
    """The files that the command of a name writes, by the values of its parameters."""
    from discedit_onnx.editing.plan_file import arrays_path
    from discedit_onnx.evidence.manifest import manifest_path

    found = [values[key] for key in OUTPUTS if values.get(key) is not None]
    output = values.get("output")
    if output is not None and name == "forget":
        found.append(manifest_path(output))
    if output is not None and values.get("dry_run"):
        found.append(arrays_path(output))
    return found
