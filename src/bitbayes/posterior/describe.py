"""Statements of a model card about a posterior."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bitbayes.hub import Description, load_call


def described(
    family: str, shapes: Mapping[str, torch.Size], entropy: float, source: str, more: Mapping[str, str]
) -> Description:
    """Return the facts of a posterior, and how to predict with it.

    Args:
        family: Name of its class.
        shapes: Shapes of the weights by parameter name.
        entropy: Mean per-weight entropy in bits.
        source: Id on the Hub, "zoo:NAME", or "" for a folder.
        more: Facts of the family.
    """
    facts = {
        "family": family,
        "binary weights": f"{sum(shape.numel() for shape in shapes.values()):,}",
        "parameters": ", ".join(f"`{name}` ({'×'.join(map(str, shape))})" for name, shape in shapes.items()),
        "mean per-weight entropy": f"{entropy:.3f} bits",
        **more,
    }
    zoo, name = source.startswith("zoo:"), source.removeprefix("zoo:")
    python = (
        f"posterior = {load_call(source, f'bb.{family}', 'posterior')}",
        f'model = bb.zoo.network("{name}")' if zoo else "model = ...  # your network, with the parameters named below",
        "prediction = bb.predict(model, x, posterior, samples=32)",
    )
    limit = (
        "The posterior holds the binary weights alone; real parameters and BatchNorm statistics come with the network. "
        "`bb.predict(..., batches=...)` estimates the statistics anew for every sample."
    )
    return Description(kind="posterior over weights", facts=tuple(facts.items()), python=python, limits=(limit,))
