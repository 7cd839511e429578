"""The manifest beside a model that forgot."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.editing.forget import Forgetting

    from .inputs import DataOptions


def save_with_manifest(
    edit: Forgetting,
    output: Path,
    force: bool,
    moments: Moments | None,
    data: Dataset | None,
    asked: DataOptions,
    device: str,
) -> None:
    """Write the model and OUT.manifest.json beside it: both, or neither.

    Parameters
    ----------
    edit, output, force
        What to save, where, and whether files may be there already.
    moments
        Those of a file; None where they were gathered from the data.
    data, asked
        The images, and how they were asked for.
    device
        As it was asked for.
    """
    from discedit_onnx.evidence.manifest import (
        SUFFIX,
        DataRecord,
        digest_of,
        manifest_bytes,
        record,
    )

    images = None
    if data is not None:
        images = DataRecord(
            name=Path(asked.where or "").name,
            samples=len(data),
            digest=digest_of(data),
            preprocess=asked.preprocess,
            labels=asked.labels,
            num_samples=asked.num_samples,
            seed=asked.seed,
            class_map=None if asked.class_map is None else str(asked.class_map),
        )

    def beside(saved: Path) -> dict[str, bytes]:
        found = record(edit, saved, moments=moments, data=images, device=device)
        return {SUFFIX: manifest_bytes(found)}

    edit.save(output, force, beside)


def clear(output: Path, force: bool) -> None:
    """Remove a manifest that is left of what was overwritten: it is not of the model there now."""
    import discedit_onnx as dx
    from discedit_onnx.errors import DataError
    from discedit_onnx.evidence.manifest import load_manifest, manifest_path

    path = manifest_path(output)
    if not (force and path.is_file()):
        return
    with contextlib.suppress(DataError):  # what is no manifest is not ours
        if load_manifest(path).result != dx.load(output).hash:
            path.unlink()
