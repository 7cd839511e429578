"""One pass of the images through a model: the classifier in it, the batches, the moments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ..errors import DataError, ModelError
from .moments import Moments
from .preprocess import ImageForm
from .session import Session, import_onnxruntime, open_session
from .taps import FEATURES, Tap, augment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..model import Model
    from .data import ImageFolder, Labels
    from .preprocess import Preprocess

__all__ = [
    "Classifier",
    "Progress",
    "Session",
    "calibrate",
    "classifier_of",
    "open_session",
    "run_batches",
]

Array: TypeAlias = npt.NDArray[Any]
Progress: TypeAlias = Callable[[int, int], None]
"""Called after each batch with the images done and the images in all."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Classifier:
    """How a model is fed images and where its logits come out.

    Attributes
    ----------
    input, output
        Names of the image input and of the output with one column for each class.
    form
        The images that it takes.
    dtype
        NumPy type of the input.
    batch
        The only batch size that it takes, or None if it takes any.
    num_classes
        Columns of the output.
    """

    input: str
    output: str
    form: ImageForm
    dtype: np.dtype[Any]
    batch: int | None
    num_classes: int

    def feeds(self, images: Array) -> dict[str, Array]:
        """What a session is fed for these images."""
        return {self.input: images.astype(self.dtype, copy=False)}


def classifier_of(model: Model) -> Classifier:
    """Find the image input and the class scores of a model.

    The input is the only one that no initializer fills, floating-point, with 4 axes; it is
    channels-first if axis 1 has length 1 or 3, else channels-last if axis 3 has. The output is
    the first that is floating-point with 2 axes, the second of known length 2 or more.

    Raises
    ------
    ModelError
        If there is no such input or output.
    """
    graph = model.proto.graph
    filled = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in filled]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(
            f"{model.path}: takes {len(inputs)} inputs ({names}); export it with one image input"
        )
    image = inputs[0]
    dims = _dims(image)
    if image.type.tensor_type.elem_type not in FLOATS or len(dims) != 4:
        raise ModelError(
            f"{model.path}: input {image.name!r} is not a floating-point tensor of 4 axes; "
            "export it with one image input"
        )
    output, num_classes = _class_scores(model)
    return Classifier(
        input=image.name,
        output=output,
        form=_form(model, image.name, dims),
        dtype=np.dtype(helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)),
        batch=dims[0],
        num_classes=num_classes,
    )


def _form(model: Model, name: str, dims: Sequence[int | None]) -> ImageForm:
    """The form of image by the lengths of the input's axes."""
    _, a, b, c = dims
    if a in CHANNELS:
        return ImageForm(a, b, c)
    if c in CHANNELS:
        return ImageForm(c, a, b, channels_last=True)
    shape = " x ".join("?" if length is None else str(length) for length in dims)
    raise ModelError(
        f"{model.path}: input {name!r} is {shape}, with no axis of 1 or 3 channels; "
        "export it with a fixed number of channels"
    )


def _class_scores(model: Model) -> tuple[str, int]:
    """Name and width of the classifier output."""
    found = _first_matrix(model.proto.graph)
    if found is None:
        # Exporters may leave a width open that follows from the weights.
        with contextlib.suppress(Exception):
            found = _first_matrix(onnx.shape_inference.infer_shapes(model.proto).graph)
    if found is None:
        raise ModelError(
            f"{model.path}: no classifier output: none is (batch, classes) with two classes or "
            "more; export the model so that it ends in its class scores"
        )
    return found


def _first_matrix(graph: onnx.GraphProto) -> tuple[str, int] | None:
    """Name and width of the first floating-point output of two or more columns."""
    for value in graph.output:
        dims = _dims(value)
        if value.type.tensor_type.elem_type in FLOATS and len(dims) == 2:
            width = dims[1]
            if width is not None and width >= 2:
                return value.name, width
    return None


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Lengths of a tensor's axes, None where open; empty if nothing is known."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else None for dim in dims]


def run_batches(
    session: Session,
    classifier: Classifier,
    outputs: Sequence[str],
    data: ImageFolder,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Iterator[tuple[list[Array], Labels]]:
    """Run a session over all images, in order.

    A model of a fixed batch size overrules `batch_size`; the last batch is then filled up, and
    the rows of the filling are dropped.

    Yields
    ------
    results : list of arrays
        The named outputs, N rows each.
    labels : int64 array
        (N,)

    Raises
    ------
    DataError
        If an image can't be read, or the data are of other classes than the model's.
    ModelError
        If the model fails, or an output does not have one row an image.
    """
    if len(data.class_names) != classifier.num_classes:
        raise DataError(
            f"{data.root}: {len(data.class_names)} classes, but the model has "
            f"{classifier.num_classes}; use data with the model's classes"
        )
    size = classifier.batch or batch_size
    done = 0
    for images, labels in data.batches(preprocess, classifier.form, size):
        if classifier.batch is not None and len(images) < size:
            images = np.concatenate([images, images[-1:].repeat(size - len(images), axis=0)])
        results = session.run(outputs, classifier.feeds(images))
        for name, result in zip(outputs, results, strict=True):
            if result.shape[0] != len(images):
                raise ModelError(
                    f"tensor {name!r} has {result.shape[0]} rows for {len(images)} images; "
                    "export the model so that the first axis is the batch all the way"
                )
        yield [result[: len(labels)] for result in results], labels
        done += len(labels)
        if progress is not None:
            progress(done, len(data))


def calibrate(
    model: Model,
    data: ImageFolder,
    taps: Sequence[Tap],
    preprocess: Preprocess,
    *,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Moments:
    """Gather the moments of tapped tensors in one pass over labelled images.

    Memory does not depend on the number of images.

    Parameters
    ----------
    model
        The classifier.
    data
        The images.
    taps
        The tensors to look at.
    preprocess
        What becomes of each image.
    device
        See `open_session`.
    batch_size
        Images at a time. It changes the moments by rounding only.
    progress
        Called after each batch with the images done and the images in all.

    Returns
    -------
    Moments
        With `facts`: device, provider, version of ONNX Runtime, preprocessing, name of the data's
        folder, how its class folders were matched, and the model's top-1 accuracy on the images.

    Raises
    ------
    UsageError
        If there is no ONNX Runtime, or the device can't be had.
    ModelError
        If the model is not an image classifier, or can't be run.
    DataError
        If the images do not fit the model.
    """
    classifier = classifier_of(model)
    session, statistics = _tapped_session(model.proto, taps, device)
    moments = Moments.empty(taps, data.class_names, model.hash)
    hits = 0
    with session:
        for (logits, *results), labels in run_batches(
            session,
            classifier,
            [classifier.output, *statistics],
            data,
            preprocess,
            batch_size=batch_size,
            progress=progress,
        ):
            hits += int((logits.argmax(axis=1) == labels).sum())
            moments = moments.update(_features(taps, results, len(labels)), labels)
    facts = {
        "accuracy": f"{hits / len(data):.4f}",
        "data": data.root.resolve().name,
        "device": session.device,
        "labels": f"class folders {data.matched}",
        "onnxruntime": str(import_onnxruntime().__version__),
        "preprocessing": str(preprocess),
        "provider": session.provider,
    }
    return replace(moments, facts=facts)


def _tapped_session(
    model: onnx.ModelProto, taps: Sequence[Tap], device: str
) -> tuple[Session, list[str]]:
    """A session of the tapped model, and the names of the statistics among its outputs."""
    tapped = augment(model, taps)
    names = [value.name for value in tapped.graph.output[len(model.graph.output) :]]
    return open_session(tapped, device), names


def _features(taps: Sequence[Tap], results: Sequence[Array], count: int) -> Array:
    """The outputs that `augment` added as one float32 array (N, C, F)."""
    channels = sum(tap.length for tap in taps)
    features = np.empty((count, channels, len(FEATURES)), np.float32)
    start = 0
    for number, tap in enumerate(taps):
        for f in range(len(FEATURES)):
            result = results[number * len(FEATURES) + f]
            features[:, start : start + tap.length, f] = result
        start += tap.length
    return features
