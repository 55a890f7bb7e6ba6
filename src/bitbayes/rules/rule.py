"""What defines a learning rule: pure functions on tensors, which `BinaryOptimizer` runs over the parameters.

Tensors are flat float32 pieces of one parameter, cut anywhere, so a function may only work elementwise; an entry of a
belief may have rows, shape (rows, values), for rules that keep several values a weight. `o` holds the
options of the parameter group, what `schedule` makes of them, and the number of the step; inside a compiled update its
numbers are 0-d tensors. Nothing may be changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from bitbayes.noise import Noise
from bitbayes.options import Options
from bitbayes.rules.counter import Step

Belief = dict[str, Tensor]


class Rule:
    """The parts of a rule, in the order in which every rule's file has them."""

    has_posterior: ClassVar[bool] = False
    start: ClassVar[str] = "uniform"  # how init="random" begins: "uniform" on (-1, 1), or "signs"

    @staticmethod
    def check(group: Mapping[str, Any]) -> None:
        """Refuses options out of range, also when a group is added later."""

    @staticmethod
    def hard(group: Mapping[str, Any]) -> bool:
        """Whether every draw is exactly ±1, which any floating-point type holds."""
        return False

    @staticmethod
    def schedule(group: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """Options derived from the group's and the step, such as an annealed temperature.

        `step` counts the updates so far: an update at step t follows a draw that was made at step t − 1. With
        `capturable` it is a 0-d tensor, which must not be read: no `if` and no `min` of what comes from it.
        """
        return {}

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: Options) -> Belief:
        """The first belief, from values of typical size 1; `o.bound` is Glorot's √(1.5 / (fan_in + fan_out)).

        Unlike the other functions it sees the whole tensor at once, and may ask `noise` for more random values.
        """
        raise TypeError("a rule must define begin()")

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: Options) -> Tensor:
        """The weights of one training step."""
        raise TypeError("a rule must define draw()")

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: Options) -> Tensor:
        """What one draw says about the belief: this is what several draws average. The gradient itself by default.

        `noise` is the noise that the draw was made with.
        """
        return gradient

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: Options) -> Belief:
        """The entries of the belief that change."""
        raise TypeError("a rule must define update()")

    @staticmethod
    def mode(belief: Belief, o: Options) -> Tensor:
        """The most likely weights, exactly ±1."""
        raise TypeError("a rule must define mode()")

    @staticmethod
    def natural(belief: Belief, o: Options) -> Tensor:
        """λ of the mean-field posterior; only for rules with `has_posterior`."""
        raise TypeError("a rule with has_posterior must define natural()")
