"""Environment of a run: versions, the kind of processor, and the commit."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from bitbayes import __version__


def environment(device: torch.device) -> dict[str, str | int]:
    """Return the content of environment.json: whatever may change the last digits of a run, or its time.

    It contains no path, user or machine name, so that a run can be shared. The commit is included if the package lies
    in its own git checkout.

    Example:
        >>> sorted(environment(torch.device("cpu")).keys() - {"commit"})
        ['bitbayes', 'cpu', 'numpy', 'python', 'system', 'threads', 'torch']
    """
    found: dict[str, str | int] = {"bitbayes": __version__}
    if commit := _commit():
        found["commit"] = commit
    found |= {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    found |= {"system": f"{platform.system()} {platform.machine()}", "cpu": torch.backends.cpu.get_cpu_capability()}
    found["threads"] = torch.get_num_threads()
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return found


@functools.cache  # commit of the code that this process has loaded
def _commit() -> str | None:
    """Return the commit of the checkout that tracks this package, with "-dirty" if it has changes, or None.

    `ls-files` excludes the case that an installed package lies inside the checkout of another project.
    """
    tracked, head = "ls-files --error-unmatch __init__.py", "describe --always --dirty --abbrev=40 --exclude=*"
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    how = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        subprocess.run([*git, *tracked.split()], **how)
        return subprocess.run([*git, *head.split()], **how).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
