"""Packing of finished runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from bitbayes.batchnorm import Weights, as_found
from bitbayes.conformal import ConformalSets
from bitbayes.draws import complete_states, drawn_networks
from bitbayes.lab.data import batches
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.studies.evaluate import calibration_data, fitted_temperature
from bitbayes.lab.studies.load import FinishedRun, load_members
from bitbayes.lab.train.mean import kept_inputs
from bitbayes.packed import PackedNetwork
from bitbayes.packed.convert.pack import pack_networks
from bitbayes.packed.convert.refusals import check_packable

SPLIT = "data_seed"
"""Entry of a packed network's texts: the seed of the split of its data, where it is not 0."""


def pack_run(
    folder: str | Path,
    *,
    samples: int = 0,
    tempered: bool = False,
    conformal: Sequence[float] = (),
    real: Literal["float32", "float16"] = "float32",
    data: str | None = None,
    trust: bool = False,
) -> PackedNetwork:
    """Pack the mode of a finished run or posterior samples, with its recipe, rule and inputs.

    The members of an ensemble are packed into one file, each with its own real parameters and BatchNorm statistics.

    Args:
        folder: Folder of the run, or a folder that holds the members of an ensemble.
        samples: Number of posterior samples of each member, with the BatchNorm statistics that the run's mean
            prediction uses; 0 for the mode.
        tempered: Whether to divide the outputs by a temperature that is fitted on the run's validation data.
        conformal: Levels of conformal sets, such as 0.9, whose thresholds are computed on the run's validation data
            with the predictions of the packed network, and stored in it.
        real: Type of the real-valued tensors.
        data: Folder or Hugging Face Hub id of the data, if it has moved since the run was trained.
        trust: Run the recipe file of the run, a program, although this account has not run it before.

    Raises:
        ValueError: If the folder is not a run, its rule keeps no posterior, a layer cannot be packed, or there is no
            validation data to fit a temperature on, or to calibrate conformal sets on.
    """
    if samples < 0:
        raise ValueError(f"samples must be at least 0, got {samples}")
    runs = load_members(folder, data=data, trust=trust)
    run = runs[0]
    model = run.experiment.model
    if samples and run.posterior is None:
        raise ValueError(f"{run.config.rule} keeps no posterior; leave out --samples to pack its mode")
    example = next(iter(batches(run.experiment.data.train, 1)))[0]
    check_packable(model, example)
    inputs = run.experiment.data.inputs
    if inputs is not None:
        inputs.check_shape(example.shape[1:])
    network = pack_networks(
        model,
        example,
        itertools.chain.from_iterable(_networks(one, samples) for one in runs),
        len(runs) * max(samples, 1),
        real=real,
        about=_about(run),
        inputs=inputs,
    )
    network = network.tempered(fitted_temperature(runs, samples)) if tempered else network
    if conformal:
        x, y = calibration_data(run, "a conformal threshold")
        prediction = predict_packed(network, x.cpu())
        for level in conformal:
            network = network.with_conformal(ConformalSets.fit(prediction, y, level=level))
    return network


def _about(run: FinishedRun) -> dict[str, str]:
    """Return what the file says of a run: what `bitbayes run` needs to find its test data, and the rule."""
    about = {"recipe": run.config.recipe, "rule": run.config.rule, "loss": run.experiment.loss.name}
    return about | ({SPLIT: str(run.config.data_seed)} if run.config.data_seed else {})


def _networks(run: FinishedRun, samples: int) -> Iterator[Weights]:
    """Yield the complete networks of a run: its mode, or posterior samples."""
    model, kept = run.experiment.model, kept_inputs(run.config, run.experiment) if samples else None
    with as_found(model):
        drawn = drawn_networks(model, run.posterior if samples else None, samples, batches=kept)
        yield from complete_states(model, drawn)
