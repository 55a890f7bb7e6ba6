"""Write the tables of the documentation from the result files in docs/results.

    python docs/tables.py                            rewrite the tables of every page in docs
    python docs/tables.py --keep NAME.json FILE...   first store the results of a command as docs/results/NAME.json

FILE is the TARGET.json that `bitbayes reproduce TARGET` writes, the summary.json of `bitbayes continual`, the
truth.json of `python -m benchmarks.estimators`, or a file of `benchmarks/chosen_settings.py` or of
`benchmarks/conformal.py`.
Several TARGET.json of different recipes become one file, without the rows that another stored file has for the same
recipe. Several conformal.json become one file, too. Rules that the command did not run keep their old rows, and so do
schedules of other lengths. Problems whose exact posterior it did not sample keep their old tables. The files of
Snelson's data, of the estimators and of benchmarks are replaced as a whole.

In a page, a table stands between two comments: `<!-- table NAME.json: columns -->` and `<!-- end -->`. A comment that
names no columns shows all that the file has. Do not edit what stands between the comments: a test compares it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbayes.lab.report.results import truth_cells
from bitbayes.lab.report.trust import FIGURES, TRUST_FIGURES, WAYS
from bitbayes.lab.studies.tables import TABLES
from bitbayes.table import Table, spread

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results"
_HEAD = r"(?<=<!-- table )(?P<name>[\w.-]+\.json)(?P<columns>:[\w -]+?)? -->"
BLOCK = re.compile(rf"{_HEAD}\n.*?(?=<!-- end -->)", re.DOTALL)

RULES = {
    "full-precision": "full precision",
    "full-precision:no-dropout": "full precision, no dropout",
    "full-precision:swag": "full precision, SWAG",
    "full-precision:ivon": "full precision, IVON",
    "ste": "STE, Adam",
    "ste:two-passes": "STE, two passes per step",
    "ste:metaplastic": "STE, metaplastic",
    "bayesbinn": "BayesBiNN",
    "bayesbinn:straight-through": "BayesBiNN, tuned",
    "bayesbinn:default": "BayesBiNN, recommended",
    "bayesbinn:released": "BayesBiNN, released",
    "vispa": "VISPA, K = 4",
    "bop": "Bop",
    "bop2": "second-order Bop",
    "pmf": "PMF",
    "md": "mirror descent",
    "adaste": "AdaSTE",
    "proxquant": "ProxQuant",
}
# In studies of members, the recipe's own BayesBiNN is the only one.
OF_MEMBERS = RULES | {
    **dict.fromkeys(["bayesbinn:straight-through", "bayesbinn:one-pass"], "BayesBiNN"),
    "bayesbinn:default": "BayesBiNN, dropout",
}
FLOAT = ("full-precision", "full-precision:no-dropout")  # rules with one network, which is no mode
# Heading of a column, and digits after the point.
COLUMNS = {
    "train": ("train, %", 2),
    "validation": ("validation, %", 2),
    "test": ("test, %", 2),
    "published": ("published, %", 2),
    "mean_test": ("mean of samples, %", 2),
    "entropy_bits": ("per-weight entropy, bits", 3),
    "test_nll": ("NLL, nats", 3),
    "validation_bits": ("validation, bits per byte", 4),
    "test_bits": ("test, bits per byte", 4),
    "sample_test_bits": ("one sample, bits per byte", 4),
    "mean_test_bits": ("mean of samples, bits per byte", 4),
}
# Digits of the figure that a recipe is compared by, and what the name of the recipe says of it.
DATA = {"test_error": (3, ", squared error"), "test_bits": (4, ", bits per byte"), "test": (2, "")}
TRUST = {name: (FIGURES[name][0], FIGURES[name][-1]) for name in TRUST_FIGURES}
TRUST |= {"accuracy": ("accuracy, %", 2), "nll": ("NLL, nats", 4), "auroc_unlike": ("AUROC, Fashion-MNIST", 3)}
# Figures of a study of members: what its tables call them, and digits after the point.
MEMBERS = {name: (figure[0], figure[-1]) for name, figure in FIGURES.items()}
MEMBERS |= {"nll_tempered": ("NLL, tempered", 4)}
# A fourth digit makes the tables too wide. The page says that 0.000 means less than 0.0005.
MEMBERS = {name: (head, min(digits, 3) if name != "aurc" else digits) for name, (head, digits) in MEMBERS.items()}
SHOWN = (1, 2, 3, 4, 5, 10, 20, 50)  # tasks of a stream
SETTING = ("recipe", "scenario", "rule", "method", "method_options", "prior", "decay", "epochs", "tasks")
STREAM = (*SETTING, "seed", "average_accuracy", "backward_transfer", "first_five", "last_five")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, with a line break at its end."""
    return Table("", heads, rows).markdown() + "\n"


def cell(figure: Mapping[str, Any] | None, digits: int) -> str:
    """Return the stored mean and sample standard deviation as text."""
    if figure is None:
        return ""
    std = "" if figure.get("std") is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{std}"


def rules_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per rule of a TARGET.json; a rule with fewer seeds than the others says so."""
    names = list(columns) or [name for name in COLUMNS if any(name in row for row in found["rows"])]
    most = max(row.get("runs", 0) for row in found["rows"])
    rows = []
    for row in found["rows"]:
        published, runs = row.get("published"), row.get("runs", 0)
        figures = row | {"published": published and {"mean": published["test"], "std": published["spread"]}}
        label = RULES[row["rule"]] + (f", {runs} seed{'s' * (runs > 1)}" if runs < most else "")
        rows.append([label, *(cell(figures.get(name), COLUMNS[name][1]) for name in names)])
    return markdown(["rule", *(COLUMNS[name][0] for name in names)], rows)


def data_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per recipe and one column per rule, and two more columns for the recommended setting."""
    rules, lines = TABLES["default"].rules, []
    for recipe, rows in found["data"].items():
        by_rule = _elsewhere(recipe) | {row["rule"]: row for row in rows}
        one = by_rule[rules[-1]]
        figure, (digits, note) = next((name, how) for name, how in DATA.items() if name in one)
        cells = (cell(by_rule.get(rule, {}).get(figure), digits) for rule in rules)
        lines.append([recipe + note, *cells, cell(one[f"mean_{figure}"], digits), cell(one["entropy_bits"], 2)])
    last = ["recommended, mean of samples", "per-weight entropy, bits"]
    return markdown(["recipe", *(RULES[rule] for rule in rules), *last], lines)


def trust_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per rule and kind of prediction: one network, the mean of samples, or an ensemble of seeds."""
    names, rows = list(columns) or list(TRUST), []
    for row in found["rows"]:
        kinds = {"network": "network", "ensemble": f"ensemble of {row['networks']} seeds"}
        kind = kinds.get(row["kind"], f"mean of {row['networks']} samples")
        bits = f"{row['entropy_bits']:.2f}" if "entropy_bits" in row else ""
        figures = (cell(row["figures"].get(name), TRUST[name][1]) for name in names)
        rows.append([RULES[row["rule"]], kind, f"{row['bytes'] / 1e6:.2f}", bits, *figures])
    heads = [TRUST[name][0] for name in names]
    return markdown(["rule", "prediction", "MB", "per-weight entropy, bits", *heads], rows)


def members_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per way to train and to predict, of the table "time" or "size" that the comment names first.

    The name "cost" stands for the columns of training time and bytes.
    """
    which, *names = columns
    if which == "spending":
        return spending_table(found)
    cost, names = "cost" in names, [name for name in names if name != "cost"]
    kinds = {"mean": "mean of {} samples", "dropout": "mean of {} dropout masks"}
    rows = []
    for row in found[which]:
        modes = ("network", "mean of {} networks") if row["rule"] in FLOAT else ("mode", "modes of {}")
        of_modes = modes[1] if row["networks"] > 1 else modes[0]
        way = "" if row["way"] in ("single", "dropout") else ", " + WAYS[row["way"]].format(row["members"])
        label = [OF_MEMBERS[row["rule"]] + way, kinds.get(row["kind"], of_modes).format(row["networks"])]
        label += [f"{row['time']:.2f}", f"{row['bytes'] / 1e6:.2f}"] if cost else []
        rows.append([*label, *(cell(row["figures"].get(name), MEMBERS[name][1]) for name in names)])
    heads = ["rule", "prediction", *(["time", "MB"] if cost else []), *(MEMBERS[name][0] for name in names)]
    return markdown(heads, rows)


def spending_table(found: Mapping[str, Any]) -> str:
    """Return the time and the trials of every rule and way to train, with the chosen trial in bold."""
    ways = dict.fromkeys((row["rule"], row["way"], row["members"]) for row in found["time"])
    by_rule = {each["rule"]: each for each in found["spending"]}
    factors = {name for each in by_rule.values() for trials in each.get("searches", {}).values() for name in trials}
    rows = []
    for rule, way, members in ways:
        trials = by_rule[rule].get("searches", {}).get(way, {})
        best = min((nll for nll in trials.values() if nll is not None), default=None)
        shown = {factor: "diverged" if nll is None else f"{nll:.4f}" for factor, nll in trials.items()}
        shown |= {factor: f"**{nll:.4f}**" for factor, nll in trials.items() if nll == best and nll is not None}
        cells = (shown.get(factor, "") for factor in sorted(factors, key=float))
        spent = f"{by_rule[rule]['time']:.2f}", str(by_rule[rule]["epochs"])
        rows.append([OF_MEMBERS[rule], WAYS[way].format(members), *spent, *cells])
    heads = (f"NLL at {factor}×" for factor in sorted(factors, key=float))
    return markdown(["rule", "training", "time of a step", "epochs in all", *heads], rows)


def streams_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per setting of the streams, with the mean and spread over its seeds."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for stream in found["streams"]:
        settings.setdefault(json.dumps([stream[key] for key in SETTING]), []).append(stream)
    tasks = [task for task in SHOWN if task <= max(stream["tasks"] for stream in found["streams"])]
    ends = all(stream["last_five"] is not None for stream in found["streams"])
    scenarios = len({stream["scenario"] for stream in found["streams"]}) > 1
    rows = []
    for streams in settings.values():
        one = streams[0]
        cells = [spread(stream["average_accuracy"][task - 1] for stream in streams) for task in tasks]
        if ends:
            cells += [spread(stream[key] for stream in streams) for key in ("first_five", "last_five")]
        label = [*([one["scenario"]] if scenarios else []), RULES[one["rule"]], _against_forgetting(one)]
        rows.append([*label, str(one["epochs"]), str(len(streams)), *cells])
    heads = [*(["scenario"] if scenarios else []), "rule", "against forgetting", "epochs per task", "seeds"]
    heads += [f"after task {task}" for task in tasks] + (["first five tasks", "last five tasks"] if ends else [])
    return markdown(heads, rows)


def _against_forgetting(stream: Mapping[str, Any]) -> str:
    kept = []
    if stream["rule"] == "bayesbinn":
        decay = "" if stream["decay"] == 1 else f" × {stream['decay']:g}"
        kept.append(f"prior{decay}" if stream["prior"] else "no prior")
    if stream["method"] != "none":
        options = (
            f"{name} {value:g}" for name, value in stream["method_options"].items() if not isinstance(value, str)
        )
        kept.append(f"{stream['method']} ({', '.join(options)})")
    return ", ".join(kept) or "nothing"


def schedules_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per rule and length of its schedule."""
    names = list(columns) or [name for name in COLUMNS if any(name in row for row in found["schedules"])]
    rows = []
    for row in found["schedules"]:
        lengths = [str(row["float_epochs"]) if row["float_epochs"] else "", str(row["epochs"])]
        figures = (cell(row.get(name), COLUMNS[name][1]) for name in names)
        rows.append([RULES[row["rule"]], *lengths, str(len(row["test"]["values"])), *figures])
    heads = ["rule", "float epochs first", "epochs in all", "seeds", *(COLUMNS[name][0] for name in names)]
    return markdown(heads, rows)


def truth_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the posteriors of the problem that the comment names beside the exact one."""
    (figures,) = (each for each in found["truth"] if each["problem"].partition(",")[0] == columns[0])
    return markdown(*truth_cells(figures))


def flips_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return accuracy and sign flips of every setting of `benchmarks/transformer.py`."""
    rows = [
        [_initial(label), spread(row["accuracy"], 1), spread(row["flips"])]
        for label, row in found["transformers"].items()
    ]
    return markdown(["binary weights", "test accuracy, %", "signs that a step flips, %"], rows)


def _initial(label: str) -> str:
    """Return the label of a benchmark with the documentation's name of BayesBiNN's option `init_lambda`."""
    return label.replace("first |λ|", "initial |λ|")


def trials_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the validation NLL of all trials of `benchmarks/chosen_settings.py`, with the least of each split bold."""
    rows = []
    for trial in found["trials"]:
        rivals = [each["nll"] for each in found["trials"] if each["rule"] == trial["rule"]]
        best = [min(of_split) for of_split in zip(*rivals, strict=True)]
        pairs = zip(trial["nll"], best, strict=True)
        cells = [f"**{nll:.3f}**" if nll == least else f"{nll:.3f}" for nll, least in pairs]
        rows.append([trial["rule"], trial["setting"], *cells])
    return markdown(["rule", "setting", *(f"split {split}" for split in found["splits"])], rows)


def coverage_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the coverage of conformal sets of every recipe, rule and kind of prediction, from validation data.

    The coverage of halves of the test data is left out: it is known without a measurement.
    """
    levels = list(found["coverage"][0]["levels"])
    rows = []
    for row in found["coverage"]:
        kind = f"mean of {row['samples']} samples" if row["samples"] else "mode"
        label = [row["recipe"], RULES[row["rule"]], kind, str(row["epochs"]), str(row["seeds"])]
        cells = [cell(row["levels"][level]["validation"], 2) for level in levels]
        rows.append([*label, cell(row["accuracy"], 2), *cells])
    heads = ["recipe", "rule", "prediction", "epochs", "seeds", "accuracy, %"]
    return markdown([*heads, *(f"coverage at {100 * float(level):g}%" for level in levels)], rows)


def decoders_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the bits per byte of every setting of `benchmarks/text.py all`."""
    rows = [[_initial(label), spread(costs, 3)] for label, costs in found["decoders"].items()]
    return markdown(["binary weights", "test, bits per byte"], rows)


def encoders_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the relative times of every engine of `benchmarks/encoders.py`."""
    cases = list(dict.fromkeys(case for row in found["encoders"].values() for case in row))
    rows = []
    for engine, row in found["encoders"].items():
        rows.append([engine, *(f"{row[case]:.2f}×" if case in row else "" for case in cases)])
    return markdown(["engine", *cases], rows)


def snelson_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per split, and a last row for their mean."""
    rows = []
    for label, split in [*enumerate(found["splits"]), ("mean", found["mean_of_splits"])]:
        errors = (f"{split[name]:.3f}" for name in ("ste_error", "mode_error", "mean_error"))
        rows.append([str(label), *errors, f"{split['inside_two_std']:.1f}"])
    heads = ["split", "STE", "BayesBiNN, mode", f"BayesBiNN, mean of {found['mean_samples']} samples", "inside, %"]
    return markdown(heads, rows)


def curve_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per epoch: the accuracy of each seed, their mean, and the published mean."""
    seeds = found["seeds"]
    rows = []
    for place, epoch in enumerate(found["epochs"]):
        values = [curve[place] for curve in seeds.values()]
        published = f"{found['published'][place]:.2f}"
        rows.append([str(epoch), *(f"{value:.2f}" for value in values), spread(values), published])
    return markdown(["after epoch", *(f"seed {seed}" for seed in seeds), "mean", "published"], rows)


def estimators_table(found: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return one row per estimator of ∂E[loss]/∂μ and one column per problem, of the bias or of another figure."""
    figure = columns[0]
    problems = {re.sub(r" [\d-]+,", ",", name): rows for name, rows in found["problems"].items()}
    rows = []
    for estimator in next(iter(problems.values())):
        row = (problem[estimator] for problem in problems.values())
        rows.append([estimator, *(_bias(one) if figure == "bias" else _digits(one[figure]) for one in row)])
    return markdown(["estimator", *problems], rows)


def _bias(one: Mapping[str, float]) -> str:
    """Return a bias, or the bound that it keeps if it is not told from zero: twice its noise."""
    bound = 2 * one["bias_noise"]
    return _digits(one["bias"]) if one["bias"] > bound else f"< {_digits(max(bound, 0.001))}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def table(name: str, columns: Sequence[str] = ()) -> str:
    """Return the table of a stored file as Markdown."""
    found = json.loads((KEPT / name).read_text(encoding="utf-8"))
    kinds = {
        "trials": trials_table,
        "spending": members_table,
        "streams": streams_table,
        "unlike": trust_table,
        "data": data_table,
    }
    kinds |= {"rows": rules_table, "splits": snelson_table, "epochs": curve_table}
    kinds |= {"problems": estimators_table, "truth": truth_table, "transformers": flips_table}
    kinds |= {"decoders": decoders_table, "encoders": encoders_table}
    kinds |= {"coverage": coverage_table, "schedules": schedules_table}
    return next(make for key, make in kinds.items() if key in found)(found, columns)


def rewritten(text: str) -> str:
    """Return the text of a page with its tables made anew."""

    def block(match: re.Match[str]) -> str:
        columns = (match["columns"] or ":")[1:]
        return f"{match['name']}{match['columns'] or ''} -->\n\n{table(match['name'], columns.split())}\n"

    return BLOCK.sub(block, text)


def keep(name: str, files: Sequence[Path]) -> None:
    """Store results where the pages find them: rounded, and without times and paths."""
    read = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    place = KEPT / name
    old = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    found = read[0]
    if any(problem.startswith("BatchNorm") for problem in found):  # the truth.json of benchmarks.estimators
        found = {"problems": {problem: rows for problem, rows in found.items() if not problem.startswith("multi")}}
    elif "truth" in found:
        problems = {each["problem"]: each for source in (old, *read) for each in source.get("truth", [])}
        found = {"truth": list(problems.values())}
    elif "coverage" in found:
        rows = [row for each in read for row in each["coverage"]]
        found = {"coverage": sorted(rows, key=lambda row: row["recipe"])}
    elif "schedules" in found:
        rows = [row for each in (old, *read) for row in each.get("schedules", ())]
        points = {(row["rule"], row["float_epochs"], row["epochs"]): row for row in rows}
        order = list(RULES)
        found["schedules"] = sorted(points.values(), key=lambda row: (order.index(row["rule"]), row["epochs"]))
    elif "matrix" in found:
        found = {"streams": [_stream(each) for each in read]}
    elif len(read) > 1 or "data" in old:
        found = {"data": _by_recipe(old.get("data", {}), read)}
    elif "rows" in old:
        found["rows"] = _merged(old["rows"], found["rows"])
    KEPT.mkdir(exist_ok=True)
    place.write_text(json.dumps(_rounded(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _by_recipe(old: Mapping[str, Any], read: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the stored rows and those of some TARGET.json, without what another stored file has."""
    kept = dict(old)
    for found in read:
        wanted = set(TABLES["default"].rules) - set(_elsewhere(found["recipe"]))
        rows = [row for row in found["rows"] if row["rule"] in wanted]
        kept[found["recipe"]] = _merged(kept.get(found["recipe"], []), rows)
    return kept


def _elsewhere(recipe: str) -> dict[str, Any]:
    """Return the rows of single networks by rule, from the stored TARGET.json of a recipe."""
    found = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(KEPT.glob("*.json")))
    rows = (row for each in found if each.get("recipe") == recipe for row in each.get("rows", ()))
    return {
        row["rule"]: {"test": row["figures"]["accuracy"]} if "figures" in row else row
        for row in rows
        if row.get("kind", "network") == "network"
    }


def _stream(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table needs of a stream; STE with metaplasticity counts as a rule of its own."""
    rule = "ste:metaplastic" if found.get("options", {}).get("metaplasticity") else found["rule"]
    return {key: found.get(key) for key in STREAM} | {"rule": rule}


def _merged(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Return the old rows with those of the rules that a command has run replaced."""
    rules = dict.fromkeys(row["rule"] for row in (*old, *new))
    ran = {row["rule"] for row in new}
    return [row for rule in rules for row in (new if rule in ran else old) if row["rule"] == rule]


_LEFT_OUT = ("seconds", "source", "curve", "axis")  # of results that the pages keep


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items() if not key.startswith(_LEFT_OUT)}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def pages() -> list[Path]:
    """Return the pages in docs that have at least one table of a result file."""
    return [page for page in sorted(HERE.rglob("*.md")) if "<!-- table " in page.read_text(encoding="utf-8")]


def main() -> None:
    """Rewrite the tables of all pages, after storing the results that `--keep` names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--keep",
        nargs="+",
        metavar=("NAME.json", "FILE"),
        default=[],
        help="store these result files as docs/results/NAME.json before the tables are written",
    )
    kept = parser.parse_args().keep
    if kept:
        keep(kept[0], [Path(file) for file in kept[1:]])
    for page in pages():
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
