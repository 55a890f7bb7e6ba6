"""Check what is about to be published: `python .ci/distributions.py v0.2.0 dist`.

The tag, the version, the changelog and the citation must agree, and the folder must hold the archive of the sources
and a wheel for each platform, of that version and nothing else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEEL = r"-py3-none-(?:[\w.]+\.)?{}(?:\.[\w.]+)?\.whl"
FILES = {
    "source distribution": r"\.tar\.gz",
    "wheel for Linux on x86-64": WHEEL.format("manylinux[0-9_.a-z]*_x86_64"),
    "wheel for Linux on ARM": WHEEL.format("manylinux[0-9_.a-z]*_aarch64"),
    "wheel for macOS on ARM": WHEEL.format("macosx_[0-9_]+_(?:arm64|universal2)"),
}


def complaints(tag: str, folder: Path, root: Path = ROOT) -> list[str]:
    """Return one line for everything that is wrong."""
    text = {
        name: (root / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")
    }
    version = re.findall(r'^version = "(.+)"$', text["pyproject.toml"], re.MULTILINE)[0]
    found = [] if tag == f"v{version}" else [f"the tag is {tag!r}, but the version in pyproject.toml is {version}"]
    if not re.search(rf"^## \[{re.escape(version)}\]", text["CHANGELOG.md"], re.MULTILINE):
        found.append(f"CHANGELOG.md has no section [{version}]")
    if not re.search(rf"^version: {re.escape(version)}$", text["CITATION.cff"], re.MULTILINE):
        found.append(f"CITATION.cff is not of version {version}")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for what, pattern in FILES.items():
        files = {name for name in names if re.fullmatch(f"bitbayes-{re.escape(version)}{pattern}", name)}
        if len(files) != 1:
            found.append(f"{folder} has {len(files)} files that are the {what} of version {version}, expected 1")
        names -= files
    return found + [f"{folder} has {name}, which no release has" for name in sorted(names)]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python .ci/distributions.py TAG FOLDER")
    sys.exit("\n".join(complaints(sys.argv[1], Path(sys.argv[2]))) or None)
