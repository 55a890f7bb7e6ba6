"""The pretrained networks as a table, and packed networks by the names that commands take."""

from __future__ import annotations

from pathlib import Path

from bitbayes import zoo
from bitbayes.hub import fetched
from bitbayes.packed import PackedNetwork
from bitbayes.table import Table


def zoo_table() -> Table:
    """Return a row for each pretrained network, from the model cards."""
    heads = ["name", "network", "networks", "bytes", "test accuracy", "ECE", "NLL"]
    rows = []
    for name in zoo.names():
        card, network = zoo.card(name), zoo.load(name)
        size = (zoo.folder(name) / PackedNetwork.PRETRAINED).stat().st_size
        figures = [card.metric("accuracy"), f"{card.metrics['ece']:.3f}", f"{card.metrics['nll']:.3f}"]
        rows.append([name, card.title, str(network.program.samples), f"{size:,}", *figures])
    return Table("", heads, rows, align="llrrrrr")


def find_packed(source: str) -> PackedNetwork:
    """Return the packed network of a file, a folder of `save_pretrained`, "zoo:NAME" or "hub:OWNER/NAME[@REVISION]".

    Raises:
        ConnectionError: If the Hub cannot be reached.
        FileNotFoundError: If there is no such file, folder or repository.
        ValueError: If there is no such name, or the file is no sound packed network.

    Example:
        >>> find_packed("zoo:digits").program.input
        (64,)
    """
    kind, _, name = source.partition(":")
    if kind == "zoo" and name:
        return zoo.load(name)
    if kind == "hub" and name:
        repo_id, _, revision = name.partition("@")
        return PackedNetwork.read(fetched(repo_id, PackedNetwork.PRETRAINED, revision=revision or None))
    if Path(source, "summary.json").is_file():
        raise ValueError(f"{source} is the folder of a run; pack it first: bitbayes pack {source} -o net.safetensors")
    if Path(source).is_dir():
        return PackedNetwork.from_pretrained(source)
    return PackedNetwork.read(source)
