"""Layers that binary networks need besides torch's own: activations, scales and shifts, real layers, image checks.

As in torch, channels are always dimension 1: shapes (N, C), (N, C, L), (N, C, H, W) and so on.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitbayes.errors import chosen

M = TypeVar("M", bound=nn.Module)

# Beyond this |x|, the derivative is zero. That of SwishSign is already 5e-214 there.
_WINDOWS = {"clipped": 1.0, "approx": 1.0, "reste": 1.5, "swish": 100.0}
_RESTE_FLOOR = 0.1
_SWISH_BETA = 5.0


class BinaryActivation(nn.Module):
    """Sign of the input with a surrogate derivative; the sign of 0 is +1, and NaN stays NaN.

    The derivative of the sign is zero almost everywhere, so the backward pass uses the derivative of a smoother
    function:

        clipped   1 for |x| ≤ 1                                        BinaryNet (Courbariaux et al., 2016)
        approx    max(0, 2 − 2|x|)                                     Bi-Real Net (Liu et al., ECCV 2018)
        reste     |x|^((1−o)/o) / o for |x| ≤ 1.5,                     ReSTE (Wu et al., ICCV 2023)
                  with |x| = 0.1 for all smaller ones
        swish     β (2 − βx tanh(βx/2)) / (1 + cosh(βx)), β = 5        BNN+ (Darabi et al., 2018)

    Args:
        backward: Name of the surrogate derivative: "clipped", "approx", "reste" or "swish".

    Raises:
        ValueError: If no derivative has this name.

    Example:
        >>> x = torch.tensor([-3.0, -0.25, 0.0, 0.5], requires_grad=True)
        >>> BinaryActivation("approx")(x).detach()
        tensor([-1., -1.,  1.,  1.])
        >>> BinaryActivation("approx")(x).sum().backward()
        >>> x.grad
        tensor([0.0000, 1.5000, 2.0000, 1.0000])
    """

    def __init__(self, backward: str = "approx") -> None:
        super().__init__()
        self.window = chosen("backward", backward, _WINDOWS)
        self.backward = backward
        if backward == "reste":
            # A buffer is saved with the network, and changing it requires no recompilation.
            self.register_buffer("order", torch.tensor(1.0))

    @property
    def o(self) -> float:
        """ReSTE's o ≥ 1, which training increases from 1 (the identity) to 3 (closer to the sign).

        Raises:
            AttributeError: If `backward` is not "reste".
            ValueError: If the number is below 1.
        """
        return float(self.get_buffer("order"))

    @o.setter
    def o(self, value: float) -> None:
        if not value >= 1:
            raise ValueError(f"o must be at least 1, got {value!r}")
        self.get_buffer("order").fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs, with the shape and dtype of `x`."""
        signs = (x >= 0).to(x.dtype) * 2 - 1
        # The window includes its ends. The derivative of a clamp at its end depends on torch's version, so the clamp
        # ends one floating-point number later.
        end = self.window * (1 + torch.finfo(x.dtype).eps)
        inside = x.clamp(-end, end)
        # This is no autograd.Function, because compile, vmap, jvp and export support these operations. The usual
        # s(x) + (sign(x) − s(x)).detach() rounds twice. Here the term added to the sign is slope · (a − a) = 0
        # exactly, in every dtype (clamping keeps infinity out of it), and its derivative is the slope.
        slope = self._slope(inside.detach())
        zero = inside - inside.detach()
        # Autocast may have computed the slope in float32.
        return signs + (zero if slope is None else slope.to(x.dtype) * zero)

    def _slope(self, x: Tensor) -> Tensor | None:
        """Return the derivative inside the window; None stands for 1."""
        if self.backward == "clipped":
            return None
        if self.backward == "approx":
            return 2 - 2 * x.abs()
        if self.backward == "reste":
            o = self.get_buffer("order").to(torch.promote_types(x.dtype, torch.float32))
            return x.abs().clamp(min=_RESTE_FLOOR).pow((1 - o) / o) / o
        scaled = _SWISH_BETA * x
        return _SWISH_BETA * (2 - scaled * (scaled / 2).tanh()) / (1 + scaled.cosh())

    def extra_repr(self) -> str:
        """Return the arguments that `print` shows."""
        return repr(self.backward)


def _along_channels(vector: Tensor, x: Tensor) -> Tensor:
    """Reshape (C,) to broadcast over `x`, and cast it so that autocast's bfloat16 does not become float32."""
    if x.dim() < 2 or x.shape[1] != vector.shape[0]:
        # Without this check, a single channel would broadcast silently.
        raise ValueError(f"expected {vector.shape[0]} channels in dimension 1, got shape {tuple(x.shape)}")
    return vector.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


class Shift(nn.Module):
    """Learned shift per channel, initially 0.

    Followed by a `BinaryActivation`, it forms ReActNet's RSign (Liu et al., ECCV 2020), which learns a threshold per
    channel.

    Args:
        channels: Number of channels of the input, C.

    Example:
        >>> rsign = torch.nn.Sequential(Shift(2), BinaryActivation())
        >>> rsign(torch.tensor([[0.5, -0.5]])).detach()
        tensor([[ 1., -1.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shift `x`, shape (N, C, ...).

        Raises:
            ValueError: If `x` has another number of channels.
        """
        return x + _along_channels(self.shift, x)


class RPReLU(nn.Module):
    """ReActNet's RPReLU (Liu et al., ECCV 2020): a shift, PReLU with one slope per channel, and a shift.

    Args:
        channels: Number of channels of the input, C.

    Example:
        >>> RPReLU(2)(torch.tensor([[4.0, -4.0]])).detach()
        tensor([[ 4., -1.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.prelu, self.after = Shift(channels), nn.PReLU(channels), Shift(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Activate `x`, shape (N, C, ...)."""
        return self.after(self.prelu(self.before(x)))


def new_dropout(probability: float) -> list[nn.Module]:
    """Return a new dropout layer in a list, or an empty list if nothing is dropped.

    Raises:
        ValueError: If the probability is not in [0, 1].

    Example:
        >>> new_dropout(0.5), new_dropout(0.0)
        ([Dropout(p=0.5, inplace=False)], [])
    """
    if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise ValueError(f"a dropout probability must be in [0, 1], got {probability!r}")
    return [nn.Dropout(probability)] if probability else []


class ChannelScale(nn.Module):
    """Learned factor per channel, initially between 0 and 1.

    VISPA and ReCU (Xu et al., ICCV 2021) use it after each layer of binary weights.

    Args:
        channels: Number of channels of the input, C.

    Example:
        >>> scale = ChannelScale(2)
        >>> _ = scale.load_state_dict({"scale": torch.tensor([1.0, 0.5])})
        >>> scale(torch.tensor([[4.0, 4.0]])).detach()
        tensor([[4., 2.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x`, shape (N, C, ...).

        Raises:
            ValueError: If `x` has another number of channels.
        """
        return x * _along_channels(self.scale, x)


class PadChannels(nn.Module):
    """Zero channels around those of the input, half of them before and half after, for skip connections that widen.

    Args:
        more: Number of channels to add, an even number.

    Raises:
        ValueError: If the number is negative or odd.

    Example:
        >>> PadChannels(2)(torch.ones(1, 1, 1, 1)).flatten()
        tensor([0., 1., 0.])
    """

    def __init__(self, more: int) -> None:
        super().__init__()
        if more < 0 or more % 2:
            raise ValueError(f"the number of further channels must be even and not negative, got {more}")
        self.side = more // 2

    def forward(self, x: Tensor) -> Tensor:
        """Widen `x`, shape (N, C, ...), to (N, C + more, ...).

        Raises:
            ValueError: If `x` has no channels.
        """
        if x.dim() < 2:
            raise ValueError(f"expected inputs of shape (N, C, ...), got {tuple(x.shape)}")
        return F.pad(x, (0, 0) * (x.dim() - 2) + (self.side, self.side))

    def extra_repr(self) -> str:
        """Return the arguments that `print` shows."""
        return str(2 * self.side)


class LogitScale(nn.Module):
    """Learned positive factor of all logits; a real parameter.

    A last BatchNorm without affine parameters gives each logit unit variance, which caps the confidence of a 10-class
    network near 0.757. This scale removes the cap.

    Args:
        initial: Initial scale, a positive number.

    Raises:
        ValueError: If `initial` is not positive and finite.

    Example:
        >>> LogitScale(3.0)(torch.tensor([[1.0, -1.0]])).detach()
        tensor([[ 3., -3.]])
    """

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        if not 0 < initial < math.inf:
            raise ValueError(f"the initial scale must be positive and finite, got {initial!r}")
        # The parameter is the logarithm, so that the scale stays positive. It has one dimension, because `fully_shard`
        # refuses parameters without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([float(initial)]).log())

    def forward(self, logits: Tensor) -> Tensor:
        """Scale logits of any shape."""
        return logits * self.log_scale.exp().squeeze()  # a 0-d tensor does not widen bfloat16 logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        """Also accept a 0-d log_scale, as earlier versions saved it."""
        name = f"{prefix}log_scale"
        if name in state_dict and state_dict[name].dim() == 0:
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)


def keep_real(module: M) -> M:
    """Mark a module so that `bitbayes.split_parameters` keeps all of its parameters real, and return the module.

    The first and last layers of binary networks often stay real. The mark is the module's attribute `stays_real`, which
    copies and pickles preserve. It does not change the computation.

    Args:
        module: A layer or any other part of a network.

    Example:
        >>> model = torch.nn.Sequential(keep_real(torch.nn.Linear(4, 3)), torch.nn.Linear(3, 2, bias=False))
        >>> binary, real = bb.split_parameters(model)
        >>> [name for name, _ in binary], [name for name, _ in real]
        (['1.weight'], ['0.weight', '0.bias'])
    """
    module.__dict__["stays_real"] = True
    return module


class ImageInput(nn.Module):
    """Check of the shape of images, which also unflattens flat images.

    As the first layer of a network, it raises a clear error for a wrong shape in place of a matrix product's error.

    Args:
        channels: Number of channels of an image.
        size: Height and width that images must have; None accepts any size. With a size, flat images of shape (N,
            channels · size · size) are also accepted.
        multiple: Number that must divide height and width, so that each halving is exact.

    Example:
        >>> ImageInput(1, 28)(torch.zeros(5, 784)).shape
        torch.Size([5, 1, 28, 28])
        >>> ImageInput(3, 32)(torch.zeros(5, 1, 28, 28))
        Traceback (most recent call last):
        ...
        ValueError: expected images of shape (N, 3, 32, 32) or (N, 3072), got (5, 1, 28, 28)
    """

    def __init__(self, channels: int, size: int | None = None, *, multiple: int = 1) -> None:
        super().__init__()
        self.channels, self.size, self.multiple = channels, size, multiple

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, shape (N, channels, H, W).

        Raises:
            ValueError: If the images have another shape, or are not floating-point numbers.
        """
        if not images.is_floating_point():
            raise ValueError(f"expected floating-point images, got {images.dtype}; scale and normalise them first")
        if self.size is not None and images.dim() == 2 and images.shape[1] == self.channels * self.size**2:
            return images.unflatten(1, (self.channels, self.size, self.size))
        # The batch size is not compared, because it may be symbolic in an exported program.
        fits = images.dim() == 4 and images.shape[1] == self.channels
        if fits and self.size is not None:
            fits = images.shape[2] == self.size and images.shape[3] == self.size
        if fits and self.multiple > 1:
            fits = images.shape[2] % self.multiple == 0 and images.shape[3] % self.multiple == 0
        if not fits:
            raise ValueError(f"expected images of shape {self._expected()}, got {tuple(images.shape)}")
        return images

    def _expected(self) -> str:
        if self.size is not None:
            flat = self.channels * self.size**2
            return f"(N, {self.channels}, {self.size}, {self.size}) or (N, {flat})"
        several = f" with H and W multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"(N, {self.channels}, H, W){several}"

    def extra_repr(self) -> str:
        """Return the arguments that `print` shows."""
        return f"{self.channels}, size={self.size}, multiple={self.multiple}"
