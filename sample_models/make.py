"""Makes everything in this folder: four trained models, calibration and test images.

    pip install torch==2.13.0 onnxscript pillow    # CPU build
    python sample_models/make.py                   # about 40 minutes on 2 cores

Fashion-MNIST is read from Debian's package `dataset-fashion-mnist`, or from a folder with
the four idx files (`--data`).
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from nets import VGG, MobileNet, ResNet20, ViT
from PIL import Image
from torch import nn
from train import CLASS_NAMES, MEAN, STD, Recipe, load_split, train

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_PER_CLASS, TEST_PER_CLASS = 120, 250

# name -> architecture, recipe, the accuracy below which nothing is written, fold BatchNorm?
MODELS = {
    "fashion_vgg": (VGG, Recipe(epochs=14, rate=0.1), 0.92, True),
    "fashion_resnet20": (ResNet20, Recipe(epochs=18, rate=0.2), 0.925, False),
    "fashion_mobilenet": (MobileNet, Recipe(epochs=12, rate=0.1), 0.91, True),
    "fashion_vit": (
        ViT,
        Recipe(epochs=11, rate=2e-3, decay=0.05, optimizer="adamw"),
        0.88,
        True,
    ),
}


def export(
    net: nn.Module,
    path: Path,
    fold: bool,
    test_accuracy: float,
    names_of_classes: Sequence[str] = CLASS_NAMES,
) -> None:
    """Write `net` as ONNX with class names and preprocessing, and without local paths.

    The dynamo exporter folds BatchNorm; the TorchScript exporter, told to preserve the mode
    that the network is in, does not. The samples hold one of each kind.
    """
    net.eval().to(memory_format=torch.contiguous_format)
    example = (torch.zeros(2, 1, 28, 28),)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    if fold:
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.onnx.export(net, example, dynamic_shapes=shapes, opset_version=20, **names)
        model = program.model_proto
    else:
        buffer = io.BytesIO()
        axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
        keep = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(
            net, example, buffer, dynamo=False, training=keep, do_constant_folding=False,
            dynamic_axes=axes, opset_version=17, **names,
        )  # fmt: skip
        model = onnx.load_from_string(buffer.getvalue())
    strip_traces(model.graph)
    describe(model, test_accuracy, names_of_classes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def describe(model: onnx.ModelProto, test_accuracy: float, classes: Sequence[str]) -> None:
    """Write class names and preprocessing (the keys of `preprocessor_config.json`)."""
    preprocess = {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN],
        "image_std": [STD],
    }
    for key, value in {
        "discedit.class_names": json.dumps(classes),
        "discedit.preprocess": json.dumps(preprocess),
        "discedit.test_accuracy": f"{test_accuracy:.4f}",
    }.items():
        model.metadata_props.add(key=key, value=value)


def strip_traces(graph: onnx.GraphProto) -> None:
    """Drop doc strings and node metadata: exporters write stack traces with local paths there."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    for item in [*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        del item.metadata_props[:]
        item.doc_string = ""


def write_images(folder: Path, images: np.ndarray, labels: np.ndarray, per_class: int) -> None:
    """The first `per_class` images of each class as PNG, in class folders in label order."""
    for label, name in enumerate(CLASS_NAMES):
        target = folder / f"{label}_{name}"
        target.mkdir(parents=True, exist_ok=True)
        for i in np.flatnonzero(labels == label)[:per_class]:
            Image.fromarray(images[i]).save(target / f"{i:05d}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder with the four idx files")
    parser.add_argument("--only", choices=MODELS, help="make one model only")
    args = parser.parse_args()
    train_set, test_set = load_split(args.data, "train"), load_split(args.data, "t10k")
    write_images(HERE / "fashion_mnist/calibration", *train_set, CALIBRATION_PER_CLASS)
    write_images(HERE / "fashion_mnist/test", *test_set, TEST_PER_CLASS)
    for name, (architecture, recipe, least, fold) in MODELS.items():
        if args.only not in (None, name):
            continue
        print(name, flush=True)
        torch.manual_seed(recipe.seed)
        net = architecture()
        reached = train(net, recipe, train_set, test_set)
        print(f"  test accuracy {reached:.4f}", flush=True)
        if reached < least:
            raise SystemExit(f"{name}: {reached:.4f} is below {least}; not written")
        export(net, HERE / f"{name}.onnx", fold, reached)


if __name__ == "__main__":
    main()
