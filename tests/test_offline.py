"""Nothing leaves the machine: from the import to a packed network, without network and with HOME read-only."""

from __future__ import annotations

import os
import subprocess
import sys

import needs

pytestmark = needs.EXPERIMENTS.unless_installed("sklearn")

# Asked of the network is what Python tells its audit hooks, from any thread and library; each is refused too.
CHILD = """
import os, sys
asked, written, home = [], [], os.environ["HOME"]

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.connect"):
        where = arguments[1] if event in ("socket.sendto", "socket.connect") else arguments[0]
        if not isinstance(where, str) or event in ("socket.getaddrinfo", "socket.gethostbyname"):  # a str: a local pipe
            asked.append((event, where))
            raise OSError("the network is refused")
    elif event in ("os.mkdir", "os.rename") or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        cache = os.path.join(home, ".cache")  # of our own kernels, which do without
        if str(arguments[0]).startswith(home) and arguments[0] not in (cache, os.path.join(cache, "bitbayes")):
            written.append((event, arguments[0]))

sys.addaudithook(watch)
import numpy as np, torch, bitbayes as bb
from bitbayes.lab import cli

torch.set_num_threads(1)
weights = torch.nn.Parameter(torch.zeros(1000))
optimizer = bb.BayesBiNN([weights], lr=0.1, ess=10, seed=0, compile=True)
weights.grad = torch.ones(1000)
optimizer.step()
assert cli.main(["train", "digits", "--epochs", "1", "--out", "run"]) == 0
assert cli.main(["pack", "run", "-o", "net.safetensors", "--samples", "2"]) == 0
network = bb.packed.PackedNetwork.read("net.safetensors")
x = np.zeros((2, *network.program.input), np.float32)
for backend in sys.argv[1:]:
    got = np.asarray(bb.packed.load("net.safetensors", backend).outputs(torch.tensor(x) if backend == "torch" else x))
    np.testing.assert_allclose(got, bb.packed.load(network).outputs(x), rtol=1e-4, atol=1e-4)
status = bb.kernels.status("inference")
assert status.startswith(("compiled", "not in use: no C compiler")), status
print("asked", asked)
print("written", written)
"""
# A network namespace without any network, and a home directory on a file system that cannot be written.
APART = [
    "unshare",
    "-rnm",
    "sh",
    "-c",
    'mount --bind "$HOME" "$HOME" && mount -o remount,bind,ro "$HOME" && exec "$@"',
    "sh",
]


def apart(environment: dict[str, str]) -> list[str]:
    """Words before a command that keep it from the network and from writing into HOME, where the system allows that."""
    try:
        found = subprocess.run([*APART, "true"], env=environment, capture_output=True)
    except OSError:
        return []
    return APART if found.returncode == 0 else []


def installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def test_nothing_is_asked_of_the_network_and_nothing_written_to_home(tmp_path):
    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    home.chmod(0o500)
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "CI")}
    environment = kept | {"HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    backends = ["reference", "torch", "native", *(["openvino"] if installed("openvino") else [])]
    before = apart(environment)
    words = [*before, sys.executable, "-c", CHILD, *backends]
    result = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ["asked []", "written []"], result.stdout
    if before or not os.access(home, os.W_OK):
        assert not list(home.iterdir())
    assert not [path for path in temporary.iterdir() if path.name.startswith("bitbayes")]


def test_importing_openvino_with_the_library_leaves_the_process_as_it_was():
    """Its telemetry can still be imported by whoever wants it, and an OpenVINO that is there already stays."""
    needs.OPENVINO.module("openvino")
    code = """
import sys
from bitbayes.packed.backends.openvino.quiet import openvino
ov = openvino("openvino")
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert openvino("openvino") is ov
import openvino_telemetry
openvino("openvino.opset14")
assert sys.modules["openvino_telemetry"] is openvino_telemetry
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
