"""What commands say: wrong words, interruptions, names and paths as they are, terminals of any width and encoding."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import bitbayes
import needs
from bitbayes.lab import cli
from bitbayes.lab.cli import app
from bitbayes.lab.cli.output import show
from bitbayes.lab.recipes import RECIPES, make_config
from bitbayes.lab.report.tables import recipes_table, summary_table
from bitbayes.lab.report.trust import evaluation_table
from bitbayes.lab.studies.tables import TABLES
from bitbayes.lab.train import RULES, Evaluation
from bitbayes.lab.train.progress import BarProgress, LineProgress, OfSeveral
from bitbayes.lab.train.records import EpochRow
from bitbayes.lab.train.rules import RuleSpec, kept_posterior
from bitbayes.table import Table
from summaries import summary

SOURCE = str(Path(bitbayes.__file__).resolve().parents[1])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", **more}


# Wrong words. -------------------------------------------------------------------------------------------------------


WRONG: list[tuple[list[str], str]] = [
    ([], "no command was given; choose from: recipes, train, "),
    (["trian", "digits"], "there is no command 'trian'; did you mean 'train'? Choose from: recipes, train, "),
    (["--verson"], "did you mean --version?"),
    (["train"], "train needs RECIPE: Name of the recipe, or a Python file that defines one; `bitbayes recipes` lists"),
    (["reproduce"], "reproduce needs TARGET: A table (table2, table10, "),
    (
        ["reproduce"],
        ") or a figure (members, moons, snelson, truth, curves, schedules, histogram); usage: bitbayes reproduce "
        "TARGET; ",
    ),
    (["pack"], "of members packs all of them; --output STR: File to write; usage: bitbayes pack RUN --"),
    (["train", "digits", "--epocs", "3"], "train has no option --epocs; did you mean --epochs? see bitbayes train"),
    (["train", "digits", "--epocs=3"], "train has no option --epocs; did you mean --epochs?"),
    (["train", "digits", "more"], "train takes no further argument, got 'more'"),
    (["train", "digits", "--lr", "abc"], "--lr: expected a number, got 'abc'; see bitbayes train --help"),
    (["train", "digits", "--lr"], "--lr needs a value"),
    (["train", "digits", "--seeds", "two"], "--seeds: expected a whole number, got 'two'"),
    (["train", "digits", "--epochs", "1.5"], "--epochs: expected a whole number, got '1.5'"),
    (["train", "digits", "--precision", "fp64"], "--precision must be one of auto, fp32, bf16, got 'fp64'; the "),
    (["continual", "split-mnist", "--statistics", "tsak"], "must be one of task, shared, got 'tsak'; the nearest"),
    (["train", "a[/b]c"], "no recipe is called 'a[/b]c'"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=lambda value: " ".join(value) if type(value) is list else "")
def test_wrong_words_are_one_line_that_says_what_was_expected(capsys, words, expected):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith("bitbayes: ") and expected in captured.err
    assert not re.search(r"None|<class", captured.err)


def test_wrong_words_are_the_same_lines_where_help_is_drawn_in_boxes():
    """The parser draws boxes where stdout is UTF-8, which it is not in the other tests."""
    code = f"from bitbayes.lab import cli\nfor words, _ in {WRONG!r}: cli.main(words)"
    how = {"env": environment(PYTHONIOENCODING="utf-8"), "capture_output": True, "text": True}
    result = subprocess.run([sys.executable, "-c", code], **how)
    lines = result.stderr.splitlines()
    assert len(lines) == len(WRONG), result.stderr
    for line, (_, expected) in zip(lines, WRONG, strict=True):
        assert expected in line


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"bitbayes {bitbayes.__version__}\n"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_names_its_words_and_has_no_types_of_python(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    shown = {}
    for command in app._COMMANDS:
        assert cli.main([command, "--help"]) == 0
        shown[command] = capsys.readouterr().out
        assert not re.search(r"None|\(default: \)|\(default: False\)|│ STR|│ folder", shown[command]), command
        assert max(map(len, shown[command].splitlines())) <= int(columns), command
    flat = {command: " ".join(re.sub(r"[│\s]+", " ", text).split()) for command, text in shown.items()}
    assert f"Learning rule: {', '.join(RULES)}." in flat["train"] and ", ".join(RULES) in flat["tune"]
    assert ", ".join(TABLES) in flat["reproduce"] and "members, moons, snelson, truth, " in flat["reproduce"]
    assert "or 0 for all training data in one batch" in flat["train"]
    assert "(default: 20)" in flat["tune"]


def test_help_without_a_command_fits_the_terminal_and_has_one_sentence_for_each(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: bitbayes [-h] COMMAND\n") and max(map(len, shown.splitlines())) <= 80
    flat = " ".join(re.sub(r"[│\s]+", " ", shown).split())
    for name, kind in app._COMMANDS.items():
        sentence = kind.__doc__.partition("\n")[0]
        assert re.fullmatch(r"[A-Z][a-z]*[^s] [^.]*(\.\w[^.]*)?\.", sentence), sentence  # "Train one", not "Trains one"
        assert f"{name} {sentence}" in flat


def test_examples_below_the_help_of_commands_are_commands(capsys):
    examples = [
        line.split()[1:] for kind in app._COMMANDS.values() for line in re.findall(r"^  bitb.*", kind.epilog, re.M)
    ]
    assert len(examples) > 15
    for words in examples:
        command = app._parse(words)
        assert not isinstance(command, int), capsys.readouterr().err
        if hasattr(command, "recipe"):
            assert make_config(command.recipe, command.rule, command.given).recipe == command.recipe
        assert getattr(command, "target", "moons") in {
            *TABLES,
            "members",
            "moons",
            "snelson",
            "truth",
            "curves",
            "histogram",
        }


def test_no_network_names_data(monkeypatch, capsys):
    import datasets

    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    assert cli.main(["train", "mnist", "--epochs", "1"]) == 2
    errors = capsys.readouterr().err
    assert "without a network, give a folder of its parquet files (--data, or" in errors
    assert len(errors.splitlines()) == 1


@needs.UNIX.unless(os.name != "nt" and (os.geteuid() != 0 or Path("/proc/self/mounts").exists()))
def test_a_folder_that_cannot_be_written_is_named_without_checkpoints(tmp_path, capsys):
    """A folder stands where the file should be, which stops root too."""
    assert cli.main(["train", "digits", "--rule", "ste", "--epochs", "1", "--out", "run"]) == 0
    (tmp_path / "run/.evaluation.json.partial").mkdir()
    capsys.readouterr()
    assert cli.main(["evaluate", "run"]) == 1
    errors = capsys.readouterr().err
    assert "cannot write run/evaluation.json: Is a directory\n" in errors and "checkpoint" not in errors


# Interruptions. -----------------------------------------------------------------------------------------------------

DIGITS = ["--epochs", "400"]
RESUME, AGAIN = "give the same command with --resume to continue", "give the same command again to continue"


@pytest.mark.parametrize(
    ("words", "begun", "advice"),
    [
        (["train", "digits", *DIGITS, "--out", "run"], "run/metrics.jsonl", RESUME),
        (["train", "digits", *DIGITS, "--out", "runs", "--seeds", "2"], "runs/seed0/metrics.jsonl", AGAIN),
        (
            ["reproduce", "table2", "--dataset", "digits", "--rules", "ste", *DIGITS, "--out", "table"],
            "table/ste-seed0/metrics.jsonl",
            AGAIN,
        ),
        (["tune", "digits", "--rule", "ste", *DIGITS, "--trials", "2", "--out", "tune"], "tune/*/metrics.jsonl", AGAIN),
        (["demo", "--out", "demo"], "demo/digits/*/metrics.jsonl", AGAIN),
    ],
    ids=["train", "seeds", "reproduce", "tune", "demo"],
)
def test_the_advice_after_ctrl_c_continues(tmp_path, words, begun, advice):
    """The advice is followed, and the run goes on from where it was: a second Ctrl-C finds a later epoch."""
    if words[0] == "tune":
        needs.OPTUNA.module("optuna")
    saved = -1
    for turn in range(2):
        more = ["--resume"] if turn and advice == RESUME else []
        errors, epoch = interrupted([*words, *more], tmp_path, begun, saved)
        assert len(errors.splitlines()) == 1 and "--resume" not in errors.replace(RESUME, "")
        expected = AGAIN if more else advice
        assert re.search(rf"interrupted in epoch \d+; \S+ has a checkpoint of epoch {epoch}; {expected}\n$", errors), (
            errors
        )
        assert epoch > saved
        saved = epoch


def interrupted(words: list[str], folder: Path, begun: str, after: int) -> tuple[str, int]:
    """Start a command, press Ctrl-C when it is past an epoch, and return what it says and the epoch that it holds."""

    def hear_ctrl_c() -> None:  # which a job that was started in the background is deaf to
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [sys.executable, "-m", "bitbayes", *words]
    how = {"cwd": folder, "env": environment(), "text": True, "preexec_fn": hear_ctrl_c}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    end = time.monotonic() + 120
    while not any(len(path.read_text().splitlines()) > max(after, 0) + 1 for path in folder.glob(begun)):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    found = re.search(r"has a checkpoint of epoch (\d+)", errors)
    assert found, errors
    return errors, int(found[1])


def test_ctrl_c_before_the_run_has_begun(monkeypatch, capsys):
    def stops(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    for name, words in (("make_config", ["train", "digits"]), ("run_recipe", ["train", "digits"])):
        monkeypatch.setattr(f"bitbayes.lab.recipes.{name}", stops)
        assert cli.main(words) == 1
        assert capsys.readouterr().err == "bitbayes: interrupted; give the same command again\n"
        monkeypatch.undo()


# What is printed. ---------------------------------------------------------------------------------------------------

STRANGE = "a[/b]c :smile: [red]x"


def test_names_and_paths_are_no_markup(tmp_path, capsys):
    words = ["train", "digits", "--epochs", "1", "--out", STRANGE]
    assert cli.main(words) == 0
    assert cli.main(["evaluate", STRANGE]) == 0
    assert cli.main(["reproduce", "table2", "--dataset", "digits", "--rules", "ste", "--seeds", "1", *words[2:]]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and f"files in {STRANGE}" in captured.out
    assert f"written: {STRANGE}/table2.json" in captured.out


def test_a_bar_shows_one_run_of_several_and_its_title_as_it_is():
    bar = BarProgress()
    progress = OfSeveral(bar, epochs=4)
    for left in ("", "about"):
        progress.start(STRANGE, epochs=2, done=0, steps=1)
        (task,) = bar._bar.tasks
        shown = [str(column.render(task)) for column in bar._bar.columns if hasattr(column, "text_format")]
        progress.epoch(EpochRow(epoch=1, lr=0.1, train_loss=0.5, seconds=1.0))
        progress.close()
        assert shown[0].startswith(f"{STRANGE} epoch 0/2") and shown[-1].startswith(left)
        assert task.fields["left"].endswith("left in all") and not bar._bar.tasks


def test_ascii_is_enough_for_every_table():
    """Nothing fails, and columns stay below each other."""
    for words in (["recipes"], ["train", "--help"], ["train", "digits", "--lr", "é"]):
        command = [sys.executable, "-m", "bitbayes", *words]
        result = subprocess.run(command, env=environment(PYTHONIOENCODING="ascii"), capture_output=True)
        assert result.returncode == (2 if "--lr" in words else 0), result.stderr
        text = (result.stdout + result.stderr).decode("ascii")
        assert "Traceback" not in text
        if words == ["recipes"]:
            assert "bayesbinn:released 98.86 +- 0.05" in " ".join(re.sub(r"[|\s]+", " ", text).split())
            assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_texts_are_printed_where_they_cannot_be_encoded():
    code = "from bitbayes.lab.cli.output import encodable, show\nwith encodable(): show('written: é ± λ', 'a × b')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment(PYTHONIOENCODING="ascii"), capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "written: ? +- lambda\na x b\n"), result.stderr


def on_terminal(width: int, table: Table) -> str:
    made = table.rich(width)
    written = io.StringIO()
    Console(file=written, width=max(width, made.width)).print(made)
    return written.getvalue()


def test_tables_show_every_name_and_number_at_any_width():
    recipes = on_terminal(80, recipes_table(RECIPES.values()))
    assert max(map(len, recipes.splitlines())) == 80 and "…" not in recipes
    for name in RECIPES:
        assert re.search(rf"^│ {name} +│", recipes, re.MULTILINE), name
    heads = ["engine", *(head for size in (1, 32) for head in (f"batch {size}\nms", "\ninputs/s", "\nspeed"))]
    rows = [["OpenVINO bfloat16", "0.0123", "1,234,567", "123.4×", "0.123", "12,345,678", "1234.5×"]] * 2
    bench = on_terminal(60, Table("2 threads", heads, rows))
    for cell in rows[0]:
        assert f" {cell} " in bench
    wide = on_terminal(200, Table("2 threads", heads, rows))
    assert max(map(len, wide.splitlines())) < 110


def test_the_accuracy_of_the_last_epoch_is_there_once():
    def heads(best: int) -> list[str]:
        found = summary(test_accuracy=90.0, last_test_accuracy=91.0, epochs=3, epochs_done=3, best_epoch=best)
        return [row[0] for row in summary_table(found, Path("run")).rows if row[0].startswith("test accuracy")]

    assert heads(3) == ["test accuracy, % at epoch 3"]
    assert heads(1) == ["test accuracy, % at epoch 1", "test accuracy, % at epoch 3"]


def test_evaluate_has_full_names_and_says_when_the_posterior_is_a_point(capsys):
    train = ["train", "digits", "--epochs", "2", "--out", "run", "--estimator"]
    for estimator, said in (("released", "is a point"), ("straight-through", "per-weight entropy of the posterior is")):
        assert cli.main([*train, estimator]) == 0
        assert ("posterior of this run is a point" in capsys.readouterr().out) == (estimator == "released")
        assert cli.main(["evaluate", "run", "--samples", "2"]) == 0
        shown = capsys.readouterr().out
        assert said in shown and "_" not in shown and "negative log-likelihood, nats" in shown
        found = json.loads(Path("run/evaluation.json").read_text())
        assert {"ece_mass", "nll_tempered"} <= set(found["mode"])  # the file keeps its names


def test_every_figure_of_an_evaluation_has_a_name():
    names = ["accuracy", "nll", "brier", "ece", "ece_mass", "entropy", "auroc_errors", "auroc_unlike", "temperature"]
    names += ["auroc_unlike_information", "nll_tempered", "brier_tempered", "ece_tempered", "error", "noise", "inside"]
    names += ["aurc", "auroc_unlike_probability", "auroc_unlike_energy", "fpr95_unlike", "fpr95_unlike_information"]
    names += ["fpr95_unlike_probability", "fpr95_unlike_energy", "conformal_coverage", "conformal_size"]
    names += ["conformal_width"]
    table = evaluation_table(Evaluation(recipe="digits", rule="ste", seed=0, samples=2, mode=dict.fromkeys(names, 1.0)))
    assert len(table.rows) == len(names) and not any("_" in row[0] for row in table.rows)
    assert "has no posterior" in table.caption


@pytest.mark.parametrize(
    ("rule", "estimator", "options", "said"),
    [
        ("full-precision", None, {}, "trains real weights and keeps no posterior"),
        ("bop", None, {}, "keeps one network and no posterior; for a posterior, use --rule bayesbinn:default"),
        ("bayesbinn", "released", {"ess": 9, "tau": 1e-10}, "is a point: estimator released at tau 1e-10"),
        ("bayesbinn", "released", {"ess": 9, "tau": 1e-2}, "keeps a Bernoulli posterior"),
        ("bayesbinn", "straight-through", {"ess": 9}, "keeps a Bernoulli posterior over the binary weights."),
        ("vispa", None, {"rank": 3}, "keeps a low-rank Gaussian posterior (rank 3)"),
        ("vispa", None, {"rank": 0}, "is a point: rank 0 leaves one network"),
        ("pmf", None, {}, "hardens to a point as beta grows"),
    ],
)
def test_what_a_run_keeps_is_said(rule, estimator, options, said):
    assert said in kept_posterior(rule, estimator, RuleSpec(1e-2, options))


def test_train_says_what_it_keeps_when_it_begins_and_not_when_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    words = ["train", "digits", "--rule", "bop", "--epochs", "1", "--out"]
    for more in ([str(tmp_path / "run"), "--device", "nowhere"], [str(tmp_path / "file")]):
        assert cli.main([*words, *more]) != 0
        assert capsys.readouterr().out == ""
    assert cli.main([*words, str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith("Rule bop keeps one network and no posterior; for a posterior, use ")


def test_the_automatic_precision_is_told_at_the_start(monkeypatch, capsys):
    words = ["train", "digits", "--rule", "ste", "--epochs", "2", "--out", "run"]
    monkeypatch.setattr("bitbayes.lab.recipes.configure.RECIPES", {"digits": wide(RECIPES["digits"])})
    monkeypatch.setattr("bitbayes.lab.train.loop.choose_precision", lambda wanted, device: "fp32")
    assert cli.main([*words, "--stop-after", "1"]) == 0
    assert cli.main([*words, "--resume"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "--precision auto" in line]
    assert told == [
        "digits ste: precision float32, selected by a short measurement (--precision auto)",
        "digits ste: precision float32, selected when the run began (--precision auto)",
    ]


def wide(recipe):
    return dataclasses.replace(recipe, wide=True)


def test_the_time_left_is_that_of_all_runs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("bitbayes.lab.train.progress.time.monotonic", lambda: now[0])
    shown = LineProgress()
    progress = OfSeveral(shown, epochs=10 + 10 + 20)
    seen = []
    for epochs, done in ((10, 0), (10, 5), (20, 0)):
        progress.start("digits ste", epochs=epochs, done=done, steps=5)
        for epoch in range(done + 1, epochs + 1):
            now[0] += 60.0
            progress.epoch(EpochRow(epoch=epoch, lr=0.1, train_loss=0.5, seconds=60.0))
            seen.append(shown.left_in_all)
    assert seen[0] == "about 39 min left in all" and seen[9] == "about 30 min left in all"
    assert seen[10] == "about 24 min left in all"  # five epochs of the second run were there
    assert seen[-1] == "about 1 s left in all"


def test_reproduce_and_tune_tell_the_time_left_and_what_is_read(capsys):
    needs.OPTUNA.module("optuna")
    table = ["reproduce", "table2", "--dataset", "digits", "--rules", "ste", "--epochs", "2", "--out", "table"]
    assert cli.main([*table, "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("left in all") == 5 and re.search(r"run 2 of 2, in \S+; about \d+ s left in all", shown)
    assert cli.main([*table, "--seeds", "3"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 runs are already finished and are not trained again\n" in shown and "run 1 of 1" in shown
    tune = ["tune", "digits", "--rule", "ste", "--epochs", "2", "--out", "tune", "--trials"]
    assert cli.main([*tune, "1"]) == 0
    capsys.readouterr()
    assert cli.main([*tune, "2"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 runs is already finished and is not trained again\n" in shown and "left in all" in shown


def test_figures_say_that_they_read_old_runs(capsys):
    for said in ("run 7 of 7, in runs/moons/", "7 of 7 runs are already finished and are not trained again"):
        assert cli.main(["reproduce", "moons", "--epochs", "50"]) == 0
        assert said in capsys.readouterr().out


def test_show_is_the_same_for_texts_and_tables(capsys):
    show(STRANGE, Table(STRANGE, [STRANGE], [[STRANGE]], STRANGE))
    assert capsys.readouterr().out.count(STRANGE) == 5


@pytest.mark.parametrize("words", [["--set", "momentum=0.9", "--set", "ess=3"], ["--seed=1", "--seed", "2"]])
def test_an_option_that_is_given_twice_is_refused(words, capsys):
    assert cli.main(["train", "digits", *words]) == 2
    assert f"{words[0].partition('=')[0]} was given twice; give it once" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "x", "-o", "y", "--conformal"],
        ["train", "digits", "--set", "--seed", "1"],
        ["reproduce", "members", "--rules"],
    ],
)
def test_an_option_of_several_values_without_any_is_refused(words, capsys):
    assert cli.main(words) == 2
    assert "was given without a value; give one, or leave it out" in capsys.readouterr().err


def test_a_misspelt_variant_is_answered_with_the_recommended_one(capsys):
    assert cli.main(["train", "digits", "--rule", "bayesbinn:defualt"]) == 2
    error = capsys.readouterr().err
    assert "no variant of bayesbinn is called 'defualt'; did you mean 'default'?" in error and "concrete" in error
    assert cli.main(["train", "mnist-trust", "--rule", "bayesbinn:no-dropout"]) == 2
    error = capsys.readouterr().err
    assert "no variant of bayesbinn is called 'no-dropout'" in error and "two-passes" not in error  # of other rules


def test_an_option_of_another_command_is_told_in_one_line(capsys) -> None:
    assert cli.main(["run", "net.safetensors", "--output", "x"]) == 2
    expected = "bitbayes: run has no option --output; did you mean --out? see bitbayes run --help\n"
    assert capsys.readouterr().err == expected


def test_two_outputs_are_refused_under_both_names(capsys) -> None:
    for words in (["-o", "x", "-o", "y"], ["--output", "x", "-o", "y"]):
        assert cli.main(["pack", "run", *words]) == 2
        assert "--output was given twice" in capsys.readouterr().err
