"""Measure every claim about GPUs on one, the most important first.

    benchmarks/on_gpu.sh OUT --data DATA [--seconds 540] [--only PART ...] [--jobs 12]

Each part is a process of its own and writes OUT/PART.json before the next begins, so that an interrupted run keeps what
it has measured. A part that fails, or that is stopped when the time is over, keeps the numbers that it has
and adds its error; the other parts follow. The parts are:

- "tests": the tests that need a GPU.
- "equality": for every rule, how many weights and beliefs differ after five updates: fused from eager ones, and
  captured from fused ones.
- "steps": the table of `benchmarks/gpu.py`.
- "captured": the table of `benchmarks/captured.py`, for CIFAR-10 and text.
- "text", "speed", "speed-wide", "speed-w1a1", "resnet18": tables of `bitbayes reproduce`, whose runs train side by side
  in `--jobs` processes. A table that is stopped has no figures. Its finished runs are in OUT/runs, and the next call
  continues it.

DATA is a folder of CIFAR-10 as `bitbayes train --data` takes it. `--device cpu --tiny` rehearses the parts without a
GPU, on generated images and with sizes whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import captured
import gpu
import step
import torch

import bitbayes as bb
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.studies.tables import run_table
from bitbayes.lab.train.capture import GRAPHS, Captured

_REHEARSED = "cifar10-small"  # recipe of a rehearsal
ROOT = Path(__file__).resolve().parent.parent
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
        jobs: Number of trainings at a time.
    """

    out: Path
    data: str
    device: torch.device
    until: float
    seconds: float
    tiny: bool
    jobs: int = 1

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()


def tests(setting: Setting) -> dict[str, Any]:
    """Run the tests that need a GPU; return the exit status and the end of their output."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    command += ["--collect-only"] if setting.tiny else []
    limit = TESTS_AT_MOST * setting.seconds
    ways: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    try:
        found = subprocess.run(command, timeout=limit, **ways)
        status, output = found.returncode, found.stdout
    except subprocess.TimeoutExpired as error:
        partial = error.stdout or b""
        status, output = None, partial if isinstance(partial, str) else partial.decode(errors="replace")
        output += f"\nstopped after {limit:.0f} seconds"
    return {"status": status, "line": (output.strip().splitlines() or [""])[-1], "tail": output[-4000:]}


def _updated(name: str, device: torch.device, size: int, **options: bool) -> list[torch.Tensor]:
    """Return weights and beliefs after five updates with the same gradients."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(size, size, generator=generator).to(device))
    rule = step.RULES[name]([weight], seed=0, **options)
    gradients = [torch.randn(size, size, generator=generator).to(device) for _ in range(5)]

    def update(gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight.grad = gradient.clone()
        rule.step()
        return gradient.mean(), gradient.mean()

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
    size = 16 if setting.tiny else 512
    found: dict[str, Any] = {"weights of a rule": size * size, "differences": {}}
    for name in _rules(setting):
        eager = _updated(name, setting.device, size, compile=False)
        fused = _updated(name, setting.device, size, compile=True)
        captured = _updated(name, setting.device, size, compile=True, capturable=True)
        pairs = {"fused and eager": (fused, eager), "captured and fused": (captured, fused)}
        found["differences"][name] = {pair: _differences(*both) for pair, both in pairs.items()}
        write(setting, "equality", found)
    return found


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
    words = ["--device", str(setting.device), "--repeats", "3" if setting.tiny else "30", *sizes]
    return gpu.table(gpu.parsed(words), lambda found: write(setting, "steps", found))


def recipes(setting: Setting) -> dict[str, Any]:
    """Return the table of captured.py."""
    words = ["--device", str(setting.device), "--recipes", *(["digits"] if setting.tiny else ["cifar10-speed", "text"])]
    words += ["--precision", "fp32", "--repeats", "2"] if setting.tiny else ["--data", f"cifar10-speed={setting.data}"]
    found = captured.table(captured.parsed(words), lambda found: write(setting, "captured", {"recipes": found}))
    return {"recipes": found}


_BINARY = ("ste", "bayesbinn:straight-through")
_SPEED = ("full-precision", "ste", "bop", "bayesbinn:straight-through", "vispa")


@dataclass(frozen=True)
class Trainings:
    """Runs of one table.

    Args:
        table: Name of the table.
        recipe: Recipe of all runs.
        rules: Rules; all of the table if empty.
        seeds: Number of seeds.
        epochs: Number of epochs beside those of a float network before; None for those of the recipe.
    """

    table: str
    recipe: str
    rules: tuple[str, ...] = ()
    seeds: int = 3
    epochs: int | None = None


TABLES = {
    "text": Trainings("text", "text"),
    "speed": Trainings("speed", "cifar10-speed", _SPEED, epochs=10),
    "speed-wide": Trainings("speed", "cifar10-speed-wide", _BINARY, epochs=10),
    "speed-w1a1": Trainings("speed", "cifar10-speed-w1a1", _BINARY, epochs=10),
    "resnet18": Trainings("speed", "cifar10-speed-resnet18", (*_SPEED, "vispa:rank1", "vispa:rank8"), seeds=1),
}
"""Tables by the names of their parts."""


def trained(setting: Setting, part: str) -> dict[str, Any]:
    """Train the runs of a table side by side; return the figures of each rule, and the seconds of all runs."""
    runs, precision, batch_size = TABLES[part], "bf16", None
    if setting.tiny:
        runs = replace(runs, recipe=_REHEARSED, rules=("ste",), seeds=1, epochs=1)
        precision, batch_size = "fp32", 8
    given = Overrides(
        out=str(setting.out / "runs" / part),
        data=None if runs.recipe == "text" else setting.data,
        device=str(setting.device),
        capture=setting.device.type == "cuda",
        precision=precision,
        epochs=runs.epochs,
        batch_size=batch_size,
    )
    begin = time.monotonic()
    rows, _ = run_table(runs.table, TableChoice(runs.recipe, runs.seeds, runs.rules, setting.jobs), given)
    return {"seconds": time.monotonic() - begin, "rows": [row.figures() for row in rows]}


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "tests": tests,
    "equality": equality,
    "steps": steps,
    "captured": recipes,
    **{part: functools.partial(trained, part=part) for part in TABLES},
}


def write(setting: Setting, name: str, found: dict[str, Any]) -> None:
    """Write the result of a part, with the machine and the version of torch."""
    cuda = setting.device.type == "cuda"
    device = torch.cuda.get_device_name(setting.device) if cuda else "processor"
    about = {"device": device, "torch": torch.__version__, "bitbayes": bb.__version__, "tiny": setting.tiny}
    _write(setting.out / f"{name}.json", {**about, **found})


def _write(path: Path, found: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")  # so that a part that is killed leaves a whole file
    beside.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
    beside.replace(path)


def in_process(name: str, setting: Setting, arguments: list[str]) -> str | None:
    """Run one part in a process of its own until the time is over; return why it ended, or None if it succeeded."""
    if setting.left <= 0:
        return "not begun: no time was left"
    command = [sys.executable, __file__, *arguments, "--seconds", str(setting.left), "--part", name]
    # In a session of its own, so that whatever it has started ends with it, however this process ends.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, error = process.communicate(timeout=setting.left)
            return error[-4000:] if process.returncode else None
        except subprocess.TimeoutExpired:
            return "stopped: the time was over"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> None:
    """Run the parts in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--seconds", type=float, default=540.0, help="seconds of all parts together")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--jobs", type=int, default=12, help="trainings at a time")
    parser.add_argument("--tiny", action="store_true", help="rehearse with tiny sizes")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # of the process that runs this part
    o = parser.parse_args(arguments)
    device = torch.device(o.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here; --device cpu --tiny rehearses without one")
    o.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(o.out, o.data, device, time.monotonic() + o.seconds, o.seconds, o.tiny, o.jobs)
    if o.part:
        write(setting, o.part, PARTS[o.part](setting))
        return
    mine = [str(o.out), "--data", o.data, "--device", o.device, "--jobs", str(o.jobs), *(["--tiny"] if o.tiny else [])]
    for name in PARTS:
        if name not in o.only:
            continue
        begin, path = time.monotonic(), o.out / f"{name}.json"
        if setting.left > 0:
            path.unlink(missing_ok=True)  # of an earlier call
        if error := in_process(name, setting, mine):
            measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            _write(path, {**measured, "error": error})
        print(f"{name}: {time.monotonic() - begin:.0f} s, written to {path}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a stopped script stops its part, too
    main()
