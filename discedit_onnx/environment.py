"""What this Python has to run models with: versions, ONNX Runtime's builds, their providers."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from .calibration.session import CUDA, create_session, import_onnxruntime, preload_cuda, silenced
from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

PACKAGES = (
    "discedit-onnx",
    "click",
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "pillow",
    "rich",
    "safetensors",
    "scipy",
    "threadpoolctl",
)


@dataclass(frozen=True)
class Environment:
    """Findings of `examine`.

    Attributes
    ----------
    python
        Version of Python.
    system
        Operating system and processor.
    packages
        Version by name for this package and what it depends on; None if not installed.
    runtimes
        Version by name for every installed distribution that brings `onnxruntime`.
    providers
        By name of each execution provider on offer, whether it really starts.
    warnings
        What is wrong, one line each, with its mend.
    """

    python: str
    system: str
    packages: Mapping[str, str | None]
    runtimes: Mapping[str, str]
    providers: Mapping[str, bool]
    warnings: tuple[str, ...]


def examine() -> Environment:
    """Look at the installed packages, and start a session with each execution provider."""
    runtimes = _runtimes()
    warnings = []
    if len(runtimes) > 1:
        names = " ".join(runtimes)
        warnings.append(
            f"{' and '.join(runtimes)} are installed together and overwrite each other's files: "
            f'pip uninstall {names}, then pip install "discedit-onnx[cpu]" (or [gpu])'
        )
    providers: dict[str, bool] = {}
    try:
        providers = _providers(import_onnxruntime())
    except UsageError as error:
        warnings.append(str(error))
    if providers.get(CUDA) is False:
        warnings.append(
            "CUDA is on offer but does not start: it needs an NVIDIA GPU with its driver, and "
            'CUDA and cuDNN (pip install "discedit-onnx[gpu-cuda]" brings these two)'
        )
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in PACKAGES},
        runtimes=runtimes,
        providers=providers,
        warnings=tuple(warnings),
    )


def _version(name: str) -> str | None:
    """Version of an installed distribution, read without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runtimes() -> dict[str, str]:
    """The distributions (onnxruntime, onnxruntime-gpu, ...) that bring the package."""
    names = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    return {name: metadata.version(name) for name in names}


def _providers(ort: ModuleType) -> dict[str, bool]:
    """Whether each provider on offer starts; a missing library shows only when it is tried."""
    with silenced(ort):
        preload_cuda(ort)
        return {name: _starts(ort, name) for name in ort.get_available_providers()}


def _starts(ort: ModuleType, provider: str) -> bool:
    """Whether a session of a one-node model gets the provider and runs."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    try:
        session = create_session(ort, model.SerializeToString(), [provider])
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception:  # each provider fails in its own way
        return False
    return bool(session.get_providers()[0] == provider)
