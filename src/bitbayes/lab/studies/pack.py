"""Packing of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bitbayes.conformal import ConformalSets
from bitbayes.lab.data import batches
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.studies.evaluate import calibration_data, fitted_temperature
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train.mean import kept_inputs
from bitbayes.packed import PackedNetwork, pack


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

    Args:
        folder: Folder of the run.
        samples: Number of posterior samples, with the BatchNorm statistics that the run's mean prediction uses; 0 for
            the mode.
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
    run = load_run(folder, data=data, trust=trust)
    example = next(iter(batches(run.experiment.data.train, 1)))[0]
    about = {"recipe": run.config.recipe, "rule": run.config.rule, "loss": run.experiment.loss.name}
    inputs = run.experiment.data.inputs
    if not samples:
        network = pack(run.experiment.model, example, real=real, about=about, inputs=inputs)
    elif run.posterior is None:
        raise ValueError(f"{run.config.rule} keeps no posterior; leave out --samples to pack its mode")
    else:
        kept = kept_inputs(run.config, run.experiment)
        network = pack(
            run.experiment.model, example, run.posterior, samples, batches=kept, real=real, about=about, inputs=inputs
        )
    network = network.tempered(fitted_temperature(run, samples)) if tempered else network
    if conformal:
        x, y = calibration_data(run, "a conformal threshold")
        prediction = predict_packed(network, x.cpu())
        for level in conformal:
            network = network.with_conformal(ConformalSets.fit(prediction, y, level=level))
    return network
