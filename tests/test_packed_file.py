"""The file: golden bytes, what its validator refuses, thousands of mutations, and a machine without torch."""

from __future__ import annotations

import base64
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

import bitbayes as bb
from bitbayes.conformal import ConformalSets
from bitbayes.packed import Inputs, PackedFileError, PackedNetwork, Program, Step, load
from bitbayes.packed.format.file import write_file
from bitbayes.packed.format.program import parse_program, program_text

ROOT = Path(__file__).resolve().parent.parent
FUZZ = runpy.run_path(str(ROOT / "benchmarks" / "fuzz_packed.py"), run_name="fuzz_packed")

# As version 1 of the format was written.
# Nine inputs, two outputs: bits 1011 0000 1 and 0101 1111 0 (first to last), times 0.5 and -2, plus 1.
OLD = base64.b64decode(
    "8AEAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJiaXRiYXllcy5wYWNrZWQiOiJ7XCJ2ZXJzaW9uXCI6MSxcImlucHV0XCI6WzldLFwic2FtcGxlc1wi"
    "OjEsXCJzdGVwc1wiOlt7XCJvcFwiOlwibGluZWFyXCIsXCJmcm9tXCI6WzBdLFwibmFtZVwiOlwiZmlyc3QgKExpbmVhcilcIixcInRlbnNvcnNc"
    "Ijp7XCJ3ZWlnaHRcIjpcIjAud2VpZ2h0XCJ9fSx7XCJvcFwiOlwiYWZmaW5lXCIsXCJmcm9tXCI6WzFdLFwibmFtZVwiOlwiZmlyc3QgKExpbmVh"
    "cilcIixcInRlbnNvcnNcIjp7XCJzY2FsZVwiOlwiMS5zY2FsZVwiLFwic2hpZnRcIjpcIjEuc2hpZnRcIn19XX0ifSwiMS5zY2FsZSI6eyJkdHlw"
    "ZSI6IkYzMiIsInNoYXBlIjpbMl0sImRhdGFfb2Zmc2V0cyI6WzAsOF19LCIxLnNoaWZ0Ijp7ImR0eXBlIjoiRjMyIiwic2hhcGUiOlsxXSwiZGF0"
    "YV9vZmZzZXRzIjpbOCwxMl19LCIwLndlaWdodCI6eyJkdHlwZSI6IlU4Iiwic2hhcGUiOlsyLDJdLCJkYXRhX29mZnNldHMiOlsxMiwxNl19fSAg"
    "AAAAPwAAAMAAAIA/DQH6AA=="
)
# The same with its inputs, as version 2 is written.
GOLDEN = base64.b64decode(
    "UAIAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJiaXRiYXllcy5wYWNrZWQiOiJ7XCJ2ZXJzaW9uXCI6MixcImlucHV0XCI6WzldLFwic2FtcGxlc1wi"
    "OjEsXCJzdGVwc1wiOlt7XCJvcFwiOlwibGluZWFyXCIsXCJmcm9tXCI6WzBdLFwibmFtZVwiOlwiZmlyc3QgKExpbmVhcilcIixcInRlbnNvcnNc"
    "Ijp7XCJ3ZWlnaHRcIjpcIjAud2VpZ2h0XCJ9fSx7XCJvcFwiOlwiYWZmaW5lXCIsXCJmcm9tXCI6WzFdLFwibmFtZVwiOlwiZmlyc3QgKExpbmVh"
    "cilcIixcInRlbnNvcnNcIjp7XCJzY2FsZVwiOlwiMS5zY2FsZVwiLFwic2hpZnRcIjpcIjEuc2hpZnRcIn19XSxcImlucHV0c1wiOntcImtpbmRc"
    "IjpcInZlY3RvclwiLFwibWVhblwiOlswLjVdLFwic3RkXCI6WzIuMF0sXCJjbGFzc2VzXCI6W1wibm9cIixcInllc1wiXX19In0sIjEuc2NhbGUi"
    "OnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6WzJdLCJkYXRhX29mZnNldHMiOlswLDhdfSwiMS5zaGlmdCI6eyJkdHlwZSI6IkYzMiIsInNoYXBlIjpb"
    "MV0sImRhdGFfb2Zmc2V0cyI6WzgsMTJdfSwiMC53ZWlnaHQiOnsiZHR5cGUiOiJVOCIsInNoYXBlIjpbMiwyXSwiZGF0YV9vZmZzZXRzIjpbMTIs"
    "MTZdfX0gICAgICAgAAAAPwAAAMAAAIA/DQH6AA=="
)
TENSORS = {
    "0.weight": np.array([[0b1101, 1], [0b11111010, 0]], np.uint8),
    "1.scale": np.array([0.5, -2.0], np.float32),
    "1.shift": np.array([1.0], np.float32),
}
LINEAR = Step("linear", (0,), "first (Linear)", {}, {"weight": "0.weight"})
AFFINE = Step("affine", (1,), "first (Linear)", {}, {"scale": "1.scale", "shift": "1.shift"})
PROGRAM = Program((9,), 1, (LINEAR, AFFINE))
INPUTS = Inputs("vector", mean=0.5, std=2.0, classes=("no", "yes"))


def unsealed(content):
    """A file as it was before there was a digest, and the digest."""
    header, body = FUZZ["parts"](content)
    digest = header["__metadata__"].pop("sha256")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body, digest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize(("data", "inputs"), [(OLD, None), (GOLDEN, INPUTS)])
def test_golden_bytes(path, data, inputs):
    """Both versions of the format are read, also without a digest, and the newer one is written with one."""
    PackedNetwork(replace(PROGRAM, inputs=INPUTS), TENSORS).save(path)
    content, digest = unsealed(path.read_bytes())
    assert content == GOLDEN and digest == "f9c75e6a66f601d6c47090f6e6e563b248f3af2d7db7e95c813bbce8c7cb73ce"
    path.write_bytes(data)
    read = PackedNetwork.read(path)
    assert read.program == replace(PROGRAM, inputs=inputs)
    # 1-2+3+4-5-6-7-8+9 = -11 and -1+2-3+4+5+6+7+8-9 = 19.
    for backend in ("reference", "torch"):
        outputs = np.asarray(load(path, backend).outputs(np.arange(1.0, 10.0)[None]))
        assert outputs.tolist() == [[[0.5 * -11 + 1, -2 * 19 + 1]]]
    assert list(path.parent.iterdir()) == [path]


def test_the_specification_is_short_and_names_every_operation():
    from bitbayes.packed.format.ops import OPS

    text = (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert [name for name in OPS if f"`{name}`" not in text] == []


def changed(step=None, other=None, **program):
    """The golden network with something else in it."""
    steps = (replace(LINEAR, **(step or {})), replace(AFFINE, **(other or {})))
    return lambda: PackedNetwork(replace(PROGRAM, steps=steps, **program), TENSORS)


def with_tensor(name, tensor):
    return lambda: PackedNetwork(PROGRAM, TENSORS | {name: np.asarray(tensor)})


POOL = {"kernel": [3], "stride": [1], "padding": [0], "dilation": [1], "ceil": False}
CONV = {"kernel": [9], "stride": [1], "padding": [0], "dilation": [1], "groups": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            changed(input=(8,)),
            r"step 0 \('linear' of 'first \(Linear\)'\): weight has shape \[2, 2\], expected \[2, 1\]",
        ),
        (changed(input=(17,)), r"weight has shape \[2, 2\], expected \[2, 3\]"),
        (changed(input=(1 << 30,)), "must have at most 6 axes and 1 to 16777216 numbers"),
        (changed({"op": "eval"}), r"step 0 \('eval' of .*\): unknown operation"),
        (changed({"tensors": {"weight": "absent"}}), "there is no tensor 'absent'"),
        (changed({"tensors": {"weight": "1.scale"}}), r"weight has shape \[2\]"),
        (changed(other={"tensors": {"scale": "1.scale"}}), "1 tensors belong to no step"),
        (changed(other={"tensors": {"scale": "0.weight"}}), "scale cannot have the type U8"),
        (changed(other={"op": "max_pool", "tensors": {}, "settings": POOL}), r"input of shape \[2\] does not fit"),
        (changed(other={"op": "pad", "tensors": {}, "settings": {"before": [1 << 25], "after": [0]}}), "16777216"),
        (changed(other={"op": "reshape", "tensors": {}, "settings": {"shape": [3]}}), r"\[2\] cannot become \[3\]"),
        (changed(other={"op": "add", "tensors": {}, "sources": (0, 1)}), r"cannot combine shapes \[9\] and \[2\]"),
        (changed(other={"op": "add", "tensors": {}}), "takes 2 values, got 1"),
        (changed(other={"op": "clamp", "tensors": {}, "settings": {"min": None, "max": None}}), "needs a bound"),
        (changed(other={"op": "softmax", "tensors": {}, "settings": {"axis": 2}}), "axis must be from 1 to 1"),
        (changed({"op": "conv", "settings": CONV}), r"input of shape \[9\] does not fit"),
        (with_tensor("1.scale", np.array([np.inf, 1], np.float32)), "numbers that are not finite"),
        (with_tensor("1.scale", np.ones(3, np.float32)), r"scale has shape \[3\], expected \[1\] or \[2\]"),
        (with_tensor("1.scale", np.ones(2)), "scale cannot have the type float64"),
        (with_tensor("0.weight", np.array([[13, 3], [250, 0]], np.uint8)), "ones in its unused bits"),
        (with_tensor("0.weight", np.zeros((0, 2), np.uint8)), "1 to 16777216 numbers"),
        (with_tensor("2.more", np.ones(1, np.float32)), "1 tensors belong to no step"),
    ],
)
def test_unsound_programs_are_refused(make, message):
    with pytest.raises(PackedFileError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def written(path, text, tensors=TENSORS, key="bitbayes.packed"):
    path.write_bytes(save(tensors, metadata={key: text}))


def test_unsound_files_are_refused(path):
    good = json.loads(OLD[8 : 8 + 0x1F0])["__metadata__"]["bitbayes.packed"]
    cases = [
        (b"", "not a safetensors file$"),
        (b"not a network, but a text", "not a safetensors file$"),
        (GOLDEN[:-1], "not a safetensors file"),
        (GOLDEN[:300], "shorter than its header says"),
        (b"\xff" * 8 + GOLDEN[8:], "shorter than its header says"),
        (
            (1 << 21).to_bytes(8, "little") + b" " * (1 << 21),
            "the header has 2097152 bytes, but at most 1048576 are",
        ),
        (save(TENSORS, metadata={"format": "pt"}), "its metadata must have the entry 'bitbayes.packed'"),
        (save(TENSORS | {"../evil": TENSORS["1.shift"]}, metadata={"bitbayes.packed": good}), "a forbidden name"),
        (
            save(TENSORS | {"a": np.ones(1)}, metadata={"bitbayes.packed": good}),
            "or none of the types U8, I8, I32",
        ),
    ]
    for text, message in [
        (good.replace('"version":1', '"version":5'), "version 5 of the format, but this bitbayes reads only 1 to 4"),
        (good[:-1] + ',"inputs":{}}', "the program must be an object with"),  # version 1 had none
        (good[:-1], "the program is not JSON"),
        ("[" * 50_000, "the program is not JSON"),
        (good.replace('"samples":1', '"samples":1,"samples":1'), "a name appears twice"),
        (good.replace('"samples":1', '"samples":true'), "samples must be an integer from 1 to 4096, got True"),
        (good.replace('"samples":1', '"samples":1e400'), "samples must be an integer"),
        (good.replace("[9]", "[]"), "input must be the shape of one input"),
        (good.replace("[9]", "[-9]"), "input must be an integer from 1 to 2147483647, got -9"),
        (good.replace('"from":[1]', '"from":[2]'), r"step 1: from must name values 0 to 1, got \[2\]"),
        (good.replace("1.scale", "../1.scale"), "step 1: '../1.scale' is not a valid name of a tensor"),
        (good.replace("first (Linear)", "\\u001b[2J"), "op and name must be texts of letters"),
        (good.replace('"op"', '"ops"'), "step 0 must be an object with"),
        (good + " " * (1 << 18), "at most 262144"),
    ]:
        cases.append((save(TENSORS, metadata={"bitbayes.packed": text}), message))
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(PackedFileError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no packed network at"):
        load(path.parent)


def test_a_program_too_long_is_not_written(path):
    steps = [LINEAR, AFFINE, *(Step("tanh", (index + 2,), "x" * 200) for index in range(2000))]
    with pytest.raises(PackedFileError, match="at most 262144 are allowed"):
        PackedNetwork(replace(PROGRAM, steps=tuple(steps)), TENSORS).save(path)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    network = PackedNetwork(PROGRAM, TENSORS)
    network.save(path)
    content = path.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        network.save(path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [content]


def test_mutated_files(tmp_path):
    """A clear refusal or a sound network, within four times the memory of the file; 10,000 in the slow test."""
    found = FUZZ["run"](400, tmp_path)
    assert sum(found.values()) == 400
    assert {kind for kind, refused in found if refused} == set(FUZZ["KINDS"])
    assert any(not refused for _, refused in found)


@pytest.mark.slow
def test_ten_thousand_mutated_files(tmp_path):
    assert sum(FUZZ["run"](10_000, tmp_path, seed=1).values()) == 10_000


@pytest.mark.parametrize("shape", [(2, 1 << 12, 1 << 12), (1 << 24, 1, 1), (2, 1 << 30, 1)])
def test_a_claim_of_much_memory_is_refused(shape):
    network = FUZZ["network"]()
    with pytest.raises(PackedFileError):
        PackedNetwork(replace(network.program, input=shape), network.tensors)


def test_runs_where_torch_is_not_installed(tmp_path, path):
    """A real interpreter that finds numpy, safetensors and this package, and nothing else."""
    network = FUZZ["network"](3)
    network.save(path)
    x = np.random.default_rng(1).standard_normal((4, *network.program.input)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    site = tmp_path / "site"
    site.mkdir()
    for module in (np, safetensors, bb):
        folder = Path(module.__file__).parent
        for found in (folder, folder.with_name(f"{folder.name}.libs")):
            if found.exists():
                (site / found.name).symlink_to(found)
    code = f"""
import sys
sys.path = [{str(site)!r}] + [entry for entry in sys.path if "site-packages" not in entry]
import numpy as np
import bitbayes as bb
runtime = bb.packed.load({str(path)!r})
prediction = runtime.predict(np.load({str(tmp_path / "x.npy")!r}))
np.savez({str(tmp_path / "y.npz")!r}, outputs=prediction.outputs, information=prediction.mutual_information)
print(runtime.network.summary())
assert not any("torch" in name.split(".") for name in sys.modules), "torch was imported"
for ask in (lambda: bb.STE, lambda: bb.pack(None, None)):
    try:
        ask()
    except ImportError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "bitbayes.STE needs torch" in result.stdout and "No module named 'torch'" in result.stdout
    wanted = load(network).predict(x)
    got = np.load(tmp_path / "y.npz")
    assert np.array_equal(got["outputs"], wanted.outputs)
    assert np.array_equal(got["information"], wanted.mutual_information)
    assert "3 networks" in result.stdout


@pytest.mark.parametrize("inputs", [1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 2048])
def test_counts_are_exact_around_the_word(inputs):
    from bitbayes.packed.format.bits import pack_signs, sign_products, unpack_signs

    generator = np.random.default_rng(inputs)
    rows, weights = generator.integers(-1, 2, (5, inputs)), generator.choice([-1, 1], (3, inputs))
    bits = pack_signs(weights)
    assert np.array_equal(unpack_signs(bits, inputs, np.int8), weights)
    assert np.array_equal(sign_products(rows, bits), rows @ weights.T)


def test_counts_without_numpys_popcount(monkeypatch):
    """NumPy 1 has none."""
    from bitbayes.packed.format.bits import pack_signs, sign_products

    monkeypatch.delattr(np, "bitwise_count", raising=False)
    generator = np.random.default_rng(0)
    rows, weights = generator.choice([-1, 1], (5, 200)), generator.choice([-1, 1], (3, 200))
    assert np.array_equal(sign_products(rows, pack_signs(weights)), rows @ weights.T)


def test_summary_counts_by_hand():
    summary = FUZZ["network"]().summary()
    by_layer = {row.layer: row for row in summary.rows}
    conv, linear, head = by_layer["a (Conv2d)"], by_layer["e"], by_layer["i"]
    # A real image: 6 outputs of 4 x 5 places, each a sum of 4 numbers; then 72 signs times 3 x 72 bits.
    assert (conv.weights, conv.bits, conv.bytes, conv.binary_ops, conv.real_ops) == (24, 24, 6, 0, 6 * 20 * 4)
    assert (linear.weights, linear.bits, linear.bytes) == (216, 216, 27)
    assert (linear.binary_ops, linear.real_ops) == (2 * 216, 0)
    assert (head.bits, head.bytes, head.real_ops) == (6 * 32, 24, 12)
    assert summary.bytes == sum(tensor.nbytes for tensor in FUZZ["network"]().tensors.values())
    lines = str(summary).splitlines()
    assert len(lines) == 12 and lines[-1].startswith(f"1 network, {summary.bytes:,} bytes of tensors")


def test_a_tensor_has_the_axis_of_the_networks_everywhere_or_nowhere() -> None:
    """Else a reader that keeps this by name would read beyond a buffer."""
    count = 64
    conv = {"kernel": [1], "stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    steps = (
        Step("linear", (0,), "a", {}, {"weight": "t"}),
        Step("reshape", (0,), "b", {"shape": [1, 1]}),
        Step("conv", (2,), "c", conv, {"weight": "t"}),
    )
    with pytest.raises(PackedFileError, match="axis of networks in one step but not in another"):
        PackedNetwork(Program((1,), count, steps), {"t": np.ones((count, 1, 1), np.float32)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"about": {"epochs": 3}}, "about must map texts to texts"),
        ({"about": {"a": "\ud800"}}, "half a character"),
        ({"samples": 4097}, "samples must be an integer from 1 to 4096"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, changes: dict, words: str) -> None:
    program = replace(Program((3,), 1, (Step("sign", (0,)),)), **changes)
    with pytest.raises(PackedFileError, match=words):
        write_file(tmp_path / "net.safetensors", program, {})
    assert not list(tmp_path.iterdir())


def test_conformal_sets_are_texts_that_older_readers_skip(path: Path) -> None:
    network = PackedNetwork(PROGRAM, TENSORS)
    with pytest.raises(ValueError, match=r"the network has no conformal sets, got level 0\.9; pack a run"):
        network.conformal(0.9)
    sets = [ConformalSets(0.9, 1 - 1e-12), ConformalSets(0.999, 0.0), ConformalSets(0.1 + 0.2, 1e-300)]
    for each in sets:
        network = network.with_conformal(each)
    network.save(path)
    read = PackedNetwork.read(path)
    assert [read.conformal(each.level) for each in sets] == sets
    assert read.program.about == dict(PROGRAM.about) | {
        "conformal 0.9": "0.999999999999",
        "conformal 0.999": "0.0",
        "conformal 0.30000000000000004": "1e-300",
    }
    again = read.with_conformal(ConformalSets(0.9, 0.25))
    assert again.conformal(0.9).threshold == 0.25 and len(again.program.about) == len(read.program.about)
    with pytest.raises(
        ValueError, match=r"has conformal sets of levels 0\.9, 0\.999 and 0\.30000000000000004, got level 0\.95; choose"
    ):
        read.conformal(0.95)
    facts = dict(read._description("").facts)
    smallest = "smallest probability of a class in a set of level"
    assert (facts[f"{smallest} 0.9"], facts[f"{smallest} 0.30000000000000004"]) == ("1", "1e-300")
    assert facts[f"{smallest} 0.999"] == "0" and not any(name.startswith("conformal") for name in facts)
    tempered = read.tempered(2.0)
    assert set(tempered.program.about) == {*PROGRAM.about, "temperature"}  # thresholds are for other probabilities


@pytest.mark.parametrize("text", ["", "much", "nan", "inf", "1.5", "-0.1"])
def test_conformal_thresholds_of_a_hostile_file(text: str) -> None:
    network = PackedNetwork(replace(PROGRAM, about={"conformal 0.9": text}), TENSORS)
    with pytest.raises(PackedFileError, match=r"conformal 0\.9: "):
        network.conformal(0.9)
    with pytest.raises(ValueError, match=r"sets of level 0\.9, got level 0\.8"):
        network.conformal(0.8)
    for level in ("x" * 1000, "\x1b[31m\n"):
        named = PackedNetwork(replace(PROGRAM, about={f"conformal {level}": text}), TENSORS)
        with pytest.raises(ValueError, match=r"got level 0\.8; choose") as caught:
            named.conformal(0.8)
        assert len(str(caught.value)) < 250 and str(caught.value).isprintable()


@pytest.mark.parametrize("version", ["true", "1.0", "0", "5"])
def test_other_versions(version: str) -> None:
    text = program_text(Program((3,), 1, (Step("sign", (0,)),))).replace('"version":2', f'"version":{version}')
    with pytest.raises(PackedFileError, match="but this bitbayes reads only 1 to 4"):
        parse_program(text)
