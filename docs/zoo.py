"""The pretrained networks of the package, and their table in docs/pretrained.md.

    python docs/zoo.py                                   rewrites the table and the model cards
    python docs/zoo.py --add NAME RUN [--samples 8] ...  packs a finished run into src/bitbayes/zoo/NAME, first
    python docs/zoo.py --calibrate NAME [--data FOLDER]  stores the thresholds of conformal sets anew, first

RUN is the folder of `bitbayes train`. The entry gets the packed network, its model card with the figures of that very
file on the test data, and evaluation.json with the points of the picture. Validation data select the epoch, fit the
temperature and calibrate the conformal sets; test data are looked at once, to be reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from safetensors.torch import save

import bitbayes as bb
from bitbayes.errors import nearest
from bitbayes.files import replacing, sealed
from bitbayes.hub.pretrained import measured, read_content, write_content, write_folder
from bitbayes.hub.render import Content
from bitbayes.lab.recipes import find_recipe, make_config
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.studies.entry import NetworkCall, evaluate_packed, network_call, predict_packed, train_command
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.pack import pack_run
from bitbayes.lab.studies.zoo import zoo_table
from bitbayes.lab.train.measure import whole
from bitbayes.zoo.entries import REST

HERE = Path(__file__).resolve().parent
ZOO = HERE.parent / "src" / "bitbayes" / "zoo"
PAGE = HERE / "pretrained.md"
BLOCK = re.compile(r"(?<=<!-- zoo -->\n).*?(?=<!-- end -->)", re.DOTALL)
LEVELS = (0.9, 0.95, 0.99)  # of the conformal sets that an entry has
UNMEASURED = {"cifar10-small"}  # whose thresholds were calibrated, and never measured on test data
NO_COVERAGE = "The coverage of the thresholds of conformal sets was not measured on test data."
FILE_LIMIT, ZOO_LIMIT = 2_000_000, 4_000_000  # bytes that a wheel can bear
# Name, and id on the Hub, of the data of a recipe, by the first word of its name.
DATASETS = {
    "digits": ("scikit-learn's 8×8 digits", ""),
    "mnist": ("MNIST", "ylecun/mnist"),
    "fashion": ("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    "cifar10": ("CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": ("CIFAR-100", "uoft-cs/cifar100"),
}


def add(name: str, folder: str, o: argparse.Namespace) -> Path:
    """Packs a run into the zoo.

    Raises:
        ValueError: If a file, or the zoo, becomes too large.
    """
    run = load_run(folder, data=o.data)
    config, built = run.config, network_call(run.config)
    test, place = run.experiment.data.test, ZOO / name
    network = pack_run(folder, samples=o.samples, tempered=o.tempered, conformal=LEVELS, real=o.real, data=o.data)
    x, y = whole(test)  # type: ignore[arg-type]
    found = evaluate_packed(network, x, y)
    row = max((json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()), key=_selected)
    first = config.recipe.partition("-")[0]
    if first not in DATASETS:
        raise nearest("data set of DATASETS", first, DATASETS)
    card = bb.hub.ModelCard(
        title=o.title or find_recipe(config.recipe).title,
        summary=o.summary,
        license="apache-2.0",
        task="image-classification",
        dataset=DATASETS[first][0],
        dataset_id=DATASETS[first][1],
        examples=len(y),
        metrics={key: found["metrics"][key] for key in ("accuracy", "nll", "ece", "brier")},
        validation_accuracy=round(row["val_accuracy"], 4),
        trained=train_command(config),
        seed=config.seed,
        date=date.fromtimestamp(Path(folder, "model.safetensors").stat().st_mtime).isoformat(),
        architecture="" if built is None else str(built),
        limits=("The licence covers the files, and not the data that the network was trained on.", *o.limit),
    )
    with tempfile.TemporaryDirectory() as work:
        new = Path(work, name)
        write_folder(network, new, card, f"zoo:{name}")
        if o.posterior:
            add_posterior(run, built, new, name)
        (new / "evaluation.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        check_sizes([*new.iterdir(), *ZOO.glob("*/*.safetensors")], name)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(new, place)
    return place


def calibrate(name: str, folder: str | None) -> Path:
    """Stores the thresholds of conformal sets in an entry, from the validation data of its run.

    The recipe divides the training data as it did for the run, because the seed of the division is a constant.
    """
    network, place = bb.zoo.load(name), bb.zoo.folder(name)
    data = load_data(make_config(network.program.about["recipe"], data=folder))
    x, y = whole(data.validation)  # type: ignore[arg-type]
    prediction = predict_packed(network, x)
    for level in LEVELS:
        network = network.with_conformal(bb.conformal.ConformalSets.fit(prediction, y, level=level))
    write_folder(network, place, None, f"zoo:{name}")
    return place


def with_coverage(content: Content, name: str) -> Content:
    """Returns what a folder holds, with a limit on the card if the coverage of an entry was not measured."""
    limits = [limit for limit in content.card.limits if limit != NO_COVERAGE] + [NO_COVERAGE] * (name in UNMEASURED)
    return dataclasses.replace(content, card=dataclasses.replace(content.card, limits=tuple(limits)))


def _selected(row: dict[str, Any]) -> float:
    return row.get("val_accuracy") or 0.0


def add_posterior(run: FinishedRun, built: NetworkCall | None, place: Path, name: str) -> None:
    """Writes the posterior of a run, and what the network has beside it."""
    if run.posterior is None or built is None:
        raise ValueError(f"{name}: the run has no posterior, or its network is no single call of bb.nn")
    write_folder(run.posterior, place, None, f"zoo:{name}")
    state = run.experiment.model.state_dict()
    rest = {key: tensor.contiguous() for key, tensor in state.items() if key not in run.posterior.shapes}
    with replacing(place / REST) as partial, open(partial, "xb") as file:
        file.writelines(sealed(save(rest, metadata={"network": json.dumps(dataclasses.asdict(built))})))
    kind = "file of real parameters and BatchNorm statistics"
    content = read_content(place)
    assert content is not None
    files = {**content.files, REST: measured(bb.hub.Description(kind=kind), place / REST)}
    write_content(dataclasses.replace(content, files=files), place)


def check_sizes(files: Iterable[Path], name: str) -> None:
    """Refuses what does not fit into a wheel, beside the other entries."""
    sizes = {path: path.stat().st_size for path in files if path.parent != ZOO / name}
    for path, size in sizes.items():
        if size > FILE_LIMIT:
            raise ValueError(f"{path} has {size:,} bytes; at most {FILE_LIMIT:,} go into the zoo: take fewer --samples")
    if sum(sizes.values()) > ZOO_LIMIT:
        raise ValueError(f"the zoo has {sum(sizes.values()):,} bytes; at most {ZOO_LIMIT:,} go into a wheel")


def table() -> str:
    """The rows of docs/pretrained.md, from the model cards."""
    found = zoo_table()
    return dataclasses.replace(found, rows=[[f"`{row[0]}`", *row[1:]] for row in found.rows]).markdown()


def rewritten(text: str) -> str:
    """A page with the table made anew."""
    return BLOCK.sub(lambda _: f"\n{table()}\n\n", text)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--add", nargs=2, metavar=("NAME", "RUN"))
    parser.add_argument("--calibrate", metavar="NAME")
    parser.add_argument("--samples", type=int, default=0, help="networks drawn from the posterior; 0: the mode")
    parser.add_argument("--tempered", action="store_true", help="fit a temperature on the validation data")
    parser.add_argument("--real", choices=("float32", "float16"), default="float32")
    parser.add_argument("--posterior", action="store_true", help="keep the posterior too")
    parser.add_argument("--data", help="folder of the data, if it is no longer where the run found it")
    parser.add_argument("--title", default="", help="title of the card; the recipe's by default")
    parser.add_argument("--summary", default="", help="what the network is for")
    parser.add_argument("--limit", action="append", default=[], help="a sentence of the card about what it is not for")
    return parser.parse_args()


def main() -> None:
    """Adds an entry, if one is named, and rewrites the table and the cards."""
    o = options()
    if o.add:
        name, run = o.add
        print(f"written: {add(name, run, o)}")
    if o.calibrate:
        print(f"written: {calibrate(o.calibrate, o.data)}")
    for name in bb.zoo.names():
        content = read_content(bb.zoo.folder(name))
        assert content is not None
        write_content(with_coverage(content, name), bb.zoo.folder(name))
    if PAGE.is_file():
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
