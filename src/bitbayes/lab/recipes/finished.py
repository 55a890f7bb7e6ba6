"""Finished runs that a run builds on: its teacher (distillation), and the run whose weights it begins with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from bitbayes.lab.data import DataBundle, batches
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.results import finished_summary, load_mode
from bitbayes.lab.train.teacher import Teacher

Role = Literal["teacher", "pretrained"]
"""Role of a finished run in another run, and the setting of the other run that holds the folder of the finished one.

The setting ROLE_sha256 holds the hash of its weights.
"""

_WEIGHTS = "model.safetensors"


def weights_of(folder: str, out: str, role: Role) -> str:
    """Return the SHA-256 of the weights of a finished run on which the run in the folder `out` will build.

    Raises:
        ValueError: If the folder is not a finished run, or is `out`, or a run would begin with binary weights.
    """
    theirs = RunConfig.load(folder)
    if Path(folder).resolve() == Path(out).resolve():
        raise ValueError(f"a run cannot build on itself: {role} and out are both {folder}; choose another --out")
    if finished_summary(folder) is None:
        raise ValueError(f"{role} {folder} is not finished; let it finish first, for example with --resume")
    if role == "pretrained" and theirs.rule != "full-precision":  # a mode is ±1 and would make all beliefs equally firm
        raise ValueError(
            f"pretrained {folder} is a run of {theirs.rule_name}, whose binary weights have no sizes to begin with; "
            "give a finished run of full-precision, or --pretrain-epochs to train one first"
        )
    return _sha256(folder)


def load_pretrained(config: RunConfig, model: nn.Module) -> None:
    """Load the weights that a run begins with, from the best epoch of the finished run `config.pretrained`.

    Args:
        config: The run that begins.
        model: Its network.

    Raises:
        ValueError: If the finished run has changed, has seen the validation data of this one, or has another network.
    """
    folder, where = _opened(config, "pretrained")
    try:
        load_mode(folder, model)
    except ValueError as error:
        raise ValueError(f"{where} does not suit the network of {config.recipe}: {error}") from error


def load_teacher(config: RunConfig, recipe: Recipe, data: DataBundle) -> Teacher:
    """Return the network that teaches a run, with the mode and the BatchNorm statistics of its best epoch.

    Args:
        config: The run that is taught.
        recipe: Recipe of the teacher.
        data: Data of the run that is taught.

    Raises:
        ValueError: If the teacher has changed, has seen the validation data of the run, or does not suit its data.
    """
    folder, where = _opened(config, "teacher")
    try:
        with torch.random.fork_rng():
            model = recipe.builder(data)()
        load_mode(folder, model)
        model.to(config.device).eval().requires_grad_(False)
        teacher, (example, _) = Teacher(model, config.teacher_share), next(iter(batches(data.train, 2)))
        found = teacher.logits(example).shape[-1]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} does not suit the data of {config.recipe}: {line}") from error
    if found != data.classes:
        raise ValueError(f"{where} has {found} outputs, but the data has {data.classes} classes")
    return teacher


def _opened(config: RunConfig, role: Role) -> tuple[RunFolder, str]:
    """Return the folder of a finished run after comparing it with the run that builds on it, and its name in errors."""
    folder = getattr(config, role)
    where, theirs = f"{role} {folder}", RunConfig.load(folder)
    if _sha256(folder) != getattr(config, f"{role}_sha256"):
        raise ValueError(f"the weights of {where} have changed since the run began; restore them, or begin again")
    for name in ("protocol", "data_seed"):
        mine, other = getattr(config, name), getattr(theirs, name)
        if mine != other:
            advice = "it may have learnt the validation data of this run; choose one with the same split"
            raise ValueError(f"{where} has {name} {other}, not {mine}: {advice}")
    return RunFolder(folder), where


def _sha256(folder: str) -> str:
    with Path(folder, _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
