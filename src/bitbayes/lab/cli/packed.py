"""The commands for packed networks, as dataclasses for tyro: pack, run, bench, summary, export."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import Flag, Name, Output, tyro
from bitbayes.lab.studies.answers import class_rows, read_array, regression_rows
from bitbayes.packed import PackedNetwork, Runtime, c_header, load, onnx_model
from bitbayes.packed.format.images import SUFFIXES
from bitbayes.prediction import Prediction
from bitbayes.table import Table

_CHUNK = 500  # inputs at a time
_SHOWN = 3  # reasons why inputs cannot be read
_Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[INPUT...]")]


@dataclass
class Pack:
    """Packs a finished run into one file: one bit for each binary weight.

    Args:
        folder: Folder of the run.
        output: The file to write.
        samples: Networks drawn from the posterior; 0 for the mode alone.
        tempered: Divides the outputs by the temperature that suits the run's validation data.
        real: Type of what is real: float32, or float16 in half the bytes.
        data: Folder or hub id of the data, if it is no longer where the run found it.
    """

    folder: Name
    output: Output
    samples: int = 0
    tempered: Flag = False
    real: Literal["float32", "float16"] = "float32"
    data: str | None = None

    def run(self) -> None:
        """Packs, and prints what each layer takes."""
        from bitbayes.lab.studies.pack import pack_run

        network = pack_run(self.folder, samples=self.samples, tempered=self.tempered, real=self.real, data=self.data)
        network.save(self.output)
        print(network.summary())
        print(_described(network))
        if self.tempered:
            print(f"temperature {network.program.about['temperature']}, fitted on validation data")
        print(f"written: {self.output}, {Path(self.output).stat().st_size:,} bytes")


@dataclass
class Run:
    """Runs a packed network on pictures and arrays of your own, or on the test data of its recipe.

    Prints one line for each input: its name, its class, the probability of the class, the entropy of all probabilities
    in nats, and, if the file holds several networks, how far they disagree (mutual information, in nats).

    Args:
        network: File of the packed network.
        inputs: PNG or JPEG files, folders of them, or .npy files: images of type uint8 or from 0 to 1, or vectors.
            Size, colours and normalisation are those that the file has from `bitbayes pack`.
        invert: Exchange light and dark, for black digits on white paper: those of MNIST are light on dark.
        data: Folder or hub id of the data of its recipe, instead of inputs, or a .npy file of inputs (N, ...) that are
            normalised already, as in training; the recipe's hub id by default.
        out: Write the prediction for each input there, as a line of JSON.
        backend: torch, native (compiled here), openvino (an extra), or reference (NumPy alone, slow).
    """

    network: Name
    inputs: _Paths = ()
    invert: Flag = False
    data: str | None = None
    out: str | None = None
    backend: Literal["torch", "native", "openvino", "reference"] = "torch"

    def run(self) -> None:
        """Predicts, and prints answers, or accuracy and uncertainty."""
        if self.inputs and self.data is not None:
            raise ValueError("give inputs, which are normalised here, or --data with inputs that are already; not both")
        if self.invert and not self.inputs:
            raise ValueError("--invert is for pictures and arrays of images; give some after the file's name")
        runtime, unread = load(self.network, self.backend), list[str]()
        rows = self._answers(runtime, unread) if self.inputs else self._figures(runtime)
        if self.out is not None:
            Path(self.out).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"written: {self.out}")
        if unread:
            count = len(unread) + len(rows)
            more = f" (and {len(unread) - _SHOWN} more)" if len(unread) > _SHOWN else ""
            reasons = "; ".join(unread[:_SHOWN]) + more
            raise ValueError(reasons if count == 1 else f"{len(unread)} of {count} inputs cannot be used: {reasons}")

    def _answers(self, runtime: Runtime, unread: list[str]) -> list[dict[str, Any]]:
        """Print a table in a terminal, and elsewhere one line for each input, with tabs between the columns."""
        from bitbayes.lab.studies.answers import answers

        if runtime.network.inputs is None:
            raise ValueError(
                f"{self.network} does not say what its inputs are; write it again with bitbayes pack RUN, or give "
                "normalised inputs with --data INPUTS.npy"
            )
        terminal, several = sys.stdout.isatty(), runtime.network.program.samples > 1
        rows, cells = list[dict[str, Any]](), list[dict[str, str]]()
        for answer in answers(runtime, self.inputs, regression=_is_regression(runtime.network), invert=self.invert):
            if isinstance(answer.row, ValueError):
                unread.append(str(answer.row))
                continue
            rows.append(answer.row)
            cells.append(_cells(answer.row, several))
            if not terminal:
                print("\t".join(cells[-1].values()), flush=True)
        if terminal and cells:
            print(Table("", list(cells[0]), [list(row.values()) for row in cells]).text())
        return rows

    def _figures(self, runtime: Runtime) -> list[dict[str, Any]]:
        """Print figures of the test data, or of normalised inputs."""
        inputs, targets, regression = _inputs(runtime.network, self.data)
        starts = range(0, len(inputs) or 1, _CHUNK)  # of no inputs one empty piece
        pieces = [np.asarray(runtime.predict(np.array(inputs[i : i + _CHUNK])).outputs) for i in starts]
        prediction = Prediction(np.concatenate(pieces, axis=1))
        rows = list(regression_rows(prediction) if regression else class_rows(prediction))
        count = runtime.network.program.samples
        print(f"{len(rows)} inputs, {count} network{'s' if count > 1 else ''}")
        if targets is not None and regression:
            print(f"root mean squared error {np.sqrt(np.mean((prediction.mean - targets) ** 2)):.4f}")
        elif targets is not None:
            right = np.array([row["class"] for row in rows]) == targets.reshape(-1)
            print(f"accuracy {100 * right.mean():.2f}")
        for name in [] if not rows else [name for name in rows[0] if name not in ("class", "mean", "probabilities")]:
            print(f"mean {name} {np.mean([row[name] for row in rows]):.4f}")
        return rows


@dataclass
class Bench:
    """Times a packed network on every backend, beside torch and OpenVINO without bits, on random inputs.

    Args:
        network: The file.
        threads: Numbers of threads; by default one, and then one for each core.
        batch: Inputs at a time.
        turns: How often each is measured, turn by turn; the median counts.
    """

    network: Name
    threads: tuple[int, ...] = ()
    batch: tuple[int, ...] = (1, 32)
    turns: int = 7

    def run(self) -> None:
        """Prints a table for each number of threads."""
        from bitbayes.lab.bench.engines import bench, timings_table

        threads = self.threads or tuple(sorted({1, os.cpu_count() or 1}))
        if min(*threads, *self.batch, self.turns, 1) < 1:
            raise ValueError("threads, batch and turns must be at least 1")
        network = PackedNetwork.read(self.network)
        for count in threads:
            table, notes = timings_table([bench(network, size, count, self.turns) for size in self.batch], network)
            show(table, *notes)


@dataclass
class Summary:
    """Prints what each layer of a packed network takes: weights, bits, bytes, operations.

    Args:
        network: The file.
    """

    network: Name

    def run(self) -> None:
        """Prints the table."""
        network = PackedNetwork.read(self.network)
        print(network.summary())
        print(_described(network))


@dataclass
class Export:
    """Writes a packed network for other programs: a C header for microcontrollers, an ONNX model for other runtimes.

    Args:
        network: The file, of one network.
        c: The header to write; what it defines is named as the file, net_predict in net.h and my_net_predict in
            my-net.h.
        onnx: The ONNX model to write.
    """

    network: Name
    c: str | None = None
    onnx: str | None = None

    def run(self) -> None:
        """Writes what was asked for."""
        if self.c is None and self.onnx is None:
            raise ValueError("nothing to write; give --c, --onnx or both")
        network, files = PackedNetwork.read(self.network), {}
        if self.c is not None:
            files[self.c] = c_header(network, _identifier(Path(self.c).stem)).encode()
        if self.onnx is not None:
            files[self.onnx] = onnx_model(network).SerializeToString()
        for path, content in files.items():
            Path(path).write_bytes(content)
            defines = f"; it defines {_identifier(Path(path).stem)}_predict" if path == self.c else ""
            print(f"written: {path}, {len(content):,} bytes{defines}")


def _identifier(stem: str) -> str:
    """Return the name of a file as a name in C: `my_net_v2` for `my-net.v2`."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:50]
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def _described(network: PackedNetwork) -> str:
    return f"inputs: {network.inputs or 'the file does not say how they are made'}"


def _cells(row: dict[str, Any], several: bool) -> dict[str, str]:
    """Return the columns of an input's line; one network has no disagreement to show."""
    name = "".join(letter if letter.isprintable() else "?" for letter in row["input"])
    if "class" not in row:
        texts = {key: " ".join(f"{number:.4f}" for number in np.ravel(row[key])) for key in ("mean", "std")}
        return {"input": name, "mean": texts["mean"]} | ({"standard deviation": texts["std"]} if several else {})
    cells = {"input": name, "class": row["label"], "probability": f"{max(row['probabilities']):.4f}"}
    cells["entropy (nats)"] = f"{row['entropy'] + 0.0:.4f}"  # the entropy of certainty is -0.0
    return cells | ({"mutual information (nats)": f"{row['mutual_information']:.4f}"} if several else {})


def _is_regression(network: PackedNetwork) -> bool:
    from bitbayes.lab.train import SQUARED

    return network.program.about.get("loss") == SQUARED.name


def _inputs(network: PackedNetwork, data: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, bool]:
    """Inputs, targets if there are any, and whether they are of a regression."""
    if data is not None and data.endswith(".npy"):
        inputs = read_array(data)
        if inputs.shape[1:] != network.program.input or not inputs.ndim:
            wanted = ", ".join(map(str, ("N", *network.program.input)))
            raise ValueError(f"{data} has shape {inputs.shape}, expected ({wanted})")
        if inputs.dtype == np.uint8:
            raise ValueError(f"{data} has the type uint8, but --data takes normalised inputs; leave --data out")
        return inputs, None, _is_regression(network)
    if data is not None and data.lower().endswith(SUFFIXES):
        raise ValueError(f"--data takes data sets and normalised inputs, but {data} is a picture, so leave --data out")
    import torch

    from bitbayes.lab.data import TensorData
    from bitbayes.lab.recipes import find_recipe
    from bitbayes.lab.train.measure import whole

    if "recipe" not in network.program.about:
        raise ValueError(
            "the file names no recipe; give pictures or arrays after its name, or normalised inputs with "
            "--data INPUTS.npy"
        )
    recipe = find_recipe(network.program.about["recipe"])
    test = recipe.load(data, torch.device("cpu"), 0).test
    if not isinstance(test, TensorData):
        raise ValueError(f"recipe {recipe.name} has no test data that fits in memory; give a .npy file with --data")
    inputs, targets = whole(test)
    return inputs.numpy(), targets.numpy(), not recipe.loss.classifies
