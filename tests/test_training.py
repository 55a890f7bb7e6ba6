"""The loop: schedules, records, files, evaluation without side effects, resuming."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bitbayes import nn
from bitbayes.lab.data import DataBundle, TensorData, batches
from bitbayes.lab.recipes import RECIPES, make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.studies.several import _Data, finished
from bitbayes.lab.train import (
    BINARY,
    COSINE_BY_STEPS,
    CROSS_ENTROPY,
    RULES,
    SQUARED,
    EpochRow,
    RuleSpec,
    RunConfig,
    RunFolder,
    Schedule,
    SilentProgress,
    Summary,
    build_experiment,
    choose_precision,
    train,
)
from bitbayes.lab.train.experiment import resolved, steps_per_epoch
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.measure import mode_signs
from bitbayes.lab.train.schedule import advance
from nested import equal
from parallel_run import run as blobs

FILES = {"config.json", "environment.json", "metrics.jsonl", "summary.json", "checkpoint.pt", "model.safetensors"}


@pytest.fixture(scope="module")
def digits():
    return load_data(make_config("digits"))


def run(out, digits, rule="bayesbinn", *, epochs=3, resume=False, **choices):
    config = make_config("digits", rule, out=str(out), epochs=epochs, **choices)
    return run_recipe(config, resume=resume, data=digits, progress=SilentProgress())


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_checkpoint(a, b):
    """Everything but the clock."""
    first, second = (RunFolder(folder).read_checkpoint() for folder in (a, b))
    for history in (first["history"], second["history"]):
        for row in history:
            row.pop("seconds")
    assert equal(first, second)


@pytest.mark.parametrize(("width", "fused"), [(64, False), (15_625, True)])
def test_a_million_weights_are_updated_in_one_pass(digits, tmp_path, width, fused):
    config = make_config("digits", "ste", out=str(tmp_path))
    experiment = build_experiment(config, lambda: torch.nn.Linear(64, width, bias=False), digits, CROSS_ENTROPY)
    assert experiment.binary_weights() == 64 * width
    assert experiment.optimizer.param_groups[0]["compile"] is fused


def rates(schedule, epochs, start=1.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=start)
    scheduler = schedule.build(optimizer, epochs)
    found = []
    for _ in range(epochs):
        advance([scheduler])
        found.append(optimizer.param_groups[0]["lr"])
    return found


class TestSchedule:
    def test_cosine_starts_at_its_second_value_and_ends_at_nothing(self):
        found = rates(Schedule("cosine"), 4)
        expected = [(1 + torch.cos(torch.tensor(torch.pi * e / 4))) / 2 for e in (1, 2, 3, 4)]
        assert found == pytest.approx([float(e) for e in expected], abs=1e-7)
        assert found[-1] == pytest.approx(1e-16)

    def test_a_single_epoch_learns(self):
        """A cosine would have it at its end, 1e-16; and a cosine by steps a single step."""
        assert rates(Schedule("cosine"), 1) == [1.0] and rates(Schedule("cosine", end=0.25), 2)[-1] == 0.25
        assert rates(COSINE_BY_STEPS, 1) == [1.0] and rates(COSINE_BY_STEPS, 2) == [0.5, 0.0]

    def test_exponential_falls_by_its_factor_over_the_run(self):
        assert rates(Schedule("exponential", factor=0.1), 50)[-1] == pytest.approx(0.1)

    def test_warmup_cosine_goes_step_by_step(self):
        schedule = Schedule("warmup-cosine", warmup=2)
        assert schedule.per_step and not Schedule("cosine").per_step
        parameter = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = schedule.build(parameter, 6, steps=5)
        found = []
        for _ in range(30):
            advance([scheduler])
            found.append(parameter.param_groups[0]["lr"])
        assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
        assert found[19] == pytest.approx(1.0)  # half way down
        assert found[-1] == pytest.approx(0.0, abs=1e-12)

    def test_milestones_are_fractions(self):
        schedule = Schedule("milestones", milestones=(0.5, 0.9))
        assert rates(schedule, 10) == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
        early = Schedule("milestones", milestones=(0.1, 0.75))
        assert rates(early, 4) == pytest.approx([1, 0.1, 0.01, 0.01]), "the first epoch has the full rate"

    def test_staircase_and_constant(self):
        assert rates(Schedule("staircase", factor=0.5, every=2), 5) == [1, 1, 0.5, 0.5, 0.25]
        assert rates(Schedule("constant"), 3) == [1, 1, 1]

    def test_an_unknown_kind_is_refused(self):
        with pytest.raises(ValueError, match="constant, cosine"):
            Schedule("linear")


class TestConfig:
    def test_json_and_back(self):
        for recipe in RECIPES:
            config = make_config(recipe, "ste", options={"betas": (0.9, 0.99)})
            assert RunConfig.from_json(config.to_json()) == config

    def test_unknown_entries_of_a_newer_version_are_ignored(self):
        config = make_config("digits", "ste")
        raw = {**json.loads(config.to_json()), "invented_later": 1}
        assert RunConfig.from_json(json.dumps(raw)) == config

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"epochs": 0}, "epochs must be at least 1"),
            ({"stop_after": 9}, "stop_after must lie between 1 and epochs"),
            ({"seed": -1}, "seed must be"),
            ({"lr": 0.0}, "learning rates must be positive"),
            ({"lr": None}, "lr of rule ste must be a number, got None"),
            ({"precision": "fp8"}, "precision must be one of"),
            ({"batch_size": -5}, "batch_size"),
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
            ({"checkpoint_every": 3, "evaluate_every": 2}, "multiple of evaluate_every"),
        ],
    )
    def test_values_out_of_range_are_refused(self, change, words):
        config = make_config("digits", "ste", epochs=3)
        with pytest.raises(ValueError, match=words):
            config.changed(**change)


def test_a_rule_that_does_not_exist(digits):
    config = dataclasses.replace(make_config("digits", "ste"), rule="nope")
    with pytest.raises(ValueError, match=r"no rule is called 'nope'; .*Choose from: full-precision"):
        build_experiment(config, lambda: torch.nn.Linear(64, 10), digits, CROSS_ENTROPY)


def test_dropout_of_every_layer(digits):
    def layers(**choices):
        model = make_experiment(make_config("digits", "ste", **choices), digits).model
        return [layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]

    assert layers() == [0.2] * 3 and layers(dropout=0.0) == [0.0] * 3
    config = make_config("digits", "ste", dropout=0.0)
    with pytest.raises(ValueError, match="no dropout layer"):
        build_experiment(config, lambda: torch.nn.Linear(64, 10), digits, CROSS_ENTROPY)


def test_flips_of_a_step_and_the_spread_of_the_weights(tmp_path, digits):
    config = make_config("digits", "bayesbinn", out=str(tmp_path / "run"), epochs=2)
    experiment = make_experiment(config, digits)
    optimizer, modes = experiment.optimizer, {}

    class Watches(SilentProgress):
        def step(self, epoch, step):
            mode = optimizer.posterior().mode().values()
            modes[epoch, step] = torch.cat([weights.flatten() for weights in mode])

    history = train(config, experiment, progress=Watches()).history
    last = steps_per_epoch(config, len(digits.train))
    for row in history:
        before, after = (modes[row.epoch, step] for step in (last - 1, last))
        assert row.step_flips == pytest.approx(float((before != after).double().mean()), abs=1e-12)
    assert history[0].step_flips > 0
    every = torch.cat([values.flatten() for values in optimizer.posterior().probabilities().values()])
    counts, _ = np.histogram(every.numpy(), bins=20, range=(0, 1))
    assert history[-1].probabilities == pytest.approx((100 * counts / len(every)).tolist(), abs=0.02)


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule] is not None])
def test_signs_of_the_mode_are_read_without_touching_the_weights(digits, rule):
    experiment = make_experiment(make_config("digits", rule, options={"scale": "channel"}), digits)
    weights = [parameter for _, parameter in experiment.optimizer.named_binary()]
    draws = [(parameter._version, parameter.detach().clone()) for parameter in weights]
    signs = mode_signs(experiment)
    for parameter, (version, draw) in zip(weights, draws, strict=True):
        assert parameter._version == version and torch.equal(parameter, draw)
    experiment.optimizer.eval()
    assert len(signs) == len(weights)
    assert all(torch.equal(sign, parameter > 0) for sign, parameter in zip(signs, weights, strict=True))


def test_the_first_layer_may_have_a_scale_of_its_own(digits):
    """Its sizes are real numbers, which count as such; on two moons, its biases are scaled too."""
    plain, scaled = (make_experiment(make_config("digits", first_scale=kind), digits) for kind in (None, "normal"))
    (_, first), *others = scaled.optimizer.named_mode()
    assert first.abs().unique().numel() > 0.9 * first.numel()
    assert len(others) == 2 and all((mode.abs() == 1).all() for _, mode in others)
    assert scaled.bytes()[1] - plain.bytes()[1] == 4 * first.numel() - first.numel() // 8
    posterior = make_experiment(make_config("moons", "bayesbinn", first_scale="normal")).optimizer.posterior()
    assert [scale.numel() for scale in posterior.scale.values()] == [128, 64, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="first_scale has no effect on full-precision"):
        make_config("digits", "full-precision", first_scale="normal")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_and_writes_its_files(tmp_path, digits, rule):
    result = run(tmp_path / "run", digits, rule, epochs=2)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    has_posterior = RULES[rule] is not None and RULES[rule].has_posterior
    assert names == FILES | ({"posterior.safetensors"} if has_posterior else set())
    rows = lines(result.folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    keys = ["epoch", "lr", "train_loss", "train_accuracy", "val_accuracy", "test_accuracy", "test_nll"]
    keys += ["flips", "step_flips", "seconds"]  # null without binary weights
    assert list(rows[0]) == keys + ["probabilities"] * has_posterior
    assert [EpochRow.from_dict(row) for row in rows] == result.history
    assert result.summary.binary_weights == (0 if rule == "full-precision" else 25_856)
    assert (result.summary.mean_test_accuracy is not None) == has_posterior
    assert Summary.from_dict(RunFolder(result.folder).read_json("summary.json")) == result.summary
    mode = RunFolder(result.folder).read_tensors("model.safetensors")
    if rule != "full-precision":
        assert all(v.abs().eq(1).all() for k, v in mode.items() if v.dim() == 2)


def test_records_of_other_versions_can_be_read():
    raw = {"epoch": 1, "lr": 0.1, "train_loss": 0.5, "seconds": 2.0, "test_nll": None}
    row = EpochRow.from_dict({**raw, "invented_later": 1})
    assert row.to_dict().items() >= raw.items() and "invented_later" not in row.to_dict()
    assert row.to_dict()["val_accuracy"] is None and "test_error" not in row.to_dict()
    with pytest.raises(ValueError, match=r"not the record of a run: .*seconds"):
        EpochRow.from_dict({"epoch": 1, "lr": 0.1, "train_loss": 0.5})


def test_it_learns(tmp_path, digits):
    """Half a second of training is far above chance for binary and real weights alike."""
    for rule in ("bayesbinn", "ste", "full-precision"):
        assert run(tmp_path / rule, digits, rule, epochs=8).summary.test_accuracy > 88


def test_the_summary_has_the_best_validation_epoch(tmp_path, digits):
    result = run(tmp_path / "run", digits, epochs=5)
    best = max(result.history, key=lambda row: row.val_accuracy)
    assert result.summary.best_epoch == best.epoch
    assert result.summary.test_accuracy == best.test_accuracy
    assert result.summary.last_test_accuracy == result.history[-1].test_accuracy
    assert result.summary.bytes_32_bit == 4 * 25_857
    assert result.summary.bytes_1_bit == 25_856 // 8 + 4


@pytest.mark.parametrize("rule", ["bayesbinn", "ste", "full-precision"])
def test_stopping_and_resuming_changes_nothing(tmp_path, digits, rule):
    run(tmp_path / "whole", digits, rule, epochs=4)
    run(tmp_path / "parts", digits, rule, epochs=4, stop_after=1)
    run(tmp_path / "parts", digits, rule, epochs=4, stop_after=3, resume=True)
    run(tmp_path / "parts", digits, rule, epochs=4, resume=True)
    same_checkpoint(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (RunFolder(tmp_path / name).read_tensors("model.safetensors") for name in ("whole", "parts"))
    assert equal(whole, parts)


def test_evaluation_does_not_change_training(tmp_path, digits):
    often = run(tmp_path / "often", digits, epochs=4)
    rarely = run(tmp_path / "rarely", digits, epochs=4, evaluate_every=4, checkpoint_every=4)
    assert len(rarely.history) == 1
    first, second = (RunFolder(r.folder).read_checkpoint()["parts"] for r in (often, rarely))
    assert equal(first, second)


def test_a_finished_run_resumes_to_nothing(tmp_path, digits):
    first = run(tmp_path / "run", digits, epochs=2)
    again = run(tmp_path / "run", digits, epochs=2, resume=True)
    assert again.history == first.history


def test_resuming_with_other_settings_is_refused(tmp_path, digits):
    run(tmp_path / "run", digits, epochs=2)
    with pytest.raises(ValueError, match=r"epochs 2, not 3; resume with the same settings"):
        run(tmp_path / "run", digits, epochs=3, resume=True)


def test_resume_without_a_checkpoint_begins(tmp_path, digits):
    assert run(tmp_path / "run", digits, epochs=1, resume=True).summary.epochs_done == 1


def test_an_older_run_is_moved_aside(tmp_path, digits, capsys):
    run(tmp_path / "run", digits, epochs=1)
    before = (tmp_path / "run" / "summary.json").read_text()
    run(tmp_path / "run", digits, epochs=1, seed=5)
    assert (tmp_path / "run.old-1" / "summary.json").read_text() == before
    assert "run.old-1" in capsys.readouterr().err


def test_lines_of_epochs_after_the_checkpoint_are_cut_off(tmp_path, digits):
    run(tmp_path / "run", digits, epochs=3, stop_after=2)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "torn')
    run(tmp_path / "run", digits, epochs=3, resume=True)
    rows = lines(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_bfloat16_is_recorded_and_learns(tmp_path, digits):
    result = run(tmp_path / "run", digits, epochs=8, precision="bf16")
    assert result.summary.precision == "bf16"
    assert RunConfig.load(result.folder).precision == "bf16"
    assert result.summary.test_accuracy > 85


def test_a_rate_that_the_length_of_the_run_decides(tmp_path, digits):
    """λ forgets its first value to e^-3, whatever the batches are and however long the run is."""
    for choices in ({"epochs": 4}, {"epochs": 2, "batch_size": 25}, {"epochs": 30}):
        result = run(tmp_path / str(choices), digits, "bayesbinn:default", **choices)
        config = RunConfig.load(result.folder)
        steps = config.epochs * steps_per_epoch(config, len(digits.train))
        assert config.spec.lr is None and resolved(config, len(digits.train)).lr == 6 / steps
        total = sum(row.lr for row in result.history) * steps / config.epochs  # of the last step of each epoch
        assert total == pytest.approx(3, rel=1 / config.epochs)
    config = make_config("digits", "bayesbinn:default", epochs=1, batch_size=0)
    assert resolved(config, 1000).lr == 0.1
    assert run(tmp_path / "own", digits, "bayesbinn:default", epochs=1, lr=1e-2).config.spec.lr == 1e-2


def test_the_probe_answers():
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")


def test_several_draws_train_the_real_parameters_on_their_mean(tmp_path, digits):
    result = run(tmp_path / "run", digits, epochs=4, samples=3)
    assert result.summary.test_accuracy > 85


def test_gradient_clipping_acts(tmp_path, digits):
    """SGD inside STE moves by the gradient: clipped to almost nothing, no sign changes."""
    choices = {"lr": 1.0, "options": {"inner": "sgd", "clip": None}, "epochs": 2}
    free = run(tmp_path / "a", digits, "ste", **choices)
    tight = run(tmp_path / "b", digits, "ste", **choices, clip_gradient=1e-6)
    assert tight.history[0].flips < 1e-3 < free.history[0].flips


@pytest.mark.parametrize(("loss", "outputs"), [(BINARY, 1), (SQUARED, 1)])
def test_other_losses(tmp_path, loss, outputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 3, generator=generator)
    y = (x.sum(1, keepdim=True) > 0).float() if loss is BINARY else x.sum(1, keepdim=True)
    part = TensorData(x, y)
    data = DataBundle("toy", part, None, part, 2 if loss is BINARY else 0, "generated")
    spec = RuleSpec(lr=1e-2, real_lr=3e-2)
    config = RunConfig("moons", "ste", str(tmp_path / "run"), spec, epochs=40, batch_size=32, precision="fp32")

    def network():
        return nn.mlp(3, [16], outputs, norm=True, logit_scale=True)

    experiment = build_experiment(config, network, data, loss)
    result = train(config, experiment, progress=SilentProgress())
    if loss is BINARY:
        assert result.summary.test_accuracy > 90
    else:
        assert result.summary.test_accuracy is None
        assert result.summary.test_error < 0.5


def without_dimensions(state):
    """A state as `LogitScale` left it when its parameter, and Adam's moments of it, had no dimensions."""
    if isinstance(state, torch.Tensor):
        return (state.reshape(()) if state.shape == (1,) else state).clone()
    return {key: without_dimensions(value) for key, value in state.items()} if isinstance(state, dict) else state


def test_a_checkpoint_from_before_log_scale_had_a_dimension_goes_on_bit_for_bit(tmp_path):
    x, y = torch.randn(64, 5), torch.randint(3, (64,))
    part = TensorData(x, y)
    data, spec = DataBundle("toy", part, None, part, 3, "generated"), RuleSpec(lr=1e-2, real_lr=3e-2)
    config = RunConfig("moons", "ste", str(tmp_path / "run"), spec, epochs=4, batch_size=32, precision="fp32")
    first, second = (
        build_experiment(config, lambda: nn.mlp(5, [16], 3, norm=True, logit_scale=True), data, CROSS_ENTROPY)
        for _ in range(2)
    )
    for _ in range(3):
        training_step(config, first, x, y)
    states = {name: without_dimensions(module.state_dict()) for name, module in first.modules().items()}
    old = [value for value in states["real_optimizer"]["state"].values() if value["exp_avg"].dim() == 0]
    assert len(old) == 1 and any(n.endswith("log_scale") and t.dim() == 0 for n, t in states["model"].items())
    for name, module in second.modules().items():
        module.load_state_dict(states[name])
    for experiment in (first, second):
        for _ in range(3):
            training_step(config, experiment, x, y)
    assert equal(*({name: m.state_dict() for name, m in e.modules().items()} for e in (first, second)))


def test_a_last_batch_of_one_example_is_left_out():
    config = make_config("digits", "ste", batch_size=50)
    assert steps_per_epoch(config, 101) == 2
    assert steps_per_epoch(config, 102) == 3
    assert steps_per_epoch(config, 1) == 1


def test_a_wrong_option_names_the_rule(tmp_path, digits):
    with pytest.raises(ValueError, match="rule ste"):
        run(tmp_path / "run", digits, "ste", options={"temperature": 1})


def test_experiments_are_a_function_of_the_seed(digits):
    def first_weights(seed):
        config = make_config("digits", "bayesbinn", seed=seed)
        return next(make_experiment(config, digits).model.parameters()).detach().clone()

    assert torch.equal(first_weights(3), first_weights(3))
    assert not torch.equal(first_weights(3), first_weights(4))


def test_a_run_does_not_go_on_with_other_data(tmp_path, digits):
    config = make_config("digits", "ste", out=str(tmp_path), epochs=3, stop_after=1)
    run_recipe(config, data=digits, progress=SilentProgress())
    other = dataclasses.replace(digits, train=dataclasses.replace(digits.train, x=digits.train.x.flip(0)))
    moved = dataclasses.replace(config, data="/elsewhere", stop_after=2)
    with pytest.raises(ValueError, match="was trained on other data"):
        run_recipe(moved, data=other, resume=True, progress=SilentProgress())
    assert run_recipe(moved, data=digits, resume=True, progress=SilentProgress()).summary.epochs_done == 2


def test_a_run_on_other_data_is_not_finished(tmp_path, monkeypatch):
    config = make_config("snelson", "ste", out=str(tmp_path / "run"), epochs=2)
    run_recipe(config, progress=SilentProgress())
    assert finished(config) is not None
    elsewhere = dataclasses.replace(config, data="/elsewhere")
    for seed, same in ((1, False), (0, True)):  # another split of the data, and the same in another place
        there = load_data(make_config("snelson", data_seed=seed))
        monkeypatch.setattr("bitbayes.lab.studies.several.load_data", lambda config, there=there: there)
        monkeypatch.setattr("bitbayes.lab.studies.several._OF_PROCESS", _Data())
        assert (finished(elsewhere) is not None) == same


def test_looking_at_a_run_leaves_its_half_written_files(tmp_path, digits):
    partial = tmp_path / ".model.safetensors.old.partial"  # of no name that a run writes
    partial.touch()
    RunFolder(tmp_path).write_json("results.json", {})
    assert partial.exists()
    RunFolder(tmp_path, writes=False).clean()
    assert partial.exists()
    run(tmp_path, digits, epochs=1)
    assert not partial.exists()


def test_an_evaluation_of_older_weights_does_not_stay(tmp_path, digits):
    run(tmp_path, digits, epochs=6, stop_after=1)
    (tmp_path / "evaluation.json").write_text("{}")
    run(tmp_path, digits, epochs=6, stop_after=1, resume=True)
    assert (tmp_path / "evaluation.json").exists()  # nothing was trained
    run(tmp_path, digits, epochs=6, resume=True)
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("clip", [None, 0.05])
def test_several_draws_clip_each_gradient_on_its_own(tmp_path, digits, clip):
    """STE's draws are one network, so without dropout the mean gradient is that of one draw."""
    found = []
    for samples in (1, 3):
        how = {"samples": samples, "clip_gradient": clip, "dropout": 0.0}
        config = make_config("digits", "ste", out=str(tmp_path), **how)
        experiment = make_experiment(dataclasses.replace(config, precision="fp32"), digits)
        x, y = next(batches(digits.train, 100))
        experiment.model.train()
        training_step(config, experiment, x, y)
        real = [p.grad for group in experiment.real_optimizer.param_groups for p in group["params"]]
        found.append(torch.cat([gradient.flatten() for gradient in real]))
    torch.testing.assert_close(found[1], found[0])


def test_a_small_last_batch_counts_as_what_it_is(tmp_path, digits):
    size = len(digits.train) - 7
    how = {"epochs": 1, "batch_size": size, "dropout": 0.0, "lr": 1e-12}
    config = make_config("digits", "full-precision", out=str(tmp_path), **how)
    model, losses = make_experiment(config, digits).model.train(), []
    with torch.no_grad():
        for x, y in batches(digits.train, size, seed=config.seed, epoch=1, shuffle=True):
            losses.append((len(x), float(torch.nn.functional.cross_entropy(model(x), y))))
    expected = sum(count * loss for count, loss in losses) / len(digits.train)
    row = train(config, make_experiment(config, digits), progress=SilentProgress()).history[0]
    assert row.train_loss == pytest.approx(expected, rel=1e-4)
    assert abs(losses[0][1] - losses[1][1]) > 0.01


@pytest.mark.parametrize("rule", ["bayesbinn", "full-precision"])
def test_a_batch_in_parts_is_the_batch(rule, tmp_path):
    """To rounding, without batch statistics, of which each part has its own; 31 and 14 are no multiples of 5."""
    for parts in (1, 5):
        blobs(str(tmp_path / str(parts)), rule, parts)
    one, five = (RunFolder(tmp_path / str(parts)).read_checkpoint()["parts"] for parts in (1, 5))
    assert equal(one, five, tolerance=1e-3)  # Adam divides a bias's gradient near zero by its own size
    assert not equal(one, five)  # sums in another order: it was done in parts


def test_batchnorm_always_has_two_examples(digits, tmp_path):
    """Also where a last batch is smaller than twice the parts."""
    few = dataclasses.replace(digits, train=TensorData(digits.train.x[:23], digits.train.y[:23]))
    assert run(tmp_path, few, epochs=1, batch_size=10, accumulate=4).summary.epochs == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "milestones", "milestones": (10, 20)}, r"milestones of a schedule must be in \(0, 1\)"),
        ({"kind": "exponential", "factor": -0.5}, "factor of a schedule must be positive, got -0.5"),
        ({"kind": "staircase", "every": 0}, "every of a schedule must be a number of epochs of at least 1, got 0"),
        (
            {"kind": "warmup-cosine", "warmup": -1},
            "warmup of a schedule must be a number of epochs of at least 0, got -1",
        ),
        ({"end": float("nan")}, "end of a schedule must be at least 0, got nan"),
    ],
)
def test_numbers_of_a_schedule_that_mean_something_else(change, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**change)
