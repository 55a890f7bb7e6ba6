"""Load and run mutated packed networks under a limit of time and memory, in processes that may die.

`python benchmarks/fuzz_limits.py 20000` prints how many files were refused, loaded and run, and what the most expensive
one took.

The mutations know the format: they change shapes, counts, windows and numbers of networks, mend the tensors so that
most programs stay sound, and also change single bytes. A file may take 2 s of CPU time and four times its own memory.
Its own memory is what any reader has to hold for it in float32: the weights of all networks, the values that the
program needs at the same time, the outputs, and the bytes of the file. For a refused file it is the bytes alone. What a
file takes is the growth of the peak resident size of a process that has run other files before. Beside four times its
own memory Python may take `ALLOWED` bytes: for the longest program that the format allows, and for code that no file
has run yet.

Every backend loads a sound file. A backend runs it only if it asks for at most `MOST` operations: the format allows
programs that take minutes, and says so before anything runs.
"""

import argparse
import ctypes
import itertools
import json
import math
import os
import random
import resource
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from bitbayes.packed import PackedFileError, PackedNetwork, Program, Step, load
from bitbayes.packed.backends.runtime import random_inputs
from bitbayes.packed.format.bits import row_bytes
from bitbayes.packed.format.check import held
from bitbayes.packed.format.ops import OPS, Value
from bitbayes.packed.format.program import parse_program, program_text

FUZZ = runpy.run_path(str(Path(__file__).with_name("fuzz_packed.py")), run_name="fuzz_packed")
SECONDS, TIMES, ALLOWED = 2.0, 4, 12 << 20
MOST, STEP = 1 << 25, 1 << 13  # operations of a file that is run, and operations that the overhead of a step counts as
ODD_COUNTS = [0, 1, 2, 3, 5, 7, 8, 13, 64, 101, 255, 256, 1000, 4096, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1]
BACKENDS = ("reference", "native", "torch")


def images(samples=1):
    """Return a convolutional network of signs and numbers on images of 24 x 24."""
    rng = np.random.default_rng(1)
    lead = () if samples == 1 else (samples,)
    window = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    conv = {"kernel": [3, 3], **window, "groups": 1}
    pool = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}
    tensors = {
        "a": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "b": rng.integers(0, 256, (*lead, 32, 18), dtype=np.uint8),
        "t": rng.integers(-9, 9, (*lead, 32), dtype=np.int32),
        "d": rng.integers(0, 256, (*lead, 32, 36), dtype=np.uint8),
        "s": rng.random((*lead, 32), np.float32),
        "e": rng.integers(0, 256, (*lead, 10, 36), dtype=np.uint8),
        "p": rng.random((32,), np.float32),
    }
    steps = (
        Step("conv", (0,), "stem", conv, {"weight": "a"}),
        Step("sign", (1,), "stem"),
        Step("conv", (2,), "one", conv, {"weight": "b"}),
        Step("max_pool", (3,), "pool", {**pool, "dilation": [1, 1], "ceil": True}),
        Step("threshold", (4,), "one", {}, {"threshold": "t"}),
        Step("conv", (5,), "two", conv, {"weight": "d"}),
        Step("affine", (6,), "two", {}, {"scale": "s"}),
        Step("prelu", (7,), "two", {}, {"slope": "p"}),
        Step("avg_pool", (8,), "mean", {**pool, "count_padding": False}),
        Step("tanh", (9,), "act"),
        Step("add", (9, 10), "sum"),
        Step("adaptive_avg_pool", (11,), "adapt", {"size": [3, 3]}),
        Step("reshape", (12,), "flat", {"shape": [288]}),
        Step("linear", (13,), "head", {}, {"weight": "e"}),
        Step("clamp", (14,), "head", {"min": -1e3, "max": 1e3}),
        Step("softmax", (15,), "head", {"axis": 1}),
    )
    return PackedNetwork(Program((3, 24, 24), samples, steps), tensors)


# Mutations: each changes a program, in place, in one or a few ways. -------------------------------------------------


def shapes(program, rng):
    """Change the input, the shape of a reshape or the size of an adaptive pool."""
    lists = [
        program["input"],
        *(s["settings"][k] for s in program["steps"] for k in ("shape", "size") if k in settings(s)),
    ]
    _change(rng.choice(lists), rng)


def windows(program, rng):
    """Change the kernel, stride, padding or dilation of a convolution or a pool."""
    keys = ("kernel", "stride", "padding", "dilation", "before", "after")
    lists = [s["settings"][key] for s in program["steps"] for key in keys if key in settings(s)]
    for _ in range(rng.randint(1, 3) if lists else 0):
        _change(rng.choice(lists), rng)


def counts(program, rng):
    """Repeat steps, let many steps take one value, and change groups, axes and numbers of clamps."""
    steps, action = program["steps"], rng.randrange(4)
    if action == 0:  # a step many times, of the same value or of its own
        index = rng.randrange(len(steps))
        step, times = steps[index], rng.choice([1, 10, 60, 300, 3000])
        one = rng.random() < 0.5
        more = [{**step, "from": [index + 1 + (0 if one else i)] * len(step["from"])} for i in range(times)]
        program["steps"] = [*steps[: index + 1], *more, *_moved(steps[index + 1 :], index, times)]
    elif action == 1:
        step = rng.choice(steps)
        step["from"] = [rng.randrange(steps.index(step) + 1) for _ in range(rng.choice([1, 2, 2, 256]))]
        step["op"] = rng.choice([step["op"], "concat", "add", "multiply"])
        if step["op"] == "concat":
            step.pop("tensors", None)
            step["settings"] = {"axis": rng.randint(1, 3)}
    elif action == 2:
        for step in rng.sample(steps, len(steps)):
            if "groups" in settings(step):
                step["settings"]["groups"] = rng.choice(ODD_COUNTS)
                break
    else:
        step = rng.choice(steps)
        step["op"], step["settings"] = "clamp", {"min": rng.choice([-1, 10**30, -(10**25), 1e-45, 0]), "max": None}
        step.pop("tensors", None)


def tokens(program, rng):
    """Change heads, scales, ends of slices, and what is added to a mean of squares."""
    keys = ("heads", "scale", "causal", "axis", "begin", "end", "eps", "centre")
    places = [(step["settings"], key) for step in program["steps"] for key in keys if key in settings(step)]
    for _ in range(rng.randint(1, 3) if places else 0):
        holder, key = rng.choice(places)
        holder[key] = rng.choice([*ODD_COUNTS[:9], True, False, 1e-30, 0.5, 1e30, -1])


def samples(program, rng):
    """Change the number of networks, and mend the tensors only now and then."""
    program["samples"] = rng.choice([1, 2, 3, 64, 1000, 4096, 4097])


STRUCTURE = {"shapes": shapes, "windows": windows, "counts": counts, "tokens": tokens, "samples": samples}


def settings(step):
    return step.get("settings", {})


def _change(numbers, rng):
    place = rng.randrange(len(numbers)) if numbers else None
    known = ODD_COUNTS if rng.random() < 0.5 else [0, 1, 2, 3, 4, 5, 7, 8, 12, 25]
    if place is None or rng.random() < 0.05:
        numbers.insert(0, rng.choice(known))
    elif rng.random() < 0.5:
        numbers[:] = [rng.choice(known)] * len(numbers)
    else:
        numbers[place] = rng.choice([*known, numbers[place] + 1, numbers[place] * 2, numbers[place] - 1])


def _moved(steps, index, times):
    return [{**s, "from": [v + times if v > index else v for v in s["from"]]} for s in steps]


def structured(network, rng):
    """Return one file: its kind, its program as JSON, and its tensors, which fit where that is easy."""
    kind = rng.choice(list(STRUCTURE))
    program = json.loads(program_text(network.program))
    for _ in range(rng.choice([1, 1, 2])):
        STRUCTURE[kind](program, rng)
    tensors = dict(network.tensors)
    if rng.random() < 0.9:
        mend(program, tensors, rng)
    return kind, json.dumps(program), tensors


def mend(program, tensors, rng):
    """Give weights the shapes that their layers need, and flat shapes the size of what they flatten."""
    try:
        read = parse_program(json.dumps(program))
        values = [Value(read.input)]
        for index, step in enumerate(read.steps):
            shape = values[step.sources[0]].shape
            if step.op == "reshape" and rng.random() < 0.9:
                program["steps"][index]["settings"] = {"shape": [math.prod(shape)]}
                step = replace(step, settings={"shape": (math.prod(shape),)})
            mine = {}
            for role, name in step.tensors.items():
                tensor = tensors[name]
                if (tensor.ndim > (2 if role == "weight" else 1) and tensor.dtype != np.float32) or role == "scale":
                    tensor = tensor[0] if tensor.ndim > 1 else tensor
                if role == "weight":
                    fan = step.fan_in(shape)
                    like = (
                        (len(tensor), row_bytes(fan))
                        if tensor.dtype == np.uint8
                        else (len(tensor), shape[0], *step.kernel)
                    )
                    if tensor.shape != like and math.prod(like) < 1 << 20:
                        tensor = np.zeros(like, tensor.dtype)
                elif role in ("table", "offset"):
                    size = math.prod(shape)
                    tensor = np.resize(tensor, size) if role == "offset" and size < 1 << 20 else tensor
                elif tensor.shape[0] not in (1, shape[0]):
                    tensor = np.resize(tensor, shape[0]) if shape[0] < 1 << 18 else tensor[:1]
                mine[role] = tensor
                differs = read.samples > 1 and read.samples * tensor.size < 1 << 19 and rng.random() < 0.7
                tensors[name] = np.broadcast_to(tensor, (read.samples, *tensor.shape)).copy() if differs else tensor
            values.append(OPS[step.op].infer([values[s] for s in step.sources], step, mine))
    except (PackedFileError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        pass  # it stays unsound
    used = {name for step in program["steps"] if isinstance(step, dict) for name in step.get("tensors", {}).values()}
    for name in set(tensors) - used:
        del tensors[name]


def one(originals, rng):
    """Return one file of hostile bytes: its kind and its bytes."""
    from safetensors.numpy import save

    network, content = rng.choice(originals)
    if rng.random() < 0.25:
        return FUZZ["mutated"](content, rng)
    kind, text, tensors = structured(network, rng)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return kind, save(tensors, metadata={"bitbayes.packed": text})


_STOP = []  # what asked to end early: the files so far are counted

# Limits. -----------------------------------------------------------------------------------------------------------


def attempt(path):
    """Load a file with every backend, run it if it is small, and return (outcome, its own memory in bytes)."""
    try:
        network = PackedNetwork.read(path)
    except PackedFileError as error:
        assert len(str(error).splitlines()) == 1, f"more than a line: {error}"
        return "refused", os.path.getsize(path)
    program, tensors = network.program, network.tensors.values()
    numbers = held(program, network.values, network._differing) + program.samples * network.values[-1].size
    weights = sum(8 * tensor.nbytes if tensor.dtype == np.uint8 else tensor.size for tensor in tensors)
    own = 4 * (numbers + weights) + os.path.getsize(path)
    work = sum(value.size + value.binary + value.real + STEP for value in network.values) * program.samples
    x, run = random_inputs(network, 1), work <= MOST
    for backend in BACKENDS:
        runtime = load(network, backend)
        if run:
            with np.errstate(all="ignore"):
                found = runtime.outputs(x if backend != "torch" else __import__("torch").from_numpy(x))
            assert tuple(found.shape) == (program.samples, 1, *network.values[-1].shape)
    return "run" if run else "loaded", own


def limited(paths, warm):
    """Do the same in a process of its own, after other files: for each file, until the process dies, what came of it.

    Yields (what, own memory, peak growth in bytes, CPU seconds).
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
            for path in warm:
                attempt(path)
            for path in paths:
                signal.alarm(60)  # of wall-clock time: it hangs
                pipe.write(json.dumps(_measured(path)) + "\n")
                pipe.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        yield from map(json.loads, pipe)
    _, status = os.waitpid(child, 0)
    if status:
        yield f"died: {status}", -1, 0, 0.0


def _measured(path):
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _kilobytes("VmRSS"), time.process_time()
    try:
        what, own = attempt(path)
    except BaseException as error:
        what, own = f"{type(error).__name__}: {error}"[:2000], -1
    return what, own, (_kilobytes("VmHWM") - before) << 10, time.process_time() - start


def _kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def run(total, folder, seed=0, several=100):
    """Try that many files: counts of (kind, what came of it), and the largest of what was measured."""
    import torch

    torch.set_num_threads(1)
    rng, folder, originals, warm = random.Random(seed), Path(folder), [], []
    folder.mkdir(parents=True, exist_ok=True)
    for make, networks in itertools.product((FUZZ["network"], FUZZ["encoder"], images), (1, 3)):
        network = make(networks)
        warm.append(folder / f"original-{seed}-{len(warm)}.safetensors")
        warm[-1].write_bytes(FUZZ["unsealed"](network, warm[-1]))
        attempt(warm[-1])  # what is loaded once stays
        originals.append((network, warm[-1].read_bytes()))
    found, worst, index = Counter(), {"seconds": 0.0, "bytes": 0, "times the own memory, beyond that of Python": 0.0}, 0
    while index < total and not _STOP:
        files = []
        for _ in range(min(several, total - index)):
            kind, data = one(originals, rng)
            files.append((kind, folder / f"file-{seed}-{len(files)}.safetensors"))
            files[-1][1].write_bytes(data)
        for (kind, path), (what, own, took, seconds) in zip(files, limited([p for _, p in files], warm), strict=False):
            if what not in ("refused", "loaded", "run") or seconds > SECONDS or took > TIMES * own + ALLOWED:
                kept = path.rename(folder / f"failed-{seed}-{index}.safetensors")
                line = f"{kind}: {what}, {seconds:.2f} s, {took >> 20} MB of {TIMES * own + ALLOWED >> 20}: {kept.name}"
                found["FAILED", line] += 1
            found[kind, what] += 1
            index += 1  # what comes after a file that killed the process is not counted
            now = dict(zip(worst, (seconds, took, max(0, took - ALLOWED) / max(own, 1)), strict=True))
            worst = {key: max(worst[key], now[key]) for key in worst}
    return found, {f"most {name}": value for name, value in worst.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=int, nargs="?", default=20_000, help="number of mutated files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--keep", help="folder for the files that fail")
    o = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: _STOP.append(True))
    with tempfile.TemporaryDirectory() as place:
        counted, figures = run(o.files, o.keep or place, o.seed)
    for (kind, what), times in sorted(counted.items()):
        print(f"{kind:20} {what:12} {times:6}")
    for name, value in figures.items():
        print(f"{name}: {value:,.3f}" if isinstance(value, float) else f"{name}: {value}")
    sys.exit(any(kind == "FAILED" for kind, _ in counted))
