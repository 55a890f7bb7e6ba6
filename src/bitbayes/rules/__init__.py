"""Learning rules for binary weights. Each file defines one idea in the same parts, and `optimizer` runs them."""

from bitbayes.rules.adaste import AdaSTE
from bitbayes.rules.bayesbinn import BayesBiNN
from bitbayes.rules.bop import Bop, Bop2ndOrder
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer
from bitbayes.rules.pmf import PMF, MirrorDescent
from bitbayes.rules.proxquant import ProxQuant
from bitbayes.rules.ste import STE
from bitbayes.rules.vispa import VISPA

__all__ = [
    "PMF",
    "STE",
    "VISPA",
    "AdaSTE",
    "BayesBiNN",
    "BinaryOptimizer",
    "Bop",
    "Bop2ndOrder",
    "JointOptimizer",
    "MirrorDescent",
    "ProxQuant",
]
