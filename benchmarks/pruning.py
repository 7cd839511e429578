"""Accuracy after pruning: choice x refit x ratio, against other tools, in one run.

Run with ``python benchmarks/pruning.py``: the sample models. Any other classifier with its folders:
``--model M.onnx --calibration DIR --test DIR [--preprocess FILE]``. Choice and refit see some
calibration images, other ones for each seed, and no labels but where a witness scores; accuracies
are of all test images. ``onnxsim``, and ``torch-pruning`` on the PyTorch originals of the sample
models, are compared in the same run where they are installed. A ranking is made once for all
ratios; seconds are those of cutting, refitting and proving.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pruning_torch import IMPORTANCES, ORIGINALS, TorchPruned

import discedit_onnx as dx
from discedit_onnx.calibration.session import open_session
from discedit_onnx.editing.budget import Budget
from discedit_onnx.editing.order import Limits
from discedit_onnx.editing.prune import check_request
from discedit_onnx.editing.pruner import Pruner
from discedit_onnx.editing.rounds import in_rounds
from discedit_onnx.errors import DisceditError
from discedit_onnx.graph.cost import count_parameters
from discedit_onnx.graph.coupling import analyse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.editing.criteria import Refitting

SAMPLES = Path(__file__).parents[1] / "sample_models"
DATA = SAMPLES / "fashion_mnist"
MODELS = ("fashion_resnet20", "fashion_vgg", "fashion_mobilenet")
CHOICES = (
    "least-squares", "fisher", "sharp", "quadratic", "histogram", "energy", "fisher*energy",
    "least-squares*fisher^0.5", "l1", "l2", "random",
)  # fmt: skip
REFITS = ("off", "bias", "channel", "patch")
BATCH = 250
HALVINGS = 8
"""Steps to the share of channels that makes another tool remove as many parameters."""


@dataclass(frozen=True)
class Task:
    """A model with the images that it is calibrated and tested on."""

    name: str
    model: Path
    calibration: Path
    test: Path
    preprocess: str | None


@dataclass(frozen=True)
class Row:
    """One way to prune, at one ratio."""

    choice: str
    refit: str
    ratio: float
    reached: list[float]
    accuracy: list[float]
    seconds: list[float]

    def __str__(self) -> str:
        spread = statistics.stdev(self.accuracy) if len(self.accuracy) > 1 else 0.0
        return (
            f"| {self.choice} | {self.refit} | {100 * self.ratio:.0f} % "
            f"| {100 * statistics.mean(self.reached):.1f} % "
            f"| {100 * statistics.mean(self.accuracy):.2f} +- {100 * spread:.2f} "
            f"| {statistics.mean(self.seconds):.1f} |"
        )


class Bench:
    """One model with its data, read once.

    Parameters
    ----------
    task
        Which.
    options
        Of the command line.
    """

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self.model = dx.load(task.model)
        self.coupling = analyse(self.model.proto)
        self.test = list(self._data(task, task.test).batches(BATCH))
        self.calibrations = [
            self._data(task, task.calibration, options.samples, seed)
            for seed in range(options.seeds)
        ]
        self.moments = [dx.calibrate(self.model, data) for data in self.calibrations]
        self.dense = self.accuracy(self.model.proto)

    def _data(self, task: Task, folder: Path, samples: int | None = None, seed: int = 0) -> Dataset:
        return dx.open_data(
            self.model, str(folder), preprocess=task.preprocess, num_samples=samples, seed=seed
        )

    def accuracy(self, proto: onnx.ModelProto) -> float:
        """Top-1 on the test images."""
        hits = 0
        with open_session(proto) as session:
            for batch in self.test:
                output = self.calibrations[0].classifier.output
                (logits,) = session.run([output], batch.feeds)
                hits += int((logits.argmax(axis=1) == batch.labels).sum())
        return hits / sum(len(batch) for batch in self.test)

    def ours(self, choice: str, refit: Refitting, ratios: Sequence[float]) -> list[Row]:
        """Each ratio by the same ranking, once for each seed."""
        rows = [Row(choice, refit, ratio, [], [], []) for ratio in ratios]
        for seed, (data, moments) in enumerate(zip(self.calibrations, self.moments, strict=True)):
            pruner = Pruner(
                self.model, self.coupling, moments, data, "sparsity", choice, "max", "global",
                Limits(), refit, seed, "auto", None,
            )  # fmt: skip
            for row in rows:
                budget = Budget("sparsity", row.ratio)
                cost = check_request(self.model, self.coupling, budget, Limits(), refit, "auto")
                removed = in_rounds(pruner, budget, cost, 1)
                start = time.perf_counter()
                edit = pruner.edit(removed)
                row.seconds.append(time.perf_counter() - start)
                row.reached.append(edit.sparsity)
                row.accuracy.append(self.accuracy(edit.proto))
        return rows

    def torchs(self, task: Task, ratios: Sequence[float]) -> Iterator[Row]:
        """Torch-Pruning, where it is installed and there is a PyTorch original."""
        if task.name not in ORIGINALS or importlib.util.find_spec("torch_pruning") is None:
            return
        (name,) = (value.name for value in self.model.proto.graph.input)
        test = [(batch.feeds[name], np.asarray(batch.labels)) for batch in self.test]
        peer = TorchPruned(task.name, test)
        for kind in IMPORTANCES:
            for ratio in ratios:
                row = Row(f"Torch-Pruning {kind}", "none", ratio, [], [], [])
                for data in self.calibrations[: 1 if kind == "l2" else None]:
                    batches = list(data.batches(BATCH))
                    images = np.concatenate([batch.feeds[name] for batch in batches])
                    labels = np.concatenate([batch.labels for batch in batches])
                    start = time.perf_counter()
                    removed, accuracy = peer.prune(ratio, kind, (images, labels))
                    row.seconds.append(time.perf_counter() - start)
                    row.reached.append(removed)
                    row.accuracy.append(accuracy)
                yield row

    def onnxsims(self, ratio: float) -> Iterator[Row]:
        """onnxsim's structured pruning, with the share of channels that removes as much."""
        try:
            import onnxsim
        except ImportError:
            return
        simple, sound = onnxsim.simplify(self.model.proto)
        start_from = simple if sound else self.model.proto
        for metric in ("l2", "wanda"):
            row = Row(f"onnxsim {metric}", "none", ratio, [], [], [])
            for data in self.calibrations[: 1 if metric == "l2" else None]:
                feeds = [dict(batch.feeds) for batch in data.batches(64)]
                start = time.perf_counter()
                proto = self._bisected(start_from, metric, ratio, feeds)
                if proto is None:
                    return
                row.seconds.append(time.perf_counter() - start)
                row.reached.append(self._removed(proto))
                row.accuracy.append(self.accuracy(proto))
            yield row

    def _removed(self, proto: onnx.ModelProto) -> float:
        return 1 - count_parameters(proto) / count_parameters(self.model.proto)

    def _bisected(
        self, proto: onnx.ModelProto, metric: str, ratio: float, feeds: list[dict[str, Any]]
    ) -> onnx.ModelProto | None:
        from onnxsim import pruning

        low, high, best = 0.0, 0.97, None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if metric == "l2":
                found = pruning.apply_structured_pruning(proto, sparsity=middle)
            else:
                found = pruning.apply_structured_wanda_pruning(proto, feeds, sparsity=middle)
            if self._removed(found) >= ratio:
                high, best = middle, found
            else:
                low = middle
        return best


def table(task: Task, options: argparse.Namespace) -> None:
    """Print what every choice with every refit is worth, and the other tools, ratio by ratio."""
    bench = Bench(task, options)
    images = sum(len(batch) for batch in bench.test)
    print(f"\n### {task.name}: {100 * bench.dense:.2f} % of {images:,} test images\n")
    print("| choice | refit | asked | removed | accuracy | seconds |")
    print("|---|---|---|---|---|---|")
    for choice in options.choices:
        for refit in options.refits:
            try:
                for row in bench.ours(choice, refit, options.ratios):
                    print(row, flush=True)
            except DisceditError as error:
                print(f"| {choice} | {refit} | | | {error} | |")
    for ratio in options.ratios:
        for row in bench.onnxsims(ratio):
            print(row, flush=True)
    for row in bench.torchs(task, options.ratios):
        print(row, flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path, default=DATA / "calibration")
    parser.add_argument("--test", type=Path, default=DATA / "test")
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    )
    parser.add_argument("--choices", nargs="+", default=CHOICES)
    parser.add_argument("--refits", nargs="+", default=REFITS)
    options = parser.parse_args()
    packages = (
        "discedit-onnx", "onnx", "onnxruntime", "numpy", "onnxsim", "torch", "torch-pruning"
    )  # fmt: skip
    versions = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    print(f"{platform.machine()}, {os.cpu_count()} cores; {', '.join(versions)}")
    print(f"{options.samples} calibration images, seeds 0 to {options.seeds - 1}")
    named = [options.model] if options.model else [SAMPLES / f"{name}.onnx" for name in MODELS]
    for path in named:
        task = Task(path.stem, path, options.calibration, options.test, options.preprocess)
        table(task, options)


if __name__ == "__main__":
    main()
