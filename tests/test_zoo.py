"""The pretrained networks of the package do what their cards say."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bitbayes as bb
import needs
from bitbayes.hub.pretrained import read_content
from bitbayes.hub.render import readme
from bitbayes.lab import cli
from bitbayes.lab.cli import app
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.studies.entry import evaluate_packed, predict_packed
from bitbayes.lab.train.measure import whole
from bitbayes.zoo import entries
from generated import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent
DATA = {
    "mnist": ROOT.parent / "shared" / "data" / "mnist",
    "fashion": ROOT.parent / "shared" / "data" / "fashion-mnist",
    "cifar10": ROOT.parent / "shared" / "data" / "cifar10-jpeg",
}
every_name = pytest.mark.parametrize("name", bb.zoo.names())


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("zoo")


def data_of(name):
    """The data of an entry, normalised; skips where they are not on this machine."""
    recipe = find_recipe(bb.zoo.load(name).program.about["recipe"])
    first = recipe.name.partition("-")[0]
    if first == "digits":
        needs.EXPERIMENTS.module("sklearn")
        return recipe.load(None, torch.device("cpu"), 0)
    if not DATA[first].is_dir():
        needs.DATA.skip()
    return recipe.load(str(DATA[first]), torch.device("cpu"), 0)


def test_data(name):
    """The test inputs and classes of an entry."""
    return whole(data_of(name).test)


test_data.__test__ = False


# What is said of them. ----------------------------------------------------------------------------------------------


def test_there_are_the_networks_that_were_promised():
    assert {"digits", "mnist", "cifar10-small"} <= set(bb.zoo.names())


@every_name
def test_a_card_describes_its_files(name):
    folder, content = bb.zoo.folder(name), read_content(bb.zoo.folder(name))
    assert (folder / "README.md").read_text(encoding="utf-8") == readme(content)
    assert {"model.safetensors"} <= set(content.files)
    for file, described in content.files.items():
        read = (folder / file).read_bytes()
        assert (len(read), hashlib.sha256(read).hexdigest()) == (described.bytes, described.sha256)
    card = bb.zoo.card(name)
    assert card == content.card and card.license == "apache-2.0" and card.date and card.seed is not None
    assert set(card.metrics) == {"accuracy", "nll", "ece", "brier"} and card.validation_accuracy > 0
    assert card.limits


@every_name
def test_a_card_says_that_its_coverage_was_not_measured(script, name):
    assert bb.zoo.card(name).limits.count(script.NO_COVERAGE) == (name in script.UNMEASURED)
    measured = script.with_coverage(read_content(bb.zoo.folder(name)), "another")
    assert script.NO_COVERAGE not in measured.card.limits
    assert script.with_coverage(measured, name) == read_content(bb.zoo.folder(name))


@every_name
def test_the_command_of_a_card_is_one(name):
    words = shlex.split(bb.zoo.card(name).trained)
    assert words[:2] == ["bitbayes", "train"]
    command = app._parse(words[1:])
    assert command.recipe == bb.zoo.load(name).program.about["recipe"]


def test_the_files_fit_into_a_wheel(script, monkeypatch):
    files = sorted(bb.zoo.folder("digits").parent.glob("*/*.safetensors"))
    script.check_sizes(files, "none")
    monkeypatch.setattr(script, "ZOO_LIMIT", sum(path.stat().st_size for path in files) - 1)
    with pytest.raises(ValueError, match="go into a wheel"):
        script.check_sizes(files, "none")
    script.check_sizes(files, "digits")  # the entry that is replaced does not count


def test_a_file_that_is_too_large_is_refused(script, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(2_000_001))
    with pytest.raises(ValueError, match="take fewer --samples"):
        script.check_sizes([tmp_path / "model.safetensors"], "none")


# What they do. ------------------------------------------------------------------------------------------------------


def first_pictures(name, count):
    """The first pictures of the test file as the Hub has it, not normalised, and their classes."""
    first = bb.zoo.load(name).program.about["recipe"].partition("-")[0]
    if not DATA[first].is_dir():
        needs.DATA.skip()
    parquet = needs.EXPERIMENTS.module("pyarrow.parquet")
    (file,) = DATA[first].glob("test-*.parquet")
    rows = next(parquet.ParquetFile(file).iter_batches(count)).to_pylist()
    image, label, *_ = LAYOUTS[first]
    pictures = [Image.open(io.BytesIO(row[image]["bytes"])) for row in rows]
    return pictures, np.array([row[label] for row in rows])


@every_name
def test_the_first_answers_are_those_of_the_card(name):
    """From pictures, so that the file's own normalisation counts."""
    network = bb.zoo.load(name)
    first = json.loads((bb.zoo.folder(name) / "evaluation.json").read_text())["first"]
    if name == "digits":
        x, y = (part[: first["examples"]] for part in test_data(name))
    else:
        pictures, y = first_pictures(name, first["examples"])
        x = torch.from_numpy(network.prepare(pictures))
    right = predict_packed(network, x).probs.argmax(1).numpy() == np.asarray(y)
    assert len(right) == first["examples"] >= 100
    assert abs(int(right.sum()) - first["right"]) <= 1  # another torch may turn a tie


@pytest.mark.slow
@every_name
def test_all_figures_of_the_card(name):
    found = evaluate_packed(bb.zoo.load(name), *test_data(name))
    card = bb.zoo.card(name)
    assert found["examples"] == card.examples
    assert found["metrics"]["accuracy"] == pytest.approx(card.metrics["accuracy"], abs=0.03)
    for figure in ("nll", "ece", "brier"):
        assert found["metrics"][figure] == pytest.approx(card.metrics[figure], abs=5e-4)


def test_all_figures_of_the_digits():
    test_all_figures_of_the_card("digits")


@pytest.mark.slow
@every_name
def test_conformal_sets_hold_on_test_data(name):
    """The coverage is the level, up to four standard deviations of the calibration data and the test data."""
    network, data = bb.zoo.load(name), data_of(name)
    calibration, (x, y) = len(data.validation), whole(data.test)
    prediction = predict_packed(network, x)
    sizes = []
    for level in (0.9, 0.95, 0.99):
        sets = network.conformal(level)
        deviation = (level * (1 - level) * (1 / calibration + 1 / len(y))) ** 0.5
        assert sets.coverage(prediction, y) == pytest.approx(level, abs=4 * deviation)
        sizes.append(float(sets.sets(prediction).sum(1).float().mean()))
    assert sizes == sorted(sizes)


def test_conformal_sets_hold_on_the_digits():
    test_conformal_sets_hold_on_test_data("digits")


def test_the_command_calibrates_an_entry_anew(script, tmp_path, monkeypatch):
    """The thresholds are those of the packed network on the recipe's validation data."""
    zoo, plain = tmp_path / "zoo", bb.zoo.load("digits")
    shutil.copytree(bb.zoo.folder("digits"), zoo / "digits")
    monkeypatch.setattr(entries, "_HERE", zoo)
    about = {name: text for name, text in plain.program.about.items() if not name.startswith("conformal")}
    without = bb.packed.PackedNetwork(dataclasses.replace(plain.program, about=about), plain.tensors)
    without.save(zoo / "digits" / "model.safetensors")
    assert script.calibrate("digits", None) == zoo / "digits"
    anew = bb.zoo.load("digits").program.about
    assert anew.keys() == plain.program.about.keys()
    for key, text in plain.program.about.items():  # the texts have 16 digits, and another processor rounds otherwise
        assert anew[key] == text or float(anew[key]) == pytest.approx(float(text), rel=1e-5)
    x, y = whole(find_recipe("digits").load(None, torch.device("cpu"), 0).validation)
    fitted = bb.conformal.ConformalSets.fit(predict_packed(without, x), y, level=0.95)
    assert plain.conformal(0.95).threshold == pytest.approx(fitted.threshold, rel=1e-5)


def test_conformal_sets_on_the_command_line(capsys):
    assert cli.main(["run", "zoo:digits", "--conformal", "0.9", "--abstain"]) == 0
    out = capsys.readouterr().out
    assert "conformal sets of level 0.9: mean size " in out and "answers " in out
    assert cli.main(["run", "zoo:digits", "--conformal", "0.8"]) == 2
    line = (
        "zoo:digits has conformal sets of levels 0.9, 0.95 and 0.99, got level 0.8; choose one of these, or pack a run"
    )
    error = capsys.readouterr().err
    assert line in error and len(error.splitlines()) == 1


def test_backends_agree_on_pictures(tmp_path, monkeypatch, capsys):
    """A digit as a file, on the command line."""
    sklearn = needs.EXPERIMENTS.module("sklearn.datasets")
    monkeypatch.chdir(tmp_path)
    Image.fromarray((sklearn.load_digits().images[3] * 255 / 16).round().astype(np.uint8)).save("three.png")
    for backend in ("torch", "reference"):
        assert cli.main(["run", "zoo:digits", "three.png", "--backend", backend]) == 0
        words = capsys.readouterr().out.split("\t")
        assert words[:2] == ["three.png", "3"] and float(words[2]) > 0.8 and len(words) == 5
    assert cli.main(["summary", "zoo:digits"]) == 0
    assert "16 networks" in capsys.readouterr().out
    assert cli.main(["run", "zoo:digit", "three.png"]) == 2
    error = capsys.readouterr().err
    assert "no network of the zoo is called 'digit'; did you mean 'digits'?" in error and len(error.splitlines()) == 1


def test_the_list_on_the_command_line(capsys):
    assert cli.main(["zoo"]) == 0
    out = capsys.readouterr().out
    for name in bb.zoo.names():
        assert name in out and bb.zoo.card(name).metric("accuracy") in out


def test_the_posterior_is_the_one_that_the_networks_were_drawn_from():
    network, posterior = bb.zoo.load("digits"), bb.zoo.posterior("digits")
    drawn = posterior.sample(network.program.samples)
    layers = [step for step in network.program.steps if step.op == "linear"]
    assert len(layers) == len(drawn) == 3
    by_shape = {tuple(weights.shape[1:]): weights for weights in drawn.values()}
    for step in layers:
        for sample in range(network.program.samples):
            weight = network.weight(step, sample)
            np.testing.assert_array_equal(weight, by_shape[weight.shape][sample].numpy())


def test_the_torch_network_predicts_with_the_posterior():
    x, y = test_data("digits")
    model, posterior = bb.zoo.network("digits"), bb.zoo.posterior("digits")
    accuracies = []
    for given in (None, posterior):
        probs = bb.predict(model, x, given, samples=16).probs
        accuracies.append(100 * float((probs.argmax(1) == y).float().mean()))
    assert min(accuracies) > 94 and not model.training
    assert model[2].weight.abs().eq(1).all()


def test_a_damaged_file_of_real_parameters_is_refused(tmp_path, monkeypatch):
    shutil.copytree(bb.zoo.folder("digits"), tmp_path / "digits")
    rest = tmp_path / "digits" / entries.REST
    content = bytearray(rest.read_bytes())
    content[-1] ^= 1
    rest.write_bytes(content)
    monkeypatch.setattr(entries, "_HERE", tmp_path)
    with pytest.raises(ValueError, match=r"rest\.safetensors is damaged: .*SHA-256") as refused:
        bb.zoo.network("digits")
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_not_in_the_zoo():
    with pytest.raises(ValueError, match="no network of the zoo is called 'minst'; did you mean 'mnist'"):
        bb.zoo.load("minst")
    with pytest.raises(FileNotFoundError, match=r"comes without its posterior; there are: .*digits"):
        bb.zoo.posterior("mnist")


def test_the_zoo_needs_no_torch():
    code = (
        "import sys, numpy as np\n"
        "sys.modules['torch'] = None\n"
        "import bitbayes.zoo as zoo\n"
        "from bitbayes.packed import load\n"
        "network = zoo.load('digits')\n"
        "print(zoo.card('digits').metric('accuracy'))\n"
        "print(load(network).predict(network.prepare(np.zeros((2, 8, 8), np.uint8))).probs.shape)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == [bb.zoo.card("digits").metric("accuracy"), "(2, 10)"], result.stderr


# How an entry is made. ----------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_that_of_the_cards(script):
    text = script.PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- zoo -->") == 1 and script.rewritten(text) == text, "run: python docs/zoo.py"
    assert script.rewritten(text.replace("| `digits` |", "| `digit` |")) == text


def test_one_command_adds_a_run(script, tmp_path, monkeypatch):
    needs.EXPERIMENTS.module("sklearn")
    run, zoo = tmp_path / "run", tmp_path / "zoo"
    words = ["train", "digits", "--rule", "bayesbinn", "--epochs", "2", "--seed", "5", "--set", "ess_scale=10"]
    assert cli.main([*words, "--out", str(run)]) == 0
    zoo.mkdir()
    monkeypatch.setattr(script, "ZOO", zoo)
    monkeypatch.setattr(entries, "_HERE", zoo)
    options = Namespace(samples=3, tempered=True, real="float16", posterior=True, data=None)
    script.add("mine", str(run), Namespace(title="Mine", summary="", limit=["It is a test."], **vars(options)))
    assert bb.zoo.names() == ["mine"] and bb.zoo.load("mine").program.samples == 3
    card = bb.zoo.card("mine")
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert card.validation_accuracy == pytest.approx(max(row["val_accuracy"] for row in epochs))
    assert "temperature" in bb.zoo.load("mine").program.about and card.seed == 5
    assert 0 < bb.zoo.load("mine").conformal(0.99).threshold < bb.zoo.load("mine").conformal(0.9).threshold
    again = app._parse(shlex.split(card.trained)[1:])
    assert (again.recipe, again.rule) == ("digits", "bayesbinn:straight-through")
    assert (again.given.epochs, again.given.seed) == (2, 5) and "ess_scale=10" in card.trained
    x, y = test_data("mine")
    prediction = predict_packed(bb.zoo.load("mine"), x)
    assert card.metrics["accuracy"] == pytest.approx(100 * float((prediction.probs.argmax(1) == y).float().mean()))
    weights = {name for name, parameter in bb.zoo.network("mine").named_parameters() if parameter.dim() == 2}
    assert bb.zoo.posterior("mine").shapes.keys() == weights
