"""Ways to get the members of an ensemble within one run's training time, beside the rivals of a float network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from bitbayes.calibration import probability_figures
from bitbayes.errors import nearest
from bitbayes.lab.choices import Overrides, TableChoice, Way
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import Recipe, make_config, make_experiment, open_recipe
from bitbayes.lab.recipes.configure import data_of, full_name, open_device
from bitbayes.lab.studies import gaussian
from bitbayes.lab.studies.budget import (
    Spending,
    check_same_study,
    equal_epochs,
    factor_name,
    next_factors,
    scaled,
    step_times,
)
from bitbayes.lab.studies.dropout import dropout_layers
from bitbayes.lab.studies.evaluate import Inputs, Predictions, calibration_data
from bitbayes.lab.studies.load import load_members
from bitbayes.lab.studies.plans import GAUSSIAN, Kind, Plan, has_way, predictors
from bitbayes.lab.studies.several import (
    begin_members,
    data_of_process,
    finished,
    member_configs,
    member_epochs,
    run_several,
    with_float_networks,
)
from bitbayes.lab.studies.tables import default_folder
from bitbayes.lab.train import DivergedError, RuleName, RunConfig, RunFolder, choose_precision
from bitbayes.lab.train.records import Record, Spread
from bitbayes.prediction import Prediction

MEMBERS_RECIPE = "mnist-trust"
_RULES = ("full-precision", gaussian.SWAG, gaussian.IVON, "ste", "bayesbinn", "vispa")
_Way = Literal[Way, "dropout"]
_SHIFTED = 500  # test images that are corrupted in every way
_TRIAL_SEED = 1000  # added to the recipe's seed, so that no measured run has the seed of a trial
_TRIAL_SAMPLES = 8


@dataclass(frozen=True)
class MembersRow(Record):
    """Row of a study of members: one way to train, and one way to predict.

    Args:
        rule: Name of the rule, with its variant.
        way: "single" (one run), "dropout" (one run of a float network, for predictions with dropout), "members"
            (independent runs), or "cycles" (cycles of one run).
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
    spending.json. Rules that cannot be relaxed have no cycles. SWAG and IVON are posteriors of single runs. Predictions
    with the dropout of a single float network are a rival with a learning rate of its own. Finished runs are not
    repeated.

    Args:
        choice: Recipe (by default "mnist-trust"), rules, seeds (by default 1) and parallel jobs.
        given: Choices for every run; `out` is the folder of the study.
        members: Number of members, and of cycles.
        ways: Ways to train. members.json has the rows of these ways alone. Rules that none of them suits are left out.
        unlike: Recipe of the out-of-distribution data, or "letters"; None for no such data.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data.
        samples: Number of posterior samples of all members together, and of passes with dropout.
        trials: Number of learning rates that the search of each rule in each way begins with, a factor of 3 apart. With
            three or more, it goes on beyond its best rate until that is neither the smallest nor the largest, with at
            most as many rates again. The rate with the lowest NLL on validation data, on a seed of its own, is that of
            all seeds. Trials may diverge, or have a rate that the rule refuses. In a folder with a search, 1 stands for
            the number of that search, also for ways and rules that are new.
        note: Function that gets a line about each step.

    Raises:
        ValueError: If a name does not exist, a number is too small, the recipe is a regression, a search has no
            validation data, or the folder holds a study with another first rule, budget, search or number of members.
        DivergedError: If every trial of a rule in a way diverges, or a run outside the search.
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
    seen: set[str] = set()
    for rule in rules:
        name = rule if rule in GAUSSIAN else str(full_name(recipe, rule))
        if name in seen:
            raise ValueError(f"rule {name} is given twice; give it once")
        seen.add(name)
        if rule in GAUSSIAN and (line := gaussian.missing(rule)):
            note(line)
        elif any(has_way(name, way) for way in ways):
            yield name
        else:
            note(f"{name} is left out, because it has none of the ways {', '.join(ways)}")


# Training. ----------------------------------------------------------------------------------------------------------


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
        return make_config(self.recipe, "full-precision" if self.first in GAUSSIAN else self.first, self.given)

    def inputs(self, unlike: str | None, unlike_data: str | None, shifted: int = 0) -> Inputs:
        """Return the evaluation data of all runs; see `Inputs.of`."""
        return Inputs.of(data_of(self.example, self.data), self.recipe.name, unlike, unlike_data, shifted=shifted)

    @property
    def parts(self) -> int:
        """Number of parts of equal length that a budget is divided into."""
        return 1 if self.ways == ["single"] else self.members

    def budget(self, rule: str) -> tuple[int, int]:
        """Return the epochs of the recipe and of the float network before, as multiples of `parts`."""
        base = "full-precision" if rule in GAUSSIAN else rule
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
        if rule in GAUSSIAN:
            given = dataclasses.replace(given, capture=False)  # a graph cannot call what they do after each step
            return gaussian.gaussian_config(self.recipe, rule, given, str(out))
        return make_config(self.recipe, rule, given, out=str(out))

    def plans(self, spending: Sequence[Spending], seed: int) -> Iterator[Plan]:
        """Yield all ways to train with one seed."""
        for each in spending:
            for way in self.ways_of(each.rule):
                same = way == "dropout" and each.factor(way) == each.factor("single")
                out = self.folder / _slug(f"{RuleName.parse(each.rule).slug}-seed{seed}", "single" if same else way)
                yield self.plan(each, way, seed, each.factor(way), out)

    def trials(self, each: Spending, way: _Way, number: int) -> dict[float, Plan]:
        """Return the next trials of one way to train with a rule, by factor of the learning rate."""
        runs = "single" if way == "dropout" else way  # which both ways to predict share
        place = self.folder / "trials" / _slug(RuleName.parse(each.rule).slug, runs)
        seed = self.recipe.seed + _TRIAL_SEED
        wanted = next_factors(each.searches.get(way, {}), number)
        return {factor: self.plan(each, way, seed, factor, place / factor_name(factor)) for factor in wanted}

    def ways_of(self, rule: str) -> list[_Way]:
        """Return the ways to train of the study that a rule has."""
        ways: list[_Way] = [way for way in self.ways if has_way(rule, way)]
        return [*ways[:1], "dropout", *ways[1:]] if ways[:1] == ["single"] and self.drops(rule) else ways

    def drops(self, rule: str) -> bool:
        """Return whether a rule trains a float network with dropout."""
        if rule in GAUSSIAN or RuleName.parse(rule).rule != "full-precision":
            return False
        config = make_config(self.recipe, rule, self.given)
        return bool(dropout_layers(make_experiment(config, self.data).model))

    def plan(self, each: Spending, way: _Way, seed: int, factor: float, out: Path) -> Plan:
        """Return one way to train with a rule, a seed and a multiple of its learning rate."""
        given = dataclasses.replace(self.shared(each.rule, each.epochs, seed), out=str(out))
        if way in ("single", "dropout"):
            configs = [self.single(each.rule, each.epochs, seed, out)]
        elif way == "members":
            configs = member_configs(self.recipe, each.rule, self.members, given)
        else:
            configs = [make_config(self.recipe, each.rule, given, cycles=self.members)]
        examples = len(self.data.train)
        return Plan(each.rule, way, [scaled(one, factor, examples) for one in configs], out, each.time)

    def train(self, plans: Sequence[Plan]) -> None:
        """Train all runs of some plans that are not finished."""
        for plan in plans:
            if plan.way == "members":
                begin_members(plan.configs)
        usual = [config for plan in plans if plan.rule not in GAUSSIAN for config in plan.configs]
        usual = list({config.out: config for config in usual}.values())  # two ways to predict may share a run
        floats = [str(self.folder / f"pretrained-seed{config.seed}") for config in usual]  # which the rules share
        run_several(with_float_networks(usual, floats, jobs=self.jobs, note=self.note), jobs=self.jobs, note=self.note)
        for config in (plan.configs[0] for plan in plans if plan.rule in GAUSSIAN):
            if finished(config) is None or not gaussian.is_trained(config):
                self.note(f"{config.rule_name}, in {config.out}")
                gaussian.train_gaussian(config, self.data)

    def search(self, plans: Sequence[Plan]) -> None:
        """Train all runs of some plans that are not finished, except for those that diverge or that are refused."""
        plans = [plan for plan in plans if not plan.refused]
        while True:
            plans = [plan for plan in plans if not plan.diverged]
            try:
                return self.train(plans)
            except DivergedError as error:
                if not any(plan.diverged for plan in plans):  # a float network before the runs
                    raise
                self.note(f"failed: {error}")


def _slug(name: str, way: _Way) -> str:
    """Return the name of the folder of a way to train."""
    return name if way == "single" else f"{name}-{way}"


def _spending(trainer: _Trainer, rules: Sequence[str], trials: int) -> list[Spending]:
    """Return what each rule spends, from spending.json as far as it is there, and write what is new."""
    file = RunFolder(trainer.folder)
    known: dict[str, Spending] = {}
    epochs, before = trainer.budget(rules[0])
    about = {"reference": rules[0], "epochs": epochs, "members": trainer.members}
    parts = trainer.parts
    if file.has("spending.json"):
        kept = file.read_json("spending.json")
        if any("trials" in each for each in kept["rules"]):
            raise ValueError(
                f"{file.path} holds the search of an earlier version, in which members took the learning rates of "
                "single runs; choose another --out"
            )
        if trials == 1:  # then the search of the folder holds for what is new as well
            trials = kept.get("trials", 1)
        check_same_study(str(file.path), kept, {**about, "trials": trials})
        parts = min(parts, kept.get("parts", parts))
        if parts < trainer.parts:
            raise ValueError(f"{file.path} holds single runs, whose epochs members cannot share; choose another --out")
        known = {each.rule: each for each in map(Spending.from_dict, kept["rules"])}
    if trials > 1 and (trainer.given.protocol == "test" or not isinstance(trainer.data.validation, TensorData)):
        raise ValueError(
            f"a search with {trials} trials needs validation data that fits in memory, but {trainer.recipe.name} with "
            f"--protocol {trainer.given.protocol} has none; leave out --trials, or choose an --out without a search"
        )

    def keep() -> None:
        rows = [each.to_dict() for each in known.values()]
        file.write_json("spending.json", {**about, "trials": trials, "parts": parts, "rules": rows})

    if set(rules) - set(known):
        known = _timed(trainer, rules, epochs + before) | known
        keep()
    list(trainer.plans([known[name] for name in rules], trainer.recipe.seed))  # refuses what cannot be trained
    while runs := {
        (name, way): plans
        for name in rules
        for way in trainer.ways_of(name)
        if (plans := trainer.trials(known[name], way, trials))
    }:
        trainer.search([plan for plans in runs.values() for plan in plans.values()])
        for (name, way), plans in runs.items():
            searches = known[name].searches
            merits = {factor_name(factor): _merit(trainer, plan) for factor, plan in plans.items()}
            merits = {**searches.get(way, {}), **merits}
            trainer.note(f"{name}, {way}: NLL on validation data by factor of the learning rate: {merits}")
            if all(merit is None for merit in merits.values()):
                raise DivergedError(
                    f"every trial of {name} in the way {way} diverged; leave out the rule or the way, or lower its "
                    "learning rate"
                )
            known[name] = dataclasses.replace(known[name], searches={**searches, way: merits})
            keep()
    return [known[name] for name in rules]


def _timed(trainer: _Trainer, rules: Sequence[str], budget: int) -> dict[str, Spending]:
    """Measure the steps of all rules, and return the epochs that take as long as the budget of the first."""
    trainer.note("measuring the time of a training step of every rule")
    precision = choose_precision(trainer.example.precision, open_device(trainer.given.device))
    seed, place = trainer.recipe.seed, trainer.folder
    runs = {n: trainer.single(n, trainer.budget(n)[0], seed, place).changed(precision=precision) for n in rules}
    make = {True: gaussian.gaussian_experiment, False: make_experiment}
    times = step_times({name: (run, make[name in GAUSSIAN](run, trainer.data)) for name, run in runs.items()})
    found = {}
    for name, ratio in times.items():
        left = max(budget - trainer.budget(name)[1], 0)  # without a float network before the run
        found[name] = Spending(name, ratio, equal_epochs(left, ratio, trainer.parts))
    return found


def _merit(trainer: _Trainer, plan: Plan) -> float | None:
    """Return the NLL on validation data of 8 posterior samples of all members, of 8 passes with dropout, or of modes.

    It is None if a run diverged or is refused, or if an output is not finite.
    """
    if plan.diverged or plan.refused:
        return None
    runs = load_members(plan.folder, data=trainer.data, device=trainer.given.device)
    x, y = calibration_data(runs[0], "a search for learning rates")
    found = predictors(plan, runs)
    best = found["mean"] if "mean" in found else next(iter(found.values()))
    each = [predictor(x).outputs for predictor in best.predictors(max(_TRIAL_SAMPLES // len(runs), 1))]
    prediction = Prediction(torch.cat(each))
    return probability_figures(prediction, y)["nll"] if prediction.outputs.isfinite().all() else None


# Measuring. ---------------------------------------------------------------------------------------------------------


def _measured(
    trainer: _Trainer,
    plans: Sequence[Sequence[Plan]],
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
        reference = reference or plan.training_time
        for kind, how in predictors(plan, runs).items():
            trainer.note(f"{plan.rule}, {plan.way}: {kind}, {plan.folder.name}")
            wanted = max(samples // len(runs), 1)
            counts = {table: how.count(wanted, size if table == "size" else None) for table in tables}
            found = [Predictions.of(each, inputs) for each in how.predictors(max(counts.values()))]
            for table, count in counts.items():
                if count:
                    joined = Predictions.joined([each.first(count) for each in found])
                    row = _row(plan, kind, how, count, len(runs), joined, inputs, plan.training_time / reference)
                    tables[table].setdefault((plan.rule, plan.way, kind), []).append(row)
    time, equal = ([_over_seeds(rows) for rows in table.values()] for table in tables.values())
    return MembersStudy(time, equal, spending, size, trainer.folder)


def _row(
    plan: Plan, kind: str, how: Kind, count: int, members: int, found: Predictions, inputs: Inputs, time: float
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
