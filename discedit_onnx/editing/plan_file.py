"""A plan as a file: JSON that people can read, and beside it the new values, if there are any."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from ..errors import DataError, UsageError
from ..files import check_place, write_files
from ..graph.axes import Reach
from .plan import Bias, Cut, Pick, Plan, Rewrite, Update, Zero

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FORMAT = 2
"""Version of the file format; a reader refuses any other."""

TYPES = ("bfloat16", "float16", "float32", "float64", "int8", "uint8", "int16", "uint16",
         "int32", "uint32", "int64", "uint64")  # fmt: skip
"""Of new values."""

Arrays = dict[str, "NDArray[Any]"]


def arrays_path(path: Path) -> Path:
    """Where the new values of a plan lie: plan.safetensors for plan.json."""
    return path.with_suffix(".safetensors")


MOST = 2**53
"""Above any length or index; sums of such numbers stay within 64 bits."""


def save_plan(plan: Plan, path: str | Path, force: bool = False) -> None:
    """Write a plan, all of it or nothing; equal plans give equal bytes.

    Parameters
    ----------
    plan
        What to write.
    path
        Of the JSON. New values go to a file of the same name that ends in .safetensors; the JSON
        holds its SHA-256.
    force
        Overwrite files that are there.

    Raises
    ------
    UsageError
        If a file exists already, or can't be written.
    """
    path = Path(path)
    check_output(path, force)
    fields, arrays = _fields(plan)
    contents: dict[Path, bytes] = {}
    if arrays:
        beside = arrays_path(path)
        contents[beside] = to_safetensors(arrays)
        checksum = hashlib.sha256(contents[beside]).hexdigest()
        fields["arrays"] = {"file": beside.name, "sha256": checksum}
    contents[path] = json.dumps(fields, indent=1).encode()
    stale = not arrays and _names_arrays(path)
    write_files(contents)  # the JSON comes last: it is what makes the other known
    if stale:
        arrays_path(path).unlink(missing_ok=True)


def _names_arrays(path: Path) -> bool:
    """Whether a plan is there that has new values beside it: they go when it is overwritten."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        fields = json.loads(path.read_bytes())
        file = arrays_path(path)
        return bool(fields["format"] == FORMAT and fields["arrays"]["file"] == file.name)
    return False


def digest(plan: Plan) -> str:
    """SHA-256 of what a plan says, new values included; where it is stored has no part in it."""
    fields, arrays = _fields(plan)
    hashed = hashlib.sha256(json.dumps(fields).encode())
    hashed.update(to_safetensors(arrays))
    return hashed.hexdigest()


def _fields(plan: Plan) -> tuple[dict[str, Any], Arrays]:
    """What goes into the JSON, and what beside it."""
    arrays: Arrays = {}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "source": plan.source,
        "exact": plan.exact,
        "moments": plan.moments,
        "forgotten": plan.forgotten,
        "reach": asdict(plan.reach),
        "cuts": [asdict(cut) for cut in plan.cuts],
        "picks": [asdict(pick) for pick in plan.picks],
        "zeros": [asdict(zero) for zero in plan.zeros],
        "rewrites": [asdict(rewrite) for rewrite in plan.rewrites],
        "updates": [
            {"tensor": update.tensor, **_put(arrays, f"update.{i}", update.values)}
            for i, update in enumerate(plan.updates)
        ],
        "biases": [
            {"node": bias.node, **_put(arrays, f"bias.{i}", bias.values)}
            for i, bias in enumerate(plan.biases)
        ],
    }
    return fields, arrays


def check_output(path: Path, force: bool) -> None:
    """Refuse a path that exists already, can't be written to, or does not end in .json.

    Raises
    ------
    UsageError
        Naming the mend.
    """
    if path.suffix != ".json" and not path.is_dir():
        raise UsageError(f"{path}: a plan is JSON; call it {path.stem}.json")
    for file in (path, arrays_path(path)):
        check_place(file, force, what="plan")


def _put(arrays: Arrays, key: str, values: NDArray[Any]) -> dict[str, Any]:
    """Store new values, as bytes where safetensors does not read their type back."""
    whole = np.ascontiguousarray(values).reshape(values.shape)
    arrays[key] = whole.view(np.uint16) if whole.dtype.name == "bfloat16" else whole
    return {"dtype": values.dtype.name, "shape": list(values.shape)}


def load_plan(path: str | Path) -> Plan:
    """Read what `save_plan` wrote.

    Raises
    ------
    DataError
        If a file is missing or damaged, not a plan or one of another version, or its parts do not
        fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such plan; make one with `discedit-onnx prune --dry-run`")
    try:
        fields = json.loads(path.read_bytes())
        if fields["format"] != FORMAT:
            raise DataError(
                f"{path}: a plan of another format; this version reads {FORMAT}: make it again"
            )
        arrays = _load_arrays(path, fields["arrays"]) if "arrays" in fields else {}
        plan = _plan(fields, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a plan, or a damaged one: make it again") from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: its new values can't be read: make it again") from error
    return plan


def _load_arrays(path: Path, described: Mapping[str, str]) -> Arrays:
    file = arrays_path(path)
    if not file.is_file():
        raise DataError(f"{path}: its new values lie in {file.name}, which is missing beside it")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise DataError(f"{path}: {file.name} beside it is not the file that it was written with")
    return from_safetensors(content)


def _plan(fields: Mapping[str, Any], arrays: Arrays) -> Plan:
    updates = [
        Update(_text(entry["tensor"]), _take(arrays, f"update.{i}", entry))
        for i, entry in enumerate(_list(fields["updates"]))
    ]
    biases = [
        Bias(_text(entry["node"]), _take(arrays, f"bias.{i}", entry))
        for i, entry in enumerate(_list(fields["biases"]))
    ]
    if len(arrays) != len(updates) + len(biases):
        raise ValueError("values that belong to nothing")
    return Plan(
        source=_text(fields["source"]),
        cuts=tuple(Cut(*_indexed(entry)) for entry in _list(fields["cuts"])),
        picks=tuple(Pick(*_indexed(entry)) for entry in _list(fields["picks"])),
        zeros=tuple(Zero(*_indexed(entry)) for entry in _list(fields["zeros"])),
        rewrites=tuple(_rewrite(entry) for entry in _list(fields["rewrites"])),
        updates=tuple(updates),
        biases=tuple(biases),
        reach=Reach(**{name: _truth(value) for name, value in fields["reach"].items()}),
        exact=_truth(fields["exact"]),
        moments=_text(fields["moments"]),
        forgotten=tuple(_text(name) for name in _list(fields["forgotten"])),
    )


def _take(arrays: Arrays, key: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    """New values, of the type and shape that the JSON says."""
    if entry["dtype"] not in TYPES:
        raise ValueError("an unknown type")
    values = arrays[key]
    if entry["dtype"] == "bfloat16":
        import ml_dtypes

        values = values.view(ml_dtypes.bfloat16)
    if (values.dtype.name, list(values.shape)) != (entry["dtype"], entry["shape"]):
        raise ValueError("values of another type or shape")
    return values


def _indexed(entry: Mapping[str, Any]) -> tuple[str, int, tuple[int, ...]]:
    indices = tuple(_natural(index) for index in _list(entry["indices"]))
    if list(indices) != sorted(set(indices)):
        raise ValueError("indices out of order")
    return _text(entry["tensor"]), _natural(entry["axis"]), indices


def _rewrite(entry: Mapping[str, Any]) -> Rewrite:
    place = entry["place"]
    values = tuple(_number(value) for value in _list(entry["values"]))
    shape = tuple(_natural(length) for length in _list(entry["shape"]))
    if np.prod(shape, dtype=np.int64) != len(values) or entry["dtype"] not in TYPES:
        raise ValueError("numbers of another shape")
    if not isinstance(place, str):
        place = _natural(place)
    return Rewrite(_text(entry["node"]), place, values, shape, entry["dtype"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a name")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return value


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
        raise TypeError("not a natural number")
    return value
