"""Layers that networks of binary weights need beside torch's own: activations, factors and shifts, real layers, images.

Channels are dimension 1 everywhere, as in torch: shapes (N, C), (N, C, L), (N, C, H, W) and so on.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bitbayes.errors import chosen

M = TypeVar("M", bound=nn.Module)

# Beyond this |x| the derivative is zero. SwishSign's is 5e-214 there already.
_WINDOWS = {"clipped": 1.0, "approx": 1.0, "reste": 1.5, "swish": 100.0}
_RESTE_FLOOR = 0.1
_SWISH_BETA = 5.0


class BinaryActivation(nn.Module):
    """The sign of the input, with a surrogate derivative. The sign of 0 is +1, and NaN stays NaN.

    The derivative of sign is zero almost everywhere, so the backward pass uses that of a smoother function:

        clipped   1 for |x| ≤ 1                                        BinaryNet (Courbariaux et al., 2016)
        approx    max(0, 2 − 2|x|)                                     Bi-Real Net (Liu et al., ECCV 2018)
        reste     |x|^((1−o)/o) / o for |x| ≤ 1.5,                     ReSTE (Wu et al., ICCV 2023)
                  with |x| = 0.1 for all smaller ones
        swish     β (2 − βx tanh(βx/2)) / (1 + cosh(βx)), β = 5        BNN+ (Darabi et al., 2018)

    Args:
        backward: Name of the derivative.

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
            # A buffer is saved with the network, and changing it needs no new compilation.
            self.register_buffer("order", torch.tensor(1.0))

    @property
    def o(self) -> float:
        """ReSTE's o ≥ 1, to which training assigns numbers from 1 (the identity) to 3 (closer to sign).

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
        # The window is closed. The derivative of a clamp at its end depends on torch, so it ends one number later.
        end = self.window * (1 + torch.finfo(x.dtype).eps)
        inside = x.clamp(-end, end)
        # No autograd.Function: compile, vmap, jvp and export know these operations already. The usual
        # s(x) + (sign(x) − s(x)).detach() rounds twice. Here the term added to the sign is slope · (a − a) = 0
        # exactly, in every dtype (clamping keeps infinity out of it), and its derivative is the slope.
        slope = self._slope(inside.detach())
        zero = inside - inside.detach()
        # Autocast may have computed the slope in float32.
        return signs + (zero if slope is None else slope.to(x.dtype) * zero)

    def _slope(self, x: Tensor) -> Tensor | None:
        """The derivative inside the window; None for 1."""
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
    """Reshape (C,) to broadcast over `x`, and cast it, so that autocast's bfloat16 does not become float32."""
    if x.dim() < 2 or x.shape[1] != vector.shape[0]:
        # Without this check, one channel would broadcast silently.
        raise ValueError(f"expected {vector.shape[0]} channels in dimension 1, got shape {tuple(x.shape)}")
    return vector.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


class Shift(nn.Module):
    """One learned number for each channel, added to it; all are 0 at the start.

    Before a `BinaryActivation` it makes ReActNet's RSign (Liu et al., ECCV 2020), which learns a threshold for each
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
    """ReActNet's RPReLU (Liu et al., ECCV 2020): shift, PReLU with a slope for each channel, shift.

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


class ChannelScale(nn.Module):
    """One learned factor for each channel, between 0 and 1 at the start.

    VISPA and ReCU (Xu et al., ICCV 2021) have it after each layer of binary weights.

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


class LogitScale(nn.Module):
    """One learned positive factor of all logits, a real parameter.

    A last BatchNorm without affine parameters gives each logit unit variance, which caps the confidence of a 10-class
    network near 0.757. This scale removes the cap.

    Args:
        initial: Scale at the start, a positive number.

    Raises:
        ValueError: If `initial` is not positive.

    Example:
        >>> LogitScale(3.0)(torch.tensor([[1.0, -1.0]])).detach()
        tensor([[ 3., -3.]])
    """

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"the initial scale must be positive, got {initial!r}")
        # The parameter is the logarithm, so that the scale stays positive. It has one dimension, because `fully_shard`
        # refuses parameters without.
        self.log_scale = nn.Parameter(torch.tensor([float(initial)]).log())

    def forward(self, logits: Tensor) -> Tensor:
        """Scale logits of any shape."""
        return logits * self.log_scale.exp().squeeze()  # without dimensions it does not widen bfloat16 logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **keywords: Any) -> None:
        """Take log_scale without dimensions too, as networks had it before."""
        name = f"{prefix}log_scale"
        if name in state_dict and state_dict[name].dim() == 0:
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)


def keep_real(module: M) -> M:
    """Mark a module so that `bitbayes.split_parameters` leaves all its parameters real, and return it.

    First and last layers of binary networks often stay real. The mark is the attribute `stays_real` of the module,
    which copies and pickles keep. It changes no computation.

    Args:
        module: Layer, or a whole part of a network.

    Example:
        >>> model = torch.nn.Sequential(keep_real(torch.nn.Linear(4, 3)), torch.nn.Linear(3, 2, bias=False))
        >>> binary, real = bb.split_parameters(model)
        >>> [name for name, _ in binary], [name for name, _ in real]
        (['1.weight'], ['0.weight', '0.bias'])
    """
    module.__dict__["stays_real"] = True
    return module


class ImageInput(nn.Module):
    """A check of the shape of images, which also unflattens flat images.

    As the first layer of a network, it raises one clear error for a wrong shape, instead of a matrix product's.

    Args:
        channels: Number of channels of an image.
        size: Height and width that images must have; None for any. With a size, flat images of shape
            (N, channels · size · size) are accepted too.
        multiple: Number of which height and width must be multiples, so that each halving is exact.

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
        # The size of the batch is not compared, because it may be symbolic in an exported program.
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
