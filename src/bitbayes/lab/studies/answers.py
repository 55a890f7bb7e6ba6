"""Answers of a packed network to a user's own inputs: pictures, folders of pictures, and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.packed import Inputs, PackedNetwork, Runtime
from bitbayes.packed.format.images import check_regular, picture_files, read_picture, stacked_images, vectors_of
from bitbayes.prediction import Prediction

_BATCH = 64  # inputs at a time: 40 MB of photographs


class Answer(NamedTuple):
    """An input, and what the network says to it, as `--out` writes it; or why the input cannot be read."""

    input: str
    row: dict[str, Any] | ValueError


def answers(runtime: Runtime, paths: Sequence[str], *, regression: bool, invert: bool = False) -> Iterator[Answer]:
    """Yield the answer to every input, in order. An input that cannot be read does not end the others.

    Args:
        runtime: Packed network that says what its inputs are.
        paths: PNG and JPEG files, folders of them, and .npy files.
        regression: Whether outputs are values rather than classes.
        invert: Whether light and dark change places in images.

    Raises:
        FileNotFoundError: If one of the paths does not exist.
        ValueError: If a folder has no pictures, the network does not say what its inputs are, or takes no pictures.
    """
    inputs = runtime.network.described()
    waiting: list[tuple[str, npt.NDArray[np.float32] | ValueError]] = []
    if invert and inputs.kind != "image":
        raise ValueError("only images can be inverted, but the network takes vectors")
    for item in _named(_files(paths, inputs), runtime.network, inputs, invert):
        waiting.append(item)
        if len(waiting) == _BATCH:
            yield from _answered(runtime, waiting, regression)
            waiting = []
    yield from _answered(runtime, waiting, regression)


def _files(paths: Sequence[str], inputs: Inputs) -> list[Path]:
    """Return all files, so that a wrong path is said before anything else."""
    found = list[Path]()
    for path in paths:
        pictures = picture_files(path) if os.path.isdir(path) else [Path(path)]
        for file in pictures:
            check_regular(file)
            if inputs.kind == "vector" and file.suffix != ".npy":
                raise ValueError(f"{file} is no .npy file, but the network takes vectors; give an array of them")
        found += pictures
    return found


def _named(
    files: Sequence[Path], network: PackedNetwork, inputs: Inputs, invert: bool
) -> Iterator[tuple[str, npt.NDArray[np.float32] | ValueError]]:
    """Yield names of inputs with what the network takes, or with why they cannot be read."""
    shape = network.program.input
    for file in files:
        try:
            if file.suffix == ".npy":
                array, count = read_array(file), shape[0]
                vectors = inputs.kind == "vector"
                several = vectors_of(array, count, str(file)) if vectors else stacked_images(array, inputs, str(file))
                names = [str(file)] if len(several) == 1 else [f"{file}[{index}]" for index in range(len(several))]
            else:
                several, names = read_picture(file, inputs)[None], [str(file)]
        except ValueError as error:
            yield str(file), error
            continue
        if not names:
            yield str(file), ValueError(f"{file} has no inputs")
        for index, name in enumerate(names):
            one = several[index : index + 1]
            if invert:
                one = (255 if one.dtype == np.uint8 else 1) - one
            x = inputs.normalised(one).reshape(shape)
            yield name, x if np.isfinite(x).all() else ValueError(f"{name} has NaN or infinities")


def _answered(
    runtime: Runtime, items: Sequence[tuple[str, npt.NDArray[np.float32] | ValueError]], regression: bool
) -> Iterator[Answer]:
    """Yield the answers to a batch."""
    read = [x for _, x in items if not isinstance(x, ValueError)]
    rows = iter(())
    if read:
        outputs = np.asarray(runtime.predict(np.stack(read)).outputs)
        rows = (regression_rows if regression else class_rows)(Prediction(outputs), runtime.network.inputs)
    for name, x in items:
        yield Answer(name, x if isinstance(x, ValueError) else {"input": name, **next(rows)})


def class_rows(prediction: Prediction[npt.NDArray[Any]], inputs: Inputs | None = None) -> Iterator[dict[str, Any]]:
    """Yield class, probabilities and doubt of each input; with `inputs`, the name of the class too."""
    probs, single = prediction.probs, prediction.outputs.shape[-1] == 1
    probs = np.concatenate([1 - probs, probs], -1) if single else probs
    unsure = zip(prediction.entropy.tolist(), prediction.mutual_information.tolist(), strict=True)
    for row, (entropy, information) in zip(probs, unsure, strict=True):
        best = int(row.argmax())
        found = {"class": best} | ({} if inputs is None else {"label": inputs.name(best)})
        found |= {"probabilities": [round(p, 6) for p in row.tolist()]}
        yield found | {"entropy": entropy, "mutual_information": information}


def regression_rows(prediction: Prediction[npt.NDArray[Any]], inputs: Inputs | None = None) -> Iterator[dict[str, Any]]:
    """Yield mean and standard deviation over the networks for each input."""
    for mean, std in zip(prediction.mean.tolist(), prediction.std.tolist(), strict=True):
        yield {"mean": mean, "std": std[0] if len(std) == 1 else std}


def read_array(path: str | Path) -> npt.NDArray[Any]:
    """Return the array of a .npy file, of which only what is used is read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, or is shorter than it says.
    """
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path} is no file of inputs: {line}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays; save one array with numpy.save")
    return array
