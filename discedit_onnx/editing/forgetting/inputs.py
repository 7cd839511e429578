"""Second moments of what layers read, retained and forgotten, from one pass over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from ...calibration.runner import run_batches
from ...calibration.second import SecondMoments
from ...calibration.session import open_session
from .maps import matrix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...calibration.data import Dataset
    from ...graph.view import View
    from ..refit.layers import Layer


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives some tensors out, after its own outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    known = {output.name for output in proto.graph.output}
    new = [name for name in names if name not in known]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in new)
    return model


def gather_rows(
    view: View,
    layers: Sequence[Layer],
    data: Dataset,
    forgotten: Sequence[int],
    device: str,
    batch_size: int,
) -> list[tuple[SecondMoments, SecondMoments]]:
    """Retained and forgotten rows (`Layer.rows`) of layers of one group, a batch at a time.

    Parameters
    ----------
    view
        Of the model.
    layers
        The layers.
    data
        Labelled images of both kinds.
    forgotten
        Classes, by label.
    device, batch_size
        As in `calibrate`.
    """
    names = list(dict.fromkeys(layer.input for layer in layers))
    widths = [len(matrix_of(view, layer)) for layer in layers]
    found = [[SecondMoments.empty(width) for _ in range(2)] for width in widths]
    with open_session(with_outputs(view.proto, names), device) as session:
        for values, labels in run_batches(session, names, data, batch_size=batch_size):
            seen = dict(zip(names, values, strict=True))
            inside = np.isin(labels, list(forgotten))
            for layer, kinds in zip(layers, found, strict=True):
                for kind, chosen in enumerate((~inside, inside)):
                    if chosen.any():
                        rows = layer.rows(seen[layer.input][chosen])[0]
                        kinds[kind] = kinds[kind].add(_moments(rows))
    return [(retained, gone) for retained, gone in found]


def gather_features(
    proto: onnx.ModelProto, head: Layer, data: Dataset, device: str, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a head reads, a mean over places, (N, C); and the labels, (N,)."""
    found, seen = [], []
    with open_session(with_outputs(proto, [head.input]), device) as session:
        runs = run_batches(session, [head.input], data, batch_size=batch_size)
        for (values,), labels in runs:
            last = np.moveaxis(values, head.channel_axis, -1)
            means = last.reshape(len(last), -1, last.shape[-1]).mean(axis=1, dtype=np.float64)
            found.append(means)
            seen.append(labels)
    return np.concatenate(found), np.concatenate(seen)


def _moments(rows: NDArray[np.floating]) -> SecondMoments:
    """Of one batch, shape (rows, F)."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean.astype(rows.dtype)
    return SecondMoments(len(rows), mean, (centred.T @ centred).astype(np.float64))
