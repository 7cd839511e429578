"""What other structured pruners make of a model of the zoo, measured like ours.

Equality is that with the masked original here too. Which channels a peer removed is read off its
weights: the original with the same inputs of the same layers set to zero must give the outputs
of the pruned model.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper
from zoo_exports import torch_module

from discedit_onnx.editing.surgery import store
from discedit_onnx.editing.verify import TOLERANCE
from discedit_onnx.graph.cost import count_parameters
from discedit_onnx.graph.view import weight_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray
    from zoo_models import Architecture

CHANNELS = 0.3
"""The share of each layer's channels that is asked of both peers."""
HALVINGS = 13
"""Steps in which Torch-Pruning comes down to one channel a layer."""
PROBES = 256
"""Values that are looked up to recognise a row."""
MOST = 0.999
"""The share of channels that is asked of onnxsim to see how far it can go; it leaves one."""


def kept(before: NDArray[Any], after: NDArray[Any], axis: int) -> NDArray[np.int64]:
    """The indices of `before` along an axis that `after` holds, found by their values."""
    order = np.argsort(before, axis=None, kind="stable")
    ascending = before.ravel()[order]
    step = ascending[1:] != ascending[:-1]
    single = np.append(step, True) & np.insert(step, 0, True)
    lines = np.moveaxis(after, axis, 0).reshape(after.shape[axis], -1)[:, :PROBES]
    found = np.searchsorted(ascending, lines).clip(max=before.size - 1)
    stride = int(np.prod(before.shape[axis + 1 :]))
    # Values that occur twice say nothing; the middle one of the others guards against chance.
    places = np.where(single[found], order[found] // stride % before.shape[axis], before.size)
    middle = single[found].sum(axis=1) // 2
    indices: NDArray[np.int64] = np.sort(places, axis=1)[np.arange(len(lines)), middle]
    return indices


def gone(before: NDArray[Any], after: NDArray[Any], axis: int) -> NDArray[np.int64]:
    """Indices along an axis that a peer removed."""
    if before.shape[axis] == after.shape[axis]:
        return np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(before.shape[axis]), kept(before, after, axis))


def without(before: NDArray[Any], after: NDArray[Any], axis: int, groups: int = 1) -> NDArray[Any]:
    """A weight with zeros where the pruned one has no inputs; of a convolution, group by group."""
    zeroed = before.copy()
    if groups > 1 and len(after) % groups:
        return zeroed  # whole groups went: what they lack disappears in another layer
    parts = (len(before) // groups, len(after) // groups) if axis else (len(before), len(after))
    for group in range(groups if axis else 1):
        own = slice(group * parts[0], (group + 1) * parts[0])
        left = slice(group * parts[1], (group + 1) * parts[1])
        lost = gone(before[own], after[left], axis)
        zeroed[own][(slice(None),) * axis + (lost,)] = 0
    return zeroed


# --- onnxsim


def onnxsim_prune(proto: onnx.ModelProto, sparsity: float) -> onnx.ModelProto:
    """Its channels and its heads."""
    from onnxsim import pruning

    pruned = pruning.apply_structured_pruning(proto, sparsity=sparsity)
    return pruning.apply_attention_head_pruning(pruned, sparsity=sparsity)


def simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxsim prunes best: batch norms folded, shapes constant where they can be."""
    import onnxsim

    try:
        result, sound = onnxsim.simplify(proto)
    except Exception:  # it raises what it likes; pruning works on the original too
        return proto
    return result if sound else proto


def masked_like(original: onnx.ModelProto, pruned: onnx.ModelProto) -> onnx.ModelProto:
    """The original with zeros in the weights of the inputs that the pruned model lacks."""
    masked = copy.deepcopy(original)
    tensors, fewer = weight_tensors(masked), weight_tensors(pruned)
    nodes = {node.output[0]: node for node in pruned.graph.node if node.output}
    for node in masked.graph.node:
        twin = nodes.get(node.output[0])
        if twin is not None and len(node.input) > 1 and node.input[1] in tensors:
            axis, groups = _summed(node, tensors[node.input[1]])
            if axis is not None and twin.input[1] in fewer:
                weight = tensors[node.input[1]]
                after = numpy_helper.to_array(fewer[twin.input[1]])
                store(weight, without(numpy_helper.to_array(weight), after, axis, groups))
    return masked


def _summed(node: onnx.NodeProto, weight: onnx.TensorProto) -> tuple[int | None, int]:
    """The axis of its weight that a node sums over, and in how many groups."""
    attributes = {a.name: a.i for a in node.attribute}
    groups = attributes.get("group", 1)
    if node.op_type in ("Conv", "FusedConv"):
        return 1, groups
    if node.op_type == "ConvTranspose" and groups == 1:
        return 0, 1
    if node.op_type == "Gemm":
        return attributes.get("transB", 0), 1
    if node.op_type == "MatMul":
        return max(len(weight.dims) - 2, 0), 1
    return None, 1


def onnxsim_reach(proto: onnx.ModelProto) -> float:
    """Share of the parameters that it can remove."""
    return 1 - count_parameters(onnxsim_prune(proto, MOST)) / count_parameters(proto)


# --- Torch-Pruning


class TorchPruned:
    """A module of the zoo in the hands of Torch-Pruning, and what it made of it.

    Every layer whose outputs reach the model's own is left out, attention heads are declared,
    and head counts that modules keep are corrected afterwards, as its guide says to.
    """

    def __init__(self, model: Architecture, seed: int) -> None:
        import torch

        self.seed = seed
        self.inputs = tuple(torch.from_numpy(values) for values in model.feeds().values())
        self.original = torch_module(model)
        for part in self.original.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # or it would scale by the pruned size of the heads
        self.parameters = self._count(self.original)

    @staticmethod
    def _count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    def prune(self, most: bool = False) -> tuple[Any, float]:
        """A copy without 30 % of each layer's channels, or as many as can go; and the seconds."""
        import torch
        import torch_pruning as tp

        torch.manual_seed(self.seed)
        module = copy.deepcopy(self.original)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.dtype.is_floating_point)
        start = time.perf_counter()
        steps = HALVINGS if most else 1
        pruner = tp.pruner.BasePruner(
            module,
            self.inputs,
            importance=tp.importance.RandomImportance(),
            pruning_ratio=CHANNELS,
            iterative_steps=steps,
            iterative_pruning_ratio_scheduler=_halve if most else _at_once,
            ignored_layers=_outputs(module, self.inputs),
            num_heads=dict(_heads(module)),
        )
        for _ in range(steps):
            pruner.step()
        seconds = time.perf_counter() - start
        _correct_heads(module)
        return module, seconds

    def reach(self) -> float:
        """Share of the parameters that it can remove."""
        module, _ = self.prune(most=True)
        return 1 - self._count(module) / self.parameters

    def run(self, module: Any) -> NDArray[Any]:
        """Output for the model's feeds."""
        import torch

        with torch.no_grad():
            result: NDArray[Any] = module(*self.inputs).numpy()
            return result

    def macs(self, module: Any) -> int:
        """By its own counter."""
        import torch_pruning as tp

        return int(tp.utils.count_ops_and_params(module, tuple(x[:1] for x in self.inputs))[0])

    def masked(self, pruned: Any) -> Any:
        """The original with the inputs that the pruned one lacks set to zero."""
        import torch
        from torch import nn

        masked = copy.deepcopy(self.original)
        heads = {id(part) for part, _ in _heads(masked)}
        twins = dict(pruned.named_modules())
        for name, part in masked.named_modules():
            if not isinstance(getattr(part, "weight", None), torch.Tensor) or part.weight.dim() < 2:
                continue
            before, after = part.weight.numpy(), twins[name].weight.detach().numpy()
            transposed = isinstance(part, nn.modules.conv._ConvTransposeNd)
            groups = getattr(part, "groups", 1)
            if isinstance(part, nn.Embedding) or (transposed and groups > 1):
                continue  # what they lack disappears in another layer
            axis = 0 if transposed or type(part).__name__ == "Conv1D" else 1
            part.weight.data = torch.from_numpy(without(before, after, axis, groups))
            if id(part) in heads:  # queries and keys meet each other, not a weight
                lost = gone(before, after, 1 - axis)
                part.weight.data.movedim(1 - axis, 0)[lost] = 0
                if part.bias is not None:
                    part.bias.data[lost] = 0
        return masked

    def measure(self) -> dict[str, Any]:
        """Everything that the table needs, for 30 % of the channels of each layer."""
        before = self.run(self.original)
        macs = self.macs(self.original)
        pruned, seconds = self.prune()
        record: dict[str, Any] = {
            "parameters": [self.parameters, self._count(pruned)],
            "seconds": seconds,
            "macs": [macs, None],
            "valid": False,
            "equal": False,
        }
        after = self.run(pruned)
        record["valid"] = after.shape == before.shape
        if record["valid"]:
            reference = self.run(self.masked(pruned))
            record["deviation"] = float(np.abs(reference - after).max() / np.abs(reference).max())
            record["equal"] = record["deviation"] <= TOLERANCE
        record["macs"][1] = self.macs(pruned)
        return record


PROJECTIONS = ("qkv", "query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin",
               "q_proj", "k_proj", "v_proj")  # fmt: skip
HEADS = ("num_heads", "num_attention_heads", "n_heads")
GROUPED_HEADS = ("num_key_value_heads", "num_kv_heads")


def _heads(module: Any) -> Iterator[tuple[Any, int]]:
    """(projection, number of heads) of every attention that keeps them as attributes."""
    from torch import nn

    for part in module.modules():
        config = getattr(part, "config", None)
        for name in PROJECTIONS:
            layer = getattr(part, name, None)
            if isinstance(layer, nn.Linear):
                grouped = GROUPED_HEADS if name in ("k_proj", "v_proj") else ()
                for attribute in (*grouped, *HEADS):
                    count = getattr(part, attribute, None) or getattr(config, attribute, None)
                    if isinstance(count, int):
                        yield layer, count
                        break


def _correct_heads(module: Any) -> None:
    """Sizes of heads that attention modules keep for themselves."""
    from torch import nn

    for part in module.modules():
        layers = [getattr(part, name, None) for name in PROJECTIONS]
        layer = next((layer for layer in layers if isinstance(layer, nn.Linear)), None)
        count = next(
            (getattr(part, h) for h in HEADS if isinstance(getattr(part, h, None), int)), 0
        )
        if layer is None:
            continue
        width = layer.out_features // (3 if hasattr(part, "qkv") else 1)
        config = getattr(part, "config", None)
        count = count or getattr(config, "num_attention_heads", 0)
        if not count:
            continue
        sizes = {"head_dim": width // count, "attention_head_size": width // count,
                 "key_value_proj_dim": width // count, "all_head_size": width,
                 "inner_dim": width, "attn_dim": width, "dim": width}  # fmt: skip
        for attribute, size in sizes.items():
            if isinstance(getattr(part, attribute, None), int):
                setattr(part, attribute, size)


def _outputs(module: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """Layers whose output channels are the model's own, by the pruner's own grouping."""
    import torch_pruning as tp
    from torch import nn

    last = _last_parameters(module(*inputs))
    owners = {
        id(part)
        for part in module.modules()
        if any(id(p) in last for p in part.parameters(recurse=False))
    }
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=inputs)
    found = []
    for part in module.modules():
        if not isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        try:
            group = graph.get_pruning_group(
                part, graph.get_pruner_of_module(part).prune_out_channels, [0]
            )
        except Exception:  # it can't say what belongs to this layer
            found.append(part)
            continue
        members = [
            (dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)) for dep, _ in group
        ]
        if any(id(member) in owners and out for member, out in members):
            found.append(part)
    return found


def _last_parameters(output: Any) -> set[int]:
    """Parameters that nothing parametrised stands behind: those of the last layers."""
    found: set[int] = set()
    queue, seen = [output.grad_fn], set()
    while queue:
        step = queue.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        inputs = [function for function, _ in step.next_functions]
        # A weight may pass through a transposition on its way in.
        inner = [g for f in inputs if f and len(f.next_functions) == 1 for g, _ in f.next_functions]
        own = [f.variable for f in (*inputs, *inner) if hasattr(f, "variable")]
        if own:
            found.update(id(parameter) for parameter in own)
        else:
            queue.extend(inputs)
    return found


def _at_once(ratio: float, _steps: int) -> list[float]:
    """Shares removed before and after the only step."""
    return [0.0, ratio]


def _halve(_ratio: float, steps: int) -> list[float]:
    """Shares removed after each step; a layer that has one channel left is passed over."""
    return [1 - 0.5**step for step in range(steps + 1)]
