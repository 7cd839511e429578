"""From a folder of JPEG files to moments, against decoding alone and inference alone.

    python benchmarks/calibration_data.py [--images 192] [--rounds 3] [--device cpu]

Random weights in the shape of ResNet-50, batches of 16; smooth random JPEG images of 500 x 375
pixels, resized and cropped to 224 x 224. All three are measured in turns in this one run, without
the time that it takes to open a session; throughputs are medians of the rounds. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from calibration_models import resnet50
from PIL import Image

import discedit_onnx as dx
from discedit_onnx.calibration.session import open_session

if TYPE_CHECKING:
    from discedit_onnx.calibration.data import Dataset
    from discedit_onnx.model import Model

CLASSES, BATCH = 10, 16
WIDTH, HEIGHT = 500, 375
SEED = 0
WANTED = 0.85


@dataclass(frozen=True)
class Throughput:
    """Images a second.

    Attributes
    ----------
    decoding
        Files to batches in memory.
    inference
        The model as it is, on one batch in memory again and again.
    together
        Files to moments.
    """

    decoding: float
    inference: float
    together: float

    @property
    def share(self) -> float:
        """What is reached of the slower of the two alone."""
        return self.together / min(self.decoding, self.inference)


def write_images(root: Path, count: int) -> None:
    """Smooth random JPEG images in class folders."""
    rng = np.random.default_rng(SEED)
    for number in range(count):
        folder = root / str(number % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=90)


def decoding(data: Dataset) -> float:
    """Images a second without a model."""
    start = time.perf_counter()
    count = sum(len(batch) for batch in data.batches(BATCH))
    return count / (time.perf_counter() - start)


def inference(model: Model, data: Dataset, device: str) -> float:
    """Images a second of the model as it is."""
    feeds = dict(next(data.batches(BATCH)).feeds)
    runs = max(2, len(data) // BATCH)
    with open_session(model.proto, device, shared=True) as session:  # as calibration does
        session.run(["logits"], feeds)
        start = time.perf_counter()
        for _ in range(runs):
            session.run(["logits"], feeds)
        return runs * BATCH / (time.perf_counter() - start)


def together(model: Model, data: Dataset, device: str) -> float:
    """Images a second from files to moments, from the end of the first batch to the last."""
    seen: list[tuple[int, float]] = []
    dx.calibrate(
        model,
        data,
        device=device,
        batch_size=BATCH,
        progress=lambda done, _: seen.append((done, time.perf_counter())),
    )
    (first, start), (last, end) = seen[0], seen[-1]
    return (last - first) / (end - start)


def measure(images: int, rounds: int, device: str) -> Throughput:
    """All three, in turns."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_images(root / "images", images)
        onnx.save(resnet50(CLASSES), root / "model.onnx")
        model = dx.load(root / "model.onnx")
        data = dx.open_data(model, root / "images", preprocess="imagenet")
        found = [
            Throughput(
                decoding(data), inference(model, data, device), together(model, data, device)
            )
            for _ in range(rounds)
        ]
    return Throughput(
        statistics.median(each.decoding for each in found),
        statistics.median(each.inference for each in found),
        statistics.median(each.together for each in found),
    )


def report(images: int, rounds: int, device: str) -> None:
    """Print the table."""
    found = measure(images, rounds, device)
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, onnxruntime {onnxruntime.__version__}, {device}; "
        f"{images} JPEG images of {WIDTH} x {HEIGHT}, ResNet-50 shape, batch {BATCH}, "
        f"median of {rounds} rounds, seed {SEED}\n"
    )
    print("| | images a second |\n|---|---|")
    for name in ("decoding", "inference", "together"):
        print(f"| {name} | {getattr(found, name):.1f} |")
    print(f"\n{found.share:.0%} of the slower one alone; wanted: {WANTED:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    report(args.images, args.rounds, args.device)


if __name__ == "__main__":
    main()
