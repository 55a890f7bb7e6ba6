"""Variational continual learning (Nguyen et al., ICLR 2018) with Bernoulli posteriors."""

from __future__ import annotations

from bitbayes.posterior import BernoulliPosterior
from bitbayes.rules.bayesbinn import BayesBiNN
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer


def advance_prior(optimizer: BinaryOptimizer | JointOptimizer, *, decay: float = 1.0) -> BernoulliPosterior:
    """Use the posterior as the prior of the following steps: λ₀ ← decay · λ (BayesBiNN, eq. 21, for decay = 1).

    Args:
        optimizer: A `BayesBiNN` optimizer that was trained on the tasks so far, or a `JointOptimizer` that has one.
        decay: Factor on λ in [0, 1]: 1 keeps the whole posterior; 0 returns to the uniform prior. With a value below 1,
            long sequences of tasks remain learnable, and early tasks are forgotten slowly.

    Returns:
        The new prior.

    Raises:
        ValueError: If `decay` is out of range.
        TypeError: If the rule has no Bernoulli posterior to carry over.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = bb.BayesBiNN([("weight", layer.weight)], ess=10, init_lambda=2.0, seed=0)
        >>> advance_prior(optimizer, decay=0.5).natural["weight"].abs()
        tensor([[1., 1.]])
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    if isinstance(optimizer, JointOptimizer):
        optimizer = optimizer.binary
    if not isinstance(optimizer, BayesBiNN):
        raise TypeError(
            f"{type(optimizer).__name__} has no prior; use bitbayes.BayesBiNN for continual learning (it can "
            "use the marginals of another posterior as its prior)"
        )
    posterior = optimizer.posterior()
    prior = BernoulliPosterior({name: decay * natural for name, natural in posterior.natural.items()}, posterior.scale)
    optimizer.set_prior(prior)
    return prior
