"""Recipes that users write: the template, pictures in folders and tables, the copy in a run's folder, and errors."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bitbayes.lab import cli
from bitbayes.lab.data import from_arrays, load_mnist, load_pictures
from bitbayes.lab.data.pictures import labelled_pictures
from bitbayes.lab.recipes import STARTING_RULES, file, make_config, open_recipe, recipe_of_run, run_recipe, trusted
from bitbayes.lab.recipes.source import digest
from bitbayes.lab.studies import several
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RULES, RuleName, RunConfig, SilentProgress
from bitbayes.packed import PackedNetwork
from generated import encoded

SMALL = """
import torch
from torch import nn
from bitbayes.lab.data import from_arrays
from bitbayes.lab.recipes import Recipe

def load(where, device, seed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    return from_arrays(x, (x[:, 0] > 0).long(), classes=2, device=device, seed=seed)

def network():
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

recipe = Recipe(load=load, network=network, epochs=2, batch_size=20, predict_samples=2)
"""


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """An account that has not run any recipe file, in an empty folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file, "_OPENED", {})


def another_account(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("elsewhere").absolute()))
    file._OPENED.clear()


def written(text=SMALL, name="mine.py"):
    Path(name).write_text(text)
    return name


def train(*words):
    return cli.main(["train", "mine.py", "--rule", "ste", "--out", "run", *words])


def complaint(capsys, *words):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert cli.main(list(words)) in (1, 2)
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and "Traceback" not in errors
    return errors


def pictures(folder, classes=("cat", "dog"), count=10, size=8, mode="L", suffix="png"):
    generator = np.random.default_rng(0)
    for index, name in enumerate(classes):
        place = Path(folder, name)
        place.mkdir(parents=True)
        for number in range(count):
            shape = (size, size) if mode == "L" else (size, size, 3)
            array = generator.integers(0, 100, shape, dtype=np.uint8) + 100 * index
            Image.fromarray(array.astype(np.uint8)).save(place / f"{number}.{suffix}")
    return str(folder)


# From the template to a packed network. -----------------------------------------------------------------------------


def test_the_template_runs_as_it_is_and_is_not_overwritten(capsys):
    assert cli.main(["new", "mine.py"]) == 0
    assert "bitbayes train mine.py --data FOLDER" in capsys.readouterr().out
    text = Path("mine.py").read_text()
    assert "bitbayes train mine.py --rule ste" in text and "FILE" not in text
    assert "exists already" in complaint(capsys, "new", "mine.py") and Path("mine.py").read_text() == text
    assert "ends in .py" in complaint(capsys, "new", "mine")
    assert train("--epochs", "1") == 0
    assert json.loads(Path("run/summary.json").read_text())["test_accuracy"] > 60
    assert RunConfig.load("run").recipe == "mine"


def test_pictures_are_trained_on_evaluated_packed_and_answered_by_their_names(capsys):
    pictures("photos", classes=("cat", "dog", "cow"))
    cli.main(["new", "mine.py"])
    assert cli.main(["train", "mine.py", "--data", "photos", "--epochs", "1", "--out", "run"]) == 0
    assert "22 training, 2 validation" not in capsys.readouterr().out
    assert cli.main(["evaluate", "run", "--samples", "2"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    inputs = PackedNetwork.read("net.safetensors").inputs
    assert inputs.classes == ("cat", "cow", "dog") and inputs.shape == (1, 8, 8)
    capsys.readouterr()
    assert cli.main(["run", "net.safetensors", "photos/dog/0.png"]) == 0
    path, name, *_ = capsys.readouterr().out.split("\t")
    assert path == "photos/dog/0.png" and name in inputs.classes
    assert cli.main(["run", "net.safetensors", "--data", "photos"]) == 0
    inputs = "inputs: the 20% of photos that load_pictures holds out by default (seed 0)\n"
    assert capsys.readouterr().out.startswith(f"6 inputs, 1 network\n{inputs}accuracy ")
    assert "--data FOLDER" in complaint(capsys, "run", "net.safetensors")
    pictures("others", classes=("cat", "fox"), count=2)
    assert "class fox, but the network knows cat, cow, dog" in complaint(
        capsys, "run", "net.safetensors", "--data", "others"
    )


def test_other_commands_take_the_file(capsys):
    written()
    assert cli.main(["tune", "mine.py", "--rule", "ste", "--trials", "1", "--out", "tune"]) == 0
    assert "bitbayes train mine.py --rule ste" in capsys.readouterr().out
    assert json.loads(Path("tune/tune.json").read_text())["recipe"] == "mine"
    assert train("--seeds", "2") == 0
    assert RunConfig.load("run/seed1").seed == 1
    words = ["reproduce", "small", "--dataset", "mine.py", "--rules", "ste", "--seeds", "1", "--out", "table"]
    assert cli.main(words) == 0
    assert cli.main(["recipes"]) == 0
    assert "bitbayes new my_recipe.py" in capsys.readouterr().out


def test_every_rule_has_settings_to_begin_with():
    assert {RuleName.parse(name).rule for name in STARTING_RULES} == set(RULES)
    recipe = open_recipe(written())
    for name in STARTING_RULES:
        assert make_config(recipe, name).spec == STARTING_RULES[name]


# Pictures. ----------------------------------------------------------------------------------------------------------


def test_a_share_of_every_class_is_held_out_for_testing_whatever_the_seed():
    pictures("photos", count=20)
    one, other = (load_pictures("photos", seed=seed) for seed in (0, 1))
    assert [len(part) for part in (one.train, one.validation, one.test)] == [28, 4, 8]
    assert torch.equal(one.test.x, other.test.x) and not torch.equal(one.validation.x, other.validation.x)
    assert one.test.y.bincount().tolist() == [4, 4] and one.validation.y.bincount().tolist() == [2, 2]
    assert "20% were held out for testing (seed 0)" in one.described()


def test_folders_of_splits_are_used_as_they_are():
    pictures("data/train")
    pictures("data/test", count=3)
    data = load_pictures("data")
    assert len(data.test) == 6 and len(data.train) == 18 and len(data.validation) == 2 and data.source == "data"
    pictures("data/val", count=4)
    assert len(load_pictures("data").validation) == 8 and len(load_pictures("data").train) == 20
    shutil.rmtree("data/test")
    assert len(load_pictures("data").test) == 8


def test_a_packed_network_is_scored_on_the_pictures_that_were_held_out():
    pictures("photos")
    data = load_pictures("photos")
    x, y, which = labelled_pictures("photos", data.inputs)
    assert np.array_equal(x, data.inputs.normalised(data.test.x.numpy())) and np.array_equal(y, data.test.y.numpy())
    assert data.source == "photos, of which 20% were held out for testing (seed 0)"
    assert which == "the 20% of photos that load_pictures holds out by default (seed 0)"
    pictures("data/train")
    pictures("data/test", count=3)
    assert len(labelled_pictures("data", data.inputs)[0]) == 6
    pictures("few", count=2)
    with pytest.raises(ValueError, match=r"0.2 of 4 pictures of each class is none"):
        labelled_pictures("few", data.inputs)


def test_at_least_one_picture_of_each_class_is_left_for_training():
    pictures("photos", count=2)
    assert load_pictures("photos", test=0.8, validation=0.0).train.y.tolist() == [0, 1]


def test_pixels_are_those_that_a_packed_network_gets():
    pictures("photos", mode="RGB", size=9, suffix="jpg", count=5)
    data = load_pictures("photos", size=(6, 8), validation=0.0, test=0.5)
    assert data.train.x.shape[1:] == (3, 6, 8) and data.inputs.colour == "rgb"
    x = data.train.x.double() / 255
    assert torch.allclose(torch.tensor(data.inputs.mean).double(), x.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(torch.tensor(data.inputs.std).double(), x.std((0, 2, 3), correction=0), atol=1e-4)
    assert load_pictures("photos", colour="grey").train.x.shape[1:] == (1, 9, 9)


def saved(folder, labels, features=None):
    rows = {"picture": [encoded(np.full((8, 8), 20 * i, np.uint8)) for i in range(len(labels))], "label": labels}
    table = datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())
    return table if features is None else table.cast_column("label", features)


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_tables_of_datasets_are_read(kind):
    names = datasets.ClassLabel(names=["cat", "dog"])
    tables = {"train": saved("data", [0, 1] * 5, names), "test": saved("data", [1, 0, 1], names)}
    if kind == "saved":
        datasets.DatasetDict(tables).save_to_disk("data")
    else:
        for split, table in tables.items():
            table.to_parquet(f"data/{split}-00000-of-00001.parquet")
    data = load_pictures("data")
    assert data.inputs.classes == ("cat", "dog") and data.test.y.tolist() == [1, 0, 1] and data.classes == 2
    assert data.test.x[2].unique().tolist() == [40]


def test_names_of_folders_are_no_patterns():
    saved("data", [0, 1] * 5).to_parquet("my[data]/train-0.parquet")
    assert load_pictures("my[data]").classes == 2


def test_hub_ids_never_stand_for_a_local_folder(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("loaded"))
    pictures("own/pics")
    for load in (load_pictures, load_mnist):
        with pytest.raises(ValueError, match="would be read from the folder own/pics here"):
            load("hub:own/pics")
        with pytest.raises(ValueError, match="is no data set on the hub; give hub:OWNER/NAME"):
            load("hub:../own/pics")


def test_labels_may_be_words_or_bare_numbers():
    saved("data", ["dog", "cat"] * 5).to_parquet("words/train-0.parquet")
    saved("data", [0, 2] * 5).to_parquet("numbers/train-0.parquet")
    assert load_pictures("words").inputs.classes == ("cat", "dog")
    assert load_pictures("numbers").classes == 3


def test_hub_ids_go_to_the_hub_and_say_so_without_a_network(monkeypatch, capsys):
    asked = []

    def load_dataset(name, **options):
        asked.append(name)
        if name == "me/offline":
            raise ConnectionError("Couldn't reach 'me/offline' on the Hub")
        return datasets.DatasetDict(train=saved("data", [0, 1] * 5), test=saved("data", [1, 0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_pictures("hub:me/cats").test) == 2
    cli.main(["new", "mine.py"])
    line = complaint(capsys, "train", "mine.py", "--data", "hub:me/offline")
    assert "Couldn't reach" in line and "without a network, give a folder" in line
    with pytest.raises(ValueError, match="without a network"):
        load_mnist("hub:me/offline")
    assert asked == ["me/cats", "me/offline", "me/offline"]


def test_folders_that_hold_no_classes_are_refused_in_one_line(capsys):
    cli.main(["new", "mine.py"])
    pictures("one", classes=("cat",))
    pictures("deep/inside")
    pictures("uneven/train")
    pictures("uneven/test", classes=("cat", "cow"))
    pictures("sizes")
    Image.new("L", (5, 7)).save("sizes/dog/x.png")
    pictures("formats")
    Path("formats/dog/x.webp").touch()
    pictures("empty")
    Path("empty/fox").mkdir()
    pictures("broken")
    Path("broken/cat/0.png").write_bytes(b"no picture")
    for folder, expected in {
        "nowhere": "nowhere does not exist; the nearest that exists is",
        "mine.py": "mine.py is no folder",
        "one": "one has one class, cat; expected two or more: FOLDER/CLASS/*.png",
        "deep": "its classes seem to be in deep/inside, so give that one",
        "uneven": "uneven/train and uneven/test have different classes: cow, dog in only one of them",
        "formats": "formats/dog/x.webp is neither PNG nor JPEG; convert it",
        "sizes": "x.png has 5 by 7; choose one with load_pictures(..., size=8)",
        "empty": "empty/fox has no pictures (.png, .jpg, .jpeg)",
        "broken": "broken/cat/0.png cannot be read: it is no PNG or JPEG picture",
    }.items():
        line = complaint(capsys, "train", "mine.py", "--data", folder, "--epochs", "1").replace(" pixels", "")
        assert expected in line, line


# Arrays. ------------------------------------------------------------------------------------------------------------


def test_arrays_are_normalised_by_their_training_part():
    x = np.random.default_rng(0).integers(0, 256, (50, 6, 5), dtype=np.uint8)
    data = from_arrays(x, np.arange(50) % 2, (x[:4], np.zeros(4, int)), classes=("a", "b"))
    inputs = data.train.inputs(torch.arange(len(data.train)))
    assert inputs.shape == (45, 1, 6, 5) and len(data.test) == 4
    assert abs(float(inputs.mean())) < 1e-5 and abs(float(inputs.std(correction=0)) - 1) < 1e-5
    assert np.allclose(data.inputs.normalised(data.train.x[:3].numpy()), inputs[:3].numpy(), atol=1e-6)
    regression = from_arrays(np.random.default_rng(0).normal(size=(30, 3)), np.linspace(0, 1, 30))
    assert regression.classes == 0 and regression.train.y.shape[1:] == (1,)


def test_classes_that_begin_at_one_are_noticed():
    x, y = np.random.default_rng(0).random((50, 3)), np.arange(50) % 3 + 1
    with pytest.warns(
        UserWarning, match="no example has a class below 1, but classes are numbered from 0, so that 4 are"
    ):
        assert from_arrays(x, y).classes == 4
    assert from_arrays(x, y, classes=4).classes == 4, "a user who counts them is not warned"


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (np.zeros((4, 2)), [0, 1, 2], "x has 4 examples and y has 3"),
        (np.zeros((4, 2)), [0, 1, 2, 7], "y has classes from 0 to 7; expected 0 to 1, for 2 classes"),
        (np.zeros((4, 2)), [0, 1, -1, 1], "y has classes from -1 to 1"),
        (np.zeros((4, 2)), [[0], [1], [0], [1]], "y has shape (4, 1); expected one class for each example"),
        (np.zeros((4, 2)), [0.0, 1.0, 0.0, 1.0], "y is of type torch.float32, for a regression"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "x has numbers that are not finite"),
        (np.full((4, 1, 2, 2), 255.0), [0, 1, 0, 1], "x has numbers from 255 to 255; expected images of uint8"),
        (np.zeros((4, 2, 2, 2)), [0, 1, 0, 1], "x has shape (4, 2, 2, 2); expected images (N, C, H, W)"),
        (["a", "b", "c", "d"], [0, 1, 0, 1], "x is of type list; expected numbers"),
    ],
    ids=range(9),
)
def test_arrays_that_cannot_be_used_are_refused(x, y, expected):
    with pytest.raises(ValueError) as error:
        from_arrays(x, np.array(y), classes=2)
    assert expected in str(error.value)


def test_numbers_and_names_of_classes_may_be_of_numpy():
    x, y = np.zeros((10, 2)), np.arange(10) % 2
    for classes in (y.max() + 1, torch.tensor(2), np.array(["a", "b"])):
        assert from_arrays(x, y, classes=classes).classes == 2
    for classes in ([], "ab", 2.0, torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="expected the number of classes, or a sequence of their names"):
            from_arrays(x, y, classes=classes)


def test_test_targets_have_the_shape_of_those_for_training():
    with pytest.raises(ValueError, match=r"\(\(2,\) and \(2,\), .* got \(2,\) and \(3,\)"):
        from_arrays(np.zeros((10, 2)), np.zeros((10, 2)), (np.zeros((4, 2)), np.zeros((4, 3))))


# The copy in the folder of a run. -----------------------------------------------------------------------------------


def test_a_run_keeps_its_recipe_and_is_loaded_by_it_after_a_change(capsys):
    written()
    assert train() == 0
    config = RunConfig.load("run")
    assert config.recipe_file == "mine.py"
    assert config.recipe_sha256 == digest("mine.py", {"mine.py": SMALL.encode()})
    assert Path("run/recipe/mine.py").read_text() == SMALL
    written(SMALL.replace("nn.Linear(4, 8, bias=False)", "nn.Linear(4, 9, bias=False)").replace("(8", "(9"))
    assert cli.main(["evaluate", "run", "--samples", "2"]) == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    Path("mine.py").unlink()
    assert load_run("run").experiment.model[0].out_features == 8


def test_resume_refuses_a_changed_file_and_names_both_ways_on(capsys):
    written()
    assert train("--stop-after", "1") == 0
    assert train("--resume") == 0
    written(SMALL + "\n# changed\n")
    line = complaint(capsys, "train", "mine.py", "--rule", "ste", "--out", "run", "--resume")
    assert "mine.py has changed since run began" in line
    assert "run/recipe/mine.py in its place" in line and "another --out" in line
    words = ["train", "run/recipe/mine.py", "--rule", "ste", "--out", "run", "--resume"]
    assert cli.main(words) == 0
    assert Path("run/recipe/mine.py").read_text() == SMALL


def test_modules_beside_the_file_are_part_of_the_recipe(capsys):
    text = SMALL.replace("nn.Linear(8, 2)", "last()").replace(
        "import torch\n", "import torch\nfrom layers import last\n"
    )
    for folder, width in (("one", 2), ("other", 3)):
        Path(folder).mkdir()
        written(f"from parts.all import nn\ndef last():\n    return nn.Linear(8, {width})\n", f"{folder}/layers.py")
        Path(folder, "parts").mkdir()
        written("", f"{folder}/parts/__init__.py")
        written("from torch import nn\n", f"{folder}/parts/all.py")
        written(text, f"{folder}/mine.py")
    assert cli.main(["train", "one/mine.py", "--rule", "ste", "--out", "run"]) == 0
    assert sorted(str(path) for path in Path("run/recipe").rglob("*.py")) == [
        *("run/recipe/layers.py", "run/recipe/mine.py", "run/recipe/parts/__init__.py", "run/recipe/parts/all.py")
    ]
    assert not list(Path().rglob("__pycache__"))
    line = complaint(capsys, "train", "other/mine.py", "--rule", "ste")  # its own layers.py, of the same name
    assert "outputs of shape (N, 3)" in line and "expected (N, 2), for 2 classes" in line
    written("raise AssertionError", "one/layers.py")
    assert load_run("run").experiment.model[3].out_features == 2
    Path("run/recipe/json.py").write_text("raise AssertionError")
    assert "is not the program that run was trained by" in complaint(capsys, "evaluate", "run")


def test_a_program_of_somebody_else_runs_only_when_it_is_trusted(capsys, monkeypatch):
    written(SMALL + "\nopen('ran', 'w').close()\n")
    assert train() == 0
    Path("ran").unlink()
    another_account(monkeypatch)
    for words in (["evaluate", "run"], ["pack", "run", "-o", "net.safetensors"]):
        line = complaint(capsys, *words)
        assert "run/recipe/mine.py, a program that this account has not run before" in line and "--trust" in line
    assert cli.main(["report", "run", "-o", "page.html"]) == 0
    assert "mine" in Path("page.html").read_text() and not Path("ran").exists()
    assert cli.main(["evaluate", "run", "--trust", "--samples", "2"]) == 0
    assert Path("ran").exists()
    file._OPENED.clear()
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0  # as it is trusted from now on
    Path("run/recipe/mine.py").write_text("open('harm', 'w').close()")
    assert "is not the program" in complaint(capsys, "evaluate", "run", "--trust")
    config = json.loads(Path("run/config.json").read_text())
    config["recipe_sha256"] = digest("mine.py", {"mine.py": b"open('harm', 'w').close()"})
    Path("run/config.json").write_text(json.dumps(config))
    assert "has not run before" in complaint(capsys, "evaluate", "run")
    del config["recipe_file"]
    Path("run/config.json").write_text(json.dumps(config | {"recipe": "run/recipe/mine.py"}))
    assert "no recipe is called" in complaint(capsys, "evaluate", "run", "--trust")
    assert not Path("harm").exists()


def test_a_known_program_does_not_take_files_from_the_folder_of_a_stranger(capsys, monkeypatch):
    """A record names the place of the file, and a known program may run what is there."""
    loads = "import pathlib\nexec((pathlib.Path(__file__).parent / 'more').read_text())\n"
    Path("own").mkdir()
    Path("own/more").write_text("width = 8")
    written(loads, "own/helper.py")
    written("import helper\n" + loads + SMALL, "own/mine.py")
    assert cli.main(["train", "own/mine.py", "--rule", "ste", "--out", "run"]) == 0
    Path("elsewhere").mkdir()
    shutil.copytree("run", "elsewhere/run")
    record = json.loads(Path("elsewhere/run/config.json").read_text())
    record["recipe_file"] = str(Path("elsewhere/run/mine.py").absolute())
    Path("elsewhere/run/config.json").write_text(json.dumps(record))
    for place in ("elsewhere/run", "elsewhere/run/recipe"):
        Path(place, "more").write_text("open('harm', 'w').close()")
    file._OPENED.clear()
    assert cli.main(["evaluate", "elsewhere/run", "--samples", "2"]) == 0
    assert not Path("harm").exists()
    another_account(monkeypatch)  # to which the copy itself is all that there is
    assert cli.main(["evaluate", "elsewhere/run", "--samples", "2", "--trust"]) == 0
    assert Path("harm").exists()


def test_modules_that_would_be_no_part_of_the_recipe_are_refused(capsys):
    Path("lib").mkdir()
    Path("mine").mkdir()
    written("", "lib/mylayers.py")
    written("import sys\nsys.path.insert(0, 'lib')\nimport mylayers\n" + SMALL, "mine/mine.py")
    before = list(sys.path)
    line = complaint(capsys, "train", "mine/mine.py", "--rule", "ste")
    assert "mine.py, line 3" in line and "put mylayers beside the recipe file, or install it" in line
    assert sys.path == before and "mylayers" not in sys.modules
    Path("mine/parts").mkdir()
    written("", "mine/parts/all.py")
    written("import parts.all\n" + SMALL, "mine/mine.py")
    assert "add an empty parts/__init__.py" in complaint(capsys, "train", "mine/mine.py", "--rule", "ste")


def test_modules_that_a_notebook_has_imported_are_part_of_the_recipe(monkeypatch):
    written("value = 1", "helper.py")
    written("value = 2", "bystander.py")
    written("import helper\n" + SMALL)
    monkeypatch.syspath_prepend(str(Path().absolute()))
    bystander, helper = importlib.import_module("bystander"), importlib.import_module("helper")
    try:
        assert sorted(open_recipe("mine.py").file.files) == ["helper.py", "mine.py"]
        assert sys.modules["bystander"] is bystander and sys.modules["helper"] is not helper
    finally:
        del sys.modules["bystander"], sys.modules["helper"]


def test_all_files_of_a_copy_are_remembered_whichever_are_imported(monkeypatch):
    written("import os\nif os.environ.get('MORE'): import helper\n" + SMALL)
    written("", "helper.py")
    monkeypatch.setenv("MORE", "1")
    assert train() == 0
    monkeypatch.delenv("MORE")
    another_account(monkeypatch)
    assert cli.main(["evaluate", "run", "--samples", "2", "--trust"]) == 0
    file._OPENED.clear()
    found = recipe_of_run("run", RunConfig.load("run")).file
    assert found is not None and sorted(found.files) == ["helper.py", "mine.py"]


def test_digests_tell_programs_apart():
    content = {"a.py": b"1", "b.py": b"2"}
    lines = "".join(f"{hashlib.sha256(text).hexdigest()}  {name}\n" for name, text in content.items()).encode()
    programs = [("a.py", content), ("b.py", content), ("a.py", {"a.py": lines}), ("a.py", {"a.py": b"1"})]
    assert len({digest(main, files) for main, files in programs}) == 4


def test_files_that_are_not_of_the_run_are_neither_removed_nor_written(capsys):
    written()
    Path("recipe").mkdir()
    written("my = 'work'", "recipe/app.py")
    words = ["train", "mine.py", "--rule", "ste", "--epochs", "1", "--out", "."]
    before = sorted(Path().rglob("*.py"))
    assert "recipe/app.py is not of this run" in complaint(capsys, *words)
    assert sorted(Path().rglob("*.py")) == before and not Path("config.json").exists()
    Path("run").mkdir()
    Path("run/recipe").symlink_to(Path("recipe").absolute())
    assert "run/recipe is not of this run" in complaint(capsys, *words[:-1], "run")
    assert Path("recipe/app.py").read_text() == "my = 'work'" and len(list(Path("recipe").iterdir())) == 1
    shutil.rmtree("recipe")
    Path("recipe").mkdir()
    Path("recipe/mine.py").symlink_to(Path("mine.py").absolute())
    assert "recipe/mine.py is not of this run" in complaint(capsys, *words)
    Path("recipe/mine.py").unlink()
    written(name="recipe/mine.py")  # as it will be
    assert cli.main(words) == 0


def test_a_list_of_programs_that_others_may_write_is_not_believed(capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    assert trusted.store().is_relative_to(Path.home())
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("here").absolute()))
    written()
    assert train() == 0
    file._OPENED.clear()
    trusted.store().chmod(0o622)
    assert "recipes.sha256 is not yours alone" in complaint(capsys, "evaluate", "run")
    assert trusted.origin(RunConfig.load("run").recipe_sha256) is None
    trusted.store().chmod(0o600)
    assert trusted.origin(RunConfig.load("run").recipe_sha256) == Path("mine.py").absolute()


def test_packed_files_and_records_run_no_program(capsys):
    written()
    assert train() == 0
    assert cli.main(["pack", "run", "-o", "net.safetensors"]) == 0
    network = PackedNetwork.read("net.safetensors")
    network.program.about["recipe"] = "harm.py"
    network.save("net.safetensors")
    written("open('harm', 'w').close()", "harm.py")
    assert "harm.py" in complaint(capsys, "run", "net.safetensors")
    file._OPENED.clear()
    with pytest.raises(ValueError, match="is not the file that the run was described by"):
        run_recipe(RunConfig.load("run"), progress=SilentProgress())
    assert not Path("harm").exists()


def test_processes_of_their_own_run_the_program_that_was_opened():
    config = make_config(written(), "ste", out="run")
    program = open_recipe("mine.py").file
    written("open('harm', 'w').close()")
    file._OPENED.clear()  # as in a new process
    before = trusted.store().read_bytes()
    several._run(config, 1, program)
    assert Path("run/recipe/mine.py").read_text() == SMALL and Path("run/summary.json").is_file()
    assert not Path("harm").exists() and trusted.store().read_bytes() == before


@pytest.mark.slow
def test_runs_side_by_side():
    written()
    assert train("--seeds", "2", "--jobs", "2") == 0
    assert all(Path(f"run/seed{seed}/recipe/mine.py").is_file() for seed in (0, 1))


# Errors. ------------------------------------------------------------------------------------------------------------

WRONG = {
    "recipe = Recipe(load=load, ": ("recipe = Recipe(load=load, , ", "mine.py, line 15: SyntaxError: invalid syntax"),
    "import torch\n": (
        "import no_such_module\n",
        "mine.py, line 2: ModuleNotFoundError: No module named 'no_such_modu",
    ),
    "from torch import nn": ("import sys; sys.exit('no')", "mine.py, line 3: SystemExit: no, in: import sys; sys.exit"),
    "return nn.Seq": (
        "return nm.Seq",
        "mine.py, line 13: NameError: name 'nm' is not defined, in: return nm.Sequential(",
    ),
    "return nn.Sequential": ("nn.Sequential", "network of the Recipe returned nothing (is there a return?)"),
    "nn.Linear(4, 8": (
        "nn.Linear(5, 8",
        "the network does not take inputs of shape (N, 4): mat1 and mat2 shapes cannot",
    ),
    "nn.Linear(8, 2)": (
        "nn.Linear(8, 3)",
        "outputs of shape (N, 3) from inputs of shape (N, 4); expected (N, 2), for 2",
    ),
    "nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)": (
        "nn.BatchNorm1d(4)",
        "the network has no weights that can be binary",
    ),
    "return from_arrays": ("from_arrays", "load of the Recipe returned nothing (is there a return?)"),
    "(x[:, 0] > 0).long(), classes=2": ("x[:, 0]", "training targets have type torch.float32 and shape (44, 1)"),
    "classes=2": (
        "classes=1",
        "y has classes from 0 to 1; expected 0 to 0, for 1 classes (mine.py, line 10)",
    ),
    "recipe = Recipe(": ("small = Recipe(", "no Recipe called recipe; there are small: choose one with mine.py:small"),
    "recipe = Recipe(load": ("recipe = dict(load", "mine.py: recipe is a dict, expected a Recipe"),
    "Recipe(load=load": ("Recipe(name='mnist', load=load", "the name mnist is that of a recipe of this package"),
    "(load=load": ("(name='a/b', load=load", "name of the Recipe must be letters, digits"),
    "network=network": ("network=network()", "must be a function"),
    "epochs=2": ("epochs='2'", "epochs of the Recipe must be a whole number, got '2'"),
    "batch_size=20": ("rules={'stee': 1}", "no rule is called 'stee'; did you mean 'ste'?"),
    "batch_size=20, p": ("rules={'ste': 1e-2}, p", "rules['ste'] of the Recipe must be a RuleSpec, got 0.01"),
}


@pytest.mark.parametrize("right", WRONG)
def test_errors_of_a_recipe_are_one_line(capsys, right):
    wrong, expected = WRONG[right]
    assert SMALL.count(right) >= 1
    written(SMALL.replace(right, wrong, 1))
    line = complaint(capsys, "train", "mine.py", "--rule", "ste", "--out", "run")
    assert expected in line, line


def test_an_error_in_the_midst_of_training_names_its_line(capsys):
    layer = (
        "class Layer(nn.Module):\n    def forward(self, x):\n        assert not self.training, 'no'\n        return x\n"
    )
    written(SMALL.replace("def network", layer + "\ndef network").replace("nn.ReLU()", "Layer()"))
    line = complaint(capsys, "train", "mine.py", "--rule", "ste")
    assert "mine.py, line 14: AssertionError: no, in: assert not self.training, 'no'" in line


def test_an_error_in_the_forward_pass_names_its_line_and_the_inputs(capsys):
    layer = "class Layer(nn.Module):\n    def forward(self, x):\n        return x.view(-1, 3)\n"
    written(SMALL.replace("def network", layer + "\ndef network").replace("nn.ReLU()", "Layer()"))
    line = complaint(capsys, "train", "mine.py", "--rule", "ste")
    assert "the network does not take inputs of shape (N, 4): shape '[-1, 3]' is invalid" in line
    assert line.endswith("(mine.py, line 14)\n")


def test_names_of_files_that_do_not_exist(capsys):
    written()
    assert "other.py does not exist; `bitbayes new other.py` writes" in complaint(capsys, "train", "other.py")
    assert "or name mine.py, which exists" in complaint(capsys, "train", "mine")
    assert "or name a Python file, such as my_recipe.py" in complaint(capsys, "train", "miner")
    written(SMALL.replace("recipe = Recipe(", "small = Recipe("))
    assert open_recipe("mine.py:small").name == "mine-small"


def test_parts_are_found_in_whatever_case_and_none_is_left_out_silently():
    for part in ("Training", "Testing"):
        pictures(f"kaggle/{part}")
    data = load_pictures("kaggle")
    assert data.classes == 2 and len(data.test) == 20
    pictures("kaggle/dev")
    with pytest.raises(ValueError, match="kaggle has a folder dev beside Training; name a part train, validation or"):
        load_pictures("kaggle")
    for part in ("test", "val"):
        pictures(f"without/{part}")
    with pytest.raises(ValueError, match="without has a folder test of classes, but none called train"):
        load_pictures("without")


def test_names_of_classes_that_would_look_the_same_are_refused():
    pictures("long", classes=("x" * 100 + "cat", "x" * 100 + "dog"))
    with pytest.raises(ValueError, match="two classes have the name 'xxx"):
        load_pictures("long")


def test_features_are_not_rounded_away():
    y = np.arange(500) % 2
    with pytest.raises(ValueError, match="column 0 of x has numbers from 1700000000 to 1700000499, which float32"):
        from_arrays((1_700_000_000.0 + np.arange(500))[:, None], y)
    small = from_arrays(np.random.default_rng(0).normal(5e-7, 3e-7, (500, 1)), y)
    assert abs(float(small.train.inputs(torch.arange(len(small.train))).std()) - 1) < 0.01
    constant = from_arrays(np.full((500, 1), 0.1), y)
    assert constant.train.std == 1.0


def test_arrays_that_are_no_plain_numbers():
    y = np.arange(10) % 2
    with pytest.raises(ValueError, match="x is a masked array with missing values"):
        from_arrays(np.ma.masked_equal(np.arange(10.0)[:, None], 3.0), y)
    with pytest.raises(ValueError, match="classes is a set, which has no order"):
        from_arrays(np.arange(10.0)[:, None], y, classes={"a", "b"})
    with pytest.raises(ValueError, match="two classes have the name 'a'"):
        from_arrays(np.arange(10.0)[:, None], y, classes=("a", "a"))
    with pytest.raises(ValueError, match="x has no examples"):
        from_arrays(np.zeros((0, 2)), np.zeros(0, int))
    swapped = from_arrays(np.arange(10, dtype=">f4")[:, None], y)
    plain = from_arrays(np.arange(10, dtype="f4")[:, None], y)
    assert torch.equal(swapped.train.x, plain.train.x)
