"""Ways to get the members of an ensemble within one run's training time, beside the rivals of a float network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor

from bitbayes.calibration import probability_figures
from bitbayes.errors import nearest
from bitbayes.lab.choices import Overrides, TableChoice, Way
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import Recipe, make_config, make_experiment, open_recipe
from bitbayes.lab.recipes.configure import data_of, full_name, open_device
from bitbayes.lab.studies import gaussian
from bitbayes.lab.studies.budget import Spending, check_same_study, equal_epochs, factors, scaled, step_times
from bitbayes.lab.studies.dropout import dropout_layers, dropout_predictor
from bitbayes.lab.studies.evaluate import Inputs, Predictions, calibration_data
from bitbayes.lab.studies.load import FinishedRun, load_members, load_run
from bitbayes.lab.studies.several import (
    begin_members,
    data_of_process,
    diverged,
    finished,
    member_configs,
    member_epochs,
    run_several,
    with_float_networks,
)
from bitbayes.lab.studies.tables import default_folder
from bitbayes.lab.studies.trust import network_bytes
from bitbayes.lab.train import DivergedError, RuleName, RunConfig, RunFolder, choose_precision
from bitbayes.lab.train.records import Record, Spread
from bitbayes.lab.train.rules import relaxes
from bitbayes.prediction import Prediction

MEMBERS_RECIPE = "mnist-trust"
_RULES = ("full-precision", gaussian.SWAG, gaussian.IVON, "ste", "bayesbinn", "vispa")
_GAUSSIAN = (gaussian.SWAG, gaussian.IVON)
_SHIFTED = 500  # test images that are corrupted in every way
_TRIAL_SEED = 1000  # added to the recipe's seed, so that no measured run has the seed of a trial
_TRIAL_SAMPLES = 8


@dataclass(frozen=True)
class MembersRow(Record):
    """Row of a study of members: one way to train, and one way to predict.

    Args:
        rule: Name of the rule, with its variant.
        way: "single" (one run), "members" (independent runs), or "cycles" (cycles of one run).
        kind: "mode" of every member, "mean" of posterior samples, or "dropout" of the units of one float network.
        epochs: Number of training epochs in all, including those of float networks that the runs begin with.
        time: Training time relative to that of the first row of the table `MembersStudy.time`.
        members: Number of members.
        networks: Number of networks whose probabilities are averaged.
        bytes: Size of these networks, with one bit per binary weight; or of a Gaussian over real weights that they are
            drawn from, where it is smaller.
        figures: Metrics over seeds by name; see `Predictions.figures` and `Predictions.shift_figures`.
    """

    rule: str
    way: str
    kind: str
    epochs: int
    time: float
    members: int
    networks: int
    bytes: int
    figures: dict[str, Spread]


@dataclass(frozen=True)
class MembersStudy:
    """Result of a study of members.

    Args:
        time: Rows of predictions by as many networks as requested, after equally long training.
        size: Rows of predictions by as many networks as fit into the bytes of one float network.
        spending: Training time and trials of each rule.
        bytes: Bytes of one float network.
        folder: Folder of members.json.
    """

    time: list[MembersRow]
    size: list[MembersRow]
    spending: list[Spending]
    bytes: int
    folder: Path


def members_study(
    choice: TableChoice,
    given: Overrides,
    *,
    members: int = 4,
    ways: Sequence[Way] = get_args(Way),
    unlike: str | None = None,
    unlike_data: str | None = None,
    samples: int = 32,
    trials: int = 1,
    note: Callable[[str], None] = print,
) -> MembersStudy:
    """Train single runs, independent members and cycles for equally long, evaluate them, and write members.json.

    The epochs of the first rule's run, and those of float networks that runs begin with, are rounded down to a multiple
    of `members`, unless "single" is the only way. Other rules get the multiple whose training time, from the measured
    time of a step, is nearest to that of the first rule. The measured times and the result of the search are kept in
    spending.json. Rules that cannot be relaxed have no cycles. SWAG and IVON are posteriors of single runs. Finished
    runs are not repeated.

    Args:
        choice: Recipe (by default "mnist-trust"), rules, seeds (by default 1) and parallel jobs.
        given: Choices for every run; `out` is the folder of the study.
        members: Number of members, and of cycles.
        ways: Ways to train. members.json has the rows of these ways alone. Rules that none of them suits are left out.
        unlike: Recipe of the out-of-distribution data, or "letters"; None for no such data.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data.
        samples: Number of posterior samples of all members together, and of passes with dropout.
        trials: Number of learning rates of each rule, a factor of 3 apart. The rate of the single run with the lowest
            NLL on validation data, on a seed of its own, is that of all runs of the rule. Trials may diverge.
        note: Function that gets a line about each step.

    Raises:
        ValueError: If a name does not exist, a number is too small, the recipe is a regression, a search has no
            validation data, or the folder holds a study with another first rule, budget, search or number of members.
        DivergedError: If every trial of a rule diverges, or a run outside the search.
    """
    seeds = 1 if choice.seeds is None else choice.seeds
    for name, number, least in (("members", members, 2), ("trials", trials, 1), ("seeds", seeds, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if not ways:
        raise ValueError(f"ways must name at least one way to train: {', '.join(get_args(Way))}")
    if unknown := [way for way in ways if way not in get_args(Way)]:
        raise nearest("way to train", unknown[0], get_args(Way))
    if samples < members:
        raise ValueError(f"samples must be at least the number of members ({members}), got {samples}")
    recipe = open_recipe(choice.dataset or MEMBERS_RECIPE)
    if not recipe.loss.classifies:
        kind = "text" if recipe.loss.text else "a regression"
        raise ValueError(f"a study of members needs a classifier, but {recipe.name} is {kind}")
    folder = Path(given.out or f"{default_folder(recipe, given)}-members{members}")
    ways = [way for way in get_args(Way) if way in ways]
    rules = list(_known(recipe, choice.rules or _RULES, ways, note))
    if not rules:
        raise ValueError(f"no rule can be trained in the ways {', '.join(ways)}; add the way single, or another rule")
    with RunFolder(folder).held():
        trainer = _Trainer(recipe, given, rules[0], members, ways, folder, choice.jobs, note)
        trainer.inputs(unlike, unlike_data)  # refuses what does not suit before the training
        spending = _spending(trainer, rules, trials)
        plans = [list(trainer.plans(spending, recipe.seed + index)) for index in range(seeds)]
        for of_seed in plans:
            trainer.train(of_seed)
        study = _measured(trainer, plans, spending, samples, trainer.inputs(unlike, unlike_data, _SHIFTED))
        RunFolder(folder).write_json(
            "members.json",
            {
                "recipe": recipe.name,
                "unlike": unlike,
                "bytes": study.bytes,
                "spending": [each.to_dict() for each in spending],
                "time": [row.to_dict() for row in study.time],
                "size": [row.to_dict() for row in study.size],
            },
        )
    return study


def _known(recipe: Recipe, rules: Sequence[str], ways: Sequence[Way], note: Callable[[str], None]) -> Iterator[str]:
    """Yield the full names of the rules, without those whose package is missing or that no way suits."""
    for rule in rules:
        name = rule if rule in _GAUSSIAN else str(full_name(recipe, rule))
        if rule in _GAUSSIAN and (line := gaussian.missing(rule)):
            note(line)
        elif any(_has(name, way) for way in ways):
            yield name
        else:
            note(f"{name} is left out, because it has none of the ways {', '.join(ways)}")


def _has(rule: str, way: Way) -> bool:
    """Return whether a rule can be trained in a way."""
    if way == "single" or rule in _GAUSSIAN:
        return way == "single"
    name = RuleName.parse(rule).rule
    return way == "members" or name == "full-precision" or relaxes(name)


# Training. ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The runs of one way to train with one rule and one seed, and the folder that they are loaded from."""

    rule: str
    way: str
    configs: list[RunConfig]
    folder: Path
    time: float = 1.0

    @property
    def epochs(self) -> int:
        return sum(config.epochs + config.pretrain_epochs for config in self.configs)


@dataclass(frozen=True)
class _Trainer:
    """What trains the runs of a study: every rule, in every way."""

    recipe: Recipe
    given: Overrides
    first: str
    members: int
    ways: Sequence[Way]
    folder: Path
    jobs: int
    note: Callable[[str], None]

    @property
    def data(self) -> DataBundle:
        """The data of all runs."""
        return data_of_process(self.example)

    @functools.cached_property
    def example(self) -> RunConfig:
        """One of the runs, which have the data, the device and the precision in common."""
        return make_config(self.recipe, "full-precision" if self.first in _GAUSSIAN else self.first, self.given)

    def inputs(self, unlike: str | None, unlike_data: str | None, shifted: int = 0) -> Inputs:
        """Return the evaluation data of all runs; see `Inputs.of`."""
        return Inputs.of(data_of(self.example, self.data), self.recipe.name, unlike, unlike_data, shifted=shifted)

    @property
    def parts(self) -> int:
        """Number of parts of equal length that a budget is divided into."""
        return 1 if self.ways == ["single"] else self.members

    def budget(self, rule: str) -> tuple[int, int]:
        """Return the epochs of the recipe and of the float network before, as multiples of `parts`."""
        base = "full-precision" if rule in _GAUSSIAN else rule
        whole = make_config(self.recipe, base, self.given)
        share = member_epochs(whole, self.parts)
        return share["epochs"] * self.parts, share.get("pretrain_epochs", 0) * self.parts

    def shared(self, rule: str, epochs: int, seed: int) -> Overrides:
        """Return the choices of all runs of a rule and a seed."""
        before = self.budget(rule)[1]
        return dataclasses.replace(self.given, seed=seed, epochs=epochs, pretrain_epochs=before or None)

    def single(self, rule: str, epochs: int, seed: int, out: Path) -> RunConfig:
        """Return one run of a rule."""
        given = self.shared(rule, epochs, seed)
        if rule in _GAUSSIAN:
            given = dataclasses.replace(given, capture=False)  # a graph cannot call what they do after each step
            return gaussian.gaussian_config(self.recipe, rule, given, str(out))
        return make_config(self.recipe, rule, given, out=str(out))

    def plans(self, spending: Sequence[Spending], seed: int) -> Iterator[_Plan]:
        """Yield all ways to train with one seed."""
        for each in spending:
            yield from (self.plan(each, way, seed) for way in self.ways if _has(each.rule, way))

    def plan(self, each: Spending, way: Way, seed: int) -> _Plan:
        """Return one way to train with a rule and a seed."""
        out = self.folder / f"{RuleName.parse(each.rule).slug}-seed{seed}{'' if way == 'single' else '-' + way}"
        given = dataclasses.replace(self.shared(each.rule, each.epochs, seed), out=str(out))
        if way == "single":
            configs = [self.single(each.rule, each.epochs, seed, out)]
        elif way == "members":
            configs = member_configs(self.recipe, each.rule, self.members, given)
        else:
            configs = [make_config(self.recipe, each.rule, given, cycles=self.members)]
        examples = len(self.data.train)
        return _Plan(each.rule, way, [scaled(one, each.factor, examples) for one in configs], out, each.time)

    def train(self, plans: Sequence[_Plan]) -> None:
        """Train all runs of some plans that are not finished."""
        for plan in plans:
            if plan.way == "members":
                begin_members(plan.configs)
        usual = [config for plan in plans if plan.rule not in _GAUSSIAN for config in plan.configs]
        floats = [str(self.folder / f"pretrained-seed{config.seed}") for config in usual]  # which the rules share
        run_several(with_float_networks(usual, floats, jobs=self.jobs, note=self.note), jobs=self.jobs, note=self.note)
        for config in (plan.configs[0] for plan in plans if plan.rule in _GAUSSIAN):
            if finished(config) is None or not gaussian.is_trained(config):
                self.note(f"{config.rule_name}, in {config.out}")
                gaussian.train_gaussian(config, self.data)

    def search(self, plans: Sequence[_Plan]) -> None:
        """Train all runs of some plans that are not finished, except for those that diverge."""
        while True:
            plans = [plan for plan in plans if not diverged(plan.configs[0])]
            try:
                return self.train(plans)
            except DivergedError as error:
                if not any(diverged(plan.configs[0]) for plan in plans):  # a float network before the runs
                    raise
                self.note(f"failed: {error}")


def _spending(trainer: _Trainer, rules: Sequence[str], trials: int) -> list[Spending]:
    """Return what each rule spends, from spending.json as far as it is there, and write what is new."""
    file = RunFolder(trainer.folder)
    known: dict[str, Spending] = {}
    epochs, before = trainer.budget(rules[0])
    about = {"reference": rules[0], "epochs": epochs, "members": trainer.members, "trials": trials}
    parts = trainer.parts
    if trials > 1 and (trainer.given.protocol == "test" or not isinstance(trainer.data.validation, TensorData)):
        raise ValueError(
            f"--trials {trials} needs validation data that fits in memory, but {trainer.recipe.name} with --protocol "
            f"{trainer.given.protocol} has none; leave out --trials"
        )

    def keep() -> None:
        rows = [each.to_dict() for each in known.values()]
        file.write_json("spending.json", {**about, "parts": parts, "rules": rows})

    if file.has("spending.json"):
        kept = file.read_json("spending.json")
        if trials == 1:  # uses the search that is there
            about["trials"] = kept.get("trials", 1)
        check_same_study(str(file.path), kept, about)
        parts = min(parts, kept.get("parts", parts))
        if parts < trainer.parts:
            raise ValueError(f"{file.path} holds single runs, whose epochs members cannot share; choose another --out")
        known = {each.rule: each for each in map(Spending.from_dict, kept["rules"])}
    if set(rules) - set(known):
        known = _timed(trainer, rules, epochs + before) | known
        keep()
    seed, examples = trainer.recipe.seed + _TRIAL_SEED, len(trainer.data.train)
    list(trainer.plans([known[name] for name in rules], seed))  # refuses what cannot be trained before the search
    runs = {
        name: {
            factor: scaled(trainer.single(name, known[name].epochs, seed, place / f"{factor:.3g}"), factor, examples)
            for factor in factors(trials)
        }
        for name in rules
        if trials > 1 and len(known[name].trials) != trials
        for place in [trainer.folder / "trials" / RuleName.parse(name).slug]
    }
    plans = [_Plan(name, "single", [each], Path(each.out)) for name, found in runs.items() for each in found.values()]
    trainer.search(plans)
    for name, configs in runs.items():
        merits = {factor: _merit(trainer, name, config) for factor, config in configs.items()}
        trainer.note(f"{name}: NLL on validation data by factor of the learning rate: {merits}")
        ended = {factor: merit for factor, merit in merits.items() if merit is not None}
        if not ended:
            raise DivergedError(f"every trial of {name} diverged; leave out the rule, or lower its learning rate")
        by_factor = {f"{factor:.3g}": merit for factor, merit in merits.items()}
        known[name] = dataclasses.replace(known[name], factor=min(ended, key=ended.__getitem__), trials=by_factor)
        keep()
    return [known[name] for name in rules]


def _timed(trainer: _Trainer, rules: Sequence[str], budget: int) -> dict[str, Spending]:
    """Measure the steps of all rules, and return the epochs that take as long as the budget of the first."""
    trainer.note("measuring the time of a training step of every rule")
    precision = choose_precision(trainer.example.precision, open_device(trainer.given.device))
    seed, place = trainer.recipe.seed, trainer.folder
    runs = {n: trainer.single(n, trainer.budget(n)[0], seed, place).changed(precision=precision) for n in rules}
    make = {True: gaussian.gaussian_experiment, False: make_experiment}
    times = step_times({name: (run, make[name in _GAUSSIAN](run, trainer.data)) for name, run in runs.items()})
    found = {}
    for name, ratio in times.items():
        left = max(budget - trainer.budget(name)[1], 0)  # without a float network before the run
        found[name] = Spending(name, ratio, equal_epochs(left, ratio, trainer.parts))
    return found


def _merit(trainer: _Trainer, rule: str, config: RunConfig) -> float | None:
    """Return the NLL on validation data of the mean where there is a posterior, or else of the network.

    It is None if the run diverged, or if an output is not finite.
    """
    if diverged(config):
        return None
    run = load_run(config.out, data=trainer.data, device=trainer.given.device)
    x, y = calibration_data(run, "a search for learning rates")
    found = _predictors(_Plan(rule, "single", [config], Path(config.out)), [run])
    best = found.get("mean", found["mode"])
    prediction = best.predictors(_TRIAL_SAMPLES)[0](x)
    return probability_figures(prediction.class_probs, y)["nll"] if prediction.outputs.isfinite().all() else None


# Measuring. ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """One way to predict with the members of a plan.

    Args:
        predictors: Function from a number of networks to one predictor for each member.
        bytes: Function from that number to the bytes of all members together.
        most: Number of networks of each member that the predictor can have; None for any number.
    """

    predictors: Callable[[int], list[Callable[[Tensor], Prediction]]]
    bytes: Callable[[int], int]
    most: int | None = None

    def count(self, wanted: int, limit: int | None) -> int:
        """Return the number of networks of each member that is wanted or, with a limit, that fits; 0 for none."""
        if self.most is not None:
            wanted = min(wanted, self.most)
        if limit is None:
            return wanted
        one, two = self.bytes(1), self.bytes(2)
        if one > limit:
            return 0
        if two == one:
            return wanted
        fits = 1 + (limit - one) // (two - one)
        return fits if fits > 1 else 0


def _predictors(plan: _Plan, runs: Sequence[FinishedRun]) -> dict[str, _Kind]:
    """Return the ways to predict with the members of a plan by name."""
    run, members = runs[0], len(runs)
    found = {
        "mode": _Kind(lambda n: [each.predictor(0) for each in runs], lambda n: members * network_bytes(run, 1), 1)
    }
    if plan.rule in _GAUSSIAN:
        posterior, size = gaussian.load_gaussian(run), run.experiment.bytes()[0]
        found["mode"] = _Kind(lambda n: [gaussian.gaussian_predictor(run, posterior)], lambda n: size, 1)
        found["mean"] = _Kind(
            lambda n: [gaussian.gaussian_predictor(run, posterior, n)], lambda n: posterior.vectors(n) * size
        )
    elif run.posterior is not None:
        found["mean"] = _Kind(lambda n: [each.predictor(n) for each in runs], lambda n: members * network_bytes(run, n))
    elif plan.way == "single" and run.config.rule == "full-precision" and dropout_layers(run.experiment.model):
        found["dropout"] = _Kind(lambda n: [dropout_predictor(run, n)], lambda n: network_bytes(run, 1))
    return found


def _measured(
    trainer: _Trainer,
    plans: Sequence[Sequence[_Plan]],
    spending: list[Spending],
    samples: int,
    inputs: Inputs,
) -> MembersStudy:
    size = 0
    reference = 0.0
    tables: dict[str, dict[tuple[str, str, str], list[MembersRow]]] = {"time": {}, "size": {}}
    for plan in (plan for of_seed in plans for plan in of_seed):
        runs = load_members(plan.folder, data=trainer.data, device=trainer.given.device)
        size = runs[0].experiment.bytes()[0]
        reference = reference or _training_time(plan)
        for kind, how in _predictors(plan, runs).items():
            trainer.note(f"{plan.rule}, {plan.way}: {kind}, {plan.folder.name}")
            wanted = max(samples // len(runs), 1)
            counts = {table: how.count(wanted, size if table == "size" else None) for table in tables}
            found = [Predictions.of(each, inputs) for each in how.predictors(max(counts.values()))]
            for table, count in counts.items():
                if count:
                    joined = Predictions.joined([each.first(count) for each in found])
                    row = _row(plan, kind, how, count, len(runs), joined, inputs, _training_time(plan) / reference)
                    tables[table].setdefault((plan.rule, plan.way, kind), []).append(row)
    time, equal = ([_over_seeds(rows) for rows in table.values()] for table in tables.values())
    return MembersStudy(time, equal, spending, size, trainer.folder)


def _training_time(plan: _Plan) -> float:
    """Return the training time of a plan in epochs of the first rule; an epoch of a float network counts as one."""
    return sum(config.epochs * plan.time + config.pretrain_epochs for config in plan.configs)


def _row(
    plan: _Plan, kind: str, how: _Kind, count: int, members: int, found: Predictions, inputs: Inputs, time: float
) -> MembersRow:
    figures = found.figures(inputs) | found.shift_figures(inputs)
    return MembersRow(
        plan.rule,
        plan.way,
        kind,
        epochs=plan.epochs,
        time=time,
        members=members,
        networks=len(found.test.outputs),
        bytes=how.bytes(count),
        figures={name: Spread.of([value]) for name, value in figures.items()},
    )


def _over_seeds(rows: Sequence[MembersRow]) -> MembersRow:
    found = {
        name: Spread.of([row.figures[name].mean for row in rows if name in row.figures]) for name in rows[0].figures
    }
    return MembersRow(**{**vars(rows[0]), "figures": found})
