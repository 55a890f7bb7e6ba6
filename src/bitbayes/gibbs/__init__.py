"""Sampling of the exact posterior of a small dense network with binary weights."""

from bitbayes.gibbs.chains import Chains
from bitbayes.gibbs.sampler import Gibbs

__all__ = ["Chains", "Gibbs"]
