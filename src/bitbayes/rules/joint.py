"""`JointOptimizer`: a learning rule and the optimizer of the real parameters as one optimizer, for trainers of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from bitbayes.rules.optimizer import BinaryOptimizer
from bitbayes.rules.places import EarlierGradients


class JointOptimizer(torch.optim.Optimizer):
    """A learning rule and an optimizer of the real parameters as one `torch.optim.Optimizer`.

    Trainers such as those of Hugging Face and Lightning take one optimizer. Each parameter group keeps its own options,
    so a learning-rate schedule scales each group from its own `lr`. The groups and the state are those of the two
    parts and not copies, so the parts stay usable, for example `optimizer.binary.posterior()`.

    Args:
        binary: Learning rule of the binary parameters. Its groups come first.
        real: Optimizer of the real parameters, such as `torch.optim.AdamW`.

    Attributes:
        binary: The learning rule.
        real: The optimizer of the real parameters.

    Raises:
        TypeError: If a part is not an optimizer of its kind, such as a second rule as `real`, or if `real` cannot step
            without a closure, as LBFGS cannot.
        ValueError: If both parts have the same parameter.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> binary, real = bb.split_parameters(model)
        >>> optimizer = bb.JointOptimizer(
        ...     bb.BayesBiNN(binary, lr=0.1, ess=100, seed=0), torch.optim.AdamW([p for _, p in real], lr=0.01)
        ... )
        >>> schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        >>> model(torch.ones(2, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> schedule.step()
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.05, 0.005]
        >>> optimizer.eval().training
        False
    """

    binary: BinaryOptimizer[Any]
    real: torch.optim.Optimizer

    def __init__(self, binary: BinaryOptimizer[Any], real: torch.optim.Optimizer) -> None:
        if not isinstance(binary, BinaryOptimizer):
            raise TypeError(f"binary must be a learning rule such as bitbayes.BayesBiNN, got {type(binary).__name__}")
        if not isinstance(real, torch.optim.Optimizer):
            raise TypeError(f"real must be an optimizer such as torch.optim.AdamW, got {type(real).__name__}")
        if isinstance(real, (BinaryOptimizer, JointOptimizer)):
            raise TypeError(
                f"real must not be a learning rule, got {type(real).__name__}; put all binary parameters into "
                "groups of one rule"
            )
        closure = inspect.signature(real.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise TypeError(
                f"{type(real).__name__} computes the loss several times per step, at weights that a rule would draw "
                "anew; choose an optimizer whose step() needs no closure, such as torch.optim.AdamW"
            )
        names = {id(parameter): name for name, parameter in binary.named_binary()}
        for parameter in _parameters(real):
            if id(parameter) in names:
                raise ValueError(
                    f"parameter {names[id(parameter)]!r} belongs to both optimizers; give the second list of "
                    "bitbayes.split_parameters(model) to the real one"
                )
        # Not Optimizer.__init__, which would make groups and a state of its own. Unpickling sets up all the rest.
        shared = {"momentum", "betas"} & binary.defaults.keys() & real.defaults.keys()  # what OneCycleLR looks for
        defaults = {name: binary.defaults[name] for name in sorted(shared)}
        super().__setstate__({"defaults": defaults, "binary": binary, "real": real})

    def __getstate__(self) -> dict[str, Any]:
        """Return the parts; as in torch, hooks and the wrappers of schedulers are not copied."""
        return {"defaults": self.defaults, "binary": self.binary, "real": self.real}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Parameter groups of the rule, followed by those of the real optimizer, as a new list of the same groups."""
        return [*self.binary.param_groups, *self.real.param_groups]

    @property
    def state(self) -> Mapping[Tensor, Any]:  # type: ignore[override]
        """State of every parameter of both parts. Change it through `binary.state` and `real.state`."""
        return MappingProxyType({**self.binary.state, **self.real.state})

    @property
    def training(self) -> bool:
        """Whether the binary parameters hold a draw (True) or the mode (False)."""
        return self.binary.training

    def train(self, mode: bool = True) -> Self:
        """Write the current draw (True) or the mode (False) into the binary parameters, and return the optimizer.

        A real optimizer with such modes of its own, such as those of the package schedulefree, is also switched.
        """
        self.binary.train(mode)
        switch = getattr(self.real, "train" if mode else "eval", None)
        if callable(switch):
            switch()
        return self

    def eval(self) -> Self:
        """Write the mode, exactly ±scale, into the binary parameters: the network to deploy."""
        return self.train(False)

    def step(self, closure: Callable[[], Tensor | None] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update the real parameters and the beliefs, and draw the next binary weights.

        Args:
            closure: The same as in `BinaryOptimizer.step`. If the rule calls it for several draws (`samples > 1`), the
                real parameters are also updated with the mean of their gradients over the draws.

        Returns:
            The mean loss over draws, or None if there is no loss.

        Raises:
            RuntimeError: If the rule refuses the step. The real parameters are then unchanged, too, and with several
                draws also their gradients. On a GPU and with capturable steps the rule refuses later, without waiting
                for the device, and the real parameters have taken their step by then.
        """
        several = closure is not None and self.binary.param_groups[0]["samples"] > 1
        draws = 0
        totals: dict[Tensor, Tensor] = {}
        earlier = EarlierGradients(_parameters(self.real) if several else ())

        def added() -> Tensor | None:
            nonlocal draws
            assert closure is not None
            if draws > 0:
                earlier.put_back()
            loss, draws = closure(), draws + 1
            for parameter in _parameters(self.real):
                if parameter.grad is not None:
                    gradient = parameter.grad.detach()  # create_graph=True would keep the graphs of all draws
                    total = totals.get(parameter)
                    totals[parameter] = gradient.clone() if total is None else total + gradient
            return loss

        try:
            loss = self.binary.step(added if several else closure)
        except BaseException:
            if several:
                earlier.put_back()  # a retry must not count the gradients of this attempt
            raise
        for parameter, total in totals.items():  # a closure that computes nothing is called once, and changes nothing
            parameter.grad = total / draws
        self.real.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        """Raise RuntimeError, because only the caller knows which part a group belongs to."""
        raise RuntimeError(
            "a group of a JointOptimizer belongs to one of its parts; call optimizer.binary.add_param_group(...) or "
            "optimizer.real.add_param_group(...), before a scheduler is constructed"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts in the form of a single optimizer of torch, the binary parameters first."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        binary, real = self.binary.state_dict(), self.real.state_dict()
        first = sum(len(group["params"]) for group in binary["param_groups"])
        state = binary["state"] | {first + number: entries for number, entries in real["state"].items()}
        groups = [group | {"params": [first + number for number in group["params"]]} for group in real["param_groups"]]
        joined = real | {"state": state, "param_groups": [*binary["param_groups"], *groups]}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, joined)
            joined = joined if changed is None else changed
        return joined

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both parts bit for bit, and write the draw or the mode into the binary parameters.

        Args:
            state_dict: Return value of `state_dict()` of a JointOptimizer with the same rule, shapes and groups.

        Raises:
            ValueError: If one of the parts refuses its state. Both parts are then unchanged.
        """
        state_dict = state_dict.copy()  # as torch does, for hooks that change entries
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        saved, mine = state_dict.get("param_groups", []), len(self.binary.param_groups)
        if len(saved) != len(self.param_groups):
            raise ValueError(
                f"the saved state has {len(saved)} parameter groups, but this JointOptimizer has {mine} binary and "
                f"{len(self.real.param_groups)} real ones; load what state_dict() of such an optimizer returned"
            )

        def part(groups: list[dict[str, Any]]) -> dict[str, Any]:
            numbers = {number for group in groups for number in group["params"]}
            state = {number: entries for number, entries in state_dict["state"].items() if number in numbers}
            return state_dict | {"state": state, "param_groups": groups}

        before = {"state": self.real.state, "param_groups": self.real.param_groups}
        self.real.load_state_dict(part(saved[mine:]))
        try:
            self.binary.load_state_dict(part(saved[:mine]))
        except Exception:  # the rule is unchanged; loading has replaced the real state without writing into the old one
            self.real.__setstate__(before)
            raise
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
