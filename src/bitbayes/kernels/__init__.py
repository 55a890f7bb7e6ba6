"""Compiled loops for the CPU: the update of a belief and the next draw in one pass over memory.

Nothing depends on them. The pure functions of the rules define what is computed; a kernel does the same faster where
the machine has a C compiler (`kernels.status()` says so, or why not), and a rule asks for it with `compile=True`.
"""

from bitbayes.kernels.build import status

__all__ = ["status"]
