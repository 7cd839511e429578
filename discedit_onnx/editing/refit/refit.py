"""The pruned network, layer by layer, refitted to the dense one's outputs from its own inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from ...graph.view import View, weight_tensors
from ..plan import Bias, Update
from ..surgery import apply, store
from .batches import images_in
from .biases import zero_biases
from .channels import fit_channels
from .equations import Fit, Rows, fit_bias, fit_rows
from .goals import find_goal
from .joint import Joint, Side
from .layers import find_layers
from .pairs import find_pairs
from .regions import look
from .sampling import sample
from .stages import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ...graph.coupling import Coupling
    from ..plan import Plan
    from .goals import Goal
    from .joint import Regions
    from .layers import Layer
    from .pairs import Pair
    from .stored import Stored

    Feeds = Mapping[str, NDArray[Any]]
    Placed = tuple[Layer, Layer, Goal]
    """A layer, the same in the pruned network, and its goal."""

Kind = Literal["bias", "channel", "patch"]
"""What is refitted: biases; inputs, channel by channel; whole patches of them."""

EQUAL = 1e-10
"""Squared error, relative to the aim's variance, below which a layer gives what it gave."""

SMALL = 3e-4
"""An error so small that nothing is to be gained by the layer before."""

TURNS, GAIN = 3, 0.01
"""Most times that two layers in a row are refitted in turn, and what a turn has to win for more."""


@dataclass(frozen=True)
class Repair:
    """What became of one layer.

    Attributes
    ----------
    layer
        Name of its weight.
    before, after
        Squared error behind the activation on held-out images, relative to the variance of what
        the dense network gives there. Equal where no fit was better than none.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Refit:
    """New values for the layers of a pruned model.

    Attributes
    ----------
    updates, biases
        For a plan, next to its cuts.
    repairs
        The layers that the pruning touched, in the order of the graph.
    """

    updates: tuple[Update, ...]
    biases: tuple[Bias, ...]
    repairs: tuple[Repair, ...]


def refit(
    coupling: Coupling,
    removed: NDArray[np.bool_],
    plan: Plan,
    batches: Sequence[Feeds],
    *,
    kind: Kind = "patch",
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refit:
    """Bring a pruned network as near to the dense one as its layers can, in closed form.

    Layer by layer, in topological order: from the pruned network's own input, a ridge regression
    to what the dense network gives at the next activation. Where a layer adds into a residual
    spine, it makes up for what the spine has lost so far. Where the activation is flat, only being
    on the right side counts (Zhang et al., "Accelerating very deep convolutional networks",
    TPAMI 2016, by alternating least squares). A fit that is no better on held-out images is not
    taken. No labels are needed.

    Parameters
    ----------
    coupling
        Of the dense model.
    removed
        Components, shape (components,).
    plan
        Their removal.
    batches
        What to feed; the images of a batch stay in memory, and activations up to
        `stages.MOST_HELD`.
    kind
        "patch" as above. "channel" tells each channel that is gone from those that are left, and
        folds that into the weights; "bias" gives back only the mean of what was removed.
    device
        As in `calibrate`.
    seed
        Of the positions that the regressions look at.
    progress
        Called with the layers done and all.
    """
    work = _Work(coupling, removed, plan, batches, kind, device, seed)
    pairs = find_pairs(coupling.view, work.layers) if kind == "patch" else {}
    work.hold(pair.first for pair in pairs.values())
    for number, layer in enumerate(work.layers):
        work.look_ahead(number)
        error = work.refit(layer)
        if error > SMALL and layer.node in pairs:
            work.refit_both(pairs[layer.node], error)
        work.advance(layer, done=pairs.get(layer.node))
        if progress is not None:
            progress(number + 1, len(work.layers))
    return work.collected()


class _Work:
    """The pruned network as far as it is refitted, beside the dense one.

    Parameters
    ----------
    coupling, removed, plan, batches, kind, device, seed
        As in `refit`.
    """

    def __init__(
        self,
        coupling: Coupling,
        removed: NDArray[np.bool_],
        plan: Plan,
        batches: Sequence[Feeds],
        kind: Kind,
        device: str,
        seed: int,
    ) -> None:
        self._coupling, self._removed, self._view = coupling, removed, coupling.view
        self.layers = find_layers(self._view)
        biases = zero_biases(coupling, removed, self.layers)
        self._current = apply(self._view.proto, replace(plan, biases=biases))
        self._left = {layer.output: layer for layer in find_layers(View(self._current))}
        self._above, self._below = (Walk(self._view, batches, device) for _ in range(2))
        self._images, self._seed, self._kind = images_in(batches), seed, kind
        self._goals = {layer.node: find_goal(self._view, layer) for layer in self.layers}
        self._held: set[int] = set()
        self._repairs: dict[str, Repair] = {}
        self._fitted: dict[str, Placed] = {}

    def hold(self, layers: Iterable[Layer]) -> None:
        """Keep the inputs of these layers until the pairs that they begin are done."""
        self._held = {self._view.producer[layer.node].index for layer in layers}

    def refit(self, layer: Layer) -> float:
        """Refit one layer; its error afterwards, relative to the variance of the aim."""
        goal, left = self._goals[layer.node], self._left[layer.output]
        if not _whole_but_channels(self._coupling, self._removed, goal.tensor, layer.channel_axis):
            return 0.0
        rows, held_out = self._rows(layer, left, goal)
        start = _values(weight_tensors(self._current), left)
        spread = rows.spread()
        if not rows.error(start) > EQUAL * spread:
            return 0.0
        if self._kind == "patch":
            fit, before, after = fit_rows(rows, held_out, start)
        else:
            fit, before, after = fit_bias(rows, held_out, start, self._told(layer, left))
        if not left.exact:  # what is stored is the nearest to it that there is
            after += rows.error(self._nearest(left, fit)) - rows.error(fit)
        if after < before:
            self._put(layer, left, goal, fit)
        else:
            after = before
        first = self._repairs.get(layer.node)
        begun = before / spread if first is None else first.before
        self._repairs[layer.node] = Repair(layer.weight, begun, after / spread)
        return after / spread

    def refit_both(self, pair: Pair, error: float) -> None:
        """Refit the layer before one as that one needs it, and it again, while that helps."""
        both = [
            (layer, self._left[layer.output], self._goals[layer.node])
            for layer in (pair.first, pair.second)
        ]
        seen, unseen, joint = self._joint(pair, *both)
        for _ in range(TURNS):
            kept = [_values(weight_tensors(self._current), left) for _, left, _ in both]
            repair = self._repairs[pair.second.node]
            found = joint.improve(seen, unseen, *kept)
            if found is None:
                return
            self._put(*both[0], found)
            after = self.refit(pair.second)
            if not after < error:
                for place, values in zip(both, kept, strict=True):
                    self._put(*place, values)
                self._repairs[pair.second.node] = repair
                return
            if after > (1 - GAIN) * error:
                return
            error = after

    def look_ahead(self, number: int) -> None:
        """Run the dense network up to what is aimed at by the layers from this number on."""
        index = self._view.producer
        later = self.layers[number:]
        ends = [index[self._goals[layer.node].tensor].index + 1 for layer in later]
        if self._kind == "channel":  # that looks at the layers' inputs, too
            ends += [index[layer.node].index for layer in later]
        self._above.advance(self._view.proto, min(ends))

    def advance(self, layer: Layer, done: Pair | None) -> None:
        """Go on behind a layer, but for what is run again where pairs are not done yet."""
        if done is not None:
            self._held.discard(self._view.producer[done.first.node].index)
        after = self._view.producer[layer.output].index + 1
        self._below.advance(self._current, min({after, *self._held}))

    def collected(self) -> Refit:
        """The new values, for layers as they were and as they are in the refitted model."""
        found = tuple(self._fitted.values())
        repairs = tuple(self._repairs.values())
        return _collected(self._current, self._coupling, self._removed, found, repairs)

    def _put(self, layer: Layer, left: Layer, goal: Goal, fit: Fit) -> None:
        """Give a layer other values."""
        tensors = weight_tensors(self._current)
        for stored, values in _written(left, fit, tensors):
            store(tensors[stored.tensor], stored.written(values, tensors))
        self._fitted[layer.node] = (layer, left, goal)

    def _nearest(self, left: Layer, fit: Fit) -> Fit:
        """What a layer reads of a fit that is stored."""
        tensors = dict(weight_tensors(self._current))
        for stored, values in _written(left, fit, tensors):
            written = numpy_helper.from_array(stored.written(values, tensors), stored.tensor)
            tensors[stored.tensor] = written
        return _values(tensors, left)

    def _kept(self, name: str, axis: int) -> NDArray[np.bool_] | None:
        return self._coupling.left(name, axis, self._removed)

    def _aims(self, goal: Goal, axis: int) -> Iterator[NDArray[Any]]:
        """What the dense network has where a layer is needed, of the channels that are left."""
        keep = self._kept(goal.tensor, axis)
        for (aim,) in self._above.run(self._view.proto, [goal.tensor]):
            yield aim if keep is None else np.compress(keep, aim, axis=axis)

    def _of_left(
        self, goal: Goal, axis: int, *values: NDArray[np.float64]
    ) -> list[NDArray[np.float32]]:
        """Of values behind a layer, (channels,) or (1,), those of the channels that are left."""
        keep = self._kept(goal.tensor, axis)
        return [(v if keep is None or len(v) == 1 else v[keep]).astype(np.float32) for v in values]

    def _told(self, layer: Layer, left: Layer) -> Fit | None:
        """Weights by a regression of the channels; None where that is not asked for."""
        if self._kind != "channel" or layer.groups != 1:
            return None
        axis = layer.channel_axis
        keep = self._kept(layer.input, axis)
        outputs = self._kept(layer.output, axis)
        if keep is None:
            return None
        tensors = weight_tensors(self._view.proto)
        matrix = layer.matrix(layer.weight_in(tensors)).astype(np.float64)
        bias = np.zeros((1, matrix.shape[2]))
        known = layer.bias_in(tensors)
        if known is not None:
            bias += known.reshape(-1)
        if outputs is not None:
            matrix, bias = matrix[..., outputs], bias[:, outputs]
        seen = (x for (x,) in self._below.run(self._current, [layer.input]))
        whole = (x for (x,) in self._above.run(self._view.proto, [layer.input]))
        inputs = zip(seen, whole, strict=True)
        return fit_channels(layer, Fit(matrix, bias), keep, inputs, self._images, self._seed)

    def _rows(self, layer: Layer, left: Layer, goal: Goal) -> tuple[Rows, NDArray[np.bool_]]:
        """Sampled rows of a layer, and which of them are held out."""
        aims = self._aims(goal, layer.channel_axis)
        inputs = self._below.run(self._current, [layer.input, *filter(None, [goal.other])])
        batches = ((x, [aim, *others]) for aim, (x, *others) in zip(aims, inputs, strict=True))
        found = sample(left, batches, self._images, self._seed)
        scale, shift = (
            v.reshape(left.groups if len(v) > 1 else 1, 1, -1)
            for v in self._of_left(goal, layer.channel_axis, goal.scale, goal.shift)
        )
        other = found.tensors[1] + shift if goal.other else shift
        rows = Rows(found.x, found.tensors[0], other, scale, goal.low, goal.high)
        return rows, found.held_out

    def _joint(self, pair: Pair, first: Placed, second: Placed) -> tuple[Regions, Regions, Joint]:
        """A pair with one goal: what it is fitted on, what it is judged by, and itself."""
        axis, goal = pair.second.channel_axis, second[2]
        names = [pair.first.input, *filter(None, [goal.other])]
        inputs = self._below.run(self._current, names)
        batches = (
            (x, aim, others[0] if others else None)
            for aim, (x, *others) in zip(self._aims(goal, axis), inputs, strict=True)
        )
        seen, unseen, *slides = look(first[1], second[1], batches, self._images, self._seed)
        begin, end = (
            Side(slide, *self._of_left(goal, axis, goal.scale, goal.shift))
            for slide, (_, _, goal) in zip(slides, (first, second), strict=True)
        )
        return seen, unseen, Joint(begin, end, pair.bend, goal.low, goal.high)


def _values(tensors: Mapping[str, onnx.TensorProto], layer: Layer) -> Fit:
    """The weights and the bias that a layer has."""
    weight, bias = layer.weight_in(tensors), layer.bias_in(tensors)
    assert bias is not None
    matrix = layer.matrix(weight.astype(np.float64)).astype(np.float64)
    return Fit(matrix, bias.astype(np.float64).reshape(layer.groups, -1))


def _written(
    layer: Layer, fit: Fit, tensors: Mapping[str, onnx.TensorProto]
) -> Iterator[tuple[Stored, NDArray[np.floating]]]:
    """Weight and bias of a fit, each of the shape in which it is stored."""
    weight, bias = layer.stored, layer.stored_bias
    assert bias is not None
    shape = tuple(tensors[weight.tensor].dims)
    yield weight, layer.weight_of(fit.matrix, shape)
    yield bias, fit.bias.reshape(tensors[bias.tensor].dims)


def _collected(
    model: onnx.ModelProto,
    coupling: Coupling,
    removed: NDArray[np.bool_],
    fitted: Iterable[Placed],
    repairs: tuple[Repair, ...],
) -> Refit:
    """The new values, for layers as they were and as they are in the refitted model."""
    tensors = weight_tensors(model)
    updates, biases = [], []
    for layer, left, goal in fitted:
        assert left.bias is not None
        weight, bias = (
            numpy_helper.to_array(tensors[name]).copy() for name in (left.weight, left.bias)
        )
        updates.append(Update(layer.weight, weight))
        if layer.bias is not None:
            updates.append(Update(layer.bias, bias))
        elif goal.beta:
            keep = coupling.left(layer.output, layer.channel_axis, removed)
            scale = goal.scale if keep is None else goal.scale[keep]
            beta = numpy_helper.to_array(tensors[goal.beta])
            updates.append(Update(goal.beta, (beta + scale * bias).astype(beta.dtype)))
        else:
            biases.append(Bias(layer.node, bias))
    return Refit(tuple(updates), tuple(biases), repairs)


def _whole_but_channels(
    coupling: Coupling, removed: NDArray[np.bool_], name: str, axis: int
) -> bool:
    """Whether all places are left at which a tensor has channels: only then do rows match."""
    axes = list(coupling.equations.axes.get(name, ()))
    if axes:
        del axes[axis]
    return not any(coupling.gone(ids, removed).any() for ids in axes if ids is not None)
