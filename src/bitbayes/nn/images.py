"""The front of an image network: one clear error for a wrong shape instead of a matrix product's."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ImageInput"]


class ImageInput(nn.Module):
    """Checks images, and gives flat ones their shape; computes nothing.

    Put it first, so that a batch of the wrong kind is refused before pooling and flattening turn it into sizes that
    nobody has seen.

    Args:
        channels: Channels of an image.
        size: Height and width, which must be just this; None for any. With a size, flat images
            (N, channels · size · size) are accepted too.
        multiple: Height and width must be multiples of it, so that each halving is exact.

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
        """Returns the images, shape (N, channels, H, W).

        Raises:
            ValueError: If they have another shape, or are not floating-point numbers.
        """
        if not images.is_floating_point():
            raise ValueError(f"expected floating-point images, got {images.dtype}; scale and normalise them first")
        if self.size is not None and images.dim() == 2 and images.shape[1] == self.channels * self.size**2:
            return images.unflatten(1, (self.channels, self.size, self.size))
        # The batch is not looked at: its size may be symbolic in an exported program.
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
        """What `print` shows."""
        return f"{self.channels}, size={self.size}, multiple={self.multiple}"
