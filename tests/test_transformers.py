"""Transformers of the library transformers: what becomes binary, training with every rule, and its Trainer."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bitbayes as bb
import needs
from laws import RULES
from nested import equal
from test_docs import blocks
from test_robustness import environment

PAGE = Path(__file__).resolve().parent.parent / "docs" / "trainers.md"

# Every rule once, which is what differs for a network; `laws` has more settings of the same rules.
ONE_EACH = ["bayesbinn-straight-through", "vispa", "ste-adam", "bop", "bop2ndorder", "pmf", "mirrordescent"]
ONE_EACH += ["proxquant", "adaste"]
WIDTHS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_every_rule_is_among_them() -> None:
    kinds = {type(RULES[rule]([("w", torch.ones(2, 2))], seed=0)) for rule in RULES}
    assert kinds == {type(RULES[rule]([("w", torch.ones(2, 2))], seed=0)) for rule in ONE_EACH}


def llama(**options: Any) -> nn.Module:
    tf = needs.TRANSFORMERS.module("transformers")
    config = {"vocab_size": 16, "num_key_value_heads": 2, "max_position_embeddings": 16} | WIDTHS | options
    return tf.LlamaForCausalLM(tf.LlamaConfig(**config))


def bert() -> nn.Module:
    tf = needs.TRANSFORMERS.module("transformers")
    config = tf.BertConfig(vocab_size=16, max_position_embeddings=16, num_labels=3, **WIDTHS)
    model = tf.BertForSequenceClassification(config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so that resuming needs no random numbers
    return model


def vit() -> nn.Module:
    tf = needs.TRANSFORMERS.module("transformers")
    config = tf.ViTConfig(image_size=8, patch_size=4, num_labels=3, **WIDTHS)
    return tf.ViTForImageClassification(config)


def example(kind: str) -> dict[str, Tensor]:
    """Return a small batch, with labels."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(16, (6, 8), generator=generator)
    classes = torch.randint(3, (6,), generator=generator)
    if kind == "vit":
        return {"pixel_values": torch.randn(6, 3, 8, 8, generator=generator), "labels": classes}
    return {"input_ids": words, "labels": words if kind == "llama" else classes}


MAKE = {"llama": llama, "bert": bert, "vit": vit}
# As in a binary network of any kind, the first and the last layer stay real.
REAL = {"llama": [], "bert": ["classifier.*"], "vit": ["*.patch_embeddings.*", "classifier.*"]}
every_model = pytest.mark.parametrize("kind", MAKE)


class Attended(nn.Module):
    """Attention of one's own, and modules before it."""

    def __init__(self, *before: nn.Module) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(1, 4, 3), *before)
        self.attn = type("CausalSelfAttn", (nn.Linear,), {})(4, 4)


OWN = {
    "torch": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False), True),
    "decoder": (lambda: bb.nn.decoder(hidden_size=16, intermediate_size=16, layers=1, heads=2), True),
    "attention": (lambda: Attended(), False),
    "attention and BatchNorm": (lambda: Attended(nn.BatchNorm2d(4)), False),
    "attention and GroupNorm": (lambda: Attended(nn.GroupNorm(2, 4)), False),
    "attention and RMSNorm": (lambda: Attended(type("OwnRMSNorm", (nn.Identity,), {})()), True),
    "attention, LayerNorm and BatchNorm": (lambda: Attended(nn.LayerNorm(4), nn.BatchNorm2d(4)), True),
    "LayerNorm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), False),
    "mlp": (lambda: bb.nn.mlp(4, [4], 2), False),
}


def choices(parameters: Any) -> tuple[float, float]:
    """The first |λ| of BayesBiNN and the rate of STE that are chosen for parameters."""
    bayes = bb.BayesBiNN.recommended(list(parameters), steps=100, examples=10, seed=0)
    (first,) = {float(size) for tensor in bayes.posterior().natural.values() for size in tensor.abs().unique()}
    assert bayes.param_groups[0]["init_lambda"] == first
    return first, bb.STE(list(parameters), seed=0).param_groups[0]["lr"]


@pytest.mark.parametrize("name", OWN)
def test_recommended_settings_know_a_transformer(name: str) -> None:
    make, transformer = OWN[name]
    model = make()
    found, _ = bb.split_parameters(model)
    assert choices(found) == ((1500, 1e-3) if transformer else (15, 1e-2))
    copies = [(name, nn.Parameter(torch.ones(2, 2))) for name in names(found)]
    assert choices(copies) == (15, 1e-2), "nothing is known of other tensors"
    given = bb.BayesBiNN.recommended(found, steps=100, examples=10, init_lambda=7.0, seed=0)
    assert given.param_groups[0]["init_lambda"] == 7 and bb.STE(found, lr=0.5, seed=0).param_groups[0]["lr"] == 0.5


@every_model
def test_recommended_settings_know_foreign_transformers(kind: str) -> None:
    assert choices(bb.split_parameters(MAKE[kind]())[0]) == (1500, 1e-3)


def test_groups_choose_their_own_start() -> None:
    found, _ = bb.split_parameters(OWN["torch"][0]())
    other, _ = bb.split_parameters(OWN["mlp"][0]())
    optimizer = bb.BayesBiNN(other, ess=10, init_lambda="auto", seed=0)
    optimizer.add_param_group({"params": found})
    optimizer.add_param_group({"params": [("own", nn.Parameter(torch.ones(2, 2)))], "init_lambda": 3.0})
    assert [group["init_lambda"] for group in optimizer.param_groups] == [15, 1500, 3]
    again = bb.BayesBiNN(optimizer.param_groups[1]["params"], ess=10, init_lambda=1.0, seed=1)
    again.load_state_dict(bb.BayesBiNN(found, ess=10, init_lambda="auto", seed=0).state_dict())
    assert again.param_groups[0]["init_lambda"] == 1500, "a saved state has the number"
    assert choices([*other, *found]) == (1500, 1e-3), "one group with weights of both"


def test_a_look_at_a_layer_changes_no_setting() -> None:
    model = OWN["torch"][0]()
    found, _ = bb.split_parameters(model)
    bb.summary(model.layers[0].linear1)
    linear = [pair for pair in found if pair[1] is model.layers[0].linear1.weight]
    assert len(linear) == 1 and choices(linear) == (1500, 1e-3)


def names(pairs: Any) -> list[str]:
    return [name for name, _ in pairs]


@every_model
def test_the_blocks_are_binary_and_all_else_is_real(kind: str) -> None:
    model = MAKE[kind]()
    binary, real = bb.split_parameters(model, real=REAL[kind])
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    inside = {f"{name}.weight" for name in linear if ".layers." in name or ".layer." in name}
    pooler = {name for name in names(binary) if "pooler" in name}
    assert set(names(binary)) == inside | pooler and len(inside) == 2 * (7 if kind == "llama" else 6)
    assert len(pooler) == (kind == "bert")
    assert set(names(binary)) | set(names(real)) == set(names(model.named_parameters()))


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_keeps_its_embeddings_tied_or_not(tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    binary, real = bb.split_parameters(model)
    head = [] if tied else ["lm_head.weight"]
    assert [name for name in names(real) if "norm" not in name] == ["model.embed_tokens.weight", *head]
    first = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert first in names(bb.split_parameters(model, binary=["lm_head.weight"])[0])
    wrapped = nn.ModuleDict({"network": model})  # as in the module of a trainer
    assert names(bb.split_parameters(wrapped)[0]) == [f"network.{name}" for name in names(binary)]


def test_a_marked_head_keeps_what_it_shares_real() -> None:
    model = MAKE["bert"]()
    bb.nn.keep_real(model.bert.encoder.layer[0])
    bb.nn.keep_real(model.classifier)
    binary, _ = bb.split_parameters(model)
    assert not [name for name in names(binary) if "layer.0." in name or "classifier" in name]
    assert [name for name in names(binary) if "layer.1." in name]


def test_fused_projections_of_gpt2_have_the_fans_of_a_linear_layer() -> None:
    tf = needs.TRANSFORMERS.module("transformers")
    model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=4))
    binary, real = bb.split_parameters(model)
    block = "transformer.h.0"
    assert names(binary) == [
        f"{block}.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert "transformer.wte.weight" in names(real)  # tied to the head
    optimizer = bb.STE(binary, scale="channel", seed=0)
    scales = [optimizer.state[parameter]["scale"] for _, parameter in binary]
    # Weights of shape (in, out): a scale for each output, which begins at 1/√in.
    assert [tuple(scale.shape) for scale in scales] == [(1, 48), (1, 16), (1, 64), (1, 16)]
    assert [round(float(scale[0, 0]) ** -2) for scale in scales] == [16, 16, 16, 64]


def test_a_weight_of_an_unknown_layer_is_named() -> None:
    tf = needs.TRANSFORMERS.module("transformers")
    config = tf.MixtralConfig(
        vocab_size=16, num_key_value_heads=2, max_position_embeddings=16, num_local_experts=2, **WIDTHS
    )
    model = tf.MixtralForCausalLM(config)
    message = (
        r"^weight matrices in layers that split_parameters does not know stay real \(6, the largest "
        r"'model.layers.0.mlp.experts.gate_up_proj' of a MixtralExperts\); name them in binary=\[...\]"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        bb.split_parameters(model)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    binary, _ = bb.split_parameters(model, real=["*.mlp.gate.weight"], binary=["*.experts.*"])
    assert len([name for name in names(binary) if ".experts." in name]) == 4


def joint(rule: str, model: nn.Module, kind: str, **options: Any) -> bb.JointOptimizer:
    binary, real = bb.split_parameters(model, real=REAL[kind])
    rule_options = {"seed": 3, "scale": "fan_in", "init": "random"} | options
    return bb.JointOptimizer(RULES[rule](binary, **rule_options), torch.optim.AdamW([p for _, p in real], lr=0.01))


def train(model: nn.Module, optimizer: bb.JointOptimizer, kind: str, steps: int) -> None:
    for _ in range(steps):
        model(**example(kind)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@every_model
@pytest.mark.parametrize("rule", ONE_EACH)
def test_every_rule_trains_resumes_and_ends_in_exact_signs(rule: str, kind: str) -> None:
    torch.manual_seed(0)
    model = MAKE[kind]().train()
    optimizer = joint(rule, model, kind)
    bb.follow(model, optimizer)
    start, beliefs = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    train(model, optimizer, kind, 2)
    twin = MAKE[kind]().train()
    twin.load_state_dict(model.state_dict())
    other = joint(rule, twin, kind, seed=4)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (model, optimizer), (twin, other):
        train(*each, kind, 2)
    assert equal(dict(model.state_dict()), dict(twin.state_dict()))
    assert equal(optimizer.state_dict()["state"], other.state_dict()["state"])
    model.eval()
    for name, parameter in optimizer.binary.named_binary():
        assert torch.equal(parameter.abs(), torch.full_like(parameter, parameter.shape[1] ** -0.5)), name
        assert (parameter > 0).any() and (parameter < 0).any()
    for number, before in beliefs.items():
        assert not equal(before["belief"], optimizer.state_dict()["state"][number]["belief"])
    assert all(not torch.equal(start[name], model.state_dict()[name]) for name in start if name.endswith("norm.weight"))


@pytest.mark.dist
def test_two_processes_that_share_the_parameters_are_one(tmp_path: Path) -> None:
    needs.TRANSFORMERS.module("transformers")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), environment()["PYTHONPATH"]])
    words = [sys.executable, "-W", "ignore", str(here / "sharded_transformers.py"), str(tmp_path)]
    done = subprocess.run(
        words, env={**environment(), "PYTHONPATH": paths}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the same") == 2


def examples(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Return images and words of three classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    words = torch.randint(16, (count, 8), generator=generator)
    labels = images[:, :, :3].mean((1, 3)).argmax(1)
    words[:, 0] = labels
    rows = zip(images, words, labels, strict=True)
    return [{"pixel_values": image, "input_ids": word, "labels": label} for image, word, label in rows]


class Convolutional(nn.Module):
    """A network with BatchNorm, in the form that the Trainer asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.head = bb.nn.keep_real(nn.Linear(16, 3))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.norm(self.conv(pixel_values)).relu().mean((2, 3)))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return loss | {"logits": logits}


BATCHES = [{"pixel_values": torch.stack([each["pixel_values"] for each in examples(64, 0)])}]


def trained(
    folder: Path, *, make: Any = bert, steps: int = 8, resume: bool = False, callbacks: Any = (), **options: Any
) -> tuple[Any, bb.JointOptimizer]:
    """Train by the Trainer; the schedule is always one of eight steps."""
    tf = needs.TRANSFORMERS.module("transformers")
    module = needs.TRANSFORMERS.module("bitbayes.integrations.transformers")

    class Stop(tf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            control.should_training_stop |= state.global_step >= steps

    torch.manual_seed(0)
    model = make()
    binary, real = bb.split_parameters(model, real=REAL["bert"] if make is bert else [])
    rule = bb.BayesBiNN(binary, lr=0.2, ess=1e4, init_lambda=0.1, scale="fan_in", seed=3, init="random")
    optimizer = bb.JointOptimizer(rule, torch.optim.AdamW([p for _, p in real], lr=0.01))
    arguments = {"max_steps": 8, "save_steps": 2, "eval_steps": 4, "eval_strategy": "steps", "report_to": []}
    arguments |= {
        "per_device_train_batch_size": 16,
        "disable_tqdm": True,
        "use_cpu": True,
        "lr_scheduler_type": "cosine",
    }
    arguments |= {"logging_strategy": "no", "dataloader_pin_memory": False} | options
    trainer = tf.Trainer(
        model,
        tf.TrainingArguments(str(folder), **arguments),
        train_dataset=examples(64, 0),
        eval_dataset=examples(32, 1),
        optimizers=(optimizer, None),
        callbacks=[*(callbacks or [module.ModeCallback(BATCHES if make is Convolutional else None)]), Stop()],
        compute_metrics=lambda found: {"right": float((found.predictions.argmax(1) == found.label_ids).mean())},
    )
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer, optimizer


def saved(folder: Path, step: int) -> dict[str, Tensor]:
    """Return the weights of a checkpoint as somebody would load them who has no optimizer."""
    tf = needs.TRANSFORMERS.module("transformers")
    path = folder / f"checkpoint-{step}"
    if (path / "config.json").exists():
        return tf.BertForSequenceClassification.from_pretrained(path).state_dict()
    return load_file(path / "model.safetensors")


def modes(optimizer: bb.JointOptimizer) -> dict[str, Tensor]:
    return {name: mode.clone() for name, mode in optimizer.binary.named_mode()}


def holds(state: Any, modes: dict[str, Tensor]) -> bool:
    return all(torch.equal(state[name], mode) for name, mode in modes.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [bert, Convolutional])
def test_the_trainer_resumes_bit_for_bit_and_saves_the_mode(make: Any, tmp_path: Path) -> None:
    trainer, optimizer = trained(tmp_path / "whole", make=make)
    _, stopped = trained(tmp_path / "parts", make=make, steps=6)
    kept = saved(tmp_path / "parts", 6)  # without an evaluation, for which the Trainer itself writes the mode
    assert holds(kept, modes(stopped))
    share = (1 + math.cos(math.pi * 6 / 8)) / 2
    assert [group["lr"] for group in stopped.param_groups] == pytest.approx([0.2 * share, 0.01 * share])
    resumed, other = trained(tmp_path / "parts", make=make, resume=True)
    assert equal(dict(trainer.model.state_dict()), dict(resumed.model.state_dict()))
    assert equal(optimizer.state_dict()["state"], other.state_dict()["state"])
    assert not equal(modes(stopped), modes(other))  # the second half has changed some
    # What is in place at the end, and in the last file, is the mode.
    assert not optimizer.training and holds(trainer.model.state_dict(), modes(optimizer))
    assert holds(saved(tmp_path / "whole", 8), modes(optimizer))
    for name, parameter in optimizer.binary.named_binary():
        assert torch.equal(parameter.abs(), torch.full_like(parameter, parameter[0].numel() ** -0.5)), name
    if make is Convolutional:
        for state in (kept, dict(trainer.model.state_dict())):
            network = Convolutional()
            network.load_state_dict(state)
            bb.refresh_batchnorm(network, BATCHES)
            assert equal(dict(network.state_dict()), state)


@pytest.mark.filterwarnings("ignore")
def test_the_best_checkpoint_brings_its_beliefs(tmp_path: Path) -> None:
    """And a later evaluation evaluates it, rather than the last step's mode."""
    trainer, optimizer = trained(tmp_path, load_best_model_at_end=True, save_steps=3, eval_steps=3)
    best = Path(trainer.state.best_model_checkpoint)
    assert trainer.state.global_step == 8
    state = torch.load(best / "optimizer.pt", weights_only=True)
    assert equal(state["state"], optimizer.state_dict()["state"])
    step = int(best.name.rpartition("-")[2])  # 3 or 6, and two more steps follow
    assert holds(saved(tmp_path, step), modes(optimizer)) and not optimizer.training
    trainer.evaluate()
    assert holds(trainer.model.state_dict(), modes(optimizer))


@pytest.mark.filterwarnings("ignore")
def test_the_callback_refuses_what_would_fail_at_the_end(tmp_path: Path) -> None:
    tf = needs.TRANSFORMERS.module("transformers")
    module = needs.TRANSFORMERS.module("bitbayes.integrations.transformers")
    arguments = tf.TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    plain = tf.Trainer(bert(), arguments, train_dataset=examples(8, 0), callbacks=[module.ModeCallback()])
    with pytest.raises(TypeError, match=r"needs a bitbayes.JointOptimizer, but the Trainer has AdamW; pass"):
        plain.train()
    with pytest.raises(ValueError, match="save_only_model=True leaves out"):
        trained(tmp_path, load_best_model_at_end=True, save_only_model=True, save_steps=4)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_a_draw_stops_training_and_can_be_resumed(tmp_path: Path) -> None:
    tf = needs.TRANSFORMERS.module("transformers")
    module = needs.TRANSFORMERS.module("bitbayes.integrations.transformers")

    class Saver(tf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            control.should_save |= state.global_step == 3

    with pytest.raises(RuntimeError, match=r"of step 3 holds a draw .*; register ModeCallback last") as caught:
        trained(tmp_path / "wrong", callbacks=[module.ModeCallback(), Saver()])
    assert "\n" not in str(caught.value)
    trainer, optimizer = trained(tmp_path / "right", callbacks=[Saver(), module.ModeCallback()])
    right, wrong = (saved(tmp_path / folder, 3) for folder in ("right", "wrong"))
    mode = {name for name, _ in optimizer.binary.named_mode()}
    changed = {name for name in right if not torch.equal(right[name], wrong[name])}
    assert changed and changed <= mode
    assert all((right[name].abs() == right[name].abs().max()).all() for name in mode)
    resumed, other = trained(tmp_path / "wrong", resume=True)
    assert equal(dict(trainer.model.state_dict()), dict(resumed.model.state_dict()))
    assert equal(optimizer.state_dict()["state"], other.state_dict()["state"])


@pytest.mark.filterwarnings("ignore")
def test_the_guide_trains_and_resumes(tmp_path: Path) -> None:
    """The function that the guide shows does both."""
    needs.TRANSFORMERS.module("transformers")
    found: dict[str, Any] = {}
    exec(compile(blocks(PAGE, "py")[1][1], str(PAGE), "exec"), found)
    options: dict[str, Any] = {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "report_to": [], "disable_tqdm": True}
    options |= {"per_device_train_batch_size": 16, "use_cpu": True, "logging_strategy": "no"}
    states = []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        torch.manual_seed(0)
        trainer = found["fit"](bert(), examples(64, 0), examples(32, 1), str(tmp_path), resume, **options)
        optimizer = trainer.optimizer.optimizer
        assert holds(trainer.model.state_dict(), modes(optimizer))
        states.append(copy.deepcopy((dict(trainer.model.state_dict()), optimizer.state_dict()["state"])))
    assert equal(*states)
