"""bitbayes: train, trust and ship binary neural networks.

The network holds weights; the optimizer holds beliefs.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bitbayes import packed
from bitbayes.packed import pack
from bitbayes.prediction import Prediction

if find_spec("torch") is not None:
    from bitbayes import kernels, nn
    from bitbayes.batchnorm import refresh_batchnorm
    from bitbayes.parameters import follow, split_parameters, summary
    from bitbayes.posterior import BernoulliPosterior, LowRankGaussianPosterior, Posterior, load_posterior
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
            raise ImportError(f"bitbayes.{name} needs torch; without it there is only bitbayes.packed")
        raise AttributeError(f"module 'bitbayes' has no attribute {name!r}")


__version__ = "0.1.0"

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
    "LowRankGaussianPosterior",
    "MirrorDescent",
    "Posterior",
    "Prediction",
    "ProxQuant",
    "calibration",
    "continual",
    "follow",
    "kernels",
    "load_posterior",
    "nn",
    "pack",
    "packed",
    "predict",
    "refresh_batchnorm",
    "split_parameters",
    "summary",
]
