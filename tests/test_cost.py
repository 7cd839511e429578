"""Costs that are counted without surgery equal those of the model that surgery makes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import parser
from test_random_graphs import Grower
from test_topologies import all_removable, random_removal
from topologies import TOPOLOGIES
from topologies.fused import STEPS
from topologies.net import CLASSES, SIZE, Net

from discedit_onnx.editing.plan import plan_removal
from discedit_onnx.editing.surgery import apply
from discedit_onnx.errors import UsageError
from discedit_onnx.graph.cost import (
    MacCount,
    ParameterCount,
    count_macs,
    count_parameters,
    uncounted,
)
from discedit_onnx.graph.coupling import Coupling, analyse
from discedit_onnx.graph.view import View


def check(coupling: Coupling, removed: np.ndarray) -> int | None:
    proto = coupling.view.proto
    pruned = apply(proto, plan_removal(coupling, removed, "source"))
    assert ParameterCount(coupling).left(removed) == count_parameters(pruned)
    before = count_macs(coupling.view)
    if before is None:
        with pytest.raises(UsageError, match="can't be counted"):
            MacCount(coupling)
        return None
    count = MacCount(coupling)
    assert count.total == count.left(np.zeros(coupling.size, dtype=bool)) == before
    assert count.left(removed) == count_macs(View(pruned))
    return count.total - count.left(removed)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_each_topology(name):
    coupling = analyse(TOPOLOGIES[name].build())
    for removed in (random_removal(coupling, 0), all_removable(coupling)):
        check(coupling, removed)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_graphs(data):
    grower = Grower(data.draw)
    for _ in range(data.draw(st.integers(2, 8))):
        grower.grow()
    coupling = analyse(grower.finish())
    check(coupling, random_removal(coupling, data.draw(st.integers(0, 99))))


def test_most_topologies_have_macs_that_fall():
    fallen = 0
    for topology in TOPOLOGIES.values():
        coupling = analyse(topology.build())
        fallen += bool(check(coupling, all_removable(coupling)))
    assert fallen > len(TOPOLOGIES) / 2


def test_by_hand():
    net = Net()
    x = net.conv(net.input("N", 3, 6, 6), 3, 8)
    coupling = analyse(net.head(net.conv(x, 8, 4), 4))
    removed = np.zeros(coupling.size, dtype=bool)
    first, second = coupling.groups
    removed[first.components[:2]] = removed[second.components[:1]] = True
    assert MacCount(coupling).left(removed) == 36 * 6 * 27 + 36 * 3 * 6 * 9 + 3 * 5


def test_fused_products_count_as_products():
    gemm = View(TOPOLOGIES["fused_gemm"].build())
    assert count_macs(gemm) == 7 * 10 + 10 * 12 + 12 * CLASSES
    for trans_a, trans_b in product((0, 1), repeat=2):
        name = f"fused_matmul[trans_a={trans_a},trans_b={trans_b}]"
        macs = count_macs(View(TOPOLOGIES[name].build()))
        assert macs == STEPS * (7 * 10 + 10 * 12 + 12 * CLASSES)
    net = Net()
    y = net.op("FusedConv", net.input(), net.weight(8, 3, 3, 3), domain="com.microsoft")
    assert count_macs(View(net.model(y))) == (SIZE - 2) ** 2 * 8 * 27


def test_what_the_macs_leave_out_is_named():
    """A recurrent network's head alone would seem to be all that it costs."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 14]>
        recurrent (float[N, 4, 3] x) => (float[N, 5] y)
        <float[1, 6, 3] w, float[1, 6, 2] r, float[2, 5] h = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}>
        { t = Transpose<perm=[1, 0, 2]>(x)  a, last = GRU<hidden_size=2>(t, w, r)
          s = Squeeze(last)  y = MatMul(s, h) }""")
    assert uncounted(View(model)) == ("GRU",)
    net = Net()
    plain = net.model(net.relu(net.conv(net.input(), 3, 6)))
    assert uncounted(View(plain)) == ()


def test_who_hides_a_shape_is_named():
    with pytest.raises(UsageError, match=r"Mystery \w+ of org\.example makes"):
        MacCount(analyse(TOPOLOGIES["custom_operator"].build()))
    with pytest.raises(UsageError, match="size of its input is open: fix the size"):
        MacCount(analyse(TOPOLOGIES["reshape_where_zero_is_a_length[computed=rows]"].build()))
