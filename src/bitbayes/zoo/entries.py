"""The networks of the zoo: one folder each beside this file, as `save_pretrained` writes it.

`python docs/zoo.py --add` makes one of a finished run. `rest.safetensors`, where there is one, holds what the posterior
does not: real parameters and BatchNorm statistics, and in its metadata the call that builds the network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitbayes.errors import nearest
from bitbayes.files import check_seal
from bitbayes.hub import ModelCard
from bitbayes.hub.pretrained import read_content
from bitbayes.packed import PackedNetwork

if TYPE_CHECKING:  # packed networks run where torch is not installed
    from torch import nn

    from bitbayes.posterior import Posterior

_HERE = Path(__file__).resolve().parent
REST = "rest.safetensors"


def names() -> list[str]:
    """Return the names of the networks in the zoo.

    Example:
        >>> "digits" in bb.zoo.names()
        True
    """
    return sorted(path.parent.name for path in _HERE.glob(f"*/{PackedNetwork.PRETRAINED}"))


def folder(name: str) -> Path:
    """Return the folder of a network: README.md, config.json and model.safetensors. `bitbayes.hub.push` uploads it.

    Example:
        >>> bb.zoo.folder("digit")
        Traceback (most recent call last):
        ...
        ValueError: no network of the zoo is called 'digit'; did you mean 'digits'? Choose from: ...
    """
    if name not in names():
        raise nearest("network of the zoo", name, names())
    return _HERE / name


def load(name: str) -> PackedNetwork:
    """Return a pretrained packed network; `bitbayes.packed.load` runs it.

    Example:
        >>> network = bb.zoo.load("digits")
        >>> network.inputs.shape, network.program.samples
        ((1, 8, 8), 16)
    """
    return PackedNetwork.from_pretrained(folder(name))


def card(name: str) -> ModelCard:
    """Return what the model card of a network states: test figures, command, seed, licence.

    Example:
        >>> bb.zoo.card("digits").license
        'apache-2.0'
    """
    content = read_content(folder(name))
    return ModelCard() if content is None else content.card


def posterior(name: str) -> Posterior:
    """Return the posterior that the networks of an entry were drawn from. It needs torch.

    Entries whose posterior takes more than 2 MB have none.

    Raises:
        FileNotFoundError: If the entry has no posterior.

    Example:
        >>> bb.zoo.posterior("digits")
        BernoulliPosterior(3 tensors, 25856 weights, ...)
    """
    from bitbayes.posterior import Posterior

    place = folder(name)
    if not (place / Posterior.PRETRAINED).is_file():
        raise FileNotFoundError(f"{name!r} comes without its posterior; {_with(Posterior.PRETRAINED)}")
    return Posterior.from_pretrained(place)


def network(name: str) -> nn.Module:
    """Return the torch network of an entry in eval mode, with the mode of its posterior. It needs torch.

    Raises:
        FileNotFoundError: If the entry has no posterior.
        ValueError: If the file of its real parameters is damaged.

    Example:
        >>> model, posterior = bb.zoo.network("digits"), bb.zoo.posterior("digits")
        >>> bb.predict(model, torch.zeros(3, 64), posterior, samples=4).probs.shape
        torch.Size([3, 10])
    """
    from safetensors import safe_open

    from bitbayes import nn

    mode = posterior(name).mode()
    path = folder(name) / REST
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata()
        try:
            check_seal(path, about)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        call: dict[str, Any] = json.loads(about["network"])
        rest = {key: file.get_tensor(key) for key in file.keys()}
    if call["function"] not in nn.__all__:
        raise ValueError(f"{name!r} needs bb.nn.{call['function']}, which this version does not have")
    model = getattr(nn, call["function"])(*call["arguments"], **call["options"])
    model.load_state_dict({**mode, **rest})
    return model.eval()


def _with(file: str) -> str:
    return "there are: " + ", ".join(name for name in names() if (_HERE / name / file).is_file())
