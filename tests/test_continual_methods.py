"""Methods against forgetting, each against independent truth; streams with a memory that are interrupted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
from bitbayes.lab.continual import (
    EWC,
    SI,
    Coreset,
    Memory,
    NoMemory,
    Replay,
    StreamResult,
    StreamSettings,
    Task,
    fisher_diagonal,
    penalties,
    permuted_tasks,
    run_stream,
    split_tasks,
)
from bitbayes.lab.data import AUGMENTATIONS, DataBundle, TensorData, batches, from_arrays, load_digits
from bitbayes.lab.report.figures import stream_figures, task_curves_figure, weights_figure
from bitbayes.lab.studies.streams import find_method
from bitbayes.lab.train import CROSS_ENTROPY, Experiment, SilentProgress, build_experiment
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.measure import mode_weights
from generated import write
from nested import equal
from streams import bundle, config, network, stream

MEMORIES = [
    EWC(strength=30.0, examples=64),
    SI(strength=3.0, damping=1e-3),
    Replay(examples=16),
    Coreset(examples=16, steps=20),
]
RUN = config(Path("unused"), "ste")
every_memory = pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.name)
every_teacher = pytest.mark.parametrize("memory", MEMORIES[:3], ids=lambda memory: memory.name)


def begun(memory: Memory, build=network) -> tuple[Experiment, list]:
    """The experiment of a stream that begins, and its tasks."""
    tasks = list(permuted_tasks(bundle(), 2))
    experiment = build_experiment(config(Path("unused"), "full-precision"), build, tasks[0].data, CROSS_ENTROPY)
    experiment.hooks = memory
    memory.begin(experiment)
    return experiment, tasks


def penalty_gradient(memory: Memory, model: nn.Module) -> dict[str, Tensor]:
    """What the memory adds to gradients of zero."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    memory.before_update()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def moved(model: nn.Module, seed: int) -> None:
    """Puts the weights somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("entries", [1, 600, 1 << 24])
def test_fisher_against_a_loop_over_examples_and_labels(monkeypatch, entries: int) -> None:
    monkeypatch.setattr(penalties, "_ENTRIES", entries)  # one example at a time, a few, all
    torch.manual_seed(0)
    model = bb.nn.mlp(5, [4], 3).double()
    model(torch.randn(50, 5).double())  # statistics of BatchNorm that are not those of the start
    model.eval()
    x = torch.randn(7, 5).double()
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for one in x:
        logs = model(one[None])[0].log_softmax(0)
        for log in logs:
            for total, slope in zip(
                expected.values(), torch.autograd.grad(log, list(model.parameters()), retain_graph=True), strict=True
            ):
                total += log.exp().detach() * slope.square() / len(x)
    found = fisher_diagonal(model, x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        fisher_diagonal(model.train(), x)


def test_ewc_pulls_to_the_weights_of_every_task() -> None:
    memory = EWC(strength=7.0, examples=40)
    experiment, tasks = begun(memory)
    model, kept = experiment.model, []
    assert all((grad == 0).all() for grad in penalty_gradient(memory, model).values())
    run = config(Path("unused"), "full-precision")
    for number, task in enumerate(tasks):
        moved(model, number)
        with mode_weights(experiment, run.refresh_batches, run.precision) as settled:
            x, _ = next(batches(task.data.train, 40, seed=run.seed, shuffle=True))
            kept.append((fisher_diagonal(settled, x), {n: p.detach().clone() for n, p in model.named_parameters()}))
        memory.end_task(task, experiment, run)
    moved(model, 9)
    again, state = EWC(strength=7.0), memory.state_dict()
    again.begin(experiment)
    again.load_state_dict(state)
    assert equal(penalty_gradient(again, model), penalty_gradient(memory, model))
    loss = sum(
        7.0 / 2 * (fisher[name] * (p - old[name]).square()).sum()
        for fisher, old in kept
        for name, p in model.named_parameters()
    )
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for found, truth in zip(penalty_gradient(memory, model).values(), expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-7)


def test_si_against_its_equations() -> None:
    c, xi = 5.0, 0.01
    memory = SI(strength=c, damping=xi)
    torch.manual_seed(0)
    experiment, tasks = begun(memory, lambda: nn.Linear(12, 4))
    model, run = experiment.model, config(Path("unused"), "full-precision")
    parameters = list(model.parameters())
    importance = [torch.zeros_like(p) for p in parameters]
    anchor = [p.detach().clone() for p in parameters]
    for task in tasks:
        path = [torch.zeros_like(p) for p in parameters]
        for x, y in batches(task.data.train, 40):
            plain = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), parameters)
            old = [p.detach().clone() for p in parameters]
            training_step(run, experiment, x, y)
            for omega, g, p, before in zip(path, plain, parameters, old, strict=True):
                omega -= g * (p.detach() - before)
        memory.end_task(task, experiment, run)
        for i, p in enumerate(parameters):
            gained = path[i] / ((p.detach() - anchor[i]).square() + xi)
            importance[i] = (importance[i] + gained).clamp(min=0)
            anchor[i] = p.detach().clone()
    moved(model, 9)
    loss = c * sum(
        (omega * (p - old).square()).sum() for omega, p, old in zip(importance, parameters, anchor, strict=True)
    )
    expected = torch.autograd.grad(loss, parameters)
    for found, truth in zip(penalty_gradient(memory, model).values(), expected, strict=True):
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)
    for path in memory.path.values():
        path.fill_(-1e6)  # a weight that raised the loss is held by nothing, and never pushed away
    memory.end_task(tasks[0], experiment, run)
    moved(model, 10)
    assert all((grad == 0).all() for grad in penalty_gradient(memory, model).values())


class TestReplay:
    def learned(self, count: int, examples: int) -> tuple[Replay, list]:
        """The memory after all tasks but the last."""
        memory, tasks = Replay(examples), list(permuted_tasks(bundle(), count))
        experiment = build_experiment(config(Path("unused"), "ste"), network, tasks[0].data, CROSS_ENTROPY)
        for task in tasks[:-1]:
            memory.training_data(task, RUN)
            memory.end_task(task, experiment, config(Path("unused"), "ste"))
        return memory, tasks

    def test_buffer(self) -> None:
        memory, tasks = self.learned(3, examples=16)
        rows = []
        for kept, task in zip(memory.kept, tasks, strict=False):
            assert len(kept) == 16
            at = [int((task.data.train.x == x).all(1).nonzero()[0]) for x in kept.x]
            assert len(set(at)) == 16 and torch.equal(kept.y, task.data.train.y[at])
            rows.append(at)
        assert len(rows) == 2 and rows[0] != rows[1] and rows[0] != list(range(16))
        again, _ = self.learned(3, examples=16)
        assert all(torch.equal(a.x, b.x) for a, b in zip(memory.kept, again.kept, strict=True))

    def test_all_old_tasks_are_replayed_where_more_is_kept_than_a_task_has(self) -> None:
        memory, tasks = self.learned(4, examples=200)  # 600 kept, 240 new
        old = memory.training_data(tasks[-1], RUN).train.x[240:]
        counts = [sum(bool((kept.x == x).all(1).any()) for x in old) for kept in memory.kept]
        assert counts == [80, 80, 80]

    def test_an_epoch_has_as_many_old_examples_as_new_ones(self) -> None:
        memory, tasks = self.learned(3, examples=20)
        mixed, own = memory.training_data(tasks[2], RUN).train, tasks[2].data.train
        assert len(mixed) == 2 * len(own) == 480
        assert torch.equal(mixed.x[:240], own.x) and torch.equal(mixed.y[:240], own.y)
        for kept in memory.kept:  # 240 places among 40 old examples
            for x, y in zip(kept.x, kept.y, strict=True):
                assert int(((mixed.x[240:] == x).all(1) & (mixed.y[240:] == y)).sum()) == 6
        mine = own.inputs(torch.arange(240))
        shuffled = batches(mixed, 40, seed=1, epoch=1, shuffle=True)
        news = [int((x[:, None] == mine).all(2).any(1).sum()) for x, _ in shuffled]
        assert len(news) == 12 and sum(news) == 240 and all(0 < new < 40 for new in news)
        assert memory.training_data(tasks[2], RUN).test is tasks[2].data.test

    def test_more_examples_than_there_are(self) -> None:
        memory, tasks = self.learned(2, examples=1000)
        assert len(memory.kept[0]) == 240
        assert memory.training_data(tasks[1], RUN).train.x[240:].unique(dim=0).shape[0] == 240


def test_metaplastic_steps_against_adams_own() -> None:
    """Torch's Adam says where a latent weight would go; a step towards zero is damped by 1 − tanh²(m v)."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 8))
    m = 1.35
    optimizer = bb.STE([weight], lr=0.2, metaplasticity=m, clip=None, seed=3)
    latent = optimizer.state[weight]["belief"]["latent"].double().clone().requires_grad_()
    theirs = torch.optim.Adam([latent], lr=0.2)
    drift, damped = torch.randn(64), 0
    for _ in range(40):
        gradient = drift + 2 * torch.randn(64)
        weight.grad = gradient.view(8, 8).clone()
        optimizer.step()
        before = latent.detach().clone()
        latent.grad = gradient.double()
        theirs.step()
        step = latent.detach() - before
        factor = torch.where(before * step < 0, 1 - torch.tanh(m * before) ** 2, 1.0)
        damped += int((factor < 0.5).sum())
        latent.data.copy_(before + factor * step)
        torch.testing.assert_close(
            optimizer.state[weight]["belief"]["latent"].double(), latent.detach(), rtol=1e-4, atol=1e-5
        )
    assert damped > 100
    with pytest.raises(ValueError, match="metaplasticity must be positive, or None"):
        bb.STE([weight], metaplasticity=-1.0)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory) -> StreamResult:
    """A stream with no memory."""
    return stream(tmp_path_factory.mktemp("forgetful"), "full-precision", epochs=8)


@every_teacher  # a coreset changes the evaluation alone
def test_old_tasks_are_held(tmp_path: Path, memory: Memory, forgetful: StreamResult) -> None:
    kept, lost = stream(tmp_path, "full-precision", epochs=8, memory=memory), forgetful
    assert kept.matrix.average[-1] > lost.matrix.average[-1] + 5
    assert kept.matrix.rows[0] == lost.matrix.rows[0]  # there is nothing to hold in the first task
    assert kept.summary["method"] == memory.name and kept.summary["method_options"] == memory.options
    weights = 12 * 32 + 32 * 4 + 1  # and a logit scale
    each = {"ewc": 2 * 4 * weights, "si": 3 * 4 * weights, "replay": 3 * 16 * (12 + 8)}
    assert kept.summary["method_bytes"] == each[memory.name]


@every_memory
@pytest.mark.parametrize("where", ["within a task", "between tasks"])
def test_an_interrupted_stream_goes_on_bit_for_bit(tmp_path: Path, memory: Memory, where: str) -> None:
    class Stop(Exception):
        pass

    class Within(SilentProgress):
        """Stops in the third epoch of the second task."""

        tasks = 0

        def start(self, *words) -> None:
            self.tasks += 1

        def step(self, epoch: int, step: int) -> None:
            if (self.tasks, epoch, step) == (2, 3, 5):
                raise Stop

    def between(line: str) -> None:
        if "permutation 2" in line:
            raise Stop

    how = {"progress": Within()} if where == "within a task" else {"note": between}
    same = {"memory": memory, "curve_examples": 40}
    whole = stream(tmp_path / "whole", "full-precision", **same)
    with pytest.raises(Stop):
        stream(tmp_path / "cut", "full-precision", **same, **how)
    cut = stream(tmp_path / "cut", "full-precision", **same)
    assert cut.matrix.rows == whole.matrix.rows
    for task in ("task2", "task3"):
        states = [torch.load(tmp_path / n / task / "checkpoint.pt", weights_only=True) for n in ("whole", "cut")]
        assert equal(*(state["parts"] for state in states)) and "hooks" in states[0]["parts"]
    assert equal(*((tmp_path / n / "curves.jsonl").read_text() for n in ("whole", "cut")))


def test_curves_watch_and_change_nothing(tmp_path: Path) -> None:
    watched = stream(tmp_path / "watched", curve_examples=80)
    alone = stream(tmp_path / "alone", curve_examples=0)
    assert watched.matrix.rows == alone.matrix.rows
    parts = [torch.load(tmp_path / n / "task3" / "checkpoint.pt", weights_only=True) for n in ("watched", "alone")]
    assert equal(*(state["parts"] for state in parts))
    lines = [json.loads(line) for line in (tmp_path / "watched" / "curves.jsonl").read_text().splitlines()]
    assert [(line["task"], line["epoch"]) for line in lines] == [(t, e) for t in (1, 2, 3) for e in (1, 2, 3, 4)]
    # All 80 test examples, so the last epoch of a task is the row of the matrix.
    assert [line["accuracies"] for line in lines[3::4]] == watched.matrix.rows
    assert not (tmp_path / "alone" / "curves.jsonl").read_text()
    assert [path.name for path in stream_figures(watched.folder)] == ["accuracy.png", "curves.png", "weights.png"]
    assert [path.name for path in stream_figures(alone.folder)] == ["accuracy.png", "weights.png"]
    with pytest.raises(ValueError, match="has no curves; run the stream with --curve-examples above 0"):
        task_curves_figure(alone.folder, tmp_path / "none.png")


def test_fewer_tasks_keep_the_curves_of_all(tmp_path: Path) -> None:
    stream(tmp_path, "ste", tasks=2, epochs=1, curve_examples=16)
    before = (tmp_path / "curves.jsonl").read_text()
    stream(tmp_path, "ste", tasks=1, epochs=1, curve_examples=16)
    assert (tmp_path / "curves.jsonl").read_text() == before and len(before.splitlines()) == 2


def test_some_examples_are_enough_for_a_curve(tmp_path: Path) -> None:
    stream(tmp_path, "ste", tasks=1, curve_examples=16)
    for line in (tmp_path / "curves.jsonl").read_text().splitlines():
        assert (json.loads(line)["accuracies"][0] * 16 / 100).is_integer()


def test_weights_of_a_long_stream(tmp_path: Path) -> None:
    for task in range(1, 8):
        posterior = bb.BernoulliPosterior({"w": torch.full((4,), float(task))})
        (tmp_path / f"task{task}").mkdir()
        posterior.save(tmp_path / f"task{task}" / "posterior.safetensors")
    picture = weights_figure(tmp_path, tmp_path / "weights.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="has no posteriors"):
        weights_figure(tmp_path / "task1", tmp_path / "none.png")


def test_refusals(tmp_path: Path) -> None:
    for memory in (EWC(), SI()):
        with pytest.raises(ValueError, match=f"{memory.name} supports only real weights, but STE trains binary ones"):
            stream(tmp_path, "ste", memory=memory)
    stream(tmp_path / "kept", "full-precision", tasks=1, epochs=1, memory=SI())
    with pytest.raises(ValueError, match="holds a stream with method si, not ewc"):
        stream(tmp_path / "kept", "full-precision", tasks=1, epochs=1, memory=EWC())
    with pytest.raises(ValueError, match="no method is called 'ecw'; did you mean 'ewc'"):
        find_method("ecw", {})
    with pytest.raises(ValueError, match="no option of method replay is called 'strength'; choose from: examples"):
        find_method("replay", {"strength": 1.0})
    with pytest.raises(ValueError, match="curve_examples must be at least 0, got -1"):
        stream(tmp_path / "negative", curve_examples=-1)
    for build, message in (
        (lambda: EWC(strength=-1.0), "strength of ewc must be a number of at least 0, got -1.0"),
        (lambda: find_method("ewc", {"strength": "abc"}), "strength of ewc must be a number of at least 0, got 'abc'"),
        (lambda: EWC(examples=0), "examples of ewc must be a whole number of at least 1, got 0"),
        (lambda: SI(strength=float("nan")), "strength of si must be a number of at least 0, got nan"),
        (lambda: SI(damping=0.0), "damping of si must be a positive number, got 0.0"),
        (lambda: Replay(0), "examples of replay must be a whole number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_a_memory_is_an_interface_and_none_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="abstract"):
        Memory()  # type: ignore[abstract]
    summary = stream(tmp_path, "ste", tasks=1, epochs=1).summary
    assert (summary["method"], summary["method_options"], summary["method_bytes"]) == ("none", {}, 0)
    assert "hooks" not in torch.load(tmp_path / "task1" / "checkpoint.pt", weights_only=True)["parts"]


def test_the_stream_works_on_a_copy(tmp_path: Path) -> None:
    memory = Replay(8)
    stream(tmp_path, "ste", tasks=2, epochs=1, memory=memory)
    assert not memory.kept


def test_the_command(tmp_path: Path, capsys, monkeypatch) -> None:
    from bitbayes.lab.cli import main

    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "data", "mnist", train=60, test=20)
    words = ["continual", "permuted-mnist", "--tasks", "2", "--epochs", "1", "--data", str(data)]
    real = ["--rule", "full-precision", "--method"]
    assert main([*words, *real, "ewc", "--method-set", "strength=5", "examples=30"]) == 0
    shown = capsys.readouterr().out
    assert "with" in shown and "ewc" in shown and "curves.png" in shown
    summary = json.loads(Path("runs/permuted-mnist-full-precision-seed1-ewc-2-tasks/summary.json").read_text())
    assert summary["method_options"] == {"strength": 5, "examples": 30} and summary["statistics"] == "task"
    assert main([*words, "--rule", "ste:metaplastic", "--method", "replay", "--out", "replayed"]) == 0
    summary = json.loads(Path("replayed/summary.json").read_text())
    assert summary["statistics"] == "shared" and summary["options"] == {"metaplasticity": 1.35, "clip": None}
    assert main([*words, "--method", "coreset", "--method-set", "examples=20", "steps=3", "--samples", "2"]) == 0
    summary = json.loads(
        Path("runs/permuted-mnist-bayesbinn-straight-through-seed1-coreset-2-tasks/summary.json").read_text()
    )
    assert summary["method"] == "coreset" and summary["method_bytes"] == 2 * 20 * (784 + 8)
    assert main([*words, "--rule", "ste", "--method", "si"]) == 2
    assert "si supports only real weights" in capsys.readouterr().err


def unlike(scale: float) -> DataBundle[TensorData]:
    """Return examples whose columns have other means and deviations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator) * torch.tensor([1.0, 10.0, 100.0]) * scale + 5 * scale
    return from_arrays(x.numpy(), torch.arange(40).remainder(2).numpy(), validation=0.0)


def test_permuted_entries_keep_their_normalisation() -> None:
    for task in permuted_tasks(unlike(1.0), 3):
        x = task.data.train.inputs(torch.arange(len(task.data.train)))
        torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_old_examples_are_replayed_as_they_were_seen() -> None:
    old, new = unlike(1.0).train, unlike(1000.0).train
    both = new.joined(old)
    x = both.inputs(torch.arange(len(both)))
    torch.testing.assert_close(x[: len(new)], new.inputs(torch.arange(len(new))))
    torch.testing.assert_close(x[len(new) :], old.inputs(torch.arange(len(old))))
    with pytest.raises(ValueError, match="cannot be joined and augmented"):
        dataclasses.replace(new, augment=AUGMENTATIONS["flip"]).joined(old)


@pytest.mark.parametrize(
    ("memory", "scenario", "statistics"),
    [(Replay(5), None, "shared"), (NoMemory(), None, "task"), (NoMemory(), "class", "shared"), (EWC(), "task", "task")],
)
def test_statistics_are_those_that_the_test_can_know(memory: Memory, scenario: Any, statistics: str) -> None:
    assert StreamSettings(scenario=scenario).with_statistics(memory).statistics == statistics
    with pytest.raises(ValueError, match=r"unknown in the scenario domain"):
        StreamSettings(scenario="domain", statistics="task")


def test_examples_that_a_task_lacks_are_found_before_it_is_learned(tmp_path: Path) -> None:
    data = load_digits()
    with pytest.raises(ValueError, match="class 10 of 12 has no training examples"):
        next(split_tasks(dataclasses.replace(data, classes=12), "task"))
    task = next(iter(permuted_tasks(data, 1)))
    empty = Task("empty", dataclasses.replace(task.data, test=None))
    run, settings = config(tmp_path, "ste").changed(epochs=2), StreamSettings(prior=False)
    with pytest.raises(ValueError, match="empty has no test examples"):
        run_stream(run, [empty], network, settings)
    with pytest.raises(ValueError, match="a stream has no stop_after, got 1"):
        run_stream(run.changed(stop_after=1), [task], network, settings)


def test_options_of_a_method_are_as_json_has_them() -> None:
    class Layers(NoMemory):
        def __init__(self) -> None:
            Memory.__init__(self, layers=(0, 1))

    assert Layers().options == {"layers": [0, 1]}
    with pytest.raises(ValueError, match="options of a method are numbers, text and lists"):
        Memory.__init__(NoMemory(), place=Path("."))
