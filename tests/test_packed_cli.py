"""`bitbayes pack`, `run`, `summary` and `bench`."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import bitbayes as bb
from bitbayes.calibration import probability_figures
from bitbayes.conformal import ConformalSets
from bitbayes.lab import cli
from bitbayes.lab.bench.engines import ENGINES
from bitbayes.lab.bench.rivals import torch_bfloat16, without_bits
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunError, RunFolder, SilentProgress
from bitbayes.lab.train.measure import whole
from bitbayes.packed import PackedNetwork, load
from bitbayes.packed.backends.reference import input_ranges
from test_packed import Narrow, grid, settled


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
        for backend in ("torch", "native", "reference"):
            assert cli.main(["run", "net.safetensors", "--backend", backend, "--out", "rows.jsonl"]) == 0
            captured = capsys.readouterr()
            assert (
                f"accuracy {evaluation[name]['accuracy']:.2f}" in captured.out
                and captured.err == "written: rows.jsonl\n"
            )
            rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
            assert np.mean([row["entropy"] for row in rows]) == pytest.approx(evaluation[name]["entropy"], rel=1e-3)
            assert set(rows[0]) == {"class", "probabilities", "entropy", "mutual_information", "energy"}
            assert (max(row["mutual_information"] for row in rows) > 1e-3) == (count > 1)
    np.save("x.npy", np.zeros((3, 64), np.float32))
    assert cli.main(["run", "net.safetensors", "--data", "x.npy"]) == 0
    assert "3 inputs, 6 networks" in capsys.readouterr().out


def test_bench(tmp_path, capsys):
    """All engines beside torch float32, int8 among them; what is missing says why."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), bb.nn.BinaryActivation())
    model += nn.Sequential(nn.Conv2d(8, 9, 3, bias=False), nn.BatchNorm2d(9), bb.nn.BinaryActivation(), nn.Flatten())
    model += nn.Sequential(nn.Linear(144, 3, bias=False), nn.BatchNorm1d(3))
    bb.STE(bb.split_parameters(model)[0], seed=0).eval()
    bb.pack(model.eval(), torch.zeros(1, 1, 8, 8)).save("net.safetensors")
    before = torch.get_num_threads()
    assert cli.main(["bench", "net.safetensors", "--threads", "1", "--batch", "1", "3", "--turns", "1"]) == 0
    out = capsys.readouterr().out
    assert torch.get_num_threads() == before
    rows = {name: next(line for line in out.splitlines() if name in line) for name in ENGINES}
    assert "1.0×" in rows["torch float32"] and "FakeQuantize" in out
    for name, row in rows.items():
        assert row.count("×") == 2 or f"{name}: " in out, row
    assert cli.main(["bench", "net.safetensors", "--batch", "0"]) == 2


def test_what_backends_are_measured_against():
    """Without bits the network says the same; with rectifiers it has none of its signs left."""
    torch.manual_seed(0)
    model, x = Narrow(), grid(5, 3, 21)
    network = bb.pack(settled(model), x[:1])
    floats, rectified = without_bits(network), without_bits(network, rectified=True)
    assert all(tensor.dtype != np.uint8 for twin in (floats, rectified) for tensor in twin.tensors.values())
    wanted = load(network).outputs(x.numpy())
    np.testing.assert_allclose(load(floats).outputs(x.numpy()), wanted, rtol=1e-6)
    ops = [step.op for step in rectified.program.steps]
    assert not {"sign", "threshold"} & set(ops) and ops.count("clamp") > 2
    assert load(rectified).outputs(x.numpy()).shape == wanted.shape
    np.testing.assert_allclose(np.asarray(torch_bfloat16(network, x.numpy())()), wanted[0], atol=0.1)
    layers = [index for index, step in enumerate(network.program.steps) if step.op in ("linear", "conv")]
    ranges = input_ranges(network, x.numpy())
    assert sorted(ranges) == layers and ranges[layers[0]] == float(x.abs().max())


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


def test_inputs_of_a_regression_get_values_not_classes(tmp_path, capsys):
    assert cli.main(["train", "snelson", "--rule", "ste", "--out", "run", "--epochs", "3", "--stop-after", "1"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    np.save("x.npy", np.zeros((3, 1), np.float32))
    capsys.readouterr()
    assert cli.main(["run", "net.safetensors", "--data", "x.npy", "--out", "rows.jsonl"]) == 0
    assert "class" not in (tmp_path / "rows.jsonl").read_text()
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--tempered"]) == 2
    assert "a temperature needs a classifier" in capsys.readouterr().err


def test_a_tempered_network_has_the_tempered_figures(tmp_path, capsys):
    assert cli.main(["train", "digits", "--out", "run", "--epochs", "2"]) == 0
    assert cli.main(["evaluate", "run", "--samples", "4"]) == 0
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    run = load_run("run")
    x, y = whole(run.experiment.data.test)
    for words, name in ([], "mode"), (["--samples", "4"], "mean"):
        capsys.readouterr()
        assert cli.main(["pack", "run", "-o", "net.safetensors", "--tempered", *words]) == 0
        temperature = evaluation[name]["temperature"]
        assert f"temperature {temperature:.4f}"[:15] in capsys.readouterr().out
        for backend in ("torch", "native", "reference", "openvino"):
            probs = torch.as_tensor(load("net.safetensors", backend).predict(x.numpy()).probs)
            figures = probability_figures(probs, y)
            assert figures["nll"] == pytest.approx(evaluation[name]["nll_tempered"], rel=1e-3)
        assert evaluation[name]["nll_tempered"] < evaluation[name]["nll"]


@pytest.mark.parametrize(
    ("temperature", "end"), [(0.05, ", the lowest that is tried"), (20.0, ", the highest that is tried"), (1.5, "")]
)
def test_a_temperature_at_an_end_of_its_range_is_named(monkeypatch, capsys, temperature, end):
    assert cli.main(["train", "digits", "--rule", "ste", "--out", "run", "--epochs", "1"]) == 0
    monkeypatch.setattr("bitbayes.lab.studies.pack.fitted_temperature", lambda runs, samples: temperature)
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--tempered"]) == 0
    assert f"temperature {temperature:g}, fitted on validation data{end}\n" in capsys.readouterr().out


def test_conformal_sets_and_abstention(tmp_path, capsys):
    assert cli.main(["train", "digits", "--out", "run", "--epochs", "2"]) == 0
    capsys.readouterr()
    run = load_run("run")
    (x, y), (held, labels) = (whole(part) for part in (run.experiment.data.test, run.experiment.data.validation))
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--samples", "3", "--tempered"]) == 0
    plain = load("net.safetensors")
    words = [
        "pack",
        "run",
        "-o",
        "net.safetensors",
        "--samples",
        "3",
        "--tempered",
        "--conformal",
        "0.8",
        "0.97",
        "0.999",
    ]
    assert cli.main(words) == 0
    network = PackedNetwork.read("net.safetensors")
    threshold = network.conformal(0.8).threshold
    shown = capsys.readouterr().out
    assert f"conformal sets of level 0.8: classes of probability {threshold:.4g} or more\n" in shown
    assert "conformal sets of level 0.999: all classes; too few validation data\n" in shown
    prediction = plain.predict(x.numpy())  # the same network without thresholds
    for level in (0.8, 0.97):
        sets = ConformalSets.fit(plain.predict(held.numpy()), labels, level=level)
        assert network.conformal(level).threshold == pytest.approx(sets.threshold, rel=1e-5)
        chosen = sets.sets(prediction)
        right, one = prediction.probs.argmax(1) == y.numpy(), chosen.sum(1) == 1
        for backend in ("reference", "torch"):
            how = ["--conformal", str(level), "--backend", backend, "--out", "rows.jsonl"]
            assert cli.main(["run", "net.safetensors", *how]) == 0
            out = capsys.readouterr().out
            covered = 100 * sets.coverage(prediction, y)
            size = f"mean size {chosen.sum(1).mean():.3f}, coverage {covered:.2f} %"
            assert f"conformal sets of level {level}: {size}" in out and "answers" not in out
            rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
            assert [row["set"] for row in rows] == [np.flatnonzero(each).tolist() for each in chosen]
            assert [row["class"] for row in rows] == prediction.probs.argmax(1).tolist()
            assert cli.main(["run", "net.safetensors", *how, "--abstain"]) == 0
            out = capsys.readouterr().out
            of_these = f"accuracy of the answers {100 * right[one].mean():.2f} %"
            assert f"accuracy {100 * right.mean():.2f} %\n" in out
            assert f"answers {100 * one.mean():.2f} % of the inputs; {of_these}\n" in out
            rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
            assert [row["class"] is None for row in rows] == (~one).tolist() and 0 < one.sum() < len(one)
        assert right[one].mean() > right.mean()
    np.save("x.npy", run.experiment.data.test.x[:30].numpy())
    assert cli.main(["run", "net.safetensors", "x.npy", "--conformal", "0.97", "--abstain", "--out", "rows.jsonl"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for line, row, each in zip(lines, rows, chosen, strict=False):
        names = [str(index) for index in np.flatnonzero(each)]
        assert line[-1] == "{" + ", ".join(names) + "}" and row["set_labels"] == names
        assert line[1] == (names[0] if len(names) == 1 else "abstains")
        assert row["label"] == (names[0] if len(names) == 1 else None)
    assert len(lines) == 30 and {line[1] == "abstains" for line in lines} == {True, False}


def test_conformal_sets_that_are_not_there(capsys):
    model = nn.Sequential(nn.Linear(16, 2, bias=False))
    bb.STE([model[0].weight], seed=0).eval()
    network = bb.pack(model, torch.zeros(1, 16))
    network.save("net.safetensors")
    np.save("x.npy", np.zeros((2, 16), np.float32))
    for words, message in [
        (["--abstain"], "--abstain needs conformal sets"),
        (
            ["--conformal", "0.9"],
            "net.safetensors has no conformal sets, got level 0.9; pack a run of your own with --conformal 0.9",
        ),
    ]:
        assert cli.main(["run", "net.safetensors", "--data", "x.npy", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
    assert cli.main(["train", "snelson", "--out", "run", "--epochs", "1"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors", "--conformal", "0.9"]) == 2
    assert "a conformal threshold needs a classifier" in capsys.readouterr().err
    assert cli.main(["train", "digits", "--out", "digits", "--epochs", "1"]) == 0
    assert cli.main(["pack", "digits", "-o", "net.safetensors", "--conformal", "90"]) == 2
    assert "level must be a fraction between 0 and 1" in capsys.readouterr().err


def test_a_network_is_measured_on_the_split_of_its_run(tmp_path, capsys):
    """The test data of another split are training data of this one."""
    run_recipe(make_config("digits", "ste", out="run", epochs=1, data_seed=3), progress=SilentProgress())
    assert cli.main(["evaluate", "run"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    capsys.readouterr()
    assert cli.main(["run", "net.safetensors"]) == 0
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert f"accuracy {evaluation['mode']['accuracy']:.2f}" in capsys.readouterr().out
    network = PackedNetwork.read("net.safetensors")
    program = replace(network.program, about={**network.program.about, "data_seed": "three"})
    PackedNetwork(program, network.tensors).save("net.safetensors")
    assert cli.main(["run", "net.safetensors"]) == 2
    assert "names 'three' as the seed of the split of its data, expected a whole number" in capsys.readouterr().err


def test_no_input_and_no_record_of_a_run_is_replaced(tmp_path, capsys):
    assert cli.main(["train", "digits", "--rule", "ste", "--out", "run", "--epochs", "1"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    files = [*(tmp_path / "run").iterdir(), tmp_path / "net.safetensors"]
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in files}
    for words, message in (
        (["pack", "run", "-o", "run/model.safetensors"], "run/model.safetensors is a record of the run in run"),
        (["report", "run", "-o", "run/summary.json"], "run/summary.json is a record of the run in run"),
        (["export", "net.safetensors", "--c", "net.safetensors"], "net.safetensors is what the command reads"),
        (["run", "net.safetensors", "--out", "./net.safetensors"], "./net.safetensors is what the command reads"),
        (["run", "zoo:digits", "--out", "run"], "run is a folder"),
        (["pack", "run", "-o", "pipe"], "pipe is not a regular file"),
        (["report", "run", "-o", "pipe"], "pipe is not a regular file"),
    ):
        capsys.readouterr()
        assert cli.main(words) == 2
        assert capsys.readouterr().err == f"bitbayes: {message}; write to another file\n"
    with pytest.raises(RunError, match="Not a regular file"):
        RunFolder(tmp_path).write_text("pipe", "a page")
    assert (tmp_path / "pipe").is_fifo()
    assert cli.main(["run", "run"]) == 2
    assert "run is the folder of a run; pack it first: bitbayes pack run -o net.safetensors" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files} == before
    assert cli.main(["pack", "run", "-o", "run/net.safetensors"]) == 0, "another name in the folder of a run"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/config.json").write_text("{}")  # of a folder for the Hub
    assert cli.main(["pack", "run", "-o", "shared/model.safetensors"]) == 0
    before = (tmp_path / "shared/model.safetensors").read_bytes()
    capsys.readouterr()
    assert cli.main(["export", "shared", "--onnx", "shared/model.safetensors"]) == 2
    assert "is a file of the folder that the command reads; write to another file" in capsys.readouterr().err
    assert (tmp_path / "shared/model.safetensors").read_bytes() == before


def test_a_network_of_a_text_needs_token_ids(capsys):
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    bb.STE([model[0].weight], seed=0).eval()
    bb.pack(model, torch.zeros(1, 2), about={"recipe": "text"}).save("net.safetensors")
    assert cli.main(["run", "net.safetensors"]) == 2
    assert "the recipe text is a text; give token ids with --data TOKENS.npy" in capsys.readouterr().err


def test_a_single_output_has_sets_of_two_classes(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    bb.STE([model[0].weight], seed=0).eval()
    network = bb.pack(model, torch.zeros(1, 2)).with_conformal(ConformalSets(0.9, 0.3))
    network.save("net.safetensors")
    signs = network.weight(network.program.steps[0])[0]
    np.save("x.npy", np.array([[3, 3], [-3, -3], [0.1, 0.1]], np.float32) * signs)
    assert cli.main(["run", "net.safetensors", "--data", "x.npy", "--conformal", "0.9", "--out", "rows.jsonl"]) == 0
    assert "conformal sets of level 0.9: mean size 1.333\n" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["set"] for row in rows] == [[1], [0], [0, 1]]


def test_probabilities_cannot_be_tempered():
    model = nn.Sequential(nn.Linear(16, 2, bias=False), nn.Softmax(1), nn.Unflatten(1, (2, 1)), nn.Flatten())
    bb.STE([model[0].weight], seed=0).eval()
    network = bb.pack(model, torch.zeros(1, 16))
    with pytest.raises(ValueError, match="the network ends in softmax"):
        network.tempered(2.0)
    for wrong in (0.0, float("inf"), float("nan"), 1e46):
        with pytest.raises(ValueError, match="temperature must be positive"):
            network.tempered(wrong)


@pytest.mark.parametrize("values", [np.float32(1), np.zeros((2, 3), np.float32), None])
def test_a_file_of_inputs_that_is_none(capsys, values):
    model = nn.Sequential(nn.Linear(16, 2, bias=False))
    bb.STE([model[0].weight], seed=0).eval()
    bb.pack(model, torch.zeros(1, 16)).save("net.safetensors")
    if values is None:
        open("x.npy", "wb").close()
    else:
        np.save("x.npy", values)
    assert cli.main(["run", "net.safetensors", "--data", "x.npy"]) == 2
    error = capsys.readouterr().err
    assert ("x.npy is not a readable .npy file" if values is None else "expected (N, 16)") in error


def _npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        _npy("{'descr':'<f4','fortran_order':False,'shape':(10000000000000000000000000000000,),}"),
        _npy("{'descr':'<f4','shape':(2, "),
        _npy("{'descr':'<f4','fortran_order':False,'shape':(True,),}"),
        b"PK\3\4" + bytes(50),
    ],
    ids=["huge", "unfinished", "boolean", "archive"],
)
def test_a_hostile_array_does_not_stop_the_others(content, capsys):
    np.save("good.npy", np.zeros((1, 64), np.float32))
    with open("bad.npy", "wb") as file:
        file.write(content)
    assert cli.main(["run", "zoo:digits", "bad.npy", "good.npy", "--backend", "reference"]) != 0
    shown = capsys.readouterr()
    assert "good.npy" in shown.out and "bad.npy is not a readable .npy file" in shown.out + shown.err
