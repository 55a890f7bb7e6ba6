"""The wheel, installed where there is neither torch nor a compiler; slow, for it builds and installs (`make slow`)."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import arm
import bitbayes as bb
import needs
from bitbayes.kernels import variants

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
WITHOUT = {"PATH": "", "HOME": ""}  # where a compiler would be found, and where it would leave a library
STEMS = sorted(path.stem for path in (ROOT / "src/bitbayes/kernels").glob("*.c"))
HERE = platform.machine() in variants.FAMILIES and sys.platform != "win32"
needs_compiler = (needs.COMPILER if HERE else needs.VARIANTS).unless(HERE and shutil.which("cc"))


def run(*command: object, cwd: Path, **environment: str) -> str:
    others = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CC", "BITBAYES_KERNELS")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=others | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(folder: Path, source: Path = ROOT, **environment: str) -> Path:
    """The wheel that pip makes."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    run(*command, cwd=folder, **environment)
    (wheel,) = folder.glob("bitbayes-*.whl")
    return wheel


def libraries(wheel: Path) -> dict[str, bytes]:
    """Name without digest, and content, of the libraries in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        paths = [name for name in archive.namelist() if name.startswith("bitbayes/kernels/shipped/")]
        return {path.rpartition("/")[2].rsplit(".", 2)[0]: archive.read(path) for path in paths}


def expected(machine: str) -> set[str]:
    return {
        f"{stem}.{variant.name}"
        for stem in STEMS
        for variant in variants.FAMILIES[machine]
        if not variant.files or stem in variant.files
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def edge(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel, NumPy and safetensors."""
    folder = tmp_path_factory.mktemp("edge")
    venv.create(folder / "edge", with_pip=True)
    python = folder / "edge" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "numpy", "safetensors", cwd=folder)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    return python


def test_a_wheel_runs_packed_networks_without_torch(wheel: Path, edge: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"bitbayes/py.typed", "bitbayes/kernels/inference.c", "bitbayes/kernels/threads.h"} <= names
    assert {f"bitbayes/lab/report/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert not any(name.startswith(("tests", "docs", "runs", "hatch_build")) for name in names)

    model = bb.nn.mlp(12, [70, 64], 3)
    bb.STE(bb.split_parameters(model)[0], seed=0).eval()
    x = torch.randn(5, 12)
    packed = bb.pack(model.eval(), x[:1])
    packed.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", x.numpy())

    backends = ["reference"] + ["native"] * bool(libraries(wheel))
    found = json.loads(run(edge, "-c", RUN, *backends, cwd=tmp_path, **WITHOUT))
    assert not found["torch"] and list(found["outputs"]) == backends
    with torch.no_grad():
        wanted = model(x)
    for outputs in found["outputs"].values():
        torch.testing.assert_close(torch.tensor(outputs)[0], wanted, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_wheel_brings_kernels_for_every_processor_of_its_family(wheel: Path) -> None:
    assert wheel.name.split("-")[2:4] == ["py3", "none"] and "any" not in wheel.name
    assert libraries(wheel).keys() == expected(platform.machine())


@needs_compiler
def test_kernels_of_a_wheel_run_without_a_compiler_and_write_nothing(edge: Path, tmp_path: Path) -> None:
    found = json.loads(run(edge, "-I", ROOT / "tests/shipped.py", cwd=tmp_path, **WITHOUT))
    best = {name: variants.fitting(name)[0].name for name in STEMS}
    assert found == {name: f"shipped with the wheel, {variant}" for name, variant in best.items()}


@needs_compiler
def test_learning_rules_use_the_kernels_of_a_wheel(wheel: Path, tmp_path: Path) -> None:
    """With the torch of these tests, whose folder comes after that of the wheel."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = f"import sys, runpy; sys.path.insert(0, {str(site)!r}); import bitbayes; print(bitbayes.__file__)"
    code += f"\nrunpy.run_path({str(ROOT / 'tests/shipped.py')!r}, run_name='__main__')"
    where, found = run(sys.executable, "-I", "-c", code, cwd=tmp_path, **WITHOUT).splitlines()
    assert where.startswith(str(site)) and json.loads(found).keys() == set(STEMS)


@needs_compiler
@pytest.mark.parametrize("wish", ["", "none", "required"])
def test_a_wheel_without_a_compiler(wish: str, tmp_path: Path) -> None:
    """It fits every machine, and says so; where kernels are required there is none."""
    environment = {"CC": "no-such-compiler", "BITBAYES_KERNELS": wish}
    if wish == "required":
        with pytest.raises(AssertionError, match="no C compiler: no-such-compiler is not on the path; set CC to one"):
            built(tmp_path, **environment)
    else:
        wheel = built(tmp_path, **environment)
        assert wheel.name.endswith("-py3-none-any.whl") and not libraries(wheel)


@needs_compiler
def test_a_source_distribution_makes_the_wheel(wheel: Path, tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "hatchling>=1.25", cwd=tmp_path)
    name = run(python, "-c", code, tmp_path, cwd=ROOT).splitlines()[-1]
    again = built(tmp_path / "again", tmp_path / name, BITBAYES_KERNELS="required")
    assert again.name == wheel.name and libraries(again) == libraries(wheel)


@needs.ARM.unless(not arm.MISSING)
def test_a_wheel_for_another_processor(tmp_path: Path) -> None:
    """Cross-compiled for 64-bit ARM; qemu loads every library and calls one function."""
    wheel = built(tmp_path, CC=arm.COMPILER, BITBAYES_KERNELS="required")
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    found = libraries(wheel)
    assert found.keys() == expected("aarch64")
    (tmp_path / "main.c").write_text(
        """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        void *library = dlopen(paths[i], RTLD_NOW);
        if (!library) return puts(dlerror()), 1;
        const char *(*path)(void) = (const char *(*)(void))dlsym(library, "bitbayes_path");
        if (path) puts(path());
    }
}
"""
    )
    run(arm.COMPILER, "main.c", "-o", "main", cwd=tmp_path)
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
    command = [arm.EMULATOR, "-L", "/usr/aarch64-linux-gnu", "./main", *(f"./{name}" for name in found)]
    assert run(*command, cwd=tmp_path).split() == ["neon"]


def test_a_release_shows_its_pictures_and_links_on_the_package_index(tmp_path: Path) -> None:
    named = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "owner/bitbayes"}
    wheel = built(tmp_path / "release", **named, BITBAYES_KERNELS="none")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    start = f"https://github.com/owner/bitbayes/raw/v{bb.__version__}/docs/images/"
    assert f"({start}belief.svg)" in text and f"({start}moons.svg)" in text
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 20 and all(target.startswith("https://") for target in targets)
