"""Graph nodes that reduce a tensor to a few scalars per image and channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from .taps import Tap

ROWS = "discedit_rows"
"""Input of a model with second moments and a fixed batch: which images of it count."""

SHAPES = {"by_image": (0, 0, -1), "flat": (0, -1), "row": (-1, 1), "upright": (-1, 1, 1)}
"""Targets of the reshapes in `Places.second_moments`."""

STEEP = 3e38
"""A factor that takes every positive float32 past 1, down to where numbers lose their digits."""

LOWEST = -3.4e38
"""Below every maximum: what a masked token is taken for."""

AXES_AS_INPUT = 18
"""Opset from which ReduceMean and ReduceMax take axes as an input; before, as an attribute."""

SPARSE = frozenset(("mean_square", "positive"))
"""Statistics of a grid of positions; the others are of all."""

MASKS = frozenset(("attention_mask", "input_mask", "mask", "padding_mask", "token_mask"))
"""Inputs (N, tokens) of these names are 1 where there is a token and 0 where a batch is padded."""


def token_mask(graph: onnx.GraphProto) -> str | None:
    """The input that says which tokens there are, if the model has one."""
    for value in graph.input:
        if value.name.lower() in MASKS and len(value.type.tensor_type.shape.dim) == 2:
            return str(value.name)
    return None


def masks_tokens(tap: Tap, mask: str | None) -> bool:
    """Whether the positions of a tap are tokens, some of which may only fill a row up."""
    return mask is not None and (tap.rank, tap.axis) == (3, 2)


@dataclass(frozen=True)
class Places:
    """The positions of a tapped tensor, and the nodes that reduce over them.

    Attributes
    ----------
    tap
        The tensor.
    stem
        What the names of all nodes begin with.
    opset
        Version of the default operator set.
    mask
        Input that masks tokens, or None.
    padded
        Whether images at the end of a batch may only fill it up, as `ROWS` says then.
    """

    tap: Tap
    stem: str
    opset: int
    mask: str | None
    padded: bool = False

    @property
    def masked(self) -> bool:
        """Whether the positions are tokens, some of which may only fill a row up."""
        return masks_tokens(self.tap, self.mask)

    @property
    def grid(self) -> str:
        """The tensor at those positions whose squares and signs are looked at."""
        return f"{self.stem}_grid" if self.tap.stride > 1 else f"{self.stem}_x"

    @property
    def sparse(self) -> str:
        """The tensor at those positions whose products are looked at."""
        return f"{self.stem}_sparse" if self.tap.product_stride > 1 else f"{self.stem}_x"

    def statistics(self, names: Sequence[str]) -> list[onnx.NodeProto]:
        """Nodes that compute `{stem}_mean` and the like.

        The cast is there for narrower and wider types than float32; where there is nothing to
        cast, ONNX Runtime drops it before it looks at anything else. No node is there that none of
        the names needs: ONNX Runtime runs nodes that nothing reads first, and so the whole network
        with every tapped tensor in memory at once.
        """
        x, grid = f"{self.stem}_x", self.grid
        nodes = [helper.make_node("Cast", [self.tap.tensor], [x], to=TensorProto.FLOAT)]
        if grid != x and not SPARSE.isdisjoint(names):
            nodes.append(_picked(x, grid, self.tap.stride))
        if self.masked and self.mask is not None:
            nodes += self._weights(x, self.mask)
            nodes += self._shares() if set(names) - {"max"} else []
            nodes += self._truths() if "max" in names else []
        for name in names:
            result = f"{self.stem}_{name}"
            of = f"{result}_of"
            if name == "mean":
                nodes += self._mean(x, result)
            elif name == "mean_square":
                nodes += [helper.make_node("Mul", [grid, grid], [of]), *self._mean(of, result)]
            elif name == "positive":
                # 1 where x > 0, else 0, in one operator that runs as vectors: clip(steep * x).
                step = helper.make_node("HardSigmoid", [grid], [of], alpha=STEEP, beta=0.0)
                nodes += [step, *self._mean(of, result)]
            else:
                nodes += self._max(x, result)
        return nodes

    def _weights(self, x: str, mask: str) -> list[onnx.NodeProto]:
        """Nodes that make weights of tokens, (N, T) of 0 and 1.

        A tensor of another number of tokens than the mask's, as behind a pooling, has none to
        leave out.
        """
        w = f"{self.stem}_w"
        like, ones = f"{w}_like", f"{w}_ones"
        info = helper.make_tensor_value_info
        masked = helper.make_graph(
            [helper.make_node("Cast", [mask], [f"{w}_then"], to=TensorProto.FLOAT)],
            "masked",
            [],
            [info(f"{w}_then", TensorProto.FLOAT, None)],
        )
        whole = helper.make_graph(
            [helper.make_node("Identity", [ones], [f"{w}_else"])],
            "whole",
            [],
            [info(f"{w}_else", TensorProto.FLOAT, None)],
        )
        one = helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])
        return [
            helper.make_node("Shape", [x], [f"{w}_shape"]),
            helper.make_node("Constant", [], [f"{w}_first"], value=_ints(0, 1)),
            helper.make_node("Constant", [], [f"{w}_second"], value=_ints(1)),
            helper.make_node("Gather", [f"{w}_shape", f"{w}_first"], [like]),
            helper.make_node("ConstantOfShape", [like], [ones], value=one),
            helper.make_node("Shape", [mask], [f"{w}_mask"]),
            helper.make_node("Gather", [f"{w}_shape", f"{w}_second"], [f"{w}_tokens"]),
            helper.make_node("Gather", [f"{w}_mask", f"{w}_second"], [f"{w}_length"]),
            helper.make_node("Equal", [f"{w}_tokens", f"{w}_length"], [f"{w}_same"]),
            helper.make_node("If", [f"{w}_same"], [w], then_branch=masked, else_branch=whole),
            helper.make_node("Constant", [], [f"{w}_column"], value=_ints(0, -1, 1)),
        ]

    def _shares(self) -> list[onnx.NodeProto]:
        """Nodes that make of the weights what values are multiplied by: (N, T, 1) of average 1."""
        w = f"{self.stem}_w"
        least = helper.make_tensor("", TensorProto.FLOAT, [], [1e-9])
        return [
            *self._average(w, f"{w}_average", keep=1),
            helper.make_node("Constant", [], [f"{w}_least"], value=least),
            helper.make_node("Max", [f"{w}_average", f"{w}_least"], [f"{w}_divisor"]),
            helper.make_node("Div", [w, f"{w}_divisor"], [f"{w}_shares"]),
            helper.make_node("Reshape", [f"{w}_shares", f"{w}_column"], [f"{w}_by_token"]),
        ]

    def _truths(self) -> list[onnx.NodeProto]:
        """Nodes that make truth values (N, T, 1) of the weights: which tokens there are."""
        w = f"{self.stem}_w"
        return [
            helper.make_node("Reshape", [w, f"{w}_column"], [f"{w}_kept"]),
            helper.make_node("Cast", [f"{w}_kept"], [f"{w}_true"], to=TensorProto.BOOL),
        ]

    def _mean(self, x: str, mean: str) -> list[onnx.NodeProto]:
        """Nodes that average `x` over the axes that the tap reduces.

        Both ways divide by the size met at run time, so dynamic shapes need nothing more. Why
        there are two: on 2 AVX-512 cores under ONNX Runtime 1.32, with every activation tapped
        for mean and mean square of all positions, a run took this many times one without taps
        (medians, on a machine with other work; the order was the same in three repetitions):

        =======================================  ======================  =====================
        formulation                              ResNet-18, 16 x 224^2   ResNet-20, 64 x 28^2
        =======================================  ======================  =====================
        GlobalAveragePool of x and of x * x      1.12                    1.26
        GlobalAveragePool; sum of squares / n    1.20                    1.38
        ReduceMean of x and of x * x             1.28                    1.43
        =======================================  ======================  =====================

        ONNX Runtime keeps feature maps in a blocked layout on such processors; a product and the
        pool read it as it lies, the reductions need a copy in plain order first.
        """
        if not self.masked:
            return self._reduced(x, mean, "GlobalAveragePool", "ReduceMean")
        weighted = f"{mean}_weighted"
        return [
            helper.make_node("Mul", [x, f"{self.stem}_w_by_token"], [weighted]),
            *self._reduced(weighted, mean, "GlobalAveragePool", "ReduceMean"),
        ]

    def _max(self, x: str, largest: str) -> list[onnx.NodeProto]:
        """Nodes that take the largest value over the axes that the tap reduces."""
        if not self.masked:
            return self._reduced(x, largest, "GlobalMaxPool", "ReduceMax")
        lowest = helper.make_tensor("", TensorProto.FLOAT, [], [LOWEST])
        there, low = f"{largest}_there", f"{largest}_low"
        return [
            helper.make_node("Constant", [], [low], value=lowest),
            helper.make_node("Where", [f"{self.stem}_w_true", x, low], [there]),
            *self._reduced(there, largest, "GlobalMaxPool", "ReduceMax"),
        ]

    def _reduced(self, x: str, result: str, pool: str, reduction: str) -> list[onnx.NodeProto]:
        """Nodes that reduce `x` to (N, channels): by a pool where the channels come first."""
        tap = self.tap
        if not tap.reduced:
            return [helper.make_node("Identity", [x], [result])]
        if tap.axis == 1:
            pooled = f"{result}_pooled"
            return [
                helper.make_node(pool, [x], [pooled]),
                helper.make_node("Flatten", [pooled], [result], axis=1),
            ]
        return self._average(x, result, tap.reduced, op=reduction)

    def _average(
        self,
        x: str,
        result: str,
        over: Sequence[int] = (1,),
        *,
        keep: int = 0,
        op: str = "ReduceMean",
    ) -> list[onnx.NodeProto]:
        """Nodes of one reduction over some axes."""
        if self.opset < AXES_AS_INPUT:
            return [helper.make_node(op, [x], [result], axes=over, keepdims=keep)]
        axes = f"{result}_axes"
        return [
            helper.make_node("Constant", [], [axes], value_ints=over),
            helper.make_node(op, [x, axes], [result], keepdims=keep),
        ]

    def positions(self) -> list[onnx.NodeProto]:
        """Nodes that hand out the values whose products are looked at: `{stem}_positions`.

        They follow those of `statistics`.
        """
        x, result = f"{self.stem}_x", f"{self.stem}_positions"
        if self.tap.product_stride > 1:
            return [_picked(x, result, self.tap.product_stride)]
        return [helper.make_node("Identity", [x], [result])]

    def second_moments(self) -> list[onnx.NodeProto]:
        """Nodes that take mean and centred co-moment of the channels over images and positions.

        They follow those of `statistics`. Values are centred by the batch's own mean before they
        are multiplied, so that float32 loses no digits where the mean is far from 0.
        """
        tap, x = self.tap, f"{self.stem}_x"
        pick = [] if self.sparse == x else [_picked(x, self.sparse, tap.product_stride)]
        turned = self._second("turned")
        some, size = self._all_deviations, "size"
        if self.padded or self.masked:
            some, size = self._some_deviations, "elements"
        return [
            *pick,
            helper.make_node(
                "Transpose", [self.sparse], [turned], perm=[tap.axis, 0, *tap.reduced]
            ),
            self._node("Size", ["turned"], "places"),
            self._node("Cast", ["places"], size, to=TensorProto.FLOAT),
            *some(),
            self._node("Transpose", ["left"], "right", perm=[1, 0]),
            self._node("MatMul", ["left", "right"], "comoment"),
        ]

    def _all_deviations(self) -> list[onnx.NodeProto]:
        """Nodes for mean and deviations from it (`left`), where every position counts."""
        return [
            *self._shapes("flat"),
            self._node("Reshape", ["turned", "flat"], "values"),
            *self._average(self._second("values"), self._second("mean"), keep=1),
            self._node("Sub", ["values", "mean"], "left"),
        ]

    def _some_deviations(self) -> list[onnx.NodeProto]:
        """The same, and the size, where some do not: images that fill a batch up, and tokens that a
        mask leaves.

        They are multiplied by 0, before the mean and after it.
        """
        rows, tokens, weights = self._second("rows"), f"{self.stem}_w", self._second("weights")
        nodes = self._shapes("by_image", "flat", "upright")
        if self.padded:
            nodes += self._shapes("row")
            nodes.append(helper.make_node("Reshape", [ROWS, self._second("row")], [rows]))
        if self.padded and self.masked:
            nodes.append(helper.make_node("Mul", [rows, tokens], [weights]))
        else:
            only = tokens if self.masked else rows
            nodes.append(helper.make_node("Identity", [only], [weights]))
        return [
            *nodes,
            self._node("Reshape", ["turned", "by_image"], "x"),
            self._node("Mul", ["x", "weights"], "kept"),
            self._node("Reshape", ["kept", "flat"], "values"),
            *self._average(self._second("values"), self._second("sum"), keep=1),
            # The share of the positions that count: averages over all are too small by it.
            self._node("ReduceMean", ["weights"], "share", keepdims=0),
            self._node("Div", ["sum", "share"], "mean"),
            self._node("Reshape", ["mean", "upright"], "shift"),
            self._node("Sub", ["x", "shift"], "apart"),
            self._node("Mul", ["apart", "weights"], "centred"),
            self._node("Reshape", ["centred", "flat"], "left"),
            self._node("Mul", ["elements", "share"], "size"),
        ]

    def _shapes(self, *names: str) -> list[onnx.NodeProto]:
        """Constants among the tensors of `second_moments`: targets of reshapes."""
        return [self._constant(name, _ints(*SHAPES[name])) for name in names]

    def _second(self, name: str) -> str:
        """A tensor of `second_moments`."""
        return f"{self.stem}_second_{name}"

    def _node(self, op: str, inputs: Sequence[str], output: str, **more: Any) -> onnx.NodeProto:
        """A node among tensors of `second_moments`."""
        return helper.make_node(op, [*map(self._second, inputs)], [self._second(output)], **more)

    def _constant(self, name: str, value: onnx.TensorProto) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [self._second(name)], value=value)


def _picked(x: str, result: str, step: int) -> onnx.NodeProto:
    """Every so manyth position on both axes of a map.

    A pool over single positions picks them, and keeps to the blocked layout. It is one of averages,
    since ONNX Runtime (1.31) has none of maxima for CUDA from opset 22 on, and would take the whole
    map to the CPU.
    """
    steps = [step, step]
    return helper.make_node("AveragePool", [x], [result], kernel_shape=[1, 1], strides=steps)


def _ints(*values: int) -> onnx.TensorProto:
    return helper.make_tensor("", TensorProto.INT64, [len(values)], values)
