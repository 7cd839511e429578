"""Models in ONNX Runtime, on the device that was asked for."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import EncodeError

from ..errors import ModelError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    import numpy.typing as npt

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
DEVICE = re.compile(r"auto|cpu|cuda(?::(\d+))?")

SILENT, WARNINGS = 4, 2
"""Levels of ONNX Runtime's process-wide log: nothing but crashes, and what it starts with."""


@dataclass(frozen=True, eq=False)
class Session:
    """A model loaded into ONNX Runtime; use it in a `with` statement, or close it.

    Attributes
    ----------
    inner
        The `onnxruntime.InferenceSession`.
    device
        The device that it really runs on: "cpu" or "cuda:N".
    files
        Files that must exist as long as the session does.
    """

    inner: Any
    device: str
    files: contextlib.ExitStack

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the session's temporary files, if it has any."""
        self.files.close()

    @property
    def provider(self) -> str:
        """The execution provider that comes first."""
        return str(self.inner.get_providers()[0])

    @property
    def input(self) -> str:
        """Name of the first input."""
        return str(self.inner.get_inputs()[0].name)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Compute the named outputs.

        Raises
        ------
        ModelError
            With ONNX Runtime's reason, if the model stops while it runs.
        """
        try:
            return list(self.inner.run(list(outputs), dict(feeds)))
        except Exception as error:  # ONNX Runtime's kinds have no common base but this
            raise ModelError(
                f"the model failed on a batch of {len(next(iter(feeds.values())))} "
                f"(if memory ran out, use a smaller --batch-size): {first_line(error)}"
            ) from error


def open_session(
    model: onnx.ModelProto, device: str = "auto", *, as_written: bool = False
) -> Session:
    """Load a model into ONNX Runtime, on the device asked for or not at all.

    Parameters
    ----------
    model
        The model, of any size; not changed.
    device
        "cpu", "cuda" or "cuda:N"; "auto" takes the first CUDA device if CUDA really starts, else
        the CPU.
    as_written
        Keep ONNX Runtime from turning QuantizeLinear and DequantizeLinear around an operator into
        an 8-bit kernel: those saturate on some processors, round what the graph does not, and take
        it that a bias has the scale that they expect.

    Raises
    ------
    UsageError
        If ONNX Runtime is missing, there is no such device, or CUDA was asked for and does not
        start.
    ModelError
        If ONNX Runtime refuses the model.
    """
    found = DEVICE.fullmatch(device)
    if found is None:
        raise UsageError(f"--device {device}: no such device; use auto, cpu, cuda or cuda:N")
    ort = import_onnxruntime()
    with contextlib.ExitStack() as files:
        source = _loadable(model, files)
        if device != "cpu":
            index = int(found[1] or 0)
            inner = _open_on_cuda(ort, source, index, as_written)
            if inner is not None:
                return Session(inner, f"cuda:{index}", files.pop_all())
        # Also where CUDA was asked for: if the CPU refuses the model too, CUDA is not to blame.
        inner = _open_on_cpu(ort, source, as_written)
        if device.startswith("cuda"):
            raise _no_cuda(ort, device)
        return Session(inner, "cpu", files.pop_all())


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, which no other part of the program imports.

    Raises
    ------
    UsageError
        If it is not installed, or its installation is broken.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            'ONNX Runtime is not installed: pip install "discedit-onnx[cpu]" (or [gpu])'
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left of the package after one of two builds was uninstalled.
        raise UsageError(
            "the installation of ONNX Runtime is broken: uninstall onnxruntime and "
            'onnxruntime-gpu, then pip install "discedit-onnx[cpu]" (or [gpu])'
        )
    return onnxruntime  # type: ignore[no-any-return]


@contextlib.contextmanager
def silenced(ort: ModuleType) -> Iterator[None]:
    """Keep ONNX Runtime from telling the terminal which libraries it tried in vain."""
    ort.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(WARNINGS)  # it can't be asked what it was


def preload_cuda(ort: ModuleType) -> None:
    """Load NVIDIA's libraries where they were installed from PyPI; call it `silenced`."""
    if hasattr(ort, "preload_dlls"):  # since 1.21
        ort.preload_dlls()


def create_session(
    ort: ModuleType, source: str | bytes, providers: Sequence[Any], as_written: bool = False
) -> Any:
    """An `InferenceSession` that prints no warnings and never changes its providers by itself."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)


def _open_on_cpu(ort: ModuleType, source: str | bytes, as_written: bool) -> Any:
    try:
        return create_session(ort, source, [CPU], as_written)
    except Exception as error:  # ONNX Runtime's kinds have no common base but this
        raise ModelError(f"ONNX Runtime can't load the model: {first_line(error)}") from error


def _open_on_cuda(ort: ModuleType, source: str | bytes, index: int, as_written: bool) -> Any:
    """A session that has CUDA, or None. What is on offer is no proof that it starts."""
    if CUDA not in ort.get_available_providers():
        return None
    settings = {
        "device_id": str(index),
        # TF32 keeps 10 bits of the mantissa: scores and equality proofs would differ by device.
        "use_tf32": "0",
        # The default times every algorithm anew for each shape, so for an odd last batch too.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    with silenced(ort):
        try:
            preload_cuda(ort)
            inner = create_session(ort, source, [(CUDA, settings), CPU], as_written)
        except Exception:  # no such device, driver too old, or the model's fault: the CPU tells
            return None
    return inner if inner.get_providers()[0] == CUDA else None


def _no_cuda(ort: ModuleType, device: str) -> UsageError:
    """Why CUDA is not there, as far as it can be known, and the mend."""
    if CUDA not in ort.get_available_providers():
        return UsageError(
            f"--device {device}: this ONNX Runtime is built without CUDA: pip uninstall "
            'onnxruntime, then pip install "discedit-onnx[gpu]"; or use --device cpu'
        )
    return UsageError(
        f"--device {device}: CUDA does not start: it needs that device, NVIDIA's driver, and "
        'CUDA and cuDNN (pip install "discedit-onnx[gpu-cuda]" brings these two); '
        "or use --device cpu"
    )


def _loadable(model: onnx.ModelProto, files: contextlib.ExitStack) -> str | bytes:
    """The model as bytes, or as a file if it passes the 2 GiB that protobuf can serialise."""
    payload = _serialised(model)
    if payload is not None:
        return payload
    path = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="discedit-"))) / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # onnx.save takes the weights out of what it is given
    onnx.save(copy, path, save_as_external_data=True, location="model.data")
    return str(path)


def _serialised(model: onnx.ModelProto) -> bytes | None:
    """The model as bytes, or None if it is too large for that."""
    try:
        payload: bytes = model.SerializeToString()
    except (EncodeError, ValueError):  # which of the two depends on protobuf's implementation
        return None
    return payload
