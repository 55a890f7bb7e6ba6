"""The benchmarks run, and count what they say they count. No test looks at a time."""

import importlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bitbayes as bb
import needs
from bitbayes.lab.data import load_snelson
from bitbayes.lab.recipes.plain import snelson_network
from generated import write
from tape import TapeGraph

TINY = ["--device", "cpu", "--precision", "fp32", "--width", "16", "--batch", "10", "--matmul", "64", "--copy", "1e4"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("gpu")


@pytest.fixture
def on_gpu(gpu: Any) -> Any:
    sys.modules.pop("on_gpu", None)  # a test may have changed its parts
    return importlib.import_module("on_gpu")


@needs.NO_CUDA.unless(not torch.cuda.is_available())
def test_without_a_gpu_one_line_says_so(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^not measured: torch sees no GPU here"):
        gpu.main([])
    assert capsys.readouterr().out == ""


def test_the_table_of_gpu_py(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*TINY, "--repeats", "2", "--only", "Adam"])
    head, ceilings, columns, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("processor, torch") and "TFLOP/s" in ceilings
    assert columns.replace(", ms", "").split() == ["rule", "passes", "update", "step", "captured", "matmul", "memory"]
    assert [row[:38].strip() for row in rows] == ["float, Adam", "STE Adam"]
    for row in rows:
        passes, update, both, captured, matmul, memory = row[38:].split()
        assert float(passes) > 0 and float(update) > 0 and float(both) > 0, row
        assert captured == "-"  # a processor has no graphs
        assert float(matmul.removesuffix("%")) >= 0 and float(memory.removesuffix("%")) >= 0, row


def test_gpu_py_takes_captured_steps(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.GRAPHS, "cpu", TapeGraph)
    what = 16, 10, torch.float32, torch.device("cpu"), 2
    assert (gpu.captured("float, Adam", *what) or 0) > 0


def test_the_steps_of_a_recipe(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    captured = importlib.import_module("captured")
    words = ["--device", "cpu", "--recipes", "digits", "--precision", "fp32", "--repeats", "2"]
    found = captured.table(captured.parsed([*words, "--rules", "full-precision", "ste"]))["digits"]
    assert found["full-precision"]["over float"] == 1
    assert found["ste"]["over float"] == pytest.approx(found["ste"]["step, ms"] / found["full-precision"]["step, ms"])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["digits", "full-precision"],
        ["digits", "ste"],
    ]


def test_operations_are_those_that_torch_counts(gpu: Any) -> None:
    parameters, examples, passes = gpu.network(16, 10, torch.float32, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        passes(*examples)
    assert gpu.operations(parameters, 10) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "bytes_a_weight"), [("BayesBiNN straight-through", 20), ("STE Adam", 36), ("Bop", 22)]
)
def test_bytes_are_those_of_the_docs(gpu: Any, name: str, bytes_a_weight: int) -> None:
    rule = gpu.step.RULES[name]([torch.nn.Parameter(torch.zeros(10, 10))])
    assert gpu.moved(rule) == 100 * bytes_a_weight


def test_a_float_network_takes_a_step(gpu: Any) -> None:
    step = gpu.step
    weight = torch.nn.Parameter(torch.ones(4))
    for name, make in step.FLOAT.items():
        if name == "float, IVON":
            needs.IVON.module("ivon")
        before = weight.detach().clone()
        optimizer, sample = make([weight])
        with sample():
            weight.sum().backward()
        optimizer.step()
        assert (weight < before).all(), name


def test_ivon_may_be_missing(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ivon", None)
    with pytest.raises(ImportError):
        gpu.step.ivon([torch.nn.Parameter(torch.ones(4))])


@pytest.mark.dist
def test_the_table_of_ranks_py(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("ranks").main(["--ranks", "2", "--width", "16", "--batch", "10", "--repeats", "2"])
    _, columns, *rows = capsys.readouterr().out.splitlines()
    assert columns.split()[:4] == ["processes", "step", "averaging", "update"]
    assert [row.split()[0] for row in rows] == ["1", "2"] and rows[0].split()[1] == "1.00"


@pytest.fixture
def snelson(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("snelson")


def test_the_search_on_snelsons_data_sees_training_points_alone(snelson: Any) -> None:
    x, y = snelson.points(None, splits=range(3, 5), seeds=2)
    assert x.shape == y.shape == (4, 150, 1)
    for network, split in enumerate((3, 3, 4, 4)):
        assert torch.equal(x[network], load_snelson(split=split).train.x)


def test_stacked_networks_of_the_search_are_the_network_of_the_recipe(snelson: Any) -> None:
    models = [bb.nn.synthetic_mlp(1, norm_output=True) for _ in range(3)]
    layers = {"a": 1, "b": 3, "c": 5}
    weights = {
        f"{name}.{part}": torch.cat([getattr(model[place], part).detach() for model in models])
        for name, place in layers.items()
        for part in ("weight", "bias")
    }
    x = torch.randn(3, 150, 1)
    for network, model in enumerate(models):
        torch.testing.assert_close(snelson.output(weights, x)[network], model[:-1](x[network]))
        seen, rest = x[network, :-30], x[network, -30:]
        model.train()
        for _ in range(200):  # BatchNorm's running statistics become those of the training points
            model(seen)
        model.eval()
        wanted = float((model(rest).detach() - 0.5).square().mean())
        assert snelson.errors([weights], x, torch.full_like(x, 0.5))[network] == pytest.approx(wanted, rel=1e-3)
        plain = snelson_network()
        plain.load_state_dict(model[:-1].state_dict(), strict=False)
        wanted = float((plain(rest).detach() - 0.5).square().mean())
        found = snelson.errors([weights], x, torch.full_like(x, 0.5), plain=True)[network]
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("words", [[], ["--plain", "--first-split", "10"]], ids=["BatchNorm", "plain"])
def test_the_search_on_snelsons_data_prints_the_best_first(
    words: list[str], snelson: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    snelson.main(["--splits", "2", "--seeds", "1", "--steps", "3", *words])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| bayesbinn"] * 5 + ["| ste"] * 5
    errors = [float(row[-1].split()[0]) for row in rows]
    assert errors == [*sorted(errors[:5]), *sorted(errors[5:])]


PARTS = ["tests", "equality", "steps", "captured", "text", "speed", "speed-w1a1"]


@pytest.mark.parametrize("parts", [["equality", "speed"], pytest.param(PARTS, marks=pytest.mark.slow)])
def test_a_gpu_is_rehearsed(parts: list[str], tmp_path: Path) -> None:
    """Each part writes its numbers; without a GPU, the sizes are tiny."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "on_gpu.sh"
    data = write(tmp_path / "data", "cifar10", train=24, test=4)
    command = [script, tmp_path / "out", "--data", data, "--device", "cpu", "--tiny", "--seconds", "600"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--only", *parts], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ", written to " in line] == parts
    found = {part: json.loads((tmp_path / "out" / f"{part}.json").read_text()) for part in parts}
    for part, numbers in found.items():
        assert "error" not in numbers, (part, numbers)
        assert (numbers["device"], numbers["tiny"]) == ("processor", True)
    assert found["equality"]["differences"]["STE Adam"]["fused and eager"]["weights"] == 0
    if "tests" in parts:
        assert found["tests"]["status"] == 0 and "tests" in found["tests"]["line"]
        assert set(found["steps"]["rows"]) == {"float, Adam", "STE Adam"}
        assert set(found["captured"]["recipes"]["digits"]) == {"full-precision", "ste", "bayesbinn:straight-through"}
    for part in parts:
        for row in found[part].get("rows", []) if part != "steps" else []:
            assert (row["rule"], row["runs"]) == ("ste", 1) and 0 <= row["test"]["mean"] <= 100
    assert len(found["speed"]["rows"]) == 1


def test_a_part_that_fails_keeps_its_numbers_and_the_others_follow(
    on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(name: str, setting: Any, arguments: list[str]) -> str | None:
        on_gpu.write(setting, name, {"runs": [1]})
        return "the card fell off" if name == "speed" else None

    monkeypatch.setattr(on_gpu, "in_process", ended)
    on_gpu.main([str(tmp_path), "--data", "-", "--device", "cpu", "--tiny", "--only", "speed", "resnet18"])
    first, second = (json.loads((tmp_path / f"{part}.json").read_text()) for part in ("speed", "resnet18"))
    assert (first["runs"], first["error"]) == ([1], "the card fell off")
    assert second["runs"] == [1] and "error" not in second


def test_a_part_that_is_stopped_keeps_its_rows(on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, measure = [], on_gpu.gpu.measure

    def once(name: str, *what: Any) -> Any:
        names.append(name)
        if len(names) > 1:
            raise RuntimeError("the card fell off")
        return measure(name, *what)

    monkeypatch.setattr(on_gpu.gpu, "measure", once)
    setting = on_gpu.Setting(tmp_path, "-", torch.device("cpu"), float("inf"), 10.0, True)
    with pytest.raises(RuntimeError, match="fell off"):
        on_gpu.steps(setting)
    found = json.loads((tmp_path / "steps.json").read_text())
    assert list(found["rows"]) == names[:1] and found["tiny"] is True


def test_what_a_part_has_started_ends_with_it(on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that starts a process and waits is stopped with it."""
    program = "import pathlib, subprocess, sys; p = subprocess.Popen(['sleep', '60']); "
    program += "pathlib.Path(sys.argv[1]).write_text(str(p.pid)); p.wait()"
    popen, file = subprocess.Popen, tmp_path / "number"
    monkeypatch.setattr(
        on_gpu.subprocess, "Popen", lambda _, **ways: popen([sys.executable, "-c", program, str(file)], **ways)
    )
    setting = on_gpu.Setting(tmp_path, "-", torch.device("cpu"), time.monotonic() + 5, 5.0, True)
    assert on_gpu.in_process("equality", setting, []) == "stopped: the time was over"
    state = Path("/proc", file.read_text(), "stat")
    for _ in range(50):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the process runs on")


def test_a_part_ends_with_the_time(on_gpu: Any, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--tiny", "--only", "equality"]
    on_gpu.main([str(tmp_path), "--data", "-", *words, "--seconds", "0.2"])
    assert json.loads((tmp_path / "equality.json").read_text()) == {"error": "stopped: the time was over"}
    on_gpu.main([str(tmp_path), "--data", "-", *words, "--seconds", "0"])
    assert json.loads((tmp_path / "equality.json").read_text()) == {"error": "not begun: no time was left"}


def test_captured_updates_are_compared(on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder of steps without a GPU leaves the same weights; one that forgets a step does not."""

    class Forgetful(TapeGraph):
        def replay(self) -> None:
            pass

    monkeypatch.setitem(on_gpu.GRAPHS, "cpu", TapeGraph)
    name, device, how = "BayesBiNN straight-through", torch.device("cpu"), {"compile": False}
    eager, captured = (on_gpu._updated(name, device, 16, **how, capturable=graph) for graph in (False, True))
    assert on_gpu._differences(captured, eager) == {"weights": 0, "beliefs": 0, "relative, at most": 0.0}
    monkeypatch.setitem(on_gpu.GRAPHS, "cpu", Forgetful)
    assert on_gpu._differences(on_gpu._updated(name, device, 16, **how, capturable=True), eager)["beliefs"] > 0


def test_shares_of_a_step_add_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    convolutions = importlib.import_module("convolutions")
    convolutions.main(["--rule", "ste", "--batch", "8", "--steps", "1", "--threads", "1"])
    title, heads, *rows, note = capsys.readouterr().out.splitlines()
    assert title == "training step of cifar10-speed" and "images take" in note
    assert heads.startswith("rule") and "convolutions, %" in heads
    names = [row.split()[0] for row in rows]
    assert names == ["full-precision", "ste"] and rows[0].split()[1] == "1.00"
    for row in rows:
        shares = [float(cell) for cell in row.split()[2:]]
        assert sum(shares) == pytest.approx(100, abs=0.5) and all(share > 0 for share in shares[:4])


def test_coverage_of_conformal_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tables of conformal.py, with few splits and short runs."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    script = importlib.import_module("conformal")
    (row,) = script.zoo_table({}, 0.9, 3).rows  # the data of the other networks are not named
    assert row[:3] == ["digits", "200", "96.50"]
    assert 80 < float(row[3].split()[0]) < 98 and 0.8 < float(row[4].split()[0]) < 1.1
    monkeypatch.setattr(script, "RULES", ("ste",))
    monkeypatch.setattr(script, "make_config", partial(script.make_config, epochs=2))
    (row,) = script.selection_table(1, 0.9, 20).rows
    same, other = (float(cell.split()[0]) for cell in row[2:4])
    assert row[:2] == ["ste", "1"] and 85 < same < 95 and 85 < other < 95
    assert float(row[4]) == pytest.approx(other - same, abs=0.011)


def test_text_py_trains_every_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    text = importlib.import_module("text")
    monkeypatch.setattr(text, "_SHOWN", 2)
    (tmp_path / "play.txt").write_text("to be or not to be, " * 500)
    how = ["--data", str(tmp_path / "play.txt"), "--steps", "6"]
    text.main(["full-precision", *how, "--save", str(tmp_path / "float.pt")])
    text.main(["ste", *how, "--begin", str(tmp_path / "float.pt")])
    text.main(["bayesbinn", *how, "--precision", "fp32"])
    *lines, mean = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        word for rule in ("full-precision", "ste", "bayesbinn") for word in ("step 2", "step 4", "step 6", rule)
    ]
    assert mean.startswith("bayesbinn, mean of 8 samples: validation ")
    assert float(lines[-1].split()[2][:-1]) == pytest.approx(float(mean.split()[6][:-1]), rel=0.2)
    training = [float(line.split()[3]) for line in lines if line.startswith("step")]
    assert training[0] > training[2] and all(0 < cost < 12 for cost in training)
    assert training[3] < training[0]  # STE begins with the float weights
    assert training[6] != training[3]


def test_text_py_keeps_the_settings_that_a_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    text, stored = importlib.import_module("text"), tmp_path / "bits.json"
    (tmp_path / "play.txt").write_text("to be or not to be, " * 450 + "that is the question " * 50)
    how = ["all", "--data", str(tmp_path / "play.txt"), "--json", str(stored)]
    monkeypatch.setattr(text, "SETTINGS", {"float": "full-precision"})
    text.main([*how, "--steps", "4", "--seeds", "2"])
    first = json.loads(stored.read_text())
    assert (first["steps"], first["seeds"]) == (4, 2) and first["decoders"]["float"][0] != first["decoders"]["float"][1]
    monkeypatch.setattr(text, "SETTINGS", {"float": "full-precision", "groups": "ste --scale group:32"})
    monkeypatch.setattr(text, "optimizers", made := Mock(wraps=text.optimizers))
    text.main(how)
    both = json.loads(stored.read_text())
    assert both["decoders"]["float"] == first["decoders"]["float"] and len(both["decoders"]["groups"]) == 2
    runs = [call.args[-1] for call in made.call_args_list]
    assert [(o.rule, o.scale, o.steps, o.seed) for o in runs] == [("ste", "group:32", 4, seed) for seed in (0, 1)]
    assert [len(costs) for costs in both["validation"].values()] == [2, 2] and both["validation"] != both["decoders"]
    rows = capsys.readouterr().out.splitlines()
    assert rows[-4] == "| binary weights | validation, bits per byte | test, bits per byte |"
    mean = sum(both["validation"]["groups"]) / 2
    assert rows[-1].startswith(f"| groups | {mean:.3f} ± ")
    stored.write_text(json.dumps({name: value for name, value in both.items() if name != "validation"}))
    text.main(how)
    assert "| binary weights | test, bits per byte |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("all --steps 5", "bits.json has --steps 4, got 5; leave it out, or choose another --json"),
        ("all --precision fp32", "bits.json has --precision bf16, got fp32; leave it out, or choose another --json"),
        ("all --seeds 3", "bits.json has --seeds 2, got 3; leave it out, or choose another --json"),
        ("all --lr 1e-3 --save x.pt", "--lr, --save cannot be combined with `all`"),
        (
            "all --scale fan_in --begin x.pt --init-lambda 3",
            "--scale, --init-lambda, --begin cannot be combined with `all`",
        ),
        ("ste", "--json has an effect only with `all`, got ste; leave it out"),
    ],
)
def test_text_py_refuses_what_would_have_no_effect(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    text, stored = importlib.import_module("text"), tmp_path / "bits.json"
    stored.write_text(json.dumps({"steps": 4, "seeds": 2, "decoders": {}}))
    with pytest.raises(SystemExit):
        text.parsed([*words.split(), "--json", str(stored)])
    assert message in capsys.readouterr().err.splitlines()[-1]
    same = text.parsed(["all", "--steps", "4", "--json", str(stored)])
    assert (same.steps, same.seeds) == (4, 2)


@needs.OPENVINO.unless_installed("openvino")
@needs.kernels("inference")
def test_encoders_py_times_both_networks_beside_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    encoders = importlib.import_module("encoders")
    for name, value in {"WIDTH": 32, "WORDS": 50, "BATCHES": (1, 2)}.items():
        monkeypatch.setattr(encoders, name, value)
    encoders.main(["--turns", "1", "--save", str(tmp_path), "--json", str(tmp_path / "times.json")])
    ratios = json.loads((tmp_path / "times.json").read_text())["encoders"]
    cases = [f"{name}, batch {batch}" for name in ("vision transformer", "text classifier") for batch in (1, 2)]
    assert ratios["OpenVINO int8"] == dict.fromkeys(cases, 1.0)
    assert all(list(row) == cases and min(row.values()) > 0 for row in ratios.values()) and "backend native" in ratios
    assert "backend native" in capsys.readouterr().out
    for file in ("vision-transformer.safetensors", "text-classifier.safetensors"):
        rows = bb.packed.PackedNetwork.read(tmp_path / file).summary().rows
        assert sum(row.bits == row.weights > 0 for row in rows) >= 16


@needs.kernels("inference")
def test_the_share_of_reading_is_that_of_every_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    matvec = importlib.import_module("matvec")
    monkeypatch.setattr(matvec, "SHAPES", ((64, 64), (96, 1088)))
    matvec.main(["--turns", "1", "--megabytes", "1"])
    shares = {line.rsplit(maxsplit=1)[0]: float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[2:]}
    assert set(shares) == {"64 x 64", "96 x 1088"} and all(0 < share < 1.5 for share in shares.values())
