"""How a layer's numbers are stored, where they are not as it reads them: cast, or quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from ...graph.view import is_float

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from ...graph.view import Node, View

    Tensors = Mapping[str, onnx.TensorProto]

SCALE, ZERO_POINT = 1, 2
"""Inputs of DequantizeLinear."""


@dataclass(frozen=True)
class Stored:
    """An initializer, and what a layer makes of it.

    Attributes
    ----------
    tensor
        Its name, which plans call it by.
    element
        `TensorProto.DataType` in which the layer reads it.
    cast
        Whether it is stored in another floating-point type.
    scale, zero_point
        The constants that it is quantised with; empty where there is none.
    axis
        Of the scale, where it has a number for each index.
    """

    tensor: str
    element: int
    cast: bool = False
    scale: str = ""
    zero_point: str = ""
    axis: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what the layer reads."""
        return helper.tensor_dtype_to_np_dtype(self.element)

    @property
    def exact(self) -> bool:
        """Whether any numbers of its type can be stored."""
        return not self.scale and not self.cast

    def read(self, tensors: Tensors) -> NDArray[np.floating]:
        """The numbers as the layer reads them."""
        values = numpy_helper.to_array(tensors[self.tensor])
        if self.scale:
            scale, zero = self._code(tensors, values.ndim)
            values = (values.astype(np.float32) - zero) * scale
        found: NDArray[np.floating] = values.astype(self.dtype)
        return found

    def written(self, values: NDArray[np.floating], tensors: Tensors) -> NDArray[Any]:
        """What to store so that the layer reads these numbers, or the nearest that there are."""
        dtype = helper.tensor_dtype_to_np_dtype(tensors[self.tensor].data_type)
        if self.scale:
            scale, zero = self._code(tensors, values.ndim)
            limits = np.iinfo(dtype)
            steps = np.divide(values, scale, out=np.zeros(values.shape), where=scale != 0)
            values = np.clip(np.rint(steps + zero), limits.min, limits.max)
        return values.astype(dtype)

    def _code(self, tensors: Tensors, axes: int) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = [1] * axes
        scale = numpy_helper.to_array(tensors[self.scale]).astype(np.float64)
        if scale.size > 1:
            shape[self.axis] = -1
        zero = np.zeros(1)
        if self.zero_point:
            zero = numpy_helper.to_array(tensors[self.zero_point]).astype(np.float64)
        return scale.reshape(shape), zero.reshape(shape if zero.size > 1 else [1] * axes)


def find_stored(view: View, name: str) -> Stored | None:
    """The initializer behind a constant that one node reads, once, and nothing else does.

    A cast between floating-point types may lie between, or DequantizeLinear with constant scales
    of integers of 8 bits and more; weights that are computed in other ways are None.
    """
    element, cast = view.element_type(name), False
    while name not in view.initializers:
        node = view.producer.get(name)
        if node is None or node.domain or not node.inputs or not _read_once(view, name):
            return None
        source = node.inputs[0]
        if node.op == "DequantizeLinear" and owned(view, source):
            return _quantised(view, node, element)
        if node.op not in ("Cast", "Identity") or not is_float(view.element_type(source)):
            return None
        cast |= view.element_type(source) != view.element_type(name)
        name = source
    if not owned(view, name) or not is_float(view.initializers[name].data_type):
        return None
    return Stored(name, element, cast) if is_float(element) else None


def owned(view: View, name: str) -> bool:
    """Whether a name is a constant that one node reads, and once."""
    return name in view.initializers and _read_once(view, name)


def _read_once(view: View, name: str) -> bool:
    captured = any(name in node.captured for node in view.nodes)
    return name not in view.outputs and len(view.consumers[name]) == 1 and not captured


def _quantised(view: View, node: Node, element: int) -> Stored | None:
    name, *about = node.inputs
    integers = helper.tensor_dtype_to_np_dtype(view.initializers[name].data_type)
    known = all(each in view.initializers for each in about if each)
    whole = not node.attributes.get("block_size", 0)
    if not (known and whole and integers.kind in "iu" and is_float(element)):
        return None
    axes = len(view.initializers[name].dims)
    axis = int(node.attributes.get("axis", 1))
    zero = node.inputs[ZERO_POINT] if len(node.inputs) > ZERO_POINT else ""
    return Stored(name, element, False, node.inputs[SCALE], zero, axis % axes if axes else 0)
