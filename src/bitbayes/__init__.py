"""bitbayes: train, trust and ship binary neural networks.

The network holds weights; the optimizer holds beliefs.
"""

from bitbayes import nn
from bitbayes.parameters import follow, split_parameters, summary
from bitbayes.posterior import BernoulliPosterior
from bitbayes.predict import Prediction, predict, refresh_batchnorm
from bitbayes.rules import (
    PMF,
    STE,
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
    "AdaSTE",
    "BayesBiNN",
    "BernoulliPosterior",
    "BinaryOptimizer",
    "Bop",
    "Bop2ndOrder",
    "MirrorDescent",
    "Prediction",
    "ProxQuant",
    "follow",
    "nn",
    "predict",
    "refresh_batchnorm",
    "split_parameters",
    "summary",
]
