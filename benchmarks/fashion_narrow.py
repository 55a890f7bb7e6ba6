"""Recipe: Fashion-MNIST with the network and the settings of `mnist-narrow`, whose runs take a minute.

bitbayes train benchmarks/fashion_narrow.py --rule ste --data FOLDER
"""

from __future__ import annotations

import dataclasses

from bitbayes.lab.data import load_fashion_mnist
from bitbayes.lab.recipes import find_recipe

recipe = dataclasses.replace(
    find_recipe("mnist-narrow"),
    name="fashion-narrow",
    title="Fashion-MNIST, MLP 784-100-100-10 with a learnable logit scale, sixteen epochs",
    load=load_fashion_mnist,
)
