"""The wheel, installed where there is no torch; slow, for it builds and installs (`make slow`)."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import bitbayes as bb

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
RUN = """
import json, sys
import numpy as np
import bitbayes.packed as packed
x = np.load("x.npy")
found = {name: packed.load("net.safetensors", name).outputs(x).tolist() for name in sys.argv[1:]}
print(json.dumps({"torch": "torch" in sys.modules, "outputs": found}))
"""


def run(*command: object, cwd: Path) -> str:
    return subprocess.run([str(word) for word in command], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_a_wheel_runs_packed_networks_without_torch(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("bitbayes-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"bitbayes/py.typed", "bitbayes/kernels/inference.c", "bitbayes/kernels/real.c"} <= names
    assert {f"bitbayes/lab/report/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert not any(name.startswith(("tests", "docs", "runs")) for name in names)

    model = bb.nn.mlp(12, [70, 64], 3)
    bb.STE(bb.split_parameters(model)[0], seed=0).eval()
    x = torch.randn(5, 12)
    packed = bb.pack(model.eval(), x[:1])
    packed.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", x.numpy())

    venv.create(tmp_path / "edge", with_pip=True)
    python = tmp_path / "edge" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "numpy", "safetensors", cwd=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    backends = ["reference"] + ["native"] * bb.kernels.status("inference").startswith("compiled")
    found = json.loads(run(python, "-c", RUN, *backends, cwd=tmp_path))
    assert not found["torch"] and list(found["outputs"]) == backends
    with torch.no_grad():
        wanted = model(x)
    for outputs in found["outputs"].values():
        torch.testing.assert_close(torch.tensor(outputs)[0], wanted, rtol=1e-5, atol=1e-5)
