"""Local functions hold what they touch, and the mend that is named frees it."""

from __future__ import annotations

from onnx import inliner
from test_topologies import all_removable, check_valid, equality, prune
from topologies import TOPOLOGIES

from discedit_onnx.editing.verify import mask
from discedit_onnx.graph.coupling import analyse


def test_inlining_frees_what_a_function_holds():
    proto = TOPOLOGIES["local_function"].build()
    held = analyse(proto)
    assert any("inline it" in pinned.why for pinned in held.pinned)
    inlined = inliner.inline_local_functions(proto)
    free = analyse(inlined)
    assert free.size > held.size
    removed = all_removable(free)
    pruned = prune(free, removed)
    check_valid(pruned)
    equality(mask(free, removed), pruned, free).require()
