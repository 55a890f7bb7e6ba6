"""Compiled loops for CPUs that update a belief and draw the next weights in one pass over memory.

The kernels are optional. The pure functions of the rules define what is computed, and a kernel computes the same
faster. A wheel contains compiled kernels, and a source tree compiles them where the machine has a C compiler. By
default, a rule uses them for parameter groups of a middle size (see the option `compile` of
`bitbayes.rules.BinaryOptimizer`). `kernels.status()` says which kernels are in use or, if there are none, why.
"""

from bitbayes.kernels.build import status

__all__ = ["status"]
