"""Lightning: the guide and the callback by its package where it is installed, its wrapper also by an imitation."""

from __future__ import annotations

import copy
import functools
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
from nested import equal
from test_docs import blocks

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trainers.md"


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


@pytest.fixture(scope="module")
def guide() -> dict[str, Any]:
    """Return what the first block of the guide defines."""
    lightning()
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(blocks(PAGE, "py")[0][1], str(PAGE), "exec"), found)
    return found


STEPS = 40


def run(guide: dict[str, Any], *, epochs: int, resume: Path | None = None, samples: int = 1, **options: Any) -> Any:
    """Train the network of the guide in its trainer, and note the weights that each validation saw."""

    class Module(guide["Classifier"]):
        def on_validation_start(self) -> None:
            found = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            modes = {name: mode.clone() for name, mode in self.trainer.optimizers[0].binary.named_mode()}
            self.seen = [*getattr(self, "seen", []), (found, modes)]

        def configure_optimizers(self) -> Any:
            found = super().configure_optimizers()
            found[0][0].binary.param_groups[0]["samples"] = samples
            return found

        def on_train_epoch_start(self) -> None:
            self.trained_in = self.trainer.optimizers[0].training

    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    dataset = torch.utils.data.TensorDataset(x, x[:, :4].argmax(1))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    module = Module(network, examples=64, steps=STEPS)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    quiet |= dict(max_epochs=epochs, accelerator="cpu", gradient_clip_val=1.0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    guide["fit"](module, loader, loader, None if resume is None else str(resume), **quiet | options)
    return module


def everything(module: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {"network": module.network.state_dict(), "optimizer": module.trainer.optimizers[0].state_dict()}
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", [1, 2])
def test_lightning_trains_and_resumes_bit_for_bit(guide: dict[str, Any], samples: int, tmp_path: Path) -> None:
    whole = run(guide, epochs=4, samples=samples)
    half = run(guide, epochs=2, samples=samples)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = run(guide, epochs=4, samples=samples, resume=tmp_path / "half.ckpt")
    assert resumed.trained_in and resumed.trainer.global_step == 16
    one, other, before = everything(whole), everything(resumed), everything(half)
    assert equal(one["network"], other["network"])
    assert equal(one["optimizer"], other["optimizer"])
    assert not equal(before["optimizer"]["state"], other["optimizer"]["state"])
    assert whole.trainer.callback_metrics["accuracy"] > 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", [1, 3])
def test_lightning_accumulates_with_several_draws(guide: dict[str, Any], samples: int) -> None:
    """The gradient of the first micro-batch counts once at every draw, beside that of the second, as by hand."""
    module = run(guide, epochs=2, samples=samples, accumulate_grad_batches=2)
    theirs = module.trainer.optimizers[0]
    assert module.trainer.global_step == 4
    torch.manual_seed(0)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    [optimizer], [schedule] = guide["Classifier"](network, examples=64, steps=STEPS).configure_optimizers()
    optimizer.binary.param_groups[0]["samples"] = samples
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def backward(part: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(network(part), part[:, :4].argmax(1)) / 2
        value.backward()
        return value

    for first, second in 2 * list(zip(x.split(16)[::2], x.split(16)[1::2], strict=True)):
        optimizer.zero_grad()
        backward(first)
        earlier = [parameter.grad.clone() for parameter in parameters]

        def closure(second: Tensor = second, earlier: list[Tensor] = earlier) -> Tensor:
            for parameter, gradient in zip(parameters, earlier, strict=True):
                parameter.grad = gradient.clone()
            value = backward(second)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            return value

        optimizer.step(closure)
        schedule["scheduler"].step()
    assert equal(optimizer.state_dict()["state"], theirs.state_dict()["state"])
    optimizer.eval()
    assert all(torch.equal(*both) for both in zip(network.parameters(), module.network.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")
def test_validation_checkpoints_and_the_end_have_the_mode(guide: dict[str, Any], tmp_path: Path) -> None:
    """Also a checkpoint that Lightning writes while training goes on, after validation has returned to the draw."""
    L = lightning()
    saver = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_weights_only=False)
    mode = guide["ModeCallback"]
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    def fit(module: Any, training: Any, validation: Any, resume: Any, **options: Any) -> None:
        trainer = L.Trainer(callbacks=[mode([(x[:32],), (x[32:],)]), saver], **options)
        trainer.fit(module, training, validation)

    module = run(guide | {"fit": fit}, epochs=2, enable_checkpointing=True)
    assert len(module.seen) == 3  # one before training
    for found, modes in module.seen:
        assert all(torch.equal(found[name], mode) for name, mode in modes.items())
        network = nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        network.load_state_dict(found)
        bb.refresh_batchnorm(network, [x[:32], x[32:]])
        assert equal(dict(network.state_dict()), found)
    for epoch, (_, modes) in enumerate(module.seen[1:]):
        checkpoint = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["training"]  # it was not the end
        assert all(torch.equal(checkpoint["state_dict"][f"network.{name}"], mode) for name, mode in modes.items())
    optimizer = module.trainer.optimizers[0]
    assert not optimizer.training
    for (_, parameter), (_, signs) in zip(optimizer.binary.named_binary(), optimizer.binary.named_mode(), strict=True):
        assert torch.equal(parameter, signs) and (parameter.abs() == 1).all()


@pytest.mark.filterwarnings("ignore")
def test_shuffled_batches_for_batchnorm_leave_the_random_numbers_of_training(guide: dict[str, Any]) -> None:
    L = lightning()
    mode, found = guide["ModeCallback"], []
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    shuffled = torch.utils.data.DataLoader(x, batch_size=16, shuffle=True)
    for batches in (None, shuffled):

        def fit(
            module: Any, training: Any, validation: Any, resume: Any, batches: Any = batches, **options: Any
        ) -> None:
            L.Trainer(callbacks=[mode(batches)], **options).fit(module, training, validation)

        run(guide | {"fit": fit}, epochs=1)
        found.append(torch.rand(3))
    assert torch.equal(*found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("samples", [1, 2])
def test_checkpoints_between_evaluations_have_statistics_of_the_mode(
    guide: dict[str, Any], samples: int, tmp_path: Path
) -> None:
    """Training goes on as without them, and as from them."""
    L = lightning()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    batches, mode = [(x[:32],), (x[32:],)], guide["ModeCallback"]

    def trained(*others: Any, **options: Any) -> Any:
        def fit(module: Any, training: Any, validation: Any, resume: Any, **options: Any) -> None:
            trainer = L.Trainer(callbacks=[mode(batches), *others], **options)
            trainer.fit(module, training, None, ckpt_path=resume)

        return run(guide | {"fit": fit}, epochs=2, samples=samples, **options)

    saver = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2)
    module = trained(saver, enable_checkpointing=True)
    assert equal(everything(module), everything(trained()))
    for step in (2, 4, 6):
        checkpoint = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["training"]
        state = {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}
        network = nn.Sequential(nn.Linear(6, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        network.load_state_dict(state)
        assert (network[0].weight.abs() == 1).all()
        bb.refresh_batchnorm(network, [x[:32], x[32:]])
        assert equal(dict(network.state_dict()), state)
    # Within an epoch, Lightning would begin again with the first batch.
    assert equal(everything(module), everything(trained(resume=tmp_path / "step=4.ckpt")))


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_leaves_the_statistics_of_training_and_counts_its_batches(
    guide: dict[str, Any], tmp_path: Path
) -> None:
    """Batches are iterated again only if training has changed the statistics since the last evaluation."""
    L = lightning()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    counts: list[int] = []

    class Batches:
        def __iter__(self) -> Any:
            counts.append(1)
            return iter([(x,)])

    class Saver(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *parts: Any) -> None:
            before = copy.deepcopy(pl_module.state_dict())
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            assert equal(before, dict(pl_module.state_dict())) and pl_module.network[1].training
            self.changed = torch.load(tmp_path / "now.ckpt", weights_only=True)["state_dict"]
            assert not torch.equal(self.changed["network.1.running_mean"], before["network.1.running_mean"])

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            so_far = len(counts)
            trainer.save_checkpoint(tmp_path / "now.ckpt")
            assert len(counts) == so_far  # validation has just been

    def fit(module: Any, training: Any, validation: Any, resume: Any, **options: Any) -> None:
        L.Trainer(callbacks=[guide["ModeCallback"](Batches()), Saver()], **options).fit(module, training, validation)

    run(guide | {"fit": fit}, epochs=1)
    assert len(counts) == 1 + 4 + 1 + 1  # before training, four steps, validation, and the end


@pytest.mark.filterwarnings("ignore")
def test_a_module_without_a_rule_is_refused(guide: dict[str, Any]) -> None:
    L = lightning()

    class Plain(guide["Classifier"]):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = L.Trainer(callbacks=[guide["ModeCallback"]()], max_epochs=1, accelerator="cpu", **quiet)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.argmax(1)), batch_size=16)
    with pytest.raises(TypeError, match=r"ModeCallback needs .*, but the module's optimizer is SGD; return") as caught:
        trainer.fit(Plain(nn.Linear(6, 6), examples=64, steps=4), loader)
    assert "\n" not in str(caught.value)
