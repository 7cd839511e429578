"""Models in ONNX Runtime, on the device that was asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import EncodeError

from ..errors import ModelError, UsageError, first_line
from .weightless import Weightless, weightless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    import numpy.typing as npt
    import onnx

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
DEVICE = re.compile(r"auto|cpu|cuda(?::(?P<number>\d+))?(?P<tf32>\+tf32)?")

PROVIDERS = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Short names; any other provider goes by ONNX Runtime's own name."""

AS_WRITTEN = "session.disable_quant_qdq"
SPINNING = "session.intra_op.allow_spinning"
"""Names of ONNX Runtime's own settings."""

LOG = logging.getLogger(__name__)

SILENT, WARNINGS = 4, 2
"""Levels of ONNX Runtime's process-wide log: nothing but crashes, and what it starts with."""


@dataclass(eq=False)
class Session:
    """A model loaded into ONNX Runtime; use it in a `with` statement, or close it.

    Attributes
    ----------
    inner
        The `onnxruntime.InferenceSession`.
    device
        What it really runs on: "cpu", "cuda:N", "cuda:N+tf32", or the short name of another
        provider.
    weights
        Memory that must exist as long as the session does: it may read its weights there.
    provider
        The execution provider that comes first.
    """

    inner: Any
    device: str
    weights: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        self.provider = str(self.inner.get_providers()[0])
        LOG.info("%s", self)

    @property
    def cuda(self) -> int | None:
        """Number of the CUDA device that it runs on, or None."""
        found = DEVICE.fullmatch(self.device)
        return int(found["number"]) if found and found["number"] else None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """What ONNX Runtime was really given to run with."""
        found = self.inner.get_session_options()
        threads = found.intra_op_num_threads or os.cpu_count()
        level = str(found.graph_optimization_level).rpartition("ORT_")[2]
        return (
            f"ONNX Runtime on {self.device}: {', '.join(self.inner.get_providers())}; "
            f"threads: {threads}; optimisation: {level.replace('_', ' ').lower()}"
        )

    def close(self) -> None:
        """Let go of the model's memory; the session can't be used any more."""
        self.inner = None
        self.weights = {}

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Compute the named outputs.

        Raises
        ------
        ModelError
            With ONNX Runtime's reason, if the model stops while it runs.
        """
        with self.explained(feeds):
            return list(self.inner.run(list(outputs), dict(feeds)))

    @contextlib.contextmanager
    def explained(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Iterator[None]:
        """Turn whatever ends a run on these feeds into a ModelError."""
        try:
            yield
        except Exception as error:  # ONNX Runtime's kinds have no common base but this
            raise ModelError(
                f"the model failed on a batch of {len(next(iter(feeds.values())))} "
                f"(if memory ran out, use a smaller --batch-size): {first_line(error)}"
            ) from error


def open_session(
    model: onnx.ModelProto | Weightless,
    device: str = "auto",
    *,
    providers: Sequence[str] = (),
    as_written: bool = False,
    shared: bool = False,
    lanes: int = 1,
) -> Session:
    """Load a model into ONNX Runtime, on the device asked for or not at all.

    Large weights are handed over in memory, beside the model: there is no limit of 2 GiB and no
    temporary file.

    Parameters
    ----------
    model
        The model, of any size; not changed.
    device
        "cpu", "cuda" or "cuda:N"; "auto" takes the first CUDA device if CUDA really starts, else
        the CPU. With "+tf32" behind it, CUDA may round to 10 bits of mantissa before it multiplies,
        which is faster; never where a model is to run `as_written`.
    providers
        Execution providers in order of preference, by the names of `PROVIDERS` or their own, in
        place of a device. The first must start; what none of them can do, the CPU does.
    as_written
        Keep ONNX Runtime from turning QuantizeLinear and DequantizeLinear around an operator into
        an 8-bit kernel: those saturate on some processors, round what the graph does not, and take
        it that a bias has the scale that they expect.
    shared
        Whether the rest of this process needs processor and memory meanwhile: ONNX Runtime's
        threads then sleep where they have to wait, and do not spin; and, on the CPU, it lays no
        block by for each shape of batch, which takes as much again as the first run took.
    lanes
        How many runs there are at a time on the CPU, each of which gets its share of the cores.

    Raises
    ------
    UsageError
        If ONNX Runtime is missing, there is no such device or provider, or CUDA or the provider
        was asked for and does not start.
    ModelError
        If ONNX Runtime refuses the model.
    """
    found = DEVICE.fullmatch(device)
    if found is None:
        raise UsageError(f"--device {device}: no such device; use auto, cpu, cuda or cuda:N")
    ort = import_onnxruntime()
    parts = model if isinstance(model, Weightless) else weightless(model)
    settings = {"as_written": as_written, "shared": shared}
    if providers:
        return _open_on_providers(ort, parts, providers, settings)
    if device != "cpu":
        number = int(found["number"] or 0)
        tf32 = "" if as_written else found["tf32"] or ""
        inner = _open_on_cuda(ort, parts, _cuda_settings(number, bool(tf32)), settings)
        if inner is not None:
            return Session(inner, f"cuda:{number}{tf32}", parts.weights)
    # Also where CUDA was asked for: if the CPU refuses the model too, CUDA is not to blame.
    inner = _open_on_cpu(ort, parts, settings, lanes)
    if device.startswith("cuda"):
        raise _no_cuda(ort, device)
    return Session(inner, "cpu", parts.weights)


def certainly_cpu(device: str, providers: Sequence[str] = ()) -> bool:
    """Whether a model will run on the CPU, before it is loaded: nothing else is asked or offered.

    Parameters
    ----------
    device, providers
        See `open_session`.
    """
    offered = CUDA in import_onnxruntime().get_available_providers()
    return not providers and (device == "cpu" or (device == "auto" and not offered))


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
    ort: ModuleType,
    source: bytes,
    providers: Sequence[Any],
    *,
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    as_written: bool = False,
    shared: bool = False,
    threads: int | None = None,
) -> Any:
    """An `InferenceSession` that prints no warnings and never changes its providers by itself."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _threads() if threads is None else threads
    if as_written:
        options.add_session_config_entry(AS_WRITTEN, "1")
    if shared:
        options.add_session_config_entry(SPINNING, "0")
        options.enable_mem_pattern = list(providers) != [CPU]
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    return ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def _threads() -> int:
    """Threads for a session, or 0 for what ONNX Runtime takes: one for each core of the machine.

    It does not see that a process may be kept to some of them (taskset, containers). Its threads
    spin where they wait, so that more of them than cores take twice the time, and the others' too.
    """
    return cores() if cores() < (os.cpu_count() or 1) else 0


def _create(
    ort: ModuleType,
    model: Weightless,
    providers: Sequence[Any],
    settings: Mapping[str, bool],
    lanes: int = 1,
) -> Any:
    return create_session(
        ort, _serialised(model.proto), providers, weights=model.weights, **settings,
        threads=max(1, cores() // lanes) if lanes > 1 else _threads(),
    )  # fmt: skip


def _open_on_cpu(
    ort: ModuleType, model: Weightless, settings: Mapping[str, bool], lanes: int = 1
) -> Any:
    try:
        return _create(ort, model, [CPU], settings, lanes)
    except Exception as error:  # ONNX Runtime's kinds have no common base but this
        raise ModelError(f"ONNX Runtime can't load the model: {first_line(error)}") from error


def _open_on_cuda(
    ort: ModuleType, model: Weightless, cuda: Mapping[str, str], settings: Mapping[str, bool]
) -> Any:
    """A session that has CUDA, or None. What is on offer is no proof that it starts."""
    if CUDA not in ort.get_available_providers():
        return None
    with silenced(ort):
        try:
            preload_cuda(ort)
            inner = _create(ort, model, [(CUDA, cuda), CPU], settings)
        except Exception:  # no such device, driver too old, or the model's fault: the CPU tells
            return None
    return inner if inner.get_providers()[0] == CUDA else None


def _cuda_settings(number: int = 0, tf32: bool = False) -> dict[str, str]:
    return {
        "device_id": str(number),
        # TF32 keeps 10 bits of the mantissa: scores and equality proofs would differ by device.
        "use_tf32": str(int(tf32)),
        # The default times every algorithm anew for each shape, so for an odd last batch too.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it holds at each step: an odd batch could take half the card.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _open_on_providers(
    ort: ModuleType, model: Weightless, names: Sequence[str], settings: Mapping[str, bool]
) -> Session:
    """A session on providers named by an expert."""
    offered = ort.get_available_providers()
    wanted = [PROVIDERS.get(name.lower(), name) for name in names]
    for name, provider in zip(names, wanted, strict=True):
        if provider not in offered:
            raise UsageError(
                f"--providers {name}: this ONNX Runtime has no such provider; it has "
                f"{', '.join(offered)}"
            )
    asked = [(p, _cuda_settings()) if p == CUDA else p for p in wanted]
    try:
        with silenced(ort):
            preload_cuda(ort)
            inner = _create(ort, model, asked if CPU in wanted else [*asked, CPU], settings)
    except Exception as error:  # the provider's fault or the model's: the CPU tells
        _open_on_cpu(ort, model, settings)
        raise UsageError(f"--providers {names[0]}: does not start: {first_line(error)}") from error
    if inner.get_providers()[0] != wanted[0]:
        raise UsageError(
            f"--providers {names[0]}: does not start here; `discedit-onnx doctor` says what does"
        )
    short = {provider: name for name, provider in PROVIDERS.items()}
    device = "cuda:0" if wanted[0] == CUDA else short.get(wanted[0], wanted[0])
    return Session(inner, device, model.weights)


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


def _serialised(model: onnx.ModelProto) -> bytes:
    """The model as bytes."""
    try:
        payload: bytes = model.SerializeToString()
    except (EncodeError, ValueError) as error:  # which depends on protobuf's implementation
        raise ModelError(
            "the model's constants pass the 2 GiB that a model file can hold: export them as "
            "initializers"
        ) from error
    return payload
