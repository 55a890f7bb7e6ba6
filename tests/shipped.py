"""Checks an installed wheel: the kernels in it are in use, nothing was compiled, and they are right.

    python -I tests/shipped.py

Needs the wheel with NumPy and safetensors, and neither torch nor a compiler. Where torch is installed, it also checks
the kernels of the learning rules.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import numpy as np

NAMES = "kernels", "finite", "signs", "inference", "real", "gibbs"


def products() -> None:
    """Compare the products of packed networks with NumPy's, on one thread and on two."""
    from bitbayes.packed.backends.native.products import NumberProduct, RealProduct, SignProduct, pack_places
    from bitbayes.packed.format.bits import pack_signs

    rng = np.random.default_rng(0)
    weight = np.where(rng.random((1, 70, 300)) < 0.5, -1, 1)
    signs = np.where(rng.random((1, 97, 300)) < 0.5, -1, 1)
    whole = rng.integers(-99, 100, (1, 97, 300)).astype(np.float32)
    numbers = rng.integers(-9, 10, (1, 70, 300)).astype(np.float32)
    bits = pack_signs(weight)
    for threads in (1, 2):
        assert np.array_equal(SignProduct(bits, 300)(pack_places(signs > 0), threads), signs @ weight.swapaxes(1, 2))
        assert np.array_equal(NumberProduct(bits, 300)(whole, threads), whole @ weight.swapaxes(1, 2))
        assert np.array_equal(RealProduct(numbers, {})(whole, threads), whole @ numbers.swapaxes(1, 2))


def rules() -> None:
    """Compare a step of a learning rule with the same step of the rule's own functions."""
    import torch

    import bitbayes as bb

    torch.set_num_threads(2)
    beliefs = []
    for option in ("kernels", False):
        weights = torch.nn.Parameter(torch.zeros(200_001))
        optimizer = bb.BayesBiNN([weights], lr=0.1, ess=10, seed=0, compile=option)
        weights.grad = torch.linspace(-1, 1, 200_001)
        optimizer.step()
        assert optimizer.implementation == ("kernel" if option else "eager")
        beliefs.append(optimizer.posterior().natural)
    assert all(torch.equal(beliefs[0][name], beliefs[1][name]) for name in beliefs[0])


def main() -> None:
    """Print where each library is from, as JSON; fail if one is not from the wheel."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        from bitbayes.kernels import status

        found = {name: status(name) for name in NAMES}
        print(json.dumps(found))
        assert all(line.startswith("shipped with the wheel, ") for line in found.values()), found
        products()
        if importlib.util.find_spec("torch") is not None:
            rules()
        assert not list(Path(cache).iterdir()), "something was compiled"


if __name__ == "__main__":
    main()
