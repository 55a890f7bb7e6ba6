"""`BinaryOptimizer`: the contract of every learning rule.

The parameters hold weights; the optimizer's state holds beliefs. A rule is a few pure functions (`Rule`), and this
class runs them: draw the weights, take the gradient that `loss.backward()` left at the draw, update the belief.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from bitbayes.noise import Noise
from bitbayes.posterior import BernoulliPosterior, Posterior
from bitbayes.rules import checks, engine, pretrained, scales, shards, steps
from bitbayes.rules.marks import is_untouched, mark_drawn, of_transformer
from bitbayes.rules.places import EarlierGradients, Place, copied, places_of
from bitbayes.rules.rule import Compile, Count, O, Options, Rule
from bitbayes.rules.start import first_state

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


# Means over the draws of a step for one tensor: the rule's estimate, and the slope of the tensor's scale.
Mean = tuple[Tensor, Tensor | None]


class BinaryOptimizer(Rule[O], torch.optim.Optimizer):
    """Base class of all learning rules; subclasses define the pure functions and their options.

    The training loop is torch's own: `backward`, `step`, `zero_grad`. After construction and after every step, the
    parameters hold a draw from the belief. After `eval()`, they hold the mode, exactly ±scale. All noise is a function
    of (seed, step, sample, tensor index), so `model.state_dict()` and `optimizer.state_dict()` resume training bit for
    bit.

    Args:
        params: Parameters, (name, parameter) pairs as returned by `bitbayes.split_parameters`, or parameter groups.
        defaults: Options of the rule, which must include `lr`. Parameter groups may override them.
        samples: Number of draws that `step(closure)` averages over, the same in all parameter groups. With more than
            one, the step keeps a copy of the gradients that it finds.
        scale: Factor of the ±1 weights: "one", "fan_in" (1/√fan_in), "channel" (one learned factor per output channel,
            as in XNOR-Net and VISPA), "group:N" (one per N adjacent weights of a row), "normal" (a fixed random factor
            per weight), or "weight" (a learned factor per weight, which begins as "normal"). The last two cost 32 bits
            per weight; see `bitbayes.rules.scales`.
        scale_lr: Learning rate for the logarithm of a learned scale. Schedulers of torch change `lr` alone; to anneal
            this rate, too, set `group["scale_lr"]`.
        init: "random" as in the papers, or "weights" to start from the signs and relative sizes of the tensors' values.
            None selects "random", or "weights" with a warning if a tensor looks trained (`bitbayes.rules.pretrained`).
        seed: Seed of the noise. None uses `torch.initial_seed()`, in a distributed job that of rank 0. Two optimizers
            with one seed have the same noise.
        compile: Which implementations may update and draw in one pass over memory: "kernels" allows the C kernels of
            `bitbayes.kernels`, True also torch.compile, and False neither. None chooses for each parameter group by its
            size and stores the choice in `optimizer.param_groups[0]["compile"]`. `implementation` says what runs.
        capturable: Whether steps can be captured in a CUDA graph. Steps are then counted on the device, and `lr` should
            be a tensor. `eval`, `train`, `posterior` and `state_dict` report refused steps and wait for the device.
        before_draws: For subclasses: what to check and set when all beliefs are there, before any weight changes.

    Raises:
        ValueError: If an option is out of range, there are no parameters, a parameter is given twice, or a group
            without names mixes weights with parameters of fewer than two dimensions, as `model.parameters()` does.
        TypeError: If a subclass does not define a required function.
    """

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        samples: int = 1,
        scale: str = "one",
        scale_lr: float = 1e-3,
        init: str | None = None,
        seed: int | None = None,
        compile: Compile | None = None,
        capturable: bool = False,
        before_draws: Callable[[], object] = lambda: None,
    ) -> None:
        kind = type(self)
        if self.has_posterior and kind.natural is Rule.natural and kind.posterior is BinaryOptimizer.posterior:
            raise TypeError(f"{kind.__name__} has a posterior, so it must define natural() or posterior()")
        seed = shards.shared_seed() if seed is None else seed
        common: dict[str, Any] = dict(rule=kind.__name__, samples=samples, scale=scale, scale_lr=scale_lr, init=init)
        common |= dict(seed=seed, compile=compile, capturable=capturable, training=True)
        self.refusals = engine.Refusals()
        self._begun = False  # whether the tensors hold draws, which may overwrite weights only when nothing is refused
        self._trained: str | None = None  # name of a parameter that looked trained, until the warning
        super().__init__(checks.not_empty(params), defaults | common)
        before_draws()
        self._begun = True
        self._draw_first(self._places())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "refusals"):  # a copy has not refused any step yet
            self.refusals = engine.Refusals()
            self._trained, self._begun = None, True

    @property
    def training(self) -> bool:
        """Whether the parameters hold a draw (True) or the mode (False)."""
        return self.param_groups[0]["training"]

    @property
    def implementation(self) -> str:
        """Implementation of the updates: "kernel" (C), "torch.compile" or "eager", or several if tensors differ."""
        found = set()
        noises = self._noises()
        for place in self._places():
            state, noise, values = self._state(place.parameter), noises[place.parameter], place.own
            # A tensor like the one that `scales.unit` yields, but without its values.
            lent = "scale" in state or not values.is_contiguous()
            flat = values.new_empty(values.numel()) if lent else values.view(-1)
            o = self._options(place, state["step"] + 1)
            update = engine.Update(type(self), state["belief"], flat, flat, o, noise, noise)
            found.add(engine.implementation(update, place.group["compile"]))
        return ", ".join(sorted(found))

    def named_binary(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (name, parameter); parameters given without names are called "0", "1", ..."""
        return ((place.name, place.parameter) for place in self._places())

    @torch.no_grad()
    def named_mode(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, mode) with modes of exactly ±scale, without changing the parameters."""
        self._report()
        for place in self._places():
            state, parameter = self._state(place.parameter), place.parameter
            unit = self.mode(state["belief"], self._options(place, state["step"])).view(place.own.shape)
            mode = (unit * scales.value(state, unit.shape)).to(parameter.dtype)
            yield place.name, shards.like(parameter, mode.view(-1))

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group as in torch; its parameters hold a draw, or in eval mode the mode, immediately."""
        known = {id(place.parameter) for place in self._places()}
        checks.parameters(param_group, known)
        checks.spelling(param_group, self.defaults)
        param_group.setdefault("capturable", (self.param_groups or [self.defaults])[0]["capturable"])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["training"] = self.training
        if group["compile"] is None:
            group["compile"] = engine.automatic(sum(parameter.numel() for parameter in group["params"]))
        try:
            checks.plain(group)
            group |= self.chosen(group, of_transformer(group["params"]))
            checks.common(group, self.param_groups[0])
            self.check(group)
            checks.distinct(place.name for place in self._places())
            places = list(self._places())[len(known) :]
            if group["init"] is None:
                trained = pretrained.first_trained((place.name, place.parameter) for place in places)
                group["init"] = "random" if trained is None else "weights"
                self._trained = self._trained or trained
            options = ((place, self._options(place, 0, **scales.sizes(place.parameter))) for place in places)
            states: dict[Tensor, Any] = {place.parameter: first_state(type(self), place, o) for place, o in options}
        except Exception:
            self.param_groups.pop()  # refused as a whole
            raise
        self.state.update(states)
        if self._begun:
            self._draw_first(places)

    def step(self, closure: Callable[[], Tensor | None] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update the beliefs from the gradients at the current draw, and draw the next weights.

        Args:
            closure: Function that clears the gradients, computes the loss, calls backward and returns the loss (or
                None, as the closures of some trainers do). With `samples > 1`, it is called once per draw, and the
                update is averaged over the draws. Every call starts from the gradients of the optimizer's own
                parameters before `step`, and may clear them or add to them; real parameters need `JointOptimizer`.
                Without a closure, the current gradients and one draw are used. The same holds for a closure that leaves
                all gradients unchanged, which trainers pass if users call backward themselves.

        Returns:
            The mean loss over draws, or None if there is no loss.

        Raises:
            RuntimeError: If the parameters hold the mode, a gradient is not finite, or the closure adds to gradients
                that are needed with their own draw. Beliefs (and gradients if `samples > 1`) are then unchanged.
            TypeError: If a gradient is sparse, or the closure returns something other than a loss.
        """
        self.refusals.report()
        self._check_changes()
        if not self.training:
            raise RuntimeError("step() needs a draw, but the parameters hold the mode; call optimizer.train() first")
        for group in self.param_groups:
            self.check(group)  # again, because a scheduler may have set an option
        loss, accept = None, None
        means: Mapping[Tensor, Mean | None] | None = None
        samples = self.param_groups[0]["samples"]
        if closure is not None and samples > 1:
            loss, means, accept = self._over_draws(closure, samples)
        elif closure is not None:
            loss = checks.loss(closure)
        with torch.no_grad(), engine.together() as queue:
            if means is None:
                accept = self._accept()
                means = {p.parameter: None for p in self._places() if p.parameter.grad is not None}
            places = [place for place in self._places() if place.parameter in means]
            numbers = [self._state(place.parameter)["step"] for place in places]
            for place, values in zip(places, steps.step_values(places, numbers, self.schedule), strict=True):
                self._advance(place, values, means[place.parameter], accept, queue)
        for place in self._places():
            mark_drawn(place.parameter, type(self).__name__)
        return loss

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Write the current draw (True) or the mode (False) into the parameters, and return the optimizer.

        Weights that anything else has written meanwhile are overwritten, with a warning.
        """
        self._report()
        if mode or self.training:  # in eval mode, weights that somebody loads stay until the next draw
            self._check_changes()
        if mode != self.training:
            for group in self.param_groups:
                group["training"] = mode
            self._show_all()
        return self

    def eval(self) -> Self:
        """Write the mode, exactly ±scale, into the parameters: the network to deploy."""
        return self.train(False)

    @torch.no_grad()
    def relax(self, keep: float) -> Self:
        """Weaken the belief, so that further training can leave it, and return the optimizer.

        BayesBiNN multiplies λ by `keep` (with a prior λ₀, its distance from λ₀), STE its latent weights, and VISPA its
        center. Without a prior, the mode does not change. Averages of an inner optimizer and the step number stay.

        Args:
            keep: Share of the belief to keep, in (0, 1].

        Raises:
            ValueError: If `keep` is out of range.
            RuntimeError: If the rule cannot be relaxed.

        Example:
            >>> optimizer = bb.BayesBiNN([("w", torch.ones(1, 2))], ess=10, init_lambda=2.0, seed=0)
            >>> optimizer.relax(0.25).posterior().natural["w"].abs()
            tensor([[0.5000, 0.5000]])
        """
        self._report()
        checks.option(0 < keep <= 1, "keep", "in (0, 1]", keep)
        for place in self._places():
            state = self._state(place.parameter)
            changes = self.relaxed(state["belief"], keep, self._options(place, state["step"]))
            if not changes:
                raise RuntimeError(f"{type(self).__name__} cannot be relaxed; use BayesBiNN, STE or VISPA")
            for name, value in changes.items():
                state["belief"][name].copy_(value)  # in place, because a captured graph reads this memory
        self._show_all()
        return self

    def posterior(self) -> Posterior:
        """Return a copy of the posterior over the weights, keyed by parameter names.

        The posterior of sharded parameters is whole in every process, and all processes must call this method together.

        Raises:
            RuntimeError: If the rule keeps no posterior.
        """
        self._report()
        if not self.has_posterior:
            name = type(self).__name__
            raise RuntimeError(f"{name} keeps one network and no posterior; use bitbayes.BayesBiNN for a posterior")
        natural, scale = {}, {}
        for place in self._places():
            state, parameter = self._state(place.parameter), place.parameter
            flat = self.natural(state["belief"], self._options(place, state["step"]))
            natural[place.name] = shards.whole(parameter, flat)
            scale[place.name] = shards.whole_scale(parameter, scales.value(state, place.own.shape))
        return BernoulliPosterior(natural, scale)

    def state_dict(self) -> dict[str, Any]:
        """Return beliefs, steps, options and seed: everything that resuming needs besides the model's own state.

        The beliefs of sharded parameters are DTensors of the parameter's shape, for `torch.distributed.checkpoint`.
        """
        self._report()
        found = super().state_dict()
        for place in self._places():
            found["state"][place.number] = shards.spread(found["state"][place.number], place.parameter)
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit, and write its draw or mode into the parameters.

        Args:
            state_dict: Return value of `state_dict()` of the same rule with the same shapes.

        Raises:
            ValueError: If beliefs are missing, not float32, not finite, or of another rule or shape, or if an option is
                out of range. The optimizer is then unchanged.
        """
        parameters = [place.parameter for place in self._places()]
        beliefs = {tensor.data_ptr() for p in parameters for tensor in self._state(p)["belief"].values()}
        saved = list[dict[str, Any]]()

        def check(_: Any, given: dict[str, Any]) -> None:
            states = [(parameter, self.state[parameter]) for parameter in parameters]
            saved.extend(checks.saved_state(given, states, self.param_groups, type(self).__name__, self.check))

        mine = [dict(group) for group in self.param_groups]
        last = self.register_load_state_dict_pre_hook(check)  # after those of the user, which may change the state
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        for group, own in zip(self.param_groups, mine, strict=True):
            group.update({name: own[name] for name in own.keys() - group.keys()})  # options that the saved state lacks
        if all(tensor.data_ptr() in beliefs for state in saved for tensor in state["belief"].values()):
            self._check_changes()  # Accelerate loads an optimizer's own state, which tells nothing of loaded weights
        self._trained = None
        for parameter, state in zip(parameters, saved, strict=True):
            # torch has cast the beliefs to the dtype of the parameter; restore the exact ones.
            self.state[parameter] = copied(state, parameter.device)
        self._show_all()

    # Internals. -------------------------------------------------------------------------------------------------

    def _places(self) -> Iterator[Place]:
        return places_of(self.param_groups)

    def _options(self, place: Place, step: Count, **more: Any) -> Any:
        """Return the options that the rule's functions read at a step."""
        return Options.of(place.group, steps.scheduled([place], [step], self.schedule)[0] | more)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter, on its current device."""
        state = self.state[parameter]
        checks.has_belief(parameter, state)
        if any(t.device != parameter.device for t in state["belief"].values()):
            self.state[parameter] = state = copied(state, parameter.device)
        return state

    def _noises(self, sample: int = 0) -> dict[Parameter, Noise]:
        """Return the noise of the current draw of every parameter."""
        places = list(self._places())
        [noises] = steps.draw_noises(places, [self._state(place.parameter)["step"] for place in places], sample)
        return dict(zip((place.parameter for place in places), noises, strict=True))

    @engine.without_autocast
    def _show(self, place: Place, noise: Noise) -> None:
        """Write the draw of some noise, or the mode, into one parameter."""
        state = self._state(place.parameter)
        belief, o = state["belief"], self._options(place, state["step"])
        with scales.unit(place.own, state) as weights:
            if place.group["training"]:
                engine.redraw(type(self), belief, weights, o, noise, place.group["compile"])
            else:
                weights.copy_(self.mode(belief, o))
        mark_drawn(place.parameter, type(self).__name__ if place.group["training"] else None)

    @torch.no_grad()
    def _check_changes(self) -> None:
        """Warn once about trained weights that were used, and about weights that were loaded over those of the rule."""
        rule, trained, self._trained = type(self).__name__, self._trained, None
        if trained is not None:
            pretrained.warn_of_start(rule, trained)
        touched = [place for place in self._places() if not is_untouched(place.parameter)]
        if touched and (changed := self._written_again(touched)):
            pretrained.warn_of_change(rule, changed[0])

    def _written_again(self, places: Iterable[Place]) -> list[str]:
        """Write what parameters should hold again; return the names of those that held anything else."""
        changed, noises = [], self._noises()
        for place in places:
            found = place.own.clone()
            self._show(place, noises[place.parameter])
            changed += [] if torch.equal(found, place.own) else [place.name]
        return changed

    def _show_all(self, sample: int = 0, *, besides: Container[Tensor] = ()) -> None:
        noises = self._noises(sample)
        for place in self._places():
            if place.parameter not in besides:
                self._show(place, noises[place.parameter])

    @torch.no_grad()
    def _draw_first(self, places: Iterable[Place]) -> None:
        """Write the first draw into new parameters."""
        noises = self._noises()
        for place in places:
            self._show(place, noises[place.parameter])

    @engine.without_autocast
    def _advance(
        self, place: Place, now: steps.StepValues, mean: Mean | None, accept: Tensor | None, queue: engine.Queue
    ) -> None:
        """Update one tensor from the mean over several draws, or from the gradient at a single draw."""
        _, _, parameter, group = place
        state, values = self._state(parameter), place.own
        with scales.unit(values, state) as weights:
            if mean is None:
                gradient = scales.unit_gradient(shards.local_gradient(parameter), state)
                slope = scales.slope(values, state, weights, gradient)
            else:
                gradient, slope = mean
            scales.learn(state, slope, group["scale_lr"], now.of_scale, accept)
            parts = gradient, weights, Options.of(group, now.scheduled), now.drawn, now.next, mean is not None, accept
            update = engine.Update(type(self), state["belief"], *parts)
            own = weights.data_ptr() == values.data_ptr()  # a copy of the weights must be written back immediately
            engine.advance(update, compile=group["compile"], queue=queue if own else None)
            state["step"] += 1

    def _over_draws(
        self, closure: Callable[[], Tensor | None], samples: int
    ) -> tuple[Tensor | None, dict[Tensor, Mean] | None, Tensor | None]:
        """Call the closure at each draw of a step, without learning.

        Returns:
            The mean loss, the mean estimate of each tensor with a gradient (None if the closure computes no gradient),
            and whether to accept the step.

        Raises:
            NotFiniteError: If a gradient is not finite. Weights and gradients are then as they were before the call.
        """
        losses: list[Tensor] = []
        means: dict[Tensor, Mean] = {}
        accept = None
        capturable = self.param_groups[0]["capturable"]
        earlier = EarlierGradients((place.parameter for place in self._places()), capturable=capturable)
        bound = [place for place in self._places() if self._weighs_draws(place.group)]
        try:
            for sample in range(samples):
                if sample > 0:
                    earlier.put_back()
                    with torch.no_grad():
                        self._show_all(sample)
                with earlier.watched(place.parameter for place in bound):
                    loss = checks.loss(closure)
                if sample == 0 and loss is None and earlier.unchanged():
                    return None, None, None
                checks.of_one_draw((place.name for place in bound if earlier.added_to(place.parameter)), samples)
                losses += [] if loss is None else [loss.detach()]
                with torch.no_grad():
                    fine = self._accept()
                    accept = fine if accept is None or fine is None else accept & fine
                    noises = self._noises(sample)
                    for place in self._places():
                        if (own := place.parameter).grad is not None:
                            means[own] = self._added(place, noises[own], samples, means.get(own))
        except BaseException:
            with torch.no_grad():
                self._show_all()
            earlier.put_back()  # a retry must not count the gradients of this attempt
            raise
        with torch.no_grad():
            self._show_all(besides=means)  # what has no gradient keeps its first draw
        return torch.stack(losses).mean() if losses else None, means, accept

    def _weighs_draws(self, group: dict[str, Any]) -> bool:
        """Return whether the estimate, or a learned scale, needs each gradient together with its own draw."""
        return scales.is_learned(group["scale"]) or self.needs_draw(group)

    @engine.without_autocast
    def _added(self, place: Place, noise: Noise, samples: int, mean: Mean | None) -> Mean:
        """Add the estimate of the current draw for one tensor to those of the previous draws."""
        parameter, values = place.parameter, place.own
        state = self._state(parameter)
        with scales.unit(values, state) as weights:
            gradient = scales.unit_gradient(shards.local_gradient(parameter), state)
            slope = scales.slope(values, state, weights, gradient)
            o = self._options(place, state["step"] + 1)
            update = engine.Update(type(self), state["belief"], gradient, weights, o, noise, noise)
            estimate, slopes = (None, None) if mean is None else mean
            if slope is not None:
                slope = slope / samples if slopes is None else slopes + slope / samples
            return engine.accumulate(update, samples, estimate), slope

    def _accept(self) -> Tensor | None:
        """Refuse non-finite gradients: immediately on a CPU, by a flag on the device on a GPU."""
        given = {place.name: place.parameter for place in self._places() if place.parameter.grad is not None}
        gradients = {name: shards.local_gradient(parameter) for name, parameter in given.items()}
        for name, gradient in gradients.items():
            if gradient.layout != torch.strided:
                raise TypeError(f"the gradient of {name!r} is sparse; give the layer sparse=False, or keep it real")
        options, agree = self.param_groups[0], shards.agreement(list(given.values()))
        if not options["capturable"]:
            return self.refusals.accept(gradients, compile=options["compile"], agree=agree)
        if not gradients:
            return None
        for parameter in given.values():
            self._state(parameter)  # so that the note is on the gradient's device
        return engine.note(gradients, [self.state[parameter]["refused"] for parameter in given.values()], agree)

    def _report(self) -> None:
        """Raise NotFiniteError for refused steps, including those that capturable steps noted on the device."""
        self.refusals.report()
        if self.param_groups[0]["capturable"]:
            engine.refuse_noted({place.name: self.state[place.parameter]["refused"] for place in self._places()})
