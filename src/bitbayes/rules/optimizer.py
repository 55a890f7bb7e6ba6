"""`BinaryOptimizer`: the contract of every learning rule.

The parameters hold weights; the optimizer's state holds beliefs. A rule is a few pure functions (`Rule`), and this
class runs them: draw the weights, take the gradient that `loss.backward()` left at the draw, update the belief.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn import Parameter
from typing_extensions import Self

from bitbayes import functional as F
from bitbayes.noise import Noise, stream_key
from bitbayes.posterior import BernoulliPosterior, Posterior
from bitbayes.rules import checks, engine, pretrained, scales, shards
from bitbayes.rules.marks import mark_drawn
from bitbayes.rules.rule import Belief, Count, O, Options, Rule

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

# Streams of noise. Streams 2 and 4 are those of posterior samples.
_START, _DRAW, _SHARED = 0, 1, 3


class Common(TypedDict, total=False):
    """Options that all rules share; `BinaryOptimizer` explains them."""

    samples: int
    scale: str
    scale_lr: float
    init: str | None
    seed: int | None
    compile: engine.Compile | None
    capturable: bool


# What the draws of a step say of one tensor: the mean of the rule's estimates, and of the slope of its scale.
Mean = tuple[Tensor, Tensor | None]

_NOT_OPTIONS = {"params", "param_names", "rule", "training", *Common.__annotations__}


class Place(NamedTuple):
    """One binary tensor among those of an optimizer.

    Attributes:
        number: Number of the tensor, which its noise is a function of.
        name: Name of the parameter; its number if it was given without one.
        parameter: The parameter.
        group: Its parameter group.
    """

    number: int
    name: str
    parameter: Parameter
    group: dict[str, Any]

    @property
    def own(self) -> Tensor:
        """The values that this process holds: all of them, unless `fully_shard` shares the parameter out."""
        return shards.local(self.parameter)


class BinaryOptimizer(Rule[O], torch.optim.Optimizer):
    """Base of all rules; subclasses define the pure functions and their options.

    The loop is torch's own: `backward`, `step`, `zero_grad`. After construction and after every step the parameters
    hold a draw from the belief; after `eval()` they hold the mode, exactly ±scale. All noise is a function of
    (seed, step, sample, tensor index), so (`model.state_dict()`, `optimizer.state_dict()`) resumes bit for bit.

    Args:
        params: Parameters, (name, parameter) pairs such as `bitbayes.split_parameters` returns, or groups.
        defaults: Options of the rule; groups may override them. Must contain `lr`.
        samples: Draws that `step(closure)` averages the update over.
        scale: Factor of ±1: "one", "fan_in" (1/√fan_in), or "channel" (learned, one per output channel, as
            XNOR-Net's and VISPA's factors).
        scale_lr: Learning rate of the logarithm of a "channel" scale.
        init: "random" as in the papers, or "weights": sign and relative size of the values that the tensors hold.
            None takes "random", unless a tensor looks trained (`bitbayes.rules.pretrained`): then "weights", with a
            warning.
        seed: Seed of the noise; None takes torch's own (`torch.initial_seed()`), of rank 0 in a distributed job.
        compile: Update and draw in one pass over memory where there is a compiler: "kernels" allows the C kernels of
            `bitbayes.kernels`, True also torch.compile, False neither. None chooses for each parameter group by its
            size. `optimizer.param_groups[0]["compile"]` has the choice, and `implementation` says what runs.
        capturable: Steps can be captured in a CUDA graph, and are counted on the device; `lr` is then best a tensor.
            Refused steps are reported by `eval`, `train`, `posterior` and `state_dict`, which wait for the device.

    Raises:
        ValueError: For options out of range, no parameters, a parameter given twice, or weights and parameters of
            fewer than two dimensions in one group without names, as `model.parameters()` has them.
        TypeError: If a subclass leaves a function of a rule undefined.
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
        compile: engine.Compile | None = None,
        capturable: bool = False,
    ) -> None:
        kind = type(self)
        if self.has_posterior and kind.natural is Rule.natural and kind.posterior is BinaryOptimizer.posterior:
            raise TypeError(f"{kind.__name__} has a posterior, so it must define natural() or posterior()")
        seed = shards.shared_seed() if seed is None else seed
        common: dict[str, Any] = dict(rule=kind.__name__, samples=samples, scale=scale, scale_lr=scale_lr, init=init)
        common |= dict(seed=seed, compile=compile, capturable=capturable, training=True)
        self.refusals = engine.Refusals()
        self._first_draws: dict[Parameter, int] = {}
        self._trained: str | None = None  # name of a parameter that looked trained, until that is said
        super().__init__(checks.not_empty(params), defaults | common)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "refusals"):  # a copy, which has refused nothing yet
            self.refusals = engine.Refusals()
            self._first_draws, self._trained = {}, None

    @property
    def training(self) -> bool:
        """Whether the parameters hold a draw (True) or the mode (False)."""
        return self.param_groups[0]["training"]

    @property
    def implementation(self) -> str:
        """What runs the updates: "kernel" (C), "torch.compile" or "eager"; several where tensors differ."""
        found = set()
        for place in self._places():
            state, noise, values = self.state[place.parameter], self._noise(place), place.own
            # What `scales.unit` lends, without its values.
            lent = "scale" in state or not values.is_contiguous()
            flat = values.new_empty(values.numel()) if lent else values.view(-1)
            o = self._options(place, state["step"] + 1)
            update = engine.Update(type(self), self._belief(place.parameter), flat, flat, o, noise, noise)
            found.add(engine.implementation(update, place.group["compile"]))
        return ", ".join(sorted(found))

    def named_binary(self) -> Iterator[tuple[str, Parameter]]:
        """Iterate over (name, parameter); parameters given without names are called "0", "1", ..."""
        return ((place.name, place.parameter) for place in self._places())

    @torch.no_grad()
    def named_mode(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, mode), exactly ±scale each, without touching the parameters."""
        self._report()
        for place in self._places():
            state, parameter = self.state[place.parameter], place.parameter
            unit = self.mode(self._belief(parameter), self._options(place, state["step"])).view(place.own.shape)
            mode = (unit * scales.value(state)).to(parameter.dtype)
            yield place.name, shards.like(parameter, mode.view(-1))

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a dictionary with "params" and options of this group, as in torch; they hold a draw at once."""
        known = {id(place.parameter) for place in self._places()}
        checks.parameters(param_group, known)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["training"] = self.training
        if group["compile"] is None:
            group["compile"] = engine.automatic(sum(parameter.numel() for parameter in group["params"]))
        try:
            checks.plain(group)
            checks.common(group)
            self.check(group)
            places = list(self._places())[len(known) :]
            if group["init"] is None:
                weights = ((place.name, shards.whole(place.parameter, place.own.reshape(-1))) for place in places)
                trained = pretrained.first_trained(weights)
                group["init"] = "random" if trained is None else "weights"
                self._trained = self._trained or trained
            states: dict[Tensor, Any] = {place.parameter: self._first_state(place) for place in places}
        except Exception:
            self.param_groups.pop()  # refused whole
            raise
        self.state.update(states)
        for place in places:
            self._show(place)
            if not place.parameter.is_inference():
                self._first_draws[place.parameter] = place.own._version

    def step(self, closure: Callable[[], Tensor | None] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update the beliefs from the gradients at the current draw, and draw the next weights.

        Args:
            closure: Clears the gradients, computes the loss, calls backward and returns the loss (or None, as the
                closures of some trainers do). With `samples > 1` it is called once for every draw, and the update is
                averaged over them. Without a closure the gradients at hand and one draw are used, and likewise with one
                that leaves all gradients as they are, which trainers pass where users call backward themselves.

        Returns:
            The mean loss over draws, or None if there is none.

        Raises:
            RuntimeError: If the parameters hold the mode, or a gradient is not finite (the beliefs are unchanged).
            TypeError: If a gradient is sparse, or the closure returns something else than a loss.
        """
        self.refusals.report()
        self._check_first_draws()
        if not self.training:
            raise RuntimeError(
                "step() needs the weights of a draw, but they are the mode; call optimizer.train() first"
            )
        loss, means, accept = None, None, None
        samples = self.param_groups[0]["samples"]
        if closure is not None and samples > 1:
            loss, means, accept = self._over_draws(closure, samples)
        elif closure is not None:
            loss = checks.loss(closure)
        with torch.no_grad(), engine.together() as queue:
            if means is None:
                accept = self._accept()
            for place in self._places():
                mean = None if means is None else means.get(place.parameter)
                if mean is not None or (means is None and place.parameter.grad is not None):
                    self._advance(place, mean, accept, queue)
        for place in self._places():
            mark_drawn(place.parameter, type(self).__name__)
        return loss

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Make the parameters hold the current draw (True) or the mode (False); return the optimizer itself."""
        self._report()
        self._check_first_draws()
        if mode != self.training:
            for group in self.param_groups:
                group["training"] = mode
            self._show_all()
        return self

    def eval(self) -> Self:
        """Make the parameters hold the mode, exactly ±scale: a network to deploy."""
        return self.train(False)

    def posterior(self) -> Posterior:
        """Return a copy of the posterior over the weights, keyed by parameter names.

        Of sharded parameters it is whole in every process, and all processes have to ask for it together.

        Raises:
            RuntimeError: If the rule keeps no posterior.
        """
        self._report()
        if not self.has_posterior:
            name = type(self).__name__
            raise RuntimeError(f"{name} keeps no posterior, only a point; use bitbayes.BayesBiNN for one")
        natural, scale = {}, {}
        for place in self._places():
            state, parameter = self.state[place.parameter], place.parameter
            flat = self.natural(self._belief(parameter), self._options(place, state["step"]))
            natural[place.name] = shards.whole(parameter, flat)
            scale[place.name] = shards.whole_scale(parameter, scales.value(state))
        return BernoulliPosterior(natural, scale)

    def state_dict(self) -> dict[str, Any]:
        """Return beliefs, steps, options and seed: all that resuming needs beside the model's own state.

        The beliefs of sharded parameters are DTensors of the parameter's shape, for `torch.distributed.checkpoint`.
        """
        self._report()
        found = super().state_dict()
        for place in self._places():
            found["state"][place.number] = shards.spread(found["state"][place.number], place.parameter)
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit, and write its draw (or mode) into the parameters.

        Args:
            state_dict: From `state_dict()` of the same rule over the same shapes.

        Raises:
            ValueError: If beliefs are missing, of another rule or shape, not float32, or not finite, or an option
                is out of range; nothing is changed then.
        """
        parameters = [place.parameter for place in self._places()]
        saved = checks.saved_state(state_dict, [(p, self.state[p]) for p in parameters], type(self).__name__)
        for group, own in zip(state_dict["param_groups"], self.param_groups, strict=False):
            options = own | group
            checks.common(options)
            self.check(options)
        mine = [dict(group) for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, mine, strict=True):
            group.update({name: own[name] for name in own.keys() - group.keys()})  # options that the saved state lacks
        for parameter, state in zip(parameters, saved, strict=True):
            # torch has cast the beliefs to the dtype of the parameter; put the exact ones in their place.
            self.state[parameter] = _copied(state, parameter.device)
        self._first_draws, self._trained = {}, None
        self._show_all()

    # Internals. -------------------------------------------------------------------------------------------------

    def _places(self) -> Iterator[Place]:
        members = [(group, at, member) for group in self.param_groups for at, member in enumerate(group["params"])]
        for index, (group, at, parameter) in enumerate(members):
            names: Sequence[str] | None = group.get("param_names")
            yield Place(index, names[at] if names else str(index), parameter, group)

    def _options(self, place: Place, step: Count, **more: Any) -> Any:
        """Return what the rule's functions read at a step."""
        plain = {key: value for key, value in place.group.items() if key not in _NOT_OPTIONS}
        number = step.double() if isinstance(step, Tensor) else step
        return Options(**plain | self.schedule(place.group, step) | more, step=number)

    def _first_state(self, place: Place) -> dict[str, Any]:
        """Return a belief to begin with, the number of its step and, where steps are capturable, a flag of refusal."""
        _, _, parameter, group = place
        count, device, seed = parameter.numel(), parameter.device, group["seed"]
        if group["init"] == "weights":
            start = pretrained.relative_size(parameter)
        else:
            start = Noise(stream_key(seed, _START, place.number), count, device).uniform() * 2 - 1
            start = F.sign(start) if self.start == "signs" else start
        more = Noise(stream_key(seed, _START, place.number, 1), count, device)
        # A transposed weight says so of itself, and copies of it do not: so its fans are asked for here alone.
        fans = scales.fans(parameter)
        state: dict[str, Any] = {"step": 0}
        if group["capturable"]:
            kinds = {"step": torch.int64, "refused": torch.bool}
            state = {name: torch.zeros((), dtype=kind, device=device) for name, kind in kinds.items()}
        belief = self.begin(start, more, self._options(place, 0, bound=math.sqrt(1.5 / sum(fans)), fan_in=fans[0]))
        state |= {"belief": belief} | scales.begin(parameter, group["scale"])
        return shards.own(state, parameter) if shards.is_sharded(parameter) else state

    def _belief(self, parameter: Tensor) -> Belief:
        """Return the belief, on the device where the parameter is now."""
        state = self.state[parameter]
        if any(t.device != parameter.device for t in state["belief"].values()):
            self.state[parameter] = state = _copied(state, parameter.device)
        return state["belief"]

    def _noise(self, place: Place, sample: int = 0) -> Noise:
        """Return the noise of the current draw; with the option `shared="network"` tensors have some in common."""
        group, step = place.group, self.state[place.parameter]["step"]
        key = stream_key(group["seed"], _DRAW, step, sample, place.number)
        own = [] if group.get("shared") == "network" else [place.number]
        shared = stream_key(group["seed"], _SHARED, step, sample, *own)
        span = shards.span(place.parameter)
        return Noise(key, span.stop - span.start, place.parameter.device, start=span.start, shared_key=shared)

    def _show(self, place: Place, sample: int = 0) -> None:
        """Write the current draw, or the mode, into one parameter."""
        belief, state = self._belief(place.parameter), self.state[place.parameter]
        o, noise = self._options(place, state["step"]), self._noise(place, sample)
        with scales.unit(place.own, state) as weights:
            if place.group["training"]:
                engine.redraw(type(self), belief, weights, o, noise, place.group["compile"])
            else:
                weights.copy_(self.mode(belief, o))
        mark_drawn(place.parameter, type(self).__name__ if place.group["training"] else None)

    @torch.no_grad()
    def _check_first_draws(self) -> None:
        """Say, before the first step, what became of weights that were there, or were loaded over the first draw."""
        rule, trained, versions = type(self).__name__, self._trained, self._first_draws
        self._first_draws, self._trained = {}, None
        if trained is not None:
            pretrained.warn_of_start(rule, trained)
        changed = []
        for place in self._places() if versions else ():
            if place.own._version != versions.get(place.parameter, place.own._version):
                found = place.own.clone()
                self._show(place)
                changed += [] if torch.equal(found, place.own) else [place.name]
        if changed:
            pretrained.warn_of_change(rule, changed[0])

    def _show_all(self, sample: int = 0) -> None:
        for place in self._places():
            self._show(place, sample)

    def _advance(self, place: Place, mean: Mean | None, accept: Tensor | None, queue: engine.Queue) -> None:
        """Update one tensor from the mean of several draws, or from the gradient at the only one."""
        _, _, parameter, group = place
        belief, state, values = self._belief(parameter), self.state[parameter], place.own
        with scales.unit(values, state) as weights:
            if mean is None:
                gradient = scales.unit_gradient(shards.local_gradient(parameter), state)
                slope = scales.slope(values, state, weights, gradient)
            else:
                gradient, slope = mean
            scales.learn(state, slope, group["scale_lr"], accept)
            drawn = self._noise(place)
            state["step"] += 1
            o = self._options(place, state["step"])
            noises = drawn, self._noise(place)
            update = engine.Update(type(self), belief, gradient, weights, o, *noises, mean is not None, accept)
            # A copy of the weights has to be written back at once.
            own = weights.data_ptr() == values.data_ptr()
            engine.advance(update, compile=group["compile"], queue=queue if own else None)

    def _over_draws(
        self, closure: Callable[[], Tensor | None], samples: int
    ) -> tuple[Tensor | None, dict[Tensor, Mean] | None, Tensor | None]:
        """Call the closure at each draw of a step; nothing is learned here.

        Returns:
            The mean loss, what the draws say of each tensor with a gradient (None if the closure computes no gradient),
            and whether to accept the step.

        Raises:
            NotFiniteError: If a gradient is not finite. The weights are then those of before the call.
        """
        losses: list[Tensor] = []
        means: dict[Tensor, Mean] = {}
        accept: Tensor | None = None
        try:
            for sample in range(samples):
                if sample > 0:
                    with torch.no_grad():
                        self._show_all(sample)
                gradients = self._gradients()
                loss = checks.loss(closure)
                if sample == 0 and loss is None and gradients == self._gradients():
                    return None, None, None
                losses += [] if loss is None else [loss.detach()]
                with torch.no_grad():
                    fine = self._accept()
                    accept = fine if accept is None or fine is None else accept & fine
                    for place in self._places():
                        if place.parameter.grad is not None:
                            before = means.get(place.parameter)
                            means[place.parameter] = self._added(place, sample, samples, before)
        except BaseException:
            with torch.no_grad():
                self._show_all()
            raise
        return torch.stack(losses).mean() if losses else None, means, accept

    def _gradients(self) -> list[tuple[int, int, Tensor | None]]:
        """Return what tells whether a gradient has changed; the tensors are kept so that no other has their id."""
        found = [place.parameter.grad for place in self._places()]
        return [(id(gradient), 0 if gradient is None else gradient._version, gradient) for gradient in found]

    def _added(self, place: Place, sample: int, samples: int, mean: Mean | None) -> Mean:
        """Add what the current draw says of one tensor to what those before it said."""
        parameter, values = place.parameter, place.own
        belief, state = self._belief(parameter), self.state[parameter]
        with scales.unit(values, state) as weights:
            gradient = scales.unit_gradient(shards.local_gradient(parameter), state)
            slope = scales.slope(values, state, weights, gradient)
            o, noise = self._options(place, state["step"] + 1), self._noise(place, sample)
            update = engine.Update(type(self), belief, gradient, weights, o, noise, noise)
            estimate, slopes = (None, None) if mean is None else mean
            if slope is not None:
                slope = slope / samples if slopes is None else slopes + slope / samples
            return engine.accumulate(update, samples, estimate), slope

    def _accept(self) -> Tensor | None:
        """Refuse non-finite gradients: at once on a CPU; on a GPU by a flag on the device, reported later."""
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
        # Inside a CUDA graph nothing can be sent or asked for: refusals are noted on the device.
        flags = engine.finite_flags(list(gradients.values()))
        flags = flags if agree is None else agree(flags)
        for parameter, fine in zip(given.values(), flags, strict=True):
            self._belief(parameter)  # so that the note is where the gradient is
            self.state[parameter]["refused"].logical_or_(~fine)
        return flags.all()

    def _report(self) -> None:
        """Raise NotFiniteError for refused steps, also for those that capturable steps have noted on the device."""
        self.refusals.report()
        if self.param_groups[0]["capturable"]:
            noted = {place.name: self.state[place.parameter]["refused"] for place in self._places()}
            bad = [name for name, flag in noted.items() if flag]
            for name in bad:
                noted[name].zero_()
            engine.refuse(bad)


def _copied(state: Any, device: torch.device) -> Any:
    """Return a deep copy of one parameter's state on a device, dtypes kept."""
    if isinstance(state, Tensor):
        return state.detach().to(device, copy=True)
    return {key: _copied(value, device) for key, value in state.items()} if isinstance(state, dict) else state
