"""Options of rules: what is accepted changes the run, and what has no effect is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides, StreamChoice
from bitbayes.lab.recipes import RECIPES, make_config
from bitbayes.lab.studies.streams import find_method, run_continual
from bitbayes.lab.studies.tune import tune
from bitbayes.lab.train import RuleSpec, RunConfig
from bitbayes.lab.train.experiment import resolved
from bitbayes.lab.train.rules import RELATIVE, RULES, check_options, option_names
from nested import equal

OTHER: dict[str, Any] = {
    **{"ess": 31.0, "momentum": 0.3, "tau": 0.5, "init_lambda": 2.5, "inner": "sgd", "betas": (0.5, 0.6)},
    **{"weight_decay": 0.1, "clip": 0.01, "window": 0.01, "metaplasticity": 20.0, "threshold": 0.3, "sigma": 0.3},
    **{"unbiased": True, "beta": 2.0, "growth": 1.5, "interval": 3, "beta_max": 1e-3, "jacobian": "exact", "a": 0.5},
    "dead_zone": 1.0,
    **{"init_theta": 0.5, "rate": 0.5, "harden_after": 3, "rank": 2, "divisor": 0.01, "project": True},
    **{"shared": "network", "init_noise": 3.0, "scale": "fan_in", "scale_lr": 0.2, "init": "weights"},
}
NEEDED = {
    **{"bayesbinn": {"ess": 20.0}, "adaste": {"ess": 3.0, "beta": 0.1, "interval": 2}, "bop2": {"threshold": 0.7}},
    **{"pmf": {"interval": 2}, "md": {"interval": 2}},
}
CONFIGURATIONS = [
    *((rule, {}) for rule, kind in RULES.items() if kind is not None),
    *(("bayesbinn", {"estimator": name, "tau": 0.9}) for name in ("concrete", "released")),
    ("ste", {"inner": "sgd"}),
    ("ste", {"scale": "channel"}),
    ("vispa", {"rank": 0}),
    ("vispa", {"project": True}),
]


def after_training(rule: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Beliefs, weights and mode after some steps, and the options of the optimizer."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 2, 48).reshape(6, 8))
    kind = RULES[rule]
    assert kind is not None
    optimizer = kind([parameter], lr=0.2, seed=1, **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        parameter.grad = torch.randn(6, 8, generator=generator) + parameter.detach()
        optimizer.step()
    state = {key: value for key, value in optimizer.state[parameter].items() if key != "step"}
    drawn = parameter.detach().clone()
    return (state, drawn, optimizer.eval() and parameter.detach().clone()), optimizer.param_groups[0]


@pytest.mark.parametrize(("rule", "options"), CONFIGURATIONS, ids=str)
def test_an_option_changes_the_weights_unless_the_rule_says_that_it_has_no_effect(
    rule: str, options: dict[str, Any]
) -> None:
    usual = {**NEEDED.get(rule, {}), **options}
    before, group = after_training(rule, usual)
    chosen = {key: value for key, value in usual.items() if key != "estimator"}
    for name in option_names(rule):
        if name in {*RELATIVE, "compile"} or OTHER[name] == group[name]:
            continue  # a compiled update has the same result
        after, _ = after_training(rule, {**usual, name: OTHER[name]})
        spec = RuleSpec(0.2, {**chosen, name: OTHER[name]})
        try:
            check_options(rule, usual.get("estimator"), spec, {name: OTHER[name]})
        except ValueError as error:
            assert "has no effect" in str(error)
            assert equal(before, after), name
        else:
            assert not equal(before, after), name


def test_a_number_takes_the_place_of_its_relative_form() -> None:
    for recipe in ("digits", "mnist"):
        config = make_config(recipe, options={"ess": 500})
        assert resolved(config, 1000).options["ess"] == 500 and "ess_scale" not in config.spec.options
    assert make_config("digits", "pmf", options={"interval": 7}).spec.options == {"growth": 1.2, "interval": 7}
    assert make_config("mnist", "pmf", options={"interval_epochs": 1}).spec.options["interval_epochs"] == 1
    back = RuleSpec(1e-2, {"ess": 7}).with_options({"ess_scale": 2.0})
    assert back.resolve(10, 1, 1).options == {"ess": 20.0}


def test_every_setting_of_every_recipe_is_one_that_the_rule_has() -> None:
    for recipe in RECIPES.values():
        for spec_name, spec in {**recipe.rules, **recipe.quick}.items():
            assert spec.options.keys() <= set(option_names(spec_name.partition(":")[0])), (recipe.name, spec_name)


def test_a_record_with_both_forms_is_still_read() -> None:
    """Runs from before this check have them; the relative form has decided."""
    text = make_config("digits").to_json().replace('"ess_scale"', '"ess": 1, "ess_scale"')
    assert resolved(RunConfig.from_json(text), 10).options["ess"] == 1000.0


TRAIN, TUNE = ["train", "digits", "--epochs", "1"], ["tune", "digits", "--epochs", "1", "--trials", "1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*TRAIN, "--set", "ess=-1"], "ess must be a positive number"),
        ([*TRAIN, "--set", "ess=1", "ess_scale=2"], "ess and ess_scale set the same number; give one of them"),
        (
            [*TRAIN, "--set", "es=1"],
            "no option of rule bayesbinn is called 'es'; did you mean 'ess'? Choose from: ",
        ),
        ([*TRAIN, "--set", "prior=1"], "no option of rule bayesbinn is called 'prior'; "),
        ([*TRAIN, "--set", "lr=1"], "lr is a setting of the run, not an option of the rule; use --lr"),
        ([*TRAIN, "--set", "tau=1"], "uses it only if estimator is concrete or released; leave it out"),
        ([*TRAIN, "--rule", "ste", "--set", "momentum=0"], "uses it only if inner is sgd"),
        ([*TRAIN, "--rule", "ste", "--set", "scale_lr=1"], "uses it only if scale is channel"),
        ([*TRAIN, "--rule", "vispa", "--set", "rank=0", "divisor=3"], "uses it only if rank is at least 1"),
        ([*TRAIN, "--rule", "proxquant", "--set", "harden_after=late"], "does not accept harden_after='late'"),
        ([*TRAIN, "--rule", "proxquant", "--set", "harden_after=0"], "harden_after must be a step of at least 1"),
        ([*TRAIN, "--rule", "full-precision", "--set", "clip=1"], "rule full-precision has no options, got clip"),
        ([*TRAIN, "--rule", "full-precision", "--real-lr", "1"], "real_lr has no effect"),
        (["train", "moons", "--real-lr", "1"], "real_lr has no effect"),
        ([*TUNE, "--search", "tau=1:2"], "tau has no effect"),
        ([*TUNE, "--search", "taus=1:2"], "did you mean 'tau'?"),
        (["evaluate", "run", "--unlike-data", "somewhere"], "has no effect without unlike"),
        (["continual", "permuted-mnist", "--scenario", "class"], "--scenario has no effect"),
        (["continual", "split-mnist", "--tasks", "3"], "--tasks has no effect"),
        (["continual", "split-mnist", "--rule", "ste", "--prior-decay", "0.5"], "--prior-decay has no effect"),
        (["continual", "split-mnist", "--rule", "ste", "--ess-decay", "0.5"], "--ess-decay has no effect"),
        (["continual", "split-mnist", "--method", "replay", "--method-set", "exmples=3"], "did you mean 'examples'?"),
        (["continual", "permuted-mnist", "--tasks", "0"], "tasks must be at least 1, got 0"),
    ],
)
def test_an_option_without_effect_is_one_line_and_begins_nothing(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    errors = capsys.readouterr().err
    assert expected in errors and len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_ess_acts(tmp_path, monkeypatch):
    """The same run but for `--set ess`: the posterior of a small one is less certain."""
    monkeypatch.chdir(tmp_path)
    for name, ess in (("small", "100"), ("large", "1e6")):
        assert cli.main(["train", "digits", "--epochs", "3", "--out", name, "--set", f"ess={ess}"]) == 0
    from bitbayes.posterior import load_posterior

    small, large = (float(load_posterior(f"{name}/posterior.safetensors").entropy()) for name in ("small", "large"))
    assert small > large + 0.01


def test_python_callers_are_told_too() -> None:
    with pytest.raises(ValueError, match="tau has no effect"):
        make_config("digits", options={"tau": 1.0})
    with pytest.raises(ValueError, match="tau has no effect"):
        tune("digits", given=Overrides(out="nowhere"), trials=1, ranges={"tau": (0.1, 1.0)})
    with pytest.raises(ValueError, match="prior-decay has no effect"):
        run_continual("split-mnist", "ste", StreamChoice(prior_decay=0.5), Overrides(options={}))
    with pytest.raises(ValueError, match="prior-decay has no effect: --no-prior leaves nothing to decay"):
        run_continual("split-mnist", "bayesbinn", StreamChoice(prior=False, prior_decay=0.5), Overrides())
    with pytest.raises(ValueError, match="no option of method replay is called 'strength'"):
        find_method("replay", {"strength": 1})
