"""Which rules have a kernel, and what they hand to it: the one place that knows both the rules and `kernels.c`.

A row takes a belief and the options of a step, and returns a `Call`, or None where the kernel does not cover them; the
caller then runs the rule's own functions. Rules are known by their full names, so a subclass, which may have
changed its equations, has no kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from bitbayes.noise import Noise
from bitbayes.options import Options

Belief = Mapping[str, Tensor]

_MOST_ROWS = 64  # half of MOST_ARRAYS in kernels.c


class Call(NamedTuple):
    """What `kernels.c` needs beside gradient and weights.

    Attributes:
        kernel: Name of the function.
        arrays: The flat tensors of the belief, in its order.
        numbers: The numbers `o`, in its order.
        noisy: Whether it draws.
    """

    kernel: str
    arrays: list[Tensor | None]
    numbers: list[float]
    noisy: bool = False


def hard_draw(natural: Tensor) -> Call:
    """Draws from λ."""
    return Call("bernoulli", [natural], [], noisy=True)


def _bayesbinn_draw(belief: Belief, o: Options, noise: Noise) -> Call | None:
    return hard_draw(belief["natural"]) if o.estimator == "straight-through" else None


def _bayesbinn(belief: Belief, o: Options, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
    kernel = {"straight-through": "bayesbinn", "point": "bayesbinn_point"}.get(o.estimator)
    if kernel is None:
        return None
    gain = 1.0 if estimated or o.estimator == "point" else o.ess
    averaged = "average" in belief
    rate = o.lr / o.correction if averaged else o.lr
    arrays = [belief["natural"], belief.get("average"), belief.get("prior")]
    return Call(kernel, arrays, [gain, rate, o.momentum, 1 - o.momentum], o.estimator != "point")


def _ste(belief: Belief, o: Options, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
    if o.metaplasticity is not None:
        return None
    window, clip = (float("inf") if limit is None else limit for limit in (o.window, o.clip))
    common = [window, o.weight_decay, o.lr, clip]
    if o.inner == "sgd":
        return Call("ste_sgd", [belief["latent"], belief["momentum"]], [*common, o.momentum])
    corrections = [1 - o.beta1, 1 - o.beta2, o.correction1, o.correction2]
    return Call("ste_adam", [belief["latent"], belief["first"], belief["second"]], [*common, *corrections])


def _bop(belief: Belief, o: Options, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
    return Call("bop", [belief["average"], belief["sign"]], [o.lr, o.threshold])


@functools.lru_cache(maxsize=256)
def _factors(key: int, count: int) -> Tensor:
    """Normal values that the weights of a tensor share: those of a step's draw are asked for again by its update."""
    return Noise(0, 0, shared_key=key).shared_normal(count)


def _vispa_draw(belief: Belief, o: Options, noise: Noise) -> Call | None:
    rows = len(belief["latent"])
    if rows > _MOST_ROWS:
        return None
    factors = o.divisor**-0.5 * _factors(int(noise.shared_key), rows - 1)
    return Call("low_rank", [*belief["latent"]], [1.0, *factors.tolist()])


def _vispa(belief: Belief, o: Options, drawn: Noise, noise: Noise, estimated: bool) -> Call | None:
    draw = _vispa_draw(belief, o, noise)
    if draw is None or estimated:  # an averaged estimate has rows too
        return None
    of_gradient = [1.0, *_factors(int(drawn.shared_key), len(belief["latent"]) - 1).tolist()]
    numbers = [o.lr, o.momentum, o.weight_decay, o.divisor, o.project, *of_gradient, *draw.numbers]
    return Call("vispa", [*draw.arrays, *belief["momentum"]], numbers)


# A rule whose draw is not here draws the same bits by its own function.
DRAWS: dict[str, Callable[[Belief, Options, Noise], Call | None]] = {
    "bitbayes.rules.bayesbinn.BayesBiNN": _bayesbinn_draw,
    "bitbayes.rules.vispa.VISPA": _vispa_draw,
}
UPDATES: dict[str, Callable[[Belief, Options, Noise, Noise, bool], Call | None]] = {
    "bitbayes.rules.bayesbinn.BayesBiNN": _bayesbinn,
    "bitbayes.rules.ste.STE": _ste,
    "bitbayes.rules.bop.Bop": _bop,
    "bitbayes.rules.vispa.VISPA": _vispa,
}
