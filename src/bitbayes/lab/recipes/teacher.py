"""Teachers of distillation: finished runs whose networks teach other runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from bitbayes.lab.data import DataBundle, batches
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.results import load_mode
from bitbayes.lab.train.teacher import Teacher

_WEIGHTS = "model.safetensors"


def weights_of(folder: str, out: str) -> str:
    """Return the SHA-256 of the weights of a finished run that will teach the run in the folder `out`.

    Raises:
        ValueError: If the folder is not a finished run, or is `out`.
    """
    RunConfig.load(folder)
    if Path(folder).resolve() == Path(out).resolve():
        raise ValueError(f"a run cannot teach itself: teacher and out are both {folder}; choose another --out")
    if not RunFolder(folder).has("summary.json"):
        raise ValueError(f"teacher {folder} is not finished; let it finish first, for example with --resume")
    return _sha256(folder)


def load_teacher(config: RunConfig, recipe: Recipe, data: DataBundle) -> Teacher:
    """Return the network that teaches a run, with the mode and the BatchNorm statistics of its best epoch.

    Args:
        config: The run that is taught.
        recipe: Recipe of the teacher.
        data: Data of the run that is taught.

    Raises:
        ValueError: If the weights of the teacher have changed, it has seen the validation data of the run, or it does
            not suit the run's data.
    """
    assert config.teacher is not None, "only of a run that has one"
    where, theirs = f"teacher {config.teacher}", RunConfig.load(config.teacher)
    if _sha256(config.teacher) != config.teacher_sha256:
        raise ValueError(f"the weights of {where} have changed since the run began; restore them, or begin again")
    for name in ("protocol", "data_seed"):
        mine, other = getattr(config, name), getattr(theirs, name)
        if mine != other:
            advice = "it may have learnt the validation data of this run; choose one with the same split"
            raise ValueError(f"{where} has {name} {other}, not {mine}: {advice}")
    try:
        with torch.random.fork_rng():
            model = recipe.builder(data)()
        load_mode(RunFolder(config.teacher), model)
        model.to(config.device).eval().requires_grad_(False)
        teacher, (example, _) = Teacher(model, config.teacher_share), next(iter(batches(data.train, 2)))
        found = teacher.logits(example).shape[-1]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} does not suit the data of {config.recipe}: {line}") from error
    if found != data.classes:
        raise ValueError(f"{where} has {found} outputs, but the data has {data.classes} classes")
    return teacher


def _sha256(folder: str) -> str:
    with Path(folder, _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
