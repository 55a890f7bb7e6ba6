"""Measure on a GPU all that this project claims of one, the most important first.

    benchmarks/on_gpu.sh OUT --data DATA [--seconds 540] [--only PART ...]

Each part writes OUT/PART.json before the next begins, so that a machine that is taken away leaves what it has measured.
A part that fails writes its error, and the others follow. The parts are:

- "tests": the tests that need a GPU.
- "equality": for every rule, how many weights and beliefs differ after five updates: fused from eager ones, and
  captured from fused ones.
- "steps": the table of `benchmarks/gpu.py`.
- "speed", "speed-wide": `cifar10-speed` at widths 1 and 1.5, with as many seeds as fit into their shares of the time.
- "vgg": BinaryConnect's VGG, as many epochs as fit into the rest.

DATA is a folder of CIFAR-10 as `bitbayes train --data` takes it. `--device cpu --tiny` rehearses the parts without a
GPU, on generated images and with sizes whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu
import step
import torch

import bitbayes as bb
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.train import LineProgress
from bitbayes.lab.train.capture import GRAPHS, Captured

SHARES = {"speed": 0.45, "speed-wide": 0.6}  # of the time that is left when the part begins
_REHEARSED = "cifar10-small"  # recipe of a rehearsal
TESTS_AT_MOST = 0.25  # share of all seconds


@dataclass(frozen=True)
class Setting:
    """Where and how the parts run.

    Args:
        out: Folder of the results.
        data: Folder of CIFAR-10.
        device: Device to measure.
        until: Time on the clock of `time.monotonic` at which all parts should have ended.
        seconds: Seconds of all parts.
        tiny: Whether sizes are those of a rehearsal.
    """

    out: Path
    data: str
    device: torch.device
    until: float
    seconds: float
    tiny: bool

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()


def tests(setting: Setting) -> dict[str, Any]:
    """Run the tests that need a GPU; return the last line of their output and the exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--collect-only"] if setting.tiny else []
    limit = TESTS_AT_MOST * setting.seconds
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"status": None, "line": f"not finished after {limit:.0f} seconds"}
    return {
        "status": found.returncode,
        "line": (found.stdout.strip().splitlines() or [""])[-1],
        "tail": found.stdout[-4000:],
    }


def _updated(name: str, device: torch.device, size: int, **options: bool) -> list[torch.Tensor]:
    """Return weights and beliefs after five updates with the same gradients."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(size, size, generator=generator).to(device))
    rule = step.RULES[name]([weight], seed=0, **options)
    gradients = [torch.randn(size, size, generator=generator).to(device) for _ in range(5)]
    weight.grad = torch.zeros_like(weight)

    def update(gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert weight.grad is not None
        weight.grad.copy_(gradient)
        rule.step()
        return gradient, gradient

    record = options.get("capturable") and device.type in GRAPHS
    repeated = Captured(update, [rule], GRAPHS[device.type](), device) if record else update
    for gradient in gradients:
        repeated(gradient, gradient)
    belief = rule.state[weight]["belief"].values()
    return [tensor.detach().cpu() for tensor in (weight.data, *belief)]


def _rules(setting: Setting) -> list[str]:
    return [name for name in step.RULES if not setting.tiny or "Adam" in name or "straight-through" in name]


def equality(setting: Setting) -> dict[str, Any]:
    """Compare fused and captured updates of every rule with eager ones: how many numbers differ, and by how much."""
    size, found = (16 if setting.tiny else 512), {}
    for name in _rules(setting):
        eager = _updated(name, setting.device, size, compile=False)
        fused = _updated(name, setting.device, size, compile=True)
        captured = _updated(name, setting.device, size, compile=True, capturable=True)
        pairs = {"fused and eager": (fused, eager), "captured and fused": (captured, fused)}
        found[name] = {pair: _differences(*both) for pair, both in pairs.items()}
    return {"weights of a rule": size * size, "differences": found}


def _differences(these: list[torch.Tensor], those: list[torch.Tensor]) -> dict[str, float]:
    pairs = list(zip(these, those, strict=True))
    weights, *_ = pairs
    return {
        "weights": int((weights[0] != weights[1]).sum()),
        "beliefs": sum(int((a != b).sum()) for a, b in pairs[1:]),
        "relative, at most": max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs),
    }


def steps(setting: Setting) -> dict[str, Any]:
    """Return the table of gpu.py."""
    sizes = ["--width", "16", "--batch", "10", "--matmul", "64", "--copy", "1e4", "--only", "Adam"]
    sizes = sizes if setting.tiny else []
    return gpu.table(gpu.parsed(["--device", str(setting.device), "--repeats", "3" if setting.tiny else "30", *sizes]))


def _trained(setting: Setting, recipe: str, rule: str, seed: int, epochs: int | None = None) -> dict[str, Any]:
    """Train one run; return its summary and the seconds it took."""
    begin, where = time.monotonic(), setting.out / "runs" / f"{recipe}-{rule.replace(':', '-')}-seed{seed}"
    settings: dict[str, Any] = {"precision": "bf16", "epochs": epochs}
    if setting.tiny:
        settings = {"precision": "fp32", "epochs": 1, "batch_size": 8, "predict_samples": 2}
        settings |= {"evaluate_every": 1, "checkpoint_every": 1}
    capture = setting.device.type == "cuda"
    config = make_config(
        recipe,
        rule,
        seed=seed,
        out=str(where),
        data=setting.data,
        device=str(setting.device),
        capture=capture,
        **settings,
    )
    summary = run_recipe(config, resume=True, progress=LineProgress()).summary
    assert summary is not None
    return {"seconds": time.monotonic() - begin, **summary.to_dict()}


def _seeds(setting: Setting, name: str, recipe: str) -> dict[str, Any]:
    """Train rules seed by seed, as long as another run is expected to end within the part's share of the time."""
    recipe = _REHEARSED if setting.tiny else recipe
    end = time.monotonic() + SHARES[name] * setting.left
    rules = ["bayesbinn"] if setting.tiny else ["bayesbinn", "full-precision", "ste"]
    found: dict[str, Any] = {"runs": []}
    longest = 0.0
    for seed in range(1, 2 if setting.tiny else 100):
        for rule in rules:
            if found["runs"] and time.monotonic() + longest > end:
                return found
            found["runs"].append(_trained(setting, recipe, rule, seed))
            longest = max(longest, found["runs"][-1]["seconds"])
            write(setting, name, found)
    return found


def vgg(setting: Setting) -> dict[str, Any]:
    """Train BinaryConnect's VGG for one epoch, and then on a schedule that fills the rest of the time."""
    rule = "bayesbinn:straight-through"
    first = _trained(setting, _REHEARSED if setting.tiny else "cifar10", rule, 1, epochs=1)
    if setting.tiny:
        return {"runs": [first]}
    write(setting, "vgg", {"runs": [first]})
    epochs = int(0.8 * setting.left / first["seconds_per_epoch"])
    return {"runs": [first, *([_trained(setting, "cifar10", rule, 2, epochs=epochs)] if epochs > 1 else [])]}


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "tests": tests,
    "equality": equality,
    "steps": steps,
    "speed": lambda setting: _seeds(setting, "speed", "cifar10-speed"),
    "speed-wide": lambda setting: _seeds(setting, "speed-wide", "cifar10-speed-wide"),
    "vgg": vgg,
}


def write(setting: Setting, name: str, found: dict[str, Any]) -> None:
    """Write the result of a part, with the machine and the version of torch."""
    cuda = setting.device.type == "cuda"
    device = torch.cuda.get_device_name(setting.device) if cuda else "processor"
    about = {"device": device, "torch": torch.__version__, "bitbayes": bb.__version__, "tiny": setting.tiny}
    path = setting.out / f"{name}.json"
    path.write_text(json.dumps({**about, **found}, indent=2, default=str) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run the parts in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--seconds", type=float, default=540.0, help="seconds of all parts together")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--tiny", action="store_true", help="rehearse with tiny sizes")
    o = parser.parse_args(arguments)
    device = torch.device(o.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here; --device cpu --tiny rehearses without one")
    o.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(o.out, o.data, device, time.monotonic() + o.seconds, o.seconds, o.tiny)
    for name, part in PARTS.items():
        if name not in o.only:
            continue
        begin = time.monotonic()
        if setting.left <= 0:
            write(setting, name, {"error": "not begun: no time was left"})
        else:
            try:
                write(setting, name, part(setting))
            except Exception as error:  # the other parts follow
                write(setting, name, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        print(f"{name}: {time.monotonic() - begin:.0f} s, written to {setting.out / name}.json", flush=True)


if __name__ == "__main__":
    main()
