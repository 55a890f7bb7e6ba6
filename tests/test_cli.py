"""The command line: every command once, exit codes, and what goes where."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from bitbayes.lab import cli
from bitbayes.lab.cli import packed

TINY = ["--epochs", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_recipes_lists_every_experiment(capsys):
    assert cli.main(["recipes"]) == 0
    shown = capsys.readouterr().out
    for word in ("moons", "snelson", "digits", "mnist", "fashion-mnist", "98.86", "quick 10", "bayesbinn:default"):
        assert word in shown


def test_train_writes_to_the_default_folder(tmp_path, capsys):
    words = ["train", "digits", "--rule", "ste", "--seed", "4", "--lr", "0.02", *TINY]
    assert cli.main([*words, "--set", "clip=0.5", "inner=adam"]) == 0
    config = json.loads((tmp_path / "runs/digits-ste-seed4/config.json").read_text())
    assert (config["lr"], config["options"]["clip"], config["seed"]) == (0.02, 0.5, 4)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("epoch 1/2") == 1  # plain lines: stdout is no terminal here
    assert "test accuracy" in captured.out


def test_stop_after_keeps_the_schedule(tmp_path):
    assert cli.main(["train", "digits", "--epochs", "9", "--stop-after", "1"]) == 0
    folder = tmp_path / "runs/digits-bayesbinn-straight-through-seed0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    full = json.loads((folder / "config.json").read_text())["lr"]
    expected = full * (1 + torch.cos(torch.tensor(torch.pi / 9))) / 2
    assert len(rows) == 1
    assert rows[0]["lr"] == pytest.approx(float(expected), rel=1e-5)


def test_evaluate_writes_mode_and_mean(tmp_path, capsys):
    assert cli.main(["train", "digits", "--out", "run", "--epochs", "4"]) == 0
    assert cli.main(["evaluate", "run", "--samples", "8"]) == 0
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert found["samples"] == 8
    assert found["mode"]["accuracy"] == pytest.approx(summary["test_accuracy"])
    assert found["mode"]["nll"] == pytest.approx(summary["test_nll"], rel=1e-5)
    for name in ("mode", "mean"):
        assert {"accuracy", "nll", "brier", "ece", "ece_mass", "entropy", "temperature"} <= set(found[name])
    assert "mean of 8" in capsys.readouterr().out


def test_evaluate_without_a_posterior(tmp_path):
    assert cli.main(["train", "digits", "--rule", "bop", "--out", "run", *TINY]) == 0
    assert cli.main(["evaluate", "run"]) == 0
    assert "mean" not in json.loads((tmp_path / "run/evaluation.json").read_text())


def test_debug_shows_the_traceback(capsys):
    assert cli.main(["train", "nothing", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_is_code_0(capsys):
    assert cli.main(["train", "--help"]) == 0
    assert "--stop-after" in capsys.readouterr().out


def test_failure_is_code_1(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["train", "digits", "--out", "file/run", *TINY]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_module_and_exit_code():
    words = [sys.executable, "-m", "bitbayes", "train", "nothing"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_reproduce_a_table_can_be_continued(tmp_path, monkeypatch, capsys):
    """On the digits: the command is that of MNIST."""
    words = ["reproduce", "table2", "--dataset", "digits", "--seeds", "2", *TINY]
    words += ["--rules", "ste", "bayesbinn:released", "--out", "table"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "table2" in shown
    assert "±" in shown
    assert shown.count("run 1 of 4") == 1 and "run 4 of 4" in shown
    results = json.loads((tmp_path / "table/table2.json").read_text())
    assert [row["rule"] for row in results["rows"]] == ["ste", "bayesbinn:released"]
    assert results["rows"][0]["test"]["std"] is not None
    assert (tmp_path / "table/table2.md").read_text().count("\n| ") == 4
    assert cli.main([*words[:1], "table10", *words[2:]]) == 0  # the same runs, other columns
    assert "run 1 of" not in capsys.readouterr().out
    assert "validation" in (tmp_path / "table/table10.md").read_text()
    # Each table has a file of its own, and none gets another recipe's rows.
    assert json.loads((tmp_path / "table/table2.json").read_text()) == results
    assert json.loads((tmp_path / "table/table10.json").read_text())["rows"] == results["rows"]
    words = ["reproduce", "table2", "--dataset", "moons", "--rules", "full-precision", "--out", "table", *TINY]
    assert cli.main(words) == 2
    assert "table holds table2 of digits, not moons; choose another --out" in capsys.readouterr().err


def test_reproduce_the_default_settings_on_a_regression(tmp_path, capsys):
    words = ["reproduce", "default", "--dataset", "snelson", "--epochs", "100", "--seeds", "1"]
    assert cli.main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())  # the caption is as wide as the table
    assert "squared error" in shown and "bayesbinn:default" in shown and "mode at the last epoch" in shown
    rows = json.loads((tmp_path / "runs/snelson-quick/default.json").read_text())["rows"]
    assert [row["rule"] for row in rows] == ["ste", "bayesbinn:straight-through", "bayesbinn:default"]
    assert all(row["test_error"]["mean"] > 0 for row in rows)
    assert [row["rule"] for row in rows if "mean_test_error" in row] == [row["rule"] for row in rows[1:]]


def test_reproduce_the_synthetic_figures(tmp_path, capsys):
    assert cli.main(["reproduce", "moons", "--epochs", "100"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("BayesBiNN, published", "BayesBiNN, recommended", "4 members", "on the ring", "exact posterior"):
        assert words in shown
    found = json.loads((tmp_path / "runs/moons/moons.json").read_text())
    assert found["points"] == 1000
    assert [run["title"].partition(",")[0] for run in found["runs"]] == ["STE", *["BayesBiNN"] * 3]
    assert all({"accuracy", "nll", "entropy_on_data", "entropy_on_ring"} <= set(run) for run in found["runs"])
    assert (tmp_path / "runs/moons/moons.png").stat().st_size > 20_000
    assert cli.main(["reproduce", "snelson", "--epochs", "100", "--seeds", "2"]) == 0
    found = json.loads((tmp_path / "runs/snelson/snelson.json").read_text())
    assert found["source"] == "generated"
    lower = sum(split["mean_error"] < split["ste_error"] for split in found["splits"])
    assert f"smaller error on {lower} of 2 splits" in " ".join(capsys.readouterr().out.split())
    assert len(found["splits"]) == 2
    assert (tmp_path / "runs/snelson/snelson.png").stat().st_size > 20_000


def test_curves_and_histogram(tmp_path):
    assert cli.main(["train", "digits", "--out", "run", *TINY]) == 0
    curve = {"train": [90.0] * 20, "val": [90.0] * 20, "test": [91.0] * 20}
    (tmp_path / "published.json").write_text(json.dumps({"curves": {"digits": [curve, curve]}}))
    words = ["--runs", "run", "--out", "pictures"]
    more = ["--dataset", "digits", "--published", "published.json"]
    assert cli.main(["reproduce", "curves", *words, *more]) == 0
    assert cli.main(["reproduce", "histogram", *words]) == 0
    for name in ("curves.png", "histogram.png"):
        assert (tmp_path / "pictures" / name).stat().st_size > 10_000
    (tmp_path / "published.json").write_text("{}")
    assert cli.main(["reproduce", "curves", *words, *more]) == 2


def test_runs_of_one_name_are_all_drawn(tmp_path, monkeypatch):
    drawn = []
    for name in ("curves", "histogram"):
        monkeypatch.setattr(f"bitbayes.lab.report.figures.{name}_figure", lambda runs, out, **_: drawn.append([*runs]))
    for rule in ("bayesbinn", "vispa"):
        assert cli.main(["train", "digits", "--rule", rule, "--out", f"{rule}/seed0", *TINY]) == 0
    for name in ("curves", "histogram"):
        assert cli.main(["reproduce", name, "--runs", "bayesbinn/seed0", "vispa/seed0"]) == 0
    assert drawn == [["bayesbinn/seed0", "vispa/seed0"]] * 2


def test_schedules_count_the_epochs_of_the_float_network(tmp_path, capsys):
    for seed in ("0", "1"):
        words = ["train", "digits", "--rule", "ste", "--seed", seed]
        assert cli.main([*words, "--epochs", "1", "--pretrain-epochs", "2", "--out", f"short{seed}"]) == 0
    assert cli.main([*words, "--epochs", "2", "--pretrained", "short1-pretrained", "--out", "long"]) == 0
    float_run = ["train", "digits", "--rule", "full-precision"]
    assert cli.main([*float_run, "--epochs", "3", "--out", "float"]) == 0
    capsys.readouterr()
    runs = ["--runs", "short0", "short1", "long", "float"]
    assert cli.main(["reproduce", "schedules", *runs, "--out", "pictures"]) == 0
    shown = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if line.count("│") > 4]
    cells = [[cell.strip() for cell in line] for line in shown]
    after = "ste, after 2 float epochs"
    assert cells == [[after, "3", "2"], [after, "4", "1"], ["full-precision", "3", "1"]]
    assert (tmp_path / "pictures/schedules.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "pictures/schedules.json").read_text())
    assert found["recipe"] == "digits"
    points = [(row["rule"], row["float_epochs"], row["epochs"]) for row in found["schedules"]]
    assert points == [("ste", 2, 3), ("ste", 2, 4), ("full-precision", 0, 3)]
    summaries = [json.loads((tmp_path / f"short{seed}/summary.json").read_text()) for seed in (0, 1)]
    assert found["schedules"][0]["test"]["values"] == [each["test_accuracy"] for each in summaries]


def test_schedules_name_what_they_cannot_compare(tmp_path, capsys):
    for recipe in ("digits", "moons"):
        assert cli.main(["train", recipe, "--rule", "ste", "--epochs", "1", "--out", recipe]) == 0
    assert cli.main(["reproduce", "schedules", "--runs", "digits", "moons"]) == 2
    assert "schedules compares runs of one recipe, got runs of digits, moons" in capsys.readouterr().err
    assert cli.main(["train", "digits", "--rule", "ste", "--epochs", "1", "--lr", "0.02", "--out", "other"]) == 0
    assert cli.main(["reproduce", "schedules", "--runs", "digits", "other"]) == 2
    assert "ste has several settings for 1 epochs; give runs that differ in nothing else" in capsys.readouterr().err
    assert cli.main(["train", "digits", "--rule", "ste", "--epochs", "2", "--stop-after", "1", "--out", "part"]) == 0
    assert cli.main(["reproduce", "schedules", "--runs", "part"]) == 2
    assert "no run is finished and has one" in capsys.readouterr().err


def test_a_slash_at_the_end_of_a_folder_changes_nothing(tmp_path):
    words = ["train", "digits", "--rule", "ste", *TINY, "--pretrain-epochs", "1"]
    assert cli.main([*words, "--stop-after", "1", "--out", "runs/slash"]) == 0
    written = (tmp_path / "runs/slash-pretrained/summary.json").stat().st_mtime_ns
    assert cli.main([*words, "--out", "runs/slash/", "--resume"]) == 0
    assert not (tmp_path / "runs/slash/-pretrained").exists()
    assert (tmp_path / "runs/slash-pretrained/summary.json").stat().st_mtime_ns == written


def test_a_run_is_not_resumed_to_an_earlier_epoch(tmp_path, capsys):
    words = ["train", "digits", "--rule", "ste", "--epochs", "3", "--out", "early"]
    assert cli.main([*words, "--stop-after", "2"]) == 0
    assert cli.main([*words, "--stop-after", "1", "--resume"]) == 2
    assert "early has trained for 2 epochs; give a larger --stop-after, or none" in capsys.readouterr().err
    assert cli.main(["evaluate", "early"]) == 0


def test_a_missing_posterior_is_no_rule_without_one(tmp_path, capsys):
    assert cli.main(["train", "digits", *TINY, "--out", "lost"]) == 0
    summary = (tmp_path / "lost/summary.json").read_text()
    (tmp_path / "lost/posterior.safetensors").unlink()
    for words in (["evaluate", "lost"], ["pack", "lost", "-o", "net.safetensors"]):
        assert cli.main(words) == 1
        assert "posterior.safetensors is missing, but BayesBiNN keeps a posterior" in capsys.readouterr().err
    assert cli.main(["train", "digits", *TINY, "--out", "lost", "--resume"]) == 1
    assert (tmp_path / "lost/summary.json").read_text() == summary


def test_a_smaller_ensemble_does_not_take_the_place_of_a_larger_one(tmp_path, capsys):
    words = ["train", "digits", "--rule", "ste", "--out", "many"]
    assert cli.main([*words, "--epochs", "3", "--members", "3"]) == 0
    assert cli.main([*words, "--epochs", "2", "--members", "2"]) == 2
    assert "many holds 3 members, not 2; choose another --out" in capsys.readouterr().err
    assert json.loads((tmp_path / "many/ensemble.json").read_text())["members"] == 3


def test_rows_are_kept_when_nobody_reads_the_output(tmp_path, monkeypatch):
    np.save("two.npy", np.zeros((2, 8, 8), np.uint8))

    def ended(*words, file=None, **options):
        if file is None:
            raise BrokenPipeError

    monkeypatch.setattr("bitbayes.lab.cli.packed.print", ended, raising=False)
    with pytest.raises(BrokenPipeError):
        packed.Run("zoo:digits", ["two.npy"], out="rows.jsonl", backend="reference").run()
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_curves_of_a_run_without_its_float_network(tmp_path, capsys):
    assert cli.main(["train", "digits", "--rule", "full-precision", *TINY, "--out", "first"]) == 0
    assert cli.main(["train", "digits", "--rule", "ste", *TINY, "--pretrained", "first", "--out", "copied"]) == 0
    (tmp_path / "first").rename(tmp_path / "away")
    assert cli.main(["reproduce", "curves", "--runs", "copied", "--out", "."]) == 0
    assert "copied begins with the float network of first, which is not there" in capsys.readouterr().out
