"""Tables and figures."""

import dataclasses

import pytest
import torch

from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.report.figures import curves_figure, histogram_figure, published_curves
from bitbayes.lab.report.markdown import markdown, results_table, write_results
from bitbayes.lab.report.tables import mean_std, show, spread
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import EpochRow
from bitbayes.posterior import BernoulliPosterior
from summaries import summary

PNG = b"\x89PNG\r\n\x1a\n"


def rows():
    one = summary(test_accuracy=98.2, val_accuracy=98.0, train_accuracy=99.0)
    return [
        TableRow("ste", [one, dataclasses.replace(one, test_accuracy=98.4)]),
        TableRow("adaste", [one]),
    ]


def test_mean_and_sample_deviation():
    assert mean_std([1.0, None, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_std([]) == (None, None)
    assert spread([None]) == "-"
    assert spread([98.25]) == "98.25"


@pytest.mark.parametrize("name", ["table2", "table10"])
def test_tables_have_ours_beside_published(tmp_path, capsys, name):
    recipe = find_recipe("mnist")
    show(results_table(name, recipe, rows()))
    shown = capsys.readouterr().out
    assert "98.30 ± 0.14" in shown
    assert "98.85 ± 0.09" in shown
    _, text = write_results(name, recipe, rows(), tmp_path)
    lines = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "10 epochs" in text.read_text()
    assert "500 epochs" in text.read_text()


def test_markdown_is_a_table():
    text = markdown(["a", "b"], [["1", "2"], ["3", "4"]])
    assert text.splitlines() == ["| a | b |", "| --- | ---: |", "| 1 | 2 |", "| 3 | 4 |"]


def test_histogram(tmp_path):
    posteriors = {
        "coin": BernoulliPosterior({"w": torch.zeros(100)}),
        "sure": BernoulliPosterior({"w": torch.full((100,), 9.0)}),
    }
    assert histogram_figure(posteriors, tmp_path / "h.png").read_bytes().startswith(PNG)


def test_curves_without_published(tmp_path):
    row = EpochRow(epoch=1, lr=0.1, train_loss=0.5, test_accuracy=90.0, seconds=1.0)
    path = curves_figure({"run": [row, dataclasses.replace(row, epoch=2)]}, tmp_path / "deep" / "c.png")
    assert path.read_bytes().startswith(PNG)


def test_published_curves_that_are_missing(tmp_path):
    (tmp_path / "p.json").write_text('{"curves": {}}')
    with pytest.raises(ValueError, match="no published curves of mnist"):
        published_curves(tmp_path / "p.json", "mnist")
