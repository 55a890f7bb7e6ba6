"""Trustworthiness of probabilities of single networks, posterior means and ensembles, with their sizes in bytes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.recipes import make_config, open_recipe
from bitbayes.lab.recipes.configure import data_of
from bitbayes.lab.studies.evaluate import Inputs, Predictions
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.several import data_of_process
from bitbayes.lab.studies.tables import TABLES, rules_of, run_folder, run_table
from bitbayes.lab.train import RuleName, RunFolder
from bitbayes.lab.train.records import Record, Spread


@dataclass(frozen=True)
class TrustRow(Record):
    """Row of a trust study: one way to predict.

    Args:
        rule: Name of the rule, with the estimator of BayesBiNN.
        kind: "network" (the mode, if there is a posterior), "mean" of posterior samples, or "ensemble" of the networks
            of all seeds.
        networks: Number of networks that are averaged.
        bytes: Size of all averaged networks in bytes.
        figures: Metrics over seeds by name; see `Predictions.figures`.
        entropy_bits: Mean per-weight entropy in bits, for "mean".
    """

    rule: str
    kind: str
    networks: int
    bytes: int
    figures: dict[str, Spread]
    entropy_bits: float | None = None


@dataclass(frozen=True)
class TrustStudy:
    """Result of a trust study.

    Args:
        rows: One row for every way to predict.
        examples: Predictions of the first seed by rule and kind, for figures.
        inputs: Inputs of the predictions.
        folder: Folder of trust.json.
    """

    rows: list[TrustRow]
    examples: dict[str, Predictions]
    inputs: Inputs
    folder: Path


def trust_study(
    choice: TableChoice,
    given: Overrides,
    *,
    unlike: str | None = "fashion-mnist",
    unlike_data: str | None = None,
    samples: int = 32,
    note: Callable[[str], None] = print,
) -> TrustStudy:
    """Train the runs of the table "trust" that are missing, evaluate all of them, and write trust.json.

    For every rule, the study evaluates three predictions: its network (the mode, if there is a posterior), the
    posterior mean if there is a posterior, and the ensemble of the networks of all seeds (Lakshminarayanan et al.,
    NeurIPS 2017). 32 binary networks take as many bytes as one float network.

    Args:
        choice: Runs of the table; see `run_table`.
        given: Choices for every run.
        unlike: Recipe of the out-of-distribution data; None for no such data.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data.
        samples: Number of posterior samples that a mean averages over.
        note: Function that gets a line about each step.

    Raises:
        ValueError: If a name does not exist, or the data is not as expected.
    """
    recipe = open_recipe(choice.dataset or TABLES["trust"].recipe)
    about = make_config(recipe, str(rules_of("trust", recipe, choice.rules)[0]), given)
    data = data_of(about, data_of_process(about))
    inputs = Inputs.of(data, recipe.name, unlike, unlike_data)  # refuses what does not suit before the training
    table, folder = run_table("trust", choice, given, note=note)
    rows: list[TrustRow] = []
    examples: dict[str, Predictions] = {}
    for row in table:
        found: dict[str, list[Predictions]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for summary in row.summaries:
            place = run_folder(folder, RuleName.parse(row.rule), summary.seed)
            run = load_run(place, data=data, device=given.device)
            kinds = {"network": 0} if run.posterior is None else {"network": 0, "mean": samples}
            for kind, count in kinds.items():
                note(f"{row.rule}: {kind}, seed {summary.seed}")
                found.setdefault(kind, []).append(Predictions.of(run.predictor(count), inputs))
                sizes[kind] = (max(count, 1), network_bytes(run, max(count, 1)))
        ways = {kind: (predictions, *sizes[kind]) for kind, predictions in found.items()}
        if len(found["network"]) > 1:
            count, size = len(found["network"]), sizes["network"][1]
            ways["ensemble"] = ([Predictions.joined(found["network"])], count, count * size)
        for kind, (predictions, count, size) in ways.items():
            each = [prediction.figures(inputs) for prediction in predictions]
            figures = {name: Spread.of([one[name] for one in each if name in one]) for name in each[0]}
            bits = statistics.mean(row.values("posterior_entropy_bits")) if kind == "mean" else None
            rows.append(TrustRow(row.rule, kind, count, size, figures, bits))
            examples[f"{row.rule} {kind}"] = predictions[0]
    assert inputs is not None
    recipe = choice.dataset or TABLES["trust"].recipe
    written = {"recipe": recipe, "unlike": unlike, "rows": [row.to_dict() for row in rows]}
    RunFolder(folder).write_json("trust.json", written)
    return TrustStudy(rows, examples, inputs, folder)


def network_bytes(run: FinishedRun, networks: int) -> int:
    """Return the bytes of networks that share their real parameters and scales, which take 32 bits each."""
    (full, packed), binary = run.experiment.bytes(), run.experiment.binary_weights()
    return packed + (networks - 1) * ((binary + 7) // 8) if binary else full
