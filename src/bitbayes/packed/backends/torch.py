"""The torch backend, which runs packed networks with torch's own operations on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitbayes.bits import unpack_signs
from bitbayes.packed.backends.runtime import Runtime, Steps, check_finite, check_inputs, check_tokens, checked, sliced
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import PADDED
from bitbayes.packed.format.program import Step
from bitbayes.packed.format.sliding import Sliding

Tensors = dict[str, Tensor]  # tensors of a step by role

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch stores and converts them, but has no min and max


class TorchRuntime(Runtime):
    """Runtime that runs a packed network with torch in float32.

    A single network is unpacked to floats once. Several networks are unpacked one after the other, at every call.

    Args:
        network: Packed network to run.
        device: Device that runs the network.

    Raises:
        ValueError: If the device cannot be used.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> TorchRuntime(bb.pack(model, torch.zeros(1, 3))).predict(torch.ones(5, 3)).probs.shape
        torch.Size([5, 2])
    """

    def __init__(self, network: PackedNetwork, device: torch.device | str = "cpu") -> None:
        self.network, self._steps = network, Steps(network)
        try:
            self.device = torch.device(device)
            self._stored = stored(network, self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        self._once = [] if network.own_values else once(network, self._stored)

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """Return the raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        if not isinstance(x, Tensor):  # numpy knows types and strides that torch does not
            x = torch.tensor(np.ascontiguousarray(checked(self.network, x)))
        check_inputs(self.network, tuple(x.shape), x.is_floating_point(), x.dtype)
        if self.network.tokens is not None:
            check_tokens(self.network, x.cpu().numpy() if x.dtype in _UNSIGNED else x)
            x = x.to(self.device, torch.int64)
        else:
            x = x.to(self.device, torch.float32)
            check_finite(bool(x.isfinite().all()))
        # Sums of signs are exact only in float32. TF32 and bfloat16 would also round real values.
        with torch.autocast(self.device.type, enabled=False), _full_precision():
            return torch.stack(list(self._steps.run(x, self._value)))

    def _value(self, index: int, sources: list[Tensor], sample: int) -> Tensor:
        network = self.network
        tensors = self._once[index] if self._once else unpacked(network, index, self._stored[index], sample)
        return computed(network.program.steps[index], sources, tensors)


def stored(network: PackedNetwork, device: torch.device | str = "cpu") -> list[Tensors]:
    """Return the tensors of every step from `PackedNetwork.stacked` on a device; steps may share a tensor."""
    kept, found = Tensors(), list[Tensors]()
    for step in network.program.steps:
        for role, tensor in network.stacked(step).items():
            if step.tensors[role] not in kept:
                kept[step.tensors[role]] = torch.tensor(tensor, device=device)
        found.append({role: kept[name] for role, name in step.tensors.items()})
    return found


def once(network: PackedNetwork, every: list[Tensors]) -> list[Tensors]:
    """Return the unpacked tensors of every step of the first network; steps may share a tensor."""
    kept, found = dict[tuple[str, torch.Size], Tensor](), list[Tensors]()
    for index, (step, tensors) in enumerate(zip(network.program.steps, every, strict=True)):
        mine = unpacked(network, index, tensors, 0)
        found.append({role: kept.setdefault((step.tensors[role], t.shape), t) for role, t in mine.items()})
    return found


def unpacked(network: PackedNetwork, index: int, tensors: Tensors, sample: int) -> Tensors:
    """Return the tensors of a step for one of the C networks, in float32 and in torch's shapes."""
    step, rank, found = network.program.steps[index], len(network.values[index + 1].shape), Tensors()
    for role, every in tensors.items():
        tensor = every[sample % len(every)]
        if role == "offset":
            found[role] = tensor.float().view(network.values[index + 1].shape)
        elif role not in ("weight", "table"):
            found[role] = tensor.float().view(-1, *[1] * (rank - 1))
        elif tensor.dtype == torch.uint8:
            fan = step.fan_in(network.source_shape(step))
            found[role] = unpack_signs(tensor, fan).reshape(network.weight_shape(step))
        else:
            found[role] = tensor.float()
    return found


def computed(step: Step, sources: list[Tensor], tensors: Tensors) -> Tensor:
    """Return the value that a step computes from its sources."""
    return _STEPS[step.op](sources, step, tensors)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Compute in full float32 precision, whatever the surrounding program has set for its training."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _of_rank(name: str, x: Tensor) -> Callable[..., Tensor]:
    return getattr(F, f"{name}{x.dim() - 2}d")


def _conv(x: Tensor, step: Step, weight: Tensor) -> Tensor:
    s = step.sliding
    return _of_rank("conv", x)(x, weight, None, s.stride, s.padding, s.dilation, step.groups)


def _affine(x: Tensor, t: Tensors) -> Tensor:
    if len(t) < 2:
        return x * t["scale"] if "scale" in t else x + t.get("shift", 0)
    scale, shift = (t[role].flatten().expand(x.shape[1]) for role in ("scale", "shift"))
    # This affine step usually comes from a BatchNorm and is rounded in the same way. torch 2.11 refuses an eps of 0,
    # and 1 + eps is equivalent.
    return F.batch_norm(x.to(scale.dtype), torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=1e-30)


def _above(x: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where(x >= threshold, 1.0, -1.0)


def _max_pool(x: Tensor, s: Sliding) -> Tensor:
    return _of_rank("max_pool", x)(x, s.kernel, s.stride, s.padding, s.dilation, s.ceil)


def _avg_pool(x: Tensor, step: Step) -> Tensor:
    s = step.sliding
    return _of_rank("avg_pool", x)(x, s.kernel, s.stride, s.padding, False, step.settings["count_padding"])


def _norm(x: Tensor, *, centre: bool, eps: float) -> Tensor:
    last = x.movedim(1, -1).contiguous()
    return (F.layer_norm if centre else F.rms_norm)(last, last.shape[-1:], eps=eps).movedim(-1, 1)


def _attention(xs: list[Tensor], step: Step) -> Tensor:
    query, key, value = (x.unflatten(1, (step.settings["heads"], -1)).transpose(2, 3) for x in xs[:3])
    settings: dict[str, Any] = {"scale": step.settings["scale"], "is_causal": step.settings["causal"]}
    for mask in xs[3:]:  # torch takes no causal mask beside another one
        hidden = torch.where(mask > 0, 0.0, PADDED)[:, None, None]
        if settings.pop("is_causal"):
            later = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=mask.device).triu(1)
            hidden = hidden.masked_fill(later, -torch.inf)
        settings["attn_mask"] = hidden.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, **settings).transpose(2, 3).flatten(1, 2)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    seen = mask > 0
    return torch.where(seen[:, None], x, 0.0).sum(2) / seen.sum(1, keepdim=True).clamp(min=1)


def _pad(x: Tensor, step: Step) -> Tensor:
    pairs = zip(reversed(step.settings["before"]), reversed(step.settings["after"]), strict=True)  # the last axis first
    return F.pad(x, [size for pair in pairs for size in pair])


_STEPS: dict[str, Callable[[list[Tensor], Step, Tensors], Tensor]] = {
    "linear": lambda xs, step, t: F.linear(xs[0], t["weight"]),
    "conv": lambda xs, step, t: _conv(xs[0], step, t["weight"]),
    "affine": lambda xs, step, t: _affine(xs[0], t),
    "sign": lambda xs, step, t: _above(xs[0], 0.0),
    "threshold": lambda xs, step, t: _above(xs[0] * t.get("direction", 1.0), t["threshold"]),
    "clamp": lambda xs, step, t: xs[0].clamp(*step.bounds),
    "prelu": lambda xs, step, t: torch.where(xs[0] > 0, xs[0], xs[0] * t["slope"]),
    "tanh": lambda xs, step, t: xs[0].tanh(),
    "sigmoid": lambda xs, step, t: xs[0].sigmoid(),
    "gelu": lambda xs, step, t: F.gelu(xs[0], approximate="tanh" if step.settings["tanh"] else "none"),
    "max_pool": lambda xs, step, t: _max_pool(xs[0], step.sliding),
    "avg_pool": lambda xs, step, t: _avg_pool(xs[0], step),
    "adaptive_avg_pool": lambda xs, step, t: _of_rank("adaptive_avg_pool", xs[0])(xs[0], tuple(step.settings["size"])),
    "reshape": lambda xs, step, t: xs[0].reshape(len(xs[0]), *step.settings["shape"]),
    "permute": lambda xs, step, t: xs[0].permute(0, *step.settings["axes"]),
    "pad": lambda xs, step, t: _pad(xs[0], step),
    "add": lambda xs, step, t: xs[0] + xs[1],
    "multiply": lambda xs, step, t: xs[0] * xs[1],
    "concat": lambda xs, step, t: torch.cat(xs, step.settings["axis"]),
    "softmax": lambda xs, step, t: xs[0].softmax(step.settings["axis"]),
    "slice": lambda xs, step, t: xs[0][sliced(step)],
    "offset": lambda xs, step, t: xs[0] + t["offset"],
    "embed": lambda xs, step, t: F.embedding(xs[0], t["table"]).movedim(-1, 1),
    "norm": lambda xs, step, t: _norm(xs[0], **step.settings),
    **dict.fromkeys(["attention", "masked_attention"], lambda xs, step, t: _attention(xs, step)),
    "mask": lambda xs, step, t: (xs[0] != step.settings["id"]).float(),
    "masked_mean": lambda xs, step, t: _masked_mean(*xs),
}
