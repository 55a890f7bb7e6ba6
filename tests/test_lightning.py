"""Lightning with manual optimisation, by its package where it is installed, and by an imitation of its wrapper."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
import needs
from laws import data, every_rule, loss, pair, same, snapshot, steps

PAGE = Path(__file__).resolve().parent.parent / "docs" / "binarise.md"


def do_nothing() -> None:
    """What Lightning's wrapper passes as the closure where users call backward themselves."""


class LightningOptimizer:
    """As in lightning.pytorch.core.optimizer (2.6): of the optimizer's class, with a step that passes a closure."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self.__class__: Any = type("Lightning" + type(optimizer).__name__, (type(self), type(optimizer)), {})

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Pass the closure on as the strategy and the precision plugin do."""
        wrapped = functools.partial(self._wrap_closure, closure or do_nothing)
        return self._optimizer.step(closure=wrapped, **kwargs)

    @staticmethod
    def _wrap_closure(closure: Callable[[], Any]) -> Any:
        return closure()

    def __getattr__(self, item: str) -> Any:
        return getattr(self._optimizer, item)


@every_rule
@pytest.mark.parametrize("samples", [1, 3])
def test_manual_optimisation_is_the_plain_loop(rule: str, samples: int) -> None:
    """Also with several draws a step, for which the gradient at hand is of one draw only."""
    model, optimizer = pair(rule, samples=samples)
    twin, other = pair(rule, samples=samples)
    wrapped, (x, y) = LightningOptimizer(other), data()
    for _ in range(3):
        steps(model, optimizer, 1)
        wrapped.zero_grad()
        loss(twin, x, y).backward()
        assert wrapped.step() is None
    assert same(snapshot(model, optimizer), snapshot(twin, other))


@pytest.mark.parametrize("samples", [1, 3])
def test_a_closure_that_returns_nothing_learns_as_one_that_returns_the_loss(samples: int) -> None:
    """As in the automatic optimisation of one network without real parameters."""
    found = []
    for silent in (True, False):
        model, optimizer = pair("bayesbinn-concrete", samples=samples)
        wrapped, (x, y) = LightningOptimizer(optimizer), data()

        def closure(model: nn.Module = model, optimizer: Any = wrapped, silent: bool = silent) -> Tensor | None:
            optimizer.zero_grad()
            value = loss(model, x, y)  # noqa: B023
            value.backward()
            return None if silent else value

        for _ in range(3):
            assert (wrapped.step(closure) is None) == silent
        found.append(snapshot(model, optimizer))
    assert same(*found)


def test_the_wrapper_switches_the_optimizer() -> None:
    model, optimizer = pair("bayesbinn-straight-through")
    wrapped: Any = LightningOptimizer(optimizer)
    assert isinstance(wrapped, bb.BayesBiNN)
    wrapped.eval()
    assert not optimizer.training and torch.equal(model[0].weight, dict(optimizer.named_mode())["0.weight"])
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) first"):
        wrapped.step()
    wrapped.train()
    assert optimizer.training and wrapped.posterior().shapes == optimizer.posterior().shapes


def lightning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return needs.LIGHTNING.module("lightning")


def example(name: str) -> Any:
    """Return what the page defines under a name."""
    block = re.search(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    namespace: dict[str, Any] = {}
    exec(compile(block.group(1), str(PAGE), "exec"), namespace)
    return namespace[name]


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_validates_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """With the module of the page: two optimizers, validation of the mode, checkpoints."""
    L = lightning()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    dataset = torch.utils.data.TensorDataset(x, x[:, :4].argmax(1))
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)

    class Module(example("Binary")):
        """Keeps the weights that it was validated with."""

        def validation_step(self, batch: Any, index: int) -> None:
            self.validated = {name: parameter.detach().clone() for name, parameter in self.network.named_parameters()}
            super().validation_step(batch, index)

    def trained(epochs: int, resume: Path | None = None) -> Any:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        module = Module(network, examples=64)
        quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(module, loader, loader, ckpt_path=None if resume is None else str(resume))
        return module, trainer

    module, trainer = trained(2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = trained(4, tmp_path / "two.ckpt")
    whole, trainer = trained(4)
    states = [(m.state_dict(), m.optimizers()[0].state_dict()["state"]) for m in (module, resumed, whole)]
    for (name, one), other in zip(states[1][0].items(), states[2][0].values(), strict=True):
        assert torch.equal(one, other), name
    assert not torch.equal(states[0][1][0]["belief"]["natural"], states[2][1][0]["belief"]["natural"])
    assert torch.equal(states[1][1][0]["belief"]["natural"], states[2][1][0]["belief"]["natural"])
    assert whole.optimizers()[0].training and trainer.callback_metrics["accuracy"] > 0.5
    mode = {name: signs for name, signs in whole.optimizers()[0].named_mode()}
    assert all(torch.equal(whole.validated[name], signs) for name, signs in mode.items())
