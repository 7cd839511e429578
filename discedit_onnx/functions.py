"""Local functions, written out: what follows sees one flat graph.

PyTorch's exporter, among others, keeps a module's nodes in functions of the model's own. The same
nodes in place of each call compute the same, and then weights inside and around them can be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

DEFAULT = {"", "ai.onnx"}
"""Both names of the default domain."""

Key = tuple[str, str, str]
"""Domain, name and overload."""


def function_key(call: onnx.NodeProto | onnx.FunctionProto) -> Key:
    """What a node calls, or what a function is called by."""
    name = call.op_type if isinstance(call, onnx.NodeProto) else call.name
    return call.domain, name, call.overload


def inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the nodes of its local functions in place of their calls.

    A function that is written for other opsets than the model stays: converting its nodes would
    not be exact.

    Parameters
    ----------
    proto
        A model; it is not changed.

    Returns
    -------
    onnx.ModelProto
        A copy, or `proto` itself where no function could be inlined.
    """
    if not proto.functions:
        return proto
    from onnx import inliner

    complete = onnx.ModelProto()
    complete.CopyFrom(proto)
    functions = {function_key(function): function for function in complete.functions}
    bodies = (complete.graph.node, *(function.node for function in complete.functions))
    for node in (node for body in bodies for node in all_nodes(body)):
        if function := functions.get(function_key(node)):
            _write_defaults(node, function)
    for function in complete.functions:
        _pass_through(function)
    _import_all(complete)
    _agree_on_versions(complete, functions.keys())
    try:
        inlined = inliner.inline_local_functions(complete)
    except Exception:  # above protobuf's limit, or not valid; then they stay
        return proto
    return inlined if len(inlined.functions) < len(proto.functions) else proto


def all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those in their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from all_nodes(subgraph.node)


def _write_defaults(node: onnx.NodeProto, function: onnx.FunctionProto) -> None:
    """Give a call the attributes that it leaves to the function: the inliner would lose them."""
    given = {attribute.name for attribute in node.attribute}
    node.attribute.extend(a for a in function.attribute_proto if a.name not in given)


def _pass_through(function: onnx.FunctionProto) -> None:
    """Copy inputs that are outputs too: written out as they are, nothing would make these."""
    for position, name in enumerate(function.output):
        if name in function.input:
            function.output[position] = f"{name}.out"
            function.node.add(op_type="Identity", input=[name], output=[f"{name}.out"])


def _import_all(model: onnx.ModelProto) -> None:
    """Import what only functions import, which the inliner leaves out."""
    known = {opset.domain for opset in model.opset_import}
    known |= DEFAULT if known & DEFAULT else set()
    for function in model.functions:
        for opset in function.opset_import:
            if opset.domain not in known:
                known.add(opset.domain)
                model.opset_import.append(opset)


def _agree_on_versions(model: onnx.ModelProto, functions: Collection[Key]) -> None:
    """Import the domains of functions alike everywhere: these have no operators with versions.

    JAX's exporter imports them in functions by the version of the default domain. Domains of which
    anything else is called stay as they are.
    """
    bodies = (model.graph.node, *(function.node for function in model.functions))
    other = {
        node.domain
        for body in bodies
        for node in all_nodes(body)
        if function_key(node) not in functions
    }
    own = {domain for domain, _, _ in functions} - other - DEFAULT
    imports = (model.opset_import, *(function.opset_import for function in model.functions))
    for opset in (opset for imported in imports for opset in imported):
        if opset.domain in own:
            opset.version = 1
