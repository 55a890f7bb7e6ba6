"""The definition of a learning rule: pure functions on tensors, which `BinaryOptimizer` runs over the parameters.

Tensors are flat float32 pieces of one parameter, cut at any place, so functions must be elementwise. An entry of a
belief may have shape (rows, values), for rules that keep several values per weight. Functions must not change tensors
in place. Inside a compiled update, the numbers among the options are 0-d tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, Literal, TypedDict, TypeVar

from torch import Tensor

from bitbayes.functional import AdamOptions
from bitbayes.kernels.run import Call
from bitbayes.noise import Noise

Belief = dict[str, Tensor]
Values = dict[str, Any]  # options by name
Count = int | Tensor  # updates so far; int64 on the device if steps are capturable: 0-d, or an entry for each tensor
Number = float | Tensor
Compile = bool | Literal["kernels"]  # fast implementations that may run: none, the C kernels, or also torch.compile


class Common(TypedDict, total=False):
    """Options that all rules share; `BinaryOptimizer` documents them."""

    samples: int
    scale: str
    scale_lr: float
    init: str | None
    seed: int | None
    compile: Compile | None
    capturable: bool


_UNREAD = {"params", "param_names", "rule", "training", *Common.__annotations__}  # what no function of a rule reads
# Where `adam_options` has read `betas`, nothing else does. A schedule that changes them at every step would compile the
# rule anew each time.
_UNREAD_WITH_ADAM = _UNREAD | {"betas"}


class Options:
    """Options that the functions of a rule read: those of the parameter group and those that `schedule` derives.

    Subclasses annotate the options of their rule, so that editors know them. `bound`, `fan_in` and `layers` exist
    only in `begin`. This class is not a `types.SimpleNamespace`, because torch.compile cannot make one inside a graph.

    Args:
        values: Options by name.

    Example:
        >>> Options(lr=0.1).lr
        0.1
    """

    lr: Number
    step: Number  # number of this update, from 1; 0 before the first; float64 if it is a tensor
    bound: float  # √(1.5 / (fan_in + fan_out)), BinaryConnect's Glorot bound for uniform latent weights
    fan_in: int
    layers: int  # layers whose weights the tensor holds, which is the number of stacked experts

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def of(cls, group: Values, scheduled: Values) -> Any:
        """Return the options of a group, with those that change from step to step."""
        unread = _UNREAD_WITH_ADAM if "beta1" in scheduled else _UNREAD
        return cls(**{name: value for name, value in group.items() if name not in unread} | scheduled)


class AdamStep(Options, AdamOptions):
    """Options of rules whose inner optimizer is Adam; see `bitbayes.functional.adam_options`."""


O = TypeVar("O", bound=Options)  # noqa: E741 - the options are `o` in every equation


class Rule(ABC, Generic[O]):
    """Interface of a rule; every rule's file defines these functions in this order."""

    has_posterior: ClassVar[bool] = False
    start: ClassVar[str] = "uniform"  # initial values with init="random": "uniform" on (-1, 1), or "signs"

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range, also when a group is added later."""

    @staticmethod
    def chosen(group: Values, transformer: bool) -> Values:
        """Return values for the options of a new group that leave the choice to the rule.

        `transformer` is whether one of the weights of the group belongs to a transformer; see
        `bitbayes.split_parameters`.
        """
        return {}

    @staticmethod
    def unread(group: Values) -> dict[str, str]:
        """Return the options that have no effect given the others of a group, each with the condition for an effect.

        The condition completes a sentence that ends in "only if". A caller that knows which options a user has set,
        such as the command line, raises an error for unread ones.
        """
        return {}

    @staticmethod
    def is_point(group: Values) -> bool:
        """Return whether the posterior with these options is a point, so that every sample is the mode."""
        return False

    @staticmethod
    def hard(group: Values) -> bool:
        """Return whether every draw is exactly ±1, which any floating-point type represents."""
        return False

    @staticmethod
    def ignores_draw(group: Values) -> bool:
        """Return False if `estimate` needs each gradient together with its own draw.

        The default `estimate` does not. A rule whose own `estimate` is the same at every draw of a step returns True.
        """
        return False

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return options that derive from the group's options and the step, such as an annealed temperature.

        An update at step t follows a draw that was made at step t − 1. With `capturable`, the step is a tensor, 0-d or
        with an entry for each of several parameters, and so are options that derive from it. Its values must not be
        read on the host: no `if` and no `min` of values that depend on it.
        """
        return {}

    @staticmethod
    @abstractmethod
    def begin(start: Tensor, noise: Noise, o: O) -> Belief:
        """Return the initial belief, from values of typical size 1.

        Unlike the other functions, this one sees the whole tensor at once and may draw more random values from `noise`.
        """

    @staticmethod
    def relaxed(belief: Belief, keep: float, o: O) -> Belief:
        """Return the entries of a belief that change if it keeps only a share of its certainty, in (0, 1].

        By default, nothing changes, and `BinaryOptimizer.relax` says that the rule cannot be relaxed.
        """
        return {}

    @staticmethod
    @abstractmethod
    def draw(belief: Belief, noise: Noise, o: O) -> Tensor:
        """Return the weights of one training step."""

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: O) -> Tensor:
        """Return the estimate from one draw that was made with `noise`; several draws average their estimates.

        By default, the estimate is the gradient itself.
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
        """Return λ of the mean-field posterior, for rules with `has_posterior`."""
        raise NotImplementedError  # unreachable: `BinaryOptimizer` requires it of rules with a posterior

    @classmethod
    def needs_draw(cls, group: Values) -> bool:
        """Return whether `estimate` needs each gradient together with its own draw.

        What a class says in `ignores_draw` holds for its own `estimate` and those of its bases. A subclass that
        overrides `estimate` does not inherit it, because it may have changed the equations.
        """
        defined = {
            name: next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("estimate", "ignores_draw")
        }
        if defined["estimate"] is Rule:
            return False
        order = cls.__mro__.index
        return order(defined["ignores_draw"]) > order(defined["estimate"]) or not cls.ignores_draw(group)

    # Compiled kernels of `bitbayes.kernels` that do the same faster. These functions return None if no kernel covers
    # the options; the functions above then run. A subclass does not inherit them, because it may have changed the
    # equations.

    @staticmethod
    def update_kernel(belief: Belief, o: O, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
        """Return the kernel that estimates (unless `estimated`), updates the belief and draws the next weights."""

    @staticmethod
    def draw_kernel(belief: Belief, o: O, noise: Noise) -> Call | None:
        """Return the kernel that draws."""
