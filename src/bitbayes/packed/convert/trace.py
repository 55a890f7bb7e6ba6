"""Tracing of a module into drafts: torch.export records its operations, and a table converts each of them.

Values that depend only on parameters and buffers are computed once per network.
"""

from __future__ import annotations

import contextlib
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, export
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from bitbayes.packed.convert.axes import BATCH_SIZE, Traced, as_torch, sizes_of
from bitbayes.packed.convert.draft import Builder, Constant, Draft, Refusal, split_scale, stacked
from bitbayes.packed.convert.layers import LAYERS
from bitbayes.packed.convert.masks import Mask, compared, mask_of
from bitbayes.packed.convert.refusals import ADVICE, first_refused, whole_layer
from bitbayes.packed.format.bits import Array

State = Mapping[str, Tensor]
Tensors = dict[tuple[int, str], Array]  # tensors by index of the step and role

# Operations that change no number in eval mode.
_CASTS = {"to", "_to_copy"}
_ALIASES = {*_CASTS, "detach", "detach_", "alias", "clone", "contiguous", "lift_fresh_copy"}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_REPEATED = {"expand", "repeat", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full"}
_CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"}


def exported(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Record the operations of a network in eval mode, for any number of inputs like those of the example.

    Raises:
        ValueError: If torch.export cannot trace the network.
    """
    example = example[:1].expand(2, *example.shape[1:]).clone()  # torch.export would treat a batch of one as a constant
    try:
        with warnings.catch_warnings(), torch.no_grad(), _plain_attention():
            warnings.simplefilter("ignore")  # warnings of torch about itself
            program = export(model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
            calls = [node.target for node in program.graph.nodes]
            if any(isinstance(call, OpOverload) and call._schema.is_mutable for call in calls):
                program = program.run_decompositions({})  # such as ReLU(inplace=True)
    except Exception as error:  # torch.export raises any error of the network's code
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = ""
        if refused := first_refused(model):
            advice = f"; {refused}; {ADVICE}"
        elif "specialized it to be a constant" in str(error):
            advice = "; it treats the batch size as fixed: write x.shape[0] where it has len(x) or a number"
        elif "data-dependent" in str(error):
            advice = (
                "; pass is_causal=True or False beside the mask of a torch.nn.TransformerEncoder, and avoid other "
                "branches on data"
            )
        elif example.is_floating_point() and any(isinstance(module, nn.Embedding) for module in model.modules()):
            advice = "; it has an embedding, so give token ids (int64) of shape (N, tokens) as the example"
        raise ValueError(f"torch.export cannot trace {type(model).__name__}: {lines[0][:200]}{advice}") from error
    return program


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch from replacing a layer of attention by one operation, which a faster path of its own computes."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def drafts_of(program: ExportedProgram, states: Iterable[State]) -> list[Draft]:
    """Convert recorded operations to steps; an affine step with the scale follows each layer of weights.

    The states, which are parameters and buffers by name of each of the C networks, are consumed one by one.

    Raises:
        ValueError: If a layer cannot be packed. The message names the layer.
    """
    for buffer in program.graph_signature.buffers_to_mutate.values():
        raise ValueError(f"the network changes its buffer {buffer!r} whenever it computes; remove that for packing")
    graph, constants, output = _simplified(program.graph), _Constants(program), None
    builder = Builder(constants.evaluate)
    for node in graph.nodes:
        if constants.take(builder, node):
            builder.constants.add(node)
        elif node.op == "placeholder":
            if builder.values:
                raise ValueError("the network must take one tensor")
            builder.values[node] = Traced.plain(0, sizes_of(node)[1:])
        elif node.op == "output":
            outputs = node.args[0]
            if not isinstance(outputs, Sequence) or len(outputs) != 1 or not isinstance(outputs[0], Node):
                raise ValueError("the network must return one tensor")
            output = outputs[0]
        elif isinstance(node.meta.get("val"), torch.SymInt):
            builder.sizes.add(node)
        else:
            _convert(builder, node)
    if output not in builder.values:
        raise ValueError("the network's output does not depend on its input")
    builder.layer = _layer(output)
    # The last step makes the output; folding removes the identity.
    _refusing(builder, output, lambda: builder.add("affine", [as_torch(builder, output)]))

    networks = []
    for state in states:
        networks.append(_tensors(builder, constants.of(state), networks[0] if networks else None))
    return _with_tensors(builder, networks)


class _Constants:
    """Nodes that depend on no input, and their tensors in a network.

    A constant that is only repeated along the batch, such as a learned token, has a batch of one here.
    """

    def __init__(self, program: ExportedProgram) -> None:
        s = program.graph_signature
        self._names = {**s.inputs_to_parameters, **s.inputs_to_buffers, **s.inputs_to_lifted_tensor_constants}
        self._program, self._leaves, self._computed = program, dict[Node, str](), list[Node]()
        self._repeated = set[Node]()
        self._traced: dict[Node, Any] | None = None  # constants of the traced network

    def take(self, builder: Builder, node: Node) -> bool:
        """Return whether a node is a constant, and keep it if it is."""
        if node.op == "placeholder":
            if node.name in self._names:
                self._leaves[node] = self._names[node.name]
            return node in self._leaves
        if node.op != "call_function" or isinstance(node.meta.get("val"), torch.SymInt) or _is_random(node):
            return False
        inputs = node.all_input_nodes
        sizes = [source for source in inputs if source in builder.sizes]
        if not all(source in builder.constants or source in sizes for source in inputs):
            return False
        repeated = bool(sizes) or any(BATCH_SIZE in sizes_of(source) for source in inputs)
        if sizes and not (_packet(node) in _REPEATED and sizes == [_first_size(node)]):
            return False
        if repeated and sizes_of(node)[:1] != [BATCH_SIZE]:  # it may depend on the batch size
            return False
        self._computed.append(node)
        self._repeated |= {node} if repeated else set()
        return True

    def of(self, state: State) -> dict[Node, Any]:
        """Return the constants of a network.

        Raises:
            ValueError: If a constant is another one in a batch of two.
        """
        whole = {**self._program.constants, **state}
        leaves = {node: whole[name] for node, name in self._leaves.items() if name in whole}
        found = self._completed(dict(leaves))
        if self._repeated:
            twice = self._completed(dict(leaves), batch=2)
            for node in self._repeated:
                if not torch.equal(twice[node], found[node].expand_as(twice[node])):
                    raise ValueError(f"cannot pack layer {_layer(node)!r}: a constant depends on the number of inputs")
        return found

    def evaluate(self, node: Node) -> Any:
        """Return a constant of the traced network."""
        self._traced = self.of(self._program.state_dict) if self._traced is None else self._completed(self._traced)
        return self._traced[node]

    def _completed(self, known: dict[Node, Any], batch: int = 1) -> dict[Node, Any]:
        with torch.no_grad():
            for node in self._computed:
                if node not in known:
                    args, kwargs = map_arg((node.args, node.kwargs), lambda each: known.get(each, batch))
                    known[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        return known


def _is_random(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _first_size(node: Node) -> Any:
    """Return the first of the sizes that a node is given."""
    lists: list[Any] = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, list | tuple)]
    return lists[0][0] if lists and lists[0] else None


def _convert(builder: Builder, node: Node) -> None:
    name, builder.layer = _packet(node), _layer(node)

    def convert() -> Any:
        if node.target is operator.getitem:
            arguments: Any = node.args
            parts, which = builder.values[arguments[0]], arguments[1]
            if not isinstance(parts, list) and which != 0:
                raise Refusal("only its first result has a packed form")
            return parts[which] if isinstance(parts, list) else parts
        if name != "embedding" and any(_holds_tokens(builder, source) for source in node.all_input_nodes):
            return compared(builder, node, name, _arguments(node))
        if (mask := mask_of(builder, node, name)) is not None:
            return mask
        if name not in LAYERS:
            of_mask = any(isinstance(builder.values.get(source), Mask) for source in node.all_input_nodes)
            raise Refusal(Mask.alone if of_mask else f"{name} has no packed form")
        return LAYERS[name](builder, node, _arguments(node))

    found = _refusing(builder, node, convert)
    builder.values[node] = Traced.plain(found, sizes_of(node)[1:]) if isinstance(found, int) else found


def _holds_tokens(builder: Builder, node: Node) -> bool:
    return node.op == "placeholder" and node in builder.values and not node.meta["val"].is_floating_point()


def _refusing(builder: Builder, node: Node, convert: Callable[[], Any]) -> Any:
    """Return what a conversion returns; a refusal becomes an error that names the layer."""
    try:
        return convert()
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
        elif name in _CASTS and _changes_mask(node):
            continue  # it stays, because the arithmetic of a mask depends on it
        elif name in _ALIASES or (name == "slice" and node.meta["val"].shape == inputs[0].meta["val"].shape):
            _check_dtype(node)
            same = inputs[0]
        elif name == "sub" and inputs[0] is inputs[1] and not node.kwargs:
            zeros.add(node)
        elif name == "mul" and not zeros.isdisjoint(inputs):
            zeros.add(node)
        elif name == "add" and inputs[1] in zeros and inputs[0].meta["val"].shape == node.meta["val"].shape:
            same = inputs[0]
        if isinstance(same, Node):
            node.replace_all_uses_with(same)
            graph.erase_node(node)  # torch never counts dropout as dead code
    graph.eliminate_dead_code()
    return graph


def _changes_mask(node: Any) -> bool:
    before, dtype = node.args[0].meta["val"].dtype, node.meta["val"].dtype
    small = (torch.bool, torch.uint8, torch.int8, torch.int16)
    return dtype != before and (before in small or dtype == torch.bool)


def _check_dtype(node: Any) -> None:
    dtype, before = node.meta["val"].dtype, node.args[0].meta["val"].dtype
    integers = {torch.int32, torch.int64}  # all token ids fit into both
    if dtype in (before, torch.float32) or (dtype in integers and _is_integer(before)):
        return
    advice = f"it computes in {dtype}; call .float() on the network"
    if not dtype.is_floating_point:
        advice = f"it changes {before} to {dtype}; only token ids may change, to torch.int32 or torch.int64"
    raise ValueError(f"cannot pack layer {_layer(node)!r}: {advice}")


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _tensors(builder: Builder, known: Mapping[Node, Any], first: Tensors | None) -> Tensors:
    """Return every tensor of one network by index and role; tensors equal to the first network's are shared."""

    def get(value: Any) -> Array:
        tensor = known[value] if isinstance(value, Node) else torch.as_tensor(value)
        return tensor.detach().cpu().double().numpy()

    split: dict[tuple[Constant, int], tuple[Array, Array]] = {}  # a tied weight is one tensor
    found: Tensors = {}
    for place, draft in enumerate(builder.drafts):
        for role, constant in draft.tensors.items():
            if role == "weight":
                key = (constant, len(draft.kernel))
                if key not in split:
                    whole = known[constant].detach().cpu().float() if isinstance(constant, Node) else constant(get)
                    weight, scale = split_scale(np.asarray(whole, np.float32))
                    if weight.dtype != np.uint8 and draft.kernel:  # a linear layer may be a convolution
                        weight = weight.reshape(len(weight), -1, *draft.kernel)
                    split[key] = weight, scale
                # The scale belongs to the affine step that follows.
                found[place, "weight"], found[place + 1, "scale"] = split[key]
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
