"""The commands for packed networks, as dataclasses for tyro: pack, run, bench, summary, export."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from bitbayes.lab.cli.shared import Flag, Name, Output, tyro
from bitbayes.packed import PackedNetwork, c_header, load, onnx_model
from bitbayes.prediction import Prediction

_CHUNK = 500  # inputs at a time


@dataclass
class Pack:
    """Packs a finished run into one file: one bit for each binary weight.

    Args:
        run: Folder of the run.
        output: The file to write.
        samples: Networks drawn from the posterior; 0 for the mode alone.
        tempered: Divides the outputs by the temperature that suits the run's validation data.
        real: Type of what is real: float32, or float16 in half the bytes.
        data: Folder or hub id of the data, if it is no longer where the run found it.
    """

    folder: Annotated[Name, tyro.conf.arg(name="run")]
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
        if self.tempered:
            print(f"temperature {network.program.about['temperature']}, fitted on validation data")
        print(f"written: {self.output}, {Path(self.output).stat().st_size:,} bytes")


@dataclass
class Run:
    """Runs a packed network on test data, or on inputs of your own.

    Args:
        network: The file.
        data: Folder or hub id of the data of its recipe, or a .npy file of inputs (N, ...), normalised as in training;
            the recipe's hub id by default.
        out: Writes the prediction for each input there, as a line of JSON.
        backend: torch, native (compiled here), openvino (an extra), or reference (NumPy alone, slow).
    """

    network: Name
    data: str | None = None
    out: str | None = None
    backend: Literal["torch", "native", "openvino", "reference"] = "torch"

    def run(self) -> None:
        """Predicts, and prints accuracy and uncertainty."""
        runtime = load(self.network, self.backend)
        inputs, targets, regression = _inputs(runtime.network, self.data)
        starts = range(0, len(inputs) or 1, _CHUNK)  # of no inputs one empty piece
        pieces = [np.asarray(runtime.predict(inputs[i : i + _CHUNK]).outputs) for i in starts]
        prediction = Prediction(np.concatenate(pieces, axis=1))
        rows = list(_regression_rows(prediction) if regression else _class_rows(prediction))
        count = runtime.network.program.samples
        print(f"{len(rows)} inputs, {count} network{'s' if count > 1 else ''}")
        if targets is not None and regression:
            print(f"root mean squared error {np.sqrt(np.mean((prediction.mean - targets) ** 2)):.4f}")
        elif targets is not None:
            right = np.array([row["class"] for row in rows]) == targets.reshape(-1)
            print(f"accuracy {100 * right.mean():.2f}")
        for name in [] if not rows else [name for name in rows[0] if name not in ("class", "mean", "probabilities")]:
            print(f"mean {name} {np.mean([row[name] for row in rows]):.4f}")
        if self.out is not None:
            Path(self.out).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"written: {self.out}")


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
        from bitbayes.lab.bench.engines import bench, print_table

        threads = self.threads or tuple(sorted({1, os.cpu_count() or 1}))
        if min(*threads, *self.batch, self.turns, 1) < 1:
            raise ValueError("threads, batch and turns must be at least 1")
        network = PackedNetwork.read(self.network)
        for count in threads:
            print_table([bench(network, size, count, self.turns) for size in self.batch], network)


@dataclass
class Summary:
    """Prints what each layer of a packed network takes: weights, bits, bytes, operations.

    Args:
        network: The file.
    """

    network: Name

    def run(self) -> None:
        """Prints the table."""
        print(PackedNetwork.read(self.network).summary())


@dataclass
class Export:
    """Writes a packed network for other programs: a C header for microcontrollers, an ONNX model for other runtimes.

    Args:
        network: The file, of one network.
        c: The header to write; what it defines is named as the file, net_predict in net.h.
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
            files[self.c] = c_header(network, Path(self.c).stem).encode()
        if self.onnx is not None:
            files[self.onnx] = onnx_model(network).SerializeToString()
        for path, content in files.items():
            Path(path).write_bytes(content)
            print(f"written: {path}, {len(content):,} bytes")


def _inputs(network: PackedNetwork, data: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, bool]:
    """Inputs, targets if there are any, and whether they are of a regression."""
    if data is not None and data.endswith(".npy"):
        try:
            inputs = np.load(data, allow_pickle=False)
        except (EOFError, OSError, ValueError) as error:
            raise ValueError(f"{data} is no file of inputs: {error}") from None
        if inputs.shape[1:] != network.program.input or not inputs.ndim:
            wanted = ", ".join(map(str, ("N", *network.program.input)))
            raise ValueError(f"{data} has shape {inputs.shape}, expected ({wanted})")
        from bitbayes.lab.train import SQUARED

        return inputs, None, network.program.about.get("loss") == SQUARED.name
    import torch

    from bitbayes.lab.data import TensorData
    from bitbayes.lab.recipes import find_recipe
    from bitbayes.lab.train.measure import whole

    if "recipe" not in network.program.about:
        raise ValueError("the file names no recipe; give its inputs as a .npy file with --data")
    recipe = find_recipe(network.program.about["recipe"])
    test = recipe.load(data, torch.device("cpu"), 0).test
    if not isinstance(test, TensorData):
        raise ValueError(f"recipe {recipe.name} has no test data that fits in memory; give a .npy file with --data")
    inputs, targets = whole(test)
    return inputs.numpy(), targets.numpy(), not recipe.loss.classifies


def _class_rows(prediction: Prediction[npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    probs, single = prediction.probs, prediction.outputs.shape[-1] == 1
    probs = np.concatenate([1 - probs, probs], -1) if single else probs
    unsure = zip(prediction.entropy.tolist(), prediction.mutual_information.tolist(), strict=True)
    for row, (entropy, information) in zip(probs, unsure, strict=True):
        found = {"class": int(row.argmax()), "probabilities": [round(p, 6) for p in row.tolist()]}
        yield found | {"entropy": entropy, "mutual_information": information}


def _regression_rows(prediction: Prediction[npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    for mean, std in zip(prediction.mean.tolist(), prediction.std.tolist(), strict=True):
        yield {"mean": mean, "std": std[0] if len(std) == 1 else std}
