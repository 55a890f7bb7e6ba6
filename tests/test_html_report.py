"""The page of `bitbayes report`: what it shows, that it asks nobody for anything, and every kind of broken folder."""

import dataclasses
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import tyro

import bitbayes as bb
import needs
from bitbayes.calibration import reliability
from bitbayes.lab.cli.reproduce import Report
from bitbayes.lab.continual import StreamSettings, permuted_tasks, run_stream
from bitbayes.lab.data import load_digits
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.report.groups import copies, grouped, rule_of
from bitbayes.lab.report.page import Folders, RunRecord, read_folders, write_page
from bitbayes.lab.report.page.charts import COLOURS, mark
from bitbayes.lab.report.page.sections import make_sections
from bitbayes.lab.studies.evaluate import evaluate_run
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RuleSpec, RunConfig, SilentProgress
from bitbayes.lab.train.measure import whole

VOID = {"meta", "input", "path", "circle", "br"}


class Page(HTMLParser):
    """Tags, texts by the tag they are in, and whether every tag is closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def words(self, *tags):
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a rule with a posterior, one of a rule without, and a stream of two tasks."""
    folder = tmp_path_factory.mktemp("runs")
    for rule, seed in (("bayesbinn", 0), ("bayesbinn", 1), ("ste", 0)):
        config = make_config("digits", rule, seed=seed, epochs=2, out=str(folder / f"{rule}-{seed}"))
        run_recipe(config, progress=SilentProgress())
    spec, choices = RuleSpec(1e-2, {"ess": 14000.0}), {"estimator": "straight-through", "precision": "fp32"}
    config = RunConfig("permuted-digits", "bayesbinn", str(folder / "stream"), spec, epochs=1, **choices)
    quiet = {"progress": SilentProgress(), "note": lambda line: None}
    tasks, settings = permuted_tasks(load_digits(), 2), StreamSettings(curve_examples=50)
    run_stream(config, tasks, lambda: bb.nn.mlp(64, [16], 10), settings, **quiet)
    return folder


@pytest.fixture
def mine(runs, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return Page(write_page(read_folders([runs]), tmp_path_factory.mktemp("page") / "report.html"))


def titles(folders, **choices):
    """Titles of all charts and tables, in their order."""
    return [part.title for s in make_sections(folders, **choices) for part in (*s.charts, *s.tables)]


def synthetic(name, rows=3, state="finished", **choices):
    """A record as the reader makes it."""
    config = RunConfig("mnist", "ste", name, RuleSpec(0.1), epochs=rows).changed(**choices)
    history = [{"epoch": i + 1, "test_accuracy": 90 + i / rows, "train_loss": 1 / (i + 1)} for i in range(rows)]
    summary = {"test_accuracy": 98.0 + config.seed, "seconds_per_epoch": 1.0} if state == "finished" else {}
    return RunRecord(name, config, state, state, history, summary)


def test_page_asks_nobody_for_anything(page):
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "http" not in policy and "eval" not in policy
    for tag, attrs in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"}
        assert "src" not in attrs and "style" not in attrs.get("rel", "")
        assert attrs.get("href", "#").startswith("#")
    assert not re.search(r"@import|url\(", "".join(page.words("style")))
    assert any("BokehJS" in text or "Bokeh" in text for text in page.words("script"))


def test_page_is_small(runs, tmp_path):
    """Also when there are many long runs: curves are thinned, and keep their ends."""
    assert write_page(read_folders([runs]), tmp_path / "a.html").stat().st_size < 2e6
    long = [synthetic(f"run{seed}-{lr}", 1500, seed=seed, lr=lr) for seed in range(20) for lr in (0.1, 0.2, 0.3)]
    more = [synthetic(f"other{seed}", 1500, seed=seed, recipe="digits") for seed in range(20)]
    assert write_page(Folders([*long, *more], [], [], []), tmp_path / "b.html").stat().st_size < 5e6


def test_page_can_be_read_without_eyes(page):
    assert page.all("html") == [{"lang": "en"}]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key) in {None, *ids}
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert all("scope" in attrs for attrs in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    numbers = sum("Show the values as a table" in text for text in page.words("summary"))
    assert numbers == len(page.all("figure")) > 10
    scrolled = [attrs for attrs in page.all("div") if attrs.get("class") == "wide"]
    assert len(scrolled) == len(page.all("table"))
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolled)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(page, scheme):
    """WCAG 2.1: 4.5 to 1 for text, 3 to 1 for the lines of charts."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", "".join(page.words("style")))
    colours = {name: both[scheme] for name, *both in pairs}
    for ground in (colours["page"], colours["card"]):
        assert all(contrast(colours[name], ground) >= 4.5 for name in ("text", "quiet", "link"))
        assert all(contrast(colour, ground) >= 3 for colour in COLOURS)
    assert len({mark(i) for i in range(70)}) == 70


def test_page_shows_everything(runs):
    found = titles(read_folders([runs]))
    for wanted in ("Test accuracy", "Training loss", "Test negative log-likelihood"):
        assert wanted in found
    for wanted in (
        "Sign flips between evaluations",
        "Sign flip rate of one step",
        "digits: test data",
        "Speed and size",
        "Streams of permuted-digits",
        "Accuracy matrix: stream",
        "Accuracy during training: stream",
    ):
        assert wanted in found
    assert "Weight probabilities: stream" in found
    assert {"Weight probabilities", "Weight probabilities by epoch: bayesbinn-0"} <= set(found)


def test_captions_are_sentences_that_name_what_they_show(runs, page):
    sections = make_sections(read_folders([runs]))
    captions = [chart.about for section in sections for chart in section.charts]
    assert len(captions) > 10
    assert [
        one for one in captions if not re.fullmatch(r"(The chart shows|Colours show|Each|Every|All) .*\.", one)
    ] == []
    assert {"bayesbinn:straight-through (2 runs)", "ste (1 run)"} <= set(page.words("label"))
    tables = {chart.title: chart.table.heads for section in sections for chart in section.charts}
    assert tables["Test accuracy"][-2:] == ["epoch of the highest", "last epoch"]
    assert tables["Test negative log-likelihood"][-2:] == ["epoch of the lowest", "last epoch"]
    assert tables["Mean accuracy over the tasks so far"][-2:] == ["task of the highest", "last task"]


def test_tables_have_what_the_runs_reached(runs, page):
    summaries = [json.loads((runs / f"bayesbinn-{i}/summary.json").read_text()) for i in (0, 1)]
    values = [summary["test_accuracy"] for summary in summaries]
    mean, std = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    cells = page.words("td")
    assert f"{mean:.2f} ± {std:.2f}" in cells
    assert f"{summaries[0]['bytes_1_bit']:,}" in cells
    matrix = json.loads((runs / "stream/summary.json").read_text())["matrix"]
    assert f"{matrix[1][0]:.1f}" in cells
    environment = make_sections(read_folders([runs / "stream"]))[-1].folded[-1]
    assert ["runs: torch", torch.__version__] in environment.rows


def test_ours_beside_published():
    section = make_sections(Folders([synthetic("a", seed=1), synthetic("b", seed=2)], [], [], []))[0]
    table = next(table for table in section.tables if table.title == "mnist: our results and the published ones")
    row = dict(zip(table.heads, table.rows[0], strict=True))
    assert (row["runs"], row["test"], row["published"]) == ("2", "99.50 ± 0.71", "98.85 ± 0.09")
    assert row["epoch chosen by"] == "validation"
    assert "500 epochs" in table.caption


def test_published_curves(tmp_path):
    folders = Folders([synthetic("a"), synthetic("b", recipe="digits")], [], [], [])
    path = tmp_path / "published.json"
    curve = {name: [90.0, 91.0, 92.0] for name in ("train", "val", "test")}
    other = {name: [92.0, 93.0, 94.0] for name in curve}
    path.write_text(json.dumps({"curves": {"mnist": [curve, other]}}))
    sections = make_sections(folders, path)
    abouts = {s.title: [c.about for c in s.charts if c.title == "Test accuracy"] for s in sections if s.charts}
    assert "2 published runs" in abouts["Recipe mnist"][0]
    assert "published" not in abouts["Recipe digits"][0]
    page = Page(write_page(folders, tmp_path / "report.html", published=path))
    assert "published" in page.words("label")
    for damaged in ("no JSON", "{}", '{"curves": {"mnist": [{"train": ["high"]}]}}', '{"curves": {"mnist": 3}}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"published\.json .* curves of"):
            make_sections(folders, path)


def test_runs_of_one_setting_are_a_group():
    runs = [synthetic(f"s{seed}", seed=seed, options={"clip": 1 if seed else 1.0}) for seed in range(3)]
    runs += [synthetic("other", lr=0.2), synthetic("more", recipe="digits")]
    groups = grouped(runs)
    assert [len(group.runs) for group in groups["mnist"]] == [3, 1]
    assert [group.label for group in groups["mnist"]] == ["ste (lr 0.1, clip 1)", "ste (lr 0.2)"]
    assert [group.label for group in groups["digits"]] == ["ste"]
    assert grouped([synthetic("v", recipe="imagenet-resnet18", rule="vispa")])["imagenet-resnet18"][0].label == "vispa"


def test_labels_round_numbers_and_still_tell_groups_apart():
    """A searched rate has fifteen digits, of which three say it all, unless two of them begin alike."""
    rates = (0.01, 0.00375619614449984)
    groups = grouped([synthetic(str(lr), lr=lr) for lr in rates])["mnist"]
    assert [group.label for group in groups] == ["ste (lr 0.01)", "ste (lr 0.00376)"]
    groups = grouped([synthetic(str(lr), lr=lr) for lr in (*rates, 0.00375619614449999)])["mnist"]
    assert len({group.label for group in groups}) == 3
    assert groups[1].label.startswith("ste (lr 0.003756196144")


@pytest.mark.parametrize(
    ("recipe", "rule", "choices"),
    [
        ("digits", "bayesbinn:default", {}),
        ("digits", "bayesbinn:default", {"lr": 0.02, "options": {"init_lambda": 5.0}}),
        ("mnist", "bayesbinn", {}),
        ("mnist-trust", "ste:two-passes", {}),
        ("imagenet-resnet18", "vispa", {}),
        ("digits", "ste", {}),
    ],
)
def test_a_run_has_the_name_that_its_user_gave(recipe, rule, choices, tmp_path):
    config = make_config(recipe, rule, out=str(tmp_path), **choices)
    wanted = {"bayesbinn": "bayesbinn:released"}.get(rule, rule)
    assert str(config.rule_name) == rule_of(config) == wanted
    assert RunConfig.from_json(config.to_json()) == config
    assert ("variant" in json.loads(config.to_json())) == (wanted.split(":")[-1] in ("default", "two-passes"))
    # Records of earlier versions have no variant; another name is no other run.
    older = dataclasses.replace(config, variant=None)
    assert config.differences(older) == []
    if not choices:
        assert rule_of(older) == wanted
        runs = [RunRecord(str(i), each, "finished", "", []) for i, each in enumerate((older, config))]
        assert [group.label for group in grouped(runs)[recipe]] == [wanted]


def test_groups_that_differ_in_their_data_alone_have_labels_of_their_own(tmp_path):
    config = make_config("digits", "ste", out=str(tmp_path))
    runs = [
        RunRecord(each, config, "finished", "", [], environment={"data": each}) for each in ("one", "other", "other")
    ]
    groups = grouped(runs)["digits"]
    assert [group.label for group in groups] == [f"ste (fingerprint of the data {each})" for each in ("one", "other")]
    assert [len(group.runs) for group in groups] == [1, 1] and copies(runs) == runs[2:]


def test_runs_that_were_set_aside_are_no_seeds(mine, tmp_path):
    """Three starts of one run, and a copy that only looks like one."""
    for name in ("ste-0.old-1", "ste-0.old-2", "ste-0.old", "other.old-1"):
        shutil.copytree(mine / "ste-0", mine / name)
    shutil.copytree(mine / "stream", mine / "stream.old-1")
    everything = sorted(mine.iterdir())
    for paths in ([mine], everything):
        found = read_folders(paths)
        kept = {"bayesbinn-0", "bayesbinn-1", "ste-0", "ste-0.old", "other.old-1"}
        assert {run.name for run in found.runs} == kept
        assert [stream.name for stream in found.streams] == ["stream"]
        (note,) = found.notes
        assert note.startswith("ste-0.old-1, ste-0.old-2, stream.old-1: set aside by a later start")
    table = next(table for table in make_sections(found)[0].tables if table.title == "digits: test data")
    counts = {row[0]: row[table.heads.index("runs")] for row in table.rows}
    assert counts == {"bayesbinn:straight-through": "2", "ste": "1"}  # a copy is no further seed
    assert len(copies(found.runs)) == 2
    page = Page(write_page(found, tmp_path / "report.html"))
    assert note in page.words("li")
    alone = read_folders([mine / "ste-0.old-1", mine / "bayesbinn-0"])
    assert [run.name for run in alone.runs] == ["ste-0.old-1", "bayesbinn-0"] and alone.notes == []
    both = read_folders([mine / "ste-0.old-1", mine / "ste-0.old-2"])
    assert [run.name for run in both.runs] == ["ste-0.old-2"]


def test_results_come_before_all_charts(runs, tmp_path):
    path = write_page(read_folders([runs]), tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    charts = text.index("<figure ")
    for wanted in ("<caption>digits: test data", "<caption>Streams of permuted-digits"):
        assert text.index(wanted) < text.index("<caption>All runs") < charts


def test_a_phone_shows_results_on_its_first_screens(runs, tmp_path):
    """Also below a long list of what was left out; and nothing but wide tables scrolls sideways."""
    sync_api, chromium = needs.PLAYWRIGHT.module("playwright.sync_api"), needs.browser()
    found = read_folders([runs])
    found.notes.extend(f"runs/{number}/config.json is not a record of a run" for number in range(40))
    page = write_page(found, tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, height in ((390, 844), (1280, 800)):
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                tab = context.new_page()
                errors = []
                tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                tab.goto(page.as_uri())
                tab.wait_for_function("Bokeh.documents.length > 0")
                top = tab.evaluate("document.querySelector('#part0 tbody').getBoundingClientRect().top")
                assert top < height
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                assert errors == []
        browser.close()


def test_different_recipes_do_not_share_a_chart(runs):
    folders = read_folders([runs / "ste-0", runs / "bayesbinn-1"])
    sections = make_sections(Folders([*folders.runs, synthetic("m")], [], [], []))
    recipes = ["Recipe digits", "Recipe mnist"]
    assert [s.title for s in sections] == ["Results", "Runs", *recipes, "Configuration and environment"]
    charts = {s.title: next(c for c in s.charts if c.title == "Test accuracy") for s in sections[2:4]}
    assert [row[0] for row in charts["Recipe digits"].table.rows] == ["ste-0", "bayesbinn-1"]
    assert [row[0] for row in charts["Recipe mnist"].table.rows] == ["m"]


def unfinished(folder):
    (folder / "summary.json").unlink()
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text[: text.rindex("{") + 30])  # the last line is being written
    for path in folder.iterdir():
        os.utime(path, (1000, 1000))


def test_a_run_that_is_going_and_one_that_has_stopped(mine, tmp_path):
    unfinished(mine / "ste-0")
    going = read_folders([mine], now=1010.0)
    run = next(run for run in going.runs if run.name == "ste-0")
    assert (run.state, run.status, len(run.history)) == ("going", "in progress, 1 of 2 epochs", 1)
    assert going.notes == []
    page = Page(write_page(going, tmp_path / "report.html"))
    assert "in progress, 1 of 2 epochs" in page.words("td")
    assert any("1 in progress" in text for text in page.words("p"))
    results = next(t for s in make_sections(going) for t in s.tables if t.title == "digits: test data")
    assert [row[0] for row in results.rows] == ["bayesbinn:straight-through"]
    stopped = read_folders([mine / "ste-0"], now=1000.0 + 7200).runs[0]
    assert stopped.state == "stopped"
    assert stopped.status == "stopped after 1 of 2 epochs, silent for 2 hours; continue it with --resume"


def test_a_run_that_has_failed(tmp_path):
    """It is not shown as going, however new it is; continued, it is as if nothing had happened."""

    class Fails(SilentProgress):
        error = BaseException()

        def step(self, epoch, step):
            if (epoch, step) == (2, 3):
                raise self.error

    config = make_config("digits", "ste", epochs=2, out=str(tmp_path / "run"))
    for error, status in (
        (RuntimeError("a device is lost\nand more"), "stopped after 1 of 2 epochs: a device is lost"),
        (KeyboardInterrupt(), "stopped after 1 of 2 epochs: interrupted"),
    ):
        Fails.error = error
        with pytest.raises(type(error)):
            run_recipe(config, progress=Fails())
        run = read_folders([tmp_path / "run"]).runs[0]
        assert (run.state, run.status) == ("stopped", status)
        page = Page(write_page(read_folders([tmp_path / "run"]), tmp_path / "report.html"))
        assert status in page.words("td") and any("1 stopped before the end" in text for text in page.words("p"))
    run_recipe(config, resume=True, progress=SilentProgress())
    assert read_folders([tmp_path / "run"]).runs[0].state == "finished"
    assert not (tmp_path / "run/failure.json").exists()


def test_a_run_without_an_epoch(mine, tmp_path):
    unfinished(mine / "ste-0")
    (mine / "ste-0/metrics.jsonl").write_text("")
    os.utime(mine / "ste-0/metrics.jsonl", (1000, 1000))
    found = read_folders([mine / "ste-0"], now=1010.0)
    assert found.runs[0].status == "in progress, no epoch finished"
    later = read_folders([mine / "ste-0"], now=1000.0 + 7200).runs[0].status
    assert later.startswith("stopped before the end of the first epoch, silent for 2 hours")
    assert Page(write_page(found, tmp_path / "report.html")).all("figure") == []


def test_a_stream_that_is_going(mine):
    stream = mine / "stream"
    summary = json.loads((stream / "summary.json").read_text())
    summary["matrix"].pop()
    (stream / "summary.json").write_text(json.dumps(summary))
    unfinished(stream / "task2")
    found = read_folders([stream], now=1010.0).streams[0]
    assert found.status == "1 task learned; task 2 in progress, no epoch finished"
    (stream / "summary.json").unlink()
    first = read_folders([stream])
    assert first.streams[0].status.startswith("0 tasks learned; task 1 finished")
    assert "Accuracy matrix: stream" not in titles(first)


@pytest.mark.parametrize(
    ("name", "content", "note", "lost"),
    [
        ("config.json", "{", "config.json is not a record of a run", "run"),
        ("config.json", "[]", "config.json is not a record of a run", "run"),
        ("config.json", '{"recipe": "digits"}', "config.json is not a record of a run", "run"),
        (
            "metrics.jsonl",
            '{"epoch": 1, "test_accuracy": 9.0}\nbroken\n7\n',
            "lines 2, 3 cannot be read and are left out",
            "line",
        ),
        ("summary.json", "\x00", "summary.json is damaged", "summary"),
        ("summary.json", "[1]", "summary.json is damaged: it holds no JSON object", "summary"),
        ("posterior.safetensors", "nothing", "posterior.safetensors is not a saved posterior", "weights"),
        ("evaluation.json", "{'", "evaluation.json is damaged", "evaluation"),
    ],
)
def test_damaged_files(mine, name, content, note, lost):
    (mine / "bayesbinn-0" / name).write_text(content)
    found = read_folders([mine])
    assert len(found.notes) == 1
    assert note in found.notes[0]
    assert str(mine / "bayesbinn-0") in found.notes[0]
    kept = {run.name: run for run in found.runs}
    assert set(kept) == {"bayesbinn-0", "bayesbinn-1", "ste-0"} - ({"bayesbinn-0"} if lost == "run" else set())
    if lost != "run":
        run = kept["bayesbinn-0"]
        assert len(run.history) == (1 if lost == "line" else 2)
        assert bool(run.summary) == (lost != "summary")
        assert bool(run.weights) == (lost != "weights")
    make_sections(found)  # with what is left


def test_values_that_are_no_numbers(mine, tmp_path):
    rows = [{"epoch": 1, "test_accuracy": "high", "train_loss": None, "flips": True}, {"train_loss": 1.0}]
    rows[0]["probabilities"], rows[1]["probabilities"] = [0] * 20, ["all"] * 20
    (mine / "ste-0/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"epochs_done": 2, "test_accuracy": {"a": 1}, "bytes_32_bit": "many"}
    (mine / "ste-0/summary.json").write_text(json.dumps(summary))
    (mine / "ste-0/evaluation.json").write_text(
        '{"mode": {"ece": "low"}, "reliability": {"mode": [1], "mean": {"mass": 3}}}'
    )
    (mine / "stream/summary.json").write_text('{"matrix": [[1.0, 2.0]]}')
    found = read_folders([mine / "ste-0", mine / "stream"])
    assert found.runs[0].history == [{"epoch": 1}] and found.runs[0].beliefs == []
    assert "no matrix of accuracies" in found.notes[0]
    write_page(found, tmp_path / "report.html")


def test_a_chart_in_which_nothing_would_be_drawn_is_left_out():
    one, other = (synthetic(name, rows=1, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    chart = "Sign flip rate of one step"
    for flips, drawn in ((0.0, False), (1e-6, True)):
        one.history[0]["step_flips"], other.history[0]["step_flips"] = 0.0, flips
        assert (chart in titles(Folders([one, other], [], [], []))) is drawn


def test_folders_without_runs(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"nothing to show: \S+empty is empty$"):
        read_folders([tmp_path / "empty"])
    with pytest.raises(ValueError, match="does not exist"):
        read_folders([runs / "ste-0", tmp_path / "absent"])
    with pytest.raises(ValueError, match="no folder was named"):
        read_folders([])
    others = [tmp_path / "empty", tmp_path / "texts", tmp_path / "texts/a.txt"]
    found = read_folders([*others, runs / "ste-0", runs / "ste-0"])
    assert len(found.runs) == 1
    words = ("is empty", "is not the folder of a run: it has no config.json", "is a file, not the folder of a run")
    assert all(word in note for word, note in zip(words, found.notes, strict=True))


def test_runs_one_folder_deeper_are_named(tmp_path, runs):
    """They are not shown, because a folder of trials may hold hundreds of them."""
    shutil.copytree(runs / "ste-0", tmp_path / "all" / "single")
    for seed in (0, 1):
        shutil.copytree(runs / "ste-0", tmp_path / "all" / "seeds" / f"seed{seed}")
    found = read_folders([tmp_path / "all"])
    assert [run.name for run in found.runs] == ["single"]
    assert found.notes == [f"{tmp_path / 'all' / 'seeds'} holds runs; name it to see these"]
    shutil.rmtree(tmp_path / "all" / "single")
    with pytest.raises(ValueError, match=r"nothing to show: \S+seeds holds runs; name it to see these$"):
        read_folders([tmp_path / "all"])
    with pytest.raises(ValueError, match=r"has no config.json; name the folder of a run in it: seed0, seed1$"):
        load_run(tmp_path / "all" / "seeds")


def test_names_tell_runs_apart(tmp_path, runs):
    copy = Path(shutil.copytree(runs / "ste-0", tmp_path / "other" / "ste-0"))
    found = read_folders([runs / "ste-0", copy, runs / "bayesbinn-0"])
    assert [run.name for run in found.runs] == [f"{runs.name}/ste-0", "other/ste-0", "bayesbinn-0"]


def test_special_characters_stay_text(mine, tmp_path, page):
    name = "<img src=x onerror=alert(1)>&\"'<!--c1-0--><b>$$x$$"
    folder = (mine / "ste-0").rename(mine / name)
    config = json.loads((folder / "config.json").read_text())
    config["recipe"] = "</script><script>alert(1)</script>"
    config["options"] = {"</table><h1>": "</script>"}
    (folder / "config.json").write_text(json.dumps(config))
    path = write_page(read_folders([mine]), tmp_path / "report.html", title="<i>title</i>")
    found = Page(path)
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in page.tags}
    assert len(found.all("script")) == len(page.all("script"))
    assert name in found.words("th")
    assert "<i>title</i>" in found.words("h1")
    assert "Recipe </script><script>alert(1)</script>" in found.words("h2")


def test_reliability_and_calibration(mine):
    """The diagrams need points that older evaluations lack; figures are shown without them."""
    evaluation = {"samples": 8, "mode": {"ece": 0.25, "nll": 1.0}, "mean": {"ece": 0.125}}
    path = mine / "bayesbinn-0/evaluation.json"
    path.write_text(json.dumps(evaluation))
    section = next(s for s in make_sections(read_folders([mine])) if s.title == "Recipe digits")
    assert not any("Reliability" in chart.title for chart in section.charts)
    table = next(table for table in section.tables if table.title == "Calibration on test data")
    assert [row[1] for row in table.rows] == ["mode", "mean of 8"]
    assert table.rows[1][table.heads.index("ECE")] == "0.1250"
    evaluate_run(mine / "bayesbinn-0", samples=4)  # writes it anew
    section = next(s for s in make_sections(read_folders([mine])) if s.title == "Recipe digits")
    shown = {chart.title: chart.table.rows for chart in section.charts if "Reliability" in chart.title}
    run = load_run(mine / "bayesbinn-0")
    x, y = whole(run.experiment.data.test)
    for bins in ("mass", "width"):
        points = reliability(run.predict(x).probs, y, bins=bins)
        rows = [row for row in shown[f"Reliability diagram, bins of equal {bins}"] if row[1] == "mode"]
        assert [row[2] for row in rows] == [f"{value:.3f}" for value in points.confidence.tolist()]
        assert sum(float(row[4]) for row in shown[f"Reliability diagram, bins of equal {bins}"]) == pytest.approx(
            2, abs=0.02
        )


def test_detection_of_other_data(mine):
    """A row for every score that was measured, and no table without one."""
    titles = [table.title for section in make_sections(read_folders([mine])) for table in section.tables]
    assert "Detection of out-of-distribution data" not in titles
    figures = {"auroc_unlike": 0.75, "fpr95_unlike": 0.5, "auroc_unlike_energy": 0.875, "fpr95_unlike_energy": 0.25}
    found = {"samples": 8, "mode": figures, "mean": figures}

    def table(title):
        section = next(s for s in make_sections(read_folders([mine])) if s.title == "Recipe digits")
        return next(table for table in section.tables if table.title == title)

    (mine / "bayesbinn-0/evaluation.json").write_text(json.dumps(found))
    assert [row[1:] for row in table("Detection of out-of-distribution data").rows] == [
        [kind, *row]
        for kind in ("mode", "mean of 8")
        for row in (["entropy", "0.750", "0.500"], ["energy", "0.875", "0.250"])
    ]
    for seed, about in (("0", {"unlike": "letters"}), ("1", {"unlike": "fashion-mnist", "views": "mirror"})):
        (mine / f"bayesbinn-{seed}/evaluation.json").write_text(json.dumps(found | about))
    rows = [row[1:4] for row in table("Detection of out-of-distribution data").rows[::4]]
    assert rows == [["mode, views mirror", "fashion-mnist", "entropy"], ["mode", "letters", "entropy"]]
    figures = table("Calibration on test data")
    place = figures.heads.index("out-of-distribution data")
    assert [row[place] for row in figures.rows] == ["fashion-mnist"] * 2 + ["letters"] * 2, "other data, other rows"


def test_weight_probabilities_are_those_of_the_posterior(runs):
    run = read_folders([runs / "bayesbinn-0"]).runs[0]
    posterior = bb.BernoulliPosterior.load(runs / "bayesbinn-0/posterior.safetensors")
    every = torch.cat([p.reshape(-1) for p in posterior.probabilities().values()])
    assert sum(run.weights) == pytest.approx(100)
    assert sum(run.weights[:5]) == pytest.approx(100 * float((every < 0.1).double().mean()), abs=0.02)


def test_trust_of_a_folder_of_runs(mine):
    figures = {"ece": {"mean": 0.2, "std": 0.1, "values": [0.1, 0.3]}}
    row = {"rule": "ste", "kind": "ensemble", "networks": 5, "bytes": 1000, "figures": figures}
    (mine / "trust.json").write_text(json.dumps({"rows": [row, {"rule": "damaged"}]}))
    section = make_sections(read_folders([mine]))[0]
    table = next(table for table in section.tables if table.title.startswith("How far probabilities can be trusted"))
    assert table.rows == [["ste", "ensemble", "5", "1,000", "0.2000 ± 0.1414"]]


def test_command(mine, tmp_path, capsys):
    (mine / "ste-0/summary.json").write_text("{")
    words = [str(mine), "-o", str(tmp_path / "report.html"), "--title", "Digits"]
    tyro.cli(Report, args=words).run()
    captured = capsys.readouterr()
    assert captured.out == f"written: {tmp_path}/report.html\n"
    assert len(captured.err.splitlines()) == 1
    page = Page(tmp_path / "report.html")
    for shown in (captured.err, "".join(page.words("li"))):
        assert "summary.json is damaged" in shown
    assert "Digits" in page.words("h1")


@pytest.mark.parametrize("module", ["bokeh", "jinja2"])
def test_without_the_extra(runs, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install .*\[report\]"):
        Report((str(runs),)).run()
