"""Tables and figures."""

import pytest
import torch

from bitbayes.lab.cli.output import show
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.report.figures import curves_figure, histogram_figure
from bitbayes.lab.report.results import results_table, write_results
from bitbayes.lab.report.series import published_curves
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import EpochRow
from bitbayes.posterior import BernoulliPosterior
from bitbayes.table import Table, spread
from summaries import summary

PNG = b"\x89PNG\r\n\x1a\n"


def rows():
    first, second = (
        summary(test_accuracy=test, val_accuracy=98.0, train_accuracy=99.0, epochs=10) for test in (98.2, 98.4)
    )
    return [TableRow("ste", [first, second]), TableRow("adaste", [first])]


def test_mean_and_sample_deviation():
    assert spread([1.0, None, 3.0], 6) == f"2.000000 ± {2**0.5:.6f}"
    assert spread([]) == "-"
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
    assert "(number: 2 or 1; epochs: 10)" in text.read_text()
    assert "500 epochs" in text.read_text()


def test_markdown_is_a_table():
    text = Table("", ["a", "b"], [["1", "2"], ["3", "4"]]).markdown()
    assert text.splitlines() == ["| a | b |", "| --- | ---: |", "| 1 | 2 |", "| 3 | 4 |"]


def test_every_renderer_shows_every_cell_and_no_markup(capsys):
    """Cells are text: neither HTML, nor a column of Markdown, nor a style of rich."""
    hostile = ["<b>&\"'", "a|b", "[bold]x[/bold]"]
    table = Table("<i>title", ["name", "[red]head", "<td>"], [hostile, ["plain", "-", "1.5 ± 0.2"]], "[dim]caption")
    show(table)
    shown = capsys.readouterr().out
    for text in (*hostile, "[red]head", "<td>", "1.5 ± 0.2", "[dim]caption"):
        assert text in shown and text in table.text()
    assert [line.count(" | ") for line in table.markdown().splitlines()] == [2] * 4
    assert r"a\|b" in table.markdown()
    page = table.html()
    assert "<b>" not in page and "<i>" not in page and "&lt;b&gt;&amp;&#34;&#39;" in page
    assert page.count("<td") == 4 and page.count("<th ") == 5


def test_columns_of_numbers_are_aligned_to_the_right():
    table = Table("", ["name", "figure", "text", "gap"], [["a", "1,000 / 3", "x1", ""], ["b", "-", "2", "–"]])
    assert table.markdown().splitlines()[1] == "| --- | ---: | --- | ---: |"
    assert table.html().count('class="n"') == 6
    chosen = Table("", ["name", "figure"], [["a", "12"]], align="rl")
    assert chosen.markdown().splitlines()[1] == "| ---: | --- |"


def test_histogram(tmp_path):
    posteriors = {
        "coin": BernoulliPosterior({"w": torch.zeros(100)}),
        "sure": BernoulliPosterior({"w": torch.full((100,), 9.0)}),
    }
    assert histogram_figure(posteriors, tmp_path / "h.png").read_bytes().startswith(PNG)


def test_curves_without_published(tmp_path):
    history = [EpochRow(epoch=epoch, lr=0.1, train_loss=0.5, seconds=1.0, test_accuracy=90.0) for epoch in (1, 2)]
    path = curves_figure({"run": history}, tmp_path / "deep" / "c.png")
    assert path.read_bytes().startswith(PNG)


def test_curves_of_text_and_of_classes_do_not_share_a_figure(tmp_path):
    def history(**figures):
        return [EpochRow(epoch=epoch, lr=0.1, train_loss=0.5, seconds=1.0, **figures) for epoch in (3, 4)]

    runs = {"text": history(test_bits=2.5, val_bits=2.25), "classes": history(test_accuracy=90.0)}
    assert curves_figure({"text": runs["text"]}, tmp_path / "c.png").read_bytes().startswith(PNG)
    with pytest.raises(ValueError, match="one kind of figure on test data, got accuracy, % and bits per byte"):
        curves_figure(runs, tmp_path / "c.png")
    with pytest.raises(ValueError, match="got none in run"):
        curves_figure({"run": history()}, tmp_path / "c.png")


def test_published_curves_that_are_missing(tmp_path):
    (tmp_path / "p.json").write_text('{"curves": {}}')
    with pytest.raises(ValueError, match="no published curves of mnist"):
        published_curves(tmp_path / "p.json", "mnist")
