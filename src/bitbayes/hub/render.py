"""The text of a model card: front matter that the Hub reads, and Markdown that people read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitbayes.hub.card import METRICS, ModelCard
from bitbayes.table import Table

_TAGS = ("binary-neural-networks", "bayesian")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Statements of a model card about one file, read from its content.

    Args:
        kind: Kind of the file's content, such as "packed network".
        facts: Names and values of a table.
        python: Lines of Python that load the file and use it.
        commands: Commands that use it.
        limits: Limits of every file of this kind, one sentence each.
        bytes: Size of the file.
        sha256: Digest of the file.

    Example:
        >>> Description(kind="packed network", facts=(("networks", "8"),)).kind
        'packed network'
    """

    kind: str
    facts: tuple[tuple[str, str], ...] = ()
    python: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that config.json of a folder holds and that its model card is written from.

    Args:
        card: Statements of the author about the network.
        files: Description of each file, by name.
        readme: SHA-256 of the README.md that was written with it, which tells whether somebody has edited the page.
    """

    card: ModelCard = field(default_factory=ModelCard)
    files: Mapping[str, Description] = field(default_factory=dict)
    readme: str = ""


def load_call(source: str, kind: str, function: str) -> str:
    """Return the Python that loads a file.

    Args:
        source: Id on the Hub, "zoo:NAME", or "" for a folder.
        kind: Class of the file.
        function: Function of `bitbayes.zoo` that loads the file.

    Example:
        >>> load_call("owner/name", "bb.packed.PackedNetwork", "load"), load_call("zoo:mnist", "", "load")
        ('bb.packed.PackedNetwork.from_pretrained("owner/name")', 'bb.zoo.load("mnist")')
    """
    if source.startswith("zoo:"):
        return f'bb.zoo.{function}("{source.removeprefix("zoo:")}")'
    return f'{kind}.from_pretrained("{source or "FOLDER"}")'


def front_matter(content: Content) -> dict[str, Any]:
    """Return what the Hub reads of a card: licence, tags, library, data set and measured figures."""
    card = content.card
    found: dict[str, Any] = {"license": card.license} if card.license else {}
    found |= {"library_name": "bitbayes", "tags": ["bitbayes", *_TAGS, *card.tags]}
    found |= {"pipeline_tag": card.task} if card.task else {}
    found |= {"datasets": [card.dataset_id]} if card.dataset_id else {}
    if not card.metrics:
        return found
    found["metrics"] = [METRICS[name].hub for name in card.metrics]
    if card.dataset or card.dataset_id:
        kind, name = card.dataset_id or card.dataset, card.dataset or card.dataset_id
        figures = [
            {"type": metric.hub, "value": metric.factor * card.metrics[key], "name": metric.label}
            for key, metric in METRICS.items()
            if key in card.metrics
        ]
        result: dict[str, Any] = {"task": {"type": card.task or "other"}}
        result |= {"dataset": {"type": kind, "name": name, "split": "test"}, "metrics": figures}
        found["model-index"] = [{"name": card.title or "bitbayes network", "results": [result]}]
    return found


def readme(content: Content) -> str:
    """Return the text of README.md."""
    card, files = content.card, content.files
    parts = ["---", *_yaml(front_matter(content)), "---", "", f"# {card.title or 'A network with binary weights'}", ""]
    parts += [card.summary, ""] if card.summary else []
    *most, last = [f"a {each.kind}" for each in files.values()] or ["nothing"]
    kinds = f"{', '.join(most)} and {last}" if most else last
    parts += [f"The folder holds {kinds}, for the Python library bitbayes. A binary weight takes one bit.", ""]
    parts += ["## Accuracy and calibration", "", *_figures(card), ""]
    parts += ["## How to run it", "", "```python", "import bitbayes as bb"]
    for each in files.values():
        parts += ["", *each.python] if each.python else []
    parts += ["```", ""]
    commands = [line for each in files.values() for line in each.commands]
    parts += ["On the command line:", "", *(f"    {line}" for line in commands), ""] if commands else []
    parts += ["## Files", ""]
    rows = [[f"`{name}`", each.kind, f"{each.bytes:,}", f"`{each.sha256}`"] for name, each in files.items()]
    parts += [Table("", ["file", "content", "bytes", "SHA-256"], rows, align="llrl").markdown(), ""]
    for name, each in files.items():
        rows = [[label, value] for label, value in each.facts]
        parts += [Table("", [f"`{name}`", ""], rows, align="ll").markdown(), ""] if rows else []
    parts += [*_training(card), "## Licence", "", _licence(card), "", "## Limits", ""]
    limits = dict.fromkeys([*card.limits, *(limit for each in files.values() for limit in each.limits)])
    return "\n".join([*parts, *(f"- {limit}" for limit in limits), ""])


def _figures(card: ModelCard) -> list[str]:
    if not card.metrics:
        return ["The author stated no figures."]
    rows = [[METRICS[name].label, card.metric(name)] for name in METRICS if name in card.metrics]
    count = "test examples" if card.examples is None else f"{card.examples:,} test examples"
    lines = [Table("", ["metric", "value"], rows, align="lr").markdown(), ""]
    lines += [f"The figures were measured with these files on {count}{f' of {card.dataset}' * bool(card.dataset)}."]
    if card.validation_accuracy is not None:
        accuracy = METRICS["accuracy"].text(card.validation_accuracy)
        lines.append(f"The accuracy on validation data, by which the network was selected, is {accuracy}.")
    return lines


def _training(card: ModelCard) -> list[str]:
    lines = []
    if card.trained:
        lines += ["    " + card.trained, ""]
    facts = {"architecture": card.architecture and f"`{card.architecture}`", "date": card.date}
    facts["seed"] = "" if card.seed is None else str(card.seed)
    rows = [[name, value] for name, value in facts.items() if value]
    lines += [Table("", ["training", ""], rows, align="ll").markdown(), ""] if rows else []
    return ["## How it was trained", "", *lines] if lines else []


def _licence(card: ModelCard) -> str:
    if not card.license:
        return "The author named no licence."
    return f"The files have the licence `{card.license}`."


def _yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return the lines of a mapping; texts are quoted as in JSON, which YAML reads as they are."""
    lines = []
    for name, each in value.items():
        if isinstance(each, Mapping):
            lines += [f"{indent}{name}:", *_yaml(each, f"{indent}  ")]
        elif isinstance(each, Sequence) and not isinstance(each, str):
            lines.append(f"{indent}{name}:")
            for item in each:
                inner = _yaml(item, f"{indent}  ") if isinstance(item, Mapping) else [f"{indent}  {_scalar(item)}"]
                lines += [f"{indent}- {inner[0].removeprefix(f'{indent}  ')}", *inner[1:]]
        else:
            lines.append(f"{indent}{name}: {_scalar(each)}")
    return lines


def _scalar(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0") + "0" * (value == int(value))  # YAML takes 1e-05 for a text
    return json.dumps(value, ensure_ascii=False)
