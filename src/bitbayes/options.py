"""Options of a rule at one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Options"]


class Options:
    """Values by attribute: as `types.SimpleNamespace`, which torch.compile cannot make inside a graph.

    Args:
        values: By name; inside a compiled update numbers are 0-d tensors.

    Example:
        >>> Options(lr=0.1).lr
        0.1
    """

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
