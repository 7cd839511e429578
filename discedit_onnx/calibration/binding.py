"""Runs whose inputs have a place on the device, and of which only what is asked for crosses the
bus."""

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
    """A session, and its inputs in memory that one batch after the other uses.

    On CUDA each input has one place on the device, which is written to as long as batches have
    the same shape: an odd last batch gets a place of its own. Elsewhere ONNX Runtime reads inputs
    where they are.

    Parameters
    ----------
    session
        The model.
    outputs
        The outputs to compute, in this order.
    """

    def __init__(self, session: Session, outputs: Sequence[str]) -> None:
        self.outputs = tuple(outputs)
        self._session = session
        self._values = import_onnxruntime().OrtValue
        self._io: Any = session.inner.io_binding()
        self._inputs: dict[str, Any] = {}

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Compute the outputs.

        Raises
        ------
        ModelError
            With ONNX Runtime's reason, if the model stops while it runs.
        """
        with self._session.explained(feeds):
            for name, array in feeds.items():
                self._bind_input(name, np.ascontiguousarray(array))
            for name in self.outputs:  # bound as it was, it would keep the shape of the last batch
                self._io.bind_output(name, "cpu")
            self._session.inner.run_with_iobinding(self._io)
            return [value.numpy() for value in self._io.get_outputs()]

    def close(self) -> None:
        """Let go of the memory, and close the session."""
        self._io = None
        self._inputs.clear()
        self._session.close()

    def _bind_input(self, name: str, array: Array) -> None:
        if self._session.cuda is None:
            self._io.bind_cpu_input(name, array)
            return
        there = self._inputs.get(name)
        if there is not None and tuple(there.shape()) == array.shape:
            there.update_inplace(array)
            return
        there = self._values.ortvalue_from_numpy(array, "cuda", self._session.cuda)
        self._io.bind_ortvalue_input(name, there)
        self._inputs[name] = there
