"""Construct a runtime from a file or a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bitbayes.packed.backends.runtime import Runtime
from bitbayes.packed.format.network import PackedNetwork

BACKENDS = ("reference", "torch", "native", "openvino")


def load(network: PackedNetwork | str | Path, backend: str = "reference", **options: Any) -> Runtime:
    """Load a packed network, from a file or from memory, onto a backend that runs it.

    Args:
        network: Packed network, or path of its file. The file need not be trusted: it is fully checked.
        backend: "reference" (needs only NumPy, slow), "torch", "native" (compiled kernels; works without torch) or
            "openvino" (needs the extra of that name). All backends compute the same outputs up to rounding.
        **options: Options of the backend: `device` for "torch", `threads` for "native" and "openvino"; `allow` and
            `inputs` for "openvino".

    Returns:
        A runtime with the methods `outputs(x)` and `predict(x)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a package that the backend needs is not installed.
        PackedFileError: If the file is not a valid packed network of this version.
        ValueError: If there is no such backend, or the backend has no such option.

    Example:
        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> bb.pack(model, torch.zeros(1, 3)).save(path)
        >>> load(path).predict(torch.ones(5, 3).numpy()).probs.shape
        (5, 2)
    """
    if not isinstance(network, PackedNetwork):
        network = PackedNetwork.read(network)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    try:
        runtime = _runtime(backend)
        check_options(backend, list(inspect.signature(runtime).parameters)[1:], options)
        return runtime(network, **options)
    except ImportError as error:
        raise ImportError(f'{error}; or use the backend "native" or "reference"') from error


def check_options(backend: str, known: Sequence[str], options: Iterable[str]) -> None:
    """Raise ValueError for an option that a backend does not have.

    Example:
        >>> check_options("reference", [], ["threads"])
        Traceback (most recent call last):
        ...
        ValueError: the backend 'reference' has no option 'threads'; it has none
    """
    for name in options:
        if name not in known:
            raise ValueError(f"the backend {backend!r} has no option {name!r}; it has {', '.join(known) or 'none'}")


def _runtime(backend: str) -> Callable[..., Runtime]:
    """Import a backend on demand, because torch and OpenVINO may not be installed."""
    match backend:
        case "torch":
            from bitbayes.packed.backends.torch import TorchRuntime as runtime
        case "native":
            from bitbayes.packed.backends.native.runtime import NativeRuntime as runtime
        case "openvino":
            from bitbayes.packed.backends.openvino.runtime import OpenVinoRuntime as runtime
        case _:
            from bitbayes.packed.backends.reference import ReferenceRuntime as runtime
    return runtime
