"""What to say of a folder that is not there."""

from __future__ import annotations

import difflib
from pathlib import Path

__all__ = ["nearest"]


def nearest(path: Path) -> str:
    """The name most like a missing path's among those that exist, for an error message.

    Args:
        path: A path that does not exist.

    Returns:
        A path: what is most like the first missing part, else the deepest folder that exists.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "mnist").mkdir()
        >>> nearest(root / "mnsit") == str(root / "mnist")
        True
    """
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    present = {entry.name: str(entry) for entry in missing.parent.iterdir() if entry.is_dir()}
    alike = difflib.get_close_matches(missing.name, present, n=1)
    return present[alike[0]] if alike else str(missing.parent.absolute())
