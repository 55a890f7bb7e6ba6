"""The recipes: published settings, names, and what is measured on a run."""

import json

import pytest
import torch

from bitbayes.calibration import probability_figures
from bitbayes.errors import nearest
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import RECIPES, find_recipe, full_name, make_config, make_experiment
from bitbayes.lab.recipes.configure import find_rule
from bitbayes.lab.studies.several import finished
from bitbayes.lab.studies.tables import TableRow, table_rules
from bitbayes.lab.studies.toys import ring
from bitbayes.lab.train import CROSS_ENTROPY, RULES, RuleName, build_experiment
from bitbayes.lab.train.measure import observation_noise, regression_figures
from bitbayes.parameters import split_parameters
from bitbayes.prediction import Prediction
from summaries import summary


def toy(recipe):
    """A few random examples in the shape of a recipe's data."""
    shapes = {"mnist": (784,), "fashion": (784,), "digits": (64,), "moons": (2,), "snelson": (1,), "breast": (30,)}
    shapes |= {"tiny": (3, 64, 64)}
    shape = shapes.get(recipe.name.partition("-")[0], (3, 32, 32))
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 10 if recipe.loss is CROSS_ENTROPY else torch.zeros(20, 1)
    part = TensorData(x, y)
    return DataBundle(recipe.name, part, None, part, 10, "test")


def test_every_rule_has_a_place():
    for name in ("digits", "mnist"):
        named = {RuleName.parse(rule).rule for rule in RECIPES[name].rules}
        assert named == set(RULES)
    assert {RuleName.parse(rule).rule for rule in RECIPES["mnist"].quick} == set(RULES)


@pytest.mark.parametrize("budget", ["paper", "quick"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_every_rule_are_accepted(name, budget):
    """Wide networks in small: the settings are what is tested here."""
    recipe, data = RECIPES[name], toy(RECIPES[name])

    def small():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(data.train.x[0].numel(), 10))

    for rule in map(str, table_rules(recipe)):
        missing = budget == "quick" and recipe.quick_epochs is None
        config = make_config(recipe, rule, budget=budget, epochs=2 if missing else None)
        network = small if recipe.wide else recipe.network
        build_experiment(config, network, data, recipe.loss, all_binary=recipe.all_binary)
        if name == "mnist":
            assert config.epochs == (500 if budget == "paper" else 10)


def test_published_settings_of_mnist():
    """Tables 4 and 9 of the paper."""
    config = make_config("mnist", "bayesbinn")
    assert (config.estimator, config.spec.lr, config.spec.options["tau"]) == ("released", 1e-4, 1e-10)
    assert (config.epochs, config.batch_size, config.seed) == (500, 100, 1)
    assert (config.spec.schedule.kind, config.spec.schedule.end) == ("cosine", 1e-16)
    assert make_config("mnist", "ste").spec.lr == 1e-2
    assert make_config("mnist", "full-precision").spec.lr == 3e-4
    bop = make_config("mnist", "bop")
    assert (bop.spec.lr, bop.spec.options["threshold"]) == (1e-5, 1e-8)
    assert make_config("mnist", "pmf").spec.options["growth"] == 1.2


def test_published_networks():
    binary, real = split_parameters(RECIPES["mnist"].network())
    assert sum(p.numel() for _, p in binary) == 10_014_720
    assert real == []
    weights = sum(p.numel() for p in RECIPES["moons"].network().parameters())
    assert weights == 2 * 64 + 64 + 64 * 64 + 64 + 64 + 1


def test_biases_are_binary_where_the_paper_has_them_so():
    recipe = RECIPES["moons"]
    experiment = build_experiment(make_config("moons"), recipe.network, toy(recipe), recipe.loss, all_binary=True)
    assert experiment.real_optimizer is None
    assert experiment.binary_weights() == 4417


def test_fixed_factors_stay_as_they_are():
    """The network for Snelson's data without BatchNorm has one, which neither binary nor real rules learn."""
    recipe = RECIPES["snelson-plain"]
    for rule in ("ste", "full-precision"):
        experiment = build_experiment(
            make_config(recipe, rule), recipe.network, toy(recipe), recipe.loss, all_binary=True
        )
        learned = {
            id(p) for optimizer in experiment.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        (fixed,) = (p for p in experiment.model.parameters() if id(p) not in learned)
        assert float(fixed.exp()) == pytest.approx(1 / 8)
        assert len(learned) == 6


def test_published_figures():
    published = RECIPES["mnist"].published
    assert published["bayesbinn:released"].test == 98.86
    assert published["full-precision"].test == 99.01


@pytest.mark.parametrize(
    ("rule", "estimator", "words"),
    [
        ("bayesbin", None, "did you mean 'bayesbinn'"),
        ("ste", "released", "only bayesbinn has estimators"),
        ("bayesbinn:released", "concrete", "got two estimators"),
        ("bayesbinn", "straight", "did you mean 'straight-through'"),
    ],
)
def test_wrong_rules(rule, estimator, words):
    with pytest.raises(ValueError, match=words):
        full_name(find_recipe("mnist"), rule, estimator)


def test_a_rule_without_settings():
    with pytest.raises(ValueError, match="recipe moons has no settings for pmf; choose from: "):
        find_rule(RECIPES["moons"], RuleName("pmf"), "paper")


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        make_config("mnist", "ste", batchsize=3)
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        find_recipe("fashion_mnist")


def test_nothing_near_is_no_suggestion():
    assert "did you mean" not in str(nearest("rule", "xyzzy", ["ste", "bop"]))


def test_options_are_resolved_with_the_data():
    """ess, annealing interval and hardening step follow from N and the steps of an epoch."""
    recipe = RECIPES["mnist"]
    config = make_config(recipe, "bayesbinn", budget="quick", batch_size=5)
    built = build_experiment(config, lambda: torch.nn.Linear(784, 10), toy(recipe), recipe.loss)
    assert built.optimizer.param_groups[0]["ess"] == 20
    config = make_config(recipe, "pmf", budget="quick", batch_size=5)
    built = build_experiment(config, lambda: torch.nn.Linear(784, 10), toy(recipe), recipe.loss)
    assert built.optimizer.param_groups[0]["interval"] == 1


def test_probability_figures_against_closed_forms():
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    y = torch.tensor([0, 0, 1, 0])
    found = probability_figures(probs, y)
    chosen = torch.tensor([0.9, 0.4, 0.7, 0.8])
    assert found["accuracy"] == 75
    assert found["nll"] == pytest.approx(float(-chosen.log().mean()))
    assert found["brier"] == pytest.approx(float((2 * (1 - chosen) ** 2).mean()))
    sure = torch.tensor([0.9, 0.6, 0.7, 0.8])
    hit = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert found["ece"] == pytest.approx(float((sure - hit).abs().mean()), abs=1e-6)
    one = probability_figures(probs[:, 1:], y)
    assert one == pytest.approx(found)


def test_regression_figures_add_the_spread_of_the_networks_to_the_noise():
    one = Prediction(torch.tensor([[[2.0]]]))
    assert observation_noise(one, torch.tensor([0.0])) == pytest.approx(2.0)
    # Networks at ±1 around 3 have variance 2; with noise of 1.5 the predictive variance is 4.25.
    several = Prediction(torch.tensor([[[2.0], [2.0]], [[4.0], [4.0]]]))
    y = torch.tensor([4.0, 6.5])
    found = regression_figures(several, y, noise=1.5)
    assert found["error"] == pytest.approx((1 + 3.5**2) / 2)
    expected = -torch.distributions.Normal(3.0, 4.25**0.5).log_prob(y).mean()
    assert found["nll"] == pytest.approx(float(expected))
    assert found["inside"] == 100.0  # 3.5 is less than two deviations of √4.25, and more than two of 1.5
    assert regression_figures(several, torch.tensor([4.0, 8.0]), noise=1.5)["inside"] == 50.0
    # The spread explains variance 2 of the residuals' 13: the rest is noise.
    assert observation_noise(several, torch.tensor([3 + 13**0.5, 3 - 13**0.5])) == pytest.approx(11**0.5, rel=2e-3)


def test_the_noise_of_many_examples_is_that_of_few():
    """Pieces of the training data are added up."""
    one, y = torch.randn(2, 300, 1), torch.randn(300)
    many = Prediction(one.repeat(1, 9, 1))
    assert observation_noise(many, y.repeat(9)) == pytest.approx(observation_noise(Prediction(one), y), rel=1e-6)


def test_ring():
    assert torch.allclose(ring(4.0, 90).norm(dim=1), torch.full((90,), 4.0))


def test_rows_of_a_table():
    row = TableRow("ste", [summary(test_accuracy=98.0), summary(test_accuracy=99.0, test_nll=0.1)])
    figures = row.figures()
    assert figures["test"]["mean"] == 98.5
    assert figures["test"]["std"] == pytest.approx(0.5**0.5)
    assert figures["test_nll"]["std"] is None
    assert "train" not in figures


def test_only_the_run_in_question_counts_as_finished(tmp_path):
    config = make_config("digits", "ste", epochs=2, out=str(tmp_path))
    assert finished(config) is None
    (tmp_path / "config.json").write_text(config.to_json())
    for done in (1, 2):
        reached = summary(epochs_done=done)
        (tmp_path / "summary.json").write_text(json.dumps(reached.to_dict()))
        assert finished(config) == (reached if done == 2 else None)
    assert finished(make_config("digits", "ste", epochs=2, lr=0.5, out=str(tmp_path))) is None
    (tmp_path / "summary.json").write_text("torn")
    assert finished(config) is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_default_settings(name):
    config = make_config(name, "bayesbinn:default")
    assert (config.rule, config.estimator, config.spec.schedule.per_step) == ("bayesbinn", "straight-through", True)
    start = {"init": "weights"} if config.pretrain_epochs else {}
    assert config.spec.options == {"ess_scale": 300.0, "init_lambda": "auto", **start, **find_recipe(name).common}
    assert config.spec.lr is None  # the run's length decides
    assert config.out.endswith(f"{name}-bayesbinn-default-seed{config.seed}")


def test_default_settings_are_no_estimator():
    with pytest.raises(ValueError, match="no estimator is called 'default'"):
        full_name(find_recipe("mnist"), "bayesbinn", "default")


def test_the_optimizer_of_the_fast_float_network_is_that_of_airbench() -> None:
    experiment = make_experiment(make_config("digits", "full-precision", out="-").changed(real_optimizer="nesterov"))
    optimizer = experiment.real_optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.85, True)
    assert find_recipe("cifar10-speed").rules["full-precision"].real_optimizer == "nesterov"
    with pytest.raises(ValueError, match="real_optimizer must be one of adam, sgd, nesterov; got 'adamw'"):
        make_config("digits").changed(real_optimizer="adamw")


def test_a_recipe_may_have_variants_of_bayesbinn() -> None:
    one, two = (make_config("mnist-trust", f"bayesbinn:{name}") for name in ("one-pass", "straight-through"))
    assert (one.spec.samples, two.spec.samples, str(one.rule_name)) == (1, 2, "bayesbinn:one-pass")
    assert one.estimator == two.estimator == "straight-through"
