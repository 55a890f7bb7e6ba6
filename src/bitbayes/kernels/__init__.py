"""Compiled loops for CPUs that update a belief and draw the next weights in one pass over memory.

The kernels are optional. The pure functions of the rules define what is computed, and a kernel computes the same
faster. A rule requests kernels with `compile=True`. `kernels.status()` says whether kernels are available and, if not,
why.
"""

from bitbayes.kernels.build import status

__all__ = ["status"]
