"""Train, trust and ship binary neural networks in PyTorch.

Learning rules such as `BayesBiNN` and `STE` are optimizers of torch. The network's parameters hold weights of ±1, and
the optimizer holds a belief about every weight. During training, the weights are draws from the belief; `eval` writes
the most likely weights. A posterior samples networks for predictions with uncertainty, and `pack` writes a network to a
file with one bit per binary weight.

Example:
    >>> model = torch.nn.Linear(4, 3)
    >>> binary, real = bb.split_parameters(model)
    >>> optimizer = bb.BayesBiNN.recommended(binary, steps=100, examples=8, seed=0)
    >>> x, y = torch.randn(8, 4), torch.arange(8) % 3
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> optimizer.step()
    >>> prediction = bb.predict(model, x, optimizer.posterior(), samples=10)
    >>> tuple(prediction.probs.shape)
    (8, 3)
    >>> packed = bb.pack(model.eval(), x, optimizer.eval().posterior(), samples=10)
    >>> packed.program.samples
    10
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bitbayes import conformal, hub, packed, zoo
from bitbayes.packed import pack
from bitbayes.prediction import Prediction

if find_spec("torch") is not None:
    from bitbayes import kernels, nn
    from bitbayes.batchnorm import refresh_batchnorm
    from bitbayes.ensemble import Ensemble
    from bitbayes.gibbs import Chains, Gibbs
    from bitbayes.parameters import follow, split_parameters, summary
    from bitbayes.posterior import (
        BernoulliPosterior,
        LowRankGaussianPosterior,
        Mixture,
        Posterior,
        SamplePosterior,
        load_posterior,
    )
    from bitbayes.predict import predict
    from bitbayes.rules import (
        PMF,
        STE,
        VISPA,
        AdaSTE,
        BayesBiNN,
        BinaryOptimizer,
        Bop,
        Bop2ndOrder,
        JointOptimizer,
        MirrorDescent,
        ProxQuant,
    )

if TYPE_CHECKING:
    from bitbayes import calibration, continual
else:

    def __getattr__(name: str) -> object:
        if name in ("calibration", "continual") and find_spec("torch") is not None:
            return import_module(f"bitbayes.{name}")  # on first use
        if name in __all__:  # packed networks run where torch is not installed
            raise ImportError(
                f"bitbayes.{name} needs torch; install torch, or use bitbayes.packed, which works without it"
            )
        raise AttributeError(f"module 'bitbayes' has no attribute {name!r}")


__version__ = "0.2.0"

__all__ = [
    "PMF",
    "STE",
    "VISPA",
    "AdaSTE",
    "BayesBiNN",
    "BernoulliPosterior",
    "BinaryOptimizer",
    "Bop",
    "Bop2ndOrder",
    "Chains",
    "Ensemble",
    "Gibbs",
    "JointOptimizer",
    "LowRankGaussianPosterior",
    "MirrorDescent",
    "Mixture",
    "Posterior",
    "Prediction",
    "ProxQuant",
    "SamplePosterior",
    "calibration",
    "conformal",
    "continual",
    "follow",
    "hub",
    "kernels",
    "load_posterior",
    "nn",
    "pack",
    "packed",
    "predict",
    "refresh_batchnorm",
    "split_parameters",
    "summary",
    "zoo",
]
