"""Predictions of a packed network for a user's own inputs: images, folders of images, and arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.conformal import ConformalSets
from bitbayes.packed import Inputs, PackedNetwork, Runtime
from bitbayes.packed.format.images import check_regular, picture_files, read_picture, stacked_images, vectors_of
from bitbayes.prediction import Prediction

_BATCH = 64  # inputs at a time: 40 MB of photographs
_NPY = b"\x93NUMPY"  # how a .npy file begins
_UNSURE = ("entropy", "mutual_information", "energy")  # uncertainties of a prediction that its row has


class Answer(NamedTuple):
    """Name of an input with its prediction, as `--out` writes it, or with the reason why it cannot be read."""

    input: str
    row: dict[str, Any] | ValueError


def answers(
    runtime: Runtime,
    paths: Sequence[str],
    *,
    regression: bool,
    invert: bool = False,
    sets: ConformalSets | None = None,
    abstain: bool = False,
) -> Iterator[Answer]:
    """Yield the prediction for every input, in order. An unreadable input does not stop the others.

    Args:
        runtime: Packed network with a description of its inputs.
        paths: PNG and JPEG files, folders of such files, and .npy files.
        regression: Whether outputs are values rather than classes.
        invert: Whether to invert light and dark in images.
        sets: Conformal sets that the predictions of classes have, or None; see `class_rows`.
        abstain: Whether the set of an input decides if the network answers; see `class_rows`.

    Raises:
        FileNotFoundError: If one of the paths does not exist.
        ValueError: If a folder has no images, or the network has no description of its inputs or does not take images.
    """
    inputs = runtime.network.described()
    waiting: list[tuple[str, npt.NDArray[np.float32] | ValueError]] = []
    if invert and inputs.kind != "image":
        raise ValueError("only images can be inverted, but the network takes vectors; leave out --invert")

    def rows_of(prediction: Prediction[npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
        return regression_rows(prediction) if regression else class_rows(prediction, inputs, sets, abstain)

    for item in _named(_files(paths, inputs), runtime.network, inputs, invert):
        waiting.append(item)
        if len(waiting) == _BATCH:
            yield from _answered(runtime, waiting, rows_of)
            waiting = []
    yield from _answered(runtime, waiting, rows_of)


def _files(paths: Sequence[str], inputs: Inputs) -> list[Path]:
    """Return all files, so that a wrong path raises before anything is computed."""
    found = list[Path]()
    for path in paths:
        pictures = picture_files(path) if os.path.isdir(path) else [Path(path)]
        for file in pictures:
            check_regular(file)
            if inputs.kind == "vector" and file.suffix != ".npy":
                raise ValueError(f"{file} is not a .npy file, but the network takes vectors; give an array of vectors")
        found += pictures
    return found


def _named(
    files: Sequence[Path], network: PackedNetwork, inputs: Inputs, invert: bool
) -> Iterator[tuple[str, npt.NDArray[np.float32] | ValueError]]:
    """Yield names of inputs with the network's input, or with the reason why it cannot be read."""
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
    runtime: Runtime,
    items: Sequence[tuple[str, npt.NDArray[np.float32] | ValueError]],
    rows_of: Callable[[Prediction[npt.NDArray[Any]]], Iterator[dict[str, Any]]],
) -> Iterator[Answer]:
    """Yield the predictions for a batch."""
    read = [x for _, x in items if not isinstance(x, ValueError)]
    rows = iter(())
    if read:
        outputs = np.asarray(runtime.predict(np.stack(read)).outputs)
        rows = rows_of(Prediction(outputs))
    for name, x in items:
        yield Answer(name, x if isinstance(x, ValueError) else {"input": name, **next(rows)})


def class_rows(
    prediction: Prediction[npt.NDArray[Any]],
    inputs: Inputs | None = None,
    sets: ConformalSets | None = None,
    abstain: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield class, probabilities and uncertainty of each input.

    Args:
        prediction: Prediction for the inputs.
        inputs: Description that names the classes, or None for classes without names.
        sets: Conformal sets that the rows have, or None for rows without sets.
        abstain: Whether the class is None where the conformal set does not hold exactly one class.

    Example:
        >>> prediction = Prediction(np.array([[[2.0, 0.0], [0.1, 0.0]]]))
        >>> rows = class_rows(prediction, sets=ConformalSets(0.9, threshold=0.2), abstain=True)
        >>> [(row["class"], row["set"]) for row in rows]
        [(0, [0]), (None, [0, 1])]
    """
    probs, chosen = prediction.class_probs, None if sets is None else sets.sets(prediction)
    unsure = zip(*(getattr(prediction, name).tolist() for name in _UNSURE), strict=True)
    for index, (row, uncertainties) in enumerate(zip(probs, unsure, strict=True)):
        found: dict[str, Any] = {"class": int(row.argmax())}
        if chosen is not None:
            found["set"] = np.flatnonzero(chosen[index]).tolist()
            if abstain and len(found["set"]) != 1:
                found["class"] = None
        if inputs is not None:
            found["label"] = None if found["class"] is None else inputs.name(found["class"])
            found |= {"set_labels": [inputs.name(each) for each in found["set"]]} if chosen is not None else {}
        found["probabilities"] = [round(p, 6) for p in row.tolist()]
        yield found | dict(zip(_UNSURE, uncertainties, strict=True))


def regression_rows(prediction: Prediction[npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """Yield mean and standard deviation over the networks for each input."""
    for mean, std in zip(prediction.mean.tolist(), prediction.std.tolist(), strict=True):
        yield {"mean": mean, "std": std[0] if len(std) == 1 else std}


def read_array(path: str | Path) -> npt.NDArray[Any]:
    """Return the array of a .npy file, memory-mapped, so that only the used part is read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a .npy file, or is truncated.
    """
    check_regular(path)
    with open(path, "rb") as file:
        begin = file.read(len(_NPY))
    if begin.startswith(b"PK"):
        raise ValueError(
            f"{path} is not a readable .npy file, but an archive of arrays; save one array with numpy.save"
        )
    if begin != _NPY:
        raise ValueError(f"{path} is not a readable .npy file: it does not begin as one")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises errors of many types for hostile headers
        line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path} is not a readable .npy file: {line}") from None
