"""The update of one tensor in a rule's own words, operation by operation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitbayes.noise import Noise
from bitbayes.rules.rule import Belief, Options, Rule


class Update(NamedTuple):
    """What an update needs of a tensor, or of a piece of it.

    Attributes:
        rule: The learning rule.
        belief: Flat float32 tensors, or rows of them; changed in place.
        gradient: Flat gradient at the weights, or an estimate already averaged over draws.
        weights: Flat weights of the current draw; overwritten with the next.
        o: Options of the rule.
        drawn: Noise of the current draw.
        noise: Noise of the next.
        estimated: Whether `gradient` is already an estimate.
        accept: 0-d bool on the device; False leaves the belief as it is.
    """

    rule: type[Rule]
    belief: Belief
    gradient: Tensor
    weights: Tensor
    o: Options
    drawn: Noise
    noise: Noise
    estimated: bool
    accept: Tensor | None

    def part(self, span: slice) -> Update:
        """The update of a piece of the tensor."""
        return self._replace(
            belief=part(self.belief, span),
            gradient=self.gradient[..., span],
            weights=self.weights[span],
            drawn=self.drawn.part(span),
            noise=self.noise.part(span),
        )

    def do(self) -> None:
        """Changes the belief and writes the next draw."""
        rule, belief, gradient, weights, o, drawn, noise, estimated, accept = self
        estimate = gradient if estimated else estimate_of(rule, belief, gradient, weights, drawn, o)
        for name, value in rule.update(belief, estimate, o).items():
            old = belief[name]
            old.copy_(value if accept is None else torch.where(accept, value, old))
        weights.copy_(rule.draw(belief, noise, o))


def part(belief: Belief, span: slice) -> Belief:
    """A piece of a belief."""
    return {name: tensor[..., span] for name, tensor in belief.items()}


def estimate_of(
    rule: type[Rule], belief: Belief, gradient: Tensor, weights: Tensor, drawn: Noise, o: Options
) -> Tensor:
    """What a draw says of the belief, in float32 whatever the weights are kept in."""
    return rule.estimate(belief, gradient.float(), weights.float(), drawn, o)
