"""Test-time views and label smoothing: what they average, and that a run uses what its record says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from bitbayes.calibration import fit_temperature
from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import AUGMENTATIONS, CropFlip, TensorData
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.recipes.configure import data_of
from bitbayes.lab.studies.evaluate import evaluate_run, fitted_temperature
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import CROSS_ENTROPY, RunConfig, SilentProgress
from bitbayes.lab.train.measure import measure, whole
from bitbayes.lab.train.views import averaged
from generated import write

SMALL = {"epochs": 1, "batch_size": 15, "precision": "fp32", "predict_samples": 2}


def test_views_are_the_image_its_mirror_image_and_both_moved() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 6, 5)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 7))
    padded = nn.functional.pad(images, [1] * 4, mode="reflect")
    up_left, down_right = padded[:, :, :6, :5], padded[:, :, 2:, 2:]
    weighted = [(images, 1 / 2), (up_left, 1 / 4), (down_right, 1 / 4)]
    both = [(x, weight / 2) for view, weight in weighted for x in (view, view.flip(-1))]
    expected = sum(w * network(x) for x, w in both)
    torch.testing.assert_close(averaged(network, "mirror-shift")(images), expected)
    mirror = (network(images) + network(images.flip(-1))) / 2
    torch.testing.assert_close(averaged(network, "mirror")(images), mirror)
    assert averaged(network, "one") is network


def test_measured_accuracy_is_that_of_the_views() -> None:
    """A network that sees the left half of images knows the class of both sides only with a mirror."""
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0], x[1, 0, 0, 1] = 5.0, 4.0
    data = TensorData(x, torch.tensor([0, 0]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    network[1].weight.data = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    network[1].bias.data = torch.tensor([0.0, 1.0])
    assert measure(network, data, CROSS_ENTROPY, "fp32")["accuracy"] == 50.0
    assert measure(network, data, CROSS_ENTROPY, "fp32", "mirror")["accuracy"] == 100.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on generated images."""
    folder = tmp_path_factory.mktemp("views")
    data = write(folder / "data", "cifar10", train=40, test=12)
    config = make_config("cifar10-small", data=str(data), out=str(folder / "run"), views="mirror", **SMALL)
    run_recipe(config, progress=SilentProgress())
    return folder / "run"


def test_a_finished_run_predicts_with_its_views(run: Path) -> None:
    found = load_run(run)
    assert found.config.views == "mirror" and found.experiment.data.test is not None
    x, y = whole(found.experiment.data.test)
    model = found.experiment.model.eval()
    with torch.no_grad():
        expected = (model(x) + model(x.flip(-1))) / 2
    torch.testing.assert_close(found.predict(x).outputs[0], expected)
    assert json.loads((run / "summary.json").read_text())["views"] == evaluate_run(run, samples=2).views == "mirror"
    alone = found.with_views("one")
    torch.testing.assert_close(alone.predict(x).outputs[0], model(x).detach())
    x_held, y_held = whole(found.experiment.data.validation)
    assert fitted_temperature([found]) == pytest.approx(fit_temperature(alone.predict(x_held), y_held))
    right = 100 * float((expected.argmax(1) == y).float().mean())
    assert json.loads((run / "summary.json").read_text())["test_accuracy"] == pytest.approx(right)
    mirrored = evaluate_run(run, samples=2).mode["nll"]
    assert evaluate_run(run, samples=2, views="one").views == "one"
    written = json.loads((run / "evaluation.json").read_text())
    assert written["mode"]["nll"] == pytest.approx(float(nn.functional.cross_entropy(model(x).detach(), y)), rel=1e-5)
    assert written["mode"]["nll"] != pytest.approx(mirrored, rel=1e-4)
    assert evaluate_run(run, samples=2).mode["nll"] == pytest.approx(mirrored), "the run keeps its own views"
    with pytest.raises(ValueError, match="views must be one of one, mirror, mirror-shift; got 'both'"):
        evaluate_run(run, views="both")  # pyright: ignore[reportArgumentType]
    mean, mirrored = found.predict(x, 2), found.predict(x.flip(-1), 2)
    torch.testing.assert_close(mean.outputs, mirrored.outputs)


def test_smoothing_changes_training_and_not_the_likelihood(run: Path, tmp_path: Path) -> None:
    data = RunConfig.load(run).data
    losses, networks = [], []
    for smoothing in (0.0, 0.4):
        out = tmp_path / str(smoothing)
        config = make_config(
            "cifar10-small", "full-precision", data=data, out=str(out), label_smoothing=smoothing, **SMALL
        )
        result = run_recipe(config, progress=SilentProgress())
        summary = result.summary
        assert summary is not None and summary.test_nll is not None
        losses.append(result.history[-1].train_loss)
        found = load_run(out)
        assert found.config.label_smoothing == smoothing and found.experiment.data.test is not None
        x, y = whole(found.experiment.data.test)
        with torch.no_grad():
            nll = nn.functional.cross_entropy(found.predict(x).outputs[0], y)
        assert summary.test_nll == pytest.approx(float(nll), rel=1e-5)
        networks.append(found.experiment.model)
    assert losses[0] != losses[1]
    assert any(not torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


def test_a_run_with_another_augmentation(run: Path, tmp_path: Path) -> None:
    data = RunConfig.load(run).data
    config = make_config("cifar10-small", data=data, out=str(tmp_path / "run"), augment="alternate", **SMALL)
    assert data_of(config).train.augment == CropFlip(pad=2, reflect=True, alternate=True)
    run_recipe(config, progress=SilentProgress())
    assert RunConfig.load(tmp_path / "run").augment == "alternate"
    assert "augment" not in json.loads((run / "config.json").read_text())
    with pytest.raises(ValueError, match="augment alternate, not None"):
        run_recipe(dataclasses.replace(config, augment=None), resume=True, progress=SilentProgress())
    hints = get_type_hints(Overrides)
    assert set(get_args(get_args(hints["augment"])[0])) == set(AUGMENTATIONS)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        make_config("cifar10-small", label_smoothing=1.0)
    with pytest.raises(ValueError, match="views must be one of one, mirror, mirror-shift; got 'mirrored'"):
        make_config("cifar10-small", views="mirrored")
    with pytest.raises(ValueError, match="label smoothing needs the loss cross_entropy, not binary"):
        run_recipe(make_config("moons", label_smoothing=0.1, out="-"), progress=SilentProgress())
    with pytest.raises(ValueError, match="did you mean 'alternate'"):
        make_config("cifar10-small", augment="alternat")
    with pytest.raises(
        ValueError,
        match=r"augment flip needs images of type uint8 and shape \(N, C, H, W\), got torch.uint8 of shape \(N, 64\)",
    ):
        run_recipe(make_config("digits", augment="flip", out="-"), progress=SilentProgress())
    assert data_of(make_config("digits", augment="none")).train.augment is None
    with pytest.raises(ValueError, match="views mirror need images"):
        run_recipe(make_config("digits", views="mirror", out="-"), progress=SilentProgress())
    digits = run_recipe(make_config("digits", "ste", epochs=1, out=str(tmp_path)), progress=SilentProgress())
    assert digits.summary is not None
    with pytest.raises(ValueError, match=r"views mirror need images \(N, C, H, W\), got inputs \(N, 64\)"):
        evaluate_run(tmp_path, views="mirror")
