"""Random graphs of supported operators: whatever is cut out equals what is masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_topologies import all_removable, check_valid, equality, prune, random_removal
from topologies.net import CLASSES, Net

from discedit_onnx.editing.verify import mask
from discedit_onnx.graph.axes import Reach
from discedit_onnx.graph.coupling import analyse

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

WIDTHS = (2, 3, 4, 6, 8, 12)
SIDE = 4


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: (N, C, side, side), or (N, T, C) where the side is 0."""

    name: str
    width: int
    side: int
    length: int = 0


class Grower:
    """Adds random nodes to a graph and keeps the tensors that they make."""

    def __init__(self, draw: Callable[[st.SearchStrategy], object]) -> None:
        self.draw = draw
        self.net = Net(17)
        x = self.net.input("N", 3, SIDE, SIDE)
        self.live = [self.conv(Tensor(x, 3, SIDE))]

    def pick(self, kind: str) -> Tensor | None:
        """A tensor of a kind, preferably a late one."""
        found = [t for t in self.live if (t.side > 0) == (kind == "map")]
        return self.draw(st.sampled_from(found[-4:])) if found else None

    def grow(self) -> None:
        """One step."""
        kind = self.draw(st.sampled_from(("map", "map", "map", "tokens")))
        x = self.pick(kind)
        if x is None:
            return
        steps = self.MAPS if kind == "map" else self.TOKENS
        made = self.draw(st.sampled_from(steps))(self, x)
        if made is not None:
            self.live.append(made)

    # --- steps on maps

    def conv(self, x: Tensor) -> Tensor:
        width = self.draw(st.sampled_from(WIDTHS))
        kernel = self.draw(st.sampled_from((1, 3)))
        groups = [g for g in (1, 2, 3, 4, 6, 12) if x.width % g == 0 and width % g == 0]
        group = self.draw(st.sampled_from(groups))
        bias = self.draw(st.booleans())
        return Tensor(self.net.conv(x.name, x.width, width, kernel, group, bias), width, x.side)

    def depthwise(self, x: Tensor) -> Tensor:
        return Tensor(self.net.conv(x.name, x.width, x.width, 3, x.width), x.width, x.side)

    def unary(self, x: Tensor) -> Tensor:
        kind = self.draw(
            st.sampled_from(("Relu", "Sigmoid", "Softplus", "HardSigmoid", "Identity"))
        )
        return Tensor(self.net.op(kind, x.name), x.width, x.side, x.length)

    def norm(self, x: Tensor) -> Tensor:
        return Tensor(self.net.norm(x.name, x.width), x.width, x.side)

    def add(self, x: Tensor) -> Tensor | None:
        mates = [t for t in self.live if (t.width, t.side, t.length) == (x.width, x.side, x.length)]
        if not mates:
            return None
        kind = self.draw(st.sampled_from(("Add", "Mul", "Max")))
        name = self.net.op(kind, x.name, self.draw(st.sampled_from(mates)).name)
        return Tensor(name, x.width, x.side, x.length)

    def concat(self, x: Tensor) -> Tensor | None:
        mates = [t for t in self.live if t.side == x.side and t.width + x.width <= 24]
        if not mates:
            return None
        mate = self.draw(st.sampled_from(mates))
        name = self.net.op("Concat", x.name, mate.name, axis=1)
        return Tensor(name, x.width + mate.width, x.side)

    def split(self, x: Tensor) -> Tensor | None:
        if x.width < 2:
            return None
        first = self.draw(st.integers(1, x.width - 1))
        sizes = self.net.ints(first, x.width - first)
        a, b = self.net.ops("Split", x.name, sizes, outputs=2, axis=1)
        self.live.append(Tensor(a, first, x.side))
        return Tensor(b, x.width - first, x.side)

    def part(self, x: Tensor) -> Tensor:
        begin = self.draw(st.integers(0, x.width - 1))
        end = self.draw(st.integers(begin + 1, x.width))
        step = self.draw(st.sampled_from((1, 1, 2, 3)))
        shift = self.draw(st.sampled_from((0, x.width)))  # as many mean: counted from the end
        bounds = begin - shift, end - shift if end < x.width else 2**31 - 1
        numbers = (self.net.ints(value) for value in (*bounds, 1, step))
        name = self.net.op("Slice", x.name, *numbers)
        return Tensor(name, len(range(begin, end, step)), x.side)

    def interleave(self, x: Tensor) -> Tensor | None:
        if x.width % 2:
            return None
        ends, axis, step = self.net.ints(x.width), self.net.ints(1), self.net.ints(2)
        parts = [
            self.net.op("Slice", x.name, self.net.ints(begin), ends, axis, step) for begin in (0, 1)
        ]
        return Tensor(self.net.op("Concat", *parts, axis=1), x.width, x.side)

    def backwards(self, x: Tensor) -> Tensor:
        bounds = self.net.ints(-1), self.net.ints(-(2**31))
        name = self.net.op("Slice", x.name, *bounds, self.net.ints(1), self.net.ints(-1))
        return Tensor(name, x.width, x.side)

    def group_norm(self, x: Tensor) -> Tensor:
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3) if x.width % g == 0]))
        apart = self.net.op("Reshape", x.name, self.net.ints(0, groups, -1))
        scale, bias = self.net.positive(groups), self.net.weight(groups)
        apart = self.net.op("InstanceNormalization", apart, scale, bias)
        shape = self.net.ints(0, x.width, x.side, x.side)
        return Tensor(self.net.op("Reshape", apart, shape), x.width, x.side)

    def pad(self, x: Tensor) -> Tensor:
        before, after = self.draw(st.integers(0, 3)), self.draw(st.integers(0, 3))
        name = self.net.op("Pad", x.name, self.net.ints(0, before, 0, 0, 0, after, 0, 0))
        return Tensor(name, x.width + before + after, x.side)

    def squeeze_and_excite(self, x: Tensor) -> Tensor:
        pooled = self.net.op("GlobalAveragePool", x.name)
        inner = self.net.relu(self.net.conv(pooled, x.width, 3, 1))
        gate = self.net.op("Sigmoid", self.net.conv(inner, 3, x.width, 1))
        return Tensor(self.net.op("Mul", x.name, gate), x.width, x.side)

    def shuffle(self, x: Tensor) -> Tensor | None:
        groups = [g for g in (2, 3, 4) if x.width % g == 0]
        if not groups:
            return None
        g = self.draw(st.sampled_from(groups))
        apart = self.net.op("Reshape", x.name, self.net.ints(0, g, x.width // g, x.side, x.side))
        turned = self.net.op("Transpose", apart, perm=[0, 2, 1, 3, 4])
        width = self.draw(st.sampled_from((x.width, -1)))
        name = self.net.op("Reshape", turned, self.net.ints(0, width, x.side, x.side))
        return Tensor(name, x.width, x.side)

    def channels_last(self, x: Tensor) -> Tensor:
        turned = self.net.op("Transpose", x.name, perm=[0, 2, 3, 1])
        shifted = self.net.op("Add", turned, self.net.weight(x.width))
        return Tensor(self.net.op("Transpose", shifted, perm=[0, 3, 1, 2]), x.width, x.side)

    def pool(self, x: Tensor) -> Tensor:
        name = self.net.op("MaxPool", x.name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return Tensor(name, x.width, x.side)

    def tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, HW, C), with a shape from the graph."""
        shape = self.net.op("Shape", x.name)
        batch = self.net.op("Gather", shape, self.net.ints(0), axis=0)
        width = self.net.op("Gather", shape, self.net.ints(1), axis=0)
        literal = self.draw(st.booleans())
        target = [batch, self.net.ints(x.width) if literal else width, self.net.ints(-1)]
        flat = self.net.op("Reshape", x.name, self.net.op("Concat", *target, axis=0))
        turned = self.net.op("Transpose", flat, perm=[0, 2, 1])
        return Tensor(turned, x.width, 0, x.side**2)

    # --- steps on tokens

    def linear(self, x: Tensor) -> Tensor:
        width = self.draw(st.sampled_from(WIDTHS))
        product = self.net.op("MatMul", x.name, self.net.weight(x.width, width))
        return Tensor(self.net.op("Add", product, self.net.weight(width)), width, 0, x.length)

    def linear_of_three_axes(self, x: Tensor) -> Tensor:
        """As Keras writes it: the weight is (width, heads, size)."""
        heads, size = self.draw(st.sampled_from(((2, 3), (4, 2), (3, 1))))
        weight = self.net.weight(x.width, heads, size)
        weight = self.net.op("Reshape", weight, self.net.ints(x.width, heads * size))
        product = self.net.op("MatMul", x.name, weight)
        apart = self.net.op("Reshape", product, self.net.ints(0, x.length, heads, size))
        biased = self.net.op("Add", apart, self.net.weight(heads, size))
        joined = self.net.op("Reshape", biased, self.net.ints(0, x.length, -1))
        return Tensor(joined, heads * size, 0, x.length)

    def attention(self, x: Tensor) -> Tensor:
        heads, size = self.draw(st.sampled_from(((2, 2), (3, 2), (2, 3))))
        width = heads * size
        shape = self.net.ints(0, x.length, heads, size)

        def project() -> str:
            product = self.net.op("MatMul", x.name, self.net.weight(x.width, width))
            return self.net.op("Reshape", product, shape)

        q, k, v = project(), project(), project()
        q, v = (self.net.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = self.net.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = self.net.op("Softmax", self.net.op("MatMul", q, k), axis=-1)
        mixed = self.net.op("Transpose", self.net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        joined = self.net.op("Reshape", mixed, self.net.ints(0, x.length, width))
        return Tensor(joined, width, 0, x.length)

    def layer_norm(self, x: Tensor) -> Tensor:
        scale, bias = self.net.positive(x.width), self.net.weight(x.width)
        return Tensor(
            self.net.op("LayerNormalization", x.name, scale, bias, axis=-1), x.width, 0, x.length
        )

    MAPS = (
        conv, conv, depthwise, unary, unary, norm, add, add, concat, split, part, pad,
        squeeze_and_excite, shuffle, channels_last, pool, tokens, interleave, backwards, group_norm,
    )  # fmt: skip
    TOKENS = (linear, linear, linear_of_three_axes, attention, unary, layer_norm, add)

    def finish(self) -> onnx.ModelProto:
        """Sum a prediction from each of the last tensors."""
        parts = []
        for x in self.live[-3:]:
            axes = [2, 3] if x.side else [1]
            mean = self.net.op("ReduceMean", x.name, axes=axes, keepdims=0)
            parts.append(self.net.gemm(mean, x.width, CLASSES))
        return self.net.model(self.net.op("Sum", *parts))


@settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_random_graphs(data):
    grower = Grower(data.draw)
    for _ in range(data.draw(st.integers(2, 10))):
        grower.grow()
    proto = grower.finish()
    coupling = analyse(proto, Reach(inside_heads=data.draw(st.booleans())))
    seed = data.draw(st.integers(0, 99))
    for removed in (random_removal(coupling, seed), all_removable(coupling)):
        pruned = prune(coupling, removed)
        check_valid(pruned)
        equality(mask(coupling, removed), pruned, coupling).require()
        if not removed.any():
            assert pruned == proto


def test_random_graphs_are_mostly_removable():
    """Pinning everything would pass the other test."""
    generator = np.random.default_rng(0)

    def draw(strategy: st.SearchStrategy) -> object:
        return sample(strategy, generator)

    shares = []
    for _ in range(40):
        grower = Grower(draw)
        for _ in range(8):
            grower.grow()
        shares.append(removable_share(grower.finish()))
    # Axes are two to twelve long, one of each group stays, and some are padded or normalised.
    assert np.mean(shares) > 0.4


def sample(strategy: st.SearchStrategy, generator: np.random.Generator) -> object:
    """A seeded draw from the few strategies that are used here."""
    wrapped = getattr(strategy, "wrapped_strategy", strategy)
    if hasattr(wrapped, "elements"):
        return wrapped.elements[generator.integers(len(wrapped.elements))]
    if hasattr(wrapped, "start"):
        return int(generator.integers(wrapped.start, wrapped.end + 1))
    return bool(generator.integers(2))


def removable_share(proto: onnx.ModelProto) -> float:
    from discedit_onnx.graph.cost import ParameterCount

    coupling = analyse(proto)
    count = ParameterCount(coupling)
    return 1 - count.left(all_removable(coupling)) / count.total


def test_numbers_that_leave_the_graph_hold_what_they_count():
    """A length that is an output, or that a subgraph reads, would change with a cut."""
    net = Net(17)
    x = net.stem(8)
    width = net.op("Gather", net.op("Shape", x), net.ints(1), axis=0)
    hidden = net.op("Cast", width, to=1)
    logits = net.head(x, 8).graph.output[0].name
    coupling = analyse(net.model(logits, hidden))
    assert coupling.size == 0
    assert analyse(net.model(logits)).size == 8
