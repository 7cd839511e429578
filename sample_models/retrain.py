"""Trains the sample ResNet-20 without a class: what the evidence of forgetting is held against.

    python sample_models/retrain.py 3 5      # without dress, and without sandal

Writes `references/fashion_resnet20.without-NAME.onnx`: nine columns, in the order of the
classes left. Needs what `make.py` needs. The recipe is that of `make.py` with fewer epochs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from make import DEBIAN, HERE, MODELS, export
from train import CLASS_NAMES, load_split, train

if TYPE_CHECKING:
    import numpy as np

EPOCHS = 4
SAMPLE = "fashion_resnet20"
REFERENCES = HERE / "references"


def without(split: tuple[np.ndarray, np.ndarray], gone: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the classes left, which are counted anew."""
    images, labels = split
    left = labels != gone
    return images[left], labels[left] - (labels[left] > gone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", type=int, nargs="+", help="indices, one model for each")
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder with the four idx files")
    args = parser.parse_args()
    architecture, recipe, _, fold = MODELS[SAMPLE]
    recipe = replace(recipe, epochs=EPOCHS)
    train_set, test_set = load_split(args.data, "train"), load_split(args.data, "t10k")
    for gone in args.classes:
        names = [name for k, name in enumerate(CLASS_NAMES) if k != gone]
        torch.manual_seed(recipe.seed)
        net = architecture(len(names))
        reached = train(net, recipe, without(train_set, gone), without(test_set, gone))
        print(f"without {CLASS_NAMES[gone]}: test accuracy {reached:.4f}", flush=True)
        export(net, REFERENCES / f"{SAMPLE}.without-{CLASS_NAMES[gone]}.onnx", fold, reached, names)


if __name__ == "__main__":
    main()
