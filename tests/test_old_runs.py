"""A run folder that an earlier version wrote, stopped halfway, goes on, and is evaluated, packed and reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bitbayes.lab.cli import main
from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.pack import pack_run
from bitbayes.lab.train import RunConfig
from bitbayes.packed import load

# bitbayes train moons --stop-after 50 at commit edeba34: BayesBiNN, before the package had two floors.
OLD = Path(__file__).parent / "folders" / "moons-edeba34"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "moons"))


def test_the_record_is_read_and_written_as_it_was(folder):
    text = (folder / "config.json").read_text()
    assert RunConfig.load(folder).to_json() == text


def test_it_goes_on_to_the_belief_of_a_run_without_a_stop(folder, tmp_path, capsys):
    words = ["train", "moons", "--epochs", "100", "--out"]
    before = (folder / "metrics.jsonl").read_text()
    assert main([*words, str(folder), "--resume"]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    after = (folder / "metrics.jsonl").read_text()
    assert after.startswith(before) and [json.loads(line)["epoch"] for line in after.splitlines()] == [50, 100]
    gone_on, whole = load_run(folder), load_run(tmp_path / "whole")
    # Bit for bit on one kind of processor; the first half may have been trained on another.
    for name, weight in whole.experiment.model.state_dict().items():
        assert (gone_on.experiment.model.state_dict()[name] == weight).float().mean() > 0.99, name


def test_it_is_evaluated_packed_and_reported(folder, tmp_path, capsys):
    assert main(["evaluate", str(folder), "--samples", "4"]) == 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert abs(evaluation["mode"]["accuracy"] - json.loads((OLD / "summary.json").read_text())["test_accuracy"]) < 0.5

    run = load_run(folder)
    x = run.experiment.data.test.x[:50]
    packed = load(pack_run(folder)).predict(x.numpy())
    torch.testing.assert_close(torch.from_numpy(packed.probs), run.predict(x).probs, rtol=1e-4, atol=1e-5)

    assert main(["report", str(folder), "-o", str(tmp_path / "page.html")]) == 0
    assert "moons" in (tmp_path / "page.html").read_text()


def test_a_checkpoint_of_an_older_version_has_the_defaults_of_newer_settings() -> None:
    config = make_config("cifar10-small", out="-")
    older = {name: value for name, value in config.identity().items() if name not in ("label_smoothing", "views")}
    assert config.differing(older) == []
    newer = config.changed(label_smoothing=0.2, views="mirror")
    assert newer.differing(older) == newer.differing(config.identity())
    assert newer.differing(older) == ["label_smoothing 0.0, not 0.2", "views one, not mirror"]
    assert config.differing(newer.identity()) == ["label_smoothing 0.2, not 0.0", "views mirror, not one"]
