"""--max-drop: how far to prune is found on samples kept for that."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import discedit_onnx as dx
from discedit_onnx.amounts import large, number, percent, size

from . import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.search import Candidate, Search
    from discedit_onnx.model import Model

    from .inputs import DataOptions
    from .output import Screen


@dataclass(frozen=True)
class Hunt:
    """What was asked for; see the options of the same names.

    Attributes
    ----------
    max_drop
        In points.
    validation, keep
        None if not given.
    """

    max_drop: float
    validation: str | None
    keep: Path | None

    def samples(
        self, model: Model, data: DataOptions, opened: Dataset | None, moments: bool
    ) -> tuple[Dataset | None, Dataset]:
        """What to work with, and what to validate on.

        Parameters
        ----------
        model, data
            As in the command.
        opened
            The samples of --data.
        moments
            Whether a moments file is looked at, of nobody knows which samples.

        Raises
        ------
        UsageError
            If the two would not be apart.
        """
        from discedit_onnx.editing.search import split
        from discedit_onnx.errors import UsageError

        if self.validation is not None:
            if data.where is not None and Path(data.where).resolve() == self._place():
                raise UsageError(
                    "--validation is --data: give other samples, or leave it out to keep a "
                    "quarter of --data for it"
                )
            asked = replace(data, where=self.validation, num_samples=None)
            return opened, asked.open(model)
        if opened is None:
            raise UsageError("--max-drop needs samples to measure on: give --validation or --data")
        if moments:
            raise UsageError(
                "the --moments may have seen any sample of --data: give others with --validation"
            )
        return split(opened, data.seed)

    def _place(self) -> Path:
        return Path(str(self.validation)).resolve()

    def check(self, model: Model, output: Path, force: bool) -> None:
        """Refuse a place for the frontier that can't be written to, before time is spent."""
        from discedit_onnx.errors import UsageError
        from discedit_onnx.files import same_file

        if self.keep is None:
            return
        if same_file(output.parent, self.keep) and output.match(f"{model.path.stem}-*.onnx"):
            raise UsageError(
                f"{output}: --keep-frontier writes models of such names there; choose another name"
            )
        if self.keep.exists() and not self.keep.is_dir():
            raise UsageError(f"--keep-frontier {self.keep}: is a file; name a folder")
        above = next(p for p in (self.keep, *self.keep.absolute().parents) if p.exists())
        if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
            raise UsageError(
                f"--keep-frontier {self.keep}: {above} can't be written to; name another folder"
            )
        if not force and self.keep.is_dir() and any(self.keep.glob(f"{model.path.stem}-*.onnx")):
            raise UsageError(
                f"--keep-frontier {self.keep}: holds models already; overwrite with --force"
            )

    def save(self, found: Search, model: Model, force: bool) -> list[Path]:
        """Write the models on the frontier; gives where they are."""
        if self.keep is None:
            return []
        self.keep.mkdir(parents=True, exist_ok=True)
        paths = []
        for place, candidate in enumerate(found.frontier, 1):
            paths.append(self.keep / f"{model.path.stem}-{place}.onnx")
            candidate.edit.save(paths[-1], force)
        if force:
            for old in sorted(set(self._earlier(model)) - set(paths)):
                for file in (old, *dx.load(old).external):
                    file.unlink(missing_ok=True)
        return paths

    def _earlier(self, model: Model) -> Iterator[Path]:
        """Models of a frontier of this one: with its name and a number, and edited."""
        from discedit_onnx.editing.lineage import history
        from discedit_onnx.errors import ModelError

        assert self.keep is not None
        for path in self.keep.iterdir():
            if re.fullmatch(rf"{re.escape(model.path.stem)}-[1-9]\d*\.onnx", path.name):
                with contextlib.suppress(ModelError):
                    if history(dx.load(path)):
                        yield path


def hunting(function: options.Command) -> options.Command:
    """--max-drop, --validation and --keep-frontier; makes a `Hunt`, or None.

    It goes over `budgets.budget`, which sees to it that there is either a budget or a drop.
    """

    @functools.wraps(function)
    def wrapper(
        *args: Any, validation: str | None, keep_frontier: Path | None, **given: Any
    ) -> Any:
        from discedit_onnx.errors import UsageError

        drop = given["max_drop"]
        if drop is None and (validation is not None or keep_frontier is not None):
            raise UsageError("--validation and --keep-frontier go with --max-drop")
        if drop is not None and given["rounds"] > 1:
            raise UsageError("--max-drop looks for one budget after the other: leave out --rounds")
        hunt = None if drop is None else Hunt(drop, validation, keep_frontier)
        return function(*args, hunt=hunt, **given)

    command: Any = wrapper
    for option in (
        click.option(
            "--keep-frontier", type=options.PATH, metavar="DIR",
            help="With --max-drop, write every model that no other one beats in both size and "
            "accuracy.",
        ),
        click.option(
            "--validation", metavar="DATA",
            help="Samples that --max-drop is measured on; without labels, agreement with MODEL "
            "counts.  [default: a quarter of --data, which is then used for nothing else]",
        ),
        click.option(
            "--max-drop", type=options.Number(min=0, max=100), metavar="POINTS",
            help="In place of a budget: cut as many parameters as cost at most so many points "
            "of accuracy.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command  # type: ignore[no-any-return]


def report(screen: Screen, hunt: Hunt, found: Search, model: Model, force: bool) -> dict[str, Any]:
    """Write the frontier if it was asked for, and show it; gives the same for machines."""
    paths = hunt.save(found, model, force)
    _show(screen, hunt, found, paths)
    return _as_json(hunt, found, paths)


def _show(screen: Screen, hunt: Hunt, found: Search, paths: list[Path]) -> None:
    """The frontier, and a warning if the samples are too few to be sure."""
    names = [path.name for path in paths] or [""] * len(found.frontier)
    screen.table(
        f"Frontier on {number(found.samples)} validation samples, of {len(found.tried)} tried",
        ["removed", "parameters", "MACs", "bytes", found.measure, "drop", "95 % interval", ""],
        [
            _row(candidate, "chosen" if candidate is found.best else "", name)
            for candidate, name in zip(found.frontier, names, strict=True)
        ],
    )
    high = 100 * found.best.drop.high
    if high > hunt.max_drop:
        screen.warn(
            f"on {found.samples} samples the drop may be up to {high:.2f} points "
            f"(95 % confidence); give more with --validation to be sure of {hunt.max_drop:g}"
        )


def _row(found: Candidate, mark: str, name: str) -> list[str]:
    drop = found.drop
    return [
        percent(found.edit.sparsity, 1),
        number(found.edit.parameters[1]),
        large(found.macs),
        size(found.size),
        percent(drop.after, 2),
        f"{100 * drop.drop:.2f}",
        f"{100 * drop.low:.2f} to {100 * drop.high:.2f}",
        " ".join(filter(None, [name, mark])),
    ]


def _as_json(hunt: Hunt, found: Search, paths: list[Path]) -> dict[str, Any]:
    """The same for machines."""
    places: list[Path | None] = [*paths] or [None] * len(found.frontier)
    return {
        "max_drop": hunt.max_drop / 100,
        "measure": found.measure,
        "interval": "Newcombe 1998, method 10" if found.measure == "accuracy" else "Wilson",
        "confidence": 0.95,
        "samples": found.samples,
        "tried": [_candidate(candidate) for candidate in found.tried],
        "frontier": [
            {
                **_candidate(candidate),
                "model": place,
                # With the record of the edit, which the candidate does not have yet.
                **({"bytes": place.stat().st_size} if place else {}),
                "chosen": candidate is found.best,
            }
            for candidate, place in zip(found.frontier, places, strict=True)
        ],
    }


def _candidate(found: Candidate) -> dict[str, Any]:
    drop = found.drop
    return {
        "sparsity": found.edit.sparsity,
        "parameters": found.edit.parameters[1],
        "macs": found.macs,
        "bytes": found.size,
        "before": drop.before,
        "after": drop.after,
        "drop": drop.drop,
        "low": drop.low,
        "high": drop.high,
    }
