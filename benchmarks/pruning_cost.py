"""What choice by least squares and refit cost: seconds and peak memory.

    python benchmarks/pruning_cost.py [--sparsity 0.3] [--only ResNet-50]

Random weights in the shapes of ResNet-20 (32 x 32, 512 images) and ResNet-50 (224 x 224, 128
images), smooth random images. Each case runs in a process of its own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from calibration import peak_memory
from calibration_models import resnet20, resnet50

import discedit_onnx as dx

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = {"ResNet-20": (resnet20, 32, 512), "ResNet-50": (resnet50, 224, 128)}
"""What makes the model, the side of its images, and how many there are."""
BLOCK = 8
"""Sides of the squares of one colour that images are made of."""


def images(count: int, side: int) -> np.ndarray:
    """Random squares, so that neighbours are alike."""
    small = np.random.default_rng(0).normal(size=(count, 3, side // BLOCK, side // BLOCK))
    return small.repeat(BLOCK, axis=2).repeat(BLOCK, axis=3).astype(np.float32)


def measure(make: Callable[[], onnx.ModelProto], side: int, count: int, sparsity: float) -> str:
    """Prune one model; its row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(make(), path)
        model = dx.load(path)
        data = dx.open_data(model, (images(count, side), np.zeros(count, np.int64)))
        start = time.perf_counter()
        edit = dx.prune(model, sparsity=sparsity, data=data, device="cpu")
        seconds = time.perf_counter() - start
    before, after = edit.parameters
    return f"{count} | {before:,} -> {after:,} | {seconds:.0f} | {peak_memory() / 2**30:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    options = parser.parse_args()
    print(
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, NumPy "
        f"{np.__version__}; seed 0\n\n"
        "| model | images | parameters | seconds | peak GiB |\n|---|---|---|---|---|"
    )
    context = multiprocessing.get_context("spawn")
    for name in options.only:
        with context.Pool(1) as pool:
            print(
                f"| {name} | {pool.apply(measure, (*CASES[name], options.sparsity))} |", flush=True
            )


if __name__ == "__main__":
    main()
