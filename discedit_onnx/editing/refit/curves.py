"""What the loss of components costs at the model's outputs: measured, group by group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its parts are loaded when they are used

from ...scoring.weights import magnitude
from ..plan import Bias, Update, plan_removal
from .batches import images_in
from .elimination import Elimination, System, eliminate
from .layers import find_layers
from .outputs import Outputs
from .pairs import find_pairs
from .sampling import sample
from .stages import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from ...graph.coupling import Coupling, Group
    from ..budget import Cost
    from ..plan import Plan
    from .layers import Layer

    Feeds = Mapping[str, NDArray[Any]]

POINTS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Shares of a group at which the error is measured; in between, the local error interpolates."""
APART = 3.0
"""How much more an error counts where no two layers in a row are refitted to mend it together."""
TIES = 1e-9
"""What sets apart components that count alike: first of a group goes what is missed least."""


@dataclass(frozen=True, eq=False)
class _Moments:
    """What elimination needs to know of a layer: its inputs' moments and its outputs' variance."""

    mean: NDArray[np.float64]
    second: NDArray[np.float64]
    spread: float


@dataclass(frozen=True, eq=False)
class _Consumer:
    """A layer that sums over components: the features of each, and the component of each row."""

    layer: Layer
    blocks: NDArray[np.int64]
    of: NDArray[np.int64]


def least_squares(
    coupling: Coupling,
    cost: Cost,
    fit: Sequence[Feeds],
    judge: Sequence[Feeds],
    *,
    aim: onnx.ModelProto | None = None,
    apart: bool = False,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Saliency by least squares: the error at the outputs that a component's loss brings, by cost.

    Within a group, components are ordered by backward elimination: each time, the one whose loss
    the consumers can best make up for goes (`elimination`). Across groups, the error of the
    model's outputs is measured on held-out images with shares of one group removed and its
    consumers refitted. Each component then counts with what its removal adds to that curve, made
    convex, over what it saves: cut off anywhere, the order that follows is the Lagrangian optimum
    if the errors of groups add up.

    The curves know of refitted readers only. Where both layers around a group are refitted together
    afterwards (`pairs`), less of its error stays than where they are not, as on a residual spine:
    with `apart`, the latter counts `APART` times (measured, see docs/pruning.md).

    Parameters
    ----------
    coupling
        Of the dense model.
    cost
        What is to be saved.
    fit
        Batches to fit on.
    judge
        Other batches, to measure the error on.
    aim
        The model whose outputs count; the dense model itself unless another is given.
    apart
        Whether what no two layers mend together counts more: where `refit` follows with "patch".
    device, seed, progress
        As in `refit`.

    Returns
    -------
    ndarray of float64, shape (components,)
        Increase of the outputs' relative squared error for each unit of cost.
    """
    view, layers = coupling.view, find_layers(coupling.view)
    consumers = [_consumers(coupling, group, layers) for group in coupling.groups]
    read = {c.layer.node: c.layer for found in consumers for c in found}
    moments = _gather(coupling, list(read.values()), fit, device, seed)
    consumers = [[c for c in found if c.layer.node in moments] for found in consumers]
    outputs = Outputs(view, aim, judge, device)
    pairs = find_pairs(view, layers) if apart else {}
    size = magnitude(coupling, 2)
    saliency = np.zeros(coupling.size)
    begins = [_begin(coupling, group) for group in coupling.groups]
    for number, place in enumerate(np.argsort(begins, kind="stable")):
        group, found = coupling.groups[place], consumers[place]
        outputs.advance(begins[place])
        counts = sorted({round(p * len(group.components)) for p in POINTS})
        done = _eliminated(coupling, group, found, moments, counts, size)
        curve = _measured(coupling, group, found, moments, done, counts, outputs)
        saved = cost.total - cost.left(_first(coupling, group, done, 1))
        rise = scipy.optimize.isotonic_regression(np.diff(curve)).x
        order = group.components[done.order]
        if apart and not (len(found) == 1 and found[0].layer.node in pairs):
            rise *= APART
        rise += TIES * rise.max(initial=1e-300) * np.arange(len(rise))
        saliency[order] = rise / max(saved, 1e-300)
        last = np.setdiff1d(group.components, order)
        saliency[last] = np.inf  # one has to stay
        if progress is not None:
            progress(number + 1, len(coupling.groups))
    return saliency


def _begin(coupling: Coupling, group: Group) -> int:
    """Number of the first node that a removal from a group changes."""
    removed = np.zeros(coupling.size, dtype=bool)
    removed[group.components[0]] = True
    changed = plan_removal(coupling, removed, "").changed
    for node in coupling.view.nodes:
        if not changed.isdisjoint((*node.inputs, *node.outputs, *node.captured)):
            return node.index
    return 0


def _consumers(coupling: Coupling, group: Group, layers: Sequence[Layer]) -> list[_Consumer]:
    """Layers that sum over components of a group, each read as equally many features."""
    found = []
    whole = {layer.node: layer for layer in layers if layer.groups == 1}
    for contraction in coupling.contractions:
        layer = whole.get(contraction.node.outputs[0])
        if layer is None or contraction.weights is None or contraction.input != 0:
            continue
        components = coupling.of(contraction.ids)
        inside = np.isin(components, group.components)
        members, times = np.unique(components[inside], return_counts=True)
        if len(members) and (times == times[0]).all():
            places = np.flatnonzero(inside)[np.argsort(components[inside], kind="stable")]
            blocks = places.reshape(len(members), times[0])
            width = 1 if layer.window is None else layer.window.size
            features = blocks[..., None] * width + np.arange(width)
            of = np.full(len(group.components), -1)
            of[np.searchsorted(group.components, members)] = np.arange(len(members))
            found.append(_Consumer(layer, features.reshape(len(members), -1), of))
    return found


def _gather(
    coupling: Coupling, layers: Sequence[Layer], batches: Sequence[Feeds], device: str, seed: int
) -> dict[str, _Moments]:
    """One walk of the dense network: moments of all consumers whose inputs do not overflow."""
    view = coupling.view
    walk = Walk(view, batches, device)
    images = images_in(batches)
    moments = {}
    for layer in sorted(layers, key=lambda layer: view.producer[layer.node].index):
        values = ((x, [y]) for x, y in walk.run(view.proto, [layer.input, layer.output]))
        found = sample(layer, values, images, seed)
        known = _moments(found.x[0], found.tensors[0][0])
        if np.isfinite([known.spread, known.second.sum()]).all():
            moments[layer.node] = known
        walk.advance(view.proto, view.producer[layer.output].index + 1)
    return moments


@np.errstate(over="ignore", invalid="ignore")
def _moments(x: NDArray[np.float32], y: NDArray[np.float32]) -> _Moments:
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean.astype(np.float32)
    second = (centred.T @ centred).astype(np.float64) / len(x)
    return _Moments(mean, second, float(np.var(y, axis=0, dtype=np.float64).sum()) + 1e-300)


def _eliminated(
    coupling: Coupling,
    group: Group,
    consumers: Sequence[_Consumer],
    moments: Mapping[str, _Moments],
    counts: Sequence[int],
    size: NDArray[np.float64],
) -> Elimination:
    """The order within a group; by the size of the weights where no layer consumes it."""
    if not consumers:
        order = np.argsort(size[group.components], kind="stable")
        errors = np.concatenate([[0.0], np.cumsum(size[group.components][order])])
        return Elimination(order[:-1], errors[: len(order)], {})
    systems = [
        System(
            moments[c.layer.node].second,
            _matrix(coupling, c.layer),
            c.blocks,
            c.of,
            moments[c.layer.node].spread,
        )
        for c in consumers
    ]
    return eliminate(len(group.components), systems, counts)


def _matrix(coupling: Coupling, layer: Layer) -> NDArray[np.float64]:
    weight = layer.weight_in(coupling.view.initializers)
    matrix: NDArray[np.float64] = layer.matrix(weight.astype(np.float64))[0]
    return matrix


def _first(coupling: Coupling, group: Group, done: Elimination, count: int) -> NDArray[np.bool_]:
    removed = np.zeros(coupling.size, dtype=bool)
    removed[group.components[done.order[:count]]] = True
    return removed


def _measured(
    coupling: Coupling,
    group: Group,
    consumers: Sequence[_Consumer],
    moments: Mapping[str, _Moments],
    done: Elimination,
    counts: Sequence[int],
    outputs: Outputs,
) -> NDArray[np.float64]:
    """Error of the outputs after each number of removals, (removals + 1,)."""
    local, measured = [0.0], [outputs.before]
    possible = {n for n in (*counts, len(done.order)) if 0 < n <= len(done.order)}
    for count in sorted(done.weights or possible):
        plan = plan_removal(coupling, _first(coupling, group, done, count), "")
        new = zip(consumers, done.weights.get(count, ()), strict=False)
        updates: list[Update] = []
        biases: list[Bias] = []
        for consumer, weights in new:
            mean = moments[consumer.layer.node].mean
            _refitted(coupling, consumer.layer, weights, mean, plan, updates, biases)
        plan = replace(plan, updates=tuple(updates), biases=tuple(biases))
        local.append(float(done.errors[count]))
        measured.append(outputs.error(plan))
    curve = np.interp(done.errors, local, np.maximum.accumulate(measured))
    beyond = done.errors > local[-1]
    curve[beyond] = measured[-1] * done.errors[beyond] / max(local[-1], 1e-300)
    rising: NDArray[np.float64] = np.maximum.accumulate(curve)
    return rising


def _refitted(
    coupling: Coupling,
    layer: Layer,
    weights: NDArray[np.float64],
    mean: NDArray[np.float64],
    plan: Plan,
    updates: list[Update],
    biases: list[Bias],
) -> None:
    """A consumer's weights without the components that a plan cuts, and its bias."""
    tensors = coupling.view.initializers
    old = layer.weight_in(tensors)
    new = layer.stored.written(layer.weight_of(weights[None], old.shape), tensors)
    shift = mean @ (layer.matrix(old.astype(np.float64))[0] - weights)
    for cut in plan.cuts:
        if cut.tensor == layer.weight:
            new = np.delete(new, cut.indices, cut.axis)
    left = _cut(coupling, layer, plan)
    updates.append(Update(layer.weight, new))
    bias, stored = layer.bias_in(tensors), layer.stored_bias
    if bias is None or stored is None:
        biases.append(Bias(layer.node, shift[left].astype(old.dtype)))
    else:
        updates.append(Update(stored.tensor, stored.written(bias + shift, tensors)[..., left]))


def _cut(coupling: Coupling, layer: Layer, plan: Plan) -> NDArray[np.int64]:
    """Outputs of a layer that a plan leaves."""
    shape = coupling.view.initializers[layer.weight].dims
    axis = 1 if layer.transposed else 0
    gone = [cut.indices for cut in plan.cuts if (cut.tensor, cut.axis) == (layer.weight, axis)]
    return np.delete(np.arange(shape[axis]), gone[0] if gone else [])
