"""Draw the pictures of the documentation: `python docs/pictures` draws all, `python docs/pictures NAME ...` some.

A picture is a file NAME.py beside this one with a function `draw`, which returns a matplotlib figure or the text of an
SVG. It becomes `docs/images/NAME.svg`.
"""

import importlib
import sys
from pathlib import Path

import style

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__main__", "style"))


def main(names: list[str]) -> int:
    """Draw the named pictures, or all; return 2 if a name is not known."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no picture is called {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in names or NAMES:
        drawn = importlib.import_module(name).draw()
        print(style.save(drawn if isinstance(drawn, str) else style.svg(drawn), name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
