"""Statements of a model card about a packed network."""

from __future__ import annotations

from bitbayes.hub import Description, load_call
from bitbayes.packed.format.program import CONFORMAL, Program
from bitbayes.packed.format.summary import PackedSummary


def described(
    summary: PackedSummary, program: Program, output: tuple[int, ...], source: str, tokens: int | None = None
) -> Description:
    """Return the facts of a packed network, and how to run it.

    Args:
        summary: Its sizes and operation counts.
        program: Its steps, inputs and texts.
        output: Shape of its output, without the batch.
        source: Id on the Hub, "zoo:NAME", or "" for a folder.
        tokens: Number of token ids that inputs may hold; None if they are real numbers.
    """
    several, inputs = summary.samples > 1, program.inputs
    shape = f"(N, {', '.join(map(str, program.input))})"
    kind = f"arrays of shape {shape}, normalised" if tokens is None else f"token ids below {tokens} of shape {shape}"
    facts = {
        "networks": f"{summary.samples}, whose predictions are averaged" if several else "1",
        "inputs": str(inputs) if inputs else kind,
        "outputs": "×".join(map(str, output)),
        "bytes of tensors": f"{summary.bytes:,}",
        f"operations for one input{' and network' * several}": (
            f"{summary.binary_ops:,} binary and {summary.real_ops:,} real"
        ),
        **dict(_fact(name, text) for name, text in program.about.items()),
    }
    load = load_call(source, "bb.packed.PackedNetwork", "load")
    array = inputs is not None and inputs.kind == "vector"
    given = "x" if inputs is None else "network.prepare(array)" if array else 'network.prepare("picture.png")'
    python = [f"network = {load}", f"prediction = bb.packed.load(network).predict({given})"]
    if program.about.get("loss") == "squared":
        python.append("print(prediction.mean, prediction.std)")
    else:
        python += ["best = int(prediction.probs[0].argmax())"]
        label = "best" if inputs is None else "network.inputs.name(best)"
        python.append(f"print({label}, prediction.probs[0, best], prediction.entropy[0])")
    zoo = source.startswith("zoo:")
    file = source if zoo else f"hub:{source}" if source else "FOLDER/model.safetensors"
    what = "--data inputs.npy" if inputs is None else "vectors.npy" if array else "picture.png"
    limits = ["The figures hold for data like the test data; on other data the network may be confidently wrong."]
    if several:
        limits.append(
            "The disagreement of the networks (mutual information) is a better sign of unknown inputs than the "
            "probability of the class, and no proof."
        )
    return Description(
        kind="packed network",
        facts=tuple(facts.items()),
        python=tuple(python),
        commands=(f"bitbayes run {file} {what}", f"bitbayes bench {file}"),
        limits=tuple(limits),
    )


def _fact(name: str, text: str) -> tuple[str, str]:
    """Return a text of the file as a row of the card, in which thresholds of conformal sets have a label in words."""
    if not name.startswith(CONFORMAL):
        return name, text
    try:
        text = f"{float(text):.4g}"
    except ValueError:  # of a damaged file, whose texts are shown as they are
        pass
    return f"smallest probability of a class in a set of level {name.removeprefix(CONFORMAL)}", text
