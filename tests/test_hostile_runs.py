"""The page over folders that somebody else has written: every value of every file may be anything; the page is made."""

import json
import shutil
from pathlib import Path

import pytest

from bitbayes.lab.cli import main
from bitbayes.lab.continual import StreamSettings, permuted_tasks, run_stream
from bitbayes.lab.data import load_digits
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.report.page import charts, read_folders, write_page
from bitbayes.lab.report.page.sections import make_sections
from bitbayes.lab.studies.evaluate import evaluate_run
from bitbayes.lab.train import RuleSpec, RunConfig, SilentProgress
from bitbayes.nn import mlp

HOSTILE = {
    "whole": "1" + "0" * 400,
    "wide": "-1.7e308",
    "endless": "1e999",
    "nan": "NaN",
    "text": '"text"',
    "half": '"\\ud800"',
    "list": '[["text"], 1.7e308, -1.7e308]',
    "object": '{"a": {"b": []}}',
    "nothing": "null",
    "minus": "-1",
    "long": str(2**63 - 1),
    "deep": '{"a":' * 400 + "[]" + "}" * 400,
    "deepest": "[" * 100_000 + "]" * 100_000,
}
TRUST = {"rule": "ste", "kind": "network", "networks": 1, "bytes": 9, "figures": {"ece": {"values": [0.1, 0.2]}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that was evaluated, a stream, and a trust study."""
    folder = tmp_path_factory.mktemp("runs")
    run_recipe(make_config("digits", epochs=2, out=str(folder / "run")), progress=SilentProgress())
    evaluate_run(folder / "run", samples=2)
    config = RunConfig("permuted-digits", "ste", str(folder / "stream"), RuleSpec(1e-2), epochs=1, precision="fp32")
    tasks, settings = permuted_tasks(load_digits(), 2), StreamSettings(curve_examples=50, prior=False)
    run_stream(config, tasks, lambda: mlp(64, [8], 10), settings, progress=SilentProgress(), note=lambda line: None)
    (folder / "trust.json").write_text(json.dumps({"rows": [TRUST, TRUST]}))
    (folder / "run/failure.json").write_text('{"error": "a device is lost"}')
    for path in [*folder.rglob("*.pt"), *folder.rglob("*.safetensors")]:
        path.unlink()  # for speed
    return folder


def places(value, at=()):
    """Where the values of a JSON file are; of a list, the first stands for all."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def with_value(value, at, new):
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = with_value(copy[at[0]], at[1:], new)
    return copy


def variants(path):
    """The text of a file (of lines: of the first) with one value replaced, for every value and every replacement."""
    first, *rest = path.read_text().split("\n") if path.suffix == ".jsonl" else [path.read_text()]
    for at in places(json.loads(first)):
        text = json.dumps(with_value(json.loads(first), at, "@"))
        for name, hostile in HOSTILE.items():
            yield f"{'.'.join(map(str, at))}={name}", "\n".join([text.replace('"@"', hostile), *rest])


@pytest.fixture
def without_charts(monkeypatch):
    """Charts of a thousand damaged folders take minutes; `test_charts_of_every_damage` draws those of fewer."""
    for name in ("curve_chart", "histogram_chart", "bins_chart", "matrix_map", "belief_map"):
        monkeypatch.setattr(charts, name, lambda *_, **__: None)


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize(
    "name",
    [
        *("run/config.json", "run/metrics.jsonl", "run/summary.json", "run/evaluation.json", "run/environment.json"),
        *("run/failure.json", "stream/summary.json", "stream/curves.jsonl", "stream/task1/config.json", "trust.json"),
    ],
)
def test_one_page_of_every_damage(runs, tmp_path, name):
    """All damaged folders at once beside a sound one, which is shown as if they were not there."""
    kind = "" if name == "trust.json" else name.split("/")[0]
    folders = []
    for label, text in variants(runs / name):
        place = Path(shutil.copytree(runs / kind, tmp_path / f"{len(folders)}-{label}".replace("/", "_")))
        (place / Path(name).relative_to(kind)).write_text(text)
        if name == "run/failure.json":
            (place / "summary.json").unlink()
        folders.append(place)
    found = read_folders([*folders, runs / "run"], now=0.0)
    sound = [run for run in found.runs if run.name in ("run", f"{runs.name}/run")]
    assert [run.state for run in sound] == ["finished"]
    assert all("\n" not in note for note in found.notes)
    sections = make_sections(found)
    assert any(row[0].startswith("bayesbinn:straight-through") for table in sections[0].tables for row in table.rows)


@pytest.mark.parametrize("name", ["run/metrics.jsonl", "run/evaluation.json", "stream/summary.json"])
def test_charts_of_every_damage(runs, tmp_path, name):
    """The values that charts draw, one damage after another in a single folder."""
    kind, file = name.split("/")
    wanted = ("wide", "half", "minus", "long")
    damaged = [text for label, text in variants(runs / name) if label.split("=")[1] in wanted]
    for number, text in enumerate(damaged[:: max(1, len(damaged) // 10)]):
        place = Path(shutil.copytree(runs / kind, tmp_path / str(number)))
        (place / file).write_text(text)
    write_page(read_folders([tmp_path]), tmp_path / "report.html")


def test_a_damaged_folder_is_one_line(runs, tmp_path, capsys):
    for name in ("deepest", "whole"):
        shutil.copytree(runs / "run", tmp_path / "runs" / name)
        config = json.loads((runs / "run/config.json").read_text()) | {"epochs": "@"}
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(config).replace('"@"', HOSTILE[name]))
    shutil.copytree(runs / "run", tmp_path / "runs" / "sound")
    assert main(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")]) == 0
    deep, whole = capsys.readouterr().err.splitlines()
    assert deep.endswith("deepest/config.json is not a record of a run: it is nested too deeply")
    assert whole.endswith("whole/config.json is not a record of a run: 10000000000000000000... is too large")


def test_names_that_are_no_unicode(runs, tmp_path):
    """A Linux file name may be any bytes."""
    place = Path(shutil.copytree(runs / "run", tmp_path / "run\udcff"))
    page = write_page(read_folders([place]), tmp_path / "report.html")
    assert "run?" in page.read_text(encoding="utf-8")
