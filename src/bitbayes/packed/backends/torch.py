"""Runs packed networks with torch's own operations, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitbayes.packed.backends.runtime import Runtime
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import fan_in
from bitbayes.packed.format.program import Step
from bitbayes.prediction import Prediction

__all__ = ["TorchRuntime"]

Settings = Any


class TorchRuntime(Runtime):
    """Runs a packed network with torch, in float32.

    One network is unpacked to floats once; of several, each is unpacked when its turn comes.

    Args:
        network: What to run.
        device: Where.

    Raises:
        ValueError: If the device cannot be used.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0)
        >>> TorchRuntime(bb.pack(model, torch.zeros(1, 3))).predict(torch.ones(5, 3)).probs.shape
        torch.Size([5, 2])
    """

    def __init__(self, network: PackedNetwork, device: torch.device | str = "cpu") -> None:
        super().__init__(network)
        try:
            self.device = torch.device(device)
            self._tensors = {name: torch.tensor(tensor, device=self.device) for name, tensor in network.tensors.items()}
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        steps = range(len(network.program.steps))
        self._once = [self._unpacked(index, 0) for index in steps] if network.program.samples == 1 else None

    @torch.no_grad()
    def outputs(self, x: Tensor) -> Tensor:
        """Raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        x = torch.as_tensor(x)
        self.check(tuple(x.shape), x.is_floating_point(), x.dtype)
        x = x.to(self.device, torch.float32)
        self.check_finite(bool(x.isfinite().all()))
        # Sums of signs are exact in float32, and only there; TF32 and bfloat16 would round what is real.
        with torch.autocast(self.device.type, enabled=False), _full_precision():
            return torch.stack([self.run(x, sample) for sample in range(self.network.program.samples)])

    def predict(self, x: Tensor) -> Prediction[Tensor]:
        """Mean probabilities of all C networks, and their uncertainty, for inputs of shape (N, ...)."""
        outputs = self.outputs(x)
        return Prediction(outputs[..., None] if outputs.dim() == 2 else outputs)

    def step(self, step: Step, index: int, sources: list[Tensor], sample: int) -> Tensor:
        """One step; see `Runtime.step`."""
        tensors = self._unpacked(index, sample) if self._once is None else self._once[index]
        return _STEPS[step.op](sources, step.settings, tensors)

    def _unpacked(self, index: int, sample: int) -> dict[str, Tensor]:
        """The tensors of a step in float32, with the shapes that torch's functions want."""
        step = self.network.program.steps[index]
        source, rank = self.network.values[step.sources[0]].shape, len(self.network.values[index + 1].shape)
        found = {}
        for role, name in step.tensors.items():
            tensor = self._tensors[name]
            if self.network.differs(name):
                tensor = tensor[sample]
            if role == "weight":
                kernel = step.settings.get("kernel", ())
                shape = (len(tensor), source[0] // step.settings.get("groups", 1), *kernel)
                found[role] = (
                    _signs(tensor, fan_in(step.settings, source)).view(shape) if _bits(tensor) else tensor.float()
                )
            else:
                found[role] = tensor.float().view(-1, *[1] * (rank - 1))
        return found


def _bits(tensor: Tensor) -> bool:
    return tensor.dtype == torch.uint8


def _signs(bits: Tensor, count: int) -> Tensor:
    """Rows of bits as −1 and +1."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    ones = (bits[..., None] >> places) & 1
    return (ones.flatten(-2)[..., :count].float() * 2 - 1).contiguous()


class _full_precision:
    """Float32 means float32, whatever the program around has chosen for its training."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self.before


def _of_rank(name: str, x: Tensor) -> Callable[..., Tensor]:
    return getattr(F, f"{name}{x.dim() - 2}d")


def _conv(x: Tensor, s: Settings, t: dict[str, Tensor]) -> Tensor:
    geometry = (s["stride"], s["padding"], s["dilation"])
    return _of_rank("conv", x)(x, t["weight"], None, *map(tuple, geometry), s["groups"])


def _affine(x: Tensor, t: dict[str, Tensor]) -> Tensor:
    if len(t) < 2:
        return x * t["scale"] if "scale" in t else x + t.get("shift", 0)
    scale, shift = (t[role].flatten().expand(x.shape[1]) for role in ("scale", "shift"))
    # It is a BatchNorm's, as a rule, and then it is rounded as there. An eps of 0, which 1 + eps is as good as, torch
    # 2.11 refuses.
    return F.batch_norm(x.to(scale.dtype), torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=1e-30)


def _above(x: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where(x >= threshold, 1.0, -1.0)


def _max_pool(x: Tensor, s: Settings) -> Tensor:
    sliding = [tuple(s[key]) for key in ("kernel", "stride", "padding", "dilation")]
    return _of_rank("max_pool", x)(x, *sliding, s["ceil"])


def _avg_pool(x: Tensor, s: Settings) -> Tensor:
    sliding = [tuple(s[key]) for key in ("kernel", "stride", "padding")]
    return _of_rank("avg_pool", x)(x, *sliding, False, s["count_padding"])


def _pad(x: Tensor, s: Settings) -> Tensor:
    pairs = zip(reversed(s["before"]), reversed(s["after"]), strict=True)  # the last axis comes first
    return F.pad(x, [size for pair in pairs for size in pair])


_STEPS: dict[str, Callable[[list[Tensor], Settings, dict[str, Tensor]], Tensor]] = {
    "linear": lambda xs, s, t: F.linear(xs[0], t["weight"]),
    "conv": lambda xs, s, t: _conv(xs[0], s, t),
    "affine": lambda xs, s, t: _affine(xs[0], t),
    "sign": lambda xs, s, t: _above(xs[0], 0.0),
    "threshold": lambda xs, s, t: _above(xs[0] * t.get("direction", 1.0), t["threshold"]),
    "clamp": lambda xs, s, t: xs[0].clamp(s["min"], s["max"]),
    "prelu": lambda xs, s, t: torch.where(xs[0] > 0, xs[0], xs[0] * t["slope"]),
    "tanh": lambda xs, s, t: xs[0].tanh(),
    "sigmoid": lambda xs, s, t: xs[0].sigmoid(),
    "max_pool": lambda xs, s, t: _max_pool(xs[0], s),
    "avg_pool": lambda xs, s, t: _avg_pool(xs[0], s),
    "adaptive_avg_pool": lambda xs, s, t: _of_rank("adaptive_avg_pool", xs[0])(xs[0], tuple(s["size"])),
    "reshape": lambda xs, s, t: xs[0].reshape(len(xs[0]), *s["shape"]),
    "permute": lambda xs, s, t: xs[0].permute(0, *s["axes"]),
    "pad": lambda xs, s, t: _pad(xs[0], s),
    "add": lambda xs, s, t: xs[0] + xs[1],
    "concat": lambda xs, s, t: torch.cat(xs, s["axis"]),
    "softmax": lambda xs, s, t: xs[0].softmax(s["axis"]),
}
