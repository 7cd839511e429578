"""What the sign of a component is worth, beside what the choice of the bound is worth.

    python benchmarks/forgetting_signs.py [--count 3]     # the sample ResNet-20
    python benchmarks/forgetting_signs.py --model M.onnx --calibration DIR --test DIR

DisCEdit-U for each class in turn, so many components of each later group zeroed and nothing made
up for: by the bounds of components that fire more for the class (signed), and by all bounds
(unsigned), for several witnesses. One seed. Prints Markdown.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from forgetting import PER_CLASS, SAMPLES, Trials, subset
from forgetting_tails import logits

import discedit_onnx as dx
from discedit_onnx.editing.edit import carry_out
from discedit_onnx.editing.forgetting.components import Amount, choose
from discedit_onnx.graph.coupling import analyse
from discedit_onnx.scoring.saliency import score

if TYPE_CHECKING:
    from discedit_onnx.graph.coupling import Coupling
    from discedit_onnx.scoring.saliency import Scores

WITNESSES = ("fisher", "sharp", "exponential", "threshold", "histogram")


def left(
    trials: Trials, coupling: Coupling, scores: Scores, gone: int, count: int
) -> tuple[float, float]:
    """Accuracy on a class and, from RA, on the others once its components are zeroed."""
    chosen = choose(scores, coupling, [gone], coupling.silenceable, Amount("count", count))
    edit = carry_out(trials.model, coupling, chosen, remove=False, device="cpu")
    place = trials.test.place_of(edit.proto)
    edited = trials.test.tail(replace(trials.model, proto=edit.proto), place)
    right = trials.right(logits(edited, trials.test.data(place)))
    inside = trials.labels == gone
    return right[inside].mean(), right[~inside].mean() - trials.reference(gone)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SAMPLES / "fashion_resnet20.onnx")
    parser.add_argument("--calibration", default=SAMPLES / "fashion_mnist/calibration")
    parser.add_argument("--test", default=SAMPLES / "fashion_mnist/test")
    parser.add_argument("--preprocess", help="for both folders, unless the model says it")
    parser.add_argument("--count", type=int, default=3, help="components of each group")
    args = parser.parse_args()
    model = dx.load(args.model)
    pool, test = (
        dx.open_data(model, folder, preprocess=args.preprocess)
        for folder in (args.calibration, args.test)
    )
    classes = range(len(test.class_names))
    images = subset(pool, PER_CLASS, 0)
    moments = dx.calibrate(model, images, device="cpu")
    coupling, trials = analyse(model.proto), Trials(model, test)
    print(
        f"{args.model.name}, {args.count} components of each later group, seed 0, {PER_CLASS} "
        f"images a class, {len(test):,} test images; {platform.machine()}, ONNX Runtime "
        f"{onnxruntime.__version__}, NumPy {np.__version__}\n\n"
        "| witness | signed: forget | retain from RA | unsigned: forget | retain from RA | gain |\n"
        "|---|---|---|---|---|---|"
    )
    for name in WITNESSES:
        signed = score(model, coupling, moments, name)
        both = signed, replace(signed, signs=np.ones_like(signed.signs))
        found = [[left(trials, coupling, scores, gone, args.count) for gone in classes]
                 for scores in both]  # fmt: skip
        (a, b), (c, d) = (100 * np.mean(each, axis=0) for each in found)
        print(f"| {name} | {a:.1f} | {b:+.2f} | {c:.1f} | {d:+.2f} | {c - a:.1f} |", flush=True)


if __name__ == "__main__":
    main()
