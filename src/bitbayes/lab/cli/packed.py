"""The commands for packed networks, as dataclasses for tyro: pack, run, bench, summary, export."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from bitbayes.conformal import ConformalSets
from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import Command, Flag, Name, Output, check_output, tyro
from bitbayes.lab.studies.answers import class_rows, read_array, regression_rows
from bitbayes.lab.studies.zoo import find_packed, zoo_table
from bitbayes.packed import PackedNetwork, Runtime, c_header, load, onnx_model, qonnx_model, write_gguf
from bitbayes.packed.format.images import SUFFIXES
from bitbayes.prediction import Prediction
from bitbayes.table import Table

_CHUNK = 500  # inputs at a time
_SHOWN = 3  # number of unreadable inputs that the error message explains
_Paths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[INPUT...]")]


@dataclass
class Pack(Command):
    """Pack a finished run into one file with one bit per binary weight.

    Args:
        folder: Folder of the finished run. A folder of members packs all of them.
        output: File to write.
        samples: Number of networks to sample from the posterior (of each member), or 0 for the mode alone.
        tempered: Divide the outputs by a temperature that is fitted on the run's validation data.
        conformal: Levels, such as 0.9, at which `bitbayes run --conformal` shall return sets of classes. Their
            thresholds are computed on the run's validation data.
        real: Type of the real-valued parameters. float16 takes half as many bytes as float32.
        data: Folder or Hugging Face Hub id of the data set, if it has moved since the run was trained.
        trust: Run the recipe file of the run, a program, although this account has not run it before.
    """

    epilog = """
examples:
  bitbayes pack runs/mnist-ste-seed1 -o mnist.safetensors
  bitbayes pack runs/mnist-vispa-seed1 -o ten.safetensors --samples 10
  bitbayes pack runs/mnist-ste-seed1 -o mnist.safetensors --conformal 0.9 0.99
"""
    folder: Name
    output: Output
    samples: int = 0
    tempered: Flag = False
    conformal: tuple[float, ...] = ()
    real: Literal["float32", "float16"] = "float32"
    data: str | None = None
    trust: Flag = False

    def run(self) -> None:
        """Pack, and print the size of each layer."""
        from bitbayes.calibration import TEMPERATURES
        from bitbayes.lab.studies.pack import pack_run

        check_output(self.output)
        network = pack_run(**{name: value for name, value in vars(self).items() if name != "output"})
        network.save(self.output)
        print(network.summary())
        print(_described(network))
        if self.tempered:
            temperature = network.program.about["temperature"]
            lowest, highest = TEMPERATURES
            ends = {lowest: ", the lowest that is tried", highest: ", the highest that is tried"}
            print(f"temperature {temperature}, fitted on validation data{ends.get(float(temperature), '')}")
        for level in self.conformal:
            least = network.conformal(level).threshold
            held = f"classes of probability {least:.4g} or more" if least else "all classes; too few validation data"
            print(f"conformal sets of level {level}: {held}")
        print(f"written: {self.output}, {Path(self.output).stat().st_size:,} bytes")


@dataclass
class Run(Command):
    """Run a packed network on your own images and arrays, or on its recipe's test data.

    Args:
        network: File of the packed network, or zoo:NAME, or hub:OWNER/NAME[@REVISION]. `bitbayes zoo` lists the
            networks that come with the package.
        inputs: PNG or JPEG files, folders of such files, or .npy files. Arrays hold vectors or images, as uint8 or as
            numbers from 0 to 1. Images are scaled, converted and normalised as the file describes.
        invert: Invert light and dark. MNIST's digits are light on dark, so black digits on white paper need this.
        data: Instead of inputs, the folder or Hugging Face Hub id of the recipe's data set, or a .npy file with inputs
            of shape (N, ...) that are already normalised as in training, or token ids. The recipe sets the default.
            For a network of your own recipe, a folder of pictures in classes, of which the test part counts.
        conformal: Level of the conformal sets to return. At 0.9, the sets of 90% of the inputs hold the true class, if
            the inputs are like the validation data. The file must have been packed with this level.
        abstain: Answer "abstains" where the conformal set does not hold exactly one class.
        out: File to write the predictions to, one JSON object per line and input.
        backend: Backend: torch; native, which uses compiled kernels; openvino, an optional extra; or reference, which
            needs only NumPy and is slow.
    """

    epilog = """
The output has one line per input: its name, the predicted class, the
probability of the class, and the entropy of all probabilities in nats. If the
file holds several networks, the mutual information in nats follows, which says
how much the networks disagree. With --conformal, the set of classes is last.

examples:
  bitbayes run mnist.safetensors digit.png photos/ --invert
  bitbayes run mnist.safetensors photos/ --conformal 0.9 --abstain
  bitbayes run mnist.safetensors --out predictions.jsonl
"""
    network: Name
    inputs: _Paths = ()
    invert: Flag = False
    data: str | None = None
    conformal: float | None = None
    abstain: Flag = False
    out: str | None = None
    backend: Literal["torch", "native", "openvino", "reference"] = "torch"

    def run(self) -> None:
        """Predict, and print a line per input, or accuracy and uncertainty on the test data."""
        if self.inputs and self.data is not None:
            raise ValueError(
                "got both inputs, which are normalised here, and --data, which is normalised already; give one of them"
            )
        if self.invert and not self.inputs:
            raise ValueError("--invert needs image files or arrays of images; name them after the network's file")
        if self.abstain and self.conformal is None:
            raise ValueError("--abstain needs conformal sets; give their level, such as --conformal 0.9")
        check_output(self.out, self.network, *self.inputs, *filter(None, [self.data]))
        network, unread = find_packed(self.network), list[str]()
        sets = None if self.conformal is None else network.conformal(self.conformal, self.network)
        runtime = load(network, self.backend)
        rows = list[dict[str, Any]]()
        try:
            if self.inputs:
                self._answers(runtime, sets, rows, unread)
            else:
                rows += self._figures(runtime, sets)
        except BaseException:
            if rows:  # interrupted, or what read the output has ended
                self._write(rows)
            raise
        self._write(rows)
        if unread:
            count = len(unread) + len(rows)
            more = f" (and {len(unread) - _SHOWN} more)" if len(unread) > _SHOWN else ""
            reasons = "; ".join(unread[:_SHOWN]) + more
            raise ValueError(reasons if count == 1 else f"{len(unread)} of {count} inputs cannot be used: {reasons}")

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.out is not None:
            Path(self.out).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"written: {self.out}", file=sys.stderr)  # the other stream holds one line per input

    def _answers(
        self, runtime: Runtime, sets: ConformalSets | None, rows: list[dict[str, Any]], unread: list[str]
    ) -> None:
        """Print a table on a terminal, and elsewhere one line per input with tabs between the columns.

        Rows, and reasons why inputs cannot be read, are appended to the lists.
        """
        from bitbayes.lab.studies.answers import answers

        if runtime.network.inputs is None:
            raise ValueError(
                f"{self.network} does not describe its inputs; pack the run again with `bitbayes pack`, or give "
                "normalised inputs or token ids with --data INPUTS.npy"
            )
        terminal, several = sys.stdout.isatty(), runtime.network.program.samples > 1
        cells = list[dict[str, str]]()
        how: dict[str, Any] = {"invert": self.invert, "sets": sets, "abstain": self.abstain}
        for answer in answers(runtime, self.inputs, regression=_is_regression(runtime.network), **how):
            if isinstance(answer.row, ValueError):
                unread.append(str(answer.row))
                continue
            rows.append(answer.row)
            cells.append(_cells(answer.row, several))
            if not terminal:
                print("\t".join(cells[-1].values()), flush=True)
        if terminal and cells:
            print(Table("", list(cells[0]), [list(row.values()) for row in cells]).text())

    def _figures(self, runtime: Runtime, sets: ConformalSets | None) -> list[dict[str, Any]]:
        """Print accuracy and mean uncertainty on the test data or on normalised inputs."""
        inputs, targets, regression, which = _inputs(runtime.network, self.data)
        starts = range(0, len(inputs) or 1, _CHUNK)  # no inputs make one empty chunk
        pieces = [np.asarray(runtime.predict(np.array(inputs[i : i + _CHUNK])).outputs) for i in starts]
        prediction = Prediction(np.concatenate(pieces, axis=1))
        rows = list(regression_rows(prediction) if regression else class_rows(prediction, None, sets, self.abstain))
        count = runtime.network.program.samples
        print(f"{len(rows)} inputs, {count} network{'s' if count > 1 else ''}")
        if which:
            print(f"inputs: {which}")
        if targets is not None and regression:
            print(f"root mean squared error {np.sqrt(np.mean((prediction.mean - targets) ** 2)):.4f}")
        elif targets is not None:
            right = prediction.class_probs.argmax(1) == targets.reshape(-1)
            print(f"accuracy {100 * right.mean():.2f} %")
            if self.abstain:
                answered = np.array([row["class"] is not None for row in rows])
                of_these = f"{100 * right[answered].mean():.2f} %" if answered.any() else "-"
                print(f"answers {100 * answered.mean():.2f} % of the inputs; accuracy of the answers {of_these}")
        if sets is not None and rows and not regression:
            covered = f", coverage {100 * sets.coverage(prediction, targets):.2f} %" if targets is not None else ""
            size = np.mean([len(row["set"]) for row in rows])
            print(f"conformal sets of level {sets.level}: mean size {size:.3f}{covered}")
        names = {"entropy": "entropy", "mutual_information": "mutual information", "std": "standard deviation"}
        for name, words in names.items():
            if rows and name in rows[0]:
                unit = "" if regression else " nats"
                print(f"mean {words} {np.mean([row[name] for row in rows]):.4f}{unit}")
        return rows


@dataclass
class Bench(Command):
    """Time a packed network on every backend, and the same network with float weights.

    Args:
        network: File of the packed network, or zoo:NAME, or hub:OWNER/NAME[@REVISION]. `bitbayes zoo` lists the
            networks that come with the package.
        threads: Numbers of threads to measure. The default is one thread, then one per CPU core.
        batch: Batch sizes to measure.
        turns: Number of measurements per backend, taken in turns. The table shows their median. A backend that takes
            longer than half a second is measured once.
    """

    epilog = """
The inputs are random. The network with float weights runs in torch and in
OpenVINO for comparison.

example:
  bitbayes bench mnist.safetensors --batch 1 32 --threads 1
"""
    network: Name
    threads: tuple[int, ...] = ()
    batch: tuple[int, ...] = (1, 32)
    turns: int = 7

    def run(self) -> None:
        """Print a table for each number of threads."""
        from bitbayes.lab.bench.engines import bench, timings_table

        threads = self.threads or tuple(sorted({1, os.cpu_count() or 1}))
        if min(*threads, *self.batch, self.turns, 1) < 1:
            raise ValueError("--threads, --batch and --turns take whole numbers of at least 1; got a smaller one")
        network = find_packed(self.network)
        for count in threads:
            table, notes = timings_table([bench(network, size, count, self.turns) for size in self.batch], network)
            show(table, *notes)


@dataclass
class Summary(Command):
    """Print the weights, bits, bytes and operations of each layer of a packed network.

    Args:
        network: File of the packed network, or zoo:NAME, or hub:OWNER/NAME[@REVISION]. `bitbayes zoo` lists the
            networks that come with the package.
    """

    network: Name

    def run(self) -> None:
        """Print the table."""
        network = find_packed(self.network)
        print(network.summary())
        print(_described(network))


@dataclass
class Zoo(Command):
    """List the pretrained networks that come with the package: size, test accuracy and calibration."""

    epilog = """
example:
  bitbayes run zoo:mnist digit.png
"""

    def run(self) -> None:
        """Print the table."""
        show(zoo_table())


@dataclass
class Export(Command):
    """Export a packed network as a C header, ONNX or QONNX, or a language model as GGUF.

    Args:
        network: File of the packed network, or hub:OWNER/NAME[@REVISION]. It must hold a single network, which those of
            `bitbayes zoo` do not. For --gguf, the folder of a finished run instead.
        c: C header to write, for microcontrollers. Its names start with the name of the file: net.h defines
            net_predict, and my-net.h defines my_net_predict.
        onnx: ONNX model to write, for other runtimes.
        qonnx: QONNX model to write, for FINN and hls4ml, which make hardware for FPGAs. Weights and activations are
            marked as binary.
        gguf: GGUF file to write, for llama.cpp and the programs around it. It holds the mode of the run, whose network
            must be a decoder with the names and the config of a Llama.
        gguf_type: Type of the binary projections in the GGUF file. Q1_0 takes 1.125 bits per weight. Q8_0 and F16
            serve for comparison.
        data: For --gguf, the folder or Hugging Face Hub id of the run's data, if a recipe file makes its network from
            them, and they have moved.
        trust: For --gguf, run the recipe file of the run, a program, although this account has not run it before.
    """

    epilog = """
examples:
  bitbayes export mnist.safetensors --c mnist.h --onnx mnist.onnx
  bitbayes export mnist.safetensors --qonnx mnist-qonnx.onnx
  bitbayes export runs/text-ste-seed1 --gguf net.gguf
"""
    network: Name
    c: str | None = None
    onnx: str | None = None
    qonnx: str | None = None
    gguf: str | None = None
    gguf_type: Literal["Q1_0", "Q8_0", "F16"] = "Q1_0"
    data: str | None = None
    trust: Flag = False

    def run(self) -> None:
        """Write the requested files."""
        for path in (self.c, self.onnx, self.qonnx, self.gguf):
            check_output(path, self.network)
        paths = [Path(path).resolve() for path in (self.c, self.onnx, self.qonnx) if path is not None]
        if self.gguf is not None:
            if paths:
                raise ValueError("--gguf takes a run, and --c, --onnx and --qonnx a packed network; export them apart")
            self._gguf(self.gguf)
            return
        if self.gguf_type != "Q1_0" or self.data is not None or self.trust:
            raise ValueError("--gguf-type, --data and --trust need --gguf, the GGUF file to write")
        if not paths:
            raise ValueError("got no file to write; give --c, --onnx, --qonnx or --gguf")
        if len(set(paths)) < len(paths):
            raise ValueError("got one file for two forms of the network; give each form a file of its own")
        network, files = find_packed(self.network), {}
        if self.c is not None:
            files[self.c] = c_header(network, _identifier(Path(self.c).stem)).encode()
        if self.onnx is not None:
            files[self.onnx] = onnx_model(network).SerializeToString()
        if self.qonnx is not None:
            files[self.qonnx] = qonnx_model(network).SerializeToString()
        for path, content in files.items():
            Path(path).write_bytes(content)
            defines = f"; it defines {_identifier(Path(path).stem)}_predict" if path == self.c else ""
            print(f"written: {path}, {len(content):,} bytes{defines}")

    def _gguf(self, path: str) -> None:
        """Write the mode of a run."""
        from bitbayes.lab.recipes import recipe_of_run
        from bitbayes.lab.studies.load import check_finished, load_network
        from bitbayes.lab.train import RunConfig, RunFolder

        config = RunConfig.load(self.network)
        config = config.changed(data=self.data or config.data, device="cpu")
        check_finished(self.network)
        recipe = recipe_of_run(self.network, config, trust=self.trust)
        if self.data is not None and not recipe.reads_data:
            raise ValueError(f"--data has no effect, because {config.recipe} makes no network from data; leave it out")
        write_gguf(load_network(config, RunFolder(self.network), recipe), path, self.gguf_type, name=config.recipe)
        print(f"written: {path}, {Path(path).stat().st_size:,} bytes")


def _identifier(stem: str) -> str:
    """Return the name of a file as a name in C: `my_net_v2` for `my-net.v2`."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:50]
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def _described(network: PackedNetwork) -> str:
    unknown = "not described in the file" if network.tokens is None else f"token ids below {network.tokens}"
    return f"inputs: {network.inputs or unknown}"


def _cells(row: dict[str, Any], several: bool) -> dict[str, str]:
    """Return the columns of an input's line. A single network has no mutual information to show."""
    name = "".join(letter if letter.isprintable() else "?" for letter in row["input"])
    if "class" not in row:
        texts = {key: " ".join(f"{number:.4f}" for number in np.ravel(row[key])) for key in ("mean", "std")}
        return {"input": name, "mean": texts["mean"]} | ({"standard deviation": texts["std"]} if several else {})
    cells = {"input": name, "class": row["label"] or "abstains", "probability": f"{max(row['probabilities']):.4f}"}
    cells["entropy (nats)"] = f"{row['entropy'] + 0.0:.4f}"  # the entropy of certainty is -0.0
    cells |= {"mutual information (nats)": f"{row['mutual_information']:.4f}"} if several else {}
    return cells | ({"set": f"{{{', '.join(row['set_labels'])}}}"} if "set" in row else {})


def _is_regression(network: PackedNetwork) -> bool:
    from bitbayes.lab.train import SQUARED

    return network.program.about.get("loss") == SQUARED.name


def _inputs(network: PackedNetwork, data: str | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, bool, str]:
    """Return inputs, targets if there are any, whether the network is a regression, and which inputs these are."""
    if data is not None and data.endswith(".npy"):
        inputs = read_array(data)
        if inputs.shape[1:] != network.program.input or not inputs.ndim:
            wanted = ", ".join(map(str, ("N", *network.program.input)))
            raise ValueError(f"{data} has shape {inputs.shape}, expected ({wanted})")
        if inputs.dtype == np.uint8 and network.tokens is None:
            raise ValueError(f"{data} has type uint8, but --data takes normalised inputs; leave out --data")
        return inputs, None, _is_regression(network), ""
    if data is not None and data.lower().endswith(SUFFIXES):
        raise ValueError(f"--data takes data sets and normalised inputs, but {data} is an image; leave out --data")
    import torch

    from bitbayes.lab.data import TensorData, TextData
    from bitbayes.lab.data.pictures import labelled_pictures
    from bitbayes.lab.recipes import RECIPES
    from bitbayes.lab.studies.pack import SPLIT
    from bitbayes.lab.train.measure import whole

    if "recipe" not in network.program.about:
        raise ValueError(
            "the file names no recipe; name image files or arrays after the file, or give normalised inputs with "
            "--data INPUTS.npy"
        )
    name = network.program.about["recipe"]
    if name not in RECIPES:  # of a file, which a packed network never runs
        if data is None or network.inputs is None or network.inputs.kind != "image":
            raise ValueError(
                f"the file is of a recipe of its author's own, {name}: give pictures or arrays after its name"
                + (", or a folder of pictures in classes with --data FOLDER" if data is None else "")
            )
        inputs, numbers, which = labelled_pictures(data, network.inputs)
        return inputs.reshape(-1, *network.program.input), numbers, False, which
    recipe = RECIPES[name]
    split = network.program.about.get(SPLIT, "0")
    if not split.isdecimal():
        raise ValueError(f"the file names {split!r} as the seed of the split of its data, expected a whole number")
    test = recipe.load(data, torch.device("cpu"), int(split)).test
    if isinstance(test, TextData):
        raise ValueError(f"the recipe {recipe.name} is a text; give token ids with --data TOKENS.npy")
    if not isinstance(test, TensorData):
        raise ValueError(f"the test data of recipe {recipe.name} does not fit in memory; give a .npy file with --data")
    inputs, targets = whole(test)
    return inputs.numpy(), targets.numpy(), not recipe.loss.classifies, ""
