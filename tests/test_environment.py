"""What `doctor` finds, in this environment and in broken ones."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort

from discedit_onnx import environment
from discedit_onnx.environment import PACKAGES, examine


def test_this_environment(capfd):
    found = examine()
    assert found.python == platform.python_version()
    assert found.packages["numpy"] == np.__version__
    assert tuple(found.packages) == PACKAGES
    assert ort.__version__ in found.runtimes.values()
    assert found.providers["CPUExecutionProvider"] is True
    assert list(found.providers) == ort.get_available_providers()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_imported_for_a_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    assert examine().packages == {"numpy": np.__version__, "no-such-package": None}


def test_a_double_install_is_warned_of(monkeypatch):
    brings = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime"]}
    monkeypatch.setattr(environment.metadata, "packages_distributions", lambda: brings)
    monkeypatch.setattr(environment.metadata, "version", lambda name: "1.0")
    found = examine()
    assert found.runtimes == {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0"}
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found.warnings[0]
    assert "\n" not in found.warnings[0]


def test_no_onnx_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = examine()
    assert found.providers == {}
    assert 'pip install "discedit-onnx[cpu]"' in found.warnings[-1]


def test_cuda_that_does_not_start(monkeypatch):
    """One provider raises, one falls back to the CPU in silence, as the real ones do."""

    class Session:
        def __init__(self, source, options, providers, enable_fallback):
            if providers == ["TensorrtExecutionProvider"]:
                raise RuntimeError("no TensorRT")

        def run(self, outputs, feeds):
            return None

        def get_providers(self):
            return ["CPUExecutionProvider"]

    offer = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    fake = SimpleNamespace(
        InferenceSession=Session,
        SessionOptions=SimpleNamespace,
        get_available_providers=lambda: offer,
        set_default_logger_severity=lambda level: None,
        preload_dlls=lambda: print("libcublas.so: not found"),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    found = examine()
    assert found.providers == dict(zip(offer, (False, False, True), strict=True))
    assert len([w for w in found.warnings if "discedit-onnx[gpu-cuda]" in w]) == 1
