"""How much faster models are with half of their multiply-accumulates, in one run.

    python benchmarks/pruning_latency.py [--multiples 1 4 8 16] [--kind macs --share 0.5]

The sample models, pruned by least squares and refitted with 512 calibration images, to widths that
are multiples of what is named. Accuracy is of the test images; time is ONNX Runtime's on the CPU,
the original and all results in turn, medians. Run it under `taskset -c 0` for one thread. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

import discedit_onnx as dx
from discedit_onnx.graph.cost import count_macs
from discedit_onnx.graph.view import View
from discedit_onnx.latency import fast_multiple, latencies

SAMPLES = Path(__file__).parents[1] / "sample_models"
DATA = SAMPLES / "fashion_mnist"
MODELS = ("fashion_resnet20", "fashion_vgg", "fashion_mobilenet")
IMAGES, BATCHES, ROUNDS = 512, (1, 32), 15


def rows(name: str, budget: dx.Budget, multiples: list[int]) -> None:
    """Prune one model to each multiple, and time the results beside it."""
    model = dx.load(SAMPLES / f"{name}.onnx")
    data = dx.open_data(model, str(DATA / "calibration"), num_samples=IMAGES)
    test = dx.open_data(model, str(DATA / "test"))
    edits = [
        dx.prune(
            model, data=data, budget=budget, limits=dx.Limits(round_to=n), device="cpu"
        )
        for n in multiples
    ]  # fmt: skip
    protos = [model.proto, *(edit.proto for edit in edits)]
    shape = [n if isinstance(n, int) else 1 for n in data.classifier.inputs[0].shape[1:]]
    times = []
    for batch in BATCHES:
        x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
        found = latencies(
            protos, [{data.classifier.inputs[0].name: x}] * len(protos), "cpu", ROUNDS
        )
        times.append([ms / found[0] for ms in found])
    for label, proto, *over in zip(["original", *multiples], protos, *times, strict=True):
        seen = dx.evaluate(replace(model, proto=proto), test, device="cpu", latency=False)
        macs = (count_macs(View(proto)) or 0) / (count_macs(View(model.proto)) or 1)
        ratios = " | ".join(f"{ratio:.2f}" for ratio in over)
        print(f"| {name} | {label} | {100 * seen.top1:.2f} | {macs:.2f} | {ratios} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--kind", choices=["macs", "sparsity"], default="macs")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of MACs that may be left, of parameters that go"
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    print(
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, ONNX "
        f"Runtime {onnxruntime.__version__}; kernels work on {fast_multiple('cpu', block=True)} "
        f"channels at a time; seed 0\n"
    )
    over = " | ".join(f"time, batch {batch}" for batch in BATCHES)
    print(f"| model | multiples of | top-1 | MACs | {over} |\n|---|---|---|---|{'---|' * 2}")
    for name in options.models:
        rows(name, dx.Budget(options.kind, options.share), options.multiples)


if __name__ == "__main__":
    main()
