"""The two toy data sets of the BayesBiNN paper, two moons and Snelson's regression data, and a table of UCI."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.lab.data.arrays import from_arrays
from bitbayes.lab.data.bundle import DataBundle, TensorData
from bitbayes.lab.data.hub import nearest_folder
from bitbayes.packed import Inputs

_SNELSON_COUNT, _HELD_OUT = 200, 50


def load_moons(
    *, device: torch.device | str = "cpu", train_seed: int = 0, test_seed: int = 1
) -> DataBundle[TensorData]:
    """Generate two moons with noise 0.1: 200 training points and 1,000 test points.

    Inputs have shape (N, 2) and are standardised with the statistics of the training points, as in the paper's code.
    Targets are 0.0 or 1.0, shape (N, 1). The paper generates the training points with seed 0.
    """
    generate = require("sklearn.datasets", "train").make_moons
    raw = [generate(count, noise=0.1, random_state=seed) for count, seed in ((200, train_seed), (1000, test_seed))]
    (x, y), (fresh, labels) = [[torch.tensor(array, dtype=torch.float32) for array in part] for part in raw]
    mean, std = x.mean(0), x.std(0)
    train = TensorData(((x - mean) / std).to(device), y[:, None].to(device))
    test = TensorData(((fresh - mean) / std).to(device), labels[:, None].to(device))
    inputs = Inputs("vector", mean=tuple(mean.tolist()), std=tuple(std.tolist()), classes=("outer moon", "inner moon"))
    return DataBundle("moons", train, None, test, 2, "generated", inputs)


def load_snelson(
    folder: str | Path | None = None, device: torch.device | str = "cpu", split: int | None = 0
) -> DataBundle[TensorData]:
    """Load Snelson's one-dimensional regression data: 150 training points and 50 test points.

    Inputs and targets have shape (N, 1) and are standardised with the training statistics.

    Args:
        folder: Folder with train_inputs.txt and train_outputs.txt. None generates 200 other points, whose inputs have a
            gap in which uncertainty is visible. Snelson's inputs have no wide gap.
        device: Device of the tensors.
        split: Seed of the random split; None uses all 200 points for training and none for testing.

    Raises:
        ValueError: If the folder lacks the files, they do not hold 200 pairs of numbers, or all inputs or all outputs
            are the same number.
    """
    x, y = _generated() if folder is None else _read(Path(folder))
    order = torch.arange(len(x))
    if split is not None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(split))
    train, test = order.tensor_split([len(x) if split is None else len(x) - _HELD_OUT])
    mean, std = float(x[train].mean()), float(x[train].std())
    x, y = (_standardised(values, train, name, folder) for values, name in ((x, "inputs"), (y, "outputs")))
    inputs = Inputs("vector", mean=mean, std=std)
    points = TensorData(x[:, None].to(device), y[:, None].to(device))
    held = points.chosen(test) if len(test) else None
    source = "generated" if folder is None else str(folder)
    return DataBundle("snelson", points.chosen(train), None, held, 0, source, inputs)


def load_breast_cancer(*, device: torch.device | str = "cpu", seed: int = 0) -> DataBundle[TensorData]:
    """Load the table of breast cancer in Wisconsin (UCI) that ships with scikit-learn: 569 samples, 30 features.

    Class 0 is malignant and class 1 benign. Inputs of shape (N, 30) are standardised with the statistics of the
    training data. `seed` determines which 45 of the 456 samples that are not for testing are for validation.
    """
    raw = require("sklearn.datasets", "train").load_breast_cancer()
    names = [str(name) for name in raw.target_names]
    return from_arrays(raw.data, raw.target, classes=names, device=device, seed=seed, name="breast-cancer")


def _standardised(values: Tensor, train: Tensor, name: str, folder: str | Path | None) -> Tensor:
    mean, std = values[train].mean(), values[train].std()
    if not (std > 0 and mean.isfinite() and std.isfinite()):
        raise ValueError(
            f"{folder}: the training {name} cannot be standardised, because their mean is {float(mean):g} and their "
            f"standard deviation {float(std):g}; expected different numbers of moderate size"
        )
    return (values - mean) / std


def _generated() -> tuple[Tensor, Tensor]:
    """Return a smooth function of inputs on (0, 6) without (2.2, 3.6), with noise of standard deviation 0.25."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_SNELSON_COUNT, generator=generator) * 4.6
    x = torch.where(x < 2.2, x, x + 1.4)
    smooth = torch.sin(2.2 * x) + 0.6 * torch.sin(0.9 * x + 1)
    return x, smooth + 0.25 * torch.randn(_SNELSON_COUNT, generator=generator)


def _read(folder: Path) -> tuple[Tensor, Tensor]:
    if not folder.is_dir():
        raise ValueError(
            f"no data folder {folder}; the nearest that exists is {nearest_folder(folder)}; "
            "expected one with train_inputs.txt and train_outputs.txt"
        )
    columns = []
    for name in ("train_inputs.txt", "train_outputs.txt"):
        path = folder / name
        if not path.is_file():
            raise ValueError(f"no {name} in {folder}; Snelson's data consist of train_inputs.txt and train_outputs.txt")
        try:
            columns.append(torch.tensor([float(word) for word in path.read_text().split()]))
        except ValueError as error:
            raise ValueError(f"{path} is not a column of numbers: {error}") from None
        if len(columns[-1]) != _SNELSON_COUNT:
            raise ValueError(f"{path} holds {len(columns[-1])} numbers, expected {_SNELSON_COUNT}")
        if not columns[-1].isfinite().all():
            raise ValueError(f"{path} holds numbers that are not finite (nan or inf); remove or replace them")
    return columns[0], columns[1]
