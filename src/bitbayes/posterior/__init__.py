"""Posteriors over binary weights, independent of the optimizer that trained them."""

from bitbayes.posterior.base import Posterior, load_posterior
from bitbayes.posterior.bernoulli import BernoulliPosterior
from bitbayes.posterior.lowrank import LowRankGaussianPosterior
from bitbayes.posterior.mixture import Mixture
from bitbayes.posterior.samples import SamplePosterior

__all__ = [
    "BernoulliPosterior",
    "LowRankGaussianPosterior",
    "Mixture",
    "Posterior",
    "SamplePosterior",
    "load_posterior",
]
