"""Tracing of a module into drafts: torch.export records its operations, and a table converts each of them.

Values that depend only on parameters and buffers are computed once per network.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, export
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from bitbayes.packed.convert.draft import Builder, Draft, Refusal, split_scale, stacked
from bitbayes.packed.convert.layers import LAYERS, shape_of
from bitbayes.packed.convert.refusals import ADVICE, first_refused, whole_layer
from bitbayes.packed.format.bits import Array

State = Mapping[str, Tensor]
Tensors = dict[tuple[int, str], Array]  # tensors by index of the step and role

# Operations that change no number in eval mode.
_ALIASES = {"to", "_to_copy", "detach", "detach_", "alias", "clone", "contiguous", "lift_fresh_copy"}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"}


def exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Record the operations of a network in eval mode, for any number of inputs like those of the example.

    Raises:
        ValueError: If torch.export cannot trace the network.
    """
    example = example[:1].expand(2, *example.shape[1:]).clone()  # torch.export would treat a batch of one as a constant
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # warnings of torch about itself
            program = export(model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
            calls = [node.target for node in program.graph.nodes]
            if any(isinstance(call, OpOverload) and call._schema.is_mutable for call in calls):
                program = program.run_decompositions({})  # such as ReLU(inplace=True)
    except Exception as error:  # torch.export raises any error of the network's code
        lines = str(error).strip().splitlines() or [type(error).__name__]
        refused = first_refused(model)
        about = f"; {refused}; {ADVICE}" if refused else ""
        raise ValueError(f"torch.export cannot trace {type(model).__name__}: {lines[0][:200]}{about}") from error
    return program


def drafts_of(program: ExportedProgram, states: Iterable[State]) -> list[Draft]:
    """Convert recorded operations to steps; an affine step with the scale follows each layer of weights.

    The states, which are parameters and buffers by name of each of the C networks, are consumed one by one.

    Raises:
        ValueError: If a layer cannot be packed. The message names the layer.
    """
    graph, builder, s = _simplified(program.graph), Builder(), program.graph_signature
    names = {**s.inputs_to_parameters, **s.inputs_to_buffers, **s.inputs_to_lifted_tensor_constants}
    leaves, folded, output = dict[Node, str](), list[Node](), None
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in names:
            leaves[node] = names[node.name]
            builder.constants.add(node)
        elif node.op == "placeholder":
            if 0 in builder.values.values():
                raise ValueError("the network must take one tensor")
            builder.values[node] = 0
        elif node.op == "output":
            outputs = node.args[0]
            if not isinstance(outputs, Sequence) or len(outputs) != 1 or not isinstance(outputs[0], Node):
                raise ValueError("the network must return one tensor")
            output = outputs[0]
        elif all(source in builder.constants for source in node.all_input_nodes):
            folded.append(node)
            builder.constants.add(node)
        else:
            _convert(builder, node)
    if output not in builder.values:
        raise ValueError("the network's output does not depend on its input")
    builder.layer = _layer(output)
    builder.add("affine", [builder.values[output]])  # the last step makes the output; folding removes the identity

    networks = []
    with torch.no_grad():
        for state in states:
            whole = {**program.constants, **state}
            known: dict[Node, Any] = {node: whole[name] for node, name in leaves.items() if name in whole}
            for node in folded:
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
            networks.append(_tensors(builder, known, networks[0] if networks else None))
    return _with_tensors(builder, networks)


def _convert(builder: Builder, node: Node) -> None:
    name, builder.layer = _packet(node), _layer(node)
    try:
        if node.target is operator.getitem and node.args[1] == 0:
            builder.values[node] = builder.value(node.args[0])
        elif name in LAYERS:
            builder.values[node] = LAYERS[name](builder, node, _arguments(node))
        elif name != "sym_size" and name not in _CHECKS:
            raise Refusal(f"{name} has no packed form")
    except Refusal as refusal:
        reason = whole_layer(kind for _, kind in _modules(node)) or refusal
        where = f"cannot pack layer {builder.layer!r}"
        raise ValueError(f"{where}: {reason}; {ADVICE} (docs/packing.md lists what can be packed)") from None


def _simplified(graph: Graph) -> Graph:
    """Remove aliases, and terms a − a, which are zero and give signs their derivative."""
    zeros: set[Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        name, inputs, same = _packet(node), node.args, None
        if name in _CHECKS:
            graph.erase_node(node)
        elif name in _DROPOUTS:
            same = None if inputs[2] else inputs[0]  # it may also be on in eval mode, and is then refused
        elif name in _ALIASES or (name == "slice" and shape_of(node) == shape_of(inputs[0])):
            _check_dtype(node)
            same = inputs[0]
        elif name == "sub" and inputs[0] is inputs[1] and not node.kwargs:
            zeros.add(node)
        elif name == "mul" and not zeros.isdisjoint(inputs):
            zeros.add(node)
        elif name == "add" and inputs[1] in zeros:
            same = inputs[0]
        if isinstance(same, Node):
            node.replace_all_uses_with(same)
            graph.erase_node(node)  # torch never counts dropout as dead code
    graph.eliminate_dead_code()
    return graph


def _check_dtype(node: Any) -> None:
    dtype, before = node.meta["val"].dtype, node.args[0].meta["val"].dtype
    if dtype != before and dtype != torch.float32:
        raise ValueError(f"cannot pack layer {_layer(node)!r}: it computes in {dtype}; call .float() on the network")


def _tensors(builder: Builder, known: Mapping[Node, Any], first: Tensors | None) -> Tensors:
    """Return every tensor of one network by index and role; tensors equal to the first network's are shared."""

    def get(value: Any) -> Array:
        tensor = known[value] if isinstance(value, Node) else torch.as_tensor(value)
        return tensor.detach().cpu().double().numpy()

    split: dict[Node, tuple[Array, Array]] = {}  # a tied weight is one tensor
    found: Tensors = {}
    for place, draft in enumerate(builder.drafts):
        for role, constant in draft.tensors.items():
            if isinstance(constant, Node):
                if constant not in split:
                    split[constant] = split_scale(known[constant].detach().cpu().float().numpy())
                # The scale belongs to the affine step that follows.
                found[place, "weight"], found[place + 1, "scale"] = split[constant]
            else:
                found[place, role] = np.atleast_1d(constant(get)).astype(np.float64)
    if first is None:
        return found
    return {key: first[key] if np.array_equal(first[key], tensor) else tensor for key, tensor in found.items()}


def _with_tensors(builder: Builder, networks: Sequence[Tensors]) -> list[Draft]:
    joined, tensors = dict[tuple[int, ...], Array](), [dict[str, Array]() for _ in builder.drafts]
    for place, role in networks[0]:
        parts = [network[place, role] for network in networks]
        if role == "weight" and len({part.dtype for part in parts}) > 1:
            raise ValueError(f"{builder.drafts[place].name!r} is binary in some samples and real in others")
        tensors[place][role] = joined.setdefault(tuple(map(id, parts)), stacked(parts))
    return [replace(draft, tensors=found) for draft, found in zip(builder.drafts, tensors, strict=True)]


def _packet(node: Node) -> str:
    """Return the operation without its overload: conv2d for aten.conv2d.padding."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.partition("::")[2]
    return getattr(node.target, "__name__", str(node.target))


def _arguments(node: Node) -> dict[str, Any]:
    """Return all arguments by name, including defaults."""
    assert isinstance(node.target, OpOverload)
    schema = node.target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {argument.name: argument.default_value for argument in schema} | given | dict(node.kwargs)


def _layer(node: Node) -> str:
    """Return name and type of the innermost module."""
    path, kind = _modules(node)[-1]
    return re.sub(r"[^A-Za-z0-9_.,:()\- ]", "_", f"{path} ({kind})" if path else kind)[:200]


def _modules(node: Node) -> list[tuple[str, str]]:
    """Return names and types of the modules that enclose a node, the innermost last."""
    stack = node.meta.get("nn_module_stack", {"": ("", "network")}).values()
    return [(path, (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]) for path, kind in stack]
