"""Scores as a file of arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_files

if TYPE_CHECKING:
    from .saliency import Scores


def save_npz(scores: Scores, path: str | Path) -> None:
    """Write a NumPy archive, all of it or nothing; nothing in it is pickled.

    It holds `bounds` and `signs` (channels, L), `component`, `layer` and `channel` (channels,),
    `sides` (L, 2), `witness` and `features`.

    Raises
    ------
    UsageError
        If it can't be written there.
    """
    path = Path(path)
    lengths = [tap.length for tap in scores.taps]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        bounds=scores.bounds,
        signs=scores.signs,
        component=scores.component,
        layer=np.repeat([tap.tensor for tap in scores.taps], lengths),
        channel=np.concatenate([np.arange(length) for length in lengths]),
        sides=np.array(scores.sides, dtype=str).reshape(-1, 2),
        witness=np.array(scores.witness),
        features=np.array(scores.features),
    )
    write_files({path: content.getvalue()})
