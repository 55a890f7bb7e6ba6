"""`BinaryOptimizer`: the contract of every learning rule.

The parameters hold weights; the optimizer's state holds beliefs. A rule is a few pure functions (`Rule`), and this
class runs them: draw the weights, take the gradient that `loss.backward()` left at the draw, update the belief.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bitbayes.noise import Noise
from bitbayes.posterior import BernoulliPosterior, Posterior
from bitbayes.rules import checks, counter, draws, engine, refusals, scales, streams
from bitbayes.rules.rule import Belief, Options, Rule
from bitbayes.rules.update import Update

if TYPE_CHECKING:
    from typing_extensions import Self

_COMMON = {"rule", "samples", "scale", "scale_lr", "init", "seed", "compile", "capturable", "training"}
_NOT_OPTIONS = {"params", "param_names"} | _COMMON

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class BinaryOptimizer(Rule, torch.optim.Optimizer):
    """Base of all rules; subclasses define the pure functions and their options.

    The loop is torch's own: `backward`, `step`, `zero_grad`. After construction and after every step the parameters
    hold a draw from the belief; after `eval()` they hold the mode, exactly ±scale. All noise is a function of
    (seed, step, sample, tensor index), so (`model.state_dict()`, `optimizer.state_dict()`) resumes bit for bit.

    Args:
        params: Parameters, (name, parameter) pairs such as `bitbayes.split_parameters` returns, or groups.
        defaults: Options of the rule; groups may override them. Must contain `lr`.
        samples: Draws that `step(closure)` averages the update over.
        scale: What ±1 is multiplied with: "one", "fan_in" (1/√fan_in), or "channel" (learned, one per output
            channel, as XNOR-Net's and VISPA's factors).
        scale_lr: Learning rate of the logarithm of a "channel" scale.
        init: "random" as in the papers, or "weights": sign and relative size of what the tensors hold.
        seed: Seed of the noise; None takes torch's own (`torch.initial_seed()`), of rank 0 in a distributed job.
        compile: Update and draw in one pass, by `bitbayes.kernels` or torch.compile, where there is a compiler.
        capturable: Steps can be captured in a CUDA graph, and are counted on the device; `lr` is then best a tensor.
            Refused steps are reported by `eval`, `train`, `posterior` and `state_dict`, which wait for the device.

    Raises:
        ValueError: For options out of range, no parameters, or a parameter given twice.
    """

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        samples: int = 1,
        scale: str = "one",
        scale_lr: float = 1e-3,
        init: str = "random",
        seed: int | None = None,
        compile: bool = False,
        capturable: bool = False,
    ) -> None:
        common = {
            "rule": type(self).__name__,
            "samples": samples,
            "scale": scale,
            "scale_lr": scale_lr,
            "init": init,
            "seed": checks.shared_seed() if seed is None else seed,
            "compile": compile,
            "capturable": capturable,
            "training": True,
        }
        super().__init__(checks.not_empty(params), defaults | common)

    @property
    def training(self) -> bool:
        """Whether the parameters hold a draw (True) or the mode (False)."""
        return self.param_groups[0]["training"]

    def named_binary(self) -> Iterator[tuple[str, Parameter]]:
        """Iterates over (name, parameter); parameters given without names are called "0", "1", ..."""
        for index, (group, place, parameter) in enumerate(self._places()):
            names = group.get("param_names")
            yield (names[place] if names else str(index)), parameter

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a dictionary with "params" and options of this group, as in torch; they hold a draw at once."""
        known = {id(p) for _, _, p in self._places()}
        checks.parameters(param_group, known)
        first = len(known)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["training"] = self.training
        try:
            checks.plain(group)
            checks.common(group)
            self.check(group)
        except Exception:
            self.param_groups.pop()  # refused whole
            raise
        for index, parameter in enumerate(group["params"], start=first):
            self.state[parameter] = self._first_state(parameter, group, index)
            self._show(parameter, group, index)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Updates the beliefs from the gradients at the current draw, and draws the next weights.

        Args:
            closure: Clears the gradients, computes the loss, calls backward and returns the loss. With
                `samples > 1` it is called once for every draw, and the update is averaged over them. Without a
                closure the gradients at hand and one draw are used.

        Returns:
            The mean loss over draws, or None without a closure.

        Raises:
            RuntimeError: If the parameters hold the mode, or a gradient is not finite (the beliefs are unchanged).
        """
        refusals.report(self, wait=False)
        if not self.training:
            raise RuntimeError(
                "step() needs the weights of a draw, but they are the mode; call optimizer.train() first"
            )
        loss, means = (None, None) if closure is None else draws.over(self, closure)
        with torch.no_grad(), engine.together() as jobs:
            accept = self._accept() if means is None else means.accept
            for index, (group, _, parameter) in enumerate(self._places()):
                mean = None if means is None else means.of.get(parameter)
                if mean is not None or (means is None and parameter.grad is not None):
                    self._advance(parameter, group, index, mean, accept, jobs)
        return loss

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Makes the parameters hold the current draw (True) or the mode (False); returns the optimizer itself."""
        refusals.report(self)
        if mode != self.training:
            for group in self.param_groups:
                group["training"] = mode
            self._show_all()
        return self

    def eval(self) -> Self:
        """Makes the parameters hold the mode, exactly ±scale: a network to deploy."""
        return self.train(False)

    def posterior(self) -> Posterior:
        """A copy of the posterior over the weights, keyed by parameter names.

        Raises:
            RuntimeError: If the rule keeps no posterior.
        """
        refusals.report(self)
        if not self.has_posterior:
            raise RuntimeError(
                f"{type(self).__name__} keeps no posterior, only a point; use bitbayes.BayesBiNN for one"
            )
        natural, scale = {}, {}
        for (name, parameter), (group, _, _) in zip(self.named_binary(), self._places(), strict=True):
            belief = self._belief(parameter)
            flat = self.natural(belief, self._options(group, self.state[parameter]["step"], parameter))
            natural[name] = flat.view(parameter.shape)
            scale[name] = scales.value(self.state[parameter])
        return BernoulliPosterior(natural, scale)

    @torch.no_grad()
    def named_mode(self) -> dict[str, Tensor]:  # provisional
        """Return the mode, exactly ±scale, keyed by parameter names; the parameters are not touched."""
        refusals.report(self)
        found = {}
        for (name, parameter), (group, _, _) in zip(self.named_binary(), self._places(), strict=True):
            belief = self._belief(parameter)
            mode = self.mode(belief, self._options(group, self.state[parameter]["step"], parameter))
            found[name] = mode.view(parameter.shape) * scales.value(self.state[parameter]).to(mode.device)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Beliefs, steps, options and seed: all that resuming needs beside the model's own state."""
        refusals.report(self)
        return super().state_dict()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state bit for bit, and writes its draw (or mode) into the parameters.

        Args:
            state_dict: From `state_dict()` of the same rule over the same shapes.

        Raises:
            ValueError: If beliefs are missing, of another rule or shape, not float32, or not finite.
        """
        parameters = [parameter for _, _, parameter in self._places()]
        saved = checks.saved_state(state_dict, [self.state[p] for p in parameters], type(self).__name__)
        mine = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, mine, strict=True):
            group.update({name: own[name] for name in own.keys() - group.keys()})  # options that the saved state lacks
        for parameter, state in zip(parameters, saved, strict=True):
            # torch has cast the beliefs to the dtype of the parameter; put the exact ones in their place.
            self.state[parameter] = checks.copy_state(state, parameter.device)
        self._show_all()

    # Internals. -------------------------------------------------------------------------------------------------

    def _places(self) -> Iterator[tuple[dict[str, Any], int, Parameter]]:
        for group in self.param_groups:
            for place, parameter in enumerate(group["params"]):
                yield group, place, parameter

    def _options(self, group: dict[str, Any], step: counter.Step, parameter: Tensor) -> Options:
        plain = {key: value for key, value in group.items() if key not in _NOT_OPTIONS}
        shape = {"bound": scales.glorot(parameter), "fan_in": scales.fans(parameter)[0]}
        return Options(**plain | self.schedule(group, step) | shape, step=counter.number(step))

    def _first_state(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Any]:
        if group["init"] == "weights":
            start = checks.start_from_weights(parameter)
        else:
            start = streams.start(group, parameter, index, self.start)
        belief = self.begin(start, streams.more(group, parameter, index), self._options(group, 0, parameter))
        count = counter.begin(parameter.device, group["capturable"])
        return count | {"belief": belief} | scales.begin(parameter, group["scale"])

    def _belief(self, parameter: Tensor) -> Belief:
        """The belief, on the device where the parameter is now."""
        state = self.state[parameter]
        if any(t.device != parameter.device for t in state["belief"].values()):
            self.state[parameter] = state = checks.copy_state(state, parameter.device)
        return state["belief"]

    def _noise(self, group: dict[str, Any], parameter: Tensor, index: int, sample: int = 0) -> Noise:
        return streams.draw(group, parameter, index, self.state[parameter]["step"], sample)

    def _show(self, parameter: Tensor, group: dict[str, Any], index: int, sample: int = 0) -> None:
        """Writes the current draw, or the mode, into one parameter."""
        belief, state = self._belief(parameter), self.state[parameter]
        o = self._options(group, state["step"], parameter)
        noise = self._noise(group, parameter, index, sample)
        with scales.unit(parameter, state) as weights:
            if group["training"]:
                engine.redraw(type(self), belief, weights, o, noise, group["compile"])
            else:
                weights.copy_(self.mode(belief, o))

    def _show_all(self, sample: int = 0) -> None:
        for index, (group, _, parameter) in enumerate(self._places()):
            self._show(parameter, group, index, sample)

    def _advance(
        self,
        parameter: Tensor,
        group: dict[str, Any],
        index: int,
        mean: draws.Mean | None,
        accept: Tensor | None,
        jobs: engine.Jobs | None,
    ) -> None:
        """Updates one tensor from the mean of several draws, or from the gradient at the only one."""
        belief, state = self._belief(parameter), self.state[parameter]
        with scales.unit(parameter, state) as weights:
            if mean is None:
                assert parameter.grad is not None
                gradient = scales.unit_gradient(parameter.grad, state)
                slope = scales.slope(parameter, state, weights, gradient)
            else:
                gradient, slope = mean.estimate, mean.slope
            scales.learn(state, slope, group["scale_lr"], accept)
            drawn = self._noise(group, parameter, index)
            state["step"] += 1
            o = self._options(group, state["step"], parameter)
            noises = drawn, self._noise(group, parameter, index)
            if weights.data_ptr() != parameter.data_ptr():
                jobs = None  # a copy, to be written back at once
            update = Update(type(self), belief, gradient, weights, o, *noises, mean is not None, accept)
            engine.advance(update, compile=group["compile"], jobs=jobs)

    def _accept(self) -> Tensor | None:
        """Refuses non-finite gradients: at once on a CPU; on a GPU by a flag on the device, reported later."""
        given = {name: p.grad for name, p in self.named_binary() if p.grad is not None}
        for parameter in dict(self.named_binary()).values():
            self._belief(parameter)  # what is noted of a refusal is where the gradient is now
        return refusals.accept(self, given)
