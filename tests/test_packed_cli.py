"""`bitbayes pack`, `run` and `summary`, on a run of the digits."""

import json

import numpy as np
import pytest

from bitbayes import cli
from bitbayes.recipes.evaluate import load_run
from bitbayes.training.measure import whole


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pack_run_summary(tmp_path, capsys):
    assert cli.main(["train", "digits", "--out", "run", "--epochs", "1"]) == 0
    assert cli.main(["evaluate", "run", "--samples", "6"]) == 0
    capsys.readouterr()
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    for words, count, name in [([], 1, "mode"), (["--samples", "6"], 6, "mean")]:
        assert cli.main(["pack", "run", "-o", "net.safetensors", *words]) == 0
        assert f"{(tmp_path / 'net.safetensors').stat().st_size:,} bytes" in capsys.readouterr().out
        assert cli.main(["summary", "net.safetensors"]) == 0
        assert f"{count} network" in capsys.readouterr().out
        for backend in ("torch", "reference"):
            assert cli.main(["run", "net.safetensors", "--backend", backend, "--out", "rows.jsonl"]) == 0
            captured = capsys.readouterr()
            assert f"accuracy {evaluation[name]['accuracy']:.2f}" in captured.out and captured.err == ""
            rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
            assert np.mean([row["entropy"] for row in rows]) == pytest.approx(evaluation[name]["entropy"], rel=1e-3)
            assert set(rows[0]) == {"class", "probabilities", "entropy", "mutual_information"}
            assert (max(row["mutual_information"] for row in rows) > 1e-3) == (count > 1)
    np.save("x.npy", np.zeros((3, 64), np.float32))
    assert cli.main(["run", "net.safetensors", "--data", "x.npy"]) == 0
    assert "3 inputs, 6 networks" in capsys.readouterr().out


def test_regression(tmp_path, capsys):
    assert cli.main(["train", "snelson", "--out", "run", "--epochs", "2"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--samples", "3"]) == 0
    assert cli.main(["run", "net.safetensors", "--out", "rows.jsonl"]) == 0
    assert "root mean squared error" in capsys.readouterr().out
    run = load_run("run")
    wanted = run.predict(whole(run.experiment.data.test)[0], samples=3)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["mean"] for row in rows], wanted.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([row["std"] for row in rows], wanted.std[:, 0], rtol=1e-4, atol=1e-5)


def test_failures_are_one_line(tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for words, message in [
        (["summary", "bad.safetensors"], "bad.safetensors: not a safetensors file"),
        (["run", "absent.safetensors"], "no packed network at absent.safetensors"),
        (["pack", "absent", "-o", "net.safetensors"], "absent"),
    ]:
        assert cli.main(words) in (1, 2)
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
