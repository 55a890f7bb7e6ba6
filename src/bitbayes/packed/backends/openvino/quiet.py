"""Imports OpenVINO so that it asks nobody for anything."""

from __future__ import annotations

import sys
from types import ModuleType

from bitbayes.errors import require

_TELEMETRY = ("openvino_telemetry", "openvino_telemetry.backend")


def openvino(module: str) -> ModuleType:
    """Import a module of OpenVINO without its telemetry.

    `import openvino` sends an event to a host on the internet and writes an identifier and statistics into the home
    directory, unless the package `openvino_telemetry` is not installed. While OpenVINO is imported, that package
    cannot be found; afterwards everything is as before. An OpenVINO that the program has imported itself stays as it
    is.

    Args:
        module: Dotted module name.

    Raises:
        ImportError: Without OpenVINO; names the extra.
    """
    before = {name: sys.modules[name] for name in _TELEMETRY if name in sys.modules}
    try:
        sys.modules |= dict.fromkeys(_TELEMETRY)  # type: ignore[arg-type]  # None: the import fails
        return require(module, "openvino")
    finally:
        for name in _TELEMETRY:
            sys.modules.pop(name, None)
        sys.modules |= before
