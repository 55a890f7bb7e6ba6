"""Posteriors as safetensors files: tensors named part/parameter, and the name of the format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["read", "write"]

Parts = dict[str, dict[str, Tensor]]


def write(path: str | Path, form: str, parts: Mapping[str, Mapping[str, Tensor]], **about: str) -> None:
    """Writes named tensors.

    Args:
        path: Where.
        form: Name of the format.
        parts: Tensors by part and parameter name.
        about: More metadata.
    """
    tensors = {f"{part}/{name}": t.contiguous() for part, named in parts.items() for name, t in named.items()}
    save_file(tensors, str(path), metadata={"format": form} | about)


def read(path: str | Path, form: str | None = None, needs: Iterable[str] = ()) -> tuple[dict[str, str], Parts]:
    """Reads what `write` wrote.

    Args:
        path: The file.
        form: Expected format; None takes any.
        needs: Parts and metadata that must be there.

    Returns:
        Metadata, and tensors by part and parameter name, on the CPU.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not a posterior of that format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no posterior at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            found = about.get("format")
            if form is not None and found != form:
                raise ValueError(f"{path} is not a saved posterior: its format is {found!r}, expected {form!r}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved posterior: {error}") from error
    parts: Parts = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    missing = set(needs) - set(parts) - set(about)
    if missing:
        raise ValueError(f"{path} is not a saved posterior: it has no {', '.join(sorted(missing))}")
    return about, parts
