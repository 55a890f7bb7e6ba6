"""Pretrained networks that come with the package: packed, with their model cards. Needs torch for posteriors alone."""

from bitbayes.zoo.entries import card, folder, load, names, network, posterior

__all__ = ["card", "folder", "load", "names", "network", "posterior"]
