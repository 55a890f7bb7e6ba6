"""A network and its data for bitbayes. Change what you like; `bitbayes train` this file runs it.

bitbayes train FILE                          the 8x8 digits that come with scikit-learn
bitbayes train FILE --data FOLDER            pictures, PNG or JPEG, in one folder for each class
bitbayes train FILE --data hub:OWNER/NAME    a data set of pictures on the Hugging Face hub
bitbayes train FILE --rule ste               another rule: full-precision, ste, bop, vispa, ...
"""

import torch
from torch import nn

from bitbayes.lab.data import DataBundle, load_digits, load_pictures
from bitbayes.lab.recipes import Recipe

# Height and width to resize pictures to. None takes them as they are, if all have the same size.
SIZE = None


def load(where: str | None, device: torch.device, seed: int) -> DataBundle:
    """Return training, validation and test data; `where` is the value of --data, or None.

    `from_arrays(x, y)` of bitbayes.lab.data makes the same from arrays of NumPy or tensors.
    """
    if where is None:
        return load_digits(device=device, seed=seed, flat=False)
    # For photographs, augment=CropFlip() of bitbayes.lab.data shifts and mirrors the training pictures.
    return load_pictures(where, device, seed, size=SIZE)


def network(data: DataBundle) -> nn.Module:
    """Return the network: plain torch.nn. The weights of its convolutions and linear layers will be binary."""
    channels = data.train.x.shape[1]  # inputs have shape (N, channels, height, width)
    return nn.Sequential(
        *block(channels, 32),
        *block(32, 64, stride=2),
        *block(64, 64, stride=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 64, data.classes),
        nn.BatchNorm1d(data.classes),
    )


def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution, the normalisation that binary weights need after it, and an activation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


# The name `recipe` is what `bitbayes train FILE` looks for; `bitbayes train FILE:other` takes another one.
recipe = Recipe(
    title="a small convolutional network",
    load=load,
    network=network,
    epochs=20,
    batch_size=50,
    # Settings of the rules; those that are left out are good ones to begin with, and `bitbayes tune FILE` finds
    # better ones. For example:
    # rules={**STARTING_RULES, "ste": RuleSpec(lr=3e-3)},
)
