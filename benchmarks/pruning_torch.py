"""Torch-Pruning on the PyTorch originals of the sample models, for `pruning.py`.

The weights are those of the ONNX files; where the exporter folded batch normalisation into a
convolution, the module gets the folded weights and a normalisation that only adds the bias.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]

SAMPLES = Path(__file__).parents[1] / "sample_models"
ORIGINALS = {"fashion_resnet20": "ResNet20", "fashion_vgg": "VGG", "fashion_mobilenet": "MobileNet"}
IMPORTANCES = ("l2", "taylor")
HALVINGS = 8
"""Steps to the share of channels that makes it remove as many parameters."""


class TorchPruned:
    """A sample model in PyTorch, and what Torch-Pruning makes of it.

    Parameters
    ----------
    name
        In `ORIGINALS`.
    test
        Batches of images and labels.
    """

    def __init__(self, name: str, test: Sequence[Labelled]) -> None:
        self._test = test
        self._module = original(name)
        self.accuracy = self._accuracy(self._module)

    def prune(self, ratio: float, importance: str, calibration: Labelled) -> tuple[float, float]:
        """Share of the parameters removed, at least `ratio`, and the accuracy that is left."""
        low, high, best = 0.0, 1.0, self._module
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = self._pruned(middle, importance, calibration)
            if self._removed(found) >= ratio:
                high, best = middle, found
            else:
                low = middle
        return self._removed(best), self._accuracy(best)

    def _pruned(self, share: float, importance: str, calibration: Labelled) -> Any:
        import torch
        import torch_pruning as tp

        module = copy.deepcopy(self._module).eval()
        images, labels = (torch.from_numpy(part) for part in calibration)
        kinds = {
            "l2": tp.importance.GroupMagnitudeImportance(p=2),
            "taylor": tp.importance.GroupTaylorImportance(),
        }
        pruner = tp.pruner.BasePruner(
            module, images[:2], importance=kinds[importance], global_pruning=True,
            pruning_ratio=share, max_pruning_ratio=0.95, ignored_layers=[_head(module)],
        )  # fmt: skip
        if importance == "taylor":
            torch.nn.functional.cross_entropy(module(images), labels).backward()
        pruner.step()
        return module

    def _removed(self, module: Any) -> float:
        return 1 - _parameters(module) / _parameters(self._module)

    def _accuracy(self, module: Any) -> float:
        import torch

        with torch.no_grad():
            hits = [
                int((module(torch.from_numpy(x)).argmax(1).numpy() == y).sum())
                for x, y in self._test
            ]
        return sum(hits) / sum(len(y) for _, y in self._test)


def original(name: str) -> Any:
    """The PyTorch module of a sample model, with the weights of its file."""
    import torch

    sys.path.insert(0, str(SAMPLES))
    import nets  # type: ignore[import-not-found]

    module = getattr(nets, ORIGINALS[name])().eval()
    graph = onnx.load(SAMPLES / f"{name}.onnx").graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    biases = {
        node.input[1]: values[node.input[2]]
        for node in graph.node
        if node.op_type == "Conv" and len(node.input) > 2
    }
    for node in graph.node:  # equal initializers are stored once
        if node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    state = module.state_dict()
    for key, old in state.items():
        if key in values:
            state[key] = torch.from_numpy(values[key].copy()).reshape(old.shape)
        elif key.endswith(".1.bias") and (folded := key.replace(".1.bias", ".0.weight")) in biases:
            state[key] = torch.from_numpy(biases[folded].copy())
            state[key.replace("bias", "running_var")] = torch.full_like(old, 1 - 1e-5)
        elif not key.endswith(("num_batches_tracked", "weight", "running_mean", "running_var")):
            raise KeyError(f"{name} holds no {key}")
    module.load_state_dict(state)
    return module


def _head(module: Any) -> Any:
    import torch

    return [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1]


def _parameters(module: Any) -> int:
    return sum(part.numel() for part in module.parameters())
