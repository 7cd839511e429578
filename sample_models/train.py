"""Training of one sample network on Fashion-MNIST (development only, CPU)."""

from __future__ import annotations

import gzip
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = 0.2860, 0.3530
CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """Array in an idx file, gzipped or not."""
    raw = path.read_bytes() if path.exists() else path.with_name(path.name + ".gz").read_bytes()
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and labels (N,) of `train` or `t10k`."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte")
    return images, read_idx(folder / f"{split}-labels-idx1-ubyte").astype(np.int64)


def normalise(images: np.ndarray) -> Tensor:
    """Network input (N, 1, 28, 28) float32 of uint8 images."""
    x = torch.from_numpy(images.astype(np.float32))[:, None]
    return (x / 255 - MEAN) / STD


@dataclass(frozen=True)
class Recipe:
    """One cycle of the learning rate, with SGD (Nesterov) or AdamW."""

    epochs: int
    rate: float
    batch: int = 128
    decay: float = 5e-4
    smoothing: float = 0.05
    seed: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random flip for each image and one random shift of up to two pixels for the batch."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    padded = nn.functional.pad(x, (2, 2, 2, 2), value=-MEAN / STD)
    return padded[:, :, dy : dy + 28, dx : dx + 28]


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy in float32."""
    net.eval()
    with torch.inference_mode():
        hits = sum(
            int((net(a).argmax(1) == b).sum())
            for a, b in zip(x.split(500), y.split(500), strict=True)
        )
    return hits / len(y)


def optimizer_of(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; normalisation and biases are not decayed."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.decay}]
    groups += [{"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)


def train(net: nn.Module, recipe: Recipe, train_set: tuple, test_set: tuple) -> float:
    """Train in place; the test set is read once, at the end. Returns the test accuracy."""
    generator = torch.Generator().manual_seed(recipe.seed)
    x, y = normalise(train_set[0]), torch.tensor(train_set[1])
    net.to(memory_format=torch.channels_last).train()
    optimizer = optimizer_of(net, recipe)
    steps = len(x) // recipe.batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * steps, pct_start=0.25
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    began = time.perf_counter()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(x), generator=generator)[: steps * recipe.batch]
        total = 0.0
        for pick in order.split(recipe.batch):
            batch = augment(x[pick], generator).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(net(batch), y[pick])
            loss.backward()
            optimizer.step()
            cycle.step()
            total += float(loss.detach())
        seconds = time.perf_counter() - began
        print(f"  epoch {epoch + 1:2d}: loss {total / steps:.4f}, {seconds:.0f} s", flush=True)
    return accuracy(net, normalise(test_set[0]), torch.tensor(test_set[1]))
