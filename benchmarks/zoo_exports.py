"""From the architectures of the zoo to ONNX files.

Weights that frameworks start at a constant (biases, norms, layer scales) are moved off it and
BatchNorm gets the statistics of random inputs, so that no branch is idle.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from zoo_models import SEED

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_models import Architecture, Input


def import_torch() -> None:
    """Import PyTorch and torchvision, also where torchvision's compiled operators are missing.

    There is none of them in the zoo, but registering their meta kernels would fail.
    """
    import torch

    missing = "torchvision._meta_registrations"
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        sys.modules[missing] = types.ModuleType(missing)
        import torchvision  # noqa: F401
    torch.set_num_threads(1)


def torch_module(model: Architecture) -> Any:
    """The module, seeded, in evaluation mode, with no idle branches; it returns one tensor."""
    import torch
    from torch import nn

    class First(nn.Module):
        """Calls a model by the names of its inputs, and returns its first output only."""

        def __init__(self, inner: nn.Module, names: tuple[str, ...] | None) -> None:
            super().__init__()
            self.inner = inner
            self.names = names

        def forward(self, *arguments: Any) -> Any:
            if self.names:
                out = self.inner(**dict(zip(self.names, arguments, strict=True)))
            else:
                out = self.inner(*arguments)
            while not isinstance(out, torch.Tensor):
                out = next(iter(out.values())) if isinstance(out, Mapping) else out[0]
            return out

    torch.manual_seed(SEED)
    by_name = tuple(entry.name for entry in model.inputs)
    named = by_name if by_name[0] == "input_ids" else None
    module = First(model.build().eval(), named)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
                parameter.add_(0.1 * torch.randn_like(parameter))
        settle(module, model.inputs)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def settle(module: Any, inputs: tuple[Input, ...]) -> None:
    """Give every BatchNorm the statistics of random inputs."""
    from torch import from_numpy
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return
    generator = np.random.default_rng(SEED)
    for norm in norms:
        norm.train()
        norm.momentum = None  # a plain mean
    module(*(from_numpy(entry.draw(4, generator)) for entry in inputs))
    module.eval()


def export(model: Architecture, path: Path) -> None:
    """Write a model as ONNX, weights inside."""
    others = {
        "jax": _export_jax, "keras": _export_keras, "paddle": _export_paddle,
        "skl2onnx": _export_sklearn,
    }  # fmt: skip
    if model.exporter in others:
        return others[model.exporter](model, path)
    import torch

    module = torch_module(model)
    feeds = model.feeds()
    arguments = tuple(torch.from_numpy(values) for values in feeds.values())
    names = list(feeds)
    common: dict[str, Any] = {
        "input_names": names, "output_names": ["output"], "opset_version": model.opset,
    }  # fmt: skip
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if model.exporter == "script":
            axes = {name: {0: "batch"} for name in (*names, "output")} if model.dynamic else None
            torch.onnx.export(
                module, arguments, str(path), dynamo=False, dynamic_axes=axes, **common
            )
            return None
        batch = {0: torch.export.Dim("batch")}
        shapes = {"arguments": tuple(batch for _ in names)} if model.dynamic else None
        torch.onnx.export(
            module, arguments, str(path), dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=shapes, **common,
        )  # fmt: skip
    return None


def _export_keras(model: Architecture, path: Path) -> None:
    """Through tf2onnx, as `model.export` does, but with the opset and batch of our choice."""
    network = model.build()
    import tensorflow as tf
    import tf2onnx

    batch = None if model.dynamic else 1
    signature = [
        tf.TensorSpec((batch, *entry.shape), entry.dtype, name=entry.name) for entry in model.inputs
    ]
    names = [entry.name for entry in model.inputs]

    def call(*values: Any) -> Any:
        named = dict(zip(names, values, strict=True))
        return network(named if len(values) > 1 else values[0], training=False)

    function = tf.function(call, input_signature=signature)
    tf2onnx.convert.from_function(
        function, input_signature=signature, opset=model.opset, output_path=str(path),
        custom_op_handlers={"Erfc": (_erfc, [])},
    )  # fmt: skip


def _erfc(graph: Any, node: Any, name: str, arguments: list[Any]) -> None:
    """What Keras's GELU is written with, and tf2onnx does not know: 1 - erf(x)."""
    (out,) = node.output
    shape, dtype = graph.get_shape(out), graph.get_dtype(out)
    graph.remove_node(name)
    one = graph.make_const(f"{name}.one", np.array(1, np.float32))
    erf = graph.make_node("Erf", node.input[:1])
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, outputs=[out], name=name, shapes=[shape], dtypes=[dtype])


def _export_jax(model: Architecture, path: Path) -> None:
    """Through jax2onnx, which keeps modules as local functions."""
    import jax
    import onnx
    from flax import nnx
    from jax2onnx import to_onnx

    network = model.build()
    generator = np.random.default_rng(SEED)

    def moved(values: Any) -> Any:
        if values.size == 1 or (values != values.ravel()[0]).any():
            return values
        return values + 0.1 * generator.standard_normal(values.shape).astype(values.dtype)

    nnx.update(network, jax.tree.map(moved, nnx.state(network, nnx.Param)))
    batch = "B" if model.dynamic else 1
    inputs = [jax.ShapeDtypeStruct((batch, *entry.shape), entry.dtype) for entry in model.inputs]
    names = [entry.name for entry in model.inputs]
    onnx.save(to_onnx(network, inputs=inputs, opset=model.opset, input_names=names), str(path))


def _export_paddle(model: Architecture, path: Path) -> None:
    """Through paddle2onnx."""
    import paddle

    paddle.seed(SEED)
    network = model.build()
    generator = np.random.default_rng(SEED)
    for parameter in network.parameters():
        values = parameter.numpy()
        if values.size > 1 and (values == values.ravel()[0]).all():
            moved = values + 0.1 * generator.standard_normal(values.shape)
            parameter.set_value(moved.astype(values.dtype))
    for part in network.sublayers():
        if isinstance(part, paddle.nn.BatchNorm2D | paddle.nn.BatchNorm):
            part._momentum = 0.0  # the statistics of one batch
    network.train()
    with paddle.no_grad():
        network(*(paddle.to_tensor(entry.draw(4, generator)) for entry in model.inputs))
    network.eval()
    batch = -1 if model.dynamic else 1
    inputs = [
        paddle.static.InputSpec([batch, *entry.shape], "float32", entry.name)
        for entry in model.inputs
    ]
    paddle.onnx.export(network, str(path), input_spec=inputs, opset_version=model.opset)
    path.with_name(f"{path.name}.onnx").replace(path)


def _export_sklearn(model: Architecture, path: Path) -> None:
    from skl2onnx import to_onnx

    example = next(iter(model.feeds().values()))
    options = {"zipmap": False} if model.name.endswith("Classifier") else None
    estimator = model.build()
    converted = to_onnx(
        estimator, example, target_opset=model.opset, options=options and {id(estimator): options}
    )
    path.write_bytes(converted.SerializeToString())
