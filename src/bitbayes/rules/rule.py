"""What defines a learning rule: pure functions on tensors, which `BinaryOptimizer` runs over the parameters.

Tensors are flat float32 pieces of one parameter, cut anywhere, so a function may only work elementwise. An entry of a
belief may have rows, shape (rows, values), for rules that keep several values a weight. Nothing may be changed in
place. Inside a compiled update the numbers of the options are 0-d tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from bitbayes.functional import AdamOptions
from bitbayes.kernels.run import Call
from bitbayes.noise import Noise

Belief = dict[str, Tensor]
Values = dict[str, Any]  # options by name
Count = int | Tensor  # updates so far: a 0-d int64 tensor on the device where steps are capturable
Number = float | Tensor


class Options:
    """Options that the functions of a rule read: those of the parameter group, and those that `schedule` derives.

    Subclasses annotate the options of their rule, so that an editor knows them. `bound` and `fan_in` are there for
    `begin` alone. Not a `types.SimpleNamespace`, because torch.compile cannot make one inside a graph.

    Args:
        values: Options by name.

    Example:
        >>> Options(lr=0.1).lr
        0.1
    """

    lr: Number
    step: Number  # of this update, from 1; 0 before the first; in double precision if it is a tensor
    bound: float  # Glorot's √(1.5 / (fan_in + fan_out)), BinaryConnect's for uniform latent weights
    fan_in: int

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


class AdamStep(Options, AdamOptions):
    """The same for rules whose inner optimizer is Adam; see `bitbayes.functional.adam_options`."""


O = TypeVar("O", bound=Options)  # noqa: E741 - the options are `o` in every equation


class Rule(ABC, Generic[O]):
    """The parts of a rule, in the order in which every rule's file has them."""

    has_posterior: ClassVar[bool] = False
    start: ClassVar[str] = "uniform"  # how init="random" begins: "uniform" on (-1, 1), or "signs"

    @staticmethod
    def check(group: Values) -> None:
        """Refuse options out of range, also when a group is added later."""

    @staticmethod
    def unread(group: Values) -> dict[str, str]:
        """Return the options that have no effect beside the others of a group, each with the condition for an effect.

        The condition continues a sentence that ends in "only if". A caller that knows which options a user has chosen,
        such as the command line, refuses these.
        """
        return {}

    @staticmethod
    def is_point(group: Values) -> bool:
        """Return whether the posterior of these options is a point, so that every sample of it is the mode."""
        return False

    @staticmethod
    def hard(group: Values) -> bool:
        """Return whether every draw is exactly ±1, which any floating-point type holds."""
        return False

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return options derived from the group's and the step, such as an annealed temperature.

        An update at step t follows a draw that was made at step t − 1. With `capturable` the step is a 0-d tensor,
        which must not be read: no `if` and no `min` of what comes from it.
        """
        return {}

    @staticmethod
    @abstractmethod
    def begin(start: Tensor, noise: Noise, o: O) -> Belief:
        """Return the first belief, from values of typical size 1.

        Unlike the other functions it sees the whole tensor at once, and may ask `noise` for more random values.
        """

    @staticmethod
    @abstractmethod
    def draw(belief: Belief, noise: Noise, o: O) -> Tensor:
        """Return the weights of one training step."""

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: O) -> Tensor:
        """Return what one draw, made with `noise`, says about the belief; several draws average this.

        The gradient itself by default.
        """
        return gradient

    @staticmethod
    @abstractmethod
    def update(belief: Belief, estimate: Tensor, o: O) -> Belief:
        """Return the entries of the belief that change."""

    @staticmethod
    @abstractmethod
    def mode(belief: Belief, o: O) -> Tensor:
        """Return the most likely weights, exactly ±1."""

    @staticmethod
    def natural(belief: Belief, o: O) -> Tensor:
        """Return λ of the mean-field posterior; for rules with `has_posterior`."""
        raise NotImplementedError  # out of reach: `BinaryOptimizer` refuses a rule that has a posterior without it

    # The compiled kernels of `bitbayes.kernels` that do the same faster. They return None where they do not cover the
    # options; the functions above then run. A subclass does not inherit them: it may have changed the equations.

    @staticmethod
    def update_kernel(belief: Belief, o: O, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
        """Return the kernel that estimates (unless `estimated`), updates the belief, and draws the next weights."""

    @staticmethod
    def draw_kernel(belief: Belief, o: O, noise: Noise) -> Call | None:
        """Return the kernel that draws."""
