"""Pretrained networks that come with the package: packed, with their model cards. Needs torch for posteriors alone.

Every function that takes the name of a network takes one of `names`, and raises a ValueError for any other.
"""

from bitbayes.zoo.entries import card, folder, load, names, network, posterior

__all__ = ["card", "folder", "load", "names", "network", "posterior"]
