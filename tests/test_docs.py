"""Every block of code of the README and of the docs runs, in order, as a reader would paste it; commands are parsed."""

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from bitbayes.lab.cli import app
from outputs import agree

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:    |\| `)(?:.* -m )?bitbayes (.+?)(?:` \|.*)?$", re.MULTILINE)


def blocks(page, language="python"):
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(2)].count("\n"), m.group(2)) for m in BLOCK.finditer(text) if m.group(1) == language]


def shown_output(page):
    """What a page says that its blocks print ("It prints:"), by the line on which the block begins."""
    text = page.read_text(encoding="utf-8")
    found, line, end = {}, 0, 0
    for m in BLOCK.finditer(text):
        if m.group(1) == "text" and text[end : m.start()].rstrip().endswith("prints:"):
            found[line] = m.group(2)
        line, end = text[: m.start(2)].count("\n"), m.end()
    return found


def commands(page):
    text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))
    return COMMAND.findall(text)


PAGES_WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("tables")


def test_tables_are_those_of_the_result_files(tables):
    texts = {page: page.read_text(encoding="utf-8") for page in tables.pages()}
    for page, text in texts.items():
        assert text.count("<!-- table ") == len(tables.BLOCK.findall(text)), page.name
        assert tables.rewritten(text) == text, f"{page.name}: run python docs/tables.py"
        assert tables.rewritten(re.sub(r"\d\.\d\d", "9.99", text)) != text
    shown = {match["name"] for text in texts.values() for match in tables.BLOCK.finditer(text)}
    assert shown == {path.name for path in tables.KEPT.glob("*.json")} - {"speed.json"}
    assert len(texts) >= 8


def test_every_page_of_results_has_a_table_a_picture_and_a_command():
    overview = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs" / "results").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        answer = text.split("\n\n")[1]
        assert text.startswith("# ") and text.split("\n")[0].endswith("?"), page.name
        assert answer.startswith("**"), f"{page.name}: the answer stands in bold below the question"
        assert "\n| --- |" in text and ".svg)" in text and commands(page), page.name
        assert f"(results/{page.name}" in overview, f"{page.name} is not linked from results.md"


def test_all_pages_are_rewritten(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    pages = [tmp_path / "a.md", tmp_path / "results" / "b.md"]
    for page in pages:
        page.write_text("before\n<!-- table mnist-curve.json -->\nold\n<!-- end -->\nafter\n")
    (tmp_path / "c.md").write_text("no table\n")
    monkeypatch.setattr("sys.argv", ["tables.py"])
    tables.main()
    for page in pages:
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
        assert "| 10 | 98.24 | 98.13 | 98.27 | 98.05 | 98.20 | 98.18 ± 0.09 | 98.18 |" in text
    assert (tmp_path / "c.md").read_text() == "no table\n"


def ratio(value):
    """A ratio of speed.json, or the ends of a range, as a table shows it."""
    if isinstance(value, list):
        return " to ".join(map(ratio, value))
    return "" if value is None else f"{value}×" if isinstance(value, int) else f"{value:.2f}×"


@pytest.mark.parametrize(
    ("table", "page"),
    [("float32", "speed"), ("bfloat16", "speed"), ("prediction", "speed-more"), ("one input", "speed-more")],
)
def test_pages_about_speed_show_the_kept_figures(tables, table, page):
    """The pictures are drawn from speed.json, and the tables are written by hand."""
    rows = json.loads((tables.KEPT / "speed.json").read_text(encoding="utf-8"))["tables"][table]["rows"]
    lines = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    for name, values in rows.items():
        wanted = [*name.split(" | "), *map(ratio, values)]
        assert wanted in [row[: len(wanted)] for row in cells], f"{page}.md has no row {' | '.join(wanted)}"


def test_schedules_of_other_lengths_keep_their_points(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path)

    def kept(*points):
        rows = [
            {
                "rule": rule,
                "float_epochs": before,
                "epochs": epochs,
                "test": {"mean": test, "std": None, "values": [test]},
            }
            for rule, before, epochs, test in points
        ]
        file = tmp_path / "schedules.given"
        file.write_text(json.dumps({"recipe": "mnist", "schedules": rows}))
        tables.keep("lengths.json", [file])
        return [line.split(" | ")[:5] for line in tables.table("lengths.json").splitlines()[2:]]

    first = kept(("ste", 10, 20, 97.0), ("full-precision", 0, 10, 98.0))
    assert first == [["| full precision", "", "10", "1", "98.00 |"], ["| STE, Adam", "10", "20", "1", "97.00 |"]]
    again = kept(("ste", 10, 20, 97.5), ("ste", 5, 10, 96.0))
    assert [row[2:] for row in again] == [["10", "1", "98.00 |"], ["10", "1", "96.00 |"], ["20", "1", "97.50 |"]]


def test_a_table_of_recipes_takes_rows_of_text_from_another_file(tables, tmp_path, monkeypatch):
    """Every row has the figure of its recipe: bits per byte of text, and an accuracy of images."""
    monkeypatch.setattr(tables, "KEPT", tmp_path)
    figure = {"mean": 1.71918, "std": None, "values": [1.71918]}
    text = {"recipe": "text", "rows": [{"rule": "ste", "runs": 1, "test_bits": figure}]}
    trust = {"rule": "ste", "kind": "network", "networks": 1, "figures": {"accuracy": figure | {"mean": 98.5}}}
    (tmp_path / "text.json").write_text(json.dumps(text))
    (tmp_path / "trust.json").write_text(json.dumps({"recipe": "mnist", "unlike": "fashion", "rows": [trust]}))
    one = {"rule": "bayesbinn:default", "runs": 1, "entropy_bits": figure | {"mean": 0.5}}
    rows = [{"rule": "ste", "runs": 1, "test_bits": figure | {"mean": 9.0}}]  # which text.json has already
    rows += [one | {"test_bits": figure | {"mean": 1.8}, "mean_test_bits": figure | {"mean": 1.75}}]
    images = [one | {"test": figure | {"mean": 98.0}, "mean_test": figure | {"mean": 98.2}}]
    for recipe, found in (("text", rows), ("mnist", images)):
        file = tmp_path / f"{recipe}.given"
        file.write_text(json.dumps({"recipe": recipe, "rows": found}))
    tables.keep("default.json", [tmp_path / "text.given", tmp_path / "mnist.given"])
    assert tables.table("default.json").splitlines()[2:] == [
        "| text, bits per byte | 1.7192 |  | 1.8000 | 1.7500 | 0.50 |",
        "| mnist | 98.50 |  | 98.00 | 98.20 | 0.50 |",
    ]


def test_members_beside_what_they_spend(tables, tmp_path, monkeypatch):
    """One file has three tables; the best trial is in bold."""
    monkeypatch.setattr(tables, "KEPT", tmp_path)
    row = {"rule": "ste", "way": "members", "kind": "mode", "epochs": 8, "time": 0.951, "members": 4, "networks": 4}
    row |= {"bytes": 120_000, "figures": {"nll": {"mean": 0.12345, "std": 0.002, "values": [0.1]}}}
    spent = {"rule": "ste", "time": 1.29, "epochs": 8, "searches": {"members": {"1": 0.5, "3": 0.25}}}
    found = {"recipe": "mnist", "unlike": "letters", "spending": [spent], "time": [row], "size": []}
    (tmp_path / "members.json").write_text(json.dumps(found))
    assert tables.table("members.json", ["time", "cost", "nll"]).splitlines() == [
        "| rule | prediction | time | MB | NLL |",
        "| --- | --- | ---: | ---: | ---: |",
        "| STE, Adam, 4 runs | modes of 4 | 0.95 | 0.12 | 0.123 ± 0.002 |",
    ]
    (tmp_path / "members.json").write_text(json.dumps(found | {"time": [row | {"way": "single"}]}))
    assert tables.table("members.json", ["time", "nll"]).splitlines()[2:] == [
        "| STE, Adam | modes of 4 | 0.123 ± 0.002 |",
    ]
    assert len(tables.table("members.json", ["size", "nll"]).splitlines()) == 2
    (tmp_path / "members.json").write_text(json.dumps(found))
    spending = tables.table("members.json", ["spending"]).splitlines()
    assert spending[-1] == "| STE, Adam | 4 runs | 1.29 | 8 | 0.5000 | **0.2500** |"
    without = {key: value for key, value in spent.items() if key != "searches"}  # one trial
    assert (
        tables.spending_table(found | {"spending": [without]}).splitlines()[-1] == "| STE, Adam | 4 runs | 1.29 | 8 |"
    )
    partly = spent | {"searches": {"single": {"1": None, "0.333": 0.5}}}
    lines = tables.spending_table(found | {"spending": [partly], "time": [row, row | {"way": "single"}]}).splitlines()
    assert lines[0].endswith("| NLL at 0.333× | NLL at 1× |")
    assert lines[2:] == [
        "| STE, Adam | 4 runs | 1.29 | 8 |  |  |",
        "| STE, Adam | one run | 1.29 | 8 | **0.5000** | diverged |",
    ]


def test_results_are_kept_without_times_and_paths(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path / "results")
    rows = [{"rule": "ste", "test": {"mean": 98.123456789, "std": None}, "seconds_per_epoch": {"mean": 3.0}}]
    (tmp_path / "results.json").write_text(json.dumps({"recipe": "mnist", "rows": rows}))
    tables.keep("a.json", [tmp_path / "results.json"])
    kept = json.loads((tmp_path / "results" / "a.json").read_text())
    assert kept["rows"] == [{"rule": "ste", "test": {"mean": 98.1235, "std": None}}]
    assert tables.table("a.json").splitlines() == ["| rule | test, % |", "| --- | ---: |", "| STE, Adam | 98.12 |"]
    for name, tests in (("all", (("bop", 1.0), ("ste", 2.0), ("vispa", 3.0))), ("some", (("pmf", 4.0), ("ste", 5.0)))):
        rows = [{"rule": rule, "test": {"mean": mean, "std": None}} for rule, mean in tests]
        (tmp_path / f"{name}.json").write_text(json.dumps({"recipe": "mnist", "rows": rows}))
        tables.keep("c.json", [tmp_path / f"{name}.json"])
    kept = json.loads((tmp_path / "results" / "c.json").read_text())["rows"]
    assert [(row["rule"], row["test"]["mean"]) for row in kept] == [("bop", 1), ("ste", 5), ("vispa", 3), ("pmf", 4)]
    few = [{"rule": rule, "runs": runs} for rule, runs in (("bop", 3), ("ste", 2), ("pmf", 1))]
    (tmp_path / "results" / "e.json").write_text(json.dumps({"rows": few}))
    assert [row.split(" |")[0] for row in tables.table("e.json").splitlines()[2:]] == [
        "| Bop",
        "| STE, Adam, 2 seeds",
        "| PMF, 1 seed",
    ]
    stream = {"recipe": "s", "rule": "bayesbinn", "prior": True, "decay": 1, "epochs": 2, "tasks": 3}
    stream |= {"method": "ewc", "method_options": {"strength": 100.0, "choice": "random"}}
    for seed, last in ((1, 80.0), (2, 82.0)):
        found = stream | {"seed": seed, "average_accuracy": [95.0, 90.0, last], "matrix": [], "folder": "/somewhere"}
        (tmp_path / f"{seed}.json").write_text(json.dumps(found))
    tables.keep("b.json", [tmp_path / "1.json", tmp_path / "2.json"])
    (tmp_path / "3.json").write_text(json.dumps(found | {"rule": "ste", "options": {"metaplasticity": 1.35}}))
    tables.keep("d.json", [tmp_path / "3.json"])
    assert "STE, metaplastic" in tables.table("d.json")
    assert "somewhere" not in (tmp_path / "results" / "b.json").read_text()
    row = tables.table("b.json").splitlines()[2].split(" | ")
    assert row[1:4] == ["prior, ewc (strength 100)", "2", "2"] and row[-1] == "81.00 ± 1.41 |"


def test_results_of_several_recipes_take_the_rest_from_their_own_files(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path / "results")
    (tmp_path / "results").mkdir()
    kinds = (("network", 3.5), ("mean", 9.5))
    rows = [{"rule": "ste", "kind": kind, "figures": {"accuracy": {"mean": mean}}} for kind, mean in kinds]
    kept = {"recipe": "mnist-trust", "unlike": "fashion-mnist", "rows": rows}
    (tmp_path / "results" / "trust.json").write_text(json.dumps(kept))
    rules = ("bop", "bayesbinn:default", "bayesbinn:straight-through", "ste")
    for name, recipe, key in (("1", "mnist-trust", "test"), ("2", "snelson", "test_error"), ("3", "moons", "test")):
        more = {"entropy_bits": {"mean": 0.75}, f"mean_{key}": {"mean": 0.25, "std": 0.125}}
        rows = [{"rule": rule, key: {"mean": place + 0.5}, **more} for place, rule in enumerate(rules)]
        for part, found in ((name, rows[:2]), (f"{name}b", rows[2:])):
            (tmp_path / f"{part}.json").write_text(json.dumps({"recipe": recipe, "rows": found}))
    tables.keep("default.json", [tmp_path / f"{name}.json" for name in ("1", "2", "3")])
    for name in ("1b", "2b"):
        tables.keep("default.json", [tmp_path / f"{name}.json"])
    kept = json.loads((tmp_path / "results" / "default.json").read_text())["data"]["mnist-trust"]
    assert [row["rule"] for row in kept] == ["bayesbinn:default", "bayesbinn:straight-through"]
    assert tables.table("default.json").splitlines()[2:] == [
        "| mnist-trust | 3.50 | 2.50 | 1.50 | 0.25 ± 0.12 | 0.75 |",
        "| snelson, squared error | 3.500 | 2.500 | 1.500 | 0.250 ± 0.125 | 0.75 |",
        "| moons |  |  | 1.50 | 0.25 ± 0.12 | 0.75 |",
    ]


def test_results_of_the_small_experiments_are_kept_without_their_folders(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path / "results")
    split = {"ste_error": 0.1, "mode_error": 0.5, "mean_error": 0.25, "inside_two_std": 97.5, "observation_noise": 0.3}
    whole = {"source": "/somewhere", "mean_samples": 100, "splits": [split, split], "mean_of_splits": split}
    (tmp_path / "b.json").write_text(json.dumps(whole))
    tables.keep("b.json", [tmp_path / "b.json"])
    assert "somewhere" not in (tmp_path / "results" / "b.json").read_text()
    assert tables.table("b.json").splitlines()[2:] == [
        f"| {split} | 0.100 | 0.500 | 0.250 | 97.5 |" for split in ("0", "1", "mean")
    ]


def test_problems_of_several_commands_share_a_file(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path / "results")
    region = {"entropy": {"values": [0.5]}, "kl": {"values": [0.25]}}
    for name, problems in (("1", {"moons": 0.5, "snelson": 0.75}), ("2", {"snelson": 0.125})):
        rows = [
            {
                "problem": problem,
                "rows": [{"title": "STE", "networks": 1, "nll": {"values": [nll]}, "regions": {"data": region}}],
            }
            for problem, nll in problems.items()
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps({"truth": rows}))
        tables.keep("truth.json", [tmp_path / f"{name}.json"])
    assert tables.table("truth.json", ["moons"]).splitlines()[2] == "| STE | 1 | 0.500 | 0.250 | 0.500 |"
    assert tables.table("truth.json", ["snelson"]).splitlines()[2] == "| STE | 1 | 0.125 | 0.250 | 0.500 |"


def test_the_chosen_trial_of_each_split_is_bold(tables):
    trials = [
        {"rule": "STE", "setting": "lr 0.1", "nll": [0.5, 0.25]},
        {"rule": "STE", "setting": "lr 0.01", "nll": [0.25, 0.75]},
        {"rule": "VISPA", "setting": "lr 1", "nll": [1.0, 2.0]},
    ]
    assert tables.trials_table({"trials": trials, "splits": [60, 61]}, ()).splitlines() == [
        "| rule | setting | split 60 | split 61 |",
        "| --- | --- | ---: | ---: |",
        "| STE | lr 0.1 | 0.500 | **0.250** |",
        "| STE | lr 0.01 | **0.250** | 0.750 |",
        "| VISPA | lr 1 | **1.000** | **2.000** |",
    ]


def test_coverages_of_several_commands_share_a_file(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEPT", tmp_path / "results")
    for name, recipes in (("1", ["mnist-small"]), ("2", ["digits", "mnist-small"])):
        rows = [{"recipe": recipe, "file": name} for recipe in recipes]
        (tmp_path / f"{name}.json").write_text(json.dumps({"coverage": rows}))
    tables.keep("coverage.json", [tmp_path / "1.json", tmp_path / "2.json"])
    kept = json.loads((tmp_path / "results" / "coverage.json").read_text())["coverage"]
    assert [(row["recipe"], row["file"]) for row in kept] == [
        ("digits", "2"),
        ("mnist-small", "1"),
        ("mnist-small", "2"),
    ]


def test_coverage_has_a_column_for_each_level_of_sets_from_validation_data(tables):
    levels = {
        level: {"halves": {"mean": mean, "std": 0.5}, "validation": {"mean": mean + 1, "std": None}}
        for level, mean in (("0.9", 90.0), ("0.95", 95.0))
    }
    row = {"recipe": "digits", "rule": "ste", "epochs": 6, "seeds": 1, "levels": levels}
    row["accuracy"] = {"mean": 97.0, "std": None}
    rows = [row | {"samples": samples} for samples in (0, 10)]
    assert tables.coverage_table({"coverage": rows}, ()).splitlines() == [
        "| recipe | rule | prediction | epochs | seeds | accuracy, % | coverage at 90% | coverage at 95% |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| digits | STE, Adam | mode | 6 | 1 | 97.00 | 91.00 | 96.00 |",
        "| digits | STE, Adam | mean of 10 samples | 6 | 1 | 97.00 | 91.00 | 96.00 |",
    ]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    namespace = {"__name__": "__docs__"}
    shown = shown_output(page)
    try:
        for line, source in blocks(page):
            with redirect_stdout(io.StringIO()) as printed:
                # Blank lines in front, so that a traceback shows the line of the page.
                exec(compile("\n" * line + source, str(page), "exec"), namespace)
            wanted = shown.pop(line, None)
            assert wanted is None or agree(wanted, printed.getvalue()), (
                f"{page.name}:{line} prints {printed.getvalue()}"
            )
    finally:
        torch.set_num_threads(threads)
    assert not shown
    for _, source in blocks(page, "c"):
        run_c(source, tmp_path)


def run_c(source, folder):
    """A few statements about an image, beside the header that the page has written."""
    if shutil.which("gcc") is None:
        return
    lines = source.splitlines()
    includes = [line for line in lines if line.startswith("#include")]
    body = ["int main(void) {", "static uint8_t pixels[196];", *(line for line in lines if line not in includes)]
    Path(folder, "main.c").write_text("\n".join([*includes, *body, "return best < 0 || best > 9;", "}", ""]))
    subprocess.run("gcc -std=c99 -Wall -Werror main.c -lm -o main".split(), cwd=folder, check=True)
    subprocess.run([str(folder / "main")], check=True)


def test_output_that_a_page_shows_is_compared():
    assert len(shown_output(ROOT / "docs" / "trust.md")) == 3
    assert agree("right: 98.1%, 1,024 steps", "right: 97.5%, 1,100 steps")
    assert not agree("right: 98.1%, 1,024 bytes", "right: 97.5%, 1,028 bytes")
    assert not agree("right: 98.1%", "right: 77.5%")
    assert not agree("right: 98.1%", "wrong: 98.1%")


def test_other_blocks_are_not_code():
    """A block in another language needs a way to run it; the tests of the two trainers run those that are "py"."""
    found = [(m.group(1), page.name) for page in PAGES for m in BLOCK.finditer(page.read_text("utf-8"))]
    assert {name for language, name in found if language == "py"} == {"trainers.md"}
    assert {language for language, _ in found} <= {"python", "py", "c", "text"}


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_are_understood(page):
    """With the names that stand for something of the reader's; they need data, so they are not run."""
    for line in commands(page):
        words = shlex.split(line.replace("--seed S", "--seed 1"), comments=True)
        with redirect_stdout(io.StringIO()):
            assert not isinstance(app._parse(["digits" if word == "..." else word for word in words]), int), line


def test_there_is_code_to_run():
    names = {page.name for page in PAGES_WITH_CODE}
    assert {"README.md", "quickstart.md", "numerics.md", "add-a-rule.md"} <= names
    assert sum(len(commands(page)) for page in PAGES) > 20
    assert any(blocks(page, "c") for page in PAGES)


def test_fences_are_closed():
    for page in PAGES:
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, f"{page.name}: a code fence is open"
