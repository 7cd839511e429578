"""Accuracy after pruning: choice x refit x ratio, against other tools, in one run.

Run with ``python benchmarks/pruning.py``: the sample models. Any other classifier with its folders:
``--model M.onnx --calibration DIR --test DIR [--preprocess FILE]``. Choice and refit see some
calibration images, other ones for each seed, and no labels but where a witness scores; accuracies
are of all test images, and so is the agreement with the dense network's top-1, which still tells
choices apart where none of them loses accuracy. ``onnxsim``, and ``torch-pruning`` on the PyTorch
originals of the sample models, are compared in the same run where they are installed. A ranking is
made once for all ratios; seconds are those of cutting, refitting and proving. With `--rows FILE`
each measurement is kept as it comes, and what is there is not measured again: the whole table takes
hours.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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
from discedit_onnx.scoring.witness import WITNESSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.editing.criteria import Refitting

SAMPLES = Path(__file__).parents[1] / "sample_models"
DATA = SAMPLES / "fashion_mnist"
MODELS = ("fashion_resnet20", "fashion_vgg", "fashion_mobilenet")
CHOICES = (
    "least-squares", *WITNESSES, "energy", "fisher*energy", "least-squares*fisher^0.5",
    "l1", "l2", "random",
)  # fmt: skip
REFITS = ("off", "bias", "channel", "patch")
OURS = "least-squares", "patch"
"""What `prune` does by default."""
PEER = "none"
"""In place of a refit, for other tools."""
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


class Key(NamedTuple):
    """One way to prune a model, at one ratio, by the images of one seed."""

    model: str
    choice: str
    refit: str
    ratio: float
    seed: int


class Found(NamedTuple):
    """Share of the parameters that went, accuracy, seconds, agreement with the dense top-1."""

    reached: float
    accuracy: float
    seconds: float
    agreement: float | None = None


class Log:
    """Measurements; kept in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.found = path, dict[Key, Found]()
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                key, found = json.loads(line)
                self.found[Key(*key)] = Found(*found)

    def add(self, key: Key, found: Found) -> None:
        self.found[key] = found
        print(*key, f"{100 * found.accuracy:.2f}", file=sys.stderr, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([key, found]) + "\n")

    def table(self, model: str, seeds: int, measure: Literal["accuracy", "agreement"]) -> None:
        """A line for each choice and refit, a column for each ratio: see `_cell`."""
        known = [
            key
            for key, found in self.found.items()
            if key.model == model and getattr(found, measure) is not None
        ]
        if not known:
            return
        ratios = sorted({key.ratio for key in known})
        head = [f"{100 * ratio:.0f} %" for ratio in ratios]
        print(f"\n| {measure}: choice | refit |", " | ".join(head), "| seconds |")
        print("|---" * (len(ratios) + 3) + "|")
        order = [*CHOICES, *(key.choice for key in known)]
        for refit, choice in sorted(
            {(key.refit, key.choice) for key in known},
            key=lambda kind: ([*REFITS[::-1], PEER].index(kind[0]), order.index(kind[1])),
        ):
            rows = {
                ratio: [self.found[key] for key in known if key[1:4] == (choice, refit, ratio)]
                for ratio in ratios
            }
            cells = [
                _cell([getattr(found, measure) for found in rows[ratio]], seeds) for ratio in ratios
            ]
            seconds = np.mean([found.seconds for some in rows.values() for found in some])
            print(f"| {choice} | {refit} |", " | ".join(cells), f"| {seconds:.1f} |")

    def rivals(self, model: str) -> None:
        """What is not behind `OURS` in accuracy, and how it stands to it in agreement."""
        rows: dict[tuple[float, str, str], list[Found]] = {}
        for key, found in self.found.items():
            if key.model == model:
                rows.setdefault((key.ratio, key.choice, key.refit), []).append(found)
        lines = []
        for (ratio, *kind), some in sorted(rows.items()):
            ours = rows.get((ratio, *OURS), [])
            ahead = [
                _mean(some, measure) - _mean(ours, measure) for measure in ("accuracy", "agreement")
            ]
            if tuple(kind) != OURS and ahead[0] >= 0:
                lines += [
                    f"- {100 * ratio:.0f} %, {', '.join(kind)}: {ahead[0]:+.2f}, {ahead[1]:+.2f}"
                ]
        if any(tuple(kind) == OURS for _, *kind in rows):
            print(f"\nNot behind {', '.join(OURS)} in accuracy; by how much, and in agreement:\n")
            print(*(lines or ["- nothing"]), sep="\n")


def _mean(rows: Sequence[Found], measure: str) -> float:
    """In percent; not a number where some were not measured."""
    shares = [getattr(found, measure) for found in rows]
    return 100 * float(np.mean(shares)) if shares and None not in shares else np.nan


def _cell(shares: Sequence[float], seeds: int) -> str:
    """Mean over seeds, and what they differ by; how many, if fewer than there should be."""
    if not shares:
        return ""
    percent = 100 * np.array(shares)
    spread = f" ± {percent.std(ddof=1):.2f}" if np.ptp(percent) else ""
    return f"{percent.mean():.2f}{spread}" + f" ({len(shares)})" * (len(shares) < seeds)


class Bench:
    """One model with its data, read once.

    Parameters
    ----------
    task
        Which.
    samples
        Calibration images.
    limits
        Of what is removed.
    log
        What is known already, and gets what is found.
    """

    def __init__(self, task: Task, samples: int, limits: Limits, log: Log) -> None:
        self.task, self.samples, self.limits, self.log = task, samples, limits, log
        self.model = dx.load(task.model)
        self.coupling = analyse(self.model.proto)
        data = self._data(task.test)
        self.output = data.classifier.output
        self.test = list(data.batches(BATCH))
        self.labels = np.concatenate([batch.labels for batch in self.test])
        self.answers = self.top1(self.model.proto)
        self.dense = float((self.answers == self.labels).mean())
        self._known: dict[int, tuple[Dataset, Moments]] = {}

    def _data(self, folder: Path, samples: int | None = None, seed: int = 0) -> Dataset:
        return dx.open_data(
            self.model, str(folder), preprocess=self.task.preprocess, num_samples=samples, seed=seed
        )

    def calibration(self, seed: int) -> tuple[Dataset, Moments]:
        """The images of a seed, and their moments."""
        if seed not in self._known:
            data = self._data(self.task.calibration, self.samples, seed)
            self._known[seed] = data, dx.calibrate(self.model, data)
        return self._known[seed]

    def top1(self, proto: onnx.ModelProto) -> NDArray[np.intp]:
        """The class that each test image is given."""
        with open_session(proto) as session:
            logits = [session.run([self.output], batch.feeds)[0] for batch in self.test]
        return np.concatenate(logits).argmax(axis=1)

    def look(self, proto: onnx.ModelProto, reached: float, seconds: float) -> Found:
        """What a pruned model is worth."""
        top1 = self.top1(proto)
        accuracy, agreement = (top1 == self.labels).mean(), (top1 == self.answers).mean()
        return Found(reached, float(accuracy), seconds, float(agreement))

    def ours(self, choice: str, refit: Refitting, seed: int, ratios: Sequence[float]) -> None:
        """Each ratio that is not known, by the same ranking."""
        left = self.unknown(choice, refit, seed, ratios)
        if not left:
            return
        data, moments = self.calibration(seed)
        pruner = Pruner(
            self.model, self.coupling, moments, data, "sparsity", choice, "max", "global",
            self.limits, refit, seed, "auto", None,
        )  # fmt: skip
        for key in left:
            budget = Budget("sparsity", key.ratio)
            cost = check_request(self.model, self.coupling, budget, self.limits, refit, "auto")
            removed = in_rounds(pruner, budget, cost, 1)
            start = time.perf_counter()
            edit = pruner.edit(removed)
            seconds = time.perf_counter() - start
            self.log.add(key, self.look(edit.proto, edit.sparsity, seconds))

    def unknown(self, choice: str, refit: str, seed: int, ratios: Sequence[float]) -> Sequence[Key]:
        """What is still to be measured."""
        keys = [Key(self.task.name, choice, refit, ratio, seed) for ratio in ratios]
        return [key for key in keys if key not in self.log.found]

    def torchs(self, seed: int, ratios: Sequence[float]) -> None:
        """Torch-Pruning, where it is installed and there is a PyTorch original."""
        name = self.task.name
        if name not in ORIGINALS or importlib.util.find_spec("torch_pruning") is None:
            return
        (feed,) = (value.name for value in self.model.proto.graph.input)
        for kind in IMPORTANCES[seed > 0 :]:  # the first looks at no image
            for key in self.unknown(f"Torch-Pruning {kind}", PEER, seed, ratios):
                test = [(batch.feeds[feed], np.asarray(batch.labels)) for batch in self.test]
                peer = TorchPruned(name, test)
                batches = list(self.calibration(seed)[0].batches(BATCH))
                images = np.concatenate([batch.feeds[feed] for batch in batches])
                labels = np.concatenate([batch.labels for batch in batches])
                start = time.perf_counter()
                removed, accuracy = peer.prune(key.ratio, kind, (images, labels))
                self.log.add(key, Found(removed, accuracy, time.perf_counter() - start))

    def onnxsims(self, seed: int, ratios: Sequence[float]) -> None:
        """onnxsim's structured pruning, with the share of channels that removes as much."""
        if importlib.util.find_spec("onnxsim") is None:
            return
        import onnxsim

        simple, sound = onnxsim.simplify(self.model.proto)
        start_from = simple if sound else self.model.proto
        for metric in ("l2", "wanda")[seed > 0 :]:  # the first looks at no image
            for key in self.unknown(f"onnxsim {metric}", PEER, seed, ratios):
                feeds = [dict(batch.feeds) for batch in self.calibration(seed)[0].batches(64)]
                start = time.perf_counter()
                proto = self._bisected(start_from, metric, key.ratio, feeds)
                seconds = time.perf_counter() - start
                if proto is not None:
                    self.log.add(key, self.look(proto, self._removed(proto), seconds))

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


def table(task: Task, options: argparse.Namespace, log: Log) -> None:
    """Print what every choice with every refit is worth, and the other tools, ratio by ratio."""
    bench = Bench(task, options.samples, Limits(options.round_to), log)
    refused = []
    for seed in range(options.seeds):
        for choice, refit in itertools.product(options.choices, options.refits):
            try:
                bench.ours(choice, refit, seed, options.ratios)
            except DisceditError as error:
                refused.append(f"{choice}, {refit}, seed {seed}: {error}")
        bench.onnxsims(seed, options.ratios)
        bench.torchs(seed, options.ratios)
    print(f"\n### {task.name}: {100 * bench.dense:.2f} % of {len(bench.labels):,} test images")
    log.table(task.name, options.seeds, "accuracy")
    log.table(task.name, options.seeds, "agreement")
    more = [found.reached - key.ratio for key, found in log.found.items() if key.model == task.name]
    print(f"\nRemoved: what was asked for, or up to {100 * max(more, default=0):.1f} points more.")
    log.rivals(task.name)
    print(*("", *refused), sep="\n", flush=True)


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
    parser.add_argument("--round-to", type=int, default=1, help="widths are multiples of this")
    parser.add_argument("--rows", type=Path, help="measurements, kept as they come")
    options = parser.parse_args()
    log = Log(options.rows)
    packages = (
        "discedit-onnx", "onnx", "onnxruntime", "numpy", "onnxsim", "torch", "torch-pruning"
    )  # fmt: skip
    versions = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    print(f"{platform.machine()}, {os.cpu_count()} cores; {', '.join(versions)}")
    print(
        f"{options.samples} calibration images, seeds 0 to {options.seeds - 1}; "
        f"widths of ours multiples of {options.round_to}"
    )
    named = [options.model] if options.model else [SAMPLES / f"{name}.onnx" for name in MODELS]
    for path in named:
        task = Task(path.stem, path, options.calibration, options.test, options.preprocess)
        table(task, options, log)


if __name__ == "__main__":
    main()
