"""Execute notebooks and store what their cells print and draw.

    python docs/notebook.py examples/uncertainty.ipynb

Cells are plain Python, so they need no kernel: they run from top to bottom in one namespace, on one thread. A cell
keeps its printed text, followed by its matplotlib figures as PNG. Run this after changing a cell; a test compares the
stored outputs.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

_DPI = 72


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a notebook with the outputs of its cells."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            with redirect_stdout(io.StringIO()) as printed:
                exec(compile("".join(cell["source"]), f"cell {count}", "exec"), namespace)
            outputs = [_text(printed.getvalue())] if printed.getvalue() else []
            outputs += [_picture(plt.figure(number)) for number in plt.get_fignums()]
            plt.close("all")
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _text(printed: str) -> dict[str, Any]:
    return {"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}


def _picture(figure: Any) -> dict[str, Any]:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    png = base64.b64encode(file.getvalue()).decode()
    return {"data": {"image/png": png, "text/plain": ["<Figure>"]}, "metadata": {}, "output_type": "display_data"}


def main() -> None:
    """Execute the notebooks of the command line and rewrite them."""
    parser = argparse.ArgumentParser(description="Execute notebooks and store their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path, help="notebooks to rewrite")
    plt.switch_backend("Agg")
    torch.set_num_threads(1)
    for path in parser.parse_args().notebooks:
        found = executed(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
