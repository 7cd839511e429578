"""The record of a run of `forget`, and its replay.

It says which algorithm ran on which bytes with which parameters. It says nothing of what the model
was trained on, or of any rule being met.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..editing.forget import Forgetting, forget
from ..editing.forgetting.components import Amount
from ..editing.forgetting.way import Way
from ..editing.lineage import hash_of
from ..errors import DataError, GateError, UsageError, reason_of
from ..files import real_path, write_files
from ..model import load

if TYPE_CHECKING:
    from ..calibration.data import Dataset
    from ..calibration.moments import Moments
    from ..model import Model

SUFFIX = ".manifest.json"
FORMAT = "discedit-onnx forget 1"
LIBRARIES = ("discedit-onnx", "numpy", "onnx", "scipy")


@dataclass(frozen=True)
class DataRecord:
    """The images that an edit saw.

    Attributes
    ----------
    name
        The folder's or the file's own name.
    samples
        How many.
    digest
        SHA-256 of what the model was fed, and of the labels, in order; see `digest_of`.
    preprocess, labels, num_samples, seed, class_map
        How they were opened; see `open_data`.
    """

    name: str
    samples: int
    digest: str
    preprocess: str | None = None
    labels: str = "given"
    num_samples: int | None = None
    seed: int = 0
    class_map: str | None = None


@dataclass(frozen=True)
class Manifest:
    """One run of `forget`.

    Attributes
    ----------
    way
        All parameters.
    classes
        Columns of the model's output.
    versions
        By library.
    model, result
        SHA-256 of the files read and written.
    moments
        SHA-256 of the moments given, see `lineage.hash_of`; None where there were none, or they
        were gathered from the data.
    data
        The images; None where there were none.
    device
        As it was asked for.
    """

    way: Way
    classes: tuple[int, ...]
    versions: dict[str, str]
    model: str
    result: str
    moments: str | None
    data: DataRecord | None
    device: str


def manifest_path(output: Path) -> Path:
    """Where the manifest of an edited model lies: OUT.manifest.json."""
    return output.with_name(output.name + SUFFIX)


def digest_of(data: Dataset) -> str:
    """SHA-256 of all that a model is fed, and of the labels, in the order of the data."""
    hashed = hashlib.sha256()
    # Sample by sample, so that the digest does not depend on batches.
    for batch in data.batches(64 if data.source.uniform else 1):
        for row, label in enumerate(batch.labels):
            for name, values in sorted(batch.feeds.items()):
                hashed.update(f"{name} {values.dtype} {values.shape[1:]}".encode())
                hashed.update(np.ascontiguousarray(values[row]).tobytes())
            hashed.update(f"{label}".encode())
    return hashed.hexdigest()


def record(
    edit: Forgetting,
    output: Path,
    *,
    moments: Moments | None,
    data: DataRecord | None,
    device: str = "auto",
) -> Manifest:
    """What to say of an edit that was saved.

    Parameters
    ----------
    edit
        The edit.
    output
        Where it was saved.
    moments
        Those of a file; None where they were gathered from the data.
    data, device
        See `Manifest`.
    """
    return Manifest(
        edit.way,
        edit.classes,
        {name: metadata.version(name) for name in LIBRARIES},
        edit.source.hash,
        load(output).hash,
        None if moments is None else hash_of(moments),
        data,
        device,
    )


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write it, all or nothing.

    Raises
    ------
    UsageError
        If it can't be written.
    """
    write_files({path: manifest_bytes(manifest)})


def manifest_bytes(manifest: Manifest) -> bytes:
    """What its file holds."""
    return (json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2) + "\n").encode()


def load_manifest(path: Path) -> Manifest:
    """Read it.

    Raises
    ------
    DataError
        If there is none, or it is not one.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        if fields.pop("format") != FORMAT:
            raise ValueError
        way = dict(fields.pop("way"))
        amount = way.pop("amount")
        data = fields.pop("data")
        classes = tuple(int(k) for k in fields.pop("classes"))
        return Manifest(
            way=Way(**way, amount=None if amount is None else Amount(**amount)),
            classes=classes,
            data=None if data is None else DataRecord(**data),
            **fields,
        )
    except OSError as error:
        raise DataError(f"{path}: can't be read: {reason_of(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not a manifest that `forget` of this version wrote") from error


def replay(
    manifest: Manifest,
    model: Model,
    output: Path,
    *,
    moments: Moments | None = None,
    data: Dataset | None = None,
    force: bool = False,
) -> None:
    """Do it again, and write the result only if its bytes are those recorded.

    Parameters
    ----------
    manifest
        The record.
    model
        The model that was edited.
    output
        Where to write.
    moments, data
        What the record names; None where it names none.
    force
        Overwrite the output.

    Raises
    ------
    DataError
        If model, moments or images are not those recorded; the message names both hashes.
    GateError
        If the result has another hash; nothing is written then.
    """
    _same("the model", model.hash, manifest.model)
    _same("the moments", None if moments is None else hash_of(moments), manifest.moments)
    recorded = None if manifest.data is None else manifest.data.digest
    _same("the images", None if data is None else digest_of(data), recorded)
    edit = forget(model, moments, manifest.classes, manifest.way, data=data, device=manifest.device)
    try:
        place = real_path(output).parent
        with tempfile.TemporaryDirectory(prefix=".discedit-", dir=place) as folder:
            trial = Path(folder) / output.name
            edit.save(trial)
            found = load(trial).hash
    except FileNotFoundError as error:
        raise UsageError(f"{output.parent}: no such folder for the output") from error
    except UsageError as error:  # which names the trial, as nobody knows it
        raise UsageError(str(error).replace(str(trial), str(output))) from error
    if found != manifest.result:
        own = {name: metadata.version(name) for name in LIBRARIES}
        other = [
            f"{name} {own[name]}, not {version}"
            for name, version in manifest.versions.items()
            if own.get(name) != version
        ]
        why = f" ({'; '.join(other)})" if other else ""
        raise GateError(
            f"the result has the hash {found[:16]}, recorded is {manifest.result[:16]}{why}; "
            "nothing was written"
        )
    edit.save(output, force)


def _same(what: str, found: str | None, recorded: str | None) -> None:
    if found == recorded:
        return
    if recorded is None:
        raise DataError(f"{what}: given, though the record names none; leave that out")
    if found is None:
        raise DataError(
            f"{what}: not given, and the record names {recorded[:16]}; give what was recorded"
        )
    raise DataError(
        f"{what}: another hash, {found[:16]}, than the one recorded, {recorded[:16]}; give what "
        "was recorded"
    )
