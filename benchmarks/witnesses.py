"""Which witness chooses best, for pruning and for forgetting, judged on images of no test.

    python benchmarks/witnesses.py [--seeds 0:2] [--witnesses fisher,sharp]
    python benchmarks/witnesses.py --joins max,mean,min,top-3,pairwise-min,pairwise-mean

The sample models' calibration images are halved at random, class by class, anew for each seed;
calibrated on one half and judged on the other, both ways. The test images, which figures are
reported on, are not looked at. Nothing is repaired, so that the choice alone is seen:

- pruning: plain removal (`refit="off"`) of 10, 20 and 30 % of the parameters, classes joined by
  `max`; top-1.
- forgetting: each class in turn, the components that fire more for it (`method="components"`)
  silenced, 8 % of the later layers', the head left alone. "Apart" is the accuracy on the retained
  classes less that on the forgotten one: 100 would be perfect, 0 is chance.

Beside each mean over models and seeds stands how far it is from that of `sharp`, with the standard
error of this difference over the seeds. All seeds halve the same images, so it says what another
draw of the halves would change, not what other images or models would. Prints Markdown.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

import discedit_onnx as dx
from discedit_onnx.calibration.session import open_session
from discedit_onnx.editing.forgetting.way import Way
from discedit_onnx.scoring.saliency import DEFAULT_REDUCTION, DEFAULT_WITNESS
from discedit_onnx.scoring.witness import WITNESSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.calibration.moments import Moments
    from discedit_onnx.model import Model

SAMPLES = Path(__file__).parents[1] / "sample_models"
MODELS = ("fashion_resnet20", "fashion_vgg", "fashion_mobilenet")
RATIOS = (0.1, 0.2, 0.3)
REFERENCE = "sharp"
"""The tightest bound from means and variances: what another witness has to beat."""


@dataclass(frozen=True)
class Part:
    """A model, the moments of one half, and the other half."""

    model: Model
    moments: Moments
    judge: Dataset

    def pruned(self, witness: str, join: str = DEFAULT_REDUCTION) -> list[float]:
        """Top-1 after plain removal, ratio by ratio."""
        edits = (
            dx.prune(self.model, self.moments, sparsity=ratio, criterion=witness, join=join,
                     refit="off", device="cpu")
            for ratio in RATIOS
        )  # fmt: skip
        return [float(per_class(edit.proto, self.judge).mean()) for edit in edits]

    def forgotten(self, witness: str) -> tuple[float, float]:
        """Accuracy on the forgotten class and on the retained ones, means over all classes."""
        way = Way(method="components", witness=witness, refit=False, keep_head=True)
        found = []
        for gone in range(len(self.judge.class_names)):
            edit = dx.forget(self.model, self.moments, [gone], way, device="cpu")
            accuracy = per_class(edit.proto, self.judge)
            found.append((accuracy[gone], np.delete(accuracy, gone).mean()))
        forget, retain = np.mean(found, axis=0)
        return float(forget), float(retain)


def per_class(proto: onnx.ModelProto, data: Dataset) -> np.ndarray:
    """Accuracy of each class in percent, shape (K,)."""
    with open_session(proto, "cpu") as session:
        found = [
            session.run([data.classifier.output], batch.feeds)[0].argmax(axis=1)
            for batch in data.batches(250)
        ]
    hits = np.concatenate(found) == data.labels
    return 100 * np.bincount(data.labels, hits) / np.bincount(data.labels)


def halves(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Two random halves with as many images of each class."""
    rng = np.random.default_rng(seed)
    first = np.zeros(len(data), dtype=bool)
    for k in np.unique(data.labels):
        members = rng.permutation(np.flatnonzero(data.labels == k))
        first[members[: len(members) // 2]] = True
    return data.take(np.flatnonzero(first)), data.take(np.flatnonzero(~first))


def parts(model: Model, seed: int) -> Iterator[Part]:
    """Both ways of one draw."""
    data = dx.open_data(model, SAMPLES / "fashion_mnist/calibration")
    one, other = halves(data, seed)
    for fit, judge in ((one, other), (other, one)):
        yield Part(model, dx.calibrate(model, fit, device="cpu"), judge)


def measured(witnesses: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Top-1 at each ratio, then forget and retain: (witnesses, seeds, models, ratios + 2)."""
    found = np.zeros((len(witnesses), len(seeds), len(MODELS), len(RATIOS) + 2))
    for j, name in enumerate(MODELS):
        model = dx.load(SAMPLES / f"{name}.onnx")
        for s, seed in enumerate(seeds):
            for part in parts(model, seed):
                for i, witness in enumerate(witnesses):
                    row = [*part.pruned(witness), *part.forgotten(witness)]
                    found[i, s, j] += np.array(row) / 2
    return found


def joined(joins: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Top-1 of the default witness at each ratio: (joins, seeds, models, ratios)."""
    found = np.zeros((len(joins), len(seeds), len(MODELS), len(RATIOS)))
    for j, name in enumerate(MODELS):
        model = dx.load(SAMPLES / f"{name}.onnx")
        for s, seed in enumerate(seeds):
            for part in parts(model, seed):
                for i, join in enumerate(joins):
                    found[i, s, j] += np.array(part.pruned(DEFAULT_WITNESS, join)) / 2
    return found


def apart(values: np.ndarray) -> str:
    """Mean and standard error of differences, one for each seed."""
    if len(values) < 2:
        return f"{values.mean():+.2f}"
    return f"{values.mean():+.2f} ± {values.std(ddof=1) / np.sqrt(len(values)):.2f}"


def report(witnesses: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure, and print the tables, the best for pruning first."""
    start = time.perf_counter()
    found = measured(witnesses, seeds)
    pruning = found[..., : len(RATIOS)].mean(axis=(2, 3))
    forgetting = (found[..., -1] - found[..., -2]).mean(axis=2)
    own = witnesses.index(REFERENCE)
    print(f"{setting(seeds)}; {time.perf_counter() - start:.0f} s\n")
    print(f"| witness | pruning | from {REFERENCE} | forgetting: forget | retain | apart "
          f"| from {REFERENCE} |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for i in np.argsort(-pruning.mean(axis=1), kind="stable").tolist():
        forget, retain = found[i, ..., -2:].mean(axis=(0, 1))
        print(
            f"| {witnesses[i]} | {pruning[i].mean():.1f} | {apart(pruning[i] - pruning[own])} "
            f"| {forget:.1f} | {retain:.1f} | {forgetting[i].mean():.1f} "
            f"| {apart(forgetting[i] - forgetting[own])} |"
        )
    print("\nBy model: top-1 at " + ", ".join(f"{100 * r:.0f}" for r in RATIOS)
          + " %; forget and retain\n\n| witness | " + " | ".join(MODELS)
          + " |\n|---" + "|---" * len(MODELS) + "|")  # fmt: skip
    for i, witness in enumerate(witnesses):
        cells = found[i].mean(axis=0)
        text = [
            " / ".join(f"{v:.1f}" for v in row[: len(RATIOS)]) + f"; {row[-2]:.1f}, {row[-1]:.1f}"
            for row in cells
        ]
        print(f"| {witness} | " + " | ".join(text) + " |")


def report_joins(joins: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure ways to join classes, and print the table, the best first."""
    start = time.perf_counter()
    found = joined(joins, seeds)
    means, own = found.mean(axis=(2, 3)), joins.index(DEFAULT_REDUCTION)
    print(f"{setting(seeds)}; {DEFAULT_WITNESS}; {time.perf_counter() - start:.0f} s\n")
    print(f"| classes joined by | pruning | from {DEFAULT_REDUCTION} | " + " | ".join(MODELS)
          + " |\n|---|---|---" + "|---" * len(MODELS) + "|")  # fmt: skip
    for i in np.argsort(-means.mean(axis=1), kind="stable").tolist():
        cells = (" / ".join(f"{v:.1f}" for v in row) for row in found[i].mean(axis=0))
        print(f"| {joins[i]} | {means[i].mean():.1f} | {apart(means[i] - means[own])} | "
              + " | ".join(cells) + " |")  # fmt: skip


def setting(seeds: Sequence[int]) -> str:
    """Machine, versions and seeds."""
    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, ONNX "
        f"Runtime {onnxruntime.__version__}, NumPy {np.__version__}; seeds "
        f"{', '.join(map(str, seeds))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:2", metavar="FROM:TO")
    parser.add_argument("--witnesses", default=",".join(WITNESSES), metavar="NAME,...")
    parser.add_argument("--joins", metavar="NAME,...", help=f"with {DEFAULT_REDUCTION} among them")
    args = parser.parse_args()
    first, _, end = args.seeds.partition(":")
    seeds = range(int(first), int(end))
    if args.joins:
        report_joins(args.joins.split(","), seeds)
    else:
        report(args.witnesses.split(","), seeds)


if __name__ == "__main__":
    main()
