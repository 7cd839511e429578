"""Attention in one operator: whole heads go, and the attributes that count them follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..axes import Count
from ..fused import DOMAIN
from ..scope import Unsupported
from .registry import rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..scope import Scope

HELD = "is attended to with what can't be cut"


@rule("Attention", domain=DOMAIN, opset=(1, None))
def projecting_attention(scope: Scope) -> None:
    """X (B, S, I), W (I, queries + keys + values), with the projections inside."""
    if scope.attribute("do_rotary", 0):
        raise Unsupported("turns the dimensions of its heads")
    inner, columns = scope.ids(1, 0), scope.ids(1, 1)
    scope.equate(scope.ids(0, 2), inner, "is multiplied with what can't be cut")
    scope.contract(0, 2, scope.factor(1, inner))
    if scope.has(2):
        columns = scope.equate(columns, scope.ids(2, 0))
    sizes = scope.attribute("qkv_hidden_sizes")
    value = heads = None
    if columns is not None:
        parts = np.split(columns, np.cumsum(sizes)[:2]) if sizes else np.split(columns, 3)
        number = scope.attribute("num_heads")
        heads = tie_heads(scope, number, *parts)
        value = parts[2]
        scope.extent("num_heads", Count(0, heads))
        if sizes:
            scope.extent("qkv_hidden_sizes", *(Count(i, part) for i, part in enumerate(parts)))
    _per_head(scope, heads, 4, 5)
    scope.emit([None, None, value])
    scope.emit([None, None, heads, None, None], 1)


@rule("MultiHeadAttention", domain=DOMAIN, opset=(1, None))
def multi_head_attention(scope: Scope) -> None:
    """Queries (B, S, H), keys (B, T, H), values (B, T, V), each with a bias if there is one."""
    _require_apart(scope)
    parts = [scope.ids(position, 2) for position in range(3)]
    if scope.has(3):
        bias = scope.ids(3, 0)
        lengths = [scope.shape(position)[2] or 0 for position in range(3)]
        if bias is not None:
            ends = np.cumsum(lengths)[:2]
            parts = [scope.equate(a, b) for a, b in zip(parts, np.split(bias, ends), strict=True)]
    heads = _groups(scope, parts, "num_heads")
    _per_head(scope, heads, 5, 6, 7)
    scope.emit([None, None, parts[2] if heads is not None else None])
    for output in (1, 2, 3):
        scope.emit([None, heads, None, None], output)


@rule("GroupQueryAttention", domain=DOMAIN, opset=(1, None))
def group_query_attention(scope: Scope) -> None:
    """Several heads of queries share one of keys and values: they go with it."""
    _require_apart(scope)
    if any(scope.has(position) for position in range(12, len(scope.node.inputs))):
        raise Unsupported("has scales for what it keeps between runs")
    parts = [scope.ids(position, 2) for position in range(3)]
    groups = _groups(scope, parts, "kv_num_heads", "num_heads")
    query_heads = _shared(scope, groups, "num_heads")
    _per_head(scope, groups, 3, 4)
    _per_head(scope, query_heads, 10)
    if scope.has(11):
        scope.equate(query_heads, scope.ids(11, 0), HELD)
    scope.emit([None, None, parts[0] if groups is not None else None])
    for output in (1, 2):
        scope.emit([None, groups, None, None], output)


def _require_apart(scope: Scope) -> None:
    if not (scope.has(1) and scope.has(2)):
        raise Unsupported("takes queries, keys and values in one tensor")
    if any(len(scope.shape(position)) != 3 for position in range(3)):
        raise Unsupported("takes heads on an axis of their own")


@rule("Attention", opset=(23, None))
def attention(scope: Scope) -> None:
    """Queries, keys and values of rank 3 with the heads side by side, or of rank 4."""
    if len(scope.shape(0)) == 4:
        _heads_apart(scope)
        return
    parts = [scope.ids(position, 2) for position in range(3)]
    groups = _groups(scope, parts, "kv_num_heads", "q_num_heads")
    query_heads = _shared(scope, groups, "q_num_heads")
    out = None
    if query_heads is not None and groups is not None and parts[2] is not None:
        out = query_heads.repeat(len(parts[2]) // len(groups))
    _per_head(scope, query_heads, 3)
    _per_head(scope, groups, 4, 5)
    scope.emit([None, None, out])
    for output in (1, 2):
        scope.emit([None, groups, None, None], output)
    scope.emit([None, query_heads, None, None], 3)


def _heads_apart(scope: Scope) -> None:
    """Heads on axis 1; their dimensions can be cut too where the scale is written down."""
    query, key, value = (scope.ids(position, 1) for position in range(3))
    keys = scope.equate(key, value, HELD)
    if query is None or keys is None:
        _hold(scope, [query, keys])
        query = keys = None
    else:
        scope.equate(query.reshape(len(keys), -1), keys[:, None])
    inner, outer = scope.equate(scope.ids(0, 3), scope.ids(1, 3), HELD), scope.ids(2, 3)
    if scope.attribute("scale") is None:
        scope.pin(inner, "scales by their number")
    scope.contract(0, 3)
    if scope.has(4):
        inner = scope.equate(inner, scope.ids(4, 3), HELD)
    if scope.has(5):
        outer = scope.equate(outer, scope.ids(5, 3), HELD)
    _per_head(scope, query, 3)
    _per_head(scope, keys, 4, 5)
    scope.emit([None, query, None, outer])
    scope.emit([None, keys, None, inner], 1)
    scope.emit([None, keys, None, outer], 2)
    scope.emit([None, query, None, None], 3)


def _groups(
    scope: Scope, parts: list[NDArray[np.int64] | None], keys: str, queries: str = ""
) -> NDArray[np.int64] | None:
    """Tie queries, keys and values by heads of keys; the attributes that count heads follow."""
    query, key, value = parts
    if query is None or key is None or value is None:
        _hold(scope, parts)
        return None
    groups = tie_heads(scope, scope.attribute(keys), query, key, value)
    scope.extent(keys, Count(0, groups))
    if queries:
        scope.extent(queries, Count(0, query, len(query) // scope.attribute(queries)))
    return groups


def _shared(
    scope: Scope, groups: NDArray[np.int64] | None, queries: str
) -> NDArray[np.int64] | None:
    """Variables of the heads of queries: each shares its keys with its neighbours."""
    return None if groups is None else groups.repeat(scope.attribute(queries) // len(groups))


def tie_heads(scope: Scope, number: int, *parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tie all that belongs to one of a number of heads; variables of the heads."""
    heads = parts[0].reshape(number, -1)[:, 0]
    for part in parts:
        scope.equate(heads[:, None], part.reshape(number, -1))
    return heads


def _hold(scope: Scope, parts: list[NDArray[np.int64] | None]) -> None:
    for ids in parts:
        scope.pin(ids, HELD)


def _per_head(scope: Scope, heads: NDArray[np.int64] | None, *positions: int) -> None:
    """Tie further inputs that say something for each head, on the last axis but two."""
    for position in positions:
        if scope.has(position) and scope.shape(position)[-3:-2] not in ((), (1,)):
            axis = len(scope.shape(position)) - 3
            scope.equate(heads, scope.ids(position, axis), HELD)


@rule("RotaryEmbedding", domain=DOMAIN, opset=(1, None))
@rule("RotaryEmbedding", opset=(23, None))
def rotary_embedding(scope: Scope) -> None:
    """Turns the dimensions inside each head: whole heads go."""
    apart = len(scope.shape(0)) == 4
    ids, number = scope.ids(0, 1 if apart else 2), scope.attribute("num_heads", 0)
    if ids is not None and number:
        tie_heads(scope, number, ids)
        scope.extent("num_heads", Count(0, ids, len(ids) // number))
    elif not apart:
        raise Unsupported("does not say how many heads there are")
    scope.emit([None, ids, None, None] if apart else [None, None, ids])
