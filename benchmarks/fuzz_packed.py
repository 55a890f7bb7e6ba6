"""Check that every mutated packed network is either read or refused in one line.

`python benchmarks/fuzz_packed.py 10000` prints the reasons for which files were refused. A fuzzer of your own calls
`check(path)`, which raises on anything but an answer or a refusal.
"""

import argparse
import itertools
import json
import random
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np

from bitbayes.packed import PackedFileError, PackedNetwork, Program, Step, load
from bitbayes.packed.backends.runtime import random_inputs

ALLOWED = 8 << 20  # bytes on top of four times the file: what Python takes to read the longest program
# fmt: off
ODD = [0, -1, 2, 7, 1 << 31, 1 << 62, 10**30, 0.5, 1e308, True, None, "", "../../etc/passwd", "\x1b[2J", [], {}, [1, 1]]
# fmt: on
NAMES = ["../evil", "/etc/passwd", "C:\\evil", "a/b", "", ".", "..", "\u202e", "0.weight\x00", "x" * 4000]


def network(samples=1):
    """Return a small network with an operation of every kind."""
    generator = np.random.default_rng(0)
    lead = () if samples == 1 else (samples,)
    tensors = {
        "0.weight": generator.integers(0, 16, (*lead, 6, 1), dtype=np.uint8),
        "1.threshold": generator.integers(-2, 3, (6,), dtype=np.int32),
        "1.direction": np.ones(6, np.int8),
        "4.weight": generator.integers(0, 256, (*lead, 3, 9), dtype=np.uint8),
        "5.scale": generator.random((*lead, 3), np.float32),
        "5.shift": generator.random((1,), np.float32),
        "8.weight": generator.random((2, 3), np.float32),
    }
    conv = {"kernel": [2, 2], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 2}
    pool = {"kernel": [2, 2], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "ceil": False}
    steps = (
        Step("conv", (0,), "a (Conv2d)", conv, {"weight": "0.weight"}),
        Step("threshold", (1,), "b", {}, {"threshold": "1.threshold", "direction": "1.direction"}),
        Step("max_pool", (2,), "c", pool),
        Step("reshape", (3,), "d", {"shape": [6 * 12]}),
        Step("linear", (4,), "e", {}, {"weight": "4.weight"}),
        Step("affine", (5,), "f", {}, {"scale": "5.scale", "shift": "5.shift"}),
        Step("clamp", (6,), "g", {"min": 0, "max": None}),
        Step("add", (6, 7), "h"),
        Step("linear", (8,), "i", {}, {"weight": "8.weight"}),
        Step("softmax", (9,), "j", {"axis": 1}),
    )
    return PackedNetwork(Program((2, 3, 4), samples, steps, {"recipe": "none"}), tensors)


def encoder(samples=1):
    """Return a small network on token ids with the operations of transformers."""
    generator = np.random.default_rng(1)
    lead = () if samples == 1 else (samples,)
    tensors = {
        "0.table": generator.random((7, 8), np.float32),
        "1.offset": generator.random((*lead, 40), np.float32),
        "3.weight": generator.integers(0, 256, (*lead, 24, 1), dtype=np.uint8),
    }
    conv = {"kernel": [1], "stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    parts = [Step("slice", (4,), "d", {"axis": 1, "begin": 8 * i, "end": 8 * i + 8}) for i in range(3)]
    steps = (
        Step("embed", (0,), "a (Embedding)", {}, {"table": "0.table"}),
        Step("offset", (1,), "b", {}, {"offset": "1.offset"}),
        Step("norm", (2,), "c (LayerNorm)", {"centre": True, "eps": 1e-5}),
        Step("conv", (3,), "d (Linear)", conv, {"weight": "3.weight"}),
        *parts,
        Step("attention", (5, 6, 7), "e", {"heads": 2, "scale": 0.5, "causal": True}),
        Step("multiply", (8, 3), "f"),
        Step("slice", (9,), "g", {"axis": 2, "begin": 0, "end": 1}),
        Step("reshape", (10,), "h", {"shape": [8]}),
    )
    return PackedNetwork(Program((5,), samples, steps), tensors)


def unsealed(network, path):
    """Return the bytes of a file without a digest, which would find every other mutation."""
    network.save(path)
    header, body = parts(path.read_bytes())
    del header["__metadata__"]["sha256"]
    return whole(header, body)


def mutated(data, rng):
    """Return one file of hostile bytes: (kind, bytes)."""
    kind = rng.choice(list(KINDS))
    return kind, KINDS[kind](data, rng)


def flip(data, rng, most=None):
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(most or len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def parts(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(header, body):
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + body


def edit_header(data, rng):
    """Give a tensor another name, type, shape or place."""
    header, body = parts(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    what = rng.choice(["name", "dtype", "shape", "data_offsets", "copy", "drop"])
    if what == "name":
        header[rng.choice(NAMES)] = header.pop(name)
    elif what == "drop":
        del header[name]
    elif what == "copy":
        header["extra"] = header[name]
    elif what == "dtype":
        header[name]["dtype"] = rng.choice(["F32", "U8", "I64", "BF16", "F8_E4M3", "BOOL", "Q3", 7])
    else:
        header[name][what] = rng.choice([[rng.choice(ODD), 2], [1 << 40, 1 << 40], [0, 10**18], rng.choice(ODD)])
    return whole(header, body)


def edit_program(data, rng):
    """Put another value or another name somewhere into the program."""
    header, body = parts(data)
    program = json.loads(header["__metadata__"]["bitbayes.packed"])
    for _ in range(rng.randint(1, 2)):
        places = list(spots(program))
        holder, key = rng.choice(places)
        action = rng.randrange(4)
        if action == 0 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(key)
        elif action == 1:
            del holder[key]
        elif action == 2 and isinstance(holder[key], int):
            holder[key] += rng.choice([-1, 1, 1000, 1 << 24])
        else:
            holder[key] = rng.choice([*ODD, *NAMES])
    header["__metadata__"]["bitbayes.packed"] = json.dumps(program)
    return whole(header, body)


def spots(value):
    """Yield every (container, key) of a tree."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from spots(value[key])


def other_text(data, rng):
    """Write no program at all, or one that would exhaust a reader."""
    header, body = parts(data)
    program = header["__metadata__"]["bitbayes.packed"]
    texts = ["", "null", "[]", "{", "NaN", "[" * 100_000, "{}" + program, '{"version":3}', program[:-1], "1" * 5000]
    texts += ["[" + "[]," * 80_000 + "[]]", program.replace('"op":"clamp"', '"op":"__import__"'), "x" * (1 << 19)]
    texts += [program.replace('"version":2', f'"version":{version}') for version in (0, 1, 3, '"1"', 1e400)]
    header["__metadata__"] = rng.choice([{"bitbayes.packed": rng.choice(texts)}, {"format": "pt"}, 3, None])
    return whole(header, body)


def length(data, rng):
    """Write a header that claims to be longer or shorter than it is."""
    said = rng.choice([0, 1, 7, len(data), len(data) - 8, 1 << 20, 1 << 31, (1 << 64) - 1, rng.randrange(len(data))])
    return said.to_bytes(8, "little") + data[8:]


KINDS = {
    "flip": flip,
    "flip in the header": lambda data, rng: flip(data, rng, 8 + int.from_bytes(data[:8], "little")),
    "truncate": lambda data, rng: data[: rng.randrange(len(data))],
    "extend": lambda data, rng: data + rng.randbytes(rng.randint(1, 100)),
    "length": length,
    "header": edit_header,
    "program": edit_program,
    "text": other_text,
}


def check(path):
    """Read a file and, if it is sound and small, run it; return why it was refused, or None."""
    tracemalloc.start()
    try:
        read = PackedNetwork.read(path)
    except PackedFileError as error:
        assert len(str(error).splitlines()) == 1, f"more than a line: {error}"
        return str(error).removeprefix(f"{path}: ")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = Path(path).stat().st_size
        assert peak <= 4 * size + ALLOWED, f"{peak} bytes of memory for a file of {size}"
    if sum(value.size + value.binary + value.real for value in read.values) < 1 << 20:
        x = random_inputs(read, 2)
        with np.errstate(all="ignore"):  # a flipped bit may make a scale of 1e38
            assert load(read).outputs(x).shape == (read.program.samples, 2, *read.values[-1].shape)
    return None


def run(count, folder, seed=0):
    """Check so many files, and return counts of (kind, refused)."""
    rng, path, found = random.Random(seed), Path(folder) / "net.safetensors", Counter()
    originals = []
    for samples, make in itertools.product((1, 3), (network, encoder)):
        path.write_bytes(unsealed(make(samples), path))
        assert check(path) is None
        originals.append(path.read_bytes())
    for index in range(count):
        kind, data = mutated(originals[index % len(originals)], rng)
        path.write_bytes(data)
        try:
            refusal = check(path)
        except Exception as error:
            raise AssertionError(f"file {index} of seed {seed} ({kind}): {error!r}") from error
        found[kind, refusal is not None] += 1
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=int, nargs="?", default=10_000, help="number of mutated files")
    total = parser.parse_args().files
    with tempfile.TemporaryDirectory() as place:
        for (kind, refused), times in sorted(run(total, place).items()):
            print(f"{kind:20} {'refused' if refused else 'sound':8} {times:6}")
