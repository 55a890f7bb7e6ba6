"""Ways to get the members of an ensemble within one run's epochs, compared at equal epochs and at equal bytes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from bitbayes.draws import network_outputs
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.recipes import Recipe, make_config, open_recipe
from bitbayes.lab.recipes.configure import full_name, pretrained
from bitbayes.lab.studies.evaluate import Inputs, Predictions, evaluation_inputs
from bitbayes.lab.studies.load import FinishedRun, joint, load_members
from bitbayes.lab.studies.several import begin_members, finished, member_configs, run_several
from bitbayes.lab.studies.trust import network_bytes
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.records import Record, Spread
from bitbayes.lab.train.rules import relaxes
from bitbayes.lab.train.views import averaged
from bitbayes.noise import stream_key
from bitbayes.prediction import Prediction

MEMBERS_RECIPE = "mnist-trust"
_RULES = ("full-precision", "ste", "bayesbinn:default")
_CHUNK = 2000  # inputs at a time
_DROPOUT_STREAM = 14  # keeps the masks of test time apart from the noise of the rules


@dataclass(frozen=True)
class MembersRow(Record):
    """Row of a study of members: one way to train, and one way to predict.

    Args:
        rule: Name of the rule, with its variant.
        way: "single" (one run), "members" (independent runs), or "cycles" (cycles of one run).
        kind: "mode" of every member, "mean" of posterior samples, or "dropout" of the units of one float network.
        epochs: Number of training epochs in all, including those of float networks that the runs begin with.
        members: Number of members.
        networks: Number of networks whose probabilities are averaged.
        bytes: Size of these networks, with one bit per binary weight.
        figures: Metrics over seeds by name; see `Predictions.figures`.
    """

    rule: str
    way: str
    kind: str
    epochs: int
    members: int
    networks: int
    bytes: int
    figures: dict[str, Spread]


@dataclass(frozen=True)
class MembersStudy:
    """Result of a study of members.

    Args:
        time: Rows of predictions by as many networks as requested, after equally many epochs.
        size: Rows of predictions by as many networks as fit into the bytes of one float network.
        bytes: Bytes of one float network.
        folder: Folder of members.json.
    """

    time: list[MembersRow]
    size: list[MembersRow]
    bytes: int
    folder: Path


def members_study(
    choice: TableChoice,
    given: Overrides,
    *,
    members: int = 4,
    unlike: str | None = None,
    unlike_data: str | None = None,
    samples: int = 32,
    note: Callable[[str], None] = print,
) -> MembersStudy:
    """Train single runs, independent members and cycles with equal budgets, evaluate them, and write members.json.

    The epochs of a run, and those of the float network that it begins with, are rounded down to a multiple of
    `members`. Rules that cannot be relaxed have no cycles. Finished runs are not repeated.

    Args:
        choice: Recipe (by default "mnist-trust"), rules, seeds (by default 1) and parallel jobs.
        given: Choices for every run; `out` is the folder of the study.
        members: Number of members, and of cycles.
        unlike: Recipe of the out-of-distribution data; None for no such data.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data.
        samples: Number of posterior samples of all members together, and of passes with dropout.
        note: Function that gets a line about each step.

    Raises:
        ValueError: If a name does not exist, a number is too small, or the recipe is a regression.
    """
    if members < 2:
        raise ValueError(f"members must be at least 2, got {members}")
    if samples < members:
        raise ValueError(f"samples must be at least the number of members ({members}), got {samples}")
    seeds = 1 if choice.seeds is None else choice.seeds
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    recipe = open_recipe(choice.dataset or MEMBERS_RECIPE)
    if not recipe.loss.classifies:
        kind = "text" if recipe.loss.text else "a regression"
        raise ValueError(f"a study of members needs a classifier, but {recipe.name} is {kind}")
    folder = Path(given.out or f"runs/{recipe.name}-{given.budget}-members{members}")
    rules = [str(full_name(recipe, name)) for name in choice.rules or _RULES]
    with RunFolder(folder).held():
        plans = [list(_plans(recipe, rules, recipe.seed + index, given, members, folder)) for index in range(seeds)]
        for plan in (plan for of_seed in plans for plan in of_seed if plan.way == "members"):
            begin_members(plan.configs)
        configs = [config for of_seed in plans for plan in of_seed for config in plan.configs]
        run_several([_ready(config, folder) for config in configs], jobs=choice.jobs, note=note)
        study = _measured(plans, samples, unlike, unlike_data, given, folder, note)
        RunFolder(folder).write_json(
            "members.json",
            {
                "recipe": recipe.name,
                "unlike": unlike,
                "bytes": study.bytes,
                "time": [row.to_dict() for row in study.time],
                "size": [row.to_dict() for row in study.size],
            },
        )
    return study


# Training. ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The runs of one way to train with one rule and one seed, and the folder that they are loaded from."""

    rule: str
    way: str
    configs: list[RunConfig]
    folder: Path

    @property
    def epochs(self) -> int:
        return sum(config.epochs + config.pretrain_epochs for config in self.configs)


def _plans(
    recipe: Recipe, rules: Sequence[str], seed: int, given: Overrides, members: int, folder: Path
) -> Iterator[_Plan]:
    for rule in rules:
        name = full_name(recipe, rule)
        out = folder / f"{name.slug}-seed{seed}"
        whole = make_config(recipe, rule, given, seed=seed, out=str(out))
        share = {setting: getattr(whole, setting) // members for setting in ("epochs", "pretrain_epochs")}
        budget: dict[str, Any] = {setting: count * members for setting, count in share.items() if count}
        same = dataclasses.replace(given, seed=seed, **budget)
        apart, cycles = (dataclasses.replace(same, out=f"{out}-{way}") for way in ("members", "cycles"))
        yield _Plan(rule, "members", member_configs(recipe, rule, members, apart), Path(f"{out}-members"))
        yield _Plan(rule, "single", [make_config(recipe, rule, same, out=str(out))], out)
        if relaxes(name.rule) or name.rule == "full-precision":
            yield _Plan(rule, "cycles", [make_config(recipe, rule, cycles, cycles=members)], Path(f"{out}-cycles"))


def _ready(config: RunConfig, folder: Path) -> RunConfig:
    """Return a run with the float network that it begins with, which the rules share."""
    return config if finished(config) else pretrained(config, str(folder / f"pretrained-seed{config.seed}"))


# Measuring. ---------------------------------------------------------------------------------------------------------


def _measured(
    plans: Sequence[Sequence[_Plan]],
    samples: int,
    unlike: str | None,
    unlike_data: str | None,
    given: Overrides,
    folder: Path,
    note: Callable[[str], None],
) -> MembersStudy:
    inputs: Inputs | None = None
    size = 0
    tables: dict[str, dict[tuple[str, str, str], list[MembersRow]]] = {"time": {}, "size": {}}
    for plan in (plan for of_seed in plans for plan in of_seed):
        runs = load_members(plan.folder, data=given.data, device=given.device)
        inputs = inputs or evaluation_inputs(runs[0], unlike, unlike_data)
        size = runs[0].experiment.bytes()[0]
        for table, rows in tables.items():
            for kind, count in _kinds(plan, runs, samples, size if table == "size" else None).items():
                note(f"{plan.rule}, {plan.way}: {kind}, {plan.folder.name}")
                rows.setdefault((plan.rule, plan.way, kind), []).append(_row(plan, runs, kind, count, inputs))
    time, equal = ([_over_seeds(rows) for rows in table.values()] for table in tables.values())
    return MembersStudy(time, equal, size, folder)


def _kinds(plan: _Plan, runs: Sequence[FinishedRun], samples: int, limit: int | None) -> dict[str, int]:
    """Return the ways to predict and the number of networks of each member; `limit` bounds the bytes of all."""
    run, count = runs[0], max(samples // len(runs), 1)
    if limit is not None:
        one, two = (len(runs) * network_bytes(run, networks) for networks in (1, 2))
        if one > limit:
            return {}
        count = 1 + (limit - one) // (two - one) if two > one else count
    kinds = {"mode": 1}
    if run.posterior is not None:
        kinds["mean"] = count
    if plan.way == "single" and run.config.rule == "full-precision" and dropout_layers(run.experiment.model):
        kinds["dropout"] = samples
    return kinds


def _row(plan: _Plan, runs: Sequence[FinishedRun], kind: str, count: int, inputs: Inputs) -> MembersRow:
    predictor = dropout_predictor(runs[0], count) if kind == "dropout" else joint(runs, count if kind == "mean" else 0)
    figures = Predictions.of(predictor, inputs).figures(inputs)
    own = 1 if kind == "dropout" else count  # networks that are stored
    return MembersRow(
        plan.rule,
        plan.way,
        kind,
        epochs=plan.epochs,
        members=len(runs),
        networks=len(runs) * count,
        bytes=len(runs) * network_bytes(runs[0], own),
        figures={name: Spread.of([value]) for name, value in figures.items()},
    )


def _over_seeds(rows: Sequence[MembersRow]) -> MembersRow:
    found = {
        name: Spread.of([row.figures[name].mean for row in rows if name in row.figures]) for name in rows[0].figures
    }
    return MembersRow(**{**vars(rows[0]), "figures": found})


# Dropout at test time. ----------------------------------------------------------------------------------------------


def dropout_layers(model: torch.nn.Module) -> list[_DropoutNd]:
    """Return the dropout layers of a network that drop something."""
    return [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]


def dropout_predictor(run: FinishedRun, passes: int) -> Callable[[Tensor], Prediction]:
    """Return a function from inputs to the predictions of several passes with dropout.

    Every pass and every call for the same number of inputs has the same masks, whatever was predicted before. Torch's
    global generator is restored afterwards.

    Args:
        run: Run of a network with dropout layers.
        passes: Number of passes.

    Source:
        MC dropout (Gal & Ghahramani, ICML 2016).
    """
    model, device = copy.deepcopy(run.experiment.model).eval(), run.experiment.device
    for layer in dropout_layers(model):
        layer.train()

    @torch.no_grad()
    def predict(x: Tensor) -> Prediction:
        outputs = averaged(lambda part: network_outputs(model, {}, part, _CHUNK), run.config.views)
        found = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for index in range(passes):
                torch.manual_seed(stream_key(run.config.seed, _DROPOUT_STREAM, index))
                with autocast(device, run.config.precision):
                    found.append(outputs(x))
        return Prediction(torch.stack(found))

    return predict
