"""Compile the kernels into a wheel, and make the README readable on the package index; hatchling calls this.

`$BITBAYES_KERNELS` says what a wheel is to hold: "required" (fail where a file cannot be compiled; releases are made
so), "none" (no library, so the wheel fits every machine), or nothing (libraries where there is a compiler).
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_KERNELS = Path("src/bitbayes/kernels")
_WISHES = ("required", "none", "")
_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def _module(path: Path) -> Any:
    """Import a file of the package before the package, which needs torch, can be imported."""
    spec = importlib.util.spec_from_file_location(f"_bitbayes_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _macos(machine: str) -> tuple[str, str, list[str]]:
    """Return machine, platform tag and options on macOS, where cibuildwheel says what it builds for in `$ARCHFLAGS`."""
    words = shlex.split(os.environ.get("ARCHFLAGS", ""))
    wanted = [word for before, word in itertools.pairwise(words) if before == "-arch"] or [machine]
    if len(wanted) > 1:
        raise OSError(f"one architecture a wheel, got ARCHFLAGS={shlex.join(words)!r}")
    least = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or ("11.0" if wanted[0] == "arm64" else "10.13")
    major, minor = [*least.split("."), "0"][:2]
    tag = f"macosx_{major}_{'0' if int(major) > 10 else minor}_{wanted[0]}"
    return wanted[0], tag, ["-arch", wanted[0], f"-mmacosx-version-min={least}"]


def _linux(compiler: list[str]) -> tuple[str, str, list[str]]:
    """Return machine, platform tag and options on Linux, where `$CC` may be a compiler for another processor."""
    run = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, timeout=60)
    triplet = run.stdout.strip()
    machine = triplet.partition("-")[0]
    if run.returncode or "linux" not in triplet or "musl" in triplet or sys.maxsize < 1 << 32:
        raise OSError(f"{compiler[0]} makes no code for 64-bit Linux with glibc: {triplet or run.stderr.strip()}")
    return machine, f"linux_{machine}", ["-s"]  # no symbols for a debugger


def _compile(folder: Path, root: Path) -> tuple[str, dict[str, str]]:
    """Compile every file for every kind of processor; return the platform tag, and where in the wheel what belongs.

    Raises:
        OSError: If a file cannot be compiled; says why.
    """
    variants = _module(root / _KERNELS / "variants.py")
    compiler = variants.compiler()
    if sys.platform not in ("linux", "darwin"):
        raise OSError(f"no kernels are built on {sys.platform}")
    machine, tag, flags = _macos(platform.machine()) if sys.platform == "darwin" else _linux(compiler)
    if machine not in variants.FAMILIES:
        raise OSError(f"the kernels have no variants for {machine}")
    placed = {}
    for source in sorted((root / _KERNELS).glob("*.c")):
        for variant in variants.FAMILIES[machine]:
            if variant.files and source.stem not in variant.files:
                continue
            made = folder / "made.so"
            command = variants.command(compiler, [*flags, *variant.flags], source, made)
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if run.returncode:
                raise OSError(f"{' '.join(command)} failed:\n{run.stderr.strip()}")
            kept = folder / variants.shipped_name(source.stem, variant.name, made.read_bytes())
            made.rename(kept)
            placed[str(kept)] = f"bitbayes/kernels/shipped/{kept.name}"
    return tag, placed


class CustomBuildHook(BuildHookInterface):
    """Adds compiled kernels to a wheel; an editable installation compiles them at first use."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform of the wheel; without a compiler the wheel stays one for all platforms."""
        wish = os.environ.get("BITBAYES_KERNELS", "")
        if wish not in _WISHES:
            raise ValueError(f'BITBAYES_KERNELS must be "required", "none" or unset, got {wish!r}')
        if version == "editable" or wish == "none":
            return
        self._room = tempfile.TemporaryDirectory(prefix="bitbayes-")
        try:
            tag, placed = _compile(Path(self._room.name), Path(self.root))
        except (OSError, subprocess.SubprocessError) as error:
            if wish == "required":
                raise
            self.app.display_warning(f"the wheel has no compiled kernels: {error}")
            return
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{tag}"
        build_data["force_include"].update(placed)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled; it is in the wheel now."""
        if hasattr(self, "_room"):
            self._room.cleanup()


class CustomMetadataHook(MetadataHookInterface):
    """Gives the package index a README whose links and pictures lead to the repository that makes the release."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README; outside of GitHub's workflows, which name their repository, it stays as it is."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
        if server and repository:
            text = absolute_links(text, f"{server}/{repository}", f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to pages of a repository at a tag, and images to its files."""

    def whole(found: re.Match[str]) -> str:
        image, words, path = found.groups()
        return f"{image}[{words}]({repository}/{'raw' if image else 'blob'}/{tag}/{path})"

    return _RELATIVE.sub(whole, text)
