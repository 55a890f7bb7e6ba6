"""Language models from end to end: training in bits per byte, files, search, evaluation, and text that they write."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

import bitbayes as bb
from bitbayes.lab import cli
from bitbayes.lab.data import batches
from bitbayes.lab.recipes import RECIPES, make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.configure import open_device
from bitbayes.lab.recipes.finished import load_teacher
from bitbayes.lab.report import figures
from bitbayes.lab.studies.evaluate import evaluate_run
from bitbayes.lab.studies.generate import load_language_model, next_bytes, shown
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunError, RunFolder, SilentProgress
from bitbayes.lab.train.loop import training_step
from bitbayes.nn import decoder
from needs import OPTUNA

SMALL = partial(decoder, hidden_size=32, intermediate_size=64, layers=1, heads=2)
LINES = "".join(f"def f{index}(x):\n    return x + {index % 7}\n\n\n" for index in range(400))


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "text", dataclasses.replace(RECIPES["text"], network=SMALL))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "functions.py"
    file.write_text(LINES)
    return str(file)


def config(data: str, out: Path, rule: str = "bayesbinn", **choices):
    settings = {"epochs": 2, "batch_size": 4, "precision": "fp32", "evaluate_every": 1, "checkpoint_every": 1}
    settings |= {} if rule == "full-precision" else {"pretrain_epochs": 0}
    return make_config("text", rule, data=data, out=str(out), **{**settings, **choices})


def trained(data: str, out: Path, rule: str = "bayesbinn", *, resume: bool = False, **choices):
    return run_recipe(config(data, out, rule, **choices), resume=resume, progress=SilentProgress()).summary


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "text", dataclasses.replace(RECIPES["text"], network=SMALL))
        out = tmp_path_factory.mktemp("language") / "run"
        trained(data, out, epochs=4, options={"init_lambda": 1.0})  # which leaves doubt in so small a network
    return out


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Training. ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [*RECIPES["text"].rules, "bayesbinn:default"])
def test_every_rule_learns(rule: str, data: str, tmp_path: Path) -> None:
    summary = trained(data, tmp_path, rule, epochs=4)
    # A first |λ| of 1500 flips few signs of a float network in so short a run.
    assert summary.test_bits < (7.5 if rule == "bayesbinn:default" else 6.5)  # of 8
    assert summary.test_accuracy is None and summary.test_error is None
    assert summary.test_bits == pytest.approx(summary.test_nll / math.log(2))
    assert all("train_accuracy" in row and row["train_accuracy"] is None for row in rows(tmp_path))
    assert (summary.mean_test_bits is None) == (rule in ("full-precision", "ste", "bop"))


def test_the_bits_are_those_of_every_byte(run: Path) -> None:
    """Computed again from the saved weights, window by window, in float64."""
    found = load_run(run)
    model = found.experiment.model.double().eval()
    text = found.experiment.data.test.text.long()
    count = (len(text) - 1) // 256
    cost = []
    for index in range(count):
        first = index * (len(text) - 257) // (count - 1)
        window = text[first : first + 257]
        with torch.no_grad():
            probabilities = model(window[None, :-1])[0].softmax(-1)
        cost.append(-probabilities[torch.arange(256), window[1:]].log2().mean())
    assert json.loads((run / "summary.json").read_text())["test_bits"] == pytest.approx(float(sum(cost)) / count)


def test_the_mean_averages_probabilities(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    found = load_run(run)
    test = found.experiment.data.test
    (x, y), *_ = test.batches([torch.arange(len(test))])
    outputs = bb.predict(found.experiment.model, x, found.posterior, samples=8).outputs
    each = outputs.double().softmax(-1).gather(-1, y.expand(8, *y.shape)[..., None])
    assert summary["mean_samples"] == 8
    assert summary["mean_test_bits"] == pytest.approx(float(-each.mean(0).log2().mean()))
    assert summary["sample_test_bits"] == pytest.approx(float(-each[0].log2().mean()))
    assert summary["mean_test_bits"] != summary["test_bits"]


def test_the_best_epoch_has_the_fewest_validation_bits(data: str, tmp_path: Path) -> None:
    """A rate that is far too high at the end of the run makes the last epoch a bad one."""
    summary = trained(data, tmp_path, "full-precision", epochs=6, lr=0.3)
    bits = [row["val_bits"] for row in rows(tmp_path)]
    assert len(set(bits)) == 6
    assert summary.best_epoch == 1 + bits.index(min(bits))
    assert summary.val_bits == min(bits)


def test_the_test_protocol_selects_by_the_bits_of_the_mean(data: str, tmp_path: Path) -> None:
    summary = trained(data, tmp_path, protocol="test", epochs=3, predict_samples=2)
    bits = [row["mean_test_bits"] for row in rows(tmp_path)]
    assert summary.best_epoch == 1 + bits.index(min(bits))
    assert summary.val_bits is None


def test_a_run_resumes_bit_for_bit(data: str, tmp_path: Path) -> None:
    whole = trained(data, tmp_path / "whole")
    trained(data, tmp_path / "parts", stop_after=1)
    parts = trained(data, tmp_path / "parts", resume=True)
    assert whole.test_bits == parts.test_bits and whole.mean_test_bits == parts.mean_test_bits
    assert RunFolder(tmp_path / "parts").read_tensors("model.safetensors").keys()
    for name, tensor in RunFolder(tmp_path / "whole").read_tensors("model.safetensors").items():
        assert torch.equal(tensor, RunFolder(tmp_path / "parts").read_tensors("model.safetensors")[name])


def test_a_run_begins_with_float_weights(data: str, tmp_path: Path) -> None:
    summary = trained(data, tmp_path / "run", "ste", pretrain_epochs=2, epochs=1)
    assert summary.binary_weights == 10_240
    first = RunFolder(tmp_path / "run-pretrained").read_tensors("model.safetensors")
    last = RunFolder(tmp_path / "run").read_tensors("model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (first[name].sign() == last[name].sign()).float().mean() > 0.6
    assert len(last[name][0].abs().unique()) == 1


def test_the_default_setting_knows_the_network(data: str, tmp_path: Path) -> None:
    runs = config(data, tmp_path, "bayesbinn:default"), make_config("digits", "bayesbinn:default", out="-")
    groups = [make_experiment(run).optimizer.param_groups for run in runs]  # type: ignore[union-attr]
    assert [group["init_lambda"] for (group,) in groups] == [1500, 15]


def test_a_teacher_teaches_every_byte(run: Path, data: str, tmp_path: Path) -> None:
    chosen = config(data, tmp_path / "student", "ste", teacher=str(run), teacher_share=1.0, accumulate=2)
    experiment, model = make_experiment(chosen), load_run(run).experiment.model.eval()
    experiment.teacher = load_teacher(chosen, RECIPES["text"], experiment.data)
    x, y = next(iter(batches(experiment.data.train, 4)))
    with torch.no_grad():
        p, q = model(x).softmax(-1), experiment.model(x).softmax(-1)
    loss, _ = training_step(chosen, experiment, x, y)
    torch.testing.assert_close(loss, (p * (p / q).log()).sum(-1).mean())
    assert trained(data, tmp_path / "student", "ste", teacher=str(run)).test_bits < 6.5


def test_the_scale_of_every_output_is_counted(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    outputs = 4 * 32 + 2 * 64 + 32
    assert summary["bytes_1_bit"] == 10_240 // 8 + 4 * (summary["weights"] - 10_240 + outputs)


def test_binary_weights_are_one_size_for_each_output(run: Path) -> None:
    tensors = RunFolder(run).read_tensors("model.safetensors")
    projections = {name: tensor for name, tensor in tensors.items() if name.endswith("_proj.weight")}
    assert len(projections) == 7
    assert all(len(row.abs().unique()) == 1 for tensor in projections.values() for row in tensor)


# Commands. ----------------------------------------------------------------------------------------------------------


def test_train_prints_bits_and_no_accuracy(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "text", "--rule", "ste", "--data", data, "--epochs", "1", "--pretrain-epochs", "0"]
    assert cli.main([*words, "--precision", "fp32", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "bits/byte" in printed and "test bits per byte at epoch 1" in printed
    assert "validation bits per byte at epoch 1" in printed
    assert "accuracy" not in printed and "squared error" not in printed


@pytest.fixture(scope="module")
def table(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of `reproduce text`, and what the command has printed."""
    out = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setitem(RECIPES, "text", dataclasses.replace(RECIPES["text"], network=SMALL, pretrain_epochs=1))
        words = ["reproduce", "text", "--data", data, "--epochs", "1", "--seeds", "2", "--precision", "fp32"]
        assert cli.main([*words, "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_the_table_has_bits_per_byte_and_no_accuracy(table: tuple[Path, str]) -> None:
    out, printed = table
    rows = {row["rule"]: row for row in json.loads((out / "text.json").read_text())["rows"]}
    assert list(rows) == ["full-precision", "ste", "bop", "bayesbinn:straight-through"]
    keys = {"validation_bits": "val_bits", "test_bits": "test_bits", "sample_test_bits": "sample_test_bits"}
    keys |= {"mean_test_bits": "mean_test_bits", "entropy_bits": "posterior_entropy_bits"}
    for rule, row in rows.items():
        folders = [out / f"{rule.replace(':', '-')}-seed{seed}" for seed in (1, 2)]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        for name, key in keys.items():
            values = [summary[key] for summary in summaries if summary.get(key) is not None]
            assert row.get(name, {"values": []})["values"] == values, (rule, name)
        assert len(row["test_bits"]["values"]) == 2 and "test" not in row
    assert [rule for rule in rows if "mean_test_bits" in rows[rule]] == ["bayesbinn:straight-through"]
    lines = [line for line in (out / "text.md").read_text().splitlines() if line.startswith("|")]
    heads = [head.strip() for head in lines[0].strip("|").split("|")]
    bits = ["validation bits per byte", "bits per byte", "bits per byte of one sample", "bits per byte of the mean"]
    assert heads == ["rule", *bits, "per-weight entropy, bits", "s/epoch"]
    found = dict(zip(heads, (cell.strip() for cell in lines[-1].strip("|").split("|")), strict=True))
    values = rows["bayesbinn:straight-through"]["sample_test_bits"]
    assert found["bits per byte of one sample"] == f"{values['mean']:.4f} ± {values['std']:.4f}"
    caption = " ".join(printed.split())
    assert "over runs (number: 2; epochs: 1), of the mode at the best validation epoch." in caption
    assert "begin with the weights of a float network." in caption
    assert "accuracy" not in printed and "%" not in printed


def test_curves_of_bits_begin_after_the_float_network(
    table: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure) or Path(path))
    runs = [str(table[0] / name) for name in ("full-precision-seed1", "ste-seed1")]
    assert cli.main(["reproduce", "curves", "--runs", *runs, "--out", str(tmp_path)]) == 0
    test, validation = drawn[0].axes
    assert (test.get_title(), validation.get_title()) == ("Test data", "Validation data")
    assert test.get_ylabel() == "bits per byte"
    for axis, key in ((test, "test_bits"), (validation, "val_bits")):
        for line, folder, before in zip(axis.lines, runs, (0, 1), strict=True):
            told = [row for row in rows(Path(folder)) if row[key] is not None]
            assert list(line.get_xdata()) == [row["epoch"] + before for row in told] and told
            assert list(line.get_ydata()) == [row[key] for row in told]


def test_schedules_are_compared_in_bits(
    table: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure) or Path(path))
    runs = [str(table[0] / f"bayesbinn-straight-through-seed{seed}") for seed in (1, 2)]
    assert cli.main(["reproduce", "schedules", "--runs", *runs, "--out", str(tmp_path)]) == 0
    found = [json.loads((Path(run) / "summary.json").read_text())["test_bits"] for run in runs]
    (axis,) = drawn[0].axes
    assert list(axis.lines[0].get_ydata()) == pytest.approx([sum(found) / 2])
    printed = capsys.readouterr().out
    assert "bits per byte" in printed and "accuracy" not in printed and f"{sum(found) / 2:.4f} ±" in printed


def test_evaluate_measures_mode_and_mean(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert cli.main(["evaluate", str(run), "--samples", "8", "--device", "cpu"]) == 0
    found = json.loads((run / "evaluation.json").read_text())
    assert found["mode"]["bits"] == pytest.approx(summary["test_bits"])
    assert found["mean"]["bits"] == pytest.approx(summary["mean_test_bits"])
    assert found["mean"]["nll"] == pytest.approx(summary["mean_test_nll"])
    assert "bits per byte" in capsys.readouterr().out


def test_members_are_measured_together(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "text", "--rule", "ste", "--data", data, "--epochs", "4", "--cycles", "2"]
    assert cli.main([*words, "--pretrain-epochs", "0", "--precision", "fp32", "--out", str(tmp_path)]) == 0
    found = evaluate_run(tmp_path)
    assert found.members is not None
    alone = [member["mode"]["bits"] for member in found.members]
    assert len(alone) == 2 and found.mode["bits"] < sum(alone) / 2  # by Jensen's inequality
    assert cli.main(["evaluate", str(tmp_path), "--device", "cpu"]) == 0
    assert "bits, mode" in capsys.readouterr().out


@OPTUNA.unless_installed("optuna")
def test_tune_searches_for_fewer_bits(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "text", "--rule", "full-precision", "--data", data, "--epochs", "1", "--precision", "fp32"]
    words += ["--search", "lr=0.0001:0.1", "--trials", "3", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "tune.json").read_text())["trials"]
    bits = [trial["bits"] for trial in found]
    assert bits == sorted(bits) and len(set(bits)) == 3
    assert "validation bits per byte" in printed
    assert f"--lr {found[0]['settings']['lr']}" in printed


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"label_smoothing": 0.1}, "label smoothing needs the loss cross_entropy, not next_byte"),
        ({"augment": "flip"}, "augment flip needs images, but text is text; leave it out"),
        ({"views": "mirror"}, "views mirror need images, but text is text; leave them out"),
        ({"dropout": 0.1}, "the network has no dropout layer"),
    ],
)
def test_settings_of_images_are_refused(choices: dict, words: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        trained(data, tmp_path, **choices)


def test_settings_are_refused_before_the_float_network_is_trained(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label smoothing needs the loss"):
        trained(data, tmp_path / "run", "ste", pretrain_epochs=2, label_smoothing=0.1)
    assert not list(tmp_path.iterdir())


def test_other_text_does_not_continue_a_run(data: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(LINES.replace("return x", "return y"))
    trained(data, tmp_path / "run", stop_after=1)
    with pytest.raises(ValueError, match="was trained on other data; use the same --data"):
        trained(str(other), tmp_path / "run", resume=True)


def test_studies_of_classes_refuse_text(run: Path) -> None:
    with pytest.raises(ValueError, match="unlike needs a classifier, but text has no classes; leave it out"):
        evaluate_run(run, unlike="mnist")


# Generation. --------------------------------------------------------------------------------------------------------


def greedy(model: torch.nn.Module, prompt: bytes, count: int) -> bytes:
    """The same without a cache."""
    text = [0, *prompt]
    for _ in range(count):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return bytes(text[1 + len(prompt) :])


def test_greedy_text_is_the_most_probable() -> None:
    torch.manual_seed(0)
    model = SMALL().eval()
    found = bytes(next_bytes(model, b"def f", 60, temperature=0))
    assert found == greedy(model, b"def f", 60)
    assert len(set(found)) > 2
    assert found == bytes(next_bytes(model, b"def f", 60, temperature=1.0, top_k=1))
    assert found == bytes(next_bytes(model, b"def f", 60, temperature=1e-300))


def test_the_seed_decides(run: Path) -> None:
    model = load_language_model(run)
    one, again, other = (bytes(next_bytes(model, b"def ", 80, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_draws_have_the_probabilities_of_the_logits() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits = torch.full((1, 1, 256), -torch.inf)  # of the last position alone
            logits[..., 97:100] = torch.tensor([0.6, 0.3, 0.1]).log()
            return logits

    drawn = bytes(next_bytes(Fixed(), b"", 4000, temperature=1.0))
    assert [drawn.count(letter) / 4000 for letter in b"abc"] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    colder = bytes(next_bytes(Fixed(), b"", 4000, temperature=0.5))
    assert [colder.count(letter) / 4000 for letter in b"abc"] == pytest.approx([36 / 46, 9 / 46, 1 / 46], abs=0.03)
    two = bytes(next_bytes(Fixed(), b"", 4000, temperature=1.0, top_k=2))
    assert [two.count(letter) / 4000 for letter in b"abc"] == pytest.approx([2 / 3, 1 / 3, 0], abs=0.03)


def test_text_longer_than_the_context_goes_on_with_its_last_half() -> None:
    class Counts(torch.nn.Module):
        """The next byte is the number of bytes that the network reads."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            count = torch.full(tokens.shape, min(tokens.shape[1], 255))
            return torch.nn.functional.one_hot(count, 256).float()

    found = list(next_bytes(Counts(), b"ab", 300, temperature=0))
    assert found[:3] == [3, 4, 5]
    assert found[252:256] == [255, 255, 128, 129]  # 255 and 256 bytes, then the last 128
    torch.manual_seed(0)
    model = SMALL(positions=16).eval()
    text = bytes(next_bytes(model, b"", 20, temperature=0))
    assert text[:15] == greedy(model, b"", 15)
    seen = [0, *text[:16]][-8:]  # after byte 16, the network reads the last 8
    with torch.no_grad():
        assert text[16] == int(model(torch.tensor([seen]))[0, -1].argmax())
    assert len(bytes(next_bytes(model, b"x" * 1000, 5, temperature=0))) <= 5


def test_the_model_may_end_the_text() -> None:
    class Ends(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            after = torch.where(tokens == 98, 0, tokens + 1)
            return torch.nn.functional.one_hot(after, 256).float()

    assert bytes(next_bytes(Ends(), b"a", 9, temperature=0)) == b"b"


def test_generate_streams_the_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(run), "--prompt", "def f", "--bytes", "40", "--device", "cpu"]
    assert cli.main([*words, "--temperature", "0"]) == 0
    printed = capsys.readouterr().out
    expected = b"def f" + greedy(load_language_model(run), b"def f", 40)
    assert printed == "".join(shown(expected)) + "\n"
    assert cli.main([*words, "--seed", "7", "--top-k", "20"]) == 0
    drawn = capsys.readouterr().out
    written = bytes(next_bytes(load_language_model(run), b"def f", 40, seed=7, top_k=20))
    assert drawn == "def f" + "".join(shown(written)) + "\n"
    assert cli.main([*words, "--seed", "7", "--top-k", "20", "--sample"]) == 0
    assert capsys.readouterr().out not in (printed, drawn)


def test_a_sampled_network_is_one_of_the_posterior(run: Path) -> None:
    posterior = load_run(run).posterior
    model, mode = load_language_model(run, sample=5), load_language_model(run)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.get_parameter(name), posterior.sample_at(0, seed=5)[name])
    assert not torch.equal(model.get_parameter(name), mode.get_parameter(name))
    name = "lm_head.weight"
    assert torch.equal(model.get_parameter(name), mode.get_parameter(name))


def test_the_text_of_the_run_is_not_needed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments):
        raise AssertionError("the data was read")

    monkeypatch.setitem(RECIPES, "text", dataclasses.replace(RECIPES["text"], load=load))
    assert load_language_model(run).training is False


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bytes", "0"], "the number of bytes must be at least 1, got 0"),
        (["--temperature", "-1"], "temperature must be 0 or a positive number, got -1.0"),
        (["--temperature", "nan"], "temperature must be 0 or a positive number, got nan"),
        (["--temperature", "inf"], "temperature must be 0 or a positive number, got inf"),
        (["--top-k", "0"], "top_k must be from 1 to 256, got 0"),
        (["--top-k", "257"], "top_k must be from 1 to 256, got 257"),
        (["--seed", "-1"], r"seed must be in [0, 2**31), got -1"),
    ],
)
def test_numbers_out_of_range(words: list[str], line: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(run), "--prompt", "x", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"bitbayes: {line}\n")


@pytest.mark.parametrize("device", ["cuda:x", "nowhere", "mkldnn", "meta", "xla", "hpu", ""])
def test_a_device_that_is_not_there_gets_one_line(device: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(run), "--prompt", "x", "--device", device]) == 2
    out, err = capsys.readouterr()
    reason = "torch finds no such device here; choose cpu, or cuda on a machine with a GPU"
    assert (out, err) == ("", f"bitbayes: device '{device}' cannot be used: {reason}\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 is full"), "CUDA out of memory"),
        (RuntimeError("CUDA error: invalid device ordinal\nFor debugging"), "CUDA error: invalid device ordinal"),
        (RuntimeError(f"The NVIDIA driver is {'very ' * 20}old. Update"), f"The NVIDIA driver is {'very ' * 20}old"),
        (RuntimeError("CUDA: 0 INTERNAL ASSERT FAILED. Report it"), "CUDA: 0 INTERNAL ASSERT FAILED"),
        (AssertionError("Torch not compiled with CUDA enabled."), "Torch not compiled with CUDA enabled"),
    ],
)
def test_a_gpu_that_cannot_be_used(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sentence of torch's reason, which may be about a GPU that is there, however long it is."""

    def ones(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(ValueError, match=r"; choose cpu, or cuda on a machine with a GPU$") as caught:
        open_device("cuda:0")
    assert str(caught.value).startswith(f"device 'cuda:0' cannot be used: {reason};")


def test_runs_that_write_no_text(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(data, tmp_path / "ste", "ste", epochs=1)
    assert cli.main(["generate", str(tmp_path / "ste"), "--sample"]) == 2
    assert capsys.readouterr().err == (
        "bitbayes: ste keeps no posterior; leave out --sample to take its only network\n"
    )
    run_recipe(make_config("digits", "ste", epochs=1, out=str(tmp_path / "digits")), progress=SilentProgress())
    assert cli.main(["generate", str(tmp_path / "digits")]) == 2
    assert capsys.readouterr().err == (
        f"bitbayes: {tmp_path / 'digits'} is a run of digits, which does not model text; give one of "
        "`bitbayes train text`\n"
    )
    assert cli.main(["generate", str(tmp_path / "nothing")]) == 2
    assert "is not a run: it has no config.json" in capsys.readouterr().err
    (tmp_path / "ste" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError):
        load_language_model(tmp_path / "ste")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "".join(shown(b"a\x1b[2Jb\tc\r\n\x07")) == "a�[2Jb\tc�\n�"
    assert "".join(shown("é≤".encode()[:-1])) == "é�"
