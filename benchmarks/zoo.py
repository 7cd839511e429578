"""Exported models that others wrote, pruned by discedit-onnx, onnxsim and Torch-Pruning.

    python benchmarks/zoo.py --cache FOLDER [--only NAME ...] [--json FILE] > table.md

Ours removes 30 % of the prunable parameters, chosen at random; the peers remove 30 % of the
channels of every layer that they can prune. Needs torch, torchvision, timm, transformers,
segmentation-models-pytorch, keras, keras-hub, tensorflow-cpu, tf2onnx, jax2onnx, paddlepaddle,
paddle2onnx, scikit-learn, skl2onnx, onnxsim and torch-pruning; what is missing shows as an error in
its rows. (paddle2onnx and keras-hub want other versions of onnx and tensorflow than they need:
install them last, without their dependencies.) Nothing is downloaded: all weights are random.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import zoo_exports
import zoo_models
import zoo_others
import zoo_peers
import zoo_torch
from zoo_tables import tables

from discedit_onnx.calibration.runner import open_session
from discedit_onnx.editing.budget import Budget, cut_off
from discedit_onnx.editing.order import removal_order
from discedit_onnx.editing.plan import plan_removal
from discedit_onnx.editing.surgery import apply
from discedit_onnx.editing.verify import compare, mask
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.cost import ParameterCount, count_parameters
from discedit_onnx.graph.coupling import Coupling, analyse
from discedit_onnx.graph.view import View
from discedit_onnx.inspection import inspect
from discedit_onnx.model import load
from discedit_onnx.scoring.weights import chance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoo_models import Architecture

Record = dict[str, Any]

FAMILIES = (
    zoo_torch.add_torchvision, zoo_torch.add_timm, zoo_torch.add_segmentation,
    zoo_torch.add_transformers, zoo_others.add_keras, zoo_others.add_jax, zoo_others.add_paddle,
    zoo_others.add_sklearn,
)  # fmt: skip
"""Where models come from, in the order of the table."""
SHARE = 0.3
"""Of the prunable parameters."""
REACHES = {"inside": Reach(inside_heads=True), "inexact": Reach(inexact=True)}
"""Options that are listed apart from the default."""
DISTRIBUTIONS = (
    "discedit-onnx", "onnx", "onnxruntime", "numpy", "scipy", "onnxsim", "torch-pruning", "torch",
    "torchvision", "timm", "transformers", "segmentation-models-pytorch", "keras", "keras-hub",
    "tensorflow-cpu", "tf2onnx", "jax", "flax", "jax2onnx", "paddlepaddle", "paddle2onnx",
    "scikit-learn", "skl2onnx",
)  # fmt: skip
WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "FusedConv": (1,),
    "FusedMatMul": (0, 1), "Attention": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Which inputs of which operators are the weights of a layer."""


# --- ours


def measure_ours(model: Architecture, path: Path, seed: int) -> Record:
    """Analyse, choose at random, cut, check and compare one model."""
    loaded = load(path)
    proto = loaded.proto
    start = time.perf_counter()
    coupling = analyse(proto)
    record: Record = {"analysis": time.perf_counter() - start, "valid": False, "equal": False}
    count, reach = ParameterCount(coupling), reachable(coupling)
    covered, weights = layer_weights(coupling)
    record |= {"reach": reach, "weights": weights, "covered": covered}
    for name, wider in REACHES.items():
        other = analyse(proto, wider)
        record[f"reach {name}"] = reachable(other)
        record[f"covered {name}"] = layer_weights(other)[0]
    record["pinned"] = [[p.where, p.why, p.indices] for p in coupling.pinned]
    record["conclusion"] = inspect(loaded).conclusion
    record["original"] = invalidity(proto)
    order = removal_order(coupling, chance(coupling, seed))
    removed = cut_off(order, Budget("sparsity", SHARE * reach), ParameterCount(coupling))
    start = time.perf_counter()
    pruned = apply(proto, plan_removal(coupling, removed, ""))
    record["surgery"] = time.perf_counter() - start
    record["parameters"] = [count.total, count_parameters(pruned)]
    record["macs"] = [macs(proto, model), macs(pruned, model)]
    record["error"] = invalidity(pruned)
    record["valid"] = record["error"] is None
    equality = compare(mask(coupling, removed), pruned, [model.feeds()], "cpu", "random inputs")
    record["deviation"] = equality.deviation
    record["equal"] = equality.deviation <= equality.tolerance
    return record


def reachable(coupling: Coupling) -> float:
    """Share of the parameters that can go when each group keeps one component."""
    count = ParameterCount(coupling)
    order = removal_order(coupling, np.zeros(coupling.size))
    return 1 - count.left(order.first(len(order.steps))) / count.total


def layer_weights(coupling: Coupling) -> tuple[int, int]:
    """Weights of layers in a removable row or column, and all; embeddings are not among them."""
    view = coupling.view
    sizes = np.bincount(coupling.group_of, minlength=1)
    fixed: dict[str, list[int]] = {}
    for name in _layers(view):
        fixed[name] = list(view.initializers[name].dims)
    for block in coupling.blocks:
        if block.tensor in fixed:
            components = coupling.component[block.start : block.stop]
            free = components >= 0
            # The only component of its group can't go.
            free[free] = sizes[coupling.group_of[components[free]]] > 1
            fixed[block.tensor][block.axis] -= int(free.sum())
    total = sum(int(np.prod(view.initializers[name].dims)) for name in fixed)
    return total - sum(int(np.prod(lengths)) for lengths in fixed.values()), total


def _layers(view: View) -> Iterator[str]:
    """Constants that layers multiply with, each once."""
    looked_up = {node.inputs[0] for node in view.nodes if node.op == "Gather"}
    found = {}
    for node in view.nodes:
        for position in WEIGHTS.get(node.op, ()):
            if position < len(node.inputs) and node.inputs[position]:
                name = view.origin(node.inputs[position])
                if name and name not in looked_up and len(view.initializers[name].dims) > 1:
                    found[name] = None
    yield from found


def invalidity(proto: onnx.ModelProto) -> str | None:
    """Why the checker, strict shape inference or ONNX Runtime refuse a model."""
    try:
        onnx.checker.check_model(proto, full_check=True)
        open_session(proto, "cpu")
    except Exception as error:  # each has its own kinds
        return describe(error)
    return None


def macs(proto: onnx.ModelProto, model: Architecture) -> int | None:
    """Multiply-accumulates for one sample, or None where shapes are unknown.

    Unlike `count_macs` it counts the first axis: simplifiers merge the batch with other axes.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    lengths = {entry.name: (1, *entry.shape) for entry in model.inputs}
    for info in fixed.graph.input:
        dims = info.type.tensor_type.shape.dim
        for dim, length in zip(dims, lengths.get(info.name, ()), strict=False):
            dim.dim_value = length
    view = View(fixed)
    total = 0
    for node in view.nodes:
        if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            spread = view.shapes.get(
                node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
            )
            weight = view.shapes.get(node.inputs[1], (None,))
            by_rows = node.op != "MatMul" and (node.op != "Gemm" or node.attributes.get("transB"))
            each = weight[1:] if by_rows else weight[-2:-1] or weight
            if spread is None or None in spread or None in each:
                return None
            total += math.prod(x for x in (*spread, *each) if x is not None)
    return total


# --- peers


def measure_onnxsim(model: Architecture, path: Path, seed: int) -> Record:
    """Its choice is by magnitude: it has no random one."""
    proto = zoo_peers.simplified(onnx.load(str(path)))
    start = time.perf_counter()
    pruned = zoo_peers.onnxsim_prune(proto, zoo_peers.CHANNELS)
    record: Record = {"seconds": time.perf_counter() - start, "equal": False}
    record["parameters"] = [count_parameters(proto), count_parameters(pruned)]
    record["reach"] = zoo_peers.onnxsim_reach(proto)
    record["error"] = invalidity(pruned)
    record["valid"] = record["error"] is None
    record["macs"] = [macs(proto, model), macs(pruned, model)]
    reference = zoo_peers.masked_like(proto, pruned)
    equality = compare(reference, pruned, [model.feeds()], "cpu", "random inputs")
    record["deviation"] = equality.deviation
    record["equal"] = equality.deviation <= equality.tolerance
    return record


def measure_torch_pruning(model: Architecture, path: Path, seed: int) -> Record:
    peer = zoo_peers.TorchPruned(model, seed)
    record: Record = {"valid": False, "equal": False}
    try:
        record["reach"] = peer.reach()
    except Exception as error:
        record["error"] = describe(error)
    return record | peer.measure()


# --- every measurement in a process of its own


def describe(error: BaseException) -> str:
    """One line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def export(model: Architecture, path: Path, seed: int) -> Record:
    """Write the model under a temporary name first, so that the cache holds whole files only."""
    partial = path.with_suffix(".partial")
    zoo_exports.export(model, partial)
    partial.replace(path)
    return {}


def isolated(
    task: Callable[[Architecture, Path, int], Record],
    model: Architecture,
    path: Path,
    seed: int,
    timeout: float,
) -> Record:
    """Run a task in a fork: neither a crash nor a hang of one tool ends the others."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        log = os.open(
            path.with_suffix(f".{task.__name__}.log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        )
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            sender.send(task(model, path, seed))
        except BaseException as error:
            traceback.print_exc()
            sender.send({"error": describe(error)})

    process = context.Process(target=work)
    process.start()
    sender.close()
    try:
        record: Record = (
            receiver.recv() if receiver.poll(timeout) else {"error": f"over {timeout:.0f} s"}
        )
    except EOFError:
        record = {"error": "crashed"}
    process.kill()
    process.join()
    return record


def run(model: Architecture, cache: Path, seed: int, timeout: float) -> Record:
    """All measurements of one model."""
    path = cache / f"{model.label}.onnx"
    record: Record = {"model": model.name, "library": model.library, "label": model.label}
    record |= {"exporter": model.exporter, "opset": model.opset, "dynamic": model.dynamic}
    if not path.exists():
        failure = isolated(export, model, path, seed, timeout).get("error")
        if failure:
            return record | {"error": failure}
    record["ours"] = isolated(measure_ours, model, path, seed, timeout)
    record["onnxsim"] = isolated(measure_onnxsim, model, path, seed, timeout)
    if model.is_torch:
        record["torch-pruning"] = isolated(measure_torch_pruning, model, path, seed, timeout)
    return record


def facts(seed: int) -> dict[str, str]:
    """Machine, versions and seeds."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    machine = f"{processor}, {os.cpu_count()} cores, {platform.system()}"
    return {
        "machine": machine,
        "Python": platform.python_version(),
        **versions,
        "seed of weights and inputs": str(zoo_models.SEED),
        "seed of the choice": str(seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder that keeps the exported models")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of models")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of components")
    parser.add_argument("--timeout", type=float, default=300, help="seconds per measurement")
    args = parser.parse_args()
    zoo = zoo_models.Zoo()
    for add in FAMILIES:
        add(zoo)
    chosen = [m for m in zoo.models if any(part in m.label for part in args.only)]
    twice = [name for name, n in Counter(m.label for m in chosen).items() if n > 1]
    assert not twice, twice
    zoo_exports.import_torch()
    with tempfile.TemporaryDirectory() as temporary:
        cache = args.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        records = []
        for model in chosen:
            print(model.label, file=sys.stderr, flush=True)
            records.append(run(model, cache, args.seed, args.timeout))
            if args.json:  # after each model: a long run that is ended leaves what it measured
                measured = {"facts": facts(args.seed), "models": records}
                args.json.write_text(json.dumps(measured, indent=1))
    print(tables(records, facts(args.seed)))


if __name__ == "__main__":
    main()
