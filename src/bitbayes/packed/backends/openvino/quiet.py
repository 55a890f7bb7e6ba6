"""Import of OpenVINO without telemetry."""

from __future__ import annotations

import sys
from types import ModuleType

from bitbayes.errors import require

_TELEMETRY = ("openvino_telemetry", "openvino_telemetry.backend")


def openvino(module: str) -> ModuleType:
    """Import a module of OpenVINO without its telemetry.

    If the package `openvino_telemetry` is installed, `import openvino` sends an event to a host on the internet and
    writes an identifier and statistics into the home directory. This function hides that package while it imports
    OpenVINO. An OpenVINO that the program has already imported is not affected.

    Args:
        module: Dotted name of the module.

    Raises:
        ImportError: If OpenVINO is not installed. The message names the extra.
    """
    before = {name: sys.modules[name] for name in _TELEMETRY if name in sys.modules}
    try:
        sys.modules |= dict.fromkeys(_TELEMETRY)  # type: ignore[arg-type]  # None: the import fails
        return require(module, "openvino")
    finally:
        for name in _TELEMETRY:
            sys.modules.pop(name, None)
        sys.modules |= before
