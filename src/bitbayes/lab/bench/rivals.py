"""Networks with float weights, with which packed networks are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitbayes.packed import PackedNetwork, Program, Step
from bitbayes.packed.backends.reference import input_ranges
from bitbayes.packed.backends.runtime import Steps
from bitbayes.packed.format.bits import Array


def without_bits(network: PackedNetwork, rectified: bool = False) -> PackedNetwork:
    """Return the first of the C networks with its weights in float32.

    Args:
        network: Packed network.
        rectified: Whether to replace each sign and comparison by a rectifier, as in a network that was made for int8.
    """
    steps: list[Step] = []
    tensors: dict[str, Array] = {}
    place = [0]  # number of an old value among the new values
    for index, step in enumerate(network.program.steps):
        sources = tuple(place[source] for source in step.sources)
        mine, settings, op = network.tensors_of(step), step.settings, step.op
        if op in ("linear", "conv"):
            mine["weight"] = network.weight(step)
        if rectified and op in ("sign", "threshold"):
            if op == "threshold":
                mine = {"scale": mine.get("direction", np.ones(1)), "shift": -mine["threshold"].astype(np.float32)}
                mine = {role: tensor.astype(np.float32) for role, tensor in mine.items()}
                steps.append(_step("affine", sources, {}, mine, tensors, f"{index}.affine"))
                sources, mine = (len(steps),), {}
            op, settings = "clamp", {"min": 0.0, "max": None}
        steps.append(_step(op, sources, settings, mine, tensors, str(index)))
        place.append(len(steps))
    return PackedNetwork(Program(network.program.input, 1, tuple(steps)), tensors)


def _step(op: str, sources: tuple[int, ...], settings: Any, mine: dict[str, Array], tensors: Any, name: str) -> Step:
    names = {role: f"{name}.{role}" for role in mine}
    tensors.update({names[role]: tensor for role, tensor in mine.items()})
    return Step(op, sources, "", settings, names)


def openvino_rival(network: PackedNetwork, x: Array, threads: int, precision: str) -> Callable[[], Any]:
    """Return a call that runs inputs (N, ...) with OpenVINO and float or int8 weights.

    Args:
        network: Packed network.
        x: Inputs, (N, ...).
        threads: Number of threads.
        precision: "f32", "bf16", or "int8", which rounds weights and inputs of all layers by FakeQuantize with one
            scale per tensor from the largest magnitudes on up to four of `x`, and replaces signs by rectifiers.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    from bitbayes.packed.backends.openvino.runtime import compiled

    twin, ranges = without_bits(network, precision == "int8"), None
    if precision == "int8":
        ranges, precision = input_ranges(twin, x[:4]), "f32"
    request = compiled(twin, len(x), threads, precision, ranges)
    return lambda: request.infer({0: x}, share_inputs=True)


def torch_bfloat16(network: PackedNetwork, x: Array) -> Callable[[], Any]:
    """Return a call that runs inputs (N, ...) with torch, with weights and layer inputs in bfloat16.

    Raises:
        ImportError: If torch is not installed.
    """
    import torch

    from bitbayes.packed.backends.torch import computed, once, stored

    twin, images = without_bits(network), torch.from_numpy(x)
    steps, order = twin.program.steps, Steps(twin)
    tensors = once(twin, stored(twin))
    for found in tensors:
        if "weight" in found:
            found["weight"] = found["weight"].bfloat16()

    @torch.no_grad()
    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return next(order.run(images, lambda index, sources, _: computed(steps[index], sources, tensors[index])))

    return run
