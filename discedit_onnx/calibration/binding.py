"""Runs whose memory is bound beforehand: nothing is allocated anew, and only what is asked for
crosses the bus of a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .session import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from .session import Session

    Array = npt.NDArray[Any]


class Binding:
    """A session, its inputs and its outputs in memory that one batch after the other uses.

    On CUDA each input has one place on the device, which is written to as long as batches have
    the same shape: an odd last batch gets a place of its own. Elsewhere ONNX Runtime reads inputs
    where they are.

    Parameters
    ----------
    session
        The model.
    outputs
        The outputs to compute, in this order.
    shapes
        Shapes of those float32 outputs that have the same one for every batch.
    """

    def __init__(
        self, session: Session, outputs: Sequence[str], shapes: Mapping[str, Sequence[int]]
    ) -> None:
        self.outputs = tuple(outputs)
        self._session = session
        self._values = import_onnxruntime().OrtValue
        self._io: Any = session.inner.io_binding()
        self._fixed = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        self._inputs: dict[str, Any] = {}
        self._free = [name for name in outputs if name not in self._fixed]
        for name, array in self._fixed.items():
            self._io.bind_ortvalue_output(name, self._values.ortvalue_from_numpy(array))

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Compute the outputs. Those of fixed shape are overwritten by the next run.

        Raises
        ------
        ModelError
            With ONNX Runtime's reason, if the model stops while it runs.
        """
        with self._session.explained(feeds):
            for name, array in feeds.items():
                self._bind_input(name, np.ascontiguousarray(array))
            for name in self._free:  # bound as it was, it would keep the shape of the last batch
                self._io.bind_output(name, "cpu")
            self._session.inner.run_with_iobinding(self._io)
            made = self._io.get_outputs()[len(self._fixed) :]
        found = {name: value.numpy() for name, value in zip(self._free, made, strict=True)}
        return [{**self._fixed, **found}[name] for name in self.outputs]

    def close(self) -> None:
        """Let go of the memory, and close the session."""
        self._io = None
        self._inputs.clear()
        self._session.close()

    def _bind_input(self, name: str, array: Array) -> None:
        kind, _, number = self._session.device.partition(":")
        if kind != "cuda":
            self._io.bind_cpu_input(name, array)
            return
        there = self._inputs.get(name)
        if there is not None and tuple(there.shape()) == array.shape:
            there.update_inplace(array)
            return
        there = self._values.ortvalue_from_numpy(array, "cuda", int(number))
        self._io.bind_ortvalue_input(name, there)
        self._inputs[name] = there
