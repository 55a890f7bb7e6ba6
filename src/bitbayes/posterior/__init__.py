"""Posteriors over binary weights, independent of the optimizer that trained them."""

from bitbayes.posterior.base import Posterior, load_posterior
from bitbayes.posterior.bernoulli import BernoulliPosterior
from bitbayes.posterior.lowrank import LowRankGaussianPosterior

__all__ = ["BernoulliPosterior", "LowRankGaussianPosterior", "Posterior", "load_posterior"]
