"""bitbayes: train, trust and ship binary neural networks.

The network holds weights; the optimizer holds beliefs.
"""

from bitbayes import nn
from bitbayes.parameters import follow, split_parameters, summary
from bitbayes.posterior import BernoulliPosterior, LowRankGaussianPosterior, Posterior, load_posterior
from bitbayes.predict import Prediction, predict, refresh_batchnorm
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
    "follow",
    "load_posterior",
    "nn",
    "predict",
    "refresh_batchnorm",
    "split_parameters",
    "summary",
]
