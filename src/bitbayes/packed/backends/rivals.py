"""The same networks without bits: what the packed ones are measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.reference import ReferenceRuntime
from bitbayes.packed.format.bits import unpack_signs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import fan_in
from bitbayes.packed.format.program import Program, Step

__all__ = ["input_ranges", "openvino_rival", "torch_bfloat16", "without_bits"]

Array = npt.NDArray[Any]


def without_bits(network: PackedNetwork, rectified: bool = False) -> PackedNetwork:
    """The first of the C networks with its weights in float32.

    Args:
        network: Any.
        rectified: Puts a rectifier in the place of each sign and comparison, as a network made for int8 would have.
    """
    steps: list[Step] = []
    tensors: dict[str, Array] = {}
    place = [0]  # of an old value among the new ones
    for index, step in enumerate(network.program.steps):
        sources = tuple(place[source] for source in step.sources)
        mine = {role: network.tensor(step, role, 0) for role in step.tensors}
        settings, op = step.settings, step.op
        if op in ("linear", "conv") and mine["weight"].dtype == np.uint8:
            shape = network.values[step.sources[0]].shape
            signs = unpack_signs(mine["weight"], fan_in(settings, shape))
            kernel = settings.get("kernel", ())
            mine["weight"] = signs.reshape(len(signs), shape[0] // settings.get("groups", 1), *kernel)
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


def input_ranges(network: PackedNetwork, x: Array) -> dict[int, float]:
    """The largest magnitude of what each layer takes for inputs (N, ...), by the layer's index."""
    found: dict[int, float] = {}

    class Watched(ReferenceRuntime):
        def step(self, step: Step, index: int, sources: list[Array], sample: int) -> Array:
            if step.op in ("linear", "conv"):
                found[index] = max(found.get(index, 0.0), float(np.abs(sources[0]).max()) or 1.0)
            return super().step(step, index, sources, sample)

    Watched(network).outputs(x)
    return found


def openvino_rival(network: PackedNetwork, x: Array, threads: int, precision: str) -> Callable[[], Any]:
    """OpenVINO without bits.

    Args:
        network: Any.
        x: Inputs, (N, ...).
        threads: Of the processor.
        precision: "f32", "bf16", or "int8": weights and inputs of all layers rounded by FakeQuantize, one scale a
            tensor, from the largest magnitudes on up to four of `x`; rectifiers in the place of signs.

    Returns:
        A call that runs `x`.

    Raises:
        ImportError: Without OpenVINO.
    """
    from bitbayes.packed.backends.openvino.runtime import compiled

    twin, ranges = without_bits(network, precision == "int8"), None
    if precision == "int8":
        ranges, precision = input_ranges(twin, x[:4]), "f32"
    request = compiled(twin, len(x), threads, precision, ranges)
    return lambda: request.infer({0: x}, share_inputs=True)


def torch_bfloat16(network: PackedNetwork, x: Array) -> Callable[[], Any]:
    """Torch with weights and inputs of layers in bfloat16.

    Args:
        network: Any.
        x: Inputs, (N, ...).

    Returns:
        A call that runs `x`.

    Raises:
        ImportError: Without torch.
    """
    import torch

    from bitbayes.packed.backends.torch import TorchRuntime

    runtime, images = TorchRuntime(without_bits(network)), torch.from_numpy(x)
    for tensors in runtime._once or ():
        if "weight" in tensors:
            tensors["weight"] = tensors["weight"].bfloat16()

    @torch.no_grad()
    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return runtime.run(images, 0)

    return run
