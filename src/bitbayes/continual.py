"""From one task to the next: variational continual learning (Nguyen et al., ICLR 2018) with Bernoulli posteriors."""

from __future__ import annotations

from bitbayes.posterior import BernoulliPosterior
from bitbayes.rules.bayesbinn import BayesBiNN
from bitbayes.rules.optimizer import BinaryOptimizer


def advance_prior(optimizer: BinaryOptimizer, *, decay: float = 1.0) -> BernoulliPosterior:
    """Makes the posterior the prior of the steps to come: λ₀ ← decay · λ (BayesBiNN, eq. 21, for decay = 1).

    Args:
        optimizer: A `BayesBiNN`.
        decay: Relaxation in [0, 1]: 1 keeps all that was learned, 0 is the uniform prior again. Below 1 long streams
            keep some freedom to learn, and forget slowly.

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
    if not isinstance(optimizer, BayesBiNN):
        raise TypeError(
            f"{type(optimizer).__name__} learns without a prior; use bitbayes.BayesBiNN for continual learning (it "
            "takes the marginals of another posterior as its prior)"
        )
    posterior = optimizer.posterior()
    prior = BernoulliPosterior({name: decay * natural for name, natural in posterior.natural.items()}, posterior.scale)
    optimizer.set_prior(prior)
    return prior
