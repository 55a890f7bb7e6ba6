"""BayesBiNN (Meng, Bachmann & Khan, ICML 2020): natural-gradient variational inference over Bernoulli weights.

The belief is λ, the natural parameter of the Bernoulli distribution q(w) with P[w = +1] = σ(2λ) and mean μ = tanh λ.
With g the mini-batch mean of the gradient at the draw and N = ess, the Bayesian learning rule (eqs. 7 and 17) is

    λ ← (1 − α) λ − α (ĝ − λ₀),    ĝ ≈ ∂E_q[N·loss] / ∂μ

optionally with the released code's momentum on (ĝ + λ − λ₀) and Adam's bias correction. The estimators of ĝ are

    "straight-through"  w ~ q, exactly ±1           ĝ = N·g
    "concrete"          w = tanh((λ + δ) / τ)       ĝ = N·g (1 − w²) / (τ sech² λ)                      (eqs. 10-13)
    "released"          the same draw               ĝ = N·g (1 − w² + ε) / τ / (1 − tanh² λ + ε),  ε = 1e-10

with δ = ½·log(u / (1 − u)) and uniform u. For a loss that is multilinear in the weights, the exact natural gradient is
E[(loss(w_i = +1) − loss(w_i = −1)) / 2]; "straight-through" is its first-order approximation.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Literal, Self

import torch
from torch import Tensor
from typing_extensions import Unpack

from bitbayes import functional as F
from bitbayes.kernels.run import Call, hard_draw
from bitbayes.noise import Noise
from bitbayes.posterior import BernoulliPosterior
from bitbayes.rules import checks, shards
from bitbayes.rules.optimizer import BinaryOptimizer, Params
from bitbayes.rules.rule import Belief, Common, Count, Number, Options, Values

_EPS = 1e-10  # the released code's guard against division by 0, which dominates the gradient at small τ
_POINT_TAU = 1e-6  # below this τ, every relaxed draw rounds to ±1 in float32, and tanh λ does too
_TINY = 1e-35  # keeps 0 / sech² at 0 where sech² underflows


# The recommended setting: `ess` divided by the number of examples, and the initial |λ| of transformers and of others.
ESS_SCALE, TRANSFORMER_LAMBDA, INIT_LAMBDA = 300.0, 1500.0, 15.0


def recommended_lr(steps: int) -> float:
    """Return the recommended learning rate for a cosine to 0: after all steps, e^-3 of the initial λ is left."""
    return min(6 / steps, 0.1)


def _is_point(group: Values) -> bool:
    return group["estimator"] == "released" and group["tau"] <= _POINT_TAU


class BayesBiNNOptions(Options):
    """Options that the functions of BayesBiNN read."""

    ess: Number
    estimator: str  # "point" if the released estimator's posterior is a point
    momentum: Number
    tau: Number
    init_lambda: float
    unit: float  # of λ, in nats
    averaged: bool
    correction: Number


class BayesBiNN(BinaryOptimizer[BayesBiNNOptions]):
    """BayesBiNN, which trains a Bernoulli posterior over ±1 weights with natural gradients.

    Args:
        params: Binary parameters; see `BinaryOptimizer`.
        lr: Step size α of the natural-gradient step. It also determines how fast the prior pulls λ back.
        ess: Effective sample size: the number of training examples, times the augmentation factor if there is
            augmentation, divided by the posterior temperature if there is one. A larger value makes the posterior more
            certain.
        estimator: "straight-through" (hard draws), "concrete" (relaxed draws as in the paper), or "released" (the
            published code, to reproduce its image results).
        momentum: Decay rate β of the moving average of the natural gradient; 0 disables the average and saves its
            memory.
        tau: Temperature τ of the Concrete relaxation; unused by "straight-through".
        init_lambda: Initial |λ|, which decides how firmly the initial signs are held. These signs are random, or those
            of the weights with `init="weights"`. None selects 10 for "released", as published, and 1 otherwise. From 10
            on, the variance of "concrete" is too large to learn. "auto" selects the value of `recommended`.
        prior: Prior λ₀ as a posterior with the same names and shapes; None selects the uniform prior.
        **common: Options that all rules share; see `BinaryOptimizer`.

    Raises:
        ValueError: If an option is out of range, or names or shapes of the prior differ.

    Start with `BayesBiNN.recommended`. When `ess` is close to the number of examples, use `init_lambda <= 1`; otherwise
    the random initial signs look like evidence.

    With "released", the gradient is divided by 1 − tanh² of the present λ. The released code takes the λ of one step
    before.

    At τ ≤ 1e-6, "released" is a deterministic rule. The scale is 1/τ, the noise never changes a sign, and the weights
    are the sign of a decaying average of −g (Bop with threshold 0). The rule is computed in this closed form, with λ in
    units of N/τ. Its posterior is a point, and `posterior()` warns about this.

    Example:
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> optimizer = BayesBiNN([("weight", layer.weight)], lr=0.1, ess=100, seed=0)
        >>> x = torch.eye(3)
        >>> for _ in range(100):
        ...     loss = (layer(x) - torch.tensor([[1.0], [-1.0], [1.0]])).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> _ = optimizer.eval()
        >>> layer.weight.data
        tensor([[ 1., -1.,  1.]])
    """

    has_posterior = True
    start = "signs"
    _warned = False  # of a posterior that is a point

    def __init__(
        self,
        params: Params,
        lr: float = 5e-3,
        *,
        ess: float,
        estimator: str = "straight-through",
        momentum: float = 0.0,
        tau: float | None = None,
        init_lambda: float | Literal["auto"] | None = None,
        prior: BernoulliPosterior | None = None,
        **common: Unpack[Common],
    ) -> None:
        tau = {"released": 1e-10}.get(estimator, 1.0) if tau is None else tau
        init_lambda = (10.0 if estimator == "released" else 1.0) if init_lambda is None else init_lambda
        options = dict(lr=lr, ess=ess, estimator=estimator, momentum=momentum, tau=tau, init_lambda=init_lambda)
        start = functools.partial(self.set_prior, prior) if prior is not None else lambda: None
        super().__init__(params, options, before_draws=start, **common)

    @classmethod
    def recommended(cls, params: Params, *, steps: int, examples: int, **options: Any) -> Self:
        """Construct the optimizer with recommended settings, which were measured on small and large problems.

        The settings are lr = 6 / steps (at most 0.1), `ess` = 300 · examples, `init_lambda` = "auto" and the
        "straight-through" estimator. They assume a cosine schedule to 0 that is advanced after every step, such as
        `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)`.

        "auto" is 1500 if one of the weights of a group belongs to a transformer, and 15 otherwise. With 15, a small
        encoder stayed at chance (`docs/transformers.md`). Give each network a group of its own. This requires
        parameters from `bitbayes.split_parameters`.

        Args:
            params: Binary parameters; see `BinaryOptimizer`.
            steps: Number of training steps.
            examples: Number of training examples.
            **options: Options of `BayesBiNN` that override or extend the recommended settings.

        Raises:
            ValueError: If `steps` or `examples` is not a whole number of at least 1, or an option is out of range.

        Source:
            Measured on six problems; see `docs/results/one-setting.md`.

        Example:
            >>> layer = torch.nn.Linear(3, 1, bias=False)
            >>> optimizer = BayesBiNN.recommended([("weight", layer.weight)], steps=600, examples=1000)
            >>> [optimizer.param_groups[0][name] for name in ("lr", "ess", "init_lambda")]
            [0.01, 300000.0, 15.0]
        """
        checks.whole(steps, "steps", 1)
        checks.whole(examples, "examples", 1)
        setting: dict[str, Any] = dict(lr=recommended_lr(steps), ess=ESS_SCALE * examples, init_lambda="auto")
        return cls(params, **{**setting, **options})

    @staticmethod
    def check(group: Values) -> None:
        """Raise ValueError for options out of range."""
        checks.share(group["lr"], "lr")
        names = ("straight-through", "concrete", "released")
        checks.option(group["estimator"] in names, "estimator", f"one of {', '.join(names)}", group["estimator"])
        checks.number(group["ess"], "ess", "a positive number (examples times augmentation)", low=0)
        checks.number(group["tau"], "tau", "a positive temperature", low=0)
        checks.number(group["init_lambda"], "init_lambda", 'at least 0, or "auto"', low=0, open_low=False)
        checks.decay(group["momentum"], "momentum")

    @staticmethod
    def chosen(group: Values, transformer: bool) -> Values:
        """Return the first |λ| if it is "auto"."""
        automatic = TRANSFORMER_LAMBDA if transformer else INIT_LAMBDA
        given = group["init_lambda"]
        return {"init_lambda": automatic} if isinstance(given, str) and given == "auto" else {}

    @staticmethod
    def unread(group: Values) -> dict[str, str]:
        """Return `tau` for the straight-through estimator, whose draws have no temperature."""
        return {"tau": "estimator is concrete or released"} if group["estimator"] == "straight-through" else {}

    @staticmethod
    def is_point(group: Values) -> bool:
        """Return True for the released estimator at a tiny temperature."""
        return _is_point(group)

    @staticmethod
    def hard(group: Values) -> bool:
        """Return whether draws are exactly ±1, which is the case unless they are relaxed."""
        return group["estimator"] == "straight-through" or _is_point(group)

    @staticmethod
    def ignores_draw(group: Values) -> bool:
        """Return whether the estimator is that of hard draws, N·g."""
        return BayesBiNN.hard(group)

    @staticmethod
    def schedule(group: Values, step: Count) -> Values:
        """Return the estimator in use, the unit of λ, and the bias correction of its average."""
        point = _is_point(group)
        return {
            "estimator": "point" if point else group["estimator"],
            "unit": group["ess"] / group["tau"] if point else 1.0,
            "averaged": group["momentum"] > 0,
            "correction": F.bias_correction(group["momentum"], step),
        }

    @staticmethod
    def begin(start: Tensor, noise: Noise, o: BayesBiNNOptions) -> Belief:
        """Return λ = ±init_lambda."""
        natural = start * (o.init_lambda / o.unit)
        return {"natural": natural, "average": torch.zeros_like(natural)} if o.averaged else {"natural": natural}

    @staticmethod
    def draw(belief: Belief, noise: Noise, o: BayesBiNNOptions) -> Tensor:
        """Return a hard or relaxed draw."""
        natural = belief["natural"]
        if o.estimator == "point":
            return F.sign(natural)
        if o.estimator == "straight-through":
            return noise.signs(torch.sigmoid(2 * natural))
        return torch.tanh((natural + noise.logistic()) / o.tau)

    @staticmethod
    def estimate(belief: Belief, gradient: Tensor, draw: Tensor, noise: Noise, o: BayesBiNNOptions) -> Tensor:
        """Return ĝ in the unit of λ."""
        if o.estimator == "point":
            return gradient
        if o.estimator == "straight-through":
            return o.ess * gradient
        numerator = (1 - draw) * (1 + draw)
        if o.estimator == "concrete":
            return o.ess * gradient * (numerator / o.tau / F.sech2(belief["natural"]).clamp(min=_TINY))
        variance = 1 - torch.tanh(belief["natural"]) ** 2
        return o.ess * gradient * ((numerator + _EPS) / o.tau / (variance + _EPS))

    @staticmethod
    def relaxed(belief: Belief, keep: float, o: BayesBiNNOptions) -> Belief:
        """Move λ towards the prior's λ₀, which is 0 without a prior."""
        if "prior" not in belief:
            return {"natural": keep * belief["natural"]}
        return {"natural": belief["prior"] + keep * (belief["natural"] - belief["prior"])}

    @staticmethod
    def update(belief: Belief, estimate: Tensor, o: BayesBiNNOptions) -> Belief:
        """Take one natural-gradient step."""
        natural = belief["natural"]
        change = estimate + natural
        if "prior" in belief:
            change = change - belief["prior"]
        if "average" not in belief:
            return {"natural": natural - o.lr * change}
        average = o.momentum * belief["average"] + (1 - o.momentum) * change
        return {"natural": natural - o.lr / o.correction * average, "average": average}

    @staticmethod
    def mode(belief: Belief, o: BayesBiNNOptions) -> Tensor:
        """Return sign(λ)."""
        return F.sign(belief["natural"])

    @staticmethod
    def natural(belief: Belief, o: BayesBiNNOptions) -> Tensor:
        """Return λ in nats, whatever its unit in the belief."""
        return belief["natural"] * o.unit

    @staticmethod
    def update_kernel(belief: Belief, o: BayesBiNNOptions, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
        """Return the kernel, which covers the estimators with hard draws."""
        kernel = {"straight-through": "bayesbinn", "point": "bayesbinn_point"}.get(o.estimator)
        if kernel is None:
            return None
        gain = 1.0 if estimated or o.estimator == "point" else o.ess
        rate = o.lr / o.correction if "average" in belief else o.lr
        arrays = [belief["natural"], belief.get("average"), belief.get("prior")]
        return Call(kernel, arrays, [gain, rate, o.momentum, 1 - o.momentum], o.estimator != "point")

    @staticmethod
    def draw_kernel(belief: Belief, o: BayesBiNNOptions, noise: Noise) -> Call | None:
        """Return the kernel, which covers the straight-through estimator."""
        return hard_draw(belief["natural"]) if o.estimator == "straight-through" else None

    @torch.no_grad()
    def set_prior(self, prior: BernoulliPosterior) -> None:
        """Use a posterior as the prior λ₀ of the following steps (eq. 21), for continual learning.

        Args:
            prior: A posterior with the same names and shapes.

        Raises:
            TypeError: If `prior` is not a BernoulliPosterior.
            ValueError: If names or shapes differ. The optimizer is then unchanged.
        """
        if not isinstance(prior, BernoulliPosterior):
            kind = type(prior).__name__
            raise TypeError(f"prior must be a BernoulliPosterior, got {kind}; use load_posterior(), or leave out prior")
        prior.check_like({name: parameter.shape for name, parameter in self.named_binary()}, "the optimizer")
        for place in self._places():
            flat = prior.natural[place.name].reshape(-1)[shards.span(place.parameter)].to(place.parameter.device)
            self._state(place.parameter)["belief"]["prior"] = flat / self.schedule(place.group, 0)["unit"]

    def posterior(self) -> BernoulliPosterior:
        """Return the posterior q; warn once if it is a point ("released" at τ ≤ 1e-6).

        Returns:
            A copy of the posterior, keyed by parameter names.
        """
        if any(map(_is_point, self.param_groups)) and not self._warned:
            self._warned = True
            warnings.warn(
                'estimator="released" at tau <= 1e-6 leaves a point, not a posterior: its samples are its mode and its '
                'entropy is 0. Use estimator="straight-through" for uncertainty',
                UserWarning,
                stacklevel=2,
            )
        found = super().posterior()
        assert isinstance(found, BernoulliPosterior)
        return found
