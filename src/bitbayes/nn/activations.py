"""Activations of networks whose activations are binary too, and the real factors and shifts around them.

Channels are dimension 1 everywhere, as in torch: shapes (N, C), (N, C, L), (N, C, H, W) and so on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitbayes.errors import chosen

__all__ = ["BinaryActivation", "ChannelScale", "RPReLU", "Shift", "SpatialScale"]

# Beyond this |x| the derivative is zero. SwishSign's is 5e-214 there already.
_WINDOWS = {"clipped": 1.0, "approx": 1.0, "reste": 1.5, "swish": 100.0}
_RESTE_FLOOR = 0.1
_SWISH_BETA = 5.0


class BinaryActivation(nn.Module):
    """The sign of its input, with a derivative to train by. The sign of 0 is +1; NaN stays NaN.

    The derivative of sign is zero almost everywhere; in its place stands that of a smoother function:

        clipped   1 for |x| ≤ 1                                        BinaryNet (Courbariaux et al., 2016)
        approx    max(0, 2 − 2|x|)                                     Bi-Real Net (Liu et al., ECCV 2018)
        reste     |x|^((1−o)/o) / o for |x| ≤ 1.5,                     ReSTE (Wu et al., ICCV 2023)
                  with |x| = 0.1 for all smaller ones
        swish     β (2 − βx tanh(βx/2)) / (1 + cosh(βx)), β = 5        BNN+ (Darabi et al., 2018)

    Args:
        backward: One of these names.

    Raises:
        ValueError: For another name.

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
            # A buffer, so that it is saved, and so that changing it compiles nothing anew.
            self.register_buffer("order", torch.tensor(1.0))

    @property
    def o(self) -> float:
        """ReSTE's o ≥ 1, which training raises from 1 (the identity) to 3 (closer to sign); assign a number to it.

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
        """Signs, with the shape and dtype of `x`."""
        signs = (x >= 0).to(x.dtype) * 2 - 1
        # The window is closed, and what derivative a clamp has at its end depends on torch: it ends one number later.
        end = self.window * (1 + torch.finfo(x.dtype).eps)
        inside = x.clamp(-end, end)
        # No autograd.Function: compile, vmap, jvp and export know these operations already. The usual
        # s(x) + (sign(x) − s(x)).detach() rounds twice; here what is added to the sign is slope · (a − a) = 0
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
        """What `print` shows."""
        return repr(self.backward)


def _along_channels(vector: Tensor, x: Tensor) -> Tensor:
    """Reshapes (C,) to broadcast over `x`, and casts it, so that autocast's bfloat16 does not become float32."""
    if x.dim() < 2 or x.shape[1] != vector.shape[0]:
        # Without this, one channel would broadcast silently.
        raise ValueError(f"expected {vector.shape[0]} channels in dimension 1, got shape {tuple(x.shape)}")
    return vector.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


class Shift(nn.Module):
    """Adds one learned number to every channel, 0 at the start.

    Before a `BinaryActivation` it is ReActNet's RSign (Liu et al., ECCV 2020), which learns the threshold of a channel.

    Args:
        channels: Channels of the input, C.

    Example:
        >>> rsign = torch.nn.Sequential(Shift(2), BinaryActivation())
        >>> rsign(torch.tensor([[0.5, -0.5]])).detach()
        tensor([[ 1., -1.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shifts `x`, shape (N, C, ...).

        Raises:
            ValueError: If it has another number of channels.
        """
        return x + _along_channels(self.shift, x)


class RPReLU(nn.Module):
    """ReActNet's RPReLU (Liu et al., ECCV 2020): shift, PReLU with a slope for every channel, shift.

    Args:
        channels: Channels of the input, C.

    Example:
        >>> RPReLU(2)(torch.tensor([[4.0, -4.0]])).detach()
        tensor([[ 4., -1.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.prelu, self.after = Shift(channels), nn.PReLU(channels), Shift(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Activates `x`, shape (N, C, ...)."""
        return self.after(self.prelu(self.before(x)))


class ChannelScale(nn.Module):
    """Multiplies every channel by a learned factor, between 0 and 1 at the start.

    After a layer of binary weights it is the factor of each output channel of VISPA and ReCU (Xu et al., ICCV 2021).

    Args:
        channels: Channels of the input, C.

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
        """Scales `x`, shape (N, C, ...).

        Raises:
            ValueError: If it has another number of channels.
        """
        return x * _along_channels(self.scale, x)


class SpatialScale(nn.Module):
    """XNOR-Net's map K (Rastegari et al., ECCV 2016): how large the inputs of a convolution are at each place.

    K is the mean of |x| over channels, averaged over the convolution's window with zeros around the image. Multiply
    the output of a convolution of signs by it: `convolution(x.sign()) * scale(x)`. It has no parameters.

    Args:
        kernel_size: Of the convolution.
        stride: Of the convolution.
        padding: Of the convolution.

    Example:
        >>> SpatialScale(3, padding=1)(torch.ones(1, 8, 3, 3))[0, 0]
        tensor([[0.4444, 0.6667, 0.4444],
                [0.6667, 1.0000, 0.6667],
                [0.4444, 0.6667, 0.4444]])
    """

    def __init__(
        self, kernel_size: int | tuple[int, ...], stride: int | tuple[int, ...] = 1, padding: int | tuple[int, ...] = 0
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Returns K, shape (N, 1, ...) with the convolution's output size, for `x` (N, C, ...) of 1 to 3 dimensions.

        Raises:
            ValueError: For an input of another rank.
        """
        if not 3 <= x.dim() <= 5:
            raise ValueError(f"expected the input of a convolution, of rank 3 to 5, got shape {tuple(x.shape)}")
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.dim() - 3]
        return pool(x.abs().mean(1, keepdim=True), self.kernel_size, self.stride, self.padding)
